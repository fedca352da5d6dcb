//! A rendered message as the page shows it: taken apart by an independent parser, not by what the renderer meant.

use std::borrow::Cow;

use mail_parser::{Message, MessageParser, MessagePart, MimeHeaders, PartType, parsers::MessageStream};
use serde::Serialize;

use super::{
    advice::{Advice, advice},
    display::has_dark_rules,
    markup::pieces,
    remote::{Remote, remote},
};

/// The longest source the page is given.
const SOURCE_BYTES_MAX: usize = 256 * 1024;

/// One message, for the page.
#[derive(Clone, Debug, Serialize)]
pub(super) struct View {
    pub(super) subject: String,
    /// Whether there is anything for a frame.
    pub(super) has_html: bool,
    pub(super) text: Option<String>,
    pub(super) source: String,
    pub(super) source_is_cut: bool,
    pub(super) headers: Vec<Field>,
    pub(super) attachments: Vec<Attached>,
    pub(super) html_bytes: usize,
    pub(super) text_bytes: usize,
    pub(super) message_bytes: usize,
    /// What would be loaded from elsewhere.
    pub(super) blocked: Vec<Remote>,
    pub(super) advice: Vec<Advice>,
    /// Whether it says how it wants to look in a dark reader.
    pub(super) has_dark_rules: bool,
}

/// A header field, decoded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Field {
    pub(super) name: String,
    pub(super) value: String,
}

/// A part that is neither text nor HTML.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Attached {
    pub(super) name: String,
    pub(super) media_type: String,
    pub(super) bytes: usize,
    pub(super) inline: bool,
}

/// What is served to the frame.
#[derive(Clone, Debug, Default)]
pub(super) struct Shown {
    /// The body as it is in the message.
    pub(super) html: String,
    /// Content-IDs, in the order of `parts`.
    pub(super) cids: Vec<String>,
    /// Images: their media type and bytes.
    pub(super) parts: Vec<(String, Vec<u8>)>,
}

/// Takes a message apart.
pub(super) fn take_apart(bytes: &[u8]) -> (View, Shown) {
    let message = MessageParser::default().parse(bytes).unwrap_or_default();
    let html = body(&message, |part| if let PartType::Html(html) = part { Some(html.clone()) } else { None });
    let text = body(&message, |part| if let PartType::Text(text) = part { Some(text.clone()) } else { None });
    let html = html.map(|html| html.replace("\r\n", "\n"));
    let text = text.map(|text| text.replace("\r\n", "\n"));
    let cut = bytes.len().min(SOURCE_BYTES_MAX);
    let view = View {
        subject: message.subject().unwrap_or_default().to_owned(),
        has_html: html.is_some(),
        source: String::from_utf8_lossy(&bytes[..cut]).replace("\r\n", "\n"),
        source_is_cut: cut < bytes.len(),
        headers: fields(&message, bytes),
        attachments: attachments(&message).map(|part| attached(part)).collect(),
        html_bytes: html.as_ref().map_or(0, String::len),
        text_bytes: text.as_ref().map_or(0, String::len),
        message_bytes: bytes.len(),
        blocked: html.as_ref().map_or_else(Vec::new, |html| remote(&pieces(html))),
        advice: html.as_ref().map_or_else(Vec::new, |html| advice(html)),
        has_dark_rules: html.as_ref().is_some_and(|html| has_dark_rules(html)),
        text,
    };
    (view, shown(&message, html.unwrap_or_default()))
}

/// The first part of the body that is what `pick` picks.
fn body<'m>(message: &'m Message<'_>, pick: impl Fn(&'m PartType<'m>) -> Option<Cow<'m, str>>) -> Option<Cow<'m, str>> {
    let attached = &message.attachments;
    let parts = message.parts.iter().enumerate();
    let mut bodies = parts.filter(|(number, _)| u32::try_from(*number).is_ok_and(|number| !attached.contains(&number)));
    bodies.find_map(|(_, part)| pick(&part.body))
}

fn attachments<'m>(message: &'m Message<'_>) -> impl Iterator<Item = &'m MessagePart<'m>> {
    message.parts.iter().filter(|part| {
        matches!(part.body, PartType::Binary(_) | PartType::InlineBinary(_) | PartType::Message(_))
            || part.content_disposition().is_some_and(|disposition| disposition.is_attachment())
    })
}

fn media_type(part: &MessagePart<'_>) -> String {
    let found = part.content_type();
    found.map_or_else(
        || "application/octet-stream".to_owned(),
        |found| format!("{}/{}", found.ctype(), found.subtype().unwrap_or("octet-stream")).to_ascii_lowercase(),
    )
}

fn attached(part: &MessagePart<'_>) -> Attached {
    Attached {
        name: part.attachment_name().or_else(|| part.content_id()).unwrap_or("(no name)").to_owned(),
        media_type: media_type(part),
        bytes: part.contents().len(),
        inline: part.content_id().is_some(),
    }
}

/// Only images go to a frame, and only as what they say they are.
fn shown(message: &Message<'_>, html: String) -> Shown {
    let mut shown = Shown { html, ..Shown::default() };
    for part in attachments(message) {
        let (Some(cid), media_type) = (part.content_id(), media_type(part)) else { continue };
        if media_type.starts_with("image/") {
            shown.cids.push(cid.trim_matches(['<', '>']).to_owned());
            shown.parts.push((media_type, part.contents().to_vec()));
        }
    }
    shown
}

fn fields(message: &Message<'_>, bytes: &[u8]) -> Vec<Field> {
    let at = |offset: u32| usize::try_from(offset).unwrap_or(usize::MAX);
    message
        .headers()
        .iter()
        .map(|header| {
            let (name_at, start, end) = (at(header.offset_field()), at(header.offset_start()), at(header.offset_end()));
            let name = bytes.get(name_at..start.saturating_sub(1)).unwrap_or_default();
            let raw = bytes.get(start..end).unwrap_or_default();
            Field { name: String::from_utf8_lossy(name).trim().to_owned(), value: decoded(raw) }
        })
        .collect()
}

/// Unfolded, with its encoded words (RFC 2047) decoded.
fn decoded(raw: &[u8]) -> String {
    let mut lines = raw.to_vec();
    if !lines.ends_with(b"\n") {
        lines.extend_from_slice(b"\r\n");
    }
    let value = MessageStream::new(&lines).parse_unstructured();
    value.as_text().map_or_else(|| String::from_utf8_lossy(raw).trim().to_owned(), |text| text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAIL: &str = "Subject: =?utf-8?q?Gr=C3=BC=C3=9Fe?=\r\n =?utf-8?q?_an_alle?=\r\n\
        X-Long: one\r\n two\r\nMIME-Version: 1.0\r\nContent-Type: multipart/related; boundary=a\r\n\r\n\
        --a\r\nContent-Type: multipart/alternative; boundary=b\r\n\r\n\
        --b\r\nContent-Type: text/plain; charset=utf-8\r\n\r\nHello\r\n\
        --b\r\nContent-Type: text/html; charset=utf-8\r\n\r\n<img src=\"cid:logo\"><img src=\"https://x/y.png\">\r\n--b--\r\n\
        --a\r\nContent-Type: image/png; name=logo.png\r\nContent-ID: <logo>\r\nContent-Transfer-Encoding: base64\r\n\
        Content-Disposition: inline\r\n\r\niVBORw==\r\n\
        --a\r\nContent-Type: text/html\r\nContent-ID: <page>\r\nContent-Disposition: attachment; filename=page.html\r\n\r\n\
        <p>no image</p>\r\n--a--\r\n";

    #[test]
    fn a_message_is_taken_apart_and_decoded() {
        let (view, shown) = take_apart(MAIL.as_bytes());
        assert_eq!((view.subject.as_str(), view.text.as_deref().map(str::trim)), ("Grüße an alle", Some("Hello")));
        assert!(shown.html.starts_with("<img src=\"cid:logo\">"), "{}", shown.html);
        let field = |name: &str, value: &str| Field { name: name.to_owned(), value: value.to_owned() };
        assert_eq!(view.headers[..2], [field("Subject", "Grüße an alle"), field("X-Long", "one two")]);
        assert_eq!(view.blocked.len(), 1);
        let names: Vec<&str> = view.attachments.iter().map(|attached| attached.name.as_str()).collect();
        assert_eq!(names, ["logo.png", "page.html"]);
    }

    #[test]
    fn only_images_are_served_to_the_frame() {
        let (_, shown) = take_apart(MAIL.as_bytes());
        assert_eq!((shown.cids, shown.parts.len()), (vec!["logo".to_owned()], 1));
        assert_eq!(shown.parts[0], ("image/png".to_owned(), vec![0x89, b'P', b'N', b'G']));
    }
}
