//! A message that the database itself cannot read any more fails by itself, with the reason; the others are sent.

use hapax_tests::stage::Stage;

/// Postgres cannot be asked to damage a row: the functions that read messages say what it would say of one.
const DAMAGE: &str = "DO $$
    DECLARE source text; reader text;
    BEGIN
      FOREACH reader IN ARRAY ARRAY['letters_in_brief', 'stop_batch'] LOOP
        source := pg_get_functiondef(('outbox.' || reader)::regproc);
        EXECUTE replace(source, reader, 'sound_' || reader);
        EXECUTE replace(source, E'\\nBEGIN\\n', E'\\nBEGIN\\n  IF ''{id}'' = ANY ($1) THEN
          RAISE EXCEPTION USING ERRCODE = ''XX001'', MESSAGE = ''missing chunk number 0 for toast value 4711'';
        END IF;\\n');
      END LOOP;
    END $$";

const REPAIR: &str = "DO $$
    DECLARE reader text;
    BEGIN
      FOREACH reader IN ARRAY ARRAY['letters_in_brief', 'stop_batch'] LOOP
        EXECUTE replace(pg_get_functiondef(('outbox.sound_' || reader)::regproc), 'sound_' || reader, reader);
      END LOOP;
    END $$";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_database_cannot_read_keeps_nothing_back() {
    let stage = Stage::set().await;
    stage.enqueue(2).await;
    let damaged = stage.enqueue_one("damaged@example.org", "").await;
    stage.enqueue(2).await;
    // Claimed deliveries are compared with such a list before anything else.
    stage.sql.batch_execute("SELECT outbox.suppress('nobody@example.org', 'unsubscribed')").await.expect("it may");
    stage.sql.batch_execute(&DAMAGE.replace("{id}", &damaged.to_string())).await.expect("it may");
    let relay = stage.settings().run().await;
    stage.until("sent", 4).await;
    stage.until("failed", 1).await;
    let reason = stage.text("SELECT reason FROM outbox.deliveries WHERE state = 'failed'", &[]).await;
    assert_eq!(
        reason.as_deref(),
        Some("content cannot be read: letters: missing chunk number 0 for toast value 4711 (XX001)")
    );
    assert_eq!(stage.server.with_ledger(|ledger| ledger.count_rcpt_commands("damaged@example.org")), 0);
    stage.enqueue(1).await;
    stage.until("sent", 5).await;
    // It was repaired, and somebody decides.
    stage.sql.batch_execute(REPAIR).await.expect("it may");
    let retried =
        stage.count("SELECT count(*) FROM outbox.deliveries d, outbox.retry(d.message_id) WHERE d.state = 'failed'");
    assert_eq!(retried.await, 1);
    stage.until("sent", 6).await;
    drop(relay);
}
