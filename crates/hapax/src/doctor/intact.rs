//! Whether the schema's objects are as the migrations made them: what somebody has switched on, dropped, granted or given
//! away since.

use std::collections::BTreeSet;

use hapax_store::inspect::{
    Console,
    intact::{OBJECTS, Owned, Secured, Stored},
};

use super::{database::Patient, finding::Finding, schema};
use crate::migrate;

/// What the finding names; the rest is counted.
const NAMED_MAX: usize = 5;
/// Whose privileges mail rests on.
const NEEDED: [&str; 2] = ["outbox_producer ", "outbox_relay "];

/// Triggers, owners, objects, privileges: one after the other on one connection, for a user may have few. `relay_is_told`: what the
/// relay's role lacks has been said.
pub(super) async fn examine(patient: &Patient<'_>, relay_is_told: bool) -> Vec<Finding> {
    let console = match patient.console("schema.objects").await {
        Ok(console) => console,
        Err(findings) => return findings,
    };
    let mut findings = schema::triggers(patient, &console).await;
    findings.extend(owners(patient, &console).await);
    // Last: it asks which migrations were applied, and whoever locks that table would keep the others waiting behind it.
    findings.extend(objects(patient, &console, relay_is_told).await);
    findings
}

/// Row level security, and whether it would mislead every other question.
pub(super) async fn row_security(patient: &Patient<'_>, console: &Console) -> (Vec<Finding>, bool) {
    let name = "schema.row_security";
    match console.doctor_row_security().await {
        Ok(tables) => (vec![judge_security(name, &tables)], tables.iter().any(|table| table.hides)),
        Err(error) => (vec![patient.failed(name, &error)], false),
    }
}

fn judge_security(name: &str, tables: &[Secured]) -> Finding {
    if tables.is_empty() {
        return Finding::ok(name, "off for every table");
    }
    let all = |separator: &str, words: fn(&str) -> String| {
        tables.iter().map(|table| words(&table.name)).collect::<Vec<_>>().join(separator)
    };
    let names = all(", ", |table| format!("outbox.{table}"));
    let off = all(" ", |table| format!("ALTER TABLE outbox.{table} DISABLE ROW LEVEL SECURITY;"));
    let remedy = format!("as the owner: {off}");
    if tables.iter().any(|table| table.hides || table.hides_from_relays) {
        let evidence = format!(
            "row level security is on for {names}: what it hides would be taken for missing, so relays do nothing; \
             no policy makes up for it"
        );
        return Finding::error(name, evidence, remedy);
    }
    Finding::note(name, format!("row level security is on for {names}, and every relay's user bypasses it"), remedy)
}

/// What has been dropped, and what was granted or taken away. Without a word where the migrations are not this binary's.
async fn objects(patient: &Patient<'_>, console: &Console, relay_is_told: bool) -> Vec<Finding> {
    let name = "schema.objects";
    match console.doctor_migrations().await {
        Ok(status) if migrate::differences(&status).is_empty() => {}
        // schema.migrations says it.
        Ok(_) | Err(_) => return Vec::new(),
    }
    match console.doctor_objects().await {
        Ok(lines) => compare(&lines, relay_is_told),
        Err(error) => vec![patient.failed(name, &error)],
    }
}

fn compare(lines: &[String], relay_is_told: bool) -> Vec<Finding> {
    let there: BTreeSet<&str> = lines.iter().map(String::as_str).collect();
    // For applications' tests: a DBA may drop it.
    let is_asked_for = |line: &&str| there.contains("schema outbox_test") || !line.contains("outbox_test");
    let made: BTreeSet<&str> = OBJECTS.lines().filter(is_asked_for).collect();
    let missing: Vec<&str> = made.difference(&there).filter_map(|line| is_object(line).then_some(*line)).collect();
    let roles: Vec<&str> = made.difference(&there).filter_map(|line| line.strip_prefix("role ")).collect();
    let lacking = made.difference(&there).filter_map(|line| line.strip_prefix("grant ")).filter(|grant| {
        let is_nobodys = roles.iter().any(|role| grant.starts_with(&format!("{role} ")));
        let is_of_nothing = missing.iter().any(|object| grant.ends_with(&format!(" {object}")));
        let is_told = relay_is_told && grant.starts_with("outbox_relay ");
        !is_nobodys && !is_of_nothing && !is_told
    });
    let lacking: Vec<&str> = lacking.collect();
    let excess = there.difference(&made).filter_map(|line| line.strip_prefix("grant "));
    let (open, more): (Vec<&str>, Vec<&str>) = excess.partition(|grant| grant.starts_with("PUBLIC "));
    let mut findings = vec![dropped(&missing)];
    findings.extend(granted(&roles, &lacking, &open, &more));
    findings
}

fn is_object(line: &str) -> bool {
    !line.starts_with("grant ") && !line.starts_with("role ")
}

fn dropped(missing: &[&str]) -> Finding {
    let name = "schema.objects";
    let Some(first) = missing.first() else { return Finding::ok(name, "all that the migrations make is there") };
    let evidence = format!("missing: {}", named(missing));
    let object = first.split_once(' ').map_or(*first, |(_, object)| object);
    let make = match first.split_once(' ').map(|(kind, _)| kind) {
        Some("function") => format!("psql -XAtc \"SELECT pg_get_functiondef('{object}'::regprocedure)\" SCRATCH"),
        Some("trigger") => {
            let (trigger, table) = object.split_once(" on ").unwrap_or((object, object));
            format!("pg_dump --schema-only --section=post-data --table={table} SCRATCH | grep -w {trigger}")
        }
        _ => format!("pg_dump --schema-only --table={object} SCRATCH"),
    };
    let remedy = format!(
        "as the owner: in an empty database SCRATCH of a server of this version, hapax migrate up; then for each: {make} \
         | psql THIS; then SELECT outbox.grant_roles(); (what had rows comes from a backup)"
    );
    // Without a view somebody does not see something; applications insert into one of them.
    let is_seen = |object: &&str| object.starts_with("view ") && *object != "view outbox.notification";
    match missing.iter().all(is_seen) {
        true => Finding::warning(name, evidence, remedy),
        false => Finding::error(name, evidence, remedy),
    }
}

fn granted(roles: &[&str], lacking: &[&str], open: &[&str], more: &[&str]) -> Vec<Finding> {
    let name = "schema.privileges";
    let remedy = "as the owner: SELECT outbox.grant_roles();";
    let mut findings = Vec::new();
    if !open.is_empty() {
        let evidence = format!("anybody who may log in has what is somebody's only: {}", told(open));
        findings.push(Finding::error(name, evidence, remedy));
    }
    if !lacking.is_empty() {
        let evidence = format!("a role lacks what it is made for: {}", told(lacking));
        let is_needed = lacking.iter().any(|grant| NEEDED.iter().any(|role| grant.starts_with(role)));
        findings.push(match is_needed {
            true => Finding::error(name, evidence, remedy),
            false => Finding::warning(name, evidence, remedy),
        });
    }
    if !more.is_empty() {
        let evidence = format!("a role has what it is not made for: {}", told(more));
        findings.push(Finding::warning(name, evidence, remedy));
    }
    if !roles.is_empty() {
        let evidence = format!("there is no role {}", roles.join(", "));
        findings.push(Finding::warning(name, evidence, migrate::making(roles)));
    }
    if findings.is_empty() {
        findings.push(Finding::ok(name, "the roles have what they are made for, and PUBLIC has nothing"));
    }
    findings
}

/// `outbox_producer EXECUTE function outbox.enqueue(...)` as people say it.
fn told(grants: &[&str]) -> String {
    let words = |grant: &&str| {
        let mut parts = grant.splitn(3, ' ');
        let mut next = || parts.next().unwrap_or_default();
        format!("{}: {} on {}", next(), next(), next())
    };
    let words: Vec<String> = grants.iter().map(words).collect();
    named(&words)
}

fn named<T: AsRef<str>>(all: &[T]) -> String {
    let first: Vec<&str> = all.iter().take(NAMED_MAX).map(AsRef::as_ref).collect();
    match all.len().saturating_sub(NAMED_MAX) {
        0 => first.join(", "),
        more => format!("{} and {more} more", first.join(", ")),
    }
}

/// What belongs to somebody else than the functions, with whose rights they work.
async fn owners(patient: &Patient<'_>, console: &Console) -> Vec<Finding> {
    let name = "schema.owner";
    match console.doctor_owners().await {
        Ok(owned) => judge_owners(name, &owned),
        Err(error) => vec![patient.failed(name, &error)],
    }
}

fn judge_owners(name: &str, owned: &[Owned]) -> Vec<Finding> {
    let strays: Vec<&Owned> = owned.iter().filter(|owned| !owned.what.is_empty()).collect();
    let Some(own) = owned.first() else { return Vec::new() };
    let mut findings = Vec::new();
    if !strays.is_empty() {
        let words: Vec<String> = strays.iter().map(|stray| format!("{} is {}'s", stray.what, stray.owner)).collect();
        let evidence = format!(
            "{}; the functions are {}'s, and have no rights there: what they do for producers and relays fails",
            named(&words),
            own.rightful
        );
        let back: Vec<&str> = strays.iter().map(|stray| stray.remedy.as_str()).collect();
        findings.push(Finding::error(name, evidence, format!("as a superuser: {}", back.join(" "))));
    }
    if own.superuser {
        let evidence =
            format!("all belongs to {}, a superuser: functions that producers call have all rights", own.rightful);
        let remedy = "give it to a role of its own, without a superuser's rights (deploy/DBA.md, Owner)";
        findings.push(Finding::note(name, evidence, remedy));
    }
    if findings.is_empty() {
        findings.push(Finding::ok(name, format!("all is {}'s", own.rightful)));
    }
    findings
}

/// What a crash of the server would empty.
pub(super) fn unlogged(stored: &[Stored]) -> Finding {
    let name = "schema.unlogged";
    let tables: Vec<&Stored> = stored.iter().filter(|table| table.fault == "unlogged").collect();
    if tables.is_empty() {
        return Finding::ok(name, "every table is written to the log of the server");
    }
    let names: Vec<String> = tables.iter().map(|table| format!("outbox.{}", table.name)).collect();
    let back: Vec<&str> = tables.iter().map(|table| table.remedy.as_str()).collect();
    let evidence = format!("UNLOGGED: {}; a crash of the server empties it, and no standby has it", named(&names));
    Finding::error(name, evidence, format!("as the owner: {}", back.join(" ")))
}

/// A partitioned table that takes nothing but what a week was made for.
pub(super) fn without_default(stored: &[Stored]) -> Option<Finding> {
    let tables: Vec<&Stored> = stored.iter().filter(|table| table.fault == "default").collect();
    let names: Vec<String> = tables.iter().map(|table| format!("outbox.{}_default", table.name)).collect();
    let back: Vec<&str> = tables.iter().map(|table| table.remedy.as_str()).collect();
    let evidence = format!("{} is not there: what no week was made for is refused", named(&names));
    let remedy = format!("as the owner: {}", back.join(" "));
    (!tables.is_empty()).then(|| Finding::error("schema.default_partition", evidence, remedy))
}
