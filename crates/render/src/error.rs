//! Why a notification cannot become a message.
//!
//! These texts are the `failed (cannot be rendered)` reason people read in `outbox.deliveries`. Each is complete on its
//! own, names what to change, and never contains a payload value, an address, a subject or a body: only names of
//! arguments, headers, keys and files.

use std::fmt;

use hapax_core::address;

/// The longest name of a header or kind that an error repeats, in characters.
const NAME_MAX: usize = 64;

/// Why there are no bytes.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// [`Renderer::new`](crate::Renderer::new) found templates it cannot use: all of them at once.
    #[error("the templates in {place} cannot be used: {}", list(problems))]
    Templates {
        /// The directory, or `memory`.
        place: String,
        /// Each with its file, and its line where there is one.
        problems: Vec<Problem>,
    },
    /// A payload, and nothing to render it with.
    #[error(
        "kind {kind} has a payload but no templates are configured: set the template directory and put \
         {kind}/subject.txt and {kind}/body.txt or {kind}/body.html there"
    )]
    NoTemplates {
        /// The notification's kind, quoted.
        kind: String,
    },
    /// A payload of a kind that has no templates.
    #[error("no templates for kind {kind} in {place}: it needs subject.txt and body.txt or body.html in {directory}")]
    NoKind {
        /// The notification's kind, quoted.
        kind: String,
        /// The directory, or `memory`.
        place: String,
        /// Where its files belong.
        directory: String,
    },
    /// A template failed while rendering.
    #[error("{0}")]
    Template(Problem),
    /// The payload is not what a template can use.
    #[error("the payload {0}")]
    Payload(String),
    /// A mailbox is not one.
    #[error("{field} is not usable: {why}")]
    Address {
        /// The argument, with the position (from 1) in a list: `recipients[2]`.
        field: String,
        /// What is wrong with it.
        why: address::Error,
    },
    /// The host name for the Message-ID is not a domain.
    #[error("the host name for the message-id is not a domain name")]
    Hostname,
    /// The subject cannot be a header.
    #[error("the subject {0}")]
    Subject(&'static str),
    /// One of the notification's own headers.
    #[error("header {name} {what}")]
    Header {
        /// Its name, quoted and shortened.
        name: String,
        /// What is wrong with it.
        what: &'static str,
    },
    /// An attachment.
    #[error("attachment {number} {what}")]
    Attachment {
        /// Its position, from 1.
        number: usize,
        /// What is wrong with it.
        what: &'static str,
    },
    /// Neither text nor HTML.
    #[error("the notification has neither a text nor an html body")]
    NoBody,
    /// The raw message is not a message.
    #[error("the raw message is not well-formed: {what} in line {line}")]
    Raw {
        /// What is wrong.
        what: &'static str,
        /// Where, from 1.
        line: usize,
    },
    /// The raw message is too large to be rendered whole; a defect of Hapax.
    #[error("the raw message is not here; please report this")]
    NotHere,
    /// More bytes than the limit.
    #[error("the message has {actual_bytes} bytes, more than the limit of {limit_bytes}")]
    TooLarge {
        /// How many it has.
        actual_bytes: usize,
        /// How many it may have.
        limit_bytes: usize,
    },
    /// The finished message breaks a rule of the wire; a defect of Hapax, never sent.
    #[error("the rendered message would break the wire format: {what} in line {line}; please report this")]
    Wire {
        /// The rule.
        what: &'static str,
        /// Where, from 1.
        line: usize,
    },
}

/// One thing that is wrong with one template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The file, relative to the template directory.
    pub file: String,
    /// The line, from 1, where one is known.
    pub line: Option<usize>,
    /// What is wrong.
    pub what: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "{}:{line}: {}", self.file, self.what),
            None => write!(f, "{}: {}", self.file, self.what),
        }
    }
}

impl Problem {
    pub(crate) fn new(file: impl Into<String>, line: Option<usize>, what: impl Into<String>) -> Self {
        Self { file: file.into(), line, what: what.into() }
    }

    /// Whether it is about a file of this kind.
    #[must_use]
    pub fn is_of(&self, kind: &str) -> bool {
        self.file.strip_prefix(kind).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

/// A name out of somebody's hands, made fit for one line of a log: quoted, control characters escaped, shortened.
pub(crate) fn quoted(name: &str) -> String {
    let short: String = name.chars().take(NAME_MAX).collect();
    format!("{short:?}")
}

fn list(problems: &[Problem]) -> String {
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}
