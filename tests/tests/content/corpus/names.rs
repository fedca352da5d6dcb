//! Addresses and the names before them.

use super::{Case, Person, ready};

const NAMES: [&str; 30] = [
    "Ada",
    "Ada Lovelace",
    "Lovelace, Ada",
    "Ada \"the first\" Lovelace",
    "back\\slash",
    "quote\" and \\\"",
    "dot.ted",
    "a (comment)",
    "ada@example.org",
    "<b>bold</b>",
    "semi; colon: [brackets]",
    "O'Hara",
    "=?utf-8?q?fake?=",
    "=?utf-8?q?a=0d=0aBcc:_x@example.org?=",
    "undisclosed-recipients:;",
    "Müller, Jörg",
    "\"Jörg\" (Büro)",
    "Jörg @ Büro; extern",
    "ends in \\",
    "tilde~ `tick` {brace} |pipe| ^",
    "double  gap",
    "100% off!",
    "_under_score_ =20",
    "名前、太郎",
    "👩‍🚀",
    "דנה (כהן)",
    "x",
    "null",
    "Group: a, b;",
    "é",
];

pub(super) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (number, name) in NAMES.iter().enumerate() {
        let case = ready(format!("name {number}: {name}"), "Names", Some("Hello"), None);
        let case = case.to(&[Person(name, "ada@example.org"), Person("", "bob@example.org")]);
        let case = if number % 2 == 0 { case.from(Person(name, "billing@shop.example")) } else { case };
        cases.push(case.reply_to(Person(name, "support@shop.example")).cc(&[Person(name, "cc@example.net")]));
    }
    let long = [
        "long ".repeat(120).trim_end().to_owned(),
        "w".repeat(600),
        "ü".repeat(400),
        "wörter ".repeat(100).trim_end().to_owned(),
    ];
    for name in &long {
        cases.push(
            ready(format!("a name of {} bytes", name.len()), "Names", Some("Hello"), None)
                .to(&[Person(name, "ada@example.org")]),
        );
    }
    cases.extend(addresses());
    cases
}

fn addresses() -> Vec<Case> {
    let locals = [
        "carol.o'hara",
        "dave+shop",
        "frank=x",
        "a",
        "!#$%&'*+-/=?^_`{|}~",
        "UPPER.lower",
        "jörg",
        "用户",
        "δοκιμή",
        "\"two words\"",
        "\"a@b\"",
    ];
    let mut cases: Vec<Case> = locals
        .iter()
        .map(|local| {
            let address = format!("{local}@example.org");
            ready(format!("address {address}"), "Addresses", Some("Hello"), None)
                .to(&[Person("Somebody", &address)])
                .cc(&[Person("", "ada@example.net")])
        })
        .collect();
    let long = format!("{}@example.org", "l".repeat(64));
    cases.push(ready("a local part of 64", "Addresses", Some("Hello"), None).to(&[Person("", &long)]));
    // Domains are sent in their ASCII form (RFC 5891).
    let mut idn = ready("a domain with an umlaut", "Addresses", Some("Hello"), None);
    idn.document["recipients"] = serde_json::json!(["Zoë <zoe@exämple.org>", "ada@EXAMPLE.org"]);
    idn.seen["to"] = serde_json::json!([["Zoë", "zoe@xn--exmple-cua.org"], ["", "ada@example.org"]]);
    idn.readers = vec!["zoe@xn--exmple-cua.org".to_owned(), "ada@example.org".to_owned()];
    cases.push(idn);
    let mut sender = ready("a sender's domain with an umlaut", "Addresses", Some("Hello"), None);
    sender.document["sender"] = serde_json::json!("Zoë <zoe@exämple.org>");
    sender.seen["from"] = serde_json::json!([["Zoë", "zoe@xn--exmple-cua.org"]]);
    "xn--exmple-cua.org".clone_into(&mut sender.domain);
    cases.push(sender);
    cases.push(
        ready("hidden ones", "Addresses", Some("Hello"), None)
            .bcc(&[Person("Hidden", "secret@example.net"), Person("", "hidden@sub.example.org")]),
    );
    cases
}
