//! The guard: on another server or another epoch nothing changes, whatever the statement (PROTOCOL section 5).

use std::time::Duration;

use hapax_core::Incarnation;
use hapax_store::{Cursor, Error, Release, Store, Wait};
use tokio_postgres::Client;

use crate::common::{GRACE, LANE, LEASE, Stage, accepted, options, request, settlement};

const SNAPSHOT: &str = "SELECT md5(string_agg(x, ';' ORDER BY x)) FROM (
    SELECT q::text AS x FROM outbox.queue q UNION ALL SELECT d::text FROM outbox.done d UNION ALL SELECT a::text FROM outbox.attempt a
    UNION ALL SELECT r::text FROM outbox.relay r UNION ALL SELECT i::text FROM outbox.audit i) rows";

#[tokio::test]
async fn on_another_epoch_or_another_server_every_statement_raises_hx001_and_changes_nothing() {
    let stage = Stage::set().await;
    let claimed_key = stage.enqueue(1).await[0];
    let claimed = stage.attempt(claimed_key).await;
    let (sending, doubt) = (stage.sending().await, stage.doubtful().await);
    stage.enqueue(3).await;
    let open =
        stage.store.doubts(&[LANE], hapax_core::MessageId(uuid::Uuid::nil()), 10).await.expect("reads").remove(0);
    for change in [
        "UPDATE outbox.control SET epoch = gen_random_uuid()",
        // As if the pooler had moved the connection: the function answers for another server.
        "CREATE OR REPLACE FUNCTION outbox.database_identity() RETURNS text LANGUAGE sql STABLE AS $$ SELECT '42/00000002' $$",
    ] {
        stage.run(&format!("BEGIN; {change}; COMMIT")).await;
        let before = stage.text(SNAPSHOT).await;
        let store = &stage.store;
        let release = Release { key: claimed.key, lease: claimed.lease, after: Duration::ZERO, lane: None };
        refused("claim", store.claim(LANE, Cursor::START, 10, LEASE).await);
        refused("claim of an empty lane", store.claim(4_000, Cursor::START, 10, LEASE).await);
        refused("intend", store.intend(&[request(&claimed)], Wait::Skip).await);
        refused("intend, waiting", store.intend(&[request(&claimed)], Wait::ForLocks).await);
        refused("settle", store.settle(&[settlement(&sending, accepted())]).await);
        refused("settle_late", store.settle_late(&settlement(&doubt, accepted())).await);
        refused("release", store.release(&[release]).await);
        refused("heartbeat", store.heartbeat(0).await);
        refused("mark_in_doubt", store.mark_in_doubt(&[store.incarnation()], GRACE).await);
        refused("mark_in_doubt of nobody", store.mark_in_doubt(&[], Duration::from_secs(1 << 30)).await);
        refused("decide_doubt", store.decide_doubt(&open, "resend", "policy").await);
        assert_eq!(stage.text(SNAPSHOT).await, before, "{change}");
    }
}

fn refused<T: std::fmt::Debug>(operation: &str, result: Result<T, Error>) {
    let error = result.err().unwrap_or_else(|| panic!("{operation} was executed on a database it does not know"));
    assert!(error.is_guard() && !error.is_transient(), "{operation}: {error:?}");
}

#[tokio::test]
async fn a_relay_does_not_start_on_an_outbox_that_is_armed_for_another_server() {
    let stage = Stage::set().await;
    stage.run("UPDATE outbox.control SET identity = 'elsewhere/00000001'").await;
    let refusal = Store::connect(&options(&stage.url), Incarnation::fresh()).await;
    assert!(matches!(refusal, Err(Error::NotArmed { .. })), "{refusal:?}");
}

#[tokio::test]
async fn an_unknown_identity_is_not_taken_for_any() {
    let stage = Stage::set().await;
    let call = |client: Client| async move {
        let sql = "SELECT outbox.assert_armed((SELECT epoch FROM outbox.control), NULL)";
        client.query_one(sql, &[]).await.expect_err("refused").code().map(|code| code.code().to_owned())
    };
    let (client, _driver) = stage.session().await;
    assert_eq!(call(client).await.as_deref(), Some("HX001"));
    stage.enqueue(1).await;
    stage.run("DELETE FROM outbox.control").await;
    let refusal = stage.store.claim(LANE, Cursor::START, 1, LEASE).await.expect_err("no epoch, no claim");
    assert!(refusal.is_guard());
}
