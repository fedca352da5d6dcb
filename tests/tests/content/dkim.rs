//! DKIM: what the relay signs verifies for two verifiers that know nothing of Hapax (verify.py: dkimpy and OpenDKIM's
//! library) after a real Postfix has passed it on; nothing of it verifies once something that is signed was changed;
//! and a signature is the same at every attempt.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use base64::{Engine, engine::general_purpose::STANDARD};
use hapax_testkit::{SmtpServer, eventually};
use hapax_tests::stage::{DOMAIN, PATIENCE, Settings, Stage};
use serde_json::{Value, json};

use super::attempts::once;
use super::readers::{PYTHON, run};
use super::taken_apart::{Mail, Variant};
use super::theatre::{delivered, enqueue, postfix, through, with_templates};

/// What takes the way over the disk (from 256 kB).
const LARGE_BYTES: usize = 256 << 10;

/// Each with a key of its own kind.
const KEYS: [(&str, &str, &[&str]); 2] = [
    ("rsa", "rsa-sha256", &["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"]),
    ("ed25519", "ed25519-sha256", &["-algorithm", "ED25519"]),
];

/// What must be signed where it is there.
const SIGNED: [&str; 16] = [
    "from",
    "to",
    "cc",
    "subject",
    "date",
    "message-id",
    "reply-to",
    "in-reply-to",
    "references",
    "mime-version",
    "content-type",
    "content-transfer-encoding",
    "list-unsubscribe",
    "list-unsubscribe-post",
    "feedback-id",
    "auto-submitted",
];

/// What nobody may add: signed once more than it is there.
const NO_SECOND: [&str; 6] = ["from", "to", "subject", "date", "message-id", "reply-to"];

/// A kind whose readers can leave, by one click; each gets a link of their own.
const OFFER: [(&str, &str); 4] = [
    (
        "kind.toml",
        "[headers]\nFeedback-ID = \"{{ kind }}:shop\"\n[unsubscribe]\none_click = true\n\
         mailto = \"leave@shop.example\"\nurl = \"https://shop.example/leave\"\n",
    ),
    ("subject.txt", "Grüße: {{ what }}\n"),
    ("body.txt", "{{ what }}\n\n{{ unsubscribe_url }}\n"),
    ("body.html", "<p>{{ what }} <a href=\"{{ unsubscribe_url }}\">leave</a></p>\n"),
];

/// Keys, the records that the DNS would have of them, and whatever else the relay reads.
struct Office {
    directory: tempfile::TempDir,
    _templates: tempfile::TempDir,
    settings: Settings,
}

impl Office {
    fn furnish(settings: Settings) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let at = |name: &str| directory.path().join(name);
        let (templates, mut settings) = with_templates(settings);
        let offer = templates.path().join("offer");
        fs::create_dir(&offer).expect("it can be made");
        for (name, text) in OFFER {
            fs::write(offer.join(name), text).expect("it can be written");
        }
        fs::write(at("leave.key"), "0123456789abcdef0123456789abcdef").expect("it can be written");
        settings = settings.set("templates.unsubscribe_key_file", at("leave.key").display());
        let mut records = String::new();
        for (selector, _, arguments) in KEYS {
            let file = at(&format!("{selector}.pem"));
            openssl(Command::new("openssl").arg("genpkey").args(arguments).arg("-out").arg(&file));
            let mut public = Command::new("openssl");
            let public = openssl(public.args(["pkey", "-pubout", "-outform", "DER", "-in"]).arg(&file));
            // RFC 8463 section 4.2: the key alone, without what says of which kind it is.
            let public = if selector == "ed25519" { &public[public.len() - 32..] } else { &public[..] };
            let record = format!("v=DKIM1; k={selector}; p={}", STANDARD.encode(public));
            records += &format!("{selector}._domainkey.{DOMAIN} {record}\n");
            settings = settings
                .set(&format!("dkim.{selector}.domain"), DOMAIN)
                .set(&format!("dkim.{selector}.selector"), selector)
                .set(&format!("dkim.{selector}.private_key_file"), file.display());
        }
        fs::write(at("records"), records).expect("it can be written");
        Self { directory, _templates: templates, settings }
    }

    /// What each verifier says of each mail: of each signature a word.
    fn verify<'a>(&self, mails: impl IntoIterator<Item = &'a [u8]>) -> Vec<BTreeMap<String, Vec<String>>> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/content/verify.py");
        let lines: Vec<String> = mails.into_iter().map(|mail| STANDARD.encode(mail) + "\n").collect();
        let mut command = Command::new(PYTHON);
        let output = run(command.arg(script).arg(self.directory.path().join("records")), lines.concat().as_bytes());
        let said: Vec<_> = output.lines().map(|line| serde_json::from_str(line).expect("it prints JSON")).collect();
        assert_eq!(said.len(), lines.len(), "one line for each mail");
        said
    }

    /// That all of them are as they should be: `true` verifies, for everybody; `false` does not, for anybody.
    fn judge(&self, variants: &[Variant]) {
        let said = self.verify(variants.iter().map(|variant| &variant.mail[..]));
        let mut wrong = Vec::new();
        for (variant, said) in variants.iter().zip(said) {
            assert_eq!(said.keys().collect::<Vec<_>>(), ["dkimpy", "opendkim"]);
            for (verifier, words) in said {
                let good = words.iter().filter(|word| *word == "pass").count();
                // OpenDKIM looks at nothing that has no From.
                let is_whole = words.len() == 2 || variant.name.ends_with(": no from");
                if !is_whole || good != if variant.verifies { 2 } else { 0 } {
                    wrong.push(format!("{}: {verifier} says {words:?}", variant.name));
                }
            }
        }
        assert!(wrong.is_empty(), "{} of {} wrong:\n{}", wrong.len(), variants.len(), wrong.join("\n"));
    }
}

fn openssl(command: &mut Command) -> Vec<u8> {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// Whether the verifiers are there; says on stderr where they are not.
fn verifiers() -> bool {
    let import = "import ctypes, dkim, nacl; ctypes.CDLL('libopendkim.so.11')";
    let output = Command::new(PYTHON).args(["-c", import]).output();
    if output.is_ok_and(|output| output.status.success()) {
        return true;
    }
    let why = "python3-dkim, python3-nacl or libopendkim11 is not installed: run tests/setup";
    assert!(std::env::var_os("HAPAX_TESTS_ALL").is_none(), "{why}");
    eprintln!("SKIPPED: {why}");
    false
}

/// What is sent, each with its name; all of them from `shop.example`.
fn letters() -> Vec<(&'static str, Value)> {
    let to = json!(["ada@example.org"]);
    let raw = |message: &str| json!({"kind": "raw", "recipients": to, "raw_message_base64": STANDARD.encode(message)});
    let leave = format!("<https://shop.example/u?{}>, <mailto:leave@shop.example>", "a=b&".repeat(40));
    let crowd: Vec<String> = (0..12).map(|n| format!("Zoë Nr. {n} Ünlü-Ñandú <reader{n}@example.net>")).collect();
    let noise = (0..400_000_u32).map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect::<Vec<_>>();
    let head = format!("From: Shop <no-reply@{DOMAIN}>\nTo: ada@example.org\nSubject: Raw");
    vec![
        ("a text", json!({"kind": "note", "recipients": to, "subject": "Hello", "body_text": "one\n.two \n\n..\n"})),
        ("a blank text", json!({"kind": "note", "recipients": to, "subject": "x", "body_text": " "})),
        (
            "lines at the end",
            json!({"kind": "note", "recipients": to, "subject": " a  b ", "body_text": "one\n\n \n\t\n\n\n"}),
        ),
        (
            "text and HTML",
            json!({
                "kind": "note", "recipients": ["Ada Lovelace <ada@example.org>"], "cc": crowd,
                "reply_to": "Büro <office@shop.example>", "subject": "Ihre Bestellung — Größe “XL”, 東京, ".repeat(6),
                "body_text": "Grüße\n", "body_html": "<p>Grüße</p>\n",
                "headers": {"References": "<0123456789.abcdef@shop.example> ".repeat(12).trim_end(), "X-Own": "1"},
            }),
        ),
        (
            "an attachment on disk",
            json!({
                "kind": "note", "recipients": to, "subject": "Rechnung", "body_text": "There", "body_html": "<b>There",
                "attachments": [{"filename": "Rechnung für Ada.pdf", "content_base64": STANDARD.encode(noise)}],
            }),
        ),
        (
            "an offer",
            json!({
                "kind": "offer", "recipients": ["Ada <ada@example.org>", "bob@example.net"],
                "payload": {"what": "Tee & Kännchen"},
            }),
        ),
        (
            "lists of its own",
            json!({
                "kind": "note", "recipients": to, "subject": "News", "body_text": "News",
                "headers": {
                    "List-Unsubscribe": leave, "List-Unsubscribe-Post": "List-Unsubscribe=One-Click",
                    "Auto-Submitted": "auto-generated",
                },
            }),
        ),
        (
            "raw, every line end",
            raw(&format!("{}\r\r\none\r.\r\n..two\n. three \t \n.\r\n\n", head.replace('\n', "\r"))),
        ),
        ("raw, no line end", raw(&format!("{head}\nX-Tabs:\ta\n\t\tb\n \tc  \n\n\u{20}first  is\ta blank\n\nGrüße"))),
        ("raw, no body", raw(&format!("{head}\n\n"))),
        ("raw, only empty lines", raw(&format!("{head}: \n folded\n\tagain  \n\n\n\r\n \t\n\n"))),
        (
            "raw, on disk",
            raw(&format!("{head}\nMIME-Version: 1.0\nContent-Type: text/plain\n\n{}\n\n", ".a line \n".repeat(40_000))),
        ),
    ]
}

/// That all signatures are there, say what they should, and sign all that they should.
fn signatures_are_sound(name: &str, mail: &Mail, created_s: &str) {
    let signatures = mail.signatures();
    let mut kinds: Vec<_> = signatures.iter().map(|tags| (tags["s"].as_str(), tags["a"].as_str())).collect();
    kinds.sort_unstable_by(|one, other| other.cmp(one));
    assert_eq!(kinds, KEYS.map(|(selector, algorithm, _)| (selector, algorithm)), "{name}");
    for tags in signatures {
        assert_eq!((tags["d"].as_str(), tags["t"].as_str()), (DOMAIN, created_s), "{name}");
        assert_eq!(tags["c"], "relaxed/relaxed", "{name}");
        assert!(!tags.contains_key("l") && !tags.contains_key("x"), "{name}: {tags:?}");
        let listed = tags["h"].to_ascii_lowercase();
        for field in SIGNED {
            let there = mail.count(field);
            let count = listed.split(':').filter(|name| *name == field).count();
            let expected = there + usize::from(NO_SECOND.contains(&field));
            assert_eq!(count, expected, "{name}: {field}, which is there {there} times");
        }
    }
}

/// The mails in these files, by Message-ID; as they went over the wire.
fn by_message_id(files: &[PathBuf]) -> BTreeMap<String, Vec<Mail>> {
    let mut mails: BTreeMap<String, Vec<Mail>> = BTreeMap::new();
    for file in files {
        let mail = Mail::from_maildir(&fs::read(file).expect("a mail can be read"));
        mails.entry(mail.value("message-id")).or_default().push(mail);
    }
    mails
}

/// When it came into being, as the database knows it.
async fn created_s(stage: &Stage, id: &uuid::Uuid) -> String {
    let sql =
        "SELECT floor(extract(epoch FROM min(created_at)))::bigint::text FROM outbox.deliveries WHERE message_id = $1";
    stage.text(sql, &[id]).await.expect("it is there")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn signatures_verify_behind_a_real_postfix_and_not_once_anything_signed_was_changed() {
    let Some(postfix) = postfix().await else { return };
    if !verifiers() {
        return;
    }
    let stage = Stage::set().await;
    let office = Office::furnish(through(stage.settings(), &postfix));
    let mut sent = Vec::new();
    for (name, document) in letters() {
        sent.push((name, enqueue(&stage, &document).await.unwrap_or_else(|error| panic!("{name}: {error:?}"))));
    }
    let stranger = json!({"kind": "raw", "recipients": ["ada@example.org"],
        "raw_message_base64": STANDARD.encode("From: a@notshop.example\nSubject: Another's\n\nx")});
    let stranger = enqueue(&stage, &stranger).await.expect("enqueues");
    let _relay = office.settings.run().await;
    stage.until_settled().await;
    let sql = "SELECT string_agg(coalesce(reason, state), E'\\n') FROM outbox.deliveries WHERE state <> 'sent'";
    assert_eq!(stage.text(sql, &[]).await, None, "all are sent");
    let copies = usize::try_from(stage.count("SELECT count(*) FROM outbox.deliveries").await).expect("few");
    let mut mails = by_message_id(&delivered(&postfix, copies).await);
    let mut take = |id: &uuid::Uuid| mails.remove(&format!("<{id}@{DOMAIN}>")).unwrap_or_default();

    assert_eq!(take(&stranger).iter().map(|mail| mail.count("dkim-signature")).collect::<Vec<_>>(), [0]);
    let mut variants = Vec::new();
    for (name, id) in &sent {
        let created_s = created_s(&stage, id).await;
        let mails = take(id);
        assert!(!mails.is_empty(), "{name}: it arrived");
        for (number, mail) in mails.iter().enumerate() {
            signatures_are_sound(name, mail, &created_s);
            variants.push(Variant { name: format!("{name}, copy {number}"), mail: mail.bytes(), verifies: true });
        }
        // What is large takes its time, and its header is signed as all others are.
        let is_wanted = |change: &Variant| change.mail.len() < LARGE_BYTES || change.name.starts_with("the body");
        let changes = mails[0].unharmed().into_iter().chain(mails[0].harmed(&SIGNED, &NO_SECOND));
        variants.extend(changes.filter(is_wanted).map(|change| change.of(name)));
    }
    assert!(mails.is_empty(), "nothing else came: {:?}", mails.keys());
    let harmed = variants.iter().filter(|variant| !variant.verifies).count();
    assert!(harmed >= letters().len() * 20, "{harmed} changes");
    office.judge(&variants);
    let unharmed = variants.len() - harmed - copies + 1;
    println!("{copies} copies, {unharmed} harmless and {harmed} forged ones judged by both verifiers");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_attempt_by_another_process_carries_the_same_signature() {
    if !verifiers() {
        return;
    }
    let stage = Stage::with(SmtpServer::builder().script(once()).start()).await;
    let office = Office::furnish(stage.settings().set("retry.first", "1h"));
    for (name, mut document) in letters() {
        if let Some(copies) = document.get_mut("cc") {
            *copies = json!(["carol@example.org"]);
        }
        enqueue(&stage, &document).await.unwrap_or_else(|error| panic!("{name}: {error:?}"));
    }
    let expected = stage.count("SELECT count(*) FROM outbox.deliveries").await;
    let mut first = office.settings.run().await;
    eventually(PATIENCE, async || {
        let refused = stage.count("SELECT count(*) FROM outbox.attempt WHERE outcome <> 'accepted'").await;
        (refused == expected).then_some(()).ok_or(refused)
    })
    .await;
    first.sigterm();
    assert!(first.wait_exit(PATIENCE).await.success(), "{}", first.report());
    // Another second: a signature that said when it was made would differ.
    stage.sql.execute("SELECT pg_sleep(1.1)", &[]).await.expect("it waits");
    stage.sql.execute("UPDATE outbox.queue SET due_at = now()", &[]).await.expect("updates");
    let _second = office.settings.run().await;
    stage.until("sent", expected).await;

    let ledger = stage.server.ledger();
    let mut bodies: BTreeMap<String, Vec<_>> = BTreeMap::new();
    for transaction in ledger.transactions().filter(|transaction| transaction.end_marker_read) {
        let message_id = transaction.message_id.clone().expect("every message has one");
        let both = bodies.entry(format!("{message_id} to {:?}", transaction.recipients)).or_default();
        both.push((transaction.body.clone(), transaction.took));
    }
    assert_eq!(i64::try_from(bodies.len()), Ok(expected));
    let mut variants = Vec::new();
    for (name, attempts) in bodies {
        let [(refused, false), (taken, true)] = &attempts[..] else { panic!("{name}: {} attempts", attempts.len()) };
        assert_eq!(Mail::new(taken).count("dkim-signature"), 2, "{name}");
        assert!(refused == taken, "{name}: the same bytes");
        variants.push(Variant { name, mail: taken.to_vec(), verifies: true });
    }
    office.judge(&variants);
}
