//! What the fuzz targets do with their input, and what must hold whatever it is: no panic; CRLF line ends only; no NUL;
//! lines of at most 998 bytes; and the fields and parts of a message are those of one with harmless texts, so that no
//! text becomes a field, a part or an address. Used by the targets of cargo-fuzz and by `tests/fuzz.rs`.

use std::time::Duration;

use hapax_core::envelope::{Attachment, Content, Notification};
use hapax_core::{MessageId, Priority, Recipient};
use hapax_render::{Options, Renderer, Templates};
use mail_parser::{Message, MessageParser, MimeHeaders, PartType};

/// What a target does with an input. Answers whether a message came out.
pub(crate) type Target = fn(&[u8]) -> bool;

/// All of them, by name.
pub(crate) const TARGETS: [(&str, Target); 5] =
    [("address", address), ("header", header), ("mime", mime), ("raw", raw), ("template", template)];

/// What separates the pieces of an input: a byte that UTF-8 does not have.
pub(crate) const SEPARATOR: u8 = 0xff;

/// A mailbox: it is refused, or it is one mailbox in a header and one address in an envelope.
pub(crate) fn address(data: &[u8]) -> bool {
    let [text] = pieces(data);
    let Ok(recipient) = Recipient::parse(&text) else { return false };
    let plain = recipient.address();
    assert!(!plain.chars().any(char::is_control), "a control character in an envelope");
    let again = Recipient::parse(&plain).expect("an address is a mailbox");
    assert_eq!(again.address(), plain, "and the same one");
    let with = |mailbox: &str| Notification {
        recipients: vec![mailbox.to_owned(), "bob@example.org".to_owned()],
        reply_to: Some(mailbox.to_owned()),
        ..notification(ready("subject", "text"))
    };
    let Some(bytes) = rendered(&with(&text)) else { return false };
    let control = rendered(&with("Ada <ada@example.org>")).expect("it renders");
    same_structure(&bytes, &control);
    let message = parse(&bytes);
    let count = |list: Option<&mail_parser::Address<'_>>| list.map_or(0, |list| list.iter().count());
    // Quoted local parts are more than mail-parser understands.
    if !plain.starts_with('"') {
        assert_eq!((count(message.to()), count(message.reply_to())), (2, 1), "as many mailboxes as were given");
    }
    true
}

/// Subject, header and display name.
pub(crate) fn header(data: &[u8]) -> bool {
    let [subject, name, value, display] = pieces(data);
    let with = |subject: &str, value: &str, display: &str| Notification {
        headers: vec![(name.clone(), value.to_owned())],
        cc: vec![format!("{display} <cc@example.org>")],
        sender: Some(format!("\"{display}\" <sender@shop.example>")),
        ..notification(ready(subject, "text"))
    };
    let Some(bytes) = rendered(&with(&subject, &value, &display)) else { return false };
    let control = rendered(&with("subject", "value", "Ada")).expect("the name was fine");
    same_structure(&bytes, &control);
    true
}

/// Texts and an attachment.
pub(crate) fn mime(data: &[u8]) -> bool {
    let [text, html, filename, content_type, content_id, content] = pieces(data);
    let with = |text: &str, html: &str, filename: &str, content_type: &str, content_id: &str, content: &str| {
        let attachment = Attachment {
            filename: filename.to_owned(),
            content_type: content_type.to_owned(),
            content_id: (!content_id.is_empty()).then(|| content_id.to_owned()),
            content: content.as_bytes().to_vec().into(),
        };
        let content =
            Content::Ready { subject: "subject".to_owned(), text: Some(text.to_owned()), html: Some(html.to_owned()) };
        Notification { attachments: vec![attachment], ..notification(content) }
    };
    let Some(bytes) = rendered(&with(&text, &html, &filename, &content_type, &content_id, &content)) else {
        return false;
    };
    let harmless_id = if content_id.is_empty() { "" } else { "id" };
    let harmless = with("text", "<p>html</p>", "a.bin", "application/octet-stream", harmless_id, "content");
    same_structure(&bytes, &rendered(&harmless).expect("it renders"));
    let message = parse(&bytes);
    let texts: Vec<String> = message.parts.iter().filter_map(|part| Some(plain(part.text_contents()?))).collect();
    assert!(texts.contains(&plain(&text)) && texts.contains(&plain(&html)), "the texts come back");
    assert!(
        message.parts.iter().any(|part| part.attachment_name().unwrap_or_default() == filename.trim()),
        "the name, too"
    );
    true
}

/// A finished message: refused, or sent as it is, without Bcc.
pub(crate) fn raw(data: &[u8]) -> bool {
    let Some(bytes) = rendered(&notification(Content::Raw(data.to_vec()))) else { return false };
    let names = field_names(&bytes);
    assert!(!names.iter().any(|name| name == "bcc" || name == "resent-bcc"), "no Bcc");
    assert!(["from", "date", "message-id"].iter().all(|name| names.iter().any(|one| one == name)), "{names:?}");
    true
}

/// A template and its payload. Both may be nonsense; the message may not.
pub(crate) fn template(data: &[u8]) -> bool {
    let [subject, text, html, value] = pieces(data);
    let file = |name: &str, text: &str| (format!("order_confirmed/{name}"), text.to_owned());
    let templates =
        Templates::from_memory([file("subject.txt", &subject), file("body.txt", &text), file("body.html", &html)]);
    let options =
        Options { templates, template_fuel_max: 5_000, template_output_bytes_max: 65_536, ..Options::default() };
    let Ok(renderer) = Renderer::new(options) else { return false };
    let payload = serde_json::json!({"a": value, "b": [value, 1, null], "c": {"d": value}}).to_string();
    let message = notification(Content::Payload(payload));
    // A relay renders on threads with this stack: a template that includes itself must meet its limit before that ends.
    let rendered_there = std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(2 << 20);
        let thread = thread.spawn_scoped(scope, || rendered_by(&renderer, &message)).expect("a thread starts");
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    });
    let Some(bytes) = rendered_there else { return false };
    let control = Content::Ready { subject: "s".into(), text: Some("t".into()), html: Some("h".into()) };
    same_structure(&bytes, &rendered(&notification(control)).expect("it renders"));
    true
}

/// The pieces of an input, as texts; what is missing is empty.
fn pieces<const N: usize>(data: &[u8]) -> [String; N] {
    let mut pieces = data.splitn(N, |byte| *byte == SEPARATOR).map(|piece| String::from_utf8_lossy(piece).into_owned());
    std::array::from_fn(|_| pieces.next().unwrap_or_default())
}

fn ready(subject: &str, text: &str) -> Content {
    Content::Ready { subject: subject.to_owned(), text: Some(text.to_owned()), html: None }
}

fn notification(content: Content) -> Notification {
    Notification {
        id: MessageId(uuid::Uuid::from_u128(7)),
        created_at_us: 1_763_851_753_999_999,
        kind: "order_confirmed".to_owned(),
        sender: None,
        reply_to: None,
        recipients: vec!["Ada <ada@example.org>".to_owned()],
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

fn rendered(notification: &Notification) -> Option<Vec<u8>> {
    let renderer = Renderer::new(Options::default()).expect("no templates, no problem");
    rendered_by(&renderer, notification)
}

/// The message, twice the same and fit for the wire, or none with a reason for people.
fn rendered_by(renderer: &Renderer, notification: &Notification) -> Option<Vec<u8>> {
    const FROM: &str = "Shop <no-reply@shop.example>";
    let once = renderer.render(notification, FROM, None);
    match (once, renderer.render(notification, FROM, None)) {
        (Ok(one), Ok(two)) => {
            assert!(one.bytes == two.bytes, "the same bytes at every attempt");
            fit_for_the_wire(&one.bytes);
            Some(one.bytes)
        }
        (Err(one), Err(two)) => {
            let one = one.to_string();
            assert_eq!(one, two.to_string());
            assert!(!one.contains("please report this"), "the last check is never the first: {one}");
            None
        }
        _ => panic!("once a message, once none"),
    }
}

fn fit_for_the_wire(bytes: &[u8]) {
    assert!(bytes.ends_with(b"\r\n"), "a line end at the end");
    for line in bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        let line = line.strip_suffix(b"\r").expect("no bare line feed");
        assert!(!line.contains(&b'\r') && !line.contains(&0), "no bare carriage return, no NUL");
        assert!(line.len() <= 998, "a line of {} bytes", line.len());
    }
}

fn same_structure(bytes: &[u8], control: &[u8]) {
    assert_eq!(field_names(bytes), field_names(control), "the fields of a harmless message");
    let (message, control) = (parse(bytes), parse(control));
    assert_eq!(shape(&message, 0), shape(&control, 0), "the parts of a harmless message");
}

/// The names of the fields in their order, but for Content-Transfer-Encoding, which follows from the text.
fn field_names(bytes: &[u8]) -> Vec<String> {
    let lines = bytes.split(|byte| *byte == b'\n').take_while(|line| *line != b"\r");
    let names = lines.filter(|line| !line.starts_with(b" ") && !line.starts_with(b"\t"));
    let name =
        |line: &[u8]| String::from_utf8_lossy(line.split(|byte| *byte == b':').next().unwrap_or(line)).to_lowercase();
    names.map(name).map(|name| name.trim_end().to_owned()).filter(|name| name != "content-transfer-encoding").collect()
}

/// How many parts within each part.
fn shape(message: &Message<'_>, part: usize) -> String {
    match &message.parts[part].body {
        PartType::Multipart(parts) => {
            format!("({})", parts.iter().map(|part| shape(message, *part as usize)).collect::<String>())
        }
        _ => "part".to_owned(),
    }
}

fn parse(bytes: &[u8]) -> Message<'_> {
    MessageParser::default().parse(bytes).expect("it is a message")
}

/// A text but for the form of its line ends, and whether the last line has one.
fn plain(text: &str) -> String {
    text.replace("\r\n", "\n").replace('\r', "\n").trim_end_matches('\n').to_owned()
}
