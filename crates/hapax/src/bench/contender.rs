//! Who takes turns: this binary, another one, this one with other settings, other outbox relays, smtp-source.
//!
//! Every contender gets the same messages, the same cluster and the same sink; what differs is its schema, its way of
//! enqueueing and its worker.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context;
use tokio::process::Command;

use super::{
    letters,
    peer::Peer,
    process::{self, End, Process},
    progress,
    runs::each_once,
    sink,
    stage::{Stage, file_name},
};
use crate::{
    cli::bench::{Peers, Relays},
    failure::Refusal,
};

/// How many messages are enqueued by one statement.
const BULK: u32 = 500;
/// How much of a peer's variables fits into a table.
const DETAIL_CHARS_MAX: usize = 30;
/// Connections are kept open, as the peers keep theirs.
const MESSAGES_PER_CONNECTION: u32 = 1_000_000;

/// One of those who take turns.
#[derive(Clone, Debug)]
pub(super) enum Contender {
    /// A hapax binary.
    Hapax(Hapax),
    /// Another outbox relay.
    Peer(Box<Peer>),
    /// Postfix's load generator, with so many sessions.
    Source(u32),
}

/// Characters of a variant's settings that make its name.
const NAME_MAX: usize = 60;

/// A hapax binary and its settings.
#[derive(Clone, Debug, Default)]
pub(super) struct Hapax {
    pub(super) name: String,
    /// The flag that named it; none for this binary as it is.
    pub(super) flag: Option<String>,
    pub(super) binary: PathBuf,
    pub(super) in_flight: u32,
    pub(super) connections: u32,
    pub(super) settings: Vec<(String, String)>,
    /// How many of them, the first, every contender has.
    pub(super) shared: usize,
    /// Not this binary.
    pub(super) is_another: bool,
    /// It works in a database that has had so many deliveries already, which is made once and kept.
    pub(super) history: u32,
}

/// Those of a command line, this binary first.
///
/// # Errors
/// When one of them is not there.
pub(super) fn all(relays: &Relays, peers: Option<&Peers>, limit: bool) -> anyhow::Result<Vec<Contender>> {
    each_once(&relays.settings)?;
    let own = Hapax {
        name: "hapax".to_owned(),
        flag: None,
        binary: this_binary()?,
        in_flight: relays.in_flight,
        connections: relays.in_flight,
        settings: relays.settings.clone(),
        shared: relays.settings.len(),
        is_another: false,
        history: 0,
    };
    let mut found = vec![Contender::Hapax(own.clone())];
    for path in &relays.against {
        found.push(Contender::Hapax(own.clone().against(path)?));
    }
    for (number, variant) in (1..).zip(&relays.variants) {
        let settings = own.settings.iter().chain(&variant.0).cloned().collect();
        let flag = Some(format!("--variant {:?}", spelled(&variant.0)));
        let name = variant_name(number, &variant.0);
        found.push(Contender::Hapax(Hapax { name, flag, settings, ..own.clone() }));
    }
    if let Some(peers) = peers {
        for argument in &peers.peers {
            found.push(Contender::Peer(Box::new(Peer::read(argument, &peers.variables)?)));
        }
        let names: Vec<&str> = found.iter().filter_map(Contender::peer).map(|peer| peer.name.as_str()).collect();
        if let Some((name, ..)) = peers.variables.iter().find(|(name, ..)| !names.contains(&name.as_str())) {
            let hint = match names.as_slice() {
                [] => "name its directory with --peer DIR".to_owned(),
                names => format!("the peers are: {}", names.join(", ")),
            };
            return Err(Refusal::usage(format!("--peer-set {name}: there is no such peer"), &[&hint]).into());
        }
    }
    if limit {
        sink::program("smtp-source")?;
        found.push(Contender::Source(relays.in_flight));
    }
    distinguish(&mut found);
    Ok(found)
}

/// This very program.
pub(super) fn this_binary() -> anyhow::Result<PathBuf> {
    std::env::current_exe().context("could not find this very program")
}

/// Names that occur twice get what differs, or a number where that would be long.
fn distinguish(contenders: &mut [Contender]) {
    let names: Vec<String> = contenders.iter().map(|contender| contender.name().to_owned()).collect();
    for (at, contender) in contenders.iter_mut().enumerate() {
        if names.iter().filter(|name| **name == names[at]).count() > 1 {
            let number = names[..=at].iter().filter(|name| **name == names[at]).count();
            let given = contender.peer().map(Peer::given).filter(|given| (1..=DETAIL_CHARS_MAX).contains(&given.len()));
            contender.rename(format!("{} {}", names[at], given.unwrap_or_else(|| format!("#{number}"))));
        }
    }
}

impl Contender {
    /// What tables call it.
    pub(super) fn name(&self) -> &str {
        match self {
            Self::Hapax(hapax) => &hapax.name,
            Self::Peer(peer) => &peer.label,
            Self::Source(_) => "limit: smtp-source",
        }
    }

    fn rename(&mut self, name: String) {
        match self {
            Self::Hapax(hapax) => hapax.name = name,
            Self::Peer(peer) => peer.label = name,
            Self::Source(_) => {}
        }
    }

    fn peer(&self) -> Option<&Peer> {
        match self {
            Self::Peer(peer) => Some(peer),
            _ => None,
        }
    }

    /// The database it works in; the load generator needs none, but is watched from one.
    pub(super) fn database(&self) -> &str {
        match self {
            Self::Hapax(Hapax { history: 0, .. }) => "bench_hapax",
            Self::Hapax(_) => "bench_history",
            Self::Peer(peer) => &peer.database,
            Self::Source(_) => "postgres",
        }
    }

    /// Beside it, this binary in a database with a history.
    pub(super) fn with_history(&self, finished: u32) -> Option<Self> {
        let Self::Hapax(hapax) = self else { return None };
        let name = format!("{} after {finished} deliveries", hapax.name);
        Some(Self::Hapax(Hapax { name, history: finished, ..hapax.clone() }))
    }

    /// Whether its database is kept from run to run.
    pub(super) fn keeps_its_database(&self) -> bool {
        matches!(self, Self::Hapax(hapax) if hapax.history > 0)
    }

    /// A fresh database with its schema.
    pub(super) async fn prepare(&self, stage: &Stage, patience: Duration) -> anyhow::Result<()> {
        match self {
            Self::Hapax(hapax) => hapax.prepare(stage, self.database(), patience).await,
            Self::Peer(peer) => peer.prepare(stage, patience).await,
            Self::Source(_) => Ok(()),
        }
    }

    /// Makes messages pending.
    pub(super) async fn enqueue(&self, stage: &Stage, messages: u32, patience: Duration) -> anyhow::Result<()> {
        match self {
            Self::Hapax(_) => enqueue_many(stage, self.database(), messages, "normal", patience).await,
            Self::Peer(peer) => peer.enqueue(stage, messages, patience).await,
            Self::Source(_) => Ok(()),
        }
    }

    /// Starts its worker, or several.
    pub(super) fn start(&self, stage: &Stage, port: u16, relays: u16, messages: u32) -> anyhow::Result<Vec<Process>> {
        match self {
            Self::Hapax(hapax) => {
                (1..=relays).map(|number| hapax.start(stage, self.database(), port, number)).collect()
            }
            Self::Peer(peer) => Ok(vec![peer.start(stage, port, messages)?]),
            Self::Source(sessions) => Ok(vec![source(stage, port, *sessions, messages)?]),
        }
    }

    /// Set up for quick answers rather than for throughput, where that differs.
    pub(super) fn for_latency(self) -> Self {
        match self {
            Self::Peer(peer) => Self::Peer(Box::new(peer.for_latency())),
            other => other,
        }
    }

    /// How many messages are left; `None` for those who end when they are done.
    pub(super) fn remaining_sql(&self) -> Option<String> {
        match self {
            // A delivery leaves the queue when it has ended.
            Self::Hapax(_) => Some("SELECT count(*) FROM outbox.queue".to_owned()),
            // Whatever number it is.
            Self::Peer(peer) => {
                let sql = peer.remaining_sql.trim_end().trim_end_matches(';');
                Some(format!(
                    "/* remaining_sql of {} */ SELECT n::bigint FROM ({sql}) AS r (n)",
                    peer.name.replace("*/", "")
                ))
            }
            Self::Source(_) => None,
        }
    }

    /// Whether its worker ends when nothing is left.
    pub(super) fn ends_by_itself(&self) -> bool {
        match self {
            Self::Hapax(_) => false,
            Self::Peer(peer) => peer.oneshot,
            Self::Source(_) => true,
        }
    }
}

impl Hapax {
    /// `--against`: the same with another binary, its path absolute, because relays run elsewhere.
    ///
    /// # Errors
    /// When there is no such file.
    pub(super) fn against(self, path: &Path) -> anyhow::Result<Self> {
        let flag = format!("--against {}", path.display());
        let refuse = |problem: &str| {
            anyhow::Error::from(Refusal::usage(format!("{flag}: {problem}"), &["name the program of a hapax"]))
        };
        let binary = match std::fs::canonicalize(path) {
            Ok(found) if found.is_file() => found,
            Ok(_) => return Err(refuse("it is no file")),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Err(refuse("there is no such file")),
            Err(error) => return Err(refuse(&error.to_string())),
        };
        Ok(Self { name: format!("against {}", file_name(path)), flag: Some(flag), binary, is_another: true, ..self })
    }

    /// The database with its schema, and a role that may do what a relay must.
    pub(super) async fn prepare(&self, stage: &Stage, database: &str, patience: Duration) -> anyhow::Result<()> {
        if self.history > 0 && stage.has_database(database).await? {
            return Ok(());
        }
        stage.fresh_database(database).await?;
        let mut command = Command::new(&self.binary);
        command.args(["migrate", "up", "--database-url", &stage.url(database, "postgres")]);
        deafen(&mut command);
        command.current_dir(stage.directory.path());
        let (log, what) =
            (stage.log(&format!("{} migrate", self.name)), format!("{} migrate up", self.binary.display()));
        process::run(command, &log, &what, patience).await?;
        let made = "SELECT count(*) FROM pg_class WHERE oid = to_regclass('outbox.message')";
        if stage.client(database).await?.query_one(made, &[]).await?.get::<_, i64>(0) == 0 {
            anyhow::bail!("{what} said that all is well, but there is no outbox.message");
        }
        let role = "DO $$ BEGIN CREATE ROLE relay LOGIN IN ROLE outbox_relay; \
                    EXCEPTION WHEN duplicate_object THEN NULL; END $$";
        stage.execute(database, role).await?;
        if self.history > 0 {
            progress(&format!("{}: making them", self.name));
            let script = include_str!("history.sql").replace("{finished}", &self.history.to_string());
            stage.execute(database, &script).await?;
        }
        Ok(())
    }

    /// `hapax run`.
    pub(super) fn start(&self, stage: &Stage, database: &str, port: u16, number: u16) -> anyhow::Result<Process> {
        let config = stage.file(&format!("relay-{number}.toml"));
        let text = self.config(&stage.url(database, "relay"), port, number);
        std::fs::write(&config, text).with_context(|| format!("could not write {}", config.display()))?;
        let mut command = Command::new(&self.binary);
        command.args(["run", "--until-stdin-closes", "--log-format", "json", "--config"]).arg(&config);
        command.stdout(std::process::Stdio::null()).current_dir(stage.directory.path());
        self.environment(&mut command);
        Process::start(command, &stage.log(&self.name), End::Stdin)
    }

    /// Relay number `number`'s configuration, but for its settings.
    pub(super) fn config(&self, database_url: &str, port: u16, number: u16) -> String {
        format!(
            "# Made by hapax bench.\n[database]\nurl = \"{database_url}\"\n\n[relay]\nname = \"bench-{number}\"\n\
             max_in_flight = {}\nfinal_reply_timeout = \"30s\"\nshutdown_grace = \"40s\"\n\n[routes.default]\n\
             url = \"smtp://127.0.0.1:{port}?starttls=none\"\nfrom = \"Shop <shop@example.com>\"\n\
             max_connections = {}\nmessages_per_connection_max = {MESSAGES_PER_CONNECTION}\n",
            self.in_flight, self.connections,
        )
    }

    /// Its settings, which go before the configuration.
    pub(super) fn environment(&self, command: &mut Command) {
        deafen(command);
        for (path, value) in &self.settings {
            command.env(format!("HAPAX__{}", path.to_uppercase().replace('.', "__")), value);
        }
    }
}

/// As they were typed.
fn spelled(settings: &[(String, String)]) -> String {
    settings.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(" ")
}

/// Its settings, or the first of them: a name is a column of a table, and part of a file's name.
fn variant_name(number: usize, settings: &[(String, String)]) -> String {
    let all = spelled(settings);
    if all.chars().count() <= NAME_MAX {
        return all;
    }
    let first: String = all.chars().take(NAME_MAX).collect();
    format!("variant {number}: {first}...")
}

/// This process's own configuration is not the relays'.
fn deafen(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.to_uppercase().starts_with("HAPAX__") || text == "CREDENTIALS_DIRECTORY" {
            command.env_remove(&name);
        }
    }
}

/// Through `outbox.enqueue_many`, two connections at once.
pub(super) async fn enqueue_many(
    stage: &Stage,
    database: &str,
    messages: u32,
    priority: &str,
    patience: Duration,
) -> anyhow::Result<()> {
    let half = |from: u32, to: u32| async move {
        let client = stage.client(database).await?;
        let statement = client.prepare("SELECT count(*) FROM outbox.enqueue_many($1::text)").await?;
        for first in (from..to).step_by(BULK as usize) {
            let document = letters::document(first..to.min(first + BULK), priority);
            client.query_one(&statement, &[&document]).await.context("could not enqueue")?;
        }
        Ok::<(), anyhow::Error>(())
    };
    let middle = 1 + messages / 2;
    let both = async { tokio::try_join!(half(1, middle), half(middle, messages + 1)) };
    process::within(patience, "enqueueing", both).await.map(drop)
}

/// Postfix's load generator: connections stay open, messages are as large as ours.
fn source(stage: &Stage, port: u16, sessions: u32, messages: u32) -> anyhow::Result<Process> {
    let mut command = Command::new(sink::program("smtp-source")?);
    command.args(["-d", "-l", "2048", "-f", "shop@example.com", "-t", "user@example.net"]);
    command.args(["-s", &sessions.min(messages).to_string(), "-m", &messages.to_string()]);
    command.arg(format!("127.0.0.1:{port}")).stdout(std::process::Stdio::null());
    Process::start(command, &stage.log("smtp-source"), End::Terminate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contenders_of_one_name_are_told_apart() {
        let hapax = |name: &str| Contender::Hapax(Hapax { name: name.to_owned(), ..Hapax::default() });
        let mut contenders = vec![hapax("a"), hapax("b"), hapax("b")];
        distinguish(&mut contenders);
        assert_eq!(contenders.iter().map(Contender::name).collect::<Vec<_>>(), ["a", "b #1", "b #2"]);
    }
    #[test]
    fn a_variant_of_many_settings_has_a_name_that_fits_a_table_and_a_file() {
        let setting = |n: usize| ("relay.max_in_flight".to_owned(), n.to_string());
        assert_eq!(variant_name(1, &[setting(7)]), "relay.max_in_flight=7");
        let many: Vec<_> = (0..50).map(setting).collect();
        let name = variant_name(2, &many);
        assert!(name.starts_with("variant 2: relay.max_in_flight=0 ") && name.ends_with("..."), "{name}");
        assert!(name.len() < 80, "{name}");
    }
}
