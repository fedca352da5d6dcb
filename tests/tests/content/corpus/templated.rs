//! Payloads, and the templates they meet.

use serde_json::{Value, json};

use super::{Case, File, Person, normal, ready};

/// Path and text; a line that holds only a tag leaves no trace.
pub(crate) const TEMPLATES: [(&str, &str); 6] = [
    ("_layouts/page.html", "<!doctype html>\n<html><body>\n{% block main %}{% endblock %}\n</body></html>\n"),
    ("order/subject.txt", "Order {{ id }} for {{ name }}\n"),
    ("order/body.txt", "Dear {{ name }},\n{% for item in items %}\n* {{ item }}\n{% endfor %}\n.\n"),
    (
        "order/body.html",
        "{% extends \"_layouts/page.html\" %}\n{% block main %}<p title=\"{{ name }}\">{{ id }}</p>{% endblock %}\n",
    ),
    ("ping/subject.txt", "{{ subject }}"),
    ("ping/body.txt", "{{ text }}\n"),
];

pub(super) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (number, (name, items)) in [
        ("Ada", &["tea", "milk"][..]),
        ("Ada <b> & \"Löve\" 'x' {{ 7*7 }}", &["Tee ☕", ".hidden", "{% raw %}"]),
        ("דנה כהן", &["שלום"]),
        ("👩‍🚀 山田", &[]),
        ("=?utf-8?q?fake?=", &[".", "..", "\u{7}"]),
    ]
    .into_iter()
    .enumerate()
    {
        let list: String = items.iter().map(|item| format!("* {item}\n")).collect();
        let escaped = name
            .replace('&', "&amp;")
            .replace('<', "&lt;")
            .replace('>', "&gt;")
            .replace('"', "&quot;")
            .replace('\'', "&#x27;");
        let html = format!("<!doctype html>\n<html><body>\n<p title=\"{escaped}\">{number}</p></body></html>\n");
        let text = format!("Dear {name},\n{list}.\n");
        let case = ready(format!("template: {name}"), &format!("Order {number} for {name}"), Some(&text), Some(&html));
        let case = case.cc(&[Person("Cc", "cc@example.net")]).header("X-Order", "42");
        cases.push(payload(case, "order", json!({"id": number, "name": name, "items": items})));
    }
    for (number, text) in
        ["pong", "pong\r\n.\r\n", "\r\rpong\n\n.", "", "x\u{2028}\u{85}", &"é".repeat(2_000)].into_iter().enumerate()
    {
        let case = ready(format!("template: text {number}"), "Ping", Some(&normal(&format!("{text}\n"))), None);
        cases.push(payload(case, "ping", json!({"subject": "Ping\n", "text": text})));
    }
    let attached = ready("template: attached", "Ping", Some("see"), None).attached(&[File::new(
        "Rechnung 1.pdf",
        "application/pdf",
        *b"%PDF",
    )]);
    cases.push(payload(attached, "ping", json!({"subject": "Ping", "text": "see"})));
    cases
}

fn payload(mut case: Case, kind: &str, payload: Value) -> Case {
    let document = case.document.as_object_mut().expect("an object");
    for key in ["subject", "body_text", "body_html"] {
        document.remove(key);
    }
    document.insert("kind".to_owned(), json!(kind));
    document.insert("payload".to_owned(), payload);
    case
}
