//! Logs: to stderr, for people on a terminal and for machines elsewhere, or to systemd's journal. Addresses, subjects and bodies never get this
//! far: the types that hold them are masked.
//!
//! Lines are written by a thread of their own: a reader that stops reading (a full pipe) or goes away must never stop a
//! relay between an end marker and its reply. What does not fit into the buffer is dropped.

mod journal;
mod panics;

use std::io::{BufWriter, IsTerminal, Write};

use tracing_appender::non_blocking::{NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::{EnvFilter, fmt, prelude::*, reload};

use self::journal::{Journal, Native};
use crate::config::{Format, Level, Log};

/// Lines that wait for a slow reader before any are dropped.
const LINES_WAITING_MAX: usize = 10_000;

/// What is written at once while lines come faster than they are written. The writing thread flushes as soon as no line
/// is waiting, so that nothing stays behind.
const WRITE_BYTES_MAX: usize = 65_536;

/// The logs of the process. Dropped, it writes what is still waiting, for as long as the reader reads.
pub(crate) struct Logs {
    _writes_the_rest: WorkerGuard,
    set: Box<dyn Fn(EnvFilter) + Send + Sync>,
}

impl Logs {
    /// From now on so much is logged.
    pub(crate) fn set_level(&self, level: Level) {
        (self.set)(filter(level));
    }
}

fn filter(level: Level) -> EnvFilter {
    EnvFilter::builder().parse_lossy(directives(level))
}

/// Installs the subscriber. A second call (in tests) changes nothing.
pub(crate) fn start(log: Log) -> Logs {
    let terminal = std::io::stderr().is_terminal();
    let native = match log.format {
        Format::Auto => !terminal && journal::has_stderr(),
        Format::Journald => true,
        Format::Pretty | Format::Json => false,
    };
    let journal = native.then(Journal::open);
    let unheard = matches!(journal, Some(Err(_)));
    let logs = match journal {
        Some(Ok(journal)) => to_journal(journal, log.level),
        _ => to_stderr(log, terminal),
    };
    panics::tell_places_only();
    if unheard {
        tracing::warn!("nobody listens at {}, logs go to stderr as JSON", journal::SOCKET);
    }
    logs
}

fn writer(to: impl Write + Send + 'static) -> (NonBlocking, WorkerGuard) {
    NonBlockingBuilder::default().lossy(true).buffered_lines_limit(LINES_WAITING_MAX).thread_name("log").finish(to)
}

fn to_journal(journal: Journal, level: Level) -> Logs {
    let (writer, guard) = writer(journal);
    let (filter, handle) = reload::Layer::new(filter(level));
    // An error here means that there is a subscriber already; one below, that it has gone.
    drop(tracing_subscriber::registry().with(filter).with(Native(writer)).try_init());
    Logs { _writes_the_rest: guard, set: Box::new(move |filter| drop(handle.reload(filter))) }
}

fn to_stderr(log: Log, terminal: bool) -> Logs {
    let (writer, guard) = writer(BufWriter::with_capacity(WRITE_BYTES_MAX, std::io::stderr()));
    let builder = fmt().with_env_filter(filter(log.level)).with_writer(writer).log_internal_errors(false);
    let json = match log.format {
        Format::Auto => !terminal,
        Format::Pretty => false,
        Format::Json | Format::Journald => true,
    };
    let set: Box<dyn Fn(EnvFilter) + Send + Sync> = if json {
        let builder = builder.json().flatten_event(true).with_current_span(false).with_filter_reloading();
        let handle = builder.reload_handle();
        drop(builder.try_init());
        Box::new(move |filter| drop(handle.reload(filter)))
    } else {
        let builder = builder.with_ansi(terminal).with_filter_reloading();
        let handle = builder.reload_handle();
        drop(builder.try_init());
        Box::new(move |filter| drop(handle.reload(filter)))
    };
    Logs { _writes_the_rest: guard, set }
}

/// Ours as asked; libraries only when they warn, however much is asked of us: lettre at debug would log dialogues. What the
/// platform's verifier has against a certificate is in our own words already.
fn directives(level: Level) -> String {
    let others = match level {
        Level::Error => "error",
        _ => "warn",
    };
    format!("{others},rustls_platform_verifier=off,hapax={}", level.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_never_louder_than_warnings() {
        assert_eq!(directives(Level::Trace), "warn,rustls_platform_verifier=off,hapax=trace");
        assert_eq!(directives(Level::Error), "error,rustls_platform_verifier=off,hapax=error");
    }
}
