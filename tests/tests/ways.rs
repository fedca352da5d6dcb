//! Which way a message takes, when and from whom: quiet hours, routes of tenants and of senders' domains, routes that share,
//! envelope senders and local addresses of routes. With two relays and several scripted servers.
//!
//! A window of quiet hours is laid around the present by the hour: it neither begins nor ends while a test runs. How one ends
//! is for the tests of `quiet.rs`; here the hours are taken out of the configuration.

use std::{collections::BTreeMap, fs};

use hapax_testkit::{Action, Fault, HapaxProcess, Ledger, Phase, Script, SmtpServer, eventually};
use hapax_tests::{
    probe::Probe,
    stage::{DOMAIN, PATIENCE, Settings, Stage},
    verdict::Verdict,
};

/// From an hour ago to two hours from now, in UTC, by the database's clock.
async fn around_now(stage: &Stage) -> String {
    let sql = "SELECT to_char(at - interval '1 hour', 'HH24:MI-') || to_char(at + interval '2 hours', 'HH24:MI')
               FROM (SELECT now() AT TIME ZONE 'UTC' AS at) x";
    stage.text(sql, &[]).await.expect("a time")
}

fn url(server: &SmtpServer) -> String {
    format!("smtp://127.0.0.1:{}?starttls=none", server.port())
}

/// With a further route to this server.
fn with_route(settings: Settings, name: &str, server: &SmtpServer) -> Settings {
    let key = |key: &str| format!("routes.{name}.{key}");
    settings.set(&key("url"), url(server)).set(&key("from"), format!("Shop <no-reply@{DOMAIN}>"))
}

/// The recipients of what a server has taken, in order.
fn taken(server: &SmtpServer) -> Vec<String> {
    let mut taken: Vec<String> =
        server.with_ledger(|ledger| ledger.messages().flat_map(|message| message.recipients.clone()).collect());
    taken.sort();
    taken
}

/// Every delivery of the outbox was taken once by these servers together, and by no more than one of them.
async fn assert_each_once(stage: &Stage, servers: &[&SmtpServer], deliveries: usize) {
    let ledgers: Vec<Ledger> = servers.iter().map(|server| server.ledger()).collect();
    let sql = "SELECT message_id::text, recipient, state FROM outbox.deliveries";
    let rows = stage.sql.query(sql, &[]).await.expect("deliveries can be read");
    assert_eq!(rows.len(), deliveries);
    for row in &rows {
        let (id, recipient, state): (String, String, String) = (row.get(0), row.get(1), row.get(2));
        let of = |ledger: &Ledger| -> usize {
            let known = ledger.all_counts().iter();
            known.filter(|((header, to), _)| header.starts_with(&id) && *to == recipient).map(|(_, n)| n.accepted).sum()
        };
        let times: usize = ledgers.iter().map(of).sum();
        let asked = ledgers.iter().filter(|ledger| ledger.count_rcpt_commands(&recipient) > 0).count();
        assert_eq!((state.as_str(), times, asked), ("sent", 1, 1), "{recipient}");
    }
}

/// How many deliveries these relays have claimed.
async fn claimed(relays: &[&HapaxProcess]) -> f64 {
    let mut all = 0.0;
    for relay in relays {
        all += Probe::of(relay).await.scrape().await.value("claim_batch_size_sum");
    }
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_quiet_hours_a_kind_waits_by_the_clock_of_its_recipient_and_costs_nothing() {
    let stage = Stage::set().await;
    let templates = tempfile::tempdir().expect("a directory");
    fs::create_dir(templates.path().join("letter")).expect("made");
    for name in ["subject.txt", "body.txt"] {
        fs::write(templates.path().join("letter").join(name), "x").expect("written");
    }
    let loud = stage
        .settings()
        .set("http.listen", "127.0.0.1:0")
        .set("templates.directory", templates.path().display())
        // Hours away from where it is quiet.
        .set("tenants.far.time_zone", "Etc/GMT-8");
    let hours = around_now(&stage).await;
    let quiet = ["note", "letter"].iter().fold(loud.clone(), |settings, kind| {
        settings
            .set(&format!("kinds.{kind}.quiet_hours"), &hours)
            .set(&format!("kinds.{kind}.time_zone_from"), "payload.to.zone")
    });
    let (code, said) = quiet.command(["check"]).await;
    assert_eq!(code, 0, "{said}");
    let (mut one, mut two) = (quiet.run().await, quiet.run().await);
    // Much of it, in front of everything else.
    stage.enqueue(200).await;
    let id = stage.enqueue_one("w1@example.org", "").await;
    stage.enqueue_one("far1@example.org", ", tenant => 'far'").await;
    stage.enqueue_one("x1@example.org", ", expires_at => clock_timestamp() + interval '1500 ms'").await;
    let other = "INSERT INTO outbox.notification (kind, recipients, subject, body_text) VALUES ('other', '{o1@example.org}', 's', 't')";
    let letters = "INSERT INTO outbox.notification (kind, recipients, tenant, payload) VALUES
        ('letter', '{far2@example.org}', NULL, '{\"to\": {\"zone\": \"Etc/GMT-8\"}}'),
        ('letter', '{w2@example.org}', NULL, '{\"to\": {\"zone\": \"UTC\"}}'),
        ('letter', '{w3@example.org}', 'far', '{\"to\": {\"zone\": \"UTC\"}}'),
        ('letter', '{w4@example.org}', NULL, '{\"to\": {\"zone\": \"Atlantis/Poseidonis\"}}'),
        ('letter', '{w5@example.org}', NULL, '{}')";
    stage.sql.batch_execute(&format!("{other};{letters}")).await.expect("enqueues");
    for address in ["far1@example.org", "far2@example.org", "o1@example.org"] {
        stage.until_state(address, "sent").await;
    }
    stage.until_state("x1@example.org", "expired").await;
    let waiting = "SELECT count(*) FROM outbox.queue WHERE due_at > now() + interval '119 minutes' AND lease IS NULL AND claims = 0
                   AND attempt_no = 0 AND intents = 0 AND note LIKE 'quiet hours of its kind: not before %'";
    eventually(PATIENCE, async || {
        let waiting = stage.count(waiting).await;
        (waiting == 205).then_some(()).ok_or(waiting)
    })
    .await;
    let spread = "SELECT round(extract(epoch FROM max(due_at) - min(due_at)))::bigint FROM outbox.queue";
    assert!(stage.count(spread).await <= 5, "all at the end of the hours");
    assert_eq!(taken(&stage.server), ["far1@example.org", "far2@example.org", "o1@example.org"]);
    assert_eq!(stage.server.with_ledger(Ledger::count_mail_commands), 3);
    let attempts = "SELECT count(*) FROM outbox.attempt WHERE outcome <> 'accepted'";
    assert_eq!(stage.count(attempts).await, 0);
    // Each was claimed once, what expires twice: nothing is looked at again and again.
    assert!(claimed(&[&one, &two]).await <= 210.0, "{}", claimed(&[&one, &two]).await);
    let warned = |relay: &HapaxProcess| relay.lines().iter().filter(|line| line.contains("is no time zone")).count();
    assert_eq!(warned(&one) + warned(&two), 1);
    let all: String = [one.lines(), two.lines()].concat().concat();
    assert!(!all.contains("Atlantis"), "what stands in a payload is not logged");
    let (code, said) = stage.settings_of("operator").command(["explain", &id.to_string()]).await;
    assert!(code == 0 && said.contains("Waits: quiet hours of its kind: not before 2"), "{said}");
    // The hours are over.
    for relay in [&mut one, &mut two] {
        relay.sigterm();
        assert!(relay.wait_exit(PATIENCE).await.success());
    }
    let _relays = (loud.run().await, loud.run().await);
    stage.sql.batch_execute("UPDATE outbox.queue SET due_at = now()").await.expect("updates");
    stage.until("sent", 208).await;
    let verdict = Verdict::of(&stage.sql, &stage.server.ledger()).await;
    verdict.assert_clean(209);
    assert_eq!((verdict.accepted, verdict.twice.len()), (208, 0));
}

/// Pauses the default route, or resumes it.
async fn operate(stage: &Stage, word: &str) {
    let words = [word, "--route", "default", "--reason", "a test"];
    let (code, said) = stage.settings_of("operator").command(words).await;
    assert_eq!(code, 0, "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tenants_and_senders_have_routes_with_envelopes_and_addresses_of_their_own() {
    let (stage, acme, own) = (Stage::set().await, SmtpServer::start(), SmtpServer::start());
    let settings = with_route(with_route(stage.settings(), "acme", &acme), "own", &own)
        .set("tenants.acme.route", "acme")
        .set("senders.\"own.example\".route", "own")
        .set("kinds.plain.route", "default")
        .set("routes.acme.envelope_sender", "bounces+{message_id}.{recipient_no}@bounce.example")
        .set("routes.own.local_address", "127.0.0.2")
        .set("routes.lost.url", url(&own))
        .set("routes.lost.from", "a@example.org")
        .set("routes.lost.local_address", "203.0.113.5");
    let _relays = (settings.run().await, settings.run().await);
    let id = stage
        .enqueue_one(
            "a1@example.org",
            ", tenant => 'acme', cc => ARRAY['a2@example.org'], bcc => ARRAY['a3@example.org']",
        )
        .await;
    stage.enqueue_one("a4@example.org", ", tenant => 'acme', sender => 'Own <news@own.example>'").await;
    stage.enqueue_one("s1@example.org", ", sender => 'Own <news@OWN.example>', tenant => 'other'").await;
    stage.enqueue_one("d1@example.org", ", sender => 'news@mail.own.example'").await;
    stage.enqueue_one("d2@example.org", ", tenant => 'acme', route => 'default'").await;
    let plain = "INSERT INTO outbox.notification (kind, recipients, tenant, subject, body_text) VALUES ('plain', '{d3@example.org}', 'acme', 's', 't')";
    stage.sql.batch_execute(plain).await.expect("enqueues");
    stage.until("sent", 8).await;
    assert_eq!(taken(&acme), ["a1@example.org", "a2@example.org", "a3@example.org", "a4@example.org"]);
    assert_eq!(taken(&own), ["s1@example.org"]);
    assert_eq!(taken(&stage.server), ["d1@example.org", "d2@example.org", "d3@example.org"]);
    // Each recipient of one message has an envelope sender of its own, and the same message.
    let senders: BTreeMap<String, (String, Option<String>)> = acme.with_ledger(|ledger| {
        let of = ledger
            .messages()
            .map(|message| (message.recipients.concat(), (message.sender.clone(), message.header("From"))));
        of.collect()
    });
    for no in 1..=3 {
        let (sender, from) = &senders[&format!("a{no}@example.org")];
        assert_eq!(*sender, format!("bounces+{id}.{no}@bounce.example"));
        assert!(from.as_ref().is_some_and(|from| from.contains(&format!("no-reply@{DOMAIN}"))), "{from:?}");
    }
    assert_eq!(
        stage.server.with_ledger(|ledger| ledger.messages().map(|one| one.sender.clone()).max()),
        Some(format!("no-reply@{DOMAIN}"))
    );
    let operator = with_route(stage.settings_of("operator"), "acme", &acme)
        .set("routes.acme.envelope_sender", "bounces+{message_id}.{recipient_no}@bounce.example");
    let (code, said) = operator.command(["explain", &format!("bounces+{id}.2@bounce.example")]).await;
    assert!(code == 0 && said.contains(&format!("{id}/2")), "{said}");
    // A default route that rests, and then is paused, stops nobody else's mail, though all of it was enqueued into its lanes.
    stage.server.stop().await;
    stage.enqueue(60).await;
    stage.enqueue_one("a5@example.org", ", tenant => 'acme'").await;
    stage.until_state("a5@example.org", "sent").await;
    operate(&stage, "pause").await;
    stage.server.restart().await;
    stage.enqueue_one("d4@example.org", "").await;
    stage.enqueue_one("s2@example.org", ", sender => 'news@own.example'").await;
    stage.until_state("s2@example.org", "sent").await;
    assert_eq!(stage.states().await.get("sent"), Some(&10));
    operate(&stage, "resume").await;
    stage.until("sent", 71).await;
    assert_each_once(&stage, &[&stage.server, &acme, &own], 71).await;
    // Where connections come from.
    let clients = |server: &SmtpServer| -> Vec<String> {
        let ip = |ledger: &Ledger| {
            ledger.connections().iter().filter_map(|one| Some(one.client?.ip().to_string())).collect()
        };
        let mut clients: Vec<String> = server.with_ledger(ip);
        clients.dedup();
        clients
    };
    assert_eq!(clients(&own), ["127.0.0.2"]);
    assert_eq!(clients(&acme), ["127.0.0.1"]);
    stage.enqueue_one("l1@example.org", ", route => 'lost'").await;
    let failed = "SELECT count(*) FROM outbox.attempt WHERE phase = 'connect' AND outcome = 'not_sent'
                  AND detail LIKE 'local_address 203.0.113.5 cannot be used: %'";
    eventually(PATIENCE, async || (stage.count(failed).await > 0).then_some(()).ok_or("no attempt yet")).await;
    assert_eq!(clients(&own), ["127.0.0.2"], "from nowhere else");
    let (_, said) = settings.command(["doctor"]).await;
    assert!(said.contains("local_address 203.0.113.5 cannot be used"), "{said}");
}

/// Takes everything at the second asking.
fn hesitant() -> Script {
    Script::from_fn(|context| {
        let first = context.phase == Phase::Rcpt && context.recipient_seen <= 1;
        if first { Action::Fault(Fault::Reply4xx) } else { Action::Proceed }
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn routes_that_share_get_their_parts_and_every_attempt_of_a_message_goes_the_same_way() {
    let stage = Stage::with(SmtpServer::builder().script(hesitant()).start()).await;
    let (new, backup) = (SmtpServer::builder().script(hesitant()).start(), SmtpServer::start());
    let settings = with_route(with_route(stage.settings(), "new", &new), "backup", &backup)
        .set("routes.default.weights.default", 9)
        .set("routes.default.weights.new", 1)
        .set("routes.new.fallback", "backup");
    let _relays = (settings.run().await, settings.run().await);
    stage.enqueue(400).await;
    stage.until("sent", 400).await;
    let share = taken(&new).len();
    println!("{share} of 400 went by the route with a tenth");
    assert!((10..=70).contains(&share), "five standard deviations: {share}");
    assert_each_once(&stage, &[&stage.server, &new], 400).await;
    assert_eq!(stage.count("SELECT min(attempt_no)::bigint FROM outbox.done").await, 2, "each was tried twice");
    // What was not begun goes by the fallback of the route that was chosen for it, the rest as before.
    new.stop().await;
    let before = taken(&stage.server).len();
    let sql = "INSERT INTO outbox.notification (kind, recipients, subject, body_text)
               SELECT 'note', ARRAY['s' || i || '@example.org'], 's', 't' FROM generate_series(1, 200) i";
    stage.sql.batch_execute(sql).await.expect("enqueues");
    stage.until("sent", 600).await;
    let (here, there) = (taken(&stage.server).len() - before, taken(&backup).len());
    assert!(here + there == 200 && (1..=50).contains(&there), "{here} and {there}");
    assert_each_once(&stage, &[&stage.server, &new, &backup], 600).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_in_doubt_at_a_route_that_shares_stays_there_when_the_parts_change() {
    let losing = Script::from_fn(|context| {
        let end = matches!(context.phase, Phase::EndMarker { .. }) && context.recipient_seen <= 1;
        if end { Action::TakeThen(Fault::Eof) } else { Action::Proceed }
    });
    let (stage, new) = (Stage::set().await, SmtpServer::builder().script(losing.body_percents([])).start());
    let shared = |default: u32, new_part: u32| {
        with_route(stage.settings(), "new", &new)
            .set("routes.new.idempotency_header", "Resend-Idempotency-Key")
            .set("routes.new.idempotency_window", "24h")
            .set("routes.default.weights.default", default)
            .set("routes.default.weights.new", new_part)
    };
    // No reply before the relay is gone: where it sees its doubts itself it sends again at once.
    let hold = new.hold_final_reply();
    let mut relay = shared(0, 1).run().await;
    stage.enqueue(10).await;
    stage.enqueue_one("again@example.org", ", on_doubt => 'resend'").await;
    new.wait_until_within(PATIENCE, |ledger| ledger.totals().accepted == 11).await;
    relay.sigkill();
    relay.wait_exit(PATIENCE).await;
    hold.release();
    stage.sql.batch_execute("UPDATE outbox.relay SET doubt_grace = interval '1 s'").await.expect("updates");
    let _relays = (shared(1, 0).run().await, shared(1, 0).run().await);
    stage.enqueue_one("later@example.org", "").await;
    stage.until("sent", 12).await;
    assert_eq!(taken(&stage.server), ["later@example.org"], "the parts have changed");
    assert_eq!(new.with_ledger(|ledger| ledger.totals().end_markers), 22, "each came back to where it was");
}
