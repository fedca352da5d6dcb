//! Fields of one delivery: once, in front, whatever the message brings.

use hapax_render::{ORIGINAL_TO, check_stamp_name, stamp};

#[test]
fn a_stamp_comes_first_and_replaces_whatever_the_message_brought_under_its_name() {
    let message =
        b"From: a@example.org\r\nIDEMPOTENCY-KEY: theirs\r\n and more\r\nSubject: x\r\n\r\nIdempotency-Key: body\r\n";
    let stamped = stamp(message, &[("Idempotency-Key", "ours-1"), (ORIGINAL_TO, "ada@example.org")]).expect("stamped");
    let expected = "Idempotency-Key: ours-1\r\nX-Hapax-Original-To: ada@example.org\r\nFrom: a@example.org\r\nSubject: x\r\n\r\nIdempotency-Key: body\r\n";
    assert_eq!(String::from_utf8(stamped).expect("text"), expected);
}

#[test]
fn a_stamp_never_ends_its_line() {
    let message = b"From: a@example.org\r\n\r\nbody\r\n";
    for value in ["a\r\nBcc: eve@example.org", "a\nb", "a\0b"] {
        assert!(stamp(message, &[("Key", value)]).is_err(), "{value:?}");
    }
    assert!(stamp(message, &[("Ke y", "a")]).is_err());
    let stamped = stamp(message, &[(ORIGINAL_TO, "jörg@example.org")]).expect("stamped");
    assert!(stamped.is_ascii(), "encoded: {}", stamped.escape_ascii());
}

#[test]
fn a_name_with_a_meaning_is_refused() {
    for name in
        ["From", "message-id", "Content-Language", "List-Id", "Resent-To", "X-Hapax-Original-To", "a b", "a:", "", "é"]
    {
        assert!(check_stamp_name(name).is_err(), "{name}");
    }
    for name in ["Resend-Idempotency-Key", "X-PM-Idempotency", "Idempotency-Key"] {
        assert_eq!(check_stamp_name(name), Ok(()));
    }
}
