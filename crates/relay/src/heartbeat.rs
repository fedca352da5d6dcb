//! The incarnation's heartbeat: a counter advanced by compare-and-set. It feeds the gate that every end marker passes.

use std::sync::Arc;

use hapax_core::clock::Clock;
use hapax_mail::Heartbeat;
use hapax_store::Store;
use tokio_util::sync::CancellationToken;

use crate::{config::RelayConfig, error::Error, fatal::Fatal};

/// Beats until `stop`, or until somebody else turns out to be this incarnation: then every gate closes.
pub(crate) async fn beat(
    store: Store,
    config: Arc<RelayConfig>,
    heartbeat: Arc<Heartbeat>,
    clock: Arc<dyn Clock>,
    fatal: Fatal,
    stop: CancellationToken,
) {
    let alive = fatal.alive("heartbeat");
    let mut counter = 0;
    while !stop.is_cancelled() {
        // Taken before the statement: the beat is at least as old as this.
        let asked_at = clock.boottime();
        match store.heartbeat(counter).await {
            Ok(Some(stands)) if stands == counter + 1 => {
                counter = stands;
                heartbeat.record(asked_at);
            }
            Ok(_) => {
                heartbeat.close();
                fatal.report(Error::Incarnation);
                break;
            }
            Err(error) => match fatal.check_guard(error) {
                Ok(error) => tracing::warn!(error = %error, "a heartbeat has no answer"),
                Err(()) => {
                    heartbeat.close();
                    break;
                }
            },
        }
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep(config.limits.heartbeat_interval) => {}
        }
    }
    alive.finished();
}
