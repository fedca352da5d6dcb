//! Notifications to start from, and a message taken apart by hand.

use std::time::Duration;

use hapax_core::{
    MessageId, Priority,
    envelope::{Attachment, Content, Notification},
};
use hapax_render::{Error, Options, Rendered, Renderer};
use mail_parser::{Message, MessageParser};

pub(crate) const FROM: &str = "Shop <no-reply@shop.example>";
pub(crate) const ID: &str = "019a5b2c-0000-7000-8000-000000000001";

pub(crate) fn ready(subject: &str, text: Option<&str>, html: Option<&str>) -> Notification {
    let own = |text: Option<&str>| text.map(str::to_owned);
    notification(Content::Ready { subject: subject.to_owned(), text: own(text), html: own(html) })
}

pub(crate) fn notification(content: Content) -> Notification {
    Notification {
        id: MessageId(uuid::Uuid::parse_str(ID).expect("a uuid")),
        created_at_us: 1_763_851_753_999_999,
        kind: "order_confirmed".to_owned(),
        sender: None,
        reply_to: None,
        recipients: vec!["Ada Lovelace <ada@example.org>".to_owned()],
        cc: vec![],
        bcc: vec![],
        content,
        headers: vec![],
        attachments: vec![],
        attachments_later: false,
        priority: Priority::Normal,
        expires_in: None,
        age: Duration::ZERO,
        on_doubt: None,
        route: None,
        tenant: None,
        locale: None,
    }
}

pub(crate) fn attachment(filename: &str, content: &[u8]) -> Attachment {
    Attachment {
        filename: filename.to_owned(),
        content_type: "application/octet-stream".to_owned(),
        content_id: None,
        content: content.to_vec().into(),
    }
}

pub(crate) fn try_render(notification: &Notification) -> Result<Rendered, Error> {
    Renderer::new(Options::default()).expect("no templates, no problem").render(notification, FROM, None)
}

/// Renders and checks what every message must obey, by other means than the crate itself.
pub(crate) fn render(notification: &Notification) -> Vec<u8> {
    let bytes = try_render(notification).expect("it renders").bytes;
    assert_wire(&bytes);
    bytes
}

pub(crate) fn assert_wire(bytes: &[u8]) {
    assert!(bytes.ends_with(b"\r\n"), "ends with a line end");
    let text = String::from_utf8_lossy(bytes);
    for line in text.split("\r\n") {
        assert!(!line.contains(['\r', '\n', '\0']), "a bare line end or NUL in {line:?}");
        assert!(line.len() <= 998, "a line of {} bytes", line.len());
    }
}

/// All lines have at most this many characters.
pub(crate) fn assert_lines_at_most(bytes: &[u8], most: usize) {
    for line in String::from_utf8_lossy(bytes).lines() {
        assert!(line.chars().count() <= most, "{} characters: {line:?}", line.chars().count());
    }
}

pub(crate) fn parse(bytes: &[u8]) -> Message<'_> {
    MessageParser::default().parse(bytes).expect("it parses")
}

/// The header block before the first empty line, unfolded: names and values.
pub(crate) fn fields(bytes: &[u8]) -> Vec<(String, String)> {
    let text = String::from_utf8_lossy(bytes).into_owned();
    let head = text.split_once("\r\n\r\n").map_or(text.as_str(), |(head, _)| head);
    let unfolded = head.replace("\r\n ", " ").replace("\r\n\t", "\t");
    let pair = |line: &str| line.split_once(": ").map(|(name, value)| (name.to_owned(), value.to_owned()));
    unfolded.split("\r\n").map(|line| pair(line).unwrap_or_else(|| panic!("not a field: {line:?}"))).collect()
}

pub(crate) fn names(bytes: &[u8]) -> Vec<String> {
    fields(bytes).into_iter().map(|(name, _)| name).collect()
}

pub(crate) fn field(bytes: &[u8], name: &str) -> Option<String> {
    fields(bytes).into_iter().find(|(candidate, _)| candidate == name).map(|(_, value)| value)
}
