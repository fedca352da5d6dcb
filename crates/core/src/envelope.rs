//! What the outbox holds for one notification, as the relay reads it: shared by `store` (which fetches it) and
//! `render` (which makes bytes of it).

use std::time::Duration;

use crate::{
    ids::MessageId,
    policy::{OnDoubt, Priority},
};

/// One committed notification. Immutable; two attempts of it see the same values.
#[derive(Clone, PartialEq)]
pub struct Notification {
    /// The id `outbox.enqueue` returned.
    pub id: MessageId,
    /// When it was enqueued, in microseconds since the Unix epoch; becomes the Date header.
    pub created_at_us: i64,
    /// Names the template, the policy and the metric label.
    pub kind: String,
    /// `Name <address>` or `address`; the route's `from` when absent.
    pub sender: Option<String>,
    /// Reply-To.
    pub reply_to: Option<String>,
    /// The To list as enqueued.
    pub recipients: Vec<String>,
    /// The Cc list.
    pub cc: Vec<String>,
    /// The Bcc list: envelope only, never in a header.
    pub bcc: Vec<String>,
    /// What to say.
    pub content: Content,
    /// Further header fields, in order.
    pub headers: Vec<(String, String)>,
    /// Attachments.
    pub attachments: Vec<Attachment>,
    /// There are some, but which has not been read: it takes long where they are large.
    pub attachments_later: bool,
    /// Its lane.
    pub priority: Priority,
    /// Until `expires_at` by the database's clock when the row was read; zero when it has passed.
    pub expires_in: Option<Duration>,
    /// Since it first could have been sent, by the database's clock when the row was read.
    pub age: Duration,
    /// The message's own doubt policy; the kind's applies when absent.
    pub on_doubt: Option<OnDoubt>,
    /// The route it asked for; the kind's or the default applies when absent.
    pub route: Option<String>,
    /// The tenant it belongs to.
    pub tenant: Option<String>,
    /// The locale of its template.
    pub locale: Option<String>,
}

impl std::fmt::Debug for Notification {
    /// Never an address, a subject or a body.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Notification").field("id", &self.id).field("kind", &self.kind).finish_non_exhaustive()
    }
}

/// Exactly one form of content.
#[derive(Clone, PartialEq)]
pub enum Content {
    /// JSON for the kind's template.
    Payload(String),
    /// Ready to send.
    Ready {
        /// The subject.
        subject: String,
        /// The plain text.
        text: Option<String>,
        /// The HTML.
        html: Option<String>,
    },
    /// A finished RFC 5322 message.
    Raw(Vec<u8>),
    /// The same, too large to have come along.
    StoredRaw {
        /// How large.
        bytes: u64,
    },
}

/// One attachment.
#[derive(Clone, PartialEq, Eq)]
pub struct Attachment {
    /// The name a reader sees.
    pub filename: String,
    /// The media type; empty when none was given: then the name decides.
    pub content_type: String,
    /// Referred to by `cid:` in the HTML: shown inline.
    pub content_id: Option<String>,
    /// What it holds.
    pub content: AttachmentContent,
}

/// Where the bytes of an attachment are.
#[derive(Clone, PartialEq, Eq)]
pub enum AttachmentContent {
    /// Here.
    Bytes(Vec<u8>),
    /// In the outbox, too large to have come along.
    Stored {
        /// Which of the message's attachments, from 1.
        element: i32,
        /// How long its base64 text is.
        base64_bytes: u64,
    },
    /// In a file below the relay's directory for attachments.
    File {
        /// Relative to it.
        path: String,
        /// What it must hash to.
        sha256: Option<[u8; 32]>,
    },
    /// At an https address.
    Url {
        /// The address.
        url: String,
        /// What it must hash to.
        sha256: Option<[u8; 32]>,
    },
}

impl AttachmentContent {
    /// How many bytes of it are in memory.
    #[must_use]
    pub fn len_here(&self) -> usize {
        match self {
            Self::Bytes(bytes) => bytes.len(),
            _ => 0,
        }
    }
}

impl From<Vec<u8>> for AttachmentContent {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Bytes(bytes)
    }
}
