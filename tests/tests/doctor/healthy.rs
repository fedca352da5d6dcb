//! A system that is well.

use hapax_tests::stage::{DOMAIN, Stage};

use crate::asking::ask;
use crate::servers::names;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_healthy_system_has_no_warning_and_is_told_in_few_lines() {
    let stage = Stage::set().await;
    let dns = names().await;
    let resolver = dns.address().to_string();
    stage.enqueue(3).await;
    let relay = stage.settings().run().await;
    stage.until("sent", 3).await;
    let said = ask(&stage.settings(), &["--resolver", &resolver]).await;
    said.assert_well();
    let well = [
        "config",
        "templates",
        "machine.files",
        "machine.spool",
        "database.reachable",
        "database.version",
        "database.clock",
        "database.fsync",
        "database.synchronous",
        "database.tls",
        "database.connections",
        "database.timeouts",
        "database.autovacuum",
        "database.role",
        "database.privileges",
        "schema.migrations",
        "schema.indexes",
        "schema.partitions",
        "schema.default_partition",
        "schema.autovacuum",
        "schema.dead_rows",
        "database.prepared",
        "database.slots",
        "outbox.pending",
        "outbox.doubts",
        "outbox.held",
        "outbox.relays",
        "outbox.armed",
        "database.pooler",
        "database.notify",
        "route.default",
    ];
    for name in well {
        said.assert_has("ok", name, "", "");
    }
    said.assert_has("ok", &format!("dns.{DOMAIN}.spf"), "v=spf1 -all", "");
    said.assert_has("ok", &format!("dns.{DOMAIN}.dmarc"), "policy reject", "");
    // What a relay's own user cannot see is said, with what would be needed.
    said.assert_has("note", "database.transactions", "could not be looked at", "pg_read_all_stats");
    let (code, text) = stage.settings().command(["doctor", "--resolver", &resolver]).await;
    assert_eq!(code, 0, "{text}");
    // Two of them say that everything here is a superuser's.
    said.assert_has("note", "schema.owner", "a superuser", "deploy/DBA.md");
    assert!(text.lines().count() <= 6 && text.contains("all is well"), "{text}");
    assert!(stage.server.ledger().messages().count() == 3, "it has sent nothing");
    stage.sql.batch_execute("UPDATE outbox.relay SET version = '0.0.9'").await.expect("it can be changed");
    let said = ask(&stage.settings(), &["--resolver", &resolver]).await;
    said.assert_well();
    said.assert_has("note", "outbox.relay_versions", "0.0.9", "upgrade");
    drop(relay);
}
