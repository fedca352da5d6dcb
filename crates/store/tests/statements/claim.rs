//! claim: what it hands out, to whom, and what it must never hand out.

use std::collections::HashSet;

use hapax_core::DeliveryKey;
use hapax_store::Cursor;
use tokio::task::JoinSet;

use crate::common::{LANE, LEASE, Stage, lock};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rc02_ten_claimers_at_once_get_disjoint_sets_and_everything() {
    let stage = Stage::set().await;
    let all: HashSet<DeliveryKey> = stage.enqueue(1_000).await.into_iter().collect();
    let mut claimers = JoinSet::new();
    for _ in 0..10 {
        let store = stage.store.clone();
        claimers.spawn(async move {
            let (mut mine, mut cursor) = (Vec::new(), Cursor::START);
            loop {
                let (next, claimed) = store.claim(LANE, cursor, 17, LEASE).await.expect("claims");
                // A short claim proves nothing about what others have locked: only an empty one from the start ends it.
                if claimed.is_empty() && cursor == Cursor::START {
                    return mine;
                }
                cursor = if claimed.len() < 17 { Cursor::START } else { next };
                mine.extend(claimed.into_iter().map(|claimed| claimed.key));
            }
        });
    }
    let handed_out: Vec<DeliveryKey> = claimers.join_all().await.concat();
    assert_eq!(handed_out.len(), 1_000, "nothing twice");
    assert_eq!(handed_out.into_iter().collect::<HashSet<_>>(), all);
    assert_eq!(stage.count("SELECT count(*) FROM outbox.queue WHERE claims = 1 AND lease IS NOT NULL").await, 1_000);
}

#[tokio::test]
async fn the_cursor_goes_on_within_the_recipients_of_one_message() {
    let stage = Stage::set().await;
    let (first, second) = (stage.enqueue_one(7, None).await, stage.enqueue_one(7, None).await);
    let (mut cursor, mut found) = (Cursor::START, Vec::new());
    for _ in 0..5 {
        let (next, claimed) = stage.store.claim(LANE, cursor, 3, LEASE).await.expect("claims");
        (cursor, found) = (next, [found, claimed.into_iter().map(|claimed| claimed.key).collect()].concat());
    }
    assert_eq!(found, [first, second].concat(), "all of them, in order");
}

#[tokio::test]
async fn what_has_an_intent_is_parked_or_due_later_is_never_handed_out() {
    let stage = Stage::set().await;
    let sending = stage.sending().await;
    stage.run("UPDATE outbox.queue SET lease_until = now() - interval '1 hour'").await;
    let doubt = stage.doubtful().await;
    let keys = stage.enqueue(3).await;
    stage.decide("hold", keys[0]).await;
    let later = format!(
        "UPDATE outbox.queue SET due_at = now() + interval '1 second' WHERE message_id = '{}'",
        keys[1].message_id
    );
    stage.run(&later).await;
    let claimed: Vec<DeliveryKey> = stage.claim().await.iter().map(|claimed| claimed.key).collect();
    assert_eq!(claimed, [keys[2]]);
    assert_eq!(stage.state(sending.key).await, "sending");
    assert_eq!(stage.state(doubt.key).await, "in_doubt");
}

#[tokio::test]
async fn rc07_an_expired_lease_or_one_absurdly_far_ahead_is_nobodys() {
    let stage = Stage::set().await;
    stage.enqueue(4).await;
    let before = stage.claim().await;
    assert!(stage.claim().await.is_empty(), "leased");
    for (claimed, until) in before.iter().zip(["-1 second", "10 years", "23 hours", "1 minute"]) {
        let sql = format!(
            "UPDATE outbox.queue SET lease_until = now() + interval '{until}' WHERE message_id = '{}'",
            claimed.key.message_id
        );
        stage.run(&sql).await;
    }
    let again = stage.claim().await;
    let keys: HashSet<DeliveryKey> = again.iter().map(|claimed| claimed.key).collect();
    assert_eq!(keys, before[..2].iter().map(|claimed| claimed.key).collect());
    assert!(again.iter().all(|claimed| claimed.claims == 2 && claimed.lease != before[0].lease));
}

/// What may be claimed, said once more and without SQL: due, not parked, without an intent, and nobody's.
fn is_claimable(due_s: f64, parked: Option<&str>, has_intent: bool, lease_until_s: Option<Option<f64>>) -> bool {
    const DAY: f64 = 86_400.0;
    let nobodys = match lease_until_s {
        None => true,
        // No statement writes a lease without its end; somebody's hand might.
        Some(None) => true,
        Some(Some(left)) => !(0.0..=DAY).contains(&left),
    };
    due_s <= 0.0 && parked.is_none() && !has_intent && nobodys
}

#[tokio::test]
async fn rc07_of_every_combination_of_lease_intent_parking_and_due_time_exactly_the_right_ones_are_recovered() {
    const LEASES: [Option<Option<f64>>; 12] = [
        None,
        Some(None),
        Some(Some(f64::NEG_INFINITY)),
        Some(Some(-3e8)),
        Some(Some(-3_600.0)),
        Some(Some(-0.001)),
        Some(Some(20.0)),
        Some(Some(3_600.0)),
        Some(Some(86_000.0)),
        Some(Some(86_500.0)),
        Some(Some(3e8)),
        Some(Some(f64::INFINITY)),
    ];
    let stage = Stage::set().await;
    let time = |seconds: f64| match seconds {
        f64::INFINITY => "'infinity'::timestamptz".to_owned(),
        f64::NEG_INFINITY => "'-infinity'::timestamptz".to_owned(),
        _ => format!("now() + {seconds} * interval '1 second'"),
    };
    let (mut rows, mut expected) = (Vec::new(), Vec::new());
    for lease in LEASES {
        for has_intent in [false, true] {
            for parked in [None, Some("doubt"), Some("held"), Some("poison"), Some("ordered")] {
                for due in [-1e9, -3e8, -0.001, 20.0, 3e8, f64::INFINITY] {
                    // What the constraints forbid cannot be.
                    if (parked.is_some() && due < f64::INFINITY) || (parked == Some("doubt") && !has_intent) {
                        continue;
                    }
                    let number = i16::try_from(rows.len() + 1).expect("few");
                    let (lease_id, until) = match lease {
                        None => ("NULL", "NULL".to_owned()),
                        Some(until) => ("gen_random_uuid()", until.map_or("NULL".to_owned(), time)),
                    };
                    rows.push(format!(
                        "('00000000-0000-7000-8000-000000000007'::uuid, {number}, {LANE}, {}, {}, {lease_id}, {until}, {}, now(), 0)",
                        time(due),
                        parked.map_or("NULL".to_owned(), |word| format!("'{word}'")),
                        if has_intent { "gen_random_uuid()" } else { "NULL" },
                    ));
                    if is_claimable(due, parked, has_intent, lease) {
                        expected.push(number);
                    }
                }
            }
        }
    }
    stage
        .run(&format!(
            "INSERT INTO outbox.queue (message_id, recipient_no, lane, due_at, parked, lease, lease_until, intent, doubt_since, address_hash) VALUES {}",
            rows.join(", ")
        ))
        .await;
    let untouched =
        "SELECT coalesce(md5(string_agg(q::text, '|' ORDER BY recipient_no)), '') FROM outbox.queue q WHERE claims = 0";
    let mut claimed: Vec<i16> = stage.claim().await.iter().map(|claimed| claimed.key.recipient_no).collect();
    claimed.sort_unstable();
    assert_eq!(claimed, expected, "of {} rows", rows.len());
    let before = stage.text(untouched).await;
    assert!(stage.claim().await.is_empty(), "all of them are leased now, and not one of the others");
    assert_eq!(stage.text(untouched).await, before);
    println!("{} combinations, {} claimable", rows.len(), expected.len());
}

#[tokio::test]
async fn rc02_a_claim_is_one_statement_and_what_it_took_stays_taken_when_its_session_is_gone() {
    let stage = Stage::set().await;
    stage.enqueue(20).await;
    let sql = include_str!("../../queries/claim.sql");
    let code: String = sql.lines().filter(|line| !line.trim_start().starts_with("--")).collect();
    assert!(!code.contains(';') && code.contains("outbox.claim_batch("), "one statement: {sql}");
    let other = stage.relay().await;
    let first = stage.store.claim(LANE, Cursor::START, 12, LEASE).await.expect("claims").1;
    drop(stage.store.clone());
    // No lock is left, and none is needed.
    assert_eq!(stage.count("SELECT count(*) FROM pg_locks WHERE locktype IN ('tuple', 'advisory')").await, 0);
    let second = other.claim(LANE, Cursor::START, 12, LEASE).await.expect("claims").1;
    assert_eq!((first.len(), second.len()), (12, 8));
    assert!(second.iter().all(|one| first.iter().all(|other| other.key != one.key)));
}

#[tokio::test]
async fn a_row_locked_by_an_application_is_passed_over_at_once() {
    let stage = Stage::set().await;
    let keys = stage.enqueue(3).await;
    let (blocker, _driver) = stage.session().await;
    lock(&blocker, keys[1]).await;
    let claimed: Vec<DeliveryKey> = stage.claim().await.iter().map(|claimed| claimed.key).collect();
    assert_eq!(claimed, [keys[0], keys[2]]);
    blocker.batch_execute("ROLLBACK").await.expect("rolls back");
    assert_eq!(stage.claim().await.len(), 1);
}

#[tokio::test]
async fn only_the_asked_lane_is_claimed() {
    let stage = Stage::set().await;
    stage
        .run(
            "INSERT INTO outbox.notification (kind, recipients, subject, body_text, priority)
               SELECT 'note', ARRAY['a@example.org'], 'x', 'x', unnest(ARRAY['urgent', 'normal', 'bulk'])",
        )
        .await;
    for lane in 0..3 {
        let claimed = stage.store.claim(lane, Cursor::START, 10, LEASE).await.expect("claims").1;
        assert_eq!(claimed.len(), 1, "lane {lane}");
    }
}

#[tokio::test]
async fn a_delivery_that_was_claimed_a_thousand_times_a_day_for_a_month_does_not_stop_its_lane() {
    let stage = Stage::set().await;
    stage.enqueue(2).await;
    stage.run("UPDATE outbox.queue SET claims = 32767").await;
    let claimed = stage.claim().await;
    assert_eq!(claimed.iter().map(|claimed| claimed.claims).collect::<Vec<_>>(), [32767, 32767]);
}
