//! `hapax`: the command line of the outbox and the daemon that empties it.
//!
//! This crate only joins: configuration, logs, signals, what is printed. The relay is `hapax-relay`; SQL is in
//! `hapax-store` (but for the sample shop of `hapax demo`, which plays an application).

// They panic where nobody can read them any more: `output` and `failure` do not.
#![deny(clippy::print_stdout, clippy::print_stderr)]

mod arm;
mod bench;
mod blocked;
mod captures;
mod check;
mod cli;
mod config;
mod connect;
mod control;
mod decide;
mod demo;
mod doctor;
mod erase;
mod explain;
mod failure;
mod files;
mod herald;
mod http;
mod look;
mod man;
mod migrate;
mod notify;
mod output;
mod preview;
mod reconcile;
mod relays;
mod reload;
mod run;
mod sample;
mod send_test;
mod show;
mod signals;
mod target;
mod telemetry;
mod template;
mod traces;

use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use tokio::signal::unix::Signal;

use crate::{
    cli::{Cli, Command, Config, Global, template::Template},
    config::{Inputs, Log, schema::EXAMPLE},
    decide::Action,
    failure::{Exit, USAGE},
};

fn main() -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failure::report(&anyhow::Error::new(error).context("could not start the runtime")),
    };
    // Before anything else: SIGHUP ends a process that does not listen to it, and must never end a relay, however young.
    let hangups = std::env::args_os().any(|argument| argument == "run").then(|| {
        let _in = runtime.enter();
        signals::hangups()
    });
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let code = if error.use_stderr() { ExitCode::from(USAGE) } else { ExitCode::SUCCESS };
            // Nobody is left to tell when the terminal is gone.
            drop(error.print());
            return code;
        }
    };
    // Boxed: the futures of the commands are large, and only one of them runs.
    let result = runtime.block_on(Box::pin(dispatch(cli, hangups)));
    // Nothing that still runs (a statement without an answer) may keep the process from ending.
    runtime.shutdown_background();
    match result.and_then(|exit| output::written().map(|()| exit)) {
        Ok(exit) => exit.into(),
        Err(error) => failure::report(&error),
    }
}

async fn dispatch(cli: Cli, hangups: Option<std::io::Result<Signal>>) -> anyhow::Result<Exit> {
    let hangups = match &cli.command {
        Command::Run(_) => Some(hangups.unwrap_or_else(signals::hangups).context("could not listen to signals")?),
        _ => None,
    };
    run::install_crypto();
    let inputs = inputs(&cli.global);
    let loaded = config::load(&inputs);
    let quiet = Log { level: config::Level::Warn, ..loaded.settings.log };
    // Only what runs for long tells what it does; the others have results to show.
    let log = match (&cli.command, cli.global.log_level) {
        (Command::Run(_), _) | (_, Some(_)) => loaded.settings.log,
        _ => quiet,
    };
    let logs = telemetry::start(log);
    let command = match (cli.command, hangups) {
        (Command::Run(run), Some(hangups)) => {
            return Box::pin(run::run(loaded, run, run::Control { inputs, hangups, logs })).await;
        }
        (command, _) => command,
    };
    match command {
        Command::Run(_) => anyhow::bail!("could not listen to signals"),
        Command::Migrate(migrate) => migrate::run(loaded, migrate).await,
        Command::Healthcheck(options) => http::healthcheck::run(loaded, options).await,
        Command::Check(check) => check::run(&loaded, check),
        Command::Doctor(options) => doctor::run(loaded, options).await,
        Command::Config(Config::Example) => {
            output::raw(EXAMPLE);
            Ok(Exit::Done)
        }
        Command::Config(Config::Schema) => output::json(&config::schema::schema()).map(|()| Exit::Done),
        Command::Status(json) => look::status(loaded, json).await,
        Command::Ls(ls) => look::ls(loaded, ls).await,
        Command::Show(show) => show::run(loaded, show).await,
        Command::Explain(options) => explain::run(loaded, options).await,
        Command::Resolve(resolve) => decide::resolve(loaded, resolve).await,
        Command::Reconcile(reconcile) => reconcile::run(loaded, reconcile).await,
        Command::Retry(retry) => decide::retry(loaded, retry).await,
        Command::Cancel(options) => decide::decide(loaded, Action::Cancel, options).await,
        Command::Hold(options) => decide::decide(loaded, Action::Hold, options).await,
        Command::Release(options) if options.failover => arm::release(loaded, options).await,
        Command::Release(options) => decide::decide(loaded, Action::Release, options.into()).await,
        Command::SendAgain(options) => decide::send_again(loaded, options).await,
        Command::Pause(options) => control::pause(loaded, options).await,
        Command::Resume(options) => control::resume(loaded, options).await,
        Command::Suppress(options) => control::suppress(loaded, options).await,
        Command::Unsuppress(options) => control::unsuppress(loaded, options).await,
        Command::Suppressions(options) => control::suppressions(loaded, options).await,
        Command::Erase(options) => erase::run(loaded, options).await,
        Command::Arm(options) => arm::run(loaded, options).await,
        Command::Template(Template::Preview(options)) => preview::run(loaded, options).await,
        Command::Template(Template::Publish(options)) => template::publish::run(loaded, options).await,
        Command::Template(Template::Check(options)) => template::check(&loaded, &options),
        Command::Template(Template::Render(options)) => template::render(&loaded, &options),
        Command::SendTest(options) => send_test::run(loaded, options).await,
        Command::Demo(options) => demo::run(options).await,
        Command::Bench(options) => {
            bench::deaf(&cli.global)?;
            bench::run(options).await
        }
        Command::Man(options) => man::run(&options),
        Command::Completions(options) => Ok(man::completions(options)),
    }
}

fn inputs(global: &Global) -> Inputs {
    let mut flags = Vec::new();
    if let Some(url) = &global.database_url {
        flags.push(("database.url", "database-url", url.clone()));
    }
    if let Some(format) = global.log_format {
        flags.push(("log.format", "log-format", format.as_str().to_owned()));
    }
    if let Some(level) = global.log_level {
        flags.push(("log.level", "log-level", level.as_str().to_owned()));
    }
    Inputs::of_process(global.config.clone(), flags)
}
