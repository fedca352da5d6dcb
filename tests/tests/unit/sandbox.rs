//! The relay in the sandbox of its unit.
//!
//! Equivalent: the seccomp filters (system calls by systemd's own groups, MemoryDenyWriteExecute, address families,
//! namespaces, real time, set-user-id, personality), no new privileges, no capabilities, an unprivileged user, the read-only
//! and noexec mounts, private /tmp, /dev and /proc. Not equivalent: control groups (memory, tasks, devices), the user
//! namespace, the keyring; `tests/unit/confine` lists each setting, and refuses one that it does not know.

use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};

use hapax_testkit::smtp::TlsMode;
use hapax_testkit::{HapaxProcess, SmtpServer, find_hapax};
use hapax_tests::manager::Manager;
use hapax_tests::stage::{PATIENCE, Stage};

/// Whom `confine` runs it as.
const USER: u32 = 61_184;

const PASSWORD: &str = "only the credential has it";

fn confine() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("unit/confine")
}

fn unit() -> PathBuf {
    super::file::folder().join("hapax.service")
}

/// Whether it can run here.
pub(super) fn root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        println!("SKIPPED: mounts and users are changed, as root only");
        assert!(std::env::var_os("HAPAX_TESTS_ALL").is_none(), "run this test as root");
    }
    root
}

fn readable(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("it is ours");
}

#[test]
fn the_sandbox_refuses_what_it_should() {
    if !root() {
        return;
    }
    let output = std::process::Command::new(confine()).arg(unit()).args(["--", "probe"]).output().expect("it runs");
    let said = String::from_utf8_lossy(&output.stdout);
    let became: serde_json::Value = serde_json::from_str(&said)
        .unwrap_or_else(|error| panic!("{error}: {said}{}", String::from_utf8_lossy(&output.stderr)));
    let expected = serde_json::json!({
        "write below /usr": "EROFS", "write below /var/lib": "EROFS", "look into /root": "EACCES",
        "execute a shell": "EACCES", "map memory to write and execute": "EPERM", "make memory executable": "EPERM",
        "a netlink socket": "EAFNOSUPPORT", "a packet socket": "EAFNOSUPPORT", "a namespace": "EPERM", "a mount": "EPERM",
        "a set-user-id file": "EPERM", "the first user": "EPERM", "a lower priority": "EPERM", "another process": "ENOENT",
        "the kernel's knobs": "ENOENT", "write below /tmp": "works", "write below /var/tmp": "works", "a TCP socket": "works",
    });
    assert_eq!(became, expected);
}

/// Binary, configuration, templates and credentials, as an installed relay has them.
struct Installed {
    directory: tempfile::TempDir,
    manager: Manager,
}

impl Installed {
    fn new(stage: &Stage) -> Self {
        let directory = tempfile::Builder::new().prefix("hapax-installed-").tempdir().expect("a directory can be made");
        let at = |name: &str| directory.path().join(name);
        std::fs::copy(find_hapax(), at("hapax")).expect("the binary can be copied");
        std::fs::write(at("ca.pem"), stage.server.ca_pem()).expect("the authority can be written");
        std::fs::create_dir(at("credentials")).expect("it can be made");
        let secret = at("credentials").join("route_default_password");
        std::fs::write(&secret, PASSWORD).expect("the credential can be written");
        let templates = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/templates");
        let copied = std::process::Command::new("/bin/cp").arg("-r").arg(templates).arg(at("templates")).status();
        assert!(copied.expect("there is cp").success());
        let url = format!("smtps://shop@localhost:{}", stage.server.port());
        let settings = stage.settings().set("routes.default.url", url);
        let settings = settings.set("routes.default.ca_file", at("ca.pem").display());
        let settings = settings.set("templates.directory", at("templates").display());
        // By name: the name service must work in there, too.
        let settings =
            settings.set("database.url", stage.cluster.url_for("postgres", "relay").replace("127.0.0.1", "localhost"));
        std::fs::write(at("hapax.toml"), settings.toml()).expect("the configuration can be written");
        readable(directory.path(), 0o755);
        readable(&secret, 0o400);
        readable(&at("credentials"), 0o500);
        for path in [secret, at("credentials")] {
            chown(path, Some(USER), Some(USER)).expect("we are root");
        }
        let manager = Manager::listen();
        readable(manager.directory(), 0o755);
        readable(&manager.path(), 0o777);
        Self { directory, manager }
    }

    fn run(&self) -> HapaxProcess {
        let at = |name: &str| self.directory.path().join(name);
        HapaxProcess::builder()
            .binary(confine())
            .arg(unit())
            .args([self.directory.path(), self.manager.directory()])
            .arg("--")
            .arg(at("hapax"))
            .arg("--config")
            .arg(at("hapax.toml"))
            .arg("run")
            .env("NOTIFY_SOCKET", self.manager.path())
            .env("WATCHDOG_USEC", "3000000")
            .env("CREDENTIALS_DIRECTORY", at("credentials"))
            .spawn()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_relay_delivers_over_tls_with_templates_in_the_sandbox_of_its_unit() {
    if !root() {
        return;
    }
    let server = SmtpServer::builder().tls(TlsMode::Implicit).credentials("shop", PASSWORD).require_auth().start();
    let stage = Stage::with(server).await;
    let installed = Installed::new(&stage);
    let mut relay = installed.run();
    installed.manager.wait_for("READY=1", 1, PATIENCE).await;
    let status = std::fs::read_to_string(format!("/proc/{}/status", relay.id())).expect("it lives");
    let uid = format!("Uid:\t{USER}\t{USER}\t{USER}\t{USER}");
    for line in ["NoNewPrivs:\t1", "Seccomp:\t2", "CapEff:\t0000000000000000", "CapBnd:\t0000000000000000", &uid] {
        assert!(status.contains(line), "{line} is not in {status}");
    }

    let sample = std::fs::read_to_string(super::file::folder().join("../templates/order_confirmed/sample.json"));
    let payload = sample.expect("a sample");
    let sql = "SELECT outbox.enqueue(kind => 'order_confirmed', recipients => ARRAY['ada@example.org'], payload => $1::text::jsonb)";
    stage.sql.query(sql, &[&payload]).await.expect("enqueues");
    // Larger than what is kept in memory: through a file without a name in /var/tmp.
    let big = "SELECT outbox.enqueue(kind => 'note', recipients => ARRAY['eve@example.org'], subject => 'Big',
               body_text => repeat(repeat('x', 70) || E'\\n', 100000))";
    stage.sql.query(big, &[]).await.expect("enqueues");
    stage.until("sent", 2).await;
    stage.server.with_ledger(|ledger| {
        assert_eq!(ledger.totals().accepted, 2);
        let message = ledger.messages().find(|one| one.recipients == ["ada@example.org"]).expect("it has come");
        let body = String::from_utf8_lossy(&message.body).into_owned();
        assert!(body.contains("multipart/") && body.contains("text/html"), "rendered from a template: {body}");
    });
    installed.manager.wait_for("WATCHDOG=1", 2, PATIENCE).await;
    relay.sigterm();
    assert_eq!(relay.wait_exit(PATIENCE).await.code(), Some(0), "{}", relay.report());
    let log = relay.stderr();
    assert!(!log.contains("not permitted") && !log.contains("WARN") && !log.contains(PASSWORD), "{log}");
}
