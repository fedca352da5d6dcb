//! The gate on a real connection: closed between body and marker, nothing of the marker is sent.

use std::{sync::Arc, time::Duration};

use hapax_core::{Outcome, outcome::Cause};
use hapax_mail::{Gate, Heartbeat, Message, Transmitted};
use hapax_testkit::{Fault, Phase, Script, SmtpServer, smtp::TlsMode};

use crate::kit::{self, JumpingClock, Mail};

const MINUTE: Duration = Duration::from_secs(60);

fn beating(at: Duration) -> Arc<Heartbeat> {
    let heartbeat = Arc::new(Heartbeat::new(MINUTE));
    heartbeat.record(at);
    heartbeat
}

#[track_caller]
fn assert_aborted(transmitted: &Transmitted, detail: &str) {
    match &transmitted.outcome {
        Outcome::NotSent { cause: Cause::Aborted, detail: actual, .. } => assert!(actual.contains(detail), "{actual}"),
        other => panic!("{other:?}"),
    }
    assert!(!transmitted.marker_begun && transmitted.connection.is_none());
}

async fn transmit(server: &SmtpServer, tls: TlsMode, message: &Message, gate: &Gate) -> Transmitted {
    let mail = Mail { message: message.clone(), ..Mail::new() };
    kit::ready(kit::open(kit::route(server, tls)).await, &mail).await.transmit(message, gate).await
}

#[tokio::test]
async fn rc50_a_deadline_that_passes_between_body_and_marker_keeps_the_marker_back() {
    for tls in [TlsMode::None, TlsMode::StartTls] {
        let server = SmtpServer::builder().tls(tls).start();
        // The first question is asked before the body, the second before the marker: with a small body and no TLS both
        // go out in one write, or nothing does.
        let (small, large) = (Mail::new().message, Mail::big(20_000).message);
        let behind_small = if tls == TlsMode::None { 0 } else { small.wire_len() };
        let cases = [(&small, 0, 0), (&small, 1, behind_small), (&large, 0, 0), (&large, 1, large.wire_len())];
        for (message, questions, bytes) in cases {
            let (late, stale) = (JumpingClock::after(questions), JumpingClock::after(questions));
            let deadline = Gate::until(late, MINUTE, beating(Duration::from_secs(3_600)));
            let transmitted = transmit(&server, tls, message, &deadline).await;
            assert_aborted(&transmitted, "deadline has passed");
            assert_eq!(transmitted.bytes, bytes);
            let heartbeat = Gate::until(stale, Duration::MAX, beating(Duration::ZERO));
            assert_aborted(&transmit(&server, tls, message, &heartbeat).await, "heartbeat");
        }
        kit::all_ended(&server).await;
        let ledger = server.ledger();
        assert_eq!(ledger.totals().end_markers, 0, "{ledger}");
        assert!(ledger.transactions().all(|transaction| transaction.body_bytes <= large.wire_len()), "{ledger}");
    }
}

#[tokio::test]
async fn a_lost_incarnation_and_a_spent_gate_let_nothing_through() {
    let server = SmtpServer::start();
    let mail = Mail::new();
    let lost = beating(Duration::MAX);
    lost.close();
    let gate = Gate::until(JumpingClock::after(0), Duration::MAX, lost);
    assert_aborted(&transmit(&server, TlsMode::None, &mail.message, &gate).await, "incarnation is lost");
    let gate = kit::gate();
    kit::assert_accepted(&transmit(&server, TlsMode::None, &mail.message, &gate).await);
    assert_aborted(&transmit(&server, TlsMode::None, &mail.message, &gate).await, "before");
    kit::all_ended(&server).await;
    assert_eq!(server.ledger().totals().end_markers, 1);
}

#[tokio::test]
async fn a_gate_closed_while_the_server_does_not_read_the_body_is_seen_when_it_reads_again() {
    let server = SmtpServer::builder().receive_buffer_bytes(4_096).start();
    let hold = server.hold(Phase::Body { percent: 50 });
    server.script(Script::fault(Phase::Body { percent: 50 }, Fault::DelayedGood(Duration::from_millis(1))));
    let (mail, gate) = (Mail::big(10_000_000), kit::gate());
    let data = kit::ready(kit::open(kit::route(&server, TlsMode::None)).await, &mail).await;
    let close = async {
        hold.wait_for(1).await;
        assert!(gate.close());
        hold.release();
    };
    let (transmitted, ()) = tokio::join!(data.transmit(&mail.message, &gate), close);
    assert_aborted(&transmitted, "closed");
    kit::all_ended(&server).await;
    assert_eq!(server.ledger().totals().end_markers, 0);
}

#[tokio::test]
async fn a_slow_body_is_in_time_as_long_as_it_makes_progress() {
    let server = SmtpServer::builder().receive_buffer_bytes(4_096).start();
    let mut route = kit::route(&server, TlsMode::None);
    // Shorter than the whole body takes, longer than any pause in it.
    let pause = Duration::from_millis(400);
    route.timeouts.body = Duration::from_millis(1_500);
    let percents: Vec<u8> = (1..6).map(|tenth| tenth * 10).collect();
    let pauses = Script::from_fn(move |context| match context.phase {
        Phase::Body { .. } => hapax_testkit::Action::Fault(Fault::DelayedGood(pause)),
        _ => hapax_testkit::Action::Proceed,
    });
    server.script(pauses.body_percents(percents));
    kit::assert_accepted(&kit::deliver(kit::open(route).await, &Mail::big(10_000_000)).await);
}
