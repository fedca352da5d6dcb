//! Which way a delivery takes while its route rests: by the first of its route's fallbacks that works, or not at all.
//!
//! Architecture Invariant: only a delivery that never had an intent takes another way: nothing of it can have been
//! transmitted. What had one, whatever came of it, waits for its own route; what is in doubt at a fallback stays with that.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use hapax_store::Claimed;

use crate::route::Route;

/// All routes of a relay.
#[derive(Clone)]
pub(crate) struct Ways(pub(crate) Vec<Arc<Route>>);

/// How a delivery goes.
pub(crate) enum Way {
    /// By this route.
    By(Arc<Route>),
    /// Not now: its route rests, and nothing else may take it.
    Wait(Duration),
}

/// How long a delivery waits that came with others, where its route does not say for how long it rests.
const WAIT: Duration = Duration::from_secs(1);

impl Ways {
    pub(crate) fn named(&self, name: &str) -> Option<&Arc<Route>> {
        self.0.iter().find(|route| route.config.name == name)
    }

    /// How many deliveries of this route may be claimed: those it takes itself, and while it rests those that another does.
    pub(crate) fn room(&self, route: &Route) -> usize {
        let own = route.free();
        if route.config.fallback.is_empty() || !route.is_resting() {
            return own;
        }
        own.saturating_add(self.stand_in(route).map_or(0, |other| other.free()))
    }

    /// The first that works, is not paused and has room, of its fallbacks and theirs: what is parked for a pause of another route
    /// would wait although its own works again. There are no circles: the configuration was checked.
    fn stand_in(&self, route: &Route) -> Option<&Arc<Route>> {
        let going = route.config.fallback.iter().filter_map(|name| self.named(name));
        going.filter(|other| !other.paused.load(Ordering::Relaxed)).find_map(|other| {
            if other.is_resting() { self.stand_in(other) } else { Some(other).filter(|other| other.free() > 0) }
        })
    }

    /// Whether the one is a fallback of the other, or of one of those.
    pub(crate) fn stands_in(&self, route: &Route, other: &str) -> bool {
        let fallbacks = &route.config.fallback;
        fallbacks.iter().any(|name| name == other || self.named(name).is_some_and(|next| self.stands_in(next, other)))
    }

    /// How a delivery of this route goes now.
    pub(crate) fn way(&self, route: &Arc<Route>, claimed: &Claimed) -> Way {
        if route.config.fallback.is_empty() {
            return route.closed_for().map_or_else(|| Way::By(route.clone()), Way::Wait);
        }
        if claimed.intents > 0 {
            // In doubt there, it can only be told from a second copy there.
            let pinned = claimed.pinned_route.as_deref().filter(|_| claimed.open_doubts > 0);
            let there = pinned.filter(|name| self.stands_in(route, name)).and_then(|name| self.named(name));
            let route = there.unwrap_or(route);
            return if route.free() > 0 {
                Way::By(route.clone())
            } else {
                Way::Wait(route.closed_for().unwrap_or(WAIT))
            };
        }
        if !route.is_resting() || route.free() > 0 {
            return Way::By(route.clone());
        }
        match self.stand_in(route) {
            Some(other) => {
                route.meters.detours.inc();
                Way::By(other.clone())
            }
            None => Way::Wait(route.closed_for().unwrap_or(WAIT)),
        }
    }
}
