//! Header fields.

use hapax_render::{Error, Options, Renderer};
use mail_parser::{HeaderForm, MimeHeaders};

use crate::support::*;

#[test]
fn the_fields_come_in_their_order_with_their_values() {
    let mut one = ready("Your order 42", Some("Hello\n"), None);
    one.reply_to = Some("help@shop.example".to_owned());
    one.cc = vec!["Bob <bob@example.org>".to_owned()];
    one.bcc = vec!["hidden@example.org".to_owned()];
    one.headers = vec![("X-Order".to_owned(), "42".to_owned())];
    let bytes = render(&one);
    let expected = [
        "From: \"Shop\" <no-reply@shop.example>",
        "Reply-To: <help@shop.example>",
        "To: \"Ada Lovelace\" <ada@example.org>",
        "Cc: \"Bob\" <bob@example.org>",
        "Subject: Your order 42",
        "Date: Sat, 22 Nov 2025 22:49:13 +0000",
        "Message-ID: <019a5b2c-0000-7000-8000-000000000001@shop.example>",
        "MIME-Version: 1.0",
        "Auto-Submitted: auto-generated",
        "X-Order: 42",
        "Content-Type: text/plain; charset=\"utf-8\"",
        "Content-Transfer-Encoding: 7bit",
        "",
        "Hello",
        "",
    ];
    assert_eq!(String::from_utf8(bytes).expect("ASCII"), expected.join("\r\n"));
}

#[test]
fn the_sender_wins_over_the_route_and_names_the_message_id() {
    let mut one = ready("s", Some("t"), None);
    one.sender = Some("Accounts <accounts@exämple.org>".to_owned());
    let rendered = try_render(&one).expect("it renders");
    assert_eq!(rendered.envelope_sender.address(), "accounts@xn--exmple-cua.org");
    assert_eq!(rendered.message_id_header, format!("<{ID}@xn--exmple-cua.org>"));
    assert_eq!(field(&rendered.bytes, "Message-ID"), Some(rendered.message_id_header.clone()));

    let renderer = Renderer::new(Options::default()).expect("no templates");
    let named = renderer.render(&one, FROM, Some("mail.shop.example")).expect("it renders");
    assert_eq!(named.message_id_header, format!("<{ID}@mail.shop.example>"));
    assert!(matches!(renderer.render(&one, FROM, Some("x>\r\nBcc: y")), Err(Error::Hostname)));
}

#[test]
fn two_renders_are_byte_identical() {
    let mut one = ready("Grüße 🎉", Some("Grüße"), Some("<p>Grüße <img src=\"cid:logo\"></p>"));
    one.attachments = vec![attachment("a.pdf", b"%PDF"), attachment("logo.png", b"png")];
    one.attachments[1].content_id = Some("logo".to_owned());
    let (first, second) = (try_render(&one).expect("it renders"), try_render(&one).expect("it renders"));
    assert_eq!(first, second);
    let other_thread = std::thread::spawn(move || try_render(&one).expect("it renders").bytes).join().expect("joined");
    assert_eq!(first.bytes, other_thread);
}

#[test]
fn a_message_to_hidden_recipients_names_nobody() {
    let mut one = ready("s", Some("t"), None);
    one.recipients = vec![];
    one.bcc = vec!["hidden@example.org".to_owned()];
    let bytes = render(&one);
    assert_eq!(field(&bytes, "To").as_deref(), Some("undisclosed-recipients:;"));
    assert!(!String::from_utf8_lossy(&bytes).contains("hidden"));
    one.cc = vec!["ada@example.org".to_owned()];
    assert_eq!(field(&render(&one), "To"), None);
}

#[test]
fn subjects_come_back_as_they_were() {
    let word = "x".repeat(1_000);
    let many = "lorem ipsum dolor sit amet ".repeat(40);
    let umlauts = "Über größere Übergrößen ".repeat(30);
    let emoji = "🎉👩‍👩‍👧‍👦".repeat(60);
    let subjects = [
        "",
        "a",
        "Your order 42",
        "Grüße",
        "שלום עולם, הזמנה 42",
        "مرحبا بالعالم",
        "🎉 it's here 👩‍👩‍👧‍👦",
        "日本語の件名です",
        "=?utf-8?Q?not_encoded?=",
        "a =?utf-8?B?eA==?= b =? c",
        "100% \"quoted\" <tag> (comment) \\back",
        "ends with =",
        "two  spaces   three",
        "\u{202e}txt.exe",
        "a\u{2028}b",
        "e\u{301}",
        "_under_score?",
        &word,
        many.trim(),
        umlauts.trim(),
        &emoji,
    ];
    for subject in subjects {
        let bytes = render(&ready(subject, Some("t"), None));
        assert_eq!(parse(&bytes).subject().unwrap_or_default(), subject, "{subject:?}");
        let head = bytes.split(|&b| b == b'\n').take_while(|line| *line != b"\r").collect::<Vec<_>>().concat();
        assert!(head.is_ascii());
        assert_lines_at_most(&bytes, 78);
    }
    let tab = render(&ready(" a\tb ", Some("t"), None));
    assert_eq!(field(&tab, "Subject").as_deref(), Some("a b"));
}

#[test]
fn display_names_and_international_addresses_come_back_as_they_were() {
    let names = [
        "Ada",
        "Lovelace, Ada",
        "Ada \"the countess\" L.",
        "Zoë Ünal",
        "עדה",
        "山田太郎",
        "a@b.org",
        "(not a comment)",
        "🎉",
        "back\\slash",
        "=?utf-8?Q?x?=",
    ];
    for name in names {
        let mut one = ready("s", Some("t"), None);
        let quoted = name.replace('\\', "\\\\").replace('"', "\\\"");
        one.recipients = vec![format!("\"{quoted}\" <jörg@exämple.org>"), "b@example.org".to_owned()];
        let bytes = render(&one);
        let to = field(&bytes, "To").expect("To");
        assert!(to.contains("<jörg@xn--exmple-cua.org>, <b@example.org>"), "{to}");
        let message = parse(&bytes);
        let first = message.to().and_then(|to| to.first()).expect("an address");
        if !name.starts_with("=?") {
            assert_eq!(first.name(), Some(name), "{to}");
        }
        assert_eq!(first.address(), Some("jörg@xn--exmple-cua.org"));
    }
}

#[test]
fn a_hundred_recipients_are_folded() {
    let mut one = ready("s", Some("t"), None);
    one.recipients = (0..100).map(|n| format!("Person Number {n} <person.{n}@example.org>")).collect();
    let bytes = render(&one);
    assert_lines_at_most(&bytes, 78);
    assert_eq!(parse(&bytes).to().map(|to| to.iter().count()), Some(100));
}

#[test]
fn own_headers_are_written_and_reserved_ones_refused() {
    let long_url = format!("<https://shop.example/u/{}>", "a".repeat(400));
    let fine = [
        ("List-Unsubscribe", long_url.as_str()),
        ("X-Empty", ""),
        ("x-note", "Grüße aus Köln"),
        ("References", &"<a@b.example> ".repeat(50)),
        ("Auto-Submitted", "auto-replied"),
        ("!#$%&'*+-.^_`|~{}", "odd"),
    ];
    let mut one = ready("s", Some("t"), None);
    one.headers = fine.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let bytes = render(&one);
    for (name, value) in fine.iter().filter(|(name, _)| *name != "x-note") {
        assert_eq!(field(&bytes, name).as_deref().map(str::trim), Some(value.trim()));
    }
    let note = parse(&bytes)
        .header_as("x-note", HeaderForm::Text)
        .first()
        .and_then(|value| value.as_text().map(str::to_owned));
    assert_eq!(note.as_deref(), Some("Grüße aus Köln"));
    assert_eq!(names(&bytes).iter().filter(|name| *name == "Auto-Submitted").count(), 1);

    let long_word = "w".repeat(901);
    let long_name = "N".repeat(77);
    let refused = [
        ("From", "a@b.org"),
        ("TO", "x"),
        ("cc", "x"),
        ("bCc", "x"),
        ("Resent-Bcc", "x"),
        ("Date", "x"),
        ("Message-Id", "x"),
        ("subject", "x"),
        ("Sender", "x"),
        ("MIME-Version", "1.0"),
        ("content-type", "x"),
        ("Content-Transfer-Encoding", "8bit"),
        ("Return-Path", "x"),
        ("Received", "x"),
        ("DKIM-Signature", "x"),
        ("", "x"),
        ("A B", "x"),
        ("A:B", "x"),
        ("Größe", "x"),
        ("A\r\nB", "x"),
        (&long_name, "x"),
        ("X-A", "a\r\nb"),
        ("X-A", "a\nBcc: b"),
        ("X-A", "a\0b"),
        ("X-A", "a\u{85}b"),
        ("X-A", &long_word),
    ];
    for (name, value) in refused {
        one.headers = vec![(name.to_owned(), value.to_owned())];
        assert!(matches!(try_render(&one), Err(Error::Header { .. })), "{name:?}: {value:?}");
    }
    one.headers = vec![("Reply-To".to_owned(), "a@b.org".to_owned())];
    assert!(try_render(&one).is_ok());
    one.reply_to = Some("c@d.org".to_owned());
    let error = try_render(&one).expect_err("two Reply-To fields").to_string();
    assert_eq!(error, "header \"Reply-To\" is given twice");
}

#[test]
fn errors_name_the_argument_and_never_the_value() {
    let mut one = ready("s", Some("t"), None);
    one.recipients = vec!["ok@example.org".to_owned(), "canary at example.org".to_owned()];
    let error = try_render(&one).expect_err("no address");
    assert_eq!(
        error.to_string(),
        "recipients[2] is not usable: not an address: write user@example.org or Name <user@example.org>"
    );
    assert!(!format!("{error:?}").contains("canary"));
}

#[test]
fn a_message_over_the_limit_is_refused() {
    let renderer = Renderer::new(Options { message_bytes_max: 1_000, ..Options::default() }).expect("no templates");
    let mut one = ready("s", Some("t"), None);
    one.attachments = vec![attachment("a", &[0; 1_000])];
    assert!(matches!(renderer.render(&one, FROM, None), Err(Error::TooLarge { limit_bytes: 1_000, .. })));
}

#[test]
fn a_name_that_looks_like_an_encoded_word_is_shown_as_it_was_written() {
    let names = ["=?utf-8?q?fake?=", "=?utf-8?q?a=0d=0aBcc:_x@example.org?=", "Müller =?utf-8?b? \"x\" \\", "=?"];
    for name in names {
        let mut one = ready("s", Some("t"), None);
        let quoted = format!("\"{}\"", name.replace('\\', "\\\\").replace('"', "\\\""));
        one.recipients = vec![format!("{quoted} <ada@example.org>"), "bob@example.org".to_owned()];
        one.sender = Some(format!("{quoted} <sender@shop.example>"));
        let bytes = render(&one);
        let message = parse(&bytes);
        let to: Vec<_> = message.to().expect("To").iter().map(|one| (one.name(), one.address())).collect();
        assert_eq!(to, [(Some(name), Some("ada@example.org")), (None, Some("bob@example.org"))]);
        assert_eq!(message.from().and_then(|from| from.first()).and_then(|one| one.name()), Some(name));
    }
}

#[test]
fn a_file_name_that_looks_like_an_encoded_word_is_shown_as_it_was_written() {
    for name in ["=?utf-8?q?fake.exe?=", "a; b=\"=?x", &format!("ü=?{}", "é".repeat(230))] {
        let mut one = ready("s", Some("t"), None);
        one.attachments = vec![attachment(name, b"x")];
        let bytes = render(&one);
        assert_eq!(parse(&bytes).attachments().next().and_then(|part| part.attachment_name()), Some(name));
    }
}

#[test]
fn an_encoded_word_that_hides_a_line_break_is_refused() {
    let mut one = ready("Hi", Some("x"), None);
    one.headers = vec![("X-Campaign".to_owned(), "=?utf-8?Q?a=0D=0ABcc:_b@c.d?=".to_owned())];
    assert_eq!(
        try_render(&one).expect_err("refused").to_string(),
        "header \"X-Campaign\" has an encoded word (RFC 2047) that a reader would decode to a line break or a control \
         character"
    );
    one.headers = vec![("X-Campaign".to_owned(), "=?utf-8?Q?Gr=C3=BC=C3=9Fe?=".to_owned())];
    assert_eq!(field(&render(&one), "X-Campaign").as_deref(), Some("=?utf-8?Q?Gr=C3=BC=C3=9Fe?="));
}
