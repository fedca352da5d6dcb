//! Duplicates that an application makes, and those it keeps from being made (section D of the duplicate catalogue).

use hapax_testkit::{Fault, Phase, Rule, Script, SmtpServer};
use hapax_tests::stage::Stage;

use super::support::{application, explain, explain_as, order};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rc26_two_transactions_that_enqueue_the_same_are_named_and_the_remedy_too() {
    let stage = Stage::set().await;
    let _relay = stage.settings().run().await;
    let (one, two) = (application(&stage, "checkout-web").await, application(&stage, "checkout-web").await);
    let (first, first_txid) = order(&one, "Ada <ada@example.org>", "").await;
    let (second, second_txid) = order(&two, "ada@example.org", "").await;
    order(&one, "grace@example.org", "").await;
    stage.until("sent", 3).await;

    let told = explain(&stage, "Ada Lovelace <ADA@Example.org>").await;
    told.says(&[
        "Two notifications of kind order_confirmed with the same content were enqueued for this address",
        &format!(
            "apart by two different transactions (application checkout-web, session user producer, transactions \
             {first_txid} and {second_txid}); each was sent once."
        ),
        "The duplicate was made by the application: give both the same dedup_key, and only the first is enqueued.",
        "Two notifications since ",
        ": 2 sent.",
    ]);
    told.tells(&[
        "[1]  enqueued as order_confirmed by application checkout-web, session user producer, transaction",
        &first_txid,
        &second_txid,
    ]);
    assert_eq!(told.timeline().matches("accepted by 127.0.0.1").count(), 2, "{}", told.text);
    assert_eq!(told.timeline().matches("ends as sent, evidence: reply").count(), 2, "{}", told.text);
    assert_eq!(stage.server.with_ledger(|ledger| ledger.count_rcpt_commands("ada@example.org")), 2);

    // By the id of either, and as somebody who may not see addresses.
    for id in [first, second] {
        let told = explain_as(&stage, "viewer", &id.to_string(), &[]).await;
        told.says(&["enqueued for a***@example.org", "each was sent once", "Sent once: accepted by 127.0.0.1"]);
        // The other one's story is part of it.
        told.tells(&["[1]  enqueued", &first_txid, "[2]  enqueued", &second_txid]);
        assert!(told.text.contains("Decisions of operators are not shown"), "{}", told.text);
    }
    let told = explain_as(&stage, "viewer", "ada@example.org", &["--json"]).await;
    let json: serde_json::Value = serde_json::from_str(&told.text).expect("JSON");
    assert_eq!(json["suspected_duplicates"][0]["first_txid"], first_txid);
    assert_eq!(json["suspected_duplicates"][0]["recipient"], "a***@example.org");
    assert_eq!(json["deliveries"][1]["delivery"]["recipient"], "a***@example.org");
    assert!(json["verdict"][0].as_str().is_some_and(|verdict| verdict.starts_with("Two notifications")), "{json}");
    assert_eq!(json["timeline"][0]["event"], "enqueued");

    // Somebody who got one: nothing is suspected.
    let told = explain(&stage, "grace@example.org").await;
    told.says(&["Sent once: accepted by 127.0.0.1", " with \"250 "]);
    assert!(!told.verdict().contains("duplicate"), "{}", told.text);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rc26_rc32_a_dedup_key_used_right_is_explained_and_one_reused_for_other_content_never_became_a_mail() {
    let stage = Stage::set().await;
    let _relay = stage.settings().run().await;
    let client = application(&stage, "checkout-web").await;
    let (first, _) = order(&client, "ada@example.org", ", dedup_key => 'order-42'").await;
    let (again, _) = order(&client, "ada@example.org", ", dedup_key => 'order-42'").await;
    assert_eq!(first, again);
    let other = "SELECT outbox.enqueue(kind => 'order_confirmed', recipients => ARRAY['ada@example.org'], \
                 subject => 'Another', body_text => 'x', dedup_key => 'order-42')";
    let error = client.query_one(other, &[]).await.expect_err("it is an error");
    assert_eq!(error.code().map(tokio_postgres::error::SqlState::code), Some("23H01"));
    stage.until("sent", 1).await;

    let told = explain(&stage, "ada@example.org").await;
    told.says(&[
        "Sent once: accepted by",
        "Its dedup_key \"order-42\" is remembered until ",
        "no second mail is made",
        "Such repeats leave no trace here.",
    ]);
    told.tells(&["dedup_key order-42"]);
    assert!(!told.verdict().contains("duplicate"), "{}", told.text);

    // Other keys for the same event are no protection.
    order(&client, "bob@example.org", ", dedup_key => 'request-1'").await;
    order(&client, "bob@example.org", ", dedup_key => 'request-2'").await;
    order(&client, "eve@example.org", ", dedup_key => 'request-3'").await;
    order(&client, "eve@example.org", "").await;
    stage.until("sent", 5).await;
    explain(&stage, "bob@example.org")
        .await
        .says(&["their dedup keys differ (\"request-1\" and \"request-2\"): a key has to name the event, not the try"]);
    explain(&stage, "eve@example.org").await.says(&["not all had a dedup_key (\"request-3\" did)"]);
    // A key that was freed by force protects no longer.
    stage
        .sql
        .batch_execute("SELECT outbox.force_release_key('order-42', 'the customer asked for it again')")
        .await
        .expect("releases");
    explain(&stage, "ada@example.org").await.says(&["Its dedup_key \"order-42\" was released or has expired"]);
    let (anew, _) = order(&client, "ada@example.org", ", dedup_key => 'order-42'").await;
    stage.until("sent", 6).await;
    explain(&stage, "ada@example.org").await.says(&[
        "both had the dedup_key \"order-42\", but it had been released or forgotten in between",
        &format!("stands for message {anew} now"),
    ]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rc27_rc31_a_key_outlives_a_failure_and_several_attempts_are_one_notification() {
    let script = Script::rules([
        Rule::at(Phase::Rcpt, Fault::Reply5xx).recipient("gone@example.org"),
        Rule::at(Phase::Rcpt, Fault::Reply4xx).recipient("busy@example.org").times(2),
    ]);
    let stage = Stage::with(SmtpServer::builder().script(script).start()).await;
    let _relay = stage.settings().run().await;
    let client = application(&stage, "checkout-web").await;
    let (first, _) = order(&client, "gone@example.org", ", dedup_key => 'order-43'").await;
    order(&client, "busy@example.org", "").await;
    stage.until_state("gone@example.org", "failed").await;
    stage.until_state("busy@example.org", "sent").await;
    assert_eq!(order(&client, "gone@example.org", ", dedup_key => 'order-43'").await.0, first);
    explain(&stage, "gone@example.org").await.says(&[
        "Not sent: 127.0.0.1",
        "refused it for good at ",
        "It was not sent, but its dedup_key \"order-43\" is remembered until ",
    ]);
    let told = explain(&stage, "busy@example.org").await;
    told.says(&["Sent once: accepted by 127.0.0.1", ", after two attempts that left no copy."]);
    told.tells(&["enqueued as", "refused for now", "refused for now", "accepted by", "ends as sent"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rc28_producers_racing_with_one_key_make_one_mail_and_leave_no_second() {
    let stage = Stage::set().await;
    let _relay = stage.settings().run().await;
    let mut racers = Vec::new();
    for number in 0..4 {
        racers.push(application(&stage, &format!("pod-{number}")).await);
    }
    let races: Vec<_> = racers
        .into_iter()
        .map(|client| {
            tokio::spawn(async move { order(&client, "ada@example.org", ", dedup_key => 'order-44'").await.0 })
        })
        .collect();
    let mut ids = Vec::new();
    for race in races {
        ids.push(race.await.expect("enqueues"));
    }
    ids.dedup();
    assert_eq!(ids.len(), 1, "{ids:?}");
    stage.until("sent", 1).await;
    let told = explain(&stage, "ada@example.org").await;
    told.says(&["Sent once: accepted by", "Its dedup_key \"order-44\" is remembered until"]);
    assert_eq!(told.timeline().matches("enqueued as").count(), 1, "{}", told.text);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rc29_a_schedule_that_ran_on_two_leaders_is_seen_before_it_is_due_and_can_be_stopped() {
    let stage = Stage::set().await;
    let (leader, other) = (application(&stage, "scheduler-a").await, application(&stage, "scheduler-b").await);
    let later = ", not_before => date_trunc('day', now()) + interval '3 days'";
    let (_, first_txid) = order(&leader, "ada@example.org", later).await;
    let (second, second_txid) = order(&other, "ada@example.org", later).await;
    let told = explain(&stage, "ada@example.org").await;
    told.says(&[
        &format!(
            "two different transactions (transaction {first_txid} of application scheduler-a, session user producer; \
             transaction {second_txid} of application scheduler-b, session user producer)"
        ),
        "the first waits to be sent and the second waits to be sent",
        &format!("To stop what has not been sent: hapax cancel {second} --reason '...'"),
        "Nothing is known to have been sent.",
    ]);
    assert!(told.text.contains("Waits for its time: the application wants it sent not before "), "{}", told.text);
    told.tells(&["enqueued as", "enqueued as", "will be due", "will be due"]);

    // As told.
    let cancel = ["cancel", &second.to_string(), "--reason", "scheduled twice"];
    assert_eq!(stage.settings_of("operator").command(cancel).await.0, 0);
    let told = explain(&stage, "ada@example.org").await;
    told.says(&["the first waits to be sent and the second was cancelled"]);
    let told = explain(&stage, &second.to_string()).await;
    told.says(&["Not sent: cancelled by session user operator at ", ", because \"scheduled twice\"."]);
    told.tells(&["enqueued as", "cancel by session user operator", "ends as cancelled"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rc30_an_address_listed_twice_is_one_mail_and_overlapping_lists_are_two() {
    let stage = Stage::set().await;
    let _relay = stage.settings().run().await;
    let client = application(&stage, "newsletter").await;
    let (id, _) = order(
        &client,
        "ada@example.org",
        ", cc => ARRAY['Ada <ADA@Example.org>', 'bob@example.org'], bcc => ARRAY['ada@example.org']",
    )
    .await;
    stage.until("sent", 2).await;
    let told = explain(&stage, "ada@example.org").await;
    told.says(&["Sent once: accepted by"]);
    assert!(!told.verdict().contains("Two notifications"), "{}", told.text);
    explain(&stage, &id.to_string()).await.says(&["One message to two recipients: 2 sent."]);

    // The same letter to another list that has Bob, too, in the same transaction.
    let both = "DO $$ BEGIN
        PERFORM outbox.enqueue('digest', '{bob@example.org,carl@example.org}', subject => 'Today', body_text => 'news');
        PERFORM outbox.enqueue('digest', '{dora@example.org}', cc => '{bob@example.org}', subject => 'Today', body_text => 'news');
    END $$";
    client.batch_execute(both).await.expect("enqueues");
    stage.until("sent", 6).await;
    explain(&stage, "bob@example.org").await.says(&[
        "Two notifications of kind digest with the same content were enqueued for this address",
        "apart by one transaction (application newsletter, session user producer, transaction ",
        "The duplicate was made by the application, within one transaction (a loop, or a list with the address twice)",
        "Three notifications since",
    ]);
    let told = explain(&stage, "carl@example.org").await;
    assert!(!told.verdict().contains("duplicate"), "{}", told.text);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_mails_of_one_kind_with_different_content_are_not_called_a_duplicate() {
    let stage = Stage::set().await;
    let _relay = stage.settings().run().await;
    let client = application(&stage, "shop").await;
    for subject in ["Order 1", "Order 2"] {
        let sql = format!(
            "SELECT outbox.enqueue('order_confirmed', '{{ada@example.org}}', subject => '{subject}', body_text => 'x')"
        );
        client.batch_execute(&sql).await.expect("enqueues");
    }
    stage.until("sent", 2).await;
    explain(&stage, "ada@example.org").await.says(&[
        ": 2 sent. No two of them have the same kind and content within a day.",
        "Closest are two of kind order_confirmed, ",
        "their content differs, so these are two notifications, not one that was sent twice.",
    ]);
    // Three of the same are one story.
    for _ in 0..3 {
        order(&client, "bob@example.org", "").await;
    }
    stage.until("sent", 5).await;
    explain(&stage, "bob@example.org").await.says(&[
        "Three notifications of kind order_confirmed with the same content were enqueued for this address within ",
        "by three different transactions",
        "each was sent once. The duplicate was made by the application: give all of them the same dedup_key",
    ]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_operator_sent_again_is_the_operators_and_not_the_applications() {
    let stage = Stage::set().await;
    let _relay = stage.settings().run().await;
    let client = application(&stage, "shop").await;
    let (first, _) = order(&client, "ada@example.org", "").await;
    stage.until("sent", 1).await;
    let again = format!("SELECT outbox.send_again('{first}', 'Ada lost it')::text");
    let copy = stage.text(&again, &[]).await.expect("it is sent again");
    stage.until("sent", 2).await;
    for (user, by) in [("operator", "an operator (session user "), ("viewer", "an operator sent again at ")] {
        for typed in ["ada@example.org", copy.as_str()] {
            let told = explain_as(&stage, user, typed, &[]).await;
            told.says(&[&format!("This is message {first}, which {by}"), "sent again at "]);
            assert_eq!(user == "operator", told.verdict().contains("because \"Ada lost it\""), "{}", told.text);
            for wrong in ["duplicate", "differ", "No two of them"] {
                assert!(!told.verdict().contains(wrong), "{wrong} in {}", told.text);
            }
        }
    }
    // Another one of the application's own is still its duplicate.
    order(&client, "ada@example.org", "").await;
    stage.until("sent", 3).await;
    explain(&stage, "ada@example.org").await.says(&[
        "Two notifications of kind",
        "The duplicate was made by the application",
        "sent again at ",
    ]);
}
