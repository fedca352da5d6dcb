//! What comes from the producers' side: keys, times, and sending again on purpose.

use std::collections::BTreeSet;
use std::time::Duration;

use hapax_testkit::{Fault, HapaxProcess, Phase, Rule, Script, SmtpServer};
use hapax_tests::stage::{DOMAIN, Stage, running};
use hapax_tests::verdict::Verdict;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rc27_a_dedup_key_lives_as_long_as_its_message_and_failure_does_not_free_it() {
    let script = Script::rules([Rule::at(Phase::Rcpt, Fault::Reply5xx).recipient("gone@example.org").times(1)]);
    let stage = Stage::with(SmtpServer::builder().script(script).start()).await;
    let _relay = stage.settings().run().await;
    let key = ", dedup_key => 'order-42'";
    let first = stage.enqueue_one("gone@example.org", key).await;
    stage.until_state("gone@example.org", "failed").await;
    // The producer tries again and again, as one does when something failed: it is the same event.
    for _ in 0..3 {
        assert_eq!(stage.enqueue_one("gone@example.org", key).await, first);
    }
    let sent = stage.enqueue_one("ada@example.org", ", dedup_key => 'order-43'").await;
    stage.until_state("ada@example.org", "sent").await;
    assert_eq!(stage.enqueue_one("ada@example.org", ", dedup_key => 'order-43'").await, sent);
    // Other content under the key is an error, never a silent loss.
    let other = "SELECT outbox.enqueue(kind => 'note', recipients => ARRAY['ada@example.org'], subject => 'Other', body_text => 'x', dedup_key => 'order-43')";
    let error = stage.sql.query_one(other, &[]).await.expect_err("a conflict");
    assert_eq!(error.code().map(tokio_postgres::error::SqlState::code), Some("23H01"));
    assert_eq!(stage.server.with_ledger(|ledger| ledger.totals().accepted), 1);
    // Freed on purpose, where nothing can have arrived, the key is a new event's.
    assert_eq!(stage.count("SELECT outbox.release_key('order-42')::int::bigint").await, 1);
    assert_ne!(stage.enqueue_one("gone@example.org", key).await, first);
    stage.until("sent", 2).await;
    let verdict = Verdict::of(&stage.sql, &stage.server.ledger()).await;
    verdict.assert_clean(3);
    assert_eq!((verdict.accepted, verdict.twice.len()), (2, 0), "{verdict}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rc29_a_time_is_an_instant_whatever_zone_producers_and_relays_live_in_and_only_a_claim_sends() {
    const ZONES: [&str; 4] = ["UTC", "Europe/Berlin", "America/St_Johns", "Asia/Kathmandu"];
    let stage = Stage::set().await;
    let mut relays = Vec::new();
    for zone in ["America/Los_Angeles", "Pacific/Kiritimati"] {
        let settings = stage.settings().set("relay.name", zone);
        let relay = HapaxProcess::builder().config(settings.toml()).env("TZ", zone).arg("run").spawn();
        running(&relay).await;
        relays.push(relay);
    }
    for (n, zone) in ZONES.iter().enumerate() {
        // As people write it, in their own zone: the same two seconds from now for all.
        let local = "to_char(now() + interval '2 seconds', 'YYYY-MM-DD HH24:MI:SS.US')::timestamptz";
        let session = stage.cluster.client("postgres").await.expect("a client");
        session
            .batch_execute(&format!(
                "SET timezone = '{zone}'; SELECT outbox.enqueue(kind => 'note', recipients => ARRAY['zone{n}@example.org'], subject => 's', body_text => 't', not_before => {local})"
            ))
            .await
            .expect("enqueues");
    }
    // The hour that comes twice, and the one that does not come at all, are instants when they are stored, too.
    let session = stage.cluster.client("postgres").await.expect("a client");
    session
        .batch_execute(
            "SET timezone = 'Europe/Berlin';
             SELECT outbox.enqueue(kind => 'note', recipients => ARRAY['dst' || n || '@example.org'], subject => 's', body_text => 't', not_before => t::timestamptz)
             FROM (VALUES (1, '2024-10-27 02:30'), (2, '2024-10-27 02:30 CEST'), (3, '2024-03-31 02:30'), (4, '2034-10-29 02:30')) x (n, t)",
        )
        .await
        .expect("enqueues");
    stage.until("sent", 4 + 3).await;
    let early = "SELECT count(*) FROM outbox.attempt a JOIN outbox.message m ON m.id = a.message_id WHERE a.finished_at < m.not_before";
    assert_eq!(stage.count(early).await, 0);
    assert_eq!(stage.state_of("dst4@example.org").await.0, "pending");
    let spread = "SELECT (extract(epoch FROM max(not_before) - min(not_before)))::bigint FROM outbox.message WHERE recipients[1] LIKE 'zone%'";
    assert!(stage.count(spread).await < 60, "one instant");
    for mut relay in relays {
        relay.sigterm();
        assert!(relay.wait_exit(Duration::from_secs(30)).await.success());
    }
    let verdict = Verdict::of(&stage.sql, &stage.server.ledger()).await;
    verdict.assert_clean(8);
    assert_eq!((verdict.accepted, verdict.twice.len()), (7, 0), "two relays, one claim each: {verdict}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rc32_sent_again_on_purpose_it_is_a_new_message_with_the_same_content_and_the_key_stays_with_the_first() {
    let stage = Stage::set().await;
    let _relay = stage.settings().run().await;
    let first = stage
        .enqueue_one(
            "ada@example.org",
            ", cc => ARRAY['bob@example.org'], dedup_key => 'order-42', expires_at => now() + interval '1 hour'",
        )
        .await;
    stage.until("sent", 2).await;
    let operator = stage.settings_of("operator");
    let id = first.to_string();
    let (code, output) = operator.command(["send-again", &id, "--reason", "asked for by phone"]).await;
    assert!(code == 0 && output.contains("sent again as"), "{code}: {output}");
    let (code, output) = operator.command(["send-again", &format!("{id}/2"), "--reason", "bob only"]).await;
    assert_eq!(code, 0, "{output}");
    stage.until("sent", 2 + 2 + 1).await;
    let ledger = stage.server.ledger();
    let ids: BTreeSet<_> = ledger.transactions().filter_map(|one| one.message_id.clone()).collect();
    assert_eq!(ids.len(), 3, "three Message-IDs: {ids:?}");
    for one in ledger.transactions() {
        assert_eq!((one.header("Subject").as_deref(), one.took), (Some("Hello"), true));
    }
    let bob_only: Vec<_> =
        ledger.transactions().filter(|one| one.header("To").is_some_and(|to| to.contains("bob@"))).collect();
    assert!(bob_only.len() == 1 && bob_only[0].header("Cc").is_none());
    // Who asked, and why; the first keeps its key and its end.
    let audit = "SELECT count(*) FROM outbox.audit WHERE action = 'send again' AND before = 'sent' AND after LIKE 'sent again as %' AND reason IS NOT NULL AND actor = 'operator'";
    assert_eq!(stage.count(audit).await, 3);
    assert_eq!(
        stage
            .enqueue_one(
                "ada@example.org",
                ", cc => ARRAY['bob@example.org'], dedup_key => 'order-42', expires_at => now() + interval '1 hour'"
            )
            .await,
        first
    );
    Verdict::of(&stage.sql, &ledger).await.assert_each_once(5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rc32_what_is_on_its_way_or_in_doubt_is_not_sent_again_and_a_raw_message_gets_a_new_message_id_too() {
    let took = Phase::EndMarker { took: true };
    let script = Script::rules([Rule::at(took, Fault::Eof).recipient("doubt@example.org")]);
    let stage = Stage::with(SmtpServer::builder().script(script).start()).await;
    let again = "SELECT outbox.send_again($1, $2)";
    let refusal = async |id: uuid::Uuid, reason: &str| {
        let error = stage.sql.query_one(again, &[&id, &reason]).await.expect_err("refused");
        let error = error.as_db_error().expect("by the database");
        (error.code().code().to_owned(), error.hint().unwrap_or_default().to_owned())
    };
    let pending = stage.enqueue_one("later@example.org", ", not_before => now() + interval '1 day'").await;
    assert_eq!(refusal(pending, "why not").await.0, "22H56");
    assert_eq!(refusal(pending, " ").await.0, "22H50");
    assert_eq!(refusal(uuid::Uuid::nil(), "why not").await.0, "22H51");
    let _relay = stage.settings().run().await;
    let doubt = stage.enqueue_one("doubt@example.org", "").await;
    stage.until_state("doubt@example.org", "in_doubt").await;
    let (code, hint) = refusal(doubt, "why not").await;
    assert!(code == "22H56" && hint.contains("resolve"), "{code} {hint}");
    let raw = "SELECT outbox.enqueue(kind => 'raw', recipients => ARRAY['raw@example.org'], raw_message => convert_to(
        E'From: Shop <no-reply@shop.example>\\nX-First: message-id: not me\\nmessage-ID:\\n <fixed@elsewhere.example>\\nSubject: Gr\\u00fc\\u00dfe\\n\\nMessage-ID: in the body\\n\\u00fc\\n', 'UTF8'))";
    let first: uuid::Uuid = stage.sql.query_one(raw, &[]).await.expect("enqueues").get(0);
    stage.until_state("raw@example.org", "sent").await;
    let second: uuid::Uuid = stage.sql.query_one(again, &[&first, &"lost"]).await.expect("again").get(0);
    stage.until("sent", 2).await;
    let ledger = stage.server.ledger();
    let copies: Vec<_> = ledger.transactions().filter(|one| one.recipients == ["raw@example.org"]).collect();
    assert_eq!(copies[0].message_id.as_deref(), Some("<fixed@elsewhere.example>"));
    assert_eq!(copies[1].message_id, Some(format!("<{second}@{DOMAIN}>")));
    let body = |copy: &hapax_testkit::smtp::Transaction| {
        let text = String::from_utf8_lossy(&copy.body).into_owned();
        text.split_once("\r\n\r\n").map(|(_, body)| body.to_owned())
    };
    assert!(body(copies[0]).is_some_and(|text| text.contains("Message-ID: in the body")));
    assert_eq!((body(copies[0]), copies[0].header("X-First")), (body(copies[1]), copies[1].header("X-First")));
}
