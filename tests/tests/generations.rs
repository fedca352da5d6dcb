//! A rolling upgrade: relays of two generations on one outbox, under load, killed and ended in turns. The older binary is
//! named by `HAPAX_PREVIOUS_BIN` (`make previous` builds the last landing and runs this); without it both are this one,
//! and what the older one says to the database is in the store's `rc38_...` with its statements as fixtures.

use std::path::PathBuf;
use std::time::Duration;

use hapax_testkit::{HapaxProcess, SmtpServer, find_hapax};
use hapax_tests::stage::{PATIENCE, Settings, Stage, running};
use hapax_tests::verdict::Verdict;

async fn run(binary: &PathBuf, settings: &Settings, name: &str) -> HapaxProcess {
    let settings = settings.clone().set("relay.name", name);
    let relay = HapaxProcess::builder().binary(binary).config(settings.toml()).arg("run").spawn();
    running(&relay).await;
    relay
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rc38_two_generations_of_the_relay_share_an_outbox_during_a_rolling_upgrade_and_nothing_is_sent_twice() {
    let previous = std::env::var_os("HAPAX_PREVIOUS_BIN").map_or_else(find_hapax, PathBuf::from);
    println!("previous generation: {}", if previous == find_hapax() { "this one" } else { "another binary" });
    let stage = Stage::with(SmtpServer::builder().final_reply_delay(Duration::from_millis(10)).start()).await;
    // Here the newer schema meets the older relay: expand first, contract a release later.
    let settings = stage.settings().set("relay.max_in_flight", 16);
    stage.enqueue(1_200).await;
    let mut old = [run(&previous, &settings, "old-a").await, run(&previous, &settings, "old-b").await];
    let mut new = Vec::new();
    for (round, mark) in [(0, 150), (1, 500)] {
        stage.server.wait_until_within(PATIENCE, |ledger| ledger.totals().accepted >= mark).await;
        new.push(run(&find_hapax(), &settings, "new").await);
        stage.server.wait_until_within(PATIENCE, |ledger| ledger.totals().accepted >= mark + 150).await;
        if round == 0 {
            old[0].sigterm();
            assert!(old[0].wait_exit(Duration::from_secs(60)).await.success(), "{}", old[0].report());
        } else {
            old[1].sigkill();
        }
    }
    stage.until_settled().await;
    for mut relay in new {
        relay.sigterm();
        assert!(relay.wait_exit(Duration::from_secs(60)).await.success(), "{}", relay.report());
    }
    let verdict = Verdict::of(&stage.sql, &stage.server.ledger()).await;
    println!("{verdict}");
    verdict.assert_clean(1_200);
    assert!(verdict.twice.is_empty() && verdict.count("in_doubt") <= 16, "{verdict}");
    assert_eq!(verdict.count("sent") + verdict.count("in_doubt"), 1_200, "{verdict}");
}
