//! What this process is responsible for: tokens from the moment an intent is asked for until its outcome is durable, and
//! leases from the claim until the attempt ends.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use hapax_core::{DeliveryKey, Incarnation, Lease, Token};
use hapax_store::{IntendRequest, Settlement};

use crate::memory::Memory;

/// Shared by couriers, ledger and reaper. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Registry {
    live: Arc<Mutex<HashSet<Token>>>,
    memory: Memory,
    incarnation: Incarnation,
}

impl Registry {
    /// For one incarnation, with the memory of the whole process.
    pub(crate) fn new(memory: Memory, incarnation: Incarnation) -> Self {
        Self { live: Arc::default(), memory, incarnation }
    }

    /// An intent is about to be asked for. `now` is CLOCK_BOOTTIME.
    pub(crate) fn asked(&self, request: &IntendRequest, now: Duration) {
        self.memory.asked(request, self.incarnation, now);
        self.tokens().insert(request.token);
    }

    /// Its intent is durable: its end marker may leave.
    pub(crate) fn granted(&self, token: Token) {
        self.memory.granted(token);
    }

    /// How it ended; not durable yet.
    pub(crate) fn ended(&self, settlement: &Settlement) {
        self.memory.ended(settlement);
    }

    /// Its outcome is durable.
    pub(crate) fn settled(&self, token: Token) {
        self.memory.durable(token);
        self.tokens().remove(&token);
    }

    /// It turned out never to have been ours.
    pub(crate) fn refused(&self, token: Token) {
        self.memory.forget(token);
        self.tokens().remove(&token);
    }

    /// Whether this process still works on it.
    pub(crate) fn is_live(&self, token: Token) -> bool {
        self.tokens().contains(&token)
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.tokens().len()
    }

    fn tokens(&self) -> std::sync::MutexGuard<'_, HashSet<Token>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The leases in hand. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Hands(Arc<Mutex<HashMap<(DeliveryKey, Lease), Duration>>>);

/// Proof that a delivery is in hand; its lease is renewed until this is dropped.
#[derive(Debug)]
pub(crate) struct InHand {
    hands: Hands,
    what: (DeliveryKey, Lease),
}

impl Hands {
    /// Takes a delivery in hand. `now` is CLOCK_BOOTTIME.
    pub(crate) fn take(&self, key: DeliveryKey, lease: Lease, now: Duration) -> InHand {
        let what = (key, lease);
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(what, now);
        InHand { hands: self.clone(), what }
    }

    /// What was taken, or last renewed, before `limit`; counts as renewed at `now`.
    pub(crate) fn older_than(&self, limit: Duration, now: Duration) -> Vec<(DeliveryKey, Lease)> {
        let mut hands = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let old = hands.iter_mut().filter(|(_, since)| **since < limit);
        old.map(|(what, since)| {
            *since = now;
            *what
        })
        .collect()
    }
}

impl Drop for InHand {
    fn drop(&mut self) {
        self.hands.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.what);
    }
}
