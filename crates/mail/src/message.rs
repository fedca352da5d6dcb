//! An RFC 5322 message as it goes on the wire: line ends normalised first, dots stuffed second (PROTOCOL 4.2).
//!
//! The order matters: `LF . LF` and `CR . CR` are end markers for lenient servers, and stuffing only after a real CRLF
//! would let them through ("SMTP smuggling"). After normalisation there is no bare CR and no bare LF left, so every
//! dot at the start of anything any server might take for a line is doubled.
//!
//! Invariant: the wire bytes contain no line that is a lone dot, whichever of CR, LF and CRLF a server takes for a line
//! end, and do not end with the last line's CRLF: that belongs to the end marker ([`MARKER`]).
//!
//! A large message has only its beginning in memory; the rest lies in a file without a name ([`crate::Spool`]).

use std::{fs::File, io, os::unix::fs::FileExt, sync::Arc};

use hapax_core::mutant;
use sha2::{Digest, Sha256};

use crate::spool::{Lines, Spooled};

/// The end of every message: its last line end, and the lone dot (RFC 5321 section 4.1.1.4).
pub const MARKER: &[u8] = b"\r\n.\r\n";

/// How much of a spool is in memory at once.
pub(crate) const PIECE_BYTES: usize = 128 << 10;

/// A message ready for the wire.
#[derive(Clone)]
pub struct Message {
    wire: Vec<u8>,
    rest: Option<Rest>,
    ascii: bool,
    longest_line: usize,
    stuffed: usize,
}

/// What follows the bytes in memory.
#[derive(Clone)]
struct Rest {
    file: Arc<File>,
    len: usize,
}

impl std::fmt::Debug for Message {
    /// Never the content.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Message")
            .field("wire_len", &self.wire_len())
            .field("ascii", &self.ascii)
            .finish_non_exhaustive()
    }
}

impl Message {
    /// Normalises and stuffs `raw`: each CRLF, bare CR and bare LF is one line end. A message without a line end at its
    /// end gets one, because the protocol cannot carry it otherwise; an empty message is one empty line.
    #[must_use]
    pub fn new(raw: &[u8]) -> Self {
        let stuff = !mutant::is("dots_not_stuffed");
        let mut wire = Vec::with_capacity(raw.len() + raw.len() / 64 + 16);
        // Before `copied` all is in `wire`; `line` is where the current line begins.
        let (mut copied, mut line, mut longest_line, mut stuffed) = (0, 0, 0, 0);
        let mut ends = memchr::memchr2_iter(b'\r', b'\n', raw);
        loop {
            let end = ends.next();
            if raw.get(line) == Some(&b'.') && stuff {
                wire.extend_from_slice(&raw[copied..line]);
                wire.push(b'.');
                copied = line;
                stuffed += 1;
            }
            let content_end = end.unwrap_or(raw.len());
            longest_line = longest_line.max(content_end - line);
            let Some(end) = end else { break };
            let crlf = raw[end..].starts_with(b"\r\n");
            if crlf {
                ends.next();
            }
            line = end + if crlf { 2 } else { 1 };
            if line == raw.len() {
                wire.extend_from_slice(&raw[copied..end]);
                copied = line;
                break;
            }
            if !crlf {
                wire.extend_from_slice(&raw[copied..end]);
                wire.extend_from_slice(b"\r\n");
                copied = line;
            }
        }
        wire.extend_from_slice(&raw[copied..]);
        let ascii = wire.is_ascii();
        Self { wire, rest: None, ascii, longest_line, stuffed }
    }

    /// `head` (whole lines: the header section and its empty line) in memory, followed by what was spooled.
    #[must_use]
    pub fn with_spooled(head: &[u8], spooled: &Spooled) -> Self {
        let mut lines = Lines::default();
        let mut wire = Vec::with_capacity(head.len() + 64);
        lines.push(head, &mut wire);
        // Its last line end separates it from what follows.
        wire.extend_from_slice(b"\r\n");
        let ascii = wire.is_ascii() && spooled.lines.is_ascii();
        Self {
            wire,
            rest: Some(Rest { file: spooled.file.clone(), len: spooled.len }),
            ascii,
            longest_line: lines.longest().max(spooled.lines.longest()),
            stuffed: lines.stuffed() + spooled.lines.stuffed(),
        }
    }

    /// The bytes between the 354 and the end marker, as far as they are in memory: all of them, or the beginning.
    #[must_use]
    pub fn wire_bytes(&self) -> &[u8] {
        &self.wire
    }

    /// Whether all of it is in memory.
    #[must_use]
    pub fn is_in_memory(&self) -> bool {
        self.rest.is_none()
    }

    /// The hash of all bytes between the 354 and the end marker: what is compared between attempts. Reads the spool.
    ///
    /// # Errors
    /// The spool cannot be read.
    pub fn sha256(&self) -> io::Result<[u8; 32]> {
        let mut hash = Sha256::new_with_prefix(&self.wire);
        let mut piece = vec![0; self.rest.as_ref().map_or(0, |_| PIECE_BYTES)];
        let mut at = self.wire.len();
        while at < self.wire_len() {
            let got = self.read_at(at, &mut piece)?;
            hash.update(&piece[..got]);
            at += got;
        }
        Ok(hash.finalize().into())
    }

    /// Some of the bytes behind those in memory, from `at` of all: never none before the end.
    pub(crate) fn read_at(&self, at: usize, piece: &mut [u8]) -> io::Result<usize> {
        let Some(rest) = &self.rest else { return Ok(0) };
        let within = at - self.wire.len();
        let wanted = piece.len().min(rest.len - within);
        rest.file.read_exact_at(&mut piece[..wanted], within as u64)?;
        Ok(wanted)
    }

    /// The message as a server stores it: without the stuffed dots, with its last line end. Into memory, all of it.
    ///
    /// # Errors
    /// The spool cannot be read.
    pub fn content(&self) -> io::Result<Vec<u8>> {
        let mut wire = self.wire.clone();
        wire.resize(self.wire_len(), 0);
        self.read_at(self.wire.len(), &mut wire[self.wire.len()..])?;
        let mut content = Vec::with_capacity(self.size());
        for line in wire.split_inclusive(|byte| *byte == b'\n') {
            content.extend_from_slice(line.strip_prefix(b".").unwrap_or(line));
        }
        content.extend_from_slice(b"\r\n");
        Ok(content)
    }

    /// How many bytes there are between the 354 and the end marker.
    #[must_use]
    pub fn wire_len(&self) -> usize {
        self.wire.len() + self.rest.as_ref().map_or(0, |rest| rest.len)
    }

    /// The size to declare (RFC 1870 section 3): line ends counted as CRLF, stuffed dots and the lone dot not counted.
    #[must_use]
    pub fn size(&self) -> usize {
        self.wire_len() - self.stuffed + 2
    }

    /// Whether the server needs nothing but 7-bit transport.
    #[must_use]
    pub fn is_ascii(&self) -> bool {
        self.ascii
    }

    /// Whether the server must offer 8BITMIME (RFC 6152).
    #[must_use]
    pub fn needs_8bit(&self) -> bool {
        !self.ascii
    }

    /// The longest line in bytes, without its line end; servers need only take 998 (RFC 5321 section 4.5.3.1.6).
    #[must_use]
    pub fn longest_line(&self) -> usize {
        self.longest_line
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn line_ends_are_normalised_before_dots_are_stuffed() {
        let cases: [(&[u8], &[u8]); 16] = [
            (b"", b""),
            (b"\r\n", b""),
            (b"\r\n\r\n", b"\r\n"),
            (b"a", b"a"),
            (b"a\r\n", b"a"),
            (b"a\n", b"a"),
            (b"a\r", b"a"),
            (b"a\r\nb", b"a\r\nb"),
            (b".", b".."),
            (b"..a\r\n.b", b"...a\r\n..b"),
            (b"a\n.\nb", b"a\r\n..\r\nb"),
            (b"a\r.\rb", b"a\r\n..\r\nb"),
            (b"a\r\n.\nb", b"a\r\n..\r\nb"),
            (b"a\n.\r\nb", b"a\r\n..\r\nb"),
            (b"a\r\r\n.\r\r\nb", b"a\r\n\r\n..\r\n\r\nb"),
            (b"a\n\r.\n\rb", b"a\r\n\r\n..\r\n\r\nb"),
        ];
        for (raw, wire) in cases {
            let message = Message::new(raw);
            assert_eq!(message.wire_bytes(), wire, "{}", raw.escape_ascii());
        }
    }

    #[test]
    fn the_declared_size_is_that_of_the_unstuffed_message() {
        assert_eq!(Message::new(b".a\r\n.b\r\n").size(), 8);
        assert_eq!(Message::new(b"a\nb").size(), 6);
        assert_eq!(Message::new(b"").size(), 2);
        let message = Message::new("grüß\n.longer".as_bytes());
        assert!(message.needs_8bit() && !message.is_ascii());
        assert_eq!(message.longest_line(), 7);
    }

    /// Byte by byte, as the rules are written.
    fn plainly(raw: &[u8]) -> (Vec<u8>, usize, usize) {
        let (mut lines, mut line, mut bytes) = (Vec::new(), Vec::new(), raw.iter().copied().peekable());
        while let Some(byte) = bytes.next() {
            match byte {
                b'\r' | b'\n' => {
                    if byte == b'\r' {
                        bytes.next_if_eq(&b'\n');
                    }
                    lines.push(std::mem::take(&mut line));
                }
                other => line.push(other),
            }
        }
        if !line.is_empty() || lines.is_empty() {
            lines.push(line);
        }
        let longest = lines.iter().map(Vec::len).max().unwrap_or(0);
        let stuffed = lines.iter().filter(|line| line.first() == Some(&b'.')).count();
        let on_wire =
            |line: &Vec<u8>| if line.first() == Some(&b'.') { [b".", &line[..]].concat() } else { line.clone() };
        (lines.iter().map(on_wire).collect::<Vec<_>>().join(&b"\r\n"[..]), longest, stuffed)
    }

    proptest! {
        #[test]
        fn it_is_the_same_as_byte_by_byte(raw in "([\r\n.aé]|\r\n|\n\\.|a{40,80}){0,60}") {
            let message = Message::new(raw.as_bytes());
            let (wire, longest, stuffed) = plainly(raw.as_bytes());
            prop_assert_eq!(message.wire_bytes(), &wire[..]);
            prop_assert_eq!((message.longest_line(), message.size()), (longest, wire.len() - stuffed + 2));
            prop_assert_eq!(message.is_ascii(), raw.is_ascii());
        }

        #[test]
        fn nothing_but_the_marker_looks_like_an_end_to_any_server(raw in "[\r\n.a]{0,40}") {
            let mut sent = Message::new(raw.as_bytes()).wire_bytes().to_vec();
            sent.extend_from_slice(MARKER);
            // The most lenient reader there is: CR, LF and CRLF all end a line.
            let text = String::from_utf8(sent).expect("ASCII").replace("\r\n", "\n").replace('\r', "\n");
            let mut lines: Vec<&str> = text.strip_suffix('\n').expect("a last line end").split('\n').collect();
            prop_assert_eq!(lines.pop(), Some("."));
            prop_assert!(!lines.contains(&"."));
            let received: Vec<&str> = lines.iter().map(|line| line.strip_prefix('.').unwrap_or(line)).collect();
            let normal = raw.replace("\r\n", "\n").replace('\r', "\n");
            prop_assert_eq!(received.join("\n"), normal.strip_suffix('\n').unwrap_or(&normal));
        }
    }
}
