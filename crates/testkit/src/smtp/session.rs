//! One connection of the scripted server.
//!
//! Invariants: every reply that the script can touch goes through [`Session::answer`]; refusals that the protocol
//! demands (503, 530, 552) are the server's own and are not scripted; a reply is written and flushed before the next
//! command is looked at.

mod auth;
mod data;
mod wire;

use std::io;
use std::sync::Arc;

use hapax_sandbox::smtp::{LineReader, parse_path, split_command};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use super::ledger::{Ended, Transaction};
use super::options::Options;
use super::script::{Action, Context, Fault, Phase};
use super::steps::{self, Answer, Step};
use super::tls::{Stream, TlsMode, Trickle};
use super::{Shared, lock};

const LINE_BYTES_MAX: usize = 64 * 1024;

/// Why a dialogue stops: the way out of every function here.
#[derive(Debug)]
enum Stop {
    Ended(Ended),
    Io(io::Error),
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

type Flow<T = ()> = Result<T, Stop>;

struct Session {
    shared: Arc<Shared>,
    /// `None` only while a TLS handshake owns the socket, and after it failed.
    reader: Option<LineReader<Stream>>,
    number: usize,
    tls: bool,
    greeted: bool,
    /// The greeting was a refusal: nothing but QUIT will do (RFC 5321 3.1).
    turned_away: bool,
    authenticated: bool,
    sender: Option<String>,
    recipients: Vec<String>,
    /// The number of the current or last transaction, from 1.
    transaction: usize,
    declared_bytes: Option<usize>,
    eight_bit: bool,
}

pub(super) async fn serve(stream: TcpStream, shared: Arc<Shared>, number: usize) -> Ended {
    // A socket that is gone already shows at the first write.
    let _ = stream.set_nodelay(true);
    let mut session = Session {
        reader: Some(LineReader::new(Stream::Plain(Trickle { tcp: stream, one_byte: false }))),
        shared,
        number,
        tls: false,
        greeted: false,
        turned_away: false,
        authenticated: false,
        sender: None,
        recipients: Vec::new(),
        transaction: 0,
        declared_bytes: None,
        eight_bit: false,
    };
    match session.dialogue().await {
        Ok(()) => Ended::ClientClosed,
        Err(Stop::Ended(ended)) => ended,
        Err(Stop::Io(error)) if error.kind() == io::ErrorKind::UnexpectedEof => Ended::ClientClosed,
        Err(Stop::Io(error)) => Ended::Lost(error.to_string()),
    }
}

impl Session {
    async fn dialogue(&mut self) -> Flow {
        if self.shared.open.load(std::sync::atomic::Ordering::Relaxed) > self.connections_max() {
            self.write(b"421 4.7.0 mx.invalid too many connections\r\n").await?;
            return self.close(Ended::Server).await;
        }
        self.answer(Phase::Connect, "", b"").await?;
        if self.options().tls == TlsMode::Implicit {
            self.handshake().await?;
        }
        let protocol = if self.options().lmtp { "LMTP" } else { "ESMTP" };
        let greeting = format!("220 mx.invalid {protocol} hapax-testkit\r\n");
        self.turned_away = self.answer(Phase::Greeting, "", greeting.as_bytes()).await? != Answer::Yes;
        loop {
            let Some(line) = self.reader().line(LINE_BYTES_MAX).await? else { return Ok(()) };
            let text = line.text();
            self.record(|connection| connection.commands.push(text.clone()));
            if !line.crlf {
                self.violation(format!("command ends in LF alone: {text:?}"));
            }
            if !self.options().capabilities.pipelining && self.reader().has_line() {
                self.violation(format!("commands were sent ahead behind {text:?}"));
            }
            self.command(&text).await?;
        }
    }

    async fn command(&mut self, line: &str) -> Flow {
        let (verb, rest) = split_command(line);
        let needs_greeting = matches!(verb.as_str(), "MAIL" | "RCPT" | "DATA" | "AUTH" | "STARTTLS");
        match verb.as_str() {
            "QUIT" => self.quit(line).await,
            _ if self.turned_away => self.refuse("503 5.5.1 I said no").await,
            _ if needs_greeting && !self.greeted => self.refuse("503 5.5.1 EHLO first").await,
            "EHLO" | "HELO" if !self.options().lmtp => self.ehlo(line, rest, verb == "EHLO").await,
            "LHLO" if self.options().lmtp => self.ehlo(line, rest, true).await,
            "STARTTLS" => self.start_tls(line).await,
            "AUTH" => self.auth(line, rest).await,
            "MAIL" => {
                self.shared.ledger().count_mail();
                self.mail(line, rest).await
            }
            "RCPT" => self.rcpt(line, rest).await,
            "DATA" => self.data(line).await,
            "RSET" => {
                self.reset();
                self.refuse("250 2.0.0 reset").await
            }
            "NOOP" => self.refuse("250 2.0.0 ok").await,
            "VRFY" => self.refuse("252 2.1.5 send it and see").await,
            _ => self.refuse("500 5.5.1 unknown command").await,
        }
    }

    async fn quit(&mut self, line: &str) -> Flow {
        self.record(|connection| connection.ended = Some(Ended::Quit));
        self.answer(Phase::Quit, line, b"221 2.0.0 bye\r\n").await?;
        self.close(Ended::Quit).await
    }

    async fn ehlo(&mut self, line: &str, name: &str, extended: bool) -> Flow {
        self.reset();
        self.record(|connection| connection.ehlo = Some(name.to_owned()));
        let good = if extended { self.capabilities() } else { "250 mx.invalid\r\n".to_owned() };
        let answer = self.answer(Phase::Ehlo, line, good.as_bytes()).await?;
        self.greeted |= answer == Answer::Yes;
        Ok(())
    }

    fn capabilities(&self) -> String {
        let offered = &self.options().capabilities;
        let mut lines = vec!["mx.invalid".to_owned()];
        let flags = [
            (offered.pipelining, "PIPELINING"),
            (offered.smtputf8, "SMTPUTF8"),
            (offered.eight_bit_mime, "8BITMIME"),
            (offered.enhanced_status_codes, "ENHANCEDSTATUSCODES"),
            (self.options().tls == TlsMode::StartTls && !self.tls, "STARTTLS"),
        ];
        lines.extend(flags.into_iter().filter(|(on, _)| *on).map(|(_, name)| name.to_owned()));
        lines.extend(offered.size.map(|bytes| format!("SIZE {bytes}")));
        if !offered.auth.is_empty() {
            lines.push(format!("AUTH {}", offered.auth.join(" ")));
        }
        lines.extend(offered.extra.iter().cloned());
        let last = lines.len() - 1;
        let line = |(index, line)| format!("250{}{line}\r\n", if index == last { ' ' } else { '-' });
        lines.into_iter().enumerate().map(line).collect()
    }

    async fn start_tls(&mut self, line: &str) -> Flow {
        if self.options().tls != TlsMode::StartTls || self.tls {
            return self.refuse("502 5.5.1 STARTTLS is not offered").await;
        }
        if self.answer(Phase::StartTls, line, b"220 2.0.0 go ahead\r\n").await? == Answer::Yes {
            self.handshake().await?;
        }
        Ok(())
    }

    async fn handshake(&mut self) -> Flow {
        let slowly = match self.decide(Phase::Tls, "").await {
            Action::Proceed => false,
            Action::Fault(Fault::ByteByByte) | Action::TakeThen(Fault::ByteByByte) => true,
            Action::Fault(fault) | Action::TakeThen(fault) => {
                let (steps, answer) = steps::steps(&fault, Phase::Tls, b"");
                self.perform(steps, answer).await?;
                false
            }
        };
        let (stream, early) = self.reader.take().expect("nobody else shakes hands").into_parts();
        if !early.is_empty() && self.options().tls == TlsMode::StartTls {
            self.violation(format!("{} bytes were sent ahead of the handshake", early.len()));
        }
        let Stream::Plain(mut trickle) = stream else {
            return Err(Stop::Io(io::Error::other("TLS inside TLS")));
        };
        trickle.one_byte = slowly;
        let acceptor = TlsAcceptor::from(Arc::clone(&super::lock(&self.shared.tls)));
        let stream = acceptor.accept(trickle).await?;
        self.reader = Some(LineReader::new(Stream::Tls(Box::new(stream))));
        self.tls = true;
        // RFC 3207 4.2: everything said before is forgotten.
        self.greeted = false;
        self.reset();
        self.record(|connection| connection.tls = true);
        Ok(())
    }

    async fn mail(&mut self, line: &str, rest: &str) -> Flow {
        let options = self.options();
        if options.require_tls && !self.tls {
            return self.refuse("530 5.7.0 STARTTLS first").await;
        }
        if options.require_auth && !self.authenticated {
            return self.refuse("530 5.7.0 AUTH first").await;
        }
        if self.sender.is_some() {
            return self.refuse("503 5.5.1 MAIL was given already").await;
        }
        let Some((address, parameters)) = parse_path("FROM:", rest) else {
            return self.refuse("501 5.5.4 MAIL FROM:<address>").await;
        };
        let value = |name: &str| {
            let is = |parameter: &&&str| parameter.split('=').next().is_some_and(|key| key.eq_ignore_ascii_case(name));
            parameters.iter().find(is).map(|parameter| parameter.split_once('=').map_or("", |pair| pair.1))
        };
        self.declared_bytes = value("SIZE").and_then(|text| text.parse().ok());
        self.eight_bit = value("BODY").is_some_and(|body| body.eq_ignore_ascii_case("8BITMIME"));
        let offered = &self.options().capabilities;
        let unknown = value("SMTPUTF8").is_some() && !offered.smtputf8
            || value("BODY").is_some() && !offered.eight_bit_mime
            || value("SIZE").is_some() && offered.size.is_none();
        if unknown {
            return self.refuse("555 5.5.4 a parameter that was not offered").await;
        }
        if self.declared_bytes.zip(offered.size).is_some_and(|(declared, most)| declared > most) {
            return self.refuse("552 5.3.4 too big").await;
        }
        self.begin(address, &parameters);
        if self.answer(Phase::Mail, line, b"250 2.1.0 ok\r\n").await? != Answer::Yes {
            self.sender = None;
        }
        Ok(())
    }

    fn begin(&mut self, address: &str, parameters: &[&str]) {
        self.transaction += 1;
        self.sender = Some(address.to_owned());
        self.recipients.clear();
        let transaction = Transaction {
            connection: self.number,
            number: self.transaction,
            sender: address.to_owned(),
            mail_parameters: parameters.iter().map(|parameter| (*parameter).to_owned()).collect(),
            ..Transaction::default()
        };
        self.record(|connection| connection.transactions.push(transaction));
    }

    async fn rcpt(&mut self, line: &str, rest: &str) -> Flow {
        let Some((address, _)) = parse_path("TO:", rest).filter(|(address, _)| !address.is_empty()) else {
            return self.refuse("501 5.5.4 RCPT TO:<address>").await;
        };
        self.shared.ledger().count_rcpt(address);
        if self.sender.is_none() {
            return self.refuse("503 5.5.1 MAIL first").await;
        }
        // Refused until the good reply has been decided on.
        self.recipients.push(address.to_owned());
        self.record_transaction(|transaction| transaction.recipients_refused.push(address.to_owned()));
        if self.answer(Phase::Rcpt, line, b"250 2.1.5 ok\r\n").await? == Answer::Yes {
            self.record_transaction(|transaction| {
                transaction.recipients.extend(transaction.recipients_refused.pop());
            });
        } else {
            self.recipients.pop();
        }
        Ok(())
    }

    fn reset(&mut self) {
        self.sender = None;
        self.recipients.clear();
    }

    fn context(&self, phase: Phase, command: &str) -> Context {
        // The one that is asked about, then the first: the same one when there is only one.
        let recipient = if phase == Phase::Rcpt { self.recipients.last() } else { self.recipients.first() }.cloned();
        let ledger = self.shared.ledger();
        let connection = &ledger.connections[self.number - 1];
        Context {
            phase,
            connection: self.number,
            transaction: self.transaction,
            tls: self.tls,
            sender: self.sender.clone(),
            recipient_seen: recipient.as_deref().map_or(0, |address| ledger.count_rcpt_commands(address)),
            recipient,
            message_id: connection.transactions.last().and_then(|transaction| transaction.message_id.clone()),
            command: command.to_owned(),
        }
    }

    fn options(&self) -> &Options {
        &self.shared.options
    }

    fn connections_max(&self) -> usize {
        self.shared.connections_max.load(std::sync::atomic::Ordering::Relaxed)
    }

    fn reader(&mut self) -> &mut LineReader<Stream> {
        self.reader.as_mut().expect("the handshake gives the socket back or ends the dialogue")
    }

    fn record<T>(&self, change: impl FnOnce(&mut super::ledger::Connection) -> T) -> T {
        self.shared.record(self.number, change)
    }

    fn record_transaction(&self, change: impl FnOnce(&mut Transaction)) {
        self.record(|connection| connection.transactions.last_mut().map(change));
    }

    fn violation(&self, text: String) {
        self.record(|connection| connection.violations.push(text));
    }

    /// What the script says here, once no gate is closed.
    async fn decide(&mut self, phase: Phase, command: &str) -> Action {
        self.shared.gates.pass(phase).await;
        self.ask(phase, command)
    }

    /// What the script says here.
    fn ask(&self, phase: Phase, command: &str) -> Action {
        let context = self.context(phase, command);
        // Cloned, so that no lock is held while a closure of the test runs.
        let script = lock(&self.shared.script).clone();
        script.decide(&context)
    }

    /// The reply to a step: the good one, or what the script says.
    async fn answer(&mut self, phase: Phase, command: &str, good: &[u8]) -> Flow<Answer> {
        match self.decide(phase, command).await {
            Action::Proceed => {
                self.write(good).await?;
                Ok(Answer::Yes)
            }
            Action::Fault(fault) | Action::TakeThen(fault) => {
                let (steps, answer) = steps::steps(&fault, phase, good);
                self.perform(steps, answer).await
            }
        }
    }

    /// The server's own word, which is no business of the script.
    async fn refuse(&mut self, line: &str) -> Flow {
        self.write(format!("{line}\r\n").as_bytes()).await
    }

    async fn perform(&mut self, steps: Vec<Step>, answer: Answer) -> Flow<Answer> {
        for step in steps {
            self.perform_step(step).await?;
        }
        Ok(answer)
    }
}
