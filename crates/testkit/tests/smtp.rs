//! The scripted server's behaviours beyond the matrix: rules, gates, capabilities, AUTH, restarts, the ledger.

#![allow(clippy::unwrap_used, reason = "the helpers of a test may panic, too")]

mod common;

use std::time::{Duration, Instant};

use common::Client;
use hapax_testkit::smtp::Ended;
use hapax_testkit::{Action, Fault, Phase, Rule, Script, SmtpServer};
use tokio::net::TcpStream;

#[tokio::test]
async fn a_good_dialogue_is_in_the_ledger_word_for_word() {
    let server = SmtpServer::start();
    let mut client = Client::hello(server.address()).await;
    client.deliver("m1@x", "ada@example.com").await;
    client.deliver("m2@x", "bob@example.com").await;
    client.ask("QUIT", "221").await;
    server.wait_until(|ledger| ledger.connections()[0].ended == Some(Ended::Quit)).await;
    let ledger = server.ledger();
    ledger.assert_each_accepted_once([("m1@x", "ada@example.com"), ("<m2@x>", "bob@example.com")]);
    let connection = &ledger.connections()[0];
    assert_eq!(
        connection.commands[..3],
        ["EHLO client.example", "MAIL FROM:<shop@example.com>", "RCPT TO:<ada@example.com>"]
    );
    assert_eq!((connection.ehlo.as_deref(), connection.tls), (Some("client.example"), false));
    let first = &connection.transactions[0];
    assert_eq!(&**first.body, b"Message-ID: <m1@x>\r\n\r\nhello\r\n");
    assert_eq!((first.body_bytes, first.message_id.as_deref()), (29, Some("<m1@x>")));
    assert!(first.end_marker_read && first.took && first.confirmed);
    assert_eq!((ledger.count_mail_commands(), ledger.count_commands("rcpt")), (2, 2));
    assert_eq!(ledger.violations().count(), 0);
}

#[tokio::test]
async fn an_aborted_body_has_no_end_marker_and_counts_for_nothing() {
    let server = SmtpServer::start();
    let mut client = Client::hello(server.address()).await;
    client.envelope("ada@example.com").await;
    // Neither of these is an end marker.
    client.send("Message-ID: <m1@x>\r\n\r\n\n.\n\r\n.\n\n.\r\n").await;
    drop(client);
    server.wait_until(|ledger| ledger.connections()[0].ended == Some(Ended::ClientClosed)).await;
    let ledger = server.ledger();
    let transaction = ledger.transactions().next().unwrap();
    assert!(transaction.data_began && !transaction.end_marker_read && !transaction.took);
    assert_eq!(transaction.message_id.as_deref(), Some("<m1@x>"));
    assert_eq!(ledger.end_markers_read("m1@x", "ada@example.com"), 0);
    assert!(ledger.violations().any(|(_, text)| text == "bare LF in the body"));
}

#[tokio::test]
async fn a_second_acceptance_fails_the_assertion_with_the_whole_story() {
    let server = SmtpServer::start();
    let mut client = Client::hello(server.address()).await;
    client.deliver("m1@x", "ada@example.com").await;
    client.deliver("m1@x", "ada@example.com").await;
    let ledger = server.ledger();
    assert_eq!(ledger.accepted("m1@x", "ada@example.com"), 2);
    let failed = std::panic::catch_unwind(|| ledger.assert_each_accepted_once([("m1@x", "ada@example.com")]));
    let message = *failed.unwrap_err().downcast::<String>().unwrap();
    assert!(message.contains("accepted 2 times") && message.contains("RCPT TO:<ada@example.com>"), "{message}");
    assert!(std::panic::catch_unwind(|| ledger.assert_none_accepted_twice()).is_err());
    let unexpected: [(&str, &str); 0] = [];
    assert!(std::panic::catch_unwind(|| ledger.assert_each_accepted_once(unexpected)).is_err());
}

#[tokio::test]
async fn rules_choose_by_connection_transaction_recipient_and_count() {
    let server = SmtpServer::builder()
        .script(Script::rules([
            Rule::at(Phase::Rcpt, Fault::Reply5xx).recipient("never@x"),
            Rule::at(Phase::Rcpt, Fault::Reply4xx).recipient("later@x").times(1),
            Rule::at(Phase::Mail, Fault::Reply4xx).connection(1).transaction(2),
        ]))
        .start();
    let mut client = Client::hello(server.address()).await;
    client.ask("MAIL FROM:<a@b>", "250").await;
    client.ask("RCPT TO:<never@x>", "5").await;
    client.ask("RCPT TO:<later@x>", "4").await;
    client.ask("RCPT TO:<later@x>", "250").await;
    client.ask("RSET", "250").await;
    client.ask("MAIL FROM:<a@b>", "4").await;
    let mut second = Client::hello(server.address()).await;
    second.deliver("m1@x", "later@x").await;
    second.deliver("m2@x", "later@x").await;
    let ledger = server.ledger();
    assert_eq!(ledger.connections()[0].transactions[0].recipients, ["later@x"]);
    assert_eq!(ledger.connections()[0].transactions[0].recipients_refused, ["never@x", "later@x"]);
}

#[tokio::test]
async fn a_closure_sees_the_context_and_a_new_script_takes_over_at_once() {
    let server = SmtpServer::builder()
        .script(Script::from_fn(|context| match context.phase {
            Phase::Rcpt if context.recipient_seen == 1 => {
                Action::Fault(Fault::Custom(b"451 4.7.1 greylisted\r\n".to_vec()))
            }
            Phase::EndMarker { .. } if context.message_id.as_deref() == Some("<odd@x>") => {
                Action::TakeThen(Fault::Reply4xx)
            }
            _ => Action::Proceed,
        }))
        .start();
    let mut client = Client::hello(server.address()).await;
    client.ask("MAIL FROM:<a@b>", "250").await;
    client.ask("RCPT TO:<ada@x>", "451").await;
    client.ask("RSET", "250").await;
    client.transmit("odd@x", "ada@x").await;
    client.expect("451").await;
    assert_eq!(server.ledger().accepted("odd@x", "ada@x"), 1);
    server.script(Script::fault(Phase::Mail, Fault::Reply5xx));
    client.ask("MAIL FROM:<a@b>", "554").await;
}

#[tokio::test]
async fn stray_replies_can_come_early_in_the_body_and_the_message_is_still_read() {
    let server = SmtpServer::builder().script(Script::fault(Phase::Body { percent: 0 }, Fault::ByteByByte)).start();
    let mut client = Client::hello(server.address()).await;
    client.envelope("ada@x").await;
    client.expect("250 2.0.0 scripted: early").await;
    assert_eq!(server.ledger().totals().end_markers, 0);
    client.send("Message-ID: <m1@x>\r\n\r\n.\r\n").await;
    client.expect("250 2.0.0 taken").await;
}

#[tokio::test]
async fn a_held_final_reply_waits_until_it_is_released() {
    let server = SmtpServer::start();
    let hold = server.hold_final_reply();
    let mut client = Client::hello(server.address()).await;
    client.transmit("m1@x", "ada@x").await;
    hold.wait_for(1).await;
    let counts = server.ledger().counts("m1@x", "ada@x");
    assert_eq!((counts.end_markers, counts.accepted, counts.confirmed), (1, 1, 0));
    hold.release();
    client.expect("250").await;
    server.wait_until(|ledger| ledger.confirmed("m1@x", "ada@x") == 1).await;
    client.deliver("m2@x", "ada@x").await;
}

#[tokio::test]
async fn a_server_stopped_while_it_holds_its_reply_has_taken_the_message() {
    let server = SmtpServer::start();
    let hold = server.hold(Phase::EndMarker { took: true });
    let mut client = Client::hello(server.address()).await;
    client.transmit("m1@x", "ada@x").await;
    hold.wait_for(1).await;
    server.stop().await;
    assert_eq!(client.reply().await, "", "the connection ends without a reply");
    assert!(TcpStream::connect(server.address()).await.is_err(), "a stopped server refuses connections");
    hold.release();
    server.restart().await;
    Client::hello(server.address()).await.deliver("m2@x", "ada@x").await;
    let ledger = server.ledger();
    ledger.assert_each_accepted_once([("m1@x", "ada@x"), ("m2@x", "ada@x")]);
    assert_eq!((ledger.confirmed("m1@x", "ada@x"), ledger.connections()[0].ended.clone()), (0, Some(Ended::Server)));
}

#[tokio::test]
async fn the_final_reply_can_be_late_while_the_ledger_is_not() {
    let server = SmtpServer::builder().final_reply_delay(Duration::from_millis(100)).start();
    let mut client = Client::hello(server.address()).await;
    let started = Instant::now();
    client.transmit("m1@x", "ada@x").await;
    server.wait_until(|ledger| ledger.accepted("m1@x", "ada@x") == 1).await;
    assert_eq!(server.ledger().confirmed("m1@x", "ada@x"), 0);
    client.expect("250").await;
    assert!(started.elapsed() >= Duration::from_millis(100));
}

#[tokio::test]
async fn connections_above_the_limit_are_refused_with_421() {
    let server = SmtpServer::builder().connections_max(1).start();
    let first = Client::hello(server.address()).await;
    let mut second = Client::connect(server.address()).await;
    second.expect("421").await;
    assert_eq!(second.reply().await, "");
    drop((first, second));
    server.wait_until(|ledger| ledger.connections().iter().all(|connection| connection.ended.is_some())).await;
    while server.connections_open() > 0 {
        tokio::task::yield_now().await;
    }
    Client::hello(server.address()).await.deliver("m1@x", "ada@x").await;
}

#[tokio::test]
async fn capabilities_are_offered_as_told_and_using_others_is_refused_or_noted() {
    let server = SmtpServer::builder()
        .capabilities(|offered| {
            offered.pipelining = false;
            offered.smtputf8 = false;
            offered.eight_bit_mime = false;
            offered.size = Some(100);
            offered.extra = vec!["X-ODD 1".into()];
        })
        .start();
    let mut client = Client::connect(server.address()).await;
    client.expect("220").await;
    let offered = client.ask("EHLO me", "250").await;
    assert!(!["PIPELINING", "SMTPUTF8", "8BITMIME", "STARTTLS", "AUTH"].iter().any(|name| offered.contains(name)));
    assert!(offered.contains("250-SIZE 100\r\n") && offered.ends_with("250 X-ODD 1\r\n"), "{offered}");
    client.ask("MAIL FROM:<a@b> SMTPUTF8", "555").await;
    client.ask("MAIL FROM:<a@b> BODY=8BITMIME", "555").await;
    client.ask("MAIL FROM:<a@b> SIZE=101", "552").await;
    client.send("MAIL FROM:<a@b> SIZE=99\r\nRCPT TO:<c@d>\r\nDATA\r\n").await;
    for code in ["250", "250", "354"] {
        client.expect(code).await;
    }
    client.send(format!("{}\u{fc}\r\n.\r\n", "x".repeat(120))).await;
    client.expect("552").await;
    let ledger = server.ledger();
    assert_eq!((ledger.totals().end_markers, ledger.totals().accepted), (1, 0));
    let violations: Vec<_> = ledger.violations().map(|(_, text)| text.to_owned()).collect();
    assert!(violations.iter().any(|text| text.contains("sent ahead")), "{violations:?}");
    assert!(violations.iter().any(|text| text.contains("8-bit body")), "{violations:?}");
}

#[tokio::test]
async fn credentials_are_checked_and_required() {
    let server = SmtpServer::builder().credentials("hapax", "secret").require_auth().start();
    let mut client = Client::hello(server.address()).await;
    client.ask("MAIL FROM:<a@b>", "530").await;
    client.ask("AUTH CRAM-MD5", "504").await;
    client.ask("AUTH PLAIN AGhhcGF4AHdyb25n", "535").await;
    client.ask("AUTH LOGIN", "334").await;
    client.ask("aGFwYXg=", "334").await;
    client.ask("c2VjcmV0", "235").await;
    client.deliver("m1@x", "ada@x").await;
    let mut second = Client::hello(server.address()).await;
    second.ask("AUTH PLAIN", "334").await;
    second.ask("AGhhcGF4AHNlY3JldA==", "235").await;
    let ledger = server.ledger();
    let pair = |mechanism: &str| (mechanism.to_owned(), "hapax".to_owned());
    assert_eq!(ledger.connections()[0].auth, Some(pair("LOGIN")));
    assert_eq!(ledger.connections()[0].auth_attempts, [pair("PLAIN"), pair("LOGIN")]);
    assert_eq!(ledger.connections()[1].auth, Some(pair("PLAIN")));
}

#[tokio::test]
async fn lmtp_greets_with_lhlo_and_answers_once_per_recipient() {
    let server = SmtpServer::builder().lmtp().start();
    let mut client = Client::connect(server.address()).await;
    client.expect("220").await;
    client.ask("EHLO me", "500").await;
    client.ask("LHLO me", "250").await;
    client.ask("MAIL FROM:<a@b>", "250").await;
    client.ask("RCPT TO:<c@d>", "250").await;
    client.ask("RCPT TO:<e@f>", "250").await;
    client.ask("DATA", "354").await;
    client.send("Message-ID: <m1@x>\r\n\r\n.\r\n").await;
    client.expect("250").await;
    client.expect("250").await;
    server.ledger().assert_each_accepted_once([("m1@x", "c@d"), ("m1@x", "e@f")]);
}

#[tokio::test]
async fn two_thousand_messages_on_eight_connections_are_a_matter_of_seconds() {
    let server = SmtpServer::start();
    let started = Instant::now();
    let mut clients = tokio::task::JoinSet::new();
    for number in 0..8 {
        let address = server.address();
        clients.spawn(async move {
            let mut client = Client::hello(address).await;
            for message in 0..250 {
                client.deliver(&format!("m{message}@x"), &format!("r{number}@x")).await;
            }
        });
    }
    clients.join_all().await;
    println!("2000 messages: {:?}", started.elapsed());
    // The last client may be ahead of the ledger: "confirmed" is noted after the reply was written.
    server.wait_until(|ledger| ledger.totals().confirmed == 2000).await;
}
