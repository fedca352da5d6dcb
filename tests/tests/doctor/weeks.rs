//! Weeks that somebody has taken away: what of them has not ended is told, and what is given as remedy brings it back.

use crate::database::Clinic;

/// What is to be typed.
fn statement(remedy: &str) -> &str {
    remedy.strip_prefix("as the owner: ").unwrap_or_else(|| panic!("{remedy}"))
}

/// This week's partition of a table.
async fn week_of(clinic: &Clinic, parent: &str) -> String {
    let sql = format!("SELECT '{parent}_' || to_char(date_trunc('week', now() AT TIME ZONE 'UTC'), 'YYYYMMDD')");
    clinic.stage.text(&sql, &[]).await.expect("a name")
}

/// Looks, does what the remedy says, and looks again.
async fn heal(clinic: &Clinic, severity: &str, evidence: &str) {
    let said = clinic.examine().await;
    said.assert_has(severity, "schema.partitions", evidence, "as the owner: ");
    let finding = said.findings.iter().find(|finding| finding[1] == "schema.partitions").expect("is there");
    clinic.sql(statement(&finding[3]).rsplit("or, to have it again: ").next().expect("a statement")).await;
    for table in ["message_default", "attempt_default"] {
        clinic.sql(&format!("VACUUM outbox.{table}")).await;
    }
    well(clinic).await;
}

async fn well(clinic: &Clinic) {
    let said = clinic.examine().await;
    said.assert_has("ok", "schema.partitions", "made for", "");
    said.assert_has("ok", "schema.default_partition", "empty", "");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_week_that_was_detached_with_something_unfinished_is_an_error_until_it_is_back() {
    let clinic = Clinic::open().await;
    let stage = &clinic.stage;
    let week = week_of(&clinic, "message").await;
    let (detach, archive) = (
        format!("ALTER TABLE outbox.message DETACH PARTITION outbox.{week}"),
        format!("ALTER TABLE outbox.{week} RENAME TO {week}_archive"),
    );
    let found = "SELECT count(*) FROM outbox.queue q JOIN outbox.message m ON m.id = q.message_id";
    let of_week = format!("SELECT count(*) FROM outbox.{week}");
    // Nothing of it is wanted: it is in the way of its week only, and attached again with what came meanwhile.
    clinic.sql(&detach).await;
    stage.enqueue_one("a@example.org", "").await;
    stage.enqueue_one("b@example.org", "").await;
    assert_eq!(stage.count("SELECT count(*) FROM outbox.message_default").await, 2);
    heal(&clinic, "warning", &format!("outbox.{week} not attached")).await;
    assert_eq!((stage.count(found).await, stage.count(&of_week).await), (2, 2));
    // What it has is wanted, and what comes meanwhile has a place of its own.
    let missing = format!("outbox.{week} is not attached, and 2 unfinished deliveries have what is to be sent in it");
    clinic.sql(&detach).await;
    stage.enqueue_one("c@example.org", "").await;
    heal(&clinic, "error", &missing).await;
    assert_eq!((stage.count(found).await, stage.count(&of_week).await), (3, 3));
    // An archive by another name, before and after the week has been made again.
    for (more, unfinished, rows) in [("", 3, 4), ("SELECT outbox.maintain()", 4, 5)] {
        clinic.sql(&detach).await;
        clinic.sql(&archive).await;
        let missing = format!("outbox.{week}_archive is not attached, and {unfinished} unfinished");
        match more {
            "" => drop(stage.enqueue_one("d@example.org", "").await),
            more => {
                clinic.sql(more).await;
                stage.enqueue_one("e@example.org", "").await;
            }
        }
        heal(&clinic, "error", &missing).await;
        assert_eq!((stage.count(found).await, stage.count(&of_week).await), (rows, rows));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attempts_of_what_has_not_ended_are_missed_and_nothing_else_is() {
    let clinic = Clinic::open().await;
    let stage = &clinic.stage;
    let week = week_of(&clinic, "attempt").await;
    // One that has been tried, one that has not.
    let tried = stage.enqueue_one("tried@example.org", "").await;
    stage.enqueue_one("new@example.org", "").await;
    clinic
        .sql(&format!(
            "UPDATE outbox.queue SET attempt_no = 1 WHERE message_id = '{tried}';
             INSERT INTO outbox.attempt (message_id, recipient_no, token, attempt_no, outcome, phase)
             VALUES ('{tried}', 1, gen_random_uuid(), 1, 'deferred', 'rcpt');
             ALTER TABLE outbox.attempt DETACH PARTITION outbox.{week}"
        ))
        .await;
    heal(&clinic, "error", &format!("outbox.{week} is not attached, and 1 unfinished delivery has attempts in it"))
        .await;
    assert_eq!(stage.count(&format!("SELECT count(*) FROM outbox.{week}")).await, 1);
    // An old week with nothing unfinished is an archive, and nobody's business.
    clinic
        .sql(&format!(
            "CREATE TABLE outbox.message_20200106 (LIKE outbox.message); CREATE TABLE outbox.message_20209999_x (LIKE outbox.{week})"
        ))
        .await;
    well(&clinic).await;
}
