//! A TCP proxy that misbehaves on demand, in front of Postgres, a mail server, or anything.
//!
//! Invariants: while nothing is asked of it, it is transparent (bytes, order, half-closes, resets); a delay is a delay
//! line, every chunk leaves that long after it came, so throughput does not suffer; it never reorders or drops bytes
//! but by cutting a connection.
//!
//! ```no_run
//! # async fn example(cluster: hapax_testkit::PgCluster) {
//! use hapax_testkit::{ChaosProxy, Direction};
//! use std::time::Duration;
//!
//! let proxy = ChaosProxy::start(([127, 0, 0, 1], cluster.port()).into());
//! proxy.delay(Direction::ToClient, Duration::from_millis(50));
//! proxy.stall(Direction::ToClient, true); // answers vanish, commands arrive
//! proxy.cut_all().await;
//! proxy.refuse_new(true).await;
//! # }
//! ```

mod pump;

use std::collections::BTreeSet;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::background::{Background, within};

const WAIT_TIMEOUT: Duration = Duration::from_secs(20);

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the client to the upstream server.
    ToServer,
    /// From the upstream server to the client.
    ToClient,
}

impl Direction {
    /// Both ways.
    pub const BOTH: [Self; 2] = [Self::ToServer, Self::ToClient];
}

/// What went through so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ProxyCounters {
    /// Connections that were accepted.
    pub accepted: u64,
    /// Connections that are open now.
    pub open: usize,
    /// Connections that were cut, by `cut_all` or by `cut_after_bytes`.
    pub cut: u64,
    /// Connections for which the upstream server could not be reached.
    pub upstream_failed: u64,
    /// Bytes handed on to the server.
    pub bytes_to_server: u64,
    /// Bytes handed on to the client.
    pub bytes_to_client: u64,
}

/// A running proxy; dropping it closes its sockets.
#[derive(Debug)]
pub struct ChaosProxy {
    shared: Arc<Shared>,
    accepting: Mutex<Option<JoinHandle<()>>>,
    port: hapax_sandbox::ReservedPort,
    background: Background,
}

impl ChaosProxy {
    /// A proxy on a free port of 127.0.0.1 in front of `upstream`.
    ///
    /// # Panics
    /// When no socket can be bound.
    #[must_use]
    pub fn start(upstream: SocketAddr) -> Self {
        let proxy = Self {
            shared: Arc::new(Shared::new(upstream)),
            accepting: Mutex::new(None),
            port: hapax_sandbox::ReservedPort::reserve().expect("a port is free"),
            background: Background::start("chaos-proxy"),
        };
        proxy.listen().expect("the reserved port can be bound");
        proxy
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.port.address()
    }

    /// The port it listens on.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// Where new connections go from now on: a failover.
    pub fn upstream(&self, upstream: SocketAddr) {
        *lock(&self.shared.upstream) = upstream;
    }

    /// Resets every connection there is (RST to both sides); returns when they are gone.
    ///
    /// # Panics
    /// When that takes more than 20 s.
    pub async fn cut_all(&self) {
        let last = lock(&self.shared.state).last_connection;
        self.shared.cut_until.send_replace(last);
        self.wait(|state| state.open.first().is_none_or(|oldest| *oldest > last)).await;
    }

    /// Whether connecting fails (the port is closed). Open connections are left alone.
    ///
    /// # Panics
    /// When the port cannot be bound again.
    pub async fn refuse_new(&self, refuse: bool) {
        let accepting = lock(&self.accepting).take();
        match (accepting, refuse) {
            (Some(task), true) => {
                task.abort();
                // Cancelled, as asked; the listener is closed now.
                let _ = task.await;
            }
            (Some(task), false) => *lock(&self.accepting) = Some(task),
            (None, true) => {}
            (None, false) => {
                // While the port was closed, an outgoing connection of this machine may have been given it as its own.
                let until = Instant::now() + WAIT_TIMEOUT;
                while let Err(taken) = self.listen() {
                    assert!(Instant::now() < until, "the reserved port cannot be bound again: {taken}");
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
        }
    }

    /// Whether bytes of this direction stay in the proxy (those of new connections, too). Nothing is lost: they come when
    /// the stall ends.
    pub fn stall(&self, direction: Direction, stalled: bool) {
        self.shared.line(direction).stalled.send_replace(stalled);
    }

    /// [`stall`](Self::stall) in both directions.
    pub fn stall_all(&self, stalled: bool) {
        Direction::BOTH.into_iter().for_each(|direction| self.stall(direction, stalled));
    }

    /// How long every chunk of this direction is under way.
    pub fn delay(&self, direction: Direction, delay: Duration) {
        *lock(&self.shared.line(direction).delay) = delay;
    }

    /// Lets `bytes` more of this direction through, counted over all connections, and cuts the connection on which the
    /// last of them passed: its receiver sees exactly those bytes and then the end, its sender a reset. Happens once.
    pub fn cut_after_bytes(&self, direction: Direction, bytes: u64) {
        *lock(&self.shared.line(direction).budget) = Some(bytes);
    }

    /// What went through so far.
    #[must_use]
    pub fn counters(&self) -> ProxyCounters {
        lock(&self.shared.state).counters()
    }

    /// Waits, by signal, until the counters satisfy the condition.
    ///
    /// # Panics
    /// After 20 s of real time.
    pub async fn wait_until(&self, mut condition: impl FnMut(&ProxyCounters) -> bool) {
        self.wait(|state| condition(&state.counters())).await;
    }

    async fn wait(&self, mut condition: impl FnMut(&State) -> bool) {
        let mut changed = self.shared.changed.subscribe();
        let settled = async {
            while !{
                changed.borrow_and_update();
                condition(&lock(&self.shared.state))
            } {
                changed.changed().await.expect("the sender lives in the proxy");
            }
        };
        let reached = within(self.background.handle(), WAIT_TIMEOUT, settled).await;
        assert!(reached.is_some(), "the proxy did not come to that: {:?}", self.counters());
    }

    fn listen(&self) -> std::io::Result<()> {
        // Bound here and not in the task, so that a client may connect as soon as we return.
        let listener = StdListener::bind(self.address())?;
        listener.set_nonblocking(true).expect("a socket can be made nonblocking");
        let task = self.background.handle().spawn(accept(listener, Arc::clone(&self.shared)));
        *lock(&self.accepting) = Some(task);
        Ok(())
    }
}

async fn accept(listener: StdListener, shared: Arc<Shared>) {
    let listener = TcpListener::from_std(listener).expect("the listener fits the runtime");
    loop {
        if let Ok((client, _)) = listener.accept().await {
            // Detached: connections outlive the listener, and end with the runtime.
            tokio::spawn(pump::serve(client, Arc::clone(&shared)));
        }
    }
}

#[derive(Debug)]
struct Shared {
    upstream: Mutex<SocketAddr>,
    to_server: Line,
    to_client: Line,
    state: Mutex<State>,
    changed: watch::Sender<u64>,
    /// Connections up to this number are to be cut.
    cut_until: watch::Sender<u64>,
}

/// The settings of one direction.
#[derive(Debug)]
struct Line {
    stalled: watch::Sender<bool>,
    delay: Mutex<Duration>,
    budget: Mutex<Option<u64>>,
}

#[derive(Debug, Default)]
struct State {
    last_connection: u64,
    open: BTreeSet<u64>,
    totals: ProxyCounters,
}

impl State {
    fn counters(&self) -> ProxyCounters {
        ProxyCounters { accepted: self.last_connection, open: self.open.len(), ..self.totals }
    }
}

impl Shared {
    fn new(upstream: SocketAddr) -> Self {
        let line = || Line { stalled: watch::Sender::new(false), delay: Mutex::default(), budget: Mutex::default() };
        Self {
            upstream: Mutex::new(upstream),
            to_server: line(),
            to_client: line(),
            state: Mutex::default(),
            changed: watch::Sender::new(0),
            cut_until: watch::Sender::new(0),
        }
    }

    fn line(&self, direction: Direction) -> &Line {
        match direction {
            Direction::ToServer => &self.to_server,
            Direction::ToClient => &self.to_client,
        }
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let value = change(&mut lock(&self.state));
        self.changed.send_modify(|changes| *changes += 1);
        value
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
