//! What there is: the outbox with its rows, relays with one courier each, statements on their way, end markers on their
//! way, and what really happened (which nobody in the protocol can see).
//!
//! A lease and a token are numbers here instead of uuids, fresh per claim: nothing but equality is ever asked of them.

use hapax_core::State;

/// Attempts that one delivery may make in a model run; the bound of every search.
pub(crate) const ATTEMPTS_MAX: usize = 4;

/// `queue.lease`, fresh per claim. Lets its holder ask for the intent, and nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Lease(pub(crate) u8);

/// `queue.intent`, fresh per attempt. Every statement names it, never the relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Token(pub(crate) u8);

impl Token {
    pub(crate) fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// A word of the ledger (`attempt.outcome`), the same as [`hapax_core::Outcome::as_str`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Word {
    Accepted,
    Refused,
    Deferred,
    NotSent,
    Unknown,
}

/// Where a settle sends the delivery: what [`hapax_core::decide`] decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Verdict {
    Sent,
    Failed,
    Retry,
    InDoubt,
}

/// `queue.intent_by`: an incarnation. A restarted relay is another one, so all that ever matters of a dead one is that it
/// is dead.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Incarnation {
    /// The one that runs in this slot now.
    Of(u8),
    /// One whose process is gone: its heartbeat counter stands still for ever.
    Dead,
}

/// `queue.doubt_by`: whether the attempt may still be alive (`outbox.may_be_alive_until`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum DoubtBy {
    /// The relay said itself that it does not know: it had closed the connection before.
    Relay,
    /// The reaper, about a relay that may be paused and wake up. `grace_over`: transmit deadline + body + final reply
    /// timeout + margin have passed since.
    Reaper { grace_over: bool },
}

/// `queue.parked`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Parked {
    Doubt(DoubtBy),
    Held,
}

/// Why a terminal `sent` is believed (`done.evidence`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Evidence {
    Reply,
    Operator,
    Policy,
}

/// A row of `outbox.done`, as far as the protocol looks at it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Done {
    pub(crate) state: State,
    pub(crate) evidence: Option<Evidence>,
    pub(crate) token: Option<Token>,
}

/// One delivery in the outbox: its row of `queue` or `done`, and its rows of `attempt`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Row {
    pub(crate) parked: Option<Parked>,
    pub(crate) lease: Option<Lease>,
    pub(crate) intent: Option<Token>,
    pub(crate) intent_by: Option<Incarnation>,
    pub(crate) accepted_late: Option<Token>,
    pub(crate) open_doubts: u8,
    pub(crate) resends: u8,
    pub(crate) done: Option<Done>,
    /// The ledger, by token.
    pub(crate) ledger: [Option<Word>; ATTEMPTS_MAX],
}

impl Row {
    /// `outbox.state_of()` and `done.state`, in the words of production.
    pub(crate) fn state(&self) -> State {
        match (&self.done, self.parked, self.intent, self.lease) {
            (Some(done), ..) => done.state,
            (None, Some(Parked::Doubt(_)), ..) => State::InDoubt,
            (None, _, Some(_), _) => State::Sending,
            (None, Some(Parked::Held), ..) => State::Held,
            (None, None, None, Some(_)) => State::Claimed,
            (None, None, None, None) => State::Pending,
        }
    }

    pub(crate) fn knows_acceptance(&self) -> bool {
        self.ledger.contains(&Some(Word::Accepted))
    }
}

/// What a courier has in hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Job {
    pub(crate) delivery: u8,
    pub(crate) lease: Lease,
    pub(crate) token: Token,
    /// Whether the gate in front of the end marker is shut: `transmit_deadline` since the intent was asked for has passed,
    /// by CLOCK_BOOTTIME, which goes on while the machine is suspended.
    pub(crate) gate_shut: bool,
    /// Whether an answer of its intend was lost: the intent may have been written although it is refused now.
    pub(crate) unanswered: bool,
}

/// The end of an attempt, as it is handed to the ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Settlement {
    pub(crate) word: Word,
    pub(crate) verdict: Verdict,
    /// Whether the intent is known to have been written. When not, the lease matches, too.
    pub(crate) intended: bool,
}

/// What comes back on the wire after an end marker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Heard {
    /// A complete reply: 250, 451 or 554.
    Reply(u16),
    /// End of file or reset.
    Lost,
}

/// A courier of a relay, between two of its awaits. A paused relay is one whose courier makes no step while others do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Courier {
    Idle,
    /// Leased; from rendering to the 354 everything may be given up at any time.
    Claimed(Job),
    /// Behind the 354, waiting for the answer of its intend.
    Intending(Job),
    /// The answer was lost: the intent may be durable, may become durable later, or never.
    Unanswered(Job),
    /// The intent is durable and the answer was read: the end marker may be written while the gate is open.
    Granted(Job),
    /// The end marker has been handed to the kernel; what has come back and was not read yet.
    OnWire(Job, Option<Heard>),
    /// The outcome is known; it is repeated until it is durable.
    Settling(Job, Settlement),
    /// The process is gone.
    Down,
}

impl Courier {
    pub(crate) fn job(&self) -> Option<&Job> {
        match self {
            Self::Idle | Self::Down => None,
            Self::Claimed(job) | Self::Intending(job) | Self::Unanswered(job) | Self::Granted(job) => Some(job),
            Self::OnWire(job, _) | Self::Settling(job, _) => Some(job),
        }
    }

    pub(crate) fn job_mut(&mut self) -> Option<&mut Job> {
        match self {
            Self::Idle | Self::Down => None,
            Self::Claimed(job) | Self::Intending(job) | Self::Unanswered(job) | Self::Granted(job) => Some(job),
            Self::OnWire(job, _) | Self::Settling(job, _) => Some(job),
        }
    }

    /// Whether it works on this attempt, from asking for its intent on (`Registry::is_live`).
    pub(crate) fn is_responsible_for(&self, delivery: u8, token: Token) -> bool {
        !matches!(self, Self::Claimed(_))
            && self.job().is_some_and(|job| job.delivery == delivery && job.token == token)
    }
}

/// A statement that was sent to Postgres. It is executed at some moment, all at once (one implicit transaction), or never.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Statement {
    /// `intend.sql`. Durable.
    Intend { delivery: u8, lease: Lease, token: Token, by: Incarnation },
    /// `settle.sql`, the hot half. Durable.
    Settle { delivery: u8, lease: Lease, token: Token, end: Settlement },
    /// `outbox.settle_late()`, the cold half. Durable.
    SettleLate { delivery: u8, lease: Lease, token: Token, end: Settlement },
    /// `release.sql`. Asynchronous, and nobody waits for its answer.
    Release { delivery: u8, lease: Lease },
}

/// A statement on its way, and the relay that waits for its answer. Without one its client has vanished: it may run late
/// on its old backend all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct InFlight {
    pub(crate) client: Option<u8>,
    pub(crate) statement: Statement,
}

/// An end marker that has left its relay and has not reached the server's mind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Marker {
    pub(crate) delivery: u8,
    pub(crate) token: Token,
    /// Which of the markers of this token: broken variants write several.
    pub(crate) copy: u8,
}

/// A resolve that somebody typed, and may run again from the history of the shell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Script {
    pub(crate) delivery: u8,
    pub(crate) token: Token,
    pub(crate) verdict: Resolution,
}

/// The verdicts of `outbox.resolve()`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Resolution {
    Sent,
    Resend,
    Failed,
}

/// What really happened to one delivery. The properties compare it with the outbox; no step of the protocol reads it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Truth {
    /// Claims so far: the next lease and token.
    pub(crate) claims: u8,
    /// End markers written.
    pub(crate) markers: u8,
    /// Copies a server took.
    pub(crate) accepted: u8,
    /// Refusals of an end marker that a relay has read.
    pub(crate) refusals_read: u8,
    /// Copies that policy or a person decided to send although an earlier one may have arrived.
    pub(crate) resends: u8,
    /// Of those, policy's.
    pub(crate) resends_by_policy: u8,
    /// By token: its intent was durable at some time.
    pub(crate) intended: [bool; ATTEMPTS_MAX],
    /// By token: its doubt was decided after the grace, when it could not be alive any more.
    pub(crate) decided: [bool; ATTEMPTS_MAX],
    /// By token: the outcome that its relay has been told to be durable.
    pub(crate) acknowledged: [Option<Word>; ATTEMPTS_MAX],
    /// A marker was written without a durable intent.
    pub(crate) unfenced_marker: bool,
    /// A marker was written by an attempt whose doubt had been decided as one that cannot be alive.
    pub(crate) marker_from_the_grave: bool,
}

/// Everything, at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct World {
    pub(crate) rows: Vec<Row>,
    /// What a crash of the database falls back to, when there are commits that are not on disk: the write-ahead log is lost
    /// from some point on, so an asynchronous commit is safe as soon as a later durable one is.
    pub(crate) on_disk: Option<Vec<Row>>,
    pub(crate) couriers: Vec<Courier>,
    /// Sorted: the network has no order.
    pub(crate) statements: Vec<InFlight>,
    pub(crate) wire: Vec<Marker>,
    pub(crate) script: Option<Script>,
    pub(crate) truth: Vec<Truth>,
    /// How many more things may go wrong.
    pub(crate) faults_left: u8,
}

impl World {
    pub(crate) fn new(deliveries: usize, relays: usize, faults: u8) -> Self {
        Self {
            rows: vec![Row::default(); deliveries],
            on_disk: None,
            couriers: vec![Courier::Idle; relays],
            statements: Vec::new(),
            wire: Vec::new(),
            script: None,
            truth: vec![Truth::default(); deliveries],
            faults_left: faults,
        }
    }

    pub(crate) fn row(&self, delivery: u8) -> &Row {
        &self.rows[usize::from(delivery)]
    }

    pub(crate) fn row_mut(&mut self, delivery: u8) -> &mut Row {
        &mut self.rows[usize::from(delivery)]
    }

    pub(crate) fn truth(&self, delivery: u8) -> &Truth {
        &self.truth[usize::from(delivery)]
    }

    pub(crate) fn truth_mut(&mut self, delivery: u8) -> &mut Truth {
        &mut self.truth[usize::from(delivery)]
    }

    pub(crate) fn courier(&self, relay: u8) -> &Courier {
        &self.couriers[usize::from(relay)]
    }

    pub(crate) fn courier_mut(&mut self, relay: u8) -> &mut Courier {
        &mut self.couriers[usize::from(relay)]
    }

    pub(crate) fn send(&mut self, client: Option<u8>, statement: Statement) {
        self.statements.push(InFlight { client, statement });
    }

    /// The connection of a relay to Postgres is gone: what it has sent may still run.
    pub(crate) fn orphan_statements_of(&mut self, relay: u8) {
        for flight in &mut self.statements {
            if flight.client == Some(relay) {
                flight.client = None;
            }
        }
    }

    /// A process has died: whatever it wrote, or is still about to write, names a dead incarnation.
    pub(crate) fn bury(&mut self, relay: u8) {
        let died = |by: &mut Incarnation| {
            if *by == Incarnation::Of(relay) {
                *by = Incarnation::Dead;
            }
        };
        let rows = self.rows.iter_mut().chain(self.on_disk.iter_mut().flatten());
        rows.filter_map(|row| row.intent_by.as_mut()).for_each(died);
        for flight in &mut self.statements {
            if let Statement::Intend { by, .. } = &mut flight.statement {
                died(by);
            }
        }
    }

    /// The same world with its two relays exchanged: they are alike, so only one of each such pair need be looked at.
    fn exchanged(&self) -> Self {
        let mut other = self.clone();
        other.couriers.swap(0, 1);
        let exchange = |by: &mut Incarnation| {
            if let Incarnation::Of(relay) = by {
                *relay = 1 - *relay;
            }
        };
        let rows = other.rows.iter_mut().chain(other.on_disk.iter_mut().flatten());
        rows.filter_map(|row| row.intent_by.as_mut()).for_each(exchange);
        for flight in &mut other.statements {
            flight.client = flight.client.map(|relay| 1 - relay);
            if let Statement::Intend { by, .. } = &mut flight.statement {
                exchange(by);
            }
        }
        other.statements.sort_unstable();
        other
    }

    /// One name for worlds that differ in nothing that matters.
    pub(crate) fn canonical(mut self, symmetric: bool) -> Self {
        self.statements.sort_unstable();
        self.wire.sort_unstable();
        // A row that is as it is on disk, and a database that will not crash any more, have nothing to fall back to.
        if self.faults_left == 0 || self.on_disk.as_ref() == Some(&self.rows) {
            self.on_disk = None;
        }
        if !symmetric || self.couriers.len() != 2 || self.couriers[0] < self.couriers[1] {
            return self;
        }
        let other = self.exchanged();
        if other < self { other } else { self }
    }
}
