//! A link with a long round trip: a proxy that hands every byte on after a fixed time, however many there are.
//!
//! The delay is the same for all, so what arrived first leaves first: one thread waits for the head of one queue, by a
//! clock that is finer than the runtime's timer. Order within each direction of each connection is kept.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::mpsc::{self, RecvTimeoutError},
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::mpsc as channel,
    task::JoinHandle,
};

const CHUNK_BYTES: usize = 64 * 1024;

/// Bytes on their way; none of them is the end of the stream.
struct Parcel {
    due: Instant,
    bytes: Vec<u8>,
    to: channel::UnboundedSender<Vec<u8>>,
}

/// A running proxy; dropping it cuts everything.
pub(super) struct Delay {
    pub(super) port: u16,
    accepting: JoinHandle<()>,
}

impl Delay {
    /// Listens on a free port and leads to another, each direction late by `one_way`.
    ///
    /// # Errors
    /// When no socket can be bound.
    pub(super) async fn start(to: u16, one_way: Duration) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let port = listener.local_addr()?.port();
        let (sender, parcels) = mpsc::channel();
        std::thread::Builder::new().name("delay".to_owned()).spawn(move || deliver(&parcels))?;
        let accepting = tokio::spawn(accept(listener, SocketAddr::from((Ipv4Addr::LOCALHOST, to)), one_way, sender));
        Ok(Self { port, accepting })
    }
}

impl Drop for Delay {
    fn drop(&mut self) {
        // The thread ends with the last sender.
        self.accepting.abort();
    }
}

/// Hands parcels on when they are due; ends when nobody can send any more.
fn deliver(parcels: &mpsc::Receiver<Parcel>) {
    // Never written to: waiting at it is waiting for time to pass, interrupted by nobody.
    let (_never, nothing) = mpsc::channel::<()>();
    while let Ok(parcel) = parcels.recv() {
        while let Some(rest) = parcel.due.checked_duration_since(Instant::now()).filter(|rest| !rest.is_zero()) {
            if let Err(RecvTimeoutError::Disconnected) = nothing.recv_timeout(rest) {
                return;
            }
        }
        // A connection that is gone needs nothing.
        drop(parcel.to.send(parcel.bytes));
    }
}

async fn accept(listener: TcpListener, to: SocketAddr, one_way: Duration, sender: mpsc::Sender<Parcel>) {
    let mut connections = tokio::task::JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((near, _)) = accepted else { continue };
                let sender = sender.clone();
                connections.spawn(async move {
                    // Whoever breaks off is missed at the other end.
                    drop(connect(near, to, one_way, sender).await);
                });
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn connect(near: TcpStream, to: SocketAddr, one_way: Duration, sender: mpsc::Sender<Parcel>) -> io::Result<()> {
    let far = TcpStream::connect(to).await?;
    near.set_nodelay(true)?;
    far.set_nodelay(true)?;
    let ((near_read, near_write), (far_read, far_write)) = (near.into_split(), far.into_split());
    let (to_far, at_far) = channel::unbounded_channel();
    let (to_near, at_near) = channel::unbounded_channel();
    let there = read(near_read, one_way, sender.clone(), to_far);
    let back = read(far_read, one_way, sender, to_near);
    tokio::join!(there, back, write(far_write, at_far), write(near_write, at_near));
    Ok(())
}

async fn read(
    mut from: OwnedReadHalf,
    one_way: Duration,
    sender: mpsc::Sender<Parcel>,
    to: channel::UnboundedSender<Vec<u8>>,
) {
    loop {
        let mut bytes = Vec::with_capacity(CHUNK_BYTES);
        // An error is an end, too.
        let count = from.read_buf(&mut bytes).await.unwrap_or(0);
        let parcel = Parcel { due: Instant::now() + one_way, bytes, to: to.clone() };
        if sender.send(parcel).is_err() || count == 0 {
            return;
        }
    }
}

async fn write(mut to: OwnedWriteHalf, mut parcels: channel::UnboundedReceiver<Vec<u8>>) {
    while let Some(bytes) = parcels.recv().await {
        if bytes.is_empty() || to.write_all(&bytes).await.is_err() {
            break;
        }
    }
    // The other side sees the end either way.
    drop(to.shutdown().await);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn bytes_arrive_late_in_order_and_so_does_the_end() {
        let echo = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
        let port = echo.local_addr().expect("an address").port();
        tokio::spawn(async move {
            let (mut stream, _) = echo.accept().await.expect("a connection");
            let (mut read, mut write) = stream.split();
            drop(tokio::io::copy(&mut read, &mut write).await);
        });
        let one_way = Duration::from_millis(20);
        let delay = Delay::start(port, one_way).await.expect("starts");
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, delay.port)).await.expect("connects");
        let began = Instant::now();
        stream.write_all(b"one").await.expect("writes");
        stream.write_all(b" two").await.expect("writes");
        let mut bytes = [0; 7];
        stream.read_exact(&mut bytes).await.expect("reads");
        assert!(began.elapsed() >= one_way * 2, "{:?}", began.elapsed());
        assert_eq!(&bytes, b"one two");
        stream.shutdown().await.expect("shuts");
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).await.expect("ends");
        assert!(rest.is_empty());
    }
}
