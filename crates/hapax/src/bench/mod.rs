//! `hapax bench`: what Hapax costs and how fast it is, beside others, on this machine.
//!
//! Everything is private and durable: a Postgres cluster with fsync, a sink, worker processes of their own, so that the
//! CPU time of each side can be told apart. Contenders take turns run by run, so that a slow minute of the machine hits
//! all of them. Nothing here is needed by a relay, and a relay knows nothing of it.

mod contender;
mod delay;
mod drain;
mod enqueue;
mod latency;
mod letters;
mod link;
mod mixed;
mod peer;
mod proc;
mod process;
mod producer;
mod receiver;
mod runs;
mod sink;
mod stage;
mod vet;

use std::io::{IsTerminal, Write as _};

use anyhow::Context;
use clap::Parser;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::{
    cli::{
        Cli, Command, Global,
        bench::{Bench, Benchmark},
    },
    failure::{self, Exit, Refusal},
    output,
};
use runs::Results;

/// Refuses flags that would change nothing.
///
/// # Errors
/// A usage error.
pub(crate) fn deaf(global: &Global) -> anyhow::Result<()> {
    let flags = [("--config", global.config.is_some()), ("--database-url", global.database_url.is_some())];
    match flags.into_iter().find(|(_, given)| *given) {
        Some((flag, _)) => {
            let problem = format!("{flag}: hapax bench uses neither a configuration nor a database of yours");
            Err(Refusal::usage(problem, &["a setting of the relays is given with --set SECTION.KEY=VALUE"]).into())
        }
        None => Ok(()),
    }
}

/// The short version of everything.
const SHORT: [&str; 6] = [
    "drain --messages 5000 --runs 2",
    "latency --seconds 5 --idle-seconds 5 --runs 1",
    "enqueue --clients 8 --seconds 1 --runs 1",
    "mixed --messages 5000 --rate 200 --runs 1",
    "old-snapshot --messages 5000 --runs 1",
    "remote-link --connections 1,16 --seconds 2 --runs 1",
];

/// # Errors
/// Whatever keeps a measurement from being set up; a run that fails is part of the results.
pub(crate) async fn run(options: Bench) -> anyhow::Result<Exit> {
    if let Some(Benchmark::Sink(options)) = options.what {
        return receiver::run(options).await;
    }
    let mut signals = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()].map(signal);
    let [interrupt, terminate, hangup] = &mut signals;
    // What was started ends with the future: a signal must not end us before.
    let exit = tokio::select! {
        ended = Box::pin(measure(options)) => ended,
        told = told(interrupt) => told,
        told = told(terminate) => told,
        told = told(hangup) => told,
    };
    progress("");
    exit
}

/// Waits for a signal.
async fn told(signal: &mut std::io::Result<Signal>) -> anyhow::Result<Exit> {
    match signal {
        Ok(signal) => signal.recv().await,
        Err(error) => anyhow::bail!("could not listen to signals: {error}"),
    };
    Err(Refusal::failed("interrupted: everything that was started has been stopped, there are no results", &[]).into())
}

async fn measure(options: Bench) -> anyhow::Result<Exit> {
    match options.what {
        Some(Benchmark::Drain(options)) => finish(drain::run(&options).await?, options.common.json, drain::print),
        Some(Benchmark::Latency(options)) => finish(latency::run(&options).await?, options.common.json, latency::print),
        Some(Benchmark::Enqueue(options)) => finish(enqueue::run(&options).await?, options.common.json, enqueue::print),
        Some(Benchmark::Mixed(options)) => finish(mixed::mixed(&options).await?, options.common.json, mixed::print),
        Some(Benchmark::OldSnapshot(options)) => {
            finish(mixed::old_snapshot(&options).await?, options.common.json, mixed::print)
        }
        Some(Benchmark::RemoteLink(options)) => finish(link::run(&options).await?, options.common.json, link::print),
        Some(Benchmark::Sink(_)) | None => short(options.json).await,
    }
}

/// A little of everything, by the same words that anybody could type.
async fn short(json: bool) -> anyhow::Result<Exit> {
    let mut exit = Exit::Done;
    for words in SHORT {
        let words = ["hapax", "bench"].into_iter().chain(words.split(' ')).chain(json.then_some("--json"));
        let cli = Cli::try_parse_from(words).context("the short version is not one")?;
        if let Command::Bench(options) = cli.command
            && Box::pin(measure(options)).await? != Exit::Done
        {
            exit = Exit::Failed;
        }
    }
    Ok(exit)
}

fn finish((results, exit): (Results, Exit), json: bool, print: impl Fn(&Results)) -> anyhow::Result<Exit> {
    progress("");
    if json {
        output::json(&results)?;
    } else {
        print(&results);
    }
    if let Some(failures) = results.failures() {
        failure::line(&format!("error: {failures}"));
    }
    Ok(exit)
}

/// Says on a terminal what is going on; replaces what was said before.
fn progress(text: &str) {
    let mut stderr = std::io::stderr();
    if stderr.is_terminal() {
        // Nobody is left to tell when the terminal is gone.
        drop(write!(stderr, "\r\x1b[K{text}").and_then(|()| stderr.flush()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_short_version_can_be_typed() {
        for words in SHORT {
            let words = ["hapax", "bench"].into_iter().chain(words.split(' '));
            assert!(Cli::try_parse_from(words).is_ok_and(|cli| matches!(cli.command, Command::Bench(_))));
        }
    }
}
