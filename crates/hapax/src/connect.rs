//! Reaching the database, with the patience and the words each command needs.

use std::time::Duration;

use hapax_store::{ConnectOptions, Error, migrate::Migrator};
use tokio_util::sync::CancellationToken;

use crate::{
    config::{Database, mask},
    failure::{CONFIGURATION, Refusal},
};

/// The pauses between two tries of a relay that waits for its database.
const PAUSE_FIRST: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// What to do about an error of the database at the start of a command.
pub(crate) fn explain(error: &Error, database: &Database) -> Refusal {
    let shown = format!("database.url is {}", mask(&database.url));
    if let Some(state) = error.sqlstate() {
        let recovery = state.code() == "55000" && crate::failure::chain(error).contains("recovery is in progress");
        let hint = "see whether it is one: hapax status";
        match state.code() {
            _ if recovery => return Refusal::failed("this is a standby: promote it first", &[&shown, hint]),
            "25006" => {
                let words = "nothing can be written here: this is a standby (promote it first), or transactions of this \
                             user are read-only (default_transaction_read_only)";
                return Refusal::failed(words, &[&shown, hint]);
            }
            _ => {}
        }
    }
    match class(error) {
        Some("28") => Refusal::of_error(
            CONFIGURATION,
            error,
            &[
                &shown,
                "user name and password come from database.url, database.password_file or HAPAX__DATABASE__PASSWORD",
            ],
        ),
        Some("3D") => Refusal::of_error(CONFIGURATION, error, &[&shown]),
        Some("42") if error.sqlstate().is_some_and(|state| state.code() == "42501") => Refusal::of_error(
            CONFIGURATION,
            error,
            &[
                &shown,
                "this user lacks a privilege: GRANT outbox_relay TO it for the relay, outbox_viewer to look, \
                 outbox_operator to decide",
            ],
        ),
        _ if error.is_configuration() => Refusal::of_error(
            CONFIGURATION,
            error,
            &[
                &shown,
                "user name and password come from database.url, database.password_file or HAPAX__DATABASE__PASSWORD",
            ],
        ),
        _ => match error {
            Error::Config { .. }
            | Error::NoOutbox
            | Error::FsyncOff
            | Error::TooOld { .. }
            | Error::RowSecurity { .. }
            | Error::Schema(_) => Refusal::of_error(CONFIGURATION, error, &[]),
            Error::Query { .. } | Error::Unreachable { .. } if error.is_transient() => {
                Refusal::of_error(1, error, &[&shown])
            }
            _ => Refusal::of_error(1, error, &[]),
        },
    }
}

/// The class of the SQLSTATE, also of a connection that was refused.
fn class(error: &Error) -> Option<&str> {
    Some(&error.sqlstate()?.code()[..2])
}

/// Whether waiting may help at the start of a relay.
fn may_pass(error: &Error) -> bool {
    error.is_transient() && !matches!(class(error), Some("28" | "3D")) && !error.is_configuration()
}

/// Tries until the database answers; `None` when `stop` came first.
///
/// # Errors
/// Whatever does not pass by itself.
pub(crate) async fn patiently<T>(
    database: &Database,
    stop: &CancellationToken,
    mut attempt: impl AsyncFnMut() -> Result<T, Error>,
) -> Result<Option<T>, Refusal> {
    let mut pause = PAUSE_FIRST;
    loop {
        let error = tokio::select! {
            () = stop.cancelled() => return Ok(None),
            tried = attempt() => match tried {
                Ok(value) => return Ok(Some(value)),
                Err(error) => error,
            },
        };
        if !may_pass(&error) {
            return Err(explain(&error, database));
        }
        let why = crate::failure::chain(&error);
        tracing::warn!(
            error = why,
            database = mask(&database.url),
            pause_ms = pause.as_millis(),
            "waiting for the database"
        );
        tokio::select! {
            () = stop.cancelled() => return Ok(None),
            () = tokio::time::sleep(pause) => {}
        }
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// How long a database may take to say that it would serve.
const WOULD_SERVE: Duration = Duration::from_secs(5);

/// Whether the database takes these credentials. One that is away may take them when it is back.
///
/// # Errors
/// What does not pass by itself, in words without a secret.
pub(crate) async fn would_serve(database: &Database) -> Result<(), String> {
    let options = database.options("hapax");
    let tried = async { Migrator::connect(&options).await?.status().await };
    match tokio::time::timeout(WOULD_SERVE, tried).await {
        Ok(Err(error)) if !may_pass(&error) => Err(explain(&error, database).to_string()),
        _ => Ok(()),
    }
}

/// A migrator, at once or not at all.
///
/// # Errors
/// With hints.
pub(crate) async fn migrator(database: &Database, options: &ConnectOptions) -> Result<Migrator, Refusal> {
    Migrator::connect(options).await.map_err(|error| explain(&error, database))
}
