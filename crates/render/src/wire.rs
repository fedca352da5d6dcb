//! The rules every message must obey on the wire (RFC 5322 section 2.1.1, RFC 5321 section 4.5.3.1.6): line ends are
//! CRLF, a line has at most 998 octets, there is no NUL.
//!
//! Bare CR and LF end a line for lenient servers: `LF . LF` would be an end marker in the middle of a message. So they
//! are normalised when text comes in *and* checked again when bytes go out.

use std::borrow::Cow;

/// The longest line, in octets, without its CRLF.
pub(crate) const LINE_BYTES_MAX: usize = 998;

/// Where the bare CRs and LFs are: each is one byte, and each is a line end.
fn bare_ends(text: &[u8]) -> impl Iterator<Item = usize> + '_ {
    memchr::memchr2_iter(b'\r', b'\n', text).filter(|&at| match text[at] {
        b'\r' => text.get(at + 1) != Some(&b'\n'),
        _ => at == 0 || text[at - 1] != b'\r',
    })
}

/// Every CRLF, bare CR and bare LF becomes CRLF; nothing else changes.
pub(crate) fn crlf(text: &[u8]) -> Cow<'_, [u8]> {
    let (mut out, mut copied) = (Vec::new(), 0);
    for at in bare_ends(text) {
        if copied == 0 {
            out.reserve(text.len() + text.len() / 16 + 16);
        }
        out.extend_from_slice(&text[copied..at]);
        out.extend_from_slice(b"\r\n");
        copied = at + 1;
    }
    if copied == 0 {
        return Cow::Borrowed(text);
    }
    out.extend_from_slice(&text[copied..]);
    Cow::Owned(out)
}

/// The same for a text.
pub(crate) fn crlf_text(text: &str) -> Cow<'_, str> {
    let (mut out, mut copied) = (String::new(), 0);
    for at in bare_ends(text.as_bytes()) {
        if copied == 0 {
            out.reserve(text.len() + text.len() / 16 + 16);
        }
        out.push_str(&text[copied..at]);
        out.push_str("\r\n");
        copied = at + 1;
    }
    if copied == 0 {
        return Cow::Borrowed(text);
    }
    out.push_str(&text[copied..]);
    Cow::Owned(out)
}

/// The first rule the message breaks, and its line (from 1).
pub(crate) fn first_fault(message: &[u8]) -> Option<(&'static str, usize)> {
    let (mut number, mut start, mut bare, mut nul) = (1, 0, false, false);
    for at in memchr::memchr3_iter(b'\r', b'\n', 0, message) {
        match message[at] {
            b'\r' => bare |= message.get(at + 1) != Some(&b'\n'),
            0 => nul = true,
            _ => {
                let after_cr = at > start && message[at - 1] == b'\r';
                let content_bytes = at - start - usize::from(after_cr);
                if let Some(what) = fault(bare || !after_cr, nul, content_bytes) {
                    return Some((what, number));
                }
                (number, start) = (number + 1, at + 1);
            }
        }
    }
    fault(bare, nul, message.len() - start).map(|what| (what, number))
}

/// What is wrong with a line.
fn fault(bare: bool, nul: bool, content_bytes: usize) -> Option<&'static str> {
    if bare {
        Some("a bare carriage return or line feed")
    } else if nul {
        Some("a NUL byte")
    } else if content_bytes > LINE_BYTES_MAX {
        Some("more than 998 bytes")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_kind_of_line_end_becomes_crlf() {
        assert_eq!(&*crlf(b"a\nb\rc\r\nd\n\re\r\r\n"), b"a\r\nb\r\nc\r\nd\r\n\r\ne\r\n\r\n");
        assert!(matches!(crlf(b""), Cow::Borrowed(b"")));
        assert!(matches!(crlf(b"a\r\n\r\nb\r\n"), Cow::Borrowed(_)), "nothing to change, nothing copied");
    }

    #[test]
    fn faults_are_found_with_their_line() {
        assert_eq!(first_fault(b"a\r\nb\r\n"), None);
        assert_eq!(first_fault(b"a\r\nb"), None);
        assert_eq!(first_fault(b""), None);
        assert_eq!(first_fault(b"a\r\nb\nc\r\n").map(|f| f.1), Some(2));
        assert_eq!(first_fault(b"a\rb\r\n").map(|f| f.1), Some(1));
        assert_eq!(first_fault(b"a\r\nb\r").map(|f| f.1), Some(2));
        assert_eq!(first_fault(b"a\r\nb\r\r\n").map(|f| f.1), Some(2));
        assert_eq!(first_fault(b"\0"), Some(("a NUL byte", 1)));
        let (fits, long) = ([b'x'; LINE_BYTES_MAX], [b'x'; LINE_BYTES_MAX + 1]);
        assert_eq!(first_fault(&fits), None);
        assert_eq!(first_fault(&long), Some(("more than 998 bytes", 1)));
    }

    /// Byte by byte, as the rule is written.
    fn crlf_plainly(text: &[u8]) -> Vec<u8> {
        let (mut out, mut bytes) = (Vec::new(), text.iter().copied().peekable());
        while let Some(byte) = bytes.next() {
            match byte {
                b'\r' => {
                    bytes.next_if_eq(&b'\n');
                    out.extend_from_slice(b"\r\n");
                }
                b'\n' => out.extend_from_slice(b"\r\n"),
                other => out.push(other),
            }
        }
        out
    }

    /// Line by line, as the rules are written.
    fn first_fault_plainly(message: &[u8]) -> Option<(&'static str, usize)> {
        let lines = message.split(|byte| *byte == b'\n').count();
        message.split(|byte| *byte == b'\n').enumerate().find_map(|(index, piece)| {
            let (content, ended) = match piece.strip_suffix(b"\r") {
                Some(content) => (content, true),
                None => (piece, false),
            };
            let bare = ended != (index + 1 < lines) || content.contains(&b'\r');
            fault(bare, content.contains(&0), content.len()).map(|what| (what, index + 1))
        })
    }

    proptest! {
        #[test]
        fn texts_and_faults_are_what_they_are_byte_by_byte(text in "([\r\n\0aé]|\r\n|a{990,1000}\r\n){0,12}") {
            prop_assert_eq!(&*crlf(text.as_bytes()), &crlf_plainly(text.as_bytes())[..]);
            let normal = crlf_text(&text);
            prop_assert_eq!(normal.as_bytes(), &crlf_plainly(text.as_bytes())[..]);
            prop_assert_eq!(first_fault(text.as_bytes()), first_fault_plainly(text.as_bytes()));
            prop_assert_eq!(first_fault(normal.as_bytes()), first_fault_plainly(normal.as_bytes()));
        }
    }
}
