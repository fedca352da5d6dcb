//! Identities. Each is a newtype over a uuid, so that a lease can never be passed where a token is meant.
//!
//! A *lease* is fresh per claim, a *token* (written to `queue.intent`) fresh per attempt, an *incarnation* fresh per
//! process start. Every statement names the token of its attempt, never the relay: a settle whose client has vanished
//! can run seconds later on its old backend and must not match the same relay's next attempt.

use std::fmt;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

macro_rules! identity {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub Uuid);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }

        impl From<Uuid> for $name {
            fn from(id: Uuid) -> Self {
                Self(id)
            }
        }
    };
}

identity!(
    /// A notification: the uuid v7 that `outbox.enqueue` returned.
    MessageId
);
identity!(
    /// Fresh per claim; lets its holder work on a delivery until it asks for the intent.
    Lease
);
identity!(
    /// Fresh per attempt; durable in the queue row before the first byte of an end marker, unique in the ledger.
    Token
);
identity!(
    /// Fresh per process start; a restarted relay never speaks for its dead predecessor.
    Incarnation
);

impl Lease {
    /// A lease nobody has ever held.
    #[must_use]
    pub fn fresh() -> Self {
        Self(Uuid::new_v4())
    }
}

impl Token {
    /// A token nobody has ever used.
    #[must_use]
    pub fn fresh() -> Self {
        Self(Uuid::new_v4())
    }
}

impl Incarnation {
    /// The identity of a process that starts now.
    #[must_use]
    pub fn fresh() -> Self {
        if crate::mutant::is("name_is_identity") {
            return Self(Uuid::from_u128(1));
        }
        Self(Uuid::new_v4())
    }
}

/// One delivery: one message to one recipient. `recipient_no` counts from 1 over recipients, cc and bcc.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct DeliveryKey {
    /// The message.
    pub message_id: MessageId,
    /// Position of the recipient in `recipients || cc || bcc`, from 1.
    pub recipient_no: i16,
}

impl fmt::Display for DeliveryKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.message_id, self.recipient_no)
    }
}
