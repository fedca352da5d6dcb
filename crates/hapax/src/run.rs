//! `hapax run`: from a configuration to a relay, and from a signal to its end.

use std::{path::PathBuf, sync::Arc};

use anyhow::Context;
use hapax_core::Incarnation;
use hapax_mail::{Security, SmtpServer, Transport};
use hapax_relay::{Guard, Memory, Past, Shutdown};
use hapax_render::{Options, Renderer, Templates};
use hapax_sandbox::Catcher;
use hapax_store::{
    Store,
    migrate::{Migrator, Status},
};

use crate::{
    cli::Run,
    config::{Database, Loaded, Settings, Way},
    connect,
    failure::{CONFIGURATION, Exit, Refusal},
    herald, signals,
};

/// Runs until a signal or a fatal error.
///
/// # Errors
/// Configuration, schema, or what made the relay stop.
pub(crate) async fn run(loaded: Loaded, options: Run) -> anyhow::Result<Exit> {
    let loaded = loaded.complete()?;
    for warning in &loaded.warnings {
        tracing::warn!(key = warning.path, "configuration: {warning}");
    }
    install_crypto();
    let settings = loaded.settings;
    let renderer = Arc::new(renderer(&settings)?);
    let shutdown = Shutdown::default();
    signals::listen(&shutdown).context("could not listen to signals")?;
    if options.until_stdin_closes {
        signals::end_with_stdin(&shutdown);
    }
    let file = loaded.file.map_or_else(|| "none".to_owned(), |file| file.display().to_string());
    tracing::info!(version = env!("CARGO_PKG_VERSION"), config.file = file, "hapax is starting");
    let Some(store) = store(&settings, &shutdown).await? else {
        tracing::info!("stopped before the database could be reached");
        return Ok(Exit::Done);
    };
    let (transports, _catchers) = transports(&settings).await?;
    let config = settings.relay_config(transports);
    herald::speak(&shutdown);
    relays(store, renderer, config, &settings.database, shutdown).await
}

/// The one place where the binary and the relay meet: one incarnation after another. A new one follows only when the database
/// was another one for a while, and the outbox was armed for it.
async fn relays(
    mut store: Store,
    renderer: Arc<Renderer>,
    config: hapax_relay::RelayConfig,
    database: &Database,
    shutdown: Shutdown,
) -> anyhow::Result<Exit> {
    let past = Past { memory: Memory::default(), address_guard: database.address_guard };
    let options = database.options("hapax");
    loop {
        let run =
            hapax_relay::run_with(store.clone(), renderer.clone(), config.clone(), shutdown.clone(), past.clone());
        let error = match Box::pin(run).await {
            Ok(()) => return Ok(Exit::Done),
            Err(error) => error,
        };
        if let hapax_relay::Error::Guard { .. } = error {
            tracing::error!(
                error = crate::failure::chain(&error),
                "this relay sends nothing more until the outbox is armed"
            );
            let guard = Guard {
                store,
                options: &options,
                memory: &past.memory,
                after_failover: database.after_failover,
                shutdown_grace: config.limits.shutdown_grace,
            };
            match guard.stand(&shutdown).await? {
                Some(next) => store = next,
                None => return Ok(Exit::Done),
            }
            continue;
        }
        tracing::error!(error = crate::failure::chain(&error), "the relay has stopped");
        return Err(Refusal::of_error(1, &error, &[]).into());
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
    let options = database.options("hapax");
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

/// The transports of the routes in their order; the catchers behind `capture:` routes live as long as their handles.
pub(crate) async fn transports(settings: &Settings) -> anyhow::Result<(Vec<Transport>, Vec<Catcher>)> {
    let (mut transports, mut catchers) = (Vec::new(), Vec::new());
    for route in &settings.routes {
        match &route.way {
            Way::Transport(transport) => transports.push(Transport::clone(transport)),
            Way::Capture(directory) => {
                let directory = match directory {
                    Some(directory) => directory.clone(),
                    None => fresh_directory(&route.name)?,
                };
                let catcher = Catcher::builder().directory(&directory).messages_kept_max(1).start().await;
                let catcher = catcher.with_context(|| {
                    format!("routes.{}.url: could not capture mail in {}", route.name, directory.display())
                })?;
                tracing::info!(
                    route = route.name,
                    directory = %directory.display(),
                    port = catcher.port(),
                    "mail of this route is captured, not delivered"
                );
                let mut server = SmtpServer::new("127.0.0.1", catcher.port());
                server.security = Security::None;
                server.timeouts = settings.relay.timeouts;
                transports.push(Transport::Smtp(server));
                catchers.push(catcher);
            }
        }
    }
    Ok((transports, catchers))
}

/// A directory that stays after the end: captured mail is there to be read.
fn fresh_directory(route: &str) -> anyhow::Result<PathBuf> {
    let directory = tempfile::Builder::new().prefix(&format!("hapax-capture-{route}-")).tempdir();
    Ok(directory.with_context(|| format!("routes.{route}.url: no directory for captured mail"))?.keep())
}
