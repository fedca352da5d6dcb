//! Notifications that no application enqueued: made from a kind's sample or a payload somebody typed, to be looked at
//! (`hapax template preview`) or sent once (`hapax send-test`).

use std::{fs, path::Path, time::Duration};

use hapax_core::{
    MessageId, Priority,
    envelope::{Content, Notification},
};
use uuid::Uuid;

/// What is made into a notification.
#[derive(Clone, Debug)]
pub(crate) struct Wish {
    pub(crate) kind: String,
    pub(crate) locale: Option<String>,
    /// JSON.
    pub(crate) payload: String,
    /// `Name <address>` or `address`.
    pub(crate) to: String,
}

impl Wish {
    /// The notification. `id` names it, and `created_at_us` (since the Unix epoch) dates it.
    pub(crate) fn notification(&self, id: Uuid, created_at_us: i64) -> Notification {
        Notification {
            id: MessageId(id),
            created_at_us,
            kind: self.kind.clone(),
            sender: None,
            reply_to: None,
            recipients: vec![self.to.clone()],
            cc: Vec::new(),
            bcc: Vec::new(),
            content: Content::Payload(self.payload.clone()),
            headers: Vec::new(),
            attachments: Vec::new(),
            attachments_later: false,
            priority: Priority::Normal,
            expires_in: None,
            age: Duration::ZERO,
            on_doubt: None,
            route: None,
            tenant: None,
            locale: self.locale.clone(),
        }
    }
}

/// The text of a sample: `sample.json` for the empty name, else `sample.NAME.json`. Nothing where there is none, or where
/// a name would lead elsewhere.
pub(crate) fn read(directory: &Path, kind: &str, name: &str) -> Option<String> {
    let file = file(name);
    let known = is_plain(kind) && is_plain(&file);
    known.then(|| fs::read_to_string(directory.join(kind).join(file)).ok()).flatten()
}

/// The name of a sample's file.
pub(crate) fn file(name: &str) -> String {
    if name.is_empty() { "sample.json".to_owned() } else { format!("sample.{name}.json") }
}

/// One segment of a path that leads nowhere else.
pub(crate) fn is_plain(segment: &str) -> bool {
    !segment.is_empty() && !segment.starts_with('.') && !segment.contains(['/', '\\', '\0'])
}
