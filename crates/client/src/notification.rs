//! A notification, as its builder.
//!
//! The methods have the names of the arguments of `outbox.enqueue()`. What types can express they do (one form of
//! content, and which arguments it takes); everything else the outbox checks, for all languages in one place.

use std::fmt;
use std::marker::PhantomData;
use std::time::{Duration, SystemTime};

use serde::Serialize;

use crate::arguments::Arguments;
use crate::attachment::Attachment;
use crate::content::{Any, Body, Composed, Content, Missing, Payload, Raw, Subject};

/// What to send, to whom, and how; `C` says which [content](crate::content) it has.
///
/// Begin with [`new`](Notification::new), give it one form of content, add what else is needed, in any order:
///
/// ```
/// use hapax_client::{Attachment, Notification, Priority, mailbox};
///
/// # #[derive(serde::Serialize)] struct Order { order_id: i64, total: String }
/// # fn main() -> Result<(), serde_json::Error> {
/// // Rendered by the templates of its kind.
/// let order = Order { order_id: 42, total: "19.90 EUR".into() };
/// let confirmation = Notification::new("order_confirmed", mailbox("Lovelace, Ada", "ada@example.org"))
///     .payload(&order)?
///     .dedup_key("order-42-confirmed")
///     .locale("en");
///
/// // Written by the application.
/// let invoice = Notification::new("invoice", "ada@example.org")
///     .bcc("books@example.net")
///     .subject("Your invoice 42")
///     .body_text("Please find it attached.")
///     .body_html("<p>Please find it attached.</p>")
///     .attachment(Attachment::new("invoice.pdf", b"%PDF-1.7 ...").content_type("application/pdf"));
///
/// // Finished: built by another library.
/// let raw = b"From: Shop <no-reply@shop.example>\r\nTo: ada@example.org\r\nSubject: Hi\r\n\r\nHi!\r\n";
/// let finished = Notification::new("newsletter", "ada@example.org").raw_message(raw).priority(Priority::Bulk);
/// # let _ = (confirmation, invoice, finished);
/// # Ok(())
/// # }
/// ```
///
/// What many notifications share can be set before the content:
///
/// ```
/// use hapax_client::{Notification, content};
///
/// fn shop(kind: &str, customer: &str) -> Notification<content::Missing> {
///     Notification::new(kind, customer).sender("Shop <no-reply@shop.example>").tenant("shop")
/// }
///
/// fn welcome(customer: &str) -> Notification<content::Body> {
///     shop("welcome", customer).subject("Welcome").body_text("Good to have you.")
/// }
/// # welcome("ada@example.org");
/// ```
///
/// These do not compile. No content:
///
/// ```compile_fail,E0277
/// # use hapax_client::{Notification, tokio_postgres as outbox};
/// # async fn example(client: &tokio_postgres::Client) {
/// outbox::enqueue(client, &Notification::new("welcome", "ada@example.org")).await;
/// # }
/// ```
///
/// Two forms of content:
///
/// ```compile_fail,E0599
/// # use hapax_client::Notification;
/// Notification::new("welcome", "ada@example.org").raw_message("Subject: Hi\n\nHi!").body_text("Hi!");
/// ```
///
/// A body without a subject:
///
/// ```compile_fail,E0599
/// # use hapax_client::Notification;
/// Notification::new("welcome", "ada@example.org").body_text("Hi!");
/// ```
///
/// An attachment to a finished message:
///
/// ```compile_fail,E0599
/// # use hapax_client::{Attachment, Notification};
/// let finished = Notification::new("welcome", "ada@example.org").raw_message("Subject: Hi\n\nHi!");
/// finished.attachment(Attachment::new("a.txt", "a"));
/// ```
#[must_use = "a notification does nothing until it is enqueued"]
pub struct Notification<C = Any> {
    arguments: Box<Arguments>,
    content: PhantomData<fn() -> C>,
}

/// In which order what is due is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Priority {
    /// Before all others: somebody waits for it.
    Urgent,
    /// As usual.
    Normal,
    /// When nothing else is due; never starved.
    Bulk,
}

/// What to do when nobody can know whether a delivery was sent: its relay, the network or the mail server died between
/// the last byte and the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum OnDoubt {
    /// Wait for evidence, or for a person: never a second copy, perhaps late.
    Hold,
    /// Send it again: never lost, perhaps twice.
    Resend,
    /// Let it be: never a second copy, perhaps lost.
    AssumeSent,
}

impl Notification<Missing> {
    /// A notification of a kind (it names the template, the policy and the metric label) to one recipient:
    /// `user@example.org` or `Name <user@example.org>`, see [`mailbox`](crate::mailbox).
    pub fn new(kind: impl Into<String>, recipient: impl Into<String>) -> Self {
        let arguments = Arguments { kind: kind.into(), recipients: vec![recipient.into()], ..Arguments::default() };
        Self { arguments: Box::new(arguments), content: PhantomData }
    }

    /// Content for the templates of the kind: whatever serializes to a JSON object.
    ///
    /// # Errors
    /// When it cannot be serialized.
    pub fn payload<T: Serialize + ?Sized>(self, payload: &T) -> Result<Notification<Payload>, serde_json::Error> {
        let payload = serde_json::to_string(payload)?;
        Ok(self.with(|arguments| arguments.payload = Some(payload)).becomes())
    }

    /// Content that the application writes itself: the subject line; a body must follow.
    pub fn subject(self, subject: impl Into<String>) -> Notification<Subject> {
        self.with(|arguments| arguments.subject = Some(subject.into())).becomes()
    }

    /// Content that is finished: a message (RFC 5322) with its header block, which another library has built.
    ///
    /// Hapax adds what is missing (Message-ID, Date) and removes Bcc. Who gets it is said by recipients, cc and bcc, not
    /// by its header.
    pub fn raw_message(self, message: impl Into<Vec<u8>>) -> Notification<Raw> {
        self.with(|arguments| arguments.raw_message = Some(message.into())).becomes()
    }
}

impl Notification<Subject> {
    /// The plain text body.
    pub fn body_text(self, body: impl Into<String>) -> Notification<Body> {
        self.becomes::<Body>().body_text(body)
    }

    /// The HTML body.
    pub fn body_html(self, body: impl Into<String>) -> Notification<Body> {
        self.becomes::<Body>().body_html(body)
    }
}

impl Notification<Body> {
    /// The plain text body, beside the HTML one.
    pub fn body_text(self, body: impl Into<String>) -> Self {
        self.with(|arguments| arguments.body_text = Some(body.into()))
    }

    /// The HTML body, beside the plain text one.
    pub fn body_html(self, body: impl Into<String>) -> Self {
        self.with(|arguments| arguments.body_html = Some(body.into()))
    }
}

/// What only a message that Hapax composes can have: a raw one brings its own.
impl<C: Composed> Notification<C> {
    /// Reply-To, one address.
    pub fn reply_to(self, mailbox: impl Into<String>) -> Self {
        self.with(|arguments| arguments.reply_to = Some(mailbox.into()))
    }

    /// A further header, such as `List-Unsubscribe`. Of two with the same name the last one stays. Those that Hapax
    /// writes itself (From, To, Subject, Message-ID, ...) are refused.
    pub fn header(self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.with(|arguments| _ = arguments.headers.insert(name.into(), value.into()))
    }

    /// One more attachment.
    pub fn attachment(self, attachment: Attachment) -> Self {
        self.with(|arguments| arguments.attachments.push(attachment))
    }
}

impl<C> Notification<C> {
    /// One more recipient; with cc and bcc up to 1,000. Each gets a delivery of its own, a repeated address one.
    pub fn recipient(self, mailbox: impl Into<String>) -> Self {
        self.with(|arguments| arguments.recipients.push(mailbox.into()))
    }

    /// One more who gets a copy.
    pub fn cc(self, mailbox: impl Into<String>) -> Self {
        self.with(|arguments| arguments.cc.push(mailbox.into()))
    }

    /// One more who gets a copy that no header tells of.
    pub fn bcc(self, mailbox: impl Into<String>) -> Self {
        self.with(|arguments| arguments.bcc.push(mailbox.into()))
    }

    /// From, one address; without it the route's own.
    pub fn sender(self, mailbox: impl Into<String>) -> Self {
        self.with(|arguments| arguments.sender = Some(mailbox.into()))
    }

    /// Not sent before this time.
    pub fn not_before(self, time: SystemTime) -> Self {
        self.with(|arguments| arguments.not_before = Some(time))
    }

    /// Not sent after this time: it ends as expired.
    pub fn expires_at(self, time: SystemTime) -> Self {
        self.with(|arguments| arguments.expires_at = Some(time))
    }

    /// Before or behind others; without it the kind's, or normal.
    pub fn priority(self, priority: Priority) -> Self {
        self.with(|arguments| arguments.priority = Some(priority))
    }

    /// Deliveries of one key (and tenant) are sent one after another, in the order of their commits.
    pub fn ordering_key(self, key: impl Into<String>) -> Self {
        self.with(|arguments| arguments.ordering_key = Some(key.into()))
    }

    /// Names the event, for code that may run twice. The same key with the same content gives the first id and enqueues
    /// nothing; with other content it is [`Error::DedupConflict`](crate::Error::DedupConflict).
    pub fn dedup_key(self, key: impl Into<String>) -> Self {
        self.with(|arguments| arguments.dedup_key = Some(key.into()))
    }

    /// How long the dedup key is remembered; without it 30 days.
    pub fn dedup_ttl(self, span: Duration) -> Self {
        self.with(|arguments| arguments.dedup_ttl = Some(span))
    }

    /// What to do when nobody can know whether it was sent; without it the kind's policy.
    pub fn on_doubt(self, on_doubt: OnDoubt) -> Self {
        self.with(|arguments| arguments.on_doubt = Some(on_doubt))
    }

    /// The route to send it by; without it the kind's.
    pub fn route(self, route: impl Into<String>) -> Self {
        self.with(|arguments| arguments.route = Some(route.into()))
    }

    /// Whose notification it is: dedup and ordering keys of different tenants have nothing to do with each other.
    pub fn tenant(self, tenant: impl Into<String>) -> Self {
        self.with(|arguments| arguments.tenant = Some(tenant.into()))
    }

    /// The locale of the template, such as `en` or `pt-BR`.
    pub fn locale(self, locale: impl Into<String>) -> Self {
        self.with(|arguments| arguments.locale = Some(locale.into()))
    }

    /// The W3C trace context that the delivery belongs to: `00-<32 hex>-<16 hex>-<2 hex>`.
    pub fn traceparent(self, traceparent: impl Into<String>) -> Self {
        self.with(|arguments| arguments.traceparent = Some(traceparent.into()))
    }

    /// The W3C trace state; needs a traceparent.
    pub fn tracestate(self, tracestate: impl Into<String>) -> Self {
        self.with(|arguments| arguments.tracestate = Some(tracestate.into()))
    }

    pub(crate) fn arguments(&self) -> &Arguments {
        &self.arguments
    }

    fn with(mut self, change: impl FnOnce(&mut Arguments)) -> Self {
        change(&mut self.arguments);
        self
    }

    fn becomes<D>(self) -> Notification<D> {
        Notification { arguments: self.arguments, content: PhantomData }
    }
}

impl<C: Content> Notification<C> {
    /// The same notification, without its form of content in its type: for lists of different ones.
    pub fn into_any(self) -> Notification<Any> {
        self.becomes()
    }
}

impl<C> Clone for Notification<C> {
    fn clone(&self) -> Self {
        Self { arguments: self.arguments.clone(), content: PhantomData }
    }
}

/// Without addresses, content and keys: it may end up in a log.
impl<C> fmt::Debug for Notification<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Arguments { kind, recipients, cc, bcc, .. } = &*self.arguments;
        f.debug_struct("Notification")
            .field("kind", kind)
            .field("recipients", &(recipients.len() + cc.len() + bcc.len()))
            .finish_non_exhaustive()
    }
}

/// Writes a recipient with a name, which is quoted so that it may hold any character but line breaks.
///
/// ```
/// assert_eq!(hapax_client::mailbox("Lovelace, Ada", "ada@example.org"), r#""Lovelace, Ada" <ada@example.org>"#);
/// assert_eq!(hapax_client::mailbox("", "ada@example.org"), "ada@example.org");
/// ```
#[must_use]
pub fn mailbox(name: &str, address: &str) -> String {
    if name.trim().is_empty() {
        return address.to_owned();
    }
    format!(r#""{}" <{address}>"#, name.replace('\\', r"\\").replace('"', r#"\""#))
}
