//! The oracle itself: it must see a duplicate, a loss and a lie. Each is made by hand, behind Hapax's back.

use hapax_tests::stage::Stage;
use hapax_tests::verdict::Verdict;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_duplicate_a_loss_and_a_lie_are_seen() {
    let stage = Stage::set().await;
    let _relay = stage.settings().run().await;
    stage.enqueue(5).await;
    stage.until("sent", 5).await;
    Verdict::of(&stage.sql, &stage.server.ledger()).await.assert_each_once(5);

    // A lie: it says sent, and no server has it.
    let lie = "WITH m AS (SELECT outbox.enqueue(kind => 'note', recipients => ARRAY['lie@example.org'], subject => 's', body_text => 't',
                 not_before => now() + interval '1 hour') AS id),
               q AS (SELECT id FROM m) SELECT count(*) FROM q";
    stage.count(lie).await;
    let lie = "WITH gone AS (DELETE FROM outbox.queue RETURNING *)
               INSERT INTO outbox.done (message_id, recipient_no, state, evidence, lane, address_hash)
               SELECT message_id, recipient_no, 'sent', 'reply', lane, address_hash FROM gone";
    stage.sql.batch_execute(lie).await.expect("lies");
    let verdict = Verdict::of(&stage.sql, &stage.server.ledger()).await;
    assert!(verdict.wrong.len() == 1 && verdict.wrong[0].contains("never taken"), "{:?}", verdict.wrong);

    // A duplicate: a sent delivery is pending again.
    let again = "WITH gone AS (DELETE FROM outbox.done WHERE attempt_no = 1 AND message_id = (SELECT message_id FROM outbox.attempt LIMIT 1) RETURNING *)
                 INSERT INTO outbox.queue (message_id, recipient_no, lane, due_at, address_hash)
                 SELECT message_id, recipient_no, lane, now(), address_hash FROM gone";
    stage.sql.batch_execute(again).await.expect("moves it");
    stage.server.wait_until(|ledger| ledger.totals().accepted == 6).await;
    stage.until("sent", 6).await;
    let verdict = Verdict::of(&stage.sql, &stage.server.ledger()).await;
    assert!(verdict.wrong.iter().any(|wrong| wrong.contains("more often than was decided")), "{:?}", verdict.wrong);
    assert_eq!(verdict.twice.len(), 1, "{verdict}");

    // A loss: a delivery without any row. The sum does not add up, and what the server has is known to nobody.
    stage
        .sql
        .batch_execute(
            "DELETE FROM outbox.done WHERE message_id = (SELECT max(message_id::text)::uuid FROM outbox.attempt)",
        )
        .await
        .expect("loses it");
    let verdict = Verdict::of(&stage.sql, &stage.server.ledger()).await;
    assert_eq!(verdict.states.values().sum::<usize>(), 5, "{verdict}");
    assert!(verdict.wrong.iter().any(|wrong| wrong.contains("does not know")), "{:?}", verdict.wrong);
}
