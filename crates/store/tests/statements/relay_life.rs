//! A relay's own statements: register, heartbeat, sign_off, release, register_routes, register_kinds.

use std::time::Duration;

use hapax_core::{Incarnation, Lease};
use hapax_store::{Cursor, Error, Kind, Release, Store};
use hapax_testkit::PgCluster;

use crate::common::{Attempt, LANE, LEASE, Stage, TEMPLATE, lock, options, own_cluster};

#[tokio::test]
async fn a_heartbeat_advances_by_one_and_a_repeated_one_sees_that_it_has() {
    let stage = Stage::set().await;
    assert_eq!(stage.store.heartbeat(0).await.expect("beats"), Some(1));
    assert_eq!(stage.store.heartbeat(0).await.expect("beats"), Some(1), "its answer was lost: the counter stands at 1");
    assert_eq!(stage.store.heartbeat(1).await.expect("beats"), Some(2));
    assert_eq!(stage.store.heartbeat(0).await.expect("beats"), Some(2), "somebody else is this incarnation");
}

#[tokio::test]
async fn rc42_a_heartbeat_behind_its_own_orphan_sees_the_counter_that_stands() {
    let stage = Stage::set().await;
    let (orphan, _driver) = stage.session().await;
    orphan.batch_execute("BEGIN; UPDATE outbox.relay SET beat = 1").await.expect("beats");
    let store = stage.store.clone();
    let repeated = tokio::spawn(async move { store.heartbeat(0).await });
    stage.until_blocked(1).await;
    orphan.batch_execute("COMMIT").await.expect("commits");
    assert_eq!(repeated.await.expect("no panic").expect("beats"), Some(1), "not the one of its snapshot");
}

#[tokio::test]
async fn who_signed_off_or_is_not_known_has_no_heartbeat() {
    let stage = Stage::set().await;
    stage.store.sign_off().await.expect("signs off");
    assert_eq!(stage.store.heartbeat(0).await.expect("answers"), None);
    let seen = stage.store.relays().await.expect("reads");
    assert!(seen.iter().all(|relay| relay.signed_off));
    let stranger = Store::connect(&options(&stage.url), Incarnation::fresh()).await.expect("connects");
    assert_eq!(stranger.heartbeat(0).await.expect("answers"), None);
}

#[tokio::test]
async fn a_release_gives_back_what_has_no_intent_and_nothing_else() {
    let stage = Stage::set().await;
    let sending = stage.sending().await;
    assert_eq!(stage.release(&sending).await, 0);
    assert_eq!(stage.state(sending.key).await, "sending");
    let key = stage.enqueue(1).await[0];
    let attempt = stage.attempt(key).await;
    assert_eq!(stage.release(&Attempt { lease: Lease::fresh(), ..attempt }).await, 0, "somebody else's");
    assert_eq!(stage.release(&attempt).await, 1);
    let row = stage.queued(key).await.expect("queued");
    assert_eq!((row.lease, row.claims, row.due), (None, 0, true));
    assert_eq!(stage.release(&attempt).await, 0, "once");
}

#[tokio::test]
async fn a_release_may_move_to_another_lane_and_be_due_later() {
    let stage = Stage::set().await;
    let keys = stage.enqueue(2).await;
    let claimed = stage.claim().await;
    let release = |i: usize, after: Duration, lane| Release { key: keys[i], lease: claimed[i].lease, after, lane };
    let batch = [release(0, Duration::ZERO, Some(42)), release(1, Duration::from_secs(60), None)];
    assert_eq!(stage.store.release(&batch).await.expect("releases"), 2);
    assert!(stage.claim().await.is_empty());
    let moved = stage.store.claim(42, Cursor::START, 10, LEASE).await.expect("claims").1;
    assert_eq!(moved.iter().map(|claimed| claimed.key).collect::<Vec<_>>(), [keys[0]]);
    assert_eq!(
        stage
            .count(&format!(
                "SELECT count(*) FROM outbox.queue WHERE lane = {LANE} AND due_at > now() + interval '50 s'"
            ))
            .await,
        1
    );
}

/// At shutdown everything that has no intent is given back at once; one open cancel() must not keep the others leased.
#[tokio::test]
async fn a_release_does_not_wait_for_a_row_that_an_application_has_locked() {
    let stage = Stage::set().await;
    let keys = stage.enqueue(3).await;
    let claimed = stage.claim().await;
    let (application, _driver) = stage.session().await;
    lock(&application, keys[1]).await;
    let batch: Vec<Release> = claimed
        .iter()
        .map(|claimed| Release { key: claimed.key, lease: claimed.lease, after: Duration::ZERO, lane: None })
        .collect();
    assert_eq!(stage.store.release(&batch).await.expect("releases"), 2);
}

#[tokio::test]
async fn a_route_that_two_relays_register_at_once_has_one_group_for_both() {
    let stage = Stage::set().await;
    let (other, _driver) = stage.session().await;
    other.batch_execute("BEGIN; INSERT INTO outbox.route (name) VALUES ('b')").await.expect("registers");
    let store = stage.store.clone();
    let names = ["a", "b", "c"].map(|name| (name.to_owned(), None));
    let waiting = tokio::spawn(async move { store.register_routes(&names).await });
    stage.until_blocked(1).await;
    other.batch_execute("COMMIT").await.expect("commits");
    let mut groups = waiting.await.expect("no panic").expect("registers");
    groups.sort();
    assert_eq!(groups.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["a", "b", "c"]);
    let mut again =
        stage.store.register_routes(&["c", "b", "a"].map(|name| (name.to_owned(), None))).await.expect("registers");
    again.sort();
    assert_eq!(again, groups, "once and for ever");
}

#[tokio::test]
async fn what_is_given_back_says_why_it_waits_and_never_in_place_of_what_others_said() {
    let stage = Stage::set().await;
    let keys = stage.enqueue(3).await;
    let of = "UPDATE outbox.queue SET note = CASE recipient_no WHEN 1 THEN 'failover: may have been sent' END WHERE message_id";
    stage.run(&format!("{of} = '{}'", keys[1].message_id)).await;
    let notes = async || {
        let sql = "SELECT string_agg(coalesce(note, '-'), ', ' ORDER BY message_id) FROM outbox.queue";
        stage.text(sql).await
    };
    for words in ["quiet hours: not before 7", "quiet hours: not before 8"] {
        let claimed = stage.store.claim(LANE, Cursor::START, 10, LEASE).await.expect("claims").1;
        let saying = claimed.iter().filter(|claimed| claimed.key != keys[2]);
        let saying: Vec<_> = saying.map(|one| (one.given_back(Duration::ZERO), words.to_owned())).collect();
        assert_eq!(stage.store.release_saying(&saying).await.expect("releases"), 2);
        let silent: Vec<_> = claimed.iter().map(|claimed| claimed.given_back(Duration::ZERO)).collect();
        assert_eq!(stage.store.release(&silent).await.expect("releases"), 1, "the others are given back already");
        assert_eq!(notes().await, format!("{words}, failover: may have been sent, -"));
    }
}

#[tokio::test]
async fn kinds_and_routes_decide_the_lane() {
    let stage = Stage::set().await;
    let groups = stage.store.register_routes(&[("slow".to_owned(), None)]).await.expect("registers");
    let urgent = Kind { name: "note".into(), priority: Some("urgent"), route: Some("slow".into()), ..Kind::default() };
    let kinds = [urgent, Kind { name: "other".into(), ..Kind::default() }];
    for _ in 0..2 {
        stage.store.register_kinds(&kinds).await.expect("registers");
    }
    let key = stage.enqueue(1).await[0];
    let claimed = stage.store.claim(groups[0].1 * 4, Cursor::START, 10, LEASE).await.expect("claims").1;
    assert_eq!(claimed[0].key, key);
}

#[tokio::test]
async fn a_standby_is_refused_by_its_name() {
    let primary = own_cluster().await;
    let connect = async |server: &PgCluster| {
        Store::connect(&options(&server.url_for(TEMPLATE, "postgres")), Incarnation::fresh()).await
    };
    connect(&primary).await.expect("it takes its like");
    let standby = PgCluster::standby_of(&primary).await.expect("a standby");
    let refusal = connect(&standby).await;
    assert!(matches!(refusal, Err(Error::Standby)), "{refusal:?}");
}
