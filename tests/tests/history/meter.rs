//! What a statement touches: EXPLAIN counts its buffers, functions and all; the statistics of its transaction say which
//! tables it has read, and how.

use std::collections::BTreeSet;
use std::fmt;

use serde_json::Value;
use tokio_postgres::Client;

use crate::cases::Case;

/// What one statement has touched.
#[derive(Debug)]
pub(crate) struct Touched {
    /// Buffers hit and read.
    pub(crate) buffers: i64,
    /// Partitions of messages or attempts, whichever are more.
    pub(crate) weeks: i64,
    /// Large tables of which it read rows without an index, and how many rows.
    pub(crate) whole: Vec<(String, i64)>,
    /// Whether it was compiled: that costs seconds where partitions are many.
    pub(crate) jit: bool,
    rows: i64,
    took_ms: f64,
}

impl fmt::Display for Touched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:>9.1} ms {:>6} rows {:>3} weeks {:>9}{}",
            self.took_ms,
            self.rows,
            self.weeks,
            self.buffers,
            if self.jit { "j" } else { " " }
        )
    }
}

/// Rows read without an index and partitions looked at, of this transaction so far.
const READS: &str = "SELECT relname::text, seq_tup_read, seq_scan + coalesce(idx_scan, 0) FROM pg_stat_xact_user_tables
    WHERE schemaname = 'outbox' AND (relname IN ('queue', 'done', 'dedup_key', 'audit', 'pause_parked', 'ordering', 'guard_seen') OR relname ~ '^(message|attempt)_')";

async fn reads(sql: &Client) -> Vec<(String, i64, i64)> {
    let rows = sql.query(READS, &[]).await.expect("statistics");
    rows.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect()
}

async fn run(sql: &Client, text: &str) {
    sql.batch_execute(text).await.unwrap_or_else(|error| panic!("{text}: {error:?}"));
}

/// Executes it twice, and takes both back: once for what the session keeps, once to count.
pub(crate) async fn touched(sql: &Client, case: &Case) -> Result<Touched, String> {
    let mut touched = Err(String::new());
    for _ in 0..2 {
        run(sql, "BEGIN").await;
        touched = once(sql, case).await.map_err(|error| format!("{error:?}"));
        run(sql, "ROLLBACK").await;
    }
    touched
}

async fn once(sql: &Client, case: &Case) -> Result<Touched, tokio_postgres::Error> {
    if let Some(before) = &case.before {
        sql.batch_execute(before).await?;
    }
    let before = reads(sql).await;
    let plan = sql.query_one(&format!("EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {}", case.sql), &[]).await?;
    Ok(read(&plan.get(0), &before, &reads(sql).await))
}

fn read(plan: &Value, before: &[(String, i64, i64)], after: &[(String, i64, i64)]) -> Touched {
    let top = &plan[0]["Plan"];
    let number = |key: &str| top[key].as_f64().unwrap_or_else(|| panic!("no {key} in {top}"));
    let earlier = |name: &str| before.iter().find(|row| row.0 == name).map_or((0, 0), |row| (row.1, row.2));
    let mut whole = Vec::new();
    let (mut messages, mut attempts) = (0, 0);
    for (name, rows, scans) in after {
        let (rows, scans) = (rows - earlier(name).0, scans - earlier(name).1);
        if rows > 0 {
            whole.push((name.clone(), rows));
        }
        if scans > 0 {
            messages += i64::from(name.starts_with("message_"));
            attempts += i64::from(name.starts_with("attempt_"));
        }
    }
    // Statistics count also where the planner has looked for the ends of an index. Inside of functions there is nothing else.
    let mut planned = BTreeSet::new();
    executed(top, &mut planned);
    let of = |parent: &str| planned.iter().filter(|table| table.starts_with(parent)).count() as i64;
    Touched {
        buffers: (number("Shared Hit Blocks") + number("Shared Read Blocks")) as i64,
        weeks: if planned.is_empty() { messages.max(attempts) } else { of("message_").max(of("attempt_")) },
        whole,
        rows: number("Actual Rows") as i64,
        jit: plan[0]["JIT"].is_object(),
        took_ms: plan[0]["Execution Time"].as_f64().unwrap_or_default(),
    }
}

/// Tables that the plan has read.
fn executed(node: &Value, tables: &mut BTreeSet<String>) {
    if node["Actual Loops"].as_f64().unwrap_or_default() > 0.0
        && let Some(table) = node["Relation Name"].as_str()
    {
        tables.insert(table.to_owned());
    }
    for child in node["Plans"].as_array().into_iter().flatten() {
        executed(child, tables);
    }
}
