//! How the hot statements are executed on a long queue: by index, without sorting the lane, and HOT.

use std::time::Duration;

use hapax_core::Token;
use hapax_store::{Cursor, Wait};
use hapax_testkit::eventually;

use crate::common::{Attempt, LANE, LEASE, Stage, request};

/// A queue of 200,000 rows, a fifth of them parked, with statistics.
async fn long_queue() -> Stage {
    let stage = Stage::set().await;
    stage
        .run("INSERT INTO outbox.queue (message_id, recipient_no, lane, due_at, parked, address_hash, order_key, order_no)
              SELECT outbox.uuid_v7(), 1, i % 3, CASE WHEN i % 5 = 0 THEN 'infinity' ELSE now() - i * interval '1 ms' END,
                     CASE WHEN i % 5 = 0 THEN 'ordered' END, i, CASE WHEN i % 5 = 0 THEN 'key ' || i % 1000 END, i
              FROM generate_series(1, 200000) i;
              ANALYZE outbox.queue")
        .await;
    stage
}

/// The plan of a file in `queries/`, with the plan cache's two ways to make one.
async fn plan(stage: &Stage, sql: &str, types: &str, arguments: &str, mode: &str) -> String {
    stage.run(&format!("DEALLOCATE ALL; SET plan_cache_mode = {mode}; PREPARE hot ({types}) AS {sql}")).await;
    let armed = stage.store.armed();
    let guard = format!("'{}', '{}'", armed.epoch, armed.identity);
    let explain = format!("EXPLAIN (COSTS off) EXECUTE hot ({})", arguments.replace("GUARD", &guard));
    let rows = stage.sql.query(&explain, &[]).await.unwrap_or_else(|error| panic!("{explain}: {error:?}"));
    rows.iter().map(|row| row.get::<_, String>(0)).collect::<Vec<_>>().join("\n")
}

#[tokio::test]
async fn the_release_finds_its_rows_by_key() {
    let stage = long_queue().await;
    let array = |of: &str, kind: &str| format!("array_fill({of}::{kind}, ARRAY[128])");
    let (ids, ones, floats) = (array("gen_random_uuid()", "uuid"), array("1", "int2"), array("1", "float8"));
    let arguments = format!("GUARD, {ids}, {ones}, {ids}, {floats}, {ones}, {}", array("NULL", "text"));
    let types = "uuid, text, uuid[], int2[], uuid[], float8[], int2[], text[]";
    for mode in ["force_generic_plan", "force_custom_plan"] {
        let plan = plan(&stage, include_str!("../../queries/release.sql"), types, &arguments, mode).await;
        assert!(!plan.contains("Seq Scan on queue"), "{mode}:\n{plan}");
        assert!(!plan.contains("queue_due"), "{mode}: rows are found by key:\n{plan}");
    }
}

#[tokio::test]
async fn the_look_walks_the_same_index_up_to_its_first_hit() {
    let stage = long_queue().await;
    let migration = include_str!("../../../../migrations/0054_look_onward.sql");
    let function = &migration[migration.find("CREATE FUNCTION outbox.look").expect("the look")..];
    let body = function.split("RETURN QUERY").nth(1).expect("one statement").split(";\nEND").next().expect("its end");
    for mode in ["force_generic_plan", "force_custom_plan"] {
        let plan = plan(
            &stage,
            body,
            "int2[], timestamptz[], bool, bool",
            "'{0,1,2}', '{epoch,epoch,epoch}', false, false",
            mode,
        )
        .await;
        assert!(!plan.contains("Seq Scan") && !plan.contains("Sort"), "{mode}:\n{plan}");
        assert_eq!(plan.matches("using queue_due").count(), 2, "{mode}:\n{plan}");
        assert!(
            plan.lines().all(|line| !line.contains("Index Cond") || line.contains("lane = l.lane")),
            "{mode}:\n{plan}"
        );
    }
}

/// Index entries read of `outbox.queue`, by index, and how often it was read from end to end.
async fn reads(stage: &Stage) -> (i64, i64, i64) {
    let sql = "SELECT (SELECT idx_tup_read FROM pg_stat_user_indexes WHERE indexrelid = 'outbox.queue_due'::regclass),
                      (SELECT idx_tup_read FROM pg_stat_user_indexes WHERE indexrelid = 'outbox.queue_pkey'::regclass),
                      (SELECT seq_scan FROM pg_stat_user_tables WHERE relid = 'outbox.queue'::regclass)";
    stage.run("SELECT pg_stat_force_next_flush()").await;
    stage.run("SELECT pg_stat_clear_snapshot()").await;
    let row = stage.sql.query_one(sql, &[]).await.expect("reads");
    (row.get(0), row.get(1), row.get(2))
}

/// Claims, intends and settles up to 128 deliveries in the test's own session, whose plans stay.
async fn one_round(stage: &Stage, due_after: &str, how: &str) -> i64 {
    let armed = stage.store.armed();
    let (epoch, identity, relay) = (armed.epoch, &armed.identity, stage.store.incarnation());
    let fill = |value: &str| format!("array_fill({value}, ARRAY[cardinality(b.ids)])");
    let (text, null) = (fill("'x'::text"), fill("NULL::text"));
    let round = format!(
        "CREATE TEMP TABLE IF NOT EXISTS batch (ids uuid[], nos int2[], leases uuid[], tokens uuid[]);
         TRUNCATE batch;
         INSERT INTO batch SELECT array_agg(c.message_id), array_agg(c.recipient_no), array_agg(l.lease), array_agg(gen_random_uuid())
         FROM (SELECT gen_random_uuid() AS lease) l CROSS JOIN LATERAL
              outbox.claim_batch('{epoch}', '{identity}', l.lease, 60, 128, ARRAY[128], ARRAY[{LANE}::int2], ARRAY[128], ARRAY[1],
                                 ARRAY[{due_after}], ARRAY['00000000-0000-0000-0000-000000000000'::uuid], ARRAY[0::int2]) c HAVING count(*) > 0;
         DO $$ DECLARE b record; BEGIN
           SELECT * INTO b FROM batch; IF NOT FOUND THEN RETURN; END IF;
           PERFORM outbox.intend_batch('{epoch}', '{identity}', b.ids, b.nos, b.leases, b.tokens, {sha}, {text}, '{relay}', '2s', {int8}, {float8}, 0, 'HOW');
           PERFORM outbox.settle_batch('{epoch}', '{identity}', b.ids, b.nos, b.leases, b.tokens, {yes}, {sent}, {float8}, {yes}, {null}, {accepted}, {text}, {null},
                                       {int2}, {null}, {text}, {null}, {text}, {text}, {float8}, {int4}, '{relay}', 'HOW', '2s');
         END $$",
        sha = fill("'x'::bytea"), int8 = fill("NULL::int8"), float8 = fill("0::float8"), yes = fill("true"),
        sent = fill("'sent'::text"), accepted = fill("'accepted'::text"), int2 = fill("250::int2"), int4 = fill("1"),
        relay = relay.0,
    );
    stage.run(&round.replace("HOW", how)).await;
    stage.count("SELECT coalesce(sum(cardinality(ids)), 0) FROM batch").await
}

const EVERYTHING: &str = "'-infinity'::timestamptz";

/// The ways intend and settle take their rows.
const HOW: [&str; 2] = ["skip", "expected"];

#[tokio::test]
async fn plans_that_were_made_for_an_empty_queue_are_good_for_a_long_one() {
    let stage = Stage::set().await;
    // As in the life of a relay: the queue was full once, is empty, and was looked at by vacuum.
    stage.enqueue(10).await;
    assert_eq!(one_round(&stage, EVERYTHING, "skip").await, 10);
    stage.run("VACUUM ANALYZE outbox.queue").await;
    stage.run("DISCARD PLANS").await;
    for _ in 0..8 {
        for how in HOW {
            assert_eq!(one_round(&stage, EVERYTHING, how).await, 0);
            stage.enqueue(1).await;
            assert_eq!(one_round(&stage, EVERYTHING, how).await, 1);
        }
    }
    // No statistics of it: they would invalidate the plans that are looked at here.
    stage
        .run(
            "ALTER TABLE outbox.queue SET (autovacuum_enabled = off);
              INSERT INTO outbox.queue (message_id, recipient_no, lane, due_at, parked, address_hash, order_key, order_no)
              SELECT outbox.uuid_v7(), 1, i % 3, CASE WHEN i % 5 = 0 THEN 'infinity' ELSE now() - i * interval '1 ms' END,
                     CASE WHEN i % 5 = 0 THEN 'ordered' END, i, CASE WHEN i % 5 = 0 THEN 'key ' || i % 1000 END, i
              FROM generate_series(1, 200000) i",
        )
        .await;
    for (due_after, how) in [(EVERYTHING, HOW[0]), ("now() - interval '100 s'", HOW[1]), (EVERYTHING, HOW[1])] {
        let before = reads(&stage).await;
        assert_eq!(one_round(&stage, due_after, how).await, 128);
        let after = reads(&stage).await;
        let (due, key, whole) = (after.0 - before.0, after.1 - before.1, after.2 - before.2);
        println!(
            "128 deliveries, {due_after}, {how}: {due} entries of queue_due, {key} of queue_pkey, {whole} sequential scans"
        );
        assert!((128..=300).contains(&due), "the claim alone reads queue_due, and only what it takes: {due}");
        assert!((256..=1_500).contains(&key), "intend and settle look up by key: {key}");
        assert_eq!(whole, 0);
    }
}

#[tokio::test]
async fn claim_and_intend_leave_the_indexes_alone() {
    let stage = Stage::set().await;
    stage.enqueue(6_000).await;
    let store = stage.relay().await;
    let mut cursor = Cursor::START;
    loop {
        let (next, claimed) = store.claim(LANE, cursor, 512, LEASE).await.expect("claims");
        cursor = next;
        if claimed.is_empty() {
            break;
        }
        let requests: Vec<_> = claimed
            .iter()
            .map(|claimed| request(&Attempt { key: claimed.key, lease: claimed.lease, token: Token::fresh() }))
            .collect();
        store.intend(&requests, Wait::Skip).await.expect("intends");
    }
    // A session hands its counters in when it ends.
    drop(store);
    let counters = "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relid = 'outbox.queue'::regclass";
    let (updated, hot) = eventually(Duration::from_secs(30), async || {
        stage.run("SELECT pg_stat_clear_snapshot()").await;
        let row = stage.sql.query_one(counters, &[]).await.expect("reads");
        let (updated, hot): (i64, i64) = (row.get(0), row.get(1));
        (updated >= 12_000).then_some((updated, hot)).ok_or(updated)
    })
    .await;
    assert!(hot * 10 > updated * 9, "{hot} of {updated} updates were HOT");
}

/// Index entries of ordering keys read so far, of all that waits and of heads alone.
async fn keys_read(stage: &Stage) -> (i64, i64) {
    stage.run("SELECT pg_stat_force_next_flush()").await;
    stage.run("SELECT pg_stat_clear_snapshot()").await;
    let sql = "SELECT (SELECT idx_tup_read FROM pg_stat_user_indexes WHERE indexrelid = 'outbox.queue_ordered'::regclass),
                      (SELECT idx_tup_read FROM pg_stat_user_indexes WHERE indexrelid = 'outbox.queue_heads'::regclass)";
    let row = stage.sql.query_one(sql, &[]).await.expect("reads");
    (row.get(0), row.get(1))
}

#[tokio::test]
async fn an_ordering_key_goes_on_without_reading_all_that_waits_behind_it() {
    let stage = Stage::set().await;
    // Plans as they are made while next to nothing waits, for both ways to settle, and kept.
    for how in [HOW[0], HOW[1], HOW[0], HOW[1]] {
        stage.run("INSERT INTO outbox.notification (kind, recipients, subject, body_text, ordering_key) VALUES ('note', '{a@example.org}', 'x', 'x', 'k')").await;
        assert_eq!(one_round(&stage, EVERYTHING, how).await, 1);
    }
    stage.run("ALTER TABLE outbox.queue SET (autovacuum_enabled = off)").await;
    stage
        .run(
            "INSERT INTO outbox.notification (kind, recipients, subject, body_text, ordering_key)
              SELECT 'note', '{a@example.org}', 'x', 'x', 'k' FROM generate_series(1, 5000)",
        )
        .await;
    for how in HOW {
        let before = keys_read(&stage).await;
        assert_eq!(one_round(&stage, EVERYTHING, how).await, 1);
        let after = keys_read(&stage).await;
        let (all, heads) = (after.0 - before.0, after.1 - before.1);
        println!("{how}: {all} entries of queue_ordered, {heads} of queue_heads");
        assert!(all <= 10 && heads <= 10, "{how}: {all} entries of queue_ordered, {heads} of queue_heads");
    }
}
