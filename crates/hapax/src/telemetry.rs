//! Logs: to stderr, for people on a terminal and for machines elsewhere. Addresses, subjects and bodies never get this
//! far: the types that hold them are masked.

use std::io::IsTerminal;

use tracing_subscriber::{EnvFilter, fmt};

use crate::config::{Format, Level, Log};

/// Installs the subscriber. A second call (in tests) changes nothing.
pub(crate) fn start(log: Log) {
    let filter = EnvFilter::builder().parse_lossy(directives(log.level));
    let terminal = std::io::stderr().is_terminal();
    let builder = fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let json = match log.format {
        Format::Auto => !terminal,
        Format::Pretty => false,
        Format::Json => true,
    };
    // An error here means that there is a subscriber already.
    drop(if json {
        builder.json().flatten_event(true).with_current_span(false).try_init()
    } else {
        builder.with_ansi(terminal).try_init()
    });
}

/// Ours as asked; libraries only when they warn, however much is asked of us: lettre at debug would log dialogues.
fn directives(level: Level) -> String {
    let others = match level {
        Level::Error => "error",
        _ => "warn",
    };
    format!("{others},hapax={}", level.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_never_louder_than_warnings() {
        assert_eq!(directives(Level::Trace), "warn,hapax=trace");
        assert_eq!(directives(Level::Error), "error,hapax=error");
    }
}
