//! A finished message that comes in pieces: line ends become CRLF as in [`crate::wire`], and what may not be on the wire is
//! found with its line, without ever holding more than a piece.

use crate::{error::Error, wire::LINE_BYTES_MAX};

/// Normalises the line ends of a message that comes in pieces of any size.
#[derive(Debug)]
pub struct Normaliser {
    after_cr: bool,
    line: usize,
    line_bytes: usize,
}

impl Default for Normaliser {
    fn default() -> Self {
        Self { after_cr: false, line: 1, line_bytes: 0 }
    }
}

impl Normaliser {
    /// Appends what these bytes become.
    ///
    /// # Errors
    /// A line that is too long, a NUL: never repaired.
    pub fn push(&mut self, mut bytes: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
        while let Some(first) = bytes.first() {
            if std::mem::take(&mut self.after_cr) && *first == b'\n' {
                bytes = &bytes[1..];
                continue;
            }
            let end = memchr::memchr2(b'\r', b'\n', bytes).unwrap_or(bytes.len());
            let text = &bytes[..end];
            let refuse = |what| Err(Error::Raw { what, line: self.line });
            if memchr::memchr(0, text).is_some() {
                return refuse("a NUL byte");
            }
            if self.line_bytes + text.len() > LINE_BYTES_MAX {
                return refuse("more than 998 bytes");
            }
            out.extend_from_slice(text);
            self.line_bytes += text.len();
            let Some(byte) = bytes.get(end) else { break };
            out.extend_from_slice(b"\r\n");
            (self.after_cr, self.line, self.line_bytes) = (*byte == b'\r', self.line + 1, 0);
            bytes = &bytes[end + 1..];
        }
        Ok(())
    }

    /// A last line without an end gets one.
    pub fn finish(&self, out: &mut Vec<u8>) {
        if self.line_bytes > 0 {
            out.extend_from_slice(b"\r\n");
        }
    }
}

/// Where the header section of a message ends, behind its empty line; the message has only CRLF line ends.
#[must_use]
pub fn head_end(message: &[u8]) -> Option<usize> {
    match message.starts_with(b"\r\n") {
        true => Some(2),
        false => memchr::memmem::find(message, b"\r\n\r\n").map(|at| at + 4),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire;

    proptest! {
        #[test]
        fn pieces_become_what_the_whole_becomes(
            text in "([\r\n\0aé]|\r\n|a{990,1000}\r\n){0,12}",
            cuts in prop::collection::vec(1usize..300, 0..20),
        ) {
            let (mut stream, mut out, mut left) = (Normaliser::default(), Vec::new(), text.as_bytes());
            let mut pushed = Ok(());
            for cut in cuts {
                let (piece, rest) = left.split_at(cut.min(left.len()));
                pushed = pushed.and_then(|()| stream.push(piece, &mut out));
                left = rest;
            }
            pushed = pushed.and_then(|()| stream.push(left, &mut out));
            let whole = wire::crlf(text.as_bytes());
            match (wire::first_fault(&whole), pushed) {
                (None, Ok(())) => {
                    stream.finish(&mut out);
                    let end = if whole.is_empty() || whole.ends_with(b"\r\n") { "" } else { "\r\n" };
                    prop_assert_eq!(&out[..], &[&whole[..], end.as_bytes()].concat()[..]);
                }
                (Some((_, line)), Err(Error::Raw { line: found, .. })) => prop_assert_eq!(line, found),
                (fault, pushed) => prop_assert!(false, "{fault:?} {pushed:?}"),
            }
        }
    }
}
