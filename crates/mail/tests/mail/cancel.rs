//! A future dropped at any of its polls leaves nothing behind: no end marker that had not begun, and no connection that
//! could give one delivery the answer to another (RC-13).

use hapax_mail::Begun;
use hapax_testkit::{Fault, Phase, Script, SmtpServer, smtp::TlsMode};

use crate::kit::{self, Mail, Polls};

/// More polls than any of the futures needs here; a loop that reaches it has a bug of its own.
const POLLS_MAX: usize = 5_000;

fn server(tls: TlsMode, pipelining: bool) -> SmtpServer {
    SmtpServer::builder()
        .tls(tls)
        .receive_buffer_bytes(4_096)
        .capabilities(|offered| offered.pipelining = pipelining)
        .start()
}

async fn next_is_its_own(server: &SmtpServer, tls: TlsMode) {
    let next = Mail::new();
    let transmitted = kit::deliver(kit::open(kit::route(server, tls)).await, &next).await;
    kit::assert_accepted(&transmitted);
    assert_eq!(server.ledger().accepted(&next.id, kit::ADA), 1);
}

#[tokio::test]
async fn rc13_open_and_begin_can_be_dropped_at_every_poll_and_nothing_is_sent() {
    for (tls, pipelining) in [(TlsMode::None, true), (TlsMode::None, false), (TlsMode::StartTls, true)] {
        let server = server(tls, pipelining);
        let mailer = kit::mailer(kit::route(&server, tls));
        let opened = async |times| Polls::new(mailer.open(), times).await;
        let first = async {
            for times in 0..POLLS_MAX {
                if let Some(opened) = opened(times).await {
                    return (times, opened.expect("open"));
                }
            }
            panic!("still not open after {POLLS_MAX} polls");
        };
        let (polls, mut connection) = first.await;
        assert!(polls > 2, "{polls} polls");
        let mail = Mail::new();
        for times in 0..POLLS_MAX {
            match Polls::new(connection.begin(&mail.envelope), times).await {
                None => connection = mailer.open().await.expect("open"),
                Some(Begun::Ready(data)) => {
                    assert!(times > 1, "{times} polls");
                    data.abort();
                    break;
                }
                Some(Begun::Ended { outcome, .. }) => panic!("{outcome:?}"),
            }
        }
        next_is_its_own(&server, tls).await;
        kit::all_ended(&server).await;
        assert_eq!(server.ledger().totals().end_markers, 1, "only the last one: {}", server.ledger());
    }
}

#[tokio::test]
async fn rc13_transmit_can_be_dropped_at_every_poll_and_no_marker_goes_out_that_had_not_begun() {
    for (tls, bytes) in [(TlsMode::None, 3_000_000), (TlsMode::Implicit, 3_000_000), (TlsMode::None, 100)] {
        let server = server(tls, true);
        let mailer = kit::mailer(kit::route(&server, tls));
        let mut begun_and_dropped = 0;
        let mut times = 0;
        loop {
            let mail = Mail::big(bytes);
            let gate = kit::gate();
            let data = kit::ready(mailer.open().await.expect("open"), &mail).await;
            let transmitted = Polls::new(data.transmit(&mail.message, &gate), times).await;
            let done = transmitted.is_some();
            if let Some(transmitted) = transmitted {
                kit::assert_accepted(&transmitted);
                assert_eq!(transmitted.bytes, mail.message.wire_len() + 5);
            }
            kit::all_ended(&server).await;
            let counts = server.ledger().counts(&mail.id, kit::ADA);
            assert!(counts.end_markers <= 1 && (counts.end_markers == 0 || gate.marker_begun()), "{times}: {counts:?}");
            assert_eq!(done, counts.confirmed == 1 && gate.marker_begun() && done, "{times}: {counts:?}");
            begun_and_dropped += usize::from(!done && gate.marker_begun());
            if done {
                break;
            }
            // Each poll at first and at the end would be thousands of large bodies: stride through the middle.
            times += if bytes > 1_000 && times > 20 { 7 } else { 1 };
            assert!(times < POLLS_MAX);
        }
        println!("{tls:?} {bytes}: {times} polls, {begun_and_dropped} dropped between marker and reply");
        next_is_its_own(&server, tls).await;
    }
}

#[tokio::test]
async fn a_transmission_dropped_while_it_waits_for_the_reply_says_that_the_marker_had_begun() {
    let server = SmtpServer::builder().script(Script::fault(Phase::EndMarker { took: true }, Fault::Stall)).start();
    let (mail, gate) = (Mail::new(), kit::gate());
    let data = kit::ready(kit::open(kit::route(&server, TlsMode::None)).await, &mail).await;
    tokio::select! {
        transmitted = data.transmit(&mail.message, &gate) => panic!("{transmitted:?}"),
        () = server.wait_until(|ledger| ledger.totals().end_markers == 1) => {}
    }
    assert!(gate.marker_begun() && !gate.close());
}

#[tokio::test]
async fn a_connection_dropped_after_354_is_reset_and_says_neither_quit_nor_dot() {
    for tls in [TlsMode::None, TlsMode::Implicit] {
        let server = server(tls, true);
        let mail = Mail::new();
        kit::ready(kit::open(kit::route(&server, tls)).await, &mail).await.abort();
        kit::all_ended(&server).await;
        let ledger = server.ledger();
        assert_eq!((ledger.count_commands("QUIT"), ledger.totals().end_markers), (0, 0), "{ledger}");
        let ended = format!("{:?}", ledger.connections()[0].ended);
        assert!(ended.contains("Lost") && ended.contains("reset"), "not a reset: {ended}");
        assert_eq!(ledger.transactions().next().map(|transaction| transaction.body_bytes), Some(0));
    }
}
