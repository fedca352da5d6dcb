//! What the queue and the messages look like in Rust.

use std::time::{Duration, SystemTime};

use hapax_core::{
    DeliveryKey, Lease, MessageId, OnDoubt, Priority,
    envelope::{Attachment, AttachmentContent, Content, Notification},
};
use serde::Deserialize;
use tokio_postgres::{Row, types::FromSql};
use uuid::Uuid;

use crate::{error::Error, hot::Release};

/// A delivery this relay has leased.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claimed {
    /// Which one.
    pub key: DeliveryKey,
    /// Its lane, and where the claim of that lane goes on after it.
    pub lane: i16,
    /// See [`Claimed::lane`].
    pub cursor: Cursor,
    /// The lease of this claim.
    pub lease: Lease,
    /// Claims, this one included, that have ended neither in an attempt nor in a release.
    pub claims: i16,
    /// Finished attempts that concerned the message.
    pub attempt_no: i16,
    /// Intents ever written.
    pub intents: i16,
    /// Attempts whose outcome is unknown.
    pub open_doubts: i16,
    /// The route its last intent went to.
    pub pinned_route: Option<String>,
    /// Since it became due, by the database's clock.
    pub due_for: Duration,
    /// It is being sent again with the same key: only to this upstream, inside its window.
    pub bound: Option<Bound>,
}

impl Claimed {
    /// When it was claimed, by the database's clock.
    #[must_use]
    pub fn at(&self) -> SystemTime {
        self.cursor.due_at + self.due_for
    }

    /// Given back, due no earlier than so long from then.
    #[must_use]
    pub fn given_back(&self, after: Duration) -> Release {
        Release { key: self.key, lease: self.lease, after, lane: None }
    }
}

/// What a delivery that is sent again with the same key is bound to, besides its route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bound {
    /// The upstream that knows the key.
    pub upstream: Option<i64>,
    /// Since its first intent, by the database's clock; none when that lies in the future.
    pub since_first_intent: Option<Duration>,
}

/// Where the claim of a lane goes on: all three parts, or the remaining recipients of a message at the limit are skipped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cursor {
    pub(crate) due_at: SystemTime,
    pub(crate) message_id: Uuid,
    pub(crate) recipient_no: i16,
}

impl Cursor {
    /// Before every row.
    pub const START: Self = Self { due_at: SystemTime::UNIX_EPOCH, message_id: Uuid::nil(), recipient_no: 0 };

    /// Before every row that is due then.
    #[must_use]
    pub const fn before(due_at: SystemTime) -> Self {
        Self { due_at, ..Self::START }
    }
}

/// Where a claim by turns goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Turn {
    /// The number of the tenant that was served last.
    pub after: i32,
    /// How far the lane has been looked through for what has no tenant.
    pub seen: Cursor,
    /// It was looked through to its end.
    pub seen_all: bool,
}

impl Turn {
    /// Before every tenant, and before every row.
    pub const START: Self = Self { after: -1, seen: Cursor::START, seen_all: false };
}

/// What a row of `outbox.claim_turns()` says of the next claim.
pub(crate) fn turn(row: &Row) -> Turn {
    let seen = Cursor { due_at: row.get("seen_due"), message_id: row.get("seen_id"), recipient_no: row.get("seen_no") };
    Turn { after: row.get("turn"), seen, seen_all: row.get("seen_all") }
}

/// A row's columns in their order: by name each would be searched for among all of them, for every row.
struct Columns<'a>(&'a Row, usize);

impl<'a> Columns<'a> {
    fn next<T: FromSql<'a>>(&mut self) -> T {
        self.1 += 1;
        self.0.get(self.1 - 1)
    }
}

/// A row of `outbox.claim_batch()`.
pub(crate) fn claimed(row: &Row, lease: Lease) -> Claimed {
    let mut of = Columns(row, 0);
    let (lane, message_id, recipient_no, due_at) = (of.next(), of.next(), of.next(), of.next());
    Claimed {
        key: DeliveryKey { message_id: MessageId(message_id), recipient_no },
        lane,
        cursor: Cursor { due_at, message_id, recipient_no },
        lease,
        claims: of.next(),
        attempt_no: of.next(),
        intents: of.next(),
        open_doubts: of.next(),
        pinned_route: of.next(),
        due_for: seconds(of.next()),
        bound: of
            .next::<bool>()
            .then(|| Bound { upstream: of.next(), since_first_intent: of.next::<Option<f64>>().and_then(elapsed) }),
    }
}

/// The stored form of one attachment: the argument `attachments` of `outbox.enqueue`.
#[derive(Deserialize)]
struct StoredAttachment {
    filename: String,
    content_type: Option<String>,
    content_id: Option<String>,
    content_base64: Option<String>,
    /// In its place, where it is too large to come along.
    base64_bytes: Option<u64>,
    path: Option<String>,
    url: Option<String>,
    sha256: Option<String>,
}

/// A row of `outbox.letters_in_brief()`.
pub(crate) fn notification(row: &Row) -> Result<Notification, Error> {
    let mut of = Columns(row, 0);
    let id: Uuid = of.next();
    let unreadable = |reason: String| Error::Row { operation: "letters", key: id.to_string(), reason };
    let (created_at_us, kind, sender, reply_to) = (of.next(), of.next(), of.next(), of.next());
    let (recipients, cc, bcc) = (of.next(), of.next(), of.next());
    let content = content(&mut of).ok_or_else(|| unreadable("its content is gone".into()))?;
    let headers = of.next::<Option<&str>>().map_or(Ok(Vec::new()), |text| {
        let fields: serde_json::Map<String, serde_json::Value> =
            serde_json::from_str(text).map_err(|error| unreadable(format!("headers: {error}")))?;
        fields
            .into_iter()
            .map(|(name, value)| match value {
                serde_json::Value::String(value) => Ok((name, value)),
                _ => Err(unreadable("headers: a value is not a string".into())),
            })
            .collect()
    })?;
    let attachments = of.next::<Option<&str>>().map_or(Ok(Vec::new()), attachments).map_err(&unreadable)?;
    Ok(Notification {
        id: MessageId(id),
        created_at_us,
        kind,
        sender,
        reply_to,
        recipients,
        cc,
        bcc,
        content,
        headers,
        attachments,
        attachments_later: of.next(),
        priority: match of.next() {
            "urgent" => Priority::Urgent,
            "bulk" => Priority::Bulk,
            _ => Priority::Normal,
        },
        expires_in: of.next::<Option<f64>>().map(seconds),
        age: seconds(of.next()),
        on_doubt: of
            .next::<Option<&str>>()
            .map(str::parse::<OnDoubt>)
            .transpose()
            .map_err(|error| unreadable(format!("on_doubt: {error}")))?,
        route: of.next(),
        tenant: of.next(),
        locale: of.next(),
    })
}

fn content(of: &mut Columns<'_>) -> Option<Content> {
    let (payload, subject): (Option<String>, Option<String>) = (of.next(), of.next());
    let (text, html): (Option<String>, Option<String>) = (of.next(), of.next());
    let (raw, raw_bytes): (_, Option<i64>) = (of.next(), of.next());
    if let Some(raw) = raw {
        return Some(Content::Raw(raw));
    }
    if let Some(bytes) = raw_bytes {
        return Some(Content::StoredRaw { bytes: bytes.unsigned_abs() });
    }
    if let Some(payload) = payload {
        return Some(Content::Payload(payload));
    }
    (subject.is_some() || text.is_some() || html.is_some()).then(|| Content::Ready {
        subject: subject.unwrap_or_default(),
        text,
        html,
    })
}

/// The column `attachments`, with contents or their sizes.
pub(crate) fn attachments(text: &str) -> Result<Vec<Attachment>, String> {
    let stored: Vec<StoredAttachment> = serde_json::from_str(text).map_err(|error| format!("attachments: {error}"))?;
    (1..).zip(stored).map(|(element, stored)| attachment(element, stored)).collect()
}

/// One attachment; `element` counts from 1.
fn attachment(element: i32, stored: StoredAttachment) -> Result<Attachment, String> {
    let of = |what: &str| format!("attachments: element {element} {what}");
    let sha256 = stored.sha256.map(|hex| digest(&hex).ok_or_else(|| of("has a malformed sha256"))).transpose()?;
    let content = match (stored.content_base64, stored.base64_bytes, stored.path, stored.url) {
        (Some(text), ..) => {
            let compact: String = text.split_whitespace().collect();
            let bytes = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, compact);
            AttachmentContent::Bytes(bytes.map_err(|error| format!("attachments: {error}"))?)
        }
        (None, Some(base64_bytes), ..) => AttachmentContent::Stored { element, base64_bytes },
        (None, None, Some(path), _) => AttachmentContent::File { path, sha256 },
        (None, None, None, Some(url)) => AttachmentContent::Url { url, sha256 },
        (None, None, None, None) => return Err(of("has no content")),
    };
    Ok(Attachment {
        filename: stored.filename,
        content_type: stored.content_type.unwrap_or_default(),
        content_id: stored.content_id,
        content,
    })
}

/// 64 hexadecimal digits.
fn digest(hex: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    if hex.len() != 64 || !hex.is_ascii() {
        return None;
    }
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).ok()?;
    }
    Some(bytes)
}

/// Seconds of the database as a duration; what lies in the past is zero.
pub(crate) fn seconds(value: f64) -> Duration {
    Duration::try_from_secs_f64(value.max(0.0)).unwrap_or(Duration::MAX)
}

/// Seconds of the database that must not be negative: what lies in the future says that a clock was set back.
pub(crate) fn elapsed(value: f64) -> Option<Duration> {
    Duration::try_from_secs_f64(value).ok()
}
