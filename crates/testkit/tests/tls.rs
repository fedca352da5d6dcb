//! TLS: both ways in, good and bad certificates, slow and late handshakes.

#![allow(clippy::unwrap_used, reason = "the helpers of a test may panic, too")]

mod common;

use std::sync::Arc;
use std::time::{Duration, Instant};

use common::{Client, End};
use hapax_testkit::smtp::{Certificate, TlsMode};
use hapax_testkit::{Fault, Phase, Rule, Script, SmtpServer};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

async fn secure(server: &SmtpServer, stream: TcpStream) -> std::io::Result<Client<TlsStream<TcpStream>>> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(server.ca_pem().as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = config.with_root_certificates(roots).with_no_client_auth();
    let name = ServerName::try_from("localhost").unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, stream).await.map(Client::over)
}

async fn start_tls(server: &SmtpServer) -> std::io::Result<Client<TlsStream<TcpStream>>> {
    let mut client = Client::hello(server.address()).await;
    client.ask("STARTTLS", "220").await;
    secure(server, client.stream).await
}

#[tokio::test]
async fn implicit_tls_is_trusted_by_its_authority() {
    let server = SmtpServer::builder().tls(TlsMode::Implicit).start();
    assert!(server.url().starts_with("smtps://"));
    let mut client = secure(&server, TcpStream::connect(server.address()).await.unwrap()).await.unwrap();
    client.expect("220").await;
    client.ask("EHLO me", "250").await;
    client.deliver("m1@x", "ada@x").await;
    assert!(server.ledger().connections()[0].tls);
}

#[tokio::test]
async fn starttls_is_offered_once_required_and_forgets_what_was_said_before() {
    let server = SmtpServer::builder().tls(TlsMode::StartTls).require_tls().start();
    let mut plain = Client::hello(server.address()).await;
    plain.ask("MAIL FROM:<a@b>", "530").await;
    let mut client = start_tls(&server).await.unwrap();
    client.ask("MAIL FROM:<a@b>", "503").await;
    let offered = client.ask("EHLO me", "250").await;
    assert!(!offered.contains("STARTTLS"), "{offered}");
    client.deliver("m1@x", "ada@x").await;
    let ledger = server.ledger();
    assert_eq!(ledger.connections().iter().map(|connection| connection.tls).collect::<Vec<_>>(), [false, true]);
}

#[tokio::test]
async fn bad_certificates_are_bad() {
    for certificate in [Certificate::WrongName, Certificate::Expired, Certificate::SelfSigned] {
        let server = SmtpServer::builder().tls(TlsMode::StartTls).certificate(certificate).start();
        assert!(start_tls(&server).await.is_err(), "{certificate:?}");
    }
}

#[tokio::test]
async fn a_handshake_can_be_late_or_come_byte_by_byte() {
    let delay = Duration::from_millis(60);
    for fault in [Fault::DelayedGood(delay), Fault::ByteByByte] {
        let server =
            SmtpServer::builder().tls(TlsMode::StartTls).script(Script::fault(Phase::Tls, fault.clone())).start();
        let started = Instant::now();
        let mut client = start_tls(&server).await.unwrap();
        client.ask("EHLO me", "250").await;
        client.deliver("m1@x", "ada@x").await;
        assert!(fault == Fault::ByteByByte || started.elapsed() >= delay);
    }
}

#[tokio::test]
async fn faults_work_inside_tls_and_tell_the_two_ehlos_apart() {
    let rules = [
        Rule::at(Phase::Ehlo, Fault::Reply5xx).tls(true).times(1),
        Rule::at(Phase::EndMarker { took: true }, Fault::Reset).tls(true),
    ];
    let server = SmtpServer::builder().tls(TlsMode::StartTls).script(Script::rules(rules)).start();
    let mut client = start_tls(&server).await.unwrap();
    client.ask("EHLO me", "554").await;
    client.ask("EHLO me", "250").await;
    client.transmit("m1@x", "ada@x").await;
    assert_eq!(client.observe(End::Reset, false).await, (Vec::new(), End::Reset));
    let counts = server.ledger().counts("m1@x", "ada@x");
    assert_eq!((counts.accepted, counts.confirmed), (1, 0));
}
