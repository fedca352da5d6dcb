//! What the server receives is the message, all of it, and one of it; lettre's codec agrees with ours.

use std::{
    fmt, io,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
};

use hapax_mail::{Begun, MARKER, Message};
use hapax_testkit::{SmtpServer, smtp::TlsMode};
use lettre::transport::smtp::{
    client::{AsyncSmtpConnection, AsyncTokioStream},
    extension::ClientId,
};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, DuplexStream, ReadBuf};

use crate::kit::{self, Mail};

const HEADER: &str = "Message-ID: <x@shop.example>\r\n\r\n";

const BODIES: [&str; 22] = [
    "",
    "\r\n",
    "no line end",
    "one line\r\n",
    ".",
    ".\r\n",
    "..\r\n.\r\n...\r\n",
    "a\r\n.b\r\n..c\r\n",
    "a\r\n\r\n\r\n",
    "bare\nline\nfeeds\n",
    "bare\rcarriage\rreturns\r",
    // Smuggling: each of these ends a message for some server if it is sent as it is.
    "x\n.\nMAIL FROM:<evil@example.com>\n",
    "x\r.\rMAIL FROM:<evil@example.com>\r",
    "x\r\n.\nMAIL FROM:<evil@example.com>\r\n",
    "x\n.\r\nMAIL FROM:<evil@example.com>\r\n",
    "x\r\n.\rMAIL FROM:<evil@example.com>\r\n",
    "x\r.\r\nMAIL FROM:<evil@example.com>\r\n",
    "x\r\r\n.\r\r\nMAIL FROM:<evil@example.com>\r\n",
    "x\n\n.\n\n.\n",
    "x\r\n.\r\nMAIL FROM:<evil@example.com>\r\nRCPT TO:<ada@example.com>\r\nDATA\r\nspam\r\n.\r\nQUIT\r\n",
    "ends with a dot line\r\n.",
    "ends with a bare CR and a dot\r.",
];

fn normal(text: &str) -> String {
    let lines = text.replace("\r\n", "\n").replace('\r', "\n");
    let lines = lines.strip_suffix('\n').unwrap_or(&lines).to_owned();
    lines.replace('\n', "\r\n") + "\r\n"
}

#[tokio::test]
async fn every_body_arrives_as_one_message_with_its_line_ends_normalised() {
    for tls in [TlsMode::None, TlsMode::Implicit] {
        let server = SmtpServer::builder().tls(tls).start();
        let mut connection = kit::open(kit::route(&server, tls)).await;
        for body in BODIES {
            let raw = format!("{HEADER}{body}");
            let mail = Mail::raw("x@shop.example", raw.as_bytes());
            let transmitted = kit::deliver(connection, &mail).await;
            kit::assert_accepted(&transmitted);
            connection = transmitted.connection.expect("kept");
            let ledger = server.ledger();
            let received = ledger.messages().last().expect("a message").body.clone();
            assert_eq!(received.escape_ascii().to_string(), normal(&raw).as_bytes().escape_ascii().to_string());
            assert_eq!(
                received.escape_ascii().to_string(),
                mail.message.content().expect("in memory").escape_ascii().to_string()
            );
            assert_eq!(ledger.transactions().last().map(|last| last.body_bytes), Some(mail.message.wire_len() + 2));
        }
        connection.quit().await;
        let ledger = server.ledger();
        assert_eq!((ledger.totals().accepted, ledger.connections().len()), (BODIES.len(), 1), "{ledger}");
        assert_eq!(ledger.violations().count(), 0, "{ledger}");
    }
}

#[tokio::test]
async fn an_eight_bit_message_is_declared_and_arrives() {
    let server = SmtpServer::start();
    let mail = Mail::with_body("Grüße\r\n");
    assert!(mail.envelope.eight_bit);
    kit::assert_accepted(&kit::deliver(kit::open(kit::route(&server, TlsMode::None)).await, &mail).await);
    let ledger = server.ledger();
    let parameters = &ledger.transactions().next().expect("one").mail_parameters;
    assert!(parameters.contains(&"BODY=8BITMIME".to_owned()), "{parameters:?}");
    assert!(parameters.contains(&format!("SIZE={}", mail.message.size())), "{parameters:?}");
    assert_eq!(ledger.violations().count(), 0);
}

#[tokio::test]
async fn what_the_server_cannot_take_is_refused_without_asking_it_and_the_connection_stays() {
    let server = SmtpServer::builder()
        .capabilities(|offered| {
            offered.size = Some(200);
            offered.smtputf8 = false;
            offered.eight_bit_mime = false;
        })
        .start();
    let mut connection = kit::open(kit::route(&server, TlsMode::None)).await;
    let (big, eight_bit, mut utf8) = (Mail::big(300), Mail::with_body("é\r\n"), Mail::new());
    utf8.envelope.recipient = hapax_core::Recipient::parse("jörg@example.com").expect("an address");
    for (mail, short) in [(big, "refused mail"), (eight_bit, "not_sent mail unsupported"), (utf8, "refused mail")] {
        assert!(connection.accepts(&mail.envelope).is_err());
        match connection.begin(&mail.envelope).await {
            Begun::Ended { outcome, connection: Some(kept), stale: false } => {
                assert_eq!(kit::short(&outcome), short);
                connection = kept;
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((server.ledger().count_mail_commands(), connection.deliveries()), (0, 0));
    kit::assert_accepted(&kit::deliver(connection, &Mail::new()).await);
}

/// The other end of a pipe, for lettre.
#[derive(Debug)]
struct Pipe(DuplexStream);

impl AsyncRead for Pipe {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Pipe {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

impl AsyncTokioStream for Pipe {
    fn peer_addr(&self) -> io::Result<SocketAddr> {
        Ok(([127, 0, 0, 1], 25).into())
    }
}

/// What lettre writes for a message.
async fn written_by_lettre(message: &[u8]) -> Vec<u8> {
    let (ours, mut theirs) = tokio::io::duplex(1 << 20);
    theirs.write_all(b"220 mx\r\n250 mx\r\n").await.expect("written");
    let hello = ClientId::Domain("relay.example".to_owned());
    let mut lettre = AsyncSmtpConnection::connect_with_transport(Box::new(Pipe(ours)), &hello).await.expect("open");
    theirs.write_all(b"250 ok\r\n").await.expect("written");
    lettre.message_iter(std::iter::once(message)).await.expect("taken");
    drop(lettre);
    let mut written = Vec::new();
    theirs.read_to_end(&mut written).await.expect("read");
    written.strip_prefix(b"EHLO relay.example\r\n").expect("EHLO first").to_vec()
}

#[tokio::test]
async fn lettres_codec_writes_the_same_bytes() {
    for body in BODIES {
        let normal = normal(&format!("{HEADER}{body}"));
        let lettre = written_by_lettre(normal.strip_suffix("\r\n").expect("a line end").as_bytes()).await;
        let ours = [Message::new(normal.as_bytes()).wire_bytes(), MARKER].concat();
        assert_eq!(ours.escape_ascii().to_string(), lettre.escape_ascii().to_string());
    }
}

#[test]
fn no_formatting_shows_the_content_of_a_message() {
    fn shown(value: &dyn fmt::Debug) -> String {
        format!("{value:?} {value:#?}")
    }
    let mail = Mail::with_body("canary\r\n");
    let shown = [shown(&mail.message), shown(&mail.envelope.recipient)].concat();
    assert!(!shown.contains("canary") && !shown.contains(kit::ADA), "{shown}");
}
