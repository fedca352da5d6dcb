//! `hapax pause` and `resume`: stopping one thing without stopping everything.

use serde_json::json;

use crate::{
    cli::{Pause, Resume},
    config::Loaded,
    decide::refused,
    failure::Exit,
    look::console,
    output,
};

/// # Errors
/// Configuration, an unreachable database, what the function refuses.
pub(crate) async fn pause(loaded: Loaded, options: Pause) -> anyhow::Result<Exit> {
    let (console, database) = console(loaded, "hapax pause").await?;
    let what = [options.what.route.as_deref(), options.what.kind.as_deref(), options.what.tenant.as_deref()];
    let answer = console.pause(&options.reason, what, options.within).await;
    said(&answer.map_err(|error| refused(&error, &database))?, true, options.json.json)
}

/// # Errors
/// Configuration, an unreachable database, what the function refuses.
pub(crate) async fn resume(loaded: Loaded, options: Resume) -> anyhow::Result<Exit> {
    let (console, database) = console(loaded, "hapax resume").await?;
    let what = [options.what.route.as_deref(), options.what.kind.as_deref(), options.what.tenant.as_deref()];
    let answer = console.resume(&options.reason, what).await.map_err(|error| refused(&error, &database))?;
    said(&answer, !answer.starts_with("nothing to resume"), options.json.json)
}

fn said(answer: &str, done: bool, as_json: bool) -> anyhow::Result<Exit> {
    match as_json {
        true => output::json(&json!({ "result": answer, "done": done }))?,
        false => output::line(&output::one_line(answer)),
    }
    Ok(if done { Exit::Done } else { Exit::Failed })
}
