//! Relays that die, sleep, share, and wake up.

use std::time::Duration;

use hapax_testkit::{Fault, HapaxProcess, Phase, Rule, Script};
use hapax_tests::stage::{Settings, Stage};

use super::{Kind, SHOWN_WITHIN, breaches, comes_true, play};

/// Leases, heartbeats and deadlines of a second.
fn short(stage: &Stage) -> Settings {
    stage
        .settings()
        .set("relay.lease", "1s")
        .set("relay.dead_after", "1s")
        .set("relay.transmit_deadline", "1s")
        .set("relay.name", "relay")
}

async fn killed_with_four_replies_outstanding(kind: Kind) -> Vec<String> {
    let stage = Stage::set().await;
    let hold = stage.server.hold_final_reply();
    let settings = short(&stage).set("routes.default.max_connections", 4);
    let mut relay = kind.start(&stage, &settings, &[]).await;
    stage.enqueue(4).await;
    hold.wait_for(4).await;
    relay.sigkill();
    relay.wait_exit(Duration::from_secs(10)).await;
    hold.release();
    let _relay = kind.start(&stage, &settings, &[]).await;
    breaches(&stage, kind).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_that_repeats_what_a_dead_one_may_have_sent_is_noticed() {
    play(killed_with_four_replies_outstanding, &["intent_after_marker", "reaper_makes_pending", "name_is_identity"])
        .await;
}

/// Two relays and a server that is slower than the lease.
async fn shared_with_a_slow_server(kind: Kind) -> Vec<String> {
    const DELIVERIES: usize = 12;
    let stage = Stage::set().await;
    let hold = stage.server.hold_final_reply();
    let settings = short(&stage).set("relay.final_reply_timeout", "60s").set("relay.shutdown_grace", "70s");
    let _relays = [
        kind.start(&stage, &settings, &[]).await,
        kind.start(&stage, &settings.clone().set("relay.name", "other"), &[]).await,
    ];
    stage.enqueue(12).await;
    comes_true(kind.patience(), async || hold.arrived() >= DELIVERIES).await;
    let mails = || stage.server.with_ledger(|ledger| ledger.count_mail_commands());
    // A relay looks at the whole queue again every five seconds.
    comes_true(Duration::from_secs(7), async || mails() > DELIVERIES).await;
    hold.release();
    let mut breaches = breaches(&stage, kind).await;
    if mails() != DELIVERIES {
        breaches.push(format!("{} MAIL commands for {DELIVERIES} deliveries", mails()));
    }
    breaches
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_that_takes_what_is_not_free_is_noticed() {
    play(shared_with_a_slow_server, &["claim_takes_intents", "claim_ignores_leases"]).await;
}

/// A relay that fell asleep right behind its intent; another one has put that in doubt, and somebody has decided `resend`.
async fn asleep_behind_its_intent(stage: &Stage, kind: Kind) -> (HapaxProcess, HapaxProcess) {
    let settings = short(stage);
    let sleeper = kind.start(stage, &settings, &[("HAPAX_FAULT", "intended:stop")]).await;
    stage.enqueue(1).await;
    stage.until("sending", 1).await;
    let other = kind.start(stage, &settings.set("relay.name", "other"), &[]).await;
    stage.until("in_doubt", 1).await;
    resend(stage).await;
    (sleeper, other)
}

async fn resend(stage: &Stage) {
    let resolve = "SELECT outbox.resolve(message_id, recipient_no::int, 'resend', 'we know better', token => intent, force => true) FROM outbox.queue";
    stage.sql.query_one(resolve, &[]).await.expect("the doubt can be decided");
}

/// Expects that the only copy is the one of the relay that was awake.
async fn one_copy(stage: &Stage, kind: Kind) -> Vec<String> {
    let mut breaches = breaches(stage, kind).await;
    let totals = stage.server.with_ledger(|ledger| ledger.totals());
    if (totals.accepted, totals.end_markers) != (1, 1) {
        breaches.push(format!("one copy was decided, there were {totals:?}"));
    }
    breaches
}

async fn awake_after_everything_was_decided(kind: Kind) -> Vec<String> {
    let stage = Stage::set().await;
    let (sleeper, _other) = asleep_behind_its_intent(&stage, kind).await;
    stage.until("sent", 1).await;
    sleeper.sigcont();
    let unknown = "SELECT count(*) FROM outbox.attempt WHERE outcome = 'unknown'";
    comes_true(kind.patience(), async || stage.count(unknown).await == 0).await;
    one_copy(&stage, kind).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_that_transmits_after_its_time_is_noticed() {
    play(awake_after_everything_was_decided, &["gate_never_closes"]).await;
}

async fn awake_while_another_attempt_is_on_the_wire(kind: Kind) -> Vec<String> {
    let stage = Stage::set().await;
    let hold = stage.server.hold_final_reply();
    let (sleeper, _other) = asleep_behind_its_intent(&stage, kind).await;
    hold.wait_for(1).await;
    sleeper.sigcont();
    let learnt = "SELECT count(*) FROM outbox.attempt WHERE outcome = 'not_sent'";
    comes_true(SHOWN_WITHIN, async || stage.count(learnt).await > 0).await;
    // Whoever believes that the attempt on the wire has ended sends again.
    comes_true(Duration::from_secs(3), async || hold.arrived() > 1).await;
    hold.release();
    one_copy(&stage, kind).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_settle_that_ends_another_attempt_is_noticed() {
    play(awake_while_another_attempt_is_on_the_wire, &["settle_without_token"]).await;
}

/// A relay falls asleep before it has read the answer. Meanwhile its doubt is decided: `resend`. It wakes up.
async fn awake_with_the_answer_in_hand(kind: Kind) -> Vec<String> {
    let stage = Stage::set().await;
    let settings = short(&stage);
    let hold = stage.server.hold_final_reply();
    let sleeper = kind.start(&stage, &settings, &[]).await;
    stage.enqueue(1).await;
    hold.wait_for(1).await;
    sleeper.sigstop();
    hold.release();
    let mut other = kind.start(&stage, &settings.clone().set("relay.name", "other"), &[]).await;
    stage.until("in_doubt", 1).await;
    other.sigterm();
    other.wait_exit(Duration::from_secs(60)).await;
    resend(&stage).await;
    // The second attempt is slow, so that the first one's truth comes before its intent.
    let late = Fault::DelayedGood(Duration::from_secs(3));
    stage.server.script(Script::rules([Rule::at(Phase::Data, late)]));
    sleeper.sigcont();
    one_copy(&stage, kind).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_late_acceptance_that_is_forgotten_is_noticed() {
    play(awake_with_the_answer_in_hand, &["late_truth_dropped"]).await;
}
