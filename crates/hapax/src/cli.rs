//! What can be typed. The long texts teach: each command has examples.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use self::bench::{BENCH, Bench};
use self::configuration::{CHECK, CONFIG};
pub(crate) use self::configuration::{Check, Config};
use self::control::{PAUSE, RESUME, SEND_AGAIN, SUPPRESS, SUPPRESSIONS, UNSUPPRESS};
pub(crate) use self::control::{Pause, Resume, SendAgain, Suppress, Suppressions, Unsuppress, What};
use self::doctor::{DOCTOR, Doctor};
use self::doubts::{RECONCILE, RESOLVE};
pub(crate) use self::doubts::{Reconcile, Resolve, Verdict};
use self::erase::ERASE;
pub(crate) use self::erase::Erase;
use self::pages::{COMPLETIONS, MAN};
pub(crate) use self::pages::{Completions, Man};
use self::template::{SEND_TEST, SendTest, TEMPLATE, Template};
use crate::config::{Format, Level};

pub(crate) mod bench;
mod configuration;
mod control;
pub(crate) mod doctor;
mod doubts;
mod erase;
mod pages;
pub(crate) mod template;

const ABOUT: &str = "\
A transactional outbox relay for email: one INSERT, one mail.

Applications enqueue notifications in their own Postgres transactions; hapax delivers each of them by SMTP, once. \
Where nobody can know whether a mail server took a message, the delivery is in doubt and waits for a decision: \
hapax never guesses by sending again.

To see it all on your machine:      hapax demo --chaos
To set it up:                       hapax migrate up; hapax check; hapax run
To look around:                     hapax status; hapax ls; hapax show ID";

const AFTER: &str = "\
Configuration: --config FILE, else ./hapax.toml, else /etc/hapax/hapax.toml; every key can be overridden by \
HAPAX__SECTION__KEY, and that by flags. `hapax check --print` shows every value and where it came from.
Results go to stdout, logs and errors to stderr.
Exit codes: 0 done, 1 failed, 64 usage, 78 configuration.";

/// The whole command line.
#[derive(Debug, Parser)]
#[command(name = "hapax", version, about = "A transactional outbox relay for email: one INSERT, one mail.")]
#[command(long_about = ABOUT, after_long_help = AFTER, max_term_width = 110, disable_help_subcommand = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Flags of every command.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct Global {
    /// Configuration file [default: ./hapax.toml, then /etc/hapax/hapax.toml]
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Database, overrides database.url (visible to other users of this machine: no password here)
    #[arg(long, global = true, value_name = "URL")]
    pub(crate) database_url: Option<String>,
    /// How logs look: auto is pretty on a terminal, journald where stderr is the journal, json elsewhere
    #[arg(long, global = true, value_name = "FORMAT")]
    pub(crate) log_format: Option<Format>,
    /// How much is logged
    #[arg(long, global = true, value_name = "LEVEL")]
    pub(crate) log_level: Option<Level>,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show everything on this machine, with a private Postgres and a mail catcher
    #[command(long_about = DEMO)]
    Demo(Demo),
    /// Run the relay
    #[command(long_about = RUN)]
    Run(Run),
    /// Make, compare and print the database schema
    #[command(subcommand, long_about = MIGRATE)]
    Migrate(Migrate),
    /// Check the configuration without starting anything
    #[command(long_about = CHECK)]
    Check(Check),
    /// Examine everything a relay needs: configuration, database, mail servers, DNS
    #[command(long_about = DOCTOR)]
    Doctor(Doctor),
    /// Print a sample configuration, or its JSON Schema
    #[command(subcommand, long_about = CONFIG)]
    Config(Config),
    /// Ask the running relay whether it is alive, or ready
    #[command(long_about = HEALTHCHECK)]
    Healthcheck(Healthcheck),
    /// How the outbox is: states, relays, doubts
    #[command(long_about = STATUS)]
    Status(Json),
    /// List deliveries, newest first
    #[command(long_about = LS)]
    Ls(Ls),
    /// Everything about one message: deliveries, attempts, decisions, verdict
    #[command(long_about = SHOW)]
    Show(Show),
    /// Why somebody got two mails, or none: by address, Message-ID or id
    #[command(long_about = EXPLAIN)]
    Explain(Explain),
    /// Decide deliveries in doubt
    #[command(long_about = RESOLVE)]
    Resolve(Resolve),
    /// Settle deliveries in doubt from a mail server's log
    #[command(long_about = RECONCILE)]
    Reconcile(Reconcile),
    /// Try failed, cancelled or expired deliveries again, or pending ones now
    #[command(long_about = RETRY)]
    Retry(Retry),
    /// Cancel what has not been sent of a message
    #[command(long_about = CANCEL)]
    Cancel(Decide),
    /// Stop what has not been sent of a message, until it is released
    #[command(long_about = HOLD)]
    Hold(Decide),
    /// Let held deliveries go on
    #[command(long_about = RELEASE)]
    Release(Release),
    /// Send once more what has ended, as a new message
    #[command(long_about = SEND_AGAIN)]
    SendAgain(SendAgain),
    /// Let a route, a kind, a tenant or an address wait
    #[command(long_about = PAUSE)]
    Pause(Pause),
    /// Let go on what was paused
    #[command(long_about = RESUME)]
    Resume(Resume),
    /// Put an address on the suppression list: nothing is sent to it
    #[command(long_about = SUPPRESS)]
    Suppress(Suppress),
    /// Take an address off the suppression list
    #[command(long_about = UNSUPPRESS)]
    Unsuppress(Unsuppress),
    /// Look at the suppression list
    #[command(long_about = SUPPRESSIONS)]
    Suppressions(Suppressions),
    /// Take an address out of every table
    #[command(long_about = ERASE)]
    Erase(Erase),
    /// After a failover or a restore: this database is the one to send from
    #[command(long_about = ARM)]
    Arm(Arm),
    /// Check, render, preview and publish templates
    #[command(subcommand, long_about = TEMPLATE)]
    Template(Template),
    /// Send one message with a template now, past the outbox
    #[command(long_about = SEND_TEST)]
    SendTest(SendTest),
    /// Measure: how fast it is here, and what it costs
    #[command(long_about = BENCH)]
    Bench(Bench),
    /// Print or write the manual pages
    #[command(long_about = MAN)]
    Man(Man),
    /// Print what a shell needs to complete commands
    #[command(long_about = COMPLETIONS)]
    Completions(Completions),
}

const DEMO: &str = "\
Shows everything on this machine, and needs nothing but Postgres' server programs (apt-get install postgresql): a \
private Postgres and a mail catcher are started, a sample shop commits orders together with their notifications, a \
relay process delivers them, and what arrived is counted against what was committed.

With --chaos the relay process is killed (SIGKILL) again and again while it delivers. What was between its intent and \
the record of its reply at that moment is in doubt afterwards; nothing is sent twice, nothing is lost.

Examples:
  hapax demo
  hapax demo --chaos --kills 10 --messages 1000
  hapax demo --keep          leaves everything running, to look around";

/// `hapax demo`.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct Demo {
    /// How many orders the shop takes
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) messages: u32,
    /// Kill the relay again and again
    #[arg(long)]
    pub(crate) chaos: bool,
    /// How often it is killed
    #[arg(long, value_name = "K", default_value_t = 5, requires = "chaos")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) kills: u32,
    /// Leave everything running until Ctrl-C
    #[arg(long)]
    pub(crate) keep: bool,
}

const RUN: &str = "\
Runs the relay until SIGTERM or SIGINT: it then claims nothing new, waits for open replies up to relay.shutdown_grace \
and ends with 0. A second signal gives up at once; what is between end marker and reply will be in doubt.

On SIGHUP the configuration is read again, with its environment, templates and secret files. When anything is wrong with \
it, that is logged and nothing changes; else what is under way ends as it began, and everything new goes by it. What \
needs a restart (database.url, http.listen, log.format) is named in the log and stays as it is.

It waits for a database that is away, and refuses (78) one whose schema is missing, behind or ahead. It refuses (1) a \
database that is not the one its outbox was armed for; when that happens while it runs (a failover, a restore) it stays \
alive in guard mode, sends nothing, and goes on when somebody types `hapax arm`.

Examples:
  hapax run
  hapax run --config /etc/hapax/hapax.toml
  HAPAX__DATABASE__URL=postgres://hapax@db/shop HAPAX__ROUTES__DEFAULT__URL=capture: \\
    HAPAX__ROUTES__DEFAULT__FROM=shop@example.org hapax run";

/// `hapax run`.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct Run {
    /// End as on SIGTERM when standard input is closed: for a parent that starts a relay
    #[arg(long, hide = true)]
    pub(crate) until_stdin_closes: bool,
}

const MIGRATE: &str = "\
Makes, compares and prints the database schema (everything is in schema outbox). Needs the schema owner's privileges, \
not the relay's: pass --database-url for that user. Safe to run from many places at once.

Examples:
  hapax migrate up --database-url postgres://owner@db/shop
  hapax migrate status
  hapax migrate verify                   for a deployment: fails unless everything is as it should be
  hapax migrate sql --from 3 --to 10     for a DBA, or another migration tool; may be applied again";

/// `hapax migrate ...`.
#[derive(Clone, Copy, Debug, Subcommand)]
pub(crate) enum Migrate {
    /// Apply what is pending, each migration in a transaction of its own
    ///
    /// None waits longer than five seconds for a lock. A table that somebody has locked is asked for again every few
    /// seconds, twenty times; another session that migrates is waited for until its end, and named.
    Up(Json),
    /// List migrations, applied and pending
    Status(Json),
    /// Print the SQL of migrations, for other tools
    Sql {
        /// Migrations after this number
        #[arg(long, value_name = "N", default_value_t = 0)]
        from: i32,
        /// Up to and including this number [default: the last]
        #[arg(long, value_name = "M", default_value_t = i32::MAX, hide_default_value = true)]
        to: i32,
    },
    /// Fail unless the database has exactly this binary's migrations, unchanged
    ///
    /// Compares what is recorded of each migration with this binary: its name and the checksum of its text. What somebody has
    /// dropped, granted, disabled or given away since, hapax doctor finds.
    Verify(Json),
}

const HEALTHCHECK: &str = "\
Asks the relay that runs with this configuration, at http.listen: exit code 0 when it answers that it is alive, 1 when it \
does not, or says that one of its loops stands still. For containers, whose images hold no other tool.

Examples:
  hapax healthcheck                   alive? Never asks the database
  hapax healthcheck --ready           of use now? The database answers, the queue is looked at, no shutdown is under way";

/// `hapax healthcheck`.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct Healthcheck {
    /// Ask whether it is ready, not only whether it is alive
    #[arg(long)]
    pub(crate) ready: bool,
}

/// `--json`.
#[derive(Args, Clone, Copy, Debug, Default)]
pub(crate) struct Json {
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

const STATUS: &str = "\
How the outbox is: deliveries in each state with the oldest of them, the relays that are alive, what is paused, which \
ordering keys are blocked, and what waits for a decision, each with the command to type. Cheap on a queue of any length; \
only where something is in doubt or held, or may be, does it look at all that has an ordering key.

Examples:
  hapax status
  hapax status --json | jq '.states[] | select(.state == \"pending\").deliveries'";

const LS: &str = "\
Lists deliveries, newest first; addresses are masked. A list by kind may have to look at many messages; \
--in-doubt never does.

Examples:
  hapax ls
  hapax ls --state failed --kind order_confirmed --limit 100
  hapax ls --in-doubt";

/// `hapax ls`.
#[derive(Args, Clone, Debug)]
pub(crate) struct Ls {
    /// Only deliveries in this state
    #[arg(long, value_name = "STATE", conflicts_with = "in_doubt", value_parser = state)]
    pub(crate) state: Option<hapax_core::State>,
    /// Only deliveries of this kind
    #[arg(long, value_name = "KIND")]
    pub(crate) kind: Option<String>,
    /// How many at most
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(i64).range(1..=100_000))]
    pub(crate) limit: i64,
    /// Only deliveries in doubt, oldest doubt first, with what is needed to decide them
    #[arg(long)]
    pub(crate) in_doubt: bool,
    #[command(flatten)]
    pub(crate) json: Json,
}

fn state(word: &str) -> Result<hapax_core::State, String> {
    word.parse().map_err(|error: hapax_core::state::UnknownState| error.to_string())
}

const SHOW: &str = "\
Everything about one message: who enqueued it, each delivery with its state, every attempt with its phase and the \
server's words, every decision, and a verdict in a sentence. Addresses are masked.

Examples:
  hapax show 0199aa3e-6f0c-7d2e-9b6f-0d8f3a1c2b4d
  hapax show 0199aa3e-6f0c-7d2e-9b6f-0d8f3a1c2b4d/2      only the delivery to recipient 2";

/// `hapax show`.
#[derive(Args, Clone, Debug)]
pub(crate) struct Show {
    /// Message id, or message id and recipient number
    #[arg(value_name = "ID[/NO]")]
    pub(crate) delivery: String,
    #[command(flatten)]
    pub(crate) json: Json,
}

const EXPLAIN: &str = "\
Why somebody got two mails, or none. Ask by email address, by Message-ID (as the mail server's log or the mail itself \
has it), by message id, delivery (ID/NO), or the token of an attempt. The answer is a verdict in a few sentences, then \
the time line from the application's INSERT to the server's reply. It finds what an application has enqueued twice, \
also in two transactions (outbox.suspected_duplicates in SQL).

Addresses are masked, but for the one you type. Needs outbox_viewer or outbox_operator; only the latter sees who \
decided what. Exit code 1 when there is nothing to tell.

Examples:
  hapax explain ada@example.org
  hapax explain ada@example.org --since 7d --json | jq -r '.verdict[]'
  hapax explain '<0199aa3e-6f0c-7d2e-9b6f-0d8f3a1c2b4d@shop.example>'
  hapax explain 0199aa3e-6f0c-7d2e-9b6f-0d8f3a1c2b4d/2      only the delivery to recipient 2";

/// `hapax explain`.
#[derive(Args, Clone, Debug)]
pub(crate) struct Explain {
    /// Address, Message-ID, message id, delivery (ID/NO) or token
    #[arg(value_name = "ADDRESS|MESSAGE-ID|ID[/NO]")]
    pub(crate) what: String,
    /// Only what was enqueued in the last so many days or hours [default: everything that is kept]
    #[arg(long, value_name = "DURATION", value_parser = since)]
    pub(crate) since: Option<std::time::Duration>,
    /// How many notifications are told at most, newest first
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(i32).range(1..=1000))]
    pub(crate) limit: i32,
    #[command(flatten)]
    pub(crate) json: Json,
}

fn since(text: &str) -> Result<std::time::Duration, String> {
    let hundred_years = std::time::Duration::from_secs(100 * 365 * 86_400);
    let duration = crate::config::duration(text).filter(|duration| *duration <= hundred_years);
    duration.ok_or_else(|| "write a duration such as 12h, 7d or 30d".to_owned())
}

const RETRY: &str = "\
Makes failed, cancelled or expired deliveries pending again, and pending ones due now. A delivery that failed with \
open doubts may have arrived: trying it again is a resend and needs --force. For deliveries in doubt use \
`hapax resolve`, for held ones `hapax release`.

Examples:
  hapax retry 0199aa3e-6f0c-7d2e-9b6f-0d8f3a1c2b4d --reason 'template repaired'
  hapax retry 0199aa3e-6f0c-7d2e-9b6f-0d8f3a1c2b4d/2 --reason 'mailbox is back'";

/// `hapax retry`.
#[derive(Args, Clone, Debug)]
pub(crate) struct Retry {
    /// Messages, or single deliveries of them
    #[arg(value_name = "ID[/NO]", required = true)]
    pub(crate) targets: Vec<String>,
    /// Why, for outbox.audit
    #[arg(long, value_name = "REASON")]
    pub(crate) reason: String,
    /// Also where it may have arrived
    #[arg(long)]
    pub(crate) force: bool,
    #[command(flatten)]
    pub(crate) json: Json,
}

const CANCEL: &str = "\
Cancels the deliveries of messages that are not yet being sent. What is in flight, in doubt or done says so \
(exit code 1).

Example:
  hapax cancel 0199aa3e-6f0c-7d2e-9b6f-0d8f3a1c2b4d --reason 'order was a test'";

const HOLD: &str = "\
Stops the deliveries of messages that are not yet being sent, until `hapax release`.

Example:
  hapax hold 0199aa3e-6f0c-7d2e-9b6f-0d8f3a1c2b4d --reason 'legal wants to look at it'";

const RELEASE: &str = "\
Lets held deliveries go on. --failover releases everything that was held because the database failed over or was \
restored (`hapax arm`): what a lost server had sent is then sent again.

Examples:
  hapax release 0199aa3e-6f0c-7d2e-9b6f-0d8f3a1c2b4d --reason 'legal is fine with it'
  hapax release --failover --reason 'compared with the log of mx1: nothing of it had been sent'";

/// `hapax release`.
#[derive(Args, Clone, Debug)]
pub(crate) struct Release {
    /// Messages
    #[arg(value_name = "ID", required_unless_present = "failover", conflicts_with = "failover")]
    pub(crate) targets: Vec<uuid::Uuid>,
    /// Everything that was held because of a failover or a restore
    #[arg(long)]
    pub(crate) failover: bool,
    /// Why, for outbox.audit
    #[arg(long, value_name = "REASON")]
    pub(crate) reason: String,
    #[command(flatten)]
    pub(crate) json: Json,
}

const ARM: &str = "\
Declares that this database is the one to send from: after a failover, a restore, or when it has moved. Until then \
relays send nothing from it. Relays that are running (they are in guard mode) go on by themselves.

On another server than the one that was armed, deliveries that may have been sent before the switch are held first: the \
old server may have known more than this one does. Look at them, then release or cancel them. Needs the privileges of \
outbox_operator. First of all make sure that the old server cannot come back: two armed servers send everything twice.

Examples:
  hapax arm --reason 'db1 is gone, db2 was promoted'
  hapax arm --reason 'planned switchover, synchronous standby' --continue      nothing was lost: hold nothing
  hapax arm --reason 'volume restored to noon' --hold                          restored in place, nobody was watching
  hapax arm --reason 'mail twice is better than none' --release-held           what may have been sent is sent again";

/// `hapax arm`.
#[derive(Args, Clone, Debug)]
pub(crate) struct Arm {
    /// Why, for outbox.audit
    #[arg(long, value_name = "REASON")]
    pub(crate) reason: String,
    /// Release what was held at once: what the old server had sent unknown to this one is sent again
    #[arg(long, conflicts_with_all = ["go_on", "hold"])]
    pub(crate) release_held: bool,
    /// Hold what may have been sent also on the same server: a snapshot was restored in place while no relay was alive
    #[arg(long, conflicts_with = "go_on")]
    pub(crate) hold: bool,
    /// Hold nothing: when you know that no commit was lost
    #[arg(long = "continue")]
    pub(crate) go_on: bool,
    #[command(flatten)]
    pub(crate) json: Json,
}

/// `hapax cancel`, `hold`.
#[derive(Args, Clone, Debug)]
pub(crate) struct Decide {
    /// Messages
    #[arg(value_name = "ID", required = true)]
    pub(crate) targets: Vec<uuid::Uuid>,
    /// Why, for outbox.audit
    #[arg(long, value_name = "REASON")]
    pub(crate) reason: String,
    #[command(flatten)]
    pub(crate) json: Json,
}

impl From<Release> for Decide {
    fn from(Release { targets, reason, json, .. }: Release) -> Self {
        Self { targets, reason, json }
    }
}
