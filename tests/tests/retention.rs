//! Retention, by real relays: content goes when its time is over, old weeks go, what is unfinished stays.

use hapax_testkit::{Fault, HapaxProcess, Phase, Rule, Script, eventually};
use hapax_tests::stage::{PATIENCE, Stage};

/// All ids and ends are so much older, in partitions of their own where there are none.
async fn age(stage: &Stage, by: &str) {
    let mut sql = format!(
        "DO $$ DECLARE week timestamp := date_trunc('week', now() AT TIME ZONE 'UTC' - interval '{by}'); parent text; name text; BEGIN
           FOREACH parent IN ARRAY ARRAY['message', 'attempt'] LOOP
             name := format('%s_%s', parent, to_char(week, 'YYYYMMDD'));
             CONTINUE WHEN to_regclass('outbox.' || name) IS NOT NULL;
             EXECUTE format('CREATE TABLE outbox.%I PARTITION OF outbox.%I FOR VALUES FROM (%L) TO (%L)', name, parent,
                            outbox.uuid_floor(week AT TIME ZONE 'UTC'), outbox.uuid_floor((week + interval '7 days') AT TIME ZONE 'UTC'));
           END LOOP; END $$;
         UPDATE outbox.done SET finished_at = finished_at - interval '{by}';"
    );
    for (table, id) in [("message", "id"), ("queue", "message_id"), ("done", "message_id"), ("attempt", "message_id")] {
        sql += &format!(
            "UPDATE outbox.{table} SET {id} = (left(outbox.uuid_floor(outbox.uuid_time({id}) - interval '{by}')::text, 13)
                                               || right({id}::text, 23))::uuid;"
        );
    }
    stage.sql.batch_execute(&sql).await.expect("they age");
}

async fn end(mut relay: HapaxProcess) {
    relay.sigterm();
    assert!(relay.wait_exit(PATIENCE).await.success(), "{}", relay.report());
}

const KINDS: &str = "SELECT coalesce(string_agg(kind || CASE WHEN subject IS NULL AND body_text IS NULL THEN '' ELSE ' with content' END, ', ' ORDER BY kind, recipients), '') FROM outbox.message";

async fn until_left(stage: &Stage, left: &str) {
    eventually(PATIENCE, async || {
        let now = stage.text(KINDS, &[]).await.unwrap_or_default();
        (now == left).then_some(()).ok_or(now)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_removes_content_when_its_time_is_over_and_drops_weeks_that_have_ended() {
    let stage = Stage::set().await;
    let refusal =
        Rule::at(Phase::Rcpt, Fault::Custom("550 5.1.1 no such user\r\n".into())).recipient("gone@example.org");
    stage.server.script(Script::rules([refusal]));
    let settings = stage.settings().set("kinds.reset.keep_content", "accepted");
    let relay = settings.run().await;
    for (kind, recipient) in [("reset", "a"), ("reset", "gone"), ("law", "a")] {
        let sql = "SELECT outbox.enqueue(kind => $1, recipients => ARRAY[$2 || '@example.org'], subject => 'Hello', body_text => 'one')";
        stage.sql.execute(sql, &[&kind, &recipient]).await.expect("enqueues");
    }
    stage.until_settled().await;
    age(&stage, "5 minutes").await;
    until_left(&stage, "law with content, reset, reset with content").await;
    let id = stage.text("SELECT id::text FROM outbox.message WHERE kind = 'reset' AND subject IS NULL", &[]).await;
    let (code, said) = stage.settings_of("operator").command(["show", &id.expect("it is there")]).await;
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("sent") && said.contains("250"), "what the server said is kept: {said}");
    end(relay).await;

    // Two months later; one of the week after is not due before the year 2100.
    age(&stage, "60 days").await;
    stage.enqueue_one("b@example.org", ", not_before => '2100-01-01'").await;
    let week = "DO $$ DECLARE week timestamp := date_trunc('week', now() AT TIME ZONE 'UTC' - interval '53 days'); BEGIN
        EXECUTE format('CREATE TABLE outbox.message_%s PARTITION OF outbox.message FOR VALUES FROM (%L) TO (%L)', to_char(week, 'YYYYMMDD'),
                       outbox.uuid_floor(week AT TIME ZONE 'UTC'), outbox.uuid_floor((week + interval '7 days') AT TIME ZONE 'UTC'));
        UPDATE outbox.message SET id = (left(outbox.uuid_floor(now() - interval '53 days')::text, 13) || right(id::text, 23))::uuid WHERE kind = 'note';
        UPDATE outbox.queue q SET message_id = m.id FROM outbox.message m WHERE m.kind = 'note'; END $$";
    stage.sql.batch_execute(week).await.expect("it ages");
    let relay = settings.set("retention.records", "14d").run().await;
    until_left(&stage, "note with content").await;
    relay.wait_for_line(|line| line.contains("outbox.maintain") && line.contains("dropped")).await;
    relay.wait_for_line(|line| line.contains("outbox.maintain") && line.contains("has unfinished deliveries")).await;
    let left = "SELECT (SELECT count(*) FROM outbox.done) + (SELECT count(*) FROM outbox.attempt)";
    assert_eq!(stage.count(left).await, 0);
    end(relay).await;
}
