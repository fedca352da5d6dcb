//! Lines out, replies in, with one time limit for each wait. Knows nothing of phases.
//!
//! Invariant: a channel that has returned [`Lost`] is of no further use; its owner drops it, and that closes it hard.

use std::{
    future::poll_fn,
    io,
    mem::MaybeUninit,
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use hapax_core::{Reply, mutant, outcome::Cause};
use tokio::{io::ReadBuf, time::timeout};

use crate::{reply::ReplyBuffer, wire::Stream};

/// How many bytes one read asks for.
const READ_BYTES: usize = 4_096;

/// The longest command line (RFC 5321 section 4.5.3.1.4, with room for extensions' parameters and AUTH: RFC 4954).
const COMMAND_BYTES_MAX: usize = 12_288;

/// Why there is no reply, or no complete write.
pub(crate) type Lost = Cause;

/// What is in the read buffer, without waiting.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Pending {
    Nothing,
    Bytes,
    Lost(Cause),
}

/// One connection's stream, its unread replies and the commands about to be written.
#[derive(Debug)]
pub(crate) struct Channel {
    pub(crate) stream: Stream,
    pub(crate) replies: ReplyBuffer,
    out: Vec<u8>,
}

impl Channel {
    pub(crate) fn new(stream: Stream) -> Self {
        Self { stream, replies: ReplyBuffer::default(), out: Vec::new() }
    }

    /// Adds one command line, given without its line end, to what [`Channel::send`] will write.
    ///
    /// Whatever a caller was given: a line that could end early, or be cut short, is never written.
    pub(crate) fn queue(&mut self, line: &[u8]) -> Result<(), Lost> {
        let unsafe_byte = memchr::memchr3(b'\r', b'\n', 0, line).is_some();
        if unsafe_byte || line.len() + 2 > COMMAND_BYTES_MAX {
            self.out.clear();
            return Err(Cause::Aborted);
        }
        self.out.extend_from_slice(line);
        self.out.extend_from_slice(b"\r\n");
        Ok(())
    }

    /// Writes the queued commands, all of them in one write where the kernel takes them.
    pub(crate) async fn send(&mut self, limit: Duration) -> Result<(), Lost> {
        let Self { stream, out, .. } = self;
        let mut written = 0;
        let write = poll_fn(|cx| {
            while written < out.len() {
                written += ready!(stream.poll_write(cx, &out[written..]))?;
            }
            stream.poll_flush(cx)
        });
        let result = timeout(limit, write).await;
        self.out.clear();
        match result {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(cause_of(&error)),
            Err(_) => Err(Cause::Timeout),
        }
    }

    /// One command and its reply, if nothing was said before it.
    pub(crate) async fn ask(&mut self, line: &[u8], limit: Duration) -> Result<Reply, Lost> {
        match self.pending() {
            Pending::Nothing => {}
            Pending::Bytes => return Err(Cause::Unexpected),
            Pending::Lost(cause) => return Err(cause),
        }
        self.queue(line)?;
        if let Err(cause) = self.send(limit).await {
            return Err(self.last_words().map_or(cause, |_| Cause::Unexpected));
        }
        self.reply(limit).await
    }

    /// Waits for a complete reply; `limit` is for all of it, however slowly it trickles in.
    pub(crate) async fn reply(&mut self, limit: Duration) -> Result<Reply, Lost> {
        // Most replies of a pipelined group have already arrived with the first: no timer for them.
        if let Some(reply) = self.take()? {
            return Ok(reply);
        }
        timeout(limit, self.read_reply()).await.unwrap_or(Err(Cause::Timeout))
    }

    /// Waits for a complete reply, for as long as it takes.
    pub(crate) async fn read_reply(&mut self) -> Result<Reply, Lost> {
        loop {
            if let Some(reply) = self.take()? {
                return Ok(reply);
            }
            poll_fn(|cx| self.poll_fill(cx)).await?;
        }
    }

    /// A complete reply out of what has been read already.
    pub(crate) fn take(&mut self) -> Result<Option<Reply>, Lost> {
        self.replies.take().map_err(|_| Cause::Malformed)
    }

    /// Reads what there is into the buffer.
    pub(crate) fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Lost>> {
        let mut space = [MaybeUninit::<u8>::uninit(); READ_BYTES];
        let mut buf = ReadBuf::uninit(&mut space);
        match ready!(self.stream.poll_read(cx, &mut buf)) {
            Ok(()) if !buf.filled().is_empty() => {
                self.replies.push(buf.filled());
                Poll::Ready(Ok(()))
            }
            // Half a reply and then nothing more is no reply: somebody said something, and nobody knows what.
            _ if !self.replies.is_empty() => Poll::Ready(Err(Cause::Malformed)),
            Ok(()) => Poll::Ready(Err(Cause::Eof)),
            Err(error) => Poll::Ready(Err(cause_of(&error))),
        }
    }

    /// Whether anything has arrived that nobody has read, up to this moment (one system call).
    pub(crate) fn pending(&mut self) -> Pending {
        self.look(Self::poll_fill_now)
    }

    /// The same by what the runtime has been told so far, which lags behind; no system call when that is nothing.
    pub(crate) fn pending_as_told(&mut self) -> Pending {
        self.look(|channel| channel.poll_fill(&mut Context::from_waker(Waker::noop())))
    }

    fn look(&mut self, fill: impl FnOnce(&mut Self) -> Poll<Result<(), Lost>>) -> Pending {
        if mutant::is("strays_believed") {
            return Pending::Nothing;
        }
        if !self.replies.is_empty() {
            return Pending::Bytes;
        }
        match fill(self) {
            Poll::Pending => Pending::Nothing,
            Poll::Ready(Ok(())) => Pending::Bytes,
            Poll::Ready(Err(cause)) => Pending::Lost(cause),
        }
    }

    /// After a failed write: the complete reply the peer may have left before it went away, so that a definite refusal
    /// is not lost with the connection.
    pub(crate) fn last_words(&mut self) -> Option<Reply> {
        loop {
            match self.take() {
                Ok(Some(reply)) => return Some(reply),
                Ok(None) => {}
                Err(_) => return None,
            }
            // Ends: the buffer is bounded, and each round adds to it.
            let Poll::Ready(Ok(())) = self.poll_fill_now() else { return None };
        }
    }

    fn poll_fill_now(&mut self) -> Poll<Result<(), Lost>> {
        self.stream.wire().set_direct(true);
        let read = self.poll_fill(&mut Context::from_waker(Waker::noop()));
        self.stream.wire().set_direct(false);
        read
    }
}

/// The cause an I/O error stands for.
pub(crate) fn cause_of(error: &io::Error) -> Cause {
    match error.kind() {
        // rustls: the peer closed the TCP connection without closing TLS.
        io::ErrorKind::UnexpectedEof => Cause::Eof,
        io::ErrorKind::TimedOut => Cause::Timeout,
        _ => Cause::Io,
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;
    use crate::wire::tests::pair;

    const LONG: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn a_line_that_could_end_early_or_is_too_long_is_never_written() {
        let (wire, mut peer) = pair().await;
        let mut channel = Channel::new(Stream::Plain(wire));
        for line in [&b"MAIL FROM:<a@b.org>\r\nRCPT TO:<c@d.org>"[..], b"a\n", b"a\rb", b"a\0b", &[b'a'; 12_287]] {
            channel.queue(b"NOOP").expect("harmless");
            assert_eq!(channel.queue(line), Err(Cause::Aborted));
            channel.send(LONG).await.expect("nothing to write");
        }
        channel.queue(&[b'a'; 12_286]).expect("as long as it gets");
        channel.send(LONG).await.expect("written");
        peer.read_exact(&mut [0; 12_288]).await.expect("read");
        drop(channel);
        assert!(peer.read_u8().await.is_err(), "nothing else was written");
    }

    #[tokio::test]
    async fn a_reply_that_trickles_in_has_one_limit_and_half_a_reply_before_the_end_is_malformed() {
        let (wire, mut peer) = pair().await;
        let mut channel = Channel::new(Stream::Plain(wire));
        for byte in b"250-a\r\n250 b\r\n" {
            assert_eq!(channel.take(), Ok(None));
            peer.write_all(&[*byte]).await.expect("written");
            poll_fn(|cx| channel.poll_fill(cx)).await.expect("read");
        }
        assert_eq!(channel.reply(LONG).await.expect("a reply").text, "a\nb");
        assert_eq!(channel.reply(Duration::from_millis(1)).await, Err(Cause::Timeout));
        peer.write_all(b"250 hal").await.expect("written");
        drop(peer);
        assert_eq!(channel.reply(LONG).await, Err(Cause::Malformed));
    }

    #[tokio::test]
    async fn the_last_words_of_a_peer_that_is_gone_can_still_be_read() {
        let (wire, mut peer) = pair().await;
        let mut channel = Channel::new(Stream::Plain(wire));
        peer.write_all(b"552 5.3.4 too big\r\n").await.expect("written");
        peer.set_zero_linger().expect("set");
        drop(peer);
        assert_eq!(channel.last_words().map(|reply| reply.code), Some(552));
        assert_eq!(channel.last_words(), None);
    }
}
