//! The pool: where to connect, how to trust the server, and what the server says unasked.

use std::{
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use deadpool_postgres::{Connect, Manager, ManagerConfig, Pool, QueueMode, RecyclingMethod, Runtime};
use futures_util::future::{BoxFuture, FutureExt, poll_fn};
use tokio::task::JoinHandle;
use tokio_postgres::{
    AsyncMessage, Client, Config, Connection, Socket,
    config::{Host, SslMode},
    tls::MakeTlsConnect,
};

use crate::{error::Error, inspect::doctor::Asked, tls};

/// How long one address may take to answer.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Asked for at the start of a session, where it comes before what a role or database has set: without it names of Postgres
/// (now(), count(), =) would be looked up wherever those say, what row level security hides would look like what is not there,
/// statements that come second would fail where others merely wait, and names in findings and remedies would all be quoted. No
/// statement sets them, for a pooler gives a session to others.
const ASKED_FOR: &str = "-c search_path=pg_catalog,pg_temp -c row_security=off -c quote_all_identifiers=off \
    -c default_transaction_isolation=read\\ committed";

/// How to reach the database.
#[derive(Clone)]
pub struct ConnectOptions {
    /// A `postgres://` URL or a libpq keyword string; may name several hosts. `sslmode` understands libpq's words.
    pub url: String,
    /// The password, where it is not in the URL.
    pub password: Option<String>,
    /// Connections at most.
    pub pool_size_max: usize,
    /// Client-side limit of one statement.
    pub statement_timeout: Duration,
    /// Shown in `pg_stat_activity`, unless the URL names one.
    pub application_name: String,
}

impl std::fmt::Debug for ConnectOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ConnectOptions").field("pool_size_max", &self.pool_size_max).finish_non_exhaustive()
    }
}

/// Counts what the server said with severity WARNING, on any connection of the pool.
#[derive(Clone, Debug, Default)]
pub(crate) struct Notices {
    warnings: Arc<AtomicU64>,
    /// What it said with severity NOTICE, where somebody wants it.
    said: Option<Arc<Mutex<Vec<String>>>>,
}

impl Notices {
    fn kept() -> Self {
        Self { said: Some(Arc::default()), ..Self::default() }
    }

    pub(crate) fn warnings(&self) -> u64 {
        self.warnings.load(Ordering::SeqCst)
    }

    /// What was said since this was last asked: all of it that came before the answer to a statement.
    pub(crate) fn take(&self) -> Vec<String> {
        let said = self.said.as_ref().map(|said| said.lock().unwrap_or_else(PoisonError::into_inner));
        said.map(|mut said| std::mem::take(&mut *said)).unwrap_or_default()
    }

    fn heard(&self, message: &AsyncMessage) {
        if let AsyncMessage::Notice(notice) = message {
            // Matched by SQLSTATE class, severity words are translated: 01 is warning, 00 is success (NOTICE, INFO).
            if notice.code().code().starts_with("01") {
                tracing::warn!(db.warning = notice.message(), "the database warned");
                self.warnings.fetch_add(1, Ordering::SeqCst);
            } else if let Some(said) = &self.said {
                said.lock().unwrap_or_else(PoisonError::into_inner).push(notice.message().to_owned());
            }
        }
    }
}

/// What `sslmode` asks for (libpq's words).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verify {
    /// `disable`: no TLS.
    Disabled,
    /// `prefer` and `require`: encrypted, not verified.
    Encrypted,
    /// `verify-ca`, `verify-full`: verified against the platform's roots or `sslrootcert`.
    Full(Option<PathBuf>),
}

/// Who we are to the server, where it asks for a certificate (libpq's `sslcert` and `sslkey`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    /// PEM: the certificate, and what is between it and its authority.
    pub(crate) certificate: PathBuf,
    /// PEM, without a passphrase.
    pub(crate) key: PathBuf,
}

/// What a connection string asks of TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Encryption {
    pub(crate) verify: Verify,
    pub(crate) identity: Option<Identity>,
}

/// Takes a URL apart: tokio-postgres knows neither `verify-full` nor the files.
///
/// # Errors
/// Says what is wrong, without the password.
pub fn parse_url(url: &str) -> Result<(), Error> {
    parse(url).map(|_| ())
}

/// Whether it is a URL; libpq's `keyword=value` otherwise, whatever is in a password there.
#[must_use]
pub fn is_url(text: &str) -> bool {
    text.starts_with("postgres://") || text.starts_with("postgresql://")
}

/// Several hosts may stand in one parameter of a URL, as in libpq; tokio-postgres takes one from each.
fn one_by_one(pair: &str) -> Vec<String> {
    match pair.split_once('=') {
        Some(("host", hosts)) => {
            let hosts = hosts.replace("%2C", ",").replace("%2c", ",");
            hosts.split(',').map(|host| format!("host={host}")).collect()
        }
        _ => vec![pair.to_owned()],
    }
}

fn parse(url: &str) -> Result<(Config, Encryption), Error> {
    let (mut mode, mut root, mut certificate, mut key) = (None, None, None, None);
    let file = |value: &str| Some(PathBuf::from(value.replace("%2F", "/").replace("%2f", "/")));
    let separator = if is_url(url) { '&' } else { ' ' };
    let (head, query) = match url.split_once('?') {
        Some((head, query)) if separator == '&' => (Some(head), query),
        _ if separator == '&' => (Some(url), ""),
        _ => (None, url),
    };
    // Between words there may be several spaces, which may be those of a password: '  '.
    let kept: Vec<&str> = query
        .split(separator)
        .filter(|pair| !pair.is_empty() || separator == ' ')
        .filter(|pair| match pair.split_once('=') {
            Some(("sslmode", value)) => {
                mode = Some(value.to_owned());
                false
            }
            Some(("sslrootcert", value)) => {
                root = file(value);
                false
            }
            Some(("sslcert", value)) => {
                certificate = file(value);
                false
            }
            Some(("sslkey", value)) => {
                key = file(value);
                false
            }
            _ => true,
        })
        .collect();
    let rest = match head {
        Some(head) if kept.is_empty() => head.to_owned(),
        Some(head) => {
            let kept: Vec<String> = kept.into_iter().flat_map(one_by_one).collect();
            format!("{head}?{}", kept.join("&"))
        }
        None => kept.join(" "),
    };
    let mut config: Config = rest.parse().map_err(|error: tokio_postgres::Error| Error::Config {
        reason: format!(
            "not a connection string: {} (hint: postgres://user@host:5432/database?sslmode=verify-full)",
            std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string)
        ),
    })?;
    let (ssl, verify) = match mode.as_deref() {
        Some("disable") => (SslMode::Disable, Verify::Disabled),
        None | Some("prefer" | "allow") => (SslMode::Prefer, Verify::Encrypted),
        Some("require") if root.is_none() => (SslMode::Require, Verify::Encrypted),
        Some("require" | "verify-ca" | "verify-full") => (SslMode::Require, Verify::Full(root)),
        Some(other) => {
            return Err(Error::Config {
                reason: format!("sslmode={other} is not disable, allow, prefer, require, verify-ca or verify-full"),
            });
        }
    };
    if config.get_hosts().is_empty() {
        // By its address alone a server can be verified, too.
        let addresses: Vec<String> = config.get_hostaddrs().iter().map(ToString::to_string).collect();
        for address in addresses {
            config.host(&address);
        }
    }
    if config.get_hosts().is_empty() {
        let hint =
            "postgres://user@host/database, or by a socket postgres:///database?host=/var/run/postgresql&user=name";
        return Err(Error::Config { reason: format!("it names no host (hint: {hint})") });
    }
    let (hosts, ports, addresses) = (config.get_hosts().len(), config.get_ports().len(), config.get_hostaddrs().len());
    if ports > 1 && ports != hosts || addresses > 0 && addresses != hosts {
        return Err(Error::Config {
            reason: format!(
                "it names {hosts} hosts, {ports} ports and {addresses} addresses (hint: one port for all or one for each, \
                 an address for none or for each; in a URL the port stands behind its host, or hosts and ports both \
                 behind the ?)"
            ),
        });
    }
    let sockets = config.get_hosts().iter().all(|host| matches!(host, Host::Unix(_)));
    // As in libpq: nothing is encrypted on a Unix-domain socket, whatever is asked.
    let (ssl, verify) = if sockets { (SslMode::Disable, Verify::Disabled) } else { (ssl, verify) };
    config.ssl_mode(ssl);
    let identity = match (certificate, key) {
        (None, None) => None,
        (Some(certificate), Some(key)) => Some(Identity { certificate, key }),
        _ => return Err(Error::Config { reason: "sslcert and sslkey are given together, or not at all".to_owned() }),
    };
    Ok((config, Encryption { verify, identity }))
}

/// Builds the pool; connects nowhere yet.
pub(crate) fn pool(options: &ConnectOptions) -> Result<(Pool, Notices), Error> {
    let (config, dial) = prepare(options)?;
    let notices = dial.notices.clone();
    let manager = Manager::from_connect(config, dial, ManagerConfig { recycling_method: RecyclingMethod::Fast });
    let pool = Pool::builder(manager)
        .max_size(options.pool_size_max)
        // The last one used first: its backend has the plans, and the caches are warm.
        .queue_mode(QueueMode::Lifo)
        .runtime(Runtime::Tokio1)
        .wait_timeout(Some(options.statement_timeout))
        .create_timeout(Some(options.statement_timeout))
        .build()
        .map_err(|error| Error::Config { reason: error.to_string() })?;
    Ok((pool, notices))
}

/// One connection outside any pool, for migrations.
pub(crate) async fn single(options: &ConnectOptions) -> Result<(Client, JoinHandle<()>), Error> {
    let (config, dial) = prepare(options)?;
    in_time(options, dial.connect(&config)).await
}

/// One connection outside any pool, and what the server says on it unasked.
pub(crate) async fn single_heard(options: &ConnectOptions) -> Result<(Client, JoinHandle<()>, Notices), Error> {
    let (config, mut dial) = prepare(options)?;
    dial.notices = Notices::kept();
    let (client, driver) = in_time(options, dial.connect(&config)).await?;
    Ok((client, driver, dial.notices))
}

/// What is connected to may take a connection and never say a word: a server that stands still, a pooler without a server.
async fn in_time<T>(
    options: &ConnectOptions,
    connecting: impl Future<Output = Result<T, tokio_postgres::Error>>,
) -> Result<T, Error> {
    match tokio::time::timeout(options.statement_timeout, connecting).await {
        Ok(connected) => connected.map_err(|source| Error::Query { operation: "connect", source }),
        Err(_elapsed) => Err(Error::Timeout { operation: "connect" }),
    }
}

/// One connection to the one of its servers with this number, and no other.
pub(crate) async fn single_at(options: &ConnectOptions, index: usize) -> Result<(Client, JoinHandle<()>), Error> {
    let (config, dial) = prepare(options)?;
    let mut one = Config::new();
    match config.get_hosts().get(index) {
        Some(Host::Tcp(name)) => one.host(name),
        Some(Host::Unix(path)) => one.host_path(path),
        None => return Err(Error::Config { reason: "it names no host".to_owned() }),
    };
    if let Some(address) = config.get_hostaddrs().get(index) {
        one.hostaddr(*address);
    }
    if let Some(port) = config.get_ports().get(index).or(config.get_ports().first()) {
        one.port(*port);
    }
    if let Some(user) = config.get_user() {
        one.user(user);
    }
    if let Some(password) = config.get_password() {
        one.password(password);
    }
    if let Some(name) = config.get_dbname() {
        one.dbname(name);
    }
    if let Some(name) = config.get_application_name() {
        one.application_name(name);
    }
    if let Some(settings) = config.get_options() {
        one.options(settings);
    }
    one.ssl_mode(config.get_ssl_mode()).connect_timeout(CONNECT_TIMEOUT);
    in_time(options, dial.connect(&one)).await
}

/// The connection string taken apart, and what it asks of the encryption.
pub(crate) fn config(options: &ConnectOptions) -> Result<(Config, Asked), Error> {
    let (config, encryption) = parse(&options.url)?;
    let asked = match (encryption.verify, config.get_ssl_mode()) {
        (Verify::Disabled, _) => Asked::Plain,
        (Verify::Full(_), _) => Asked::Verified,
        (Verify::Encrypted, SslMode::Require) => Asked::Unverified,
        (Verify::Encrypted, _) => Asked::Opportunistic,
    };
    Ok((config, asked))
}

fn prepare(options: &ConnectOptions) -> Result<(Config, Dial), Error> {
    let (mut config, encryption) = parse(&options.url)?;
    if let Some(password) = &options.password {
        config.password(password);
    }
    if config.get_application_name().is_none() {
        config.application_name(&options.application_name);
    }
    config.connect_timeout(CONNECT_TIMEOUT);
    config.tcp_user_timeout(Duration::from_secs(30));
    config.keepalives_idle(Duration::from_secs(30));
    let dial =
        Dial { tls: tls::connector(&encryption)?, notices: Notices::default(), takes_no_options: Arc::default() };
    Ok((config, dial))
}

/// One connection outside any pool, which the caller drives.
pub(crate) async fn unpooled(
    options: &ConnectOptions,
) -> Result<(Client, Connection<Socket, <tls::Connector as MakeTlsConnect<Socket>>::Stream>), Error> {
    let (config, dial) = prepare(options)?;
    dial.open(&config).await.map_err(|source| Error::Query { operation: "connect", source })
}

/// Opens connections whose driver listens to notices.
struct Dial {
    tls: tls::Connector,
    notices: Notices,
    /// What is in front of the server takes no options, and has told once.
    takes_no_options: Arc<AtomicBool>,
}

impl Dial {
    async fn open(
        &self,
        config: &Config,
    ) -> Result<(Client, Connection<Socket, <tls::Connector as MakeTlsConnect<Socket>>::Stream>), tokio_postgres::Error>
    {
        if !self.takes_no_options.load(Ordering::Relaxed) {
            // Whoever connects may ask for another one by the URL: the last one counts.
            let own = config.get_options().unwrap_or_default();
            let mut asking = config.clone();
            asking.options(format!("{ASKED_FOR} {own}").trim_end());
            match asking.connect(self.tls.clone()).await {
                Err(error) if may_refuse_options(&error) => {}
                answer => return answer,
            }
        }
        // A pooler: the search_path is the role's, and `hapax doctor` looks at it; what is hidden, functions refuse to pass over.
        let opened = config.connect(self.tls.clone()).await?;
        self.takes_no_options.store(true, Ordering::Relaxed);
        Ok(opened)
    }
}

/// Whether it may have been the options: not what is said of a password (28), a database that is not there (3D), or of a server
/// that takes nobody now (53, 57). Poolers have many words, and codes, for it.
fn may_refuse_options(error: &tokio_postgres::Error) -> bool {
    error
        .as_db_error()
        .is_some_and(|said| !["28", "3D", "53", "57"].iter().any(|class| said.code().code().starts_with(class)))
}

impl Connect for Dial {
    fn connect(&self, config: &Config) -> BoxFuture<'_, Result<(Client, JoinHandle<()>), tokio_postgres::Error>> {
        let config = config.clone();
        async move {
            let (client, mut connection) = self.open(&config).await?;
            let notices = self.notices.clone();
            let driver = tokio::spawn(async move {
                loop {
                    match poll_fn(|cx| connection.poll_message(cx)).await {
                        Some(Ok(message)) => notices.heard(&message),
                        Some(Err(error)) => {
                            tracing::debug!(error = %error, "a database connection ended");
                            return;
                        }
                        None => return,
                    }
                }
            });
            Ok((client, driver))
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sslmode_has_the_words_of_libpq() {
        let verify = |mode: &str| {
            parse(&format!("postgres://u@h/d?{mode}"))
                .map(|(config, encryption)| (config.get_ssl_mode(), encryption.verify))
        };
        assert_eq!(verify("").expect("parses"), (SslMode::Prefer, Verify::Encrypted));
        assert_eq!(verify("sslmode=disable").expect("parses"), (SslMode::Disable, Verify::Disabled));
        assert_eq!(verify("sslmode=verify-full").expect("parses"), (SslMode::Require, Verify::Full(None)));
        assert_eq!(
            verify("sslmode=verify-full&sslrootcert=%2Fetc%2Fca.pem&application_name=x").expect("parses"),
            (SslMode::Require, Verify::Full(Some("/etc/ca.pem".into())))
        );
        assert!(verify("sslmode=full").expect_err("no such mode").to_string().contains("verify-full"));
        assert!(parse("host=h user=u sslmode=require").is_ok());
        let identity = parse("postgres://u@h/d?sslcert=%2Fc.pem&sslmode=verify-full&sslkey=/k.pem").expect("parses").1;
        let files = Identity { certificate: "/c.pem".into(), key: "/k.pem".into() };
        assert_eq!(identity, Encryption { verify: Verify::Full(None), identity: Some(files) });
        let (config, _) = parse("host=h  password='two  spaces' sslmode=require user=u").expect("parses");
        assert_eq!(config.get_password(), Some(&b"two  spaces"[..]));
        assert!(parse("host=h sslcert=/c.pem").expect_err("no key").to_string().contains("sslkey"));
        assert!(parse("http://h").is_err());
        // On a socket there is nothing to encrypt; an address is a name.
        for url in ["postgres:///d?host=/run&sslmode=verify-full", "host=/run sslmode=require", "postgres://u@%2Frun/d"]
        {
            let (config, encryption) = parse(url).expect("parses");
            assert_eq!((config.get_ssl_mode(), encryption.verify), (SslMode::Disable, Verify::Disabled), "{url}");
        }
        // Several: in one parameter, or one by one.
        for url in ["postgres:///d?host=/a,/b&port=1,2", "postgres:///d?host=/a%2C/b&port=1,2", "host=/a,/b port=1,2"] {
            let (config, _) = parse(url).expect("parses");
            assert_eq!(config.get_hosts(), [Host::Unix("/a".into()), Host::Unix("/b".into())], "{url}");
            assert_eq!(config.get_ports(), [1, 2], "{url}");
        }
        for url in ["postgres://u@%2Frun/d?port=5599", "host=a,b,c port=1,2", "host=a,b hostaddr=192.0.2.1"] {
            assert!(parse(url).expect_err("too many").to_string().contains("hosts, "), "{url}");
        }
        assert!(parse("host=h password=p://x?y").is_ok());
        assert!(parse("postgres:///d").expect_err("where?").to_string().contains("names no host (hint: "));
        let (config, _) = parse("hostaddr=192.0.2.1 sslmode=require").expect("parses");
        assert_eq!(
            (config.get_ssl_mode(), config.get_hosts()),
            (SslMode::Require, &[Host::Tcp("192.0.2.1".into())][..])
        );
    }
}
