//! Every phase times every fault reaches the wire as scripted, and the ledger counts right.

#![allow(clippy::unwrap_used, reason = "the helpers of a test may panic, too")]

mod common;

use std::sync::Arc;
use std::time::{Duration, Instant};

use common::{Client, End};
use hapax_testkit::smtp::{TlsMode, matrix};
use hapax_testkit::{Fault, Phase, Script, SmtpServer};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

const DELAY: Duration = Duration::from_millis(60);
const CELLS_AT_ONCE: usize = 24;
const BODY_BYTES: usize = 400;

#[tokio::test]
async fn every_phase_with_every_fault_is_seen_by_the_client_as_scripted() {
    let permits = Arc::new(Semaphore::new(CELLS_AT_ONCE));
    let mut cells = JoinSet::new();
    for (phase, fault) in matrix(DELAY) {
        let permits = Arc::clone(&permits);
        cells.spawn(async move {
            let _permit = permits.acquire_owned().await.unwrap();
            cell(phase, fault).await;
        });
    }
    let count = cells.len();
    while let Some(done) = cells.join_next().await {
        done.unwrap();
    }
    println!("{count} cells");
    assert_eq!(count, 15 * 20 - 10, "the matrix is complete");
}

async fn cell(phase: Phase, fault: Fault) {
    let server = SmtpServer::builder()
        .tls(TlsMode::StartTls)
        .credentials("hapax", "secret")
        .script(Script::fault(phase, fault.clone()))
        .start();
    let stream = TcpStream::connect(server.address()).await;
    if matches!(phase, Phase::Connect | Phase::Greeting) && stream.is_err() {
        // So fast a reset that already the connect reports it.
        return assert_eq!(expected_end(phase, &fault), End::Reset);
    }
    let mut client = Client::over(stream.unwrap());
    let asked = bring_to(&mut client, phase).await;
    if phase == Phase::Tls && matches!(fault, Fault::DelayedGood(_) | Fault::ByteByByte) {
        // A handshake of its own kind; tests/tls.rs does it.
        return;
    }
    let (seen, end) = client.observe(expected_end(phase, &fault), says_something(phase, &fault)).await;
    let name =
        format!("{phase:?} {fault:?}: saw {:?} then {end:?}", String::from_utf8_lossy(&seen[..seen.len().min(200)]));
    check_bytes(phase, &fault, &seen, &name);
    assert_eq!(end, expected_end(phase, &fault), "{name}");
    if let Fault::DelayedGood(delay) = fault {
        assert!(asked.elapsed() >= delay, "{name}: too early");
    }
    check_ledger(phase, &fault, &server).await;
}

/// Speaks well until the reply of `phase` is due, and returns when that was.
async fn bring_to(client: &mut Client, phase: Phase) -> Instant {
    let start = Instant::now();
    if matches!(phase, Phase::Connect | Phase::Greeting) {
        return start;
    }
    client.expect("220").await;
    let dialogue = [
        (Phase::Ehlo, "EHLO client.example", "250"),
        (Phase::StartTls, "STARTTLS", "220"),
        (Phase::Auth, "AUTH PLAIN AGhhcGF4AHNlY3JldA==", "235"),
        (Phase::Mail, "MAIL FROM:<shop@example.com> SIZE=400", "250"),
        (Phase::Rcpt, "RCPT TO:<ada@example.com>", "250"),
        (Phase::Data, "DATA", "354"),
    ];
    for (step, line, code) in dialogue {
        let last = step.same_step(phase);
        if step == Phase::StartTls && !last && phase != Phase::Tls {
            continue;
        }
        let asked = Instant::now();
        client.send(format!("{line}\r\n")).await;
        if last {
            return asked;
        }
        client.expect(code).await;
        if step == Phase::StartTls {
            return Instant::now();
        }
    }
    let head = "Message-ID: <m1@example.com>\r\n\r\n";
    let body = format!("{head}{}\r\n", "x".repeat(BODY_BYTES - head.len() - 2));
    if let Phase::Body { percent } = phase {
        client.send(&body.as_bytes()[..BODY_BYTES * usize::from(percent) / 100]).await;
        return Instant::now();
    }
    client.send(format!("{body}.\r\n")).await;
    if phase == Phase::Quit {
        client.expect("250").await;
        client.send("QUIT\r\n").await;
    }
    Instant::now()
}

fn expected_end(phase: Phase, fault: &Fault) -> End {
    match fault {
        Fault::Eof | Fault::HalfLineEof | Fault::Reply421 | Fault::GoodThenEof => End::Eof,
        Fault::Reset | Fault::GoodThenReset => End::Reset,
        Fault::Stall | Fault::HalfLine => End::Silence,
        // Plain text instead of a handshake cannot go on, and nothing goes on after QUIT.
        _ if matches!(phase, Phase::Tls | Phase::Quit) => End::Eof,
        _ => End::Silence,
    }
}

/// Whether at least a byte comes before the end or the silence.
fn says_something(phase: Phase, fault: &Fault) -> bool {
    match fault {
        Fault::Stall | Fault::Eof | Fault::Reset => false,
        Fault::GoodThenEof | Fault::GoodThenReset => phase != Phase::Connect,
        Fault::DelayedGood(_) => !matches!(phase, Phase::Body { .. }),
        _ => true,
    }
}

fn good_code(phase: Phase) -> &'static str {
    match phase {
        Phase::Connect | Phase::Tls | Phase::Greeting | Phase::StartTls => "220",
        Phase::Auth => "235",
        Phase::Data => "354",
        Phase::Quit => "221",
        _ => "250",
    }
}

fn check_bytes(phase: Phase, fault: &Fault, seen: &[u8], name: &str) {
    let code = good_code(phase).as_bytes();
    let starts = |prefix: &[u8]| assert!(seen.starts_with(prefix), "{name}");
    let lines = seen.split_inclusive(|byte| *byte == b'\n').count();
    let in_body = matches!(phase, Phase::Body { .. });
    match fault {
        Fault::Stall | Fault::Eof | Fault::Reset => assert!(seen.is_empty(), "{name}"),
        Fault::Reply421 => starts(b"421 "),
        Fault::Reply4xx => starts(b"45"),
        Fault::Reply5xx => starts(b"5"),
        Fault::Reply3xx => starts(b"3"),
        Fault::Garbage => starts(b"\x00\xff"),
        Fault::HalfLine | Fault::HalfLineEof => {
            starts(&code[..2]);
            assert!(!seen.contains(&b'\n'), "{name}");
        }
        Fault::LfOnlyLine => {
            starts(code);
            // At the connection only the line before the greeting is so.
            let until = seen.iter().position(|byte| *byte == b'\n').unwrap();
            assert!(!seen[..until].contains(&b'\r'), "{name}");
        }
        Fault::HugeReply => assert!(seen.len() > 200_000 && seen.starts_with(code), "{name}"),
        Fault::HugeLine => {
            assert!(seen.starts_with(code) && seen.iter().position(|byte| *byte == b'\n').unwrap() > 200_000, "{name}");
        }
        Fault::Latin1Text => assert!(seen.starts_with(code) && seen.contains(&b'\xfc'), "{name}"),
        Fault::DelayedGood(_) if in_body => assert!(seen.is_empty(), "{name}"),
        Fault::DelayedGood(_) | Fault::ByteByByte => starts(code),
        // There is no good reply to a connection: the stray ones come first, then the greeting.
        Fault::TwoRepliesAtOnce if phase == Phase::Connect => {
            assert!(starts_with_any(seen, &["250"]) && lines == 2, "{name}")
        }
        Fault::Stray(_) if phase == Phase::Connect => assert!(starts_with_any(seen, &["451"]) && lines == 2, "{name}"),
        Fault::TwoRepliesAtOnce | Fault::Stray(_) => {
            starts(code);
            assert!(lines >= 2, "{name}");
        }
        Fault::GoodThenEof | Fault::GoodThenReset if phase == Phase::Connect => assert!(seen.is_empty(), "{name}"),
        Fault::GoodThenEof | Fault::GoodThenReset => starts(code),
        Fault::Custom(_) => unreachable!("the matrix has none"),
    }
}

fn starts_with_any(seen: &[u8], prefixes: &[&str]) -> bool {
    prefixes.iter().any(|prefix| seen.starts_with(prefix.as_bytes()))
}

async fn check_ledger(phase: Phase, fault: &Fault, server: &SmtpServer) {
    let odd = matches!(fault, Fault::LfOnlyLine);
    let expected = match phase {
        Phase::Quit => (1, 1, 1),
        // A reply that ends in LF is not a whole 2xx, whatever the client makes of it.
        Phase::EndMarker { took } => {
            (1, usize::from(took || fault.means_yes()), usize::from(fault.means_yes() && !odd))
        }
        _ => (0, 0, 0),
    };
    // "Confirmed" is noted after the reply was written, so the client may be ahead of the ledger.
    server
        .wait_until(|ledger| {
            let counts = ledger.counts("m1@example.com", "ada@example.com");
            let body_is_right = match (phase, ledger.transactions().next()) {
                (Phase::Body { percent }, Some(transaction)) => {
                    let bytes = BODY_BYTES * usize::from(percent) / 100;
                    transaction.data_began && !transaction.end_marker_read && transaction.body_bytes == bytes
                }
                (Phase::Body { .. }, None) => false,
                _ => true,
            };
            (counts.end_markers, counts.accepted, counts.confirmed) == expected && body_is_right
        })
        .await;
}
