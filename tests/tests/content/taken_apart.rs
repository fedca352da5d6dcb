//! A mail taken apart into its fields and its body, and put together again otherwise: as servers on its way may do it,
//! which a signature survives, and as only a forger would.

use std::collections::BTreeMap;

/// A mail that was changed, or not.
pub(crate) struct Variant {
    /// What was done.
    pub(crate) name: String,
    pub(crate) mail: Vec<u8>,
    /// Whether its signatures must still verify.
    pub(crate) verifies: bool,
}

impl Variant {
    /// Named after the mail, too.
    pub(crate) fn of(mut self, mail: &str) -> Self {
        self.name = format!("{mail}: {}", self.name);
        self
    }
}

/// Lines end with CRLF.
#[derive(Clone)]
pub(crate) struct Mail {
    /// Each with its continuation lines and its CRLF.
    fields: Vec<Vec<u8>>,
    body: Vec<u8>,
}

/// In lower case.
fn name(field: &[u8]) -> String {
    let end = field.iter().position(|byte| *byte == b':').unwrap_or(field.len());
    String::from_utf8_lossy(&field[..end]).trim().to_ascii_lowercase()
}

/// Another letter instead of the one in the middle of what is behind `from`; none where there is no letter.
fn misspelt(bytes: &[u8], from: usize) -> Option<Vec<u8>> {
    let letters: Vec<usize> = (from..bytes.len()).filter(|at| bytes[*at].is_ascii_alphanumeric()).collect();
    let at = *letters.get(letters.len() / 2)?;
    let mut bytes = bytes.to_vec();
    bytes[at] = if bytes[at] == b'x' { b'y' } else { b'x' };
    Some(bytes)
}

impl Mail {
    pub(crate) fn new(bytes: &[u8]) -> Self {
        let (mut fields, mut rest): (Vec<Vec<u8>>, _) = (Vec::new(), bytes);
        while !rest.is_empty() {
            let end = rest.windows(2).position(|pair| pair == b"\r\n").map_or(rest.len(), |at| at + 2);
            let (line, after) = rest.split_at(end);
            rest = after;
            match (line, fields.last_mut()) {
                (b"\r\n", _) => break,
                ([b' ' | b'\t', ..], Some(field)) => field.extend_from_slice(line),
                _ => fields.push(line.to_vec()),
            }
        }
        Self { fields, body: rest.to_vec() }
    }

    /// A Maildir has LF.
    pub(crate) fn from_maildir(bytes: &[u8]) -> Self {
        assert!(!bytes.contains(&b'\r'), "only line ends");
        let lines: Vec<&[u8]> = bytes.split(|byte| *byte == b'\n').collect();
        Self::new(&lines.join(&b"\r\n"[..]))
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        [&self.fields.concat()[..], b"\r\n", &self.body].concat()
    }

    /// How often a field is there.
    pub(crate) fn count(&self, wanted: &str) -> usize {
        self.fields.iter().filter(|field| name(field) == wanted).count()
    }

    /// The value of the first of these fields, unfolded, without spaces at its ends.
    pub(crate) fn value(&self, wanted: &str) -> String {
        let field = self.fields.iter().find(|field| name(field) == wanted);
        let text = field.map(|field| String::from_utf8_lossy(field).replace("\r\n", "")).unwrap_or_default();
        text.split_once(':').map(|(_, value)| value.trim().to_owned()).unwrap_or_default()
    }

    /// The tags of each DKIM-Signature.
    pub(crate) fn signatures(&self) -> Vec<BTreeMap<String, String>> {
        let fields = self.fields.iter().filter(|field| name(field) == "dkim-signature");
        let tags = |field: &Vec<u8>| {
            let text: String = String::from_utf8_lossy(field).split_whitespace().collect();
            let (_, tags) = text.split_once(':').expect("it is a field");
            let tags = tags.split(';').filter_map(|tag| tag.split_once('='));
            tags.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
        };
        fields.map(tags).collect()
    }

    /// What servers on its way may do (RFC 6376 section 3.4: relaxed).
    pub(crate) fn unharmed(&self) -> Vec<Variant> {
        let mut variants = Vec::new();
        let mut add = |name: &str, change: &dyn Fn(&mut Self)| {
            let mut mail = self.clone();
            change(&mut mail);
            variants.push(Variant { name: name.to_owned(), mail: mail.bytes(), verifies: true });
        };
        add("empty lines at its end", &|mail| mail.body.extend_from_slice(b"\r\n \t\r\n\r\n"));
        add("another Received", &|mail| mail.fields.insert(0, b"Received: from a\r\n\tby b\r\n".to_vec()));
        add("another unsigned field", &|mail| mail.fields.push(b"X-Spam: no\r\n".to_vec()));
        add("names in capitals and other folds", &|mail| {
            for field in &mut mail.fields {
                let (head, value) = field.split_at(name(field).len());
                let words: Vec<&[u8]> =
                    value[1..].split(u8::is_ascii_whitespace).filter(|word| !word.is_empty()).collect();
                *field = [&head.to_ascii_uppercase()[..], b":", &words.join(&b"\r\n \t"[..]), b" \r\n"].concat();
            }
        });
        variants
    }

    /// What only a forger does: each of the `signed` fields misspelt and taken away, another of `no_second`, another
    /// body, other signatures.
    pub(crate) fn harmed(&self, signed: &[&str], no_second: &[&str]) -> Vec<Variant> {
        let mut variants = Vec::new();
        let mut add = |name: String, fields: Vec<Vec<u8>>, body: Vec<u8>| {
            variants.push(Variant { name, mail: Self { fields, body }.bytes(), verifies: false });
        };
        for (index, field) in self.fields.iter().enumerate() {
            let name = name(field);
            if !signed.contains(&name.as_str()) {
                continue;
            }
            let mut fields = self.fields.clone();
            fields[index] = misspelt(field, name.len() + 1)
                .unwrap_or_else(|| [&field[..=name.len()], b" x", &field[name.len() + 1..]].concat());
            add(format!("{name} misspelt"), fields.clone(), self.body.clone());
            fields.remove(index);
            add(format!("no {name}"), fields, self.body.clone());
        }
        for name in no_second {
            let another = format!("{name}: another@example.org\r\n").into_bytes();
            for (place, at) in [("first", 0), ("last", self.fields.len())] {
                let mut fields = self.fields.clone();
                fields.insert(at, another.clone());
                add(format!("another {name}, {place}"), fields, self.body.clone());
            }
        }
        for (from, to) in [(" t=1", " t=2"), (" bh=", " l=0; bh="), (" h=From:", " h=")] {
            let change = |field: &Vec<u8>| match name(field).as_str() {
                "dkim-signature" => String::from_utf8_lossy(field).replacen(from, to, 1).into_bytes(),
                _ => field.clone(),
            };
            add(format!("{from} became {to}"), self.fields.iter().map(change).collect(), self.body.clone());
        }
        let mut body = |name: &str, body: Vec<u8>| add(format!("the body {name}"), self.fields.clone(), body);
        body("with a line more", [&self.body[..], b"more\r\n"].concat());
        body("with a line in front", [b"x\r\n", &self.body[..]].concat());
        if let Some(misspelt) = misspelt(&self.body, 0) {
            body("misspelt", misspelt);
        }
        if let Some(last) = self.body.iter().rposition(|byte| !byte.is_ascii_whitespace()) {
            body("without its last character", self.body[..last].to_vec());
        }
        variants
    }
}
