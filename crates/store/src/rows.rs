//! What the queue and the messages look like in Rust.

use std::time::{Duration, SystemTime};

use hapax_core::{
    DeliveryKey, Lease, MessageId, OnDoubt, Priority,
    envelope::{Attachment, Content, Notification},
};
use serde::Deserialize;
use tokio_postgres::Row;
use uuid::Uuid;

use crate::error::Error;

/// A delivery this relay has leased.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claimed {
    /// Which one.
    pub key: DeliveryKey,
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
}

pub(crate) fn claimed(row: &Row, lease: Lease) -> (Cursor, Claimed) {
    let (message_id, recipient_no) = (row.get("message_id"), row.get("recipient_no"));
    let cursor = Cursor { due_at: row.get("due_at"), message_id, recipient_no };
    let claimed = Claimed {
        key: DeliveryKey { message_id: MessageId(message_id), recipient_no },
        lease,
        claims: row.get("claims"),
        attempt_no: row.get("attempt_no"),
        intents: row.get("intents"),
        open_doubts: row.get("open_doubts"),
        pinned_route: row.get("pinned_route"),
        due_for: seconds(row.get("due_for_s")),
        bound: row.get::<_, bool>("bound").then(|| Bound {
            upstream: row.get("upstream"),
            since_first_intent: row.get::<_, Option<f64>>("first_intent_age_s").and_then(elapsed),
        }),
    };
    (cursor, claimed)
}

/// The stored form of one attachment: the argument `attachments` of `outbox.enqueue`.
#[derive(Deserialize)]
struct StoredAttachment {
    filename: String,
    content_type: Option<String>,
    content_base64: String,
    content_id: Option<String>,
}

pub(crate) fn notification(row: &Row) -> Result<Notification, Error> {
    let id: Uuid = row.get("id");
    let unreadable = |reason: String| Error::Row { operation: "contents", key: id.to_string(), reason };
    let headers = row.get::<_, Option<String>>("headers").map_or(Ok(Vec::new()), |text| {
        let fields: serde_json::Map<String, serde_json::Value> =
            serde_json::from_str(&text).map_err(|error| unreadable(format!("headers: {error}")))?;
        fields
            .into_iter()
            .map(|(name, value)| match value {
                serde_json::Value::String(value) => Ok((name, value)),
                _ => Err(unreadable("headers: a value is not a string".into())),
            })
            .collect()
    })?;
    let attachments = row.get::<_, Option<String>>("attachments").map_or(Ok(Vec::new()), |text| {
        let stored: Vec<StoredAttachment> =
            serde_json::from_str(&text).map_err(|error| unreadable(format!("attachments: {error}")))?;
        stored.into_iter().map(|stored| attachment(stored).map_err(&unreadable)).collect()
    })?;
    Ok(Notification {
        id: MessageId(id),
        created_at_us: row.get("created_at_us"),
        kind: row.get("kind"),
        sender: row.get("sender"),
        reply_to: row.get("reply_to"),
        recipients: row.get("recipients"),
        cc: row.get("cc"),
        bcc: row.get("bcc"),
        content: content(row).ok_or_else(|| unreadable("no content".into()))?,
        headers,
        attachments,
        priority: match row.get("priority") {
            "urgent" => Priority::Urgent,
            "bulk" => Priority::Bulk,
            _ => Priority::Normal,
        },
        expires_in: row.get::<_, Option<f64>>("expires_in_s").map(seconds),
        age: seconds(row.get("age_s")),
        on_doubt: row
            .get::<_, Option<&str>>("on_doubt")
            .map(str::parse::<OnDoubt>)
            .transpose()
            .map_err(|error| unreadable(format!("on_doubt: {error}")))?,
        route: row.get("route"),
        tenant: row.get("tenant"),
        locale: row.get("locale"),
    })
}

fn content(row: &Row) -> Option<Content> {
    if let Some(raw) = row.get("raw_message") {
        return Some(Content::Raw(raw));
    }
    if let Some(payload) = row.get("payload") {
        return Some(Content::Payload(payload));
    }
    let (text, html): (Option<String>, Option<String>) = (row.get("body_text"), row.get("body_html"));
    let subject: Option<String> = row.get("subject");
    (subject.is_some() || text.is_some() || html.is_some()).then(|| Content::Ready {
        subject: subject.unwrap_or_default(),
        text,
        html,
    })
}

fn attachment(stored: StoredAttachment) -> Result<Attachment, String> {
    let compact: String = stored.content_base64.split_whitespace().collect();
    let content = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, compact)
        .map_err(|error| format!("attachments: {error}"))?;
    Ok(Attachment {
        filename: stored.filename,
        content_type: stored.content_type.unwrap_or_else(|| "application/octet-stream".into()),
        content_id: stored.content_id,
        content,
    })
}

/// Seconds of the database as a duration; what lies in the past is zero.
pub(crate) fn seconds(value: f64) -> Duration {
    Duration::try_from_secs_f64(value.max(0.0)).unwrap_or(Duration::MAX)
}

/// Seconds of the database that must not be negative: what lies in the future says that a clock was set back.
pub(crate) fn elapsed(value: f64) -> Option<Duration> {
    Duration::try_from_secs_f64(value).ok()
}
