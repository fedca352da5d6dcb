//! Replies nobody asked for (RC-49), and connections that died or were spoken to while idle.

use std::{
    io::Write as _,
    sync::{Arc, Mutex},
    time::Duration,
};

use hapax_core::{Outcome, clock::Clock};
use hapax_mail::{Begun, Connection, Gate, Heartbeat};
use hapax_testkit::{Action, Fault, Phase, Rule, Script, SmtpServer, smtp::TlsMode};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

use crate::kit::{self, Mail};

/// Reads until the bytes end with `end`.
async fn read_until(stream: &mut TcpStream, end: &[u8]) -> Vec<u8> {
    let mut read = Vec::new();
    while !read.ends_with(end) {
        let byte = stream.read_u8().await.expect("more bytes");
        read.push(byte);
    }
    read
}

/// A server that a test plays itself, up to the end of EHLO, and the connection to it.
async fn played(capabilities: &str) -> (TcpStream, Connection) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let mut route = hapax_mail::SmtpServer::new("127.0.0.1", listener.local_addr().expect("bound").port());
    route.security = hapax_mail::Security::None;
    route.timeouts = kit::timeouts(kit::LONG);
    let greet = async {
        let (mut stream, _) = listener.accept().await.expect("accepted");
        stream.set_nodelay(true).expect("set");
        stream.write_all(b"220 mx.example ready\r\n").await.expect("written");
        read_until(&mut stream, b"\r\n").await;
        stream.write_all(format!("250-mx.example\r\n250 {capabilities}\r\n").as_bytes()).await.expect("written");
        stream
    };
    tokio::join!(greet, kit::open(route))
}

/// Waits until what the server did has arrived at our end of the connection.
async fn noticed(connection: &mut Connection) {
    while connection.is_still_open() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn with_pipelining_mail_rcpt_and_data_are_one_write_and_a_delivery_takes_two_round_trips() {
    let (mut server, connection) = played("PIPELINING").await;
    let mail = Mail::new();
    let group = async {
        let mut bytes = [0; 4_096];
        let count = server.read(&mut bytes).await.expect("read");
        server.write_all(b"250 ok\r\n250 ok\r\n354 go\r\n").await.expect("written");
        (bytes[..count].to_vec(), server)
    };
    let ((first, mut server), data) = tokio::join!(group, kit::ready(connection, &mail));
    let expected = format!("MAIL FROM:<shop@example.com>\r\nRCPT TO:<{}>\r\nDATA\r\n", kit::ADA);
    assert_eq!(first.escape_ascii().to_string(), expected.as_bytes().escape_ascii().to_string(), "in one segment");
    let rest = async {
        let body = read_until(&mut server, b"\r\n.\r\n").await;
        server.write_all(b"250 taken\r\n").await.expect("written");
        body
    };
    let gate = kit::gate();
    let (body, transmitted) = tokio::join!(rest, data.transmit(&mail.message, &gate));
    kit::assert_accepted(&transmitted);
    assert_eq!(body.len(), transmitted.bytes);
}

#[tokio::test]
async fn rc49_a_reply_that_waits_before_mail_is_no_answer_to_it_and_a_used_connection_is_stale() {
    for stray in
        [&b"250 surprise\r\n"[..], b"421 idle too long\r\n", b"554 go away\r\n", b"354 what\r\n", b"garbage", b"2"]
    {
        let server = SmtpServer::start();
        let connection = kit::open(kit::route(&server, TlsMode::None)).await;
        let mail = Mail::new();
        // After the reply to the first marker, in a packet of its own as far as the client can tell.
        server.script(Script::fault(Phase::EndMarker { took: true }, Fault::Stray(stray.to_vec())));
        let transmitted = kit::deliver(connection, &mail).await;
        assert_eq!(transmitted.outcome.as_str(), "accepted", "{stray:?}");
        assert!(transmitted.connection.is_none(), "two replies at once: {stray:?}");
        // And later, while it is idle.
        let (mut server, connection) = played("PIPELINING").await;
        let serve = async {
            read_until(&mut server, b"DATA\r\n").await;
            server.write_all(b"250 ok\r\n250 ok\r\n354 go\r\n").await.expect("written");
            read_until(&mut server, b"\r\n.\r\n").await;
            server.write_all(b"250 taken\r\n").await.expect("written");
            server
        };
        let (mut server, transmitted) = tokio::join!(serve, kit::deliver(connection, &mail));
        kit::assert_accepted(&transmitted);
        let mut connection = transmitted.connection.expect("kept");
        assert!(connection.is_still_open());
        server.write_all(stray).await.expect("written");
        noticed(&mut connection).await;
        match connection.begin(&Mail::new().envelope).await {
            Begun::Ended { outcome: Outcome::NotSent { .. }, connection: None, stale: true } => {}
            other => panic!("{stray:?}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn a_connection_that_was_closed_while_idle_is_stale_and_a_fresh_one_is_not() {
    for reset in [false, true] {
        for used in [false, true] {
            let server = SmtpServer::start();
            let mut connection = kit::open(kit::route(&server, TlsMode::None)).await;
            if used {
                let fault = if reset { Fault::GoodThenReset } else { Fault::GoodThenEof };
                server.script(Script::fault(Phase::EndMarker { took: true }, fault));
                let transmitted = kit::deliver(connection, &Mail::new()).await;
                kit::assert_accepted(&transmitted);
                connection = transmitted.connection.expect("kept");
            } else {
                server.stop().await;
            }
            noticed(&mut connection).await;
            match connection.begin(&Mail::new().envelope).await {
                Begun::Ended { outcome: Outcome::NotSent { .. }, connection: None, stale } => assert_eq!(stale, used),
                other => panic!("{other:?}"),
            }
        }
    }
}

#[tokio::test]
async fn a_421_in_reply_to_the_next_mail_is_stale_but_a_refusal_is_not() {
    for (fault, expected) in
        [(Fault::Reply421, true), (Fault::Reply4xx, false), (Fault::Eof, true), (Fault::Reset, true)]
    {
        for pipelining in [true, false] {
            let server = SmtpServer::builder().capabilities(|offered| offered.pipelining = pipelining).start();
            server.script(Script::rules([Rule::at(Phase::Mail, fault.clone()).transaction(2)]));
            let transmitted = kit::deliver(kit::open(kit::route(&server, TlsMode::None)).await, &Mail::new()).await;
            let connection = transmitted.connection.expect("kept");
            match connection.begin(&Mail::new().envelope).await {
                Begun::Ended { stale, connection, .. } => {
                    assert_eq!((stale, connection.is_some()), (expected, !expected), "{fault:?}");
                }
                other @ Begun::Ready(_) => panic!("{other:?}"),
            }
        }
    }
}

#[tokio::test]
async fn rc49_a_reply_between_354_and_marker_never_answers_the_marker() {
    let cases: [(&[u8], bool, &str); 8] = [
        (b"250 early\r\n", true, "not_sent body unexpected"),
        (b"421 bye\r\n", true, "not_sent body unexpected"),
        (b"451 later\r\n", true, "not_sent body unexpected"),
        (b"552 too big\r\n", true, "not_sent body unexpected"),
        (b"354 go on\r\n", true, "not_sent body unexpected"),
        (b"nonsense\r\n", true, "not_sent body malformed"),
        (b"250 early\r\n", false, "unknown unexpected"),
        (b"552 too big\r\n", false, "not_sent body unexpected"),
    ];
    for (stray, before_body, expected) in cases {
        let (mut server, connection) = played("PIPELINING").await;
        let mail = Mail::big(if before_body { 100 } else { 10_000_000 });
        let serve = async {
            read_until(&mut server, b"DATA\r\n").await;
            server.write_all(b"250 ok\r\n250 ok\r\n354 go\r\n").await.expect("written");
            server
        };
        let (mut server, data) = tokio::join!(serve, kit::ready(connection, &mail));
        let gate = kit::gate();
        if before_body {
            server.write_all(stray).await.expect("written");
            // Loopback delivers within the write: what was written has arrived.
        }
        let speak = async {
            if !before_body {
                server.read_u8().await.expect("the body has begun");
                server.write_all(stray).await.expect("written");
            }
            server
        };
        let (transmitted, mut server) = tokio::join!(data.transmit(&mail.message, &gate), speak);
        assert_eq!(kit::short(&transmitted.outcome), expected, "{}", stray.escape_ascii());
        assert!(!transmitted.marker_begun && transmitted.connection.is_none());
        let mut rest = Vec::new();
        let _ = server.read_to_end(&mut rest).await;
        assert!(!rest.ends_with(b"\r\n.\r\n") && !String::from_utf8_lossy(&rest).contains("QUIT"));
    }
}

/// A clock that makes the server speak (or close) when it is asked the time: the gate asks it before the body, after
/// the first look into the read buffer.
struct Prompt(Mutex<Option<(std::net::TcpStream, &'static [u8])>>);

impl std::fmt::Debug for Prompt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Prompt")
    }
}

impl Clock for Prompt {
    fn boottime(&self) -> Duration {
        if let Some((mut server, words)) = self.0.lock().expect("not poisoned").take() {
            server.write_all(words).expect("written");
            // Whatever was said, the server goes on and takes the message, for as long as there is one to take.
            if !words.is_empty() {
                std::mem::forget(server);
            }
        }
        Duration::ZERO
    }
}

#[tokio::test]
async fn rc49_a_reply_that_arrives_while_a_body_is_written_is_found_right_before_the_marker() {
    // What was said, and what it means behind a whole body. A small body shares its write with the marker: what arrives
    // before it is found before anything of either is written, so that not even a 2xx can be about it.
    let cases: [(&[u8], &str); 6] = [
        (b"250 2.0.0 taken\r\n", "unknown unexpected"),
        (b"421 bye\r\n", "not_sent body unexpected"),
        (b"451 later\r\n", "not_sent body unexpected"),
        (b"552 too big\r\n", "not_sent body unexpected"),
        (b"nonsense\r\n", "not_sent body malformed"),
        (b"", "not_sent body eof"),
    ];
    let both = cases.into_iter().flat_map(|(words, expected)| [(words, expected, true), (words, expected, false)]);
    for (words, expected, small) in both {
        let (mut server, connection) = played("PIPELINING").await;
        let mail = if small { Mail::new() } else { Mail::big(20_000) };
        let expected = if small { expected.replace("unknown", "not_sent body") } else { expected.to_owned() };
        let serve = async {
            read_until(&mut server, b"DATA\r\n").await;
            server.write_all(b"250 ok\r\n250 ok\r\n354 go\r\n").await.expect("written");
            server
        };
        let (server, data) = tokio::join!(serve, kit::ready(connection, &mail));
        let server = server.into_std().expect("a socket");
        let heartbeat = Arc::new(Heartbeat::new(kit::LONG));
        heartbeat.record(Duration::ZERO);
        let gate = Gate::until(Arc::new(Prompt(Mutex::new(Some((server, words))))), kit::LONG, heartbeat);
        let transmitted = data.transmit(&mail.message, &gate).await;
        assert_eq!(kit::short(&transmitted.outcome), expected, "{}", words.escape_ascii());
        assert!(!transmitted.marker_begun && !gate.marker_begun() && transmitted.connection.is_none());
        let body = if small { 0 } else { mail.message.wire_len() };
        assert_eq!(transmitted.bytes, body, "all of the body, or nothing, and nothing of the marker");
    }
}

#[tokio::test]
async fn rc49_a_refusal_that_crossed_the_end_marker_is_believed_only_when_nothing_but_goodbye_follows() {
    // What the server says when it has read the marker (a refusal, meant for something before it, perhaps), and what
    // when it has read the QUIT behind it.
    let cases: [(&[u8], &[u8], &str); 8] = [
        (b"451 later\r\n", b"221 bye\r\n", "deferred end_marker"),
        (b"554 5.7.1 spam\r\n", b"221 bye\r\n", "refused end_marker"),
        (b"451 later\r\n", b"", "deferred end_marker"),
        (b"451 later\r\n", b"250 taken\r\n221 bye\r\n", "unknown"),
        (b"554 no\r\n", b"250 taken\r\n221 bye\r\n", "unknown"),
        (b"451 later\r\n250 taken\r\n", b"221 bye\r\n", "unknown"),
        (b"451 later\r\n", b"554 no\r\n221 bye\r\n", "unknown"),
        (b"451 later\r\n", b"what?\r\n", "unknown"),
    ];
    for (to_marker, to_quit, expected) in cases {
        let (mut server, connection) = played("PIPELINING").await;
        let mail = Mail::new();
        let group = async {
            read_until(&mut server, b"DATA\r\n").await;
            server.write_all(b"250 ok\r\n250 ok\r\n354 go\r\n").await.expect("written");
        };
        let ((), data) = tokio::join!(group, kit::ready(connection, &mail));
        let rest = async move {
            read_until(&mut server, b"\r\n.\r\n").await;
            server.write_all(to_marker).await.expect("written");
            if !to_marker.ends_with(b"taken\r\n") {
                assert_eq!(read_until(&mut server, b"\r\n").await, b"QUIT\r\n");
                server.write_all(to_quit).await.expect("written");
            }
        };
        let gate = kit::gate();
        let ((), transmitted) = tokio::join!(rest, data.transmit(&mail.message, &gate));
        let told = kit::short(&transmitted.outcome);
        assert!(told.starts_with(expected), "{} then {}: {told}", to_marker.escape_ascii(), to_quit.escape_ascii());
        assert!(transmitted.connection.is_none(), "a connection that was told to quit is of no further use");
    }
}

#[tokio::test]
async fn a_354_to_data_after_a_refused_recipient_drops_the_connection_without_a_lone_dot() {
    let (mut server, connection) = played("PIPELINING").await;
    let serve = async {
        read_until(&mut server, b"DATA\r\n").await;
        server.write_all(b"250 ok\r\n550 5.1.1 no such user\r\n354 go\r\n").await.expect("written");
        let mut rest = Vec::new();
        let _ = server.read_to_end(&mut rest).await;
        rest
    };
    let mail = Mail::new();
    // The connection that is not given back is dropped inside.
    let (rest, begun) = tokio::join!(serve, connection.begin(&mail.envelope));
    match begun {
        Begun::Ended { outcome, connection: None, stale: false } => assert_eq!(kit::short(&outcome), "refused rcpt"),
        other => panic!("{other:?}"),
    }
    assert_eq!(rest, b"");
}

#[tokio::test]
async fn after_a_refused_recipient_the_connection_is_reset_and_used_again() {
    for pipelining in [true, false] {
        let server = SmtpServer::builder().capabilities(|offered| offered.pipelining = pipelining).start();
        server.script(Script::from_fn(|context| match (context.phase, context.transaction) {
            (Phase::Mail, 1) | (Phase::Rcpt, 2) | (Phase::Data, 3) => Action::Fault(Fault::Reply5xx),
            _ => Action::Proceed,
        }));
        let mut connection = kit::open(kit::route(&server, TlsMode::None)).await;
        for phase in ["mail", "rcpt", "data"] {
            let transmitted = kit::deliver(connection, &Mail::new()).await;
            assert_eq!(kit::short(&transmitted.outcome), format!("refused {phase}"));
            connection = transmitted.connection.expect("kept");
        }
        let good = Mail::new();
        let transmitted = kit::deliver(connection, &good).await;
        kit::assert_accepted(&transmitted);
        transmitted.connection.expect("kept").quit().await;
        let ledger = server.ledger();
        ledger.assert_each_accepted_once([(&good.id, kit::ADA)]);
        assert_eq!((ledger.count_commands("RSET"), ledger.connections().len()), (3, 1), "{ledger}");
        assert_eq!(ledger.violations().count(), 0, "{ledger}");
    }
}
