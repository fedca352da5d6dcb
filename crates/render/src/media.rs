//! Media types of attachments (RFC 2045 section 5.1): checked as they are given, guessed where none is.
//!
//! Invariant: whatever `outbox.enqueue` accepts as a `content_type` is accepted here.

use mail_builder::headers::content_type::ContentType;

/// The longest token and the longest parameter value, in bytes.
const TOKEN_BYTES_MAX: usize = 255;
const VALUE_BYTES_MAX: usize = 500;

const SHAPE: &str = "has a content type that is not type/subtype; key=value";
const UNKNOWN: &str = "application/octet-stream";

/// What readers should open by themselves; for everything else they ask.
const BY_EXTENSION: [(&str, &str); 16] = [
    ("pdf", "application/pdf"),
    ("png", "image/png"),
    ("jpg", "image/jpeg"),
    ("jpeg", "image/jpeg"),
    ("gif", "image/gif"),
    ("webp", "image/webp"),
    ("svg", "image/svg+xml"),
    ("txt", "text/plain"),
    ("csv", "text/csv"),
    ("html", "text/html"),
    ("ics", "text/calendar"),
    ("zip", "application/zip"),
    ("json", "application/json"),
    ("xml", "application/xml"),
    ("docx", "application/vnd.openxmlformats-officedocument.wordprocessingml.document"),
    ("xlsx", "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"),
];

/// The type of an attachment: as given, else from its name.
pub(crate) fn of(content_type: &str, filename: &str) -> Result<ContentType<'static>, &'static str> {
    match content_type.trim() {
        "" => Ok(ContentType::new(guess(filename))),
        given => parse(given),
    }
}

fn guess(filename: &str) -> &'static str {
    let Some((_, extension)) = filename.trim().rsplit_once('.') else { return UNKNOWN };
    let known = BY_EXTENSION.iter().find(|(known, _)| known.eq_ignore_ascii_case(extension));
    known.map_or(UNKNOWN, |(_, media_type)| media_type)
}

/// `type/subtype; key=value ...`.
fn parse(text: &str) -> Result<ContentType<'static>, &'static str> {
    let mut pieces = pieces(text).into_iter().map(str::trim);
    let name = pieces.next().unwrap_or_default().to_ascii_lowercase();
    let (kind, subtype) = name.split_once('/').ok_or(SHAPE)?;
    if !is_token(kind) || !is_token(subtype) {
        return Err(SHAPE);
    }
    match kind {
        "multipart" => return Err("has a multipart content type, which would need its parts"),
        // RFC 2046 section 5.2 forbids to encode a message; readers know an .eml file by its name.
        "message" => return Ok(ContentType::new(UNKNOWN)),
        _ => {}
    }
    let mut content_type = ContentType::new(name.clone());
    for piece in pieces.filter(|piece| !piece.is_empty()) {
        let (key, value) = piece.split_once('=').ok_or(SHAPE)?;
        let value = value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap_or(value);
        let plain = |byte: u8| (b' '..=b'~').contains(&byte) && !matches!(byte, b'"' | b'\\');
        if !is_token(key) || value.len() > VALUE_BYTES_MAX || !value.bytes().all(plain) {
            return Err(SHAPE);
        }
        content_type = content_type.attribute(key.to_ascii_lowercase(), value.to_owned());
    }
    Ok(content_type)
}

/// What stands between the semicolons that are not quoted.
fn pieces(text: &str) -> Vec<&str> {
    let (mut pieces, mut start, mut is_quoted) = (Vec::new(), 0, false);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'"' => is_quoted = !is_quoted,
            b';' if !is_quoted => {
                pieces.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    pieces.push(&text[start..]);
    pieces
}

/// A token of RFC 2045 of a sane length.
fn is_token(text: &str) -> bool {
    let special = |byte: u8| b"()<>@,;:\\\"/[]?=".contains(&byte);
    (1..=TOKEN_BYTES_MAX).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic() && !special(byte))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_type_is_guessed_from_the_name_only_where_none_is_given() {
        for (given, name, expected) in [
            ("", "Invoice.PDF", "application/pdf"),
            ("", "a.b.jpeg", "image/jpeg"),
            ("", " photo.png ", "image/png"),
            ("", "pdf", UNKNOWN),
            ("", "a.exe", UNKNOWN),
            ("", "", UNKNOWN),
            ("text/X-Own", "a.pdf", "text/x-own"),
            ("message/rfc822", "a.eml", UNKNOWN),
        ] {
            assert_eq!(of(given, name).map(|found| found.c_type.into_owned()), Ok(expected.to_owned()), "{name}");
        }
        let types: std::collections::BTreeSet<&str> = BY_EXTENSION.iter().map(|(extension, _)| *extension).collect();
        assert_eq!(types.len(), BY_EXTENSION.len());
    }

    #[test]
    fn a_quoted_value_may_hold_what_separates_others() {
        let found = of("text/plain; a=\"x; b=y\" ;c=\"\"; d=\"[=,/]\"", "").expect("a type");
        let attributes: Vec<_> = found.attributes.iter().map(|(key, value)| (&**key, &**value)).collect();
        assert_eq!(attributes, [("a", "x; b=y"), ("c", ""), ("d", "[=,/]")]);
        for bad in
            ["text/plain; a=\"x", "text/plain; a", "text", "text/", "text/a b", "text/plain; =x", "a/b;a=\"\\\"\""]
        {
            assert_eq!(of(bad, "").map(|found| found.c_type.into_owned()), Err(SHAPE), "{bad}");
        }
    }

    /// The expression of `outbox.check_attachments`.
    const ACCEPTED: &str = concat!(
        "(text|application|[A-Za-z0-9!#$&^_.+-]{1,60})/[A-Za-z0-9!#$&^_.+-]{1,60}",
        "( {0,2}; {0,2}[A-Za-z0-9!#$&^_.+-]{1,20}=",
        r#"([A-Za-z0-9!#$&^_.+-]{1,20}|"[ !#-\[\]-~]{0,40}")){0,3}"#,
    );

    proptest! {
        #[test]
        fn what_the_insert_accepts_is_accepted(
            text in ACCEPTED
        ) {
            if !text.to_ascii_lowercase().starts_with("multipart/") {
                prop_assert!(of(&text, "").is_ok(), "{}", text);
            }
        }
    }
}
