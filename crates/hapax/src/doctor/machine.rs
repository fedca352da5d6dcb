//! This machine: open files, the spool directory, the clock.

use rustix::{
    fs::statvfs,
    process::{Resource, getrlimit},
};

use super::finding::Finding;
use crate::config::Settings;

/// Files that are open whatever happens: logs, listeners, templates, timers.
const FILES_OF_ITS_OWN: usize = 64;
/// A few of the largest messages.
const SPOOL_BYTES_MIN: u64 = 256 << 20;

pub(super) fn examine(settings: &Settings) -> Vec<Finding> {
    let mut findings = vec![files(settings), spool(settings)];
    findings.extend(clock());
    findings
}

fn files(settings: &Settings) -> Finding {
    let name = "machine.files";
    let connections: usize = settings.routes.iter().map(|route| route.max_connections).sum();
    // A message may lie in a file while its connection is open.
    let needed =
        2 * connections + settings.database.pool_size_max + settings.relay.limits.max_in_flight + FILES_OF_ITS_OWN;
    let limit = getrlimit(Resource::Nofile).current;
    let shown = limit.map_or_else(|| "no limit".to_owned(), |limit| limit.to_string());
    let evidence =
        format!("a relay with this configuration opens up to {needed} files; this process may open: {shown}");
    if limit.is_some_and(|limit| limit < needed as u64) {
        return Finding::warning(
            name,
            evidence,
            format!("LimitNOFILE={} in its unit, or ulimit -n", needed.next_power_of_two()),
        );
    }
    Finding::ok(name, evidence)
}

fn spool(settings: &Settings) -> Finding {
    let name = "machine.spool";
    let directory = &settings.relay.freight.spool_directory;
    let shown = directory.display();
    if let Err(error) = tempfile::tempfile_in(directory) {
        let evidence = format!("{shown}: no file can be made there: {}", error.to_string().to_lowercase());
        let remedy = "make it writable for the user hapax runs as, or set relay.spool_directory: large messages \
                      lie there while they are sent";
        return Finding::error(name, evidence, remedy);
    }
    match statvfs(directory) {
        Ok(space) => {
            let free = space.f_bavail.saturating_mul(space.f_frsize);
            let evidence = format!("{shown}: writable, {} MiB free", free >> 20);
            if free < SPOOL_BYTES_MIN {
                let remedy = "make room, or set relay.spool_directory: large messages lie there while they are sent";
                return Finding::warning(name, evidence, remedy);
            }
            Finding::ok(name, evidence)
        }
        Err(error) => Finding::ok(name, format!("{shown}: writable; its free space is not known: {error}")),
    }
}

/// As far as the machine says: only systemd's own client leaves a mark that anybody may read.
fn clock() -> Option<Finding> {
    let exists = |path: &str| std::path::Path::new(path).exists();
    if exists("/run/systemd/timesync/synchronized") {
        return Some(Finding::ok("machine.clock", "synchronised, says systemd-timesyncd"));
    }
    let others = ["/run/chrony", "/run/chrony/chronyd.pid", "/run/ntpd.pid", "/run/ntpsec"];
    if let Some(found) = others.into_iter().find(|path| exists(path)) {
        return Some(Finding::ok("machine.clock", format!("a time service is installed ({found})")));
    }
    exists("/run/systemd/system").then(|| {
        let remedy = "timedatectl set-ntp true, unless something else keeps it right";
        Finding::note("machine.clock", "no time service was found that keeps this machine's clock right", remedy)
    })
}
