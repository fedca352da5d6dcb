//! Large messages and contents from elsewhere: what arrives is what was attached, byte for byte, and the relay's memory
//! does not grow with what is under way.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use hapax_testkit::{Fault, HapaxProcess, Phase, ReservedPort, Rule, Script, SmtpServer};
use hapax_tests::keeper::Keeper;
use hapax_tests::stage::{PATIENCE, Stage};
use hapax_tests::verdict::Verdict;
use mail_parser::{MessageParser, MimeHeaders};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, KeyUsagePurpose};
use sha2::{Digest, Sha256};

/// Bytes that no encoding likes, the same for the same seed.
fn noise(seed: u64, bytes: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(seed);
    (0..bytes).map(|_| random.u8(..)).collect()
}

fn base64(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Names and contents of what was attached, as an independent parser reads them.
fn attached(message: &[u8]) -> BTreeMap<String, Vec<u8>> {
    let parsed = MessageParser::default().parse(message).expect("a message");
    let parts = parsed
        .attachments()
        .map(|part| (part.attachment_name().unwrap_or_default().to_owned(), part.contents().to_vec()));
    parts.collect()
}

/// The most memory it has had, in kilobytes.
fn peak_kb(process: &HapaxProcess) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", process.id())).expect("it runs");
    let line = status.lines().find(|line| line.starts_with("VmHWM")).expect("Linux says so");
    line.split_whitespace().nth(1).and_then(|kb| kb.parse().ok()).expect("a number")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_attachments_arrive_byte_for_byte_and_the_same_at_every_attempt() {
    let refused = Rule::at(Phase::EndMarker { took: false }, Fault::Reply4xx).times(1);
    let stage = Stage::with(SmtpServer::builder().script(Script::rules([refused])).start()).await;
    let (large, odd, small) = (noise(1, 3_000_001), noise(2, 76 * 2048 * 3 / 4), noise(3, 1_000));
    let attachments = serde_json::json!([
        {"filename": "large.bin", "content_base64": base64(&large)},
        {"filename": "odd.pdf", "content_type": "application/pdf", "content_base64": base64(&odd)},
        {"filename": "shown.png", "content_type": "image/png", "content_id": "shown", "content_base64": base64(&small)},
    ]);
    let sql = "SELECT outbox.enqueue(kind => 'note', recipients => ARRAY['a@example.org', 'b@example.org'], subject => 'Hello',
               body_text => E'one\\n.two\\n', body_html => '<p><img src=\"cid:shown\"></p>', attachments => $1)";
    stage.sql.query_one(sql, &[&attachments]).await.expect("enqueues");
    let relay = stage.settings().run().await;
    stage.until("sent", 2).await;
    let ledger = stage.server.ledger();
    Verdict::of(&stage.sql, &ledger).await.assert_clean(2);
    let bodies: Vec<_> = ledger.transactions().filter(|one| one.end_marker_read).map(|one| one.body.clone()).collect();
    assert_eq!(bodies.len(), 3, "one refused, two taken");
    assert!(bodies.iter().all(|body| *body == bodies[0]), "the same bytes for both and at both attempts");
    let found = attached(&bodies[0]);
    let expected = [("large.bin", &large), ("odd.pdf", &odd), ("shown.png", &small)];
    for (name, content) in expected {
        assert_eq!(found.get(name).map(|found| hex(found)), Some(hex(content)), "{name}");
    }
    let long = bodies[0].split(|byte| *byte == b'\n').map(<[u8]>::len).max();
    assert!(long <= Some(80), "lines of base64 have 76 characters: {long:?}");
    let left = fs::read_dir(relay.directory()).expect("its directory").count();
    assert!(left <= 2, "nothing was left behind");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_finished_message_arrives_as_it_is() {
    let stage = Stage::set().await;
    let head = "From: Shop <no-reply@shop.example>\nTo: a@example.org\nBcc: secret@example.org\nSubject: Large\n\
                MIME-Version: 1.0\nContent-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: 8bit\n\n";
    let line = ".a line that begins with a dot, and is grüß\n";
    let raw = format!("{head}{}", line.repeat(40_000));
    let sql = "SELECT outbox.enqueue(kind => 'note', recipients => ARRAY['a@example.org'], raw_message => $1)";
    stage.sql.query_one(sql, &[&raw.as_bytes()]).await.expect("enqueues");
    let _relay = stage.settings().run().await;
    stage.until("sent", 1).await;
    let ledger = stage.server.ledger();
    let body = ledger.messages().next().expect("it arrived").body.clone();
    let text = String::from_utf8(body.to_vec()).expect("UTF-8");
    let (head, content) = text.split_once("\r\n\r\n").expect("a header and a body");
    assert!(head.contains("Subject: Large") && head.contains("Message-ID: <") && head.contains("Date: "), "{head}");
    assert!(!text.contains("secret"), "Bcc goes");
    assert_eq!(content.len(), line.replace('\n', "\r\n").repeat(40_000).len());
    assert!(content.split_terminator("\r\n").all(|found| found == line.trim_end()), "line by line the same");
}

/// Something that serves a directory by https on 127.0.0.1, and the authority that vouches for it.
struct Files {
    port: u16,
    _server: Keeper,
}

impl Files {
    async fn serve(directory: &Path, certificates: &Path) -> Self {
        let key = || KeyPair::generate().expect("a key can be made");
        let mut params = CertificateParams::new(Vec::<String>::new()).expect("no names, no bad name");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name.push(rcgen::DnType::CommonName, "hapax tests authority");
        let authority = CertifiedIssuer::self_signed(params, key()).expect("an authority can be made");
        let params = CertificateParams::new(vec!["localhost".to_owned()]).expect("a good name");
        let server_key = key();
        let server = params.signed_by(&server_key, &authority).expect("a certificate can be made");
        fs::write(certificates.join("ca.pem"), authority.pem()).expect("written");
        fs::write(certificates.join("server.pem"), server.pem() + &server_key.serialize_pem()).expect("written");
        let port = ReservedPort::reserve().expect("a free port");
        let script = "import http.server, ssl, sys, functools\n\
            c = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER); c.load_cert_chain(sys.argv[2])\n\
            h = functools.partial(http.server.SimpleHTTPRequestHandler, directory=sys.argv[3])\n\
            s = http.server.ThreadingHTTPServer(('127.0.0.1', int(sys.argv[1])), h)\n\
            s.socket = c.wrap_socket(s.socket, server_side=True); s.serve_forever()";
        let mut command = Command::new("python3");
        command.args(["-c", script, &port.number().to_string()]).arg(certificates.join("server.pem")).arg(directory);
        let number = port.number();
        drop(port);
        let server = Keeper::run(command, &certificates.join("log"), None);
        hapax_testkit::eventually(PATIENCE, async || {
            tokio::net::TcpStream::connect(("127.0.0.1", number)).await.map(drop)
        })
        .await;
        Self { port: number, _server: server }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attachments_come_from_files_and_https_and_what_is_not_there_yet_is_tried_again() {
    let stage = Stage::set().await;
    let place = tempfile::tempdir().expect("a directory");
    let (files, web) = (place.path().join("files"), place.path().join("web"));
    fs::create_dir_all(files.join("2026")).expect("made");
    fs::create_dir(&web).expect("made");
    fs::write(place.path().join("outside"), "secret").expect("written");
    std::os::unix::fs::symlink(place.path().join("outside"), files.join("link")).expect("linked");
    let (invoice, terms) = (noise(4, 500_003), noise(5, 700_001));
    fs::write(files.join("2026/invoice.pdf"), &invoice).expect("written");
    fs::write(web.join("terms.pdf"), &terms).expect("written");
    fs::write(web.join("large.pdf"), noise(6, 2_000_000)).expect("written");
    let server = Files::serve(&web, place.path()).await;
    let url = |name: &str| format!("https://localhost:{}/{name}", server.port);

    let enqueue = "SELECT outbox.enqueue(kind => 'note', recipients => ARRAY[$1], subject => 'Hello', body_text => 'x', attachments => $2)";
    let cases = [
        (
            "both",
            serde_json::json!([{"filename": "invoice.pdf", "path": "2026/invoice.pdf", "sha256": hex(&invoice)},
                                    {"filename": "terms.pdf", "content_type": "application/pdf", "url": url("terms.pdf"), "sha256": hex(&terms)}]),
        ),
        ("late", serde_json::json!([{"filename": "late.txt", "path": "late.txt"}])),
        ("outside", serde_json::json!([{"filename": "x", "path": "link"}])),
        ("large", serde_json::json!([{"filename": "x", "url": url("large.pdf")}])),
        ("stranger", serde_json::json!([{"filename": "x", "url": "https://stranger.example/x?key=canary"}])),
        ("other", serde_json::json!([{"filename": "x", "url": url("terms.pdf"), "sha256": hex(b"other")}])),
    ];
    for (who, attachments) in &cases {
        stage.sql.query_one(enqueue, &[&format!("{who}@example.org"), attachments]).await.expect("enqueues");
    }
    let relay = stage
        .settings()
        .set("attachments.directory", files.display())
        .set("attachments.https_ca_file", place.path().join("ca.pem").display())
        .set("attachments.bytes_max", 1_000_000);
    let toml = relay.toml().replace("[attachments]", "[attachments]\nhttps_hosts = [\"localhost\"]");
    let relay = HapaxProcess::builder().config(toml).arg("run").spawn();

    stage.until_state("both@example.org", "sent").await;
    for (who, why) in [
        ("outside", "attachment 1 leads out of attachments.directory"),
        ("large", "attachment 1 has more than 1000000 bytes"),
        ("stranger", "is at a host that is not allowed: stranger.example"),
    ] {
        let reason = stage.until_state(&format!("{who}@example.org"), "failed").await;
        assert!(reason.contains(why), "{who}: {reason}");
        assert!(!reason.contains("canary"), "{reason}");
    }
    let retried = "SELECT count(*) FROM outbox.attempts a JOIN outbox.deliveries d USING (message_id, recipient_no)
                   WHERE d.recipient LIKE '%' || $1 || '%' AND a.phase = 'prepare' AND a.outcome = 'not_sent' AND a.detail LIKE '%' || $2 || '%'";
    for (who, why) in [("late@", "attachment 1 cannot be read"), ("other@", "not what its sha256 says")] {
        hapax_testkit::eventually(PATIENCE, async || {
            let count: i64 = stage.sql.query_one(retried, &[&who, &why]).await.expect("counts").get(0);
            if count >= 2 { Ok(()) } else { Err((who, count)) }
        })
        .await;
    }
    fs::write(files.join("late.txt"), "here it is").expect("written");
    stage.until_state("late@example.org", "sent").await;
    let ledger = stage.server.ledger();
    let of = |who: &str| {
        let one = ledger.messages().find(|one| one.recipients == [format!("{who}@example.org")]).expect("it arrived");
        attached(&one.body)
    };
    let both = of("both");
    assert_eq!((hex(&both["invoice.pdf"]), hex(&both["terms.pdf"])), (hex(&invoice), hex(&terms)));
    assert_eq!(of("late")["late.txt"], b"here it is");
    assert_eq!(ledger.messages().count(), 2, "nothing of the others left the house");
    assert!(!relay.lines().iter().any(|line| line.contains("canary")), "{}", relay.report());
}

/// More deliveries than may be in flight, all of which wait for a host that takes connections and never answers; and a
/// FIFO, which would wait for its writer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hosts_that_never_answer_keep_nothing_else_from_being_sent() {
    let stage = Stage::set().await;
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("https://localhost:{}/x", silent.local_addr().expect("an address").port());
    let connections = tokio::spawn(async move {
        let mut kept = Vec::new();
        while let Ok((connection, _)) = silent.accept().await {
            kept.push(connection);
        }
    });
    let place = tempfile::tempdir().expect("a directory");
    let made = Command::new("mkfifo").arg(place.path().join("fifo")).status().expect("there is mkfifo");
    assert!(made.success());
    stage.enqueue_one("fifo@example.org", r#", attachments => '[{"filename": "x", "path": "fifo"}]'"#).await;
    let settings = stage.settings().set("attachments.directory", place.path().display());
    let toml = settings.toml().replace("[attachments]", "[attachments]\nhttps_hosts = [\"localhost\"]");
    let relay = HapaxProcess::builder().config(toml).arg("run").spawn();
    let reason = stage.until_state("fifo@example.org", "failed").await;
    assert!(reason.contains("attachment 1 is not a file"), "{reason}");
    let enqueue = "INSERT INTO outbox.notification (kind, recipients, subject, body_text, attachments)
                   SELECT 'note', ARRAY['slow' || i || '@example.org'], 'Hello', 'x', $1 FROM generate_series(1, 100) i";
    let slow = serde_json::json!([{"filename": "x", "url": url}]);
    stage.sql.execute(enqueue, &[&slow]).await.expect("enqueues");
    for i in 0..3 {
        let recipient = format!("plain{i}@example.org");
        stage.enqueue_one(&recipient, "").await;
        stage.until_state(&recipient, "sent").await;
    }
    assert_eq!(
        stage.count("SELECT count(*) FROM outbox.deliveries WHERE state = 'sent'").await,
        3,
        "{}",
        relay.report()
    );
    connections.abort();
}

/// CSS with which inlining takes minutes: each of the rules asks each element about all its elder siblings, twice.
const ENDLESS: &str = r#"<html><head><style>{% for i in range(300) %}div ~ div ~ div[x="{{ i }}"] ~ div span { color: red }
    {% endfor %}</style></head><body>{% for i in range(900) %}<div><p><span>x</span></p></div>{% endfor %}</body></html>"#;

/// More than there are cores here, each of which takes minutes; and a second relay that would take the first for dead
/// and mark its open deliveries as doubts, if that one's heart waited for a template.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_template_that_computes_for_minutes_fails_and_neither_stops_the_heart_nor_other_mail() {
    let stage = Stage::set().await;
    let place = tempfile::tempdir().expect("a directory");
    fs::create_dir(place.path().join("endless")).expect("made");
    for (name, content) in [("subject.txt", "Endless"), ("body.html", ENDLESS), ("body.txt", "x")] {
        fs::write(place.path().join("endless").join(name), content).expect("written");
    }
    let settings = stage.settings().set("templates.directory", place.path().display());
    let settings = settings.set("relay.heartbeat_interval", "200ms").set("relay.dead_after", "2s");
    let settings = settings.set("relay.final_reply_timeout", "2m").set("relay.shutdown_grace", "2m");
    let (_first, _second) = (settings.run().await, settings.run().await);
    let held = stage.server.hold_final_reply();
    stage.enqueue(4).await;
    tokio::time::timeout(PATIENCE, held.wait_for(4)).await.expect("four are transmitted");
    let sql = "INSERT INTO outbox.notification (kind, recipients, payload)
               SELECT 'endless', ARRAY['endless' || i || '@example.org'], '{}' FROM generate_series(1, 3) i";
    stage.sql.execute(sql, &[]).await.expect("enqueues");
    for i in 1..=3 {
        let reason = stage.until_state(&format!("endless{i}@example.org"), "failed").await;
        assert!(reason.contains("its template takes more than 20 s"), "{reason}");
    }
    held.release();
    stage.until("sent", 4).await;
    stage.enqueue_one("later@example.org", "").await;
    stage.until_state("later@example.org", "sent").await;
    let doubts =
        stage.count("SELECT count(*) FROM outbox.attempts WHERE outcome NOT IN ('accepted', 'not_sent')").await;
    assert_eq!(doubts, 0, "nobody was taken for dead");
    Verdict::of(&stage.sql, &stage.server.ledger()).await.assert_clean(8);
}

/// The first attachment comes from a host that takes its time; meanwhile the message loses the second.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_content_that_goes_while_its_message_is_made_is_not_sent_as_an_empty_one() {
    let stage = Stage::set().await;
    let slow = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("https://localhost:{}/x", slow.local_addr().expect("an address").port());
    let place = tempfile::tempdir().expect("a directory");
    let (web, files) = (place.path().join("web"), place.path().join("files"));
    fs::create_dir(&web).expect("made");
    fs::create_dir(&files).expect("made");
    fs::write(web.join("x"), "slow").expect("written");
    let server = Files::serve(&web, place.path()).await;
    let settings = stage.settings().set("attachments.directory", files.display());
    let settings = settings.set("attachments.https_ca_file", place.path().join("ca.pem").display());
    let toml = settings.toml().replace("[attachments]", "[attachments]\nhttps_hosts = [\"localhost\"]");
    let _relay = HapaxProcess::builder().config(toml).arg("run").spawn();
    let attachments = serde_json::json!([{"filename": "slow.txt", "url": url},
        {"filename": "large.bin", "content_base64": base64(&noise(8, 1_000_000))}]);
    let sql = "SELECT outbox.enqueue(kind => 'note', recipients => ARRAY['a@example.org'], subject => 'Hello', body_text => 'x',
               attachments => $1)";
    stage.sql.query_one(sql, &[&attachments]).await.expect("enqueues");
    let (mut asking, _) = tokio::time::timeout(PATIENCE, slow.accept()).await.expect("in time").expect("it asks");
    drop(slow);
    stage.sql.execute("UPDATE outbox.message SET attachments = NULL", &[]).await.expect("it goes");
    let mut files = tokio::net::TcpStream::connect(("127.0.0.1", server.port)).await.expect("it listens");
    let pipe = tokio::spawn(async move { tokio::io::copy_bidirectional(&mut asking, &mut files).await });
    let why = "attachment 2 is not in the outbox any more as it was claimed";
    hapax_testkit::eventually(PATIENCE, async || {
        let sql = "SELECT string_agg(coalesce(detail, ''), '; ') FROM outbox.attempts WHERE outcome = 'not_sent'";
        let found = stage.text(sql, &[]).await.unwrap_or_default();
        if found.contains(why) { Ok(()) } else { Err(found) }
    })
    .await;
    pipe.abort();
    let empty = stage.server.ledger().messages().any(|one| attached(&one.body).values().any(Vec::is_empty));
    assert!(!empty, "nothing arrived with an empty attachment");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_does_not_grow_with_what_is_under_way() {
    let number =
        |name: &str, default: usize| std::env::var(name).ok().map_or(default, |text| text.parse().expect("a number"));
    let (count, megabytes) = (number("HAPAX_FREIGHT_DELIVERIES", 24), number("HAPAX_FREIGHT_MB", 6));
    let stage = Stage::with(SmtpServer::builder().keep_bodies(false).start()).await;
    let settings = stage.settings().set("relay.max_in_flight", 64).set("routes.default.max_connections", 64);
    let settings =
        settings.set("relay.final_reply_timeout", "10m").set("relay.shutdown_grace", "10m").set("relay.lease", "1m");
    // What it needs without any.
    let relay = settings.run().await;
    stage.enqueue(i32::try_from(count).expect("few")).await;
    stage.until("sent", count as i64).await;
    let idle = peak_kb(&relay);
    let content = base64(&noise(7, megabytes << 20));
    let sql = "INSERT INTO outbox.notification (kind, recipients, subject, body_text, attachments)
               SELECT 'note', ARRAY['large' || i || '@example.org'], 'Hello', 'x', $1 FROM generate_series(1, $2) i";
    let attachments = serde_json::json!([{"filename": "large.bin", "content_base64": content}]);
    let held = stage.server.hold_final_reply();
    stage.sql.execute(sql, &[&attachments, &i32::try_from(count).expect("few")]).await.expect("enqueues");
    tokio::time::timeout(Duration::from_secs(600), held.wait_for(count)).await.expect("all have been transmitted");
    let peak = peak_kb(&relay);
    held.release();
    stage.until("sent", 2 * count as i64).await;
    println!(
        "{count} deliveries of {megabytes} MB in flight at once: {} MB at most, {} MB without; content {} MB, encoded {} MB",
        peak / 1024,
        idle / 1024,
        count * megabytes,
        count * megabytes * 137 / 100
    );
    let grown_mb = (peak - idle.min(peak)) / 1024;
    assert!(grown_mb < 64, "it grew by {grown_mb} MB");
    Verdict::of(&stage.sql, &stage.server.ledger()).await.assert_clean(2 * count);
}
