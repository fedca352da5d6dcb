//! What an attacker may write, and the doors through which an application may let it in.

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

/// Who must never get a mail. There is a mailbox for it.
pub(crate) const EVIL: &str = "evil@example.net";
/// What takes the place of an attack in the message an attack is compared with.
pub(crate) const HARMLESS: &str = "harmless";

/// A place in a notification.
pub(crate) struct Door {
    pub(crate) name: &'static str,
    /// The notification with this string at that place.
    pub(crate) build: fn(&str) -> Value,
    /// Whether the header is the application's own writing, so that only Bcc and the number of mails are looked at.
    pub(crate) own_header: bool,
}

const fn door(name: &'static str, build: fn(&str) -> Value) -> Door {
    Door { name, build, own_header: false }
}

/// A notification in its simplest form, with these arguments changed.
fn note(changed: Value) -> Value {
    let mut document =
        json!({"kind": "note", "recipients": ["ada@example.org"], "subject": "Hello", "body_text": "Hello"});
    let all = document.as_object_mut().expect("an object");
    all.extend(changed.as_object().expect("an object").clone());
    document
}

fn payload(kind: &str, payload: Value) -> Value {
    json!({"kind": kind, "recipients": ["ada@example.org"], "payload": payload})
}

fn file(changed: Value) -> Value {
    let mut file = json!({"filename": "a.txt", "content_base64": "YQ=="});
    file.as_object_mut().expect("an object").extend(changed.as_object().expect("an object").clone());
    note(json!({"body_html": "<p>Hello</p>", "attachments": [file]}))
}

fn raw(message: String) -> Value {
    json!({"kind": "raw", "recipients": ["ada@example.org"], "raw_message_base64": STANDARD.encode(message)})
}

/// Every place where text of a customer may end up.
pub(crate) const DOORS: [Door; 25] = [
    door("subject", |s| note(json!({"subject": s}))),
    door("body_text", |s| note(json!({"body_text": s}))),
    door("body_html", |s| note(json!({"body_html": s}))),
    door("a recipient's name", |s| note(json!({"recipients": [format!("{s} <ada@example.org>")]}))),
    door("a recipient's quoted name", |s| note(json!({"recipients": [format!("\"{s}\" <ada@example.org>")]}))),
    door("a recipient's name and a second recipient", |s| {
        note(json!({"recipients": [format!("{s} <ada@example.org>"), "bob@example.org"]}))
    }),
    door("a recipient's local part", |s| note(json!({"recipients": [format!("{s}@example.org")]}))),
    door("a recipient's quoted local part", |s| note(json!({"recipients": [format!("\"{s}\"@example.org")]}))),
    door("a recipient's domain", |s| {
        note(json!({"recipients": [format!("ada@{}", s.replace(HARMLESS, "sub.example.org"))]}))
    }),
    door("a recipient's end", |s| note(json!({"recipients": [format!("ada@example.org{}", s.replace(HARMLESS, ""))]}))),
    door("a copy's name", |s| note(json!({"cc": [format!("\"{s}\" <bob@example.org>")]}))),
    door("a blind copy's name", |s| note(json!({"bcc": [format!("\"{s}\" <bob@example.org>")]}))),
    door("the sender's name", |s| note(json!({"sender": format!("\"{s}\" <shop@shop.example>")}))),
    door("the sender's local part", |s| note(json!({"sender": format!("{s}@shop.example")}))),
    door("reply_to's name", |s| note(json!({"reply_to": format!("{s} <shop@shop.example>")}))),
    door("a header's name", |s| note(json!({"headers": {format!("X-{s}"): "value"}}))),
    door("a header's value", |s| note(json!({"headers": {"X-Customer": s}}))),
    door("a file's name", |s| file(json!({"filename": s}))),
    door("a file's type", |s| file(json!({"content_type": format!("text/{s}")}))),
    door("a file's type's parameter", |s| file(json!({"content_type": format!("text/plain; x=\"{s}\"")}))),
    door("a file's content id", |s| file(json!({"content_id": s}))),
    door("a payload, in the subject", |s| payload("ping", json!({"subject": s, "text": "Hello"}))),
    door("a payload, in the text", |s| payload("ping", json!({"subject": "Hello", "text": s}))),
    door("a payload, in the HTML", |s| {
        payload("order", json!({"id": 1, "name": format!("x{}", s.replace(['\r', '\n'], "")), "items": [s]}))
    }),
    Door {
        name: "a header of a raw message",
        build: |s| raw(format!("From: shop@shop.example\r\nTo: ada@example.org\r\nX-Customer: {s}\r\n\r\nHello\r\n")),
        own_header: true,
    },
];

/// For every door.
pub(crate) fn strings() -> Vec<String> {
    let mut all: Vec<String> = [
        "a\r\nBcc: evil@example.net",
        "a\nBcc: evil@example.net",
        "a\rBcc: evil@example.net",
        "a\n\rBcc: evil@example.net",
        "a\r\n Bcc: evil@example.net",
        "a\r\n\r\n<script>alert(1)</script>",
        "a\n\n--=_0\nContent-Type: text/html\n\n<b>",
        "a\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n",
        "a\0b",
        "a\u{85}Bcc: evil@example.net",
        "a\u{2028}Bcc: evil@example.net",
        "a\u{2029}Bcc: evil@example.net",
        "a\u{b}Bcc: evil@example.net",
        "a\u{c}Bcc: evil@example.net",
        "a\u{1c}Bcc: evil@example.net\u{1d}\u{1e}",
        "a\u{7f}b",
        "a\tb",
        "嘊嘍Bcc: evil@example.net",
        "\u{10d}\u{10a}Bcc: evil@example.net",
        "=?utf-8?q?a=0d=0aBcc:_evil@example.net?=",
        "=?utf-8?b?YQ0KQmNjOiBldmlsQGV4YW1wbGUubmV0?=",
        "=?utf-7?q?+AA0ACg-Bcc:?=",
        "=?utf-8?q?=22=3Cevil@example.net=3E?=",
        "%0d%0aBcc: evil@example.net",
        "\\r\\nBcc: evil@example.net",
        "&#13;&#10;Bcc: evil@example.net",
        "<evil@example.net>",
        "a> <evil@example.net",
        "a, evil@example.net",
        "a; evil@example.net",
        ", evil@example.net, ",
        "evil@example.net, x",
        "a\" <evil@example.net>, \"b",
        "a\\\" <evil@example.net>, \\\"b",
        "a\\",
        "a\"",
        "a (b <evil@example.net>)",
        "evil@example.net (",
        "a:evil@example.net;",
        "@example.net:evil",
        "evil%example.net",
        "example.net!evil",
        "> SIZE=1",
        "a> NOTIFY=SUCCESS ORCPT=rfc822;evil@example.net",
        "a\"; filename=\"b.exe",
        "a; charset=utf-7",
        "a; boundary=\"b\"",
        "../../../etc/passwd",
        "a\u{202e}fdp.exe",
        "{{ 7*7 }}",
        "{% include 'order/body.html' %}",
        "{{ kind.__class__ }}",
        "</p><script>alert(1)</script>",
        "Bcc: evil@example.net",
        ":",
        " ",
        "",
        ".",
        "..",
        "--",
        "\u{feff}",
        "\u{d}\u{a}.\u{d}\u{a}",
    ]
    .map(str::to_owned)
    .to_vec();
    all.push("\n".repeat(100));
    all.push("x".repeat(1_500));
    all.push("é".repeat(1_500));
    all.push("\"".repeat(100));
    all.extend(smuggled());
    all
}

/// Ends of data as lenient servers know them, and a message behind each (CVE-2023-51764 and its kin).
fn smuggled() -> Vec<String> {
    let ends = [
        "\n.\n",
        "\r.\r",
        "\r\n.\n",
        "\n.\r\n",
        "\r.\n",
        "\r.\r\n",
        "\r\n.\r",
        "\n.\r",
        "\r\n.\r\n",
        "\r\r\n.\r\r\n",
        "\n\n.\n\n",
        "\r\n\0.\r\n",
        "\r\n.\0\r\n",
        "\r\n..\r\n",
        "\u{85}.\u{85}",
        "\r\n. \r\n",
        "\n.",
    ];
    let dialogue =
        "MAIL FROM:<evil@example.net>\r\nRCPT TO:<evil@example.net>\r\nDATA\r\nSubject: smuggled\r\n\r\nHello";
    ends.iter().map(|end| format!("Hello{end}{dialogue}{end}QUIT\r\n")).collect()
}

/// Whole raw messages.
pub(crate) fn raw_messages() -> Vec<Vec<u8>> {
    let head = "From: shop@shop.example\r\nTo: ada@example.org\r\nSubject: Hello\r\n";
    let mut all: Vec<Vec<u8>> = smuggled().iter().map(|text| format!("{head}\r\n{text}").into_bytes()).collect();
    let heads = [
        "Bcc: evil@example.net",
        "bcc : evil@example.net",
        "BCC:evil@example.net\r\n ,evil@example.net\r\n\t,evil@example.net",
        "Resent-Bcc: evil@example.net",
        "X-A: a\rBcc: evil@example.net",
        "X-A: a\nBcc: evil@example.net",
        "X-A: a\n\rBcc: evil@example.net",
        "X-A: a\r\r\nBcc: evil@example.net",
        "X-A: =?utf-8?q?a=0d=0aBcc:_evil@example.net?=",
        " Bcc: evil@example.net",
        "no colon\r\nBcc: evil@example.net",
        ": no name",
        "X\u{e4}: 8-bit name",
        "B\0cc: evil@example.net",
        "Bcc\u{200b}: evil@example.net",
    ];
    all.extend(heads.iter().map(|line| format!("{head}{line}\r\n\r\nHello\r\n").into_bytes()));
    all.push([head.as_bytes(), b"X-A: \xff\xfe\r\n\r\n8-bit \xff\x00 body\r\n.\r\n"].concat());
    all.push([head.as_bytes(), b"X-A: \xff\xfe\r\n\r\n8-bit \xff\x85 body\r\n.\r\n"].concat());
    all.push(format!("{head}X-A: {}\r\n\r\nHello", "x".repeat(1_000)).into_bytes());
    all.push(format!("{head}\r\n{}\r\n", "x".repeat(1_000)).into_bytes());
    all.push(b"\r\nSubject: behind an empty line\r\n\r\nHello".to_vec());
    all
}
