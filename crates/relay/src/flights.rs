//! Places in flight, shared by all incarnations of a process: while one drains and the next one works, both together stay
//! within `max_in_flight`, a route within what it has for itself and what is for every route, and its couriers within
//! `max_connections` as far as one is left. Of that each process has its part: divided by the relays that live.
//!
//! Invariant: a limit that shrinks is kept as places are given back; nothing that is in flight is disturbed.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use hapax_core::Incarnation;
use hapax_store::Standing;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use crate::{
    pace::{Crowd, Pace},
    warm_up::Ceiling,
};

/// All places of a process. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Flights(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    all: Places,
    /// Those that no route has for itself.
    common: Places,
    routes: Mutex<HashMap<String, OfRoute>>,
    crowd: Mutex<Crowd>,
    /// Relays that live; 0 while nobody knows.
    living: Arc<AtomicUsize>,
    changed: Arc<watch::Sender<u64>>,
}

/// What the incarnations of one process share of a route.
#[derive(Clone, Debug, Default)]
pub(crate) struct OfRoute {
    /// What it has for itself of what may be in flight.
    places: Places,
    /// What is for every route.
    common: Places,
    /// Its couriers at work.
    couriers: Arc<AtomicUsize>,
    /// Told when something about a route is not as it was.
    pub(crate) changed: Arc<watch::Sender<u64>>,
    /// How fast it may go.
    pub(crate) pace: Pace,
    /// Relays that share its connections.
    living: Arc<AtomicUsize>,
    ceiling: Arc<Mutex<Ceiling>>,
}

impl Flights {
    /// Those of the whole process, `limit` from now on.
    pub(crate) fn all(&self, limit: usize) -> Places {
        self.0.all.resize(limit);
        self.0.all.clone()
    }

    /// Those that every route may take, `limit` from now on.
    pub(crate) fn common(&self, limit: usize) {
        self.0.common.resize(limit);
    }

    /// Those of the route of that name, `limit` for itself from now on.
    pub(crate) fn of_route(&self, name: &str, limit: usize) -> OfRoute {
        let mut routes = self.0.routes.lock().unwrap_or_else(PoisonError::into_inner);
        let made = || OfRoute {
            common: self.0.common.clone(),
            changed: self.0.changed.clone(),
            living: self.0.living.clone(),
            ..OfRoute::default()
        };
        let route = routes.entry(name.to_owned()).or_insert_with(made).clone();
        route.places.resize(limit);
        route
    }

    /// Hears when something about a route is not as it was.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.0.changed.subscribe()
    }

    /// An incarnation of this process has introduced itself; others need `patience` to notice the first one.
    pub(crate) fn begins(&self, own: Incarnation, now: Duration, patience: Duration) {
        self.crowd().begins(own, now, patience);
    }

    /// The route of that name may go so fast from now on.
    pub(crate) fn limit(&self, route: &OfRoute, ceiling: Ceiling, now: Duration) {
        let (known, now_s) = {
            let crowd = self.crowd();
            (crowd.known(), crowd.now_s())
        };
        route.pace.limit(ceiling.at(now_s), known, now);
        *route.ceiling() = ceiling;
    }

    /// These relays live; known until then.
    pub(crate) fn saw(&self, standing: &Standing, asked: Duration, until: Duration, now: Duration) {
        let known = {
            let mut crowd = self.crowd();
            let known = crowd.saw(standing, asked, until);
            self.0.living.store(crowd.living(), Ordering::Relaxed);
            known
        };
        let routes = self.0.routes.lock().unwrap_or_else(PoisonError::into_inner);
        for route in routes.values() {
            let ceiling = route.ceiling();
            if ceiling.warm_up.is_some() {
                // A day may have begun.
                route.pace.limit(ceiling.at(Some(standing.now_s)), known, now);
            } else if route.pace.is_limited() {
                route.pace.shared_by(known, now);
            }
        }
    }

    /// Whether it is known how many relays live.
    pub(crate) fn are_shared(&self) -> bool {
        self.0.living.load(Ordering::Relaxed) > 0
    }

    fn crowd(&self) -> MutexGuard<'_, Crowd> {
        self.0.crowd.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl OfRoute {
    fn ceiling(&self) -> MutexGuard<'_, Ceiling> {
        self.ceiling.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a place: one of its own, or else one that is for every route.
    pub(crate) async fn take(&self) -> Option<Place> {
        tokio::select! {
            biased;
            place = self.places.take() => place,
            place = self.common.take() => place,
        }
    }

    /// Something is not as it was.
    pub(crate) fn change(&self) {
        self.changed.send_modify(|count| *count += 1);
    }

    /// The part of this process in so many connections of all relays: one at least. All of them before anybody has looked.
    pub(crate) fn part_of(&self, connections: usize) -> usize {
        (connections / self.living.load(Ordering::Relaxed).max(1)).max(1)
    }

    /// One courier more.
    pub(crate) fn courier_begins(&self) {
        self.couriers.fetch_add(1, Ordering::SeqCst);
    }

    /// One courier less.
    pub(crate) fn courier_ends(&self) {
        self.couriers.fetch_sub(1, Ordering::SeqCst);
    }

    /// How many couriers others have, of whom `own` are not.
    pub(crate) fn couriers_elsewhere(&self, own: usize) -> usize {
        self.couriers.load(Ordering::SeqCst).saturating_sub(own)
    }
}

/// A number of places that may change while some are taken. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Places {
    free: Arc<Semaphore>,
    size: Arc<Mutex<Size>>,
}

#[derive(Debug, Default)]
struct Size {
    limit: usize,
    /// Places that vanish when they are given back.
    too_many: usize,
}

impl Default for Places {
    fn default() -> Self {
        Self { free: Arc::new(Semaphore::new(0)), size: Arc::default() }
    }
}

impl Places {
    fn size(&self) -> MutexGuard<'_, Size> {
        self.size.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn resize(&self, limit: usize) {
        let mut size = self.size();
        if limit > size.limit {
            let more = limit - size.limit;
            let kept = more.min(size.too_many);
            size.too_many -= kept;
            self.free.add_permits(more - kept);
        } else {
            let fewer = size.limit - limit;
            size.too_many += fewer - self.free.forget_permits(fewer);
        }
        size.limit = limit;
    }

    /// Waits for a place.
    pub(crate) async fn take(&self) -> Option<Place> {
        loop {
            let permit = self.free.clone().acquire_owned().await.ok()?;
            // Whoever waited and went away gave one back that should have vanished.
            if let Some(permit) = self.size().keep(permit) {
                return Some(Place { permit: Some(permit), places: self.clone() });
            }
        }
    }
}

impl Size {
    /// None when it was one too many.
    fn keep(&mut self, permit: OwnedSemaphorePermit) -> Option<OwnedSemaphorePermit> {
        if self.too_many == 0 {
            return Some(permit);
        }
        self.too_many -= 1;
        permit.forget();
        None
    }
}

/// A place in flight; given back when dropped.
#[derive(Debug)]
pub(crate) struct Place {
    permit: Option<OwnedSemaphorePermit>,
    places: Places,
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(permit) = self.permit.take() {
            drop(self.places.size().keep(permit));
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    fn taken(places: &Places) -> Vec<Place> {
        std::iter::from_fn(|| places.take().now_or_never().flatten()).collect()
    }

    #[test]
    fn a_limit_that_shrinks_is_kept_as_places_come_back_and_one_that_grows_at_once() {
        let flights = Flights::default();
        let places = flights.all(4);
        let mut held = taken(&places);
        assert_eq!(held.len(), 4);
        flights.all(2);
        held.truncate(3);
        assert!(taken(&places).is_empty(), "three are out, two may be");
        held.truncate(2);
        assert!(taken(&places).is_empty(), "two are out, two may be");
        held.truncate(1);
        held.extend(taken(&places));
        assert_eq!(held.len(), 2);
        flights.all(1);
        flights.all(5);
        held.extend(taken(&places));
        assert_eq!(held.len(), 5, "one too many is none too many any more");
        drop(held);
        assert_eq!(taken(&places).len(), 5);
    }

    #[test]
    fn routes_of_one_name_share_their_places_and_know_each_others_couriers() {
        let flights = Flights::default();
        let (old, new) = (flights.of_route("a", 3), flights.of_route("a", 2));
        assert_eq!(flights.of_route("b", 1).couriers_elsewhere(0), 0);
        let held = taken(&old.places);
        assert_eq!((held.len(), taken(&new.places).len()), (2, 0));
        drop(held);
        flights.common(2);
        let both: Vec<_> = std::iter::from_fn(|| old.take().now_or_never().flatten()).collect();
        let other = flights.of_route("b", 1);
        assert_eq!(
            (both.len(), other.take().now_or_never().flatten().is_some()),
            (4, true),
            "its own is left to the other"
        );
        drop(both);
        old.courier_begins();
        assert_eq!((new.couriers_elsewhere(0), old.couriers_elsewhere(1)), (1, 0));
        old.courier_ends();
        assert_eq!(new.couriers_elsewhere(0), 0);
    }
}
