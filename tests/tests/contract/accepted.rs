//! What is accepted, through every door and with every type a driver may send, and what is stored of it.

use serde_json::json;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Error};

use super::support::{Outbox, texts};

/// COPY without a client's sink: the server reads what `printf` writes.
async fn copy_in(db: &Client, columns: &str, text: &str) -> Result<(), Error> {
    let program = format!("printf '%s\\n' '{}'", text.replace('\n', "' '"));
    let literal = program.replace('\\', "\\\\").replace('\'', "\\'");
    db.batch_execute(&format!("COPY outbox.notification ({columns}) FROM PROGRAM E'{literal}'")).await
}

#[rustfmt::skip]
const ACCEPTED: &[&str] = &[
    // Contents.
    "payload => '{}'",
    r#"payload => '{"nested": {"list": [1, null, "\\u0000 is harmless here"]}, "emoji": "\ud83d\ude00"}'"#,
    "subject => 'Hello', body_text => 'x'",
    "subject => 'Hello', body_html => '<p>x</p>'",
    "subject => 'Héllo ☃', body_text => E'many\r\nlines', body_html => '<p>x</p>'",
    r#"subject => 'Only a file', body_text => '', attachments => '[{"filename": "a.txt", "content_base64": "eA=="}]'"#,
    r"raw_message => 'Subject: x\015\012\015\012body'",
    r"raw_message => 'Subject: x\012\012body \001\377'",
    // NULL, JSON null and empty containers are absent.
    "payload => '{}', subject => NULL, body_text => NULL, raw_message => NULL, cc => NULL, headers => NULL, dedup_key => NULL, priority => NULL",
    "payload => 'null', subject => 'x', body_text => 'x'",
    "payload => '{}', headers => 'null', attachments => 'null'",
    "payload => '{}', headers => '{}', attachments => '[]', cc => '{}', bcc => '{}'",
    r"payload => NULL::json, raw_message => 'Subject: x\012\012', headers => '{}'",
    // Addresses.
    r#"payload => '{}', sender => 'Shop <no-reply@example.org>', reply_to => '"Doe, J." <j@example.org>', cc => '{b@example.org}', bcc => '{c@example.org}'"#,
    "payload => '{}', cc => ARRAY['user+tag@sub.example.co.uk', 'o''hara@example.org', 'a@localhost', 'x@xn--exmple-cua.org', 'a-b@a--b.org', '!#$%&''*+-/=?^_`{|}~@example.org']",
    r#"payload => '{}', cc => ARRAY['"john doe"@example.org', '"a@b"@example.org', '"a\"b"@example.org', 'a@[192.0.2.1]', 'a@[IPv6:2001:db8::1]']"#,
    r#"payload => '{}', cc => ARRAY['jörg@example.org', 'j@exämple.org', 'Jörg Müller <j@example.org>', '"A <b> c" <a@example.org>', '<a@example.org>', 'Ada (Sales) <a@example.org>']"#,
    "payload => '{}', cc => ARRAY[repeat('a', 64) || '@example.org', repeat('Long Name ', 50) || '<a@example.org>', 'a@' || repeat('a', 63) || '.org']",
    "payload => '{}', cc => array_fill('a@example.org'::text, ARRAY[999])",
    // Options.
    "payload => '{}', not_before => now() + interval '3 years', expires_at => now() + interval '4 years'",
    "payload => '{}', not_before => now() - interval '1 day', priority => 'urgent', on_doubt => 'assume_sent'",
    "payload => '{}', dedup_key => repeat('☃', 512), dedup_ttl => '10 years', ordering_key => repeat('☃', 512)",
    "payload => '{}', route => 'eu-west.1', tenant => 'Corp:42.x_y-z', locale => 'pt_BR'",
    "payload => '{}', tenant => gen_random_uuid()::text, locale => 'zh-Hant-TW', on_doubt => 'resend', priority => 'bulk'",
    "payload => '{}', traceparent => '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01', tracestate => 'vendor=a,b=c'",
    r#"payload => '{}', headers => '{"X-Order": "42", "List-Unsubscribe": "<https://example.org/u?a=b>", "X-Empty": "", "x_y": "ü"}'"#,
    r#"payload => '{}', attachments => '[{"filename": "ü a.pdf", "content_type": "text/plain; charset=utf-8; name=\"a b\"", "content_id": "logo@example.org", "content_base64": "YWJjZA=="}, {"filename": "b", "content_base64": "", "content_type": null, "content_id": null}]'"#,
];

#[tokio::test]
async fn every_good_form_is_accepted() {
    let outbox = Outbox::new().await;
    for arguments in ACCEPTED {
        let ids =
            outbox.texts(&format!("SELECT outbox.enqueue('greeting', ARRAY['a@example.org'], {arguments})")).await;
        assert_eq!(ids.len(), 1, "{arguments}");
    }
    assert_eq!(outbox.number("SELECT count(*) FROM outbox.message").await, i64::try_from(ACCEPTED.len()).unwrap());
    assert_eq!(
        outbox.number("SELECT count(*) FROM outbox.message WHERE priority IS NULL OR cc IS NULL OR bcc IS NULL").await,
        0
    );
    assert_eq!(outbox.number("SELECT count(*) FROM outbox.message WHERE headers IN ('null', '{}') OR attachments IN ('null', '[]') OR payload::text = 'null'").await, 0);
}

/// The quick check of an address may let nothing pass that the exact one refuses.
#[tokio::test]
async fn the_quick_check_of_addresses_is_never_laxer_than_the_exact_one() {
    let outbox = Outbox::new().await;
    let alphabet: Vec<char> = "aB0.-_@<>\" ,;:\\()+'\u{1}\u{85}é".chars().collect();
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let mailboxes: Vec<String> = (0..40_000)
        .map(|_| {
            let word = |random: &mut fastrand::Rng| -> String {
                (0..random.usize(0..5))
                    .map(|_| if random.bool() { 'x' } else { alphabet[random.usize(..alphabet.len())] })
                    .collect()
            };
            let address = format!("{}@{}.org", word(&mut random), word(&mut random));
            if random.bool() { address } else { format!("{}<{address}>", word(&mut random)) }
        })
        .collect();
    // A function that answers instead of raising.
    outbox
        .db
        .batch_execute(
            "CREATE FUNCTION pg_temp.passes(mailbox text) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN \
             PERFORM outbox.check_addresses('x', 'cc', ARRAY[mailbox]); RETURN true; \
             EXCEPTION WHEN SQLSTATE '22H03' THEN RETURN false; END $$",
        )
        .await
        .unwrap();
    let sql = "SELECT count(*) FILTER (WHERE pg_temp.passes(m)), \
               count(*) FILTER (WHERE pg_temp.passes(m) <> (outbox.address_problem(btrim(m, ' ')) IS NULL)), \
               count(*) FILTER (WHERE pg_temp.passes(m) AND outbox.address_of(m) !~ '^[^<>]+@[^<>@]+$') FROM unnest($1::text[]) m";
    let row = outbox.db.query_one(sql, &[&mailboxes]).await.unwrap();
    let (passed, disagreements, mangled): (i64, i64, i64) = (row.get(0), row.get(1), row.get(2));
    assert!(passed > 1000, "only {passed} of the random addresses were good");
    assert_eq!((disagreements, mangled), (0, 0));
}

#[tokio::test]
async fn addresses_are_trimmed_and_base64_comes_on_one_line() {
    let outbox = Outbox::new().await;
    outbox
        .enqueue(
            ", payload => '{}', cc => ARRAY['  b@example.org ', 'C <c@example.org>'], sender => ' s@example.org', \
             attachments => jsonb_build_array(jsonb_build_object('filename', 'a', 'content_base64', E'YWJj\\r\\nZGVm'))",
        )
        .await;
    let stored = outbox.texts("SELECT concat_ws('|', cc, sender, attachments) FROM outbox.message").await;
    assert_eq!(
        stored,
        [r#"{b@example.org,"C <c@example.org>"}|s@example.org|[{"filename": "a", "content_base64": "YWJjZGVm"}]"#]
    );
}

#[tokio::test]
async fn positions_count_from_one_whatever_the_clients_array_says() {
    let outbox = Outbox::new().await;
    let id = outbox
        .texts("SELECT outbox.enqueue('greeting', '[0:1]={a@example.org,b@example.org}'::text[], '{}')")
        .await
        .remove(0);
    let seen =
        outbox.texts(&format!("SELECT recipient_no || ' ' || recipient FROM outbox.status('{id}') ORDER BY 1")).await;
    assert_eq!(seen, ["1 a@example.org", "2 b@example.org"]);
}

#[tokio::test]
async fn rc30_a_repeated_address_has_one_delivery() {
    let outbox = Outbox::new().await;
    let id = outbox
        .texts(
            "SELECT outbox.enqueue('greeting', ARRAY['Ada <ada@example.org>', 'b@example.org'], '{}', \
             cc => ARRAY['ADA@example.org'], bcc => ARRAY['b@example.org', 'c@example.org'])",
        )
        .await
        .remove(0);
    let seen = outbox.texts(&format!("SELECT recipient_no || ' ' || recipient FROM outbox.deliveries WHERE message_id = '{id}' ORDER BY recipient_no")).await;
    assert_eq!(seen, ["1 Ada <ada@example.org>", "2 b@example.org", "5 c@example.org"]);
}

#[tokio::test]
async fn the_payload_may_come_as_text_json_or_jsonb_and_absent() {
    let outbox = Outbox::new().await;
    let object = json!({"order_id": 42});
    let text = object.to_string();
    let recipients = vec!["a@example.org"];
    let sql = "SELECT outbox.enqueue(kind => $1, recipients => $2, payload => $3) IS NOT NULL";
    let payloads: [(&(dyn ToSql + Sync), Type); 4] =
        [(&text, Type::TEXT), (&text, Type::VARCHAR), (&object, Type::JSON), (&object, Type::JSONB)];
    for (payload, payload_type) in payloads {
        let done = outbox
            .db
            .query_typed(
                sql,
                &[(&"greeting", Type::TEXT), (&recipients, Type::TEXT_ARRAY), (payload, payload_type.clone())],
            )
            .await;
        assert!(done.is_ok(), "payload of type {payload_type}: {done:?}");
    }
    // Unknown, as drivers that let the server infer types send it: the text overload.
    outbox.db.query(sql, &[&"greeting", &recipients, &text]).await.unwrap();
    let stored = outbox.texts("SELECT DISTINCT payload::jsonb::text FROM outbox.message").await;
    assert_eq!(stored, [r#"{"order_id": 42}"#]);
}

#[tokio::test]
async fn every_argument_may_be_a_typed_null() {
    let outbox = Outbox::new().await;
    for payload_type in ["text", "json", "jsonb"] {
        let sql = format!(
            "SELECT outbox.enqueue('greeting'::varchar, '{{a@example.org}}'::varchar[], NULL::{payload_type}, 'Hi'::varchar, 'x'::text, NULL::text, \
             NULL::bytea, NULL::text, NULL::text, NULL::text[], NULL::text[], NULL::jsonb, NULL::jsonb, NULL::timestamptz, NULL::timestamp, \
             NULL::varchar, NULL::text, NULL::text, NULL::interval, NULL::text, NULL::text, NULL::text, NULL::text, NULL::text, NULL::text)"
        );
        outbox.db.query(&sql, &[]).await.unwrap_or_else(|error| panic!("{payload_type}: {error:?}"));
    }
}

#[tokio::test]
async fn the_view_takes_rows_and_returns_their_ids() {
    let outbox = Outbox::new().await;
    let sql = "INSERT INTO outbox.notification (kind, recipients, payload, priority, headers) \
               VALUES ('greeting', '{a@example.org}', '{}', NULL, NULL), ('greeting', '{b@example.org}', '{}', 'bulk', '{\"X-A\": \"b\"}') RETURNING id";
    let rows = outbox.db.query(sql, &[]).await.unwrap();
    let ids: Vec<uuid::Uuid> = rows.iter().map(|row| row.get(0)).collect();
    let stored = outbox.texts("SELECT id FROM outbox.message ORDER BY id").await;
    assert_eq!(stored, ids.iter().map(ToString::to_string).collect::<Vec<_>>());

    // An ORM's insert of an entity with every column NULL that was not set.
    let all = "INSERT INTO outbox.notification VALUES (NULL, 'greeting', '{a@example.org}', '{}', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, \
               NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL) RETURNING id, kind";
    outbox.db.query_one(all, &[]).await.unwrap();
    // json is inferred from the column.
    let row = outbox.db.query_one("INSERT INTO outbox.notification (kind, recipients, payload, dedup_key, dedup_ttl) VALUES ($1, $2, $3, 'k', '1 day') RETURNING id", &[&"greeting", &vec!["a@example.org"], &json!({"a": 1})]).await.unwrap();
    let again = outbox.db.query_one("INSERT INTO outbox.notification (kind, recipients, payload, dedup_key) VALUES ($1, $2, $3, 'k') RETURNING id", &[&"greeting", &vec!["a@example.org"], &json!({"a": 1})]).await.unwrap();
    assert_eq!(row.get::<_, uuid::Uuid>(0), again.get::<_, uuid::Uuid>(0), "a repeat returns the first id");
    assert_eq!(outbox.number("SELECT count(*) FROM outbox.message").await, 4);
    assert_eq!(outbox.number("SELECT count(*) FROM outbox.notification").await, 0, "the view shows nothing");
}

#[tokio::test]
async fn the_view_takes_copy_and_insert_select_all_or_none() {
    let outbox = Outbox::new().await;
    copy_in(
        &outbox.db,
        "kind, recipients, payload",
        "greeting\t{a@example.org}\t{}\ngreeting\t{b@example.org,c@example.org}\t{}",
    )
    .await
    .unwrap();
    assert_eq!(outbox.number("SELECT count(*) FROM outbox.queue").await, 3);
    outbox
        .db
        .execute(
            "INSERT INTO outbox.notification (kind, recipients, subject, body_text) SELECT 'digest', ARRAY['u' || i || '@example.org'], 'Hi', 'x' FROM generate_series(1, 10) i",
            &[],
        )
        .await
        .unwrap();
    assert_eq!(outbox.number("SELECT count(*) FROM outbox.message WHERE kind = 'digest'").await, 10);
    let mixed =
        copy_in(&outbox.db, "kind, recipients, payload", "greeting\t{a@example.org}\t{}\ngreeting\t{nobody}\t{}").await;
    assert!(mixed.is_err());
    assert_eq!(outbox.number("SELECT count(*) FROM outbox.message").await, 12);
}

#[tokio::test]
async fn a_rolled_back_notification_leaves_nothing() {
    let outbox = Outbox::new().await;
    outbox.db.batch_execute("BEGIN").await.unwrap();
    outbox.enqueue(", payload => '{}', dedup_key => 'k', ordering_key => 'o'").await;
    outbox.db.batch_execute("ROLLBACK").await.unwrap();
    let left = "SELECT (SELECT count(*) FROM outbox.message) + (SELECT count(*) FROM outbox.queue) + (SELECT count(*) FROM outbox.dedup_key)";
    assert_eq!(outbox.number(left).await, 0);
}

#[tokio::test]
async fn ids_grow_in_the_order_of_enqueueing() {
    let outbox = Outbox::new().await;
    let sql =
        "SELECT outbox.enqueue('greeting', ARRAY['u' || i || '@example.org'], '{}') FROM generate_series(1, 500) i";
    let ids = outbox.texts(sql).await;
    assert!(ids.is_sorted(), "uuid v7 of one session are in order");
    assert!(ids.iter().all(|id| &id[14..15] == "7"), "version 7");
}

#[tokio::test]
async fn the_producers_facts_are_recorded() {
    let outbox = Outbox::new().await;
    let producer = outbox.member_of("outbox_producer").await;
    producer.batch_execute("SET application_name = 'shop'; BEGIN").await.unwrap();
    let xid = texts(&producer, "SELECT pg_current_xact_id()").await.unwrap();
    super::support::enqueue(&producer, ", payload => '{}'").await.unwrap();
    producer.batch_execute("COMMIT").await.unwrap();
    let facts = outbox.texts("SELECT concat_ws(' ', application_name, session_role, txid) FROM outbox.message").await;
    assert_eq!(facts, [format!("shop outbox_producer_of_{} {}", outbox.name, xid[0])]);
}

#[tokio::test]
async fn only_the_head_of_an_ordering_key_is_due() {
    let outbox = Outbox::new().await;
    for _ in 0..3 {
        outbox.enqueue(", payload => '{}', ordering_key => 'order-42'").await;
    }
    outbox.enqueue(", payload => '{}', ordering_key => 'order-42', tenant => 'other'").await;
    let seen = outbox
        .texts("SELECT concat_ws(' ', state, coalesce(reason, 'due')) FROM outbox.deliveries ORDER BY message_id")
        .await;
    let waits = "pending waits behind its ordering key";
    assert_eq!(seen, ["pending due", waits, waits, "pending due"]);
}

/// The narrowest producer: a DBA grants the columns that one application needs, and no function.
#[tokio::test]
async fn a_role_that_was_granted_some_columns_enqueues_with_those_and_no_others() {
    let outbox = Outbox::new().await;
    let group = format!("narrow_{}", outbox.name);
    let grants = format!(
        "CREATE ROLE {group}; GRANT USAGE ON SCHEMA outbox TO {group};
         GRANT INSERT (kind, recipients, subject, body_text), SELECT (id) ON outbox.notification TO {group}"
    );
    outbox.db.batch_execute(&grants).await.unwrap();
    let narrow = outbox.member_of(&group).await;
    let insert = "INSERT INTO outbox.notification (kind, recipients, subject, body_text) VALUES ('greeting', '{a@example.org}', 's', 't') RETURNING id";
    let id: uuid::Uuid = narrow.query_one(insert, &[]).await.unwrap().get(0);
    assert_eq!(outbox.texts("SELECT id FROM outbox.message").await, [id.to_string()]);
    let refused = [
        "INSERT INTO outbox.notification (kind, recipients, subject, body_text, bcc) VALUES ('greeting', '{a@example.org}', 's', 't', '{b@example.org}')",
        "INSERT INTO outbox.notification (kind, recipients, subject, body_text) VALUES ('greeting', '{a@example.org}', 's', 't') RETURNING kind",
        "SELECT outbox.enqueue('greeting', '{a@example.org}', subject => 's', body_text => 't')",
        "SELECT * FROM outbox.status(gen_random_uuid())",
    ];
    for statement in refused {
        let error = narrow.batch_execute(statement).await.expect_err(statement);
        assert_eq!(error.code().unwrap().code(), "42501", "{statement}");
    }
    assert_eq!(outbox.number("SELECT count(*) FROM outbox.message").await, 1);
}
