//! The mail catcher: a small SMTP server that takes everything and delivers nothing.
//!
//! Invariants: a message is recorded (and, with a directory, on disk) before its 250 is written, so an answered message
//! is never missing; only CRLF.CRLF ends a message; it listens on loopback only.
//!
//! ```no_run
//! # async fn example() -> std::io::Result<()> {
//! use hapax_sandbox::Catcher;
//!
//! let catcher = Catcher::start().await?;
//! println!("send to {}", catcher.url());
//! let messages = catcher.wait_for(3).await;
//! assert_eq!(messages[0].recipients, ["ada@example.com"]);
//! # Ok(())
//! # }
//! ```

mod session;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// The largest message the catcher takes; also its SIZE.
pub(crate) const MESSAGE_BYTES_MAX: usize = 64 * 1024 * 1024;

/// A message that the catcher has taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    /// 1 for the first message, in the order of the end markers.
    pub sequence: u64,
    /// What the client called itself.
    pub helo: String,
    /// MAIL FROM.
    pub sender: String,
    /// RCPT TO, in order.
    pub recipients: Vec<String>,
    /// The message, dots unstuffed, without the end marker.
    pub data: Arc<[u8]>,
}

impl Received {
    /// The first header of that name (any case), unfolded.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<String> {
        crate::smtp::header(&self.data, name)
    }
}

/// A running mail catcher; dropping it closes its sockets.
#[derive(Debug)]
pub struct Catcher {
    address: SocketAddr,
    shared: Arc<Shared>,
    accepting: tokio::task::JoinHandle<()>,
}

/// Options of a [`Catcher`].
#[derive(Clone, Debug)]
#[must_use]
pub struct CatcherBuilder {
    port: u16,
    directory: Option<PathBuf>,
    reply_delay: Duration,
    messages_kept_max: usize,
}

impl Default for CatcherBuilder {
    fn default() -> Self {
        Self { port: 0, directory: None, reply_delay: Duration::ZERO, messages_kept_max: 100_000 }
    }
}

impl CatcherBuilder {
    /// The port on 127.0.0.1 (default: any free one).
    pub fn port(mut self, port: u16) -> Self {
        self.port = port;
        self
    }

    /// Also writes each message to `directory` (made if need be) as `<sequence>.eml`.
    pub fn directory(mut self, directory: impl Into<PathBuf>) -> Self {
        self.directory = Some(directory.into());
        self
    }

    /// How long to wait before the 250 to an end marker.
    pub fn reply_delay(mut self, delay: Duration) -> Self {
        self.reply_delay = delay;
        self
    }

    /// How many messages are kept in memory (default: 100,000); the oldest ones go, the count goes on.
    pub fn messages_kept_max(mut self, count: usize) -> Self {
        self.messages_kept_max = count.max(1);
        self
    }

    /// Starts the catcher on the current runtime.
    ///
    /// # Errors
    /// When the port is taken or the directory cannot be made.
    pub async fn start(self) -> io::Result<Catcher> {
        let mut sequence = 0;
        if let Some(directory) = &self.directory {
            tokio::fs::create_dir_all(directory).await?;
            sequence = last_number(directory).await?;
        }
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, self.port)).await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared::new(self, sequence));
        let accepting = tokio::spawn(accept(listener, Arc::clone(&shared)));
        Ok(Catcher { address, shared, accepting })
    }
}

impl Catcher {
    /// Starts a catcher on a free port.
    ///
    /// # Errors
    /// When no socket can be bound.
    pub async fn start() -> io::Result<Self> {
        Self::builder().start().await
    }

    /// A catcher with options.
    pub fn builder() -> CatcherBuilder {
        CatcherBuilder::default()
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The port it listens on.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Its URL: `smtp://127.0.0.1:port`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("smtp://{}", self.address)
    }

    /// The messages so far, in order (the newest ones, if there are more than are kept).
    #[must_use]
    pub fn received(&self) -> Vec<Received> {
        self.shared.store().messages.iter().cloned().collect()
    }

    /// How many messages have been taken in all.
    #[must_use]
    pub fn count(&self) -> u64 {
        *self.shared.count.borrow()
    }

    /// Waits until `count` messages have been taken in all, and returns those that are kept. Has no deadline of its own.
    pub async fn wait_for(&self, count: u64) -> Vec<Received> {
        let mut counter = self.shared.count.subscribe();
        // The sender lives in `self`, so this cannot fail.
        let _ = counter.wait_for(|taken| *taken >= count).await;
        self.received()
    }
}

impl Drop for Catcher {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    // Dropped with this task: the sessions end with the catcher.
    let mut sessions = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    let shared = Arc::clone(&shared);
                    sessions.spawn(async move {
                        // A client that breaks off is its own business.
                        if let Err(error) = session::serve(stream, &shared).await {
                            tracing::debug!(error = %error, "catcher: connection lost");
                        }
                    });
                }
                Err(error) => {
                    tracing::warn!(error = %error, "catcher: could not accept a connection");
                    // Out of descriptors, most likely: give some time to be closed.
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            },
            Some(_) = sessions.join_next() => {}
        }
    }
}

#[derive(Debug)]
struct Shared {
    store: Mutex<Store>,
    count: watch::Sender<u64>,
    options: CatcherBuilder,
}

#[derive(Debug, Default)]
struct Store {
    messages: std::collections::VecDeque<Received>,
    sequence: u64,
}

impl Shared {
    fn new(options: CatcherBuilder, sequence: u64) -> Self {
        let store = Store { sequence, ..Store::default() };
        Self { store: Mutex::new(store), count: watch::Sender::new(0), options }
    }

    fn store(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives the message its number, keeps it, and writes it to the directory. Numbers of messages whose file could not
    /// be written are not used again.
    async fn record(&self, mut message: Received) -> io::Result<u64> {
        if let Some(directory) = &self.options.directory {
            message.sequence = {
                let mut store = self.store();
                store.sequence += 1;
                store.sequence
            };
            write_file(directory, &message).await?;
        }
        let mut store = self.store();
        if self.options.directory.is_none() {
            store.sequence += 1;
            message.sequence = store.sequence;
        }
        let sequence = message.sequence;
        if store.messages.len() == self.options.messages_kept_max {
            store.messages.pop_front();
        }
        store.messages.push_back(message);
        // Under the lock: the count never runs ahead of the messages.
        self.count.send_modify(|count| *count += 1);
        Ok(sequence)
    }
}

/// The highest number of a message that lies there already, from an earlier start; 0 when there is none.
async fn last_number(directory: &Path) -> io::Result<u64> {
    let mut entries = tokio::fs::read_dir(directory).await?;
    let mut last = 0;
    while let Some(entry) = entries.next_entry().await? {
        let name = entry.file_name();
        let number = name.to_str().and_then(|name| name.strip_suffix(".eml")).and_then(|number| number.parse().ok());
        last = last.max(number.unwrap_or(0));
    }
    Ok(last)
}

/// Writes under another name and renames, so that a reader of the directory sees whole messages only.
async fn write_file(directory: &Path, message: &Received) -> io::Result<()> {
    let name = format!("{:08}.eml", message.sequence);
    let path = directory.join(&name);
    let partial = directory.join(format!(".{name}.partial"));
    let mut bytes = format!("Return-Path: <{}>\r\n", message.sender).into_bytes();
    for recipient in &message.recipients {
        bytes.extend_from_slice(format!("Delivered-To: {recipient}\r\n").as_bytes());
    }
    bytes.extend_from_slice(&message.data);
    let work = move || {
        std::fs::write(&partial, bytes)?;
        std::fs::rename(&partial, path)
    };
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|_| Err(io::ErrorKind::Interrupted.into()))
}
