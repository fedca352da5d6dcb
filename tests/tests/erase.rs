//! `hapax erase` while a relay is at work: what is on the wire ends as it does, nothing is sent twice or after it, and no
//! table, no line of output and no log names the address any more.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use hapax_testkit::{Fault, Phase, Rule, Script, SmtpServer, eventually};
use hapax_tests::stage::{PATIENCE, Settings, Stage};
use tokio_postgres::{Client, NoTls};
use uuid::Uuid;

const HIM: &str = "zebedee@example.org";
const ERASE: [&str; 4] = ["erase", HIM, "--reason", "ticket 4711"];

/// Of kind `comment`, which is gathered, and `letter`.
fn templates() -> tempfile::TempDir {
    let directory = tempfile::tempdir().expect("a directory");
    for kind in ["comment", "letter"] {
        std::fs::create_dir(directory.path().join(kind)).expect("it is new");
        for part in ["subject.txt", "body.txt"] {
            std::fs::write(directory.path().join(kind).join(part), "x").expect("it can be written");
        }
    }
    directory
}

fn collecting(stage: &Stage, directory: &Path, within: &str) -> Settings {
    stage.settings().set("templates.directory", directory.display()).set("kinds.comment.collect", within)
}

/// Tables with a row that has part of his address in it.
async fn named_in(stage: &Stage) -> Vec<String> {
    let tables = "SELECT relname::text FROM pg_class WHERE relnamespace = 'outbox'::regnamespace AND relkind IN ('r', 'p') AND NOT relispartition ORDER BY 1";
    let mut found = Vec::new();
    for row in stage.sql.query(tables, &[]).await.expect("reads") {
        let table: &str = row.get(0);
        let sql = format!(
            "SELECT count(*) FROM outbox.{table} t WHERE t::text ILIKE '%zebedee%' OR strpos(t::text, encode('zebedee', 'hex')) > 0"
        );
        if stage.count(&sql).await > 0 {
            found.push(table.to_owned());
        }
    }
    found
}

async fn until(stage: &Stage, id: Uuid, state: &str) {
    let sql = "SELECT state FROM outbox.deliveries WHERE message_id = $1";
    eventually(PATIENCE, async || {
        let now = stage.text(sql, &[&id]).await.unwrap_or_default();
        (now == state).then_some(()).ok_or(now)
    })
    .await;
}

async fn command(operator: &Settings, arguments: &[&str]) -> (i32, String) {
    let (code, said) = operator.command(arguments.iter().copied()).await;
    if arguments[0] == "erase" {
        assert!(!said.contains("zebedee"), "{said}");
    }
    (code, said)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn somebody_is_forgotten_while_a_relay_is_at_work_and_what_he_was_sent_can_be_proved() {
    let unknown = Fault::Custom("550 5.1.1 <Zebedee@example.org>: zebedee is unknown\r\n".into());
    let script = Script::rules([
        Rule::at(Phase::Rcpt, unknown).recipient(HIM).times(1),
        Rule::at(Phase::EndMarker { took: true }, Fault::Eof).recipient("ZEBEDEE@example.org"),
    ]);
    let stage = Stage::with(SmtpServer::builder().script(script).start()).await;
    let operator = stage.settings_of("operator");
    let templates = templates();
    let relay = collecting(&stage, templates.path(), "1h").run().await;
    let failed = stage.enqueue_one(HIM, "").await;
    until(&stage, failed, "failed").await;
    let doubt = stage.enqueue_one("Zebedee <ZEBEDEE@example.org>", ", headers => '{\"X-Who\": \"zebedee\"}'").await;
    until(&stage, doubt, "in_doubt").await;
    let sent = stage.enqueue_one(HIM, ", dedup_key => 'hi:zebedee@example.org'").await;
    until(&stage, sent, "sent").await;
    let named = stage.enqueue_one("o2@example.org", ", reply_to => 'Zebedee <zebedee@example.org>'").await;
    until(&stage, named, "sent").await;
    let (code, said) = operator.command(["suppress", HIM, "--kind", "ad", "--keep-address"]).await;
    assert_eq!(code, 0, "{said}");
    let insert = "SELECT outbox.enqueue('ad', ARRAY[$1::text], subject => 'x', body_text => 'zebedee')";
    let suppressed: Uuid = stage.sql.query_one(insert, &[&HIM]).await.expect("enqueues").get(0);
    until(&stage, suppressed, "suppressed").await;
    let insert =
        "SELECT outbox.enqueue('comment', ARRAY[$1::text], '{\"who\": \"zebedee\"}') FROM generate_series(1, 2)";
    stage.sql.query(insert, &[&HIM]).await.expect("enqueues");
    eventually(PATIENCE, async || {
        let gathered = stage.count("SELECT count(*) FROM outbox.digest_member").await;
        (gathered == 2).then_some(()).ok_or(gathered)
    })
    .await;
    let later = stage.enqueue_one(HIM, ", not_before => now() + interval '1 day'").await;
    let hold = stage.server.hold_final_reply();
    let sending = stage.enqueue_one(HIM, "").await;
    hold.wait_for(1).await;
    let shared = stage
        .enqueue_one("o1@example.org", ", cc => '{zebedee@example.org}', not_before => now() + interval '1 day'")
        .await;
    let enqueued = Arc::new(AtomicUsize::new(0));
    let (stop, producer) = producer(&stage, "x", enqueued.clone()).await;

    let (code, dry) = command(&operator, &["erase", HIM, "--dry-run", "--mentions"]).await;
    assert_eq!(code, 0, "{dry}");
    assert!(dry.contains("would erase: 7 messages; 4 would be cancelled; kept: 3; nothing was changed"), "{dry}");
    assert!(dry.contains(&format!("{named}  erased\n")), "{dry}");
    let (code, said) = command(&operator, &ERASE).await;
    assert_eq!(code, 1, "{said}");
    // What is cancelled and kept is told twice.
    let again = format!("{shared}/2  kept: ");
    for line in said.lines().filter(|line| !line.starts_with("erased: ") && !line.starts_with(&again)) {
        assert!(dry.contains(line), "{line} was not foretold:\n{dry}");
    }
    for (id, what) in [
        (failed, "erased"),
        (sent, "erased"),
        (suppressed, "erased"),
        (later, "cancelled, erased"),
        (sending, "kept: in flight; call again"),
        (doubt, "kept: in doubt; decide it with hapax resolve, or pass --close-doubts, then call again"),
    ] {
        assert!(said.contains(&format!("{id}/1  {what}\n")), "{id} {what}:\n{said}");
    }
    assert!(
        said.contains(&format!("{shared}/2  cancelled, kept: another delivery has of its message not ended")),
        "{said}"
    );
    assert!(said.contains("-  erased: in the suppression list"), "{said}");
    assert!(said.contains("erased: 6 messages; 4 cancelled; kept: 3, run it again later"), "{said}");
    hold.release();
    until(&stage, sending, "sent").await;
    stage.sql.query("SELECT outbox.cancel($1, 'not needed')", &[&shared]).await.expect("cancels");
    let (code, said) = command(&operator, &[&ERASE[..], &["--close-doubts", "--mentions", "--json"]].concat()).await;
    assert!(
        code == 0
            && said.contains("doubt closed, erased")
            && said.contains(&named.to_string())
            && said.contains("\"done\": true")
            && said.contains("\"kept\": []"),
        "{said}"
    );
    let (code, said) = command(&operator, &ERASE).await;
    assert!(code == 0 && said.contains("nothing to erase"), "{said}");

    assert_eq!(named_in(&stage).await, Vec::<String>::new());
    told(&stage, &operator, [failed, sent]).await;
    // Others have not waited, and he gets nothing more.
    let asked = stage.server.with_ledger(|ledger| ledger.count_rcpt_commands(HIM));
    let before = enqueued.load(Ordering::SeqCst);
    eventually(PATIENCE, async || {
        let now = enqueued.load(Ordering::SeqCst);
        (now >= before + 20).then_some(()).ok_or(now)
    })
    .await;
    stop.store(true, Ordering::SeqCst);
    producer.await.expect("ends");
    stage.until_settled().await;
    let all = i64::try_from(enqueued.load(Ordering::SeqCst)).expect("few");
    assert_eq!(
        stage.count("SELECT count(*) FROM outbox.deliveries WHERE recipient LIKE 'x%' AND state = 'sent'").await,
        all
    );
    let ledger = stage.server.ledger();
    ledger.assert_none_accepted_twice();
    assert_eq!(ledger.count_rcpt_commands(HIM) + ledger.count_rcpt_commands("ZEBEDEE@example.org"), asked + 1);
    assert!(!relay.report().to_lowercase().contains("zebedee"), "{}", relay.report());
}

/// All that is in each table.
async fn everything(stage: &Stage) -> Vec<(String, Option<String>)> {
    let tables = "SELECT relname::text FROM pg_class WHERE relnamespace = 'outbox'::regnamespace AND relkind IN ('r', 'p') AND NOT relispartition ORDER BY 1";
    let mut found = Vec::new();
    for row in stage.sql.query(tables, &[]).await.expect("reads") {
        let table: String = row.get(0);
        let sql = format!("SELECT md5(string_agg(t::text, ' ' ORDER BY t::text)) FROM outbox.{table} t");
        found.push((table, stage.sql.query_one(&sql, &[]).await.expect("reads").get(0)));
    }
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dry_run_foretells_what_erasing_does_and_changes_and_locks_nothing() {
    let stage = Stage::with(SmtpServer::start()).await;
    let operator = stage.settings_of("operator");
    let templates = templates();
    let mut relay = collecting(&stage, templates.path(), "1s").run().await;
    let sent =
        stage.enqueue_one(HIM, ", dedup_key => 'hi:zebedee@example.org', ordering_key => 'zebedee@example.org'").await;
    until(&stage, sent, "sent").await;
    relay.sigterm();
    assert!(relay.wait_exit(PATIENCE).await.success(), "{}", relay.report());
    stage.enqueue_one(HIM, ", ordering_key => 'zebedee@example.org'").await;
    let insert = "SELECT outbox.enqueue('comment', ARRAY[$1::text], '{}')";
    stage.sql.query(insert, &[&HIM]).await.expect("enqueues");
    let shared = stage
        .enqueue_one("o@example.org", ", cc => '{zebedee@example.org}', dedup_key => 'zebedee@example.org 2'")
        .await;
    stage.enqueue_one("o@example.org", ", reply_to => 'zebedee@example.org'").await;
    for words in
        [["suppress", HIM, "--kind", "ad", "--keep-address"], ["pause", "--address", HIM, "--reason", "zebedee asked"]]
    {
        let (code, said) = operator.command(words).await;
        assert_eq!(code, 0, "{said}");
    }
    let before = everything(&stage).await;
    // Somebody has all of it in hand: it is not waited for.
    let other = session(&stage).await;
    other
        .batch_execute("BEGIN; SELECT FROM outbox.queue FOR UPDATE; SELECT FROM outbox.done FOR UPDATE")
        .await
        .expect("locks");
    let (code, dry) = command(&operator, &["erase", HIM, "--dry-run"]).await;
    assert_eq!(code, 0, "{dry}");
    other.batch_execute("ROLLBACK").await.expect("ends");
    assert_eq!(everything(&stage).await, before);
    let (_, json) = command(&operator, &["erase", HIM, "--dry-run", "--json"]).await;
    assert!(json.contains("\"dry_run\": true") && json.contains(&sent.to_string()), "{json}");
    let (code, said) = command(&operator, &["erase", HIM]).await;
    assert!(code == 64 && said.contains("--reason"), "{code} {said}");
    let (code, said) = command(&operator, &ERASE).await;
    assert_eq!(code, 1, "{said}");
    // Keys are counted with those of messages, of which nothing is said then.
    let again = format!("{shared}/2  kept: ");
    let without_keys = |lines: Vec<String>| -> Vec<String> {
        lines.into_iter().filter(|line| !line.contains("dedup keys") && !line.starts_with(&again)).collect()
    };
    assert_eq!(without_keys(lines(&dry)), without_keys(lines(&said)));
    assert!(dry.contains("erased: 2 dedup keys"), "{dry}");
}

/// What is said of each message and each other thing.
fn lines(text: &str) -> Vec<String> {
    let mut lines: Vec<String> = text.lines().filter(|line| line.contains("  ")).map(str::to_owned).collect();
    lines.sort();
    lines
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dry_run_foretells_what_becomes_of_a_digest_and_of_what_is_in_it() {
    let later = Fault::Custom("451 4.3.0 later\r\n".into());
    let script = Script::rules([Rule::at(Phase::Rcpt, later).recipient(HIM)]);
    let stage = Stage::with(SmtpServer::builder().script(script).start()).await;
    let operator = stage.settings_of("operator");
    let templates = templates();
    let mut relay = collecting(&stage, templates.path(), "1s").run().await;
    let insert = "SELECT outbox.enqueue('comment', ARRAY[$1::text], '{}') FROM generate_series(1, 2)";
    stage.sql.query(insert, &[&HIM]).await.expect("enqueues");
    eventually(PATIENCE, async || {
        let tried = stage.count("SELECT count(*) FROM outbox.attempt WHERE outcome = 'deferred'").await;
        (tried > 0).then_some(()).ok_or(tried)
    })
    .await;
    relay.sigterm();
    assert!(relay.wait_exit(PATIENCE).await.success(), "{}", relay.report());
    assert_eq!(stage.count("SELECT count(*) FROM outbox.digest_member WHERE digest_id IS NOT NULL").await, 2);
    let (code, dry) = command(&operator, &["erase", HIM, "--dry-run"]).await;
    assert!(code == 0 && dry.contains("would erase: 3 messages; 1 would be cancelled; kept: 0"), "{dry}");
    let (code, said) = command(&operator, &ERASE).await;
    assert_eq!((code, lines(&dry)), (0, lines(&said)));
}

/// Proofs whose time is over are of upkeep and of who erases: neither waits for the other in a circle, and upkeep not at all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upkeep_passes_over_what_erasing_has_in_hand() {
    let stage = Stage::with(SmtpServer::start()).await;
    let relay = stage.settings().run().await;
    let other = session(&stage).await;
    for round in 1..=2 {
        for no in 1..=3 {
            let id = stage.enqueue_one(HIM, &format!(", dedup_key => 'zebedee@example.org {no}'")).await;
            until(&stage, id, "sent").await;
        }
        let erase = "SELECT * FROM outbox.erase('zebedee@example.org', 'asked')";
        if round == 1 {
            stage.sql.batch_execute(erase).await.expect("erases");
            let over = "UPDATE outbox.erased_key SET expires_at = now() - interval '1 minute'";
            stage.sql.batch_execute(over).await.expect("a day later");
            let more = "INSERT INTO outbox.erased_key VALUES ('\\x00', '\\x00', gen_random_uuid(), now() - interval '1 minute')";
            stage.sql.batch_execute(more).await.expect("somebody else's");
        } else {
            other.batch_execute("BEGIN").await.expect("begins");
            other.batch_execute(erase).await.expect("erases");
        }
    }
    let left = "SELECT count(*) FROM outbox.erased_key";
    assert_eq!(stage.count(left).await, 4);
    stage.sql.query("SELECT * FROM outbox.maintain()", &[]).await.expect("passes over them");
    assert_eq!(stage.count(left).await, 3, "what nobody has in hand goes");
    other.batch_execute("COMMIT").await.expect("ends");
    stage.sql.query("SELECT * FROM outbox.maintain()", &[]).await.expect("again");
    assert_eq!(stage.count(left).await, 3, "they have their time again");
    drop(relay);
}

/// What is said of him afterwards, and refused.
async fn told(stage: &Stage, operator: &Settings, [failed, sent]: [Uuid; 2]) {
    let (code, said) = command(operator, &["explain", HIM]).await;
    assert!(code == 0 && said.contains("The address was erased, last at "), "{said}");
    assert!(said.contains("nine messages: 4 cancelled, 1 failed, 3 sent and 1 suppressed"), "{said}");
    assert!(said.contains(&format!("{sent}/1")) && said.contains("550 5.1.1 <***>: *** is unknown"), "{said}");
    let (code, said) = command(operator, &["explain", HIM, "--json"]).await;
    assert!(code == 0 && said.contains("\"erased\": ["), "{said}");
    for (arguments, words) in [
        (vec!["show", "ID"], "gone: erased"),
        (vec!["explain", "ID"], "Its content is gone: it cannot be sent again."),
        (vec!["retry", "ID", "--reason", "x"], "is gone: an address of it was erased"),
        (vec!["send-again", "ID", "--reason", "x"], "is gone: an address of it was erased"),
    ] {
        let id = failed.to_string();
        let arguments: Vec<&str> = arguments.into_iter().map(|word| if word == "ID" { &id } else { word }).collect();
        let (code, said) = command(operator, &arguments).await;
        let refused = matches!(arguments[0], "retry" | "send-again");
        assert_eq!((code, said.contains(words)), (i32::from(refused), true), "{arguments:?}: {said}");
        assert!(!said.contains("zebedee"), "{said}");
    }
    let proof = "SELECT count(*) FROM outbox.erased($1) WHERE state = 'sent' AND reply IS NOT NULL";
    assert_eq!(
        stage.sql.query_one(proof, &[&HIM]).await.expect("asks").get::<_, i64>(0),
        2,
        "of the doubt there is none"
    );
}

/// Enqueues for others until it is told to stop.
async fn producer(
    stage: &Stage,
    name: &str,
    enqueued: Arc<AtomicUsize>,
) -> (Arc<AtomicBool>, tokio::task::JoinHandle<()>) {
    let stop = Arc::new(AtomicBool::new(false));
    let (client, name, stopped) = (session(stage).await, name.to_owned(), stop.clone());
    let work = async move {
        let insert = "INSERT INTO outbox.notification (kind, recipients, subject, body_text) VALUES ('note', ARRAY[$1], 'x', 'x')";
        while !stopped.load(Ordering::SeqCst) {
            let no = enqueued.load(Ordering::SeqCst);
            client.execute(insert, &[&format!("{name}{no}@example.org")]).await.expect("enqueues");
            enqueued.fetch_add(1, Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    (stop, tokio::spawn(work))
}

async fn session(stage: &Stage) -> Client {
    let (client, connection) =
        tokio_postgres::connect(&stage.cluster.direct_url_for("postgres", "postgres"), NoTls).await.expect("connects");
    tokio::spawn(connection);
    client
}

/// Everything that decides at once, for one address: relays claim and settle, operators erase, retry, cancel and send again.
/// No session is the victim of a deadlock, and whatever came of each delivery, the server took none twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn erasing_deadlocks_with_nobody_and_sends_nothing_twice() {
    let stage = Stage::with(SmtpServer::start()).await;
    let templates = templates();
    let settings = collecting(&stage, templates.path(), "1s");
    let relays = [settings.run().await, settings.set("relay.name", "two").run().await];
    let stop = Arc::new(AtomicBool::new(false));
    let work = [
        "INSERT INTO outbox.notification (kind, recipients, payload, ordering_key) SELECT CASE i % 3 WHEN 0 THEN 'comment' ELSE 'letter' END, ARRAY['zebedee@example.org'], '{}', CASE i % 3 WHEN 1 THEN 'k' END FROM generate_series(1, 5) i",
        "INSERT INTO outbox.notification (kind, recipients, subject, body_text) SELECT 'note', ARRAY['a@example.org', 'zebedee@example.org', 'b' || i || '@example.org'], 'x', 'x' FROM generate_series(1, 5) i",
        "INSERT INTO outbox.notification (kind, recipients, subject, body_text, dedup_key) SELECT 'note', ARRAY['zebedee@example.org'], 'x', 'x', 'zebedee@example.org ' || (random() * 50)::int FROM generate_series(1, 5) i",
        "SELECT * FROM outbox.erase('zebedee@example.org', 'first', 20)",
        "SELECT * FROM outbox.erase('zebedee@example.org', 'second', 20)",
        "SELECT * FROM outbox.erase('a@example.org', 'third', 20)",
        "SELECT outbox.cancel(q.message_id, 'x') FROM (SELECT DISTINCT message_id FROM outbox.queue LIMIT 3) q",
        "SELECT outbox.retry(d.message_id, reason => 'x') FROM (SELECT message_id FROM outbox.done WHERE state <> 'sent' AND (random() < 0.1 OR NOT outbox.is_content_gone(message_id)) ORDER BY random() LIMIT 1) d",
        "SELECT outbox.send_again(d.message_id, 'x') FROM (SELECT message_id FROM outbox.done WHERE random() < 0.1 OR NOT outbox.is_content_gone(message_id) ORDER BY random() LIMIT 1) d",
    ];
    let mut tasks = Vec::new();
    for sql in work {
        let (client, stop) = (session(&stage).await, stop.clone());
        tasks.push(tokio::spawn(async move {
            let mut done = 0;
            while !stop.load(Ordering::SeqCst) {
                match client.simple_query(sql).await {
                    Ok(_) => done += 1,
                    Err(error) => {
                        let code = error.code().map_or("", |code| code.code()).to_owned();
                        // Refused, as some of it must be.
                        assert!(["22H76", "22H56", "22H51"].contains(&code.as_str()), "{sql}: {error:?}");
                    }
                }
                tokio::time::sleep(Duration::from_millis(15)).await;
            }
            done
        }));
    }
    // So much of it that everything has met everything.
    eventually(PATIENCE, async || {
        let erased = stage.count("SELECT count(*) FROM outbox.erasure").await;
        (erased >= 400).then_some(()).ok_or(erased)
    })
    .await;
    stop.store(true, Ordering::SeqCst);
    for (task, sql) in tasks.into_iter().zip(work) {
        assert!(task.await.expect("ends well") > 0, "{sql} never did anything");
    }
    let erase = "SELECT count(*) FILTER (WHERE result NOT LIKE 'kept:%' OR message_id IS NOT NULL) FROM (SELECT * FROM outbox.erase('zebedee@example.org', 'last') UNION ALL SELECT * FROM outbox.erase('a@example.org', 'last')) x";
    eventually(PATIENCE, async || {
        let left = stage.count(erase).await;
        if left == 0 { Ok(()) } else { Err((left, stage.states().await)) }
    })
    .await;
    assert_eq!(named_in(&stage).await, Vec::<String>::new());
    let deadlocks = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()";
    assert_eq!(stage.count(deadlocks).await, 0);
    stage.server.with_ledger(|ledger| ledger.assert_none_accepted_twice());
    let wrong = "SELECT count(*) FROM outbox.done JOIN outbox.queue USING (message_id, recipient_no)";
    assert_eq!(stage.count(wrong).await, 0);
    for relay in &relays {
        let report = relay.report().to_lowercase();
        assert!(!report.contains("zebedee") && !report.contains("deadlock"), "{report}");
    }
}
