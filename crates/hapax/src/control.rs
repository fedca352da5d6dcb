//! `hapax pause`, `resume`, `suppress`, `unsuppress`, `suppressions`: stopping one thing without stopping everything.
//! What is listed is masked: the statements do that, whoever asks.

use hapax_store::inspect::Suppressing;
use serde_json::json;

use crate::{
    cli::{Pause, Resume, Suppress, Suppressions, Unsuppress, What},
    config::Loaded,
    decide::refused,
    failure::Exit,
    look::{console, or_dash},
    output::{self, Table},
};

/// # Errors
/// Configuration, an unreachable database, what the function refuses.
pub(crate) async fn pause(loaded: Loaded, options: Pause) -> anyhow::Result<Exit> {
    let (console, database) = console(loaded, "hapax pause").await?;
    let answer = console.pause(&options.reason, what(&options.what), options.within).await;
    said(&answer.map_err(|error| refused(&error, &database))?, true, options.json.json)
}

/// # Errors
/// Configuration, an unreachable database, what the function refuses.
pub(crate) async fn resume(loaded: Loaded, options: Resume) -> anyhow::Result<Exit> {
    let (console, database) = console(loaded, "hapax resume").await?;
    let answer = console.resume(&options.reason, what(&options.what)).await;
    let answer = answer.map_err(|error| refused(&error, &database))?;
    said(&answer, !answer.starts_with("nothing to resume"), options.json.json)
}

/// # Errors
/// Configuration, an unreachable database, what the function refuses.
pub(crate) async fn suppress(loaded: Loaded, options: Suppress) -> anyhow::Result<Exit> {
    let (console, database) = console(loaded, "hapax suppress").await?;
    let entry = Suppressing {
        address: &options.address,
        reason: &options.reason,
        kind: options.scope.kind.as_deref(),
        tenant: options.scope.tenant.as_deref(),
        within: options.within,
        note: options.note.as_deref(),
        keep_address: options.keep_address,
    };
    let answer = console.suppress(&entry).await.map_err(|error| refused(&error, &database))?;
    said(&answer, true, options.json.json)
}

/// # Errors
/// Configuration, an unreachable database, what the function refuses.
pub(crate) async fn unsuppress(loaded: Loaded, options: Unsuppress) -> anyhow::Result<Exit> {
    let (console, database) = console(loaded, "hapax unsuppress").await?;
    let (kind, tenant) = (options.scope.kind.as_deref(), options.scope.tenant.as_deref());
    let answer = console.unsuppress(&options.address, &options.reason, kind, tenant).await;
    let answer = answer.map_err(|error| refused(&error, &database))?;
    said(&answer, !answer.starts_with("nothing to remove"), options.json.json)
}

/// # Errors
/// Configuration, an unreachable database, what the function refuses.
pub(crate) async fn suppressions(loaded: Loaded, options: Suppressions) -> anyhow::Result<Exit> {
    let (console, database) = console(loaded, "hapax suppressions").await?;
    let found = console.suppression_list(options.address.as_deref(), options.limit).await;
    let found = found.map_err(|error| refused(&error, &database))?;
    let exit = if options.address.is_some() && found.is_empty() { Exit::Failed } else { Exit::Done };
    if options.json.json {
        output::json(&found)?;
        return Ok(exit);
    }
    if found.is_empty() {
        output::line(match options.address {
            Some(_) => "the address is not on the suppression list",
            None => "the suppression list is empty",
        });
        return Ok(exit);
    }
    let mut table =
        Table::new(&["ENTRY", "ADDRESS", "REASON", "KIND", "TENANT", "SINCE", "UNTIL", "BY", "NOTE"]).right(&[0]);
    for one in &found {
        let until = or_dash(one.until.as_deref());
        table.row([
            one.id.to_string(),
            one.address.clone(),
            one.reason.clone(),
            or_dash(one.kind.as_deref()),
            or_dash(one.tenant.as_deref()),
            one.since.clone(),
            if one.over { format!("{until}, over") } else { until },
            one.entered_by.clone(),
            or_dash(one.note.as_deref()),
        ]);
    }
    table.print();
    Ok(exit)
}

fn what(what: &What) -> [Option<&str>; 4] {
    [what.route.as_deref(), what.kind.as_deref(), what.tenant.as_deref(), what.address.as_deref()]
}

fn said(answer: &str, done: bool, as_json: bool) -> anyhow::Result<Exit> {
    match as_json {
        true => output::json(&json!({ "result": answer, "done": done }))?,
        false => output::line(&output::one_line(answer)),
    }
    Ok(if done { Exit::Done } else { Exit::Failed })
}
