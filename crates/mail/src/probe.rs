//! Asking a route's server everything that can be asked without a message: name, connection, TLS, greeting, EHLO, AUTH,
//! MAIL.
//!
//! Invariants: no recipient is ever named and no DATA begun, so nothing can be sent: MAIL is taken back with RSET, and
//! the dialogue ends with QUIT. Credentials leave under the same conditions as for a delivery. What was learnt before a
//! failure is told, too.
//!
//! Must not: decide anything about a delivery, or be used for one.

use std::net::SocketAddr;

use hapax_core::{
    Outcome, Phase, Recipient, Reply,
    certainty::{Event, Trust, classify},
};
use lettre::transport::smtp::commands::{Quit, Rset};

pub use crate::certificate::Certificate;
use crate::{
    auth,
    capabilities::Capabilities,
    channel::Channel,
    config::{Error, Security, SmtpServer, is_hello_name},
    mailer::{banner_name, connect, ehlo, expect, failed, starttls},
    tls::Tls,
    wire::{Stream, WireStream},
};

/// What a server offers, after its last EHLO.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Extensions {
    /// PIPELINING.
    pub pipelining: bool,
    /// 8BITMIME.
    pub eight_bit_mime: bool,
    /// SMTPUTF8.
    pub smtputf8: bool,
    /// STARTTLS.
    pub starttls: bool,
    /// DSN.
    pub dsn: bool,
    /// SIZE was offered; the limit in bytes, if there is one.
    pub size: Option<Option<usize>>,
}

/// What was learnt about the encryption.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encryption {
    /// The chain, the server's own certificate first.
    pub chain: Vec<Certificate>,
    /// TLS 1.3, say; nothing where the handshake failed.
    pub version: Option<String>,
    /// Whether this route checks certificates at all.
    pub verified: bool,
}

/// What came of it, as far as it came.
#[derive(Clone, Debug, Default)]
pub struct Probed {
    /// The address that answered.
    pub address: Option<SocketAddr>,
    /// The encryption, where there is any, also when its certificate was refused.
    pub encryption: Option<Encryption>,
    /// The server's name in its greeting.
    pub greeting: Option<String>,
    /// What it offers.
    pub extensions: Option<Extensions>,
    /// Credentials were taken.
    pub authenticated: bool,
    /// MAIL was taken, and taken back.
    pub sender_taken: bool,
    /// Where it ended, if it did not come to its end.
    pub failed: Option<Outcome>,
}

/// Asks. `sender` is the address for MAIL; its steps take as long as `server.timeouts` allow, each.
///
/// # Errors
/// What in the configuration could never work.
pub async fn probe(server: &SmtpServer, sender: Option<&Recipient>) -> Result<Probed, Error> {
    if !is_hello_name(&server.hello_name) {
        return Err(Error::HelloName { name: server.hello_name.clone() });
    }
    auth::check(server)?;
    let tls = Tls::new(server)?;
    let mut probed = Probed::default();
    let result = Box::pin(converse(server, tls.as_ref(), sender, &mut probed)).await;
    if let Err(outcome) = result {
        if outcome.phase() == Phase::Tls && probed.encryption.is_none() && tls.is_some_and(|tls| tls.verified) {
            probed.encryption = Box::pin(look_at_certificate(server)).await;
        }
        probed.failed = Some(outcome);
    }
    Ok(probed)
}

async fn converse(
    server: &SmtpServer,
    tls: Option<&Tls>,
    sender: Option<&Recipient>,
    probed: &mut Probed,
) -> Result<(), Outcome> {
    let (mut channel, capabilities, loopback) = introduce(server, tls, probed).await?;
    let encrypted = probed.encryption.is_some();
    let safe = loopback || (encrypted && tls.is_some_and(|tls| tls.verified));
    auth::authenticate(&mut channel, server, &capabilities, safe).await?;
    probed.authenticated = server.credentials.is_some();
    if let Some(sender) = sender.filter(|sender| capabilities.smtputf8 || !sender.needs_smtputf8()) {
        let utf8 = if sender.needs_smtputf8() { " SMTPUTF8" } else { "" };
        let line = format!("MAIL FROM:<{}>{utf8}", sender.address());
        ask(&mut channel, server, Phase::Mail, &line, |code| (200..300).contains(&code)).await?;
        ask(&mut channel, server, Phase::Mail, Rset.to_string().trim_end(), |code| (200..300).contains(&code)).await?;
        probed.sender_taken = true;
    }
    // Whatever it says to that, everything was asked.
    let _ = channel.ask(Quit.to_string().trim_end().as_bytes(), server.timeouts.command).await;
    channel.stream.wire().close_softly();
    Ok(())
}

/// From nothing to the last EHLO.
async fn introduce(
    server: &SmtpServer,
    tls: Option<&Tls>,
    probed: &mut Probed,
) -> Result<(Channel, Capabilities, bool), Outcome> {
    let limit = server.timeouts.command;
    let tcp = connect(server).await?;
    probed.address = tcp.peer_addr().ok();
    let loopback = probed.address.is_some_and(|address| address.ip().is_loopback());
    let wire = WireStream::new(tcp).map_err(|error| failed(Phase::Connect, &error))?;
    let implicit = tls.filter(|_| server.security == Security::Implicit);
    let stream = match implicit {
        Some(tls) => Stream::Tls(Box::new(tls.handshake(wire, limit).await?)),
        None => Stream::Plain(wire),
    };
    let mut channel = Channel::new(stream);
    note_encryption(&channel, tls, probed);
    let greeting = expect(server, Phase::Greeting, channel.reply(limit).await, |code| code == 220)?;
    probed.greeting = Some(banner_name(&greeting));
    let mut capabilities = ehlo(&mut channel, server).await?;
    probed.extensions = Some(extensions(&capabilities, &channel));
    if let Some(tls) = tls.filter(|_| implicit.is_none()) {
        let encrypted;
        (channel, encrypted) = starttls(channel, server, tls, &capabilities).await?;
        if encrypted {
            note_encryption(&channel, Some(tls), probed);
            capabilities = ehlo(&mut channel, server).await?;
            probed.extensions = Some(extensions(&capabilities, &channel));
        }
    }
    Ok((channel, capabilities, loopback))
}

fn extensions(capabilities: &Capabilities, channel: &Channel) -> Extensions {
    let said = String::from_utf8_lossy(channel.replies.last_text()).to_ascii_uppercase();
    Extensions {
        pipelining: capabilities.pipelining,
        eight_bit_mime: capabilities.eight_bit_mime,
        smtputf8: capabilities.smtputf8,
        starttls: capabilities.starttls,
        dsn: said.lines().skip(1).any(|line| line.split_whitespace().next() == Some("DSN")),
        size: capabilities.size,
    }
}

fn note_encryption(channel: &Channel, tls: Option<&Tls>, probed: &mut Probed) {
    if let (Stream::Tls(stream), Some(tls)) = (&channel.stream, tls) {
        let connection = stream.get_ref().1;
        let chain = connection.peer_certificates().unwrap_or_default().iter().filter_map(Certificate::read).collect();
        let version =
            connection.protocol_version().and_then(|version| version.as_str()).map(|name| name.replace('_', "."));
        probed.encryption = Some(Encryption { chain, version, verified: tls.verified });
    }
}

/// The certificate that was refused: a handshake that trusts it, after which no secret is said.
async fn look_at_certificate(server: &SmtpServer) -> Option<Encryption> {
    let tls = Tls::blind(server).ok()?;
    let mut asked = Probed::default();
    let server = SmtpServer { credentials: None, ..server.clone() };
    // Whether it ends well is of no interest, only what was seen.
    let _ = introduce(&server, Some(&tls), &mut asked).await;
    asked.encryption.map(|encryption| Encryption { version: None, verified: true, ..encryption })
}

async fn ask(
    channel: &mut Channel,
    server: &SmtpServer,
    phase: Phase,
    line: &str,
    expected: impl Fn(u16) -> bool,
) -> Result<Reply, Outcome> {
    match channel.ask(line.as_bytes(), server.timeouts.command).await {
        Ok(reply) if expected(reply.code) => Ok(reply),
        Ok(reply) => Err(classify(phase, Event::Reply(reply), Trust::default())),
        Err(cause) => Err(classify(phase, Event::Lost(cause), Trust::default())),
    }
}

/// A server's words, with what may be a secret or an address left out: servers like to repeat what they were told.
#[must_use]
pub fn harmless(server: &SmtpServer, words: &str) -> String {
    let known = server.credentials.as_ref().map(|own| [own.user(), own.secret().expose()]);
    let is_encoded = |word: &str| {
        word.len() >= ENCODED_BYTES_MIN && word.bytes().all(|b| b.is_ascii_alphanumeric() || b"+/=".contains(&b))
    };
    let is_known = |word: &str| known.iter().flatten().any(|secret| !secret.is_empty() && word.contains(*secret));
    let hide = |word: &str| word.contains('@') || is_encoded(word) || is_known(word);
    let words: Vec<&str> = words.split_whitespace().map(|word| if hide(word) { "***" } else { word }).collect();
    words.join(" ")
}

/// A word of base64 as long as this may hold a user and a password.
const ENCODED_BYTES_MIN: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Credentials, Secret};

    #[test]
    fn a_server_that_repeats_what_it_was_told_is_not_repeated() {
        let mut server = SmtpServer::new("mx.example.org", 587);
        let (user, password) = ("shop".to_owned(), Secret::new("hunter2"));
        server.credentials = Some(Credentials::Password { user, password });
        let said = "5.7.8 no: AHNob3AAaHVudGVyMjI= <ada@example.org> 'hunter2' at https://help.example.org/why";
        assert_eq!(harmless(&server, said), "5.7.8 no: *** *** *** at https://help.example.org/why");
    }
}
