//! The bottom of every connection: a TCP socket that counts what the kernel has accepted, asks the gate, and is closed
//! hard. TLS sits on top of it, so whatever is true here is true of the bytes that leave.
//!
//! Invariants:
//! - once armed with a gate, not one byte is written unless the gate has let the marker begin, and nothing happens
//!   between the gate's yes and the write;
//! - when body and marker go out in one write ([`WireStream::poll_write_joined`]), the gate's yes stands only if the
//!   kernel has accepted more than the body;
//! - TCP_NODELAY is on: the end marker, in a segment of its own, does not wait for a delayed acknowledgement;
//! - SO_LINGER is 0 from the start until a polite QUIT: whenever this is dropped (an abort, a panic, a cancelled
//!   future, the death of the process) the peer sees a reset, never an end of file that it might take for an end of
//!   data, and what the kernel still held is not sent.

use std::{
    io::{self, IoSlice, Read as _},
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::client::TlsStream;

use crate::{
    expiry::expires_at_s,
    gate::{Gate, Shut},
};

/// How many bytes a direct read asks for: nearly always there are none, and the space for them is cleared first.
const DIRECT_BYTES_MAX: usize = 512;

/// A TCP connection with a counter and a gate.
#[derive(Debug)]
pub(crate) struct WireStream {
    tcp: TcpStream,
    accepted: u64,
    gate: Option<Gate>,
    refused: Option<Shut>,
    direct: bool,
    /// As if the kernel took no more of the next joined write: it will not be made to on demand.
    #[cfg(test)]
    pub(crate) joined_at_most: Option<usize>,
}

impl WireStream {
    pub(crate) fn new(tcp: TcpStream) -> io::Result<Self> {
        tcp.set_nodelay(true)?;
        tcp.set_zero_linger()?;
        Ok(Self {
            tcp,
            accepted: 0,
            gate: None,
            refused: None,
            direct: false,
            #[cfg(test)]
            joined_at_most: None,
        })
    }

    /// From now on nothing is written that `gate` has not let begin.
    pub(crate) fn arm(&mut self, gate: &Gate) {
        self.gate = Some(gate.clone());
    }

    /// The marker is out; commands may follow.
    pub(crate) fn disarm(&mut self) {
        self.gate = None;
    }

    /// Why the gate let nothing out, if it was asked and did not.
    pub(crate) fn refused(&self) -> Option<Shut> {
        self.refused
    }

    /// How many bytes the kernel has accepted.
    pub(crate) fn accepted(&self) -> u64 {
        self.accepted
    }

    /// Reads ask the kernel and not tokio's memory of its last event, which lags behind: what has arrived is seen now.
    pub(crate) fn set_direct(&mut self, direct: bool) {
        self.direct = direct;
    }

    /// The kernel may send what it holds after the close: only for a connection that has said QUIT.
    pub(crate) fn close_softly(&self) {
        let _ = SockRef::from(&self.tcp).set_linger(None::<Duration>);
    }

    /// The first write behind the gate: the socket takes bytes, the gate says yes, the system call. No task switch can
    /// come in between (tokio's own `poll_write` may yield first), and a write that the kernel puts off has not begun.
    fn poll_first(
        &mut self,
        cx: &mut Context<'_>,
        gate: &Gate,
        write: impl Fn(&TcpStream) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        if let Some(shut) = self.refused {
            return Poll::Ready(Err(io::Error::other(shut)));
        }
        loop {
            ready!(self.tcp.poll_write_ready(cx))?;
            if let Err(shut) = gate.begin_marker() {
                self.refused = Some(shut);
                return Poll::Ready(Err(io::Error::other(shut)));
            }
            match write(&self.tcp) {
                Err(error) if is_put_off(&error) => gate.retract_marker(),
                result => return Poll::Ready(result),
            }
        }
    }

    /// Body and marker in one write, behind the gate like any marker: how many bytes of both were accepted.
    ///
    /// The kernel takes the bytes of one write in their order and says how many. With no more than the body taken,
    /// nothing of the marker has been handed over: the gate is as if it had never been asked. A write that fails has
    /// taken nothing, but that is not relied upon: the marker counts as begun.
    pub(crate) fn poll_write_joined(
        &mut self,
        cx: &mut Context<'_>,
        body: &[u8],
        marker: &[u8],
    ) -> Poll<io::Result<usize>> {
        let Some(gate) = self.closed_gate() else {
            return Poll::Ready(Err(io::Error::other("no gate, or one that has been passed")));
        };
        let both = [IoSlice::new(body), IoSlice::new(marker)];
        #[cfg(test)]
        let at_most = self.joined_at_most.take();
        let written = self.poll_first(cx, &gate, |tcp| {
            #[cfg(test)]
            if let Some(at_most) = at_most {
                return tcp.try_write(&[body, marker].concat()[..at_most]);
            }
            tcp.try_write_vectored(&both)
        });
        if let Poll::Ready(Ok(taken)) = written
            && taken <= body.len()
        {
            gate.retract_marker();
        }
        self.count(written)
    }

    /// The gate that has not let its marker begin yet, if there is one.
    fn closed_gate(&self) -> Option<Gate> {
        self.gate.as_ref().filter(|gate| self.refused.is_some() || !gate.marker_begun()).cloned()
    }

    fn count(&mut self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(bytes)) = written {
            self.accepted += bytes as u64;
        }
        written
    }
}

impl AsyncRead for WireStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if !self.direct {
            return Pin::new(&mut self.tcp).poll_read(cx, buf);
        }
        loop {
            let few = buf.remaining().min(DIRECT_BYTES_MAX);
            return match (&*SockRef::from(&self.tcp)).read(buf.initialize_unfilled_to(few)) {
                Ok(bytes) => {
                    buf.advance(bytes);
                    Poll::Ready(Ok(()))
                }
                // Nobody is woken: a direct read is a question, not a wait.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => Poll::Pending,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => Poll::Ready(Err(error)),
            };
        }
    }
}

impl AsyncWrite for WireStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = match self.closed_gate() {
            Some(gate) => self.poll_first(cx, &gate, |tcp| tcp.try_write(buf)),
            None => Pin::new(&mut self.tcp).poll_write(cx, buf),
        };
        self.count(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = match self.closed_gate() {
            Some(gate) => self.poll_first(cx, &gate, |tcp| tcp.try_write_vectored(bufs)),
            None => Pin::new(&mut self.tcp).poll_write_vectored(cx, bufs),
        };
        self.count(written)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}

fn is_put_off(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

/// The stream of a dialogue: plain or encrypted.
#[derive(Debug)]
pub(crate) enum Stream {
    Plain(WireStream),
    Tls(Box<TlsStream<WireStream>>),
}

impl Stream {
    /// When the certificate that the server showed expires, in seconds since 1970.
    pub(crate) fn certificate_until_s(&self) -> Option<i64> {
        match self {
            Self::Plain(_) => None,
            Self::Tls(tls) => expires_at_s(tls.get_ref().1.peer_certificates()?.first()?),
        }
    }

    pub(crate) fn wire(&mut self) -> &mut WireStream {
        match self {
            Self::Plain(wire) => wire,
            Self::Tls(tls) => tls.get_mut().0,
        }
    }

    pub(crate) fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(wire) => Pin::new(wire).poll_read(cx, buf),
            Self::Tls(tls) => Pin::new(tls).poll_read(cx, buf),
        }
    }

    pub(crate) fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = match self {
            Self::Plain(wire) => Pin::new(wire).poll_write(cx, bytes),
            Self::Tls(tls) => Pin::new(tls).poll_write(cx, bytes),
        };
        match ready!(written) {
            Ok(0) if !bytes.is_empty() => Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
            other => Poll::Ready(other),
        }
    }

    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(_) => Poll::Ready(Ok(())),
            Self::Tls(tls) => Pin::new(tls).poll_flush(cx),
        }
    }

    pub(crate) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(wire) => Pin::new(wire).poll_shutdown(cx),
            Self::Tls(tls) => Pin::new(tls).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::{future::poll_fn, sync::Arc, task::Waker};

    use hapax_core::clock::SystemClock;
    use tokio::{io::AsyncReadExt as _, net::TcpListener};

    use super::*;
    use crate::gate::Heartbeat;

    pub(crate) async fn pair() -> (WireStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let address = listener.local_addr().expect("bound");
        let (ours, theirs) = tokio::join!(TcpStream::connect(address), listener.accept());
        (WireStream::new(ours.expect("connected")).expect("set up"), theirs.expect("accepted").0)
    }

    pub(crate) fn open_gate() -> Gate {
        let heartbeat = Arc::new(Heartbeat::new(Duration::MAX));
        heartbeat.record(Duration::ZERO);
        Gate::until(Arc::new(SystemClock), Duration::MAX, heartbeat)
    }

    #[tokio::test]
    async fn a_connection_does_not_delay_small_segments_and_is_reset_unless_it_is_closed_softly() {
        let (wire, mut peer) = pair().await;
        assert!(wire.tcp.nodelay().expect("asked"));
        drop(wire);
        assert_eq!(peer.read(&mut [0]).await.expect_err("reset").kind(), io::ErrorKind::ConnectionReset);
        let (wire, mut peer) = pair().await;
        wire.close_softly();
        drop(wire);
        assert_eq!(peer.read(&mut [0]).await.expect("closed"), 0);
    }

    /// Until the kernel takes no more, and says so. Answers how much it took.
    pub(crate) async fn fill(wire: &mut WireStream) -> usize {
        let chunk = vec![b'x'; 1 << 16];
        poll_fn(|cx| {
            while let Poll::Ready(written) = Pin::new(&mut *wire).poll_write(cx, &chunk) {
                written.expect("written");
            }
            Poll::Ready(())
        })
        .await;
        usize::try_from(wire.accepted()).expect("small")
    }

    #[tokio::test]
    async fn of_body_and_marker_in_one_write_the_kernel_may_take_a_part_and_the_marker_has_not_begun() {
        let (mut wire, mut peer) = pair().await;
        let gate = open_gate();
        wire.arm(&gate);
        let body = vec![b'x'; 64 << 20];
        let taken = poll_fn(|cx| wire.poll_write_joined(cx, &body, b"\r\n.\r\n")).await.expect("written");
        assert!(0 < taken && taken < body.len() && wire.accepted() == taken as u64, "{taken}");
        assert!(!gate.marker_begun() && gate.close(), "not a byte of the marker was taken");
        let mut read = vec![0; taken];
        peer.read_exact(&mut read).await.expect("read");
        let error = poll_fn(|cx| wire.poll_write_joined(cx, b"x", b"\r\n.\r\n")).await.expect_err("refused");
        assert_eq!((error.kind(), wire.refused()), (io::ErrorKind::Other, Some(Shut::Closed)));
        wire.disarm();
        assert!(poll_fn(|cx| wire.poll_write_joined(cx, b"x", b"\r\n.\r\n")).await.is_err(), "never without a gate");
        drop(wire);
        assert!(peer.read(&mut [0]).await.is_err(), "reset, and not a byte more");
    }

    #[tokio::test]
    async fn a_marker_that_has_to_wait_for_the_socket_has_not_begun_and_can_still_be_refused() {
        let (mut wire, mut peer) = pair().await;
        let mut cx = Context::from_waker(Waker::noop());
        let filled = fill(&mut wire).await;
        let gate = open_gate();
        wire.arm(&gate);
        assert!(Pin::new(&mut wire).poll_write(&mut cx, b"\r\n.\r\n").is_pending());
        assert!(!gate.marker_begun() && gate.close());
        let mut read = vec![0; filled];
        peer.read_exact(&mut read).await.expect("read");
        let error = poll_fn(|cx| Pin::new(&mut wire).poll_write(cx, b"\r\n.\r\n")).await.expect_err("refused");
        assert_eq!(
            (error.kind(), wire.refused(), wire.accepted()),
            (io::ErrorKind::Other, Some(Shut::Closed), filled as u64)
        );
        // For good, whatever is tried.
        assert!(poll_fn(|cx| Pin::new(&mut wire).poll_write(cx, b"QUIT\r\n")).await.is_err());
        assert!(poll_fn(|cx| Pin::new(&mut wire).poll_write_vectored(cx, &[IoSlice::new(b".")])).await.is_err());
        drop(wire);
        assert_eq!(
            peer.read(&mut [0]).await.expect_err("reset, and not a byte more").kind(),
            io::ErrorKind::ConnectionReset
        );
    }

    #[tokio::test]
    async fn what_has_arrived_is_seen_by_a_direct_read_without_waiting_for_an_event() {
        let (mut wire, peer) = pair().await;
        let mut cx = Context::from_waker(Waker::noop());
        let mut look = |wire: &mut WireStream| {
            let mut space = [0; 8];
            let mut buf = ReadBuf::new(&mut space);
            wire.set_direct(true);
            Pin::new(wire).poll_read(&mut cx, &mut buf).map_ok(|()| buf.filled().len())
        };
        assert!(look(&mut wire).is_pending());
        // Loopback delivers within the system call; the runtime has had no chance to hear of it.
        assert_eq!(peer.try_write(b"421").expect("written"), 3);
        assert!(matches!(look(&mut wire), Poll::Ready(Ok(3))));
        drop(peer);
        assert!(matches!(look(&mut wire), Poll::Ready(Ok(0))));
    }
}
