//! What metrics say of the whole outbox, asked every 15 seconds. Of all living relays one asks, the one that began first:
//! the others look only whether it is their turn now.

use std::time::{Duration, Instant};

use hapax_core::Incarnation;
use hapax_store::{Standing, Store};
use tokio_util::sync::CancellationToken;

use crate::meters::{Meters, now_s};

/// Between two looks.
const INTERVAL: Duration = Duration::from_secs(15);

/// Looks until `stop`.
pub(crate) async fn watch(store: Store, meters: Meters, dead_after: Duration, stop: CancellationToken) {
    let own = store.incarnation();
    while !stop.is_cancelled() {
        if let Err(error) = look(&store, &meters, dead_after).await {
            tracing::debug!(error = %error, "the database could not be asked for metrics");
        }
        tokio::select! {
            () = tokio::time::sleep(INTERVAL) => {}
            () = stop.cancelled() => {}
        }
    }
    meters.looks_away(own);
}

async fn look(store: &Store, meters: &Meters, dead_after: Duration) -> Result<(), hapax_store::Error> {
    let (asked, asked_at) = (Instant::now(), now_s());
    let standing = store.standing(dead_after).await?;
    // Its answer was made somewhere between question and answer.
    meters.skewed(standing.now_s - asked_at - asked.elapsed().as_secs_f64() / 2.0);
    if !leads(&standing, store.incarnation()) {
        meters.looks_away(store.incarnation());
        return Ok(());
    }
    let overview = store.overview().await?;
    meters.saw(store.incarnation(), standing, overview);
    Ok(())
}

/// Whether this one tells: it is the first of the living.
fn leads(standing: &Standing, own: Incarnation) -> bool {
    standing.living.first().is_some_and(|first| first.incarnation == own)
}
