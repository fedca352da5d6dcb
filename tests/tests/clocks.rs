//! Wall clocks that jump by hours, under a relay and under the database, while mail is on the wire and every kind says
//! `on_doubt = "resend"`: whoever took a jump for the death of a relay, or for the end of a lease that matters, would send
//! again. Nobody does: leases and due times are the database's, deadlines are monotonic, death is a counter that stands.

use std::time::Duration;

use hapax_testkit::{Fault, HapaxProcess, PgCluster, Phase, Rule, Script, SmtpServer, eventually};
use hapax_tests::faketime::Clock;
use hapax_tests::stage::{PATIENCE, Settings, Stage, running};
use hapax_tests::verdict::Verdict;

fn clock() -> Option<Clock> {
    match Clock::available() {
        Ok(()) => Some(Clock::right()),
        Err(why) => {
            assert!(std::env::var_os("HAPAX_TESTS_ALL").is_none(), "{why}");
            eprintln!("SKIPPED: {why}");
            None
        }
    }
}

async fn run_with(settings: &Settings, clock: &Clock) -> HapaxProcess {
    let mut builder = HapaxProcess::builder().config(settings.toml()).arg("run");
    for (name, value) in clock.environment() {
        builder = builder.env(name, value);
    }
    let relay = builder.spawn();
    running(&relay).await;
    relay
}

/// Waits until every relay has had so many heartbeats more: the reaper has looked as often.
async fn until_beats(stage: &Stage, more: i64) {
    let least = "SELECT min(beat) FROM outbox.relay WHERE signed_off_at IS NULL";
    let mark = stage.count(least).await + more;
    eventually(PATIENCE, async || {
        let now = stage.count(least).await;
        (now >= mark).then_some(()).ok_or((now, mark))
    })
    .await;
}

async fn end(relays: impl IntoIterator<Item = HapaxProcess>) {
    for mut relay in relays {
        assert!(relay.status().is_none(), "it has lived through it\n{}", relay.report());
        relay.sigterm();
        assert!(relay.wait_exit(Duration::from_secs(60)).await.success(), "{}", relay.report());
    }
}

fn settings(stage: &Stage) -> Settings {
    stage.settings().set("kinds.note.on_doubt", "resend").set("relay.max_in_flight", 16)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rc36_rc44_the_wall_clock_of_a_relay_jumps_by_hours_and_nothing_is_doubted_or_sent_again() {
    let Some(clock) = clock() else { return };
    let stage = Stage::with(SmtpServer::builder().final_reply_delay(Duration::from_millis(15)).start()).await;
    let settings = settings(&stage);
    let relays = [run_with(&settings, &clock).await, settings.clone().set("relay.name", "other").run().await];
    stage.enqueue(900).await;
    for (offset, mark) in [("+30h", 100), ("-50h", 300), ("+900d", 500), ("+0", 700)] {
        stage.server.wait_until_within(PATIENCE, |ledger| ledger.totals().accepted >= mark).await;
        // In the middle of dialogues, with replies outstanding.
        let hold = stage.server.hold_final_reply();
        hold.wait_for(8).await;
        clock.jump(offset);
        until_beats(&stage, 5).await;
        assert_eq!(stage.count("SELECT count(*) FROM outbox.queue WHERE parked IS NOT NULL").await, 0, "{offset}");
        hold.release();
    }
    stage.until("sent", 900).await;
    let years = relays[0].lines().iter().filter(|line| line.contains("\"timestamp\":\"")).fold(
        std::collections::BTreeSet::new(),
        |mut years, line| {
            years.extend(line.split("\"timestamp\":\"").nth(1).and_then(|rest| rest.get(..4)).map(str::to_owned));
            years
        },
    );
    assert!(years.len() > 1, "the relay has seen another year: {years:?}");
    end(relays).await;
    assert_eq!(stage.count("SELECT count(*) FROM outbox.attempt WHERE outcome = 'unknown'").await, 0);
    assert_eq!(stage.count("SELECT count(*) FROM outbox.done WHERE resends > 0 OR intents > 1").await, 0);
    Verdict::of(&stage.sql, &stage.server.ledger()).await.assert_each_once(900);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rc36_rc44_the_clock_of_the_database_jumps_by_hours_and_what_is_sending_is_neither_claimed_nor_sent_again() {
    let Some(clock) = clock() else { return };
    let cluster =
        clock.environment().into_iter().fold(PgCluster::builder(), |builder, (name, value)| builder.env(name, value));
    let cluster = cluster.start().await.expect("a cluster starts");
    let stage = Stage::on(cluster, SmtpServer::builder().final_reply_delay(Duration::from_millis(15)).start()).await;
    let settings = settings(&stage);
    let relays = [settings.run().await, settings.clone().set("relay.name", "other").run().await];
    let hour = "SELECT (extract(epoch FROM clock_timestamp()) / 3600)::bigint";
    let mut enqueued = 0;
    // Forwards: every lease, and every age, is over at once. Backwards: every lease is hours ahead.
    for offset in ["+5h", "+0", "+26h", "-2h", "+0"] {
        stage.enqueue(60).await;
        enqueued += 60;
        let hold = stage.server.hold_final_reply();
        hold.wait_for(8).await;
        let before = stage.count(hour).await;
        clock.jump(offset);
        eventually(PATIENCE, async || (stage.count(hour).await - before).abs() >= 2).await;
        let taken = stage.count("SELECT count(*) FROM outbox.queue WHERE intent IS NOT NULL").await;
        until_beats(&stage, 8).await;
        // However often everybody has looked: no second copy of any, and nothing is waiting to be sent as one.
        let ledger = stage.server.ledger();
        let copies = ledger.transactions().filter(|one| one.end_marker_read).count();
        let messages: std::collections::BTreeSet<_> = ledger
            .transactions()
            .filter(|one| one.end_marker_read)
            .map(|one| (one.message_id.clone(), one.recipients.clone()))
            .collect();
        assert_eq!(copies, messages.len(), "{offset}: two end markers of one delivery");
        assert_eq!(stage.count("SELECT count(*) FROM outbox.queue WHERE resends > 0").await, 0, "{offset}");
        assert!(taken >= 8, "{offset}: {taken} were being sent");
        hold.release();
        // Every reply that was outstanding is believed, whatever the clock has made of its delivery.
        eventually(PATIENCE, async || {
            let open =
                stage.count("SELECT count(*) FROM outbox.queue WHERE intent IS NOT NULL OR parked IS NOT NULL").await;
            (open == 0).then_some(()).ok_or(open)
        })
        .await;
    }
    // What became due in a future that was taken back waits for it: nothing of it is lost.
    clock.jump("+30h");
    stage.until("sent", enqueued).await;
    end(relays).await;
    assert_eq!(stage.count("SELECT count(*) FROM outbox.done WHERE resends > 0").await, 0);
    Verdict::of(&stage.sql, &stage.server.ledger()).await.assert_each_once(usize::try_from(enqueued).expect("few"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rc09_a_final_reply_after_nine_minutes_is_sent_and_only_after_ten_it_is_given_up() {
    // The relay lives thirty times as fast as its server: its ten minutes are twenty of our seconds.
    const FASTER: u32 = 30;
    let Some(clock) = clock() else { return };
    let minutes = |minutes: u64| Duration::from_secs(minutes * 60) / FASTER;
    let took = Phase::EndMarker { took: true };
    let script = Script::rules([
        Rule::at(took, Fault::DelayedGood(minutes(9))).recipient("r1@example.org"),
        Rule::at(took, Fault::Stall).recipient("r2@example.org"),
    ]);
    let stage = Stage::with(SmtpServer::builder().script(script).start()).await;
    // Everything but the patience of RFC 5321 is generous: the machine is not thirty times as fast.
    let mut settings = stage.settings().set("relay.final_reply_timeout", "10m").set("relay.shutdown_grace", "20m");
    for key in [
        "connect_timeout",
        "command_timeout",
        "data_timeout",
        "body_timeout",
        "transmit_deadline",
        "lease",
        "dead_after",
    ] {
        settings = settings.set(&format!("relay.{key}"), "30m");
    }
    let settings = settings.set("relay.heartbeat_interval", "30s").set("database.statement_timeout", "30m");
    let mut builder = HapaxProcess::builder().config(settings.toml()).arg("run");
    for (name, value) in clock.faster(FASTER) {
        builder = builder.env(name, value);
    }
    let relay = builder.spawn();
    running(&relay).await;
    stage.enqueue(3).await;
    stage.until_state("r2@example.org", "in_doubt").await;
    let took_s = "SELECT (extract(epoch FROM finished_at - m.created_at))::bigint FROM outbox.attempt a JOIN outbox.message m ON m.id = a.message_id
                  WHERE m.recipients[1] = 'r2@example.org'";
    let given_up = stage.count(took_s).await;
    println!("given up after {given_up} s of our time");
    assert!((19..=40).contains(&given_up), "its clock is faster, and it waited ten minutes: {given_up} s");
    assert_eq!(stage.state_of("r1@example.org").await.0, "sent");
    assert_eq!(stage.state_of("r3@example.org").await.0, "sent");
    assert_eq!(stage.server.with_ledger(hapax_testkit::Ledger::count_mail_commands), 3);
    Verdict::of(&stage.sql, &stage.server.ledger()).await.assert_clean(3);
}
