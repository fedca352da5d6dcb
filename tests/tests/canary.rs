//! The canary through the whole: several relays, one message a slot; what metrics say of it stays true through restarts and
//! outages.

use hapax_testkit::{Fault, HapaxProcess, Phase, Script, eventually};
use hapax_tests::probe::Probe;
use hapax_tests::stage::{PATIENCE, Settings, Stage};

const RECIPIENT: &str = "canary@example.org";
const UNFINISHED: &str =
    "SELECT count(*) FROM outbox.queue JOIN outbox.message ON id = message_id WHERE kind = 'hapax_canary'";
const COMPLETED: &str = "canary_last_completed_timestamp_seconds";

fn settings(stage: &Stage) -> Settings {
    let settings = stage.settings().set("http.listen", "127.0.0.1:0").set("database.statement_timeout", "2s");
    settings.set("canary.recipient", RECIPIENT).set("canary.every", "1s")
}

fn canaries(stage: &Stage) -> usize {
    stage.server.with_ledger(|ledger| ledger.messages().filter(|one| one.recipients == [RECIPIENT]).count())
}

async fn completed_in_outbox(stage: &Stage) -> f64 {
    let sql = "SELECT date_part('epoch', max(finished_at)) FROM outbox.done WHERE state = 'sent'";
    stage.sql.query_one(sql, &[]).await.expect("answers").get(0)
}

/// Waits until the gauge says the same as the outbox, to the millisecond.
async fn agrees(stage: &Stage, relay: &HapaxProcess) -> f64 {
    let probe = Probe::of(relay).await;
    eventually(PATIENCE, async || {
        let (told, known) = (probe.scrape().await.value(COMPLETED), completed_in_outbox(stage).await);
        if (told - known).abs() < 0.001 { Ok(told) } else { Err((told, known)) }
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_relays_send_one_a_slot_and_what_is_told_of_it_survives_restarts_and_outages() {
    let stage = Stage::set().await;
    let relays = [settings(&stage).run().await, settings(&stage).run().await];
    stage.server.wait_until_within(PATIENCE, |ledger| ledger.messages().count() >= 4).await;
    for relay in &relays {
        agrees(&stage, relay).await;
    }
    relays.iter().for_each(HapaxProcess::sigterm);
    for mut relay in relays {
        assert_eq!(relay.wait_exit(PATIENCE).await.code(), Some(0), "{}", relay.report());
    }
    let slots = "SELECT count(*) - count(DISTINCT floor(date_part('epoch', created_at))) FROM outbox.message";
    assert_eq!(stage.count(slots).await, 0, "one a slot");
    let sent =
        stage.count("SELECT count(*) FROM outbox.deliveries WHERE kind = 'hapax_canary' AND state = 'sent'").await;
    assert_eq!(canaries(&stage) as i64, sent, "each of them once");
    let header = |name: &str| {
        stage.server.with_ledger(|ledger| ledger.messages().next().and_then(|message| message.header(name)))
    };
    assert_eq!(header("Auto-Submitted").as_deref(), Some("auto-generated"));
    assert_eq!(header("Subject").as_deref(), Some("Hapax canary"));

    stage.server.script(Script::fault(Phase::Connect, Fault::Eof));
    let last = completed_in_outbox(&stage).await;
    let relay = settings(&stage).run().await;
    let probe = Probe::of(&relay).await;
    assert_eq!(agrees(&stage, &relay).await, (last * 1e6).round() / 1e6, "as it was before the restart");
    // So many tries take longer than a slot.
    let tries = "attempts_total{route=\"default\",outcome=\"not_sent\"}";
    eventually(PATIENCE, async || probe.scrape().await.value(tries) >= 3.0).await;
    assert_eq!(stage.count(UNFINISHED).await, 1, "a dead route collects none");
    let scrape = probe.scrape().await;
    assert!((scrape.value(COMPLETED) - last).abs() < 0.001, "it stands still");
    assert!(scrape.value("canary_last_enqueued_timestamp_seconds") > last);
    assert_eq!(scrape.value("canary_interval_seconds"), 1.0);

    stage.cluster.stop().await.expect("it stops");
    relay.wait_for_line(|line| line.contains("the canary could not be asked for")).await;
    stage.server.script(Script::good());
    stage.cluster.restart().await.expect("it starts again");
    eventually(PATIENCE, async || probe.scrape().await.value(COMPLETED) > last + 1.0).await;

    let toml = settings(&stage).toml();
    let (before, rest) = toml.split_once("[canary]").expect("there is one");
    let after = rest.split_once("\n[").map_or(String::new(), |(_, after)| format!("[{after}"));
    std::fs::write(relay.directory().join("hapax.toml"), format!("{before}{after}")).expect("can be written");
    relay.sighup();
    eventually(PATIENCE, async || probe.scrape().await.value("canary_interval_seconds") == 0.0).await;
    assert_eq!(probe.scrape().await.value(COMPLETED), 0.0, "without one there is no alert");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn guards_hold_for_canaries_and_a_relay_that_may_not_ask_for_one_keeps_no_mail_back_and_is_told() {
    let stage = Stage::set().await;
    let guarded = settings(&stage).set("guards.recipients_allow", "@example.net");
    let (code, said) = guarded.command(["check"]).await;
    assert!(code == 0 && said.contains("canary.recipient: guards.recipients_allow does not allow it"), "{said}");
    let mut relay = guarded.run().await;
    let suppressed = "SELECT count(*) FROM outbox.deliveries WHERE kind = 'hapax_canary' AND state = 'suppressed'";
    eventually(PATIENCE, async || stage.count(suppressed).await > 0).await;
    assert_eq!(Probe::of(&relay).await.scrape().await.value(COMPLETED), 0.0);
    relay.sigterm();
    assert_eq!(relay.wait_exit(PATIENCE).await.code(), Some(0), "{}", relay.report());
    assert_eq!(canaries(&stage), 0);

    let revoke = "REVOKE EXECUTE ON FUNCTION outbox.canary FROM outbox_relay; TRUNCATE outbox.queue, outbox.done, outbox.message";
    stage.sql.batch_execute(revoke).await.expect("revokes");
    let relay = settings(&stage).run().await;
    let line = relay.wait_for_line(|line| line.contains("the canary could not be asked for")).await;
    assert!(line.contains("permission denied"), "{line}");
    stage.enqueue(3).await;
    stage.until("sent", 3).await;
    let (_, said) = settings(&stage).command(["doctor", "--json"]).await;
    assert!(said.contains("EXECUTE on function outbox.canary"), "{said}");

    // As the release before has left it.
    let older = "DROP FUNCTION outbox.canary; DROP TABLE outbox.canary_standing; DELETE FROM outbox.migration WHERE version >= 28";
    stage.sql.batch_execute(older).await.expect("an older schema");
    let (code, said) = settings(&stage).command(["doctor", "--json"]).await;
    assert!(code != 0 && said.contains("\"outbox.canary\""), "{said}");
    let (code, said) = settings(&stage).command(["run"]).await;
    assert!(code != 0 && said.contains("0028_canary.sql") && said.contains("hapax migrate up"), "{said}");
}
