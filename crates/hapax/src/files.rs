//! How many files the process may have open: as many as it is allowed, and said at the start where that is too few.
//!
//! Too few are no error: what finds no descriptor is tried again like anything else that cannot be had for now.

use rustix::process::{Resource, getrlimit, setrlimit};

use crate::config::Settings;

/// What every process has open, and what the probes that ask it take.
const ANYWAY: usize = 96;

/// As many open files as are allowed: each connection takes one, and the usual limit to begin with is low.
pub(crate) fn raise() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::debug!(error = %error, "the limit of open files stays as it is");
    }
}

/// Says so when fewer are allowed than these settings may need.
pub(crate) fn warn_if_few(settings: &Settings) {
    let Some(limit) = getrlimit(Resource::Nofile).current else { return };
    let needed = needed(settings);
    if usize::try_from(limit).is_ok_and(|limit| limit < needed) {
        tracing::warn!(
            limit,
            needed,
            "fewer files may be open than the configuration can need: some mail will have to wait for others (hint: \
             LimitNOFILE={needed} or ulimit -n {needed}, or lower max_connections and max_in_flight)"
        );
    }
}

/// Connections to mail servers and the database, and a spooled file for each delivery under way.
fn needed(settings: &Settings) -> usize {
    let connections = settings.routes.iter().map(|route| route.max_connections);
    let database = settings.database.pool_size_max + 1;
    connections.fold(ANYWAY + database + settings.relay.limits.max_in_flight, usize::saturating_add)
}
