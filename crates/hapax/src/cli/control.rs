//! What can be typed to stop and start things: `hapax pause`, `resume`, `suppress`, `unsuppress`, `suppressions`, and
//! `send-again`.

use std::time::Duration;

use clap::{ArgGroup, Args};

use super::Json;

pub(super) const PAUSE: &str = "\
Lets a route, a kind, a tenant or an address wait until `hapax resume`, or for a while. Every relay stops handing it \
out within half a second, and nothing of it is transmitted whose transmission had not begun; what is on the wire ends as it does. One row, \
however much waits: a million deliveries are paused as fast as one. They stay pending, with a reason that says who \
paused them, cost no attempt, and expire if their time passes. `hapax status` lists what is paused.

What is paused already gets the new reason and end. Needs the privileges of outbox_operator.

Examples:
  hapax pause --kind newsletter --reason 'wrong price in the text'
  hapax pause --tenant acme --for 2h --reason 'their server is moving'
  hapax pause --route bulk --reason 'the provider asked us to'
  hapax pause --address ada@example.org --reason 'ticket 4711: her mailbox loops'";

/// `hapax pause`.
#[derive(Args, Clone, Debug)]
#[command(group = ArgGroup::new("what").required(true))]
pub(crate) struct Pause {
    #[command(flatten)]
    pub(crate) what: What,
    /// Why: whoever wonders what waits will read it, and it is kept in outbox.audit
    #[arg(long, value_name = "REASON")]
    pub(crate) reason: String,
    /// It ends by itself after so long: 90s, 10m, 2h, 3d
    #[arg(long = "for", value_name = "DURATION", value_parser = duration)]
    pub(crate) within: Option<Duration>,
    #[command(flatten)]
    pub(crate) json: Json,
}

/// One of four.
#[derive(Args, Clone, Debug)]
pub(crate) struct What {
    /// Everything that takes this route
    #[arg(long, value_name = "ROUTE", group = "what")]
    pub(crate) route: Option<String>,
    /// Everything of this kind
    #[arg(long, value_name = "KIND", group = "what")]
    pub(crate) kind: Option<String>,
    /// Everything of this tenant
    #[arg(long, value_name = "TENANT", group = "what")]
    pub(crate) tenant: Option<String>,
    /// Everything for this address: a hash of it is kept
    #[arg(long, value_name = "ADDRESS", group = "what")]
    pub(crate) address: Option<String>,
}

fn duration(text: &str) -> Result<Duration, String> {
    let year = Duration::from_secs(366 * 86_400);
    let duration = crate::config::duration(text).filter(|duration| !duration.is_zero() && *duration <= year);
    duration.ok_or_else(|| "write a duration such as 90s, 10m, 2h or 3d".to_owned())
}

pub(super) const RESUME: &str = "\
Ends a pause. What waited goes on in the order in which it was due; what has expired meanwhile ends as expired. What is \
paused by something else too (its tenant, say) goes on waiting. Exit code 1 when it was not paused.

Examples:
  hapax resume --kind newsletter --reason 'price corrected'
  hapax resume --tenant acme --reason 'their server is up'";

/// `hapax resume`.
#[derive(Args, Clone, Debug)]
#[command(group = ArgGroup::new("what").required(true))]
pub(crate) struct Resume {
    #[command(flatten)]
    pub(crate) what: What,
    /// Why, for outbox.audit
    #[arg(long, value_name = "REASON")]
    pub(crate) reason: String,
    #[command(flatten)]
    pub(crate) json: Json,
}

pub(super) const SUPPRESS: &str = "\
Puts an address on the suppression list: its deliveries end as `suppressed` instead of being sent, from now on; what is on \
the wire ends as it does. For one kind or tenant, if given, and for a while, if wanted. Kinds with ignores_suppression go \
out all the same. The list keeps a hash of the address, and the address itself only with --keep-address.

An address that is on the list already, in the same scope, gets the new reason and end. Needs the privileges of \
outbox_operator.

Examples:
  hapax suppress ada@example.org --reason unsubscribed --kind newsletter
  hapax suppress bob@example.org --reason complaint --note 'ticket 4711'
  hapax suppress eve@example.org --for 30d --note 'asked us to wait'";

/// `hapax suppress`.
#[derive(Args, Clone, Debug)]
pub(crate) struct Suppress {
    /// Whom nothing is sent to
    #[arg(value_name = "ADDRESS")]
    pub(crate) address: String,
    /// Why: hard_bounce, complaint, unsubscribed or manual
    #[arg(long, value_name = "WORD", default_value = "manual")]
    #[arg(value_parser = ["hard_bounce", "complaint", "unsubscribed", "manual"])]
    pub(crate) reason: String,
    /// Why, in more words
    #[arg(long, value_name = "TEXT")]
    pub(crate) note: Option<String>,
    #[command(flatten)]
    pub(crate) scope: Scope,
    /// It ends by itself after so long: 12h, 30d
    #[arg(long = "for", value_name = "DURATION", value_parser = duration)]
    pub(crate) within: Option<Duration>,
    /// Keep the address itself, for those who may see addresses
    #[arg(long)]
    pub(crate) keep_address: bool,
    #[command(flatten)]
    pub(crate) json: Json,
}

/// Of what.
#[derive(Args, Clone, Debug)]
pub(crate) struct Scope {
    /// Only what is of this kind
    #[arg(long, value_name = "KIND")]
    pub(crate) kind: Option<String>,
    /// Only what is of this tenant
    #[arg(long, value_name = "TENANT")]
    pub(crate) tenant: Option<String>,
}

pub(super) const UNSUPPRESS: &str = "\
Takes an address off the suppression list: every entry of it, or those of one kind or tenant. What was suppressed before \
stays so; `hapax retry` sends it. Exit code 1 when it was not on the list.

Example:
  hapax unsuppress ada@example.org --reason 'has a new mailbox'";

/// `hapax unsuppress`.
#[derive(Args, Clone, Debug)]
pub(crate) struct Unsuppress {
    /// Whom mail is sent to again
    #[arg(value_name = "ADDRESS")]
    pub(crate) address: String,
    /// Why, for outbox.audit
    #[arg(long, value_name = "REASON")]
    pub(crate) reason: String,
    #[command(flatten)]
    pub(crate) scope: Scope,
    #[command(flatten)]
    pub(crate) json: Json,
}

pub(super) const SUPPRESSIONS: &str = "\
Lists the suppression list, newest first, or what it has about one address (exit code 1 when nothing). Addresses are \
masked: the list keeps their hashes.

Examples:
  hapax suppressions
  hapax suppressions ada@example.org";

/// `hapax suppressions`.
#[derive(Args, Clone, Debug)]
pub(crate) struct Suppressions {
    /// Only what is said of this address
    #[arg(value_name = "ADDRESS")]
    pub(crate) address: Option<String>,
    /// How many at most
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(i64).range(1..=100_000))]
    pub(crate) limit: i64,
    #[command(flatten)]
    pub(crate) json: Json,
}

pub(super) const SEND_AGAIN: &str = "\
Sends a message that has ended, or one delivery of it, once more: with the same content, but as a new message with an id \
and a Message-ID of its own, due now. For people who lost a mail, or typed a wrong address into their filter. What is \
still on its way or in doubt is refused (exit code 1): retry or resolve it.

Examples:
  hapax send-again 0199aa3e-6f0c-7d2e-9b6f-0d8f3a1c2b4d --reason 'customer deleted it'
  hapax send-again 0199aa3e-6f0c-7d2e-9b6f-0d8f3a1c2b4d/2 --reason 'asked for it by phone'";

/// `hapax send-again`.
#[derive(Args, Clone, Debug)]
pub(crate) struct SendAgain {
    /// Messages, or single deliveries of them
    #[arg(value_name = "ID[/NO]", required = true)]
    pub(crate) targets: Vec<String>,
    /// Why, for outbox.audit
    #[arg(long, value_name = "REASON")]
    pub(crate) reason: String,
    #[command(flatten)]
    pub(crate) json: Json,
}
