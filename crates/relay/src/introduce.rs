//! An incarnation introduces itself: where its database is, then its own row, its routes, its kinds.
//!
//! Invariants: a database that is away is waited for, however long, and that is said now and then, not at every try; an
//! introduction that is given up leaves no row behind that looks like a relay which died.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use hapax_core::{clock::Clock, fault};
use hapax_store::{Kind, Store};
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

use crate::{
    Error, Flights, Memory, Meters, Shutdown, config::RelayConfig, guard, pump, route::Route, stock::Stock,
    warm_up::Ceiling,
};

/// Between two tries.
const PAUSE: Duration = Duration::from_millis(200);

/// Between two lines that say so.
const WARN_INTERVAL: Duration = Duration::from_secs(10);

/// How long a goodbye is waited for.
const GOODBYE: Duration = Duration::from_secs(1);

/// Connections opened before work begins: for the pump, intents, outcomes, and one for everything else.
const CONNECTIONS_AHEAD: usize = 4;

pub(crate) struct Introduction<'a> {
    store: &'a Store,
    config: &'a RelayConfig,
    shutdown: &'a Shutdown,
    warned: Option<Instant>,
}

impl<'a> Introduction<'a> {
    pub(crate) fn new(store: &'a Store, config: &'a RelayConfig, shutdown: &'a Shutdown) -> Self {
        Self { store, config, shutdown, warned: None }
    }

    /// Sees that the database is where it was.
    pub(crate) async fn recognise(&mut self) -> Result<(), Error> {
        let interval = self.config.limits.heartbeat_interval;
        while let Err(error) = guard::recognise(self.store, interval, &self.shutdown.soft).await {
            let Error::Store { doing, source } = error else { return Err(error) };
            self.try_again(doing, source).await?;
        }
        Ok(())
    }

    /// Registers incarnation, routes and kinds.
    pub(crate) async fn introduce(
        &mut self,
        clock: &Arc<dyn Clock>,
        meters: &Meters,
        flights: &Flights,
    ) -> Result<Vec<Arc<Route>>, Error> {
        let (store, config) = (self.store, self.config);
        let grace = config.limits.doubt_grace(&config.timeouts);
        fault::point("register_sent");
        let own: Vec<String> = config.routes.iter().map(|route| route.name.clone()).collect();
        while let Err(error) = store.register(&config.name, &config.host, &config.version, grace, &own).await {
            self.try_again("registering this relay", error).await?;
        }
        let default = config.default_route();
        let named: Vec<_> = config.routes.iter().map(|route| (route.name.clone(), route.host())).collect();
        let groups = loop {
            match store.register_routes(&named).await {
                Ok(groups) => break groups,
                Err(error) => self.try_again("registering the routes", error).await?,
            }
        };
        let kinds: Vec<_> = config
            .kinds
            .iter()
            .map(|(name, kind)| Kind {
                name: name.clone(),
                priority: kind.priority.map(hapax_core::Priority::as_str),
                route: kind.route.clone(),
                ignores_suppression: kind.ignores_suppression,
                skip_after: kind.skip_after,
                failed_blocks: kind.failed_blocks,
                guard: kind.guard,
                collect: kind.collect.clone(),
            })
            .collect();
        while let Err(error) = store.register_kinds(&kinds).await {
            self.try_again("registering the kinds", error).await?;
        }
        store.warm_up(CONNECTIONS_AHEAD).await;
        let count = config.routes.len();
        let (places, common_places) = pump::route_shares(count, pump::places(&config.limits));
        let (share, common) = pump::route_shares(count, config.limits.max_in_flight);
        flights.common(common);
        let common_places = Arc::new(Semaphore::new(common_places));
        let mut routes = Vec::with_capacity(config.routes.len());
        for (index, route) in config.routes.iter().enumerate() {
            let own = groups.iter().find(|(name, _)| *name == route.name).map_or(0, |(_, group)| *group);
            // Group 0 holds everything that names no route, and is the default route's too.
            let groups = if index == default { vec![own, 0] } else { vec![own] };
            let shared = flights.of_route(&route.name, share);
            let ceiling = Ceiling { rate: route.rate, warm_up: route.warm_up.clone() };
            flights.limit(&shared, ceiling, clock.boottime());
            let stock = Stock::new(places, &config.limits).beside(&common_places);
            routes.push(Arc::new(Route::new(route.clone(), groups, stock, shared, clock.clone(), meters)?));
        }
        Ok(routes)
    }

    /// The database may go away between the first look at it and here: that is waited for, as at any other time.
    async fn try_again(&mut self, doing: &'static str, error: hapax_store::Error) -> Result<(), Error> {
        if self.shutdown.soft.is_cancelled() || !(error.is_transient() || error.is_ambiguous()) {
            return Err(Error::Store { doing, source: error });
        }
        if self.warned.is_none_or(|last| last.elapsed() >= WARN_INTERVAL) {
            self.warned = Some(Instant::now());
            tracing::warn!(error = %error, doing, "the database does not answer, trying again");
        }
        tokio::select! {
            () = self.shutdown.soft.cancelled() => {}
            () = tokio::time::sleep(PAUSE) => {}
        }
        Ok(())
    }
}

/// It has not begun to work and never will: nothing of it is under way. Where the database does not take that now, the
/// next incarnation of this process says it.
pub(crate) async fn bow_out(store: &Store, memory: &Memory) {
    if !matches!(tokio::time::timeout(GOODBYE, store.sign_off()).await, Ok(Ok(()))) {
        memory.leave(store.incarnation(), TaskTracker::new());
    }
}
