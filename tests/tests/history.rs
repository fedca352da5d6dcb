//! A long history: what relays, applications and people ask touches as many buffers beside ten million finished and a million
//! pending deliveries as beside few. Bounds, not seconds; `make test` fills 200,000 and 20,000, `make history` the rest
//! (`HAPAX_HISTORY_FINISHED`, `HAPAX_HISTORY_PENDING`). `history/cases.sql` has the statements with their bounds.

#[path = "history/cases.rs"]
mod cases;
#[path = "history/fill.rs"]
mod fill;
#[path = "history/live.rs"]
mod live;
#[path = "history/meter.rs"]
mod meter;

use cases::{Case, Facts};
use hapax_tests::stage::Stage;
use meter::Touched;

/// What a case broke, in words.
fn breaches(case: &Case, touched: &Touched) -> Vec<String> {
    let mut found = Vec::new();
    if touched.buffers > case.buffers {
        found.push(format!("{} buffers, at most {}", touched.buffers, case.buffers));
    }
    if touched.weeks > case.weeks {
        found.push(format!("{} partitions, at most {}", touched.weeks, case.weeks));
    }
    for (table, rows) in &touched.whole {
        if !case.whole.iter().any(|allowed| table.starts_with(allowed.as_str())) {
            found.push(format!("reads {table} from end to end ({rows} rows)"));
        }
    }
    found
}

async fn statements(stage: &Stage, facts: &Facts) -> Vec<String> {
    let mut broken = Vec::new();
    for case in cases::all(facts) {
        let found = match meter::touched(&stage.sql, &case).await {
            Ok(touched) => {
                println!("{touched} of {:>9}  {}", case.buffers, case.name);
                breaches(&case, &touched)
            }
            Err(error) => vec![error],
        };
        broken.extend(found.iter().map(|breach| format!("{}: {breach}", case.name)));
    }
    broken
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_asked_of_a_long_history_touches_as_much_as_of_a_short_one() {
    let (stage, size) = fill::stage().await;
    let facts = Facts::of(&stage.sql).await;
    let mut broken = statements(&stage, &facts).await;
    let stopped = "SELECT count(*) FROM outbox.queue_health h JOIN (VALUES ('in_doubt', '{doubt}'::text[]), ('held', '{held,poison}')) w (state, parked) USING (state)
                   WHERE h.deliveries <> (SELECT count(*) FROM outbox.queue q WHERE q.parked = ANY (w.parked))";
    if stage.count(stopped).await > 0 {
        broken.push("queue_health does not count all that has stopped".into());
    }
    if fill::witness() {
        broken.extend(live::commands(&stage, &facts).await);
        broken.extend(live::relay(&stage).await);
    } else {
        println!(
            "LEFT OUT: what commands and a relay touch; there is no pg_stat_statements (HAPAX_HISTORY_WITNESS=no)"
        );
    }
    assert!(broken.is_empty(), "beside {size}:\n{}", broken.join("\n"));
}
