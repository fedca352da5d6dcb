//! Finished messages: what is the same content when a mail library builds it again, and what no relay could send.

use tokio_postgres::Error;
use uuid::Uuid;

use super::support::Outbox;

/// A message with everything that libraries make anew, in the way of the n-th attempt.
fn built(attempt: usize, text: &str) -> String {
    let (outer, inner, logo) = match attempt {
        0 => ("=_outer(1)", "--inner+0.7", "5f3e1a@host.mail"),
        1 => ("zz", "===============8446550374924177==", "77aa.b+q@host.mail"),
        _ => ("b2", "b", "x@y"),
    };
    // Quoted-printable breaks the line where it must: within the URL, elsewhere each time.
    let (early, late) = logo.split_at(attempt + 1);
    format!(
        "Message-ID: <{attempt}@host>\r\nDate: Thu, 26 Nov 2026 10:00:0{attempt} +0000\r\nFrom: shop@example.org\r\nSubject: Hello\r\n\
         MIME-Version: 1.0\r\nContent-Type: multipart/mixed;\r\n\tboundary=\"{outer}\"\r\n\r\n\
         --{outer}\r\nContent-Type: multipart/related; boundary=\"{inner}\"; type=\"text/html\"\r\n\r\n\
         --{inner}\r\nContent-Type: text/html\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n\
         <p>{text}</p><img src=3D\"cid:{early}=\r\n{late}\">\r\n\
         --{inner}\r\nContent-Type: image/png\r\nContent-ID: <{logo}>\r\nContent-Transfer-Encoding: base64\r\n\r\nAAEC\r\n--{inner}--\r\n\
         --{outer}\r\nContent-Type: text/plain\r\n\r\nnote\r\n--{outer}--\r\n"
    )
}

async fn enqueue(outbox: &Outbox, raw: impl AsRef<[u8]>, key: Option<&str>) -> Result<Uuid, Error> {
    let sql =
        "SELECT outbox.enqueue(kind => 'mail', recipients => '{a@example.org}', raw_message => $1, dedup_key => $2)";
    Ok(outbox.db.query_one(sql, &[&raw.as_ref(), &key]).await?.get(0))
}

/// SQLSTATE and message.
async fn refusal(outbox: &Outbox, raw: impl AsRef<[u8]>, key: Option<&str>) -> String {
    let error = enqueue(outbox, raw, key).await.expect_err("it is refused");
    let said = error.as_db_error().expect("the server says it");
    format!("{} {}", said.code().code(), said.message())
}

#[tokio::test]
async fn rc27_a_message_that_a_library_built_again_is_the_same_content() {
    let outbox = Outbox::new().await;
    let first = enqueue(&outbox, built(0, "Thank you"), Some("k")).await.unwrap();
    for attempt in 0..3 {
        assert_eq!(enqueue(&outbox, built(attempt, "Thank you"), Some("k")).await.unwrap(), first, "{attempt}");
    }
    let lines = built(1, "Thank you").replace("\r\n", "\n");
    assert_eq!(enqueue(&outbox, lines, Some("k")).await.unwrap(), first, "with other line ends");
    assert_eq!(outbox.number("SELECT count(*) FROM outbox.message").await, 1);
    // For whoever looks for what was enqueued twice without a key, too.
    let second = enqueue(&outbox, built(1, "Thank you"), None).await.unwrap();
    let pairs = "SELECT first_id || ' ' || second_id FROM outbox.suspected_duplicates";
    assert_eq!(outbox.texts(pairs).await, [format!("{first} {second}")]);
}

/// Whatever encoding a library chooses for the part that refers to a Content-ID.
#[tokio::test]
async fn rc27_a_content_id_is_a_name_also_where_the_html_is_encoded() {
    let outbox = Outbox::new().await;
    let html = |id: &str| format!("<p>\u{43f}\u{440}\u{438}</p><img src=\"cid:{id}\">");
    let wrapped = |id: &str| {
        let encoded = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, html(id));
        encoded.as_bytes().chunks(20).map(|line| format!("{}\r\n", String::from_utf8_lossy(line))).collect::<String>()
    };
    let quoted = |id: &str| format!("<img src=3D\"cid:{}\">=\r\n", id.replacen('@', "=40", 1));
    let message = |id: &str, encoding: &str, body: String| {
        format!(
            "Subject: x\r\nContent-Type: multipart/related; boundary=\"{id}\"\r\n\r\n--{id}\r\nContent-Type: text/html; charset=utf-8\r\n\
             Content-Transfer-Encoding: {encoding}\r\n\r\n{body}\r\n--{id}\r\nContent-Type: image/png; name=\"{id}\"\r\nContent-ID: <{id}>\r\n\
             Content-Disposition: inline; name=\"{id}\"; filename=logo.png\r\n\r\nx\r\n--{id}--\r\n"
        )
    };
    for (encoding, body) in
        [("base64", &wrapped as &dyn Fn(&str) -> String), ("quoted-printable", &quoted), ("8bit", &html)]
    {
        let key = Some(encoding);
        let first = enqueue(&outbox, message("1a@host.mail", encoding, body("1a@host.mail")), key).await.unwrap();
        let again = enqueue(&outbox, message("another.77@mail", encoding, body("another.77@mail")), key).await.unwrap();
        assert_eq!(again, first, "{encoding}");
        let other = message("1a@host.mail", encoding, body("1a@host.mail")).replace("x\r\n--", "y\r\n--");
        assert!(refusal(&outbox, other, key).await.starts_with("23H01"));
    }
}

#[tokio::test]
async fn rc28_anything_else_that_differs_is_other_content() {
    let outbox = Outbox::new().await;
    let message = built(0, "Your code: 4711, boundary=5, cid:5, --5");
    enqueue(&outbox, &message, Some("k")).await.unwrap();
    let others = [
        built(0, "Your code: 4712, boundary=5, cid:5, --5"),
        built(0, "Your code: 4711, boundary=6, cid:5, --5"),
        built(0, "Your code: 4711, boundary=5, cid:6, --5"),
        built(0, "Your code: 4711, boundary=5, cid:5, --6"),
        message.replace("Subject: Hello", "Subject: Other"),
        message.replace("AAEC", "AAED"),
        message.replace("type=\"text/html\"", "type=\"text/plain\""),
        message.replace("\r\nnote\r\n", "\r\nDate: 1\r\n"),
        message.replace("From: shop@", "From: sale@"),
        message.replace("5f3e1a@host.mail>", "other@host.mail>"),
        message.replace("\r\n--=_outer(1)--", ""),
    ];
    for other in others {
        assert_ne!(other, message);
        assert!(refusal(&outbox, &other, Some("k")).await.starts_with("23H01"), "{other}");
    }
    // Nothing in a text is structure: all of these were once taken for the same.
    let texts = [
        ("Subject: code\n\nYour code:\nContent-ID: <#@x>\n", "111111", "222222"),
        (
            "Subject: x\nContent-Type: multipart/mixed; boundary=b\n\n--b\nContent-ID: <invoice-#.pdf>\nContent-Type: a/b; name=\"invoice-#.pdf\"\n\nx\n--b--\n",
            "42",
            "43",
        ),
        (
            "Subject: x\nContent-Type: multipart/mixed; boundary=b\n\n--b\n\nYour token: boundary=# ok\n--b--\n",
            "S1",
            "S2",
        ),
        ("Subject: x\nContent-Type: multipart/mixed; boundary=b\n\n--b\n\ntext\n--bad\n#\n--b--\n", "1", "2"),
        ("Date: x\rSubject: #\n\nx", "AAA", "BBB"),
        ("From: a@b.c\r\r\n\r\r\nAppointment\r\r\nDate: #\n\nx", "1 May", "9 June"),
        ("Subject: x\nContent-Type: multipart/mixed; boundary=b\n\n--b\n\nx\n--b--#\n", "11", "12"),
        (
            "Subject: x\nContent-Type: multipart/related; boundary=b\n\n--b\nContent-Type: text/html\n\nplacid:l@x# cid:l@xy#\n--b\nContent-ID: <l@x>\n\nx\n--b--\n",
            "1",
            "2",
        ),
    ];
    for (at, (text, one, other)) in texts.iter().enumerate() {
        let key = format!("text-{at}");
        enqueue(&outbox, text.replace('#', one), Some(&key)).await.unwrap();
        let said = refusal(&outbox, text.replace('#', other), Some(&key)).await;
        assert!(said.starts_with("23H01"), "{text}");
    }
    // Text that talks about boundaries is text.
    let plain =
        |number: u32| format!("Subject: x\n\nContent-Type: multipart/mixed; boundary={number}\n\nboundary={number}\n");
    enqueue(&outbox, plain(5), Some("plain")).await.unwrap();
    assert!(refusal(&outbox, plain(6), Some("plain")).await.starts_with("23H01"));
    // A date in the body is content, one in the header section is not.
    let dated = |head: u32, body: u32| format!("Date: {head}\nSubject: x\n\nDate: {body}\n");
    let first = enqueue(&outbox, dated(1, 1), Some("dated")).await.unwrap();
    assert_eq!(enqueue(&outbox, dated(2, 1), Some("dated")).await.unwrap(), first);
    assert!(refusal(&outbox, dated(1, 2), Some("dated")).await.starts_with("23H01"));
}

#[tokio::test]
async fn a_key_taken_before_libraries_were_understood_still_stands_for_its_bytes() {
    let outbox = Outbox::new().await;
    let first = enqueue(&outbox, built(0, "x"), Some("k")).await.unwrap();
    let before = "UPDATE outbox.dedup_key SET digest = outbox.exact_digest_of(ROW(NULL, m.kind, m.recipients, m.payload, m.subject, m.body_text, m.body_html,
        m.raw_message, m.sender, m.reply_to, m.cc, m.bcc, m.headers, m.attachments, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL)::outbox.notification)
        FROM outbox.message m";
    assert_eq!(outbox.db.execute(before, &[]).await.unwrap(), 1);
    assert_eq!(enqueue(&outbox, built(0, "x"), Some("k")).await.unwrap(), first);
    assert!(refusal(&outbox, built(1, "x"), Some("k")).await.starts_with("23H01"));
}

#[tokio::test]
async fn what_no_server_takes_is_refused_by_the_insert() {
    let outbox = Outbox::new().await;
    let with = |line: &str| format!("Subject: x\r\n\r\n{line}\r\nend");
    let fine = [with(&"y".repeat(998)), with(&"ä".repeat(499)), with(&format!("{0}\r{0}", "y".repeat(900)))];
    for message in fine {
        enqueue(&outbox, message, None).await.expect("998 bytes are allowed");
    }
    for message in [with(&"y".repeat(999)), with(&"ä".repeat(500)), format!("Subject: {}\n\n", "s".repeat(990))] {
        let said = refusal(&outbox, message, None).await;
        assert_eq!(said, "22H09 outbox.enqueue: raw_message: has a line longer than 998 bytes");
    }
    let nul = refusal(&outbox, with("a\0b"), None).await;
    assert_eq!(nul, "22H09 outbox.enqueue: raw_message: has a NUL byte");
}
