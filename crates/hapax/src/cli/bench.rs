//! What can be typed about measuring: `hapax bench`.

use std::{path::PathBuf, time::Duration};

use clap::{Args, Subcommand, ValueEnum};

pub(super) const BENCH: &str = "\
Measures on this machine, and needs nothing but Postgres' server programs: a private, durable cluster (fsync on), a \
mail sink and relay processes are started and stopped, nothing else is touched. The sink is Postfix's smtp-sink where \
it is installed, else one of our own. Everybody shares the machine's cores.

Contenders (this binary, another one, other settings, other outbox relays) take turns, run by run, each with a \
database of its own; the table shows medians and ranges. Without a name a short version of everything runs, in about \
two minutes: enough to see that it works, too short to quote.

Neither a configuration nor a database of yours is used: --config and --database-url are refused here, HAPAX__ \
variables are not passed on. A run that fails makes the command end with 1.

Examples:
  hapax bench
  hapax bench drain --limit
  hapax bench drain --against ../before/hapax
  hapax bench drain --variant 'relay.max_in_flight=16' --json
  hapax bench latency --rate 50 --seconds 20";

/// Longer ones are slips of the pen.
const ROUND_TRIP_MAX: Duration = Duration::from_secs(60);

/// `hapax bench`.
#[derive(Args, Clone, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Bench {
    #[command(subcommand)]
    pub(crate) what: Option<Benchmark>,
    /// Print every run as JSON instead of tables
    #[arg(long)]
    pub(crate) json: bool,
}

/// What can be measured.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum Benchmark {
    /// How fast a backlog is delivered, and what each message costs
    #[command(long_about = DRAIN)]
    Drain(Drain),
    /// From COMMIT to the end of the message at the sink, and what an idle relay costs
    #[command(long_about = LATENCY)]
    Latency(Latency),
    /// outbox.enqueue and its siblings beside a bare INSERT of the same payload
    #[command(long_about = ENQUEUE)]
    Enqueue(Enqueue),
    /// A backlog delivered while producers go on enqueueing
    #[command(long_about = MIXED)]
    Mixed(Mixed),
    /// A backlog delivered while another session holds an old snapshot
    #[command(long_about = OLD_SNAPSHOT)]
    OldSnapshot(OldSnapshot),
    /// Delivery over a link with a long round trip, beside what two round trips a message allow
    #[command(long_about = REMOTE_LINK)]
    RemoteLink(RemoteLink),
    /// The mail sink, as a process of its own
    #[command(hide = true)]
    Sink(Sink),
}

/// What all measurements have in common.
#[derive(Args, Clone, Debug)]
pub(crate) struct Common {
    /// How often each contender runs
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) runs: u32,
    /// Print every run as JSON instead of tables
    #[arg(long)]
    pub(crate) json: bool,
}

/// How long a run may take.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct Patience {
    /// How long one run, or a step before it but the making of a --history, may take before it counts as failed
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = duration)]
    pub(crate) patience: Duration,
}

/// Where mail goes.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct MailSink {
    /// Which mail sink
    #[arg(long, value_name = "SINK", default_value = "auto")]
    pub(crate) sink: SinkKind,
}

/// How the relays are set up, and which others take turns with this binary.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Contenders")]
pub(crate) struct Relays {
    /// relay.max_in_flight; also routes.default.max_connections
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) in_flight: u32,
    /// A setting of every Hapax relay, such as relay.poll_interval_max=1s (may be repeated)
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE", value_parser = setting)]
    pub(crate) settings: Vec<(String, String)>,
    /// Another hapax binary (may be repeated)
    #[arg(long, value_name = "PATH")]
    pub(crate) against: Vec<PathBuf>,
    /// This binary with other settings: 'SECTION.KEY=VALUE ...' (may be repeated)
    #[arg(long = "variant", value_name = "SETTINGS", value_parser = variant)]
    pub(crate) variants: Vec<Variant>,
}

/// Settings of one contender.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Variant(pub(crate) Vec<(String, String)>);

/// Other outbox relays.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Contenders")]
pub(crate) struct Peers {
    /// Another outbox relay, described by DIR/peer.json: 'DIR [KEY=VALUE ...]' (may be repeated)
    #[arg(long = "peer", value_name = "DIR", value_parser = peer)]
    pub(crate) peers: Vec<PeerArgument>,
    /// A variable of a peer (may be repeated)
    #[arg(long = "peer-set", value_name = "NAME:KEY=VALUE", value_parser = peer_setting)]
    pub(crate) variables: Vec<(String, String, String)>,
}

/// A peer's directory and its variables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PeerArgument {
    pub(crate) directory: PathBuf,
    pub(crate) variables: Vec<(String, String)>,
}

/// Which mail sink.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum SinkKind {
    /// smtp-sink where it is installed, else own
    #[default]
    Auto,
    /// Postfix's
    SmtpSink,
    /// Hapax' own, which counts
    Own,
}

const DRAIN: &str = "\
Messages are enqueued, then the contender's worker is started, and the clock runs from there until the database says \
that none is left: everybody's start-up counts. Each run has a fresh database and begins with VACUUM ANALYZE and a \
CHECKPOINT. CPU is that of all processes of each side, from /proc; WAL is without full-page images, which depend on \
when the last checkpoint was (they have a column of their own); memory is the sum of the processes' peaks.

A peer is a directory with a peer.json (BENCHMARKS.md has its keys). Whatever a contender's database says, a run \
fails when less mail than that has reached the sink.

Examples:
  hapax bench drain --limit --messages 20000 --in-flight 64
  hapax bench drain --relays 4 --messages 100000
  hapax bench drain --peer ../textbook --peer-set textbook:BENCH_WORKERS=8";

/// `hapax bench drain`.
#[derive(Args, Clone, Debug)]
pub(crate) struct Drain {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(flatten)]
    pub(crate) patience: Patience,
    #[command(flatten)]
    pub(crate) sink: MailSink,
    /// How many messages are pending
    #[arg(long, value_name = "N", default_value_t = 20_000, value_parser = messages())]
    pub(crate) messages: u32,
    /// How many relay processes share the database; wait events are sampled when there are several
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub(crate) relays: u16,
    /// Also in a database that has sent so many already: made once (about a minute and 1.2 GB of disk for each million), kept
    /// from run to run
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=100_000_000))]
    pub(crate) history: u32,
    /// Sample wait events also for a single relay
    #[arg(long)]
    pub(crate) wait_events: bool,
    /// Count statements with pg_stat_statements (it costs everybody a little)
    #[arg(long)]
    pub(crate) count_statements: bool,
    /// Also smtp-source, Postfix's load generator: what the SMTP side allows
    #[arg(long, help_heading = "Contenders")]
    pub(crate) limit: bool,
    #[command(flatten)]
    pub(crate) relay: Relays,
    #[command(flatten)]
    pub(crate) peers: Peers,
}

const LATENCY: &str = "\
One message after the other is enqueued and committed, at a steady rate, from a connection of its own; the time from the \
return of the COMMIT until the sink has read the end marker is taken. Before that the relay has nothing to do for a \
while, and what that costs is measured: CPU of the relay and of Postgres, statements per second. The sink is always \
our own: it notes the times.

With --backlog the messages are urgent, and runs with an empty queue take turns with runs in which so many bulk messages \
are pending, of which the relay delivers as many as it can.

Examples:
  hapax bench latency
  hapax bench latency --rate 5 --backlog 100000
  hapax bench latency --variant 'relay.poll_interval_max=1s'";

/// `hapax bench latency`.
#[derive(Args, Clone, Debug)]
pub(crate) struct Latency {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(flatten)]
    pub(crate) patience: Patience,
    /// Messages per second
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) rate: u32,
    /// For how long
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=3600))]
    pub(crate) seconds: u32,
    /// So many bulk messages are pending, in turns with an empty queue; those measured are urgent then
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=10_000_000))]
    pub(crate) backlog: u32,
    /// How long the idle relay is watched
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(0..=3600))]
    pub(crate) idle_seconds: u32,
    #[command(flatten)]
    pub(crate) relay: Relays,
    #[command(flatten)]
    pub(crate) peers: Peers,
}

const ENQUEUE: &str = "\
Clients insert as fast as they can, each message with a COMMIT of its own: into a plain table with the same columns, by \
outbox.enqueue(), by outbox.enqueue() with a dedup key, through the view outbox.notification; and a hundred at a time, \
into the plain table and by outbox.enqueue_many(). No relay runs.

Example:
  hapax bench enqueue --clients 8 --seconds 5";

/// `hapax bench enqueue`.
#[derive(Args, Clone, Debug)]
pub(crate) struct Enqueue {
    #[command(flatten)]
    pub(crate) common: Common,
    /// How many clients at once; several numbers are measured one after the other
    #[arg(long, value_name = "N,...", value_delimiter = ',', default_values_t = [1, 8, 32])]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=150))]
    pub(crate) clients: Vec<u16>,
    /// For how long each
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=3600))]
    pub(crate) seconds: u32,
}

const MIXED: &str = "\
A backlog is delivered while four producers commit new messages at a steady rate (as many as the backlog at most), in \
turns with runs without producers. The clock stops when the relay has caught up; what was enqueued meanwhile counts.

Example:
  hapax bench mixed --messages 20000 --rate 500";

/// `hapax bench mixed`.
#[derive(Args, Clone, Debug)]
pub(crate) struct Mixed {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(flatten)]
    pub(crate) patience: Patience,
    #[command(flatten)]
    pub(crate) sink: MailSink,
    /// How many messages are pending at the start
    #[arg(long, value_name = "N", default_value_t = 20_000, value_parser = messages())]
    pub(crate) messages: u32,
    /// Messages per second that the producers add
    #[arg(long, value_name = "N", default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) rate: u32,
    #[command(flatten)]
    pub(crate) relay: Relays,
}

const OLD_SNAPSHOT: &str = "\
A backlog is delivered while another session sits in a REPEATABLE READ transaction that began before: nothing that dies \
can be cleaned away. In turns with runs without.

Example:
  hapax bench old-snapshot --messages 100000";

/// `hapax bench old-snapshot`.
#[derive(Args, Clone, Debug)]
pub(crate) struct OldSnapshot {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(flatten)]
    pub(crate) patience: Patience,
    #[command(flatten)]
    pub(crate) sink: MailSink,
    /// How many messages are pending
    #[arg(long, value_name = "N", default_value_t = 20_000, value_parser = messages())]
    pub(crate) messages: u32,
    #[command(flatten)]
    pub(crate) relay: Relays,
}

const REMOTE_LINK: &str = "\
The sink is behind a proxy that delays every byte by half the round trip in each direction, without limiting how many \
there are. One message needs two round trips at least (MAIL, RCPT and DATA in one; the message in the other): that \
bound is 100 %. The clock runs from the first end marker at the sink to the last, so connecting does not count. The \
sink is always our own: it notes the times.

Example:
  hapax bench remote-link --round-trip 20ms --connections 1,4,16,64";

/// `hapax bench remote-link`.
#[derive(Args, Clone, Debug)]
pub(crate) struct RemoteLink {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(flatten)]
    pub(crate) patience: Patience,
    /// The round trip
    #[arg(long, value_name = "TIME", default_value = "20ms", value_parser = round_trip)]
    pub(crate) round_trip: Duration,
    /// Connections at once; several numbers are measured one after the other
    #[arg(long, value_name = "N,...", value_delimiter = ',', default_values_t = [1, 4, 16, 64])]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=500))]
    pub(crate) connections: Vec<u16>,
    /// For how long, if the bound were reached
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=3600))]
    pub(crate) seconds: u32,
    /// A setting of every relay, such as relay.max_in_flight=200 (may be repeated)
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE", value_parser = setting)]
    pub(crate) settings: Vec<(String, String)>,
    /// Another hapax binary (may be repeated)
    #[arg(long, value_name = "PATH")]
    pub(crate) against: Vec<PathBuf>,
}

/// `hapax bench sink`.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct Sink {
    /// Say of every message with an X-Bench-Id when its end marker was read
    #[arg(long)]
    pub(crate) stamps: bool,
}

fn messages() -> clap::builder::RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(1..=10_000_000)
}

fn duration(text: &str) -> Result<Duration, String> {
    use crate::config::duration::{SHAPE, parse};
    match parse(text) {
        Some(time) if time.is_zero() => Err(format!("{text:?} is no time at all: give a longer one")),
        Some(time) => Ok(time),
        None => Err(format!("{text:?} is not {SHAPE}")),
    }
}

fn round_trip(text: &str) -> Result<Duration, String> {
    duration(text).and_then(|time| {
        if time <= ROUND_TRIP_MAX {
            Ok(time)
        } else {
            Err(format!("{text:?} is longer than a minute: no link is so slow"))
        }
    })
}

fn pair(text: &str) -> Option<(String, String)> {
    let (key, value) = text.split_once('=')?;
    (!key.is_empty()).then(|| (key.to_owned(), value.to_owned()))
}

fn setting(text: &str) -> Result<(String, String), String> {
    let shape = || format!("{text:?} is no setting: write section.key=value, such as relay.poll_interval_max=1s");
    let (path, value) = pair(text).ok_or_else(shape)?;
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    let words: Vec<&str> = path.split('.').collect();
    if words.len() < 2 || words.iter().any(|word| word.is_empty() || !word.bytes().all(fits)) {
        return Err(shape());
    }
    if value.trim().is_empty() {
        return Err(format!("{text:?} sets nothing: write a value behind the ="));
    }
    let lowered = path.to_ascii_lowercase();
    if lowered.starts_with("database.") || lowered == "routes.default.url" {
        return Err(format!("{path} is the benchmark's own: databases and sinks are private"));
    }
    Ok((path, value))
}

fn variant(text: &str) -> Result<Variant, String> {
    let settings = text.split_whitespace().map(setting).collect::<Result<Vec<_>, _>>()?;
    if settings.is_empty() {
        return Err("a variant differs by at least one setting: 'relay.max_in_flight=16'".to_owned());
    }
    if let Some(path) = repeated(&settings) {
        return Err(format!("{path} is set twice"));
    }
    Ok(Variant(settings))
}

/// A setting that is there twice, in whatever case.
pub(crate) fn repeated(settings: &[(String, String)]) -> Option<&str> {
    let twice = |at: usize| settings[..at].iter().any(|(path, _)| path.eq_ignore_ascii_case(&settings[at].0));
    (0..settings.len()).find(|at| twice(*at)).map(|at| settings[at].0.as_str())
}

fn peer(text: &str) -> Result<PeerArgument, String> {
    let mut words = text.split_whitespace();
    let directory = words.next().ok_or("name the directory that holds peer.json")?;
    let variables = words.map(|word| pair(word).ok_or_else(|| format!("{word:?} is not KEY=VALUE")));
    Ok(PeerArgument { directory: directory.into(), variables: variables.collect::<Result<_, _>>()? })
}

fn peer_setting(text: &str) -> Result<(String, String, String), String> {
    let found = text.split_once(':').and_then(|(name, rest)| pair(rest).map(|(key, value)| (name, key, value)));
    let (name, key, value) = found.ok_or_else(|| format!("{text:?} is not NAME:KEY=VALUE"))?;
    Ok((name.to_owned(), key, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_have_a_section_and_a_key() {
        let good = ("routes.default.max_connections".to_owned(), "4".to_owned());
        assert_eq!(setting("routes.default.max_connections=4"), Ok(good));
        assert_eq!(setting("relay.name=a=b"), Ok(("relay.name".to_owned(), "a=b".to_owned())));
        for bad in [
            "relay.name=",
            "",
            "relay",
            "relay.name",
            "name=x",
            ".name=x",
            "relay.=x",
            "relay name.x=1",
            "Database.url=x",
        ] {
            assert!(setting(bad).is_err(), "{bad:?}");
        }
        assert!(variant("").is_err() && variant("a.b=1 A.B=2").is_err());
        assert_eq!(variant("a.b=1 c.d=2").map(|variant| variant.0.len()), Ok(2));
    }

    #[test]
    fn peers_are_a_directory_and_variables() {
        let found = peer("peers/x A=1 B=two=2").expect("a peer");
        assert_eq!(found.directory, PathBuf::from("peers/x"));
        assert_eq!(found.variables, [("A".into(), "1".into()), ("B".into(), "two=2".into())]);
        assert!(peer("").is_err() && peer("x A").is_err());
        assert_eq!(peer_setting("x:A=1"), Ok(("x".into(), "A".into(), "1".into())));
        assert!(peer_setting("A=1").is_err());
    }

    #[test]
    fn examples_are_short_enough_not_to_be_wrapped() {
        for help in [BENCH, DRAIN, LATENCY, ENQUEUE, MIXED, OLD_SNAPSHOT, REMOTE_LINK] {
            let (_, examples) = help.split_once("Example").expect("examples");
            let long: Vec<&str> = examples.lines().filter(|line| line.len() >= 78).collect();
            assert!(long.is_empty(), "{long:?}");
        }
    }
}
