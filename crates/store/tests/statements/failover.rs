//! What a relay remembers against what the server knows that answers after a failover (PROTOCOL section 5).

use std::time::Duration;

use hapax_core::{Incarnation, Outcome};
use hapax_store::{Attempted, Error, Store, Verdict};

use crate::common::{Attempt, Stage, accepted, deferred, not_sent, options, refused, settlement, unknown};

/// The attempt as its relay remembers it; with no end its reply is outstanding.
fn remembered(stage: &Stage, attempt: &Attempt, end: Option<(Outcome, Verdict)>) -> Attempted {
    Attempted {
        relay: stage.store.incarnation(),
        key: attempt.key,
        lease: attempt.lease,
        token: attempt.token,
        route: "default".into(),
        age: Duration::from_secs(3),
        granted: true,
        end: end.map(|end| settlement(attempt, end)),
    }
}

async fn told(stage: &Stage, attempted: Attempted) -> String {
    stage.store.reassert(&[attempted]).await.expect("reasserts")[0].answer.clone()
}

/// As an asynchronous standby has it that never saw the intent, nor what came after it.
async fn forget(stage: &Stage, attempt: &Attempt, how: &str) {
    let key = format!("message_id = '{}' AND recipient_no = 1", attempt.key.message_id);
    stage
        .run(&format!(
            "DELETE FROM outbox.attempt WHERE {key};
             WITH d AS (DELETE FROM outbox.done WHERE {key} RETURNING *)
             INSERT INTO outbox.queue (message_id, recipient_no, lane, due_at, address_hash) SELECT message_id, 1, lane, now(), address_hash FROM d;
             UPDATE outbox.queue SET intent = NULL, intent_by = NULL, intent_at = NULL, parked = NULL, doubt_since = NULL, doubt_by = NULL, intents = 0,
                    open_doubts = 0, attempt_no = 0, lease = NULL, lease_until = NULL, note = NULL, due_at = now(), content_sha256 = NULL WHERE {key};
             UPDATE outbox.queue SET {how} WHERE {key}"
        ))
        .await;
}

#[tokio::test]
async fn rc34_what_a_failover_forgot_is_restored_from_memory_whatever_the_row_says() {
    let stage = Stage::set().await;
    let rows = [
        "note = NULL",
        "lease = gen_random_uuid(), lease_until = now() + interval '1 hour'",
        "parked = 'held', due_at = 'infinity', note = 'failover: may have been sent'",
        "due_at = now() + interval '1 hour'",
    ];
    for row in rows {
        for (end, state) in
            [(Some(accepted()), "sent"), (Some(refused()), "failed"), (Some(unknown()), "in_doubt"), (None, "in_doubt")]
        {
            let attempt = stage.sending().await;
            if let Some(end) = end.clone() {
                assert!(stage.settle(&attempt, end).await);
            }
            forget(&stage, &attempt, row).await;
            let memory = remembered(&stage, &attempt, end.clone());
            assert_eq!(told(&stage, memory.clone()).await, "restored", "{row} {end:?}");
            assert_eq!(stage.state(attempt.key).await, state, "{row} {end:?}");
            if state == "in_doubt" {
                let queued = stage.queued(attempt.key).await.expect("it is queued");
                assert_eq!(queued.intent, Some(attempt.token.0), "the doubt has the token of the attempt");
            }
            // Again, and nothing changes.
            let answer = told(&stage, memory).await;
            assert!(["already", "noted"].contains(&answer.as_str()), "{answer}: {row} {end:?}");
            assert_eq!(stage.state(attempt.key).await, state);
            stage.assert_consistent().await;
        }
    }
}

#[tokio::test]
async fn rc34_what_is_known_not_to_have_left_stays_what_it_is() {
    let stage = Stage::set().await;
    for end in [not_sent(), deferred()] {
        let attempt = stage.sending().await;
        forget(&stage, &attempt, "parked = 'held', due_at = 'infinity', note = 'failover: may have been sent'").await;
        assert_eq!(told(&stage, remembered(&stage, &attempt, Some(end.clone()))).await, "noted");
        assert_eq!(stage.state(attempt.key).await, "held");
        assert!(stage.outcome(&attempt).await.is_some(), "the ledger has it");
        // The mark survived: it is settled as such.
        let attempt = stage.sending().await;
        assert_eq!(told(&stage, remembered(&stage, &attempt, Some(end))).await, "settled");
        assert_eq!(stage.state(attempt.key).await, "pending");
        stage.assert_consistent().await;
    }
}

#[tokio::test]
async fn marks_that_survived_are_settled_and_outstanding_replies_stay_sending() {
    let stage = Stage::set().await;
    for (end, state) in [(accepted(), "sent"), (refused(), "failed"), (unknown(), "in_doubt")] {
        let attempt = stage.sending().await;
        assert_eq!(told(&stage, remembered(&stage, &attempt, None)).await, "sending");
        assert_eq!(stage.state(attempt.key).await, "sending");
        assert_eq!(told(&stage, remembered(&stage, &attempt, Some(end))).await, "settled");
        assert_eq!(stage.state(attempt.key).await, state);
        stage.assert_consistent().await;
    }
    // A reply that comes after the doubt was restored: late truth wins.
    for (end, state) in [(accepted(), "sent"), (refused(), "failed"), (not_sent(), "pending")] {
        let attempt = stage.sending().await;
        forget(&stage, &attempt, "note = NULL").await;
        assert_eq!(told(&stage, remembered(&stage, &attempt, None)).await, "restored");
        assert_eq!(told(&stage, remembered(&stage, &attempt, Some(end))).await, "settled");
        assert_eq!(stage.state(attempt.key).await, state);
        stage.assert_consistent().await;
    }
}

#[tokio::test]
async fn rc34_an_attempt_of_another_relay_is_respected_and_a_known_acceptance_ends_in_sent() {
    let stage = Stage::set().await;
    let first = stage.sending().await;
    forget(&stage, &first, "note = NULL").await;
    // Armed and released before this relay could speak: another attempt is on the wire.
    let second = stage.send(first.key).await;
    assert_eq!(told(&stage, remembered(&stage, &first, Some(accepted()))).await, "restored");
    assert_eq!(stage.state(first.key).await, "sending");
    assert!(stage.settle(&second, not_sent()).await);
    assert_eq!(stage.state(first.key).await, "sent", "it is not sent again");
    // And of one that somebody has given up meanwhile.
    let attempt = stage.sending().await;
    forget(&stage, &attempt, "note = NULL").await;
    stage.run(&format!("SELECT outbox.cancel('{}', 'a reason')", attempt.key.message_id)).await;
    assert_eq!(told(&stage, remembered(&stage, &attempt, Some(accepted()))).await, "restored");
    assert_eq!(stage.state(attempt.key).await, "sent");
}

#[tokio::test]
async fn rc34_a_message_whose_enqueue_was_lost_is_reported_and_audited_once() {
    let stage = Stage::set().await;
    let attempt = stage.sending().await;
    stage.run("DELETE FROM outbox.queue; DELETE FROM outbox.message").await;
    for _ in 0..2 {
        assert_eq!(told(&stage, remembered(&stage, &attempt, Some(accepted()))).await, "missing");
    }
    let audited = "SELECT count(*) FROM outbox.audit WHERE action = 'lost by a failover' AND before = 'accepted'";
    assert_eq!(stage.count(audited).await, 1);
    // To an outbox that never had this epoch nothing is said.
    stage.run("DELETE FROM outbox.arming; UPDATE outbox.control SET epoch = gen_random_uuid()").await;
    let attempt = Attempt { token: hapax_core::Token::fresh(), ..attempt };
    assert_eq!(told(&stage, remembered(&stage, &attempt, Some(accepted()))).await, "stranger");
    assert_eq!(stage.count(audited).await, 1);
}

#[tokio::test]
async fn rc33_an_earlier_state_of_the_database_is_noticed_inside_the_intend_and_disarmed() {
    let stage = Stage::set().await;
    let attempt = stage.attempt(stage.enqueue(1).await[0]).await;
    for beat in 0..3 {
        assert_eq!(stage.store.heartbeat(beat).await.expect("beats"), Some(beat + 1));
    }
    assert!(!stage.store.disarm().await.expect("asks"), "nothing has fallen back");
    for earlier in ["UPDATE outbox.relay SET beat = 2", "DELETE FROM outbox.relay"] {
        stage.run(earlier).await;
        let request = crate::common::request(&attempt);
        let refusal = stage.store.intend(&[request], hapax_store::Wait::ForLocks).await.expect_err("refused");
        assert!(refusal.is_guard() && refusal.to_string().contains("earlier state"), "{refusal:?}");
    }
    assert_eq!(stage.state(attempt.key).await, "claimed");
    assert!(stage.store.disarm().await.expect("asks"));
    let situation = stage.store.situation().await.expect("reads");
    assert!(!situation.is_armed() && situation.armed_for.starts_with("disarmed"), "{situation:?}");
    // Nobody else works on it, and nobody starts.
    let refusal = Store::connect(&options(&stage.url), Incarnation::fresh()).await.expect_err("refused");
    assert!(matches!(refusal, Error::NotArmed { .. }), "{refusal:?}");
    assert!(!stage.store.continue_after_failover().await.expect("asks"), "a restore needs a person");
    assert_eq!(stage.count("SELECT held FROM outbox.arm('restored from the snapshot of noon')").await, 1);
    assert_eq!(stage.state(attempt.key).await, "held");
    Store::connect(&options(&stage.url), Incarnation::fresh()).await.expect("armed");
}

#[tokio::test]
async fn rc33_an_outbox_whose_tables_were_made_anew_by_a_restore_is_another_one() {
    let stage = Stage::set().await;
    stage.enqueue(2).await;
    let anew =
        "ALTER TABLE outbox.control RENAME TO gone; CREATE TABLE outbox.control (LIKE outbox.gone INCLUDING ALL);
                INSERT INTO outbox.control SELECT * FROM outbox.gone; GRANT SELECT ON outbox.control TO outbox_relay;";
    stage.run(anew).await;
    let refusal = Store::connect(&options(&stage.url), Incarnation::fresh()).await.expect_err("refused");
    assert!(matches!(refusal, Error::NotArmed { .. }), "{refusal:?}");
    assert_eq!(stage.count("SELECT held FROM outbox.arm('the dump of noon was restored')").await, 2);
}

#[tokio::test]
async fn rc33_an_earlier_state_that_was_armed_before_anybody_noticed_is_disarmed_unless_somebody_thought_of_it() {
    for (arm, disarmed) in [("'in a hurry'", true), ("'nothing lost', false", false), ("'a snapshot', true", false)] {
        let stage = Stage::set().await;
        stage.enqueue(1).await;
        for beat in 0..3 {
            assert_eq!(stage.store.heartbeat(beat).await.expect("beats"), Some(beat + 1));
        }
        stage.run("UPDATE outbox.relay SET beat = 1").await;
        stage.run(&format!("SELECT outbox.arm({arm})")).await;
        assert_eq!(stage.store.disarm().await.expect("asks"), disarmed, "{arm}");
        assert_eq!(stage.store.situation().await.expect("reads").is_armed(), !disarmed, "{arm}");
        // Armed again: now there is something to think of.
        assert_eq!(stage.count("SELECT held FROM outbox.arm('again')").await, i64::from(disarmed), "{arm}");
        assert!(!stage.store.disarm().await.expect("asks") || !disarmed, "{arm}: once is enough");
    }
}

#[tokio::test]
async fn after_failover_continue_arms_only_a_later_timeline_that_has_this_relays_heartbeat() {
    let stage = Stage::set().await;
    stage.enqueue(3).await;
    stage.store.heartbeat(0).await.expect("beats");
    let refused = [
        "identity = split_part(identity, '/', 1) || '/00000002/' || split_part(identity, '/', 3)",
        "identity = '1/00000000/' || split_part(outbox.database_identity(), '/', 3)",
        "identity = split_part(outbox.database_identity(), '/', 1) || '/00000000/1'",
    ];
    for elsewhere in refused {
        stage.run(&format!("UPDATE outbox.control SET {elsewhere}")).await;
        assert!(!stage.store.continue_after_failover().await.expect("asks"), "{elsewhere}");
    }
    // As after a promotion: this is the later one.
    stage
        .run("UPDATE outbox.control SET identity = regexp_replace(outbox.database_identity(), '/[^/]*/', '/00000000/')")
        .await;
    stage.run("UPDATE outbox.relay SET beat = 0").await;
    assert!(!stage.store.continue_after_failover().await.expect("asks"), "the last heartbeat was lost");
    stage.run("UPDATE outbox.relay SET beat = 1").await;
    assert!(stage.store.continue_after_failover().await.expect("asks"));
    assert!(!stage.store.continue_after_failover().await.expect("asks"), "once");
    assert_eq!(stage.count("SELECT count(*) FROM outbox.queue WHERE parked IS NULL").await, 3);
    assert_eq!(stage.count("SELECT count(*) FROM outbox.audit WHERE action = 'arm, continue'").await, 1);
}

#[tokio::test]
async fn rc33_an_address_is_known_only_where_the_armed_server_was_met() {
    let stage = Stage::set().await;
    let known = async || stage.store.address().await.expect("reads").known;
    assert!(known().await, "the first relay of an outbox records it");
    stage.store.heartbeat(0).await.expect("beats");
    assert_eq!(stage.count("SELECT count(*) FROM outbox.armed_address").await, 1);
    assert!(known().await);
    // A copy of the files of the whole server, started on another port.
    stage.run("UPDATE outbox.armed_address SET port = port + 1").await;
    let address = stage.store.address().await.expect("reads");
    assert!(!address.known && address.here != address.others, "{address:?}");
    stage.enqueue(2).await;
    stage.store.suspect_copy().await.expect("notes");
    assert_eq!(stage.count("SELECT held FROM outbox.arm('this is the one')").await, 2);
    assert!(known().await, "armed anew, the next relay records where it is");
    // A heartbeat that goes on at another address is the original that has moved: no suspicion is left.
    let moved = stage.relay().await;
    stage.run("INSERT INTO outbox.armed_address VALUES ('10.0.0.5', 5432, now(), 'x', 'x')").await;
    assert!(!known().await);
    moved.suspect_copy().await.expect("notes");
    assert!(Store::connect(&options(&stage.url), Incarnation::fresh()).await.is_ok());
    stage.run("UPDATE outbox.control SET epoch = epoch").await;
    moved.note_address("seen alive").await.expect("notes");
    assert!(known().await);
    assert_eq!(stage.count("SELECT count(*) FROM outbox.failover WHERE completed_at IS NULL").await, 0);
}

#[tokio::test]
async fn rc34_an_outbox_that_never_had_a_relays_epoch_is_older_than_the_relay() {
    let stage = Stage::set().await;
    assert!(stage.store.situation().await.expect("reads").descends);
    stage.run("SELECT outbox.arm('a rehearsal')").await;
    let armed = stage.store.situation().await.expect("reads");
    assert!(armed.descends && armed.is_armed(), "armed after the relay started: {armed:?}");
    let later = stage.relay().await;
    // The primary from before that arming comes back.
    stage.run("UPDATE outbox.control c SET epoch = a.epoch FROM outbox.arming a WHERE a.reason = 'installed'").await;
    stage.run("DELETE FROM outbox.arming WHERE reason <> 'installed'").await;
    let before = later.situation().await.expect("reads");
    assert!(!before.descends && before.is_armed(), "{before:?}");
}
