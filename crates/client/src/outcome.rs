//! What became of a message, and of the wish to stop it: the answers of `outbox.status()` and `outbox.cancel()`.
//!
//! They come as one JSON object a row, which every driver can read. Words that a newer outbox may add are kept as they
//! are, never an error.

use std::borrow::Cow;
use std::fmt;
use std::time::SystemTime;

use serde::{Deserialize, Deserializer};
use uuid::Uuid;

use crate::arguments::{Statement, Value};
use crate::error::Error;
use crate::time;

/// What became of one delivery: one message to one recipient.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub struct Delivery {
    /// Position in recipients, cc and bcc, taken together, from 1.
    pub recipient_no: u32,
    /// The recipient; masked (`a***@example.org`) unless the database role may see addresses.
    pub recipient: String,
    /// Where it is.
    pub state: State,
    /// Why it is there, in words, if there is something to say.
    pub reason: Option<String>,
    /// Finished attempts.
    pub attempts: u32,
    /// How often the message was about to be handed over to a mail server.
    pub intents: u32,
    /// When it will be tried, or tried again; `None` when it has ended or waits for something else than time.
    #[serde(deserialize_with = "from_micros")]
    pub due_at: Option<SystemTime>,
    /// When it ended.
    #[serde(deserialize_with = "from_micros")]
    pub finished_at: Option<SystemTime>,
    /// What came of the last attempt: `accepted`, `refused`, `deferred`, `not_sent` or `unknown`.
    pub last_outcome: Option<String>,
    /// What the mail server said last.
    pub last_reply: Option<String>,
    /// Attempts whose outcome nobody knows: a delivery that failed or was cancelled with some may have arrived.
    pub open_doubts: u32,
}

/// Where a delivery is.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum State {
    /// Waits for its time, or for its turn.
    Pending,
    /// A relay has taken it.
    Claimed,
    /// A relay may be handing it over right now.
    Sending,
    /// Nobody can know whether it was sent.
    InDoubt,
    /// Waits for a person.
    Held,
    /// A mail server has taken it.
    Sent,
    /// Given up: refused for good, or too often.
    Failed,
    /// Stopped before it was sent.
    Cancelled,
    /// Not sent in time.
    Expired,
    /// Not sent, because its recipient does not want or get mail.
    Suppressed,
    /// A state that this version of the crate does not know.
    #[serde(untagged)]
    Other(String),
}

impl State {
    /// Whether nothing more will happen by itself, and no person is waited for.
    #[must_use]
    pub fn is_final(&self) -> bool {
        matches!(self, Self::Sent | Self::Failed | Self::Cancelled | Self::Expired | Self::Suppressed)
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
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
            Self::Other(word) => word,
        })
    }
}

/// What came of cancelling one delivery.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub struct Cancellation {
    /// Position in recipients, cc and bcc, taken together, from 1.
    pub recipient_no: u32,
    /// Whether it was in time.
    pub result: Cancelled,
}

/// Whether a delivery could be stopped.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(from = "String")]
#[non_exhaustive]
pub enum Cancelled {
    /// It will not be sent.
    Now,
    /// It had been cancelled before.
    Already,
    /// It was sent, may have been sent, or ended otherwise; says which.
    TooLate(String),
}

impl From<String> for Cancelled {
    fn from(words: String) -> Self {
        match words.as_str() {
            "cancelled" => Self::Now,
            "already cancelled" => Self::Already,
            // Whatever else it may be, it is not known to be stopped.
            _ => Self::TooLate(words.strip_prefix("too late: ").unwrap_or(&words).to_owned()),
        }
    }
}

// Applications look names up where they like: each that is Postgres' own says so, operators too.
const STATUS: &str = "SELECT pg_catalog.json_build_object('recipient_no', recipient_no, 'recipient', recipient, \
    'state', state, 'reason', reason, 'attempts', attempts, 'intents', intents, \
    'due_at', (extract(epoch FROM due_at) OPERATOR(pg_catalog.*) 1000000)::bigint, \
    'finished_at', (extract(epoch FROM finished_at) OPERATOR(pg_catalog.*) 1000000)::bigint, \
    'last_outcome', last_outcome, 'last_reply', last_reply, 'open_doubts', open_doubts)::pg_catalog.text AS line \
    FROM outbox.status($1::pg_catalog.text::pg_catalog.uuid) ORDER BY recipient_no";

const CANCEL: &str = "SELECT pg_catalog.json_build_object('recipient_no', recipient_no, 'result', result)\
    ::pg_catalog.text AS line \
    FROM outbox.cancel($1::pg_catalog.text::pg_catalog.uuid, $2::pg_catalog.text) ORDER BY recipient_no";

/// The call of `outbox.status()`.
pub(crate) fn status(id: Uuid) -> Statement<'static> {
    Statement { sql: Cow::Borrowed(STATUS), values: vec![Value::Text(Cow::Owned(id.to_string()))] }
}

/// The call of `outbox.cancel()`.
pub(crate) fn cancel(id: Uuid, reason: &str) -> Statement<'_> {
    let values = vec![Value::Text(Cow::Owned(id.to_string())), Value::Text(Cow::Borrowed(reason))];
    Statement { sql: Cow::Borrowed(CANCEL), values }
}

/// Rows of [`status`] or [`cancel`].
pub(crate) fn rows<T: for<'a> Deserialize<'a>, D>(lines: Vec<String>) -> Result<Vec<T>, Error<D>> {
    let rows = lines.iter().map(|line| serde_json::from_str(line)).collect::<Result<_, _>>();
    rows.map_err(|error| Error::Answer(error.into()))
}

/// The ids that `outbox.enqueue_many()` returned.
pub(crate) fn ids<D>(lines: Vec<String>) -> Result<Vec<Uuid>, Error<D>> {
    let ids = lines.iter().map(|line| Uuid::parse_str(line)).collect::<Result<_, _>>();
    ids.map_err(|error| Error::Answer(error.into()))
}

/// The id that `outbox.enqueue()` returned.
pub(crate) fn id<D>(lines: Vec<String>) -> Result<Uuid, Error<D>> {
    ids(lines)?.into_iter().next().ok_or_else(|| Error::Answer("no row".into()))
}

fn from_micros<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<SystemTime>, D::Error> {
    Ok(Option::<i64>::deserialize(deserializer)?.map(time::from_micros))
}
