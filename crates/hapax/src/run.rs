//! `hapax run`: from a configuration to a relay, and from a signal to its end.

use anyhow::Context;
use hapax_core::Incarnation;
use hapax_relay::{Past, Shutdown};
use hapax_render::{Options, Renderer, Templates};
use hapax_store::{
    Store,
    migrate::{Migrator, Status},
};
use tokio::signal::unix::Signal;

use crate::{
    cli::Run,
    config::{Inputs, Loaded, Settings},
    connect,
    failure::{CONFIGURATION, Exit, Refusal},
    files, herald,
    relays::Relays,
    reload::{Candidate, Source, name_what_needs_a_restart},
    signals,
    telemetry::Logs,
};

/// How the process that runs the relay is steered.
pub(crate) struct Control {
    /// What the configuration was read from.
    pub(crate) inputs: Inputs,
    /// Listened to from the first moment on: SIGHUP must never end a relay.
    pub(crate) hangups: Signal,
    pub(crate) logs: Logs,
}

/// Runs until a signal or a fatal error.
///
/// # Errors
/// Configuration, schema, or what made the relay stop.
pub(crate) async fn run(loaded: Loaded, options: Run, control: Control) -> anyhow::Result<Exit> {
    install_crypto();
    files::raise();
    let Control { inputs, mut hangups, logs } = control;
    let source = Source::new(inputs, &loaded);
    let file = loaded.file.as_ref().map_or_else(|| "none".to_owned(), |file| file.display().to_string());
    let mut candidate = Candidate::of(loaded)?;
    candidate.warn();
    files::warn_if_few(&candidate.settings);
    let shutdown = Shutdown::default();
    signals::listen(&shutdown).context("could not listen to signals")?;
    if options.until_stdin_closes {
        signals::end_with_stdin(&shutdown);
    }
    tracing::info!(version = env!("CARGO_PKG_VERSION"), config.file = file, "hapax is starting");
    let past = Past::default();
    past.meters.routes(candidate.settings.routes.iter().map(|route| route.name.as_str()));
    crate::http::start(candidate.settings.http.listen, &past).await?;
    let (told, progress) = (shutdown.soft.clone(), past.progress.clone());
    tokio::spawn(async move {
        told.cancelled().await;
        progress.drain();
    });
    herald::speak(&shutdown, &past).context("could not start a thread")?;
    let store = loop {
        tokio::select! {
            store = store(&candidate.settings, &shutdown) => break store?,
            Some(()) = hangups.recv() => {
                if let Some(next) = read_again(&source, &candidate, &shutdown).await {
                    logs.set_level(next.settings.log.level);
                    candidate = next;
                }
            }
        }
    };
    let Some(store) = store else {
        tracing::info!("stopped before the database could be reached");
        return Ok(Exit::Done);
    };
    let relays = Relays::start(store, candidate, source, logs, shutdown, past).await?;
    Box::pin(relays.run(hangups)).await
}

/// SIGHUP before anything has begun: everything may change but how logs look. None when it stays as it is.
async fn read_again(source: &Source, now: &Candidate, shutdown: &Shutdown) -> Option<Candidate> {
    tracing::info!("SIGHUP: reading the configuration again, before the start");
    let read = tokio::select! {
        read = source.read() => read,
        () = shutdown.soft.cancelled() => return None,
    };
    match read {
        Ok(Ok(mut next)) => {
            name_what_needs_a_restart(&next.keep_what_the_process_has(&now.settings));
            next.warn();
            Some(next)
        }
        Ok(Err(problems)) => {
            tracing::error!(problems, "the configuration that was read again is not taken over");
            None
        }
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

/// rustls is told once which cryptography to use; a second call changes nothing.
pub(crate) fn install_crypto() {
    drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
}

/// # Errors
/// Every problem of every template.
pub(crate) fn renderer(settings: &Settings) -> Result<Renderer, Refusal> {
    let templates = settings.templates.as_ref().map_or_else(Templates::none, Templates::from_dir);
    let unsubscribe_key = settings.unsubscribe_key.clone();
    Renderer::new(Options { templates, unsubscribe_key, ..Options::default() })
        .map_err(|error| Refusal::of_error(CONFIGURATION, &error, &[]))
}

/// Waits for the database and compares its schema; `None` when it was told to stop meanwhile.
async fn store(settings: &Settings, shutdown: &Shutdown) -> Result<Option<Store>, Refusal> {
    let database = &settings.database;
    let options = database.options(&settings.application_name());
    let status =
        connect::patiently(database, &shutdown.soft, async || Migrator::connect(&options).await?.status().await);
    let Some(status) = status.await? else { return Ok(None) };
    accept_schema(&status)?;
    let incarnation = Incarnation::fresh();
    connect::patiently(database, &shutdown.soft, async || Store::connect(&options, incarnation).await).await
}

/// # Errors
/// A schema this binary cannot work with, with the command that repairs it.
fn accept_schema(status: &Status) -> Result<(), Refusal> {
    if let Some(problem) = status.problems().first() {
        let (message, hints) = crate::failure::split_hints(problem);
        let hints: Vec<&str> = hints.iter().map(String::as_str).collect();
        return Err(Refusal::setup(message, &hints));
    }
    let pending: Vec<&str> = status.pending().iter().map(|migration| migration.name).collect();
    if pending.is_empty() {
        return Ok(());
    }
    let up =
        "hapax migrate up, as the owner of the schema: hapax migrate up --database-url postgres://owner@host/database";
    if status.applied.is_empty() {
        return Err(Refusal::setup("there is no outbox in this database", &[up]));
    }
    Err(Refusal::setup(format!("the schema lacks migrations {}", pending.join(", ")), &[up]))
}
