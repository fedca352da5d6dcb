//! What the configuration forbids to leave: mail to others than testers, and mail that has been due for days.

use hapax_testkit::{Action, Fault, Phase, Script, SmtpServer};
use hapax_tests::stage::Stage;
use hapax_tests::verdict::Verdict;

/// Recipients that the server was told of.
fn told(stage: &Stage) -> Vec<String> {
    let ledger = stage.server.ledger();
    let mut told: Vec<String> = ledger
        .connections()
        .iter()
        .flat_map(|connection| &connection.commands)
        .filter(|line| line.to_ascii_uppercase().starts_with("RCPT"))
        .filter_map(|line| Some(line.split_once('<')?.1.split_once('>')?.0.to_owned()))
        .collect();
    told.sort();
    told
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_allowed_recipients_get_mail_and_all_others_are_suppressed_at_every_attempt() {
    let stage = Stage::set().await;
    let settings = stage.settings().set("guards.recipients_allow", "@Example.org, qa@exämple.com");
    let relay = settings.run().await;
    let others = ", cc => ARRAY['canary@example.com', 'sub@mail.example.org'], bcc => ARRAY['QA@xn--exmple-cua.com']";
    let id = stage.enqueue_one("Ada <ada@EXAMPLE.ORG>", others).await;
    stage.until("sent", 2).await;
    stage.until("suppressed", 2).await;
    assert_eq!(told(&stage), ["QA@xn--exmple-cua.com", "ada@example.org"]);
    let reason = "SELECT min(reason) || '|' || max(reason) FROM outbox.deliveries WHERE state = 'suppressed'";
    let word = "guards.recipients_allow: its recipient is not on the list";
    assert_eq!(stage.text(reason, &[]).await, Some(format!("{word}|{word}")));
    assert_eq!(stage.count("SELECT count(*) FROM outbox.attempts").await, 2, "nothing was tried");
    // By a person's decision, too.
    let retry = "SELECT count(*) FROM outbox.retry($1, reason => 'test') WHERE result LIKE 'pending%'";
    let row = stage.sql.query_one(retry, &[&id]).await.expect("retries");
    assert_eq!(row.get::<_, i64>(0), 2);
    stage.until("suppressed", 2).await;
    assert_eq!(told(&stage).len(), 2);
    let log = relay.lines().join("\n");
    assert!(log.contains("guards.recipients_allow: is on: all other recipients get nothing"), "{log}");
    assert!(!log.contains("canary@") && !log.contains("qa@"), "{log}");
    let (code, shown) = stage.settings_of("operator").command(["show", &format!("{id}/2")]).await;
    assert_eq!(code, 0, "{shown}");
    assert!(shown.contains(&format!("Not sent, suppressed: {word}")), "{shown}");
    let (code, checked) = settings.command(["check", "--print"]).await;
    println!("{checked}");
    assert_eq!(code, 0);
    assert!(checked.contains("= [\"@Example.org\", \"qa@exämple.com\"]"), "{checked}");
    assert!(checked.contains("warning: guards.recipients_allow: is on"), "{checked}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redirected_mail_goes_to_one_address_and_says_whose_it_is_also_when_it_is_sent_again() {
    // In doubt at the first attempt, so that there is a second.
    let script = Script::from_fn(|context| match (context.phase, context.recipient_seen) {
        (Phase::EndMarker { .. }, 1) => Action::TakeThen(Fault::Eof),
        _ => Action::Proceed,
    })
    .body_percents([]);
    let stage = Stage::with(SmtpServer::builder().script(script).start()).await;
    let settings = stage.settings().set("guards.redirect_all_to", "Staging <staging@example.net>");
    let mut relay = settings.run().await;
    let id = stage.enqueue_one("Ada <ada@example.org>", ", on_doubt => 'resend'").await;
    stage.until("sent", 1).await;
    let ledger = stage.server.ledger();
    assert_eq!(told(&stage), ["staging@example.net", "staging@example.net"]);
    for message in ledger.messages() {
        assert_eq!(message.header("X-Hapax-Original-To").as_deref(), Some("ada@example.org"));
        assert!(message.header("To").is_some_and(|to| to.contains("ada@example.org")), "the content stays as it is");
    }
    let (code, shown) = stage.settings_of("operator").command(["show", &id.to_string()]).await;
    println!("{shown}");
    assert_eq!(code, 0);
    assert!(shown.contains("redirected by guards.redirect_all_to") && !shown.contains("staging@"), "{shown}");
    assert!(shown.contains("Redirected: it went to the address in guards.redirect_all_to, not to this one"), "{shown}");
    let log = relay.lines().join("\n");
    assert!(log.contains("guards.redirect_all_to: is on: all mail goes to that address"), "{log}");
    assert!(!log.contains("ada@") && !log.contains("staging@"), "{log}");
    relay.sigterm();
    relay.wait_exit(hapax_tests::stage::PATIENCE).await;
    // With both guards the allowed ones get theirs.
    stage.server.script(Script::good());
    let _relay = settings.set("guards.recipients_allow", "@example.org").run().await;
    stage.enqueue_one("bob@example.org", ", cc => ARRAY['eve@example.com']").await;
    stage.until("sent", 3).await;
    assert_eq!(told(&stage)[..2], ["bob@example.org", "staging@example.net"]);
    let ledger = stage.server.ledger();
    let last: Vec<Option<String>> =
        ledger.messages().skip(2).map(|message| message.header("X-Hapax-Original-To")).collect();
    assert!(last.contains(&None) && last.contains(&Some("eve@example.com".to_owned())), "{last:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rc25_what_has_been_due_for_days_is_held_and_not_sent_until_somebody_releases_it() {
    let stage = Stage::set().await;
    stage.enqueue(1_006).await;
    // As a restored or forgotten database has it: 1,000 were due days ago, some of them have expired meanwhile.
    stage
        .sql
        .batch_execute(
            "UPDATE outbox.queue SET due_at = now() - interval '3 days 1 minute'
             WHERE (message_id, recipient_no) IN (SELECT message_id, recipient_no FROM outbox.queue ORDER BY message_id LIMIT 1000);
             UPDATE outbox.message SET expires_at = now() - interval '1 hour'
             WHERE id IN (SELECT message_id FROM outbox.queue ORDER BY message_id LIMIT 7);
             UPDATE outbox.queue SET due_at = now() - interval '2 days 23 hours'
             WHERE message_id = (SELECT max(message_id::text)::uuid FROM outbox.queue)",
        )
        .await
        .expect("ages them");
    stage.enqueue_one("later@example.org", ", not_before => now() + interval '5 days'").await;
    let _relay = stage.settings().run().await;
    stage.until("held", 993).await;
    stage.until("sent", 6).await;
    stage.until("expired", 7).await;
    let verdict = Verdict::of(&stage.sql, &stage.server.ledger()).await;
    println!("{verdict}");
    verdict.assert_clean(1_007);
    assert_eq!((verdict.accepted, verdict.count("pending")), (6, 1), "{verdict}");
    assert_eq!(told(&stage).len(), 6);
    let (state, note) = stage.state_of("r1000@example.org").await;
    println!("{state}: {note}");
    assert!(
        note.starts_with("guards.max_age: due for 72 h, longer than 72 h") && note.contains("hapax release"),
        "{note}"
    );
    assert_eq!(stage.count("SELECT count(*) FROM outbox.attempts").await, 6, "nothing was tried");
    // Released: due now, so it goes out. Cancelled: never.
    let of = "SELECT message_id FROM outbox.deliveries WHERE recipient = $1";
    let released: uuid::Uuid = stage.sql.query_one(of, &[&"r1000@example.org"]).await.expect("one").get(0);
    let cancelled: uuid::Uuid = stage.sql.query_one(of, &[&"r999@example.org"]).await.expect("one").get(0);
    let operator = stage.settings_of("operator");
    let (code, output) = operator.command(["release", &released.to_string(), "--reason", "still wanted"]).await;
    assert_eq!(code, 0, "{output}");
    let (code, output) = operator.command(["cancel", &cancelled.to_string(), "--reason", "history"]).await;
    assert_eq!(code, 0, "{output}");
    stage.until_state("r1000@example.org", "sent").await;
    stage.until_state("r999@example.org", "cancelled").await;
    assert_eq!(stage.server.ledger().totals().accepted, 7);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rc25_with_the_guard_off_everything_that_is_due_goes_out_however_old() {
    let stage = Stage::set().await;
    stage.enqueue(5).await;
    stage.sql.batch_execute("UPDATE outbox.queue SET due_at = now() - interval '400 days'").await.expect("ages them");
    let _relay = stage.settings().set("guards.max_age", "off").run().await;
    stage.until("sent", 5).await;
    Verdict::of(&stage.sql, &stage.server.ledger()).await.assert_each_once(5);
}
