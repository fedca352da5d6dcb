//! A service manager for one process, as far as sd_notify(3) goes: a socket for `NOTIFY_SOCKET`, and everything that was
//! said to it, in its order.
//!
//! Invariant: nothing is lost between two looks; what was heard is kept until the end.

use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hapax_testkit::eventually;

/// Everything that was heard, each assignment (`READY=1`) with its time.
pub type Words = Vec<(Instant, String)>;

/// A manager that listens.
#[derive(Debug)]
pub struct Manager {
    words: Arc<Mutex<Words>>,
    directory: tempfile::TempDir,
}

impl Manager {
    /// Listens from now on.
    ///
    /// # Panics
    /// When a socket cannot be made.
    #[must_use]
    pub fn listen() -> Self {
        let directory = tempfile::Builder::new().prefix("hapax-manager-").tempdir().expect("a directory can be made");
        let socket = UnixDatagram::bind(directory.path().join("notify")).expect("a socket can be bound");
        let words = Arc::<Mutex<Words>>::default();
        let heard = Arc::clone(&words);
        // Ends with the process: a datagram socket never hears that nobody speaks any more.
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(length) = socket.recv(&mut bytes) {
                let text = String::from_utf8_lossy(&bytes[..length]).into_owned();
                let mut heard = heard.lock().unwrap_or_else(PoisonError::into_inner);
                heard.extend(text.lines().map(|line| (Instant::now(), line.to_owned())));
            }
        });
        Self { words, directory }
    }

    /// What `NOTIFY_SOCKET` is to name.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.directory().join("notify")
    }

    /// Where the socket lies, alone.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Everything so far.
    #[must_use]
    pub fn words(&self) -> Words {
        self.words.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How often something that begins so was said.
    #[must_use]
    pub fn count(&self, beginning: &str) -> usize {
        self.words().iter().filter(|(_, word)| word.starts_with(beginning)).count()
    }

    /// The place in the order of the first word that begins so.
    #[must_use]
    pub fn place(&self, beginning: &str) -> Option<usize> {
        self.words().iter().position(|(_, word)| word.starts_with(beginning))
    }

    /// Waits until something is said `times` times.
    ///
    /// # Panics
    /// When that takes longer than `patience`, with everything that was said.
    pub async fn wait_for(&self, beginning: &str, times: usize, patience: Duration) {
        eventually(patience, async || {
            if self.count(beginning) >= times {
                return Ok(());
            }
            Err(self.words().into_iter().map(|(_, word)| word).collect::<Vec<_>>())
        })
        .await;
    }
}
