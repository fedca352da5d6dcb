//! claim_turns: as many for each tenant that waits, with the guards of the plain claim.

use std::collections::{HashMap, HashSet};

use hapax_core::DeliveryKey;
use hapax_store::{Claimed, Turn};

use crate::common::{LANE, LEASE, Stage};

async fn enqueue_for(stage: &Stage, tenant: Option<&str>, count: i32) {
    let sql = "SELECT outbox.enqueue('note', ARRAY['r' || i || '@example.org'], subject => 'Hello', body_text => 'Hello', tenant => $2)
               FROM generate_series(1, $1) i";
    stage.sql.query(sql, &[&count, &tenant]).await.expect("enqueues");
}

async fn counts(stage: &Stage, claimed: &[Claimed]) -> HashMap<String, usize> {
    let mut counts = HashMap::new();
    for claimed in claimed {
        let sql = format!("SELECT coalesce(tenant, '') FROM outbox.message WHERE id = '{}'", claimed.key.message_id);
        *counts.entry(stage.text(&sql).await).or_default() += 1;
    }
    counts
}

#[tokio::test]
async fn a_claim_has_as_many_of_each_tenant_and_what_one_does_not_need_is_for_the_others() {
    let stage = Stage::set().await;
    enqueue_for(&stage, Some("a"), 100).await;
    assert!(stage.store.lanes_by_turns(&[LANE]).await.expect("looks").is_empty(), "one tenant needs no turns");
    enqueue_for(&stage, Some("b"), 50).await;
    enqueue_for(&stage, Some("c"), 2).await;
    enqueue_for(&stage, None, 3).await;
    assert_eq!(stage.store.lanes_by_turns(&[LANE]).await.expect("looks"), [LANE]);
    let (_, claimed) = stage.store.claim_turns(LANE, Turn::START, 40, LEASE).await.expect("claims");
    let counts = counts(&stage, &claimed).await;
    assert_eq!((claimed.len(), counts["c"], counts[""]), (40, 2, 3), "{counts:?}");
    assert!(counts["a"] >= 12 && counts["b"] >= 12, "{counts:?}");
    let keys: HashSet<DeliveryKey> = claimed.iter().map(|claimed| claimed.key).collect();
    let (_, more) = stage.store.claim_turns(LANE, Turn::START, 1_000, LEASE).await.expect("claims");
    assert!(more.len() == 115 && more.iter().all(|more| !keys.contains(&more.key)), "the rest, nothing twice");
}

#[tokio::test]
async fn everybody_has_a_turn_within_one_round_when_there_are_more_tenants_than_places() {
    let stage = Stage::set().await;
    for tenant in 0..20 {
        enqueue_for(&stage, Some(&format!("t{tenant}")), 3).await;
    }
    let (mut turn, mut seen) = (Turn::START, HashSet::new());
    for _ in 0..5 {
        let (next, claimed) = stage.store.claim_turns(LANE, turn, 4, LEASE).await.expect("claims");
        turn = next;
        seen.extend(counts(&stage, &claimed).await.into_keys());
    }
    assert_eq!(seen.len(), 20, "{seen:?}");
}

#[tokio::test]
async fn what_has_an_intent_is_parked_leased_or_due_later_is_never_handed_out_by_turns() {
    let stage = Stage::set().await;
    enqueue_for(&stage, Some("a"), 5).await;
    enqueue_for(&stage, None, 5).await;
    for rows in ["tenant_no IS NULL", "tenant_no IS NOT NULL"] {
        for (set, no) in [
            ("intent = gen_random_uuid()", 0),
            ("parked = 'held', due_at = 'infinity'", 1),
            ("lease = gen_random_uuid(), lease_until = now() + interval '1 minute'", 2),
            ("due_at = now() + interval '1 hour'", 3),
        ] {
            let update = format!(
                "UPDATE outbox.queue SET {set} WHERE message_id =
                 (SELECT message_id FROM outbox.queue WHERE {rows} ORDER BY message_id OFFSET {no} LIMIT 1)"
            );
            stage.run(&update).await;
        }
    }
    let (_, claimed) = stage.store.claim_turns(LANE, Turn::START, 100, LEASE).await.expect("claims");
    assert_eq!(claimed.len(), 2, "one of each");
    assert_eq!(
        stage.count("SELECT count(*) FROM outbox.queue WHERE intent IS NOT NULL AND lease IS NOT NULL").await,
        0
    );
}

#[tokio::test]
async fn a_long_backlog_of_one_tenant_does_not_make_the_claim_of_another_longer() {
    let stage = Stage::set().await;
    stage
        .run(
            "INSERT INTO outbox.queue (message_id, recipient_no, lane, due_at, address_hash, tenant_no)
             SELECT outbox.uuid_v7(), 1, 1, now() - i * interval '1 ms', i, CASE WHEN i = 1 THEN 8 ELSE 7 END FROM generate_series(1, 100000) i",
        )
        .await;
    stage.run("VACUUM ANALYZE outbox.queue").await;
    let buffers = "SELECT (heap_blks_hit + heap_blks_read + idx_blks_hit + idx_blks_read)::int8 FROM pg_statio_all_tables WHERE relid = 'outbox.queue'::regclass";
    let scans = "SELECT seq_scan FROM pg_stat_all_tables WHERE relid = 'outbox.queue'::regclass";
    let armed = stage.store.armed();
    let claim = format!(
        "SELECT count(*) FILTER (WHERE q.tenant_no = 8) FROM outbox.claim_turns('{}', '{}', gen_random_uuid(), 60, {LANE}::int2, 32, -1, '-infinity', '00000000-0000-0000-0000-000000000000', 0::int2) c
         JOIN LATERAL (SELECT x.* FROM outbox.queue x WHERE x.message_id = c.message_id OFFSET 0) q ON true",
        armed.epoch, armed.identity
    );
    let flush = "SELECT pg_stat_force_next_flush()";
    stage.run(flush).await;
    let before = (stage.count(buffers).await, stage.count(scans).await);
    assert_eq!(stage.count(&format!("/* by turns */ {claim}")).await, 1);
    stage.run(&format!("{flush}; SELECT outbox.lanes_by_turns('{{{LANE}}}')")).await;
    stage.run(flush).await;
    let after = (stage.count(buffers).await, stage.count(scans).await);
    assert_eq!(after.1, before.1, "no sequential scan");
    assert!((1..4_000).contains(&(after.0 - before.0)), "{} buffers", after.0 - before.0);
}

/// Behind an OR, Postgres may make a table of all tenants that have anything, once for each that is asked about.
#[tokio::test]
async fn tenants_whose_first_is_on_the_wire_are_asked_about_one_by_one() {
    let stage = Stage::set().await;
    stage
        .run(
            "INSERT INTO outbox.queue (message_id, recipient_no, lane, due_at, address_hash, tenant_no, lease, lease_until)
             SELECT outbox.uuid_v7(), 1, 1, now() - interval '1 hour' + i * interval '1 ms', i, i % 75, l.lease, now() + l.lease_s * interval '1 s'
             FROM generate_series(0, 99999) i LEFT JOIN (VALUES (gen_random_uuid(), 3600)) l (lease, lease_s) ON i < 30",
        )
        .await;
    stage.run("VACUUM ANALYZE outbox.queue").await;
    let armed = stage.store.armed();
    let claim = format!(
        "EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) SELECT * FROM outbox.claim_turns('{}', '{}', gen_random_uuid(), 60, {LANE}::int2, 128, -1, '-infinity',
           '00000000-0000-0000-0000-000000000000', 0::int2)",
        armed.epoch, armed.identity
    );
    let plan: serde_json::Value = stage.sql.query_one(&claim, &[]).await.expect("explains").get(0);
    let top = &plan[0]["Plan"];
    assert_eq!(top["Actual Rows"].as_f64(), Some(128.0), "{plan}");
    let buffers = ["Shared Hit Blocks", "Shared Read Blocks"].map(|key| top[key].as_i64().expect("a number"));
    assert!((128..9_000).contains(&buffers.iter().sum::<i64>()), "{buffers:?}");
}

#[tokio::test]
async fn every_door_and_every_way_back_into_the_queue_gives_the_tenant_its_number() {
    let stage = Stage::set().await;
    enqueue_for(&stage, Some("a"), 1).await;
    stage
        .run(
            "INSERT INTO outbox.notification (kind, recipients, subject, body_text, tenant) VALUES ('note', '{x@example.org}', 's', 'b', 'a');
             SELECT outbox.enqueue('note', '{x@example.org}', subject => 's', body_text => 'b', tenant => 'a', dedup_key => 'k');
             SELECT outbox.enqueue('note', '{x@example.org,y@example.org}', subject => 's', body_text => 'b', tenant => 'a');
             SELECT outbox.enqueue('note', '{x@example.org}', subject => 's', body_text => 'b', tenant => 'a', ordering_key => 'o');
             SELECT outbox.enqueue_many('[{\"kind\":\"note\",\"recipients\":[\"x@example.org\"],\"subject\":\"s\",\"body_text\":\"b\",\"tenant\":\"a\"}]'::json);
             SELECT outbox.enqueue('note', '{x@example.org}', subject => 's', body_text => 'b');
             SELECT outbox.enqueue('note', '{x@example.org,y@example.org}', subject => 's', body_text => 'b', ordering_key => 'o')",
        )
        .await;
    let numbers = "SELECT string_agg(DISTINCT (q.tenant_no IS NOT NULL)::text || coalesce(m.tenant, '-'), ' ') || count(DISTINCT q.tenant_no) || count(*)
                   FROM outbox.queue q JOIN outbox.message m ON m.id = q.message_id";
    assert_eq!(stage.text(numbers).await, "false- truea110");
    let reopen = "DO $$ DECLARE d outbox.done; q outbox.queue; BEGIN
        SELECT x.* INTO q FROM outbox.queue x WHERE x.tenant_no IS NOT NULL AND x.order_key IS NULL LIMIT 1;
        PERFORM outbox.finish(q, 'failed', NULL, 'no', NULL, 0);
        SELECT x.* INTO d FROM outbox.done x;
        PERFORM outbox.reopen(d, NULL, NULL); END $$";
    stage.run(reopen).await;
    assert_eq!(stage.text(numbers).await, "false- truea110");
}

#[tokio::test]
async fn those_without_a_tenant_take_no_turn_of_another_away() {
    let stage = Stage::set().await;
    for tenant in 0..8 {
        enqueue_for(&stage, Some(&format!("t{tenant}")), 50).await;
    }
    enqueue_for(&stage, None, 300).await;
    for limit in [4, 1] {
        let (mut turn, mut seen) = (Turn::START, HashSet::new());
        for _ in 0..100 / limit {
            let (next, claimed) = stage.store.claim_turns(LANE, turn, limit, LEASE).await.expect("claims");
            turn = next;
            seen.extend(counts(&stage, &claimed).await.into_keys());
        }
        assert_eq!(seen.len(), 9, "{limit}: {seen:?}");
    }
}

#[tokio::test]
async fn a_tenant_whose_mail_is_all_on_the_wire_has_no_turn() {
    let stage = Stage::set().await;
    for tenant in 0..9 {
        enqueue_for(&stage, Some(&format!("t{tenant}")), 2).await;
    }
    // All but the one that comes last: of one both are on the wire, of the others one is leased, too.
    stage
        .run(
            "UPDATE outbox.queue SET intent = gen_random_uuid() WHERE tenant_no < (SELECT max(tenant_no) FROM outbox.queue);
             UPDATE outbox.queue q SET intent = NULL, lease = gen_random_uuid(), lease_until = now() + interval '1 minute'
             WHERE q.tenant_no = (SELECT min(tenant_no) FROM outbox.queue)",
        )
        .await;
    let (next, claimed) = stage.store.claim_turns(LANE, Turn::START, 1, LEASE).await.expect("claims");
    assert_eq!(claimed.len(), 1, "{next:?}");
    let (again, claimed) = stage.store.claim_turns(LANE, next, 4, LEASE).await.expect("claims");
    assert_eq!((claimed.len(), again.after), (1, next.after), "the last one");
    let (last, claimed) = stage.store.claim_turns(LANE, again, 4, LEASE).await.expect("claims");
    assert!(claimed.is_empty() && last.seen_all && last.after == next.after, "{last:?}");
}

#[tokio::test]
async fn mail_without_a_tenant_is_found_behind_any_backlog_a_thousand_further_in_every_claim() {
    let stage = Stage::set().await;
    stage
        .run(
            "INSERT INTO outbox.queue (message_id, recipient_no, lane, due_at, address_hash, tenant_no)
             SELECT outbox.uuid_v7(), 1, 1, now() - i * interval '1 ms', i, CASE WHEN i % 1750 > 1 THEN 7 END FROM generate_series(1, 3501) i",
        )
        .await;
    assert_eq!(stage.store.lanes_by_turns(&[LANE]).await.expect("looks"), [LANE], "behind one tenant's, too");
    let without = "SELECT count(*) FROM outbox.queue WHERE tenant_no IS NULL AND lease IS NOT NULL";
    let mut turn = Turn::START;
    let mut found = Vec::new();
    for _ in 0..6 {
        turn = stage.store.claim_turns(LANE, turn, 4, LEASE).await.expect("claims").0;
        found.push((stage.count(without).await, turn.seen_all));
    }
    // The oldest two at once, two in the middle and one at the end after as many looks as there are thousands.
    assert_eq!(found, [(2, false), (2, false), (4, false), (4, false), (5, true), (5, true)]);
    stage.run("UPDATE outbox.queue SET lease = NULL, lease_until = NULL WHERE tenant_no IS NULL").await;
    let (_, claimed) = stage.store.claim_turns(LANE, turn, 4, LEASE).await.expect("claims");
    assert_eq!(
        (claimed.len(), stage.count(without).await),
        (4, 0),
        "what is behind the look waits for the next from the start"
    );
    stage.store.claim_turns(LANE, Turn { seen: Turn::START.seen, ..turn }, 4, LEASE).await.expect("claims");
    assert_eq!(stage.count(without).await, 2);
}

#[tokio::test]
async fn thousands_of_tenants_whose_time_has_not_come_hide_nobody() {
    let stage = Stage::set().await;
    // Only the last tenant of 2,500 may be sent now, and one without a tenant.
    stage
        .run(
            "INSERT INTO outbox.queue (message_id, recipient_no, lane, due_at, address_hash, tenant_no)
             SELECT outbox.uuid_v7(), 1, 1, CASE WHEN i > 2500 THEN now() ELSE now() + interval '1 hour' END, i, nullif(i, 2502) FROM generate_series(1, 2502) i;
             INSERT INTO outbox.queue (message_id, recipient_no, lane, due_at, address_hash, tenant_no)
             SELECT outbox.uuid_v7(), 1, 1, now(), i, 2501 FROM generate_series(1, 9) i",
        )
        .await;
    assert_eq!(stage.store.lanes_by_turns(&[LANE]).await.expect("looks"), [LANE]);
    let mut turn = Turn::START;
    let mut taken = 0;
    for after in [1_000, 2_000, 2_501] {
        let (next, claimed) = stage.store.claim_turns(LANE, turn, 2, LEASE).await.expect("claims");
        taken += claimed.len();
        assert_eq!((claimed.len(), next.after), (2, after));
        turn = next;
    }
    let (_, claimed) = stage.store.claim_turns(LANE, turn, 100, LEASE).await.expect("claims");
    assert_eq!(taken + claimed.len(), 11, "all that may be sent, each once");
}
