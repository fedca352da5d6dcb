//! In a database whose locale lowers I to a dotless i, an address is the same one in capital and small letters, as it is to
//! the relay and to everybody's mail server.

use hapax_testkit::{Fault, PgCluster, Phase, Rule, Script, SmtpServer, eventually};
use hapax_tests::stage::{PATIENCE, Settings};
use tokio_postgres::{Client, NoTls};
use uuid::Uuid;

struct Shop {
    cluster: PgCluster,
    server: SmtpServer,
    admin: Client,
    app: Client,
}

impl Shop {
    async fn in_turkey(server: SmtpServer) -> Self {
        let cluster = PgCluster::start().await.expect("a cluster");
        let create = "CREATE DATABASE shop TEMPLATE template0 LOCALE_PROVIDER icu ICU_LOCALE 'tr-TR'";
        cluster.execute("postgres", create).await.expect("a database");
        let admin = cluster.client("shop").await.expect("it takes a client");
        let lowered: String = admin.query_one("SELECT lower('I')", &[]).await.expect("lowers").get(0);
        assert_eq!(lowered, "\u{131}", "nothing to see here otherwise");
        let settings = Settings::new(&cluster.url_for("shop", "postgres"), "smtp://127.0.0.1:1?starttls=none");
        let (code, said) = settings.command(["migrate", "up"]).await;
        assert_eq!(code, 0, "{said}");
        let roles =
            ["relay", "producer", "operator"].map(|role| format!("CREATE ROLE {role} LOGIN IN ROLE outbox_{role};"));
        cluster.execute("shop", &roles.concat()).await.expect("roles");
        let (app, connection) =
            tokio_postgres::connect(&cluster.url_for("shop", "producer"), NoTls).await.expect("connects");
        tokio::spawn(connection);
        Self { cluster, server, admin, app }
    }

    fn settings(&self, user: &str) -> Settings {
        let route = format!("smtp://127.0.0.1:{}?starttls=none", self.server.port());
        Settings::new(&self.cluster.url_for("shop", user), &route)
    }

    async fn enqueue(&self, recipients: &[&str], arguments: &str) -> Result<Uuid, tokio_postgres::Error> {
        let sql = format!("SELECT outbox.enqueue('note', $1, subject => 'Hello', body_text => 'Hello'{arguments})");
        Ok(self.app.query_one(&sql, &[&recipients]).await?.get(0))
    }

    async fn numbers(&self, sql: &str) -> i64 {
        self.admin.query_one(sql, &[]).await.unwrap_or_else(|error| panic!("{sql}: {error:?}")).get(0)
    }

    /// What has become of a message's deliveries.
    async fn until(&self, id: Uuid, states: &str) {
        let sql = "SELECT coalesce(string_agg(state, ' ' ORDER BY recipient_no), '') FROM outbox.deliveries WHERE message_id = $1";
        eventually(PATIENCE, async || {
            let now: String = self.admin.query_one(sql, &[&id]).await.expect("reads").get(0);
            (now == states).then_some(()).ok_or(now)
        })
        .await;
    }

    /// Tables with a row that has the word in it, in whatever letters.
    async fn named_in(&self, word: &str) -> Vec<String> {
        let tables = "SELECT relname::text FROM pg_class WHERE relnamespace = 'outbox'::regnamespace AND relkind IN ('r', 'p') AND NOT relispartition";
        let mut found = Vec::new();
        for row in self.admin.query(tables, &[]).await.expect("reads") {
            let table: String = row.get(0);
            let sql =
                format!("SELECT count(*) FROM outbox.{table} t WHERE lower(t::text COLLATE \"C\") LIKE '%{word}%'");
            if self.numbers(&sql).await > 0 {
                found.push(table);
            }
        }
        found
    }
}

async fn done(operator: &Settings, words: &[&str]) -> String {
    let (code, said) = operator.command(words.iter().copied()).await;
    assert_eq!(code, 0, "{words:?}: {said}");
    said
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_suppressed_or_paused_gets_nothing_in_capital_letters_either() {
    let unknown = Fault::Custom("550 5.1.1 no such user\r\n".into());
    let script = Script::rules([Rule::at(Phase::Rcpt, unknown).recipient("IRIS@gone.info").times(1)]);
    let shop = Shop::in_turkey(SmtpServer::builder().script(script).start()).await;
    let operator = shop.settings("operator");
    done(&operator, &["suppress", "INFO@EXAMPLE.INFO"]).await;
    done(&operator, &["suppress", "info@two.org"]).await;
    done(&operator, &["pause", "--address", "Pia@IN.org", "--reason", "a test"]).await;
    let relay = shop.settings("relay").set("suppression.hard_bounces", true).run().await;
    let bounced = shop.enqueue(&["Iris <IRIS@GONE.INFO>"], "").await.expect("enqueued");
    shop.until(bounced, "failed").await;
    eventually(PATIENCE, async || {
        let listed = shop.numbers("SELECT count(*) FROM outbox.suppression WHERE reason = 'hard_bounce'").await;
        (listed == 1).then_some(()).ok_or(listed)
    })
    .await;
    for (recipient, state) in [
        ("info@example.info", "suppressed"),
        ("INFO@EXAMPLE.INFO", "suppressed"),
        ("Info <Info@Two.org>", "suppressed"),
        ("INFO@TWO.ORG", "suppressed"),
        ("iris@gone.info", "suppressed"),
        ("ida@in.org", "sent"),
        ("IDA@IN.ORG", "sent"),
    ] {
        let id = shop.enqueue(&[recipient], "").await.expect("enqueued");
        shop.until(id, state).await;
    }
    for address in ["INFO@example.info", "iris@gone.INFO"] {
        let said = done(&operator, &["suppressions", address]).await;
        assert!(said.contains("i***@"), "{address}: {said}");
    }
    for _ in 0..2 {
        shop.enqueue(&["PIA@IN.ORG", "pia@in.org"], "").await.expect("enqueued");
    }
    shop.enqueue(&["pia@in.org"], "").await.expect("enqueued");
    eventually(PATIENCE, async || {
        let paused = shop.numbers("SELECT count(*) FROM outbox.queue WHERE parked = 'paused'").await;
        (paused == 3).then_some(()).ok_or(paused)
    })
    .await;
    done(&operator, &["resume", "--address", "PIA@in.org", "--reason", "a test"]).await;
    shop.server.wait_until_within(PATIENCE, |ledger| ledger.totals().accepted == 5).await;
    drop(relay);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_is_found_counted_once_and_erased_in_any_letters() {
    let shop = Shop::in_turkey(SmtpServer::start()).await;
    let operator = shop.settings("operator");
    let relay = shop.settings("relay").run().await;
    // Twice in one notification: one delivery; a key that has it, repeated: one message.
    let twice =
        shop.enqueue(&["INGRID@ICE.INFO", "Ingrid <ingrid@ice.info>"], ", dedup_key => 'INGRID@ICE.INFO/1'").await;
    let twice = twice.expect("enqueued");
    let again =
        shop.enqueue(&["INGRID@ICE.INFO", "Ingrid <ingrid@ice.info>"], ", dedup_key => 'INGRID@ICE.INFO/1'").await;
    assert_eq!(again.expect("known"), twice);
    shop.until(twice, "sent").await;
    let small = shop.enqueue(&["ingrid@ice.info"], ", ordering_key => 'Ingrid@Ice.Info'").await.expect("enqueued");
    shop.until(small, "sent").await;
    let mention = shop.enqueue(&["ida@in.org"], ", reply_to => 'INGRID@ICE.INFO'").await.expect("enqueued");
    shop.until(mention, "sent").await;
    let waiting =
        shop.enqueue(&["IngrId@Ice.info"], ", not_before => now() + interval '1 day'").await.expect("enqueued");
    done(&operator, &["hold", &waiting.to_string(), "--reason", "INGRID@ICE.INFO asked"]).await;
    let listed =
        "SELECT outbox.suppress('INGRID@ICE.INFO', 'manual', note => 'INGRID@ICE.INFO called', keep_address => true)";
    shop.admin.batch_execute(listed).await.expect("suppressed");
    for address in ["INGRID@ICE.INFO", "ingrid@ice.info", "Ingrid@Ice.Info"] {
        let sql = format!("SELECT count(*) FROM outbox.find_deliveries('{address}')");
        assert_eq!(shop.numbers(&sql).await, 3, "{address}");
        let sql = format!("SELECT count(*) FROM outbox.would_erase('{address}') WHERE result LIKE '%erased'");
        assert_eq!(shop.numbers(&sql).await, 3, "{address}");
    }
    let named = shop.named_in("ingrid").await;
    for table in ["message", "audit", "suppression", "dedup_key", "ordering", "queue"] {
        assert!(named.iter().any(|one| one == table), "{table}: {named:?}");
    }
    done(&operator, &["erase", "Ingrid@ICE.info", "--reason", "as asked", "--mentions"]).await;
    assert_eq!(shop.named_in("ingrid").await, [""; 0]);
    // It is known by what it was sent, and stays suppressed.
    assert!(done(&operator, &["explain", "ingrid@ice.info"]).await.contains("erased"));
    let id = shop.enqueue(&["ingrid@ice.info"], "").await.expect("enqueued");
    shop.until(id, "suppressed").await;
    drop(relay);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_of_header_fields_are_known_in_capital_letters() {
    let shop = Shop::in_turkey(SmtpServer::start()).await;
    let filler = "x".repeat(90);
    for name in ["MIME-VERSION", "MESSAGE-ID", "DKIM-Signature", "Recipients\": \"x\", \"SUBJECT", "X-HAPAX-ID"] {
        for value in ["1", &filler] {
            let headers = format!(", headers => '{{\"{name}\": \"{value}\"}}'");
            let refused = shop.enqueue(&["ida@in.org"], &headers).await.expect_err(name);
            assert_eq!(refused.code().map(|code| code.code()), Some("22H07"), "{name}: {refused:?}");
        }
    }
    shop.enqueue(&["ida@in.org"], ", headers => '{\"X-ISSUE\": \"1\"}'").await.expect("enqueued");
}
