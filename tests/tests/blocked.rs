//! Ordering keys in which a delivery stops or fails, with two relays: what waits for it, what passes it, what is seen.

use hapax_testkit::{Fault, Phase, Rule, Script, SmtpServer, eventually};
use hapax_tests::stage::{PATIENCE, Stage};
use hapax_tests::verdict::Verdict;

/// Three of a kind, with one key: `<kind>1@example.org` and so on.
async fn enqueue_three(stage: &Stage, kind: &str) {
    for no in 1..=3 {
        let insert = "SELECT outbox.enqueue(kind => $1, recipients => ARRAY[$2], subject => 'x', body_text => 'x', ordering_key => $1)";
        let recipient = format!("{kind}{no}@example.org");
        stage.sql.execute(insert, &[&kind, &recipient]).await.expect("enqueues");
    }
}

/// In which order those of a kind were accepted.
async fn accepted(stage: &Stage, kind: &str) -> Vec<String> {
    let replied = "SELECT split_part(recipient, '@', 1) FROM outbox.deliveries WHERE kind = $1 AND evidence = 'reply' ORDER BY finished_at";
    stage.sql.query(replied, &[&kind]).await.expect("it can be asked").iter().map(|row| row.get(0)).collect()
}

async fn until_accepted(stage: &Stage, kind: &str, expected: &[&str]) {
    eventually(PATIENCE, async || {
        let now = accepted(stage, kind).await;
        if now == expected { Ok(()) } else { Err(now) }
    })
    .await;
}

/// Of the keys wait and later; nothing of skip, which goes on.
async fn what_blocks_is_told_with_what_to_type(stage: &Stage) {
    let viewer = stage.settings_of("viewer");
    let (code, status) = viewer.command(["status"]).await;
    let line = |key: &str| {
        status.lines().find(|line| line.starts_with(&format!("BLOCKED ordering key {key}: 2 wait behind ")))
    };
    let wait = line("wait").expect("this key is told of");
    assert!(code == 0 && wait.contains(", which is in doubt since ") && !wait.contains("passed at"), "{wait}");
    assert!(wait.contains("; hapax resolve ") && wait.ends_with(" sent|resend|failed --reason '...'"), "{wait}");
    let later = line("later").expect("and this one");
    assert!(later.contains(", and passed at ") && !status.contains("BLOCKED ordering key skip"), "{status}");
    let (_, status) = viewer.command(["status", "--json"]).await;
    let told: serde_json::Value = serde_json::from_str(&status).expect("it is JSON");
    let keys = &told["blocked_keys"];
    assert!(keys["blocking"] == 2 && keys["first"].as_array().is_some_and(|first| first.len() == 2), "{keys}");
    let of = |key: &str| keys["first"].as_array().and_then(|all| all.iter().find(|one| one["ordering_key"] == key));
    assert!(of("wait").is_some_and(|one| one["token"].is_string() && one["passed_at"].is_null()), "{keys}");
    let second = "SELECT message_id::text FROM outbox.deliveries WHERE recipient = 'later2@example.org'";
    let id = stage.text(second, &[]).await.expect("it is there");
    let (_, shown) = viewer.command(["show", &id]).await;
    assert!(
        shown.contains("Waits behind its ordering key, whose head ") && shown.contains(" It is passed at "),
        "{shown}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_delivery_blocks_its_key_or_is_passed_as_its_kind_says_and_that_is_seen() {
    let doubt = |to: &str| Rule::at(Phase::EndMarker { took: true }, Fault::Eof).recipient(to);
    let script = Script::rules(["wait1@example.org", "skip1@example.org", "later1@example.org"].map(doubt));
    let stage = Stage::with(SmtpServer::builder().script(script).start()).await;
    let settings = stage
        .settings()
        .set("kinds.skip.on_block", "skip")
        .set("kinds.later.on_block", "skip_after 1h")
        .set("kinds.failing.failed_blocks", true)
        .set("relay.name", "one");
    let _relays = (settings.run().await, settings.clone().set("relay.name", "two").run().await);
    for kind in ["wait", "skip", "later"] {
        enqueue_three(&stage, kind).await;
    }
    stage.until("in_doubt", 3).await;
    // Those behind it pass it, one after the other.
    until_accepted(&stage, "skip", &["skip2", "skip3"]).await;
    let blocked = "SELECT ordering_key, waiting, state, skips_at - since FROM outbox.blocked_keys ORDER BY 1";
    eventually(PATIENCE, async || {
        let rows = stage.sql.query(&format!("SELECT concat_ws(' ', b.*::text) FROM ({blocked}) b"), &[]).await;
        let told: Vec<String> = rows.expect("it can be seen").iter().map(|row| row.get(0)).collect();
        if told == ["(later,2,in_doubt,01:00:00)", "(wait,2,in_doubt,)"] { Ok(()) } else { Err(told) }
    })
    .await;
    assert!(accepted(&stage, "wait").await.is_empty() && accepted(&stage, "later").await.is_empty());
    what_blocks_is_told_with_what_to_type(&stage).await;
    // Its time comes.
    let past = "UPDATE outbox.key_block b SET since = since - interval '2 hours' FROM outbox.message m WHERE m.id = b.message_id AND m.kind = 'later'";
    assert_eq!(stage.sql.execute(past, &[]).await.expect("time passes"), 1);
    until_accepted(&stage, "later", &["later2", "later3"]).await;
    assert!(accepted(&stage, "wait").await.is_empty(), "this one waits for a decision");
    let decide =
        "SELECT outbox.resolve(message_id, recipient_no, 'sent', 'they have it', token => token) FROM outbox.in_doubt";
    stage.sql.query(decide, &[]).await.expect("the doubts can be decided");
    until_accepted(&stage, "wait", &["wait2", "wait3"]).await;
    stage.until_settled().await;
    assert_eq!(stage.count("SELECT count(*) FROM outbox.blocked_keys").await, 0);
    let verdict = Verdict::of(&stage.sql, &stage.server.ledger()).await;
    verdict.assert_clean(9);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_delivery_lets_its_key_go_on_or_is_held_so_that_it_waits() {
    let refuse = |to: &str| Rule::at(Phase::Rcpt, Fault::Reply5xx).recipient(to);
    let script = Script::rules(["free1@example.org", "block1@example.org"].map(refuse));
    let stage = Stage::with(SmtpServer::builder().script(script).start()).await;
    let settings = stage.settings().set("kinds.block.failed_blocks", true).set("relay.name", "one");
    let _relays = (settings.run().await, settings.clone().set("relay.name", "two").run().await);
    for kind in ["free", "block"] {
        enqueue_three(&stage, kind).await;
    }
    stage.enqueue_one("block1@example.org", "").await;
    until_accepted(&stage, "free", &["free2", "free3"]).await;
    let reason = eventually(PATIENCE, async || {
        let held = "SELECT min(reason) FROM outbox.deliveries WHERE state = 'held'";
        stage.text(held, &[]).await.ok_or("nothing is held")
    })
    .await;
    assert!(reason.starts_with("failed, and its ordering key waits for it: refused at rcpt: 5"), "{reason}");
    stage.until("failed", 2).await;
    assert!(accepted(&stage, "block").await.is_empty(), "those without a key fail as ever, and the key waits");
    let (_, status) = stage.settings_of("viewer").command(["status"]).await;
    assert!(
        status.contains("BLOCKED ordering key block: 2 wait behind ") && status.contains("refused at rcpt: 5"),
        "{status}"
    );
    let cancel = "SELECT outbox.cancel(message_id, 'they have moved') FROM outbox.blocked_keys";
    assert_eq!(stage.sql.query(cancel, &[]).await.expect("it can be cancelled").len(), 1);
    until_accepted(&stage, "block", &["block2", "block3"]).await;
    stage.until_settled().await;
    Verdict::of(&stage.sql, &stage.server.ledger()).await.assert_clean(7);
}
