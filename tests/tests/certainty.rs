//! When the outcome is certain, seen from outside: the real binary, a mail server that misbehaves, and the states that
//! come of it. In doubt is what was handed over without an answer, and only that; it is never tried again.

use std::time::Duration;

use hapax_testkit::smtp::{Certificate, TlsMode};
use hapax_testkit::{Fault, Phase, Rule, Script, SmtpServer, eventually};
use hapax_tests::stage::{PATIENCE, Stage};
use hapax_tests::verdict::Verdict;

fn custom(at: Phase, reply: &str) -> Rule {
    Rule::at(at, Fault::Custom(format!("{reply}\r\n").into_bytes()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rc08_rc12_rc18_taken_and_then_no_answer_is_in_doubt_and_never_tried_again() {
    let took = Phase::EndMarker { took: true };
    let faults = [
        Fault::Stall,
        Fault::Eof,
        Fault::Reset,
        Fault::Garbage,
        Fault::Reply421,
        Fault::Reply3xx,
        Fault::HalfLine,
        Fault::HalfLineEof,
    ];
    let rules =
        faults.iter().zip(1..).map(|(fault, n)| Rule::at(took, fault.clone()).recipient(format!("r{n}@example.org")));
    let stage = Stage::with(SmtpServer::builder().script(Script::rules(rules.collect::<Vec<_>>())).start()).await;
    let relay = stage.settings().set("relay.final_reply_timeout", "1s").run().await;
    stage.enqueue(20).await;
    stage.until("in_doubt", 8).await;
    stage.until("sent", 12).await;
    // Many rounds of everything else go by: nothing of the eight moves.
    for _ in 0..5 {
        stage.sql.batch_execute("SELECT outbox.enqueue(kind => 'note', recipients => ARRAY['more@example.org'], subject => 's', body_text => 't')").await.expect("enqueues");
        stage.until_settled().await;
    }
    drop(relay);
    let _second = stage.settings().run().await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    for n in 1..=8 {
        let recipient = format!("r{n}@example.org");
        assert_eq!(stage.server.with_ledger(|ledger| ledger.count_rcpt_commands(&recipient)), 1, "{:?}", faults[n - 1]);
        let (state, reason) = stage.state_of(&recipient).await;
        assert_eq!(state, "in_doubt");
        println!("{:?}: {reason}", faults[n - 1]);
    }
    let verdict = Verdict::of(&stage.sql, &stage.server.ledger()).await;
    verdict.assert_clean(25);
    assert_eq!((verdict.accepted, verdict.count("in_doubt"), verdict.twice.len()), (25, 8, 0), "{verdict}");
    // RC-24: people are asked, and asked again.
    let id = stage
        .text("SELECT message_id::text FROM outbox.in_doubt ORDER BY message_id LIMIT 1", &[])
        .await
        .expect("an id");
    let (_, output) = stage.settings_of("operator").command(["retry", &id, "--reason", "impatience"]).await;
    assert!(output.contains("resolve"), "{output}");
    assert_eq!(stage.count("SELECT count(*) FROM outbox.in_doubt").await, 8);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn not_taken_and_no_answer_is_in_doubt_too_for_nobody_can_tell() {
    let rules = [Fault::Eof, Fault::Reset, Fault::Reply421]
        .into_iter()
        .zip(1..)
        .map(|(fault, n)| Rule::at(Phase::EndMarker { took: false }, fault).recipient(format!("r{n}@example.org")));
    let stage = Stage::with(SmtpServer::builder().script(Script::rules(rules.collect::<Vec<_>>())).start()).await;
    let _relay = stage.settings().run().await;
    stage.enqueue(6).await;
    stage.until("in_doubt", 3).await;
    stage.until("sent", 3).await;
    let verdict = Verdict::of(&stage.sql, &stage.server.ledger()).await;
    verdict.assert_clean(6);
    assert_eq!(verdict.accepted, 3, "{verdict}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rc10_rc14_rc31_a_refusal_for_now_is_tried_again_with_the_same_bytes_and_a_permanent_one_fails_in_the_servers_words()
 {
    let script = Script::rules([
        custom(Phase::Rcpt, "450 4.2.1 greylisted").recipient("b@example.org").times(2),
        custom(Phase::EndMarker { took: false }, "451 4.3.0 disk full").recipient("c@example.org").times(2),
        custom(Phase::Rcpt, "550 5.1.1 no such user").recipient("d@example.org"),
        custom(Phase::EndMarker { took: false }, "554 5.7.1 spam").recipient("e@example.org"),
        custom(Phase::Data, "451 4.3.2 not now").recipient("f@example.org").times(1),
        custom(Phase::Mail, "452 4.3.1 later").transaction(1).times(1),
    ]);
    let stage = Stage::with(SmtpServer::builder().script(script).start()).await;
    let mut relay = stage.settings().run().await;
    let people: Vec<String> = ["a", "b", "c", "d", "e", "f"].map(|name| format!("{name}@example.org")).to_vec();
    let enqueue = "SELECT outbox.enqueue(kind => 'note', recipients => $1, subject => 'Grüße', body_text => '.')";
    stage.sql.execute(enqueue, &[&people]).await.expect("enqueues");
    stage.until_settled().await;
    relay.sigterm();
    assert!(relay.wait_exit(Duration::from_secs(30)).await.success());
    for (person, state, reason) in [
        ("a", "sent", ""),
        ("b", "sent", ""),
        ("c", "sent", ""),
        ("d", "failed", "refused at rcpt: 550 5.1.1 no such user"),
        ("e", "failed", "refused at end_marker: 554 5.7.1 spam"),
        ("f", "sent", ""),
    ] {
        let found = stage.state_of(&format!("{person}@example.org")).await;
        assert_eq!(found, (state.to_owned(), reason.to_owned()), "{person}");
    }
    let verdict = Verdict::of(&stage.sql, &stage.server.ledger()).await;
    verdict.assert_clean(6);
    assert_eq!((verdict.accepted, verdict.twice.len()), (4, 0), "{verdict}");
    let attempts = stage.count("SELECT count(*) FROM outbox.attempt").await;
    let ledger = stage.server.ledger();
    assert_eq!(i64::try_from(ledger.count_mail_commands()).expect("few"), attempts);
    // Three whole copies to c were read, two of them refused: the same bytes each time.
    let copies: Vec<_> =
        ledger.transactions().filter(|one| one.end_marker_read && one.recipients == ["c@example.org"]).collect();
    assert!(copies.len() == 3 && copies.iter().all(|copy| copy.body == copies[0].body));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_away_costs_no_attempt_and_everything_goes_out_when_it_is_back() {
    let stage = Stage::set().await;
    stage.server.stop().await;
    let _relay = stage.settings().run().await;
    stage.enqueue(100).await;
    eventually(PATIENCE, async || {
        stage.count("SELECT count(*) FROM outbox.attempt WHERE phase = 'connect'").await >= 3
    })
    .await;
    assert_eq!(stage.count("SELECT count(*) FROM outbox.queue WHERE attempt_no > 0 OR intents > 0").await, 0);
    let states = stage.states().await;
    assert_eq!(
        states.keys().filter(|state| !["pending", "claimed"].contains(&state.as_str())).count(),
        0,
        "{states:?}"
    );
    stage.server.restart().await;
    stage.until("sent", 100).await;
    let tried = stage.count("SELECT count(*) FROM outbox.attempt WHERE outcome = 'not_sent'").await;
    println!("{tried} attempts to connect were recorded for 100 deliveries");
    assert!(tried < 100, "the breaker lets single probes through: {tried}");
    Verdict::of(&stage.sql, &stage.server.ledger()).await.assert_each_once(100);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_certificate_keeps_it_pending_says_why_and_sends_nothing() {
    for (certificate, words) in [
        (Certificate::WrongName, "certificate"),
        (Certificate::Expired, "certificate"),
        (Certificate::SelfSigned, "certificate"),
    ] {
        let server = SmtpServer::builder().tls(TlsMode::StartTls).certificate(certificate).start();
        let stage = Stage::with(server).await;
        let directory = tempfile::tempdir().expect("a directory");
        let ca_file = directory.path().join("ca.pem");
        std::fs::write(&ca_file, stage.server.ca_pem()).expect("it can be written");
        let url = format!("smtp://127.0.0.1:{}?starttls=required", stage.server.port());
        let settings = stage.settings().set("routes.default.url", url).set("routes.default.ca_file", ca_file.display());
        let _relay = settings.run().await;
        stage.enqueue(1).await;
        let detail = eventually(PATIENCE, async || {
            let sql = "SELECT concat_ws(' ', phase, cause, detail) FROM outbox.attempt WHERE phase = 'tls' LIMIT 1";
            let row = stage.sql.query_opt(sql, &[]).await.expect("attempts can be read")?;
            Some(row.get::<_, String>(0))
        })
        .await;
        println!("{certificate:?}: {detail}");
        assert!(detail.contains(words), "{detail}");
        let (state, _) = stage.state_of("r1@example.org").await;
        assert!(state == "pending" || state == "claimed", "{state}");
        assert_eq!(stage.server.with_ledger(hapax_testkit::Ledger::count_mail_commands), 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_route_that_answers_530_to_every_mail_does_not_fail_the_messages_and_is_asked_less_and_less() {
    let stage = Stage::with(
        SmtpServer::builder().script(Script::rules([custom(Phase::Mail, "530 5.7.0 authenticate first")])).start(),
    )
    .await;
    let _relay = stage.settings().run().await;
    stage.enqueue(50).await;
    // The route is at fault: probes at one, two, four seconds, not fifty messages a second for ever.
    tokio::time::sleep(Duration::from_secs(6)).await;
    let asked = stage.server.with_ledger(hapax_testkit::Ledger::count_mail_commands);
    println!("asked {asked} times within 6 s");
    let states = stage.states().await;
    assert_eq!(states.values().sum::<i64>(), 50);
    assert!(states.keys().all(|state| state == "pending" || state == "claimed"), "{states:?}");
    assert!(asked <= 40, "{asked} MAIL commands to a server that takes none");
    stage.server.script(Script::good());
    stage.until("sent", 50).await;
    Verdict::of(&stage.sql, &stage.server.ledger()).await.assert_each_once(50);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rc11_whatever_happens_after_a_whole_250_it_is_sent() {
    let took = Phase::EndMarker { took: true };
    let rules = [
        Fault::GoodThenEof,
        Fault::GoodThenReset,
        Fault::Latin1Text,
        Fault::ByteByByte,
        Fault::DelayedGood(Duration::from_millis(700)),
        Fault::Custom(b"250-2.0.0 one\r\n250-two\r\n250 three\r\n".to_vec()),
        Fault::Custom(b"250\r\n".to_vec()),
        Fault::Custom(b"251 other\r\n".to_vec()),
    ];
    let count = rules.len();
    let rules =
        rules.into_iter().zip(1..).map(|(fault, n)| Rule::at(took, fault).recipient(format!("r{n}@example.org")));
    let quit = Rule::at(Phase::Quit, Fault::Stall);
    let stage =
        Stage::with(SmtpServer::builder().script(Script::rules(rules.chain([quit]).collect::<Vec<_>>())).start()).await;
    let mut relay = stage.settings().run().await;
    stage.enqueue(i32::try_from(count).expect("few")).await;
    stage.until_settled().await;
    relay.sigterm();
    relay.wait_exit(Duration::from_secs(60)).await;
    let verdict = Verdict::of(&stage.sql, &stage.server.ledger()).await;
    let sql = "SELECT string_agg(concat_ws(' ', recipient, state, reason), '; ') FROM outbox.deliveries WHERE state <> 'sent'";
    println!("not sent: {:?}", stage.text(sql, &[]).await);
    verdict.assert_each_once(count);
}
