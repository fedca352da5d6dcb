//! A real Postfix, all our own: configuration, queue, certificates, mailboxes and ports are in a temporary directory and
//! on 127.0.0.1; nothing of /etc/postfix is read. Beside it dovecot's auth service, where submission needs a password.
//!
//! Three doors: [`Postfix::smtp`] (plain), [`Postfix::submission`] (STARTTLS and AUTH demanded), [`Postfix::smtps`] (TLS
//! from the first byte, AUTH demanded). Mail goes to one Maildir per address, owned by `nobody`. Postfix repairs nothing
//! here: no header is added for a missing one, and Bcc, which it drops by default, would stay for everybody to see.
//!
//! Invariant: both servers end with the handle, and when this process dies without dropping it (a shell waits on a pipe
//! that only we hold).

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use hapax_testkit::{ReservedPort, eventually};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, KeyUsagePurpose};
use tokio::net::TcpStream;

use crate::keeper::Keeper;

const MASTER: &str = "/usr/lib/postfix/sbin/master";
const DOVECOT: &str = "/usr/sbin/dovecot";
const START_DEADLINE: Duration = Duration::from_secs(30);
/// Who submits where AUTH is demanded.
pub const USER: &str = "shop@example.com";
/// With a space and a letter that is not ASCII: passwords are.
pub const PASSWORD: &str = "Pa55 wörd";

const MASTER_CF: &str = "
postlog   unix-dgram n - n - 1 postlogd
pickup    unix n - n 60 1 pickup
cleanup   unix n - n - 0 cleanup
qmgr      unix n - n 300 1 qmgr
tlsmgr    unix - - n 1000? 1 tlsmgr
rewrite   unix - - n - - trivial-rewrite
bounce    unix - - n - 0 bounce
defer     unix - - n - 0 bounce
trace     unix - - n - 0 bounce
verify    unix - - n - 1 verify
flush     unix n - n 1000? 0 flush
proxymap  unix - - n - - proxymap
showq     unix n - n - - showq
error     unix - - n - - error
retry     unix - - n - - error
discard   unix - - n - - discard
virtual   unix - n n - - virtual
anvil     unix - - n - 1 anvil
";

const SUBMIT: &str = "-o smtpd_sasl_auth_enable=yes -o smtpd_tls_auth_only=yes -o smtpd_sasl_authenticated_header=yes
  -o smtpd_recipient_restrictions=permit_sasl_authenticated,reject
  -o smtpd_relay_restrictions=permit_sasl_authenticated,reject";

/// A running Postfix.
#[derive(Debug)]
pub struct Postfix {
    // Before the directory: they end before it is deleted.
    _servers: Vec<Keeper>,
    directory: tempfile::TempDir,
    smtp: ReservedPort,
    submission: ReservedPort,
    smtps: ReservedPort,
}

impl Postfix {
    /// Whether it can run here; if not, says why.
    ///
    /// # Errors
    /// What is missing and what to type.
    pub fn available() -> Result<(), &'static str> {
        if !Path::new(MASTER).exists() || !Path::new(DOVECOT).exists() {
            return Err("Postfix or dovecot is not installed: run tests/setup");
        }
        if !rustix::process::geteuid().is_root() {
            return Err("Postfix's master runs as root only: run this test as root, in a container for example");
        }
        Ok(())
    }

    /// Starts it with a Maildir for each of `addresses`; returns when all three doors are open.
    ///
    /// # Panics
    /// When it does not start, with its log.
    pub async fn start(addresses: &[&str]) -> Self {
        let directory = tempfile::Builder::new().prefix("hapax-postfix-").tempdir().expect("a directory can be made");
        let reserve = || ReservedPort::reserve().expect("a port is free");
        let mut postfix =
            Self { _servers: Vec::new(), directory, smtp: reserve(), submission: reserve(), smtps: reserve() };
        postfix.write(addresses);
        let (root, log) = (postfix.directory.path(), postfix.log_path());
        let (mut dovecot, mut master) = (Command::new(DOVECOT), Command::new(MASTER));
        dovecot.args(["-F", "-c"]).arg(root.join("dovecot.conf"));
        master.arg("-c").arg(root.join("etc")).arg("-s");
        let (dovecot, master) = (Keeper::run(dovecot, &log, Some(root)), Keeper::run(master, &log, None));
        postfix._servers = vec![master, dovecot];
        for port in [&postfix.smtp, &postfix.submission, &postfix.smtps] {
            let open = async || TcpStream::connect(port.address()).await.map_err(|error| (error, postfix.log()));
            eventually(START_DEADLINE, open).await;
        }
        let auth = root.join("auth");
        eventually(START_DEADLINE, async || auth.exists().then_some(()).ok_or_else(|| postfix.log())).await;
        postfix
    }

    /// The port without TLS and AUTH.
    #[must_use]
    pub fn smtp(&self) -> u16 {
        self.smtp.number()
    }

    /// The port that demands STARTTLS and AUTH.
    #[must_use]
    pub fn submission(&self) -> u16 {
        self.submission.number()
    }

    /// The port that speaks TLS from the first byte and demands AUTH.
    #[must_use]
    pub fn smtps(&self) -> u16 {
        self.smtps.number()
    }

    /// The certificate of the authority that signed the server's.
    #[must_use]
    pub fn ca_file(&self) -> PathBuf {
        self.directory.path().join("ca.pem")
    }

    /// Where the Maildir of the n-th address is.
    #[must_use]
    pub fn maildir(&self, number: usize) -> PathBuf {
        self.directory.path().join("mail").join(number.to_string())
    }

    /// What it has taken, and not yet delivered: files of its queue.
    #[must_use]
    pub fn queued(&self) -> Vec<PathBuf> {
        let queue = self.directory.path().join("queue");
        let names = ["maildrop", "incoming", "active", "deferred"];
        names.iter().flat_map(|name| crate::jail::files_below(&queue.join(name))).collect()
    }

    /// Everything both servers have logged.
    #[must_use]
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.log_path()).unwrap_or_default()).into_owned()
    }

    fn log_path(&self) -> PathBuf {
        self.directory.path().join("mail.log")
    }

    fn write(&self, addresses: &[&str]) {
        let root = self.directory.path();
        let write = |name: &str, content: String| fs::write(root.join(name), content).expect("a file can be written");
        // Postfix's own users must get through.
        fs::set_permissions(root, fs::Permissions::from_mode(0o755)).expect("it is ours");
        fs::create_dir(root.join("etc")).expect("it is new");
        self.make_queue();
        write_certificates(root);
        let mut domains: Vec<&str> = addresses.iter().filter_map(|address| Some(address.rsplit_once('@')?.1)).collect();
        domains.sort_unstable();
        domains.dedup();
        let mailboxes = addresses.iter().enumerate().fold(String::new(), |mut text, (number, address)| {
            let _ = writeln!(text, "{address} {number}/");
            text
        });
        write("etc/mailboxes", mailboxes);
        write("etc/main.cf", main_cf(&text(root), &domains.join(" ")));
        let (smtp, submission, smtps) = (self.smtp(), self.submission(), self.smtps());
        write(
            "etc/master.cf",
            format!(
                "127.0.0.1:{smtp} inet n - n - - smtpd\n\
                 127.0.0.1:{submission} inet n - n - - smtpd\n  -o smtpd_tls_security_level=encrypt\n  {SUBMIT}\n\
                 127.0.0.1:{smtps} inet n - n - - smtpd\n  -o smtpd_tls_wrappermode=yes\n  {SUBMIT}{MASTER_CF}"
            ),
        );
        write("dovecot.conf", dovecot_conf(&text(root)));
        write("users", format!("{USER}:{{PLAIN}}{PASSWORD}\n"));
    }

    /// What `postfix start` would make (see postfix-files).
    fn make_queue(&self) {
        let root = self.directory.path();
        let user = |name: &str| lookup("/etc/passwd", name);
        let (postfix, nobody) = (user("postfix"), user("nobody"));
        let postdrop = lookup("/etc/group", "postdrop");
        let make = |path: PathBuf, mode: u32, owner: Option<u32>, group: Option<u32>| {
            fs::create_dir_all(&path).expect("it is new");
            chown(&path, owner, group).expect("we are root");
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("we are root");
        };
        let queue = root.join("queue");
        make(queue.clone(), 0o755, None, None);
        make(queue.join("pid"), 0o755, None, None);
        for name in "active bounce corrupt defer deferred flush hold incoming private saved trace".split(' ') {
            make(queue.join(name), 0o700, Some(postfix), None);
        }
        make(queue.join("maildrop"), 0o730, Some(postfix), Some(postdrop));
        make(queue.join("public"), 0o710, Some(postfix), Some(postdrop));
        make(root.join("data"), 0o700, Some(postfix), None);
        make(root.join("mail"), 0o755, Some(nobody), None);
        make(root.join("run"), 0o755, None, None);
    }
}

fn main_cf(root: &str, domains: &str) -> String {
    let nobody = lookup("/etc/passwd", "nobody");
    format!(
        "compatibility_level = 3.6
queue_directory = {root}/queue
data_directory = {root}/data
maillog_file = {root}/mail.log
maillog_file_prefixes = {root}
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
myhostname = mail.example.org
mydestination =
mynetworks = 127.0.0.0/8
alias_maps =
alias_database =
local_recipient_maps =
smtputf8_enable = yes
virtual_mailbox_domains = {domains}
virtual_mailbox_base = {root}/mail
virtual_mailbox_maps = texthash:{root}/etc/mailboxes
virtual_uid_maps = static:{nobody}
virtual_gid_maps = static:{nobody}
virtual_mailbox_limit = 0
local_header_rewrite_clients =
message_drop_headers =
in_flow_delay = 0
smtpd_tls_cert_file = {root}/server.pem
smtpd_tls_key_file = {root}/server.key
smtpd_tls_loglevel = 1
smtpd_tls_received_header = yes
smtpd_sasl_type = dovecot
smtpd_sasl_path = {root}/auth
"
    )
}

fn dovecot_conf(root: &str) -> String {
    format!(
        "base_dir = {root}/run
state_dir = {root}/run
instance_name = hapax-tests
protocols =
ssl = no
log_path = /dev/stderr
auth_mechanisms = plain login
disable_plaintext_auth = no
passdb {{
  driver = passwd-file
  args = scheme=PLAIN username_format=%u {root}/users
}}
userdb {{
  driver = static
  args = uid=65534 gid=65534 home=/nonexistent
}}
service auth {{
  unix_listener {root}/auth {{
    mode = 0666
  }}
}}
"
    )
}

/// An authority of our own, and a certificate from it for localhost and 127.0.0.1.
fn write_certificates(root: &Path) {
    let key = || KeyPair::generate().expect("a key can be made");
    let mut params = CertificateParams::new(Vec::<String>::new()).expect("no names, no bad name");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.distinguished_name.push(rcgen::DnType::CommonName, "hapax tests authority");
    let authority = CertifiedIssuer::self_signed(params, key()).expect("an authority can be made");
    let params = CertificateParams::new(["localhost", "127.0.0.1"].map(String::from).to_vec()).expect("good names");
    let server_key = key();
    let server = params.signed_by(&server_key, &authority).expect("a certificate can be made");
    let files = [("ca.pem", authority.pem()), ("server.pem", server.pem()), ("server.key", server_key.serialize_pem())];
    for (name, content) in files {
        fs::write(root.join(name), content).expect("a file can be written");
        fs::set_permissions(root.join(name), fs::Permissions::from_mode(0o600)).expect("it is ours");
    }
}

/// The number of a user or group.
fn lookup(file: &str, name: &str) -> u32 {
    let content = fs::read_to_string(file).expect("everybody may read it");
    let mut lines = content.lines().map(|line| line.split(':').collect::<Vec<_>>());
    let found = lines.find(|fields| fields.first() == Some(&name)).and_then(|fields| fields.get(2)?.parse().ok());
    found.unwrap_or_else(|| panic!("there is no {name} in {file}"))
}

fn text(path: &Path) -> String {
    path.to_str().expect("temporary directories are UTF-8").to_owned()
}
