//! One open connection: MAIL, RCPT and DATA for one delivery after another.
//!
//! Invariants: nothing is asked while an unread reply is in the buffer (PROTOCOL 4.3); a connection is given back only
//! after every command on it was answered by a complete, well-formed reply and the buffer is empty; everything that
//! happens in here is before the intent, so no outcome is ever unknown; a future dropped at any point drops the
//! connection with it, and that closes it hard.

use std::{fmt, path::PathBuf, sync::Arc, time::Duration};

use hapax_core::{
    Outcome, Phase, Reply,
    certainty::{Event, Trust, classify},
    clock::Clock,
    limits::Timeouts,
    mutant,
    outcome::Cause,
};
use lettre::transport::smtp::commands::{Quit, Rset};
use tokio::time::timeout;

use crate::{
    capabilities::{Capabilities, Commands, Envelope},
    channel::{Channel, Lost, Pending},
    moments,
    transmit::Data,
};

/// How long we wait for manners: replies that change no outcome, QUIT.
const POLITENESS: Duration = Duration::from_secs(5);

/// A connection to a route's server, ready for the next delivery.
pub struct Connection {
    pub(crate) inner: Inner,
    server: String,
    clock: Arc<dyn Clock>,
    opened: Duration,
    deliveries: u32,
}

pub(crate) enum Inner {
    Smtp(Box<Session>),
    File(PathBuf),
}

/// An authenticated SMTP dialogue.
pub(crate) struct Session {
    pub(crate) channel: Channel,
    pub(crate) capabilities: Capabilities,
    pub(crate) timeouts: Timeouts,
    pub(crate) trust: Trust,
    /// QUIT was written: no further delivery.
    pub(crate) spent: bool,
}

/// What became of MAIL, RCPT and DATA.
#[derive(Debug)]
pub enum Begun {
    /// The 354 has been read: the intent comes next, then [`Data::transmit`].
    Ready(Data),
    /// The attempt is over; certainly nothing was handed over.
    Ended {
        /// How it ended; never unknown.
        outcome: Outcome,
        /// The connection, if it can be used again.
        connection: Option<Connection>,
        /// A connection that had been used before was dead, or closing, or refused for good before it answered anything
        /// that is certainly about this delivery. That is no attempt: try again at once on a fresh one.
        stale: bool,
    },
}

/// How a transaction ended before its 354.
struct End {
    outcome: Outcome,
    keep: bool,
    stale: bool,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Connection({}, {} deliveries)", self.server, self.deliveries)
    }
}

impl Connection {
    pub(crate) fn smtp(session: Session, server: String, clock: Arc<dyn Clock>) -> Self {
        let opened = clock.boottime();
        Self { inner: Inner::Smtp(Box::new(session)), server, clock, opened, deliveries: 0 }
    }

    pub(crate) fn file(directory: PathBuf, clock: Arc<dyn Clock>) -> Self {
        let (opened, server) = (clock.boottime(), format!("file:{}", directory.display()));
        Self { inner: Inner::File(directory), server, clock, opened, deliveries: 0 }
    }

    /// `host:port (name in the greeting)`, for the ledger.
    #[must_use]
    pub fn server(&self) -> &str {
        &self.server
    }

    /// When the certificate of its server expires, in seconds since 1970; none without TLS.
    #[must_use]
    pub fn certificate_until_s(&self) -> Option<i64> {
        match &self.inner {
            Inner::Smtp(session) => session.channel.stream.certificate_until_s(),
            Inner::File(_) => None,
        }
    }

    /// How many deliveries were begun on it.
    #[must_use]
    pub fn deliveries(&self) -> u32 {
        self.deliveries
    }

    /// Since it was opened, by the boot time clock.
    #[must_use]
    pub fn age(&self) -> Duration {
        self.clock.boottime().saturating_sub(self.opened)
    }

    /// Whether this server can take `envelope`, by what it announced. Asks nobody.
    ///
    /// # Errors
    /// The outcome [`Connection::begin`] would end with.
    pub fn accepts(&self, envelope: &Envelope) -> Result<(), Outcome> {
        match &self.inner {
            Inner::Smtp(session) => session.capabilities.commands(envelope).map(drop),
            Inner::File(_) => Ok(()),
        }
    }

    /// Whether an idle connection is still good, as far as is known without asking: not closed, and not spoken to. A
    /// connection that is not still open must be dropped.
    ///
    /// [`Connection::begin`] asks the kernel before it writes anything, and says [`Begun::Ended`] with `stale` of one that
    /// was used before. One that was not has no such excuse, so the kernel is asked here.
    #[must_use]
    pub fn is_still_open(&mut self) -> bool {
        let fresh = self.deliveries == 0;
        match &mut self.inner {
            Inner::Smtp(session) if fresh => session.channel.pending() == Pending::Nothing,
            Inner::Smtp(session) => session.channel.pending_as_told() == Pending::Nothing,
            Inner::File(_) => true,
        }
    }

    /// MAIL, RCPT and DATA, in one write where the server offers PIPELINING.
    pub async fn begin(mut self, envelope: &Envelope) -> Begun {
        let reused = self.deliveries > 0;
        let begun = match &mut self.inner {
            Inner::Smtp(session) => match session.capabilities.commands(envelope) {
                Ok(commands) => {
                    self.deliveries += 1;
                    session.begin(commands).await
                }
                // Nothing was said of it on this connection.
                Err(outcome) => return Begun::Ended { outcome, connection: Some(self), stale: false },
            },
            Inner::File(_) => {
                self.deliveries += 1;
                Ok(())
            }
        };
        match begun.err() {
            None => Begun::Ready(Data::new(self, envelope.name_hint.clone())),
            Some(End { outcome, keep, stale }) => {
                Begun::Ended { outcome, connection: keep.then_some(self), stale: stale && reused }
            }
        }
    }

    /// Says goodbye, within five seconds, and closes softly. Nothing that happens here matters.
    pub async fn quit(self) {
        let Inner::Smtp(mut session) = self.inner else { return };
        let _ = timeout(POLITENESS.min(session.timeouts.command), async {
            session.channel.ask(Quit.to_string().trim_end().as_bytes(), POLITENESS).await?;
            session.channel.stream.wire().close_softly();
            let _ = std::future::poll_fn(|cx| session.channel.stream.poll_shutdown(cx)).await;
            Ok::<(), Lost>(())
        })
        .await;
    }
}

impl Session {
    async fn begin(&mut self, commands: Commands) -> Result<(), End> {
        self.check_quiet()?;
        let piped = self.capabilities.pipelining;
        if piped {
            for line in [&commands.mail[..], &commands.rcpt, b"DATA"] {
                self.channel.queue(line).map_err(|cause| self.lost(Phase::Mail, cause))?;
            }
            if let Err(cause) = self.channel.send(self.timeouts.command).await {
                return Err(self.write_failed(cause));
            }
        }
        let Timeouts { command, data, .. } = self.timeouts;
        let reply = self.step(piped, &commands.mail, command).await.map_err(|cause| self.lost(Phase::Mail, cause))?;
        moments::reached("mail");
        if !(200..300).contains(&reply.code) {
            return Err(self.refused(Phase::Mail, reply, if piped { 2 } else { 0 }).await);
        }
        let reply = self.step(piped, &commands.rcpt, command).await.map_err(|cause| self.lost(Phase::Rcpt, cause))?;
        moments::reached("rcpt");
        if !(200..300).contains(&reply.code) {
            return Err(self.refused(Phase::Rcpt, reply, usize::from(piped)).await);
        }
        let reply = self.step(piped, b"DATA", data).await.map_err(|cause| self.lost(Phase::Data, cause))?;
        moments::reached("data");
        if reply.code != 354 {
            return Err(self.refused(Phase::Data, reply, 0).await);
        }
        // A reply too many: from here on nobody could tell which one answers what.
        if self.channel.replies.is_empty() || mutant::is("strays_believed") {
            Ok(())
        } else {
            Err(self.lost(Phase::Data, Cause::Unexpected))
        }
    }

    /// The next reply; its command is written first unless that has happened already.
    async fn step(&mut self, piped: bool, line: &[u8], limit: Duration) -> Result<Reply, Lost> {
        if piped { self.channel.reply(limit).await } else { self.channel.ask(line, limit).await }
    }

    /// Before MAIL: the connection is open, and nothing was said since its last reply.
    fn check_quiet(&mut self) -> Result<(), End> {
        match self.channel.pending() {
            Pending::Nothing => Ok(()),
            Pending::Lost(cause) => Err(self.lost(Phase::Mail, cause)),
            Pending::Bytes => Err(self.write_failed(Cause::Unexpected)),
        }
    }

    /// The commands were not written: with the words the server left, if there are any (a 421 when it was idle too
    /// long). They were said before this delivery was mentioned, so they are no refusal of it.
    fn write_failed(&mut self, cause: Cause) -> End {
        let reply = self.channel.last_words();
        let (cause, detail) = match &reply {
            Some(reply) => (Cause::Unexpected, format!("{} before MAIL", reply.code)),
            None => (cause, format!("{cause} before MAIL")),
        };
        End { outcome: Outcome::NotSent { phase: Phase::Mail, cause, reply, detail }, keep: false, stale: true }
    }

    fn lost(&self, phase: Phase, cause: Cause) -> End {
        // A half reply is `Malformed`, and somebody who is silent may still be alive: neither is a death while idle.
        let stale = phase == Phase::Mail && matches!(cause, Cause::Eof | Cause::Io | Cause::Unexpected);
        End { outcome: classify(phase, Event::Lost(cause), self.trust), keep: false, stale }
    }

    /// A reply that ends the transaction, with `unread` replies of the pipelined group still to come.
    async fn refused(&mut self, phase: Phase, reply: Reply, unread: usize) -> End {
        // 421 to the first command: the server had begun to close an idle connection when we spoke. A 5xx there may be a
        // stray word about something before: on a fresh connection it would be about this message.
        let stale = phase == Phase::Mail && (reply.code == 421 || reply.code >= 500);
        let outcome = classify(phase, Event::Reply(reply), self.trust);
        let limit = POLITENESS.min(self.timeouts.command);
        let keep = matches!(outcome, Outcome::Refused { .. })
            && timeout(limit, self.recover(unread)).await.is_ok_and(|recovered| recovered.is_ok_and(|kept| kept));
        End { outcome, keep, stale }
    }

    /// After a refusal: whether the connection can be used again. The refusal stands, whatever happens here.
    async fn recover(&mut self, unread: usize) -> Result<bool, Lost> {
        for left in (0..unread).rev() {
            let reply = self.channel.read_reply().await?;
            // DATA is the last of a group. A 354 to it, with no recipient: a lone dot would be a message to nobody at
            // best, so the connection is dropped in the middle of its DATA instead.
            let ended = (400..600).contains(&reply.code) || (left > 0 && (200..300).contains(&reply.code));
            if !ended || reply.code == 421 {
                return Ok(false);
            }
        }
        let reply = self.channel.ask(Rset.to_string().trim_end().as_bytes(), POLITENESS).await?;
        Ok((200..300).contains(&reply.code) && self.channel.replies.is_empty())
    }
}
