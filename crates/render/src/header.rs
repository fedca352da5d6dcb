//! Header fields: which a notification may bring, and how their values are written.
//!
//! Invariant: nothing here lets a value end its field. Control characters are refused before anything is written,
//! whatever the INSERT has checked; mail-builder then encodes (RFC 2047) and folds (RFC 5322 section 2.2.3).

use base64::{Engine, engine::general_purpose::STANDARD};
use hapax_core::Recipient;
use mail_builder::headers::{
    HeaderType,
    address::{Address, EmailAddress},
    raw::Raw,
    text::Text,
};

use crate::{
    encoded,
    error::{Error, quoted},
};

/// Names only Hapax writes, in lower case.
const RESERVED: [&str; 15] = [
    "from",
    "to",
    "cc",
    "bcc",
    "resent-bcc",
    "date",
    "message-id",
    "subject",
    "sender",
    "mime-version",
    "content-type",
    "content-transfer-encoding",
    "return-path",
    "received",
    "dkim-signature",
];

/// Names that may occur once (RFC 5322 section 3.6, RFC 3834 section 5).
const SINGLE: [&str; 4] = ["reply-to", "in-reply-to", "references", "auto-submitted"];

/// The longest name; with it even the first line of a field has room for a value.
const NAME_BYTES_MAX: usize = 76;
/// The longest piece without a space: it cannot be folded, and shares its line with the name at worst.
const WORD_BYTES_MAX: usize = 900;
/// What of a subject fits on its first line for sure: the longest word, or whole, that is sent as it is.
const SUBJECT_WORD_BYTES_MAX: usize = 60;
/// How much of a text one encoded word of ours holds.
const ENCODED_WORD_TEXT_BYTES: usize = 30;

/// The notification's own fields, checked, in their order, ready to write.
pub(crate) fn own(headers: &[(String, String)], has_reply_to: bool) -> Result<Vec<(&str, HeaderType<'_>)>, Error> {
    let mut seen: Vec<String> = Vec::new();
    if has_reply_to {
        seen.push("reply-to".to_owned());
    }
    let mut fields = Vec::with_capacity(headers.len());
    for (name, value) in headers {
        let refuse = |what| Error::Header { name: quoted(name), what };
        let lower = name.to_ascii_lowercase();
        if !is_name(name) {
            return Err(refuse("is not a header name: 1 to 76 printable ASCII characters without space and colon"));
        }
        if RESERVED.contains(&lower.as_str()) {
            return Err(refuse("is reserved: it follows from the notification's other arguments"));
        }
        if SINGLE.contains(&lower.as_str()) {
            if seen.contains(&lower) {
                return Err(refuse("is given twice"));
            }
            seen.push(lower);
        }
        fields.push((name.as_str(), field_value(value.trim()).map_err(refuse)?));
    }
    Ok(fields)
}

/// A field name of a sane length.
pub(crate) fn is_name(name: &str) -> bool {
    (1..=NAME_BYTES_MAX).contains(&name.len()) && name.bytes().all(is_name_byte)
}

/// Whether a name, in lower case, is one that Hapax writes or that may occur once.
pub(crate) fn has_a_meaning(lower: &str) -> bool {
    RESERVED.contains(&lower) || SINGLE.contains(&lower)
}

/// The bytes of a field name (RFC 5322 section 2.2): printable ASCII without colon.
pub(crate) fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_graphic() && byte != b':'
}

/// ASCII is written as it is, since it may be structured (List-Unsubscribe, References, an encoded word already);
/// other text as encoded words.
fn field_value(value: &str) -> Result<HeaderType<'_>, &'static str> {
    if value.chars().any(|c| c.is_control() && c != '\t') {
        return Err("has a control character or a line break in its value");
    }
    if !value.is_ascii() {
        return Ok(Text::new(value.replace('\t', " ")).into());
    }
    if encoded::hides_controls(value) {
        return Err("has an encoded word (RFC 2047) that a reader would decode to a line break or a control character");
    }
    if longest_run(value) > WORD_BYTES_MAX {
        return Err("has a word or a gap of more than 900 characters, too long for a line");
    }
    Ok(Raw::new(value).into())
}

/// A subject: trimmed, one line. Plain ASCII stays readable and is folded at its spaces. The rest is encoded, and so is
/// text that a reader would take for an encoded word, or that would not survive folding (readers collapse gaps there).
pub(crate) fn subject(subject: &str) -> Result<HeaderType<'static>, Error> {
    let subject = subject.trim();
    if subject.contains(['\r', '\n']) {
        return Err(Error::Subject("has a line break"));
    }
    if subject.chars().any(|c| c.is_control() && c != '\t') {
        return Err(Error::Subject("has a control character"));
    }
    let subject = subject.replace('\t', " ");
    if !subject.is_ascii() {
        return Ok(Text::new(subject).into());
    }
    let foldable = !subject.contains("  ") && longest_run(&subject) <= SUBJECT_WORD_BYTES_MAX;
    let plain = (foldable || subject.len() <= SUBJECT_WORD_BYTES_MAX) && !subject.contains("=?");
    Ok(Raw::new(if plain { subject } else { encoded_words(&subject) }).into())
}

/// RFC 2047 "B" words, short enough that each fits on a line of its own with the field's name; no letter is cut in two.
fn encoded_words(text: &str) -> String {
    let (mut words, mut rest) = (Vec::new(), text);
    while !rest.is_empty() {
        let (word, behind) = rest.split_at(rest.floor_char_boundary(ENCODED_WORD_TEXT_BYTES));
        words.push(format!("=?utf-8?B?{}?=", STANDARD.encode(word)));
        rest = behind;
    }
    words.join(" ")
}

/// The longest run of spaces or of anything else: what folding cannot break.
fn longest_run(text: &str) -> usize {
    let is_space = |byte: &u8| matches!(byte, b' ' | b'\t');
    text.as_bytes().chunk_by(|a, b| is_space(a) == is_space(b)).map(<[u8]>::len).max().unwrap_or(0)
}

/// One mailbox, or several: names quoted or encoded, UTF-8 local parts as they are (RFC 6532), domains in ASCII.
///
/// A name with the beginning of an encoded word is encoded itself: readers decode such words even where RFC 2047 section
/// 5 forbids it, in quoted strings, and some stumble over the line break that one may hold.
pub(crate) fn mailbox(recipient: &Recipient) -> HeaderType<'static> {
    list(std::slice::from_ref(recipient))
}

fn list(recipients: &[Recipient]) -> HeaderType<'static> {
    if recipients.iter().filter_map(Recipient::name).any(|name| name.contains("=?")) {
        let written = recipients.iter().map(|recipient| match recipient.name() {
            Some(name) => format!("{} <{}>", encoded_words(name), recipient.address()),
            None => format!("<{}>", recipient.address()),
        });
        return Raw::new(written.collect::<Vec<_>>().join(", ")).into();
    }
    let addresses = recipients.iter().map(|recipient| {
        let name = recipient.name().map(|name| name.to_owned().into());
        Address::Address(EmailAddress { name, email: recipient.address().into() })
    });
    let mut addresses: Vec<_> = addresses.collect();
    match addresses.len() {
        1 => addresses.remove(0).into(),
        _ => Address::new_list(addresses).into(),
    }
}

/// Parses a mailbox argument.
pub(crate) fn parse(field: impl FnOnce() -> String, text: &str) -> Result<Recipient, Error> {
    Recipient::parse(text).map_err(|why| Error::Address { field: field(), why })
}

/// A list of mailboxes.
pub(crate) fn mailboxes(field: &str, texts: &[String]) -> Result<HeaderType<'static>, Error> {
    let parsed = texts.iter().enumerate().map(|(index, text)| parse(|| format!("{field}[{}]", index + 1), text));
    Ok(list(&parsed.collect::<Result<Vec<_>, _>>()?))
}
