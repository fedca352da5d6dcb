//! What a service manager hears while the relay runs: from the first sign of life to the last, see `notify`.
//!
//! It tells that the service is ready, how it is doing, and that it needs longer to end. It must never hold anything up, and
//! says nothing that it does not see.

use std::time::Duration;

use hapax_relay::Shutdown;

use crate::notify;

/// Between two looks, at most: a manager is told at least so often that a start or an end goes on.
const PERIOD: Duration = Duration::from_secs(5);

/// What is asked for each time: some periods may be missed by a busy machine.
const EXTENSION: Duration = Duration::from_secs(30);

/// Speaks until the process ends.
pub(crate) fn speak(shutdown: &Shutdown) {
    if !notify::is_heard() {
        return;
    }
    let soft = shutdown.soft.clone();
    let watched = notify::watchdog_interval();
    let period = watched.map_or(PERIOD, |interval| PERIOD.min(interval / 3));
    tokio::spawn(async move {
        notify::ready();
        loop {
            if watched.is_some() {
                notify::watchdog();
            }
            if soft.is_cancelled() {
                notify::extend(EXTENSION);
                tokio::time::sleep(period).await;
                continue;
            }
            tokio::select! {
                () = soft.cancelled() => {
                    notify::stopping();
                    notify::status("waiting for open replies");
                }
                () = tokio::time::sleep(period) => {}
            }
        }
    });
}
