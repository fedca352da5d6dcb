//! Real mail servers under fire: `hapax run` is killed again and again while it submits to a real Postfix, Exim or
//! OpenSMTPD, and afterwards the mailboxes are counted. No mail lies there twice and none is missing: what is `sent` lies
//! there once, what is in doubt once or not at all, and whoever decides each doubt by looking ends with every mail once.
//! Here is no scripted ledger: the oracle is what lies in the Maildirs.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use fastrand::Rng;
use hapax_testkit::eventually;
use hapax_tests::jail::{Jail, Kind};
use hapax_tests::letters::letter;
use hapax_tests::mailbox::{self, Mail};
use hapax_tests::postfix::Postfix;
use hapax_tests::stage::{DOMAIN, PATIENCE, Settings, Stage};

/// Mailboxes that every server can name a directory after.
const BOXES: [&str; 8] = [
    "ada@example.org",
    "bob@example.org",
    "eve_1@example.org",
    "grace@example.org",
    "heidi@example.org",
    "r1@example.org",
    "r2@example.org",
    "r3@example.org",
];

const DELIVERIES: usize = 1_000;
const KILLS: usize = 5;
const IN_FLIGHT: usize = 24;

/// Any of the three.
#[derive(Debug)]
enum Server {
    Postfix(Postfix),
    Jailed(Jail),
}

impl Server {
    async fn postfix() -> Option<Self> {
        runnable(Postfix::available())?;
        Some(Self::Postfix(Postfix::start(&BOXES).await))
    }

    async fn jailed(kind: Kind) -> Option<Self> {
        runnable(Jail::available())?;
        Some(Self::Jailed(Jail::start(kind, &BOXES).await))
    }

    fn port(&self) -> u16 {
        match self {
            Self::Postfix(postfix) => postfix.smtp(),
            Self::Jailed(jail) => jail.port(),
        }
    }

    fn maildir(&self, address: &str) -> PathBuf {
        match self {
            Self::Postfix(postfix) => {
                postfix.maildir(BOXES.iter().position(|known| *known == address).expect("a known address"))
            }
            Self::Jailed(jail) => jail.maildir(address),
        }
    }

    fn settings(&self, stage: &Stage) -> Settings {
        let url = format!("smtp://127.0.0.1:{}?starttls=none", self.port());
        // A real server may leave a dialogue without an answer (OpenSMTPD does, now and then, after resets): then the
        // connection is given up, before the intent, and the delivery goes another way.
        let settings = stage.settings().set("relay.command_timeout", "5s").set("relay.data_timeout", "5s");
        // Leases run out long before anybody is taken for dead: were they what keeps others away, mail would be doubled.
        let settings = settings.set("relay.lease", "1s").set("relay.dead_after", "4s");
        settings.set("routes.default.url", url).set("relay.max_in_flight", IN_FLIGHT)
    }

    /// Waits until everything it has taken lies in a mailbox.
    async fn until_delivered(&self) {
        let state = || match self {
            Self::Postfix(postfix) => (postfix.queued(), postfix.log()),
            Self::Jailed(jail) => (jail.queued(), jail.log()),
        };
        eventually(PATIENCE, async || {
            let (queued, log) = state();
            let end = log.len().saturating_sub(2_000);
            if queued.is_empty() { Ok(()) } else { Err(format!("{queued:?}\n{}", &log[log.ceil_char_boundary(end)..])) }
        })
        .await;
    }

    /// How often each mail lies in each mailbox.
    fn mails(&self) -> BTreeMap<(String, String), usize> {
        let mut found = BTreeMap::new();
        for address in BOXES {
            for bytes in mailbox::read(&self.maildir(address)) {
                *found.entry((mailbox::parse(&bytes).message_id, address.to_owned())).or_default() += 1;
            }
        }
        found
    }
}

fn runnable(available: Result<(), &'static str>) -> Option<()> {
    match available {
        Ok(()) => Some(()),
        Err(why) => {
            assert!(std::env::var_os("HAPAX_TESTS_ALL").is_none(), "{why}");
            eprintln!("SKIPPED: {why}");
            None
        }
    }
}

fn seed() -> u64 {
    let seed = std::env::var("HAPAX_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(|| fastrand::u64(..));
    println!("HAPAX_SEED={seed}");
    seed
}

/// Each delivery: its Message-ID and recipient, its state, and the token of its attempt if it has one.
async fn deliveries(stage: &Stage) -> Vec<((String, String), String, Option<String>)> {
    let sql = "SELECT d.message_id::text, d.recipient, d.state, i.token::text FROM outbox.deliveries d
               LEFT JOIN outbox.in_doubt i USING (message_id, recipient_no)";
    let rows = stage.sql.query(sql, &[]).await.expect("deliveries can be read");
    let key = |row: &tokio_postgres::Row| (format!("{}@{DOMAIN}", row.get::<_, String>(0)), row.get(1));
    rows.iter().map(|row| (key(row), row.get(2), row.get(3))).collect()
}

/// What the mailboxes say against what the database says; answers the tokens of the doubts, with whether they arrived.
async fn count_mailboxes(stage: &Stage, server: &Server) -> Vec<(String, bool)> {
    server.until_delivered().await;
    let mut mails = server.mails();
    let (mut wrong, mut doubts) = (Vec::new(), Vec::new());
    let all = deliveries(stage).await;
    assert_eq!(all.len(), DELIVERIES);
    for (key, state, token) in all {
        let times = mails.remove(&key).unwrap_or_default();
        match (state.as_str(), times) {
            ("sent", 1) => {}
            ("in_doubt", 0 | 1) => doubts.push((token.expect("a doubt has a token"), times == 1)),
            _ => wrong.push(format!("{key:?} is {state} and lies in its mailbox {times} times")),
        }
    }
    wrong.extend(mails.keys().map(|key| format!("{key:?} was never enqueued")));
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
    doubts
}

async fn killed_five_times(server: Server) {
    let stage = Stage::set().await;
    let (settings, mut random) = (server.settings(&stage), Rng::with_seed(seed()));
    let insert = "INSERT INTO outbox.notification (kind, recipients, subject, body_text)
                  SELECT 'note', ARRAY[($2::text[])[1 + i % array_length($2, 1)]], 'Hello ' || i, E'one\\n.two\\n' FROM generate_series(1, $1) i";
    let boxes = BOXES.map(str::to_owned).to_vec();
    stage.sql.execute(insert, &[&i32::try_from(DELIVERIES).expect("few"), &boxes]).await.expect("enqueues");
    let started = Instant::now();
    let mut relay = settings.run().await;
    for kill in 0..KILLS {
        let taken = "SELECT count(*) FROM outbox.attempt WHERE outcome = 'accepted'";
        let mark = stage.count(taken).await + random.i64(1..=160);
        eventually(PATIENCE, async || stage.count(taken).await >= mark).await;
        tokio::time::sleep(Duration::from_micros(random.u64(0..20_000))).await;
        relay.sigkill();
        relay.wait_exit(Duration::from_secs(10)).await;
        println!("kill {}: {:?}", kill + 1, stage.states().await);
        relay = settings.run().await;
    }
    stage.until_settled().await;
    let doubts = count_mailboxes(&stage, &server).await;
    let arrived = doubts.iter().filter(|(_, arrived)| *arrived).count();
    println!(
        "{DELIVERIES} deliveries, {KILLS} kills, {:.1?}: {} sent and there once; {} in doubt, of which {arrived} arrived; none twice, none lost",
        started.elapsed(),
        DELIVERIES - doubts.len(),
        doubts.len()
    );
    assert!(doubts.len() <= KILLS * IN_FLIGHT, "{} in doubt", doubts.len());
    let sql = "SELECT string_agg(x, ', ') FROM (SELECT concat_ws(' ', count(*), outcome, phase, cause, code) x FROM outbox.attempt
               WHERE outcome NOT IN ('accepted', 'unknown') GROUP BY outcome, phase, cause, code) x";
    println!("attempts that came to nothing: {:?}", stage.text(sql, &[]).await);
    // Somebody looks into the mailboxes and decides. Then every mail is there, once.
    let operator = stage.settings_of("operator");
    for (verdict, there) in [("sent", true), ("resend", false)] {
        let tokens: Vec<&str> =
            doubts.iter().filter(|(_, arrived)| *arrived == there).map(|(token, _)| token.as_str()).collect();
        if !tokens.is_empty() {
            let rest = [verdict, "--reason", "seen in the mailbox", "--force"];
            let (code, output) = operator.command(["resolve"].into_iter().chain(tokens).chain(rest)).await;
            assert_eq!(code, 0, "{output}");
        }
    }
    stage.until("sent", i64::try_from(DELIVERIES).expect("few")).await;
    assert_eq!(count_mailboxes(&stage, &server).await, []);
    relay.sigterm();
    assert!(relay.wait_exit(Duration::from_secs(30)).await.success(), "{}", relay.report());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rc22_killed_five_times_in_a_thousand_deliveries_no_mailbox_of_a_real_postfix_has_a_mail_twice_or_misses_one() {
    let Some(server) = Server::postfix().await else { return };
    killed_five_times(server).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rc22_killed_five_times_in_a_thousand_deliveries_no_mailbox_of_a_real_exim_has_a_mail_twice_or_misses_one() {
    let Some(server) = Server::jailed(Kind::Exim).await else { return };
    killed_five_times(server).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rc22_killed_five_times_in_a_thousand_deliveries_no_mailbox_of_a_real_opensmtpd_has_a_mail_twice_or_misses_one()
{
    let Some(server) = Server::jailed(Kind::OpenSmtpd).await else { return };
    killed_five_times(server).await;
}

/// Letters of the forms whose readers both servers can name: dots, emoji, right to left, long lines, attachments, raw.
async fn letters_arrive_intact(server: &Server) {
    let stage = Stage::set().await;
    let mut expected = BTreeMap::new();
    for (n, form) in [2, 3, 4, 5, 6, 7, 8, 12].into_iter().enumerate() {
        let mut letter = letter(form);
        let reader = BOXES[n];
        letter.document["recipients"] = serde_json::json!([reader]);
        letter.mail.to = vec![reader.to_owned()];
        if form == 8 {
            // A raw message says itself to whom it is.
            letter.mail.to = hapax_tests::letters::letter(8).mail.to;
        }
        let sql = "SELECT id FROM outbox.enqueue_many($1::text::json)";
        let row = stage.sql.query_one(sql, &[&format!("[{}]", letter.document)]).await.expect("enqueues");
        let (id, domain) = (row.get::<_, uuid::Uuid>(0), letter.mail.from[0].split_once('@').expect("an address").1);
        if letter.mail.message_id.is_empty() {
            letter.mail.message_id = format!("{id}@{domain}");
        }
        expected.insert(reader, letter.mail);
    }
    let _relay = server.settings(&stage).run().await;
    stage.until("sent", i64::try_from(expected.len()).expect("few")).await;
    server.until_delivered().await;
    for (reader, meant) in expected {
        let mails: Vec<Mail> =
            mailbox::read(&server.maildir(reader)).iter().map(|bytes| mailbox::parse(bytes)).collect();
        assert_eq!(mails, [meant], "{reader}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn letters_of_many_forms_arrive_once_and_intact_through_a_real_exim() {
    let Some(server) = Server::jailed(Kind::Exim).await else { return };
    letters_arrive_intact(&server).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn letters_of_many_forms_arrive_once_and_intact_through_a_real_opensmtpd() {
    let Some(server) = Server::jailed(Kind::OpenSmtpd).await else { return };
    letters_arrive_intact(&server).await;
}
