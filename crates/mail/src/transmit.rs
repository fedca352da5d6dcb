//! From the 354 to the reply to the end marker: the only place where a delivery can become unknown.
//!
//! How the two sides of the marker are told apart (PROTOCOL 4.3, 4.4):
//! 1. The whole body is written and flushed, through TLS too, so that the kernel has every byte of it before anything
//!    of the marker exists. The write is raced against the read side: an early reply ends it.
//! 2. Then, in one poll and without an await in between: the socket takes bytes, the read buffer is empty by the
//!    kernel's own word, the gate is open and records that the marker has begun, the write system call.
//! 3. A small body without TLS goes out with its marker in one write, under the rule of 2. The kernel says how many bytes
//!    it took, and takes them in order: with no more than the body taken the marker has not begun
//!    ([`WireStream::poll_write_joined`](crate::wire::WireStream::poll_write_joined)), and what is left goes by 1 and 2.
//!    TLS hides that count.
//! 4. [`Gate::marker_begun`] alone decides the phase of whatever happens: timeout, error, dropped future.
//!
//! Invariant: no path from here writes anything but body and marker: an abort is a dropped socket with SO_LINGER 0, no
//! QUIT, no TLS closure, no dot.

use std::{
    fmt,
    future::poll_fn,
    io,
    task::{Context, Poll},
};

use hapax_core::{
    Outcome, Phase, Reply,
    certainty::{Event, classify},
    fault,
    outcome::Cause,
};
use tokio::time::timeout;

use crate::{
    channel::{Pending, cause_of},
    connection::{Connection, Inner, Session},
    file,
    gate::{Gate, Shut},
    message::{MARKER, Message, PIECE_BYTES},
    moments,
    wire::Stream,
};

/// The longest body that shares a write with its marker. A fresh socket takes so much at once; on any network it is on
/// its way before a server can object to its first byte.
const JOINED_BYTES_MAX: usize = 16_384;

/// A transaction whose 354 has been read. Dropping it aborts it, and its connection.
pub struct Data {
    connection: Connection,
    name_hint: String,
}

/// What a transmission came to.
#[derive(Debug)]
pub struct Transmitted {
    /// The outcome of the attempt.
    pub outcome: Outcome,
    /// The connection, if it can be used again.
    pub connection: Option<Connection>,
    /// Whether the write of the end marker had begun.
    pub marker_begun: bool,
    /// Bytes of body and marker that were taken from us.
    pub bytes: usize,
}

impl fmt::Debug for Data {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Data({:?})", self.connection)
    }
}

impl Data {
    pub(crate) fn new(connection: Connection, name_hint: String) -> Self {
        Self { connection, name_hint }
    }

    /// The server, as [`Connection::server`].
    #[must_use]
    pub fn server(&self) -> &str {
        self.connection.server()
    }

    /// Writes the body, asks the gate, writes the end marker, and waits for the reply to it.
    ///
    /// Not to be cancelled; if it is dropped all the same, the connection is closed hard and
    /// [`Gate::marker_begun`] tells whether the delivery is certainly not sent or unknown.
    pub async fn transmit(mut self, message: &Message, gate: &Gate) -> Transmitted {
        let mut bytes = 0;
        // A gate that is spent has nothing to say about this attempt.
        let spent = gate.marker_begun();
        let (outcome, keep) = match &mut self.connection.inner {
            Inner::Smtp(session) => {
                let outcome = session.transmit(message, gate, &mut bytes).await;
                let complete = matches!(outcome, Outcome::Accepted { .. } | Outcome::Refused { .. });
                // More than one reply: the next one's answer could be mistaken.
                (outcome, complete && !session.spent && session.channel.replies.is_empty())
            }
            Inner::File(directory) => {
                let outcome = file::transmit(directory, &self.name_hint, message, gate, &mut bytes).await;
                (outcome, true)
            }
        };
        let connection = keep.then_some(self.connection);
        Transmitted { outcome, connection, marker_begun: !spent && gate.marker_begun(), bytes }
    }

    /// Gives up: certainly not sent. The same as dropping it.
    pub fn abort(self) {
        drop(self);
    }
}

/// Why the marker was not written to its end.
enum Stop {
    /// Something was said before the marker began.
    Early,
    /// The connection failed; the gate knows whether the marker had begun.
    Lost(Cause),
}

impl Session {
    async fn transmit(&mut self, message: &Message, gate: &Gate, bytes: &mut usize) -> Outcome {
        let body = message.wire_bytes();
        let joined = match &self.channel.stream {
            Stream::Plain(_) if body.len() <= JOINED_BYTES_MAX && message.is_in_memory() => {
                self.write_joined(body, gate, bytes).await
            }
            _ => Ok(0),
        };
        let begun = match joined {
            Ok(begun) => begun,
            Err(outcome) => return outcome,
        };
        if begun == 0 {
            if let Err(outcome) = self.write_body(body, gate, bytes).await {
                return outcome;
            }
            if let Err(outcome) = self.write_spooled(message, gate, bytes).await {
                return outcome;
            }
            fault::point("body_written");
        }
        moments::reached("body");
        let (final_reply, mut asked) = (self.timeouts.final_reply, false);
        match timeout(final_reply, self.finish(gate, begun, bytes, &mut asked)).await {
            Ok(outcome) => outcome,
            // A process that was suspended finds its time over before it sees what has arrived meanwhile.
            Err(_) if asked => match self.channel.last_words() {
                Some(reply) if (200..300).contains(&reply.code) => {
                    classify(Phase::EndMarker, Event::Reply(reply), self.trust)
                }
                reply => unknown(Cause::Timeout, reply, "no answer to the end marker in time".into()),
            },
            Err(_) => self.ended(gate, Cause::Timeout),
        }
    }

    /// Tries to hand body and marker to the kernel in one write. Answers how many bytes of the marker were taken: with
    /// none, `bytes` says how much of the body was, and the marker has not begun.
    async fn write_joined(&mut self, body: &[u8], gate: &Gate, bytes: &mut usize) -> Result<usize, Outcome> {
        if let Some(shut) = gate.shut() {
            return Err(aborted(shut));
        }
        // The last moment at which nothing of the marker can have been written.
        fault::point("body_written");
        self.channel.stream.wire().arm(gate);
        match timeout(self.timeouts.body, poll_fn(|cx| self.poll_joined(cx, body))).await {
            Ok(Ok(taken)) => {
                *bytes = taken.min(body.len());
                let begun = taken - *bytes;
                if begun == 0 {
                    // For the rest of the body, which no gate keeps back.
                    self.channel.stream.wire().disarm();
                }
                Ok(begun)
            }
            Ok(Err(Stop::Early)) => Err(self.early(*bytes).await),
            Ok(Err(Stop::Lost(cause))) => Err(self.ended(gate, cause)),
            Err(_) => Err(self.ended(gate, Cause::Timeout)),
        }
    }

    /// In one poll: the read buffer is empty by the kernel's own word, the socket takes bytes, the gate is open and
    /// records that the marker has begun, the system call, and the record is taken back if no more than the body went.
    fn poll_joined(&mut self, cx: &mut Context<'_>, body: &[u8]) -> Poll<Result<usize, Stop>> {
        match self.channel.pending() {
            Pending::Nothing => {}
            Pending::Bytes => return Poll::Ready(Err(Stop::Early)),
            Pending::Lost(cause) => return Poll::Ready(Err(Stop::Lost(cause))),
        }
        match self.channel.stream.wire().poll_write_joined(cx, body, MARKER) {
            Poll::Ready(Ok(taken)) => Poll::Ready(Ok(taken)),
            Poll::Ready(Err(error)) => Poll::Ready(Err(Stop::Lost(cause_of(&error)))),
            Poll::Pending => self.poll_silence(cx).map(|stopped| stopped.map(|()| 0)),
        }
    }

    /// Hands the whole body, or what is left of it, to the kernel, or says how it ended.
    async fn write_body(&mut self, body: &[u8], gate: &Gate, bytes: &mut usize) -> Result<(), Outcome> {
        self.write_piece(body, 0, gate, bytes).await
    }

    /// What is not in memory, piece by piece. Should the spool fail, the marker has not begun: certainly not sent.
    async fn write_spooled(&mut self, message: &Message, gate: &Gate, bytes: &mut usize) -> Result<(), Outcome> {
        let mut piece = vec![0; if message.is_in_memory() { 0 } else { PIECE_BYTES }];
        while *bytes < message.wire_len() {
            let (begin, spool) = (*bytes, message.clone());
            let read = tokio::task::spawn_blocking(move || spool.read_at(begin, &mut piece).map(|got| (piece, got)));
            let got = match read.await.unwrap_or_else(|panic| Err(io::Error::other(panic))) {
                Ok((read, got)) => {
                    piece = read;
                    got
                }
                Err(error) => {
                    let detail = format!("cannot read the spooled message: {error}");
                    return Err(Outcome::not_sent(Phase::Body, Cause::Aborted, detail));
                }
            };
            self.write_piece(&piece[..got], begin, gate, bytes).await?;
        }
        Ok(())
    }

    /// Hands a piece of the body that begins at `begin` to the kernel, or what is left of it, or says how it ended.
    async fn write_piece(&mut self, body: &[u8], begin: usize, gate: &Gate, bytes: &mut usize) -> Result<(), Outcome> {
        match self.channel.pending() {
            Pending::Nothing => {}
            Pending::Bytes => return Err(self.early(*bytes).await),
            Pending::Lost(cause) => return Err(classify(Phase::Body, Event::Lost(cause), self.trust)),
        }
        if let Some(shut) = gate.shut() {
            return Err(aborted(shut));
        }
        loop {
            let before = self.channel.stream.wire().accepted();
            let written = timeout(self.timeouts.body, poll_fn(|cx| self.poll_body(cx, body, begin, bytes))).await;
            return match written {
                Ok(Ok(())) => Ok(()),
                Ok(Err(Stop::Early)) => Err(self.early(*bytes).await),
                Ok(Err(Stop::Lost(cause))) => Err(match self.channel.last_words() {
                    Some(reply) => early_outcome(reply, *bytes),
                    None => classify(Phase::Body, Event::Lost(cause), self.trust),
                }),
                // The limit is for progress: the kernel took something since.
                Err(_) if self.channel.stream.wire().accepted() > before => continue,
                Err(_) => Err(classify(Phase::Body, Event::Lost(Cause::Timeout), self.trust)),
            };
        }
    }

    fn poll_body(
        &mut self,
        cx: &mut Context<'_>,
        body: &[u8],
        begin: usize,
        bytes: &mut usize,
    ) -> Poll<Result<(), Stop>> {
        loop {
            let step = match body.get(*bytes - begin..) {
                Some(rest) if !rest.is_empty() => self.channel.stream.poll_write(cx, rest).map_ok(Some),
                _ => self.channel.stream.poll_flush(cx).map_ok(|()| None),
            };
            match step {
                Poll::Ready(Ok(Some(taken))) => *bytes += taken,
                Poll::Ready(Ok(None)) => return Poll::Ready(Ok(())),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(Stop::Lost(cause_of(&error)))),
                Poll::Pending => return self.poll_silence(cx),
            }
        }
    }

    /// Pending for as long as the server says nothing.
    fn poll_silence(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Stop>> {
        self.channel.poll_fill(cx).map(|filled| match filled {
            Ok(()) => Err(Stop::Early),
            Err(cause) => Err(Stop::Lost(cause)),
        })
    }

    /// Writes the marker, or what is left of it, and reads its reply. The caller limits the time of it all. `asked` becomes true when the whole
    /// marker has been written: from then on what the server says may be its answer.
    async fn finish(&mut self, gate: &Gate, begun: usize, bytes: &mut usize, asked: &mut bool) -> Outcome {
        self.channel.stream.wire().arm(gate);
        let mut written = begun;
        let marker = poll_fn(|cx| self.poll_marker(cx, gate, &mut written)).await;
        *bytes += written;
        match marker {
            Ok(()) => {}
            Err(Stop::Early) => return self.early(*bytes).await,
            Err(Stop::Lost(cause)) => return self.ended(gate, cause),
        }
        self.channel.stream.wire().disarm();
        fault::point("marker_written");
        moments::reached("end_marker");
        *asked = true;
        let reply = match self.channel.read_reply().await {
            Ok(reply) => reply,
            Err(cause) => return classify(Phase::EndMarker, Event::Lost(cause), self.trust),
        };
        moments::reached("reply");
        fault::point("reply_read");
        let outcome = classify(Phase::EndMarker, Event::Reply(reply), self.trust);
        match outcome {
            Outcome::Refused { permanent, phase, reply } => self.confirm(permanent, phase, reply).await,
            outcome => outcome,
        }
    }

    /// A refusal may have been said before the marker, and have crossed it: then the answer is still to come, and it may
    /// be an acceptance, so that believing the refusal would make a second copy. QUIT has an answer that cannot be taken
    /// for another (221): what comes before it decides. A server that closes has nothing more to say. Costs the
    /// connection; refusals this late are rare.
    async fn confirm(&mut self, permanent: bool, phase: Phase, reply: Reply) -> Outcome {
        let next = match self.channel.pending() {
            Pending::Bytes => self.channel.read_reply().await,
            Pending::Lost(cause) => Err(cause),
            Pending::Nothing => match self.channel.queue(b"QUIT") {
                Ok(()) => match self.channel.send(self.timeouts.command).await {
                    Ok(()) => self.channel.read_reply().await,
                    Err(cause) => self.channel.last_words().ok_or(cause),
                },
                Err(cause) => Err(cause),
            },
        };
        self.spent = true;
        match next {
            Ok(goodbye) if goodbye.code == 221 => Outcome::Refused { permanent, phase, reply },
            Err(Cause::Eof | Cause::Io) => Outcome::Refused { permanent, phase, reply },
            Ok(other) => {
                let detail =
                    format!("{} to the end marker, and {} behind it: which is the answer?", reply.code, other.code);
                unknown(Cause::Unexpected, Some(reply), detail)
            }
            Err(cause) => {
                let detail = format!("{} to the end marker, and {cause} behind it: which is the answer?", reply.code);
                unknown(Cause::Unexpected, Some(reply), detail)
            }
        }
    }

    /// Until the marker has begun, each poll looks at the read buffer first. With TLS the marker's record may wait in
    /// the encryption layer for a socket that takes it: it has not begun, and is dropped with the connection.
    fn poll_marker(&mut self, cx: &mut Context<'_>, gate: &Gate, written: &mut usize) -> Poll<Result<(), Stop>> {
        loop {
            if !gate.marker_begun() {
                match self.channel.pending() {
                    Pending::Nothing => {}
                    Pending::Bytes => return Poll::Ready(Err(Stop::Early)),
                    Pending::Lost(cause) => return Poll::Ready(Err(Stop::Lost(cause))),
                }
            }
            let step = match &MARKER[*written..] {
                [] => self.channel.stream.poll_flush(cx).map_ok(|()| None),
                rest => self.channel.stream.poll_write(cx, rest).map_ok(Some),
            };
            match step {
                Poll::Ready(Ok(Some(taken))) => *written += taken,
                Poll::Ready(Ok(None)) => return Poll::Ready(Ok(())),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(Stop::Lost(cause_of(&error)))),
                Poll::Pending if gate.marker_begun() => return Poll::Pending,
                Poll::Pending => return self.poll_silence(cx),
            }
        }
    }

    /// The marker was not written to its end, or not answered in time.
    fn ended(&mut self, gate: &Gate, cause: Cause) -> Outcome {
        if let Some(shut) = self.channel.stream.wire().refused() {
            return aborted(shut);
        }
        if !gate.marker_begun() {
            return classify(Phase::Body, Event::Lost(cause), self.trust);
        }
        // A refusal the server left behind before it went away counts (P6). A 2xx does not: it cannot be the answer to
        // a marker that the server has not read to its end.
        match self.channel.last_words() {
            Some(reply) if (400..600).contains(&reply.code) => {
                classify(Phase::EndMarker, Event::Reply(reply), self.trust)
            }
            reply => unknown(cause, reply, format!("{cause} after the write of the end marker had begun")),
        }
    }

    /// Something was said before the marker: reads it to its end, if it has one, to know what it was.
    async fn early(&mut self, bytes: usize) -> Outcome {
        match self.channel.reply(self.timeouts.body).await {
            Ok(reply) => early_outcome(reply, bytes),
            Err(cause) => classify(Phase::Body, Event::Lost(cause), self.trust),
        }
    }
}

/// A reply that came before the marker (PROTOCOL 4.3, RC-49). A refusal, whatever it refuses, means the server has no
/// message: not sent, but not this message's fault for certain, so a later attempt may try. A 2xx means that the server
/// believes it has one. What it was sent so far may be what it has: in doubt, although no marker of ours was begun.
fn early_outcome(reply: Reply, bytes: usize) -> Outcome {
    let code = reply.code;
    let positive = (200..300).contains(&code);
    if positive && bytes > 0 {
        let detail = format!("{code} before the end marker: the server may believe that it has a message");
        return Outcome::Unknown { cause: Cause::Unexpected, reply: Some(reply), detail };
    }
    let detail = format!("{code} before the end marker");
    Outcome::NotSent { phase: Phase::Body, cause: Cause::Unexpected, reply: Some(reply), detail }
}

fn unknown(cause: Cause, reply: Option<Reply>, detail: String) -> Outcome {
    Outcome::Unknown { cause, reply, detail }
}

pub(crate) fn aborted(shut: Shut) -> Outcome {
    Outcome::not_sent(Phase::Body, Cause::Aborted, shut.to_string())
}

#[cfg(test)]
mod tests;
