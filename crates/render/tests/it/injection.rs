//! Header injection: whatever an attacker gets into a value, the structure of the message stays, or there is an error
//! that does not repeat it.

use hapax_core::envelope::{Content, Notification};
use hapax_render::{Options, Renderer, Templates};

use crate::support::*;

const ATTACKS: [&str; 44] = [
    "x\r\nBcc: evil@evil.example",
    "x\nBcc: evil@evil.example",
    "x\rBcc: evil@evil.example",
    "x\r\n\r\n<script>evil</script>",
    "x\n\nevil",
    "\r\nBcc: evil@evil.example",
    "\nevil: 1",
    "x\r\n Bcc: evil",
    "x\r\n\tBcc: evil",
    "x\r\n.\r\nMAIL FROM:<evil@evil.example>",
    "x\n.\nQUIT evil",
    "x\0evil",
    "x\u{b}Bcc: evil",
    "x\u{c}Bcc: evil",
    "x\u{85}Bcc: evil",
    "x\u{2028}Bcc: evil",
    "x\u{2029}Bcc: evil",
    "x\u{a0a}evil",
    "x\u{560d}\u{560a}Bcc: evil",
    "x\u{10d}\u{10a}Bcc: evil",
    "=?utf-8?Q?=0D=0ABcc:_evil@evil.example?=",
    "=?utf-8?B?DQpCY2M6IGV2aWxAZXZpbC5leGFtcGxl?= evil",
    "%0d%0aBcc: evil@evil.example",
    "\\r\\nBcc: evil@evil.example",
    "x, evil@evil.example",
    "x; evil@evil.example",
    "x <evil@evil.example>, y",
    "\"x\" <evil@evil.example>",
    "x\" <evil@evil.example>, \"y",
    "x\\\" <evil@evil.example>",
    "x\\",
    "(evil comment",
    "evil) x",
    "group: evil@evil.example;",
    "<evil>",
    "--=_evil",
    "\r\n--=_evil\r\nContent-Type: text/html\r\n\r\nevil",
    "x\"; filename=\"evil.exe",
    "x\r\nContent-Type: text/html; evil",
    "utf-8''evil%0d%0aBcc: x",
    "a;b=c;evil",
    "evil: x",
    "\u{1b}[2Jevil",
    "{{ evil }}{% raw %}",
];

fn base() -> Notification {
    let mut one = ready("subject", Some("text\n"), Some("<p>html</p>\n"));
    one.sender = Some("Sender <sender@shop.example>".to_owned());
    one.reply_to = Some("Reply <reply@shop.example>".to_owned());
    one.cc = vec!["Copy <copy@example.org>".to_owned()];
    one.headers = vec![("X-Own".to_owned(), "own".to_owned())];
    one.attachments = vec![attachment("file.txt", b"file")];
    one
}

type Place = (&'static str, fn(&mut Notification, &str));

fn places() -> [Place; 13] {
    fn subject_of(content: &mut Content) -> &mut String {
        match content {
            Content::Ready { subject, .. } => subject,
            _ => panic!("ready"),
        }
    }
    [
        ("subject", |one, attack| *subject_of(&mut one.content) = attack.to_owned()),
        ("sender", |one, attack| one.sender = Some(attack.to_owned())),
        ("sender name", |one, attack| one.sender = Some(format!("{attack} <sender@shop.example>"))),
        ("quoted name", |one, attack| one.recipients = vec![format!("\"{attack}\" <ada@example.org>")]),
        ("recipient", |one, attack| one.recipients = vec![attack.to_owned()]),
        ("local part", |one, attack| one.recipients = vec![format!("\"{attack}\"@example.org")]),
        ("domain", |one, attack| one.recipients = vec![format!("ada@{attack}")]),
        ("reply to", |one, attack| one.reply_to = Some(format!("{attack} <a@b.example>"))),
        ("cc", |one, attack| one.cc = vec![format!("{attack} <a@b.example>")]),
        ("header value", |one, attack| one.headers[0].1 = attack.to_owned()),
        ("filename", |one, attack| one.attachments[0].filename = attack.to_owned()),
        ("content type", |one, attack| one.attachments[0].content_type = format!("text/plain; a={attack}")),
        ("content id", |one, attack| one.attachments[0].content_id = Some(attack.to_owned())),
    ]
}

#[test]
fn no_value_changes_the_structure() {
    let expected = names(&render(&base()));
    for (place, put) in places() {
        for attack in ATTACKS {
            let mut one = base();
            put(&mut one, attack);
            match try_render(&one) {
                Ok(rendered) => {
                    assert_wire(&rendered.bytes);
                    assert_eq!(names(&rendered.bytes), expected, "{place}: {attack:?}");
                    let message = parse(&rendered.bytes);
                    assert!(message.bcc().is_none(), "{place}: {attack:?}");
                    assert_eq!(message.body_text(0).as_deref().map(str::trim_end), Some("text"), "{place}: {attack:?}");
                    assert_eq!(message.attachment_count(), 1, "{place}: {attack:?}");
                    assert_eq!(message.attachment(0).map(|part| part.contents()), Some(b"file".as_slice()));
                    assert_eq!(message.to().map(|to| to.iter().count()), Some(1), "{place}: {attack:?}");
                    assert_eq!(message.cc().map(|cc| cc.iter().count()), Some(1), "{place}: {attack:?}");
                    assert_eq!(message.from().map(|from| from.iter().count()), Some(1), "{place}: {attack:?}");
                }
                Err(error) => assert!(!format!("{error} {error:?}").contains("evil"), "{place}: {error}"),
            }
        }
    }
}

#[test]
fn no_header_name_changes_the_structure() {
    for attack in ATTACKS {
        let mut one = base();
        one.headers = vec![(attack.to_owned(), "v".to_owned())];
        match try_render(&one) {
            Ok(rendered) => assert_eq!(field(&rendered.bytes, attack).as_deref(), Some("v"), "{attack:?}"),
            Err(error) => assert!(!error.to_string().contains(['\r', '\n', '\0', '\u{1b}']), "{error}"),
        }
    }
}

#[test]
fn no_payload_value_changes_the_structure_or_the_markup() {
    let files = [
        ("order_confirmed/subject.txt", "Order for {{ name }}"),
        ("order_confirmed/body.txt", "Dear {{ name }}"),
        ("order_confirmed/body.html", "<p title=\"{{ name }}\">Dear {{ name }}</p>"),
    ];
    let options = Options { templates: Templates::from_memory(files), ..Options::default() };
    let renderer = Renderer::new(options).expect("good templates");
    let payload = |name: &str| serde_json::json!({ "name": name }).to_string();
    let calm = renderer.render(&notification(Content::Payload(payload("Ada"))), FROM, None).expect("it renders");
    for attack in ATTACKS {
        match renderer.render(&notification(Content::Payload(payload(attack))), FROM, None) {
            Ok(rendered) => {
                assert_wire(&rendered.bytes);
                assert_eq!(names(&rendered.bytes), names(&calm.bytes), "{attack:?}");
                let message = parse(&rendered.bytes);
                assert_eq!(message.parts.len(), 3, "{attack:?}");
                let html = message.body_html(0).expect("html").into_owned();
                assert_eq!(html.matches('<').count(), 2, "{html}");
            }
            Err(error) => assert!(!format!("{error} {error:?}").contains("evil"), "{error}"),
        }
    }
}
