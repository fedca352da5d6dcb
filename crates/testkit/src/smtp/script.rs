//! What the server does wrong, and where.
//!
//! A [`Script`] is a function from a [`Context`] to an [`Action`], made from [`Rule`]s or from a closure. The vocabulary
//! is the fault matrix: every [`Phase`] with every [`Fault`]; [`matrix`] yields all cells.
//!
//! ```
//! use hapax_testkit::{Action, Fault, Phase, Rule, Script};
//!
//! let once = Script::rules([Rule::at(Phase::Rcpt, Fault::Reply4xx).recipient("ada@example.com").times(1)]);
//! let lost = Script::fault(Phase::EndMarker { took: true }, Fault::Eof);
//! let free = Script::from_fn(|context| match (context.phase, context.connection) {
//!     (Phase::Mail, 2) => Action::Fault(Fault::Stall),
//!     _ => Action::Proceed,
//! });
//! # drop((once, lost, free));
//! ```

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// A step of the dialogue at which the server may misbehave.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Right after the connection was accepted, before TLS and greeting.
    Connect,
    /// In place of the TLS handshake, implicit or after STARTTLS.
    Tls,
    /// The greeting.
    Greeting,
    /// The reply to EHLO, HELO or LHLO.
    Ehlo,
    /// The reply to STARTTLS.
    StartTls,
    /// The first reply to AUTH.
    Auth,
    /// The reply to MAIL.
    Mail,
    /// The reply to RCPT.
    Rcpt,
    /// The reply to DATA.
    Data,
    /// When this share of the body has been read. The size of the body is known from SIZE=, else
    /// [`expected_body_bytes`](crate::SmtpServerBuilder::expected_body_bytes), else the previous message.
    Body {
        /// 0 to 99.
        percent: u8,
    },
    /// The end marker has been read; its reply is due.
    EndMarker {
        /// Whether the server takes the message before it misbehaves. Replies that begin with a 2 imply it.
        took: bool,
    },
    /// The reply to QUIT.
    Quit,
}

impl Phase {
    /// Every phase; the body at 0, 50 and 99 %, the end marker both ways.
    pub const ALL: [Self; 15] = [
        Self::Connect,
        Self::Tls,
        Self::Greeting,
        Self::Ehlo,
        Self::StartTls,
        Self::Auth,
        Self::Mail,
        Self::Rcpt,
        Self::Data,
        Self::Body { percent: 0 },
        Self::Body { percent: 50 },
        Self::Body { percent: 99 },
        Self::EndMarker { took: false },
        Self::EndMarker { took: true },
        Self::Quit,
    ];

    /// The same step, whatever the server did with the message.
    #[must_use]
    pub fn same_step(self, other: Self) -> bool {
        let plain = |phase| if let Self::EndMarker { .. } = phase { Self::EndMarker { took: false } } else { phase };
        plain(self) == plain(other)
    }
}

/// What the server does instead of a good reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Neither reads nor writes any more; the connection stays open until the client or the test ends it.
    Stall,
    /// Closes in good order (FIN).
    Eof,
    /// Resets the connection (RST).
    Reset,
    /// Says 421 and closes.
    Reply421,
    /// A transient refusal.
    Reply4xx,
    /// A permanent refusal.
    Reply5xx,
    /// A 3xx where none belongs.
    Reply3xx,
    /// A line that is no reply.
    Garbage,
    /// Half a good reply, then a stall.
    HalfLine,
    /// Half a good reply, then FIN.
    HalfLineEof,
    /// A good reply that ends in LF alone.
    LfOnlyLine,
    /// A good reply of 200 kB in many lines.
    HugeReply,
    /// A good reply of 200 kB in one line.
    HugeLine,
    /// A good reply whose text is Latin-1.
    Latin1Text,
    /// A good reply, late.
    DelayedGood(Duration),
    /// A good reply, one byte at a time.
    ByteByByte,
    /// A good reply and another 250 in the same packet.
    TwoRepliesAtOnce,
    /// A good reply and these bytes in the same packet: a stray reply.
    Stray(Vec<u8>),
    /// A good reply, then FIN.
    GoodThenEof,
    /// A good reply, then RST.
    GoodThenReset,
    /// These bytes instead; good if they begin with a 2 (for DATA and its body, a 3).
    Custom(Vec<u8>),
}

impl Fault {
    /// The faults of the matrix; `delay` is what the late good reply waits.
    #[must_use]
    pub fn all(delay: Duration) -> Vec<Self> {
        vec![
            Self::Stall,
            Self::Eof,
            Self::Reset,
            Self::Reply421,
            Self::Reply4xx,
            Self::Reply5xx,
            Self::Reply3xx,
            Self::Garbage,
            Self::HalfLine,
            Self::HalfLineEof,
            Self::LfOnlyLine,
            Self::HugeReply,
            Self::HugeLine,
            Self::Latin1Text,
            Self::DelayedGood(delay),
            Self::ByteByByte,
            Self::TwoRepliesAtOnce,
            Self::Stray(b"451 4.3.0 stray\r\n".to_vec()),
            Self::GoodThenEof,
            Self::GoodThenReset,
        ]
    }

    /// Whether the server means yes, however oddly it says so: at the end marker it then has taken the message.
    #[must_use]
    pub fn means_yes(&self) -> bool {
        match self {
            Self::Custom(bytes) => bytes.first() == Some(&b'2'),
            Self::LfOnlyLine
            | Self::HugeReply
            | Self::HugeLine
            | Self::Latin1Text
            | Self::DelayedGood(_)
            | Self::ByteByByte
            | Self::TwoRepliesAtOnce
            | Self::Stray(_)
            | Self::GoodThenEof
            | Self::GoodThenReset => true,
            _ => false,
        }
    }
}

/// Every cell of the matrix once: the cell "end marker, not taken" is left out for faults that mean yes.
#[must_use]
pub fn matrix(delay: Duration) -> Vec<(Phase, Fault)> {
    let cells = Phase::ALL.into_iter().flat_map(|phase| Fault::all(delay).into_iter().map(move |fault| (phase, fault)));
    cells.filter(|(phase, fault)| *phase != Phase::EndMarker { took: false } || !fault.means_yes()).collect()
}

/// Where the dialogue stands when the script is asked.
#[derive(Clone, Debug)]
pub struct Context {
    /// The step. For the end marker `took` is false here; the action says what becomes of it.
    pub phase: Phase,
    /// The number of the connection, from 1.
    pub connection: usize,
    /// The number of the transaction on this connection, from 1; 0 before the first MAIL.
    pub transaction: usize,
    /// Whether TLS is on.
    pub tls: bool,
    /// MAIL FROM.
    pub sender: Option<String>,
    /// RCPT TO: the one that is asked about, later the first one that was accepted.
    pub recipient: Option<String>,
    /// How many RCPT commands have named this recipient, this one included, on all connections.
    pub recipient_seen: usize,
    /// The Message-ID with its brackets; known from the end marker on.
    pub message_id: Option<String>,
    /// The command line; empty where there is none.
    pub command: String,
}

/// What the server does at a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// The good reply.
    Proceed,
    /// The fault; at the end marker the message is not taken (unless the fault means yes).
    Fault(Fault),
    /// At the end marker: takes the message, then the fault.
    TakeThen(Fault),
}

/// A line of a script: a fault at a phase, optionally limited.
#[derive(Clone, Debug)]
#[must_use]
pub struct Rule {
    phase: Phase,
    fault: Fault,
    connection: Option<usize>,
    transaction: Option<usize>,
    recipient: Option<String>,
    tls: Option<bool>,
    times_max: usize,
}

impl Rule {
    /// The fault, every time the phase is reached.
    pub fn at(phase: Phase, fault: Fault) -> Self {
        Self { phase, fault, connection: None, transaction: None, recipient: None, tls: None, times_max: usize::MAX }
    }

    /// Only on this connection (from 1).
    pub fn connection(mut self, number: usize) -> Self {
        self.connection = Some(number);
        self
    }

    /// Only in this transaction of a connection (from 1).
    pub fn transaction(mut self, number: usize) -> Self {
        self.transaction = Some(number);
        self
    }

    /// Only for this recipient.
    pub fn recipient(mut self, address: impl Into<String>) -> Self {
        self.recipient = Some(address.into());
        self
    }

    /// Only with TLS on, or only with TLS off: tells the first EHLO from the one after STARTTLS.
    pub fn tls(mut self, on: bool) -> Self {
        self.tls = Some(on);
        self
    }

    /// Only the first `count` times that everything else matches.
    pub fn times(mut self, count: usize) -> Self {
        self.times_max = count;
        self
    }

    fn matches(&self, context: &Context) -> bool {
        fn is<T: PartialEq>(wanted: Option<&T>, actual: &T) -> bool {
            wanted.is_none_or(|wanted| wanted == actual)
        }
        self.phase.same_step(context.phase)
            && is(self.connection.as_ref(), &context.connection)
            && is(self.transaction.as_ref(), &context.transaction)
            && is(self.tls.as_ref(), &context.tls)
            && (self.recipient.is_none() || self.recipient == context.recipient)
    }

    fn action(&self) -> Action {
        match self.phase {
            Phase::EndMarker { took: true } => Action::TakeThen(self.fault.clone()),
            _ => Action::Fault(self.fault.clone()),
        }
    }
}

/// What the server does, step by step.
#[derive(Clone)]
pub struct Script {
    decide: Arc<dyn Fn(&Context) -> Action + Send + Sync>,
    body_percents: Vec<u8>,
}

impl fmt::Debug for Script {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Script").finish_non_exhaustive()
    }
}

impl Default for Script {
    fn default() -> Self {
        Self::good()
    }
}

impl Script {
    /// A server that does everything right.
    #[must_use]
    pub fn good() -> Self {
        Self { decide: Arc::new(|_| Action::Proceed), body_percents: Vec::new() }
    }

    /// One fault, every time the phase is reached.
    #[must_use]
    pub fn fault(phase: Phase, fault: Fault) -> Self {
        Self::rules([Rule::at(phase, fault)])
    }

    /// The first rule that matches decides; the good reply if none does.
    #[must_use]
    pub fn rules(rules: impl IntoIterator<Item = Rule>) -> Self {
        let rules: Vec<_> = rules.into_iter().map(|rule| (rule, AtomicUsize::new(0))).collect();
        let mut body_percents: Vec<_> = rules
            .iter()
            .filter_map(|(rule, _)| if let Phase::Body { percent } = rule.phase { Some(percent) } else { None })
            .collect();
        body_percents.sort_unstable();
        body_percents.dedup();
        let decide = move |context: &Context| {
            let fresh = |(rule, used): &&(Rule, AtomicUsize)| {
                // Counts matches, not uses: a rule that is used up stays used up.
                rule.matches(context) && used.fetch_add(1, Ordering::Relaxed) < rule.times_max
            };
            rules.iter().find(fresh).map_or(Action::Proceed, |(rule, _)| rule.action())
        };
        Self { decide: Arc::new(decide), body_percents }
    }

    /// Anything. Asked at 0, 50 and 99 % of a body; see [`body_percents`](Self::body_percents).
    #[must_use]
    pub fn from_fn(decide: impl Fn(&Context) -> Action + Send + Sync + 'static) -> Self {
        Self { decide: Arc::new(decide), body_percents: vec![0, 50, 99] }
    }

    /// At which shares of a body (ascending, 0 to 99) the script is asked.
    #[must_use]
    pub fn body_percents(mut self, percents: impl Into<Vec<u8>>) -> Self {
        self.body_percents = percents.into();
        self
    }

    pub(super) fn decide(&self, context: &Context) -> Action {
        (self.decide)(context)
    }

    pub(super) fn percents(&self) -> &[u8] {
        &self.body_percents
    }
}
