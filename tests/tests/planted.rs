//! Words planted in everything that is nobody's business: addresses, subjects, bodies, payloads, headers, attachments,
//! passwords, keys. A relay goes through all that can befall a message and itself, commands are asked, and mis-asked, as a
//! viewer and as others; and nothing that any of them says, anywhere, has one of the words in it.

use std::path::Path;
use std::process::Command;

use base64::{Engine, engine::general_purpose::STANDARD};
use hapax_testkit::{Fault, HapaxProcess, PgCluster, Phase, Rule, Script, SmtpServer, eventually};
use hapax_tests::collector::{Collector, Manner};
use hapax_tests::probe::Probe;
use hapax_tests::stage::{PATIENCE, Settings, Stage};

/// In all that is planted; in no name of a file, a kind, a user.
const WORD: &str = "starling";
const DATABASE_PASSWORD: &str = "starling-database-password";
const SMTP_PASSWORD: &str = "starling-smtp-password";
const USER: &str = "shop";
/// What servers repeat beside addresses. It stands in the outbox, where operators and viewers read their words (addresses
/// are masked for viewers), and nowhere else.
const REPEATED: [&str; 2] = ["starling-subject is", "starling-wrong-password is"];
const UNSUBSCRIBE_KEY: &str = "starling-unsubscribe-key-0123456789";

/// Everything that was said, and who said it.
#[derive(Default)]
struct Heard {
    texts: Vec<(String, String)>,
    /// What may not be in any of it.
    words: Vec<String>,
}

impl Heard {
    fn add(&mut self, who: impl Into<String>, text: impl Into<String>) {
        self.texts.push((who.into(), text.into()));
    }

    #[track_caller]
    fn assert_nothing_planted(&self) {
        let mut found = Vec::new();
        for (who, text) in &self.texts {
            let leaks = |line: &&str| self.words.iter().any(|word| line.to_lowercase().contains(&word.to_lowercase()));
            found.extend(text.lines().filter(leaks).map(|line| format!("{who}: {line}")));
        }
        assert!(found.is_empty(), "{} lines have planted words:\n{}", found.len(), found.join("\n"));
        let bytes: usize = self.texts.iter().map(|(_, text)| text.len()).sum();
        println!("{} texts of {bytes} bytes, and none has a planted word", self.texts.len());
        assert!(bytes > 50_000, "too little was said for that to mean anything");
    }
}

fn write(path: &Path, text: &str) {
    std::fs::create_dir_all(path.parent().expect("it lies in a directory")).expect("made");
    std::fs::write(path, text).expect("written");
}

/// The relay's files, with words in those that are secret.
struct Place {
    directory: tempfile::TempDir,
    settings: Settings,
}

impl Place {
    fn new(stage: &Stage, collector: &Collector, heard: &mut Heard) -> Self {
        let directory = tempfile::Builder::new().prefix("hapax-planted-").tempdir().expect("a directory");
        let at = |name: &str| directory.path().join(name);
        write(&at("smtp-password"), SMTP_PASSWORD);
        write(&at("leave.key"), UNSUBSCRIBE_KEY);
        write(&at("otlp-headers"), "Authorization: Bearer starling-collector-token\n");
        let made =
            Command::new("openssl").args(["genpkey", "-algorithm", "ED25519", "-out"]).arg(at("dkim.pem")).output();
        assert!(made.expect("there is openssl").status.success());
        write(&at("templates/note_form/subject.txt"), "{{ title }}");
        write(&at("templates/note_form/body.txt"), "{{ text }} {{ number + 1 }}\n");
        write(&at("templates/news/subject.txt"), "News");
        write(&at("templates/news/body.txt"), "{{ text }}\n");
        write(&at("templates/news/kind.toml"), "[unsubscribe]\nurl = \"https://shop.example/leave\"\n");
        let key = std::fs::read_to_string(at("dkim.pem")).expect("it was made");
        heard.words = vec![
            WORD.to_owned(),
            key.lines().nth(1).expect("it has content").to_owned(),
            STANDARD.encode(SMTP_PASSWORD),
            STANDARD.encode(format!("\0{USER}\0{SMTP_PASSWORD}")),
        ];
        let database = stage.cluster.url_for("postgres", "relay");
        let settings = stage
            .settings()
            .set("database.url", database.replace("relay@", &format!("relay:{DATABASE_PASSWORD}@")))
            .set("database.statement_timeout", "2s")
            .set("routes.default.url", format!("smtp://{USER}@127.0.0.1:{}?starttls=none", stage.server.port()))
            .set("routes.default.password_file", at("smtp-password").display())
            .set("templates.directory", at("templates").display())
            .set("templates.unsubscribe_key_file", at("leave.key").display())
            .set("dkim.shop.domain", "shop.example")
            .set("dkim.shop.selector", "s1")
            .set("dkim.shop.private_key_file", at("dkim.pem").display())
            .set("http.listen", "127.0.0.1:0")
            .set("telemetry.otlp_endpoint", collector.endpoint())
            .set("telemetry.otlp_headers_file", at("otlp-headers").display())
            .set("routes.default.traceparent_header", true)
            .set("relay.shutdown_grace", "30s")
            .set("log.level", "trace");
        Self { directory, settings }
    }

    fn as_user(&self, user: &str) -> Settings {
        let url = self.settings.toml().lines().find_map(|line| line.strip_prefix("url = \"postgres")).map(String::from);
        let url = format!("postgres{}", url.expect("it has one").trim_end_matches('"'));
        self.settings.clone().set("database.url", url.replace("relay:", &format!("{user}:")))
    }
}

/// Refuses, defers, vanishes, and repeats addresses wherever it says something.
fn script() -> Script {
    let reply = |text: &str| Fault::Custom(format!("{text}\r\n").into_bytes());
    let at = |who: &str, phase, fault| Rule::at(phase, fault).recipient(format!("{WORD}-{who}@example.org"));
    Script::rules([
        at("refused", Phase::Rcpt, reply("550 5.1.1 <starling-refused@example.org> is unknown here")),
        at(
            "late",
            Phase::EndMarker { took: false },
            reply("554 5.7.1 starling-late@example.org: starling-subject is spam"),
        ),
        at("deferred", Phase::Rcpt, reply("450 4.2.0 <starling-deferred@example.org>: greylisted")).times(1),
        at("doubt", Phase::EndMarker { took: true }, Fault::Eof),
        at("odd", Phase::Mail, reply("hello starling-odd@example.org")).times(1),
        at("odd", Phase::Data, reply("999 starling-odd@example.org")).times(1),
    ])
}

async fn enqueue(stage: &Stage) {
    for who in ["fine", "refused", "late", "deferred", "doubt", "odd"] {
        let sql = format!(
            "SELECT outbox.enqueue(kind => 'note', recipients => ARRAY['Canary Name <starling-{who}@example.org>'], subject => 'starling-subject',
             body_text => 'starling-body', body_html => '<p>starling-body</p>', cc => NULL, reply_to => 'starling-reply@example.org',
             headers => '{{\"X-Order\": \"starling-header\"}}',
             attachments => '[{{\"filename\": \"starling-file.pdf\", \"content_base64\": \"{}\"}}]')",
            STANDARD.encode("starling-attachment")
        );
        stage.sql.execute(&sql, &[]).await.expect("enqueues");
    }
    for (who, kind, payload) in [
        ("form", "note_form", r#"{"title": "starling-title", "text": "starling-text", "number": 1}"#),
        // A sum of a number and a text, a value that is missing, and a kind without a template.
        ("sum", "note_form", r#"{"title": "starling-title", "text": "starling-text", "number": "starling-number"}"#),
        ("missing", "note_form", r#"{"title": "starling-title"}"#),
        ("none", "no_such_form", r#"{"title": "starling-title"}"#),
        ("news", "news", r#"{"text": "starling-text"}"#),
    ] {
        let sql = "SELECT outbox.enqueue(kind => $1, recipients => ARRAY[$2], payload => $3::text::json)";
        stage.sql.execute(sql, &[&kind, &format!("{WORD}-{who}@example.org"), &payload]).await.expect("enqueues");
    }
}

async fn listen(probe: &Probe, heard: &mut Heard) {
    for path in ["/livez", "/readyz?verbose", "/metrics"] {
        heard.add(path, probe.get(path).await.body);
    }
    let open = "application/openmetrics-text;version=1.0.0";
    heard.add("/metrics", probe.get_with("/metrics", open).await.body);
}

/// The relay, with all that can befall a message, a bad reload, and a database that goes.
async fn through_everything(stage: &mut Stage, place: &Place, heard: &mut Heard) {
    let mut relay = place.settings.run().await;
    let probe = Probe::of(&relay).await;
    enqueue(stage).await;
    stage.until_settled().await;
    let states = stage.states().await;
    assert_eq!((states.get("in_doubt"), states.get("failed")), (Some(&1), Some(&5)), "{states:?}");
    eventually(PATIENCE, async || probe.scrape().await.has("hapax_deliveries")).await;
    listen(&probe, heard).await;
    let file = relay.directory().join("hapax.toml");
    for bad in bad_files(place).into_iter().map(|(toml, _)| toml).chain(odd_values(place)) {
        std::fs::write(&file, bad).expect("written");
        let mark = relay.lines().len();
        relay.sighup();
        relay.wait_for_line_after(mark, |line| line.contains("is not taken over")).await;
    }
    std::fs::write(&file, place.settings.toml()).expect("written");
    let mark = relay.lines().len();
    stage.cluster.stop().await.expect("it stops");
    relay.wait_for_line_after(mark, |line| line.contains("claiming failed") || line.contains("no answer")).await;
    listen(&probe, heard).await;
    stage.cluster.restart().await.expect("it starts");
    stage.reconnect().await;
    stage.enqueue_one("starling-after@example.org", "").await;
    stage.until_state("starling-after@example.org", "sent").await;
    relay.sigterm();
    relay.wait_exit(PATIENCE).await;
    heard.add("relay", relay.report());
}

/// A panic whose words are content, in the middle of a rendering.
async fn through_a_panic(stage: &Stage, place: &Place, heard: &mut Heard) {
    let spill = HapaxProcess::builder().config(place.settings.toml()).env("HAPAX_FAULT", "spill").arg("run");
    let mut relay = spill.env("RUST_BACKTRACE", "1").spawn();
    let sql = "SELECT outbox.enqueue(kind => 'news', recipients => ARRAY['starling-panic@example.org'], payload => '{\"text\": \"starling-text\"}'::json)";
    stage.sql.execute(sql, &[]).await.expect("enqueues");
    let reason = stage.until_state("starling-panic@example.org", "failed").await;
    assert!(reason.contains("panicked, see the log"), "{reason}");
    heard.add("reason of a panic", reason);
    relay.wait_for_line(|line| line.contains("a panic") && line.contains("job.rs")).await;
    relay.sigterm();
    relay.wait_exit(PATIENCE).await;
    heard.add("relay that panics", relay.report());
}

/// A password that the mail server refuses, and repeats.
async fn through_a_wrong_password(stage: &Stage, place: &Place, heard: &mut Heard) {
    write(&place.directory.path().join("smtp-password"), "starling-wrong-password");
    heard.words.push(STANDARD.encode("starling-wrong-password"));
    stage
        .server
        .script(Script::fault(Phase::Auth, Fault::Custom(b"535 5.7.8 starling-wrong-password is wrong\r\n".to_vec())));
    let relay = place.settings.run().await;
    stage.enqueue_one("starling-wrong@example.org", "").await;
    relay.wait_for_line(|line| line.contains("will be tried again")).await;
    heard.add("relay with a wrong password", relay.report());
    let settings = place.settings.toml();
    said(heard, "doctor with a wrong password", &settings, &["doctor", "--json"], &[]).await;
    said(
        heard,
        "send-test with a wrong password",
        &settings,
        &["send-test", "note_form", "--to", "qa@example.org"],
        &[],
    )
    .await;
    write(&place.directory.path().join("smtp-password"), SMTP_PASSWORD);
    stage.server.script(Script::good());
}

/// A database that wants another password.
async fn through_a_wrong_database_password(place: &Place, heard: &mut Heard) {
    let cluster = PgCluster::builder().password_auth(true).fsync(false).start().await.expect("a cluster starts");
    cluster.execute("postgres", "CREATE ROLE relay LOGIN PASSWORD 'another'").await.expect("makes a role");
    let url = format!("postgres://relay:{DATABASE_PASSWORD}@127.0.0.1:{}/postgres", cluster.port());
    let toml = place.settings.clone().set("database.url", url).toml();
    for arguments in [&["status"][..], &["doctor", "--json"], &["migrate", "up"]] {
        assert_ne!(said(heard, "a wrong database password", &toml, arguments, &[]).await, 0, "{arguments:?}");
    }
    let mut relay = HapaxProcess::builder().config(toml).arg("run").spawn();
    relay.wait_for_line(|line| line.contains("password authentication failed")).await;
    relay.sigterm();
    relay.wait_exit(PATIENCE).await;
    heard.add("a relay with a wrong database password", relay.report());
}

/// Runs a command and keeps all it says; answers its code.
async fn said(heard: &mut Heard, who: &str, toml: &str, arguments: &[&str], environment: &[(&str, &str)]) -> i32 {
    let mut builder = HapaxProcess::builder().config(toml).args(arguments);
    for (name, value) in environment {
        builder = builder.env(name, value);
    }
    let mut process = builder.spawn();
    let code = process.wait_exit(PATIENCE).await.code().unwrap_or(-1);
    let mut text = process.report();
    if ["show", "ls", "explain"].contains(&arguments[0]) {
        text = REPEATED.iter().fold(text, |text, words| text.replace(words, ""));
    }
    heard.add(format!("{who}: {}", arguments.join(" ").replace(WORD, "...")), text);
    code
}

/// Files that are wrong in a line that has a secret, or an address.
fn bad_files(place: &Place) -> Vec<(String, &'static str)> {
    let good = place.settings.clone();
    let broken = format!("[database]\nurl = \"postgres://relay:{DATABASE_PASSWORD}@127.0.0.1/x\n");
    vec![
        (broken, "an open string"),
        (format!("[database]\npassword = {DATABASE_PASSWORD}\n"), "no string"),
        (good.clone().set("database.url", format!("postgres://relay:{DATABASE_PASSWORD}@[::1:x/y")).toml(), "no url"),
        (good.clone().set("routes.default.pasword", SMTP_PASSWORD).toml(), "an unknown key"),
        (good.set("routes.default.url", format!("smtp://u:{SMTP_PASSWORD}@[::1:x")).toml(), "no route"),
    ]
}

/// What is wrong, but no secret: whoever starts a relay is told the value, whoever reads its log later is not.
fn odd_values(place: &Place) -> [String; 3] {
    let good = &place.settings;
    [
        good.clone().set("routes.default.from", "starling at example.org").toml(),
        good.clone().set("retry.first", "starling").set("log.level", "starling").toml(),
        good.clone().set("guards.redirect_all_to", "starling at example.org").toml(),
    ]
}

async fn commands(stage: &Stage, place: &Place, heard: &mut Heard) {
    let viewer = place.as_user("viewer").toml();
    let rows = stage.sql.query("SELECT DISTINCT message_id::text FROM outbox.deliveries", &[]).await.expect("ids");
    for row in &rows {
        let id: String = row.get(0);
        assert_eq!(said(heard, "viewer", &viewer, &["show", &id], &[]).await, 0, "{id}");
    }
    let id: String = rows[0].get(0);
    for arguments in [
        &["status"][..],
        &["status", "--json"],
        &["ls"],
        &["ls", "--json"],
        &["show", &id, "--json"],
        &["explain", &id],
    ] {
        assert_eq!(said(heard, "viewer", &viewer, arguments, &[]).await, 0, "{arguments:?}: {:?}", heard.texts.last());
    }
    // What a viewer may not do, and what nobody can.
    for arguments in [
        &["cancel", &id, "--reason", "no"][..],
        &["retry", &id, "--reason", "no"],
        &["resolve", &id, "sent", "--reason", "no"],
        &["show", "00000000-0000-0000-0000-000000000000"],
        &["arm", "--reason", "no"],
        &["migrate", "up"],
    ] {
        assert_ne!(said(heard, "viewer", &viewer, arguments, &[]).await, 0, "{arguments:?}");
    }
    let relay = place.settings.toml();
    for arguments in [
        &["check"][..],
        &["check", "--print"],
        &["doctor"],
        &["doctor", "--json"],
        &["doctor", "--verbose"],
        &["template", "check"],
        &["template", "publish"],
        &["config", "example"],
    ] {
        said(heard, "relay", &relay, arguments, &[]).await;
    }
    let nowhere = format!("postgres://relay:{DATABASE_PASSWORD}@127.0.0.1:1/x");
    let odd = format!("postgres://relay:{DATABASE_PASSWORD}@127.0.0.1:port/x");
    for url in [&nowhere, &odd] {
        said(heard, "a database that is not there", &relay, &["status", "--database-url", url], &[]).await;
        said(heard, "a database that is not there", &relay, &["check", "--print"], &[("HAPAX__DATABASE__URL", url)])
            .await;
    }
    let strays = [("HAPAX__DATABASE__PASWORD", DATABASE_PASSWORD), ("HAPAX__ROUTES__DEFAULT__PASSWORD", SMTP_PASSWORD)];
    said(heard, "variables", &relay, &["check", "--print"], &strays).await;
    for (toml, what) in bad_files(place) {
        for arguments in [&["check", "--print"][..], &["run"], &["doctor", "--json"]] {
            assert_ne!(said(heard, what, &toml, arguments, &[]).await, 0, "{what}");
        }
    }
    let at = |name: &str| place.directory.path().join(name);
    write(&at("bad.pem"), "-----BEGIN PRIVATE KEY-----\nstarling-key\n-----END PRIVATE KEY-----\n");
    write(&at("bad.key"), "starling-short");
    let bad = place.settings.clone().set("dkim.shop.private_key_file", at("bad.pem").display());
    let bad = bad.set("templates.unsubscribe_key_file", at("bad.key").display()).toml();
    assert_eq!(said(heard, "bad keys", &bad, &["check", "--print"], &[]).await, 78);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_planted_everywhere_comes_out_nowhere() {
    let server = SmtpServer::builder().credentials(USER, SMTP_PASSWORD).require_auth().script(script()).start();
    let mut stage = Stage::with(server).await;
    let mut heard = Heard::default();
    let collector = Collector::start(Manner::Takes).await;
    let place = Place::new(&stage, &collector, &mut heard);
    through_everything(&mut stage, &place, &mut heard).await;
    through_a_panic(&stage, &place, &mut heard).await;
    through_a_wrong_password(&stage, &place, &mut heard).await;
    through_a_wrong_database_password(&place, &mut heard).await;
    commands(&stage, &place, &mut heard).await;
    let traces = String::from_utf8_lossy(&collector.raw().1).into_owned();
    assert!(traces.contains("end_marker") && traces.contains("note_form"), "traces of those attempts have arrived");
    heard.add("traces", traces);
    heard.assert_nothing_planted();
}
