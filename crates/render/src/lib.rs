//! From a notification to the bytes of a message: templates and MIME, the same bytes at every attempt.
//!
//! [`Renderer::render`] is a pure function of the notification, the route's `from` and the templates read at start. The
//! bytes are the same for every recipient of a message and at every attempt, so that a mail server's or a reader's own
//! de-duplication can see that two copies are one (Message-ID, Date and boundaries derive from the notification).
//!
//! What comes out is fit for the wire: CRLF only, lines of at most 998 octets, no NUL, no Bcc, and no text of an
//! application or a customer can become a header field. Dot-stuffing is `mail`'s.
//!
//! This crate must not: read a clock or chance, touch a disk after [`Renderer::new`], log, or put a payload value, an
//! address, a subject or a body into an error.

mod author;
mod body;
mod compose;
pub mod dkim;
mod encoded;
mod error;
mod header;
mod kind;
mod media;
mod raw;
mod source;
mod stamp;
mod stream;
mod templates;
mod unsubscribe;
mod wire;

use std::borrow::Cow;

use hapax_core::{
    Recipient,
    envelope::{Content, Notification},
};

pub use crate::{
    body::Hole,
    error::{Error, Problem},
    kind::{KIND_FILE, Kind, KindFile, Line, Unsubscribe},
    source::Templates,
    stamp::{ORIGINAL_TO, check_stamp_name, stamp},
    stream::{Normaliser, head_end},
    unsubscribe::UnsubscribeKey,
};
use crate::{
    compose::Identity,
    templates::{Library, Texts},
};

/// What a renderer may use.
#[derive(Clone, Debug)]
pub struct Options {
    /// The templates for notifications that bring a payload.
    pub templates: Templates,
    /// How much work one template may do; also bounds its memory to about 64 bytes a unit.
    pub template_fuel_max: u64,
    /// The longest text one template may write.
    pub template_output_bytes_max: usize,
    /// The largest message, encoded.
    pub message_bytes_max: usize,
    /// Signs the links of kinds with `[unsubscribe]`; without it such a kind is refused.
    pub unsubscribe_key: Option<UnsubscribeKey>,
}

impl Default for Options {
    /// No templates, 500,000 units of fuel (32 MB), 2 MiB a text, 50 MiB a message.
    fn default() -> Self {
        Self {
            templates: Templates::none(),
            template_fuel_max: 500_000,
            template_output_bytes_max: 2 << 20,
            message_bytes_max: 50 << 20,
            unsubscribe_key: None,
        }
    }
}

/// Makes messages. Immutable after `new`: share it in an `Arc`.
pub struct Renderer {
    library: Library,
    message_bytes_max: usize,
}

/// A message, ready for `mail`.
#[derive(Clone, PartialEq, Eq)]
pub struct Rendered {
    /// The Message-ID with its angle brackets, as the message has it.
    pub message_id_header: String,
    /// MAIL FROM: the notification's sender, or the route's `from`.
    pub envelope_sender: Recipient,
    /// The domain of the From field, in ASCII and lower case, which decides who may sign (DKIM). `None` where a raw
    /// message's From names no mailbox, or one with an address literal.
    pub author_domain: Option<String>,
    /// The message (RFC 5322): CRLF only, ends with one, lines of at most 998 octets; not dot-stuffed.
    pub bytes: Vec<u8>,
    /// Where contents of attachments belong that are not here; none for most messages.
    pub holes: Vec<Hole>,
    /// Its template wrote no body, or only white space: it can be sent, and was hardly meant.
    pub is_blank: bool,
}

impl std::fmt::Debug for Rendered {
    /// Never the message.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rendered").field("bytes", &self.bytes.len()).finish_non_exhaustive()
    }
}

impl Renderer {
    /// Reads and compiles all templates.
    ///
    /// # Errors
    /// [`Error::Templates`] with every problem of every template: unreadable, incomplete, not UTF-8, syntax errors.
    pub fn new(options: Options) -> Result<Self, Error> {
        let renderer = Self::lenient(&options);
        renderer.library.broken().map(|()| renderer)
    }

    /// [`Renderer::new`] for tools: a kind that is broken does not keep the others from being rendered. It is refused
    /// itself, with its problems.
    #[must_use]
    pub fn lenient(options: &Options) -> Self {
        Self { library: Library::load(options), message_bytes_max: options.message_bytes_max }
    }

    /// What is wrong with the templates of a [`Renderer::lenient`], by file and line.
    #[must_use]
    pub fn problems(&self) -> &[Problem] {
        self.library.problems()
    }

    /// What the authors of the templates hardly meant, and what changes no message: files whose names mean nothing,
    /// images that nobody shows.
    #[must_use]
    pub fn warnings(&self) -> &[Problem] {
        self.library.warnings()
    }

    /// The kinds that have templates, by name.
    #[must_use]
    pub fn kinds(&self) -> Vec<Kind> {
        self.library.kinds().collect()
    }

    /// A kind's sample payload; the empty name is `sample.json`.
    #[must_use]
    pub fn sample(&self, kind: &str, name: &str) -> Option<&str> {
        self.library.sample(kind, name)
    }

    /// Renders every kind in every locale with every sample: everything that is wrong with them, and what is missing, by
    /// file and line.
    #[must_use]
    pub fn check(&self) -> Vec<Problem> {
        self.library.check(self, |_| true)
    }

    /// [`Renderer::check`] of one kind: what is wrong with a shared piece is told where the kind uses it.
    #[must_use]
    pub fn check_kind(&self, kind: &str) -> Vec<Problem> {
        self.library.check(self, |name| name == kind)
    }

    /// Renders digests of one kind's samples by the templates of another, or of the same: `items` and `count`.
    #[must_use]
    pub fn check_digest(&self, digest: &str, member: &str) -> Vec<Problem> {
        self.library.check_digest(self, digest, member)
    }

    /// The message of a notification. `route_from` is the route's `from` (`Name <address>` or `address`), used when the
    /// notification names no sender. The Message-ID's domain is the sender's unless `hostname_for_message_id` is given,
    /// which must then be the same on every relay and after every restart.
    ///
    /// # Errors
    /// Why the notification cannot be rendered, now and at any later attempt with the same templates.
    pub fn render(
        &self,
        notification: &Notification,
        route_from: &str,
        hostname_for_message_id: Option<&str>,
    ) -> Result<Rendered, Error> {
        self.render_for(notification, 1, route_from, hostname_for_message_id)
    }

    /// Whether the message differs by recipient, so that it must be rendered with [`Renderer::render_for`]: its kind
    /// has an `[unsubscribe]`.
    #[must_use]
    pub fn is_per_recipient(&self, notification: &Notification) -> bool {
        matches!(notification.content, Content::Payload(_)) && self.library.is_per_recipient(&notification.kind)
    }

    /// [`Renderer::render`] for one recipient: its position in `recipients`, `cc` and `bcc`, from 1. Templates know its
    /// address as `recipient`, and `unsubscribe_url`, where the kind has an `[unsubscribe]`.
    ///
    /// # Errors
    /// As [`Renderer::render`].
    pub fn render_for(
        &self,
        notification: &Notification,
        recipient_no: i16,
        route_from: &str,
        hostname_for_message_id: Option<&str>,
    ) -> Result<Rendered, Error> {
        let sender = match &notification.sender {
            Some(sender) => header::parse(|| "sender".to_owned(), sender)?,
            None => header::parse(|| "the route's from".to_owned(), route_from)?,
        };
        let identity = Identity::new(notification, sender, hostname_for_message_id)?;
        let message_id = || identity.message_id.clone();
        let mut author_domain = author::domain(&identity.sender);
        let mut is_blank = false;
        let ((bytes, holes), message_id_header) = match &notification.content {
            Content::StoredRaw { .. } => return Err(Error::NotHere),
            Content::Raw(raw) => {
                let (bytes, message_id) = raw::finish(raw, notification, &identity)?;
                author_domain = author::domain_of_from(&bytes);
                ((bytes, Vec::new()), message_id)
            }
            Content::Ready { subject, text, html } => {
                let texts = Texts {
                    subject: subject.as_str().into(),
                    text: text.as_deref().map(Cow::Borrowed),
                    html: html.as_deref().map(Cow::Borrowed),
                    fields: Vec::new(),
                    headers: Vec::new(),
                    images: Vec::new(),
                };
                (compose::compose(notification, &identity, &texts)?, message_id())
            }
            Content::Payload(payload) => {
                let recipient = self.reader(notification, recipient_no)?;
                let texts = self.library.render(notification, payload, identity.sender.domain(), &recipient)?;
                is_blank = [&texts.text, &texts.html].into_iter().flatten().all(|text| text.trim().is_empty());
                (compose::compose(notification, &identity, &texts)?, message_id())
            }
        };
        if bytes.len() > self.message_bytes_max {
            return Err(Error::TooLarge { actual_bytes: bytes.len(), limit_bytes: self.message_bytes_max });
        }
        match wire::first_fault(&bytes) {
            Some((what, line)) => Err(Error::Wire { what, line }),
            None => {
                let envelope_sender = identity.sender;
                Ok(Rendered { message_id_header, envelope_sender, author_domain, bytes, holes, is_blank })
            }
        }
    }

    /// The address of a recipient, where it matters.
    fn reader(&self, notification: &Notification, recipient_no: i16) -> Result<String, Error> {
        if !self.is_per_recipient(notification) {
            return Ok(String::new());
        }
        let Notification { recipients, cc, bcc, .. } = notification;
        let place = usize::try_from(recipient_no).ok().and_then(|number| number.checked_sub(1));
        let mailbox = place.and_then(|place| recipients.iter().chain(cc).chain(bcc).nth(place));
        let parsed = header::parse(|| format!("recipient {recipient_no}"), mailbox.map_or("", String::as_str))?;
        Ok(parsed.address())
    }
}

const _: () = {
    const fn shareable<T: Send + Sync>() {}
    shareable::<Renderer>();
};
