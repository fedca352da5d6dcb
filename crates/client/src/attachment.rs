//! Files that travel with a message.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

/// A file to attach: up to 100 with a notification, 25 MB in all.
///
/// ```
/// use hapax_client::Attachment;
///
/// let invoice = Attachment::new("invoice 42.pdf", b"%PDF-1.7 ...").content_type("application/pdf");
/// // Shown where the HTML body says <img src="cid:logo">.
/// let logo = Attachment::new("logo.png", b"\x89PNG ...").content_type("image/png").content_id("logo");
/// # let _ = (invoice, logo);
/// ```
#[derive(Clone, PartialEq, Eq)]
#[must_use]
pub struct Attachment {
    filename: String,
    bytes: Vec<u8>,
    content_type: Option<String>,
    content_id: Option<String>,
}

impl Attachment {
    /// A file, with the name that readers will see.
    pub fn new(filename: impl Into<String>, bytes: impl Into<Vec<u8>>) -> Self {
        Self { filename: filename.into(), bytes: bytes.into(), content_type: None, content_id: None }
    }

    /// Its media type, such as `application/pdf` or `text/csv; charset=utf-8`.
    pub fn content_type(mut self, content_type: impl Into<String>) -> Self {
        self.content_type = Some(content_type.into());
        self
    }

    /// Makes it an inline part that the HTML body refers to as `cid:<content id>`.
    pub fn content_id(mut self, content_id: impl Into<String>) -> Self {
        self.content_id = Some(content_id.into());
        self
    }

    pub(crate) fn json(&self) -> Value {
        let mut object = json!({"filename": self.filename, "content_base64": STANDARD.encode(&self.bytes)});
        for (name, value) in [("content_type", &self.content_type), ("content_id", &self.content_id)] {
            if let Some(value) = value {
                object[name] = json!(value);
            }
        }
        object
    }

    pub(crate) fn texts(&self) -> impl Iterator<Item = &str> {
        let optional = [&self.content_type, &self.content_id];
        std::iter::once(self.filename.as_str()).chain(optional.into_iter().filter_map(Option::as_deref))
    }
}

/// Without the name and the bytes: they are the recipient's business.
impl std::fmt::Debug for Attachment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Attachment")
            .field("bytes", &self.bytes.len())
            .field("content_type", &self.content_type)
            .finish_non_exhaustive()
    }
}
