//! `outbox.suspected_duplicates` and the functions behind `hapax explain`: what is found, what is not, and what it costs.

use std::time::{Duration, Instant};

use super::support::{Outbox, texts};

/// Enqueues "Hello" of kind `greeting` with further arguments.
async fn hello(outbox: &Outbox, recipients: &str, more: &str) -> uuid::Uuid {
    let sql = format!("SELECT outbox.enqueue('greeting', '{recipients}', subject => 'Hello', body_text => 'x'{more})");
    outbox.db.query_one(&sql, &[]).await.unwrap_or_else(|error| panic!("{sql}: {error:?}")).get(0)
}

/// Moves when messages were enqueued into the past: their ids are time.
async fn age(outbox: &Outbox, id: uuid::Uuid, interval: &str) {
    let older = format!(
        "DO $$ DECLARE older uuid := outbox.uuid_floor(now() - interval '{interval}'); BEGIN
           UPDATE outbox.message SET id = older, created_at = now() - interval '{interval}' WHERE id = '{id}';
           UPDATE outbox.queue SET message_id = older WHERE message_id = '{id}';
         END $$"
    );
    outbox.db.batch_execute(&older).await.unwrap();
}

const PAIRS: &str = "SELECT concat_ws('|', recipient, kind, same_transaction, both_sent, first_state, second_state, \
                     first_dedup_key, second_dedup_key) FROM outbox.suspected_duplicates";

#[tokio::test]
async fn rc26_the_same_content_twice_for_one_recipient_is_suspected_with_both_transactions_facts() {
    let outbox = Outbox::new().await;
    outbox.db.batch_execute("SET application_name = 'checkout-web'").await.unwrap();
    let first = hello(&outbox, "{Ada <ada@example.org>}", ", dedup_key => 'a', priority => 'bulk'").await;
    // Who it goes to besides, its priority, its trace and its key are not content.
    let second = hello(&outbox, "{bob@example.org}", ", cc => '{ADA@Example.org}', dedup_key => 'b'").await;
    assert_eq!(outbox.texts(PAIRS).await, ["ADA@Example.org|greeting|f|f|pending|pending|a|b"]);
    let facts = "SELECT concat_ws('|', first_id, first_no, second_id, second_no, first_application, second_application, \
                 first_role = session_user, first_txid < second_txid, gap > interval '0', first_at < second_at) FROM outbox.suspected_duplicates";
    assert_eq!(outbox.texts(facts).await, [format!("{first}|1|{second}|2|checkout-web|checkout-web|t|t|t|t")]);
    // A viewer sees no address, and may ask for one.
    let viewer = outbox.member_of("outbox_viewer").await;
    let masked = texts(&viewer, PAIRS).await.unwrap();
    assert_eq!(masked, ["A***@Example.org|greeting|f|f|pending|pending|a|b"]);
    for asked in
        ["address => '\"A\" <ada@EXAMPLE.org>'".to_owned(), format!("id => '{first}'"), format!("id => '{second}'")]
    {
        let sql = format!("SELECT second_id FROM outbox.find_suspected_duplicates({asked})");
        assert_eq!(texts(&viewer, &sql).await.unwrap(), [second.to_string()], "{asked}");
    }
    let none = "SELECT second_id FROM outbox.find_suspected_duplicates(address => 'bob@example.org')";
    assert_eq!(texts(&viewer, none).await.unwrap(), Vec::<String>::new());

    // Both sent, and a third: one more pair.
    outbox
        .db
        .batch_execute(
            "WITH gone AS (DELETE FROM outbox.queue RETURNING *)
             INSERT INTO outbox.done (message_id, recipient_no, state, evidence, lane, address_hash)
             SELECT message_id, recipient_no, 'sent', 'reply', lane, address_hash FROM gone",
        )
        .await
        .unwrap();
    hello(&outbox, "{ada@example.org}", "").await;
    assert_eq!(
        outbox
            .texts("SELECT concat_ws('|', both_sent, first_state, second_state) FROM outbox.suspected_duplicates")
            .await,
        ["f|sent|pending", "t|sent|sent"]
    );
}

#[tokio::test]
async fn what_is_not_the_same_is_not_suspected() {
    let outbox = Outbox::new().await;
    let enqueue = [
        "SELECT outbox.enqueue('note', '{a@example.org}', '{\"order\": 1, \"n\": [1, 2]}')",
        "SELECT outbox.enqueue('note', '{a@example.org}', '{\"order\": 2, \"n\": [1, 2]}')",
        "SELECT outbox.enqueue('other', '{a@example.org}', '{\"order\": 1, \"n\": [1, 2]}')",
        "SELECT outbox.enqueue('note', '{b@example.org}', '{\"order\": 1, \"n\": [1, 2]}')",
        "SELECT outbox.enqueue('note', '{a@example.org}', '{\"order\": 1, \"n\": [1, 2]}', tenant => 'eu')",
        "SELECT outbox.enqueue('note', '{a@example.org}', '{\"order\": 1, \"n\": [1, 2]}', locale => 'de')",
        "SELECT outbox.enqueue('note', '{a@example.org}', subject => 's', body_text => 'ab')",
        "SELECT outbox.enqueue('note', '{a@example.org}', subject => 's', body_html => 'ab')",
        "SELECT outbox.enqueue('note', '{a@example.org}', subject => 's', body_text => 'a', headers => '{\"X-A\": \"b\"}')",
        "SELECT outbox.enqueue('note', '{a@example.org}', raw_message => 'Subject: x\\015\\012\\015\\012one')",
        "SELECT outbox.enqueue('note', '{a@example.org}', raw_message => 'Subject: x\\015\\012\\015\\012two')",
        // One message to one address twice, and a key used twice: one delivery.
        "SELECT outbox.enqueue('list', '{c@example.org,\"C <c@example.org>\"}', '{}')",
        "SELECT outbox.enqueue('once', '{d@example.org}', '{}', dedup_key => 'k')",
        "SELECT outbox.enqueue('once', '{d@example.org}', '{}', dedup_key => 'k')",
    ];
    for sql in enqueue {
        outbox.db.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }
    assert_eq!(outbox.texts(PAIRS).await, Vec::<String>::new());
    // The same JSON in another spelling is the same.
    outbox
        .db
        .batch_execute("SELECT outbox.enqueue('note', '{a@example.org}', '{\"n\": [1,2], \"order\": 1}')")
        .await
        .unwrap();
    assert_eq!(outbox.texts(PAIRS).await, ["a@example.org|note|f|f|pending|pending"]);
}

#[tokio::test]
async fn pairs_are_looked_for_in_a_window_that_can_be_chosen() {
    let outbox = Outbox::new().await;
    for (recipient, interval) in
        [("{old@example.org}", "8 days"), ("{far@example.org}", "25 hours"), ("{near@example.org}", "23 hours")]
    {
        let first = hello(&outbox, recipient, "").await;
        age(&outbox, first, interval).await;
        hello(&outbox, recipient, "").await;
    }
    let found =
        |arguments: &str| format!("SELECT recipient FROM outbox.find_suspected_duplicates({arguments}) ORDER BY 1");
    assert_eq!(outbox.texts("SELECT recipient FROM outbox.suspected_duplicates").await, ["near@example.org"]);
    assert_eq!(outbox.texts(&found("within => '2 days'")).await, ["far@example.org", "near@example.org"]);
    assert_eq!(outbox.texts(&found("within => '1 hour'")).await, Vec::<String>::new());
    assert_eq!(outbox.texts(&found("now() - interval '9 days', '9 days'")).await.len(), 3);
    assert_eq!(outbox.texts(&found("now() - interval '22 hours'")).await, Vec::<String>::new());
    // Asked for one address, all that is kept is looked at.
    assert_eq!(outbox.texts(&found("within => '9 days', address => 'old@example.org'")).await, ["old@example.org"]);
}

#[tokio::test]
async fn what_an_operator_has_sent_again_is_no_duplicate_of_a_producer() {
    let outbox = Outbox::new().await;
    let first = hello(&outbox, "{ada@example.org}", "").await;
    let second = hello(&outbox, "{ada@example.org}", "").await;
    assert_eq!(outbox.texts(PAIRS).await.len(), 1);
    let audit = format!(
        "INSERT INTO outbox.audit (action, message_id, reason, after) VALUES ('send again', '{first}', 'lost', 'sent again as {second}')"
    );
    outbox.db.batch_execute(&audit).await.unwrap();
    assert_eq!(outbox.texts(PAIRS).await, Vec::<String>::new());
}

/// The digest of content is the dear part: it is taken of messages that have a neighbour of their own kind, not of others.
#[tokio::test]
async fn a_hundred_thousand_deliveries_are_looked_at_narrowly() {
    let outbox = Outbox::new().await;
    outbox
        .db
        .batch_execute(
            "DO $$ BEGIN FOR batch IN 0..9 LOOP
               PERFORM count(*) FROM outbox.enqueue_many((SELECT json_agg(json_build_object('kind', 'note',
                 'recipients', json_build_array('r' || i || '@example.org'), 'payload', json_build_object('n', i)))
                 FROM generate_series(batch * 10000 + 1, batch * 10000 + 10000) i));
             END LOOP; END $$;
             WITH gone AS (DELETE FROM outbox.queue WHERE address_hash % 2 = 0 RETURNING *)
             INSERT INTO outbox.done (message_id, recipient_no, state, evidence, lane, address_hash)
             SELECT message_id, recipient_no, 'sent', 'reply', lane, address_hash FROM gone;
             SELECT outbox.enqueue('note', ARRAY['r' || i || '@example.org'], json_build_object('n', i)) FROM generate_series(1, 5) i;
             SELECT outbox.enqueue('note', ARRAY['r' || i || '@example.org'], json_build_object('other', i)) FROM generate_series(6, 9) i;
             ANALYZE outbox.queue; ANALYZE outbox.done; ANALYZE outbox.message;
             SET track_functions = 'all'",
        )
        .await
        .unwrap();
    let calls = "SELECT coalesce(sum(calls), 0) FROM pg_stat_xact_user_functions WHERE funcname = 'digest_of'";
    outbox.db.batch_execute("BEGIN").await.unwrap();
    let before = outbox.number(calls).await;
    let began = Instant::now();
    assert_eq!(outbox.number("SELECT count(*) FROM outbox.suspected_duplicates").await, 5);
    let took = began.elapsed();
    let digested = outbox.number(calls).await - before;
    println!("100,009 deliveries looked at in {took:.1?}, {digested} digests");
    assert_eq!(digested, 18, "only what has a neighbour");
    outbox.db.batch_execute("ROLLBACK").await.unwrap();
    assert!(took < Duration::from_secs(60), "{took:?}");

    // One address: no table of finished deliveries and no message is read as a whole.
    let scans = "SELECT coalesce(sum(seq_tup_read), 0) FROM pg_stat_xact_user_tables
                 WHERE schemaname = 'outbox' AND (relname = 'done' OR relname LIKE 'message%')";
    outbox.db.batch_execute("BEGIN").await.unwrap();
    let before = outbox.number(scans).await;
    let began = Instant::now();
    let address = "SELECT count(*) FROM outbox.find_suspected_duplicates(address => 'r3@example.org')";
    assert_eq!(outbox.number(address).await, 1);
    assert_eq!(outbox.number("SELECT count(*) FROM outbox.find_deliveries('R3@example.org')").await, 2);
    println!("one address in {:.1?}", began.elapsed());
    assert_eq!(outbox.number(scans).await - before, 0);
    outbox.db.batch_execute("ROLLBACK").await.unwrap();
}

#[tokio::test]
async fn deliveries_are_found_by_address_and_not_by_a_hash_alone() {
    let outbox = Outbox::new().await;
    let id = hello(&outbox, "{ada@example.org}", ", cc => '{\"Bob B. <bob@Example.org>\"}'").await;
    let other = hello(&outbox, "{carl@example.org}", "").await;
    let find = |address: &str| {
        format!("SELECT message_id || '/' || recipient_no || ' ' || state FROM outbox.find_deliveries('{address}')")
    };
    assert_eq!(outbox.texts(&find("BOB@example.org")).await, [format!("{id}/2 pending")]);
    assert_eq!(outbox.texts(&find("Somebody <bob@example.org>")).await, [format!("{id}/2 pending")]);
    // A collision, made by hand.
    let collide = format!(
        "UPDATE outbox.queue SET address_hash = outbox.address_hash('bob@example.org') WHERE message_id = '{other}'"
    );
    outbox.db.batch_execute(&collide).await.unwrap();
    assert_eq!(outbox.texts(&find("bob@example.org")).await, [format!("{id}/2 pending")]);
    assert_eq!(outbox.texts(&find("nobody@example.org")).await, Vec::<String>::new());
    assert_eq!(
        outbox.texts("SELECT count(*) FROM outbox.find_deliveries('ada@example.org', now() + interval '1 hour')").await,
        ["0"]
    );
}
