//! Schema `outbox_test`, as an application's test suite uses it: each test in a transaction that is rolled back.

use hapax_tests::database::{migrate, migration_files};
use tokio_postgres::{Client, NoTls};
use uuid::Uuid;

use super::support::{Outbox, Refusal, cluster, enqueue, number, texts};

/// What the assertion, or whatever it is, says; inside a savepoint, so that the test goes on.
async fn said(db: &Client, call: &str) -> Refusal {
    db.batch_execute("SAVEPOINT before_said").await.unwrap();
    let error = db.batch_execute(&format!("SELECT * FROM outbox_test.{call}")).await.expect_err(call);
    db.batch_execute("ROLLBACK TO before_said; RELEASE before_said").await.unwrap();
    Refusal::of(&error)
}

async fn holds(db: &Client, call: &str) -> Option<Uuid> {
    let row = db.query_one(&format!("SELECT outbox_test.assert_enqueued({call})"), &[]).await;
    row.unwrap_or_else(|error| panic!("{call}: {error:?}")).get(0)
}

async fn fails(db: &Client, call: &str, message: &str) {
    let refusal = said(db, &format!("assert_enqueued({call})")).await;
    assert_eq!((refusal.code.as_str(), refusal.message.as_str()), ("P0004", message));
    assert!(refusal.hint.contains("dedup_key"), "{}", refusal.hint);
}

async fn begin(outbox: &Outbox) -> Client {
    let producer = outbox.member_of("outbox_producer").await;
    producer.batch_execute("BEGIN").await.unwrap();
    producer
}

#[tokio::test]
async fn what_was_enqueued_is_found_by_kind_and_any_of_its_addresses() {
    let outbox = Outbox::new().await;
    let db = begin(&outbox).await;
    let id = enqueue(&db, ", payload => '{\"order\": {\"id\": 42}, \"total\": 1}', cc => '{Bob <BOB@Example.org>}', bcc => '{c@example.org}'").await;
    let id = Some(id.unwrap());
    for recipient in ["a@example.org", "A@EXAMPLE.org", "Ada <a@example.org>", "bob@example.org", "c@example.org"] {
        assert_eq!(holds(&db, &format!("'greeting', '{recipient}'")).await, id, "{recipient}");
    }
    holds(&db, "kind => 'greeting', recipient => 'a@example.org', payload => '{\"order\": {\"id\": 42}}', times => 1")
        .await;
    assert_eq!(holds(&db, "'greeting', 'd@example.org', times => 0").await, None);
    assert_eq!(holds(&db, "'other', 'a@example.org', times => 0").await, None);

    // Of several the newest; a subject is compared with that of finished messages, too.
    let plain = enqueue(&db, ", subject => 'Größe', body_text => 't'").await.unwrap();
    assert_eq!(holds(&db, "'greeting', 'a@example.org', times => 2").await, Some(plain));
    assert_eq!(holds(&db, "'greeting', 'a@example.org', 'Größe'").await, Some(plain));
    let raw = r"convert_to(E'X: y\r\nSUBJECT: =?utf-8?q?Gr=C3=B6?=\r\n =?UTF-8?B?w59l?=\r\n\r\nSubject: no', 'UTF8')";
    let raw = enqueue(&db, &format!(", raw_message => {raw}")).await.unwrap();
    assert_eq!(holds(&db, "'greeting', 'a@example.org', 'Größe', times => 2").await, Some(raw));
    db.batch_execute("ROLLBACK").await.unwrap();
}

#[tokio::test]
async fn a_failed_assertion_lists_what_was_enqueued_instead() {
    let outbox = Outbox::new().await;
    let db = begin(&outbox).await;
    fails(
        &db,
        "'greeting', 'a@example.org'",
        "outbox_test.assert_enqueued: expected at least one of kind greeting to a@example.org in this transaction, found 0; nothing was enqueued",
    )
    .await;
    enqueue(&db, ", payload => '{\"id\": 42}', cc => '{Bob <bob@example.org>}'").await.unwrap();
    enqueue(&db, ", subject => 'It''s', body_text => 'secret'").await.unwrap();
    fails(
        &db,
        "'welcome', 'A@example.org'",
        "outbox_test.assert_enqueued: expected at least one of kind welcome to a@example.org in this transaction, found 0; enqueued were:\n  \
         greeting to a@example.org, Bob <bob@example.org>\n  greeting to a@example.org",
    )
    .await;
    fails(
        &db,
        "'greeting', 'a@example.org', 'Its', '{\"id\": 43}', 1",
        "outbox_test.assert_enqueued: expected 1 of kind greeting to a@example.org, subject 'Its', payload {\"id\": 43} in this transaction, found 0; enqueued were:\n  \
         greeting to a@example.org, Bob <bob@example.org>, subject NULL, payload {\"id\": 42}\n  greeting to a@example.org, subject 'It''s', payload NULL",
    )
    .await;
    for (call, found) in [
        ("times => 0", "expected 0 "),
        ("times => 3", "expected 3 "),
        ("payload => '{\"id\": 4}'", "expected at least one "),
    ] {
        let said = said(&db, &format!("assert_enqueued('greeting', 'a@example.org', {call})")).await;
        assert!(said.code == "P0004" && said.message.contains(found), "{said:?}");
    }
    let nothing = said(&db, "assert_nothing_enqueued()").await;
    assert_eq!(
        (nothing.code.as_str(), nothing.message.as_str()),
        (
            "P0004",
            "outbox_test.assert_nothing_enqueued: expected nothing in this transaction, found 2; enqueued were:\n  \
             greeting to a@example.org, Bob <bob@example.org>\n  greeting to a@example.org"
        )
    );

    // A long list ends.
    db.batch_execute("SELECT outbox.enqueue('many', '{m@example.org}', '{}') FROM generate_series(1, 30)")
        .await
        .unwrap();
    let long = said(&db, "assert_nothing_enqueued()").await.message;
    assert!(long.lines().count() == 22 && long.ends_with("\n  and 12 more"), "{long}");
    db.batch_execute("ROLLBACK").await.unwrap();
}

#[tokio::test]
async fn an_assertion_without_kind_or_address_asserts_nothing_and_is_refused() {
    let outbox = Outbox::new().await;
    let db = begin(&outbox).await;
    enqueue(&db, ", payload => '{}'").await.unwrap();
    for (call, column) in [
        ("NULL, 'a@example.org'", "kind"),
        ("'greeting', NULL", "recipient"),
        ("'greeting', 'a@example.org', times => -1", "times"),
    ] {
        let said = said(&db, &format!("assert_enqueued({call})")).await;
        assert_eq!((said.code.as_str(), said.column.as_str()), ("22H60", column));
        assert!(!said.hint.is_empty());
    }
}

/// `EXCEPTION WHEN OTHERS` in the code under test, or around it, must not swallow a failed assertion.
#[tokio::test]
async fn a_failed_assertion_is_not_swallowed() {
    let outbox = Outbox::new().await;
    let db = begin(&outbox).await;
    let swallowed = "DO $$ BEGIN PERFORM outbox_test.assert_enqueued('x', 'a@example.org'); EXCEPTION WHEN OTHERS THEN NULL; END $$";
    assert_eq!(Refusal::of(&db.batch_execute(swallowed).await.unwrap_err()).code, "P0004");
}

#[tokio::test]
async fn only_this_transaction_counts() {
    let outbox = Outbox::new().await;
    outbox.enqueue(", payload => '{}', dedup_key => 'k'").await;
    let db = begin(&outbox).await;
    let other = outbox.session().await;
    other.batch_execute("BEGIN").await.unwrap();
    let nobodys = enqueue(&other, ", payload => '{}'").await.unwrap();
    // Without and with a transaction id of one's own; the repeat of a key of before enqueues nothing.
    for _ in 0..2 {
        db.batch_execute("SELECT outbox_test.assert_nothing_enqueued()").await.unwrap();
        assert_eq!(number(&db, "SELECT count(*) FROM outbox_test.enqueued()").await, 0);
        assert_eq!(number(&db, "SELECT count(*) FROM outbox_test.last()").await, 0);
        enqueue(&db, ", payload => '{}', dedup_key => 'k'").await.unwrap();
    }
    let mine = enqueue(&db, ", payload => '{}'").await.unwrap();
    other.batch_execute("COMMIT").await.unwrap();
    outbox.enqueue(", payload => '{}'").await;
    assert_eq!(holds(&db, "'greeting', 'a@example.org', times => 1").await, Some(mine));
    assert_eq!(said(&db, &format!("rendered('{nobodys}')")).await.code, "22H61");
    db.batch_execute("COMMIT").await.unwrap();
    db.batch_execute("SELECT outbox_test.assert_nothing_enqueued(); BEGIN READ ONLY; SELECT outbox_test.assert_nothing_enqueued(); ROLLBACK").await.unwrap();
}

/// A restored or replicated copy has the transaction numbers of another server.
#[tokio::test]
async fn a_foreign_row_with_the_number_of_this_transaction_is_not_shown() {
    let outbox = Outbox::new().await;
    let copy = |number: &str| {
        format!(
            "INSERT INTO outbox.message (id, created_at, kind, recipients, txid) SELECT outbox.uuid_v7(), now(), 'secret', '{{s@example.org}}', '{number}'"
        )
    };
    let db = begin(&outbox).await;
    enqueue(&db, ", payload => '{}'").await.unwrap();
    let ours = texts(&db, "SELECT pg_current_xact_id()").await.unwrap().remove(0);
    outbox.db.batch_execute(&copy(&ours)).await.unwrap();
    assert_eq!(texts(&db, "SELECT kind FROM outbox_test.enqueued()").await.unwrap(), ["greeting"]);
    db.batch_execute("ROLLBACK").await.unwrap();
    // Numbers from before this transaction, of rows and as they are.
    let verdicts = "SELECT concat_ws(' ', outbox_test.is_ours(pg_current_xact_id()::xid), outbox_test.is_ours('3'), (SELECT bool_or(outbox_test.is_ours(xmin)) FROM outbox.message))";
    assert_eq!(outbox.texts(verdicts).await, ["t f f"]);
}

/// As Django's TestCase, pytest and RSpec do it: a savepoint per test, and those of the code under test within.
#[tokio::test]
async fn savepoints_count_unless_they_are_rolled_back() {
    let outbox = Outbox::new().await;
    let db = begin(&outbox).await;
    let kinds = "SELECT kind FROM outbox_test.enqueued()";
    let put = |kind: &str| format!("SELECT outbox.enqueue('{kind}', '{{a@example.org}}', '{{}}');");
    db.batch_execute(&format!(
        "{} SAVEPOINT test; {} SAVEPOINT inner_1; {}",
        put("fixture"),
        put("outer"),
        put("inner")
    ))
    .await
    .unwrap();
    db.batch_execute("RELEASE inner_1").await.unwrap();
    db.batch_execute(&format!("SAVEPOINT inner_2; {} ROLLBACK TO inner_2", put("lost"))).await.unwrap();
    assert_eq!(texts(&db, kinds).await.unwrap(), ["fixture", "outer", "inner"]);
    assert_eq!(texts(&db, "SELECT kind FROM outbox_test.last()").await.unwrap(), ["inner"]);
    assert_eq!(said(&db, "assert_enqueued('lost', 'a@example.org')").await.code, "P0004");
    // An exception block is a savepoint, too.
    let caught = format!(
        "DO $$ BEGIN PERFORM {} RAISE 'x'; EXCEPTION WHEN OTHERS THEN NULL; END $$",
        put("lost").trim_start_matches("SELECT ")
    );
    db.batch_execute(&caught).await.unwrap();
    assert_eq!(texts(&db, kinds).await.unwrap(), ["fixture", "outer", "inner"]);
    db.batch_execute("ROLLBACK TO test").await.unwrap();
    assert_eq!(texts(&db, kinds).await.unwrap(), ["fixture"]);
    db.batch_execute("ROLLBACK; BEGIN; SELECT outbox_test.assert_nothing_enqueued()").await.unwrap();

    // Stricter levels see their own rows as well.
    for level in ["REPEATABLE READ", "SERIALIZABLE"] {
        db.batch_execute(&format!(
            "ROLLBACK; BEGIN ISOLATION LEVEL {level}; SELECT 1; SAVEPOINT a; {} RELEASE a",
            put("strict")
        ))
        .await
        .unwrap();
        holds(&db, "'strict', 'a@example.org', times => 1").await;
    }
}

#[tokio::test]
async fn all_arguments_come_back_from_all_doors_in_order() {
    let outbox = Outbox::new().await;
    let db = begin(&outbox).await;
    let all = "INSERT INTO outbox.notification (kind, recipients, subject, body_text, body_html, sender, reply_to, cc, bcc, headers, attachments, not_before, expires_at, \
                 priority, ordering_key, dedup_key, dedup_ttl, on_doubt, route, tenant, locale, traceparent, tracestate)
               SELECT 'first', '{a@example.org}', 's', 't', '<p>', 'f@example.org', 'r@example.org', '{c@example.org}', '{b@example.org}', '{\"X-A\": \"b\"}',
                 '[{\"filename\": \"a.txt\", \"content_base64\": \"QQ==\"}]', '2100-01-01', '2100-01-02', 'bulk', 'o', 'k', '1 day', 'resend', 'eu', 't1', 'en',
                 '00-0123456789abcdef0123456789abcdef-0123456789abcdef-01', 'a=b'";
    db.batch_execute(all).await.unwrap();
    db.batch_execute(
        "SELECT outbox.enqueue_many('[{\"kind\": \"second\", \"recipients\": [\"a@example.org\"], \"payload\": {\"b\": 1, \"a\": 2}},
                                      {\"kind\": \"third\", \"recipients\": [\"a@example.org\"], \"payload\": {}}]');
         SELECT outbox.enqueue('fourth', '{a@example.org}', raw_message => convert_to(E'A: b\\n\\nc', 'UTF8'))",
    )
    .await
    .unwrap();
    assert_eq!(
        texts(&db, "SELECT kind FROM outbox_test.enqueued()").await.unwrap(),
        ["first", "second", "third", "fourth"]
    );
    // Every column but those that this message has not.
    let missing = "SELECT string_agg(key, ',') FROM outbox_test.enqueued() e, json_each_text(row_to_json(e)) WHERE e.kind = 'first' AND value IS NULL";
    assert_eq!(texts(&db, missing).await.unwrap(), ["payload,raw_message,dedup_ttl"]);
    let first = "SELECT concat_ws('|', subject, body_text, body_html, sender, reply_to, cc, bcc, headers->>'X-A', attachments->0->>'filename', extract(year FROM not_before), \
                   extract(day FROM expires_at), priority, ordering_key, dedup_key, on_doubt, route, tenant, locale, left(traceparent, 5), tracestate) FROM outbox_test.enqueued() WHERE kind = 'first'";
    assert_eq!(
        texts(&db, first).await.unwrap(),
        [
            "s|t|<p>|f@example.org|r@example.org|{c@example.org}|{b@example.org}|b|a.txt|2100|2|bulk|o|k|resend|eu|t1|en|00-01|a=b"
        ]
    );
    assert_eq!(
        texts(&db, "SELECT payload FROM outbox_test.enqueued() WHERE kind = 'second'").await.unwrap(),
        ["{\"b\": 1, \"a\": 2}"]
    );
    assert_eq!(
        texts(&db, "SELECT encode(raw_message, 'escape') FROM outbox_test.last()").await.unwrap(),
        ["A: b\n\nc"]
    );
    assert_eq!(texts(&db, "SELECT count(*) FROM outbox_test.last()").await.unwrap(), ["1"]);
}

#[tokio::test]
async fn rendered_says_what_is_known_without_the_relay() {
    let outbox = Outbox::new().await;
    let db = begin(&outbox).await;
    let shown = |id: Uuid| {
        format!(
            "SELECT concat_ws('|', coalesce(subject, '-'), coalesce(body_text, '-'), coalesce(body_html, '-'), coalesce(raw_headers, '-'), coalesce(raw_body, '-')) FROM outbox_test.rendered('{id}')"
        )
    };
    let id = enqueue(&db, ", subject => 'Hi', body_html => '<p>'").await.unwrap();
    assert_eq!(texts(&db, &shown(id)).await.unwrap(), ["Hi|-|<p>|-|-"]);
    for (raw, expected) in [
        (
            "convert_to(E'A: b\\r\\nSubject: =?utf-8?q?a_=C3=BC?=\\r\\n\\r\\nBödy\\r\\n\\r\\nmore', 'UTF8')",
            "a ü|-|-|A: b\nSubject: =?utf-8?q?a_=C3=BC?=\n|Bödy\n\nmore",
        ),
        (
            "convert_to(E'A: b\\nSubject:\\n folded\\n\\tline\\n\\n', 'UTF8')",
            "folded\tline|-|-|A: b\nSubject:\n folded\n\tline\n|",
        ),
        // Not UTF-8; a charset nobody knows; an encoded word that is broken; none at all.
        ("'\\x413a20620a0afc'", "-|-|-|A: b\n|\\374"),
        (
            "convert_to(E'Subject: x =?klingon?b?YQ==?= =?utf-8?q?=FF?= =?ISO-8859-1?Q?=FC_\\\\?=\\n\\n', 'UTF8')",
            "x =?klingon?b?YQ==?==?utf-8?q?=FF?=ü \\|-|-|Subject: x =?klingon?b?YQ==?= =?utf-8?q?=FF?= =?ISO-8859-1?Q?=FC_\\?=\n|",
        ),
    ] {
        let id = enqueue(&db, &format!(", raw_message => {raw}")).await.unwrap();
        assert_eq!(texts(&db, &shown(id)).await.unwrap(), [expected]);
    }
    let id = enqueue(&db, ", payload => '{}'").await.unwrap();
    let template = said(&db, &format!("rendered('{id}')")).await;
    assert_eq!((template.code.as_str(), template.column.as_str()), ("22H62", "id"));
    assert!(template.message.contains("rendered by the relay") && template.hint.contains("payload"), "{template:?}");
    assert_eq!(said(&db, "rendered(gen_random_uuid())").await.code, "22H61");
    assert_eq!(said(&db, "rendered(NULL)").await.code, "22H61");
}

#[tokio::test]
async fn the_examples_in_the_comments_run() {
    let outbox = Outbox::new().await;
    let producer = outbox.member_of("outbox_producer").await;
    let sql = "SELECT has_function_privilege('outbox_producer', oid, 'EXECUTE') || split_part(obj_description(oid, 'pg_proc'), 'Example:', 2) FROM pg_proc \
               WHERE pronamespace = 'outbox_test'::regnamespace";
    let examples = outbox.texts(sql).await;
    assert_eq!(examples.len(), 10);
    for example in examples {
        let (session, example) = match example.strip_prefix("true") {
            Some(example) => (&producer, example),
            None => (&outbox.db, example.trim_start_matches("false")),
        };
        assert!(example.contains("SELECT"), "a function has no example");
        session.batch_execute(example).await.unwrap_or_else(|error| panic!("{example}: {error:?}"));
    }
}

#[tokio::test]
async fn a_dba_may_drop_it_and_make_it_again() {
    let outbox = Outbox::new().await;
    let grants = "SELECT g FROM outbox.grant_roles() g";
    let before = outbox.texts(grants).await;
    outbox.db.batch_execute("DROP SCHEMA outbox_test CASCADE").await.unwrap();
    assert_eq!(outbox.texts(grants).await.len(), 5);
    outbox.enqueue(", payload => '{}'").await;

    let again = Outbox::new().await;
    again.db.batch_execute("DROP SCHEMA outbox_test CASCADE").await.unwrap();
    let file = migration_files().unwrap().into_iter().find(|file| file.ends_with("0023_outbox_test.sql")).unwrap();
    let sql = std::fs::read_to_string(file).unwrap();
    again.db.batch_execute(&sql[sql.find("CREATE SCHEMA outbox_test").unwrap()..]).await.unwrap();
    assert_eq!(again.texts(grants).await, before);
}

/// Whoever may not grant there does not try: migrations run grant_roles(), and must not fail over it.
#[tokio::test]
async fn somebody_elses_schema_of_that_name_is_left_alone() {
    let outbox = Outbox::new().await;
    let cluster = cluster().await;
    let (owner, database) = (format!("owner_of_{}", outbox.name), format!("plain_{}", outbox.name));
    outbox.db.batch_execute(&format!("CREATE ROLE {owner} LOGIN")).await.unwrap();
    outbox.db.batch_execute(&format!("CREATE DATABASE {database} OWNER {owner}")).await.unwrap();
    let (session, connection) = tokio_postgres::connect(&cluster.url_for(&database, &owner), NoTls).await.unwrap();
    tokio::spawn(connection);
    migrate(&session).await.unwrap();
    let dba = cluster.client(&database).await.unwrap();
    dba.batch_execute(
        "DROP SCHEMA outbox_test CASCADE; CREATE SCHEMA outbox_test; GRANT USAGE ON SCHEMA outbox_test TO PUBLIC",
    )
    .await
    .unwrap();
    assert_eq!(texts(&session, "SELECT g FROM outbox.grant_roles() g").await.unwrap().len(), 5);
    assert_eq!(
        texts(&dba, "SELECT has_schema_privilege('outbox_monitor', 'outbox_test', 'USAGE')").await.unwrap(),
        ["true"]
    );
}
