//! What a DBA breaks in the schema: each is named, and the statement that is given as remedy heals it.

use std::process::Command;

use hapax_testkit::PgCluster;

use crate::database::Clinic;

/// What is to be typed, without the words in front.
fn statement(remedy: &str) -> &str {
    let typed = remedy.split_once(": ").unwrap_or_else(|| panic!("no statement in {remedy:?}")).1;
    assert!(remedy.starts_with("as the owner: ") || remedy.starts_with("as a superuser: "), "{remedy}");
    typed
}

/// Breaks, looks, does what the remedy says, and looks again.
async fn heal(clinic: &Clinic, ill: &str, [severity, name, evidence]: [&str; 3]) {
    clinic.sql(ill).await;
    let said = clinic.examine().await;
    said.assert_only(severity, name, evidence, "");
    let finding = said.findings.iter().find(|finding| finding[0] == severity && finding[1] == name).expect("is there");
    clinic.sql(statement(&finding[3])).await;
    clinic.examine().await.assert_well();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_granted_taken_away_given_away_or_stored_otherwise_is_found_and_its_remedy_heals_it() {
    let clinic = Clinic::open().await;
    clinic.sql("CREATE ROLE stranger; CREATE ROLE other").await;
    clinic.examine().await.assert_well();
    let everywhere = "DO $$ DECLARE t regclass; BEGIN
        FOR t IN SELECT oid FROM pg_class WHERE relnamespace = 'outbox'::regnamespace AND relkind IN ('r', 'p') AND NOT relispartition LOOP
          EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', t); END LOOP; END $$";
    for (ill, found) in [
        (
            "GRANT SELECT ON ALL TABLES IN SCHEMA outbox TO PUBLIC",
            ["error", "schema.privileges", "PUBLIC: SELECT on table outbox.attempt"],
        ),
        (
            "GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA outbox TO PUBLIC",
            ["error", "schema.privileges", "PUBLIC: EXECUTE on function outbox.address_digest(text)"],
        ),
        (
            "GRANT SELECT (subject) ON outbox.message TO PUBLIC",
            ["error", "schema.privileges", "PUBLIC: SELECT on column outbox.message.subject"],
        ),
        (
            "REVOKE ALL ON ALL FUNCTIONS IN SCHEMA outbox FROM outbox_producer",
            ["error", "schema.privileges", "outbox_producer: EXECUTE on function outbox.cancel(uuid, text)"],
        ),
        (
            "REVOKE INSERT ON outbox.notification FROM outbox_producer",
            ["error", "schema.privileges", "outbox_producer: INSERT on view outbox.notification"],
        ),
        (
            "REVOKE USAGE ON SCHEMA outbox FROM outbox_producer",
            ["error", "schema.privileges", "outbox_producer: USAGE on schema outbox"],
        ),
        (
            "REVOKE SELECT ON outbox.deliveries FROM outbox_viewer",
            ["warning", "schema.privileges", "outbox_viewer: SELECT on view outbox.deliveries"],
        ),
        (
            "GRANT SELECT ON outbox.message TO outbox_viewer",
            ["warning", "schema.privileges", "not made for: outbox_viewer: SELECT on table outbox.message"],
        ),
        (
            "ALTER TABLE outbox.queue OWNER TO stranger",
            ["error", "schema.owner", "table outbox.queue is stranger's; the functions are postgres's"],
        ),
        ("ALTER SCHEMA outbox OWNER TO stranger", ["error", "schema.owner", "schema outbox is stranger's"]),
        (
            "ALTER FUNCTION outbox.maintain OWNER TO stranger; ALTER VIEW outbox.pauses OWNER TO other",
            ["error", "schema.owner", "view outbox.pauses is other's, function outbox.maintain(interval, interval)"],
        ),
        ("ALTER TABLE outbox.queue SET UNLOGGED", ["error", "schema.unlogged", "UNLOGGED: outbox.queue; a crash"]),
        (
            "ALTER TABLE outbox.message DETACH PARTITION outbox.message_default",
            ["error", "schema.default_partition", "outbox.message_default is not there"],
        ),
        ("DROP TABLE outbox.attempt_default", ["error", "schema.default_partition", "outbox.attempt_default is not"]),
        ("ALTER TABLE outbox.queue DISABLE TRIGGER USER", ["error", "schema.triggers", "on outbox.queue is disabled"]),
        ("ALTER TABLE outbox.message ENABLE ROW LEVEL SECURITY", ["error", "schema.row_security", "outbox.message"]),
        (everywhere, ["error", "schema.row_security", "outbox.attempt, outbox.audit"]),
    ] {
        println!("{ill}");
        heal(&clinic, ill, found).await;
    }
    // Whose role outbox_relay is no member is told of its privileges, too, here by the schema itself.
    let take = "REVOKE UPDATE ON outbox.queue FROM outbox_relay";
    clinic.sql(take).await;
    let said = clinic.ask(&clinic.stage.settings_of("postgres")).await;
    said.assert_has("error", "schema.privileges", "outbox_relay: UPDATE on table outbox.queue", "grant_roles()");
    clinic.sql("SELECT outbox.grant_roles(); DROP SCHEMA outbox_test CASCADE").await;
    clinic.examine().await.assert_well();
}

/// With `quote_all_identifiers` Postgres writes types in quotes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_are_compared_as_they_are_where_the_database_quotes_all_of_them() {
    let clinic = Clinic::open().await;
    clinic.sql("ALTER DATABASE postgres SET quote_all_identifiers = on").await;
    clinic.examine().await.assert_well();
    // As through a pooler that takes no option: what the URL asks for comes after our own.
    let url = clinic.stage.cluster.url_for("postgres", "relay");
    let separator = if url.contains('?') { '&' } else { '?' };
    let url = format!("{url}{separator}options=-c%20quote_all_identifiers%3Don");
    let quoting = clinic.stage.settings().set("database.url", url);
    clinic.ask(&quoting).await.assert_well();
    clinic.sql("DROP FUNCTION outbox.would_erase").await;
    clinic.ask(&quoting).await.assert_only(
        "error",
        "schema.objects",
        "missing: function outbox.would_erase(text, boolean)",
        "grant_roles()",
    );
}

/// Runs what the remedy says with a database beside it, from the server's own programs.
fn restore(cluster: &PgCluster, remedy: &str) {
    let typed = statement(remedy).split("then for each: ").nth(1).expect("a line to type");
    let line = typed.split("; then SELECT").next().expect("ends");
    let line = line.replace("SCRATCH", &cluster.url_for("scratch", "postgres")).replace("THIS", &cluster.url());
    let done = Command::new("sh").args(["-c", &line]).output().expect("a shell");
    assert!(done.status.success(), "{line}: {}", String::from_utf8_lossy(&done.stderr));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_has_been_dropped_is_found_and_comes_back_as_the_remedy_says() {
    let clinic = Clinic::open().await;
    clinic.sql("CREATE DATABASE scratch").await;
    let scratch = clinic.stage.cluster.url_for("scratch", "postgres");
    let (code, said) = clinic.stage.settings().command(["migrate", "up", "--database-url", &scratch]).await;
    assert_eq!(code, 0, "{said}");
    for (ill, found) in [
        ("DROP VIEW outbox.blocked_keys", ["warning", "schema.objects", "missing: view outbox.blocked_keys"]),
        (
            "DROP TRIGGER queue_is_ours ON outbox.queue",
            ["error", "schema.objects", "missing: trigger queue_is_ours on outbox.queue"],
        ),
        ("DROP FUNCTION outbox.would_erase", ["error", "schema.objects", "function outbox.would_erase(text, boolean)"]),
    ] {
        clinic.sql(ill).await;
        let [severity, name, evidence] = found;
        let said = clinic.examine().await;
        said.assert_only(severity, name, evidence, "SELECT outbox.grant_roles();");
        let finding = said.findings.iter().find(|finding| finding[1] == name).expect("is there");
        restore(&clinic.stage.cluster, &finding[3]);
        clinic.sql("SELECT outbox.grant_roles()").await;
        clinic.examine().await.assert_well();
    }
}
