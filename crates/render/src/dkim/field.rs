//! Header fields as they are signed (RFC 6376 sections 3.4.2, 3.7 and 5.4), and the `DKIM-Signature` field itself.

use base64::{Engine, engine::general_purpose::STANDARD};

use super::{BodyHash, Key};

/// The fields that are signed where they are there, in the order of `h=`: RFC 6376 section 5.4.1 and what Gmail and
/// Yahoo want to see signed (List-Unsubscribe and List-Unsubscribe-Post, RFC 8058 section 4; Feedback-ID). `true`: once
/// more than they are there.
const SIGNED: [(&str, bool); 18] = [
    ("From", true),
    ("To", true),
    ("Cc", false),
    ("Subject", true),
    ("Date", true),
    ("Message-ID", true),
    ("Reply-To", true),
    ("Sender", false),
    ("In-Reply-To", false),
    ("References", false),
    ("MIME-Version", false),
    ("Content-Type", false),
    ("Content-Transfer-Encoding", false),
    ("List-Id", false),
    ("List-Unsubscribe", false),
    ("List-Unsubscribe-Post", false),
    ("Feedback-ID", false),
    ("Auto-Submitted", false),
];

/// The longest line where there is a choice, in characters.
const LINE_MAX: usize = 76;

/// A field with its continuation lines, without its last CRLF.
pub(super) struct Field<'a> {
    name: &'a [u8],
    value: &'a [u8],
}

impl Field<'_> {
    fn is(&self, name: &str) -> bool {
        self.name.eq_ignore_ascii_case(name.as_bytes())
    }
}

/// The fields of a header, to its end or to the first empty line.
pub(super) fn split(header_section: &[u8]) -> Vec<Field<'_>> {
    let mut fields = Vec::new();
    let mut rest = header_section;
    while !rest.is_empty() && !rest.starts_with(b"\r\n") {
        let end = memchr::memmem::find_iter(rest, b"\r\n")
            .find(|at| !matches!(rest.get(at + 2), Some(b' ' | b'\t')))
            .unwrap_or(rest.len());
        let field = &rest[..end];
        if let Some(colon) = memchr::memchr(b':', field) {
            fields.push(Field { name: field[..colon].trim_ascii_end(), value: &field[colon + 1..] });
        }
        rest = rest.get(end + 2..).unwrap_or_default();
    }
    fields
}

/// The names for `h=`, each as often as it is looked up.
pub(super) fn to_sign(fields: &[Field<'_>]) -> Vec<&'static str> {
    let mut names = Vec::with_capacity(24);
    for (name, once_more) in SIGNED {
        let count = fields.iter().filter(|field| field.is(name)).count();
        names.extend(std::iter::repeat_n(name, count + usize::from(once_more)));
    }
    names
}

/// Domain and selector of the signatures that are there.
pub(super) fn signatures(fields: &[Field<'_>]) -> Vec<(String, String)> {
    fields.iter().filter(|field| field.is("DKIM-Signature")).filter_map(|field| names_of(field.value)).collect()
}

fn names_of(value: &[u8]) -> Option<(String, String)> {
    let text = String::from_utf8_lossy(value);
    let tag = |name: &str| {
        let mut tags = text.split(';').filter_map(|tag| tag.split_once('='));
        let (_, value) = tags.find(|(tag, _)| tag.trim() == name)?;
        Some(value.split_whitespace().collect::<String>())
    };
    Some((tag("d")?, tag("s")?))
}

/// What is signed: the named fields, each name's last one first, then the signature's own field with an empty `b=`.
pub(super) fn signed_data(fields: &[Field<'_>], names: &[&str], unsigned: &str) -> Vec<u8> {
    let mut data = Vec::with_capacity(2048);
    let mut taken: Vec<&str> = Vec::with_capacity(names.len());
    for name in names {
        let before = taken.iter().filter(|taken| taken.eq_ignore_ascii_case(name)).count();
        taken.push(name);
        // One that is not there adds nothing (section 5.4.2).
        if let Some(field) = fields.iter().rev().filter(|field| field.is(name)).nth(before) {
            relaxed(field, &mut data);
            data.extend_from_slice(b"\r\n");
        }
    }
    for field in &split(unsigned.as_bytes()) {
        relaxed(field, &mut data);
    }
    data
}

/// Name in lower case, lines unfolded, white space one space, none at the ends of the value.
pub(super) fn relaxed(field: &Field<'_>, out: &mut Vec<u8>) {
    out.extend(field.name.iter().map(u8::to_ascii_lowercase));
    out.push(b':');
    let (start, mut space) = (out.len(), false);
    let mut bytes = field.value.iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        match byte {
            b' ' | b'\t' => space = true,
            b'\r' if bytes.peek() == Some(&b'\n') => {
                bytes.next();
            }
            _ => {
                if space && out.len() > start {
                    out.push(b' ');
                }
                space = false;
                out.push(byte);
            }
        }
    }
}

/// The field of a signature up to `b=`.
pub(super) fn unsigned(key: &Key, body_hash: &BodyHash, time_s: u64, names: &[&str]) -> Folded {
    let mut field = Folded { text: "DKIM-Signature: v=1;".to_owned(), column: 20 };
    field.word(&format!("a={};", key.algorithm()));
    field.word("c=relaxed/relaxed;");
    field.word(&format!("d={};", key.domain()));
    field.word(&format!("s={};", key.selector()));
    field.word(&format!("t={time_s};"));
    for (index, name) in names.iter().enumerate() {
        let end = if index + 1 == names.len() { ";" } else { ":" };
        match index {
            0 => field.word(&format!("h={name}{end}")),
            _ => field.piece(&format!("{name}{end}")),
        }
    }
    field.word(&format!("bh={};", STANDARD.encode(body_hash.0)));
    field.word("b=");
    field
}

/// A field being written, folded.
pub(super) struct Folded {
    pub(super) text: String,
    column: usize,
}

impl Folded {
    /// After a space, or on a new line.
    fn word(&mut self, word: &str) {
        if self.column + 1 + word.len() > LINE_MAX {
            self.fold();
        } else {
            self.text.push(' ');
            self.column += 1;
        }
        self.push(word);
    }

    /// Right behind what was written, or on a new line.
    fn piece(&mut self, piece: &str) {
        if self.column + piece.len() > LINE_MAX {
            self.fold();
        }
        self.push(piece);
    }

    /// Bytes as base64, in as many lines as they need.
    pub(super) fn base64(&mut self, bytes: &[u8]) {
        let encoded = STANDARD.encode(bytes);
        let mut rest = encoded.as_str();
        while !rest.is_empty() {
            if self.column >= LINE_MAX {
                self.fold();
            }
            let (line, after) = rest.split_at(rest.len().min(LINE_MAX - self.column));
            self.push(line);
            rest = after;
        }
    }

    fn fold(&mut self) {
        self.text.push_str("\r\n ");
        self.column = 1;
    }

    fn push(&mut self, text: &str) {
        self.text.push_str(text);
        self.column += text.len();
    }
}
