//! The half of [`Freight`](super::Freight) that blocks: pieces into the spool, with everything that must be known of them.

use std::{fs::File, io::Read as _};

use hapax_mail::{Spool, Spooled};
use hapax_render::{
    Normaliser,
    dkim::{BodyHash, BodyHasher},
    head_end,
};
use sha2::{Digest, Sha256};
use tokio::sync::mpsc::Receiver;

use super::{FreightConfig, Piece, Trouble};

/// A line of base64 (RFC 2045 section 6.8), and what it encodes.
const LINE_CHARACTERS: usize = 76;
const LINE_BYTES: usize = 57;
/// How much of a file is read at once: whole lines.
const FILE_PIECE_BYTES: usize = LINE_BYTES * 2048;
/// The longest header section.
const HEAD_BYTES_MAX: usize = 1 << 20;

/// What came of it.
pub(super) struct Assembled {
    /// Of a finished message only: its header section, with the empty line.
    pub(super) head: Vec<u8>,
    pub(super) body: Option<Spooled>,
    pub(super) body_hash: BodyHash,
}

pub(super) struct Assembly {
    spool: Spool,
    hash: BodyHasher,
    bytes_max: u64,
    /// The beginning of a finished message, until its header section has ended.
    head: Option<Vec<u8>>,
    complete_head: Vec<u8>,
    normaliser: Normaliser,
    content: ContentState,
}

/// The content that is being written.
#[derive(Default)]
struct ContentState {
    has_lines: bool,
    left: Vec<u8>,
    sha256: Sha256,
}

impl Assembly {
    pub(super) fn new(config: &FreightConfig, is_raw: bool) -> Result<Self, Trouble> {
        let spool = Spool::new(&config.spool_directory).map_err(|error| {
            Trouble::Later(format!("cannot write into relay.spool_directory: {}", error.to_string().to_lowercase()))
        })?;
        Ok(Self {
            spool,
            hash: BodyHasher::new(),
            bytes_max: config.message_bytes_max,
            head: is_raw.then(Vec::new),
            complete_head: Vec::new(),
            normaliser: Normaliser::default(),
            content: ContentState::default(),
        })
    }

    /// Writes what comes, until no more does.
    pub(super) fn run(mut self, mut pieces: Receiver<Piece>) -> Result<Assembled, Trouble> {
        let is_raw = self.head.is_some();
        while let Some(piece) = pieces.blocking_recv() {
            match piece {
                Piece::Text(text) if is_raw => self.raw(&text)?,
                Piece::Text(text) => self.text(&text)?,
                Piece::Base64(text) => self.lines(&text)?,
                Piece::Binary(bytes) => self.binary(&bytes)?,
                Piece::File(file) => self.file(file)?,
                Piece::End(expected) => self.end(expected)?,
            }
        }
        if is_raw {
            let mut end = Vec::new();
            self.normaliser.finish(&mut end);
            if let Some(mut head) = self.head.take() {
                // Only a header section: the empty line may be missing.
                head.extend_from_slice(&end);
                self.complete_head = head;
            } else {
                self.text(&end)?;
            }
        }
        let empty = self.spool.bytes() == 0;
        let body_hash = self.hash.finish();
        Ok(Assembled { head: self.complete_head, body: (!empty).then(|| self.spool.finish()), body_hash })
    }

    fn text(&mut self, text: &[u8]) -> Result<(), Trouble> {
        if (self.spool.bytes() + text.len()) as u64 > self.bytes_max {
            let limit = self.bytes_max;
            return Err(Trouble::Never(format!("the message has more than {limit} bytes")));
        }
        self.hash.update(text);
        self.spool.push(text).map_err(|error| {
            Trouble::Later(format!("cannot write into relay.spool_directory: {}", error.to_string().to_lowercase()))
        })
    }

    fn raw(&mut self, text: &[u8]) -> Result<(), Trouble> {
        let mut normal = Vec::with_capacity(text.len() + text.len() / 16);
        self.normaliser.push(text, &mut normal).map_err(|error| Trouble::Never(error.to_string()))?;
        let Some(head) = &mut self.head else { return self.text(&normal) };
        head.extend_from_slice(&normal);
        match head_end(head) {
            Some(end) => {
                let mut head = self.head.take().unwrap_or_default();
                let body = head.split_off(end);
                self.complete_head = head;
                self.text(&body)
            }
            None if head.len() > HEAD_BYTES_MAX => {
                Err(Trouble::Never("the raw message has no end of its header section within 1 MiB".into()))
            }
            None => Ok(()),
        }
    }

    /// Base64 text into lines. A content's first line begins where it is put; the last has no end.
    fn lines(&mut self, text: &[u8]) -> Result<(), Trouble> {
        let mut out = Vec::with_capacity(text.len() + text.len() / 38 + 2);
        for line in text.chunks(LINE_CHARACTERS) {
            if std::mem::replace(&mut self.content.has_lines, true) {
                out.extend_from_slice(b"\r\n");
            }
            out.extend_from_slice(line);
        }
        self.text(&out)
    }

    fn binary(&mut self, bytes: &[u8]) -> Result<(), Trouble> {
        self.content.sha256.update(bytes);
        let mut whole = std::mem::take(&mut self.content.left);
        whole.extend_from_slice(bytes);
        self.content.left = whole.split_off(whole.len() / LINE_BYTES * LINE_BYTES);
        self.encode(&whole)
    }

    fn encode(&mut self, bytes: &[u8]) -> Result<(), Trouble> {
        use base64::Engine as _;
        let text = base64::engine::general_purpose::STANDARD.encode(bytes);
        if text.is_empty() { Ok(()) } else { self.lines(text.as_bytes()) }
    }

    fn file(&mut self, mut file: File) -> Result<(), Trouble> {
        let mut piece = vec![0; FILE_PIECE_BYTES];
        loop {
            match file.read(&mut piece) {
                Ok(0) => return Ok(()),
                Ok(got) => self.binary(&piece[..got])?,
                Err(error) => {
                    return Err(Trouble::Later(format!("an attachment's file: {}", error.to_string().to_lowercase())));
                }
            }
        }
    }

    fn end(&mut self, expected: Option<[u8; 32]>) -> Result<(), Trouble> {
        let left = std::mem::take(&mut self.content.left);
        self.encode(&left)?;
        let state = std::mem::take(&mut self.content);
        let found: [u8; 32] = state.sha256.finalize().into();
        match expected {
            Some(expected) if expected != found => Err(Trouble::Later(
                "an attachment's content is not what its sha256 says (it may have been replaced)".into(),
            )),
            _ => Ok(()),
        }
    }
}
