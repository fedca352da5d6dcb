//! "A customer got none": every state in which a delivery can be or end, and why.

use hapax_testkit::{Fault, Phase, Rule, Script, SmtpServer, eventually};
use hapax_tests::stage::{PATIENCE, Stage};

use super::support::{application, explain, explain_as, order};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_not_sent_says_why_not() {
    let script = Script::rules([
        Rule::at(Phase::Rcpt, Fault::Reply5xx).recipient("gone@example.org"),
        Rule::at(Phase::Rcpt, Fault::Reply4xx).recipient("busy@example.org"),
        Rule::at(Phase::Rcpt, Fault::Reply4xx).recipient("late@example.org"),
    ]);
    let stage = Stage::with(SmtpServer::builder().script(script).start()).await;
    let client = application(&stage, "shop").await;
    let relay = stage.settings().run().await;
    order(&client, "gone@example.org", "").await;
    order(&client, "busy@example.org", "").await;
    order(&client, "late@example.org", ", expires_at => now() + interval '1 s'").await;
    let (held, _) = order(&client, "held@example.org", ", not_before => now() + interval '1 day'").await;
    let (template, _) = order(&client, "template@example.org", ", route => 'nowhere'").await;
    let hold = ["hold", &held.to_string(), "--reason", "legal looks at it"];
    assert_eq!(stage.settings_of("operator").command(hold).await.0, 0);
    stage.until_state("gone@example.org", "failed").await;
    stage.until_state("late@example.org", "expired").await;

    let told = explain(&stage, "gone@example.org").await;
    told.says(&["Not sent: 127.0.0.1", "refused it for good at ", " with \"55"]);
    told.tells(&["enqueued as", "refused for good by 127.0.0.1", "at rcpt", "ends as failed"]);

    eventually(PATIENCE, async || {
        stage.count("SELECT count(*) FROM outbox.attempts WHERE recipient = 'busy@example.org'").await > 1
    })
    .await;
    let told = explain(&stage, "busy@example.org").await;
    told.says(&["Waits, after ", " attempts: the last one was refused for now by 127.0.0.1", ": \"451 4.3.0 scripted"]);
    told.tells(&["enqueued as", "refused for now by 127.0.0.1"]);

    let told = explain(&stage, "late@example.org").await;
    told.says(&["Not sent: its time had passed at ", " (expires_at 20"]);
    told.tells(&["expires at 20", "ends as expired"]);

    let told = explain(&stage, "held@example.org").await;
    told.says(&[
        "Held: an operator (session user operator) stopped it at ",
        ", because \"legal looks at it\". Nothing is sent until somebody decides: hapax release ",
    ]);
    told.tells(&[
        "not before",
        "hold by session user operator",
        "(before: pending, after: held), reason: \"legal looks at it\"",
    ]);
    // A viewer does not see who, but why.
    let told = explain_as(&stage, "viewer", &held.to_string(), &[]).await;
    told.says(&["Held by a guard or an operator: legal looks at it."]);

    let told = explain(&stage, &template.to_string()).await;
    told.says(&["Held by a guard: route \"nowhere\" is not configured on this relay"]);

    // No relay, so nobody takes it.
    drop(relay);
    let (waiting, _) = order(&client, "waiting@example.org", "").await;
    let told = explain(&stage, "waiting@example.org").await;
    told.says(&["Waits for a relay: due since ", "No attempt has been made yet;"]);
    // The state is kept for a list that does not exist yet.
    let suppress = "WITH gone AS (DELETE FROM outbox.queue WHERE message_id = $1 RETURNING *)
        INSERT INTO outbox.done (message_id, recipient_no, state, lane, address_hash, reason)
        SELECT message_id, recipient_no, 'suppressed', lane, address_hash, 'hard bounce' FROM gone";
    stage.sql.execute(suppress, &[&waiting]).await.expect("suppresses");
    explain(&stage, "waiting@example.org").await.says(&["Not sent: its address is suppressed: hard bounce."]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_route_that_fails_is_to_blame_and_not_the_notification() {
    let stage = Stage::set().await;
    let closed = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("has a number").port();
    let away = format!("smtp://127.0.0.1:{closed}?starttls=none");
    let _relay = stage.settings().set("routes.default.url", away).run().await;
    let client = application(&stage, "shop").await;
    let (id, _) = order(&client, "ada@example.org", "").await;
    let failures = "SELECT count(*) FROM outbox.attempt WHERE outcome = 'not_sent'";
    eventually(PATIENCE, async || stage.count(failures).await >= 2).await;
    let told = explain(&stage, &id.to_string()).await;
    told.says(&[
        "Waits: route default has failed ",
        " times in a row for it; the last attempt ended at ",
        "before anything was sent (connect)",
    ]);
    told.tells(&["enqueued as", "attempt failed before anything was sent, at connect"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_behind_its_ordering_key_names_the_head_and_its_state() {
    let script = Script::rules([Rule::at(Phase::EndMarker { took: true }, Fault::Eof).recipient("first@example.org")]);
    let stage = Stage::with(SmtpServer::builder().script(script).start()).await;
    let _relay = stage.settings().run().await;
    let client = application(&stage, "shop").await;
    let (head, _) = order(&client, "first@example.org", ", ordering_key => 'account-1'").await;
    order(&client, "second@example.org", ", ordering_key => 'account-1'").await;
    order(&client, "third@example.org", ", ordering_key => 'account-1'").await;
    stage.until("in_doubt", 1).await;
    explain(&stage, "second@example.org")
        .await
        .says(&[&format!("Waits behind its ordering key, whose head {head}/1 is in doubt. hapax explain {head}/1")]);
    explain(&stage, "third@example.org").await.says(&["is in doubt (2 are ahead of it)."]);
    // As told: the head explains itself.
    explain(&stage, &format!("{head}/1")).await.says(&["In doubt since "]);
}
