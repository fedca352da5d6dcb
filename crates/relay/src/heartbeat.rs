//! The incarnation's heartbeat: a counter advanced by compare-and-set. It feeds the gate that every end marker passes.
//! Beside it, the leases of what is in hand are renewed: a relay that lives keeps its deliveries, however slow the server.

use std::{sync::Arc, time::Duration};

use hapax_core::{clock::Clock, fault};
use hapax_mail::Heartbeat;
use hapax_store::Store;
use tokio_util::sync::CancellationToken;

use crate::{complaint::Complaint, config::RelayConfig, error::Error, fatal::Fatal, progress::Pulse, registry::Hands};

/// What both loops need.
#[derive(Clone)]
pub(crate) struct Heart {
    pub(crate) store: Store,
    pub(crate) config: Arc<RelayConfig>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) fatal: Fatal,
    pub(crate) stop: CancellationToken,
}

impl Heart {
    /// Beats until `stop`, or until somebody else turns out to be this incarnation: then every gate closes.
    pub(crate) async fn beat(self, heartbeat: Arc<Heartbeat>, pulse: Pulse) {
        let alive = self.fatal.alive("heartbeat");
        let (mut counter, mut complaint) = (0, Complaint::default());
        while !self.stop.is_cancelled() {
            pulse.beat();
            // Taken before the statement: the beat is at least as old as this.
            let asked_at = self.clock.boottime();
            fault::point("heartbeat_sent");
            match self.store.heartbeat(counter).await {
                Ok(Some(stands)) if stands == counter + 1 => {
                    counter = stands;
                    heartbeat.record(asked_at);
                    complaint.is_over();
                }
                Ok(stands) => {
                    heartbeat.close();
                    self.fatal.report(lost(counter, stands));
                    break;
                }
                Err(error) => match self.fatal.check_guard(error) {
                    Ok(error) if complaint.is_due() => {
                        tracing::warn!(error = error.in_full(), "a heartbeat has no answer");
                    }
                    Ok(_) => {}
                    Err(()) => {
                        heartbeat.close();
                        break;
                    }
                },
            }
            self.rest(self.config.limits.heartbeat_interval).await;
        }
        alive.finished();
    }

    /// Renews, until `stop`, the leases that are older than a third of their time.
    pub(crate) async fn renew(self, hands: Hands, pulse: Pulse) {
        let alive = self.fatal.alive("renew");
        let third = self.config.limits.lease / 3;
        while !self.stop.is_cancelled() {
            pulse.beat();
            let now = self.clock.boottime();
            let old = hands.older_than(now.saturating_sub(third), now);
            if !old.is_empty() {
                fault::point("renew_sent");
                if let Err(error) = self.store.renew(&old, self.config.limits.lease).await {
                    match self.fatal.check_guard(error) {
                        Ok(error) => tracing::warn!(error = %error, leases = old.len(), "leases could not be renewed"),
                        Err(()) => break,
                    }
                }
            }
            self.rest(third / 2).await;
        }
        alive.finished();
    }

    async fn rest(&self, pause: Duration) {
        tokio::select! {
            () = self.stop.cancelled() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
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
