//! A database with extensions, schemas, triggers and defaults of its own. Hapax is installed, enqueues, delivers and
//! decides there, makes the same schema as anywhere else, and nothing of it is anybody's by default.

use std::process::Command;

use hapax_testkit::{HapaxProcess, PgCluster, SmtpServer};
use hapax_tests::stage::{PATIENCE, Settings};
use tokio_postgres::{Client, NoTls};

/// What an admin has made long before: a landlord who is no superuser, and habits.
const ADMIN: &str = "
    CREATE ROLE landlord LOGIN; CREATE ROLE reporting;
    CREATE ROLE outbox_producer; CREATE ROLE outbox_relay; CREATE ROLE outbox_operator; CREATE ROLE outbox_viewer; CREATE ROLE outbox_monitor;
    CREATE ROLE app LOGIN IN ROLE outbox_producer; CREATE ROLE relay LOGIN IN ROLE outbox_relay;
    CREATE ROLE sre LOGIN IN ROLE outbox_operator; CREATE ROLE viewer LOGIN IN ROLE outbox_viewer, reporting";

/// What is in it.
const HOUSE: &str = r#"
    CREATE EXTENSION citext; CREATE SCHEMA ext; CREATE EXTENSION pgcrypto SCHEMA ext; CREATE EXTENSION hstore SCHEMA ext;
    CREATE TABLE public.ddl_log (tag text, what text);
    GRANT INSERT ON public.ddl_log TO PUBLIC;
    CREATE FUNCTION public.log_ddl() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN
      INSERT INTO public.ddl_log SELECT c.command_tag, c.object_identity FROM pg_event_trigger_ddl_commands() c;
    END $$;
    CREATE EVENT TRIGGER ddl ON ddl_command_end EXECUTE FUNCTION public.log_ddl();
    ALTER DEFAULT PRIVILEGES FOR ROLE landlord GRANT ALL ON TABLES TO PUBLIC, reporting;
    ALTER DEFAULT PRIVILEGES FOR ROLE landlord GRANT ALL ON SEQUENCES TO PUBLIC;
    ALTER DEFAULT PRIVILEGES FOR ROLE landlord GRANT ALL ON FUNCTIONS TO PUBLIC;
    ALTER DEFAULT PRIVILEGES FOR ROLE landlord GRANT ALL ON SCHEMAS TO PUBLIC;
    -- Names of the outbox and of Postgres, in front of both.
    CREATE SCHEMA shadow; GRANT USAGE ON SCHEMA shadow TO PUBLIC;
    CREATE TABLE shadow.queue (x int); CREATE TABLE shadow.message (x int); CREATE TABLE shadow.migration (x int);
    CREATE FUNCTION shadow.trap() RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN RAISE 'somebody fell into the trap'; END $$;
    CREATE FUNCTION shadow.now() RETURNS timestamptz RETURN CASE WHEN shadow.trap() THEN pg_catalog.now() END;
    CREATE FUNCTION shadow.clock_timestamp() RETURNS timestamptz RETURN CASE WHEN shadow.trap() THEN pg_catalog.now() END;
    CREATE FUNCTION shadow.gen_random_uuid() RETURNS uuid RETURN CASE WHEN shadow.trap() THEN pg_catalog.gen_random_uuid() END;
    CREATE FUNCTION shadow.spring(bigint) RETURNS bigint RETURN CASE WHEN shadow.trap() THEN $1 END;
    CREATE AGGREGATE shadow.count(*) (SFUNC = int8inc, STYPE = bigint, INITCOND = '0', FINALFUNC = shadow.spring);
    CREATE FUNCTION shadow.lower(text) RETURNS text RETURN CASE WHEN shadow.trap() THEN $1 END;
    CREATE FUNCTION shadow.texteq(text, text) RETURNS boolean RETURN shadow.trap();
    CREATE OPERATOR shadow.= (LEFTARG = text, RIGHTARG = text, FUNCTION = shadow.texteq);
    CREATE FUNCTION shadow.uuideq(uuid, uuid) RETURNS boolean RETURN shadow.trap();
    CREATE OPERATOR shadow.= (LEFTARG = uuid, RIGHTARG = uuid, FUNCTION = shadow.uuideq);
    ALTER DATABASE shop SET search_path = shadow, pg_catalog, public;
    ALTER DATABASE shop SET timezone = 'Pacific/Chatham';
    ALTER DATABASE shop SET datestyle = 'SQL, DMY';
    ALTER DATABASE shop SET intervalstyle = 'sql_standard';
    ALTER DATABASE shop SET bytea_output = 'escape';
    ALTER DATABASE shop SET standard_conforming_strings = off;
    ALTER DATABASE shop SET quote_all_identifiers = on;
    ALTER DATABASE shop SET plpgsql.extra_errors = 'all';
    ALTER DATABASE shop SET lc_messages = 'C.UTF-8';
    ALTER DATABASE shop SET extra_float_digits = 0;
    ALTER DATABASE shop SET default_transaction_isolation = 'repeatable read'"#;

struct House {
    cluster: PgCluster,
    admin: Client,
}

impl House {
    async fn of_landlord() -> Self {
        let cluster = PgCluster::start().await.expect("a cluster");
        cluster.execute("postgres", ADMIN).await.expect("the admin prepares");
        cluster.execute("postgres", "CREATE DATABASE shop OWNER landlord").await.expect("made");
        cluster.execute("shop", HOUSE).await.expect("somebody lives there");
        let admin = cluster.client("shop").await.expect("it takes a client");
        let admin_speaks =
            "SET search_path = pg_catalog; SET standard_conforming_strings = on; SET quote_all_identifiers = off";
        admin.batch_execute(admin_speaks).await.expect("sets");
        Self { cluster, admin }
    }

    fn settings(&self, user: &str, server: &SmtpServer) -> Settings {
        let route = format!("smtp://127.0.0.1:{}?starttls=none", server.port());
        Settings::new(&self.cluster.url_for("shop", user), &route)
    }

    async fn as_user(&self, user: &str) -> Client {
        let (client, connection) =
            tokio_postgres::connect(&self.cluster.url_for("shop", user), NoTls).await.expect("connects");
        tokio::spawn(connection);
        client
    }

    async fn texts(&self, sql: &str) -> Vec<String> {
        let rows = self.admin.query(sql, &[]).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
        rows.iter().map(|row| row.get(0)).collect()
    }
}

/// The two schemas, without whose they are.
fn dump(url: &str) -> String {
    let arguments = ["--schema-only", "--no-owner", "-n", "outbox", "-n", "outbox_test", "-d", url];
    let settings = "-c standard_conforming_strings=on -c quote_all_identifiers=off -c intervalstyle=postgres";
    let dump = Command::new("pg_dump").args(arguments).env("PGOPTIONS", settings).output().expect("pg_dump");
    assert!(dump.status.success(), "{}", String::from_utf8_lossy(&dump.stderr));
    let text = String::from_utf8_lossy(&dump.stdout).into_owned();
    text.lines().filter(|line| !line.contains("restrict ")).collect::<Vec<_>>().join("\n")
}

/// Who has anything of a relation, function or schema of ours but its owner and our five roles.
const OTHERS: &str = "
    SELECT kind || ' ' || name || ' of ' || CASE grantee WHEN 0 THEN 'PUBLIC' ELSE grantee::regrole::text END FROM (
      SELECT 'schema' AS kind, nspname::text AS name, nspowner AS owner, a.grantee FROM pg_namespace n, aclexplode(nspacl) a
      WHERE nspname IN ('outbox', 'outbox_test')
      UNION ALL SELECT 'function', p.oid::regprocedure::text, proowner, a.grantee FROM pg_proc p, aclexplode(coalesce(proacl, acldefault('f', proowner))) a
      WHERE pronamespace IN ('outbox'::regnamespace, 'outbox_test'::regnamespace)
      UNION ALL SELECT 'relation', c.oid::regclass::text, relowner, a.grantee FROM pg_class c, aclexplode(relacl) a
      WHERE relnamespace IN ('outbox'::regnamespace, 'outbox_test'::regnamespace)
    ) x WHERE grantee <> owner AND (grantee = 0 OR grantee::regrole::text NOT LIKE 'outbox_%') ORDER BY 1";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_somebodys_database_hapax_installs_enqueues_delivers_and_decides_and_nothing_is_anybodys() {
    let (house, server) = (House::of_landlord().await, SmtpServer::start());
    let (code, said) = house.settings("landlord", &server).command(["migrate", "up"]).await;
    assert_eq!(code, 0, "{said}");
    let relay = house.settings("relay", &server).set("retention.records", "400d").run().await;

    // Enqueued by an application that looks in the wrong places first.
    let app = house.as_user("app").await;
    let sql = "SELECT \"outbox\".enqueue('greeting', ARRAY['Ada L <ada.l@example.org>'], subject => 'Hello', body_text => 'a\\nb',
                 not_before => pg_catalog.now(), expires_at => pg_catalog.now() + '1 hour', dedup_key => 'k.1')::pg_catalog.text";
    let id: String = app.query_one(sql, &[]).await.expect("enqueues").get(0);
    assert_eq!(app.query_one(sql, &[]).await.expect("again").get::<_, String>(0), id, "the same notification");
    let wrong = "SELECT outbox.enqueue('greeting', ARRAY['a..b@example.org'], subject => 'x', body_text => 'y')";
    assert_eq!(app.query_one(wrong, &[]).await.expect_err("refused").code().map(|code| code.code()), Some("22H03"));
    let raw = "SELECT outbox.enqueue('greeting', ARRAY['raw@example.org'], raw_message =>
                 pg_catalog.convert_to(E'From: a@example.com\\nMessage-ID: <1@example.com>\\n\\nHello\\n', 'UTF8'))";
    app.query_one(raw, &[]).await.expect("enqueues");
    server.wait_until_within(PATIENCE, |ledger| ledger.totals().accepted == 2).await;
    ends(relay).await;
    // Where the database begins transactions otherwise, it would be refused (and a claim would fail instead of waiting).
    let refused = "SELECT why FROM outbox.upkeep_postponed WHERE what = 'old weeks'";
    assert_eq!(house.texts(refused).await, [""; 0], "relays ask for READ COMMITTED");

    // Looked at and decided by people; an address is one here as well.
    let sre = house.settings("sre", &server);
    for (words, expected) in [
        (vec!["ls"], "sent"),
        (vec!["explain", "ada.l@example.org"], "Sent once"),
        (vec!["explain", "<1@example.com>"], "Sent once"),
        (vec!["pause", "--address", "ada.l@example.org", "--reason", "a test"], "paused: address a***@example.org"),
        (vec!["suppress", "ada.l@example.org"], ""),
        (vec!["erase", "ada.l@example.org", "--reason", "as asked"], "erased"),
        (vec!["explain", "ada.l@example.org"], "erased"),
    ] {
        let (code, said) = sre.command(words.clone()).await;
        assert!(code == 0 && said.contains(expected), "{words:?}: {code} {said}");
    }
    assert!(house.texts(OTHERS).await.iter().all(|one| one.ends_with(" of reporting") && !one.contains("_20")));
}

async fn ends(mut relay: HapaxProcess) {
    relay.sigterm();
    assert!(relay.wait_exit(PATIENCE).await.success(), "{}", relay.report());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn weeks_made_later_are_nobodys_by_default_and_the_owners_trigger_sees_them() {
    let house = House::of_landlord().await;
    let (code, said) = house.settings("landlord", &SmtpServer::start()).command(["migrate", "up"]).await;
    assert_eq!(code, 0, "{said}");
    // The relay makes them, as the owner.
    let relay = house.as_user("relay").await;
    let made = relay.query("SELECT * FROM outbox.maintain(ahead => '70 days')", &[]).await.expect("makes weeks");
    assert!(made.len() >= 10, "{}", made.len());
    let logged =
        house.texts("SELECT what FROM public.ddl_log WHERE tag = 'CREATE TABLE' AND what ~ '_20[0-9]{6}\"?$'").await;
    assert!(logged.len() >= made.len(), "the trigger saw {logged:?}");
    let partitions = "SELECT count(*)::text FROM pg_inherits WHERE inhparent = 'outbox.message'::regclass";
    assert!(house.texts(partitions).await[0].parse::<i32>().expect("a number") >= 11);
    let given = house.texts(OTHERS).await;
    assert_eq!(
        given.iter().filter(|one| one.contains("_20") || one.ends_with("PUBLIC")).cloned().collect::<Vec<_>>(),
        [""; 0]
    );
    // Whoever sees masked addresses through the views does not see them otherwise.
    let viewer = house.as_user("viewer").await;
    let week: &str = &house
        .texts("SELECT max(inhrelid::regclass::text) FROM pg_inherits WHERE inhparent = 'outbox.message'::regclass")
        .await[0];
    let denied = viewer.query(&format!("SELECT recipients FROM {week}"), &[]).await.expect_err("denied");
    assert_eq!(denied.code().map(|code| code.code()), Some("42501"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_schema_is_the_same_in_somebodys_database() {
    let house = House::of_landlord().await;
    let server = SmtpServer::start();
    house
        .cluster
        .execute("shop", "ALTER DEFAULT PRIVILEGES FOR ROLE landlord REVOKE ALL ON TABLES FROM reporting")
        .await
        .expect("x");
    let (code, said) = house.settings("landlord", &server).command(["migrate", "up"]).await;
    assert_eq!(code, 0, "{said}");
    let plain = house.cluster.create_database("plain").await.expect("made");
    let (code, said) = Settings::new(&plain, "smtp://127.0.0.1:1?starttls=none").command(["migrate", "up"]).await;
    assert_eq!(code, 0, "{said}");
    let there = dump(&house.cluster.url_for("shop", "postgres"));
    assert_eq!(there, dump(&plain));
}
