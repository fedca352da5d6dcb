//! A wall clock that jumps: libfaketime (unpacked by `tests/setup`) under a process and its children, told by a file what
//! to add. Only the wall clock: monotonic clocks stay what they are, as when somebody sets a machine's time.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::jail::servers;

/// The clock of whoever runs in its environment.
#[derive(Debug)]
pub struct Clock {
    directory: tempfile::TempDir,
}

impl Clock {
    /// Whether it can be had; if not, says why.
    ///
    /// # Errors
    /// What is missing and what to type.
    pub fn available() -> Result<(), &'static str> {
        let complete = servers().join("complete").exists();
        complete.then_some(()).ok_or("libfaketime is not unpacked: run tests/setup")
    }

    /// A clock that is right until it [jumps](Self::jump).
    ///
    /// # Panics
    /// When files cannot be written.
    #[must_use]
    pub fn right() -> Self {
        let directory = tempfile::Builder::new().prefix("hapax-clock-").tempdir().expect("a directory can be made");
        // The database server runs as somebody else.
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).expect("it is ours");
        let clock = Self { directory };
        let find = "find \"$1/usr/lib\" -name libfaketimeMT.so.1 -exec cp {} \"$2\" \\;";
        let copied = Command::new("/bin/sh")
            .args(["-c", find, "find"])
            .arg(servers().join("packages"))
            .arg(clock.library())
            .status();
        assert!(copied.expect("there is a shell").success() && clock.library().exists(), "the library can be copied");
        clock.jump("+0");
        clock
    }

    /// Environment variables for the process.
    #[must_use]
    pub fn environment(&self) -> [(&'static str, String); 4] {
        let text = |path: &Path| path.display().to_string();
        [
            ("LD_PRELOAD", text(&self.library())),
            ("FAKETIME_TIMESTAMP_FILE", text(&self.file())),
            ("FAKETIME_NO_CACHE", "1".to_owned()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
        ]
    }

    /// Environment variables for a process whose time, the monotonic one and its waits included, goes by so much faster.
    #[must_use]
    pub fn faster(&self, times: u32) -> [(&'static str, String); 2] {
        [("LD_PRELOAD", self.library().display().to_string()), ("FAKETIME", format!("+0 x{times}"))]
    }

    /// From now on the clock shows this much more than the true time: `+5h`, `-90m`, `+0`.
    ///
    /// # Panics
    /// When the file cannot be written.
    pub fn jump(&self, offset: &str) {
        // Replaced in one step: nobody reads half of it.
        let next = self.directory.path().join("next");
        fs::write(&next, format!("{offset}\n")).expect("a file can be written");
        fs::set_permissions(&next, fs::Permissions::from_mode(0o644)).expect("it is ours");
        fs::rename(&next, self.file()).expect("it can be replaced");
    }

    fn library(&self) -> PathBuf {
        self.directory.path().join("libfaketimeMT.so.1")
    }

    fn file(&self) -> PathBuf {
        self.directory.path().join("offset")
    }
}
