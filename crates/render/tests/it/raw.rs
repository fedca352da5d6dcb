//! Finished messages.

use hapax_core::envelope::Content;
use hapax_render::{Error, Rendered};

use crate::support::*;

fn try_raw(message: &[u8]) -> Result<Rendered, Error> {
    let rendered = try_render(&notification(Content::Raw(message.to_vec())))?;
    assert_wire(&rendered.bytes);
    Ok(rendered)
}

fn raw(message: &str) -> String {
    String::from_utf8(try_raw(message.as_bytes()).expect("it renders").bytes).expect("UTF-8")
}

const COMPLETE: &str = "From: a@b.example\r\nDate: Mon, 1 Jan 2024 00:00:00 +0000\r\nMessage-ID: <mine@b.example>\r\n\
                        Auto-Submitted: no\r\n\r\nbody\r\n.\r\n\r\n";

#[test]
fn a_complete_message_stays_as_it_is() {
    assert_eq!(raw(COMPLETE), COMPLETE);
    let rendered = try_raw(COMPLETE.as_bytes()).expect("it renders");
    assert_eq!(rendered.message_id_header, "<mine@b.example>");
    assert_eq!(rendered.envelope_sender.address(), "no-reply@shop.example");
}

#[test]
fn what_is_missing_is_added_at_the_end_of_the_header() {
    let expected = format!(
        "Subject: x\r\nTo: a@b.org\r\nFrom: \"Shop\" <no-reply@shop.example>\r\nDate: Sat, 22 Nov 2025 22:49:13 +0000\r\n\
         Message-ID: <{ID}@shop.example>\r\nAuto-Submitted: auto-generated\r\n\r\nbody\r\n"
    );
    assert_eq!(raw("Subject: x\r\nTo: a@b.org\r\n\r\nbody\r\n"), expected);
    assert_eq!(raw("Subject: x\nTo: a@b.org\n\nbody"), expected);
    assert_eq!(raw("Subject: x\rTo: a@b.org\r\rbody\r"), expected);
    assert!(raw("Subject: x").ends_with("auto-generated\r\n\r\n"), "a header alone is a message");
    assert!(raw("Subject: x\r\nMessage-ID:  \r\n\r\n").contains(ID), "an empty one is missing");
    assert!(
        raw("subject: x\r\nFROM: a@b.org\r\nDATE: x\r\nmessage-id:\r\n <a@b>\r\n\r\n")
            .starts_with("subject: x\r\nFROM")
    );
}

#[test]
fn a_folded_message_id_is_understood() {
    let rendered = try_raw(b"Message-Id:\r\n <long@id.example>\r\n\r\n").expect("it renders");
    assert_eq!(rendered.message_id_header, "<long@id.example>");
}

#[test]
fn bcc_goes_with_its_continuation_lines() {
    let heads = [
        "Bcc: hidden@example.org\r\n",
        "BCC: hidden@example.org,\r\n hidden2@example.org,\r\n\thidden3@example.org\r\n",
        "bcc:hidden@example.org\n",
        "Bcc : hidden@example.org\r\n",
        "Bcc:\r\n \r\n hidden@example.org\r\n",
        "Resent-Bcc: hidden@example.org\r\n",
        "Bcc: hidden@example.org\rBcc: hidden@example.org\r",
    ];
    for head in heads {
        for message in [
            format!("Subject: x\r\n{head}To: a@b.org\r\n\r\nbody\r\n"),
            format!("{head}Subject: x\r\nTo: a@b.org\r\n\r\nbody\r\n"),
            format!("Subject: x\r\nTo: a@b.org\r\n{head}\r\nbody\r\n"),
            format!("Subject: x\r\nTo: a@b.org\r\n{}", head.trim_end()),
        ] {
            let out = raw(&message);
            assert!(!out.contains("hidden"), "{message:?}: {out:?}");
            assert!(out.contains("Subject: x\r\n") && out.contains("To: a@b.org\r\n"), "{out:?}");
        }
    }
    assert!(raw("Subject: x\r\n\r\nBcc: in the body stays\r\n").ends_with("\r\n\r\nBcc: in the body stays\r\n"));
}

#[test]
fn eight_bit_content_and_foreign_fields_keep_their_bytes() {
    let message = [COMPLETE.trim_end().as_bytes(), b"\r\nX: latin1 \xe9\xff\r\n\tf\xfc\r\n\r\n\xe9\xfe\r\n"].concat();
    let message = [b"X: \xe9\r\n \t folded\r\nDKIM-Signature: v=1;\r\n  b=abc\r\n".as_slice(), &message].concat();
    assert_eq!(try_raw(&message).expect("it renders").bytes, message);
}

#[test]
fn own_headers_fill_gaps_and_attachments_are_refused() {
    let mut one = notification(Content::Raw(COMPLETE.as_bytes().to_vec()));
    one.headers = vec![("X-New".to_owned(), "new".to_owned()), ("auto-submitted".to_owned(), "other".to_owned())];
    let bytes = render(&one);
    assert_eq!(field(&bytes, "X-New").as_deref(), Some("new"));
    assert_eq!(field(&bytes, "Auto-Submitted").as_deref(), Some("no"));
    assert_eq!(names(&bytes).len(), 5);
    one.attachments = vec![attachment("a", b"b")];
    assert!(matches!(try_render(&one), Err(Error::Attachment { number: 1, .. })));
}

#[test]
fn what_is_not_a_message_is_refused_with_its_line() {
    let long = format!("Subject: x\r\n\r\n{}\r\n", "x".repeat(999));
    let long_head = format!("Subject: {}\r\n\r\n", "x".repeat(999));
    let own = "an X-Hapax- header, which would be sent to the recipient,";
    let cases: [(&[u8], &str); 17] = [
        (b"", "no header in line 1"),
        (b"\r\nbody\r\n", "no header in line 1"),
        (b"just text\r\n", "not a header (`Name: value`) in line 1"),
        (b"From ada@example.org Mon Jan 1\r\nSubject: x\r\n\r\n", "not a header (`Name: value`) in line 1"),
        (b" Subject: x\r\n\r\n", "a continuation line before any header in line 1"),
        (b"Subject: x\r\nno colon here\r\n\r\n", "not a header (`Name: value`) in line 2"),
        (b"Subject: x\r\nB cc: y\r\n\r\n", "not a header (`Name: value`) in line 2"),
        (b"Subject: x\r\n: y\r\n\r\n", "not a header (`Name: value`) in line 2"),
        (b"\xef\xbb\xbfSubject: x\r\n\r\n", "not a header (`Name: value`) in line 1"),
        (b"Subject: x\r\nS\xfc: y\r\n\r\n", "not a header (`Name: value`) in line 2"),
        (b"Subject: x\r\n y\r\nTo: a\r\nbad\r\nX: y\r\nworse\r\n\r\n", "not a header (`Name: value`) in line 4"),
        (b"Subject: x\rX-Hapax-Dedup-Key: y\r\n\r\nz", &format!("{own} in line 2")),
        (b"Subject: x\r\n y\nx-hapax-a : y\r\n\r\nz", &format!("{own} in line 3")),
        (b"X-HAPAX-Original-To: y\r\n\r\nz", &format!("{own} in line 1")),
        (b"Subject: x\r\n\r\na\r\nb\0c\r\n", "a NUL byte in line 4"),
        (long.as_bytes(), "more than 998 bytes in line 3"),
        (long_head.as_bytes(), "more than 998 bytes in line 1"),
    ];
    for (message, why) in cases {
        let error = try_raw(message).expect_err(why).to_string();
        assert_eq!(error, format!("the raw message is not well-formed: {why}"));
    }
}

#[test]
fn two_renders_of_a_raw_message_are_byte_identical() {
    let one = notification(Content::Raw(b"Subject: x\n\nbody".to_vec()));
    assert_eq!(try_render(&one).expect("it renders"), try_render(&one).expect("it renders"));
}

#[test]
fn the_author_domain_is_that_of_the_from_field_not_of_the_envelope() {
    let domain = |one| try_render(&one).expect("it renders").author_domain;
    assert_eq!(domain(ready("x", Some("y"), None)).as_deref(), Some("shop.example"));
    let mut own = ready("x", Some("y"), None);
    own.sender = Some("Ada <ada@EXÄMPLE.org>".to_owned());
    assert_eq!(domain(own).as_deref(), Some("xn--exmple-cua.org"));
    let raw = |message: &str| domain(notification(Content::Raw(message.as_bytes().to_vec())));
    assert_eq!(raw(COMPLETE).as_deref(), Some("b.example"));
    assert_eq!(raw("Subject: x\r\n\r\n").as_deref(), Some("shop.example"), "the one that is added");
    assert_eq!(raw("From: nobody\r\n\r\n"), None);
}

#[test]
fn what_there_must_be_one_of_is_refused_when_it_is_there_twice() {
    for (name, line) in [("From", 4), ("Date", 4), ("Message-ID", 4)] {
        let value = if name == "Date" { "Sat, 22 Nov 2025 22:49:13 +0000" } else { "<a@shop.example>" };
        let raw = format!("{name}: {value}\r\nX: y\r\n z\r\n{}: {value}\r\n\r\nx\r\n", name.to_lowercase());
        let one = notification(Content::Raw(raw.into_bytes()));
        let error = try_render(&one).expect_err("refused").to_string();
        let wanted =
            format!("the raw message is not well-formed: a second {name} field (RFC 5322 allows one) in line {line}");
        assert_eq!(error, wanted);
    }
}
