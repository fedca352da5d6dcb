//! The bytes of the server side of SMTP: lines, paths, and the body up to its end marker.
//!
//! Shared by the catcher and by the scripted server of the testkit. Invariant: only CRLF.CRLF ends a body (RFC 5321
//! 4.1.1.4); a bare LF or CR is data, whatever the next byte is.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt};

const READ_BYTES: usize = 16 * 1024;

/// Finds the end marker in a stream of chunks, and undoes dot-stuffing on the way.
#[derive(Clone, Debug, Default)]
pub struct DotDecoder {
    state: State,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    /// After CRLF, or at the very start.
    #[default]
    LineStart,
    Data,
    /// After CR.
    Cr,
    /// After a dot at the start of a line; the dot is not passed on.
    Dot,
    /// After a dot at the start of a line and CR.
    DotCr,
}

impl DotDecoder {
    /// A decoder at the start of a body.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes bytes from `input`, appends the decoded ones to `output`, and returns how many were taken and whether the
    /// last of them completed the end marker. Everything is taken unless the marker comes before the end of `input`.
    pub fn feed(&mut self, input: &[u8], output: &mut Vec<u8>) -> (usize, bool) {
        let mut taken = 0;
        while let Some(&byte) = input.get(taken) {
            if self.state == State::Data {
                // The common case in one stride: everything up to the next CR.
                let run = input[taken..].iter().position(|byte| *byte == b'\r').unwrap_or(input.len() - taken);
                output.extend_from_slice(&input[taken..taken + run]);
                taken += run;
                if taken < input.len() {
                    output.push(b'\r');
                    taken += 1;
                    self.state = State::Cr;
                }
                continue;
            }
            taken += 1;
            if self.step(byte, output) {
                return (taken, true);
            }
        }
        (taken, false)
    }

    fn step(&mut self, byte: u8, output: &mut Vec<u8>) -> bool {
        match (self.state, byte) {
            (State::LineStart, b'.') => {
                self.state = State::Dot;
                return false;
            }
            (State::Dot, b'\r') => {
                self.state = State::DotCr;
                return false;
            }
            (State::DotCr, b'\n') => return true,
            // Not a marker after all: the CR was data.
            (State::DotCr, _) => {
                output.push(b'\r');
                self.state = State::Cr;
            }
            _ => {}
        }
        output.push(byte);
        self.state = match (self.state, byte) {
            (State::Cr, b'\n') => State::LineStart,
            (_, b'\r') => State::Cr,
            _ => State::Data,
        };
        false
    }
}

/// A command line without its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// The bytes before the line end.
    pub bytes: Vec<u8>,
    /// Whether it ended in CRLF, as it must, or in a bare LF.
    pub crlf: bool,
}

impl Line {
    /// The line as text; bytes that are no UTF-8 are replaced.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }
}

/// A reader of lines and raw chunks over one buffer.
#[derive(Debug)]
pub struct LineReader<R> {
    reader: R,
    buffer: Vec<u8>,
    start: usize,
}

impl<R: AsyncRead + Unpin> LineReader<R> {
    /// A reader with an empty buffer.
    pub fn new(reader: R) -> Self {
        Self { reader, buffer: Vec::new(), start: 0 }
    }

    /// What has been read from the socket and not been taken yet.
    #[must_use]
    pub fn buffered(&self) -> &[u8] {
        &self.buffer[self.start..]
    }

    /// Takes `count` of the buffered bytes.
    ///
    /// # Panics
    /// When fewer are buffered.
    pub fn consume(&mut self, count: usize) {
        assert!(count <= self.buffered().len(), "cannot consume what is not buffered");
        self.start += count;
        if self.start == self.buffer.len() {
            self.buffer.clear();
            self.start = 0;
        }
    }

    /// Waits for more bytes in the buffer; 0 at the end of the stream. Cancel safe.
    ///
    /// # Errors
    /// What the stream returns.
    pub async fn fill(&mut self) -> io::Result<usize> {
        if self.start > READ_BYTES {
            self.buffer.drain(..self.start);
            self.start = 0;
        }
        self.buffer.reserve(READ_BYTES);
        self.reader.read_buf(&mut self.buffer).await
    }

    /// The next line, or `None` at the end of the stream (a last line without an end is dropped). Cancel safe.
    ///
    /// # Errors
    /// What the stream returns, and `InvalidData` for a line longer than `line_bytes_max`.
    pub async fn line(&mut self, line_bytes_max: usize) -> io::Result<Option<Line>> {
        let mut searched = 0;
        loop {
            let pending = self.buffered();
            if let Some(offset) = pending[searched..].iter().position(|byte| *byte == b'\n') {
                let end = searched + offset;
                let crlf = end > 0 && pending[end - 1] == b'\r';
                let bytes = pending[..end - usize::from(crlf)].to_vec();
                self.consume(end + 1);
                return Ok(Some(Line { bytes, crlf }));
            }
            searched = pending.len();
            if searched > line_bytes_max {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "command line too long"));
            }
            if self.fill().await? == 0 {
                return Ok(None);
            }
        }
    }

    /// Whether a whole line is buffered: the client has pipelined, and replies may wait for each other.
    #[must_use]
    pub fn has_line(&self) -> bool {
        self.buffered().contains(&b'\n')
    }

    /// The stream and what was buffered from it.
    pub fn into_parts(self) -> (R, Vec<u8>) {
        let rest = self.buffered().to_vec();
        (self.reader, rest)
    }

    /// The stream.
    pub fn get_mut(&mut self) -> &mut R {
        &mut self.reader
    }
}

/// The first word of a command in capitals, and the rest.
#[must_use]
pub fn split_command(line: &str) -> (String, &str) {
    let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
    (verb.trim_end().to_ascii_uppercase(), rest.trim())
}

/// The address and the parameters of `FROM:<a@b> SIZE=1` or `TO:<a@b>`; `None` when it is malformed.
#[must_use]
pub fn parse_path<'a>(keyword: &str, rest: &'a str) -> Option<(&'a str, Vec<&'a str>)> {
    let prefix = rest.get(..keyword.len())?;
    if !prefix.eq_ignore_ascii_case(keyword) {
        return None;
    }
    let path = rest[keyword.len()..].trim_start().strip_prefix('<')?;
    // A quoted local part may hold '>', so the path ends at the last one before the parameters.
    let end = if path.starts_with('"') {
        path.find("\"@").and_then(|at| Some(at + path[at..].find('>')?))
    } else {
        path.find('>')
    }?;
    Some((&path[..end], path[end + 1..].split_whitespace().collect()))
}

/// The value of the first header called `name` (in any case) of a message, unfolded.
#[must_use]
pub fn header(message: &[u8], name: &str) -> Option<String> {
    let mut value: Option<String> = None;
    for line in message.split(|byte| *byte == b'\n') {
        let line = String::from_utf8_lossy(line.strip_suffix(b"\r").unwrap_or(line)).into_owned();
        match &mut value {
            // A folded line goes on; anything else ends the header that was found.
            Some(value) if line.starts_with([' ', '\t']) => value.push_str(&line),
            Some(_) => break,
            None if line.is_empty() => break,
            None => {
                if let Some((key, rest)) = line.split_once(':')
                    && key.trim_end().eq_ignore_ascii_case(name)
                {
                    value = Some(rest.to_owned());
                }
            }
        }
    }
    value.map(|value| value.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Decodes in chunks of every size, and checks that the size makes no difference.
    fn decode(input: &[u8]) -> (Vec<u8>, Option<usize>) {
        let results: Vec<_> = (1..=input.len().max(1))
            .map(|size| {
                let (mut decoder, mut output, mut total) = (DotDecoder::new(), Vec::new(), 0);
                for chunk in input.chunks(size) {
                    let (taken, done) = decoder.feed(chunk, &mut output);
                    total += taken;
                    if done {
                        return (output, Some(total));
                    }
                }
                (output, None)
            })
            .collect();
        assert!(results.windows(2).all(|pair| pair[0] == pair[1]), "chunking changes {input:?}");
        results.into_iter().next().unwrap()
    }

    #[test]
    fn bodies_are_decoded_and_only_crlf_dot_crlf_ends_them() {
        let cases: &[(&[u8], &[u8], Option<usize>)] = &[
            (b".\r\n", b"", Some(3)),
            (b"a\r\n.\r\nQUIT\r\n", b"a\r\n", Some(6)),
            (b"a\r\n..\r\n.\r\n", b"a\r\n.\r\n", Some(10)),
            (b"a\r\n...b\r\n.\r\n", b"a\r\n..b\r\n", Some(12)),
            (b"a\n.\n", b"a\n.\n", None),
            (b"a\r\n.\nb", b"a\r\n\nb", None),
            (b"a\n.\r\nb", b"a\n.\r\nb", None),
            (b"a\r.\r\n", b"a\r.\r\n", None),
            (b"a\r\n.\rb", b"a\r\n\rb", None),
            (b"a\r\n.\r\r\n.\r\n", b"a\r\n\r\r\n", Some(10)),
            (b"a\r\r\n.\r\n", b"a\r\r\n", Some(7)),
            (b"a.\r\n.\r\n", b"a.\r\n", Some(7)),
        ];
        for (input, expected, taken) in cases {
            assert_eq!(decode(input), (expected.to_vec(), *taken), "{:?}", String::from_utf8_lossy(input));
        }
    }

    #[test]
    fn paths_are_parsed_with_their_parameters() {
        assert_eq!(parse_path("FROM:", "FROM:<a@b> SIZE=1 SMTPUTF8"), Some(("a@b", vec!["SIZE=1", "SMTPUTF8"])));
        assert_eq!(parse_path("TO:", "to: <a@b>"), Some(("a@b", vec![])));
        assert_eq!(parse_path("FROM:", "FROM:<>"), Some(("", vec![])));
        assert_eq!(parse_path("TO:", "TO:<\"x>y\"@b>"), Some(("\"x>y\"@b", vec![])));
        assert_eq!(parse_path("TO:", "TO:a@b"), None);
        assert_eq!(parse_path("TO:", "FROM:<a@b>"), None);
    }

    #[test]
    fn headers_are_found_in_any_case_unfolded_and_not_in_the_body() {
        let message = b"Subject: a\r\n b\r\nMESSAGE-ID:\r\n <x@y>\r\n\r\nX-Late: no\r\n";
        assert_eq!(header(message, "subject").as_deref(), Some("a b"));
        assert_eq!(header(message, "Message-ID").as_deref(), Some("<x@y>"));
        assert_eq!(header(message, "X-Late"), None);
    }

    #[tokio::test]
    async fn lines_tell_how_they_ended_and_have_a_limit() {
        let mut reader = LineReader::new(&b"EHLO x\r\nbare\n\r\nlast"[..]);
        let mut next = async || reader.line(10).await.unwrap().map(|line| (line.text(), line.crlf));
        assert_eq!(next().await, Some(("EHLO x".into(), true)));
        assert_eq!(next().await, Some(("bare".into(), false)));
        assert_eq!(next().await, Some((String::new(), true)));
        assert_eq!(next().await, None);
        let long = [b'x'; 100];
        assert!(LineReader::new(&long[..]).line(10).await.is_err());
    }
}
