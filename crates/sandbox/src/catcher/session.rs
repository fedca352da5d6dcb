//! One connection of the catcher: commands in, replies out.
//!
//! Replies are gathered while the client has pipelined whole lines, and are written before anything is waited for, so a
//! client that does not pipeline sees one packet per reply.

use std::io;
use std::sync::Arc;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

use super::{MESSAGE_BYTES_MAX, Received, Shared};
use crate::smtp::{DotDecoder, LineReader, parse_path, split_command};

const LINE_BYTES_MAX: usize = 4096;
const RECIPIENTS_MAX: usize = 1000;

struct Session<'a> {
    shared: &'a Shared,
    reader: LineReader<OwnedReadHalf>,
    writer: OwnedWriteHalf,
    replies: Vec<u8>,
    helo: String,
    sender: Option<String>,
    recipients: Vec<String>,
}

pub(super) async fn serve(stream: TcpStream, shared: &Shared) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let (reader, writer) = stream.into_split();
    let mut session = Session {
        shared,
        reader: LineReader::new(reader),
        writer,
        replies: Vec::new(),
        helo: String::new(),
        sender: None,
        recipients: Vec::new(),
    };
    session.reply("220 catcher.invalid ESMTP hapax catcher");
    session.run().await
}

impl Session<'_> {
    async fn run(&mut self) -> io::Result<()> {
        loop {
            if !self.reader.has_line() {
                self.flush().await?;
            }
            let Some(line) = self.reader.line(LINE_BYTES_MAX).await? else { return Ok(()) };
            let text = line.text();
            let (verb, rest) = split_command(&text);
            if !line.crlf {
                self.reply("500 5.5.2 a command ends in CRLF");
                continue;
            }
            match verb.as_str() {
                "DATA" => self.data().await?,
                "QUIT" => {
                    self.reply("221 2.0.0 bye");
                    return self.flush().await;
                }
                _ => self.command(&verb, rest),
            }
        }
    }

    fn command(&mut self, verb: &str, rest: &str) {
        match verb {
            "EHLO" => {
                self.reset();
                rest.clone_into(&mut self.helo);
                let size = format!("250-SIZE {MESSAGE_BYTES_MAX}");
                for line in ["250-catcher.invalid", "250-PIPELINING", "250-8BITMIME", "250-SMTPUTF8", &size] {
                    self.reply(line);
                }
                self.reply("250 ENHANCEDSTATUSCODES");
            }
            "HELO" => {
                self.reset();
                rest.clone_into(&mut self.helo);
                self.reply("250 catcher.invalid");
            }
            "MAIL" => self.mail(rest),
            "RCPT" => self.rcpt(rest),
            "RSET" => {
                self.reset();
                self.reply("250 2.0.0 reset");
            }
            "NOOP" => self.reply("250 2.0.0 ok"),
            "VRFY" => self.reply("252 2.1.5 send it and see"),
            _ => self.reply("500 5.5.1 unknown command"),
        }
    }

    fn mail(&mut self, rest: &str) {
        if self.sender.is_some() {
            return self.reply("503 5.5.1 MAIL was given already");
        }
        let Some((address, parameters)) = parse_path("FROM:", rest) else {
            return self.reply("501 5.5.4 MAIL FROM:<address>");
        };
        let declared = parameters.iter().find_map(|parameter| parameter.strip_prefix("SIZE=")?.parse::<usize>().ok());
        if declared.is_some_and(|size| size > MESSAGE_BYTES_MAX) {
            return self.reply("552 5.3.4 too big");
        }
        self.sender = Some(address.to_owned());
        self.reply("250 2.1.0 ok");
    }

    fn rcpt(&mut self, rest: &str) {
        let Some((address, _)) = parse_path("TO:", rest).filter(|(address, _)| !address.is_empty()) else {
            return self.reply("501 5.5.4 RCPT TO:<address>");
        };
        if self.sender.is_none() {
            return self.reply("503 5.5.1 MAIL first");
        }
        if self.recipients.len() == RECIPIENTS_MAX {
            return self.reply("452 4.5.3 too many recipients");
        }
        self.recipients.push(address.to_owned());
        self.reply("250 2.1.5 ok");
    }

    async fn data(&mut self) -> io::Result<()> {
        if self.recipients.is_empty() {
            self.reply("503 5.5.1 RCPT first");
            return Ok(());
        }
        self.reply("354 go ahead");
        self.flush().await?;
        let body = self.body().await?;
        let recipients = std::mem::take(&mut self.recipients);
        let sender = self.sender.take().unwrap_or_default();
        let Some(data) = body else {
            self.reply("552 5.3.4 too big");
            return Ok(());
        };
        let message = Received { sequence: 0, helo: self.helo.clone(), sender, recipients, data: Arc::from(data) };
        let recorded = self.shared.record(message).await;
        if !self.shared.options.reply_delay.is_zero() {
            tokio::time::sleep(self.shared.options.reply_delay).await;
        }
        match recorded {
            Ok(sequence) => self.reply(&format!("250 2.0.0 caught as {sequence}")),
            Err(error) => {
                tracing::warn!(error = %error, "catcher: could not write a message");
                self.reply("451 4.3.0 could not write the message");
            }
        }
        Ok(())
    }

    /// The message up to its end marker; `None` when it was too big (it is read to its end all the same).
    async fn body(&mut self) -> io::Result<Option<Vec<u8>>> {
        let (mut decoder, mut body, mut too_big) = (DotDecoder::new(), Vec::new(), false);
        loop {
            let (taken, done) = decoder.feed(self.reader.buffered(), &mut body);
            self.reader.consume(taken);
            if body.len() > MESSAGE_BYTES_MAX {
                too_big = true;
            }
            if too_big {
                body.clear();
            }
            if done {
                return Ok((!too_big).then_some(body));
            }
            if self.reader.fill().await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    fn reset(&mut self) {
        self.sender = None;
        self.recipients.clear();
    }

    fn reply(&mut self, line: &str) {
        self.replies.extend_from_slice(line.as_bytes());
        self.replies.extend_from_slice(b"\r\n");
    }

    async fn flush(&mut self) -> io::Result<()> {
        if !self.replies.is_empty() {
            self.writer.write_all(&self.replies).await?;
            self.replies.clear();
        }
        Ok(())
    }
}
