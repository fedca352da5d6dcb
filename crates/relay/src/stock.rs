//! Places for what is claimed. Most are for everything; a few are for the urgent alone, so that a password reset need not
//! wait until a million newsletters give one back. How many may be in flight is another matter (`flights.rs`).
//!
//! Invariant: the urgent take from the reserve only what the others have not left.

use std::sync::Arc;

use hapax_core::limits::Limits;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};

/// Places, and the reserve. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Stock {
    common: Arc<Semaphore>,
    /// Beside these, those that are for every route.
    shared: Arc<Semaphore>,
    reserve: Arc<Semaphore>,
    size: usize,
    reserve_size: usize,
}

impl Stock {
    /// So many places, beside a reserve as the limits of the relay have it.
    pub(crate) fn new(size: usize, limits: &Limits) -> Self {
        let reserve_size = (limits.max_in_flight / 4).max(1);
        let (common, reserve) = (Semaphore::new(size), Semaphore::new(reserve_size));
        let shared = Arc::new(Semaphore::new(0));
        Self { common: Arc::new(common), shared, reserve: Arc::new(reserve), size, reserve_size }
    }

    /// That of one of several routes: these are its own, others it shares.
    pub(crate) fn beside(self, shared: &Arc<Semaphore>) -> Self {
        Self { shared: shared.clone(), ..self }
    }

    /// Free places for everything.
    pub(crate) fn free(&self) -> usize {
        self.common.available_permits() + self.shared.available_permits()
    }

    /// Whether one of its own is taken.
    pub(crate) fn is_used(&self) -> bool {
        self.common.available_permits() < self.size
    }

    /// Free places when so many want those that are shared.
    pub(crate) fn free_among(&self, many: usize) -> usize {
        self.common.available_permits() + self.shared.available_permits() / many.max(1)
    }

    /// Free places for what is urgent.
    pub(crate) fn free_for_urgent(&self) -> usize {
        self.free() + self.reserve.available_permits()
    }

    /// A place, if there is one.
    pub(crate) fn take(&self, is_urgent: bool) -> Option<OwnedSemaphorePermit> {
        let common = self.common.clone().try_acquire_owned().ok();
        let common = common.or_else(|| self.shared.clone().try_acquire_owned().ok());
        common.or_else(|| self.reserve.clone().try_acquire_owned().ok().filter(|_| is_urgent))
    }

    /// Waits until so many are free for everything, or all.
    pub(crate) async fn has_room(&self, enough: usize) {
        drop(self.common.acquire_many(count(enough.min(self.size))).await);
    }

    /// Waits until nobody but the caller has one, which is one for everything; nobody gets one until both are dropped.
    pub(crate) async fn all_others(&self) -> (Option<SemaphorePermit<'_>>, Option<SemaphorePermit<'_>>) {
        let reserve = self.reserve.acquire_many(count(self.reserve_size)).await.ok();
        (self.common.acquire_many(count(self.size.saturating_sub(1))).await.ok(), reserve)
    }
}

fn count(permits: usize) -> u32 {
    u32::try_from(permits).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn the_urgent_take_from_the_reserve_what_the_others_have_not_left() {
        let limits = Limits { max_in_flight: 8, ..Limits::default() };
        let stock = Stock::new(3, &limits);
        assert_eq!((stock.free(), stock.free_for_urgent()), (3, 5));
        let urgent = stock.take(true);
        assert_eq!((urgent.is_some(), stock.free(), stock.free_for_urgent()), (true, 2, 4), "not from the reserve yet");
        let others: Vec<_> = std::iter::from_fn(|| stock.take(false)).collect();
        assert_eq!((others.len(), stock.free(), stock.free_for_urgent()), (2, 0, 2));
        let reserved: Vec<_> = std::iter::from_fn(|| stock.take(true)).collect();
        assert_eq!((reserved.len(), stock.free_for_urgent()), (2, 0));
        drop(others);
        assert_eq!((stock.free(), stock.free_for_urgent()), (2, 2));
        assert!(stock.has_room(3).now_or_never().is_none());
        drop(urgent);
        assert!(stock.has_room(7).now_or_never().is_some(), "no more than there are");
        let (other, shared) = (Stock::new(1, &limits), Arc::new(Semaphore::new(2)));
        let (one, other) = (other.clone().beside(&shared), Stock::new(1, &limits).beside(&shared));
        assert_eq!((one.free(), one.free_among(2), one.is_used()), (3, 2, false));
        let taken: Vec<_> = std::iter::from_fn(|| one.take(false)).collect();
        assert_eq!((taken.len(), other.free()), (3, 1), "its own is left to the other");
        assert!(one.is_used() && !other.is_used());
        let mine = stock.take(false);
        assert!(stock.all_others().now_or_never().is_none(), "the reserve is out");
        drop(reserved);
        let all = stock.all_others().now_or_never().expect("all others are free");
        assert!(stock.take(true).is_none() && all.0.is_some() && all.1.is_some());
        drop((all, mine));
        assert_eq!(Stock::new(1, &Limits { max_in_flight: 1, ..limits }).free_for_urgent(), 2, "one at least");
    }
}
