//! What may be pasted behind `hapax explain`, and what it says when there is nothing to tell.

use hapax_testkit::{Fault, Phase, Rule, Script, SmtpServer};
use hapax_tests::stage::{DOMAIN, Stage};

use super::support::{application, explain, explain_as, order};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_notification_is_found_by_whatever_names_it() {
    let script = Script::rules([Rule::at(Phase::Rcpt, Fault::Reply4xx).times(1)]);
    let stage = Stage::with(SmtpServer::builder().script(script).start()).await;
    let _relay = stage.settings().run().await;
    let client = application(&stage, "shop").await;
    let (id, _) = order(&client, "ada@example.org", ", cc => ARRAY['bob@example.org']").await;
    stage.until("sent", 2).await;
    for typed in [id.to_string(), format!("<{id}@{DOMAIN}>"), format!("{id}@{DOMAIN}"), format!(" {id} ")] {
        explain(&stage, &typed).await.says(&["One message to two recipients: 2 sent."]);
    }
    let told = explain(&stage, &format!("{id}/2")).await;
    told.says(&["Sent once: accepted by"]);
    assert!(told.text.contains(&format!("[1] {id}/2  order_confirmed  to b***@example.org  sent")), "{}", told.text);
    // Each attempt's token, the one that came to nothing, too.
    for outcome in ["accepted", "deferred"] {
        let sql = "SELECT token::text FROM outbox.attempt WHERE outcome = $1 LIMIT 1";
        let token = stage.text(sql, &[&outcome]).await.expect("there is one");
        let told = explain_as(&stage, "viewer", &token, &[]).await;
        told.says(&["Sent once: accepted by"]);
        assert!(told.text.contains(&id.to_string()), "{}", told.text);
    }

    // A finished message has a Message-ID of its own; that it answers another is something else.
    let raw = "SELECT outbox.enqueue('reply', '{carl@example.org}', raw_message => convert_to($1, 'UTF8'))";
    let letter =
        "Subject: x\r\nIn-Reply-To: <1@other.example>\r\nMessage-Id:\r\n <20261126.42@shop.example>\r\n\r\nbody\r\n";
    client.query_one(raw, &[&letter]).await.expect("enqueues");
    stage.until("sent", 3).await;
    for typed in ["<20261126.42@shop.example>", "20261126.42@shop.example"] {
        let told = explain_as(&stage, "viewer", typed, &[]).await;
        told.says(&["Sent once: accepted by"]);
        assert!(told.text.contains("reply  to c***@example.org  sent"), "{}", told.text);
    }
    assert_eq!(explain(&stage, "<1@other.example>").await.code, 1);

    // Few at a time, the newest.
    for _ in 0..3 {
        order(&client, "dora@example.org", "").await;
    }
    let told = explain_as(&stage, "operator", "dora@example.org", &["--limit", "2", "--since", "1h"]).await;
    told.says(&["The newest two notifications since "]);
    assert!(told.text.contains("... and more: --limit 20"), "{}", told.text);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_there_is_said_with_what_to_do_and_exit_code_1() {
    let stage = Stage::set().await;
    let told = explain(&stage, "ada@example.org").await;
    assert_eq!(told.code, 1);
    assert!(
        told.text.contains("nothing was enqueued for ada@example.org: the outbox holds no message"),
        "{}",
        told.text
    );
    stage.enqueue(2).await;
    for typed in ["nobody@example.org", "01a2179b-0000-7000-8000-000000000000", "<1@shop.example>"] {
        let told = explain(&stage, typed).await;
        assert_eq!(told.code, 1, "{}", told.text);
        assert!(
            told.text.contains(&format!("error: nothing was enqueued for {typed} in the retained history (since 20"))
        );
        assert!(told.text.contains("its transaction was rolled back, or its dedup_key was in use;"), "{}", told.text);
    }
    let told = explain_as(&stage, "operator", "nobody@example.org", &["--since", "7d"]).await;
    assert!(told.text.contains("in the last 7 d"), "{}", told.text);
    let told = explain(&stage, "nobody").await;
    assert_eq!(told.code, 64, "{}", told.text);
    assert!(told.text.contains("hint: give an email address, a Message-ID"), "{}", told.text);
    // Producers and relays have no business here.
    for user in ["producer", "relay"] {
        let told = explain_as(&stage, user, "r1@example.org", &[]).await;
        assert_ne!(told.code, 0, "{}", told.text);
        assert!(told.text.contains("outbox_viewer to look"), "{}", told.text);
    }
    // A schema that is behind says what to do.
    stage.sql.batch_execute("DROP FUNCTION outbox.circumstances(uuid)").await.expect("drops");
    let told = explain(&stage, "r1@example.org").await;
    assert_eq!(told.code, 78, "{}", told.text);
    assert!(told.text.contains("hint: hapax migrate up"), "{}", told.text);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_has_no_delivery_is_told_from_one_that_was_never_enqueued() {
    let stage = Stage::set().await;
    stage.enqueue(2).await;
    let id = stage.text("SELECT max(id::text) FROM outbox.message", &[]).await.expect("there is one");
    stage.sql.execute(&format!("DELETE FROM outbox.queue WHERE message_id = '{id}'"), &[]).await.expect("deletes");
    let sql = format!("SELECT recipients[1] FROM outbox.message WHERE id = '{id}'");
    let address = stage.text(&sql, &[]).await.expect("it has one");
    for typed in [id.clone(), format!("<{id}@shop.example>"), address] {
        let told = explain(&stage, &typed).await;
        assert_eq!(told.code, 1, "{}", told.text);
        for words in [
            &format!("message {id} ("),
            "nobody sends it",
            "hint: somebody has deleted from outbox.queue",
            "force_release_key()",
        ] {
            assert!(told.text.contains(words), "{words}: {}", told.text);
        }
    }
    let (code, said) = stage.settings_of("viewer").command(["show", &id]).await;
    assert!(code == 1 && said.contains("is there, but no delivery of it"), "{said}");
}
