//! Exim and OpenSMTPD, each in a root directory of its own (`tests/setup` furnishes one to copy): the paths of their
//! spools and users are compiled in, and nothing of this machine's /etc and /var is touched. Mail for `example.org` is
//! taken from anybody on 127.0.0.1 and lies in one Maildir per address, below `/mail` of that directory.
//!
//! Invariant: a server ends with its handle, and when this process dies without dropping it (see [`Keeper`]).

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use hapax_testkit::{ReservedPort, eventually};
use tokio::net::TcpStream;

use crate::keeper::Keeper;

const START_DEADLINE: Duration = Duration::from_secs(30);
const NOBODY: u32 = 65_534;
/// Of Debian-exim in the furnished directory.
const EXIM: u32 = 901;

/// Which server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// exim4-daemon-light.
    Exim,
    /// opensmtpd.
    OpenSmtpd,
}

/// A running server.
#[derive(Debug)]
pub struct Jail {
    // Before the directory: it ends before that is deleted.
    _server: Option<Keeper>,
    kind: Kind,
    directory: tempfile::TempDir,
    port: ReservedPort,
}

/// Where `tests/setup` unpacks servers.
#[must_use]
pub fn servers() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/servers")
}

impl Jail {
    /// Whether it can run here; if not, says why.
    ///
    /// # Errors
    /// What is missing and what to type.
    pub fn available() -> Result<(), &'static str> {
        if !servers().join("complete").exists() {
            return Err("Exim and OpenSMTPD are not unpacked: run tests/setup");
        }
        if !rustix::process::geteuid().is_root() {
            return Err("Exim and OpenSMTPD are run in a chroot, as root only: run this test as root");
        }
        Ok(())
    }

    /// Starts it with a Maildir for each of `addresses`, all in example.org; returns when it takes connections.
    ///
    /// # Panics
    /// When it does not start, with its log.
    pub async fn start(kind: Kind, addresses: &[&str]) -> Self {
        let directory = tempfile::Builder::new().prefix("hapax-jail-").tempdir().expect("a directory can be made");
        let port = ReservedPort::reserve().expect("a port is free");
        let mut jail = Self { _server: None, kind, directory, port };
        jail.furnish(addresses);
        let mut command = Command::new("/usr/sbin/chroot");
        command.arg(jail.root());
        match kind {
            Kind::Exim => command.args(["/usr/sbin/exim4", "-bdf", "-q2s"]),
            Kind::OpenSmtpd => command.args(["/usr/sbin/smtpd", "-d"]),
        };
        jail._server = Some(Keeper::run(command, &jail.log_path(), Some(jail.directory.path())));
        let open = async || TcpStream::connect(jail.port.address()).await.map_err(|error| (error, jail.log()));
        eventually(START_DEADLINE, open).await;
        jail
    }

    /// Its port on 127.0.0.1.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// Where the Maildir of an address is.
    #[must_use]
    pub fn maildir(&self, address: &str) -> PathBuf {
        self.root().join("mail").join(address)
    }

    /// What it has taken, and not yet delivered: files of its queue.
    #[must_use]
    pub fn queued(&self) -> Vec<PathBuf> {
        let spool = match self.kind {
            Kind::Exim => &["spool/input"][..],
            Kind::OpenSmtpd => &["var/spool/smtpd/queue", "var/spool/smtpd/incoming"],
        };
        spool.iter().flat_map(|part| files_below(&self.root().join(part))).collect()
    }

    /// Everything it has logged.
    #[must_use]
    pub fn log(&self) -> String {
        let files = [self.log_path(), self.root().join("log/main"), self.root().join("log/panic")];
        let texts = files.map(|file| String::from_utf8_lossy(&fs::read(file).unwrap_or_default()).into_owned());
        texts.concat()
    }

    fn log_path(&self) -> PathBuf {
        self.directory.path().join("log")
    }

    fn root(&self) -> PathBuf {
        self.directory.path().join("root")
    }

    fn furnish(&self, addresses: &[&str]) {
        let (root, name) = (self.root(), if self.kind == Kind::Exim { "exim" } else { "opensmtpd" });
        let copied = Command::new("/bin/cp").arg("-a").arg(servers().join(name)).arg(&root).status();
        assert!(copied.expect("there is cp").success(), "the furnished directory can be copied");
        let write = |path: &str, content: &str, mode: u32| {
            fs::write(root.join(path), content).expect("a file can be written");
            fs::set_permissions(root.join(path), fs::Permissions::from_mode(mode)).expect("it is ours");
        };
        let port = self.port().to_string();
        match self.kind {
            Kind::Exim => {
                for path in ["spool", "log", "mail"] {
                    fs::create_dir_all(root.join(path)).expect("it can be made");
                    chown(root.join(path), Some(EXIM), Some(EXIM)).expect("we are root");
                }
                let boxes = addresses.iter().fold(String::new(), |mut text, address| {
                    let _ = writeln!(text, "\"{address}\": {address}");
                    text
                });
                write("etc/mailboxes", &boxes, 0o644);
                write("etc/exim4/exim4.conf", &EXIM_CONF.replace("PORT", &port), 0o644);
            }
            Kind::OpenSmtpd => {
                let spool = root.join("var/spool/smtpd");
                fs::set_permissions(spool, fs::Permissions::from_mode(0o711)).expect("it is ours");
                chown(root.join("mail"), Some(NOBODY), Some(NOBODY)).expect("we are root");
                let users = addresses.iter().fold(String::new(), |mut text, address| {
                    let _ = writeln!(text, "{address} nobody");
                    text
                });
                write("etc/mailboxes", &users, 0o644);
                write("etc/smtpd.conf", &SMTPD_CONF.replace("PORT", &port), 0o600);
            }
        }
    }
}

pub(crate) fn files_below(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.path().is_dir() { found.extend(files_below(&entry.path())) } else { found.push(entry.path()) }
    }
    found
}

/// Nothing is looked up, nothing is repaired, nothing is limited that a relay could run into.
const EXIM_CONF: &str = "
primary_hostname = mail.example.org
spool_directory = /spool
log_file_path = /log/%s
local_interfaces = 127.0.0.1
daemon_smtp_ports = PORT
pid_file_path = /spool/exim.pid
exim_user = Debian-exim
exim_group = Debian-exim
deliver_drop_privilege
keep_environment =
tls_advertise_hosts =
host_lookup =
rfc1413_query_timeout = 0s
acl_smtp_rcpt = recipient
acl_smtp_data = accept
smtp_accept_max = 200
smtp_accept_queue_per_connection = 0
begin acl
recipient:
  accept domains = example.org
  deny message = relaying denied
begin routers
mailbox:
  driver = accept
  address_data = ${lookup{$local_part@$domain}lsearch{/etc/mailboxes}{$value}fail}
  transport = maildir
begin transports
maildir:
  driver = appendfile
  directory = /mail/$address_data
  user = Debian-exim
  group = Debian-exim
  maildir_format
  mode = 0644
  create_directory
  envelope_to_add
begin retry
* * F,1h,2s
";

const SMTPD_CONF: &str = "
table mailboxes file:/etc/mailboxes
smtp max-message-size 50M
listen on 127.0.0.1 port PORT hostname mail.example.org
action deliver maildir \"/mail/%{rcpt:lowercase}\" virtual <mailboxes>
match from any for domain \"example.org\" action deliver
";
