//! The catcher speaks SMTP, records before it answers, and is fast.

#![allow(clippy::unwrap_used, reason = "the helpers of a test may panic, too")]

use std::time::{Duration, Instant};

use hapax_sandbox::Catcher;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

struct Client(BufReader<TcpStream>);

impl Client {
    async fn connect(catcher: &Catcher) -> Self {
        let stream = TcpStream::connect(catcher.address()).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let mut client = Self(BufReader::new(stream));
        assert!(client.reply().await.starts_with("220 "));
        client
    }

    async fn reply(&mut self) -> String {
        let mut text = String::new();
        loop {
            let from = text.len();
            self.0.read_line(&mut text).await.unwrap();
            if text.as_bytes().get(from + 3) != Some(&b'-') {
                return text;
            }
        }
    }

    async fn send(&mut self, bytes: &str) {
        self.0.get_mut().write_all(bytes.as_bytes()).await.unwrap();
    }

    async fn ask(&mut self, line: &str) -> String {
        self.send(&format!("{line}\r\n")).await;
        self.reply().await
    }

    async fn mail(&mut self, recipient: &str, message: &str) -> String {
        self.send(&format!("MAIL FROM:<shop@example.com>\r\nRCPT TO:<{recipient}>\r\nDATA\r\n")).await;
        for expected in ["250", "250", "354"] {
            assert!(self.reply().await.starts_with(expected));
        }
        self.ask(&format!("{message}\r\n.")).await
    }
}

#[tokio::test]
async fn a_message_is_caught_with_its_envelope_and_its_bytes() {
    let catcher = Catcher::start().await.unwrap();
    let mut client = Client::connect(&catcher).await;
    let greeting = client.ask("EHLO me").await;
    for capability in ["PIPELINING", "8BITMIME", "SMTPUTF8", "SIZE ", "ENHANCEDSTATUSCODES"] {
        assert!(greeting.contains(capability), "{greeting}");
    }
    assert!(client.mail("ada@example.com", "Message-ID: <1@x>\r\n\r\n..dot\r\nend").await.starts_with("250 "));
    // Recorded before the reply: no waiting here.
    let received = catcher.received();
    assert_eq!(received.len(), 1);
    assert_eq!((received[0].sequence, received[0].helo.as_str()), (1, "me"));
    assert_eq!(received[0].sender, "shop@example.com");
    assert_eq!(received[0].recipients, ["ada@example.com"]);
    assert_eq!(&*received[0].data, b"Message-ID: <1@x>\r\n\r\n.dot\r\nend\r\n");
    assert_eq!(received[0].header("message-id").as_deref(), Some("<1@x>"));
    assert!(client.ask("QUIT").await.starts_with("221 "));
}

#[tokio::test]
async fn commands_out_of_order_and_half_messages_are_not_messages() {
    let catcher = Catcher::start().await.unwrap();
    let mut client = Client::connect(&catcher).await;
    assert!(client.ask("RCPT TO:<a@b>").await.starts_with("503"));
    assert!(client.ask("DATA").await.starts_with("503"));
    assert!(client.ask("MAIL FROM:<a@b> SIZE=99999999999").await.starts_with("552"));
    assert!(client.ask("MAIL FROM:<>").await.starts_with("250"));
    assert!(client.ask("RCPT TO:<>").await.starts_with("501"));
    assert!(client.ask("RCPT TO:<a@b>").await.starts_with("250"));
    assert!(client.ask("DATA").await.starts_with("354"));
    client.send("half\r\n.\n\n.\r\n").await;
    drop(client);
    assert!(Client::connect(&catcher).await.mail("a@b", "whole").await.starts_with("250"));
    assert_eq!(catcher.wait_for(1).await.len(), 1);
    assert_eq!(&*catcher.received()[0].data, b"whole\r\n");
}

#[tokio::test]
async fn the_delayed_reply_comes_after_the_record() {
    let catcher = Catcher::builder().reply_delay(Duration::from_millis(100)).start().await.unwrap();
    let mut client = Client::connect(&catcher).await;
    let started = Instant::now();
    let (reply, recorded) = tokio::join!(client.mail("a@b", "x"), async {
        catcher.wait_for(1).await;
        started.elapsed()
    });
    assert!(reply.starts_with("250"));
    assert!(recorded < Duration::from_millis(100) && started.elapsed() >= Duration::from_millis(100));
}

#[tokio::test]
async fn messages_are_written_to_the_directory() {
    let directory = tempfile::tempdir().unwrap();
    let catcher = Catcher::builder().directory(directory.path().join("mail")).start().await.unwrap();
    let mut client = Client::connect(&catcher).await;
    client.mail("ada@example.com", "Subject: x\r\n\r\nbody").await;
    let text = std::fs::read_to_string(directory.path().join("mail/00000001.eml")).unwrap();
    assert_eq!(text, "Return-Path: <shop@example.com>\r\nDelivered-To: ada@example.com\r\nSubject: x\r\n\r\nbody\r\n");
}

#[tokio::test]
async fn a_catcher_that_starts_again_replaces_no_message_of_before() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("notes.eml"), "not ours").unwrap();
    for recipient in ["ada@example.com", "bob@example.com"] {
        let catcher = Catcher::builder().directory(directory.path()).start().await.unwrap();
        Client::connect(&catcher).await.mail(recipient, "Subject: x\r\n\r\nbody").await;
        assert_eq!(catcher.count(), 1);
    }
    for (number, recipient) in [(1, "ada@example.com"), (2, "bob@example.com")] {
        let text = std::fs::read_to_string(directory.path().join(format!("{number:08}.eml"))).unwrap();
        assert!(text.contains(recipient), "{text}");
    }
}

#[tokio::test]
async fn the_oldest_messages_go_when_more_come_than_are_kept() {
    let catcher = Catcher::builder().messages_kept_max(2).start().await.unwrap();
    let mut client = Client::connect(&catcher).await;
    for recipient in ["a@x", "b@x", "c@x"] {
        client.mail(recipient, "x").await;
    }
    let received = catcher.received();
    assert_eq!((catcher.count(), received.len(), received[0].sequence), (3, 2, 2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_of_messages_are_a_matter_of_a_moment() {
    let catcher = Catcher::start().await.unwrap();
    let started = Instant::now();
    let clients = (0..4).map(async |_| {
        let mut client = Client::connect(&catcher).await;
        for _ in 0..500 {
            client.mail("a@b", &"0123456789".repeat(190)).await;
        }
    });
    let clients: Vec<_> = clients.map(Box::pin).collect();
    for client in clients {
        client.await;
    }
    println!("2000 messages of 1.9 kB, one connection after the other: {:?}", started.elapsed());
    assert_eq!(catcher.count(), 2000);
}
