//! SMTP replies, read byte by byte by ourselves (RFC 5321 section 4.2).
//!
//! Invariants: a [`Reply`] comes out only when it is complete and well-formed: each line three digits of one and the
//! same code, the first of them 2 to 5, then a hyphen (more follows), a space, or the line's end; a line ends with LF,
//! with or without a CR before it. Anything else is [`Malformed`] as soon as that is certain. Text is never looked at:
//! Latin-1, NUL or nothing at all make no reply less complete. Memory is bounded by [`REPLY_BYTES_MAX`].

use hapax_core::{Reply, outcome::escape_reply};

/// The longest reply line, with its line end. RFC 5321 asks for 512; some servers need more.
pub(crate) const LINE_BYTES_MAX: usize = 4_096;

/// The longest reply, all its lines together.
pub(crate) const REPLY_BYTES_MAX: usize = 65_536;

/// What was read is not an SMTP reply, and no further byte can make it one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Malformed;

/// Bytes read and not yet taken as replies.
#[derive(Debug, Default)]
pub(crate) struct ReplyBuffer {
    bytes: Vec<u8>,
    /// Before this, `bytes` holds complete, well-formed lines of one unfinished reply.
    lines_end: usize,
    /// Before this, `bytes` holds no line end that has not been seen.
    searched: usize,
    code: u16,
    /// The text of the reply taken last, as it was sent and in full, lines joined by LF.
    last_text: Vec<u8>,
}

impl ReplyBuffer {
    pub(crate) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// The text of the reply taken last: a [`Reply`] holds only so much of it, and escaped.
    pub(crate) fn last_text(&self) -> &[u8] {
        &self.last_text
    }

    /// Takes the first reply off the buffer, if it is complete.
    pub(crate) fn take(&mut self) -> Result<Option<Reply>, Malformed> {
        loop {
            let Some(found) = memchr::memchr(b'\n', &self.bytes[self.searched..]) else {
                self.searched = self.bytes.len();
                return if self.could_still_be_one() { Ok(None) } else { Err(Malformed) };
            };
            let end = self.searched + found + 1;
            let (code, last) = parse_line(&self.bytes[self.lines_end..end])?;
            if end > REPLY_BYTES_MAX || (self.lines_end > 0 && code != self.code) {
                return Err(Malformed);
            }
            (self.code, self.lines_end, self.searched) = (code, end, end);
            if last {
                join_texts(&self.bytes[..end], &mut self.last_text);
                let reply = Reply::new(code, escape_reply(&self.last_text));
                self.bytes.drain(..end);
                (self.lines_end, self.searched) = (0, 0);
                return Ok(Some(reply));
            }
        }
    }

    /// Whether what is there after the last complete line can still become a line of a reply.
    fn could_still_be_one(&self) -> bool {
        let line = &self.bytes[self.lines_end..];
        line.len() < LINE_BYTES_MAX
            && self.bytes.len() < REPLY_BYTES_MAX
            && line.iter().take(3).enumerate().all(|(at, byte)| is_code_digit(at, *byte))
            && line.get(3).is_none_or(|byte| matches!(byte, b' ' | b'-' | b'\r'))
    }
}

fn is_code_digit(at: usize, byte: u8) -> bool {
    if at == 0 { (b'2'..=b'5').contains(&byte) } else { byte.is_ascii_digit() }
}

/// The code of one line (with its line end), and whether it is the last of its reply.
fn parse_line(line: &[u8]) -> Result<(u16, bool), Malformed> {
    let content = content(line);
    let well_formed = line.len() <= LINE_BYTES_MAX
        && content.len() >= 3
        && (0..3).all(|at| is_code_digit(at, content[at]))
        && content.get(3).is_none_or(|byte| matches!(byte, b' ' | b'-'));
    if !well_formed {
        return Err(Malformed);
    }
    let code = content[..3].iter().fold(0, |code, digit| code * 10 + u16::from(digit - b'0'));
    Ok((code, content.get(3) != Some(&b'-')))
}

/// A line without its line end.
fn content(line: &[u8]) -> &[u8] {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    line.strip_suffix(b"\r").unwrap_or(line)
}

/// Puts the text of all lines of a complete reply into `text`.
fn join_texts(lines: &[u8], text: &mut Vec<u8>) {
    text.clear();
    for (at, line) in lines.split_inclusive(|byte| *byte == b'\n').enumerate() {
        if at > 0 {
            text.push(b'\n');
        }
        text.extend_from_slice(content(line).get(4..).unwrap_or_default());
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(bytes: &[u8]) -> Result<Option<Reply>, Malformed> {
        let mut buffer = ReplyBuffer::default();
        buffer.push(bytes);
        buffer.take()
    }

    #[test]
    fn complete_replies_are_replies_whatever_their_text() {
        let cases: [(&[u8], u16, &str); 9] = [
            (b"250 ok\r\n", 250, "ok"),
            (b"250 ok\n", 250, "ok"),
            (b"250\r\n", 250, ""),
            (b"250 \r\n", 250, ""),
            (b"250-one\r\n250 two\r\n", 250, "one\ntwo"),
            (b"250-one\n250-\r\n250\n", 250, "one\n\n"),
            (b"250 d\xe9pos\xe9\r\n", 250, "d\\xe9pos\\xe9"),
            (b"250 nul\0\r\n", 250, "nul\\x00"),
            (b"299 2.0.0 odd\r\n", 299, "2.0.0 odd"),
        ];
        for (bytes, code, text) in cases {
            let reply = read(bytes).expect("well-formed").expect("complete");
            assert_eq!((reply.code, reply.text.as_str()), (code, text), "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn what_is_no_reply_is_malformed_and_half_a_reply_is_none() {
        for bytes in
            [&b"\r\n"[..], b"25\r\n", b"2500 ok\r\n", b"150 no\r\n", b"650 no\r\n", b"hello\r\n", b"25x", b"\x80"]
        {
            assert_eq!(read(bytes), Err(Malformed), "{}", bytes.escape_ascii());
        }
        for bytes in [&b"250-a\r\n550 b\r\n"[..], b"250-a\r\nb\r\n", b" 250 a\r\n", b"250_a"] {
            assert_eq!(read(bytes), Err(Malformed), "{}", bytes.escape_ascii());
        }
        for bytes in [&b""[..], b"2", b"250", b"250 ok", b"250 ok\r", b"250-ok\r\n", b"250-ok\r\n250 "] {
            assert_eq!(read(bytes), Ok(None), "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn replies_have_a_longest_line_and_a_longest_length() {
        let line = |len: usize| [b"250-".to_vec(), vec![b'a'; len - 6], b"\r\n".to_vec()].concat();
        assert_eq!(read(&line(LINE_BYTES_MAX)), Ok(None));
        assert_eq!(read(&line(LINE_BYTES_MAX + 1)), Err(Malformed));
        assert_eq!(read(&line(LINE_BYTES_MAX + 1)[..LINE_BYTES_MAX]), Err(Malformed));
        assert_eq!(read(&line(1_000).repeat(65)), Ok(None));
        assert_eq!(read(&line(1_000).repeat(66)), Err(Malformed));
    }

    #[test]
    fn two_replies_at_once_come_out_one_by_one() {
        let mut buffer = ReplyBuffer::default();
        buffer.push(b"250-a\r\n250 b\r\n354 go\r\n4");
        assert_eq!(buffer.take().map(|reply| reply.map(|reply| reply.code)), Ok(Some(250)));
        assert_eq!(buffer.take().map(|reply| reply.map(|reply| reply.code)), Ok(Some(354)));
        assert_eq!(buffer.take(), Ok(None));
        assert!(!buffer.is_empty());
    }

    proptest! {
        #[test]
        fn it_makes_no_difference_how_the_bytes_arrive(bytes in "[25 \\-a\r\n]{0,30}", cut in 0usize..30) {
            let whole = read(bytes.as_bytes());
            let mut buffer = ReplyBuffer::default();
            let (first, second) = bytes.as_bytes().split_at(cut.min(bytes.len()));
            buffer.push(first);
            let mut parts = buffer.take();
            if parts == Ok(None) {
                buffer.push(second);
                parts = buffer.take();
            }
            prop_assert_eq!(parts, whole);
        }
    }
}
