//! What a relay says of its routes in its row of `outbox.relay`, for `hapax status`: which rest, which are slowed down.
//!
//! Written when it changes, once a second at most, and never waited for by anybody. Words of ours only: no server's.

use std::{sync::Arc, time::Duration};

use hapax_core::Outcome;
use hapax_store::Store;
use serde::Serialize;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::route::Route;

/// Between two writes.
const PAUSE: Duration = Duration::from_secs(1);

/// A route that is not as it should be.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Told {
    pub(crate) route: String,
    pub(crate) state: &'static str,
    /// By this machine's clock, in seconds since 1970.
    pub(crate) since: u64,
    /// In a row.
    pub(crate) failures: u32,
    /// As many as it may have now.
    pub(crate) connections: usize,
    pub(crate) why: String,
}

/// How an attempt failed, in words that are ours.
pub(crate) fn why(outcome: &Outcome) -> String {
    let phase = outcome.phase();
    match outcome {
        Outcome::Refused { reply, .. } | Outcome::NotSent { reply: Some(reply), .. } => {
            format!("{phase}: {} {}", reply.code, reply.enhanced.as_deref().unwrap_or_default()).trim_end().to_owned()
        }
        Outcome::NotSent { cause, .. } | Outcome::Unknown { cause, .. } => format!("{phase}: {cause}"),
        Outcome::Accepted { .. } => String::new(),
    }
}

/// Tells until `stop`.
pub(crate) async fn tell(
    store: Store,
    routes: Vec<Arc<Route>>,
    mut changed: watch::Receiver<u64>,
    stop: CancellationToken,
) {
    let mut last = Vec::new();
    loop {
        tokio::select! {
            heard = changed.changed() => if heard.is_err() { return },
            () = stop.cancelled() => return,
        }
        let now: Vec<Told> = routes.iter().filter_map(|route| route.told()).collect();
        if now != last {
            let text = serde_json::to_string(&now).unwrap_or_default();
            match store.tell_routes(&text).await {
                Ok(()) => last = now,
                Err(error) => tracing::debug!(error = %error, "the states of routes could not be told"),
            }
        }
        tokio::select! {
            () = tokio::time::sleep(PAUSE) => {}
            () = stop.cancelled() => return,
        }
    }
}
