//! The bottom of every connection: a TCP socket that counts what the kernel has accepted, asks the gate, and is closed
//! hard. TLS sits on top of it, so whatever is true here is true of the bytes that leave.
//!
//! Invariants:
//! - once armed with a gate, not one byte is written unless the gate has let the marker begin, and nothing happens
//!   between the gate's yes and the write;
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

use crate::gate::{Gate, Shut};

/// A TCP connection with a counter and a gate.
#[derive(Debug)]
pub(crate) struct WireStream {
    tcp: TcpStream,
    accepted: u64,
    gate: Option<Gate>,
    refused: Option<Shut>,
    direct: bool,
}

impl WireStream {
    pub(crate) fn new(tcp: TcpStream) -> io::Result<Self> {
        tcp.set_nodelay(true)?;
        tcp.set_zero_linger()?;
        Ok(Self { tcp, accepted: 0, gate: None, refused: None, direct: false })
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

    #[cfg(test)]
    pub(crate) fn socket(&self) -> &TcpStream {
        &self.tcp
    }

    /// Asks the gate, once, as soon as the socket takes bytes. A marker that would have to wait has not begun.
    fn poll_gate(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(gate) = &self.gate else { return Poll::Ready(Ok(())) };
        if gate.marker_begun() && self.refused.is_none() {
            return Poll::Ready(Ok(()));
        }
        ready!(self.tcp.poll_write_ready(cx))?;
        match gate.begin_marker() {
            Ok(()) => Poll::Ready(Ok(())),
            Err(shut) => {
                self.refused = Some(shut);
                Poll::Ready(Err(io::Error::other(shut)))
            }
        }
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
        match (&*SockRef::from(&self.tcp)).read(buf.initialize_unfilled()) {
            Ok(bytes) => {
                buf.advance(bytes);
                Poll::Ready(Ok(()))
            }
            // Nobody is woken: a direct read is a question, not a wait.
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                Poll::Pending
            }
            Err(error) => Poll::Ready(Err(error)),
        }
    }
}

impl AsyncWrite for WireStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_gate(cx))?;
        let written = Pin::new(&mut self.tcp).poll_write(cx, buf);
        self.count(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_gate(cx))?;
        let written = Pin::new(&mut self.tcp).poll_write_vectored(cx, bufs);
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

/// The stream of a dialogue: plain or encrypted.
#[derive(Debug)]
pub(crate) enum Stream {
    Plain(WireStream),
    Tls(Box<TlsStream<WireStream>>),
}

impl Stream {
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
