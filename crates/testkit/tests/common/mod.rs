//! A raw SMTP client: it sends what it is told to, and says exactly what came back.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "shared by several test binaries, and its caller is a test"
)]

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

/// How a client saw the dialogue stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Silence,
    Eof,
    Reset,
}

/// Silence can only be told by waiting; this long.
pub const QUIET: Duration = Duration::from_millis(200);

pub trait Socket: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Socket for S {}

pub struct Client<S = TcpStream> {
    pub stream: S,
    buffer: Vec<u8>,
}

impl Client {
    pub async fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self::over(stream)
    }

    /// Connects, and is greeted and known.
    pub async fn hello(address: SocketAddr) -> Self {
        let mut client = Self::connect(address).await;
        client.expect("220").await;
        client.ask("EHLO client.example", "250").await;
        client
    }
}

impl<S: Socket> Client<S> {
    pub fn over(stream: S) -> Self {
        Self { stream, buffer: Vec::new() }
    }

    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).await.unwrap();
        self.stream.flush().await.unwrap();
    }

    /// The next whole reply; nothing at the end of the stream.
    pub async fn reply(&mut self) -> String {
        loop {
            let mut end = 0;
            for line in self.buffer.split_inclusive(|byte| *byte == b'\n') {
                end += line.len();
                if line.ends_with(b"\n") && line.get(3) != Some(&b'-') {
                    let reply: Vec<u8> = self.buffer.drain(..end).collect();
                    return String::from_utf8_lossy(&reply).into_owned();
                }
            }
            if self.stream.read_buf(&mut self.buffer).await.unwrap() == 0 {
                return String::new();
            }
        }
    }

    #[track_caller]
    pub fn expect(&mut self, code: &str) -> impl Future<Output = String> {
        let caller = std::panic::Location::caller();
        async move {
            let reply = self.reply().await;
            assert!(reply.starts_with(code), "expected {code} at {caller}, got {reply:?}");
            reply
        }
    }

    pub async fn ask(&mut self, line: &str, code: &str) -> String {
        self.send(format!("{line}\r\n")).await;
        self.expect(code).await
    }

    /// Everything that comes until silence or the end. Silence is [`QUIET`] long, and before something `awaited` has
    /// come, as long as it takes: on a busy machine nothing comes soon.
    pub async fn observe(&mut self, awaited: End, bytes_awaited: bool) -> (Vec<u8>, End) {
        let mut seen = std::mem::take(&mut self.buffer);
        loop {
            let patient = awaited != End::Silence || (bytes_awaited && seen.is_empty());
            let limit = if patient { Duration::from_secs(20) } else { QUIET };
            match tokio::time::timeout(limit, self.stream.read_buf(&mut seen)).await {
                Err(_) => return (seen, End::Silence),
                Ok(Ok(0)) => return (seen, End::Eof),
                Ok(Ok(_)) => {}
                Ok(Err(_)) => return (seen, End::Reset),
            }
        }
    }

    /// MAIL, RCPT and DATA, each answered well.
    pub async fn envelope(&mut self, recipient: &str) {
        self.ask("MAIL FROM:<shop@example.com>", "250").await;
        self.ask(&format!("RCPT TO:<{recipient}>"), "250").await;
        self.ask("DATA", "354").await;
    }

    /// A message up to and including its end marker, with no reply read yet.
    pub async fn transmit(&mut self, message_id: &str, recipient: &str) {
        self.envelope(recipient).await;
        self.send(format!("Message-ID: <{message_id}>\r\n\r\nhello\r\n.\r\n")).await;
    }

    pub async fn deliver(&mut self, message_id: &str, recipient: &str) {
        self.transmit(message_id, recipient).await;
        self.expect("250").await;
    }
}
