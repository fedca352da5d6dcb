//! TLS and AUTH, and that nothing secret shows.

use std::sync::Arc;

use hapax_core::clock::SystemClock;
use hapax_mail::{Credentials, Mailer, ParsedUrl, Secret, Security, Transport, parse_url};
use hapax_testkit::{
    Fault, Phase, Rule, Script, SmtpServer,
    smtp::{Certificate, TlsMode},
};

use crate::kit::{self, Mail};

#[tokio::test]
async fn tls_is_used_as_the_route_says() {
    let cases = [
        (TlsMode::None, Security::None, Some(false)),
        (TlsMode::StartTls, Security::None, Some(false)),
        (TlsMode::None, Security::Opportunistic, Some(false)),
        (TlsMode::StartTls, Security::Opportunistic, Some(true)),
        (TlsMode::StartTls, Security::Required, Some(true)),
        (TlsMode::Implicit, Security::Implicit, Some(true)),
        (TlsMode::None, Security::Required, None),
    ];
    for (offered, wanted, expected) in cases {
        let server = SmtpServer::builder().tls(offered).start();
        let mut route = kit::route(&server, offered);
        route.security = wanted;
        match (kit::mailer(route).open().await, expected) {
            (Ok(connection), Some(encrypted)) => {
                kit::assert_accepted(&kit::deliver(connection, &Mail::new()).await);
                assert_eq!(server.ledger().connections()[0].tls, encrypted, "{offered:?} {wanted:?}");
            }
            (Err(outcome), None) => assert_eq!(kit::short(&outcome), "not_sent starttls unsupported"),
            (opened, expected) => panic!("{offered:?} {wanted:?}: {opened:?}, expected {expected:?}"),
        }
    }
}

#[tokio::test]
async fn opportunistic_starttls_goes_on_in_plain_text_when_refused_but_not_when_the_handshake_breaks() {
    let refusing = SmtpServer::builder().tls(TlsMode::StartTls).start();
    refusing.script(Script::fault(Phase::StartTls, Fault::Reply4xx));
    let mut route = kit::route(&refusing, TlsMode::StartTls);
    route.security = Security::Opportunistic;
    kit::assert_accepted(&kit::deliver(kit::open(route.clone()).await, &Mail::new()).await);
    assert!(!refusing.ledger().connections()[0].tls);
    refusing.script(Script::fault(Phase::Tls, Fault::Eof));
    let outcome = kit::mailer(route).open().await.expect_err("broken");
    assert!(kit::short(&outcome).starts_with("not_sent tls"), "{outcome:?}");
}

#[tokio::test]
async fn a_certificate_that_cannot_be_trusted_ends_it_at_tls_and_says_so() {
    for certificate in [Certificate::WrongName, Certificate::Expired, Certificate::SelfSigned] {
        for tls in [TlsMode::StartTls, TlsMode::Implicit] {
            let server = SmtpServer::builder().tls(tls).certificate(certificate).start();
            let outcome = kit::mailer(kit::route(&server, tls)).open().await.expect_err("not trusted");
            assert_eq!(kit::short(&outcome), "not_sent tls certificate", "{certificate:?}: {outcome:?}");
            kit::all_ended(&server).await;
            assert_eq!(server.ledger().count_mail_commands(), 0);
        }
    }
    let (server, other) = (SmtpServer::builder().tls(TlsMode::Implicit).start(), SmtpServer::start());
    let mut route = kit::route(&server, TlsMode::Implicit);
    route.ca_file = Some(kit::ca_file(other.ca_pem()));
    let outcome = kit::mailer(route).open().await.expect_err("another authority");
    assert_eq!(kit::short(&outcome), "not_sent tls certificate");
    // Without a CA file the system's own authorities are asked; they have never heard of it either.
    let mut route = kit::route(&server, TlsMode::Implicit);
    route.ca_file = None;
    if let Ok(mailer) = Mailer::new(Transport::Smtp(route), Arc::new(SystemClock)) {
        assert_eq!(kit::short(&mailer.open().await.expect_err("unknown")), "not_sent tls certificate");
    }
}

#[tokio::test]
async fn the_name_in_the_certificate_can_be_given() {
    let server = SmtpServer::builder().tls(TlsMode::Implicit).certificate(Certificate::WrongName).start();
    let mut route = kit::route(&server, TlsMode::Implicit);
    route.tls_name = Some("elsewhere.invalid".to_owned());
    kit::assert_accepted(&kit::deliver(kit::open(route).await, &Mail::new()).await);
}

#[tokio::test]
async fn each_mechanism_authenticates_by_what_is_offered() {
    let long = "t".repeat(3_000);
    let password = |secret: &str| kit::password("user", secret);
    let token = |secret: &str| Some(Credentials::XOAuth2 { user: "user".to_owned(), token: Secret::new(secret) });
    let cases = [
        (vec!["LOGIN", "PLAIN"], password("päss word"), "päss word", Some("PLAIN")),
        (vec!["LOGIN"], password("päss word"), "päss word", Some("LOGIN")),
        (vec!["PLAIN"], password(&long), &*long, Some("PLAIN")),
        (vec!["PLAIN", "XOAUTH2"], token("token"), "token", Some("XOAUTH2")),
        (vec!["XOAUTH2"], token(&long), &*long, Some("XOAUTH2")),
        (vec!["CRAM-MD5", "XOAUTH2"], password("x"), "x", None),
        (vec!["PLAIN", "LOGIN"], token("x"), "x", None),
        (vec!["PLAIN"], password("wrong"), "right", None),
        (vec!["LOGIN"], password("wrong"), "right", None),
        (vec!["XOAUTH2"], token("wrong"), "right", None),
    ];
    for (offered, credentials, secret, expected) in cases {
        let server = SmtpServer::builder()
            .capabilities(|capabilities| capabilities.auth = offered.iter().map(|word| (*word).to_owned()).collect())
            .credentials("user", secret)
            .require_auth()
            .start();
        let mut route = kit::route(&server, TlsMode::None);
        route.credentials = credentials;
        match kit::mailer(route).open().await {
            Ok(connection) => {
                kit::assert_accepted(&kit::deliver(connection, &Mail::new()).await);
                let auth = server.ledger().connections()[0].auth.clone();
                assert_eq!(auth.as_ref().map(|(mechanism, _)| mechanism.as_str()), expected);
            }
            Err(outcome) => {
                assert!(expected.is_none() && kit::short(&outcome).starts_with("not_sent auth"), "{outcome:?}");
                assert_eq!(server.ledger().count_mail_commands(), 0);
            }
        }
    }
}

#[tokio::test]
async fn xoauth2_hears_the_refusal_behind_its_challenge() {
    let server = SmtpServer::builder().capabilities(|offered| offered.auth = vec!["XOAUTH2".to_owned()]).start();
    server.script(Script::rules([Rule::at(Phase::Auth, Fault::Custom(b"334 eyJzdGF0dXMiOiI0MDEifQ==\r\n".to_vec()))]));
    let mut route = kit::route(&server, TlsMode::None);
    route.credentials = Some(Credentials::XOAuth2 { user: "user".to_owned(), token: Secret::new("stale") });
    let outcome = kit::mailer(route).open().await.expect_err("refused");
    // The scripted server knows no continuation: an empty line is an unknown command to it.
    assert_eq!(outcome.reply().map(|reply| reply.code), Some(500), "{outcome:?}");
    let commands = server.ledger().connections()[0].commands.clone();
    assert_eq!(commands.last().map(String::as_str), Some(""));
}

#[tokio::test]
async fn a_530_at_mail_blames_the_route_and_not_the_message() {
    let server = SmtpServer::builder().credentials("user", "password").require_auth().start();
    let transmitted = kit::deliver(kit::open(kit::route(&server, TlsMode::None)).await, &Mail::new()).await;
    assert_eq!(kit::short(&transmitted.outcome), "not_sent auth unexpected");
    assert!(transmitted.connection.is_none());
}

#[test]
fn a_route_that_could_never_work_is_found_at_start_up() {
    let problem = |change: &dyn Fn(&mut hapax_mail::SmtpServer)| {
        let mut route = hapax_mail::SmtpServer::new("mx.example", 25);
        change(&mut route);
        let error = Mailer::new(Transport::Smtp(route), Arc::new(SystemClock)).expect_err("refused");
        let shown = format!("{error} {error:?}");
        assert!(!shown.contains("canary"), "{shown}");
        shown
    };
    assert!(problem(&|route| route.hello_name = "evil\r\nQUIT".to_owned()).contains("EHLO"));
    assert!(problem(&|route| route.host = "not a host".to_owned()).contains("host name"));
    assert!(problem(&|route| route.ca_file = Some("/no/such/file.pem".into())).contains("/no/such/file.pem"));
    assert!(problem(&|route| route.ca_file = Some(kit::ca_file("nothing"))).contains("no certificate"));
    assert!(problem(&|route| route.credentials = kit::password("user", "")).contains("password_file"));
    assert!(problem(&|route| route.credentials = kit::password("user", "canary\n")).contains("control character"));
    assert!(problem(&|route| route.credentials = kit::password("", "canary")).contains("user name is empty"));
}

fn smtp(url: &str) -> hapax_mail::SmtpServer {
    match parse_url(url) {
        Ok(ParsedUrl::Transport(Transport::Smtp(server))) => server,
        other => panic!("{url}: {other:?}"),
    }
}

#[test]
fn urls_have_safe_defaults() {
    let cases = [
        ("smtp://mx.example", 25, Security::Required, false),
        ("smtp://user:pw@mx.example", 587, Security::Required, true),
        ("smtp://user@mx.example:2525?starttls=none", 2525, Security::None, true),
        ("smtp://localhost", 25, Security::Opportunistic, false),
        ("smtp://127.0.0.1:1025?starttls=required", 1025, Security::Required, false),
        ("smtp://[::1]", 25, Security::Opportunistic, false),
        ("smtp://mx.example/?starttls=opportunistic", 25, Security::Opportunistic, false),
        ("smtps://hapax@smtp.example.com", 465, Security::Implicit, true),
    ];
    for (url, port, security, credentials) in cases {
        let server = smtp(url);
        assert_eq!(
            (server.port, server.security, server.credentials.is_some()),
            (port, security, credentials),
            "{url}"
        );
        assert!(!server.insecure_auth);
    }
    assert_eq!(smtp("smtp://[::1]:26").host, "::1");
    let options = "auth=xoauth2&insecure_auth=true&ca_file=%2Fca.pem&tls_name=x.example&hello=me.example";
    let all = smtp(&format!("smtps://a%40b.org:p%25w%3A@mx.example?{options}"));
    let token = Credentials::XOAuth2 { user: "a@b.org".to_owned(), token: Secret::new("p%w:") };
    assert_eq!((all.credentials, all.insecure_auth, all.hello_name.as_str()), (Some(token), true, "me.example"));
    assert_eq!((all.ca_file, all.tls_name), (Some("/ca.pem".into()), Some("x.example".to_owned())));
    let mut later = smtp("smtps://hapax@mx.example");
    later.set_secret(Secret::new("from a file"));
    assert_eq!(later.credentials, kit::password("hapax", "from a file"));
    assert!(matches!(parse_url("capture:"), Ok(ParsedUrl::Capture)));
    match parse_url("file:///var/spool/mail%20box") {
        Ok(ParsedUrl::Transport(Transport::File { directory })) => {
            assert_eq!(directory, std::path::Path::new("/var/spool/mail box"));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_bad_url_is_named_with_its_remedy_and_without_the_password() {
    let cases = [
        ("", "smtp://host"),
        ("mx.example", "smtp://host"),
        ("lmtp://mx.example", "not supported yet"),
        ("http://mx.example", "scheme"),
        ("smtp://", "host is missing"),
        ("smtp:mx.example", "host is missing"),
        ("smtp://user:canary@mx.example/path", "path"),
        ("smtp://user:canary#x@mx.example", "%23"),
        ("smtp://user:canary@mx.example?startls=none", "startls"),
        ("smtp://user?canary@mx.example", "unknown option"),
        ("smtp://user:canary@mx.example?starttls=maybe", "opportunistic"),
        ("smtps://user:canary@mx.example?starttls=none", "always encrypted"),
        ("smtp://user:canary%zz@mx.example", "%25"),
        ("smtp://user:canary%ff@mx.example", "%25"),
        ("smtp://user:canary@mx.example:99999", "not a URL"),
        ("file://host/relative", "absolute"),
    ];
    for (url, part) in cases {
        let error = parse_url(url).expect_err(url);
        let shown = format!("{error} {error:?}");
        assert!(shown.contains(part) && !shown.contains("canary"), "{url}: {shown}");
    }
}

#[test]
fn no_formatting_shows_a_secret() {
    let server = smtp("smtps://user-canary:canary@mx.example");
    let shown = format!("{server:?} {server:#?} {:?} {:?}", parse_url("smtp://u:canary@h"), Secret::new("canary"));
    assert!(!shown.contains("canary"), "{shown}");
}
