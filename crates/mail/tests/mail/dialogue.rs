//! Whole dialogues: reuse, odd but good replies, the trust in a 4xx, time limits, files.

use std::{sync::Arc, time::Duration};

use hapax_core::{Outcome, certainty::Trust, clock::SystemClock};
use hapax_mail::{Begun, Mailer, Transport};
use hapax_testkit::{Fault, Phase, Script, SmtpServer, smtp::TlsMode};

use crate::kit::{self, Mail};

#[tokio::test]
async fn a_connection_carries_many_messages_and_each_gets_its_own_answer() {
    for tls in [TlsMode::None, TlsMode::StartTls] {
        let server = SmtpServer::builder().tls(tls).start();
        let mut connection = kit::open(kit::route(&server, tls)).await;
        assert_eq!(connection.server(), format!("127.0.0.1:{} (mx.invalid)", server.port()));
        let mails: Vec<Mail> = (0..200).map(|_| Mail::new()).collect();
        for (number, mail) in mails.iter().enumerate() {
            assert_eq!(connection.deliveries() as usize, number);
            let transmitted = kit::deliver(connection, mail).await;
            kit::assert_accepted(&transmitted);
            connection = transmitted.connection.expect("kept");
        }
        assert!(connection.is_still_open() && connection.age() < kit::LONG);
        connection.quit().await;
        server.wait_until(|ledger| ledger.connections()[0].ended.is_some()).await;
        let ledger = server.ledger();
        ledger.assert_each_accepted_once(mails.iter().map(|mail| (&mail.id, kit::ADA)));
        let ended = ledger.connections()[0].ended.clone();
        assert_eq!((ledger.connections().len(), ended), (1, Some(hapax_testkit::smtp::Ended::Quit)), "{ledger}");
        assert_eq!(ledger.violations().count(), 0);
    }
}

#[tokio::test]
async fn odd_but_complete_2xx_replies_to_the_marker_are_accepted_with_their_words() {
    let cases: [(&[u8], &str); 7] = [
        (b"250\r\n", ""),
        (b"250 \r\n", ""),
        (b"251 2.0.0 forwarded\r\n", "2.0.0 forwarded"),
        (b"252 who knows\r\n", "who knows"),
        (b"250-one\r\n250-two\r\n250 three\r\n", "one\ntwo\nthree"),
        (b"250 d\xe9pos\xe9\r\n", "d\\xe9pos\\xe9"),
        (b"250 ok\n", "ok"),
    ];
    for (reply, text) in cases {
        let fault = Fault::Custom(reply.to_vec());
        let server = SmtpServer::builder().script(Script::fault(Phase::EndMarker { took: true }, fault)).start();
        let transmitted = kit::deliver(kit::open(kit::route(&server, TlsMode::None)).await, &Mail::new()).await;
        kit::assert_accepted(&transmitted);
        assert_eq!(transmitted.outcome.reply().map(|reply| reply.text.as_str()), Some(text));
    }
}

#[tokio::test]
async fn a_4xx_after_the_marker_is_unknown_on_a_route_that_does_not_trust_it() {
    let server = SmtpServer::builder().script(Script::fault(Phase::EndMarker { took: true }, Fault::Reply4xx)).start();
    let mut route = kit::route(&server, TlsMode::None);
    route.trust = Trust { four_xx_after_data: false };
    let transmitted = kit::deliver(kit::open(route).await, &Mail::new()).await;
    assert_eq!(kit::short(&transmitted.outcome), "unknown unexpected");
    assert!(transmitted.connection.is_none() && transmitted.marker_begun);
}

#[tokio::test]
async fn a_final_reply_that_trickles_is_limited_in_all_and_not_by_the_byte() {
    let server = SmtpServer::start();
    let line = [b"250 ".to_vec(), vec![b'x'; 100], b"\r\n".to_vec()].concat();
    server.script(Script::fault(Phase::EndMarker { took: true }, Fault::Custom(line)));
    let mut route = kit::route(&server, TlsMode::None);
    kit::assert_accepted(&kit::deliver(kit::open(route.clone()).await, &Mail::new()).await);
    // A byte each millisecond, 17 of them, and less time than that.
    server.script(Script::fault(Phase::EndMarker { took: true }, Fault::ByteByByte));
    route.timeouts.final_reply = Duration::from_millis(8);
    let transmitted = kit::deliver(kit::open(route).await, &Mail::new()).await;
    assert_eq!(kit::short(&transmitted.outcome), "unknown timeout");
}

#[tokio::test]
async fn a_server_that_is_not_there_blames_the_route() {
    let server = SmtpServer::start();
    server.stop().await;
    let refused = kit::mailer(kit::route(&server, TlsMode::None)).open().await.expect_err("nobody listens");
    assert_eq!(kit::short(&refused), "not_sent connect io");
    let mut route = kit::route(&server, TlsMode::None);
    route.host = "no-such-host.invalid".to_owned();
    let unknown = kit::mailer(route).open().await.expect_err("no such name");
    assert!(kit::short(&unknown).starts_with("not_sent resolve"), "{unknown:?}");
}

#[tokio::test]
async fn quit_is_bounded_and_its_reply_changes_nothing() {
    let server = SmtpServer::builder().script(Script::fault(Phase::Quit, Fault::Stall)).start();
    let mut route = kit::route(&server, TlsMode::None);
    route.timeouts.command = kit::SHORT;
    let transmitted = kit::deliver(kit::open(route).await, &Mail::new()).await;
    kit::assert_accepted(&transmitted);
    let quit = transmitted.connection.expect("kept").quit();
    tokio::time::timeout(kit::LONG, quit).await.expect("bounded");
}

#[tokio::test]
async fn a_file_route_writes_each_delivery_into_a_file_of_its_own() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("not/there/yet");
    let mailer = Mailer::new(Transport::File { directory: path.clone() }, Arc::new(SystemClock)).expect("a good route");
    let mut connection = mailer.open().await.expect("open");
    let mut mail = Mail::with_body("a\n.b\n");
    mail.envelope.name_hint = "../m1-0".to_owned();
    for name in ["_m1-0.eml", "_m1-0.2.eml"] {
        let transmitted = kit::deliver(connection, &mail).await;
        kit::assert_accepted(&transmitted);
        let file = path.join(name);
        assert_eq!(std::fs::read(&file).expect("written"), mail.message.content().expect("in memory"));
        let text = format!("2.0.0 written to {}", file.display());
        assert_eq!(transmitted.outcome.reply().map(|reply| reply.text.clone()), Some(text));
        connection = transmitted.connection.expect("kept");
    }
    let gate = kit::gate();
    assert!(gate.close());
    let Begun::Ready(data) = connection.begin(&mail.envelope).await else { panic!("not ready") };
    let transmitted = data.transmit(&mail.message, &gate).await;
    assert!(matches!(transmitted.outcome, Outcome::NotSent { .. }) && !transmitted.marker_begun);
    assert_eq!(std::fs::read_dir(&path).expect("read").count(), 2, "no temporary file is left");
}
