//! A finished message (`raw_message`), sent as it is apart from: line ends become CRLF; Bcc fields go; From, Date,
//! Message-ID, Auto-Submitted and the notification's own headers are added where they are missing.
//!
//! Invariant: what is not named above keeps its bytes, 8-bit ones included, so a signature of the application's stays
//! valid. What is not a message is refused, never repaired.

use hapax_core::envelope::Notification;
use mail_builder::headers::{Header, HeaderType, raw::Raw};

use crate::{compose::Identity, error::Error, header, wire};

/// The fields of which there must be exactly one (RFC 5322 section 3.6). Mail servers refuse or rewrite a message that has
/// two, readers show any of them, and a reply or a search finds the other.
const SINGLE: [(&str, &str); 3] = [
    ("from", "a second From field (RFC 5322 allows one)"),
    ("date", "a second Date field (RFC 5322 allows one)"),
    ("message-id", "a second Message-ID field (RFC 5322 allows one)"),
];

/// One field with its continuation lines, as a piece of the message.
pub(crate) struct Field<'a> {
    /// In lower case.
    pub(crate) name: String,
    pub(crate) value: &'a [u8],
    pub(crate) whole: &'a [u8],
    /// Of the message, from 1.
    line: usize,
}

/// The bytes to send, and the Message-ID they carry.
pub(crate) fn finish(raw: &[u8], notification: &Notification, identity: &Identity) -> Result<(Vec<u8>, String), Error> {
    if !notification.attachments.is_empty() {
        return Err(Error::Attachment { number: 1, what: "cannot be added to a raw message" });
    }
    let own = header::own(&notification.headers, false)?;
    let mut message = wire::crlf(raw);
    if !message.ends_with(b"\r\n") {
        message.to_mut().extend_from_slice(b"\r\n");
    }
    if let Some((what, line)) = wire::first_fault(&message) {
        return Err(Error::Raw { what, line });
    }
    let (fields, body) = split(&message)?;
    // Behind a bare CR the INSERT does not see one.
    if let Some(field) = fields.iter().find(|field| field.name.starts_with("x-hapax-")) {
        let what = "an X-Hapax- header, which would be sent to the recipient,";
        return Err(Error::Raw { what, line: field.line });
    }
    for (name, what) in SINGLE {
        if let Some(second) = fields.iter().filter(|field| field.name == name).nth(1) {
            return Err(Error::Raw { what, line: second.line });
        }
    }
    let given_id = fields.iter().find(|field| field.name == "message-id").map(|field| unfolded(field.value));
    let given_id = given_id.filter(|id| !id.is_empty());

    let mut out = Vec::with_capacity(message.len() + 512);
    for field in &fields {
        let goes = match field.name.as_str() {
            "bcc" | "resent-bcc" => true,
            "message-id" => given_id.is_none(),
            _ => false,
        };
        if !goes {
            out.extend_from_slice(field.whole);
        }
    }
    let missing = |name: &str| !fields.iter().any(|field| field.name == name);
    let mut add = |name: &str, value: HeaderType<'_>| {
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(b": ");
        value.write_header(&mut out, name.len() + 2);
    };
    if missing("from") {
        add("From", header::mailbox(&identity.sender));
    }
    if missing("date") {
        add("Date", Raw::new(identity.date.as_str()).into());
    }
    if given_id.is_none() {
        add("Message-ID", Raw::new(identity.message_id.as_str()).into());
    }
    let mut auto_submitted = !missing("auto-submitted");
    for (name, value) in own.into_iter().filter(|(name, _)| missing(&name.to_ascii_lowercase())) {
        auto_submitted |= name.eq_ignore_ascii_case("auto-submitted");
        add(name, value);
    }
    if !auto_submitted {
        add("Auto-Submitted", Raw::new("auto-generated").into());
    }
    out.extend_from_slice(b"\r\n");
    out.extend_from_slice(body);
    Ok((out, given_id.unwrap_or_else(|| identity.message_id.clone())))
}

/// The header fields, and the body after the empty line. The message has only CRLF line ends and ends with one.
pub(crate) fn split(message: &[u8]) -> Result<(Vec<Field<'_>>, &[u8]), Error> {
    let mut fields: Vec<(usize, usize, usize)> = Vec::new();
    let (mut start, mut line_no) = (0, 0);
    let mut body: &[u8] = b"";
    while start < message.len() {
        line_no += 1;
        let rest = &message[start..];
        let end = start + memchr::memchr(b'\n', rest).map_or(rest.len(), |at| at + 1);
        let refuse = |what| Error::Raw { what, line: line_no };
        match message[start] {
            b'\r' => {
                body = &message[end..];
                break;
            }
            b' ' | b'\t' => match fields.last_mut() {
                Some(field) => field.1 = end,
                None => return Err(refuse("a continuation line before any header")),
            },
            _ if colon(&message[start..end]).is_none() => return Err(refuse("not a header (`Name: value`)")),
            _ => fields.push((start, end, line_no)),
        }
        start = end;
    }
    if fields.is_empty() {
        return Err(Error::Raw { what: "no header", line: 1 });
    }
    Ok((fields.into_iter().map(|(start, end, line)| field(&message[start..end], line)).collect(), body))
}

/// Where the name of a field ends: a colon after a name, with the spaces that RFC 5322 section 4.5 once allowed.
fn colon(line: &[u8]) -> Option<usize> {
    let at = line.iter().position(|&byte| byte == b':')?;
    let name = line[..at].trim_ascii_end();
    (!name.is_empty() && name.iter().all(|&byte| header::is_name_byte(byte))).then_some(at)
}

fn field(whole: &[u8], line: usize) -> Field<'_> {
    let at = colon(whole).unwrap_or(0);
    let name = String::from_utf8_lossy(whole[..at].trim_ascii_end()).to_ascii_lowercase();
    Field { name, value: &whole[at + 1..], whole, line }
}

/// The value without its line ends and outer spaces.
pub(crate) fn unfolded(value: &[u8]) -> String {
    String::from_utf8_lossy(value).replace("\r\n", "").trim().to_owned()
}
