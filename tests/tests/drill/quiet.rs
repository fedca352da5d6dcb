//! Alerts about what stops no mail yet: a configuration that was refused, a certificate that ends soon, a clock that is wrong.

use std::path::Path;
use std::process::Command;

use hapax_testkit::smtp::{Certificate, TlsMode};
use hapax_testkit::{Fault, HapaxProcess, Phase, Rule, Script, SmtpServer, eventually};
use hapax_tests::faketime::Clock;
use hapax_tests::stage::{PATIENCE, Settings, running};

use super::{Drill, typed};

/// A command of the runbook that is not ours.
fn shell(drill: &Drill, command: &str, environment: &[(&str, String)]) -> String {
    let mut shell = Command::new("/bin/sh");
    let done = shell.args(["-c", command]).envs(environment.iter().cloned()).output().expect("there is a shell");
    let said = String::from_utf8_lossy(&done.stdout).into_owned();
    assert!(done.status.success(), "{command}: {said}{}", String::from_utf8_lossy(&done.stderr));
    drill.watch.note(&format!("$ {command}"));
    said.lines().for_each(|line| println!("          | {line}"));
    said
}

/// `hapax check` of the file that the relay reads.
async fn check(drill: &Drill, file: &Path) -> (i32, String) {
    let mut check = HapaxProcess::builder().args(["check", "--config", &file.display().to_string()]).spawn();
    let code = check.wait_exit(PATIENCE).await.code().unwrap_or(-1);
    let said = format!("{}{}", check.stdout(), check.stderr());
    drill.watch.note(&format!("$ hapax check: exit code {code}"));
    said.lines()
        .filter(|line| line.contains("error") || line.contains("hint"))
        .for_each(|l| println!("          | {l}"));
    (code, said)
}

impl Drill {
    /// What `systemctl reload` does.
    async fn reload(&self, settings: &Settings, answer: &str) {
        std::fs::write(self.relay.directory().join("hapax.toml"), settings.toml()).expect("it can be written");
        let mark = self.relay.lines().len();
        self.relay.sighup();
        self.relay.wait_for_line_after(mark, |line| line.contains(answer)).await;
    }

    pub(super) async fn a_new_configuration_is_refused(&mut self) {
        self.watch.note("somebody writes relay.leese for relay.lease, and: $ systemctl reload hapax");
        self.reload(&self.settings.clone().set("relay.leese", "1s"), "reload refused").await;
        self.watch.fires(&["HapaxConfigReloadFailed"]).await;
        self.stage.enqueue_one("meanwhile@example.org", "").await;
        self.stage.until_state("meanwhile@example.org", "sent").await;
        let file = self.relay.directory().join("hapax.toml");
        let (code, said) = check(self, &file).await;
        assert!(code == 78 && said.contains("relay.leese") && said.contains("did you mean lease?"), "{said}");
        let lines = self.relay.lines();
        let told = lines.iter().rfind(|line| line.to_lowercase().contains("reload")).expect("it says so");
        assert!(told.contains("relay.leese"), "{told}");
        std::fs::write(&file, self.settings.toml()).expect("it can be written");
        assert_eq!(check(self, &file).await.0, 0);
        self.watch.note("mended: $ hapax check --config /etc/hapax/hapax.toml && systemctl reload hapax");
        self.reload(&self.settings, "it holds from now on").await;
        self.watch.resolved().await;
    }

    pub(super) async fn the_certificate_of_a_mail_server_ends_in_five_days(&mut self) {
        let server = SmtpServer::builder().tls(TlsMode::Implicit).certificate(Certificate::EndsSoon).start();
        let directory = tempfile::tempdir().expect("a directory");
        let authority = directory.path().join("authority.pem");
        std::fs::write(&authority, server.ca_pem()).expect("it can be written");
        let url = format!("smtps://localhost:{}", server.port());
        let secure = self.settings.clone().set("routes.secure.url", url);
        let secure = secure.set("routes.secure.from", "shop@shop.example");
        let secure = secure.set("routes.secure.ca_file", authority.display());
        self.reload(&secure, "it holds from now on").await;
        self.stage.enqueue_one("five@example.org", ", route => 'secure'").await;
        self.stage.until_state("five@example.org", "sent").await;
        self.watch.note("route secure has sent a mail; the certificate of its server lasts five days");
        self.watch.fires(&["HapaxCertificateExpiry"]).await;
        let look = format!(
            "openssl s_client -connect localhost:{} -servername localhost </dev/null 2>/dev/null | openssl x509 -noout -dates -subject",
            server.port()
        );
        let before = shell(self, &look, &[]);
        server.certificate(Certificate::Good);
        server.stop().await;
        server.restart().await;
        self.watch.note("it is renewed, and the mail server restarted with it");
        assert_ne!(shell(self, &look, &[]), before, "it serves the new one");
        self.stage.enqueue_one("years@example.org", ", route => 'secure'").await;
        self.stage.until_state("years@example.org", "sent").await;
        self.watch.resolved().await;
        self.reload(&self.settings, "it holds from now on").await;
        server.ledger().assert_none_accepted_twice();
    }

    pub(super) async fn the_canary_does_not_come_through(&mut self) {
        const SENT: &str = "SELECT count(*) FROM outbox.deliveries WHERE kind = 'hapax_canary' AND state = 'sent'";
        let canary = self.settings.clone().set("canary.recipient", "canary@example.org").set("canary.every", "1s");
        self.reload(&canary, "it holds from now on").await;
        eventually(PATIENCE, async || if self.stage.count(SENT).await > 2 { Ok(()) } else { Err("none yet") }).await;
        self.watch.note("a canary comes through every second; then somebody deletes its mailbox");
        let gone = Fault::Custom(b"550 5.1.1 no such user\r\n".to_vec());
        self.stage.server.script(Script::rules([Rule::at(Phase::Rcpt, gone).recipient("canary@example.org")]));
        self.watch.fires(&["HapaxCanaryLate"]).await;
        let said = typed(&self.watch, &self.operator, &["ls", "--kind", "hapax_canary", "--limit", "5"]).await;
        assert!(said.contains("failed"), "{said}");
        typed(&self.watch, &self.operator, &["status"]).await;
        self.stage.server.script(Script::good());
        self.watch.note("the mailbox is there again");
        self.watch.resolved().await;
        self.reload(&self.settings, "it holds from now on").await;
    }

    pub(super) async fn the_clock_of_a_relay_is_wrong(&mut self) {
        if let Err(why) = Clock::available() {
            assert!(std::env::var_os("HAPAX_TESTS_ALL").is_none(), "{why}");
            return eprintln!("SKIPPED: {why}");
        }
        let clock = Clock::right();
        self.relay.sigterm();
        assert!(self.relay.wait_exit(PATIENCE).await.success(), "{}", self.relay.report());
        let mut relay = HapaxProcess::builder().config(self.settings.toml()).arg("run");
        for (name, value) in clock.environment() {
            relay = relay.env(name, value);
        }
        self.relay = relay.spawn();
        running(&self.relay).await;
        self.watch.resolved().await;
        clock.jump("+90s");
        self.watch.note("the clock of the relay's machine goes 90 s fast from now on");
        self.watch.fires(&["HapaxClockSkew"]).await;
        let here = shell(self, "date -u '+%F %T'", &clock.environment());
        let there =
            self.stage.text("SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS')", &[]);
        let there = there.await.expect("it answers");
        self.watch.note(&format!("SELECT clock_timestamp(): {there}"));
        assert_ne!(here.trim(), there);
        self.stage.enqueue_one("skewed@example.org", "").await;
        self.stage.until_state("skewed@example.org", "sent").await;
        clock.jump("+0");
        self.watch.note("time synchronisation is mended there");
        self.watch.resolved().await;
    }
}
