//! The incarnation's heartbeat: a counter advanced by compare-and-set. It feeds the gate that every end marker passes.
//! Beside it, the leases of what is in hand are renewed: a relay that lives keeps its deliveries, however slow the server.

use std::sync::Arc;

use hapax_core::{clock::Clock, fault};
use hapax_mail::Heartbeat;
use hapax_store::Store;
use tokio_util::sync::CancellationToken;

use crate::{config::RelayConfig, error::Error, fatal::Fatal, registry::Hands};

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
        fault::point("heartbeat_sent");
        match store.heartbeat(counter).await {
            Ok(Some(stands)) if stands == counter + 1 => {
                counter = stands;
                heartbeat.record(asked_at);
            }
            Ok(stands) => {
                heartbeat.close();
                fatal.report(lost(counter, stands));
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

/// A counter that has advanced without us is somebody else's; one that has fallen back, or is gone, is an earlier state of
/// the database.
fn lost(counter: i64, stands: Option<i64>) -> Error {
    if stands.is_some_and(|stands| stands > counter) {
        return Error::Incarnation;
    }
    let now = stands.map_or_else(|| "gone".to_owned(), |stands| stands.to_string());
    let detail =
        format!("the relay's heartbeat stood at {counter} and is {now} now: this is an earlier state of the database");
    Error::Guard { source: hapax_store::Error::NotArmed { detail } }
}

/// Renews, until `stop`, the leases that are older than a third of their time.
pub(crate) async fn renew(
    store: Store,
    config: Arc<RelayConfig>,
    hands: Hands,
    clock: Arc<dyn Clock>,
    fatal: Fatal,
    stop: CancellationToken,
) {
    let alive = fatal.alive("renew");
    let third = config.limits.lease / 3;
    while !stop.is_cancelled() {
        let now = clock.boottime();
        let old = hands.older_than(now.saturating_sub(third), now);
        if !old.is_empty() {
            fault::point("renew_sent");
            if let Err(error) = store.renew(&old, config.limits.lease).await {
                match fatal.check_guard(error) {
                    Ok(error) => tracing::warn!(error = %error, leases = old.len(), "leases could not be renewed"),
                    Err(()) => break,
                }
            }
        }
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep(third / 2) => {}
        }
    }
    alive.finished();
}
