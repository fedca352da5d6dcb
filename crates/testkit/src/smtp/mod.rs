//! The scripted mail server.
//!
//! It does whatever its [`Script`] says, at any [`Phase`], and keeps a [`Ledger`] of what it saw. It lives on a thread of
//! its own; everything on its handle can be called from any runtime.
//!
//! ```no_run
//! # async fn example() {
//! use hapax_testkit::{Fault, Phase, Script, SmtpServer};
//!
//! let server = SmtpServer::builder().script(Script::fault(Phase::EndMarker { took: true }, Fault::Eof)).start();
//! // ... let Hapax send to server.address() ...
//! server.wait_until(|ledger| ledger.totals().accepted == 1).await;
//! server.script(Script::good());
//! // ... let it settle ...
//! server.ledger().assert_each_accepted_once([("m1@shop.example", "ada@example.com")]);
//!
//! let hold = server.hold_final_reply();
//! // ... send; the end marker is read, and no reply comes ...
//! hold.wait_for(1).await;
//! hold.release();
//! # }
//! ```

mod gate;
mod ledger;
mod options;
mod script;
mod session;
mod steps;
mod tls;

use std::net::{SocketAddr, TcpListener as StdListener};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

pub use gate::Hold;
pub use ledger::{Connection, Counts, Ended, Ledger, Transaction};
pub use options::{Capabilities, SmtpServerBuilder};
pub use script::{Action, Context, Fault, Phase, Rule, Script, matrix};
use tls::Authority;
pub use tls::{Certificate, TlsMode};

use crate::background::{Background, within};
use gate::Gates;
use options::Options;

/// How long [`SmtpServer::wait_until`] waits.
pub const WAIT_TIMEOUT: Duration = Duration::from_secs(20);

/// A running scripted mail server; dropping it closes its sockets.
#[derive(Debug)]
pub struct SmtpServer {
    shared: Arc<Shared>,
    accepting: Mutex<Option<JoinHandle<()>>>,
    ca_pem: String,
    authority: Authority,
    port: hapax_sandbox::ReservedPort,
    background: Background,
}

impl SmtpServer {
    /// A server with the defaults: plain text, every common capability, no script.
    ///
    /// # Panics
    /// When no socket can be bound.
    #[must_use]
    pub fn start() -> Self {
        Self::builder().start()
    }

    /// A server with options.
    pub fn builder() -> SmtpServerBuilder {
        SmtpServerBuilder::default()
    }

    fn launch(options: Options, script: Script) -> Self {
        let authority = Authority::fresh();
        let tls = authority.configure(options.certificate);
        let server = Self {
            shared: Arc::new(Shared::new(options, script, tls)),
            accepting: Mutex::new(None),
            ca_pem: authority.pem(),
            authority,
            port: hapax_sandbox::ReservedPort::reserve().expect("a port is free"),
            background: Background::start("smtp-server"),
        };
        server.listen();
        server
    }

    /// Where it listens (or will again).
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.port.address()
    }

    /// The port it listens on, the same after a restart.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// `smtp://127.0.0.1:port`, `smtps://` with implicit TLS, `lmtp://` for LMTP.
    #[must_use]
    pub fn url(&self) -> String {
        let scheme = match (self.shared.options.lmtp, self.shared.options.tls) {
            (true, _) => "lmtp",
            (false, TlsMode::Implicit) => "smtps",
            (false, _) => "smtp",
        };
        format!("{scheme}://{}", self.address())
    }

    /// The certificate of the server's authority.
    #[must_use]
    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// Another certificate of the same authority for connections from now on.
    pub fn certificate(&self, certificate: Certificate) {
        *lock(&self.shared.tls) = self.authority.configure(certificate);
    }

    /// Replaces the script: dialogues under way follow it from their next step on.
    pub fn script(&self, script: Script) {
        *lock(&self.shared.script) = script;
    }

    /// Replaces the delay before final replies.
    pub fn final_reply_delay(&self, delay: Duration) {
        *lock(&self.shared.final_reply_delay) = delay;
    }

    /// Replaces the number of connections above which new ones are refused with 421.
    pub fn connections_max(&self, count: usize) {
        self.shared.connections_max.store(count, Ordering::Relaxed);
    }

    /// A copy of the ledger as it is now.
    #[must_use]
    pub fn ledger(&self) -> Ledger {
        self.shared.ledger().clone()
    }

    /// Looks into the ledger without copying it. The server stands still meanwhile.
    pub fn with_ledger<T>(&self, look: impl FnOnce(&Ledger) -> T) -> T {
        look(&self.shared.ledger())
    }

    /// Waits, by signal, until the ledger satisfies the condition.
    ///
    /// # Panics
    /// After [`WAIT_TIMEOUT`] of real time, with the ledger.
    pub async fn wait_until(&self, condition: impl FnMut(&Ledger) -> bool) {
        self.wait_until_within(WAIT_TIMEOUT, condition).await;
    }

    /// [`wait_until`](Self::wait_until) with another deadline.
    ///
    /// # Panics
    /// At the deadline, with the ledger.
    pub async fn wait_until_within(&self, deadline: Duration, mut condition: impl FnMut(&Ledger) -> bool) {
        let mut changed = self.shared.changed.subscribe();
        let settled = async {
            // Marked as seen before looking, so that no change between look and wait is missed.
            while !{
                changed.borrow_and_update();
                condition(&self.shared.ledger())
            } {
                changed.changed().await.expect("the sender lives in the server");
            }
        };
        let reached = within(self.background.handle(), deadline, settled).await;
        assert!(reached.is_some(), "the ledger did not come to that within {deadline:?}:\n{}", self.shared.ledger());
    }

    /// Stalls every final reply from now on until the hold is released: a barrier between end marker and reply.
    pub fn hold_final_reply(&self) -> Hold {
        self.hold(Phase::EndMarker { took: true })
    }

    /// Stalls every dialogue that reaches the phase, right before its reply, until the hold is released.
    pub fn hold(&self, phase: Phase) -> Hold {
        self.shared.gates.hold(phase, self.background.handle().clone())
    }

    /// Stops listening and drops every connection; the ledger stays. Connecting is refused until
    /// [`restart`](Self::restart).
    pub async fn stop(&self) {
        let accepting = lock(&self.accepting).take();
        if let Some(task) = accepting {
            task.abort();
            // Cancelled, as asked.
            let _ = task.await;
        }
    }

    /// Listens again on the same port, after dropping every connection if it was not stopped.
    pub async fn restart(&self) {
        self.stop().await;
        self.listen();
    }

    /// Connections that are open now.
    #[must_use]
    pub fn connections_open(&self) -> usize {
        self.shared.open.load(Ordering::Relaxed)
    }

    fn listen(&self) {
        // Bound here and not in the task, so that a client may connect as soon as we return.
        let listener = bind(self.address(), &self.shared.options);
        let shared = Arc::clone(&self.shared);
        let task = self.background.handle().spawn(accept(listener, shared));
        *lock(&self.accepting) = Some(task);
    }
}

fn bind(address: SocketAddr, options: &Options) -> StdListener {
    let listener = StdListener::bind(address).expect("the reserved port can be bound");
    listener.set_nonblocking(true).expect("a socket can be made nonblocking");
    if let Some(bytes) = options.receive_buffer_bytes {
        // Inherited by the connections that are accepted.
        socket2::SockRef::from(&listener).set_recv_buffer_size(bytes).expect("the buffer size can be set");
    }
    listener
}

async fn accept(listener: StdListener, shared: Arc<Shared>) {
    let listener = TcpListener::from_std(listener).expect("the listener fits the runtime");
    // Dropped with this task: connections end with the server.
    let mut sessions = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                if let Ok((stream, client)) = accepted {
                    sessions.spawn(run(stream, client, Arc::clone(&shared)));
                }
            }
            Some(_) = sessions.join_next() => {}
        }
    }
}

async fn run(stream: TcpStream, client: SocketAddr, shared: Arc<Shared>) {
    let number = {
        let mut ledger = shared.ledger();
        let number = ledger.connections.len() + 1;
        ledger.connections.push(Connection { number, client: Some(client), ..Connection::default() });
        number
    };
    let guard = Open::new(Arc::clone(&shared), number);
    shared.notify();
    let ended = session::serve(stream, Arc::clone(&shared), number).await;
    guard.end(ended);
}

/// Counts an open connection, and notes its end even when its task is dropped.
struct Open {
    shared: Arc<Shared>,
    number: usize,
}

impl Open {
    fn new(shared: Arc<Shared>, number: usize) -> Self {
        shared.open.fetch_add(1, Ordering::Relaxed);
        Self { shared, number }
    }

    fn end(self, ended: Ended) {
        self.shared.record(self.number, |connection| {
            connection.ended.get_or_insert(ended);
        });
        // What is left is done by drop.
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.shared.open.fetch_sub(1, Ordering::Relaxed);
        {
            let mut ledger = self.shared.ledger();
            ledger.connections[self.number - 1].ended.get_or_insert(Ended::Server);
            ledger.end(self.number, self.shared.options.keep_dialogues);
        }
        self.shared.notify();
    }
}

/// What the handle and the connections share.
#[derive(Debug)]
struct Shared {
    options: Options,
    tls: Mutex<Arc<ServerConfig>>,
    ledger: Mutex<Ledger>,
    changed: watch::Sender<u64>,
    script: Mutex<Script>,
    gates: Gates,
    final_reply_delay: Mutex<Duration>,
    connections_max: AtomicUsize,
    open: AtomicUsize,
    /// The size on the wire of the last body: what `Phase::Body` is a share of when nothing better is known.
    last_body_bytes: AtomicUsize,
}

impl Shared {
    fn new(options: Options, script: Script, tls: Arc<ServerConfig>) -> Self {
        Self {
            tls: Mutex::new(tls),
            ledger: Mutex::default(),
            changed: watch::Sender::new(0),
            script: Mutex::new(script),
            gates: Gates::default(),
            final_reply_delay: Mutex::new(options.final_reply_delay),
            connections_max: AtomicUsize::new(options.connections_max),
            open: AtomicUsize::new(0),
            last_body_bytes: AtomicUsize::new(0),
            options,
        }
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        lock(&self.ledger)
    }

    fn notify(&self) {
        self.changed.send_modify(|changes| *changes += 1);
    }

    fn record<T>(&self, connection: usize, change: impl FnOnce(&mut Connection) -> T) -> T {
        let value = change(&mut self.ledger().connections[connection - 1]);
        self.notify();
        value
    }
}

/// A panic of a test inside a closure of ours must not hide the ledger from its report.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
