//! Illnesses of the senders' DNS, and of configuration and templates.

use hapax_testkit::SmtpServer;
use hapax_tests::dns::DnsServer;
use hapax_tests::stage::{DOMAIN, Settings};
use rcgen::{KeyPair, PKCS_ED25519};
use tokio::net::UdpSocket;

use crate::asking::{Said, ask};
use crate::servers::names;

async fn examine(settings: &Settings, dns: &DnsServer) -> Said {
    ask(settings, &["--route", "default", "--timeout", "3s", "--resolver", &dns.address().to_string()]).await
}

fn route(server: &SmtpServer) -> Settings {
    let url = format!("smtp://127.0.0.1:{}?starttls=none", server.port());
    Settings::new("postgres://nobody@127.0.0.1:1/none", &url)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dkim_key_is_compared_with_its_record() {
    let server = SmtpServer::start();
    let directory = tempfile::tempdir().expect("a directory can be made");
    let file = directory.path().join("key.pem");
    let key = KeyPair::generate_for(&PKCS_ED25519).expect("a key can be made").serialize_pem();
    std::fs::write(&file, key).expect("a file can be written");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(&file, mode).expect("it is ours");
    let settings = route(&server)
        .set("dkim.shop.domain", DOMAIN)
        .set("dkim.shop.selector", "s1")
        .set("dkim.shop.private_key_file", file.display());
    let dns = names().await;
    let (place, name) = (format!("s1._domainkey.{DOMAIN}"), format!("dkim.s1._domainkey.{DOMAIN}"));
    let said = examine(&settings, &dns).await;
    said.assert_only("error", &name, "there is no record", "publish this TXT record");
    // What it says to publish is what it takes.
    let remedy = &said.findings.iter().find(|finding| finding[1] == name).expect("it was found")[3];
    let record = remedy.split_once(&format!("{place}: ")).expect("it names the place").1;
    dns.set(&place, &[record]);
    let said = examine(&settings, &dns).await;
    said.assert_well();
    said.assert_has("ok", &name, "is that of the key", "");
    dns.set(&place, &["v=DKIM1; k=ed25519; p=11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo="]);
    examine(&settings, &dns).await.assert_only("error", &name, "that of another key", record);
    dns.set(&place, &["v=DKIM1; k=ed25519; p="]);
    examine(&settings, &dns).await.assert_only("error", &name, "revoked", record);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn missing_and_doubled_policies_are_found_and_dns_that_does_not_answer_is_a_note() {
    let server = SmtpServer::start();
    let settings = route(&server);
    let dns = names().await;
    let (spf, dmarc) = (format!("dns.{DOMAIN}.spf"), format!("dns.{DOMAIN}.dmarc"));
    dns.set(DOMAIN, &["something else"]);
    examine(&settings, &dns).await.assert_only("warning", &spf, "no SPF record", "v=spf1");
    dns.set(DOMAIN, &["v=spf1 -all", "v=spf1 +all"]);
    examine(&settings, &dns).await.assert_only("warning", &spf, "2 SPF records", "one of them");
    dns.set(DOMAIN, &["v=spf1 -all"]);
    dns.set(&format!("_dmarc.{DOMAIN}"), &[]);
    examine(&settings, &dns).await.assert_only("warning", &dmarc, "no DMARC record", "v=DMARC1");
    let silent = UdpSocket::bind("127.0.0.1:0").await.expect("a port is free");
    let address = silent.local_addr().expect("it is bound").to_string();
    let said = ask(&settings, &["--route", "default", "--timeout", "1s", "--resolver", &address]).await;
    said.assert_well();
    said.assert_has("note", "dns", "could not be looked at", "--resolver");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_template_error_and_time_outs_that_contradict_each_other_are_found_without_asking_anybody() {
    let server = SmtpServer::start();
    let directory = tempfile::tempdir().expect("a directory can be made");
    let kind = directory.path().join("order_confirmed");
    std::fs::create_dir(&kind).expect("it can be made");
    std::fs::write(kind.join("subject.txt"), "Order {{ order_id }}").expect("a file can be written");
    std::fs::write(kind.join("body.txt"), "Total: {{ total }").expect("a file can be written");
    std::fs::write(kind.join("sample.json"), r#"{"order_id": 1, "total": "2"}"#).expect("a file can be written");
    let settings = route(&server).set("templates.directory", directory.path().display());
    let said = ask(&settings, &["--offline"]).await;
    said.assert_only("error", "templates", "order_confirmed/body.txt", "hapax template check");
    std::fs::write(kind.join("body.txt"), "Total: {{ total }}").expect("a file can be written");
    ask(&settings, &["--offline"]).await.assert_well();
    let settings = settings.set("relay.shutdown_grace", "1s");
    let said = ask(&settings, &["--offline"]).await;
    said.assert_only("error", "config.relay.shutdown_grace", "final_reply_timeout", "TimeoutStopSec");
    let settings = route(&server).set("relay.spool_directory", "/proc");
    let said = ask(&settings, &["--offline"]).await;
    said.assert_only("error", "machine.spool", "/proc", "relay.spool_directory");
    assert_eq!(server.ledger().connections().len(), 0);
}
