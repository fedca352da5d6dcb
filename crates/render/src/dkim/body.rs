//! The hash of a body in its relaxed form (RFC 6376 section 3.4.4), while the body passes in pieces.
//!
//! Invariant: the hash depends on the body only, not on how it was cut. Memory is bounded whatever the body is.

use aws_lc_rs::digest;

/// How much is collected before it is hashed.
const CHUNK_BYTES: usize = 16 * 1024;

/// SHA-256 of the canonical body (`bh=`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BodyHash(pub(super) [u8; 32]);

/// Hashes a body: CRLF line ends, not dot-stuffed, in pieces of any size.
pub struct BodyHasher {
    hash: digest::Context,
    chunk: Vec<u8>,
    /// Line ends that count only if something follows.
    line_ends: u64,
    /// White space that counts, as one space, only if something follows on its line.
    space: bool,
    /// The last piece ended with a CR.
    cr: bool,
    /// Something that is not white space or a line end has come.
    is_filled: bool,
}

impl std::fmt::Debug for BodyHasher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BodyHasher").finish_non_exhaustive()
    }
}

impl Default for BodyHasher {
    fn default() -> Self {
        Self::new()
    }
}

impl BodyHasher {
    /// Of nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self {
            hash: digest::Context::new(&digest::SHA256),
            chunk: Vec::with_capacity(CHUNK_BYTES),
            line_ends: 0,
            space: false,
            cr: false,
            is_filled: false,
        }
    }

    /// The next piece.
    pub fn update(&mut self, piece: &[u8]) {
        let mut rest = piece;
        if self.cr && !rest.is_empty() {
            self.cr = false;
            match rest.strip_prefix(b"\n") {
                Some(after) => {
                    self.line_end();
                    rest = after;
                }
                None => self.text(b"\r"),
            }
        }
        while !rest.is_empty() {
            let end = memchr::memchr3(b' ', b'\t', b'\r', rest).unwrap_or(rest.len());
            let (text, special) = rest.split_at(end);
            self.text(text);
            rest = match special {
                [] => special,
                [b'\r'] => {
                    self.cr = true;
                    &special[1..]
                }
                [b'\r', b'\n', after @ ..] => {
                    self.line_end();
                    after
                }
                // Alone it is text; the renderer lets none through.
                [b'\r', after @ ..] => {
                    self.text(b"\r");
                    after
                }
                [_, after @ ..] => {
                    self.space = true;
                    after
                }
            };
        }
    }

    /// The hash of everything.
    #[must_use]
    pub fn finish(mut self) -> BodyHash {
        if self.cr {
            self.text(b"\r");
        }
        // An empty body stays empty; another one ends with exactly one line end.
        if self.is_filled {
            self.put(b"\r\n");
        }
        self.hash.update(&self.chunk);
        let mut hash = [0; 32];
        hash.copy_from_slice(self.hash.finish().as_ref());
        BodyHash(hash)
    }

    fn line_end(&mut self) {
        self.space = false;
        self.line_ends += 1;
    }

    fn text(&mut self, text: &[u8]) {
        if text.is_empty() {
            return;
        }
        self.is_filled = true;
        for _ in 0..std::mem::take(&mut self.line_ends) {
            self.put(b"\r\n");
        }
        if std::mem::take(&mut self.space) {
            self.put(b" ");
        }
        self.put(text);
    }

    fn put(&mut self, bytes: &[u8]) {
        if self.chunk.len() + bytes.len() > CHUNK_BYTES {
            self.hash.update(&self.chunk);
            self.chunk.clear();
            if bytes.len() >= CHUNK_BYTES {
                self.hash.update(bytes);
                return;
            }
        }
        self.chunk.extend_from_slice(bytes);
    }
}
