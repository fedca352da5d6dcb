//! systemd's journal, in its native protocol: an entry for each event, a field for each of its fields. deploy/README.md
//! names them.
//!
//! Entries are made where the event is, and sent by the thread that writes logs: a journal that stands still holds up
//! nothing but its own lines. (Which is why this is not the crate tracing-journald: it sends where the event is, and waits.)
//!
//! This module must not: choose what is said. It gets what the other formats get, and leaves nothing out and adds nothing.

use std::{
    fmt::{Debug, Write as _},
    io::{self, Write},
    os::unix::net::UnixDatagram,
};

use rustix::fs::fstat;
use tracing::{Event, Level, Metadata, Subscriber, field::Field, field::Visit};
use tracing_appender::non_blocking::NonBlocking;
use tracing_subscriber::layer::{Context, Layer};

/// Where the journal listens.
pub(super) const SOCKET: &str = "/run/systemd/journal/socket";

/// The longest value of a field: all of an entry has to fit into one datagram (some 200 kB).
const VALUE_BYTES_MAX: usize = 16 * 1024;

/// The longest name of a field that the journal takes.
const NAME_BYTES_MAX: usize = 64;

/// Whether stderr leads to the journal already, as systemd says in `JOURNAL_STREAM`.
pub(super) fn has_stderr() -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else { return false };
    fstat(io::stderr()).is_ok_and(|stat| stream == format!("{}:{}", stat.st_dev, stat.st_ino))
}

/// The journal's socket. What is written at once is an entry.
pub(super) struct Journal(UnixDatagram);

impl Journal {
    /// # Errors
    /// When nobody listens.
    pub(super) fn open() -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        // An entry without fields is none: it only shows that somebody listens.
        socket.send_to(&[], SOCKET)?;
        Ok(Self(socket))
    }
}

impl Write for Journal {
    fn write(&mut self, entry: &[u8]) -> io::Result<usize> {
        // By name each time: the journal may have been started again since.
        if self.0.send_to(entry, SOCKET).is_err() {
            io::stderr().write_all(entry)?;
        }
        Ok(entry.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Makes entries of events.
pub(super) struct Native(pub(super) NonBlocking);

impl<S: Subscriber> Layer<S> for Native {
    fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
        let mut entry = Entry::new(event.metadata());
        event.record(&mut entry);
        // It has room, or the line is dropped.
        drop(self.0.clone().write_all(&entry.finish()));
    }
}

/// The entry so far, what happened, and with what: for those who read only `MESSAGE`, as journalctl shows it.
struct Entry {
    bytes: Vec<u8>,
    message: String,
    with: String,
}

impl Entry {
    fn new(metadata: &Metadata<'_>) -> Self {
        let mut entry = Self { bytes: Vec::with_capacity(1_024), message: String::new(), with: String::new() };
        entry.put("PRIORITY", priority(*metadata.level()));
        entry.put("SYSLOG_IDENTIFIER", "hapax");
        // What comes from libraries by way of `log` says its target in a field.
        if metadata.target() != "log" {
            entry.put("HAPAX_TARGET", metadata.target());
        }
        entry
    }

    fn finish(mut self) -> Vec<u8> {
        let message = std::mem::take(&mut self.message) + &self.with;
        self.put("MESSAGE", &message);
        self.bytes
    }

    fn put(&mut self, name: &str, value: &str) {
        let whole = value.len();
        let value = &value[..value.floor_char_boundary(VALUE_BYTES_MAX)];
        let more = if value.len() < whole { "…" } else { "" };
        self.bytes.extend_from_slice(name.as_bytes());
        if value.contains('\n') {
            self.bytes.push(b'\n');
            self.bytes.extend_from_slice(&((value.len() + more.len()) as u64).to_le_bytes());
        } else {
            self.bytes.push(b'=');
        }
        self.bytes.extend_from_slice(value.as_bytes());
        self.bytes.extend_from_slice(more.as_bytes());
        self.bytes.push(b'\n');
    }
}

impl Visit for Entry {
    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "message" => value.clone_into(&mut self.message),
            "log.target" => self.put("HAPAX_TARGET", value),
            name if name.starts_with("log.") => {}
            name => {
                self.put(&field_name(name), value);
                let plain = !value.is_empty() && !value.contains(|c: char| c.is_whitespace() || c == '"');
                // Into a String: it cannot fail.
                let _ =
                    if plain { write!(self.with, " {name}={value}") } else { write!(self.with, " {name}={value:?}") };
            }
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.record_str(field, &format!("{value:?}"));
    }
}

/// syslog's numbers.
fn priority(level: Level) -> &'static str {
    match level {
        Level::ERROR => "3",
        Level::WARN => "4",
        Level::INFO => "6",
        _ => "7",
    }
}

/// `attempt.token` is HAPAX_ATTEMPT_TOKEN.
fn field_name(name: &str) -> String {
    let fitting = name.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' });
    "HAPAX_".chars().chain(fitting).take(NAME_BYTES_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_values_are_what_the_journal_takes() {
        assert_eq!(field_name("attempt.token"), "HAPAX_ATTEMPT_TOKEN");
        assert_eq!(field_name(&"é".repeat(200)).len(), NAME_BYTES_MAX);
        let new = || Entry { bytes: Vec::new(), message: String::new(), with: String::new() };
        let mut entry = new();
        entry.put("A", "one=1");
        entry.put("MESSAGE", "two\nlines");
        assert_eq!(entry.bytes, b"A=one=1\nMESSAGE\n\x09\0\0\0\0\0\0\0two\nlines\n");
        let mut long = new();
        long.put("A", &"é".repeat(VALUE_BYTES_MAX));
        assert!(long.bytes.len() <= VALUE_BYTES_MAX + 8 && long.bytes.ends_with("é…\n".as_bytes()));
    }

    #[test]
    fn an_event_becomes_an_entry_with_a_field_for_each_of_its_fields() {
        use tracing_subscriber::prelude::*;

        let (sender, receiver) = std::sync::mpsc::channel();
        struct Sender(std::sync::mpsc::Sender<Vec<u8>>);
        impl Write for Sender {
            fn write(&mut self, entry: &[u8]) -> io::Result<usize> {
                self.0.send(entry.to_vec()).map_err(io::Error::other)?;
                Ok(entry.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let (writer, guard) = NonBlocking::new(Sender(sender));
        tracing::subscriber::with_default(tracing_subscriber::registry().with(Native(writer)), || {
            let nothing: Option<&str> = None;
            tracing::warn!(route = "default", attempt.token = %"t", code = 250, intended = true, cause = "no way", nothing, "said");
        });
        drop(guard);
        let entry = String::from_utf8(receiver.recv().expect("an entry")).expect("UTF-8");
        let target = format!("HAPAX_TARGET={}", module_path!());
        let expected = [
            "PRIORITY=4",
            "SYSLOG_IDENTIFIER=hapax",
            &target,
            "HAPAX_ROUTE=default",
            "HAPAX_ATTEMPT_TOKEN=t",
            "HAPAX_CODE=250",
            "HAPAX_INTENDED=true",
            "HAPAX_CAUSE=no way",
            "MESSAGE=said route=default attempt.token=t code=250 intended=true cause=\"no way\"",
        ];
        let (mut found, mut expected) = (entry.lines().collect::<Vec<_>>(), expected.to_vec());
        found.sort_unstable();
        expected.sort_unstable();
        assert_eq!(found, expected);
    }
}
