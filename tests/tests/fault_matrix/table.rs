//! What may come of a cell: the certainty table once more, written down for phase, fault and actor.

use std::ops::RangeInclusive;

use hapax_testkit::smtp::{Fault, Phase};

/// Who else acts while the dialogue stands at its phase.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Actor {
    /// Nobody: only the mail server misbehaves.
    Alone,
    /// SIGKILL, and another relay takes over.
    Kill,
    /// SIGSTOP beyond lease and `dead_after` while another relay takes over, then SIGCONT.
    Stop,
    /// SIGTERM; another relay goes on when this one has ended.
    Term,
    /// Postgres stopped in good order, and started a second later.
    DatabaseStopped,
    /// Postgres killed, and started a second later.
    DatabaseKilled,
    /// Postgres restarted.
    DatabaseRestarted,
    /// A black hole instead of Postgres, for two seconds.
    DatabaseUnreachable,
    /// Another relay runs beside, and the dialogue lasts for longer than a lease.
    SecondRelay,
    /// The mail server drops every connection, and listens again.
    MailServerRestarted,
}

impl Actor {
    pub(crate) const ALL: [Self; 10] = [
        Self::Alone,
        Self::Kill,
        Self::Stop,
        Self::Term,
        Self::DatabaseStopped,
        Self::DatabaseKilled,
        Self::DatabaseRestarted,
        Self::DatabaseUnreachable,
        Self::SecondRelay,
        Self::MailServerRestarted,
    ];

    /// How often each cell's fault happens. Where the dialogue it was meant for is lost to the actor, the next must meet
    /// it, too.
    pub(crate) fn times(self) -> usize {
        if matches!(self, Self::Kill | Self::Stop | Self::Term) { 2 } else { 1 }
    }
}

/// How a delivery ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// Sent at the first attempt.
    Sent,
    /// Certainly not sent, or refused for now; then sent.
    Retried,
    /// Refused for good.
    Failed,
    /// Unknown, and never tried again.
    Doubt,
}

impl End {
    /// The state in the database.
    pub(crate) fn state(self) -> &'static str {
        match self {
            Self::Sent | Self::Retried => "sent",
            Self::Failed => "failed",
            Self::Doubt => "in_doubt",
        }
    }
}

/// Where a delivery stands when its dialogue waits at this phase.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// No 354 yet: no intent.
    Before,
    /// The intent is durable; the marker may be in the kernel's hands, unread.
    Body,
    /// The marker was read.
    Marker,
    /// The outcome is durable.
    After,
}

pub(crate) fn place(phase: Phase) -> Place {
    match phase {
        Phase::Body { .. } => Place::Body,
        Phase::EndMarker { .. } => Place::Marker,
        Phase::Quit => Place::After,
        _ => Place::Before,
    }
}

/// How a delivery may end when only the server misbehaves, once.
pub(crate) fn alone(phase: Phase, fault: &Fault) -> Vec<End> {
    use End::{Doubt, Failed, Retried, Sent};
    // However odd, a whole reply.
    let good = matches!(fault, Fault::LfOnlyLine | Fault::Latin1Text | Fault::DelayedGood(_) | Fault::ByteByByte);
    match phase {
        Phase::Connect | Phase::Tls => match fault {
            Fault::DelayedGood(_) | Fault::ByteByByte => vec![Sent],
            _ => vec![Retried],
        },
        // The route is suspect, not the message: 5xx, too, is no verdict about it.
        Phase::Greeting | Phase::Ehlo | Phase::StartTls | Phase::Auth => {
            if good {
                vec![Sent]
            } else {
                vec![Retried]
            }
        }
        Phase::Mail | Phase::Rcpt | Phase::Data => match fault {
            Fault::Reply5xx => vec![Failed],
            _ if good => vec![Sent],
            // The end may be seen before the marker, or behind it.
            Fault::GoodThenEof | Fault::GoodThenReset if phase == Phase::Data => vec![Retried, Doubt],
            _ => vec![Retried],
        },
        // A body that fits into the kernel has gone there with its marker before the server has read a byte of it: what
        // the server says early then is the reply to the marker. Or else it comes before the marker: certainly not sent,
        // but for a 2xx. (That it is told apart wherever it can be: the matrix of the mail crate, with large bodies.) A
        // refusal with an acceptance behind it is never believed.
        Phase::Body { .. } if matches!(fault, Fault::Reply4xx | Fault::Reply5xx) => vec![Doubt, Retried],
        Phase::Body { .. } => {
            let mut ends = alone(Phase::EndMarker { took: true }, fault);
            if !matches!(fault, Fault::DelayedGood(_)) {
                ends.extend([Doubt, Retried]);
            }
            ends
        }
        Phase::EndMarker { took } => match fault {
            // A server that takes it and then says 4xx: its route is told not to believe that.
            Fault::Reply4xx if took => vec![Doubt],
            Fault::Reply4xx => vec![Retried],
            Fault::Reply5xx => vec![Failed],
            Fault::TwoRepliesAtOnce | Fault::Stray(_) | Fault::GoodThenEof | Fault::GoodThenReset => vec![Sent],
            Fault::HugeReply | Fault::HugeLine => vec![Doubt],
            _ if good => vec![Sent],
            _ => vec![Doubt],
        },
        Phase::Quit => vec![Sent],
    }
}

/// How a delivery may end with this actor.
pub(crate) fn ends(actor: Actor, phase: Phase, fault: &Fault) -> Vec<End> {
    let mut ends = alone(phase, fault);
    match (actor, place(phase)) {
        (Actor::Alone, _) => return ends,
        (_, Place::After) => return vec![End::Sent],
        // Nobody is left who knows.
        (Actor::Kill, Place::Body | Place::Marker) => return vec![End::Doubt],
        // The connection ends behind the marker, whatever the server was about to say.
        (Actor::MailServerRestarted, Place::Marker) => return vec![End::Doubt],
        // Awake, it may find its own time limit over before it finds the reply that came meanwhile.
        (Actor::Stop, Place::Marker) => ends.push(End::Doubt),
        (Actor::MailServerRestarted, Place::Body) => ends.push(End::Doubt),
        _ => {}
    }
    if place(phase) != Place::Marker {
        // Given back, taken over, or aborted before the marker: certainly not sent, and sent later.
        let late = place(phase) == Place::Body || ends.contains(&End::Sent);
        if late {
            ends.push(End::Retried);
        }
    }
    ends
}

/// How often the server may have taken what ended so.
pub(crate) fn accepted(end: End, actor: Actor, phase: Phase, fault: &Fault) -> RangeInclusive<usize> {
    let took = |took: bool| usize::from(took || fault.means_yes());
    match (end, phase) {
        // A server that says yes before it has the message, and goes, has lied.
        (End::Sent, Phase::Body { .. }) if fault.means_yes() => 0..=1,
        (End::Sent | End::Retried, _) => 1..=1,
        (End::Failed | End::Doubt, Phase::EndMarker { took: it }) => took(it)..=took(it),
        (End::Failed | End::Doubt, Phase::Body { .. }) => 0..=1,
        // The other relay may have met the end of the connection on either side of its marker.
        (End::Doubt, Phase::Data) if actor != Actor::Alone => 0..=1,
        _ => 0..=0,
    }
}

/// Whether the connection of the fault is used again; `None` where that depends on who was faster.
pub(crate) fn kept(phase: Phase, fault: &Fault) -> Option<bool> {
    match phase {
        Phase::Quit => Some(false),
        Phase::Body { .. } => None,
        // QUIT is asked after a refusal: nothing else tells whether it was the answer.
        Phase::EndMarker { .. } if matches!(fault, Fault::Reply4xx | Fault::Reply5xx) => Some(false),
        Phase::Mail | Phase::Rcpt | Phase::Data if matches!(fault, Fault::Reply4xx | Fault::Reply5xx) => Some(true),
        // It looks whole until the next delivery finds it dead, which is no attempt.
        Phase::EndMarker { .. } if matches!(fault, Fault::GoodThenEof | Fault::GoodThenReset) => Some(false),
        Phase::EndMarker { .. } if matches!(fault, Fault::TwoRepliesAtOnce | Fault::Stray(_)) => Some(false),
        _ => Some(alone(phase, fault) == [End::Sent]),
    }
}
