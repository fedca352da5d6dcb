//! Lines: their ends, their lengths, their beginnings, and texts with nearly nothing in them.

use super::{Case, File, ready};

/// A name and a text; each is sent as a text, as HTML, and as both with an attachment.
fn texts() -> Vec<(&'static str, String)> {
    let owned = |texts: &[(&'static str, &str)]| -> Vec<(&'static str, String)> {
        texts.iter().map(|(name, text)| (*name, (*text).to_owned())).collect()
    };
    let mut all = owned(&[
        ("LF", "one\ntwo\n\nthree\n"),
        ("CRLF", "one\r\ntwo\r\n\r\nthree\r\n"),
        ("CR", "one\rtwo\r\rthree\r"),
        ("mixed ends", "one\r\ntwo\nthree\rfour\n\rfive\r\r\nsix"),
        ("no last end", "one\ntwo"),
        ("many last ends", "one\n\n\n\n"),
        ("first ends", "\n\r\n\none"),
        ("dots", ".\n..\n...\n.a\n..a\n. \n\n.\n"),
        ("a dot alone", "."),
        ("dots and CRLF", "\r\n.\r\n\r\n..\r\n.\r\nQUIT\r\n"),
        ("trailing blanks", "space \ntab\t\n both \t \n \n\t\nend "),
        ("From lines", "From here\n>From there\n>>From x\nFrom \nfrom\n"),
        ("equals signs", "=\n==\n=3D\n=\r\na=\nb=20\n=E2=82=AC\nhttps://shop.example/?a=1&b==\n"),
        ("a boundary", "--\n--=_\n----==_Part\n--b--\n"),
        ("a header block", "Subject: no\nBcc: no@example.org\n\nContent-Type: text/html\n\n<b>\n"),
        ("a bell and an escape", "ring \u{7} the bell \u{1b}[31mred\u{1b}[0m \u{b}\u{c}\u{7f}\n"),
        ("next line and separators", "a\u{85}b\u{2028}c\u{2029}d\u{a0}e\n"),
        ("a byte order mark", "\u{feff}text\n"),
        ("a space", " "),
        ("a line end", "\n"),
        ("blank lines", "\r\n \r\n\r\n"),
        ("a tab", "\t"),
        ("a signature", "Hello\n\n-- \nShop\n"),
        ("flowed?", "Hello \nthere \n>quoted \n"),
    ]);
    for length in [75, 76, 77, 78, 997, 998, 999, 1_000, 5_000] {
        all.push(("ASCII of one length", "x".repeat(length)));
    }
    for length in [38, 498, 499, 500, 1_000, 3_000] {
        all.push(("two bytes a letter", "é".repeat(length)));
    }
    all.push(("dots at the fold", format!("{}.\n{}..", "x".repeat(997), "y".repeat(998))));
    all.push(("long lines that end in blanks", format!("{} \n{}\t\n", "x".repeat(1_000), "y".repeat(75))));
    all.push(("a line of emoji", "👩‍👩‍👧‍👦".repeat(400)));
    all.push(("a megabyte", "The quick brown fox — jumps over the lazy dog.\n".repeat(20_000)));
    all
}

pub(super) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (number, (name, text)) in texts().into_iter().enumerate() {
        let subject = format!("Lines {number}");
        let case = |form: &str| format!("lines: {name} ({number}, {} bytes), {form}", text.len());
        cases.push(ready(case("text"), &subject, Some(&text), None));
        if number % 2 == 0 {
            cases.push(ready(case("html"), &subject, None, Some(&text)));
        } else {
            let both = ready(case("both, attached"), &subject, Some(&text), Some(&text));
            cases.push(both.attached(&[File::new("same.txt", "text/plain", text.as_bytes())]));
        }
    }
    let file = || File::new("a.txt", "text/plain", *b"a");
    cases.push(ready("empty text, attached", "Empty", Some(""), None).attached(&[file()]));
    cases.push(ready("empty html, attached", "Empty", None, Some("")).attached(&[file()]));
    cases.push(ready("empty text beside html", "Empty", Some(""), Some("<p>x</p>")));
    cases.push(ready("empty html beside text", "Empty", Some("x"), Some("")));
    cases
}
