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

const MODES: [&str; 2] = ["force_generic_plan", "force_custom_plan"];

#[tokio::test]
async fn the_claim_walks_its_index_in_order_and_sorts_nothing() {
    let stage = long_queue().await;
    for mode in MODES {
        let types = "uuid, text, uuid, float8, int2, timestamptz, uuid, int2, int8";
        for cursor in ["'1970-01-01'", "now() - interval '100 s'"] {
            let arguments =
                format!("GUARD, gen_random_uuid(), 60, 1, {cursor}, '00000000-0000-0000-0000-000000000000', 0, 512");
            let plan = plan(&stage, include_str!("../../queries/claim.sql"), types, &arguments, mode).await;
            assert!(!plan.contains("Seq Scan"), "{mode}:\n{plan}");
            assert!(!plan.contains("Sort"), "{mode}:\n{plan}");
            assert!(plan.contains("Index Scan using queue_due"), "{mode}:\n{plan}");
            let condition =
                plan.lines().find(|line| line.contains("Index Cond: ((lane")).expect("a condition on the lane");
            assert!(
                condition.contains("ROW(due_at, message_id, recipient_no) >"),
                "the cursor is part of it: {condition}"
            );
        }
    }
}

#[tokio::test]
async fn the_look_walks_the_same_index_up_to_its_first_hit() {
    let stage = long_queue().await;
    for mode in MODES {
        let plan =
            plan(&stage, include_str!("../../queries/look.sql"), "int2[], bool, bool", "'{0,1,2}', false, false", mode)
                .await;
        assert!(!plan.contains("Seq Scan") && !plan.contains("Sort"), "{mode}:\n{plan}");
        assert_eq!(plan.matches("using queue_due").count(), 2, "{mode}:\n{plan}");
        assert!(
            plan.lines().all(|line| !line.contains("Index Cond") || line.contains("lane = l.lane")),
            "{mode}:\n{plan}"
        );
    }
}

#[tokio::test]
async fn the_other_hot_statements_find_their_rows_by_key() {
    let stage = long_queue().await;
    let array = |of: &str, kind: &str| format!("array_fill({of}::{kind}, ARRAY[128])");
    let ids = array("gen_random_uuid()", "uuid");
    let (ones, texts) = (array("1", "int2"), array("'x'", "text"));
    let (floats, bools) = (array("1", "float8"), array("true", "bool"));
    let cases = [
        (
            include_str!("../../queries/intend.sql"),
            "uuid, text, uuid[], int2[], uuid[], uuid[], bytea[], text[], uuid, text, int8[], float8[], int8",
            format!(
                "GUARD, {ids}, {ones}, {ids}, {ids}, {}, {texts}, gen_random_uuid(), '2s', {}, {floats}, 0",
                array("'x'", "bytea"),
                array("1", "int8")
            ),
        ),
        (
            include_str!("../../queries/settle.sql"),
            "uuid, text, uuid[], int2[], uuid[], uuid[], bool[], text[], float8[], bool[], text[], text[], text[], text[], int2[], text[], text[], text[], text[], text[], float8[], int4[], uuid",
            format!(
                "GUARD, {ids}, {ones}, {ids}, {ids}, {bools}, {texts}, {floats}, {bools}, {texts}, {texts}, {texts}, {texts}, {ones}, {texts}, {texts}, {texts}, {texts}, {texts}, {floats}, {}, gen_random_uuid()",
                array("1", "int4")
            ),
        ),
        (
            include_str!("../../queries/release.sql"),
            "uuid, text, uuid[], int2[], uuid[], float8[], int2[]",
            format!("GUARD, {ids}, {ones}, {ids}, {floats}, {ones}"),
        ),
    ];
    for mode in MODES {
        for (sql, types, arguments) in &cases {
            let plan = plan(&stage, sql, types, arguments, mode).await;
            assert!(!plan.contains("Seq Scan on queue"), "{mode}:\n{plan}");
            assert!(!plan.contains("queue_due"), "{mode}: rows are found by key:\n{plan}");
        }
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
