//! The schema: migrations, indexes, partitions, vacuum.

use hapax_store::{
    inspect::{
        Console,
        doctor::{Index, Table, Trigger},
        intact::Detached,
    },
    migrate::Status,
};

use super::{
    database::Patient,
    finding::{Finding, told},
    intact,
};
use crate::{failure::split_hints, migrate};

/// Partitions are made four weeks ahead.
const AHEAD_S_MIN: f64 = 7.0 * 86_400.0;
const WEEK_S: f64 = 7.0 * 86_400.0;
/// Between two runs of autovacuum a busy queue has tens of thousands.
const DEAD_ROWS_MAX: i64 = 200_000;
/// The migration that brought the canary.
const CANARY_SINCE: i32 = 28;

/// What was applied, against this binary.
pub(super) async fn migrations(patient: &Patient<'_>) -> Vec<Finding> {
    let name = "schema.migrations";
    let console = match patient.console(name).await {
        Ok(console) => console,
        Err(findings) => return findings,
    };
    let status = match console.doctor_migrations().await {
        Ok(status) => status,
        Err(error) => return vec![patient.failed(name, &error)],
    };
    let canary = patient.settings.canary.is_some().then(|| canary(&status)).flatten();
    let differences = migrate::differences(&status);
    if differences.is_empty() {
        return vec![Finding::ok(name, format!("{} migrations, all applied and unchanged", status.applied.len()))];
    }
    let told = differences.iter().map(|difference| {
        let (message, hints) = split_hints(difference);
        // An unknown one that breaks nobody is what a rolling upgrade looks like.
        if hints.is_empty() {
            return Finding::note(name, message, "upgrade this hapax too");
        }
        Finding::error(name, message, hints.join("; "))
    });
    told.chain(canary).collect()
}

/// What it means for a canary that migrations are pending.
fn canary(status: &Status) -> Option<Finding> {
    let lacks = !status.applied.iter().any(|applied| applied.version >= CANARY_SINCE);
    lacks.then(|| {
        let evidence = "a canary is configured, but this schema has no outbox.canary(): none is ever enqueued";
        Finding::error("outbox.canary", evidence, "hapax migrate up, as the owner of the outbox; or leave [canary] out")
    })
}

/// Indexes that are invalid or missing.
pub(super) async fn indexes(patient: &Patient<'_>) -> Vec<Finding> {
    let name = "schema.indexes";
    let console = match patient.console(name).await {
        Ok(console) => console,
        Err(findings) => return findings,
    };
    match console.doctor_indexes().await {
        Ok(faults) if faults.is_empty() => vec![Finding::ok(name, "all there and valid")],
        Ok(faults) => {
            let words: Vec<String> = faults.iter().map(|Index { name, fault }| format!("{name} is {fault}")).collect();
            let remedy = "REINDEX INDEX CONCURRENTLY what is invalid; make what is missing as its migration does \
                          (hapax migrate sql)";
            vec![Finding::error(name, words.join(", "), remedy)]
        }
        Err(error) => vec![patient.failed(name, &error)],
    }
}

/// Triggers that somebody has disabled, or enabled for others than they are made for: restoring data ends so.
pub(super) async fn triggers(patient: &Patient<'_>, console: &Console) -> Vec<Finding> {
    let name = "schema.triggers";
    match console.doctor_triggers().await {
        Ok(changed) if changed.is_empty() => vec![Finding::ok(name, "enabled as they were made")],
        Ok(changed) => changed.iter().map(|trigger| changed_trigger(name, trigger)).collect(),
        Err(error) => vec![patient.failed(name, &error)],
    }
}

fn changed_trigger(name: &'static str, Trigger { name: trigger, of, enabled, remedy }: &Trigger) -> Finding {
    let how = match enabled.as_str() {
        "D" => "disabled",
        "A" => "enabled for every session, those that replicate too",
        "R" => "enabled for sessions that replicate only",
        _ => "enabled for every session but those that replicate",
    };
    let means = match trigger.as_str() {
        "queue_is_ours" => {
            "what logical replication brings does not disarm this outbox, and would be sent from here too"
        }
        _ => "what it is there for is not done",
    };
    let evidence = format!("{trigger} on {of} is {how}: {means} (pg_restore --disable-triggers leaves them so)");
    Finding::error(name, evidence, format!("as the owner: {remedy}"))
}

/// Partitions, default partitions, autovacuum, dead rows.
pub(super) async fn tables(patient: &Patient<'_>) -> Vec<Finding> {
    let name = "schema.tables";
    let console = match patient.console(name).await {
        Ok(console) => console,
        Err(findings) => return findings,
    };
    let stored = match console.doctor_storage().await {
        Ok(stored) => stored,
        Err(error) => return vec![patient.failed(name, &error)],
    };
    let (detached, unasked) = match console.doctor_detached().await {
        Ok(detached) => (detached, None),
        Err(error) => (Vec::new(), Some(patient.failed("schema.partitions", &error))),
    };
    let mut findings = match console.doctor_tables().await {
        Ok(tables) => judge(&tables, &detached, intact::without_default(&stored)),
        Err(error) => return vec![patient.failed(name, &error)],
    };
    findings.extend(unasked);
    findings.push(intact::unlogged(&stored));
    let name = "schema.retention";
    findings.push(match console.doctor_postponed().await {
        Ok(weeks) => overdue(name, &weeks),
        Err(error) => patient.failed(name, &error),
    });
    findings
}

fn overdue(name: &'static str, weeks: &[(String, String, f64)]) -> Finding {
    let words = |(what, why, since_s): &(String, String, f64)| format!("outbox.{what} {why}, for {}", told(*since_s));
    let words: Vec<String> = weeks.iter().map(words).collect();
    if words.is_empty() {
        return Finding::ok(name, "no week is overdue");
    }
    let remedy = "end the transactions that hold it (SELECT * FROM pg_locks WHERE relation = 'outbox.message'::regclass), \
                  take away what depends on it, decide what has not ended (hapax ls --held, --in-doubt); the next upkeep does it";
    Finding::warning(name, words.join("; "), remedy)
}

fn judge(tables: &[Table], detached: &[Detached], without_default: Option<Finding>) -> Vec<Finding> {
    vec![
        taken_away(detached).unwrap_or_else(|| ahead(tables, detached)),
        without_default.unwrap_or_else(|| catching(tables)),
        options(tables),
        dead(tables),
    ]
}

/// What is detached while something of it has not ended.
fn taken_away(detached: &[Detached]) -> Option<Finding> {
    let wanted: Vec<&Detached> = detached.iter().filter(|week| week.unfinished > 0).collect();
    let words = |Detached { name, parent, unfinished, .. }: &&Detached| {
        let (s, have) = if *unfinished == 1 { ("y", "has") } else { ("ies", "have") };
        let what = if parent == "message" { "what is to be sent" } else { "attempts" };
        format!("outbox.{name} is not attached, and {unfinished} unfinished deliver{s} {have} {what} in it")
    };
    let words: Vec<String> = wanted.iter().map(words).collect();
    let back: Vec<&str> = wanted.iter().map(|week| week.remedy.as_str()).collect();
    let evidence = format!("{}: such mail is not sent, or without its past", words.join("; "));
    let remedy = format!("as the owner: {}", back.join(" "));
    (!wanted.is_empty()).then(|| Finding::error("schema.partitions", evidence, remedy))
}

fn ahead(tables: &[Table], detached: &[Detached]) -> Finding {
    let name = "schema.partitions";
    let least = covered(tables, "message").min(covered(tables, "attempt"));
    let mut evidence = match least > 0.0 {
        true => format!("made for the next {}", told(least)),
        false => {
            "there is none for today: everything goes to the default partition, and cannot be dropped by week".into()
        }
    };
    let apart = |table: &&Table| !table.is_attached && table.covers_s.is_some_and(|until| until > 0.0);
    let apart: Vec<String> = tables.iter().filter(apart).map(|table| format!("outbox.{}", table.name)).collect();
    if let Some(first) = apart.first() {
        let back = detached.iter().find(|week| first.strip_prefix("outbox.") == Some(&week.name));
        evidence = format!("{} not attached, and nothing else can be made for the week: {evidence}", apart.join(", "));
        let remedy = format!(
            "as the owner: ALTER TABLE {first} RENAME TO {}_archive (or SET SCHEMA); SELECT * FROM outbox.maintain();{}",
            first.trim_start_matches("outbox."),
            back.map_or_else(String::new, |week| format!(" or, to have it again: {}", week.remedy))
        );
        return Finding::warning(name, evidence, remedy);
    }
    if least < AHEAD_S_MIN {
        let remedy =
            "a relay that runs makes them; by hand: SELECT * FROM outbox.maintain(); it says what it postponed";
        return Finding::warning(name, evidence, remedy);
    }
    Finding::ok(name, evidence)
}

/// For how long from now every week has its partition, in seconds.
fn covered(tables: &[Table], parent: &str) -> f64 {
    let own = tables.iter().filter(|table| table.is_attached && table.name.starts_with(&format!("{parent}_")));
    let mut ends: Vec<f64> = own.filter_map(|table| table.covers_s).collect();
    ends.sort_by(f64::total_cmp);
    ends.into_iter().fold(0.0, |until, end| if end > until && end - WEEK_S <= until + 1.0 { end } else { until })
}

fn catching(tables: &[Table]) -> Finding {
    let name = "schema.default_partition";
    let filled: Vec<String> = tables
        .iter()
        .filter(|table| table.is_default && table.bytes > 0 && table.live > 0)
        .map(|table| (&table.name, table.live, if table.live == 1 { "" } else { "s" }))
        .map(|(name, live, plural)| format!("outbox.{name} has about {live} row{plural}"))
        .collect();
    if filled.is_empty() {
        return Finding::ok(name, "empty");
    }
    let remedy = "no partition was made for their week in time; SELECT * FROM outbox.maintain(); makes the next ones, \
                  these rows stay findable there (a relay that runs keeps it from happening)";
    Finding::warning(name, filled.join(", "), remedy)
}

fn options(tables: &[Table]) -> Finding {
    let name = "schema.autovacuum";
    let has = |table: &Table, option: &str| table.options.iter().any(|own| own.starts_with(option));
    let is_off = |table: &&Table| has(table, "autovacuum_enabled=false") || has(table, "autovacuum_enabled=off");
    let off: Vec<String> = tables.iter().filter(is_off).map(|table| format!("outbox.{}", table.name)).collect();
    if !off.is_empty() {
        let remedy = format!("ALTER TABLE {} RESET (autovacuum_enabled);", off[0]);
        return Finding::warning(name, format!("autovacuum is switched off for {}", off.join(", ")), remedy);
    }
    let wanted = ["autovacuum_vacuum_scale_factor=", "autovacuum_vacuum_threshold=", "fillfactor="];
    let queue = tables.iter().find(|table| table.name == "queue");
    let lacks = |option: &&&str| queue.is_some_and(|queue| !has(queue, option));
    let lacking: Vec<&str> = wanted.iter().filter(lacks).map(|option| option.trim_end_matches('=')).collect();
    if lacking.is_empty() {
        return Finding::ok(name, "the queue has its own settings");
    }
    let remedy = "ALTER TABLE outbox.queue SET (fillfactor = 20, autovacuum_vacuum_scale_factor = 0.02, \
                  autovacuum_vacuum_threshold = 1000);";
    Finding::warning(name, format!("outbox.queue has lost its {}", lacking.join(", ")), remedy)
}

fn dead(tables: &[Table]) -> Finding {
    let name = "schema.dead_rows";
    let is_bloated = |table: &&Table| table.dead > DEAD_ROWS_MAX && table.dead > 2 * table.live;
    let words = |table: &Table| {
        let ago = table.vacuumed_ago_s.map_or("never vacuumed".to_owned(), |s| format!("vacuumed {} ago", told(s)));
        format!("outbox.{}: {} dead rows, {} live, {ago}", table.name, table.dead, table.live)
    };
    let bloated: Vec<String> = tables.iter().filter(is_bloated).map(words).collect();
    if bloated.is_empty() {
        let most = tables.iter().max_by_key(|table| table.dead);
        return Finding::ok(name, most.map_or_else(|| "no table".to_owned(), words));
    }
    let remedy = "see what holds them back (database.transactions, .prepared, .slots), then VACUUM the table";
    Finding::warning(name, bloated.join("; "), remedy)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::finding::Severity;

    fn table(name: &str, live: i64, dead: i64) -> Table {
        Table {
            name: name.to_owned(),
            estimate: -1.0,
            live,
            dead,
            vacuumed_ago_s: Some(7_300.0),
            options: Vec::new(),
            is_default: name.ends_with("_default"),
            covers_s: None,
            is_attached: true,
            bytes: 8192,
        }
    }

    #[test]
    fn a_week_without_a_partition_ends_what_is_made_ahead() {
        let week = |name: &str, end_days: f64, is_attached| Table {
            covers_s: Some(end_days * 86_400.0),
            is_attached,
            ..table(name, 0, 0)
        };
        let parents = |ends: &[(f64, bool)]| -> Vec<Table> {
            let of = |parent: &str| {
                let own = ends.iter().map(|(end, attached)| week(&format!("{parent}_20261123"), *end, *attached));
                own.collect::<Vec<_>>()
            };
            [of("message"), of("attempt")].concat()
        };
        let well = ahead(&parents(&[(-4.0, true), (3.0, true), (17.0, true), (10.0, true)]), &[]);
        assert_eq!((well.severity, well.evidence.as_str()), (Severity::Ok, "made for the next 17 days"));
        let gap = ahead(&parents(&[(3.0, true), (17.0, true), (24.0, true)]), &[]);
        assert_eq!((gap.severity, gap.evidence.as_str()), (Severity::Warning, "made for the next 3 days"));
        let archive = ahead(&parents(&[(-4.0, false), (3.0, true), (10.0, true)]), &[]);
        assert_eq!(archive.severity, Severity::Ok, "{}", archive.evidence);
        let apart = ahead(&parents(&[(3.0, false), (10.0, true), (17.0, true)]), &[]);
        assert_eq!(apart.severity, Severity::Warning);
        assert!(apart.evidence.contains("outbox.message_20261123") && apart.evidence.contains("none for today"));
    }

    #[test]
    fn dead_rows_are_many_against_the_live_ones_and_by_themselves() {
        assert_eq!(dead(&[table("queue", 10, 150_000), table("message", 900_000, 300_000)]).severity, Severity::Ok);
        let bloated = dead(&[table("queue", 10, 300_000)]);
        assert_eq!(bloated.severity, Severity::Warning);
        assert_eq!(bloated.evidence, "outbox.queue: 300000 dead rows, 10 live, vacuumed 2 h 1 min ago");
    }
}
