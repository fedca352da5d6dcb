//! Doubts, and who decided them: copies that are certain, copies that are possible, and truth that came late.

use hapax_testkit::{Fault, Phase, Rule, Script, SmtpServer, eventually};
use hapax_tests::stage::{PATIENCE, Stage};

use super::support::{application, explain, explain_as, order};

const TOOK: Phase = Phase::EndMarker { took: true };

async fn resolve(stage: &Stage, recipient: &str, verdict: &str, reason: &str) {
    let token = "SELECT token::text FROM outbox.in_doubt WHERE recipient = $1";
    let token = stage.text(token, &[&recipient]).await.expect("it is in doubt");
    let (code, text) =
        stage.settings_of("operator").command(["resolve", &token, verdict, "--force", "--reason", reason]).await;
    assert_eq!(code, 0, "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rc24_a_doubt_says_what_to_search_for_and_a_decision_says_whose_it_was() {
    let script = Script::rules([Rule::at(TOOK, Fault::Eof).times(4)]);
    let stage = Stage::with(SmtpServer::builder().script(script).start()).await;
    let _relay = stage.settings().run().await;
    let client = application(&stage, "shop").await;
    let mut ids = Vec::new();
    for name in ["ada", "bob", "carl", "dora"] {
        ids.push(order(&client, &format!("{name}@example.org"), "").await.0);
    }
    stage.until("in_doubt", 4).await;

    let told = explain(&stage, "ada@example.org").await;
    told.says(&[
        "In doubt since ",
        "Nobody knows whether it arrived: the connection was lost between the end of the message and the server's reply.",
        &format!("Look for {} in the mail server's log", ids[0]),
        "then: hapax resolve ",
    ]);
    told.tells(&[
        "enqueued as",
        "begins an attempt by route default",
        "the outcome is unknown",
        "in doubt: its relay says so",
    ]);

    resolve(&stage, "bob@example.org", "sent", "in the log of mx1").await;
    let told = explain(&stage, "bob@example.org").await;
    told.says(&[
        "Taken for sent: an operator (session user operator) decided so at ",
        ", because \"in the log of mx1\". No reply of a server is known.",
    ]);
    told.tells(&["(before: in_doubt, after: sent), reason: \"in the log of mx1\"", "ends as sent, evidence: operator"]);
    let told = explain_as(&stage, "viewer", "bob@example.org", &[]).await;
    told.says(&["Taken for sent: an operator decided so at ", ", because \"in the log of mx1\"."]);

    resolve(&stage, "carl@example.org", "failed", "mx1 was wiped").await;
    explain(&stage, "carl@example.org").await.says(&[
        "Given up: an operator (session user operator) decided at ",
        " that it did not arrive and shall not be sent again, because \"mx1 was wiped\".",
        "It may have arrived nevertheless: an attempt ended without an answer.",
    ]);

    resolve(&stage, "dora@example.org", "resend", "mx1 lost its queue").await;
    stage.until_state("dora@example.org", "sent").await;
    let told = explain(&stage, "dora@example.org").await;
    told.says(&[
        "One copy is certain: accepted by 127.0.0.1",
        "ended without an answer: that copy may have arrived, too.",
        "An operator (session user operator) decided at ",
        " to send it again, because \"mx1 lost its queue\".",
    ]);
    told.tells(&["the outcome is unknown", "resolve resend by session user operator", "accepted by", "ends as sent"]);
    assert_eq!(stage.server.with_ledger(|ledger| ledger.count_rcpt_commands("dora@example.org")), 2);
    let told = explain_as(&stage, "viewer", "dora@example.org", &[]).await;
    told.says(&["It was sent again once by decision; who decided can be seen as outbox_operator."]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn policies_are_named_as_the_ones_who_decided() {
    let script = Script::rules([
        Rule::at(TOOK, Fault::Eof).recipient("code@example.org").times(1),
        Rule::at(TOOK, Fault::Eof).recipient("news@example.org").times(1),
    ]);
    let stage = Stage::with(SmtpServer::builder().script(script).start()).await;
    let _relay = stage.settings().run().await;
    let client = application(&stage, "shop").await;
    order(&client, "code@example.org", ", on_doubt => 'resend'").await;
    order(&client, "news@example.org", ", on_doubt => 'assume_sent'").await;
    stage.until("sent", 2).await;
    let told = explain(&stage, "code@example.org").await;
    told.says(&["One copy is certain: accepted by ", "The policy on_doubt = resend decided at ", " to send it again."]);
    told.tells(&["on_doubt resend", "the outcome is unknown", "resolve resend by session user relay", "accepted by"]);
    explain(&stage, "news@example.org")
        .await
        .says(&["Taken for sent: the policy on_doubt = assume_sent decided so at ", "No reply of a server is known."]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rc24_a_resend_of_what_had_been_accepted_is_two_copies_and_says_since_when_that_is_known() {
    let stage = Stage::set().await;
    let hold = stage.server.hold_final_reply();
    let settings = stage.settings().set("relay.final_reply_timeout", "5m").set("relay.shutdown_grace", "10m");
    let sleeper = settings.run().await;
    let client = application(&stage, "shop").await;
    order(&client, "ada@example.org", "").await;
    hold.wait_for(1).await;
    sleeper.sigstop();
    hold.release();
    let _other = settings.clone().set("relay.name", "other").run().await;
    stage.until("in_doubt", 1).await;
    explain(&stage, "ada@example.org").await.says(&["its relay vanished while it was sending"]);
    resolve(&stage, "ada@example.org", "resend", "the customer is waiting").await;
    stage.until("sent", 1).await;
    explain(&stage, "ada@example.org").await.says(&["One copy is certain: ", "that copy may have arrived, too."]);
    // The first relay wakes up, and reads the reply that has been waiting for it.
    sleeper.sigcont();
    let accepted = "SELECT count(*) FROM outbox.attempt WHERE outcome = 'accepted'";
    eventually(PATIENCE, async || stage.count(accepted).await == 2).await;
    let told = explain(&stage, "ada@example.org").await;
    told.says(&[
        "Two copies were accepted: by 127.0.0.1",
        " and by 127.0.0.1",
        "An operator (session user operator) decided at ",
        " to send it again, because \"the customer is waiting\".",
        "That the first copy had been accepted became known only at ",
    ]);
    told.tells(&["enqueued as", "resolve resend by session user operator", "accepted by", "accepted by"]);
    assert_eq!(stage.server.with_ledger(|ledger| ledger.count_rcpt_commands("ada@example.org")), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reply_that_came_late_settles_the_doubt_and_is_told_as_such() {
    let stage = Stage::set().await;
    let hold = stage.server.hold_final_reply();
    let settings = stage.settings().set("relay.final_reply_timeout", "5m").set("relay.shutdown_grace", "10m");
    let sleeper = settings.run().await;
    let client = application(&stage, "shop").await;
    for name in ["ada", "bob"] {
        order(&client, &format!("{name}@example.org"), "").await;
    }
    hold.wait_for(2).await;
    sleeper.sigstop();
    hold.release();
    let _other = settings.clone().set("relay.name", "other").run().await;
    stage.until("in_doubt", 2).await;
    resolve(&stage, "bob@example.org", "failed", "too old by now").await;
    sleeper.sigcont();
    stage.until("sent", 2).await;
    // Undecided, its own relay's word ended the doubt as if there had been none: only the time it took shows it.
    explain(&stage, "ada@example.org").await.says(&["Sent once: accepted by 127.0.0.1"]);
    explain(&stage, "bob@example.org").await.says(&[
        "Sent once: accepted by 127.0.0.1",
        "The server's reply became known late, when the delivery already counted as failed.",
    ]);
}
