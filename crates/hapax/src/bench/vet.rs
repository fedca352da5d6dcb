//! What can be known before anything is started: that each binary is a hapax and takes its settings, which it says
//! itself (`hapax check`), and that a peer's programs are there.

use std::{path::Path, time::Duration};

use anyhow::Context;
use serde_json::Value;
use tokio::process::Command;

use super::{
    contender::{Contender, Hapax},
    process::{self, End, Process},
};
use crate::{
    config::duration,
    failure::{Refusal, USAGE},
};

/// A configuration is checked in less than a second.
const CHECK_TIMEOUT: Duration = Duration::from_secs(30);
/// Nothing is connected to.
const NOBODY: &str = "postgres://relay@127.0.0.1:5432/bench_hapax";

/// Refuses what could not run, all of it at once.
///
/// # Errors
/// A usage error that names the flags.
pub(super) async fn contenders(all: &[Contender]) -> anyhow::Result<()> {
    let (mut own, mut peers) = (Vec::new(), Vec::new());
    for contender in all {
        match contender {
            Contender::Hapax(hapax) => own.push(hapax),
            Contender::Peer(peer) => peers.push(peer),
            Contender::Source(_) => {}
        }
    }
    for peer in peers {
        peer.vet()?;
    }
    binaries(&own).await
}

/// Only binaries.
pub(super) async fn binaries(all: &[&Hapax]) -> anyhow::Result<()> {
    let directory = super::stage::directory()?;
    let mut lines: Vec<(String, Vec<String>)> = Vec::new();
    for hapax in all {
        for line in check(hapax, directory.path()).await? {
            if !lines.contains(&line) {
                lines.push(line);
            }
        }
    }
    if lines.is_empty() { Ok(()) } else { Err(Refusal::lines(USAGE, lines).into()) }
}

/// What it has to say about its settings, each with a hint.
async fn check(hapax: &Hapax, directory: &Path) -> anyhow::Result<Vec<(String, Vec<String>)>> {
    let refuse = |problem: &str| {
        let line = format!("{}: {problem}", hapax.flag.as_deref().unwrap_or("hapax"));
        anyhow::Error::from(Refusal::usage(line, &["name the program of a hapax that runs here"]))
    };
    let (config, log, answer) = (directory.join("check.toml"), directory.join("log"), directory.join("answer"));
    std::fs::write(&config, hapax.config(NOBODY, 25, 1)).context("could not write a configuration")?;
    std::fs::write(&answer, "").context("could not write a file")?;
    let mut command = Command::new(&hapax.binary);
    command.args(["check", "--json", "--config"]).arg(&config);
    command.stdout(process::open(&answer)?).current_dir(directory);
    hapax.environment(&mut command);
    let mut process = match Process::start(command, &log, End::Terminate) {
        Ok(process) => process,
        Err(error) => return Err(refuse(&crate::failure::chain(error.as_ref()))),
    };
    let Ok(ended) = tokio::time::timeout(CHECK_TIMEOUT, process.wait()).await else {
        let limit = duration::format(CHECK_TIMEOUT);
        return Err(refuse(&format!("`check --json` did not end within {limit}{}", process.log_tail())));
    };
    let answer: Option<Value> = std::fs::read(&answer).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
    match answer {
        Some(answer) if answer["ok"] == true => Ok(Vec::new()),
        Some(answer) if answer["problems"].is_array() => {
            let problems = answer["problems"].as_array().cloned().unwrap_or_default();
            Ok(problems.iter().map(|problem| line(hapax, problem)).collect())
        }
        _ => {
            let problem = format!("it does not answer `check --json` as a hapax does ({})", ended?);
            Err(refuse(&format!("{problem}{}", process.log_tail())))
        }
    }
}

/// A problem by the flag that brought it here.
fn line(hapax: &Hapax, problem: &Value) -> (String, Vec<String>) {
    let text = |key: &str| problem[key].as_str().unwrap_or_default();
    let (path, message) = (text("path"), text("message"));
    let at = hapax.settings.iter().rposition(|(key, _)| key.eq_ignore_ascii_case(path));
    // Another binary knows other settings.
    let other = hapax.flag.as_ref().filter(|_| hapax.is_another || at.is_none_or(|at| at >= hapax.shared));
    let given = match (other, at.map(|at| &hapax.settings[at])) {
        (Some(flag), Some((key, value))) => format!("{flag}: {key}={value}"),
        (Some(flag), None) => format!("{flag}: {path}"),
        (None, Some((key, value))) => format!("--set {key}={value}"),
        (None, None) => format!("--set: {path}"),
    };
    (format!("{given}: {message}"), problem["hint"].as_str().map(ToOwned::to_owned).into_iter().collect())
}
