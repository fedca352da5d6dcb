//! Phase x fault, generated from the testkit's tables, over four kinds of connection: what is said about the delivery,
//! what becomes of the connection, what the server saw, and whether the next delivery gets its own answer.

use std::{fmt::Write as _, sync::Arc, time::Duration};

use hapax_core::Outcome;
use hapax_mail::{Begun, Connection, Transmitted};
use hapax_testkit::{
    Fault, Phase, Script, SmtpServer,
    smtp::{TlsMode, matrix},
};
use tokio::{sync::Semaphore, task::JoinSet};

use crate::kit::{self, LONG, Mail, SHORT};

/// More than twice what the kernel will hold for a server that does not read, so that a body cannot be written to its
/// end before the server has read half of it.
const BIG_BYTES: usize = 10_000_000;

/// Cells under way at once; those with a silent server do nothing but wait.
const TOGETHER: usize = 6;
const SILENT_TOGETHER: usize = 24;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Pipelined,
    OneByOne,
    StartTls,
    Implicit,
}

impl Kind {
    const ALL: [Self; 4] = [Self::Pipelined, Self::OneByOne, Self::StartTls, Self::Implicit];

    fn tls(self) -> TlsMode {
        match self {
            Self::Pipelined | Self::OneByOne => TlsMode::None,
            Self::StartTls => TlsMode::StartTls,
            Self::Implicit => TlsMode::Implicit,
        }
    }

    /// Whether the phase exists on such a connection.
    fn has(self, phase: Phase) -> bool {
        match phase {
            Phase::Tls => self.tls() != TlsMode::None,
            Phase::StartTls => self == Self::StartTls,
            _ => true,
        }
    }
}

/// The outcomes a cell may have (prefixes of [`kit::short`]), and whether the connection is kept.
struct Expected {
    outcomes: Vec<&'static str>,
    kept: bool,
}

fn expect(outcomes: &[&'static str], kept: bool) -> Expected {
    Expected { outcomes: outcomes.to_vec(), kept }
}

fn expected(kind: Kind, phase: Phase, fault: &Fault) -> Expected {
    let mut expected = expected_where_it_was_scripted(kind, phase, fault);
    if matches!(phase, Phase::Connect | Phase::Tls | Phase::Greeting)
        && matches!(fault, Fault::Reset | Fault::GoodThenReset)
    {
        // A reset so early may win against our own end of the connect.
        expected.outcomes.push("not_sent connect io");
    }
    expected
}

fn expected_where_it_was_scripted(kind: Kind, phase: Phase, fault: &Fault) -> Expected {
    match phase {
        Phase::Connect => match fault {
            Fault::DelayedGood(_) | Fault::ByteByByte => expect(&["accepted"], true),
            // A second greeting follows a scripted one.
            _ => expect(&["not_sent greeting", "not_sent ehlo", "not_sent tls"], false),
        },
        Phase::Tls => match fault {
            Fault::DelayedGood(_) | Fault::ByteByByte => expect(&["accepted"], true),
            Fault::Stall => expect(&["not_sent tls timeout"], false),
            // Plain text where a handshake belongs: together with the 220 to STARTTLS, it is a stray reply.
            _ => expect(&["not_sent tls eof", "not_sent tls io", "not_sent starttls unexpected"], false),
        },
        Phase::Greeting => before_mail("greeting", &["not_sent greeting", "not_sent ehlo"], fault),
        Phase::Ehlo => before_mail("ehlo", &["not_sent ehlo", "not_sent starttls", "not_sent auth"], fault),
        Phase::StartTls => before_mail("starttls", &["not_sent starttls", "not_sent tls"], fault),
        Phase::Auth => before_mail("auth", &["not_sent auth", "not_sent mail"], fault),
        Phase::Mail => transaction(kind, "mail", fault),
        Phase::Rcpt => transaction(kind, "rcpt", fault),
        Phase::Data => transaction(kind, "data", fault),
        Phase::Body { percent } => body(percent, fault),
        Phase::EndMarker { .. } => marker(fault),
        Phase::Quit => expect(&["accepted"], true),
    }
}

/// Every phase of the way to a connection: nothing is ever kept, refused, or unknown.
fn before_mail(name: &'static str, any: &[&'static str], fault: &Fault) -> Expected {
    let at = |cause: &str| -> &'static str { Box::leak(format!("not_sent {name} {cause}").into_boxed_str()) };
    match fault {
        Fault::Stall | Fault::HalfLine => expect(&[at("timeout")], false),
        Fault::Eof => expect(&[at("eof")], false),
        Fault::Reset => expect(&[at("io")], false),
        Fault::Reply421 | Fault::Reply4xx | Fault::Reply5xx | Fault::Reply3xx => expect(&[at("unexpected")], false),
        Fault::Garbage | Fault::HalfLineEof | Fault::HugeReply | Fault::HugeLine => expect(&[at("malformed")], false),
        Fault::LfOnlyLine | Fault::Latin1Text | Fault::DelayedGood(_) | Fault::ByteByByte => {
            expect(&["accepted"], true)
        }
        _ => Expected { outcomes: any.to_vec(), kept: false },
    }
}

/// MAIL, RCPT, DATA.
fn transaction(kind: Kind, name: &'static str, fault: &Fault) -> Expected {
    let at = |word: &str| -> &'static str { Box::leak(format!("{word} {name}").into_boxed_str()) };
    let not_sent = |cause: &str| -> &'static str { Box::leak(format!("not_sent {name} {cause}").into_boxed_str()) };
    match fault {
        Fault::Stall | Fault::HalfLine => expect(&[not_sent("timeout")], false),
        Fault::Reset => expect(&[not_sent("io")], false),
        Fault::Eof | Fault::Reply421 => expect(&[not_sent("eof")], false),
        Fault::Reply4xx => expect(&[at("deferred")], true),
        Fault::Reply5xx => expect(&[at("refused")], true),
        Fault::Reply3xx | Fault::Garbage | Fault::HalfLineEof | Fault::HugeReply | Fault::HugeLine => {
            expect(&[not_sent("malformed")], false)
        }
        Fault::LfOnlyLine | Fault::Latin1Text | Fault::DelayedGood(_) | Fault::ByteByByte => {
            expect(&["accepted"], true)
        }
        // The stray reply is taken for the next one of a pipelined group; before the intent that is harmless.
        Fault::Stray(_) if kind != Kind::OneByOne && name == "mail" => expect(&["deferred rcpt"], false),
        Fault::Stray(_) if kind != Kind::OneByOne && name == "rcpt" => expect(&["deferred data"], false),
        Fault::TwoRepliesAtOnce | Fault::Stray(_) if name == "data" => expect(&["not_sent data unexpected"], false),
        // The end may come right behind the 354, or find us between marker and reply already.
        _ if name == "data" => expect(&["not_sent data", "not_sent body", "unknown eof", "unknown io"], false),
        _ => expect(&["not_sent rcpt", "not_sent mail", "not_sent data", "not_sent body"], false),
    }
}

/// Early replies.
fn body(percent: u8, fault: &Fault) -> Expected {
    let mut expected = match fault {
        Fault::Stall | Fault::HalfLine => expect(&["not_sent body timeout"], false),
        Fault::Eof => expect(&["not_sent body eof"], false),
        Fault::Reset => expect(&["not_sent body io"], false),
        Fault::Reply421 | Fault::Reply4xx | Fault::Reply5xx | Fault::Reply3xx => {
            expect(&["not_sent body unexpected"], false)
        }
        Fault::Garbage | Fault::HalfLineEof | Fault::HugeReply | Fault::HugeLine => {
            expect(&["not_sent body malformed"], false)
        }
        Fault::DelayedGood(_) => expect(&["accepted"], true),
        // A 2xx: the server believes it has a message.
        _ => expect(&["unknown unexpected"], false),
    };
    let positive = expected.outcomes == ["unknown unexpected"];
    match percent {
        // Together with the 354, or before the first byte of the body.
        0 => {
            expected.outcomes.push("not_sent data");
            if positive {
                expected.outcomes.push("not_sent body unexpected");
            }
        }
        // The body's last hundredth and the marker may be in the kernel's hands already: then the early reply cannot be
        // told from the marker's own, but for a refusal, which is not believed when more than a goodbye follows.
        99 if matches!(fault, Fault::Reply4xx | Fault::Reply5xx) => expected.outcomes.push("unknown unexpected"),
        99 => expected.outcomes.extend(marker(fault).outcomes),
        _ => {}
    }
    expected
}

fn marker(fault: &Fault) -> Expected {
    match fault {
        Fault::Stall | Fault::HalfLine => expect(&["unknown timeout"], false),
        Fault::Eof => expect(&["unknown eof"], false),
        Fault::Reset => expect(&["unknown io"], false),
        Fault::Reply421 => expect(&["unknown unexpected"], false),
        Fault::Reply3xx | Fault::Garbage | Fault::HalfLineEof | Fault::HugeReply | Fault::HugeLine => {
            expect(&["unknown malformed"], false)
        }
        Fault::Reply4xx => expect(&["deferred end_marker"], false),
        Fault::Reply5xx => expect(&["refused end_marker"], false),
        Fault::TwoRepliesAtOnce | Fault::Stray(_) => expect(&["accepted"], false),
        _ => expect(&["accepted"], true),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_fault_at_every_phase_has_its_outcome_and_its_connection_is_kept_or_discarded() {
    let small = Mail::new();
    let big = Mail::big(BIG_BYTES);
    let busy = Arc::new(Semaphore::new(TOGETHER));
    let silent = Arc::new(Semaphore::new(SILENT_TOGETHER));
    let mut cells = JoinSet::new();
    for kind in Kind::ALL {
        for (phase, fault) in matrix(Duration::from_millis(20)) {
            if !kind.has(phase) {
                continue;
            }
            let together = if is_silent(&fault) { silent.clone() } else { busy.clone() };
            let mail = if matches!(phase, Phase::Body { .. }) { big.clone() } else { small.clone() };
            cells.spawn(async move {
                let _permit = together.acquire().await.expect("never closed");
                cell(kind, phase, &fault, &mail).await.map_err(|wrong| format!("{kind:?} {phase:?} {fault:?}: {wrong}"))
            });
        }
    }
    let count = cells.len();
    let results = cells.join_all().await;
    let wrong: Vec<String> = results.into_iter().filter_map(Result::err).collect();
    println!("{count} cells");
    assert!(wrong.is_empty(), "{} of {count} cells are wrong:\n{}", wrong.len(), wrong.join("\n"));
    // The testkit's 290, four times, without TLS and STARTTLS where a kind of connection has none.
    assert_eq!(count, 4 * 290 - 2 * (20 + 20) - 20);
}

fn is_silent(fault: &Fault) -> bool {
    matches!(fault, Fault::Stall | Fault::HalfLine)
}

async fn cell(kind: Kind, phase: Phase, fault: &Fault, mail: &Mail) -> Result<(), String> {
    let server = SmtpServer::builder()
        .script(Script::fault(phase, fault.clone()))
        .tls(kind.tls())
        .credentials("user", "password")
        .receive_buffer_bytes(65_536)
        .capabilities(|offered| offered.pipelining = kind != Kind::OneByOne)
        .start();
    let mut route = kit::route(&server, kind.tls());
    route.credentials = kit::password("user", "password");
    route.timeouts = kit::timeouts(if is_silent(fault) { SHORT } else { LONG });
    let mut problems = String::new();

    let transmitted = run(route, mail).await;
    let word = kit::short(&transmitted.outcome);
    let expected = expected(kind, phase, fault);
    if !expected.outcomes.iter().any(|prefix| word.starts_with(prefix)) {
        let _ = write!(problems, "{word} ({:?}), expected {:?}; ", transmitted.outcome, expected.outcomes);
    }
    let raced = matches!(phase, Phase::Body { percent: 99 });
    if transmitted.connection.is_some() != expected.kept && !raced {
        let _ = write!(problems, "{word}: kept is {}; ", transmitted.connection.is_some());
    }
    if let Some(connection) = transmitted.connection {
        if phase != Phase::Quit {
            server.script(Script::good());
        }
        next_delivery(connection, &server, raced, &mut problems).await;
    }
    kit::all_ended(&server).await;
    let ledger = server.ledger();
    let counts = ledger.counts(&mail.id, kit::ADA);
    let early = matches!(phase, Phase::Body { .. });
    if transmitted.outcome.as_str() == "unknown" && !transmitted.marker_begun && !early {
        problems.push_str("unknown, although the marker had not begun; ");
    }
    if counts.end_markers > 0 && !transmitted.marker_begun {
        problems.push_str("the server read an end marker that had not begun; ");
    }
    if counts.end_markers > 1 || counts.accepted > 1 {
        let _ = write!(problems, "{counts:?}; ");
    }
    let certainly_not = matches!(transmitted.outcome, Outcome::NotSent { .. } | Outcome::Refused { .. });
    // A server that takes a message and answers 4xx or 5xx lies; `trust_4xx_after_data` is for that.
    let lied = phase == Phase::EndMarker { took: true } && matches!(fault, Fault::Reply4xx | Fault::Reply5xx);
    if certainly_not && counts.accepted > 0 && !raced && !lied {
        problems.push_str("the server took what was not sent; ");
    }
    if transmitted.outcome.as_str() == "accepted" && counts.accepted != 1 && !raced {
        problems.push_str("the server did not take what was accepted; ");
    }
    if !raced {
        ledger.violations().for_each(|(_, violation)| problems.push_str(violation));
    }
    if problems.is_empty() { Ok(()) } else { Err(problems) }
}

async fn run(route: hapax_mail::SmtpServer, mail: &Mail) -> Transmitted {
    match kit::mailer(route).open().await {
        Ok(connection) => kit::deliver(connection, mail).await,
        Err(outcome) => Transmitted { outcome, connection: None, marker_begun: false, bytes: 0 },
    }
}

/// On a connection that was kept, the next delivery is answered for itself, or finds the connection dead while idle.
///
/// After a race, the true reply to the marker may arrive among the next delivery's: every reply is then one too early,
/// and that always shows at DATA, before the intent, because nothing but DATA is answered by 354.
async fn next_delivery(connection: Connection, server: &SmtpServer, raced: bool, problems: &mut String) {
    let next = Mail::new();
    match connection.begin(&next.envelope).await {
        Begun::Ready(data) => {
            let transmitted = data.transmit(&next.message, &kit::gate()).await;
            let word = transmitted.outcome.as_str();
            if word != "accepted" || server.ledger().accepted(&next.id, kit::ADA) != 1 {
                let _ = write!(problems, "the next delivery: {:?}; ", transmitted.outcome);
            }
            match transmitted.connection {
                Some(connection) => connection.quit().await,
                None => problems.push_str("the next delivery lost the connection; "),
            }
        }
        Begun::Ended { stale: true, connection: None, .. } => {}
        Begun::Ended { outcome: Outcome::NotSent { .. }, connection: None, .. } if raced => {}
        Begun::Ended { outcome, .. } => {
            let _ = write!(problems, "the next delivery ended: {outcome:?}; ");
        }
    }
}
