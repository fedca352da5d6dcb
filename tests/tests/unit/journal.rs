//! What systemd's journal is given: a socket of ours stands where its own does, in a file system that only the relay sees.

use std::collections::BTreeMap;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use hapax_testkit::{HapaxProcess, eventually, find_hapax};
use hapax_tests::stage::{PATIENCE, Settings, Stage};

/// Our directory is /run there, and stderr is what systemd would say that it is.
const SCRIPT: &str = "mount --bind \"$AT/run\" /run && export JOURNAL_STREAM=$(stat -Lc %d:%i /proc/self/fd/2) \
                      && exec \"$BIN\" --config \"$AT/hapax.toml\" run";

type Entry = BTreeMap<String, String>;

/// A journal that keeps everything.
struct Journal {
    directory: tempfile::TempDir,
    entries: Arc<Mutex<Vec<Entry>>>,
}

impl Journal {
    fn listen() -> Self {
        let directory = tempfile::Builder::new().prefix("hapax-journal-").tempdir().expect("a directory can be made");
        std::fs::create_dir_all(directory.path().join("run/systemd/journal")).expect("it is new");
        let socket = UnixDatagram::bind(directory.path().join("run/systemd/journal/socket")).expect("it can be bound");
        let entries = Arc::<Mutex<Vec<Entry>>>::default();
        let heard = Arc::clone(&entries);
        // Ends with the process.
        std::thread::spawn(move || {
            let mut bytes = vec![0; 1 << 20];
            while let Ok(length) = socket.recv(&mut bytes) {
                heard.lock().unwrap_or_else(PoisonError::into_inner).push(parse(&bytes[..length]));
            }
        });
        Self { directory, entries }
    }

    fn run(&self, settings: &Settings) -> HapaxProcess {
        std::fs::write(self.path().join("hapax.toml"), settings.toml()).expect("it can be written");
        HapaxProcess::builder()
            .binary("unshare")
            .args(["-m", "/bin/sh", "-c", SCRIPT])
            .env("AT", self.path())
            .env("BIN", find_hapax())
            .spawn()
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    async fn wait_for(&self, is_it: impl Fn(&Entry) -> bool) -> Entry {
        eventually(PATIENCE, async || {
            let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
            entries.iter().find(|entry| is_it(entry)).cloned().ok_or_else(|| entries.clone())
        })
        .await
    }
}

/// systemd.io/JOURNAL_NATIVE_PROTOCOL: `NAME=value`, or where the value has several lines the name, its length, itself.
fn parse(mut bytes: &[u8]) -> Entry {
    let mut entry = Entry::new();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("UTF-8");
    while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
        let (line, rest) = (&bytes[..end], &bytes[end + 1..]);
        if let Some(sign) = line.iter().position(|byte| *byte == b'=') {
            entry.insert(text(&line[..sign]), text(&line[sign + 1..]));
            bytes = rest;
        } else {
            let length = u64::from_le_bytes(rest[..8].try_into().expect("eight bytes"));
            let value = 8..8 + usize::try_from(length).expect("it is short");
            entry.insert(text(line), text(&rest[value.clone()]));
            assert_eq!(rest[value.end], b'\n');
            bytes = &rest[value.end + 1..];
        }
    }
    assert!(bytes.is_empty(), "an entry ends with a line end");
    entry
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_journal_gets_an_entry_with_fields_for_each_event_and_stderr_gets_what_it_cannot_take() {
    if !super::sandbox::root() {
        return;
    }
    let stage = Stage::set().await;
    let journal = Journal::listen();
    let settings = stage.settings().set("log.format", "auto");
    let mut relay = journal.run(&settings);
    stage.enqueue_one("ada@example.org", "").await;
    let sent = journal.wait_for(|entry| entry.get("HAPAX_VERDICT").is_some_and(|verdict| verdict == "sent")).await;
    for (name, value) in [
        ("PRIORITY", "6"),
        ("SYSLOG_IDENTIFIER", "hapax"),
        ("HAPAX_ROUTE", "default"),
        ("HAPAX_KIND", "note"),
        ("HAPAX_OUTCOME", "accepted"),
        ("HAPAX_CODE", "250"),
        ("HAPAX_INTENDED", "true"),
        ("HAPAX_RECIPIENT", "a***@example.org"),
    ] {
        assert_eq!(sent.get(name).map(String::as_str), Some(value), "{name} in {sent:?}");
    }
    let message = &sent["MESSAGE"];
    assert!(message.starts_with("sent delivery=") && message.contains(" route=default "), "{message}");
    assert!(sent["HAPAX_DELIVERY"].ends_with("/1") && sent.contains_key("HAPAX_ATTEMPT_TOKEN"), "{sent:?}");
    // Errors are more urgent.
    let bad = settings.clone().set("relay.leese", "1s").set("retry.factor", 0);
    std::fs::write(journal.path().join("hapax.toml"), bad.toml()).expect("it can be written");
    relay.sighup();
    let refused = journal.wait_for(|entry| entry.contains_key("HAPAX_PROBLEMS")).await;
    assert_eq!(refused["PRIORITY"], "3", "{refused:?}");
    let problems = &refused["HAPAX_PROBLEMS"];
    assert!(problems.contains("relay.leese: unknown key") && problems.contains("retry.factor: must be"), "{problems}");
    assert!(relay.lines().is_empty(), "{}", relay.report());
    // Somebody has taken the journal away.
    std::fs::remove_file(journal.path().join("run/systemd/journal/socket")).expect("it was there");
    relay.sigterm();
    assert_eq!(relay.wait_exit(PATIENCE).await.code(), Some(0), "{}", relay.report());
    assert!(relay.stderr().contains("MESSAGE=the relay has ended"), "{}", relay.report());
    // Whoever starts without one, and asks for it, gets lines as JSON.
    let mut without = journal.run(&settings.set("log.format", "journald"));
    let said = without.wait_for_line(|line| line.contains("nobody listens at /run/systemd/journal/socket")).await;
    assert!(said.starts_with('{'), "{said}");
    without.sigterm();
    without.wait_exit(PATIENCE).await;
}
