//! The words for what can happen: steps, and which kinds of them count as faults.

use crate::world::Resolution;

/// What may go wrong, and what people may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The connection to Postgres is lost while an answer is waited for; the statement may run late.
    LostAnswer,
    /// SIGKILL: everything in memory is gone. The process is started again, as another incarnation.
    RelayCrash,
    /// The database crashes: connections, statements on their way and asynchronous commits are gone.
    DatabaseCrash,
    /// A lease expires while its holder lives (a pause, a slow server), or a claim whose answer was lost.
    Expiry,
    /// No reply to an end marker: it never arrives, or is taken and the reply is lost, or it does not come in time.
    LostReply,
    /// The server refuses, for now or for good, before or after the end marker.
    Refusal,
    /// A living relay is judged dead: it was paused, or its intent is old.
    Reaped,
    /// Somebody resolves a doubt, by force where the attempt may still be alive.
    Resolve,
    /// And runs the same script again later.
    ScriptAgain,
    /// An application cancels.
    Cancel,
    /// Somebody holds a delivery.
    Hold,
    /// Somebody retries a finished one, by force where it has open doubts.
    Retry,
}

impl Fault {
    pub(crate) const ALL: &[Self] = &[
        Self::LostAnswer,
        Self::RelayCrash,
        Self::DatabaseCrash,
        Self::Expiry,
        Self::LostReply,
        Self::Refusal,
        Self::Reaped,
        Self::Resolve,
        Self::ScriptAgain,
        Self::Cancel,
        Self::Hold,
        Self::Retry,
    ];
}

/// One step. Numbers are those of deliveries, relays, or places in the lists of the world.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    // A courier.
    Claim {
        relay: u8,
        delivery: u8,
    },
    GiveBack {
        relay: u8,
    },
    RefusedBefore354 {
        relay: u8,
        code: u16,
    },
    AskForIntent {
        relay: u8,
    },
    RepeatIntend {
        relay: u8,
    },
    GiveUpIntend {
        relay: u8,
    },
    Transmit {
        relay: u8,
    },
    /// The gate is shut, or the connection was lost in the body.
    Abort {
        relay: u8,
    },
    ReadReply {
        relay: u8,
    },
    ReplyTimesOut {
        relay: u8,
    },
    // Statements.
    Execute(usize),
    /// An orphan that never runs.
    Evaporate(usize),
    LoseAnswer {
        relay: u8,
    },
    ClaimUnheard {
        delivery: u8,
    },
    WalIsFlushed,
    // The server.
    Take(usize),
    TakeAndLoseReply(usize),
    Refuse(usize, u16),
    LoseMarker(usize),
    // Processes.
    CrashRelay {
        relay: u8,
    },
    RestartRelay {
        relay: u8,
    },
    CrashDatabase {
        losing: bool,
    },
    // The reaper.
    MarkInDoubt {
        delivery: u8,
    },
    GraceIsOver {
        delivery: u8,
    },
    DecideByPolicy {
        delivery: u8,
        verdict: Resolution,
    },
    SettleOrphan {
        delivery: u8,
    },
    // People.
    Resolve {
        delivery: u8,
        verdict: Resolution,
    },
    RunScriptAgain,
    Cancel {
        delivery: u8,
    },
    Hold {
        delivery: u8,
    },
    ReleaseHeld {
        delivery: u8,
    },
    Retry {
        delivery: u8,
    },
}
