//! What is paused or suppressed, as this relay knows it: read with its polls, twice a second at most, and asked before anything is done
//! for a delivery. What it does not know yet is refused by intend, which looks for itself.
//!
//! Invariants: only deliveries without an intent are stopped, by the lease of their claim; a pause costs them no attempt.
//! Must not decide anything that intend would not: what is parked here and is not paused any more goes on by itself.

use std::{
    collections::HashSet,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use hapax_core::{DeliveryKey, clock::Clock};
use hapax_store::{Claimed, Scope, Stopped, Store};
use sha2::{Digest, Sha256};

use crate::{
    courier::{self, Office},
    job::Job,
    route::Route,
};

/// What is known is older than this for the duration of one statement at most.
const REFRESH_INTERVAL: Duration = Duration::from_millis(500);

/// How many deliveries of a pause that has ended are made due at once.
const UNPARK_BATCH: i32 = 2_000;

/// How long a delivery rests that is paused and could not be parked.
const UNPARKED_PAUSE: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
struct Known {
    routes: HashSet<String>,
    kinds: HashSet<String>,
    tenants: HashSet<String>,
    /// SHA-256 of addresses in lower case, in hex digits.
    addresses: HashSet<String>,
    /// There is a suppression list.
    suppressing: bool,
    /// CLOCK_BOOTTIME of the question; none before the first, and when there is more to do at once.
    asked_at: Option<Duration>,
}

/// Everything that is paused.
#[derive(Debug, Default)]
pub(crate) struct Pauses {
    known: Mutex<Known>,
    asking: tokio::sync::Mutex<()>,
}

impl Pauses {
    /// Asks again what is paused, if that is due and nobody else is asking; and lets go on what waited for a pause that
    /// has ended.
    ///
    /// # Errors
    /// Those of the statements; what was known stays.
    pub(crate) async fn refresh(&self, store: &Store, clock: &dyn Clock) -> Result<(), hapax_store::Error> {
        let now = clock.boottime();
        if self.lock().asked_at.is_some_and(|asked| now.saturating_sub(asked) < REFRESH_INTERVAL) {
            return Ok(());
        }
        let Ok(_asking) = self.asking.try_lock() else { return Ok(()) };
        let pauses = store.pauses().await?;
        let mut fresh = Known { asked_at: Some(now), suppressing: pauses.suppressing, ..Known::default() };
        for pause in pauses.in_force {
            match pause.scope {
                Scope::Route => fresh.routes.insert(pause.name),
                Scope::Kind => fresh.kinds.insert(pause.name),
                Scope::Tenant => fresh.tenants.insert(pause.name),
                Scope::Address => fresh.addresses.insert(pause.name),
            };
        }
        *self.lock() = fresh;
        if pauses.ended && store.unpark(UNPARK_BATCH).await? >= i64::from(UNPARK_BATCH) {
            self.lock().asked_at = None;
        }
        Ok(())
    }

    /// Whether nothing goes out by this route.
    pub(crate) fn is_paused(&self, route: &str) -> bool {
        self.lock().routes.contains(route)
    }

    fn concern(&self, route: &str, job: &Job) -> bool {
        let (known, notification) = (self.lock(), &job.letter.notification);
        known.routes.contains(route)
            || known.kinds.contains(&notification.kind)
            || notification.tenant.as_ref().is_some_and(|tenant| known.tenants.contains(tenant))
            || (!known.addresses.is_empty() && known.addresses.contains(&address_digest(job)))
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// As `outbox.address_digest()` has it, but for letters that the database's locale does not lower: those intend refuses.
fn address_digest(job: &Job) -> String {
    let address = job.letter.recipient(job.claimed.key.recipient_no).map(|to| to.address().to_lowercase());
    let digest = Sha256::digest(address.unwrap_or_default().as_bytes());
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Those of the claimed deliveries that are of a paused kind, tenant or address, which are parked, or suppressed, which have ended.
/// Costs nothing while there are no such things.
///
/// # Errors
/// Those of the statement.
pub(crate) async fn among(office: &Office, claimed: &[Claimed]) -> Result<HashSet<DeliveryKey>, hapax_store::Error> {
    let concerned = {
        let known = office.pauses.lock();
        known.suppressing || !(known.kinds.is_empty() && known.tenants.is_empty() && known.addresses.is_empty())
    };
    if !concerned || claimed.is_empty() {
        return Ok(HashSet::new());
    }
    let keys: Vec<_> = claimed.iter().map(|claimed| (claimed.key, claimed.lease)).collect();
    let stopped = office.store.stop(&keys, None).await?;
    stopped.iter().for_each(|(key, why)| say(*key, *why));
    Ok(stopped.into_iter().map(|(key, _)| key).collect())
}

/// The delivery, unless it is paused: then it is parked, and its places are free.
pub(crate) async fn let_through(office: &Office, route: &Route, job: Job) -> Option<Job> {
    if let Err(error) = office.pauses.refresh(&office.store, office.clock.as_ref()).await {
        tracing::debug!(error = %error, "it is not known what is paused now: intend will say");
    }
    // A route that shares is paused with all that is for it, whoever it goes by.
    let names = [Some(route.config.name.as_str()), office.config.shared_route(&job.letter)];
    let Some(name) = names.into_iter().flatten().find(|name| office.pauses.concern(name, &job)) else {
        return Some(job);
    };
    match office.store.stop(&[(job.claimed.key, job.claimed.lease)], Some(name)).await {
        // Resumed meanwhile, or locked by somebody: intend decides.
        Ok(stopped) if stopped.is_empty() => return Some(job),
        Ok(stopped) => stopped.iter().for_each(|(key, why)| say(*key, *why)),
        Err(error) => {
            tracing::warn!(error = %error, delivery = %job.claimed.key, "could not be parked");
            courier::give_back(office, job, UNPARKED_PAUSE).await;
        }
    }
    None
}

fn say(delivery: DeliveryKey, why: Stopped) {
    match why {
        Stopped::Paused => tracing::debug!(%delivery, "paused: parked until it is resumed"),
        Stopped::Suppressed => {
            tracing::info!(%delivery, "suppressed, not sent: its address is on the suppression list")
        }
    }
}
