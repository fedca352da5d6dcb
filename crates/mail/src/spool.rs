//! A message that is too large for memory: its bytes as they go on the wire, in a file that has no name.
//!
//! The file is unlinked before the first byte is written, so nothing is left behind by a crash, and nobody else can open
//! or change it: what was hashed is what is transmitted. It takes what [`Message::new`](crate::Message::new) would have
//! made of the same bytes, piece by piece (a test compares the two).

use std::{
    fs::File,
    io::{self, Write as _},
    path::Path,
    sync::Arc,
};

use hapax_core::mutant;

/// The rules of the wire, line by line, for bytes that come in pieces of any size: CRLF, bare CR and bare LF are one line
/// end each, a dot at the beginning of a line is doubled. A line end is written when the next line begins, so the last
/// one never is: it belongs to the end marker.
#[derive(Clone, Debug)]
pub(crate) struct Lines {
    /// The last byte was a CR: a LF belongs to it.
    after_cr: bool,
    /// A line has ended, the next has not begun.
    ended: bool,
    /// Nothing of the line has been written.
    at_start: bool,
    line: usize,
    longest: usize,
    stuffed: usize,
    ascii: bool,
}

impl Default for Lines {
    fn default() -> Self {
        Self { after_cr: false, ended: false, at_start: true, line: 0, longest: 0, stuffed: 0, ascii: true }
    }
}

impl Lines {
    /// Appends what these bytes become.
    pub(crate) fn push(&mut self, mut bytes: &[u8], out: &mut Vec<u8>) {
        while let Some(first) = bytes.first() {
            if std::mem::take(&mut self.after_cr) && *first == b'\n' {
                bytes = &bytes[1..];
                continue;
            }
            let end = memchr::memchr2(b'\r', b'\n', bytes).unwrap_or(bytes.len());
            // What the line before has left open.
            if std::mem::take(&mut self.ended) {
                out.extend_from_slice(b"\r\n");
                (self.at_start, self.line) = (true, 0);
            }
            if end > 0 {
                self.text(&bytes[..end], out);
            }
            let Some(byte) = bytes.get(end) else { break };
            (self.after_cr, self.ended) = (*byte == b'\r', true);
            bytes = &bytes[end + 1..];
        }
    }

    fn text(&mut self, text: &[u8], out: &mut Vec<u8>) {
        if std::mem::take(&mut self.at_start) && text[0] == b'.' && !mutant::is("dots_not_stuffed") {
            out.push(b'.');
            self.stuffed += 1;
        }
        out.extend_from_slice(text);
        self.line += text.len();
        self.longest = self.longest.max(self.line);
        self.ascii &= text.is_ascii();
    }

    pub(crate) fn longest(&self) -> usize {
        self.longest
    }

    pub(crate) fn stuffed(&self) -> usize {
        self.stuffed
    }

    pub(crate) fn is_ascii(&self) -> bool {
        self.ascii
    }
}

/// Takes the part of a message that does not stay in memory.
#[derive(Debug)]
pub struct Spool {
    file: File,
    lines: Lines,
    len: usize,
    out: Vec<u8>,
}

/// What was spooled, complete. It must not be empty and must begin at the beginning of a line.
#[derive(Clone, Debug)]
pub struct Spooled {
    pub(crate) file: Arc<File>,
    pub(crate) lines: Lines,
    pub(crate) len: usize,
}

impl Spool {
    /// A file without a name in this directory.
    ///
    /// # Errors
    /// It cannot be made there.
    pub fn new(directory: &Path) -> io::Result<Self> {
        let file = tempfile::tempfile_in(directory)?;
        Ok(Self { file, lines: Lines::default(), len: 0, out: Vec::new() })
    }

    /// Appends a piece of the message, of any size, cut anywhere.
    ///
    /// # Errors
    /// The disk is full, or fails.
    pub fn push(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.out.clear();
        self.lines.push(bytes, &mut self.out);
        self.file.write_all(&self.out)?;
        self.len += self.out.len();
        Ok(())
    }

    /// How much has been spooled.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.len
    }

    /// No more is to come.
    #[must_use]
    pub fn finish(self) -> Spooled {
        Spooled { file: Arc::new(self.file), lines: self.lines, len: self.len }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::Message;

    proptest! {
        #[test]
        fn a_spooled_message_is_the_message_in_memory(
            head in "(A: [.a]{0,9}(\r\n|\n)){1,4}",
            body in "([\r\n.aé]|\r\n|\n\\.|a{40,80}){1,60}",
            cuts in prop::collection::vec(1usize..40, 0..30),
        ) {
            let head = format!("{head}\r\n");
            let directory = tempfile::tempdir().expect("a directory");
            let mut spool = Spool::new(directory.path()).expect("a spool");
            let mut left = body.as_bytes();
            for cut in cuts {
                let (piece, rest) = left.split_at(cut.min(left.len()));
                spool.push(piece).expect("written");
                left = rest;
            }
            spool.push(left).expect("written");
            let (spooled, whole) =
                (Message::with_spooled(head.as_bytes(), &spool.finish()), Message::new(format!("{head}{body}").as_bytes()));
            let mut wire = spooled.wire_bytes().to_vec();
            wire.resize(spooled.wire_len(), 0);
            let at = spooled.wire_bytes().len();
            prop_assert_eq!(spooled.read_at(at, &mut wire[at..]).expect("read"), spooled.wire_len() - at);
            prop_assert_eq!(&wire[..], whole.wire_bytes());
            prop_assert_eq!(spooled.sha256().expect("read"), whole.sha256().expect("in memory"));
            prop_assert_eq!(spooled.content().expect("read"), whole.content().expect("in memory"));
            prop_assert_eq!(
                (spooled.size(), spooled.longest_line(), spooled.is_ascii()),
                (whole.size(), whole.longest_line(), whole.is_ascii())
            );
            prop_assert!(std::fs::read_dir(directory.path()).expect("listed").next().is_none(), "the file has no name");
        }
    }
}
