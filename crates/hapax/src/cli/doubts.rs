//! What can be typed about doubts: `hapax resolve` and `hapax reconcile`.

use std::{path::PathBuf, time::Duration};

use clap::{Args, ValueEnum};

use super::Json;

pub(super) const RESOLVE: &str = "\
Decides deliveries in doubt, after a look at the mail server's log (`hapax ls --in-doubt` shows what to search for):
  sent     it arrived
  resend   send it again: there may be two copies
  failed   it did not arrive and shall not be sent again

Name the delivery (ID/NO) or, better, the doubt itself by its TOKEN: then a repeated command can never decide the next \
doubt of the same delivery; it says that there is nothing to do. Or name many by filters, all of which must match; \
--all alone means every doubt there is. Each is decided by the token that was seen; a repetition finds nothing. resend \
and failed are refused while the attempt may still be alive, unless forced.

Results go to stdout, one line per delivery; with filters a summary goes to stderr. Exit code 1 when something was \
left undecided.

Examples:
  hapax resolve 0199aa3e-6f0c-7d2e-9b6f-0d8f3a1c2b4d/1 sent \\
    --reason 'in the log of mx1 at 10:31'
  hapax resolve 5b1c... 77ae... resend --reason 'mx1 lost its queue'
  hapax resolve --route default --older-than 10m --dry-run resend \\
    --reason 'mx1 lost its queue'
  hapax resolve --server mx1.example.com --kind order_confirmed failed \\
    --reason 'mx1 was wiped'
  hapax resolve --all sent --reason 'the provider confirmed all, ticket 4711'";

/// `hapax resolve`.
#[derive(Args, Clone, Debug)]
pub(crate) struct Resolve {
    /// Deliveries (ID/NO) or doubts (TOKEN), unless filters name them; then the verdict: sent, resend or failed
    #[arg(value_name = "ID/NO|TOKEN|VERDICT", required = true, num_args = 1..)]
    pub(crate) words: Vec<String>,
    /// Why, for outbox.audit
    #[arg(long, value_name = "REASON")]
    pub(crate) reason: String,
    /// The doubt that was looked at, for one delivery named as ID/NO
    #[arg(long, value_name = "TOKEN")]
    pub(crate) token: Option<uuid::Uuid>,
    /// Those that took this route
    #[arg(long, value_name = "ROUTE", help_heading = "Filters")]
    pub(crate) route: Option<String>,
    /// Those of this kind
    #[arg(long, value_name = "KIND", help_heading = "Filters")]
    pub(crate) kind: Option<String>,
    /// Those that went to this mail server, as `hapax ls --in-doubt` shows it
    #[arg(long, value_name = "SERVER", help_heading = "Filters")]
    pub(crate) server: Option<String>,
    /// Those of this tenant
    #[arg(long, value_name = "TENANT", help_heading = "Filters")]
    pub(crate) tenant: Option<String>,
    /// Those that are in doubt for so long at least: 90s, 10m, 2h, 3d
    #[arg(long, value_name = "AGE", value_parser = age, help_heading = "Filters")]
    pub(crate) older_than: Option<Duration>,
    /// Those that are in doubt for less
    #[arg(long, value_name = "AGE", value_parser = age, help_heading = "Filters")]
    pub(crate) newer_than: Option<Duration>,
    /// All that match the other filters; without any, all there are
    #[arg(long, help_heading = "Filters")]
    pub(crate) all: bool,
    /// Only show what would be done (with filters)
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Also while the attempt may still be alive: when you know that the relay's process is gone
    #[arg(long)]
    pub(crate) force: bool,
    #[command(flatten)]
    pub(crate) json: Json,
}

/// The verdicts of `hapax resolve`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Verdict {
    /// It arrived
    Sent,
    /// Send it again
    Resend,
    /// It did not arrive and shall not be sent again
    Failed,
}

impl Verdict {
    /// The word of `outbox.resolve`.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Sent => "sent",
            Self::Resend => "resend",
            Self::Failed => "failed",
        }
    }
}

pub(super) const RECONCILE: &str = "\
Settles deliveries in doubt from a Postfix log: each is looked for by its Message-ID and its recipient.
  accepted   Postfix queued it: it is sent, evidence report. Any server's log can show this.
  not sent   Postfix did not take it: it is pending again and will be sent. Believed only where the log is that of \
the server the attempt went to, covers the time from the intent until the attempt can no longer be alive, with a \
margin on both sides and without a gap, and shows no trace of it but a refusal or a connection lost before the end.
  undecided  everything else, each with the reason.

A log is that of the server when the host in it is the host or the greeting's name that `hapax ls --in-doubt` \
shows. Syslog often writes a \
short name, and a name may stand for several machines: --server NAME or --route NAME then says that this log is the \
complete log for that server or route. If it is not, what it lacks will be sent twice.

Times without a zone (Nov 26 10:31:02) prove nothing about coverage until --utc-offset says what they mean. Rotated \
logs are read together, oldest first. The log is read once and not kept in memory.

Needs a database user who may see addresses (outbox_operator); none is printed. Exit code 1 when something was left.

Examples:
  hapax reconcile --postfix-log /var/log/mail.log --dry-run
  hapax reconcile --postfix-log /var/log/mail.log --server mx1.example.com \\
    --utc-offset +01:00
  zcat -f /var/log/mail.log.2.gz /var/log/mail.log.1 /var/log/mail.log |
    hapax reconcile --postfix-log - --route default
  journalctl -o short-iso -u 'postfix@*' --since -2h |
    hapax reconcile --postfix-log - --server mx1.example.com";

/// `hapax reconcile`.
#[derive(Args, Clone, Debug)]
pub(crate) struct Reconcile {
    /// Postfix's log, - for standard input
    #[arg(long, value_name = "FILE")]
    pub(crate) postfix_log: PathBuf,
    /// This is the complete log of what went to this server, as `hapax ls --in-doubt` shows it (may be repeated)
    #[arg(long, value_name = "SERVER")]
    pub(crate) server: Vec<String>,
    /// This is the complete log of what took this route (may be repeated)
    #[arg(long, value_name = "ROUTE")]
    pub(crate) route: Vec<String>,
    /// What times without a zone mean: +01:00, -05:00, +00:00
    #[arg(long, value_name = "OFFSET", value_parser = utc_offset, allow_hyphen_values = true)]
    pub(crate) utc_offset: Option<i64>,
    /// How much the log must cover before the intent and beyond the end of the attempt; clocks differ, servers are slow
    #[arg(long, value_name = "TIME", value_parser = age, default_value = "10m")]
    pub(crate) margin: Duration,
    /// The longest silence in the log that is no gap
    #[arg(long, value_name = "TIME", value_parser = age, default_value = "10m")]
    pub(crate) max_gap: Duration,
    /// Only show what would be done
    #[arg(long)]
    pub(crate) dry_run: bool,
    #[command(flatten)]
    pub(crate) json: Json,
}

fn age(text: &str) -> Result<Duration, String> {
    use crate::config::duration::{SHAPE, parse};
    parse(text).ok_or_else(|| format!("{text:?} is not {SHAPE}"))
}

/// Seconds east of Greenwich.
fn utc_offset(text: &str) -> Result<i64, String> {
    crate::reconcile::offset(text).ok_or_else(|| format!("{text:?} is no offset: write +01:00, -05:00 or +00:00"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn examples_are_short_enough_not_to_be_wrapped() {
        for help in [RESOLVE, RECONCILE] {
            let (_, examples) = help.split_once("Examples:\n").expect("examples");
            let long: Vec<&str> = examples.lines().filter(|line| line.len() >= 78).collect();
            assert!(long.is_empty(), "{long:?}");
        }
    }

    #[test]
    fn ages_and_offsets_have_units() {
        assert_eq!(age("10m"), Ok(Duration::from_secs(600)));
        assert_eq!(age("3d"), Ok(Duration::from_secs(259_200)));
        assert!(age("10").is_err());
        assert_eq!((utc_offset("+01:00"), utc_offset("-0530"), utc_offset("Z")), (Ok(3600), Ok(-19_800), Ok(0)));
        assert!(utc_offset("CET").is_err());
    }
}
