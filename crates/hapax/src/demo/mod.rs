//! `hapax demo`: everything on one machine. A private Postgres, a mail catcher, a sample shop, and the relay as a
//! process of its own (this very binary), so that it can be killed.
//!
//! What is counted at the end comes from two witnesses that know nothing of each other: what the shop committed, and
//! what the catcher took. The outbox's own opinion is only asked for what is in doubt.

mod kills;
mod relay;
mod report;
mod shop;
mod stage;

use std::{
    io::{IsTerminal, Write},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::Context;

use crate::{
    cli::Demo,
    failure::{Exit, Refusal, tell},
    output,
};
use relay::RelayProcess;
use report::Report;
use stage::Stage;

/// Between two looks at what has been done.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// The least time everything has after the shop has closed; each delivery adds to it.
const PATIENCE: Duration = Duration::from_secs(60);
const PATIENCE_PER_MESSAGE: Duration = Duration::from_millis(40);

/// Counters for the progress line.
#[derive(Debug, Default)]
struct Progress {
    orders: AtomicU32,
    kills: AtomicU32,
}

/// # Errors
/// Whatever keeps the demo from being set up or from ending.
pub(crate) async fn run(options: Demo) -> anyhow::Result<Exit> {
    let (stage, mut relay, report) = tokio::select! {
        ended = Box::pin(play(options)) => ended?,
        interrupted = tokio::signal::ctrl_c() => {
            interrupted.context("could not listen to Ctrl-C")?;
            end_progress();
            return Err(Refusal::failed("interrupted", &[]).into());
        }
    };
    if options.keep {
        keep(&stage, &mut relay).await?;
    }
    relay.end().await?;
    Ok(if report.holds() { Exit::Done } else { Exit::Failed })
}

async fn play(options: Demo) -> anyhow::Result<(Stage, RelayProcess, Report)> {
    crate::run::install_crypto();
    say("starting a private Postgres and a mail catcher");
    let stage = Stage::set(options).await?;
    let progress = Arc::new(Progress::default());
    let mut relay = RelayProcess::start(&stage)?;
    let opened = Instant::now();
    let pace = if options.chaos { kills::pace(options) } else { Duration::ZERO };
    let shop = tokio::spawn(shop::open(stage.shop_url.clone(), options.messages, pace, progress.clone()));
    if options.chaos {
        kills::haunt(&stage, &mut relay, options, &progress).await?;
    }
    let books = watch(&stage, &mut relay, options, &progress, shop).await?;
    end_progress();
    let report = Report::draw_up(&stage, &books, options).await?;
    report.print(opened.elapsed());
    Ok((stage, relay, report))
}

/// Waits until the shop has closed and every delivery has come to rest.
async fn watch(
    stage: &Stage,
    relay: &mut RelayProcess,
    options: Demo,
    progress: &Progress,
    mut shop: tokio::task::JoinHandle<anyhow::Result<shop::Books>>,
) -> anyhow::Result<shop::Books> {
    let books = loop {
        tokio::select! {
            closed = &mut shop => break closed.context("the shop panicked")??,
            () = tokio::time::sleep(LOOK_INTERVAL) => {
                relay.must_live()?;
                show_progress(stage, options, progress);
            }
        }
    };
    let deadline = Instant::now() + PATIENCE + PATIENCE_PER_MESSAGE * options.messages;
    loop {
        show_progress(stage, options, progress);
        relay.must_live()?;
        if stage.unfinished().await? == 0 {
            return Ok(books);
        }
        if Instant::now() > deadline {
            end_progress();
            // The report counts what is missing as lost.
            tell!("warning: not everything has come to rest in time, the relay's log: {}", stage.log().display());
            return Ok(books);
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}

fn say(text: &str) {
    if std::io::stderr().is_terminal() {
        tell!("{text}");
    }
}

fn show_progress(stage: &Stage, options: Demo, progress: &Progress) {
    let mut stderr = std::io::stderr();
    if !stderr.is_terminal() {
        return;
    }
    let kills = match options.chaos {
        true => format!("   relay killed {}/{}", progress.kills.load(Ordering::Relaxed), options.kills),
        false => String::new(),
    };
    let orders = progress.orders.load(Ordering::Relaxed);
    let line = format!("\rorders {orders}/{}   mails {}{kills}   ", options.messages, stage.catcher.count());
    drop(stderr.write_all(line.as_bytes()).and_then(|()| stderr.flush()));
}

fn end_progress() {
    if std::io::stderr().is_terminal() {
        tell!("");
    }
}

/// Leaves everything running until Ctrl-C.
async fn keep(stage: &Stage, relay: &mut RelayProcess) -> anyhow::Result<()> {
    let (url, binary) = (&stage.owner_url, binary_name());
    output::line("\nEverything keeps running until Ctrl-C. To look around:");
    for command in ["status", "ls", "ls --in-doubt", "show ID"] {
        output::line(&format!("  {binary} {command} --database-url '{url}'"));
    }
    output::line(&format!("  psql '{url}'"));
    output::line(&format!("  mail:         {}", stage.mail().display()));
    output::line(&format!("  relay's log:  {}", stage.log().display()));
    tokio::select! {
        interrupted = tokio::signal::ctrl_c() => interrupted.context("could not listen to Ctrl-C"),
        died = relay.death() => died,
    }
}

/// What was typed to start this process.
fn binary_name() -> String {
    std::env::args().next().unwrap_or_else(|| "hapax".to_owned())
}
