//! Another outbox relay, described by a `peer.json`: how its schema is made, how its messages are enqueued, what its
//! worker is, how many are left.
//!
//! Commands run in the peer's directory with DATABASE_URL, SMTP_HOST, SMTP_PORT, BENCH_N, BENCH_MSGS (a file with one
//! message a line, as JSON), BENCH_HOME, PEER_DIR and the peer's own variables. `$NAME` in the file is replaced by the
//! environment's value, BENCH_HOME by a directory for temporary files if it is not set.

use std::{
    collections::BTreeMap,
    io::{BufWriter, Write as _},
    path::PathBuf,
    time::Duration,
};

use anyhow::Context;
use serde::Deserialize;
use tokio::process::Command;

use super::{
    letters::Letter,
    process::{self, End, Process, within},
    stage::Stage,
};
use crate::{cli::bench::PeerArgument, config::nearest, failure::Refusal};

/// How many messages one statement, or one transaction, enqueues.
const BULK: u32 = 500;

/// Databases that are somebody else's.
const RESERVED: [&str; 6] = ["postgres", "template0", "template1", "bench_hapax", "bench_history", "bench_enqueue"];
/// What a peer.json may have.
const KEYS: [&str; 12] = [
    "name",
    "db",
    "env",
    "latency_env",
    "setup_sql",
    "setup",
    "enqueue_sql",
    "enqueue_bulk_sql",
    "enqueue",
    "worker",
    "oneshot",
    "remaining_sql",
];
/// What another harness that reads the same files wants of them.
const OTHERS: [&str; 4] = ["kill_env", "kill_stall_s", "recover_sql", "tables"];

/// The file.
#[derive(Clone, Debug, Deserialize)]
struct Description {
    name: String,
    db: String,
    #[serde(default)]
    env: BTreeMap<String, String>,
    #[serde(default)]
    latency_env: BTreeMap<String, String>,
    #[serde(default)]
    setup_sql: Vec<String>,
    setup: Option<Vec<String>>,
    enqueue_sql: Option<String>,
    enqueue_bulk_sql: Option<String>,
    enqueue: Option<Vec<String>>,
    worker: Vec<String>,
    #[serde(default)]
    oneshot: bool,
    remaining_sql: String,
}

/// A peer and its variables.
#[derive(Clone, Debug)]
pub(super) struct Peer {
    pub(super) name: String,
    /// What tables call it.
    pub(super) label: String,
    pub(super) database: String,
    pub(super) oneshot: bool,
    pub(super) remaining_sql: String,
    directory: PathBuf,
    home: PathBuf,
    description: Description,
    /// Those that were given.
    given: Vec<(String, String)>,
}

impl Peer {
    /// Reads its description.
    ///
    /// # Errors
    /// When there is none, or it lacks something.
    pub(super) fn read(argument: &PeerArgument, settings: &[(String, String, String)]) -> anyhow::Result<Self> {
        let given = argument.directory.join("peer.json");
        let refuse = |problem: String| {
            let hint = "it is the directory of a peer.json; BENCHMARKS.md has its keys";
            Refusal::usage(format!("--peer {}: {problem}", argument.directory.display()), &[hint])
        };
        let text = std::fs::read_to_string(&given).map_err(|error| refuse(format!("peer.json: {error}")))?;
        let home = std::env::var_os("BENCH_HOME").map_or_else(
            || std::env::temp_dir().join(format!("outbox-bench-{}", rustix::process::getuid().as_raw())),
            PathBuf::from,
        );
        let text = expand(&text, &|name| match name {
            "BENCH_HOME" => Some(home.display().to_string()),
            _ => std::env::var(name).ok(),
        });
        let keys: serde_json::Value =
            serde_json::from_str(&text).map_err(|error| refuse(format!("peer.json: {error}")))?;
        let keys = keys.as_object().ok_or_else(|| refuse("peer.json holds no object".to_owned()))?;
        if let Some(key) = keys.keys().find(|key| !KEYS.contains(&key.as_str()) && !OTHERS.contains(&key.as_str())) {
            let meant = nearest(key, KEYS).map(|known| format!(", did you mean {known}?")).unwrap_or_default();
            return Err(refuse(format!("peer.json: {key} is no key of it{meant}")).into());
        }
        let description: Description =
            serde_json::from_str(&text).map_err(|error| refuse(format!("peer.json: {error}")))?;
        let letters = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        if description.db.is_empty() || !description.db.chars().all(letters) || RESERVED.contains(&&*description.db) {
            let problem = format!("peer.json: db = {:?} cannot be its database", description.db);
            return Err(refuse(format!("{problem}: write another name of small letters, such as bench_it")).into());
        }
        if description.worker.is_empty() {
            return Err(refuse("peer.json: worker is empty".to_owned()).into());
        }
        let enqueues = [&description.enqueue_sql, &description.enqueue_bulk_sql].into_iter().any(Option::is_some);
        if !enqueues && description.enqueue.is_none() {
            return Err(refuse("peer.json has none of enqueue_sql, enqueue_bulk_sql, enqueue".to_owned()).into());
        }
        let own = settings.iter().filter(|(name, ..)| *name == description.name);
        let own = own.map(|(_, key, value)| (key.clone(), value.clone()));
        Ok(Self {
            name: description.name.clone(),
            label: description.name.clone(),
            database: description.db.clone(),
            oneshot: description.oneshot,
            remaining_sql: description.remaining_sql.clone(),
            directory: std::fs::canonicalize(&argument.directory).context("could not find the peer's directory")?,
            home,
            given: argument.variables.iter().cloned().chain(own).collect(),
            description,
        })
    }

    /// The variables that were given, for a name.
    pub(super) fn given(&self) -> String {
        self.given.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(" ")
    }

    /// With the variables that its description has for latency.
    pub(super) fn for_latency(mut self) -> Self {
        self.description.env.extend(self.description.latency_env.clone());
        self
    }

    /// What enqueues one message, if a statement can.
    pub(super) fn enqueue_sql(&self, letter: &Letter) -> Option<String> {
        Some(substitute(self.description.enqueue_sql.as_ref()?, letter, ""))
    }

    /// A fresh database with its schema.
    pub(super) async fn prepare(&self, stage: &Stage, patience: Duration) -> anyhow::Result<()> {
        std::fs::create_dir_all(self.home.join("runs")).context("could not make $BENCH_HOME/runs")?;
        stage.fresh_database(&self.database).await?;
        within(patience, "setup_sql", self.setup_sql(stage)).await?;
        if let Some(words) = &self.description.setup {
            self.run(stage, words, 0, "setup", patience).await?;
        }
        // Only now everything is there.
        let kept = [self.description.enqueue.as_ref(), Some(&self.description.worker)];
        kept.into_iter().flatten().try_for_each(|words| self.has_program(words))
    }

    /// Refuses a peer whose first program is not there.
    pub(super) fn vet(&self) -> anyhow::Result<()> {
        self.has_program(self.description.setup.as_ref().unwrap_or(&self.description.worker))
    }

    fn has_program(&self, words: &[String]) -> anyhow::Result<()> {
        let word = words.first().map_or("", String::as_str);
        if process::find(word, &self.directory).is_some() {
            return Ok(());
        }
        let problem = format!("peer.json of {}: there is no program {word:?}, or it may not be run", self.name);
        let hint = "a path begins at its directory, and a bare name is looked for on the PATH";
        Err(Refusal::usage(problem, &[hint]).into())
    }

    async fn setup_sql(&self, stage: &Stage) -> anyhow::Result<()> {
        for file in &self.description.setup_sql {
            let path = self.directory.join(file);
            let sql = std::fs::read_to_string(&path).with_context(|| format!("could not read {}", path.display()))?;
            stage.execute(&self.database, &sql).await?;
        }
        Ok(())
    }

    /// Makes messages pending, in the fastest way it has.
    pub(super) async fn enqueue(&self, stage: &Stage, messages: u32, patience: Duration) -> anyhow::Result<()> {
        if self.description.enqueue_bulk_sql.is_none() && self.description.enqueue_sql.is_none() {
            self.write_messages(stage, messages)?;
            let words = self.description.enqueue.clone().unwrap_or_default();
            return self.run(stage, &words, messages, "enqueue", patience).await;
        }
        within(patience, "enqueueing", self.enqueue_by_sql(stage, messages)).await
    }

    async fn enqueue_by_sql(&self, stage: &Stage, messages: u32) -> anyhow::Result<()> {
        let client = stage.client(&self.database).await?;
        for first in (1..=messages).step_by(BULK as usize) {
            let letters: Vec<Letter> = (first..=messages.min(first + BULK - 1)).map(Letter::new).collect();
            let sql = match (&self.description.enqueue_bulk_sql, &self.description.enqueue_sql) {
                (Some(bulk), _) => {
                    let payloads: Vec<String> = letters.iter().map(|letter| literal(&json(letter))).collect();
                    substitute(bulk, &letters[0], &format!("ARRAY[{}]", payloads.join(",")))
                }
                (None, Some(one)) => {
                    letters.iter().map(|letter| substitute(one, letter, "")).collect::<Vec<_>>().join(";")
                }
                (None, None) => String::new(),
            };
            client.batch_execute(&sql).await.with_context(|| format!("{} could not enqueue", self.name))?;
        }
        Ok(())
    }

    /// Starts its worker.
    pub(super) fn start(&self, stage: &Stage, port: u16, messages: u32) -> anyhow::Result<Process> {
        let mut command = self.command(stage, &self.description.worker, messages);
        command.env("SMTP_PORT", port.to_string());
        command.stdout(process::open(&stage.log(&self.label))?);
        Process::start(command, &stage.log(&self.label), End::Terminate)
    }

    async fn run(
        &self,
        stage: &Stage,
        words: &[String],
        messages: u32,
        what: &str,
        patience: Duration,
    ) -> anyhow::Result<()> {
        let command = self.command(stage, words, messages);
        let log = stage.log(&format!("{} {what}", self.label));
        process::run(command, &log, &format!("{what} of {}", self.name), patience).await
    }

    fn command(&self, stage: &Stage, words: &[String], messages: u32) -> Command {
        let mut words = words.iter();
        let mut command = Command::new(self.program(words.next().map_or("", String::as_str)));
        command.args(words).current_dir(&self.directory);
        let given = self.given.iter().map(|(key, value)| (key, value));
        command.envs(&self.description.env).envs(given);
        command.env("DATABASE_URL", stage.url(&self.database, "postgres")).env("SMTP_HOST", "127.0.0.1");
        command.env("BENCH_HOME", &self.home).env("PEER_DIR", &self.directory);
        command.env("BENCH_N", messages.to_string()).env("BENCH_MSGS", stage.file(&messages_file(messages)));
        command
    }

    /// A relative path is one below the peer's directory, a bare word a program on the PATH.
    fn program(&self, word: &str) -> PathBuf {
        if word.contains('/') { self.directory.join(word) } else { word.into() }
    }

    fn write_messages(&self, stage: &Stage, messages: u32) -> anyhow::Result<()> {
        let path = stage.file(&messages_file(messages));
        if path.exists() {
            return Ok(());
        }
        let write = || -> std::io::Result<()> {
            let mut file = BufWriter::new(std::fs::File::create(&path)?);
            for id in 1..=messages {
                writeln!(file, "{}", json(&Letter::new(id)))?;
            }
            file.flush()
        };
        write().with_context(|| format!("could not write {}", path.display()))
    }
}

fn messages_file(messages: u32) -> String {
    format!("messages-{messages}.jsonl")
}

fn json(letter: &Letter) -> String {
    // Strings and a number: it is JSON.
    serde_json::to_string(letter).unwrap_or_default()
}

/// A string of SQL.
fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// Fills `%(payload)s`, `%(payloads)s`, `%(id)s`, `%(from)s`, ... in, as Python's drivers do; `%%` is a percent sign.
fn substitute(sql: &str, letter: &Letter, payloads: &str) -> String {
    let mut out = String::new();
    let mut rest = sql;
    while let Some(at) = rest.find('%') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        let name = rest.strip_prefix('(').and_then(|inner| inner.split_once(")s"));
        let value = name.and_then(|(name, _)| match name {
            "payload" => Some(literal(&json(letter))),
            "payloads" => Some(payloads.to_owned()),
            "id" => Some(letter.id.to_string()),
            "from" => Some(literal(letter.from)),
            "to" => Some(literal(&letter.to)),
            "subject" => Some(literal(&letter.subject)),
            "text" => Some(literal(&letter.text)),
            "html" => Some(literal(&letter.html)),
            _ => None,
        });
        match (value, name) {
            (Some(value), Some((_, after))) => {
                out.push_str(&value);
                rest = after;
            }
            _ => {
                out.push('%');
                rest = rest.strip_prefix('%').unwrap_or(rest);
            }
        }
    }
    out.push_str(rest);
    out
}

/// Replaces `$NAME` and `${NAME}`; what has no value stays.
fn expand(text: &str, value: &dyn Fn(&str) -> Option<String>) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        let (name, length) = match after.strip_prefix('{').and_then(|inner| inner.split_once('}')) {
            Some((name, _)) => (name, name.len() + 2),
            None => {
                let end = after.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(after.len());
                (&after[..end], end)
            }
        };
        match value(name).filter(|_| !name.is_empty()) {
            Some(value) => out.push_str(&value),
            None => out.push_str(&rest[at..=at + length]),
        }
        rest = &after[length..];
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_are_filled_in_as_literals() {
        let letter = Letter { subject: "it's 100 %".into(), ..Letter::new(7) };
        let sql = substitute("SELECT %(subject)s, %(id)s, 5 %% 2, %(other)s", &letter, "");
        assert_eq!(sql, "SELECT 'it''s 100 %', 7, 5 % 2, %(other)s");
        assert_eq!(substitute("f(%(payloads)s::text[])", &letter, "ARRAY['{}']"), "f(ARRAY['{}']::text[])");
    }

    #[test]
    fn variables_are_filled_in_where_they_have_a_value() {
        let value = |name: &str| (name == "HOME_").then(|| "/x".to_owned());
        assert_eq!(expand("$HOME_/a ${HOME_}b $1 ${NONE} $ $$HOME_", &value), "/x/a /xb $1 ${NONE} $ $/x");
    }
}
