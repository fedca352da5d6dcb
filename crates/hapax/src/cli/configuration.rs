//! `hapax check` and `hapax config ...`.

use std::time::Duration;

use clap::{Args, Subcommand};

use super::Json;

pub(super) const CHECK: &str = "\
Checks the configuration without starting anything or touching the network: prints every problem (78), or ok. What \
hapax run refuses is refused here, and nothing else; what is allowed, but does not go together, is advised against.

It also says how long a relay may take to end, for systemd's TimeoutStopSec and Kubernetes' \
terminationGracePeriodSeconds: one that is killed earlier leaves deliveries in doubt.

Examples:
  hapax check
  hapax check --print              every value and where it came from, secrets masked
  hapax check --stop-timeout 820   a problem when a relay may need longer than that to end
  hapax check --config new.toml && systemctl reload hapax";

/// `hapax check`.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct Check {
    /// Print every value and where it came from
    #[arg(long)]
    pub(crate) print: bool,
    /// After how long a relay that was told to end is killed: 820 (seconds) or 13m40s
    #[arg(long, value_name = "TIME", value_parser = seconds)]
    pub(crate) stop_timeout: Option<Duration>,
    #[command(flatten)]
    pub(crate) json: Json,
}

/// systemd and Kubernetes write bare seconds.
fn seconds(text: &str) -> Result<Duration, String> {
    let bare = text.parse().ok().map(Duration::from_secs);
    bare.or_else(|| crate::config::duration(text))
        .ok_or_else(|| "write seconds, or a duration such as 13m40s".to_owned())
}

pub(super) const CONFIG: &str = "\
Prints what a configuration may look like. `hapax check --print` shows the one in force.

Examples:
  hapax config example > hapax.toml       every key with its default and what it is for
  hapax config schema > hapax.schema.json for editors: #:schema ./hapax.schema.json in the first line of hapax.toml";

/// `hapax config ...`.
#[derive(Clone, Copy, Debug, Subcommand)]
pub(crate) enum Config {
    /// Print a configuration file with every key, its default and what it is for
    Example,
    /// Print the JSON Schema of the configuration file
    Schema,
}
