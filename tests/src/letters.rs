//! Notifications of every form, with what must arrive of each.
//!
//! A letter is a JSON document (the arguments of `outbox.enqueue`), so that every door can take it, and the mail its
//! readers must find. What must arrive is said here, not computed by code of Hapax.

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use crate::mailbox::{Mail, normal};
use crate::stage::DOMAIN;

/// Everybody who gets mail; all have a mailbox. The last three are international, the domain as it is on the wire.
pub const PEOPLE: [&str; 20] = [
    "ada@example.org",
    "bob@example.org",
    "carol.o'hara@example.org",
    "dave+shop@example.org",
    "eve_1@example.org",
    "frank=x@example.org",
    "grace@example.org",
    "heidi@example.org",
    "ivan@sub.example.org",
    "judy@sub.example.org",
    "mallory@sub.example.org",
    "niaj@sub.example.org",
    "olivia@example.net",
    "peggy@example.net",
    "rupert@example.net",
    "sybil@example.net",
    "trent@example.net",
    "jörg@example.org",
    "用户@example.org",
    "zoe@xn--exmple-cua.org",
];

/// Templates of the kinds that bring a payload: path and text. A tag swallows the line end behind it.
pub const TEMPLATES: [(&str, &str); 6] = [
    ("_layouts/page.html", "<!doctype html>\n<html><body>\n{% block main %}{% endblock %}\n</body></html>\n"),
    ("order_confirmed/subject.txt", "Order {{ order_id }} for {{ name }} ☕\n"),
    (
        "order_confirmed/body.txt",
        "Dear {{ name }},\n.\n..\n{% for item in items %}* {{ item }}\n{% endfor %}\n-- \nShop\n",
    ),
    (
        "order_confirmed/body.html",
        "{% extends \"_layouts/page.html\" %}\n{% block main %}<p>Dear {{ name }}: {{ order_id }}</p>{% endblock %}\n",
    ),
    ("ping/subject.txt", "Ping {{ order_id }}"),
    ("ping/body.txt", "{{ name }}\n"),
];

/// A notification and what must arrive.
#[derive(Clone, Debug)]
pub struct Letter {
    /// The arguments of `outbox.enqueue`.
    pub document: Value,
    /// What each reader must find; an empty Message-ID stands for the one that follows from the notification's id.
    pub mail: Mail,
    /// Everybody who must get one copy, as envelope addresses.
    pub readers: Vec<String>,
}

/// How many forms there are.
pub const FORMS: usize = 14;

/// The letter number `n`; its form is `n % FORMS`.
#[must_use]
pub fn letter(n: usize) -> Letter {
    let one = PEOPLE[n % 17];
    let letter = match n % FORMS {
        0 => payload(n, one),
        1 => ping(n, one),
        2 => dots(n, one),
        3 => ready(
            n,
            &[one],
            &format!("Grüße {n} 🎉👩‍👩‍👧‍👦 — ∑ ≠ ∅"),
            Some("Schöne Grüße\n🎉\n\tTab und   Leerzeichen  \n"),
            None,
        ),
        4 => ready(
            n,
            &[one],
            &format!("مرحبا {n} שלום"),
            None,
            Some("<p dir=\"rtl\">مرحبا بالعالم &amp; שלום</p>\u{202e}\n"),
        ),
        5 => long_lines(n, one),
        6 => nearly_empty(n, one),
        7 => attachments(n, one),
        8 => raw_multipart(n, one),
        9 => raw_plain(n, one),
        10 => many(n),
        11 => international(n),
        12 => own_headers(n, one),
        _ => blind(n),
    };
    debug_assert!(letter.readers.iter().all(|reader| PEOPLE.contains(&reader.as_str())));
    letter
}

fn ready(n: usize, to: &[&str], subject: &str, text: Option<&str>, html: Option<&str>) -> Letter {
    let mail = Mail {
        subject: subject.to_owned(),
        text: text.map(normal),
        html: html.map(normal),
        from: vec![format!("no-reply@{DOMAIN}")],
        to: to.iter().map(ToString::to_string).collect(),
        ..Mail::default()
    };
    let mut document = json!({"kind": format!("note_{}", n % 3), "recipients": to, "subject": subject});
    if let Some(text) = text {
        document["body_text"] = json!(text);
    }
    if let Some(html) = html {
        document["body_html"] = json!(html);
    }
    Letter { document, readers: mail.to.clone(), mail }
}

fn payload(n: usize, one: &str) -> Letter {
    let name = "Ada <b> & \"Löve\" {{ 7*7 }}";
    let text = format!("Dear {name},\n.\n..\n* Tee ☕\n* .hidden\n-- \nShop\n");
    let html = format!(
        "<!doctype html>\n<html><body>\n<p>Dear Ada &lt;b&gt; &amp; &quot;Löve&quot; {{{{ 7*7 }}}}: {n}</p></body></html>\n"
    );
    let subject = format!("Order {n} for {name} ☕");
    let Letter { mail, readers, .. } = ready(n, &[one], &subject, Some(&text), Some(&html));
    let payload = json!({"order_id": n, "name": name, "items": ["Tee ☕", ".hidden"]});
    let document = json!({"kind": "order_confirmed", "recipients": [format!("Ada Löve <{one}>")], "payload": payload});
    Letter { document, mail, readers }
}

fn ping(n: usize, one: &str) -> Letter {
    let Letter { mail, readers, .. } = ready(n, &[one], &format!("Ping {n}"), Some("pong\r\n\r\n.\r\n"), None);
    let document = json!({"kind": "ping", "recipients": [one], "payload": {"order_id": n, "name": "pong\r\n\r\n."}, "priority": "urgent"});
    Letter { document, mail, readers }
}

fn dots(n: usize, one: &str) -> Letter {
    let text = ".\n..\n...\n.a\n\n.\nQUIT\nRSET\nMAIL FROM:<x@example.org>\nFrom here it goes on\n.\n";
    ready(n, &[one], &format!("Dots {n}"), Some(text), None)
}

fn long_lines(n: usize, one: &str) -> Letter {
    let text = format!("{}\n{}\n.{}\n", "x".repeat(1000), "é".repeat(1000), "y".repeat(5000));
    let html = format!("<p>{}</p>", "0123456789 ".repeat(1000));
    let subject = format!("Long {n} {}", "wörter und mehr Wörter ".repeat(30).trim_end());
    ready(n, &[one], &subject, Some(&text), Some(&html))
}

fn nearly_empty(n: usize, one: &str) -> Letter {
    const BODIES: [&str; 5] = [" ", "\n", ".", "\r\n\r\n", "\t"];
    ready(n, &[one], &format!("{n}"), Some(BODIES[n / FORMS % BODIES.len()]), None)
}

fn attachments(n: usize, one: &str) -> Letter {
    let every_byte: Vec<u8> = (0..=255).cycle().take(3000 + n).collect();
    let mut letter = ready(
        n,
        &[one],
        &format!("Attached {n}"),
        Some("See attachments."),
        Some("<p><img src=\"cid:logo@shop\"></p>"),
    );
    letter.document["attachments"] = json!([
        {"filename": "Rechnung März €.pdf", "content_type": "application/pdf", "content_base64": STANDARD.encode(&every_byte)},
        {"filename": "notes.txt", "content_type": "text/plain; charset=utf-8", "content_base64": STANDARD.encode(".\r\nGrüße\r\n.")},
        {"filename": "logo.png", "content_type": "image/png", "content_id": "logo@shop", "content_base64": STANDARD.encode(b"\x89PNG\r\n\x1a\n")},
        {"filename": "empty.bin", "content_base64": ""},
    ]);
    letter.mail.attachments = vec![
        ("Rechnung März €.pdf".to_owned(), every_byte),
        ("empty.bin".to_owned(), Vec::new()),
        ("logo.png".to_owned(), b"\x89PNG\r\n\x1a\n".to_vec()),
        ("notes.txt".to_owned(), ".\r\nGrüße\r\n.".as_bytes().to_vec()),
    ];
    letter
}

fn raw(letter: Letter, message: &str) -> Letter {
    let document = json!({
        "kind": "raw", "recipients": letter.document["recipients"], "raw_message_base64": STANDARD.encode(message),
    });
    Letter { document, ..letter }
}

fn raw_multipart(n: usize, one: &str) -> Letter {
    let content = format!("%PDF {n}");
    let mut letter = ready(n, &[one], &format!("Raw multipart {n}"), Some("8-bit: Grüße\n.\n..dot\n"), None);
    letter.mail.attachments = vec![("a.pdf".to_owned(), content.clone().into_bytes())];
    letter.mail.message_id = format!("raw-{n}@elsewhere.example");
    let message = format!(
        "From: Shop <no-reply@{DOMAIN}>\r\nTo: <{one}>\r\nBcc: secret@example.com,\r\n other@example.com\r\n\
         Subject: Raw multipart {n}\r\nMessage-ID: <raw-{n}@elsewhere.example>\r\nDate: Thu, 1 Jan 2026 00:00:00 +0000\r\n\
         MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=\"b\"\r\n\r\npreamble\r\n--b\r\n\
         Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\n8-bit: Grüße\r\n.\r\n..dot\r\n\r\n--b\r\n\
         Content-Type: application/pdf\r\nContent-Disposition: attachment; filename=a.pdf\r\nContent-Transfer-Encoding: base64\r\n\r\n\
         {}\r\n--b--\r\n",
        STANDARD.encode(&content)
    );
    raw(letter, &message)
}

/// LF line ends, the longest line that is allowed, no Message-ID, no Date, no From.
fn raw_plain(n: usize, one: &str) -> Letter {
    let long = "z".repeat(998);
    let letter = ready(n, &[one], &format!("Raw plain {n}"), Some(&format!("first\n{long}\n.\nlast")), None);
    raw(letter, &format!("Subject: Raw plain {n}\nTo: {one}\nbcc: secret@example.com\n\nfirst\n{long}\n.\nlast"))
}

/// Several recipients, some of them named twice, in another case and in Cc again: one copy each.
fn many(n: usize) -> Letter {
    let person = |offset: usize| PEOPLE[(n + offset) % 17].to_owned();
    let mut letter = ready(n, &[&person(0), &person(1), &person(2)], &format!("Many {n}"), Some("All of you"), None);
    let second = person(1);
    let (local, domain) = second.split_once('@').expect("an address");
    let again = format!("Again <{local}@{}>", domain.to_uppercase());
    letter.document["cc"] = json!([format!("Cc <{}>", person(3)), again]);
    letter.document["bcc"] = json!([person(4), person(0)]);
    letter.mail.cc = vec![person(3), person(1)];
    letter.readers = (0..5).map(person).collect();
    letter
}

fn international(n: usize) -> Letter {
    let to = ["jörg@example.org", "用户@example.org", "grace@example.org"];
    let mut letter = ready(n, &to, &format!("国際 {n}"), Some("こんにちは"), None);
    letter.document["recipients"] = json!(["Jörg <jörg@example.org>", "用户@example.org", "grace@example.org"]);
    letter.document["cc"] = json!(["Zoë <zoe@exämple.org>"]);
    letter.mail.cc = vec!["zoe@xn--exmple-cua.org".to_owned()];
    letter.readers.push("zoe@xn--exmple-cua.org".to_owned());
    letter
}

fn own_headers(n: usize, one: &str) -> Letter {
    let mut letter = ready(n, &[one], &format!("Headers {n}"), Some("Hello"), Some("<b>Hello</b>"));
    letter.document["sender"] = json!("Überraschung <billing@other.example>");
    letter.document["reply_to"] = json!("Support <support@other.example>");
    letter.document["headers"] = json!({"X-Order": format!("{n}"), "List-Unsubscribe": "<https://shop.example/u?a=1>", "X-Long": "wort ".repeat(400)});
    letter.mail.from = vec!["billing@other.example".to_owned()];
    letter
}

/// One visible recipient, three blind ones.
fn blind(n: usize) -> Letter {
    let person = |offset: usize| PEOPLE[(n + offset) % 17].to_owned();
    let mut letter = ready(n, &[&person(0)], &format!("Blind {n}"), Some("Psst"), None);
    letter.document["bcc"] = json!([format!("Hidden <{}>", person(5)), person(6), person(7)]);
    letter.readers.extend([person(5), person(6), person(7)]);
    letter
}
