//! Bodies and attachments.

use hapax_render::Error;
use mail_parser::{Message, MimeHeaders, PartType};

use crate::support::*;

/// The media types of all parts, depth first, as the parser lists them.
fn types(message: &Message<'_>) -> Vec<String> {
    let name = |part: &mail_parser::MessagePart<'_>| {
        let content_type = part.content_type().expect("a content type");
        format!("{}/{}", content_type.ctype(), content_type.subtype().unwrap_or("?"))
    };
    message.parts.iter().map(name).collect()
}

fn text_of<'a>(message: &'a Message<'_>, media_type: &str) -> &'a str {
    let index = types(message).iter().position(|name| name == media_type).expect("such a part");
    match &message.parts[index].body {
        PartType::Text(text) | PartType::Html(text) => text,
        _ => panic!("not a text"),
    }
}

fn crlf(text: &str) -> String {
    text.replace("\r\n", "\n").replace('\r', "\n").replace('\n', "\r\n")
}

#[test]
fn the_tree_has_only_the_levels_it_needs() {
    let (file, mut logo) = (attachment("a.pdf", b"%PDF"), attachment("logo.png", b"png"));
    logo.content_id = Some("logo".to_owned());
    let cases = [
        (Some("t"), None, vec![], "text/plain"),
        (None, Some("<p>h"), vec![], "text/html"),
        (Some("t"), Some("<p>h"), vec![], "multipart/alternative text/plain text/html"),
        (Some("t"), None, vec![file.clone()], "multipart/mixed text/plain application/octet-stream"),
        (None, Some("<p>h"), vec![logo.clone()], "multipart/related text/html application/octet-stream"),
        (Some("t"), None, vec![logo.clone()], "multipart/mixed text/plain application/octet-stream"),
        (
            Some("t"),
            Some("<p>h"),
            vec![file, logo],
            "multipart/mixed multipart/alternative text/plain multipart/related text/html application/octet-stream \
             application/octet-stream",
        ),
    ];
    for (text, html, attachments, expected) in cases {
        let mut one = ready("s", text, html);
        one.attachments = attachments;
        let bytes = render(&one);
        assert_eq!(types(&parse(&bytes)).join(" "), expected);
    }
    assert!(matches!(try_render(&ready("s", None, None)), Err(Error::NoBody)));
}

#[test]
fn texts_come_back_as_they_were_on_short_lines() {
    let long_line = "lorem ipsum ".repeat(500);
    let long_word = "w".repeat(1_000);
    let umlauts = "größer ".repeat(300);
    let emoji = "🎉".repeat(300);
    let spaces = format!("a{}\nb", " ".repeat(200));
    let texts = [
        "",
        "\n",
        "Hello\n",
        "no line end",
        "a\nb\rc\r\nd\n\re",
        ".\n..\n.leading dot\n\r\n.\r\n",
        "trailing space \n\t\n",
        "From the start\nFrom here",
        "equals = =3D =\n",
        "--\nsignature",
        "\n\n\n",
        "tab\there",
        "שלום\nעולם",
        "日本語\n",
        "nul \0 bell \u{7} escape \u{1b} del \u{7f}",
        "\u{feff}bom",
        "--=_0123456789abcdef",
        &long_line,
        &long_word,
        &umlauts,
        &emoji,
        &spaces,
    ];
    for text in texts {
        // Inside a multipart the line end before a boundary is not the text's, so a text is exact to the last byte.
        let bytes = render(&ready("s", Some(text), Some(text)));
        assert_lines_at_most(&bytes, 78);
        let body = bytes.split(|&b| b == b'\n').skip_while(|line| !line.starts_with(b"--"));
        for line in body {
            assert!(line.len() <= 77, "{} bytes: {:?}", line.len(), String::from_utf8_lossy(line));
        }
        let message = parse(&bytes);
        assert_eq!(text_of(&message, "text/plain"), crlf(text), "{text:?}");
        assert_eq!(text_of(&message, "text/html"), crlf(text), "{text:?}");
        // Alone it may gain the line end that every message has.
        let alone = render(&ready("s", Some(text), None));
        let message = parse(&alone);
        let got = text_of(&message, "text/plain");
        let wanted = crlf(text);
        assert!(got == wanted || got.strip_suffix("\r\n") == Some(&wanted), "{got:?} {wanted:?}");
    }
}

#[test]
fn leading_dots_are_left_to_the_transport() {
    let bytes = render(&ready("s", Some(".\n..\n.a\n"), None));
    assert!(bytes.ends_with(b"\r\n\r\n.\r\n..\r\n.a\r\n"));
}

#[test]
fn attachments_come_back_with_their_names_and_bytes() {
    let every_byte: Vec<u8> = (0..=255).cycle().take(10_000).collect();
    let long = format!("{}.pdf", "long name ".repeat(20));
    let long_umlauts = format!("{}.pdf", "größe".repeat(40));
    let names = [
        "a.pdf",
        "with space.pdf",
        "quote\".pdf",
        "back\\slash.pdf",
        "semi;colon=.pdf",
        "Rechnung Größe.pdf",
        "請求書.pdf",
        "🎉.png",
        "חשבונית.pdf",
        "100%25'.pdf",
        "../../etc/passwd",
        "=?utf-8?Q?x?=",
        &long,
        &long_umlauts,
    ];
    for name in names {
        let mut one = ready("s", Some("t"), None);
        one.attachments = vec![attachment(name, &every_byte)];
        let bytes = render(&one);
        assert_lines_at_most(&bytes, 78);
        let message = parse(&bytes);
        let part = message.attachment(0).expect("an attachment");
        if !name.starts_with("=?") {
            assert_eq!(part.attachment_name(), Some(name.trim()), "{name:?}");
        }
        assert_eq!(part.contents(), every_byte, "{name:?}");
    }
    let mut one = ready("s", Some("t"), None);
    one.attachments = vec![attachment("", b"")];
    assert_eq!(parse(&render(&one)).attachment(0).expect("an attachment").contents(), b"");
}

#[test]
fn inline_images_are_found_by_their_content_id() {
    let mut one = ready("s", None, Some("<img src=\"cid:logo@shop\">"));
    one.attachments = vec![attachment("logo.png", b"png")];
    one.attachments[0].content_id = Some("<logo@shop>".to_owned());
    one.attachments[0].content_type = "image/png; name=\"logo.png\"".to_owned();
    let bytes = render(&one);
    let message = parse(&bytes);
    let part = message.attachment(0).expect("a part");
    assert_eq!(part.content_id(), Some("logo@shop"));
    assert_eq!(part.content_disposition().map(|disposition| disposition.ctype()), Some("inline"));
    assert_eq!(part.content_type().and_then(|content_type| content_type.attribute("name")), Some("logo.png"));
}

#[test]
fn attachments_that_would_break_the_structure_are_refused() {
    let bad_types = [
        ";",
        "text",
        "text/",
        "/plain",
        "text/pl ain",
        "multipart/mixed",
        "Multipart/Mixed; boundary=x",
        "text/plain\r\nX: y",
        "text/plain; a",
        "text/plain; a b=c",
        "text/plain; a=\"b\"\"",
        "tëxt/plain",
        "text/plain; a=ü",
        "a/b/c",
    ];
    let mut one = ready("s", Some("t"), None);
    for content_type in bad_types {
        one.attachments = vec![attachment("a", b"b"), attachment("a", b"b")];
        one.attachments[1].content_type = content_type.to_owned();
        let error = try_render(&one).expect_err(content_type);
        assert!(error.to_string().starts_with("attachment 2 has a "), "{error}");
    }
    let long_name = "x".repeat(501);
    for name in ["a\r\nb.pdf", "a\nb", "a\0b", "a\u{1b}b", "a\u{85}b", long_name.as_str()] {
        one.attachments = vec![attachment(name, b"b")];
        assert!(matches!(try_render(&one), Err(Error::Attachment { number: 1, .. })), "{name:?}");
    }
    for id in ["", "a b", "a>b", "a\r\nb", "ü"] {
        one.attachments = vec![attachment("a", b"b")];
        one.attachments[0].content_id = Some(id.to_owned());
        assert!(matches!(try_render(&one), Err(Error::Attachment { number: 1, .. })), "{id:?}");
    }
    one.attachments = vec![attachment("mail.eml", b"Subject: x\r\n\r\ny")];
    one.attachments[0].content_type = "message/rfc822".to_owned();
    assert_eq!(types(&parse(&render(&one))), ["multipart/mixed", "text/plain", "application/octet-stream"]);
}
