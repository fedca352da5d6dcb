//! What producers have enqueued twice, where its kind has a guard window: asked once what a claimed delivery says is known,
//! and before anything is done for it.
//!
//! Invariants: nothing that has a guard goes on unless the database has noted it; of two, committed and claimed at the same
//! moment, the database lets one through. Kinds without a guard are not asked about.

use std::{collections::HashMap, time::Duration};

use hapax_core::DeliveryKey;
use hapax_store::{Claimed, Release, Repeat};

use crate::{contents::Letters, courier::Office};

/// How long a delivery rests of which it is not known whether it repeats another.
const UNKNOWN_PAUSE: Duration = Duration::from_secs(1);

/// The claimed deliveries without those that are held or dropped because they repeat another.
pub(crate) async fn without(office: &Office, claimed: Vec<Claimed>, letters: &Letters) -> Vec<Claimed> {
    let guarded = |claimed: &Claimed| {
        let Some(Ok(letter)) = letters.get(&claimed.key.message_id) else { return false };
        // What has expired ends as expired.
        letter.policy.guard.is_some() && letter.expires_in(office.clock.as_ref()).is_none_or(|left| !left.is_zero())
    };
    let keys: Vec<_> = claimed.iter().filter(|one| guarded(one)).map(|one| (one.key, one.lease)).collect();
    if keys.is_empty() {
        return claimed;
    }
    let repeats = match office.store.guard(&keys).await {
        Ok(repeats) => repeats,
        Err(error) => {
            tracing::warn!(error = %error, deliveries = keys.len(), "it is not known whether they repeat others: later");
            let (unknown, rest): (Vec<_>, Vec<_>) = claimed.into_iter().partition(guarded);
            give_back(office, &unknown).await;
            return rest;
        }
    };
    let told: HashMap<DeliveryKey, Repeat> = repeats.iter().map(|(key, repeat, _)| (*key, *repeat)).collect();
    for (delivery, repeat, reason) in &repeats {
        match repeat {
            Repeat::Held => tracing::warn!(%delivery, reason, "a duplicate: held, not sent"),
            Repeat::Dropped => tracing::warn!(%delivery, reason, "a duplicate: cancelled, not sent"),
            Repeat::Reported => tracing::warn!(%delivery, reason, "a duplicate: sent all the same"),
            Repeat::Locked => tracing::debug!(%delivery, reason, "a duplicate that somebody has locked: later"),
        }
    }
    let (locked, rest): (Vec<_>, Vec<_>) =
        claimed.into_iter().partition(|one| told.get(&one.key) == Some(&Repeat::Locked));
    give_back(office, &locked).await;
    let goes = |one: &Claimed| matches!(told.get(&one.key), None | Some(Repeat::Reported));
    rest.into_iter().filter(goes).collect()
}

/// Without anything done for them, for a moment.
pub(crate) async fn give_back(office: &Office, claimed: &[Claimed]) {
    if claimed.is_empty() {
        return;
    }
    let releases: Vec<Release> = claimed.iter().map(|one| one.given_back(UNKNOWN_PAUSE)).collect();
    if let Err(error) = office.store.release(&releases).await {
        tracing::warn!(error = %error, deliveries = releases.len(), "could not be given back, their leases will expire");
    }
}
