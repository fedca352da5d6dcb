//! The MIME tree (RFC 2045, 2046, 2387): `mixed( alternative( text, related( html, inline ... ) ), attachment ... )`,
//! each level only where it has more than one part.
//!
//! Invariants: encoded lines have at most 76 characters; a text comes back as it was, line ends as CRLF; boundaries
//! follow from the message and are the same at every attempt. mail-builder writes the tree; it invents a boundary from
//! the clock where none is given, so every multipart here gets one.

use std::cell::OnceCell;

use base64::{Engine, engine::general_purpose::STANDARD};
use hapax_core::envelope::{Attachment, AttachmentContent};
use mail_builder::{
    headers::{HeaderType, content_type::ContentType, raw::Raw},
    mime::{BodyPart, MimePart},
};
use sha2::{Digest, Sha256};

use crate::{error::Error, media, wire};

/// A place in a rendered message where the base64 lines of an attachment belong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hole {
    /// Where, in bytes.
    pub at: usize,
    /// Whose: an index into the notification's attachments.
    pub attachment: usize,
    word_bytes: usize,
}

/// What 76 characters of base64 hold.
const BASE64_LINE_INPUT_BYTES: usize = 57;
/// How many bytes of a name stand in one section of RFC 2231.
const FILENAME_SECTION_BYTES: usize = 18;
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
        let content = match &attachment.content {
            AttachmentContent::Bytes(bytes) => base64_lines(bytes),
            _ => BodyPart::Binary(boundaries.hole(index).into_bytes().into()),
        };
        let part = attachment_part(attachment, content, is_inline)
            .map_err(|what| Error::Attachment { number: index + 1, what })?;
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

/// Where in the message the contents belong that are not here, in their order. What [`build`] has put there goes.
pub(crate) fn cut_holes(
    message: &mut Vec<u8>,
    id: &str,
    text: Option<&str>,
    html: Option<&str>,
    attachments: &[Attachment],
) -> Vec<Hole> {
    let boundaries = Boundaries { seed: OnceCell::new(), of: [id, text.unwrap_or_default(), html.unwrap_or_default()] };
    let is_elsewhere = |attachment: &Attachment| !matches!(attachment.content, AttachmentContent::Bytes(_));
    let mut holes: Vec<Hole> = Vec::new();
    for (index, _) in attachments.iter().enumerate().filter(|(_, attachment)| is_elsewhere(attachment)) {
        let word = boundaries.hole(index);
        let at = memchr::memmem::find(message, word.as_bytes());
        holes.extend(at.map(|at| Hole { at, attachment: index, word_bytes: word.len() }));
    }
    // Inline ones stand before the others.
    holes.sort_by_key(|hole| hole.at);
    let mut cut = 0;
    for hole in &mut holes {
        hole.at -= cut;
        message.drain(hole.at..hole.at + hole.word_bytes);
        cut += hole.word_bytes;
    }
    holes
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

    /// A word that nothing else in the message holds.
    fn word(&self, purpose: &str) -> String {
        const HEX: [char; 16] = ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'a', 'b', 'c', 'd', 'e', 'f'];
        let hash = self.seed().chain_update(purpose).finalize();
        let mut word = String::with_capacity(34);
        word.push_str("=_");
        for byte in hash.iter().take(16) {
            word.push(HEX[usize::from(byte >> 4)]);
            word.push(HEX[usize::from(byte & 15)]);
        }
        word
    }

    /// Stands where the content of an attachment belongs that is not here.
    fn hole(&self, index: usize) -> String {
        self.word(&format!("hole {index}"))
    }

    fn multipart<'x>(&self, subtype: &str, parts: Vec<MimePart<'x>>) -> MimePart<'x> {
        let boundary = self.word(subtype);
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
fn attachment_part(
    attachment: &Attachment,
    content: BodyPart<'static>,
    is_inline: bool,
) -> Result<MimePart<'static>, &'static str> {
    let name = attachment.filename.trim();
    if name.chars().any(char::is_control) {
        return Err("has a control character in its filename");
    }
    if name.len() > NAME_BYTES_MAX {
        return Err("has a filename of more than 500 bytes");
    }
    let disposition = disposition(if is_inline { "inline" } else { "attachment" }, name);
    let mut part = MimePart::new(media::of(&attachment.content_type, name)?, content)
        .transfer_encoding("base64")
        .header("Content-Disposition", disposition);
    if let Some(id) = &attachment.content_id {
        part = part.header("Content-ID", Raw::new(format!("<{}>", content_id(id)?)));
    }
    Ok(part)
}

/// `Content-Disposition` with a file's name. A name with the beginning of an encoded word is written in the form of
/// RFC 2231: readers decode such words in quoted strings, too, though RFC 2047 section 5 forbids it, and would show
/// another name. So is one with a quotation mark or a backslash: some readers lose the escape of one where the field is
/// folded, and take what follows for parameters.
fn disposition(kind: &'static str, name: &str) -> HeaderType<'static> {
    if name.contains("=?") || name.contains(['"', '\\']) {
        let (mut field, mut rest, mut number) = (format!("{kind};"), name, 0);
        while !rest.is_empty() {
            // No letter is cut in two: some readers decode each section for itself.
            let (section, behind) = rest.split_at(rest.floor_char_boundary(FILENAME_SECTION_BYTES));
            let charset = if number == 0 { "utf-8''" } else { "" };
            let coded: String = section.bytes().map(percent_coded).collect();
            let end = if behind.is_empty() { "" } else { ";" };
            field.push_str(&format!(" filename*{number}*={charset}{coded}{end}"));
            (rest, number) = (behind, number + 1);
        }
        return Raw::new(field).into();
    }
    let disposition = ContentType::new(kind);
    match name.is_empty() {
        true => disposition.into(),
        false => disposition.attribute("filename", name.to_owned()).into(),
    }
}

fn percent_coded(byte: u8) -> String {
    if byte.is_ascii_alphanumeric() { char::from(byte).to_string() } else { format!("%{byte:02X}") }
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
