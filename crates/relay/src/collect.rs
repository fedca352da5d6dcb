//! What goes in a digest: asked once what a claimed delivery says is known, and before anything is done for it.
//!
//! Invariants: the database gathers and makes in one transaction; what is in a digest has lost its lease, so that whoever
//! still has it in hand gets no intent for it. What would not be tried now anyhow (expired, too old, quiet) is not gathered:
//! it becomes what it would have become.

use std::collections::HashSet;

use hapax_core::{DeliveryKey, Priority, envelope::Content};
use hapax_store::{Claimed, Gathered};

use crate::{contents::Letters, courier::Office, quiet, repeats::give_back};

/// The claimed deliveries without those that wait for a digest, or are in one.
pub(crate) async fn apart(office: &Office, claimed: Vec<Claimed>, letters: &Letters) -> Vec<Claimed> {
    let may = |claimed: &Claimed| is_gathered(office, claimed, letters);
    let keys: Vec<_> = claimed.iter().filter(|one| may(one)).map(|one| (one.key, one.lease)).collect();
    if keys.is_empty() {
        return claimed;
    }
    let gathered = match office.store.collect(&keys).await {
        Ok(gathered) => gathered,
        Err(error) => {
            tracing::warn!(error = %error, deliveries = keys.len(), "could not be gathered for digests: later");
            let asked: HashSet<DeliveryKey> = keys.iter().map(|(key, _)| *key).collect();
            let (unknown, rest): (Vec<_>, Vec<_>) = claimed.into_iter().partition(|one| asked.contains(&one.key));
            give_back(office, &unknown).await;
            return rest;
        }
    };
    let Gathered { waiting, stopped, locked, made } = gathered;
    for digest in made {
        tracing::info!(%digest, "a digest was made");
    }
    let gone: HashSet<DeliveryKey> = waiting.into_iter().chain(stopped).collect();
    let locked: HashSet<DeliveryKey> = locked.into_iter().collect();
    let (locked, rest): (Vec<_>, Vec<_>) = claimed.into_iter().partition(|one| locked.contains(&one.key));
    give_back(office, &locked).await;
    rest.into_iter().filter(|one| !gone.contains(&one.key)).collect()
}

/// Whether it is asked about; the database looks at the rest.
fn is_gathered(office: &Office, claimed: &Claimed, letters: &Letters) -> bool {
    let Some(Ok(letter)) = letters.get(&claimed.key.message_id) else { return false };
    let (config, clock, notification) = (&office.config, office.clock.as_ref(), &letter.notification);
    letter.policy.collect.is_some()
        && matches!(notification.content, Content::Payload(_))
        && notification.attachments.is_empty()
        && !notification.attachments_later
        && letter.priority() != Priority::Urgent
        && (claimed.intents, claimed.open_doubts) == (0, 0)
        && letter.expires_in(clock).is_none_or(|left| !left.is_zero())
        && !config.guards.is_too_old(claimed.due_for)
        && quiet::rest(config, &office.zones, claimed, letter, clock).is_none()
}
