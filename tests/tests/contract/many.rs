//! `enqueue_many`: one document, one INSERT, all or none.

use std::time::Duration;

use hapax_testkit::eventually;
use serde_json::json;
use tokio_postgres::types::{ToSql, Type};

use super::support::{Outbox, Refusal, everything_said};

const ONE: &str = r#"write [{"kind": "order_confirmed", "recipients": ["ada@example.org"], "payload": {}}]"#;
const KEYS: &str =
    r"the keys are the arguments of outbox.enqueue(), with raw_message_base64 for raw_message: \d outbox.notification";

#[tokio::test]
async fn every_kind_of_element_is_stored_as_enqueue_would() {
    let outbox = Outbox::new().await;
    let document = json!([
        {"kind": "greeting", "recipients": [" a@example.org", "b@example.org"], "payload": {"b": 1, "a": [2]}},
        {"kind": "greeting", "recipients": ["a@example.org"], "subject": "S", "body_text": "T", "cc": ["c@example.org"], "priority": "bulk",
         "not_before": "2050-01-01T00:00:00Z", "expires_at": "2050-01-02", "headers": {"X-A": "b"}, "attachments": [{"filename": "f", "content_base64": "eA=="}],
         "dedup_key": "k", "dedup_ttl": "P3D", "ordering_key": "o", "tenant": "t", "route": "r", "locale": "en", "on_doubt": "resend", "sender": null},
        {"kind": "greeting", "recipients": ["a@example.org"], "raw_message_base64": "U3ViamVjdDogeA0KDQr/AQ=="},
    ]);
    let rows =
        outbox.db.query("SELECT ordinal, id::text FROM outbox.enqueue_many($1::jsonb)", &[&document]).await.unwrap();
    let answers: Vec<(i32, String)> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    let stored = outbox.texts("SELECT id FROM outbox.message ORDER BY id").await;
    assert_eq!(
        answers,
        stored.into_iter().enumerate().map(|(at, id)| (i32::try_from(at).unwrap() + 1, id)).collect::<Vec<_>>()
    );
    let seen = outbox
        .texts(
            "SELECT concat_ws('|', recipients, cc, payload, subject, body_text, raw_message, headers, attachments, priority, not_before AT TIME ZONE 'UTC', \
             expires_at IS NULL, dedup_key, ordering_key, tenant, route, locale, on_doubt, sender) FROM outbox.message ORDER BY id",
        )
        .await;
    assert_eq!(
        seen,
        [
            r#"{a@example.org,b@example.org}|{}|{"a": [2], "b": 1}|normal|t"#,
            r#"{a@example.org}|{c@example.org}|S|T|{"X-A": "b"}|[{"filename": "f", "content_base64": "eA=="}]|bulk|2050-01-01 00:00:00|f|k|o|t|r|en|resend"#,
            r"{a@example.org}|{}|\x5375626a6563743a20780d0a0d0aff01|normal|t",
        ]
    );
    assert_eq!(outbox.number("SELECT count(*) FROM outbox.queue").await, 5);
}

#[tokio::test]
async fn the_document_may_be_text_json_or_jsonb_or_empty() {
    let outbox = Outbox::new().await;
    let document = json!([{"kind": "greeting", "recipients": ["a@example.org"], "payload": {}}]);
    let text = document.to_string();
    let documents: [(&(dyn ToSql + Sync), Type); 3] =
        [(&text, Type::TEXT), (&document, Type::JSON), (&document, Type::JSONB)];
    for document in documents {
        let rows = outbox
            .db
            .query_typed("SELECT * FROM outbox.enqueue_many($1)", std::slice::from_ref(&document))
            .await
            .unwrap();
        assert_eq!(rows.len(), 1);
    }
    assert!(outbox.texts("SELECT id FROM outbox.enqueue_many('[]')").await.is_empty());
    assert_eq!(outbox.number("SELECT count(*) FROM outbox.message").await, 3);
}

#[tokio::test]
async fn ten_thousand_are_one_insert_in_the_order_of_the_document() {
    let outbox = Outbox::new().await;
    let sql = "SELECT count(*) FILTER (WHERE ordinal = (payload ->> 'no')::int) FROM outbox.enqueue_many((\
               SELECT json_agg(json_build_object('kind', 'digest', 'recipients', ARRAY['u' || i || '@example.org'], 'payload', json_build_object('no', i))) \
               FROM generate_series(1, 10000) i)) e JOIN outbox.message m USING (id)";
    // The function's rows are not visible to the statement that calls it; so look in a second one.
    outbox
        .db
        .batch_execute(&format!(
            "CREATE TEMP TABLE answer AS SELECT * FROM outbox.enqueue_many(({}))",
            &sql[sql.find("SELECT json_agg").unwrap()..sql.find(")) e").unwrap()]
        ))
        .await
        .unwrap();
    let right =
        "SELECT count(*) FROM answer a JOIN outbox.message m USING (id) WHERE a.ordinal = (m.payload ->> 'no')::int";
    assert_eq!(outbox.number(right).await, 10_000);
    assert_eq!(outbox.number("SELECT count(DISTINCT cmin::text) FROM outbox.message").await, 1, "one INSERT");
    let order = outbox.texts("SELECT (payload ->> 'no') FROM outbox.message ORDER BY id LIMIT 3").await;
    assert_eq!(order, ["1", "2", "3"]);
}

#[tokio::test]
async fn repeats_inside_and_outside_the_document_return_the_first_id() {
    let outbox = Outbox::new().await;
    let known = outbox.enqueue(", payload => '{}', dedup_key => 'known'").await.to_string();
    let element =
        |key: &str| json!({"kind": "greeting", "recipients": ["a@example.org"], "payload": {}, "dedup_key": key});
    let document = json!([element("b"), element("a"), element("b"), element("known")]);
    let rows = outbox.db.query("SELECT id::text FROM outbox.enqueue_many($1::jsonb)", &[&document]).await.unwrap();
    let ids: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    assert_eq!((&ids[0], &ids[3]), (&ids[2], &known));
    assert_ne!(ids[0], ids[1]);
    assert_eq!(outbox.number("SELECT count(*) FROM outbox.message").await, 3);

    let conflict = json!([element("c"), {"kind": "farewell", "recipients": ["a@example.org"], "payload": {}, "dedup_key": "known"}]);
    let error = outbox.db.query("SELECT * FROM outbox.enqueue_many($1::jsonb)", &[&conflict]).await.unwrap_err();
    let said = Refusal::of(&error);
    assert_eq!(
        (said.code.as_str(), said.message.as_str()),
        ("23H01", "outbox.enqueue_many: element 2: dedup_key: was used for other content")
    );
    assert_eq!(outbox.number("SELECT count(*) FROM outbox.message").await, 3, "all or none");
}

#[tokio::test]
async fn opposite_orders_of_keys_do_not_deadlock() {
    let outbox = Outbox::new().await;
    let document = |keys: [&str; 2]| {
        json!(keys.map(|key| json!({"kind": "greeting", "recipients": ["a@example.org"], "payload": {}, "dedup_key": key, "ordering_key": key})))
    };
    for round in 0..5 {
        let (one, two) = (format!("one-{round}"), format!("two-{round}"));
        let (first, second) = (outbox.session().await, outbox.session().await);
        first.batch_execute("BEGIN").await.unwrap();
        first.query("SELECT * FROM outbox.enqueue_many($1::jsonb)", &[&document([&one, &two])]).await.unwrap();
        let pid: i32 = second.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
        let opposite = document([&two, &one]);
        let waiter = tokio::spawn(async move {
            second.query("SELECT id::text FROM outbox.enqueue_many($1::jsonb)", &[&opposite]).await
        });
        let waiting = format!("SELECT count(*) FROM pg_stat_activity WHERE pid = {pid} AND wait_event_type = 'Lock'");
        eventually(Duration::from_secs(20), async || outbox.number(&waiting).await == 1).await;
        // Whatever the waiter holds by now, it is behind us in the one order.
        first
            .query("SELECT * FROM outbox.enqueue_many($1::jsonb)", &[&document([&two, &one])])
            .await
            .expect("no deadlock");
        first.batch_execute("COMMIT").await.unwrap();
        assert_eq!(waiter.await.unwrap().expect("no deadlock").len(), 2);
    }
    assert_eq!(outbox.number("SELECT count(*) FROM outbox.message").await, 10);
}

#[tokio::test]
#[rustfmt::skip]
async fn every_bad_document_is_refused_and_the_element_named() {
    let outbox = Outbox::new().await;
    let good = r#"{"kind": "greeting", "recipients": ["a@example.org"], "payload": {}}"#;
    let cases = [
        ("canary", "22H17", "outbox.enqueue_many: notifications: is not JSON", "notifications", ONE),
        (r#"{"kind": "canary"}"#, "22H17", "outbox.enqueue_many: notifications: must be a JSON array", "notifications", ONE),
        ("null", "22H17", "outbox.enqueue_many: notifications: must be a JSON array", "notifications", ONE),
        (r#"[GOOD, "canary"]"#, "22H17", "outbox.enqueue_many: element 2: notifications: is not an object", "notifications", ONE),
        (r#"[GOOD, {"kind": "greeting", "recipient": ["canary@example.org"]}]"#, "22H17", "outbox.enqueue_many: element 2: recipient: is no argument", "recipient", KEYS),
        (r#"[{"canary@example.org": 1}]"#, "22H17", "outbox.enqueue_many: element 1: (malformed): is no argument", "(malformed)", KEYS),
        (r#"[{"id": "canary"}]"#, "22H16", "outbox.enqueue_many: element 1: id: cannot be given", "id", "leave id out, it is returned"),
        (r#"[{"raw_message": "canary"}]"#, "22H17", "outbox.enqueue_many: element 1: raw_message: cannot be written in JSON", "raw_message", "give raw_message_base64"),
        (r#"[GOOD, GOOD, {"kind": "greeting", "recipients": "canary@example.org"}]"#, "22H17", "outbox.enqueue_many: element 3: recipients: must be a JSON array", "recipients", r#"write ["ada@example.org"], also for one address"#),
        (r#"[{"kind": 42}]"#, "22H17", "outbox.enqueue_many: element 1: kind: must be a JSON string", "kind", "write it in quotes"),
        (r#"[{"kind": "greeting", "recipients": ["a@example.org"], "payload": {}, "expires_at": "canary"}]"#, "22H17", "outbox.enqueue_many: element 1: expires_at: is not a timestamp", "expires_at", r#"write ISO 8601 with a time zone: "2030-01-31T12:00:00Z""#),
        (r#"[GOOD, {"kind": "greeting", "recipients": ["a@example.org"], "payload": {}, "dedup_key": "k", "dedup_ttl": "canary"}]"#, "22H17", "outbox.enqueue_many: element 2: dedup_ttl: is not an interval", "dedup_ttl", r#"write "7 days" or ISO 8601: "P7D""#),
        (r#"[{"kind": "greeting", "recipients": ["a@example.org"], "raw_message_base64": "canary!"}]"#, "22H17", "outbox.enqueue_many: element 1: raw_message_base64: is not base64", "raw_message_base64", "encode the finished message with standard base64"),
        (r#"[{"kind": "greeting", "recipients": ["a@example.org"], "subject": "canary\u0000", "body_text": "x"}]"#, "22H17", "outbox.enqueue_many: element 1: notifications: has a value that cannot be stored (\\u0000, half a surrogate pair, a number out of range)", "notifications", "remove it"),
        // And what enqueue itself refuses, with the element.
        (r#"[GOOD, {"kind": "greeting", "recipients": ["canary"], "payload": {}}]"#, "22H03", "outbox.enqueue_many: element 2: recipients: element 1 has no @", "recipients", "write user@example.org or Name <user@example.org>, one address per element"),
        (r#"[GOOD, {"kind": "greeting", "recipients": [["canary@example.org"]], "payload": {}}]"#, "22H02", "outbox.enqueue_many: element 2: recipients: must be a one-dimensional array", "recipients", "write ARRAY['user@example.org', 'Name <user@example.org>']"),
        (r#"[{"kind": "greeting", "recipients": [null], "payload": {}}]"#, "22H02", "outbox.enqueue_many: element 1: recipients: element 1 is NULL", "recipients", "leave it out of the array"),
        (r#"[{"kind": "greeting", "recipients": ["a@example.org"], "payload": "{\"canary\": 1}"}]"#, "22H05", "outbox.enqueue_many: element 1: payload: is a JSON string, not an object", "payload", r#"templates need names: {"order_id": 42}"#),
        (r#"[GOOD, {"kind": "greeting", "recipients": ["a@example.org"], "payload": {"canary": "\u0000"}}]"#, "22H17", "outbox.enqueue_many: element 2: notifications: has a value that cannot be stored (\\u0000, half a surrogate pair, a number out of range)", "notifications", "remove it"),
        (r#"[{"kind": "greeting", "recipients": [["a@example.org"], ["b@example.org", "canary@example.org"]], "payload": {}}]"#, "22H17", "outbox.enqueue_many: element 1: recipients: does not fit its type", "recipients", r#"write strings as strings, lists of addresses as ["ada@example.org"]"#),
        (r#"[{"kind": "greeting", "recipients": ["a@example.org"]}]"#, "22H04", "outbox.enqueue_many: element 1: payload: there is no content", "payload", "give exactly one of: payload; subject with body_text and/or body_html; raw_message"),
        (r#"[{}]"#, "22H01", "outbox.enqueue_many: element 1: kind: is missing", "kind", "name the kind of notification, such as order_confirmed"),
    ];
    for (document, code, message, column, hint) in cases {
        let document = document.replace("GOOD", good);
        let error = outbox.db.query("SELECT * FROM outbox.enqueue_many($1::text)", &[&document]).await.expect_err(&document);
        let expected = Refusal { code: code.into(), message: message.replace("\\\\", "\\"), column: column.into(), hint: hint.into() };
        assert_eq!(Refusal::of(&error), expected, "{document}");
        assert!(!everything_said(&error).contains("canary"), "a value is repeated: {error:?}");
    }
    let many = "SELECT * FROM outbox.enqueue_many((SELECT json_agg('{}'::json) FROM generate_series(1, 10001)))";
    let error = outbox.db.query(many, &[]).await.unwrap_err();
    assert_eq!(Refusal::of(&error).message, "outbox.enqueue_many: notifications: has more than 10,000 elements");
    assert_eq!(outbox.number("SELECT (SELECT count(*) FROM outbox.message) + (SELECT count(*) FROM outbox.dedup_key)").await, 0);
}
