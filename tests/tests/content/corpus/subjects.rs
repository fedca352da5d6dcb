//! Subjects and headers of one's own: lengths, gaps, what looks like code, and as much as is allowed.

use super::{Case, Person, ready};

pub(super) fn cases() -> Vec<Case> {
    let mut subjects: Vec<String> = [
        "x",
        "Re: Fwd: [shop] order #42",
        "double  gaps   in    it",
        "=?utf-8?q?not=20encoded?=",
        "half =?utf-8?b? of one",
        "\"quoted\" \\ (comment) <x@example.org>, a@b; c:",
        "100 % & more?_=",
        "ends in a backslash \\",
        "a: b: c",
        ": leading colon",
        "é =?utf-8?q?both?= é",
        "ü  two gaps  ü",
        "Grüße, Ada: (Bestellung) \"42\"",
    ]
    .map(str::to_owned)
    .to_vec();
    for length in [59, 60, 61, 76, 78, 100, 300, 997, 998] {
        subjects.push("w".repeat(length));
        subjects.push("wört ".repeat(length / 5).trim_end().to_owned());
    }
    subjects.push("many short words ".repeat(58).trim_end().to_owned());
    subjects.push("🎉".repeat(998));
    subjects.push("é".repeat(998));
    let mut cases: Vec<Case> = subjects
        .iter()
        .enumerate()
        .map(|(number, subject)| ready(format!("subject {number}"), subject, Some("Hello"), None))
        .collect();
    let mut trimmed = ready("subject with outer blanks", "  outer blanks  ", Some("Hello"), None);
    // Folding white space around an unstructured value is no part of it (RFC 5322 section 2.2).
    trimmed.seen["subject"] = "outer blanks".into();
    cases.push(trimmed);
    cases.extend(headers());
    cases
}

fn headers() -> Vec<Case> {
    let hundred = (0..100).fold(ready("a hundred headers", "Headers", Some("Hello"), None), |case, number| {
        case.header(&format!("X-Number-{number}"), &format!("value {number} äöü"))
    });
    let huge = (0..20).fold(ready("huge headers", "Headers", Some("Hello"), None), |case, number| {
        case.header(&format!("X-Huge-{number}"), "seven b ".repeat(999).trim_end())
    });
    vec![
        hundred,
        huge,
        ready("a huge header of emoji", "Headers", Some("Hello"), None)
            .header("X-Party", &vec!["🎉é".repeat(140); 28].join(" ")),
        ready("a long word", "Headers", Some("Hello"), None).header("X-Word", &"w".repeat(900)),
        ready("a long name", "Headers", Some("Hello"), None).header(&"X".repeat(76), "short"),
        ready("odd names", "Headers", Some("Hello"), None)
            .header("x_odd.name", "one")
            .header("X-!#$%&'*+^`|~", "two")
            .header("9", "three"),
        ready("structured headers", "Headers", Some("Hello"), None)
            .header("List-Unsubscribe", "<https://shop.example/u?a=1&b=2>, <mailto:u@shop.example?subject=stop>")
            .header("List-Unsubscribe-Post", "List-Unsubscribe=One-Click")
            .header("Feedback-ID", "campaign:shop:order:42")
            .header("X-Mailer", "Shop (https://shop.example) \"1.0\" \\"),
        ready("values that look like more", "Headers", Some("Hello"), None)
            .header("X-A", "Bcc: x@example.org")
            .header("X-B", "a;b=c;d=\"e\"")
            .header("X-C", "."),
        ready("everybody", "Many", Some("Hello"), None)
            .to(&many("to", 40).iter().map(|(name, address)| Person(name, address)).collect::<Vec<_>>())
            .cc(&many("cc", 40).iter().map(|(name, address)| Person(name, address)).collect::<Vec<_>>())
            .bcc(&many("bcc", 10).iter().map(|(name, address)| Person(name, address)).collect::<Vec<_>>()),
    ]
}

fn many(field: &str, count: usize) -> Vec<(String, String)> {
    const NAMES: [&str; 4] = ["", "Ada Lovelace", "Jörg Müßig", "O'Hara, \"Kate\""];
    (0..count).map(|n| (NAMES[n % 4].to_owned(), format!("{field}{n}@example.org"))).collect()
}
