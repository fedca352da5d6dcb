//! The states of a delivery: the same ten words in Rust, SQL, logs, metrics, CLI and console.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// Where a delivery stands. Each variant says who moves it on, and what a crash there means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Waiting for its time, new or after a refusal. The relay claims it. A crash changes nothing.
    Pending,
    /// Leased to a relay, nothing transmitted. An expired lease makes it pending again, always safely.
    Claimed,
    /// The intent is durable: the end marker may be on the wire. Only the relay that wrote the intent moves it, or the
    /// reaper (to [`State::InDoubt`]). A crash here is what doubt is made of.
    Sending,
    /// The outcome is unknown. Policy, late evidence or an operator decides; nothing else ever does.
    InDoubt,
    /// Stopped by a guard or an operator, nothing transmitted. An operator releases it.
    Held,
    /// A server took responsibility (its reply is stored), or evidence says so. Terminal.
    Sent,
    /// Refused for good, attempts exhausted, or cannot be rendered. Terminal, an operator may retry.
    Failed,
    /// Not sent, on purpose. Terminal.
    Cancelled,
    /// Not sent because its `expires_at` passed. Terminal.
    Expired,
    /// Not sent because its address is suppressed. Terminal.
    Suppressed,
}

impl State {
    /// Every state, in the order the documentation lists them.
    pub const ALL: [Self; 10] = [
        Self::Pending,
        Self::Claimed,
        Self::Sending,
        Self::InDoubt,
        Self::Held,
        Self::Sent,
        Self::Failed,
        Self::Cancelled,
        Self::Expired,
        Self::Suppressed,
    ];

    /// The word used in SQL, logs, metrics and on the command line.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Claimed => "claimed",
            Self::Sending => "sending",
            Self::InDoubt => "in_doubt",
            Self::Held => "held",
            Self::Sent => "sent",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Expired => "expired",
            Self::Suppressed => "suppressed",
        }
    }

    /// Whether nothing moves it on by itself any more.
    #[must_use]
    pub const fn is_terminal(self) -> bool {
        matches!(self, Self::Sent | Self::Failed | Self::Cancelled | Self::Expired | Self::Suppressed)
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A word that is not a state.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "{0:?} is not a state; the states are pending, claimed, sending, in_doubt, held, sent, failed, cancelled, expired, suppressed"
)]
pub struct UnknownState(pub String);

impl FromStr for State {
    type Err = UnknownState;

    fn from_str(word: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|state| state.as_str() == word).ok_or_else(|| UnknownState(word.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_word_reads_back_as_its_state() {
        for state in State::ALL {
            assert_eq!(state.as_str().parse::<State>(), Ok(state));
        }
        assert!("in doubt".parse::<State>().is_err());
    }
}
