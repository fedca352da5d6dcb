//! The same from outside: a real relay and the command line beside the history, and what Postgres says of their statements.

use std::collections::BTreeMap;

use hapax_testkit::eventually;
use hapax_tests::stage::{PATIENCE, Stage};

use crate::cases::Facts;

/// Sent while it is watched.
const SENT: i64 = 2_000;

/// Of each statement, whatever there is: what sessions read of the catalogues when they execute it for the first time.
const SESSIONS: i64 = 1_500;

/// Statements of the relay: buffers for each call, and for each row it answers.
const RELAY: &[(&str, i64, i64)] = &[
    ("claim", 80, 12),
    ("claim_turns", 1_500, 20),
    ("lanes_by_turns", 100, 0),
    ("letters", 60, 12),
    ("look", 2_000, 0),
    ("pauses", 60, 0),
    ("stop", 100, 40),
    ("guard", 400, 60),
    ("collect", 100, 30),
    ("intend", 100, 40),
    ("settle", 150, 80),
    ("release", 100, 30),
    ("heartbeat", 120, 0),
    ("relays", 40, 0),
    ("doubts", 200, 20),
    ("free_ordered", 20_000, 0),
    ("follow_digests", 400, 0),
    ("adopt_orphans", 400, 0),
    ("unqueued", 120_000, 0),
    ("standing", 40, 0),
    ("overview", 150_000, 0),
    ("maintain", 20_000, 0),
];

/// Commands and what they may touch in all: arguments in words, with facts in braces.
const COMMANDS: &[(&str, &str)] = &[
    ("status", "250000"),
    ("ls", "1500"),
    ("ls --state failed", "1500"),
    ("ls --state cancelled", "1500"),
    ("ls --state held", "1500"),
    ("ls --kind order", "1500"),
    ("ls --in-doubt", "6000"),
    ("show {finished}", "600"),
    ("show {failed}", "600"),
    ("show {ordered}", "70000/4*queue_pages"),
    ("explain {finished}", "3000"),
    ("explain {address} --since 90d", "2*queue_pages+8000"),
];

/// Calls, rows and buffers by the name in the statement's comment.
async fn statements(stage: &Stage) -> BTreeMap<String, (i64, i64, i64)> {
    let sql = "SELECT substring(query FROM '/\\* outbox\\.([a-z_]+) \\*/') AS name, sum(calls)::int8, sum(rows)::int8, sum(shared_blks_hit + shared_blks_read)::int8
               FROM pg_stat_statements WHERE query LIKE '%/* outbox.%' AND query NOT LIKE '%pg_stat_statements%' GROUP BY 1";
    let rows = stage.sql.query(sql, &[]).await.expect("statistics");
    rows.iter().map(|row| (row.get(0), (row.get(1), row.get(2), row.get(3)))).collect()
}

/// Rows of messages, attempts and ends that were read without an index so far, by all sessions that have ended.
async fn whole(stage: &Stage) -> i64 {
    stage.sql.batch_execute("SELECT pg_stat_clear_snapshot()").await.expect("clears");
    let sql = "SELECT coalesce(sum(seq_tup_read), 0)::int8 FROM pg_stat_user_tables WHERE schemaname = 'outbox' AND relname ~ '^(message|attempt|done)'";
    stage.count(sql).await
}

async fn forget(stage: &Stage) {
    stage.sql.batch_execute("SELECT pg_stat_statements_reset()").await.expect("forgets");
}

/// Runs what people type; answers what was too much.
pub(crate) async fn commands(stage: &Stage, facts: &Facts) -> Vec<String> {
    let operator = stage.settings_of("operator");
    let mut broken = Vec::new();
    for (command, most) in COMMANDS {
        forget(stage).await;
        let typed = facts.put_into(command);
        let (code, said) = operator.command(typed.split(' ')).await;
        assert_eq!(code, 0, "hapax {typed}: {said}");
        let asked = statements(stage).await;
        let (all, most) = (asked.values().map(|one| one.2).sum::<i64>(), facts.bound(most));
        let largest = asked.iter().max_by_key(|one| one.1.2).map_or("nothing", |one| one.0);
        println!("{all:>9} of {most:>9} hapax {command} (most: {largest})");
        if all > most {
            broken.push(format!("hapax {command}: {all} buffers, at most {most}; most of them {largest}"));
        }
    }
    broken
}

/// Runs a relay until it has sent some; answers what was too much.
pub(crate) async fn relay(stage: &Stage) -> Vec<String> {
    let before = stage.server.with_ledger(|ledger| ledger.totals().accepted);
    let read = whole(stage).await;
    forget(stage).await;
    let settings =
        stage.settings().set("routes.second.url", format!("smtp://127.0.0.1:{}?starttls=none", stage.server.port()));
    let settings = settings.set("routes.second.from", "Shop <no-reply@shop.example>").set("http.listen", "127.0.0.1:0");
    // What has waited for two weeks is sent, not held: it is the traffic that is measured.
    let settings = settings.set("guards.max_age", "off");
    let mut relay = settings.set("kinds.guarded.guard_window", "10m").run().await;
    eventually(PATIENCE, async || {
        let sent = i64::try_from(stage.server.with_ledger(|ledger| ledger.totals().accepted) - before).expect("few");
        let round = statements(stage).await.contains_key("free_ordered");
        (sent >= SENT && round).then_some(()).ok_or(sent)
    })
    .await;
    relay.sigterm();
    let status = relay.wait_exit(PATIENCE).await;
    assert!(status.success(), "{status:?}");
    let read = whole(stage).await - read;
    let mut broken =
        if read == 0 { vec![] } else { vec![format!("the relay has read {read} rows of history without an index")] };
    for (name, (calls, rows, buffers)) in statements(stage).await {
        let Some((_, call, row)) = RELAY.iter().find(|one| one.0 == name) else {
            println!("{calls:>6} calls {rows:>7} rows {buffers:>9}                outbox.{name}");
            continue;
        };
        let most = call * calls + row * rows + SESSIONS;
        println!("{calls:>6} calls {rows:>7} rows {buffers:>9} of {most:>9}   outbox.{name}");
        if buffers > most {
            broken.push(format!(
                "the relay's {name}: {buffers} buffers in {calls} calls for {rows} rows, at most {most}"
            ));
        }
    }
    broken
}
