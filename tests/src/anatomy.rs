//! Two messages compared as whole texts: what must differ between two sendings of one message is taken out first, all
//! the rest must be equal, byte for byte. Line ends count as one kind. Made without Hapax's own code.

use std::collections::BTreeMap;

/// What two sendings of one message differ in: written anew by whoever sends, or on the way.
const OWNED: [&str; 7] =
    ["message-id", "date", "received", "return-path", "delivered-to", "x-original-to", "auto-submitted"];

/// A message without what may differ: its header fields, unfolded and sorted, and everything behind them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Anatomy {
    /// `name: value`, the name in lower case.
    pub fields: Vec<String>,
    /// The body, with its boundaries and generated content ids numbered.
    pub body: String,
}

/// Takes a message apart. Bytes that are not UTF-8 are kept apart by their Latin-1 letters.
#[must_use]
pub fn anatomy(message: &[u8]) -> Anatomy {
    let text: String = message.iter().map(|&byte| char::from(byte)).collect::<String>().replace("\r\n", "\n");
    let text = numbered(&text);
    let (head, body) = text.split_once("\n\n").unwrap_or((text.trim_end_matches('\n'), ""));
    let mut fields: Vec<String> = Vec::new();
    for line in head.lines() {
        match fields.last_mut() {
            Some(field) if line.starts_with([' ', '\t']) => {
                field.push(' ');
                field.push_str(line.trim());
            }
            _ => fields.push(line.to_owned()),
        }
    }
    fields = fields.iter().map(|field| lowered(field)).collect();
    fields.retain(|field| !OWNED.contains(&field.split(':').next().unwrap_or_default()));
    fields.sort();
    Anatomy { fields, body: body.trim_end_matches('\n').to_owned() }
}

/// The first value of a header field, as it stands after unfolding.
#[must_use]
pub fn field(anatomy: &Anatomy, name: &str) -> Option<String> {
    let prefix = format!("{name}: ");
    anatomy.fields.iter().find_map(|field| field.strip_prefix(&prefix)).map(ToOwned::to_owned)
}

fn lowered(field: &str) -> String {
    let (name, value) = field.split_once(':').unwrap_or((field, ""));
    format!("{}: {}", name.to_ascii_lowercase(), value.split_whitespace().collect::<Vec<_>>().join(" "))
}

/// Each boundary and each Content-ID by the order in which they are declared.
fn numbered(text: &str) -> String {
    let mut names: BTreeMap<String, String> = BTreeMap::new();
    let mut note = |value: &str, word: &str| {
        let number = names.len();
        if !value.is_empty() {
            names.entry(value.to_owned()).or_insert_with(|| format!("{word}-{number}"));
        }
    };
    for (at, _) in text.to_ascii_lowercase().match_indices("boundary=") {
        let rest = &text[at + "boundary=".len()..];
        let value = match rest.strip_prefix('"') {
            Some(quoted) => quoted.split('"').next(),
            None => rest.split([';', '\n', ' ', '\t']).next(),
        };
        note(value.unwrap_or_default(), "boundary");
    }
    for line in text.lines().filter(|line| line.to_ascii_lowercase().starts_with("content-id:")) {
        note(line["content-id:".len()..].trim().trim_matches(['<', '>']), "cid");
    }
    // The longest first: one may begin another.
    let mut names: Vec<_> = names.into_iter().collect();
    names.sort_by_key(|(name, _)| std::cmp::Reverse(name.len()));
    names.iter().fold(text.to_owned(), |text, (name, word)| text.replace(name.as_str(), word))
}

#[cfg(test)]
mod tests {
    use super::{anatomy, field};

    const ONE: &[u8] = b"Received: from a\r\n\tby b\r\nDate: now\r\nSubject: A\r\n long one\r\nContent-Type: multipart/mixed; boundary=\"==x\"\r\n\r\n--==x\r\n\r\nHi\r\n--==x--\r\n";

    #[test]
    fn what_each_sending_makes_anew_does_not_count_and_all_else_does() {
        let same = b"Content-Type: multipart/mixed;\n boundary=zz\nSUBJECT: A long\n one\nMessage-ID: <1@x>\n\n--zz\n\nHi\n--zz--\n";
        let other = String::from_utf8_lossy(ONE).replace("==x", "zz");
        assert_eq!(anatomy(ONE).body, anatomy(same).body);
        assert_eq!(anatomy(ONE), anatomy(other.as_bytes()));
        assert_eq!(field(&anatomy(same), "subject").as_deref(), Some("A long one"));
        for (from, to) in
            [("Hi", "Ho"), ("A\r\n long", "B\r\n long"), ("mixed", "related"), ("\r\n\r\nHi", "\r\nX: y\r\n\r\nHi")]
        {
            let changed = String::from_utf8_lossy(ONE).replacen(from, to, 1);
            assert_ne!(anatomy(ONE), anatomy(changed.as_bytes()), "{from} became {to}");
        }
    }
}
