//! `hapax migrate ...`: make, compare and print the schema.

use hapax_store::migrate::{MIGRATIONS, Migration, Status, script};
use serde_json::json;

use crate::{
    cli::Migrate,
    config::Loaded,
    connect,
    failure::{self, CONFIGURATION, Exit, Refusal, split_hints, tell},
    output::{self, Table},
};

/// # Errors
/// Configuration, an unreachable database, a migration that failed.
pub(crate) async fn run(loaded: Loaded, command: Migrate) -> anyhow::Result<Exit> {
    if let Migrate::Sql { from, to } = command {
        return sql(from, to);
    }
    let database = loaded.database()?;
    crate::run::install_crypto();
    let options = database.options("hapax migrate");
    let mut migrator = connect::migrator(&database, &options).await?;
    match command {
        Migrate::Up(json) => {
            let mut applied = Vec::new();
            let note = |migration: &Migration| {
                applied.push(migration.name);
                if !json.json {
                    output::line(&format!("applied {}", migration.name));
                }
            };
            let result = migrator.up_and_tell(note, |said| tell!("notice: {}", output::one_line(said)));
            if let Err(error) = result.await {
                let code = if matches!(error, hapax_store::Error::Schema(_)) { CONFIGURATION } else { 1 };
                return Err(Refusal::of_error(code, &error, &[]).into());
            }
            if json.json {
                output::json(&json!({ "applied": applied }))?;
            } else if applied.is_empty() {
                output::line("nothing to do: the schema is up to date");
            }
            Ok(Exit::Done)
        }
        Migrate::Status(json) => {
            let status = migrator.status().await.map_err(|error| connect::explain(&error, &database))?;
            print(&status, json.json)?;
            Ok(Exit::Done)
        }
        Migrate::Verify(json) => {
            let status = migrator.status().await.map_err(|error| connect::explain(&error, &database))?;
            // Where nothing was applied, nothing needs them yet.
            let roles = match status.applied.is_empty() {
                true => Vec::new(),
                false => migrator.missing_roles().await.map_err(|error| connect::explain(&error, &database))?,
            };
            verify(&status, &roles, json.json)
        }
        Migrate::Sql { .. } => Ok(Exit::Done),
    }
}

fn sql(from: i32, to: i32) -> anyhow::Result<Exit> {
    let last = MIGRATIONS.last().map_or(0, |migration| migration.version);
    if from >= to.min(last) {
        let range = format!("the migrations are 1 to {last}; --from N begins after N, --to M includes M");
        return Err(Refusal::usage("there is no migration in this range", &[&range]).into());
    }
    output::raw(&script(from, to));
    Ok(Exit::Done)
}

fn print(status: &Status, as_json: bool) -> anyhow::Result<()> {
    let pending = status.pending();
    if as_json {
        let applied = status.applied.iter().map(|applied| {
            let (name, version) = (&applied.name, applied.version);
            json!({ "name": name, "version": version, "state": "applied", "applied_at": applied.applied_at })
        });
        let pending = pending.iter().map(
            |Migration { name, version, .. }| {
                json!({ "name": name, "version": version, "state": "pending", "applied_at": null })
            },
        );
        return output::json(&json!({
            "migrations": applied.chain(pending).collect::<Vec<_>>(), "problems": status.problems(),
        }));
    }
    let mut table = Table::new(&["MIGRATION", "STATE", "APPLIED"]);
    for applied in &status.applied {
        table.row([applied.name.clone(), "applied".into(), applied.applied_at.clone()]);
    }
    for migration in &pending {
        table.row([migration.name.into(), "pending".into(), "-".into()]);
    }
    table.print();
    for problem in status.problems() {
        output::line(&problem);
    }
    if !pending.is_empty() {
        output::line(&format!("\n{} pending: hapax migrate up", pending.len()));
    }
    Ok(())
}

/// Everything in which the schema is not this binary's. Stricter than a relay: also a migration that is merely unknown is a
/// difference.
pub(crate) fn differences(status: &Status) -> Vec<String> {
    let mut problems = status.problems();
    for applied in &status.applied {
        let known = MIGRATIONS.iter().any(|migration| migration.version == applied.version);
        if !known && !applied.breaking {
            problems.push(format!("the database is ahead: migration {} is not known to this binary", applied.name));
        }
    }
    if !status.pending().is_empty() {
        let names: Vec<&str> = status.pending().iter().map(|migration| migration.name).collect();
        problems.push(format!("the schema lacks migrations {} (hint: hapax migrate up)", names.join(", ")));
    }
    problems
}

/// How roles are made that the owner may not make.
pub(crate) fn making(roles: &[impl AsRef<str>]) -> String {
    let make = |role: &_| format!("CREATE ROLE {} NOLOGIN;", AsRef::<str>::as_ref(role));
    let make: Vec<String> = roles.iter().map(make).collect();
    format!("as who may make roles: {} then as the owner: SELECT outbox.grant_roles();", make.join(" "))
}

fn verify(status: &Status, roles: &[String], as_json: bool) -> anyhow::Result<Exit> {
    let problems = differences(status);
    if !roles.is_empty() {
        tell!("notice: there is no role {}; {}", roles.join(", "), making(roles));
    }
    if as_json {
        output::json(&json!({ "ok": problems.is_empty(), "problems": problems, "missing_roles": roles }))?;
    } else if problems.is_empty() {
        output::line(&format!("ok: {} migrations, all applied and unchanged", status.applied.len()));
    } else {
        let lines = problems.iter().map(|problem| split_hints(problem));
        failure::report(&Refusal::lines(1, lines.collect()).into());
    }
    Ok(if problems.is_empty() { Exit::Done } else { Exit::Failed })
}
