//! Illnesses of the database and of the outbox in it: each provoked, found, and taken back.

use hapax_testkit::{PgCluster, ReservedPort, SmtpServer, eventually};
use hapax_tests::dns::DnsServer;
use hapax_tests::pgbouncer::PgBouncer;
use hapax_tests::stage::{PATIENCE, Settings, Stage};

use crate::asking::{PASSWORD, Said, ask, ask_with};
use crate::servers::names;

/// A stage with a DNS server.
pub(crate) struct Clinic {
    pub(crate) stage: Stage,
    pub(crate) dns: DnsServer,
}

impl Clinic {
    pub(crate) async fn open() -> Self {
        Self { stage: Stage::set().await, dns: names().await }
    }

    pub(crate) async fn on(cluster: PgCluster) -> Self {
        Self { stage: Stage::on(cluster, SmtpServer::start()).await, dns: names().await }
    }

    pub(crate) async fn sql(&self, sql: &str) {
        self.stage.sql.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }

    pub(crate) async fn ask(&self, settings: &Settings) -> Said {
        self.ask_more(settings, &[]).await
    }

    async fn ask_more(&self, settings: &Settings, more: &[&str]) -> Said {
        let resolver = self.dns.address().to_string();
        let arguments = [&["--resolver", &resolver, "--timeout", "3s"][..], more].concat();
        ask(settings, &arguments).await
    }

    pub(crate) async fn examine(&self) -> Said {
        self.ask(&self.stage.settings()).await
    }

    /// Provokes, looks, and takes it back.
    pub(crate) async fn provoke(&self, ill: &str, well: &str, [severity, name, evidence, remedy]: [&str; 4]) {
        self.sql(ill).await;
        self.examine().await.assert_only(severity, name, evidence, remedy);
        self.sql(well).await;
    }

    /// A setting of the server, until it has arrived in new sessions.
    async fn set(&self, name: &str, value: &str) {
        self.sql(&format!("ALTER SYSTEM SET {name} = {value}")).await;
        self.sql("SELECT pg_reload_conf()").await;
        let show = format!("SELECT setting FROM pg_settings WHERE name = '{name}'");
        let wanted = value.trim_matches('\'').to_owned();
        eventually(PATIENCE, async || self.stage.text(&show, &[]).await.as_deref() == Some(&wanted)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_schema_that_is_behind_changed_or_has_lost_something_is_found() {
    let clinic = Clinic::open().await;
    clinic.examine().await.assert_well();
    let took = "CREATE TABLE public.taken AS SELECT * FROM outbox.migration WHERE version = 26;
                DELETE FROM outbox.migration WHERE version = 26;";
    let back = "INSERT INTO outbox.migration SELECT * FROM public.taken; DROP TABLE public.taken;";
    clinic
        .provoke(took, back, ["error", "schema.migrations", "lacks migrations 0026_letters.sql", "hapax migrate up"])
        .await;
    let edit = "CREATE TABLE public.taken AS SELECT * FROM outbox.migration;
                UPDATE outbox.migration SET checksum = 'edited' WHERE version = 5;";
    let back = "UPDATE outbox.migration m SET checksum = t.checksum FROM public.taken t WHERE t.version = m.version;
                DROP TABLE public.taken;";
    clinic.provoke(edit, back, ["error", "schema.migrations", "was changed after it was applied", "never edit"]).await;
    let back = "CREATE INDEX queue_ordered ON outbox.queue (order_key, order_no) WHERE order_key IS NOT NULL;";
    let found = ["error", "schema.indexes", "outbox.queue_ordered is missing", "REINDEX"];
    clinic.provoke("DROP INDEX outbox.queue_ordered", back, found).await;
    let put_back = "ALTER TABLE outbox.queue ENABLE REPLICA TRIGGER queue_is_ours;";
    for (ill, evidence) in [
        ("ALTER TABLE outbox.queue ENABLE TRIGGER ALL", "enabled for every session but those that replicate"),
        ("ALTER TABLE outbox.queue DISABLE TRIGGER ALL", "disabled: what logical replication brings"),
    ] {
        clinic.provoke(ill, put_back, ["error", "schema.triggers", evidence, put_back]).await;
    }
    let put_back = "ALTER TABLE outbox.dedup_key ENABLE TRIGGER refuse_erased_key;";
    let off = "ALTER TABLE outbox.dedup_key DISABLE TRIGGER USER";
    clinic
        .provoke(off, put_back, ["error", "schema.triggers", "refuse_erased_key on outbox.dedup_key", put_back])
        .await;
    for table in ["queue", "message", "suppression", "migration"] {
        let off = format!("ALTER TABLE outbox.{table} DISABLE ROW LEVEL SECURITY;");
        let on = format!("ALTER TABLE outbox.{table} ENABLE ROW LEVEL SECURITY");
        let evidence = format!("on for outbox.{table}: what it hides");
        clinic.provoke(&on, &off, ["error", "schema.row_security", &evidence, &off]).await;
    }
    let (off, on) = (
        "ALTER TABLE outbox.queue SET (autovacuum_enabled = false)",
        "ALTER TABLE outbox.queue RESET (autovacuum_enabled)",
    );
    clinic.provoke(off, on, ["warning", "schema.autovacuum", "outbox.queue", "ALTER TABLE outbox.queue RESET"]).await;
    let (off, on) = (
        "ALTER TABLE outbox.queue RESET (autovacuum_vacuum_scale_factor)",
        "ALTER TABLE outbox.queue SET (autovacuum_vacuum_scale_factor = 0.02)",
    );
    clinic.provoke(off, on, ["warning", "schema.autovacuum", "autovacuum_vacuum_scale_factor", "0.02"]).await;
    let drop_all = "DO $$ DECLARE p text; BEGIN FOR p IN SELECT relname FROM pg_class
                    WHERE relnamespace = 'outbox'::regnamespace
                    AND relname ~ '^attempt_[0-9]{8}$' LOOP EXECUTE format('DROP TABLE outbox.%I', p);
                    END LOOP; END $$";
    let again = "SELECT outbox.maintain()";
    let found = ["warning", "schema.partitions", "there is none for today", "outbox.maintain()"];
    clinic.provoke(drop_all, again, found).await;
    // An archive that still has the name of the week.
    let week = "DO $$ DECLARE week timestamp := date_trunc('week', now() AT TIME ZONE 'UTC'); BEGIN
                EXECUTE format('ALTER TABLE outbox.message %s', format('XX', 'outbox.message_' || to_char(week, 'YYYYMMDD'),
                outbox.uuid_floor(week AT TIME ZONE 'UTC'), outbox.uuid_floor((week + interval '7 days') AT TIME ZONE 'UTC'))); END $$";
    let (apart, back) = (
        week.replace("XX", "DETACH PARTITION %s"),
        week.replace("XX", "ATTACH PARTITION %s FOR VALUES FROM (%L) TO (%L)"),
    );
    let found = ["warning", "schema.partitions", "not attached", "_archive"];
    clinic.provoke(&apart, &back, found).await;
    // A row of a time that no partition was made for.
    let stray = "INSERT INTO outbox.attempt (message_id, recipient_no, token, attempt_no, outcome, phase)
                 VALUES ('fffffff0-0000-7000-8000-000000000000', 1, gen_random_uuid(), 1, 'unknown', 'end_marker')";
    let gone = "DELETE FROM outbox.attempt; VACUUM outbox.attempt_default";
    clinic.sql(stray).await;
    clinic.sql("ANALYZE outbox.attempt_default").await;
    let said = clinic.examine().await;
    said.assert_only("warning", "schema.default_partition", "outbox.attempt_default has about 1", "outbox.maintain()");
    for sql in gone.split("; ") {
        clinic.sql(sql).await;
    }
    let overdue = "INSERT INTO outbox.upkeep_postponed VALUES ('message_20240101', 'is in use by another transaction', now() - interval '3 days', now())";
    let found = ["warning", "schema.retention", "outbox.message_20240101 is in use by another transaction", "pg_locks"];
    clinic.provoke(overdue, "DELETE FROM outbox.upkeep_postponed", found).await;
    // Somebody holds a lock for ever: what hangs is told, and so is everything else.
    let blocker = clinic.stage.cluster.client("postgres").await.expect("it takes a client");
    blocker.batch_execute("BEGIN; LOCK TABLE outbox.migration IN ACCESS EXCLUSIVE MODE").await.expect("locks");
    let said = clinic.examine().await;
    said.assert_only("error", "schema.migrations", "no answer", "who locks what");
    said.assert_has("ok", "schema.indexes", "", "");
    blocker.batch_execute("ROLLBACK").await.expect("unlocks");
    clinic.examine().await.assert_well();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_with_too_little_too_much_or_hurtful_settings_is_found() {
    let clinic = Clinic::open().await;
    let (take, give) =
        ("REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA outbox FROM outbox_relay", "SELECT outbox.grant_roles()");
    clinic.sql(take).await;
    let said = clinic.examine().await;
    said.assert_only(
        "error",
        "database.privileges",
        "EXECUTE on function outbox.claim_batch",
        "GRANT outbox_relay TO relay",
    );
    said.assert_has("note", "outbox.armed", "could not be looked at", "outbox_relay");
    clinic.sql(give).await;
    let (take, give) = ("REVOKE UPDATE ON outbox.queue FROM outbox_relay", "SELECT outbox.grant_roles()");
    clinic.provoke(take, give, ["error", "database.privileges", "UPDATE on table outbox.queue", "grant_roles"]).await;
    let (take, give) = ("REVOKE outbox_relay FROM relay", "GRANT outbox_relay TO relay");
    clinic
        .provoke(take, give, ["error", "database.privileges", "may not use schema outbox", "GRANT outbox_relay"])
        .await;
    let (take, give) = ("ALTER ROLE relay CREATEDB", "ALTER ROLE relay NOCREATEDB");
    clinic.provoke(take, give, ["warning", "database.role", "may create databases", "IN ROLE outbox_relay"]).await;
    let (take, give) = ("GRANT outbox_operator TO relay", "REVOKE outbox_operator FROM relay");
    clinic.provoke(take, give, ["warning", "database.role", "outbox_operator", "IN ROLE outbox_relay"]).await;
    let super_user = clinic.stage.settings_of("postgres");
    let said = clinic.ask(&super_user).await;
    said.assert_only("warning", "database.role", "superuser", "IN ROLE outbox_relay");
    let (ill, well) = (
        "ALTER ROLE relay SET statement_timeout = '2s';
         ALTER ROLE relay SET idle_in_transaction_session_timeout = '5s'",
        "ALTER ROLE relay RESET ALL",
    );
    clinic
        .provoke(
            ill,
            well,
            ["warning", "database.timeouts", "idle_in_transaction_session_timeout is 5 s", "statement_timeout = 0"],
        )
        .await;
    let (ill, well) = ("ALTER ROLE relay SET default_transaction_read_only = on", "ALTER ROLE relay RESET ALL");
    clinic.provoke(ill, well, ["error", "database.recovery", "read-only", "default_transaction_read_only"]).await;
    let (ill, well) = ("ALTER ROLE relay CONNECTION LIMIT 8", "ALTER ROLE relay CONNECTION LIMIT -1");
    clinic
        .provoke(ill, well, ["warning", "database.connections", "may have 8 connections", "CONNECTION LIMIT -1"])
        .await;
    clinic.examine().await.assert_well();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_privileges_that_are_asked_for_are_those_that_are_granted() {
    let stage = Stage::set().await;
    let query = include_str!("../../../crates/store/queries/doctor_role.sql");
    let granted = "SELECT DISTINCT trim(p) || ' ' || n FROM outbox.privilege v,
                     unnest(string_to_array(v.privileges, ',')) p, unnest(v.names) n
                   WHERE 'outbox_relay' = ANY (string_to_array(v.roles, ' '))
                     AND (to_regclass('outbox.' || n) IS NOT NULL 
                       OR EXISTS (SELECT FROM pg_proc f WHERE f.pronamespace = 'outbox'::regnamespace
                       AND f.proname = n))
                   ORDER BY 1";
    let mut granted: Vec<String> =
        stage.sql.query(granted, &[]).await.expect("it can be read").iter().map(|row| row.get(0)).collect();
    granted.sort();
    assert!(granted.len() > 40, "{granted:?}");
    // A stranger lacks everything that is asked for.
    stage.sql.batch_execute("CREATE ROLE stranger LOGIN").await.expect("a role can be made");
    stage.sql.batch_execute("GRANT USAGE ON SCHEMA outbox TO stranger; SET ROLE stranger").await.expect("it may look");
    let row = stage.sql.query_one(query, &[]).await.expect("it answers");
    let lacking: Vec<String> = row.get("lacking");
    let mut asked: Vec<String> = lacking
        .iter()
        .map(|what| what.replace(" on table outbox.", " ").replace(" on function outbox.", " "))
        .collect();
    asked.sort();
    assert_eq!(asked, granted);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_forgets_or_does_not_clean_up_is_found() {
    let clinic =
        Clinic::on(PgCluster::builder().setting("max_prepared_transactions", "4").start().await.expect("a cluster"))
            .await;
    clinic.set("fsync", "off").await;
    clinic.examine().await.assert_only("error", "database.fsync", "fsync is off", "ALTER SYSTEM SET fsync = on");
    clinic.set("fsync", "on").await;
    clinic.set("autovacuum", "off").await;
    clinic.examine().await.assert_only("error", "database.autovacuum", "off", "ALTER SYSTEM SET autovacuum = on");
    clinic.set("autovacuum", "on").await;
    let careless = clinic.stage.settings().set("database.after_failover", "continue");
    clinic.ask(&careless).await.assert_only("error", "database.synchronous", "no standby is synchronous", "\"hold\"");
    clinic.sql("ALTER SYSTEM SET synchronous_standby_names = 'nobody'").await;
    clinic.sql("SELECT pg_reload_conf()").await;
    let show = "SELECT setting FROM pg_settings WHERE name = 'synchronous_standby_names'";
    eventually(PATIENCE, async || clinic.stage.text(show, &[]).await.as_deref() == Some("nobody")).await;
    let said = clinic.ask(&careless).await;
    said.assert_only("error", "database.synchronous", "commits wait for ever", "start the standby");
    clinic.sql("ALTER SYSTEM RESET synchronous_standby_names").await;
    clinic.sql("SELECT pg_reload_conf()").await;
    eventually(PATIENCE, async || clinic.stage.text(show, &[]).await.as_deref() == Some("")).await;
    // Old is what is older than no time at all.
    let old = ["--transaction-age", "0s"];
    let settings = clinic.stage.settings();
    clinic.sql("GRANT pg_read_all_stats TO relay").await;
    let lazy = clinic.stage.cluster.client("postgres").await.expect("it takes a client");
    lazy.batch_execute("SET application_name = 'nightly report'; BEGIN; SELECT 1").await.expect("begins");
    let said = clinic.ask_more(&settings, &old).await;
    said.assert_has("warning", "database.transactions", "'nightly report'", "pg_terminate_backend");
    clinic.ask(&settings).await.assert_well();
    lazy.batch_execute("ROLLBACK").await.expect("ends");
    clinic.sql("BEGIN; CREATE TABLE public.t (); PREPARE TRANSACTION 'forgotten'").await;
    let said = clinic.ask_more(&clinic.stage.settings(), &old).await;
    said.assert_has("warning", "database.prepared", "'forgotten'", "ROLLBACK PREPARED");
    clinic.sql("ROLLBACK PREPARED 'forgotten'").await;
    clinic
        .provoke(
            "SELECT pg_create_physical_replication_slot('left_behind', true)",
            "SELECT pg_drop_replication_slot('left_behind')",
            ["warning", "database.slots", "left_behind", "pg_drop_replication_slot"],
        )
        .await;
    clinic.examine().await.assert_well();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn late_mail_doubts_what_is_held_and_another_server_are_found() {
    let clinic = Clinic::open().await;
    clinic.stage.enqueue(2).await;
    clinic.sql("UPDATE outbox.queue SET due_at = now() - interval '2 hours'").await;
    let said = clinic.examine().await;
    assert_eq!(said.ills(), [("warning", "outbox.pending"), ("warning", "outbox.relays")], "{}", said.text);
    said.assert_has("warning", "outbox.pending", "2 wait, the oldest has been due for 2 h", "hapax ls --state pending");
    said.assert_has("warning", "outbox.relays", "none is alive, and 2 deliveries wait", "hapax run");
    clinic
        .sql(
            "UPDATE outbox.queue SET due_at = 'infinity', parked = 'doubt', intent = gen_random_uuid(), intents = 1,
                intent_by = gen_random_uuid(),
                intent_at = now() - interval '3 hours', doubt_since = now() - interval '3 hours', doubt_by = 'test'
                WHERE recipient_no = 1
                AND message_id = (SELECT message_id FROM outbox.queue LIMIT 1)",
        )
        .await;
    clinic.sql("UPDATE outbox.queue SET due_at = 'infinity', parked = 'held' WHERE parked IS NULL").await;
    let said = clinic.examine().await;
    said.assert_only("warning", "outbox.doubts", "1 in doubt, the oldest for 3 h", "hapax resolve");
    said.assert_has("note", "outbox.held", "1 held", "hapax release");
    // Whoever deletes from the queue leaves messages that nobody sends.
    clinic.sql("DELETE FROM outbox.queue").await;
    let said = clinic.examine().await;
    said.assert_only("warning", "outbox.unqueued", "2 messages have no delivery", "outbox.find_unqueued()");
    clinic.sql("DELETE FROM outbox.message").await;
    let known = clinic.stage.text("SELECT identity FROM outbox.control", &[]).await.expect("it is armed");
    clinic
        .provoke(
            "UPDATE outbox.control SET identity = '1/1/1/1'",
            &format!("UPDATE outbox.control SET identity = '{known}'"),
            ["error", "outbox.armed", "armed for 1/1/1/1", "hapax arm"],
        )
        .await;
    clinic.examine().await.assert_well();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_a_missing_host_and_a_database_without_an_outbox_are_found() {
    let clinic = Clinic::open().await;
    let standby = PgCluster::standby_of(&clinic.stage.cluster).await.expect("a standby starts");
    let settings = clinic.stage.settings().set("database.url", standby.url_for("postgres", "relay"));
    let said = clinic.ask(&settings).await;
    said.assert_only("error", "database.recovery", "standby", "target_session_attrs=read-write");
    let nobody = ReservedPort::reserve().expect("a port is free").number();
    let primary = clinic.stage.cluster.port();
    let both =
        format!("postgres://relay@127.0.0.1:{nobody},127.0.0.1:{primary}/postgres?target_session_attrs=read-write");
    let said = clinic.ask(&clinic.stage.settings().set("database.url", &both)).await;
    said.assert_only("warning", "database.reachable", &format!("127.0.0.1:{nobody}"), "database.url");
    said.assert_has("ok", "database.reachable", &format!("127.0.0.1:{primary}: Postgres"), "");
    let none = format!("postgres://relay@127.0.0.1:{nobody}/postgres");
    let said = clinic.ask(&clinic.stage.settings().set("database.url", &none)).await;
    said.assert_only("error", "database.reachable", "refused", "database.url");
    let encrypted = format!("{}?sslmode=require", clinic.stage.cluster.url_for("postgres", "relay"));
    let said = clinic.ask(&clinic.stage.settings().set("database.url", encrypted)).await;
    said.assert_only("error", "database.reachable", "does not support TLS", "switch ssl on");
    let empty =
        clinic.stage.cluster.create_database("empty").await.expect("it can be made").replace("postgres@", "relay@");
    let said = clinic.ask(&clinic.stage.settings().set("database.url", empty)).await;
    said.assert_only("error", "schema.migrations", "there is no outbox in database empty", "hapax migrate up");
    clinic.stage.cluster.freeze().await.expect("it runs");
    let said = clinic.examine().await;
    said.assert_only("error", "database.reachable", "no answer in time", "--timeout");
    clinic.stage.cluster.thaw().await.expect("it is frozen");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_database_password_is_found_and_not_repeated() {
    let cluster = PgCluster::builder().password_auth(true).fsync(false).start().await.expect("a cluster starts");
    let server = SmtpServer::start();
    let route = format!("smtp://127.0.0.1:{}?starttls=none", server.port());
    let settings = Settings::new(&format!("postgres://postgres@127.0.0.1:{}/postgres", cluster.port()), &route);
    let dns = names().await;
    let arguments = ["--resolver", &dns.address().to_string()];
    let said = ask_with(&settings, &arguments, &[("HAPAX__DATABASE__PASSWORD", PASSWORD)]).await;
    said.assert_only("error", "database.reachable", "password authentication failed", "HAPAX__DATABASE__PASSWORD");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pooler_in_transaction_mode_is_noticed() {
    if let Err(why) = PgBouncer::available() {
        assert!(std::env::var_os("HAPAX_TESTS_ALL").is_none(), "{why}");
        eprintln!("SKIPPED: {why}");
        return;
    }
    let clinic = Clinic::open().await;
    for pool in [2, 6] {
        let pooler = PgBouncer::start(clinic.stage.cluster.port(), pool).await;
        let settings = clinic.stage.settings().set("database.url", pooler.url_for("postgres", "relay"));
        let said = clinic.ask(&settings).await;
        said.assert_well();
        said.assert_has("note", "database.pooler", "notifications do not arrive", "wake_up = false");
    }
    // Where names of Postgres are looked up: a pooler does not pass on what is asked for.
    let evil =
        "CREATE SCHEMA evil; GRANT USAGE ON SCHEMA evil TO PUBLIC; ALTER ROLE relay SET search_path = evil, pg_catalog;
                CREATE FUNCTION evil.now() RETURNS timestamptz LANGUAGE plpgsql AS $$ BEGIN RAISE 'trapped'; END $$";
    clinic.sql(evil).await;
    clinic.examine().await.assert_well();
    let through = async || {
        let pooler = PgBouncer::start(clinic.stage.cluster.port(), 6).await;
        clinic.ask(&clinic.stage.settings().set("database.url", pooler.url_for("postgres", "relay"))).await
    };
    let remedy = "ALTER ROLE relay IN DATABASE postgres SET search_path = pg_catalog;";
    through().await.assert_has(
        "warning",
        "database.search_path",
        "evil comes before pg_catalog: what has a name of Postgres there may be called instead, as relay",
        remedy,
    );
    clinic.sql(remedy).await;
    through().await.assert_well();
    clinic.sql("ALTER ROLE relay IN DATABASE postgres RESET ALL; ALTER ROLE relay RESET ALL").await;
    clinic.sql("GRANT CREATE ON SCHEMA public TO PUBLIC").await;
    clinic.examine().await.assert_well();
    through().await.assert_only(
        "warning",
        "database.search_path",
        "anybody may make functions in schema public",
        remedy,
    );
}
