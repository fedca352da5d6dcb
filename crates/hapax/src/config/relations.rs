//! Relations between values that each are fine alone.

use std::time::Duration;

use super::{
    duration::format,
    origin::{Origin, Problem},
    reader::Reader,
    settings::Settings,
};

/// Reports the values that do not go together.
pub(super) fn check(reader: &mut Reader, settings: &Settings) {
    if let Some(root) = &settings.relay.freight.root {
        super::attachments::warn(reader, root);
    }
    let limits = &settings.relay.limits;
    let beat = limits.heartbeat_interval;
    if limits.dead_after <= 2 * beat {
        let message = format!("must be more than twice relay.heartbeat_interval ({})", format(beat));
        let hint = format!(
            "a relay whose heartbeat is late once is not dead: set it to {} or more, or beat more often",
            format(3 * beat)
        );
        report(reader, "relay.dead_after", limits.dead_after, message, hint);
    }
    if limits.transmit_deadline <= 2 * beat {
        let message = format!("must be more than twice relay.heartbeat_interval ({})", format(beat));
        let hint = format!(
            "nothing is transmitted while the last heartbeat is older than it: set it to {} or more",
            format(3 * beat)
        );
        report(reader, "relay.transmit_deadline", limits.transmit_deadline, message, hint);
    }
    let reply = settings.relay.timeouts.final_reply;
    if limits.shutdown_grace < reply {
        let message = format!("must be at least relay.final_reply_timeout ({})", format(reply));
        let hint = format!(
            "a shutdown that does not wait for replies leaves doubts: set it to {} \
             (and systemd's TimeoutStopSec above it)",
            format(reply + Duration::from_secs(60))
        );
        report(reader, "relay.shutdown_grace", limits.shutdown_grace, message, hint);
    }
    if limits.poll_interval_min > limits.poll_interval_max {
        let message = format!("must be at most relay.poll_interval_max ({})", format(limits.poll_interval_max));
        let hint = "the pause grows from the one to the other while nothing happens".to_owned();
        report(reader, "relay.poll_interval_min", limits.poll_interval_min, message, hint);
    }
    if limits.poll_interval_asleep < limits.poll_interval_max {
        let message = format!("must be at least relay.poll_interval_max ({})", format(limits.poll_interval_max));
        let hint = "who is woken need not look more often than who is not".to_owned();
        report(reader, "relay.poll_interval_asleep", limits.poll_interval_asleep, message, hint);
    }
    if settings.retry.first > settings.retry.cap {
        let message = format!("must be at most retry.cap ({})", format(settings.retry.cap));
        let hint = "pauses grow from the one to the other".to_owned();
        report(reader, "retry.first", settings.retry.first, message, hint);
    }
}

fn report(reader: &mut Reader, path: &str, value: Duration, message: String, hint: String) {
    let shown = reader.shown.iter().find(|shown| shown.path == path);
    let origin = shown.map_or(Origin::Default, |shown| shown.origin.clone());
    let problem = Problem::new(path, message).hint(hint).of(format!("{:?}", format(value)), origin);
    reader.problems.push(problem);
}
