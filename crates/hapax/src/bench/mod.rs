//! `hapax bench`: what Hapax costs and how fast it is, beside others, on this machine.
//!
//! Everything is private and durable: a Postgres cluster with fsync, a sink, worker processes of their own, so that the
//! CPU time of each side can be told apart. Contenders take turns run by run, so that a slow minute of the machine hits
//! all of them. Nothing here is needed by a relay, and a relay knows nothing of it.

mod contender;
mod drain;
mod letters;
mod peer;
mod proc;
mod process;
mod producer;
mod receiver;
mod runs;
mod sink;
mod stage;

use std::io::{IsTerminal, Write as _};

use anyhow::Context;

use crate::{
    cli::bench::{Bench, Benchmark},
    failure::{Exit, Refusal},
    output,
};

/// # Errors
/// Whatever keeps a measurement from being set up; a run that fails is part of the results.
pub(crate) async fn run(options: Bench) -> anyhow::Result<Exit> {
    if let Some(Benchmark::Sink(options)) = options.what {
        return receiver::run(options).await;
    }
    let exit = tokio::select! {
        ended = Box::pin(measure(options)) => ended,
        interrupted = tokio::signal::ctrl_c() => {
            interrupted.context("could not listen to Ctrl-C")?;
            Err(Refusal::failed("interrupted", &[]).into())
        }
    };
    progress("");
    exit
}

async fn measure(options: Bench) -> anyhow::Result<Exit> {
    match options.what {
        Some(Benchmark::Drain(options)) => {
            let (results, exit) = drain::run(&options).await?;
            show(&results, options.common.json, drain::print)?;
            Ok(exit)
        }
        _ => Err(Refusal::failed("not yet", &[]).into()),
    }
}

fn show(results: &runs::Results, json: bool, print: impl Fn(&runs::Results)) -> anyhow::Result<()> {
    progress("");
    if json {
        return output::json(results);
    }
    print(results);
    Ok(())
}

/// Says on a terminal what is going on; replaces what was said before.
fn progress(text: &str) {
    let mut stderr = std::io::stderr();
    if stderr.is_terminal() {
        // Nobody is left to tell when the terminal is gone.
        drop(write!(stderr, "\r\x1b[K{text}").and_then(|()| stderr.flush()));
    }
}
