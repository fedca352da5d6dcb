//! AUTH (RFC 4954), with lettre's mechanisms and their encoding.
//!
//! Invariant: credentials leave only over TLS with a checked certificate, to a loopback address, or where the route
//! says `insecure_auth`.

use std::time::Duration;

use hapax_core::{
    Outcome, Phase, Reply,
    certainty::{Event, Trust, classify},
    outcome::Cause,
};
use lettre::transport::smtp::{authentication as sasl, authentication::Mechanism, commands::Auth};

use crate::{
    capabilities::Capabilities,
    channel::Channel,
    config::{Credentials, Error, SmtpServer},
};

/// The longest command line without extensions (RFC 5321 section 4.5.3.1.4): a longer initial response must wait for
/// the server's challenge (RFC 4954 section 4).
const LINE_BYTES_MAX: usize = 512;

/// Start-up check: what could never be sent is found before anything is.
pub(crate) fn check(server: &SmtpServer) -> Result<(), Error> {
    let Some(credentials) = &server.credentials else { return Ok(()) };
    let error = |problem| Err(Error::Credentials { host: server.host.clone(), problem });
    if credentials.user().is_empty() {
        return error("the user name is empty");
    }
    if credentials.secret().is_empty() {
        return error("there is a user but no password: set password_file, or remove the user from the URL");
    }
    // NUL separates the fields of PLAIN, 0x01 those of XOAUTH2; no real password has any control character.
    if [credentials.user(), credentials.secret().expose()].iter().any(|text| text.chars().any(char::is_control)) {
        return error("a control character in the user name or the password (a line end at its end, perhaps)");
    }
    Ok(())
}

/// Authenticates, if the route says so.
pub(crate) async fn authenticate(
    channel: &mut Channel,
    server: &SmtpServer,
    capabilities: &Capabilities,
    safe: bool,
) -> Result<(), Outcome> {
    let Some(credentials) = &server.credentials else { return Ok(()) };
    if !safe && !server.insecure_auth {
        let detail = "credentials are not sent over a connection that anybody could read: \
                      use starttls=required or smtps, or say insecure_auth=true";
        return Err(Outcome::not_sent(Phase::Auth, Cause::Unsupported, detail));
    }
    let (wanted, user, secret): (&[Mechanism], _, _) = match credentials {
        Credentials::Password { user, password } => (&[Mechanism::Plain, Mechanism::Login], user, password),
        Credentials::XOAuth2 { user, token } => (&[Mechanism::Xoauth2], user, token),
    };
    let Some(mechanism) = capabilities.mechanism(wanted) else {
        let detail = "the server offers no AUTH mechanism that fits the credentials";
        return Err(Outcome::not_sent(Phase::Auth, Cause::Unsupported, detail));
    };
    let sasl = sasl::Credentials::new(user.clone(), secret.expose().to_owned());
    let mut exchange = Exchange { channel, limit: server.timeouts.command, trust: server.trust };
    match mechanism {
        Mechanism::Login => exchange.login(&sasl).await,
        Mechanism::Plain | Mechanism::Xoauth2 => exchange.initial_response(mechanism, &sasl).await,
    }
}

struct Exchange<'a> {
    channel: &'a mut Channel,
    limit: Duration,
    trust: Trust,
}

impl Exchange<'_> {
    /// PLAIN and XOAUTH2: everything at once, or after an empty challenge when it is too long for one line.
    async fn initial_response(&mut self, mechanism: Mechanism, sasl: &sasl::Credentials) -> Result<(), Outcome> {
        let line = encoded(mechanism, sasl, None)?;
        let reply = match line.rsplit_once(' ') {
            Some((command, response)) if line.len() + 2 > LINE_BYTES_MAX => {
                self.ask(command, Some(334)).await?;
                self.ask(response, None).await?
            }
            _ => self.ask(&line, None).await?,
        };
        // XOAUTH2 explains a refusal in a challenge, and refuses after an empty answer to it.
        let reply =
            if reply.code == 334 && mechanism == Mechanism::Xoauth2 { self.ask("", None).await? } else { reply };
        self.granted(reply)
    }

    /// LOGIN: user name, then password. By position: the texts of the challenges mean nothing.
    async fn login(&mut self, sasl: &sasl::Credentials) -> Result<(), Outcome> {
        self.ask("AUTH LOGIN", Some(334)).await?;
        self.ask(&encoded(Mechanism::Login, sasl, Some("Username:"))?, Some(334)).await?;
        let reply = self.ask(&encoded(Mechanism::Login, sasl, Some("Password:"))?, None).await?;
        self.granted(reply)
    }

    async fn ask(&mut self, line: &str, expected: Option<u16>) -> Result<Reply, Outcome> {
        let reply = self.channel.ask(line.as_bytes(), self.limit).await;
        let reply = reply.map_err(|cause| classify(Phase::Auth, Event::Lost(cause), self.trust))?;
        if expected.is_none_or(|code| code == reply.code) {
            return Ok(reply);
        }
        Err(classify(Phase::Auth, Event::Reply(reply), self.trust))
    }

    fn granted(&self, reply: Reply) -> Result<(), Outcome> {
        if reply.code == 235 { Ok(()) } else { Err(classify(Phase::Auth, Event::Reply(reply), self.trust)) }
    }
}

/// A line of the exchange as lettre encodes it, without its line end.
fn encoded(mechanism: Mechanism, sasl: &sasl::Credentials, challenge: Option<&str>) -> Result<String, Outcome> {
    let auth = Auth::new(mechanism, sasl.clone(), challenge.map(str::to_owned))
        .map_err(|_| Outcome::not_sent(Phase::Auth, Cause::Aborted, "the credentials could not be encoded"))?;
    let mut line = auth.to_string();
    line.truncate(line.trim_end().len());
    Ok(line)
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt as _;

    use super::*;
    use crate::{
        config::Secret,
        wire::{Stream, tests::pair},
    };

    #[tokio::test]
    async fn credentials_do_not_leave_where_anybody_could_read_them_unless_the_route_says_so() {
        let capabilities = Capabilities::parse(b"mx\nAUTH PLAIN");
        let mut server = SmtpServer::new("mx.example", 25);
        server.credentials = Some(Credentials::Password { user: "user".to_owned(), password: Secret::new("canary") });
        server.timeouts.command = Duration::from_millis(50);
        let (wire, mut peer) = pair().await;
        let mut channel = Channel::new(Stream::Plain(wire));
        let outcome = authenticate(&mut channel, &server, &capabilities, false).await.expect_err("refused");
        let shown = format!("{outcome:?}");
        assert!(shown.contains("insecure_auth=true") && !shown.contains("canary"), "{shown}");
        server.insecure_auth = true;
        // Nobody answers; what matters is what was written, and that nothing was before.
        let outcome = authenticate(&mut channel, &server, &capabilities, false).await.expect_err("silence");
        assert_eq!((outcome.phase(), outcome.as_str()), (Phase::Auth, "not_sent"));
        let mut line = [0; 11];
        peer.read_exact(&mut line).await.expect("read");
        assert_eq!(&line, b"AUTH PLAIN ");
    }
}
