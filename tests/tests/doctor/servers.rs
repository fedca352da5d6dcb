//! Illnesses of mail servers: no database is needed to find them.

use hapax_testkit::smtp::{Certificate, Fault, Phase, Script, TlsMode};
use hapax_testkit::{SmtpServer, SmtpServerBuilder};
use hapax_tests::dns::DnsServer;
use hapax_tests::stage::{DOMAIN, Settings};
use tokio::net::TcpListener;

use crate::asking::{PASSWORD, Said, USER, ask, ask_with};

/// A DNS server that knows the sender's records.
pub(crate) async fn names() -> DnsServer {
    let dns = DnsServer::start().await;
    dns.set(DOMAIN, &["v=spf1 -all"]);
    dns.set(&format!("_dmarc.{DOMAIN}"), &["v=DMARC1; p=reject"]);
    dns
}

fn route(url: &str) -> Settings {
    Settings::new("postgres://nobody@127.0.0.1:1/none", url)
}

async fn examine(settings: &Settings) -> Said {
    let dns = names().await;
    ask(settings, &["--route", "default", "--timeout", "3s", "--resolver", &dns.address().to_string()]).await
}

/// A server with TLS and credentials, its route, and the password in the environment.
async fn examine_secure(builder: SmtpServerBuilder, scheme: &str, password: &str) -> Said {
    let server = builder.credentials(USER, PASSWORD).start();
    let directory = tempfile::tempdir().expect("a directory can be made");
    let ca = directory.path().join("ca.pem");
    std::fs::write(&ca, server.ca_pem()).expect("a file can be written");
    let settings =
        route(&format!("{scheme}://{USER}@localhost:{}", server.port())).set("routes.default.ca_file", ca.display());
    let settings = if scheme == "smtp" { settings.set("routes.default.starttls", "required") } else { settings };
    let dns = names().await;
    let resolver = dns.address().to_string();
    let arguments = ["--route", "default", "--timeout", "3s", "--resolver", &resolver];
    let said = ask_with(&settings, &arguments, &[("HAPAX__ROUTES__DEFAULT__PASSWORD", password)]).await;
    assert_eq!(server.ledger().count_commands("RCPT"), 0, "no recipient is named");
    said
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_well_is_asked_everything_and_sent_nothing() {
    for (mode, scheme) in [(TlsMode::Implicit, "smtps"), (TlsMode::StartTls, "smtp")] {
        let said = examine_secure(SmtpServer::builder().tls(mode), scheme, PASSWORD).await;
        said.assert_well();
        said.assert_has("ok", "route.default", "credentials are taken", "");
        said.assert_has("ok", "route.default", "no mail was sent", "");
        said.assert_has("ok", "route.default", "PIPELINING, SIZE 50000000, 8BITMIME, SMTPUTF8", "");
        said.assert_has("ok", "route.default.certificate", "localhost, 127.0.0.1", "");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_that_has_ended_is_for_another_name_or_from_nobody_is_told_apart() {
    let cases = [
        (Certificate::Expired, "until 2001-01-01", "renewed"),
        (Certificate::WrongName, "for elsewhere.invalid", "tls_name = \"elsewhere.invalid\""),
        (Certificate::SelfSigned, "in a chain of 1", "ca_file"),
        (Certificate::SelfSignedAuthority, "that of an authority (CA:TRUE)", "CA:FALSE"),
    ];
    for (flaw, evidence, remedy) in cases {
        let server = SmtpServer::builder().tls(TlsMode::Implicit).certificate(flaw);
        let said = examine_secure(server, "smtps", PASSWORD).await;
        said.assert_only("error", "route.default.tls", evidence, remedy);
    }
    let soon = SmtpServer::builder().tls(TlsMode::Implicit).certificate(Certificate::EndsSoon);
    let said = examine_secure(soon, "smtps", PASSWORD).await;
    said.assert_only("warning", "route.default.certificate", "5 days are left", "renewed before then");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_password_is_found_and_not_repeated() {
    let server = SmtpServer::builder().tls(TlsMode::Implicit);
    let wrong = format!("{PASSWORD}-of-yesterday");
    let said = examine_secure(server, "smtps", &wrong).await;
    said.assert_only("error", "route.default.auth", "535", "password_file");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_without_tls_is_found() {
    let said = examine_secure(SmtpServer::builder(), "smtp", PASSWORD).await;
    said.assert_only("error", "route.default.starttls", "does not offer STARTTLS", "smtps://");
    let said = examine_secure(SmtpServer::builder(), "smtps", PASSWORD).await;
    said.assert_only("error", "route.default.tls", "handshake", "STARTTLS");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_closed_port_a_silent_server_and_a_name_that_is_none_are_told_apart() {
    let said = examine(&route("smtp://127.0.0.1:1")).await;
    said.assert_only("error", "route.default.connect", "127.0.0.1:1", "465 smtps, 587 submission");
    let silent = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
    let port = silent.local_addr().expect("it is bound").port();
    let said = examine(&route(&format!("smtp://127.0.0.1:{port}"))).await;
    said.assert_only("error", "route.default.greeting", "timeout", "says nothing");
    let said = examine(&route("smtp://mail.invalid?starttls=none")).await;
    said.assert_only("error", "route.default.dns", "mail.invalid", "getent hosts");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sender_that_is_refused_a_small_size_and_missing_extensions_are_found() {
    let plain = |server: &SmtpServer| route(&format!("smtp://127.0.0.1:{}?starttls=none", server.port()));
    let server = SmtpServer::builder().script(Script::fault(Phase::Mail, Fault::Reply5xx)).start();
    examine(&plain(&server)).await.assert_only("error", "route.default.sender", "phase mail", "another from");
    let server = SmtpServer::builder().capabilities(|offered| offered.size = Some(1_000_000)).start();
    let said = examine(&plain(&server)).await;
    said.assert_only("warning", "route.default.size", "it takes 1000000 bytes", "attachments.bytes_max = ");
    let server = SmtpServer::builder().capabilities(|offered| offered.pipelining = false).start();
    let said = examine(&plain(&server)).await;
    said.assert_well();
    said.assert_has("note", "route.default.extensions", "PIPELINING", "switch it on");
}
