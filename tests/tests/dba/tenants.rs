//! `deploy/tenants.sql`: roles that see the rows of their own tenant, logged in as such.

use std::process::Command;

use hapax_tests::stage::Stage;
use tokio_postgres::{Client, NoTls};
use uuid::Uuid;

const RECIPE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/tenants.sql");

async fn logged_in(stage: &Stage, user: &str) -> Client {
    let url = stage.cluster.url_for("postgres", user);
    let (client, connection) = tokio_postgres::connect(&url, NoTls).await.expect("connects");
    tokio::spawn(connection);
    client
}

async fn enqueue(tenant: &Client, document: &str) -> Uuid {
    let sql = format!("SELECT mail.enqueue('{document}')");
    tenant.query_one(&sql, &[]).await.unwrap_or_else(|error| panic!("{sql}: {error:?}")).get(0)
}

/// What a tenant sees: messages with recipient and state, newest first.
async fn seen(tenant: &Client, sql: &str) -> Vec<(Uuid, String, String)> {
    let rows = tenant.query(sql, &[]).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    rows.iter().map(|row| (row.get("message_id"), row.get("recipient"), row.get("state"))).collect()
}

async fn sqlstate(tenant: &Client, sql: &str) -> String {
    let error = tenant.batch_execute(sql).await.expect_err("refused");
    error.code().unwrap_or_else(|| panic!("{error:?}")).code().to_owned()
}

async fn on_a_stage_with_tenants() -> Stage {
    let stage = Stage::set().await;
    let url = stage.cluster.url();
    let psql = ["-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", &url, "-f", RECIPE];
    let said = Command::new("psql").args(psql).output().expect("psql");
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    let tenants = "CREATE ROLE acme LOGIN IN ROLE mail_tenant; CREATE ROLE globex LOGIN IN ROLE mail_tenant; CREATE ROLE stray LOGIN IN ROLE mail_tenant;
                   INSERT INTO mail.tenant VALUES ('acme', 'acme'), ('globex', 'globex')";
    stage.sql.batch_execute(tenants).await.expect("tenants move in");
    stage
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenants_role_sees_enqueues_and_cancels_what_is_its_own_and_nothing_else() {
    let stage = on_a_stage_with_tenants().await;
    let (acme, globex) = (logged_in(&stage, "acme").await, logged_in(&stage, "globex").await);
    let hello = |to: &str, more: &str| {
        format!(r#"{{"kind": "note", "recipients": ["{to}"], "subject": "Hello", "body_text": "Hello"{more}}}"#)
    };
    let relay = stage.settings().run().await;
    let first = enqueue(&acme, &hello("ada@acme.example", "")).await;
    let other = enqueue(&globex, &hello("bob@globex.example", r#", "dedup_key": "k""#)).await;
    // Under somebody else's name: it is its own all the same, and so is the key.
    let later = r#", "dedup_key": "k", "tenant": "globex", "not_before": "2999-01-01""#;
    let forged = enqueue(&acme, &hello("eve@acme.example", later)).await;
    assert_ne!(forged, other);
    stage.enqueue_one("nobody@example.org", "").await;
    stage.until("sent", 3).await;
    drop(relay);

    let all = "SELECT * FROM mail.deliveries()";
    let (sent, pending) = ("sent".to_owned(), "pending".to_owned());
    let mine =
        [(forged, "e***@acme.example".to_owned(), pending), (first, "a***@acme.example".to_owned(), sent.clone())];
    assert_eq!(seen(&acme, all).await, mine);
    assert_eq!(seen(&acme, &format!("SELECT * FROM mail.deliveries(before => '{forged}')")).await, mine[1..]);
    assert_eq!(seen(&acme, &format!("SELECT * FROM mail.deliveries(message => '{other}')")).await, []);
    assert_eq!(seen(&globex, all).await, [(other, "b***@globex.example".to_owned(), sent)]);
    // Of whom the mail was is written down as well.
    let by = "SELECT string_agg(session_role || ' ' || coalesce(tenant, '-'), ', ' ORDER BY id) FROM outbox.message";
    let by = stage.text(by, &[]).await.expect("a text");
    assert_eq!(by, "acme acme, globex globex, acme acme, postgres -");

    let cancel = |id: Uuid| format!("SELECT result FROM mail.cancel('{id}', 'not wanted')");
    assert!(globex.query(&cancel(forged), &[]).await.expect("asks").is_empty(), "it is not its own");
    assert_eq!(seen(&acme, all).await[0].2, "pending");
    assert_eq!(acme.query_one(&cancel(forged), &[]).await.expect("cancels").get::<_, String>(0), "cancelled");
    assert_eq!(seen(&acme, all).await[0].2, "cancelled");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn beside_its_own_door_nothing_is_open_to_a_tenants_role() {
    let stage = on_a_stage_with_tenants().await;
    let acme = logged_in(&stage, "acme").await;
    for sql in [
        "SELECT * FROM outbox.deliveries",
        "SELECT * FROM outbox.message",
        "SELECT outbox.enqueue('note', '{a@example.org}', '{}')",
        "SELECT * FROM outbox.status(gen_random_uuid())",
        "SELECT * FROM mail.tenant",
        "UPDATE mail.tenant SET tenant = 'globex'",
        "SELECT mail.own_tenant()",
        "CREATE FUNCTION mail.mine() RETURNS int RETURN 1",
        "SET ROLE mail_desk",
        "SET ROLE globex",
        "SET SESSION AUTHORIZATION globex",
    ] {
        assert_eq!(sqlstate(&acme, sql).await, "42501", "{sql}");
    }
    let shadow =
        "CREATE TEMP TABLE tenant AS SELECT 'acme'::name AS role, 'globex' AS tenant; SET search_path = pg_temp, mail";
    acme.batch_execute(shadow).await.expect("tries");
    enqueue(&acme, r#"{"kind": "note", "recipients": ["a@example.org"], "payload": {}}"#).await;
    assert_eq!(stage.text("SELECT tenant FROM outbox.message", &[]).await.as_deref(), Some("acme"));
    // Who has none sees nothing, rather than what has none.
    let stray = logged_in(&stage, "stray").await;
    for sql in ["SELECT * FROM mail.deliveries()", "SELECT mail.enqueue('{}')"] {
        assert_eq!(sqlstate(&stray, sql).await, "42501", "{sql}");
    }
    // What another release grants anew leaves it as it is.
    stage.sql.batch_execute("SELECT outbox.grant_roles()").await.expect("grants");
    assert_eq!(seen(&acme, "SELECT * FROM mail.deliveries()").await.len(), 1);
}
