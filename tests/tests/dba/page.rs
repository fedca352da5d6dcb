//! `deploy/DBA.md`: what stands there in a box is executed, in the order of the page, on a database with some trouble in
//! it; and what the page says about the statements of a relay is so.

use hapax_testkit::{Action, Fault, HapaxProcess, PgCluster, Phase, Script, SmtpServer, eventually};
use hapax_tests::stage::{PATIENCE, Settings};
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

const PAGE: &str = include_str!("../../../deploy/DBA.md");

/// Sections whose boxes are executed by tests of their own.
const APART: [&str; 2] = ["To take a week away", "To remove it"];

/// What is to be typed, and as whom.
pub(crate) struct Typed {
    pub(crate) user: &'static str,
    pub(crate) sql: &'static str,
}

/// The boxes of the sections whose headline is wanted.
fn boxes(is_wanted: impl Fn(&str) -> bool) -> Vec<Typed> {
    let sections = PAGE.split("\n## ").filter(|section| is_wanted(section));
    sections
        .flat_map(|section| {
            let mut before = section.split_once("```sql\n").map_or(section, |(before, _)| before);
            section.split("```sql\n").skip(1).map(move |rest| {
                let (sql, after) = rest.split_once("```").expect("a box has an end");
                let said = before.trim_end().rsplit("\n\n").next().unwrap_or_default().to_lowercase();
                before = after;
                let user = match () {
                    () if said.contains("as a superuser") => "postgres",
                    () if said.contains("as the owner") => "outbox_owner",
                    () => "sre",
                };
                Typed { user, sql: sql.trim() }
            })
        })
        .collect()
}

/// Those of one section.
pub(crate) fn boxes_of(headline: &str) -> Vec<Typed> {
    let boxes = boxes(|section| section.starts_with(headline));
    assert!(!boxes.is_empty(), "{headline}");
    boxes
}

/// A database that becomes as the page says.
pub(crate) struct Shop {
    pub(crate) cluster: PgCluster,
    server: SmtpServer,
    pub(crate) admin: Client,
}

impl Shop {
    /// Without an outbox yet.
    pub(crate) async fn new() -> Self {
        let doubtful = Script::from_fn(|context| {
            let of = context.recipient.as_deref().unwrap_or_default();
            let lost = matches!(context.phase, Phase::EndMarker { .. }) && of.starts_with("doubt");
            if lost { Action::Fault(Fault::Reset) } else { Action::Proceed }
        });
        let cluster = PgCluster::builder()
            .setting("max_prepared_transactions", "4")
            .setting("shared_preload_libraries", "pg_stat_statements");
        let cluster = cluster.setting("log_min_duration_statement", "0").start().await.expect("a cluster");
        cluster.create_database("shop").await.expect("made");
        cluster.execute("shop", "CREATE EXTENSION pg_stat_statements").await.expect("an extension");
        let admin = cluster.client("shop").await.expect("it takes a client");
        Self { cluster, server: SmtpServer::builder().script(doubtful).start(), admin }
    }

    /// As the page has it up to the first users.
    pub(crate) async fn installed() -> Self {
        let shop = Self::new().await;
        shop.install().await;
        shop
    }

    pub(crate) async fn install(&self) {
        for Typed { user, sql } in &boxes_of("What is installed")[..2] {
            assert_eq!(*user, "postgres", "{sql}");
            if sql.contains("IN ROLE outbox_relay") {
                let (code, said) = self.settings("outbox_owner").command(["migrate", "up"]).await;
                assert_eq!(code, 0, "{said}");
                assert!(!said.contains("notice"), "there is nothing left to do: {said}");
            }
            self.sql(sql).await;
        }
    }

    /// As a superuser.
    pub(crate) async fn sql(&self, sql: &str) {
        self.admin.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }

    pub(crate) fn settings(&self, user: &str) -> Settings {
        let route = format!("smtp://127.0.0.1:{}?starttls=none", self.server.port());
        Settings::new(&self.cluster.url_for("shop", user), &route).set("relay.name", "mx-out-1")
    }

    pub(crate) async fn as_user(&self, user: &str) -> Client {
        let url = self.cluster.url_for("shop", user);
        let (client, connection) = tokio_postgres::connect(&url, NoTls).await.expect("connects");
        tokio::spawn(connection);
        client.batch_execute("SET application_name = 'checkout'").await.expect("sets");
        client
    }

    pub(crate) async fn until(&self, sql: &str, wanted: i64) {
        eventually(PATIENCE, async || {
            let found: i64 = self.admin.query_one(sql, &[]).await.expect("reads").get(0);
            (found == wanted).then_some(()).ok_or_else(|| format!("{found}, not {wanted}: {sql}"))
        })
        .await;
    }
}

pub(crate) async fn enqueue(app: &Client, arguments: &str) -> String {
    let sql = format!("SELECT outbox.enqueue('note', subject => 'Hello', body_text => 'Hello', {arguments})::text");
    app.query_one(&sql, &[]).await.unwrap_or_else(|error| panic!("{sql}: {error:?}")).get(0)
}

/// Something of everything that the page's queries look for; what is returned keeps it so.
async fn trouble(shop: &Shop) -> (HapaxProcess, Vec<Client>) {
    let (app, sre) = (shop.as_user("app").await, shop.as_user("sre").await);
    let held = enqueue(&app, "recipients => '{held@example.org}', ordering_key => 'k'").await;
    let waits = enqueue(&app, "recipients => '{waits@example.org}', ordering_key => 'k'").await;
    sre.batch_execute(&format!(
        "SELECT outbox.hold('{held}', 'a test'); SELECT outbox.pause('a test', kind => 'bulk')"
    ))
    .await
    .expect("decides");
    let relay = shop.settings("hapax").run().await;
    enqueue(&app, "recipients => '{doubt@example.org}'").await;
    for _ in 0..2 {
        enqueue(&app, "recipients => '{twice@example.org}'").await;
    }
    shop.until("SELECT count(*) FROM outbox.queue WHERE parked = 'doubt'", 1).await;
    shop.until("SELECT count(*) FROM outbox.done", 2).await;
    let week =
        "INSERT INTO outbox.upkeep_postponed (what, why) VALUES ('message_20200106', 'has unfinished deliveries')";
    shop.admin.batch_execute(week).await.expect("as if one were kept");
    // Somebody has a row, somebody else wants it; and a transaction that nobody is in any more has another.
    let row = |id: &str| format!("BEGIN; SELECT FROM outbox.queue WHERE message_id = '{id}' FOR UPDATE");
    let keeper = shop.as_user("postgres").await;
    shop.as_user("postgres")
        .await
        .batch_execute(&format!("{}; PREPARE TRANSACTION 'forgotten'", row(&waits)))
        .await
        .expect("prepares");
    keeper.batch_execute(&row(&held)).await.expect("locks");
    for wanted in [held, waits] {
        let waiter = shop.as_user("app").await;
        tokio::spawn(async move { waiter.batch_execute(&format!("SELECT outbox.cancel('{wanted}', 'x')")).await });
    }
    let blocked = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND usename = 'app'";
    shop.until(blocked, 2).await;
    // Somebody else's outbox on the same server.
    let other = shop.cluster.client("postgres").await.expect("it takes a client");
    other.batch_execute("SELECT /* outbox.elsewhere */ 1").await.expect("it is counted there");
    (relay, vec![keeper, app])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_in_a_box_of_the_page_for_dbas_is_executed_and_its_queries_find_what_they_look_for() {
    let shop = Shop::installed().await;
    let _kept = trouble(&shop).await;
    let (sre, owner) = (shop.as_user("sre").await, shop.as_user("outbox_owner").await);
    let (mut asked, mut done, mut seen) = (0, 0, String::new());
    let usual = boxes(|section| !APART.iter().any(|headline| section.starts_with(headline)));
    for Typed { user, sql } in usual.into_iter().skip(2) {
        let who = match user {
            "postgres" => &shop.admin,
            "outbox_owner" => &owner,
            _ => &sre,
        };
        let rows = who.simple_query(sql).await.unwrap_or_else(|error| panic!("as {user}: {sql}: {error:?}"));
        if !sql.starts_with("SELECT") {
            done += 1;
            continue;
        }
        let rows =
            rows.iter().filter_map(|message| if let SimpleQueryMessage::Row(row) = message { Some(row) } else { None });
        let rows: Vec<String> =
            rows.map(|row| (0..row.len()).filter_map(|at| row.get(at)).collect::<Vec<_>>().join(" ")).collect();
        assert!(!rows.is_empty() || sql.contains("outbox.maintain("), "finds nothing: {sql}");
        seen.extend(rows);
        asked += 1;
    }
    assert!(seen.contains("0 a prepared transaction") && !seen.contains("outbox.elsewhere"), "{seen}");
    shop.sql("ROLLBACK PREPARED 'forgotten'").await;
    println!("{asked} queries and {done} other boxes");
    // The log, though every statement is in it.
    let app = shop.as_user("app").await;
    let sql = "SELECT outbox.enqueue('note', ARRAY[$1], subject => 'Hello', body_text => 'Hello')";
    app.query_one(sql, &[&"ada.lovelace@example.org"]).await.expect("enqueues");
    app.query_one(sql, &[&"ada.lovelace@example..org"]).await.expect_err("refused");
    // In the text it is seen where texts are logged, and only there.
    let quiet = "ALTER ROLE app IN DATABASE shop SET log_min_duration_statement = -1";
    shop.admin.batch_execute(quiet).await.expect("sets");
    let typed =
        "SELECT outbox.enqueue('note', '{ada.lovelace@example..org}', subject => 'Hello', body_text => 'Hello')";
    shop.as_user("app").await.query_one(typed, &[]).await.expect_err("refused");
    shop.until("SELECT count(*) FROM outbox.done", 3).await;
    let log = shop.cluster.log();
    assert!(log.contains("outbox.enqueue: recipients") && log.contains(sql), "it is logged");
    assert!(
        !log.contains("ada.lovelace"),
        "{}",
        log.lines().filter(|line| line.contains("ada.lovelace")).collect::<String>()
    );
    assert!(asked >= 18 && done >= 2, "{asked} and {done}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relays_statements_are_a_fixed_set_of_constant_texts_that_begin_with_their_names() {
    let shop = Shop::installed().await;
    let app = shop.as_user("app").await;
    let relay = shop.settings("hapax").run().await;
    let bulk = "INSERT INTO outbox.notification (kind, recipients, subject, body_text)
                SELECT 'note', ARRAY['r' || i || '@example.org'], 'Hello ' || i, 'one' FROM generate_series(1, 300) i";
    let of_relays = "FROM pg_stat_statements s JOIN pg_roles r ON r.oid = s.userid WHERE r.rolname = 'hapax'";
    let mut known = Vec::new();
    for round in 1..=3 {
        app.batch_execute(bulk).await.expect("enqueues");
        shop.until("SELECT count(*) FROM outbox.done", 300 * round).await;
        let rows = shop.admin.query(&format!("SELECT s.query {of_relays}"), &[]).await.expect("reads");
        known = rows.iter().map(|row| row.get::<_, String>(0)).collect();
    }
    // One entry for each name, whatever is sent.
    let mut names: Vec<&str> = Vec::new();
    for text in &known {
        let name = text.strip_prefix("-- outbox.").and_then(|rest| rest.split_once(':')).map(|(name, _)| name);
        let name = name.unwrap_or_else(|| panic!("does not begin with its name: {text}"));
        assert!(text.contains(&format!("/* outbox.{name} */")), "{text}");
        assert!(!text.contains("example.org"), "{text}");
        names.push(name);
    }
    names.sort_unstable();
    let entries = names.len();
    names.dedup();
    assert_eq!(entries, names.len(), "{names:?}");
    println!("{entries} entries: {}", names.join(" "));
    assert!((12..=60).contains(&entries), "{entries}");
    for hot in ["claim", "letters", "intend", "settle", "heartbeat", "look"] {
        assert!(names.contains(&hot), "{hot}: {names:?}");
    }
    // Whose connections they are.
    let sql = "SELECT DISTINCT application_name FROM pg_stat_activity WHERE usename = 'hapax'";
    let rows = shop.admin.query(sql, &[]).await.expect("reads");
    let applications: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    assert_eq!(applications, ["hapax mx-out-1"]);
    drop(relay);
}
