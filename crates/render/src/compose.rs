//! A message from its parts: the header fields in their order, then the MIME tree.
//!
//! Invariants: Bcc is never a field; Message-ID and Date come from the notification, never from a clock; every field
//! that mail-builder would invent if it were missing is given.

use hapax_core::{Recipient, envelope::Notification, mutant};
use mail_builder::{
    MessageBuilder,
    headers::{HeaderType, date::Date, raw::Raw},
};

use crate::{body, error::Error, header, templates::Texts};

/// 9999-12-31T23:59:59Z, the last second whose year has four digits.
const DATE_SECONDS_MAX: i64 = 253_402_300_799;

/// What the message says of itself.
pub(crate) struct Identity {
    /// Who sends: From.
    pub(crate) sender: Recipient,
    /// With its angle brackets.
    pub(crate) message_id: String,
    /// RFC 5322 section 3.3, in UTC.
    pub(crate) date: String,
}

impl Identity {
    pub(crate) fn new(notification: &Notification, sender: Recipient, host: Option<&str>) -> Result<Self, Error> {
        let domain = match host {
            Some(host) => Recipient::parse(&format!("x@{host}")).map_err(|_| Error::Hostname)?.domain().to_owned(),
            None => sender.domain().to_owned(),
        };
        let seconds = notification.created_at_us.div_euclid(1_000_000).clamp(0, DATE_SECONDS_MAX);
        let message_id = if mutant::is("message_id_fresh") {
            format!("<{}@{domain}>", hapax_core::Token::fresh())
        } else {
            format!("<{}@{domain}>", notification.id)
        };
        Ok(Self { sender, message_id, date: Date::new(seconds).to_rfc822() })
    }
}

/// The bytes of a composed message.
pub(crate) fn compose(
    notification: &Notification,
    identity: &Identity,
    texts: &Texts<'_>,
) -> Result<(Vec<u8>, Vec<body::Hole>), Error> {
    let reply_to = match &notification.reply_to {
        Some(text) => Some(header::parse(|| "reply_to".to_owned(), text)?),
        None => None,
    };
    let mut own = header::own(&notification.headers, reply_to.is_some())?;
    // Nothing of it is there twice: a kind adds what the notification does not bring.
    own.extend(header::own(&texts.headers, reply_to.is_some())?);
    let id = notification.id.to_string();
    let part =
        body::build(&id, texts.text.as_deref(), texts.html.as_deref(), &notification.attachments, &texts.images)?;

    let mut message = MessageBuilder::new().header("From", header::mailbox(&identity.sender));
    if let Some(reply_to) = &reply_to {
        message = message.header("Reply-To", header::mailbox(reply_to));
    }
    for (name, value) in destinations(notification)? {
        message = message.header(name, value);
    }
    message = message
        .header("Subject", header::subject(&texts.subject)?)
        .header("Date", Raw::new(identity.date.as_str()))
        .header("Message-ID", Raw::new(identity.message_id.as_str()))
        .header("MIME-Version", Raw::new("1.0"));
    if !own.iter().any(|(name, _)| name.eq_ignore_ascii_case("auto-submitted")) {
        message = message.header("Auto-Submitted", Raw::new("auto-generated"));
    }
    // What the notification itself says of it wins: both fields belong together.
    if !own.iter().any(|(name, _)| name.to_ascii_lowercase().starts_with("list-unsubscribe")) {
        for (name, value) in &texts.fields {
            message = message.header(*name, Raw::new(value.as_str()));
        }
    }
    for (name, value) in own {
        message = message.header(name, value);
    }
    let mut bytes = Vec::with_capacity(size_guess(notification, texts));
    message.body(part).serialize(&mut bytes);
    if !bytes.ends_with(b"\r\n") {
        bytes.extend_from_slice(b"\r\n");
    }
    let holes =
        body::cut_holes(&mut bytes, &id, texts.text.as_deref(), texts.html.as_deref(), &notification.attachments);
    Ok((bytes, holes))
}

/// About how large the message will be, so that its buffer need not grow: quoted-printable or base64 for some of the
/// text, base64 for attachments, fields and boundaries.
fn size_guess(notification: &Notification, texts: &Texts<'_>) -> usize {
    let text = [&texts.text, &texts.html].into_iter().flatten().map(|text| text.len()).sum::<usize>();
    let attached = notification
        .attachments
        .iter()
        .chain(&texts.images)
        .map(|attachment| attachment.content.len_here() + 512)
        .sum::<usize>();
    1_024 + text + text / 8 + attached + attached / 2
}

/// To and Cc; a message only to hidden recipients says so (RFC 5322 appendix A.1.3).
fn destinations(notification: &Notification) -> Result<Vec<(&'static str, HeaderType<'static>)>, Error> {
    let mut fields = Vec::new();
    for (name, field, texts) in [("To", "recipients", &notification.recipients), ("Cc", "cc", &notification.cc)] {
        if !texts.is_empty() {
            fields.push((name, header::mailboxes(field, texts)?));
        }
    }
    if fields.is_empty() {
        fields.push(("To", Raw::new("undisclosed-recipients:;").into()));
    }
    Ok(fields)
}
