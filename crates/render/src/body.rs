//! The MIME tree (RFC 2045, 2046, 2387): `mixed( alternative( text, related( html, inline ... ) ), attachment ... )`,
//! each level only where it has more than one part.
//!
//! Invariants: encoded lines have at most 76 characters; a text comes back as it was, line ends as CRLF; boundaries
//! follow from the message and are the same at every attempt. mail-builder writes the tree; it invents a boundary from
//! the clock where none is given, so every multipart here gets one.

use std::cell::OnceCell;

use base64::{Engine, engine::general_purpose::STANDARD};
use hapax_core::envelope::Attachment;
use mail_builder::{
    headers::{content_type::ContentType, raw::Raw},
    mime::{BodyPart, MimePart},
};
use sha2::{Digest, Sha256};

use crate::{error::Error, wire};

/// What 76 characters of base64 hold.
const BASE64_LINE_INPUT_BYTES: usize = 57;
/// The longest attachment name and content id, in bytes.
const NAME_BYTES_MAX: usize = 500;

/// The body: text and / or HTML, attachments, and the images of the kind.
pub(crate) fn build<'a>(
    id: &'a str,
    text: Option<&'a str>,
    html: Option<&'a str>,
    attachments: &'a [Attachment],
    images: &'a [Attachment],
) -> Result<MimePart<'a>, Error> {
    let boundaries = Boundaries { seed: OnceCell::new(), of: [id, text.unwrap_or_default(), html.unwrap_or_default()] };
    let (mut inline, mut attached) = (Vec::new(), Vec::new());
    for (index, attachment) in attachments.iter().chain(images).enumerate() {
        let is_inline = attachment.content_id.is_some() && html.is_some();
        let part =
            attachment_part(attachment, is_inline).map_err(|what| Error::Attachment { number: index + 1, what })?;
        if is_inline { &mut inline } else { &mut attached }.push(part);
    }
    let html = html.map(|html| match inline.is_empty() {
        true => text_part("text/html", html),
        false => {
            inline.insert(0, text_part("text/html", html));
            boundaries.multipart("related", inline)
        }
    });
    let body = match (text.map(|text| text_part("text/plain", text)), html) {
        (Some(text), Some(html)) => boundaries.multipart("alternative", vec![text, html]),
        (Some(one), None) | (None, Some(one)) => one,
        (None, None) => return Err(Error::NoBody),
    };
    if attached.is_empty() {
        return Ok(body);
    }
    attached.insert(0, body);
    Ok(boundaries.multipart("mixed", attached))
}

/// Boundaries from the hash of the message's id and texts: nobody can write a text that contains one, and `=_` occurs
/// neither in quoted-printable nor in base64.
struct Boundaries<'a> {
    of: [&'a str; 3],
    /// Hashed only where there is something to delimit.
    seed: OnceCell<Sha256>,
}

impl Boundaries<'_> {
    fn seed(&self) -> Sha256 {
        let hashed = self.seed.get_or_init(|| {
            let mut seed = Sha256::new();
            for part in self.of {
                seed.update((part.len() as u64).to_be_bytes());
                seed.update(part);
            }
            seed
        });
        hashed.clone()
    }

    fn multipart<'x>(&self, subtype: &str, parts: Vec<MimePart<'x>>) -> MimePart<'x> {
        const HEX: [char; 16] = ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'a', 'b', 'c', 'd', 'e', 'f'];
        let hash = self.seed().chain_update(subtype).finalize();
        let mut boundary = String::with_capacity(34);
        boundary.push_str("=_");
        for byte in hash.iter().take(16) {
            boundary.push(HEX[usize::from(byte >> 4)]);
            boundary.push(HEX[usize::from(byte & 15)]);
        }
        let mut content_type = ContentType::new(format!("multipart/{subtype}")).attribute("boundary", boundary);
        if subtype == "related" {
            content_type = content_type.attribute("type", "text/html");
        }
        MimePart::new(content_type, BodyPart::Multipart(parts))
    }
}

/// A text: as it is where that is safe, else quoted-printable or base64, whichever is shorter (mail-builder chooses).
/// It would send control characters as they are; those need base64.
fn text_part<'a>(media_type: &'static str, text: &'a str) -> MimePart<'a> {
    let content_type = ContentType::new(media_type).attribute("charset", "utf-8");
    let text = wire::crlf_text(text);
    // Without a branch for each byte, so that the compiler looks at many at once.
    let is_odd = |byte: &u8| (*byte < b' ' && !matches!(*byte, b'\t' | b'\r' | b'\n')) || *byte == 0x7f;
    if text.as_bytes().iter().fold(false, |odd, byte| odd | is_odd(byte)) {
        return MimePart::new(content_type, base64_lines(text.as_bytes())).transfer_encoding("base64");
    }
    MimePart::new(content_type, BodyPart::Text(text))
}

/// An attachment is opaque: always base64, whatever its type.
fn attachment_part(attachment: &Attachment, is_inline: bool) -> Result<MimePart<'static>, &'static str> {
    let name = attachment.filename.trim();
    if name.chars().any(char::is_control) {
        return Err("has a control character in its filename");
    }
    if name.len() > NAME_BYTES_MAX {
        return Err("has a filename of more than 500 bytes");
    }
    let mut disposition = ContentType::new(if is_inline { "inline" } else { "attachment" });
    if !name.is_empty() {
        disposition = disposition.attribute("filename", name.to_owned());
    }
    let mut part = MimePart::new(media_type(&attachment.content_type)?, base64_lines(&attachment.content))
        .transfer_encoding("base64")
        .header("Content-Disposition", disposition);
    if let Some(id) = &attachment.content_id {
        part = part.header("Content-ID", Raw::new(format!("<{}>", content_id(id)?)));
    }
    Ok(part)
}

fn content_id(id: &str) -> Result<&str, &'static str> {
    let id = id.trim();
    let id = id.strip_prefix('<').and_then(|id| id.strip_suffix('>')).unwrap_or(id);
    let fits = !id.is_empty() && id.len() <= NAME_BYTES_MAX;
    match fits && id.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'<' | b'>')) {
        true => Ok(id),
        false => Err("has a content id that is not 1 to 500 printable ASCII characters without spaces and <>"),
    }
}

/// `type/subtype; key=value ...`, checked (RFC 2045 section 5.1).
fn media_type(text: &str) -> Result<ContentType<'static>, &'static str> {
    const SHAPE: &str = "has a content type that is not type/subtype; key=value";
    let mut pieces = text.split(';').map(str::trim);
    let name = pieces.next().unwrap_or_default().to_ascii_lowercase();
    let (kind, subtype) = name.split_once('/').ok_or(SHAPE)?;
    if !is_token(kind) || !is_token(subtype) {
        return Err(SHAPE);
    }
    match kind {
        "multipart" => return Err("has a multipart content type, which would need its parts"),
        // RFC 2046 section 5.2 forbids to encode a message; readers know an .eml file by its name.
        "message" => return Ok(ContentType::new("application/octet-stream")),
        _ => {}
    }
    let mut content_type = ContentType::new(name.clone());
    for piece in pieces.filter(|piece| !piece.is_empty()) {
        let (key, value) = piece.split_once('=').ok_or(SHAPE)?;
        let value = value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap_or(value);
        let plain = |byte: u8| (b' '..=b'~').contains(&byte) && !matches!(byte, b'"' | b'\\');
        if !is_token(key) || value.len() > NAME_BYTES_MAX || !value.bytes().all(plain) {
            return Err(SHAPE);
        }
        content_type = content_type.attribute(key.to_ascii_lowercase(), value.to_owned());
    }
    Ok(content_type)
}

/// A token of RFC 2045 of a sane length.
fn is_token(text: &str) -> bool {
    let special = |byte: u8| b"()<>@,;:\\\"/[]?=".contains(&byte);
    (1..=127).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic() && !special(byte))
}

fn base64_lines(content: &[u8]) -> BodyPart<'static> {
    let mut out = String::with_capacity(content.len() / 57 * 78 + 80);
    for line in content.chunks(BASE64_LINE_INPUT_BYTES) {
        if !out.is_empty() {
            out.push_str("\r\n");
        }
        STANDARD.encode_string(line, &mut out);
    }
    BodyPart::Binary(out.into_bytes().into())
}
