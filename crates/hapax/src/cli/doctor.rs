//! What can be typed after `hapax doctor`.

use std::{net::SocketAddr, time::Duration};

use clap::Args;

pub(super) const DOCTOR: &str = "\
Examines everything a relay needs, and says of each thing that is wrong what was seen and what to do: configuration, \
templates, this machine, the database (reachability, versions, privileges, schema, partitions, vacuum, old \
transactions, standbys, poolers), the outbox (waiting, doubts, relays), the mail server of each route (connection, \
certificate, extensions, credentials) and the DNS of the senders (SPF, DKIM, DMARC).

Nothing is changed and no mail is sent. A mail server is asked as far as MAIL FROM, which is taken back with RSET: no \
recipient is named. It runs with the relay's own user; what that user may not see is said, and is no error.

Exit codes: 0 no error (there may be warnings), 1 an error was found, 64 usage.

Examples:
  hapax doctor
  hapax doctor --verbose                 also what is well
  hapax doctor --offline                 configuration, templates and this machine only
  hapax doctor --route default
  hapax doctor --json | jq '.findings[] | select(.severity == \"error\")'";

/// `hapax doctor`.
#[derive(Args, Clone, Debug)]
pub(crate) struct Doctor {
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// Print what is well, too
    #[arg(long, short)]
    pub(crate) verbose: bool,
    /// Ask nobody: no database, no mail server, no DNS
    #[arg(long)]
    pub(crate) offline: bool,
    /// Only this route's mail server and senders
    #[arg(long, value_name = "NAME")]
    pub(crate) route: Option<String>,
    /// How long a step may take before it counts as not answered
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = duration)]
    pub(crate) timeout: Duration,
    /// From which age on an open transaction is worth a warning
    #[arg(long, value_name = "TIME", default_value = "15m", value_parser = duration)]
    pub(crate) transaction_age: Duration,
    /// DNS server to ask [default: those of /etc/resolv.conf]
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub(crate) resolver: Option<SocketAddr>,
}

fn duration(text: &str) -> Result<Duration, String> {
    use crate::config::duration::{SHAPE, parse};
    parse(text).ok_or_else(|| format!("write {SHAPE}"))
}
