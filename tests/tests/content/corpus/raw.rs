//! Finished messages of applications, as other libraries write them: sent as they are, apart from line ends, Bcc and
//! what is missing.

use serde_json::json;

use super::{Case, DOMAINS, Person, digest, normal, ready};

/// A raw message of these header lines and this body, that must be seen with this subject and text.
fn plain(name: &str, subject: &str, text: &str, head: &str, body: &str) -> Case {
    let mut case = ready(format!("raw: {name}"), subject, Some(text), None);
    case.seen["from"] = json!([["", "no-reply@elsewhere.example"]]);
    case.raw(format!("From: no-reply@elsewhere.example\nTo: ada@example.org\n{head}\n\n{body}").replace('\n', "\r\n"))
}

pub(super) fn cases() -> Vec<Case> {
    let mut cases = vec![
        plain("simple", "Simple", "Hello\n", "Subject: Simple", "Hello\n"),
        plain("no last line end", "Simple", "Hello", "Subject: Simple", "Hello"),
        plain("no body", "Simple", "", "Subject: Simple", ""),
        plain("dots", "Dots", ".\n..\n.a\n\n.\n", "Subject: Dots", ".\n..\n.a\n\n.\n"),
        plain(
            "8-bit",
            "8",
            "Grüße\n",
            "Subject: 8\nMIME-Version: 1.0\nContent-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: 8bit",
            "Grüße\n",
        ),
        plain(
            "quoted-printable",
            "QP",
            "Grüße = long long\n",
            "Subject: QP\nMIME-Version: 1.0\nContent-Type: text/plain; charset=iso-8859-1\nContent-Transfer-Encoding: quoted-printable",
            "Gr=FC=DFe =3D long=\n long\n",
        ),
        plain(
            "base64",
            "B64",
            "Grüße\n",
            "Subject: B64\nMIME-Version: 1.0\nContent-Type: text/plain; charset=\"utf-8\"\nContent-Transfer-Encoding: BASE64",
            "R3LDvMOf\nZQo=\n",
        ),
        plain(
            "encoded words",
            "Grüße, Ada: 東京",
            "x",
            "Subject: =?iso-8859-1?Q?Gr=FC=DFe=2C?=\n =?us-ascii?q?_Ada:?= =?utf-8?B?IOadseS6rA==?=",
            "x",
        ),
        plain("a raw UTF-8 header", "Grüße 東京", "x", "Subject: Grüße 東京", "x"),
        plain("a folded subject", "one two three", "x", "Subject: one\n two\n three", "x"),
        plain(
            "lines of 998 bytes",
            "Long",
            &format!("{}\n.{}\n", "z".repeat(998), "z".repeat(997)),
            &format!("Subject: Long\nX-Long: {}", "v".repeat(990)),
            &format!("{}\n.{}\n", "z".repeat(998), "z".repeat(997)),
        ),
        plain(
            "a huge header",
            "Huge",
            "x",
            &format!("Subject: Huge\nX-Huge: {}", "seven b \n ".repeat(4_000).trim_end()),
            "x",
        ),
        plain(
            "a thousand headers",
            "Many",
            "x",
            &format!("Subject: Many\n{}", (0..1_000).map(|n| format!("X-{n}: {n}")).collect::<Vec<_>>().join("\n")),
            "x",
        ),
        plain(
            "names in any case",
            "Case",
            "x",
            "sUBJECT: Case\nMESSAGE-ID: <case@elsewhere.example>\nDATE: Thu, 1 Jan 2026 00:00:00 +0000",
            "x",
        ),
        plain("an empty header", "Empty", "x", "Subject: Empty\nX-Empty:\nX-Blank: ", "x"),
        plain("an empty Message-ID", "Empty id", "x", "Subject: Empty id\nMessage-ID:", "x"),
        plain(
            "Bcc in every form",
            "Hidden",
            "x",
            "Subject: Hidden\nBcc: secret@example.net,\n other@example.net\nbCC:\nResent-Bcc: third@example.net\nX-After: yes",
            "x",
        ),
        plain(
            "Bcc in the body",
            "Body",
            "Bcc: not a header\n\nSubject: neither\n",
            "Subject: Body",
            "Bcc: not a header\n\nSubject: neither\n",
        ),
        plain(
            "a signature of its own",
            "Signed",
            "x",
            "Subject: Signed\nDKIM-Signature: v=1; a=rsa-sha256; d=elsewhere.example; s=x;\n\tbh=abc; b=def\nReceived: from a by b; Thu, 1 Jan 2026 00:00:00 +0000\nReturn-Path: <x@elsewhere.example>",
            "x",
        ),
    ];
    for case in &mut cases {
        if case.name == "raw: names in any case" {
            case.message_id = Some("case@elsewhere.example".to_owned());
        }
        if case.name == "raw: Bcc in every form" {
            case.seen["headers"] = json!({"X-After": "yes"});
        }
    }
    cases.extend(line_ends());
    cases.extend(missing());
    cases.extend(multiparts());
    cases
}

/// LF and CR are line ends as CRLF is, and one message may have them all.
fn line_ends() -> Vec<Case> {
    let ends = [("LF", "\n"), ("CRLF", "\r\n")];
    let mut cases: Vec<Case> = ends
        .iter()
        .map(|(name, end)| {
            let message =
                "From: no-reply@shop.example|Subject: Ends|To: ada@example.org||one|.|two||".replace('|', end);
            let mut case = ready(format!("raw: ends in {name}"), "Ends", Some("one\n.\ntwo\n\n"), None).raw(message);
            case.seen["from"] = json!([["", "no-reply@shop.example"]]);
            case
        })
        .collect();
    let mixed = "From: no-reply@shop.example\rSubject: Ends\nTo: ada@example.org\r\n\r\none\r.\r\ntwo\n.\rthree\n\r\n";
    let mut case = ready("raw: every end", "Ends", Some("one\n.\ntwo\n.\nthree\n\n"), None).raw(mixed);
    case.seen["from"] = json!([["", "no-reply@shop.example"]]);
    cases.push(case);
    cases
}

/// From, Date and Message-ID are added, nothing else.
fn missing() -> Vec<Case> {
    let mut only_subject = ready("raw: nearly nothing", "Bare", Some("x"), None).raw("Subject: Bare\n\nx");
    only_subject.seen["to"] = json!([]);
    let mut no_subject = ready("raw: no subject", "", Some("x"), None).raw("To: ada@example.org\n\nx");
    no_subject.seen["subject"] = json!(null);
    let own = "From: Ada <ada@elsewhere.example>\nDate: Thu, 01 Jan 2026 00:00:00 +0000\nMessage-ID: <own@elsewhere.example>\nTo: ada@example.org\nSubject: Own\n\nx";
    let mut own = ready("raw: everything its own", "Own", Some("x"), None).raw(own);
    own.seen["from"] = json!([["Ada", "ada@elsewhere.example"]]);
    own.seen["headers"] = json!({"Date": "Thu, 01 Jan 2026 00:00:00 +0000"});
    own.message_id = Some("own@elsewhere.example".to_owned());
    // Whom it says it is for is the application's business; the envelope is the notification's.
    let mut others = ready("raw: other recipients in the header", "Others", Some("x"), None)
        .to(&[Person("", "judy@sub.example.org"), Person("", "grace@example.net")])
        .raw("To: The team:;\nCc: \"Lovelace, Ada\" <ada@example.org>\nSubject: Others\n\nx");
    others.seen["to"] = json!([]);
    others.seen["cc"] = json!([["Lovelace, Ada", "ada@example.org"]]);
    debug_assert!(others.readers.iter().all(|reader| DOMAINS.iter().any(|domain| reader.ends_with(domain))));
    vec![only_subject, no_subject, own, others]
}

fn multiparts() -> Vec<Case> {
    let nested = "From: Shop <no-reply@shop.example>\nTo: ada@example.org\nSubject: Nested\nMIME-Version: 1.0\n\
        Content-Type: multipart/mixed; boundary=\"out er\"\n\npreamble\n.\n--out er\n\
        Content-Type: multipart/alternative; boundary=in\n\n--in\n\nplain\n.\n--in\nContent-Type: text/html; charset=utf-8\n\
        Content-Transfer-Encoding: 8bit\n\n<p>hé</p>\n--in--\n--out er\nContent-Type: application/pdf; name=\"a b.pdf\"\n\
        Content-Disposition: attachment; filename=\"a b.pdf\"\nContent-Transfer-Encoding: base64\n\nJVBE\nRg==\n\
        --out er--\nepilogue\n.\n";
    let mut one = ready("raw: nested", "Nested", Some(&normal("plain\n.")), Some("<p>hé</p>")).raw(nested);
    one.seen["tree"] = json!("multipart/mixed(multipart/alternative(text/plain,text/html),application/pdf)");
    one.seen["attachments"] = json!([{
        "name": "a b.pdf", "type": "application/pdf", "parameters": {"name": "a b.pdf"}, "disposition": "attachment",
        "content_id": null, "sha256": digest(b"%PDF"),
    }]);
    let report = "From: Shop <no-reply@shop.example>\r\nTo: ada@example.org\r\nSubject: Report\r\nMIME-Version: 1.0\r\n\
        Content-Type: multipart/report; report-type=delivery-status; boundary=b\r\n\r\n--b\r\n\r\nIt failed.\r\n\r\n--b\r\n\
        Content-Type: message/rfc822\r\n\r\nSubject: inner\r\nBcc: stays@example.org\r\n\r\ninner\r\n\r\n--b--\r\n";
    let mut two = ready("raw: a message within", "Report", Some("It failed.\n"), None).raw(report);
    two.seen["tree"] = json!("multipart/report(text/plain,message/rfc822)");
    two.seen.as_object_mut().expect("an object").remove("attachments");
    vec![one, two]
}
