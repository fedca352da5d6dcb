//! A route's mailer: everything that is set up once, and the way from nothing to a connection ready for MAIL.
//!
//! Invariant: whatever goes wrong in here is [`Outcome::NotSent`] and blames the route, never a message; a connection
//! comes out only after every reply on the way was complete and expected.

use std::{io, path::PathBuf, sync::Arc};

use hapax_core::{
    Outcome, Phase, Reply,
    certainty::{Event, classify},
    clock::Clock,
    outcome::Cause,
};
use lettre::transport::smtp::{
    commands::{Ehlo, Starttls},
    extension::ClientId,
};
use tokio::{
    net::{TcpStream, lookup_host},
    time::{Instant, timeout},
};

use crate::{
    auth,
    capabilities::Capabilities,
    channel::{Channel, Lost},
    config::{Error, Security, SmtpServer, Transport, is_hello_name},
    connection::{Connection, Session},
    file, local, moments,
    tls::Tls,
    wire::{Stream, WireStream},
};

/// Opens connections of one route.
#[derive(Clone)]
pub struct Mailer {
    way: Arc<Way>,
    clock: Arc<dyn Clock>,
}

#[expect(clippy::large_enum_variant, reason = "one per route, made at start-up and never moved in a loop")]
enum Way {
    Smtp { server: SmtpServer, tls: Option<Tls> },
    File { directory: PathBuf },
}

impl std::fmt::Debug for Mailer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &*self.way {
            Way::Smtp { server, .. } => write!(f, "Mailer({}:{})", server.host, server.port),
            Way::File { directory } => write!(f, "Mailer({})", directory.display()),
        }
    }
}

impl Mailer {
    /// Sets a route up: certificates are read here and never again.
    ///
    /// # Errors
    /// What in the configuration could never work, without asking the network.
    pub fn new(transport: Transport, clock: Arc<dyn Clock>) -> Result<Self, Error> {
        let way = match transport {
            Transport::File { directory } => Way::File { directory },
            Transport::Smtp(server) => {
                if !is_hello_name(&server.hello_name) {
                    return Err(Error::HelloName { name: server.hello_name });
                }
                auth::check(&server)?;
                let tls = Tls::new(&server)?;
                Way::Smtp { server, tls }
            }
        };
        Ok(Self { way: Arc::new(way), clock })
    }

    /// Opens a connection: resolve, connect, TLS, greeting, EHLO, STARTTLS, AUTH.
    ///
    /// # Errors
    /// [`Outcome::NotSent`], with the phase that failed.
    pub async fn open(&self) -> Result<Connection, Outcome> {
        match &*self.way {
            Way::File { directory } => {
                file::prepare(directory).await?;
                Ok(Connection::file(directory.clone(), self.clock.clone()))
            }
            Way::Smtp { server, tls } => {
                let (session, banner) = Box::pin(open(server, tls.as_ref())).await?;
                let name = format!("{}:{} ({banner})", server.host, server.port);
                Ok(Connection::smtp(session, name, self.clock.clone()))
            }
        }
    }
}

async fn open(server: &SmtpServer, tls: Option<&Tls>) -> Result<(Session, String), Outcome> {
    let limit = server.timeouts.command;
    let tcp = connect(server).await?;
    moments::reached("connect");
    let loopback = tcp.peer_addr().is_ok_and(|address| address.ip().is_loopback());
    let wire = WireStream::new(tcp).map_err(|error| failed(Phase::Connect, &error))?;
    let implicit = tls.filter(|_| server.security == Security::Implicit);
    let mut encrypted = implicit.is_some();
    let stream = match implicit {
        Some(tls) => Stream::Tls(Box::new(tls.handshake(wire, limit).await?)),
        None => Stream::Plain(wire),
    };
    if encrypted {
        moments::reached("tls");
    }
    let mut channel = Channel::new(stream);
    let greeting = expect(server, Phase::Greeting, channel.reply(limit).await, |code| code == 220)?;
    moments::reached("greeting");
    let banner = banner_name(&greeting);
    let mut capabilities = ehlo(&mut channel, server).await?;
    if let Some(tls) = tls.filter(|_| !encrypted) {
        (channel, encrypted) = starttls(channel, server, tls, &capabilities).await?;
        if encrypted {
            // RFC 3207 section 4.2: what was learnt before TLS is forgotten.
            capabilities = ehlo(&mut channel, server).await?;
        }
    }
    let safe = loopback || (encrypted && tls.is_some_and(|tls| tls.verified));
    auth::authenticate(&mut channel, server, &capabilities, safe).await?;
    if server.credentials.is_some() {
        moments::reached("auth");
    }
    let session = Session { channel, capabilities, timeouts: server.timeouts, trust: server.trust, spent: false };
    Ok((session, banner))
}

/// Each address in turn, each with a fair share of what is left of the time.
pub(crate) async fn connect(server: &SmtpServer) -> Result<TcpStream, Outcome> {
    let limit = server.timeouts.connect;
    let began = Instant::now();
    let found = timeout(limit, lookup_host((server.host.trim_matches(['[', ']']), server.port))).await;
    let addresses: Vec<_> = match found {
        Ok(Ok(addresses)) => local::within_reach(addresses.collect(), server.local_address),
        Ok(Err(error)) => return Err(failed(Phase::Resolve, &error)),
        Err(_) => {
            return Err(Outcome::not_sent(Phase::Resolve, Cause::Timeout, "no answer to the name lookup in time"));
        }
    };
    let mut outcome = Outcome::not_sent(Phase::Resolve, Cause::Io, "the server's name has no address");
    for (at, address) in addresses.iter().enumerate() {
        let share = limit.saturating_sub(began.elapsed()) / u32::try_from(addresses.len() - at).unwrap_or(u32::MAX);
        outcome = match timeout(share, local::connect(*address, server.local_address)).await {
            Ok(Ok(tcp)) => return Ok(tcp),
            Ok(Err(error)) => failed(Phase::Connect, &error),
            Err(_) => Outcome::not_sent(Phase::Connect, Cause::Timeout, "no connection in time"),
        };
    }
    Err(outcome)
}

pub(crate) fn failed(phase: Phase, error: &io::Error) -> Outcome {
    Outcome::not_sent(phase, Cause::Io, error.to_string())
}

pub(crate) async fn ehlo(channel: &mut Channel, server: &SmtpServer) -> Result<Capabilities, Outcome> {
    let command = Ehlo::new(ClientId::Domain(server.hello_name.clone())).to_string();
    let reply = channel.ask(command.trim_end().as_bytes(), server.timeouts.command).await;
    expect(server, Phase::Ehlo, reply, |code| code == 250)?;
    moments::reached("ehlo");
    Ok(Capabilities::parse(channel.replies.last_text()))
}

/// STARTTLS: the channel, and whether it is encrypted now; where the route can do without, it may not be.
pub(crate) async fn starttls(
    mut channel: Channel,
    server: &SmtpServer,
    tls: &Tls,
    capabilities: &Capabilities,
) -> Result<(Channel, bool), Outcome> {
    let optional = server.security == Security::Opportunistic;
    if !capabilities.starttls {
        let detail = "the server does not offer STARTTLS: use smtps, or starttls=none if plain text is acceptable";
        let missing = || Outcome::not_sent(Phase::StartTls, Cause::Unsupported, detail);
        return if optional { Ok((channel, false)) } else { Err(missing()) };
    }
    let limit = server.timeouts.command;
    let reply = channel.ask(Starttls.to_string().trim_end().as_bytes(), limit).await;
    match reply {
        // 421 closes the channel; any other refusal leaves it as it was.
        Ok(reply) if optional && reply.code != 421 && reply.code >= 400 => return Ok((channel, false)),
        reply => expect(server, Phase::StartTls, reply, |code| code == 220)?,
    };
    // What was sent in plain text before the handshake must not be taken for an answer inside it (CVE-2011-0411).
    match channel {
        Channel { stream: Stream::Plain(wire), replies, .. } if replies.is_empty() => {
            let stream = tls.handshake(wire, limit).await?;
            moments::reached("tls");
            Ok((Channel::new(Stream::Tls(Box::new(stream))), true))
        }
        _ => Err(classify(Phase::StartTls, Event::Lost(Cause::Unexpected), server.trust)),
    }
}

/// The reply, if it is the expected one.
pub(crate) fn expect(
    server: &SmtpServer,
    phase: Phase,
    reply: Result<Reply, Lost>,
    expected: impl Fn(u16) -> bool,
) -> Result<Reply, Outcome> {
    match reply {
        Ok(reply) if expected(reply.code) => Ok(reply),
        Ok(reply) => Err(classify(phase, Event::Reply(reply), server.trust)),
        Err(cause) => Err(classify(phase, Event::Lost(cause), server.trust)),
    }
}

/// The name a server gives itself in its greeting, fit for a ledger.
pub(crate) fn banner_name(greeting: &Reply) -> String {
    greeting.text.split_whitespace().next().unwrap_or("-").chars().take(255).collect()
}
