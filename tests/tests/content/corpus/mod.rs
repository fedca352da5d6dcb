//! The corpus: messages of every kind that an application may write, each with what a mail reader must see of it.
//!
//! What must be seen is said by whoever writes the message here, never computed by code of Hapax. Everything is the
//! same at every run: what looks random comes from a fixed seed.

mod attachments;
mod lines;
mod names;
mod random;
mod raw;
mod scripts;
mod subjects;
mod templated;

use base64::{Engine, engine::general_purpose::STANDARD};
use hapax_tests::stage::DOMAIN;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

pub(crate) use templated::TEMPLATES;

/// The domains whose every address has a mailbox (the last one as it is on the wire).
pub(crate) const DOMAINS: [&str; 4] = ["@example.org", "@sub.example.org", "@example.net", "@xn--exmple-cua.org"];

/// A message and what must be seen of it.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    /// For people.
    pub(crate) name: String,
    /// The arguments of `outbox.enqueue`, as `outbox.enqueue_many` takes them.
    pub(crate) document: Value,
    /// What a reader sees: the keys of `readers.rs`; only those that are here are compared.
    pub(crate) seen: Value,
    /// The envelope's recipients, as they are on the wire.
    pub(crate) readers: Vec<String>,
    /// The Message-ID without brackets, where the message brings its own.
    pub(crate) message_id: Option<String>,
    /// The domain of a Message-ID that Hapax makes.
    pub(crate) domain: String,
}

/// All of them.
pub(crate) fn corpus() -> Vec<Case> {
    let mut all = Vec::new();
    for family in [
        scripts::cases(),
        lines::cases(),
        subjects::cases(),
        names::cases(),
        attachments::cases(),
        raw::cases(),
        templated::cases(),
        random::cases(),
    ] {
        all.extend(family);
    }
    all
}

/// A person: the name to show, and the address.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Person<'a>(pub(crate) &'a str, pub(crate) &'a str);

impl Person<'_> {
    /// As applications write it: quoted where the name has a character that wants it (RFC 5322 section 3.2.4).
    pub(crate) fn written(&self) -> String {
        let Self(name, address) = self;
        if name.is_empty() {
            return (*address).to_owned();
        }
        match name.contains(|c: char| "()<>@,;:\\\".[]".contains(c)) {
            true => format!("\"{}\" <{address}>", name.replace('\\', "\\\\").replace('"', "\\\"")),
            false => format!("{name} <{address}>"),
        }
    }

    /// As it is seen.
    pub(crate) fn seen(&self) -> Value {
        json!([self.0, self.1])
    }
}

/// A message with texts of its own, from the route's sender to one person.
pub(crate) fn ready(name: impl Into<String>, subject: &str, text: Option<&str>, html: Option<&str>) -> Case {
    let to = Person("", "ada@example.org");
    let mut document = json!({"kind": "note", "recipients": [to.written()], "subject": subject});
    let (mut body, mut tree) = (json!({}), Vec::new());
    for (key, seen, media_type, content) in
        [("body_text", "text", "text/plain", text), ("body_html", "html", "text/html", html)]
    {
        body[seen] = json!(content.map(normal));
        if let Some(content) = content {
            document[key] = json!(content);
            tree.push(media_type);
        }
    }
    let tree = if tree.len() == 2 { format!("multipart/alternative({})", tree.join(",")) } else { tree.concat() };
    let seen = json!({
        "subject": subject, "from": [["Shop", format!("no-reply@{DOMAIN}")]], "to": [to.seen()], "cc": [], "reply_to": [],
        "text": body["text"], "html": body["html"], "tree": tree, "attachments": [], "headers": {},
    });
    let readers = vec![to.1.to_owned()];
    Case { name: name.into(), document, seen, readers, message_id: None, domain: DOMAIN.to_owned() }
}

impl Case {
    /// To these people instead.
    pub(crate) fn to(mut self, people: &[Person<'_>]) -> Self {
        self.document["recipients"] = people.iter().map(Person::written).collect();
        self.seen["to"] = people.iter().map(Person::seen).collect();
        self.readers = people.iter().map(|person| person.1.to_owned()).collect();
        self
    }

    /// With copies.
    pub(crate) fn cc(mut self, people: &[Person<'_>]) -> Self {
        self.document["cc"] = people.iter().map(Person::written).collect();
        self.seen["cc"] = people.iter().map(Person::seen).collect();
        self.readers.extend(people.iter().map(|person| person.1.to_owned()));
        self
    }

    /// With copies nobody sees.
    pub(crate) fn bcc(mut self, people: &[Person<'_>]) -> Self {
        self.document["bcc"] = people.iter().map(Person::written).collect();
        self.readers.extend(people.iter().map(|person| person.1.to_owned()));
        self
    }

    /// From this person.
    pub(crate) fn from(mut self, person: Person<'_>) -> Self {
        self.document["sender"] = json!(person.written());
        self.seen["from"] = json!([person.seen()]);
        person.1.rsplit_once('@').expect("an address").1.clone_into(&mut self.domain);
        self
    }

    /// With an address for answers.
    pub(crate) fn reply_to(mut self, person: Person<'_>) -> Self {
        self.document["reply_to"] = json!(person.written());
        self.seen["reply_to"] = json!([person.seen()]);
        self
    }

    /// With a header of its own.
    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.document["headers"][name] = json!(value);
        self.seen["headers"][name] = json!(value);
        self
    }

    /// With attachments. An inline one is seen beside the HTML, the others behind everything.
    pub(crate) fn attached(mut self, files: &[File<'_>]) -> Self {
        self.document["attachments"] = files.iter().map(File::document).collect();
        let has_html = self.document.get("body_html").is_some();
        let is_inline = |file: &&File<'_>| has_html && file.content_id.is_some();
        let (inline, attached): (Vec<_>, Vec<_>) = files.iter().partition(is_inline);
        let all = inline.iter().map(|file| file.seen("inline"));
        self.seen["attachments"] = all.chain(attached.iter().map(|file| file.seen("attachment"))).collect();
        let mut tree = self.seen["tree"].as_str().expect("a tree").to_owned();
        let types = |files: &[&File<'_>]| files.iter().map(|file| file.seen_type()).collect::<Vec<_>>().join(",");
        if !inline.is_empty() {
            tree = tree.replace("text/html", &format!("multipart/related(text/html,{})", types(&inline)));
        }
        if !attached.is_empty() {
            tree = format!("multipart/mixed({tree},{})", types(&attached));
        }
        self.seen["tree"] = json!(tree);
        self
    }

    /// Makes it a finished message, written as `message`.
    pub(crate) fn raw(mut self, message: impl AsRef<[u8]>) -> Self {
        let message = STANDARD.encode(message);
        self.document =
            json!({"kind": "raw", "recipients": self.document["recipients"], "raw_message_base64": message});
        self
    }
}

/// A file to attach.
#[derive(Clone, Debug)]
pub(crate) struct File<'a> {
    pub(crate) name: &'a str,
    /// Media type, and parameters as they are written and seen.
    pub(crate) media_type: Option<&'a str>,
    pub(crate) parameters: &'a [(&'a str, &'a str)],
    pub(crate) content_id: Option<&'a str>,
    pub(crate) content: Vec<u8>,
}

impl<'a> File<'a> {
    pub(crate) fn new(name: &'a str, media_type: &'a str, content: impl Into<Vec<u8>>) -> Self {
        let media_type = Some(media_type).filter(|media_type| !media_type.is_empty());
        Self { name, media_type, parameters: &[], content_id: None, content: content.into() }
    }

    fn document(&self) -> Value {
        let mut document = json!({"filename": self.name, "content_base64": STANDARD.encode(&self.content)});
        if let Some(media_type) = self.media_type {
            let parameters = self.parameters.iter().map(|(key, value)| match value.contains(' ') {
                true => format!("; {key}=\"{value}\""),
                false => format!("; {key}={value}"),
            });
            document["content_type"] = json!(format!("{media_type}{}", parameters.collect::<String>()));
        }
        if let Some(id) = self.content_id {
            document["content_id"] = json!(id);
        }
        document
    }

    /// A message as an attachment is sent as an opaque file (RFC 2046 section 5.2.1 forbids to encode message/rfc822).
    fn seen_type(&self) -> String {
        match self.media_type.unwrap_or("application/octet-stream").to_ascii_lowercase() {
            message if message.starts_with("message/") => "application/octet-stream".to_owned(),
            other => other,
        }
    }

    fn seen(&self, disposition: &str) -> Value {
        let parameters: serde_json::Map<String, Value> =
            self.parameters.iter().map(|(key, value)| ((*key).to_owned(), json!(value))).collect();
        json!({
            "name": self.name.trim(), "type": self.seen_type(), "parameters": parameters, "disposition": disposition,
            "content_id": self.content_id.map(|id| id.trim_matches(['<', '>'])), "sha256": digest(&self.content),
        })
    }
}

/// What stands for a file's content.
pub(crate) fn digest(content: &[u8]) -> String {
    format!("{} bytes {:x}", content.len(), Sha256::digest(content))
}

/// What of a text must come back. RFC 5322 section 2.3 and RFC 2046 section 4.1.1 know only CRLF as a line end, so every
/// form of them is one; and whether the last line ends is lost, since a message always ends in CRLF (RFC 5321 section
/// 4.1.1.4) and in a multipart the last CRLF is the boundary's (RFC 2046 section 5.1.1). Nothing else may differ.
pub(crate) fn normal(text: &str) -> String {
    let text = text.replace("\r\n", "\n").replace('\r', "\n");
    text.strip_suffix('\n').unwrap_or(&text).to_owned()
}
