//! A wall clock that jumps, for relays: libfaketime, where it is installed.
//!
//! CLOCK_REALTIME only: `FAKETIME_DONT_FAKE_MONOTONIC` leaves the monotonic clocks alone (libfaketime counts CLOCK_BOOTTIME
//! among them), and Hapax reads CLOCK_BOOTTIME by a system call of its own, which no preloaded library sees.

use std::path::{Path, PathBuf};

const LIBRARIES: [&str; 3] = [
    "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1",
    "/usr/lib/aarch64-linux-gnu/faketime/libfaketimeMT.so.1",
    "/usr/lib/faketime/libfaketimeMT.so.1",
];

/// The offset of the relays' wall clock: in a file that every call of theirs reads.
pub(super) struct Clock {
    library: Option<&'static str>,
    directory: tempfile::TempDir,
}

impl Clock {
    pub(super) fn new() -> Self {
        let library = LIBRARIES.into_iter().find(|path| Path::new(path).is_file());
        if library.is_none() {
            println!("no libfaketime: clocks do not jump (tests/setup installs it)");
        }
        let clock = Self { library, directory: tempfile::tempdir().expect("a directory can be made") };
        clock.jump(0, 0);
        clock
    }

    pub(super) fn can_jump(&self) -> bool {
        self.library.is_some()
    }

    fn file(&self, relay: usize) -> PathBuf {
        self.directory.path().join(format!("offset-{relay}"))
    }

    /// Sets a relay's wall clock so many seconds ahead (or behind), from now on.
    pub(super) fn jump(&self, relay: usize, seconds: i64) {
        let (file, fresh) = (self.file(relay), self.directory.path().join(format!("fresh-{relay}")));
        // Renamed, so that nobody reads half of it.
        std::fs::write(&fresh, format!("{seconds:+}\n")).expect("the offset can be written");
        std::fs::rename(&fresh, &file).expect("the offset can be put in place");
    }

    /// What a relay's process must find in its environment.
    pub(super) fn environment(&self, relay: usize) -> Vec<(&'static str, String)> {
        let Some(library) = self.library else { return Vec::new() };
        vec![
            ("LD_PRELOAD", library.to_owned()),
            ("FAKETIME_TIMESTAMP_FILE", self.file(relay).display().to_string()),
            ("FAKETIME_NO_CACHE", "1".to_owned()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
        ]
    }
}
