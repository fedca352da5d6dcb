//! The rules every message must obey on the wire (RFC 5322 section 2.1.1, RFC 5321 section 4.5.3.1.6): line ends are
//! CRLF, a line has at most 998 octets, there is no NUL.
//!
//! Bare CR and LF end a line for lenient servers: `LF . LF` would be an end marker in the middle of a message. So they
//! are normalised when text comes in *and* checked again when bytes go out.

/// The longest line, in octets, without its CRLF.
pub(crate) const LINE_BYTES_MAX: usize = 998;

/// Every CRLF, bare CR and bare LF becomes CRLF; nothing else changes.
pub(crate) fn crlf(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len() + text.len() / 32);
    let mut bytes = text.iter().copied().peekable();
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

/// The first rule the message breaks, and its line (from 1).
pub(crate) fn first_fault(message: &[u8]) -> Option<(&'static str, usize)> {
    const BARE: &str = "a bare carriage return or line feed";
    let mut pieces = message.split(|&byte| byte == b'\n').enumerate().peekable();
    while let Some((index, piece)) = pieces.next() {
        // Every piece but the last was ended by a line feed, so it must end in a carriage return; the last must not.
        let content = match (piece.strip_suffix(b"\r"), pieces.peek().is_some()) {
            (Some(content), true) => content,
            (None, false) => piece,
            _ => return Some((BARE, index + 1)),
        };
        let fault = if content.contains(&b'\r') {
            BARE
        } else if content.contains(&0) {
            "a NUL byte"
        } else if content.len() > LINE_BYTES_MAX {
            "more than 998 bytes"
        } else {
            continue;
        };
        return Some((fault, index + 1));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_line_end_becomes_crlf() {
        assert_eq!(crlf(b"a\nb\rc\r\nd\n\re\r\r\n"), b"a\r\nb\r\nc\r\nd\r\n\r\ne\r\n\r\n");
        assert_eq!(crlf(b""), b"");
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
}
