//! Attachments: odd names, types, contents, and pictures in the HTML.

use super::{Case, File, ready};

const NAMES: [&str; 34] = [
    "a",
    "no extension",
    "two  gaps  in.txt",
    "quote\"d.txt",
    "back\\slash.txt",
    "..\\..\\windows\\win.ini",
    "../../etc/passwd",
    "/absolute.txt",
    ".hidden",
    "trailing.",
    "semi;colon.txt",
    "a;filename=b.txt",
    "comma, and 'quotes'.txt",
    "100%.txt",
    "%0d%0aBcc%3A%20x.txt",
    "utf-8''encoded.txt",
    "=?utf-8?q?fake.exe?=",
    "=?utf-8?b?ZmFrZS5leGU=?=.pdf",
    "plus+and&more=.txt",
    "(brackets) [square] {curly} <angle>.txt",
    "tilde~`^|.txt",
    "CON.txt",
    "a.tar.gz",
    "Rechnung März €.pdf",
    "e\u{301}.txt",
    "请求书 (最终).pdf",
    "קובץ.pdf",
    "ملف\u{200f}.pdf",
    "invoice\u{202e}fdp.exe",
    "👩‍👩‍👧‍👦.png",
    "'single'.txt",
    "*.txt",
    "name*0*=utf-8''x.txt",
    "a@b, c: d",
];

pub(super) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    // Two names a message, so that one cannot leak into the other.
    for (number, pair) in NAMES.chunks(2).enumerate() {
        let files: Vec<File<'_>> =
            pair.iter().map(|name| File::new(name, "application/octet-stream", name.as_bytes())).collect();
        cases.push(
            ready(format!("attachments {pair:?}"), &format!("Files {number}"), Some("See below."), None)
                .attached(&files),
        );
    }
    for (name, letter) in [("long ASCII", "n"), ("long Latin", "ü"), ("long emoji", "🎉")] {
        // 255 characters are allowed, 500 bytes of them in a message.
        let count = (500 / letter.len()).min(255) - 4;
        let long = format!("{}.pdf", letter.repeat(count));
        let case = ready(format!("attachment with a {name} name"), "Files", Some("See below."), None);
        cases.push(case.attached(&[File::new(&long, "application/pdf", *b"%PDF")]));
    }
    cases.extend(contents());
    cases.extend(types());
    cases
}

fn contents() -> Vec<Case> {
    let every_byte = |count: usize| (0..=255).cycle().take(count).collect::<Vec<u8>>();
    let odd: [(&str, Vec<u8>); 12] = [
        ("nothing", Vec::new()),
        ("one byte", vec![0]),
        ("56 bytes", every_byte(56)),
        ("57 bytes", every_byte(57)),
        ("58 bytes", every_byte(58)),
        ("114 bytes", every_byte(114)),
        ("every byte", every_byte(4_096)),
        ("an end marker", b"\r\n.\r\n\n.\n\r.\r".to_vec()),
        ("line ends", b"a\nb\r\nc\rd\n\r\n".to_vec()),
        ("Latin-1", b"Gr\xfc\xdfe".to_vec()),
        ("NULs", vec![0; 300]),
        ("a megabyte", every_byte(1 << 20)),
    ];
    let case = |(name, content): (&str, Vec<u8>)| {
        ready(format!("attachment with {name}"), "Files", Some("See below."), Some("<p>See below.</p>")).attached(&[
            File::new("content.bin", "", content.clone()),
            File { parameters: &[("charset", "utf-8")], ..File::new("content.txt", "text/plain", content) },
        ])
    };
    odd.into_iter().map(case).collect()
}

fn types() -> Vec<Case> {
    let page = "<p><img src=\"cid:logo@shop\"> and <img src=\"cid:chart.2\"></p>";
    let png = b"\x89PNG\r\n\x1a\n";
    let picture = |name, id| File { content_id: Some(id), ..File::new(name, "image/png", *png) };
    let mail = "From: a@example.org\r\nSubject: inner\r\nBcc: b@example.org\r\n\r\nHello\r\n";
    let many: Vec<File<'_>> = (0..100).map(|_| File::new("same name.txt", "text/plain", *b"same")).collect();
    vec![
        ready("pictures in the html", "Pictures", None, Some(page))
            .attached(&[picture("logo.png", "logo@shop"), picture("chart.png", "chart.2")]),
        ready("pictures beside text and a file", "Pictures", Some("No pictures."), Some(page)).attached(&[
            picture("logo.png", "logo@shop"),
            File::new("a.pdf", "application/pdf", *b"%PDF"),
            picture("chart.png", "chart.2"),
        ]),
        ready("a picture without html", "Pictures", Some("No pictures."), None)
            .attached(&[picture("logo.png", "logo@shop")]),
        ready("odd types", "Types", Some("See below."), None).attached(&[
            File {
                parameters: &[("method", "REQUEST"), ("charset", "utf-8")],
                ..File::new("a.ics", "text/calendar", *b"BEGIN:VCALENDAR\r\n")
            },
            File::new("a.html", "text/html", *b"<script>alert(1)</script>\n"),
            File::new("a.svg", "image/svg+xml", *b"<svg/>"),
            File {
                parameters: &[("x-note", "two words")],
                ..File::new("a.x", "application/vnd.shop.order+json", *b"{}")
            },
            File::new("A.TXT", "TEXT/PLAIN", *b"upper"),
        ]),
        ready("a mail as a file", "Types", Some("See below."), None).attached(&[File::new(
            "inner.eml",
            "message/rfc822",
            mail.as_bytes(),
        )]),
        ready("a hundred files", "Types", Some("See below."), None).attached(&many),
    ]
}
