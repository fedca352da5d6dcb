//! Maildirs, as a mail reader sees them.

use std::fs;
use std::path::Path;

use mail_parser::{Address, Message, MessageParser, MimeHeaders, PartType};

/// A mail as it was delivered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mail {
    /// Without its angle brackets.
    pub message_id: String,
    /// Decoded, unfolded.
    pub subject: String,
    /// The text part, line ends as LF, without those at its end.
    pub text: Option<String>,
    /// The HTML part, likewise.
    pub html: Option<String>,
    /// Name and content of each, sorted.
    pub attachments: Vec<(String, Vec<u8>)>,
    /// `local@domain` of From.
    pub from: Vec<String>,
    /// `local@domain` of each in To.
    pub to: Vec<String>,
    /// `local@domain` of each in Cc.
    pub cc: Vec<String>,
}

/// Every message of a Maildir that was delivered completely, as bytes. None if it does not exist.
///
/// # Panics
/// When it cannot be read.
#[must_use]
pub fn read(maildir: &Path) -> Vec<Vec<u8>> {
    let Ok(entries) = fs::read_dir(maildir.join("new")) else { return Vec::new() };
    entries.map(|entry| fs::read(entry.expect("an entry").path()).expect("a mail can be read")).collect()
}

/// How many messages there are.
#[must_use]
pub fn count(maildir: &Path) -> usize {
    fs::read_dir(maildir.join("new")).map_or(0, Iterator::count)
}

/// Parses a mail.
///
/// # Panics
/// When it is none.
#[must_use]
pub fn parse(bytes: &[u8]) -> Mail {
    let message = MessageParser::default().parse(bytes).expect("it is a message");
    let attachment = |part: &mail_parser::MessagePart<'_>| {
        (part.attachment_name().unwrap_or_default().to_owned(), part.contents().to_vec())
    };
    let mut attachments: Vec<_> = message.attachments().map(attachment).collect();
    attachments.sort();
    Mail {
        message_id: message.message_id().unwrap_or_default().to_owned(),
        subject: message.subject().unwrap_or_default().to_owned(),
        text: message.text_bodies().find_map(|part| match &part.body {
            PartType::Text(text) => Some(normal(text)),
            _ => None,
        }),
        html: message.html_bodies().find_map(|part| match &part.body {
            PartType::Html(html) => Some(normal(html)),
            _ => None,
        }),
        attachments,
        from: addresses(message.from()),
        to: addresses(message.to()),
        cc: addresses(message.cc()),
    }
}

/// The values of a header, as they stand, one per occurrence; in any case of letters.
#[must_use]
pub fn headers(bytes: &[u8], name: &str) -> Vec<String> {
    let message: Option<Message<'_>> = MessageParser::default().parse(bytes);
    let raw = message.as_ref().map(|message| message.headers_raw().collect::<Vec<_>>()).unwrap_or_default();
    raw.iter().filter(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| (*value).to_owned()).collect()
}

/// Line ends as LF, and none at the end: a message cannot carry the difference.
#[must_use]
pub fn normal(text: &str) -> String {
    text.replace("\r\n", "\n").trim_end_matches('\n').to_owned()
}

fn addresses(list: Option<&Address<'_>>) -> Vec<String> {
    let all = list.into_iter().flat_map(|list| list.iter());
    all.filter_map(|one| one.address.as_ref().map(ToString::to_string)).collect()
}
