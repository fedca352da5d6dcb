//! The one place where the binary and the relay meet: one incarnation after another.
//!
//! A new one follows when the configuration was read again: it introduces itself, and only when it claims the one before
//! drains (claims nothing more, waits for its replies). Both together keep to `max_in_flight`. A new one follows, too,
//! when the database was another one for a while and the outbox was armed for it. Invariants: a reload that fails at any
//! step leaves the incarnation at work as it is; one that waits for its database is given up for what is read after it;
//! the process ends only when all its incarnations have.

use hapax_core::Incarnation;
use hapax_relay::{Error, Guard, Past, RelayConfig, Shutdown};
use hapax_store::Store;
use tokio::{
    signal::unix::Signal,
    task::{JoinError, JoinHandle, JoinSet},
};
use tokio_util::sync::CancellationToken;

use crate::{
    captures::Captures,
    config::{Database, Settings},
    connect,
    failure::{Exit, Refusal, chain},
    notify,
    reload::{Candidate, Source, name_what_needs_a_restart},
    telemetry::Logs,
    traces::Traces,
};

/// So many incarnations may wait for their replies before another one begins: each keeps a heartbeat and its leases.
const DRAINING_MAX: usize = 16;

/// One incarnation, and what it was made of.
struct Generation {
    number: u64,
    candidate: Candidate,
    store: Store,
    /// Ends this one alone.
    ends: Shutdown,
    started: CancellationToken,
}

/// All incarnations of the process.
pub(crate) struct Relays {
    shutdown: Shutdown,
    past: Past,
    source: Source,
    logs: Logs,
    captures: Captures,
    traces: Traces,
    tasks: JoinSet<(u64, Result<(), Error>)>,
    /// The one that claims.
    current: Generation,
    /// The one that introduces itself.
    coming: Option<Generation>,
    draining: Vec<u64>,
    /// Those that were given up before they worked.
    dropped: Vec<u64>,
    /// How many there have been.
    count: u64,
    loading: Option<JoinHandle<Result<Candidate, String>>>,
    standing: Option<JoinHandle<Result<Option<Store>, Error>>>,
    /// SIGHUP came, and nothing was read since.
    asked: bool,
    failed: Option<Error>,
}

enum Event {
    Asked,
    Loaded(Result<Candidate, String>),
    Started,
    Ended(u64, Result<(), Error>),
    Stood(Result<Option<Store>, Error>),
}

impl Relays {
    /// Starts the first one.
    ///
    /// # Errors
    /// A catcher that cannot be started.
    pub(crate) async fn start(
        store: Store,
        candidate: Candidate,
        source: Source,
        logs: Logs,
        shutdown: Shutdown,
        past: Past,
    ) -> anyhow::Result<Self> {
        let mut relays = Self {
            current: Generation::new(1, candidate, store, &shutdown),
            shutdown,
            traces: Traces::new(past.meters.clone()),
            past,
            source,
            logs,
            captures: Captures::default(),
            tasks: JoinSet::new(),
            coming: None,
            draining: Vec::new(),
            dropped: Vec::new(),
            count: 1,
            loading: None,
            standing: None,
            asked: false,
            failed: None,
        };
        relays.spawn_current().await?;
        Ok(relays)
    }

    /// Runs until all incarnations have ended.
    ///
    /// # Errors
    /// What made one of them stop.
    pub(crate) async fn run(mut self, mut hangups: Signal) -> anyhow::Result<Exit> {
        while !self.tasks.is_empty() || self.standing.is_some() {
            let event = tokio::select! {
                Some(ended) = self.tasks.join_next() => {
                    let (number, result) = ended.unwrap_or_else(|error| panicked(error));
                    Event::Ended(number, result)
                }
                loaded = answer(&mut self.loading) => Event::Loaded(loaded),
                stood = answer(&mut self.standing) => Event::Stood(stood),
                () = started(self.coming.as_ref()) => Event::Started,
                Some(()) = hangups.recv() => Event::Asked,
            };
            self.handle(event).await?;
            self.read_if_asked();
        }
        self.traces.finish().await;
        match self.failed {
            Some(error) => Err(Refusal::of_error(1, &error, &[]).into()),
            None => Ok(Exit::Done),
        }
    }

    async fn handle(&mut self, event: Event) -> anyhow::Result<()> {
        match event {
            Event::Asked if self.shutdown.soft.is_cancelled() => {
                tracing::info!("SIGHUP: shutting down, the configuration is not read again");
            }
            Event::Asked => self.ask(),
            Event::Loaded(_) if self.shutdown.soft.is_cancelled() => {}
            Event::Loaded(Ok(candidate)) => self.take_over(candidate).await,
            Event::Loaded(Err(problems)) => self.refuse(&problems),
            Event::Started => self.relieve(),
            Event::Ended(number, result) => self.ended(number, result),
            Event::Stood(Ok(Some(store))) => {
                self.current.store = store;
                self.restart().await?;
            }
            Event::Stood(Ok(None)) => {}
            Event::Stood(Err(error)) => self.fail(error),
        }
        Ok(())
    }

    fn ask(&mut self) {
        self.asked = true;
        if self.draining.len() >= DRAINING_MAX {
            tracing::warn!(
                draining = self.draining.len(),
                "SIGHUP: so many earlier configurations still wait for replies that this one is read when one of them has ended"
            );
        }
    }

    fn read_if_asked(&mut self) {
        let busy = self.loading.is_some() || self.draining.len() >= DRAINING_MAX;
        if !self.asked || busy || self.shutdown.soft.is_cancelled() {
            return;
        }
        self.asked = false;
        match self.coming.take() {
            Some(coming) if coming.started.is_cancelled() => {
                self.coming = Some(coming);
                self.relieve();
            }
            Some(coming) => {
                self.drop_coming(&coming);
                self.refuse("it still waited for the database when it was to be read once more");
            }
            None => {}
        }
        tracing::info!("reload (SIGHUP): reading the configuration again");
        notify::reloading();
        let (read, now) = (self.source.read(), self.current.candidate.settings.database.clone());
        self.loading = Some(tokio::spawn(async move {
            let candidate = read.await.unwrap_or_else(|error| panicked(error))?;
            // What needs a restart is not asked about.
            let next = Database { url: now.url.clone(), ..candidate.settings.database.clone() };
            if !are_the_same(&now, &next) {
                connect::would_serve(&next).await?;
            }
            Ok(candidate)
        }));
    }

    /// Gives up one that has not begun to work: however it ends, it changes nothing.
    fn drop_coming(&mut self, coming: &Generation) {
        coming.ends.soft.cancel();
        self.dropped.push(coming.number);
    }

    fn next_number(&mut self) -> u64 {
        self.count += 1;
        self.count
    }

    /// Everything was checked: what can change at once does, and an incarnation with the rest is sent ahead.
    async fn take_over(&mut self, mut candidate: Candidate) {
        let now = &self.current.candidate.settings;
        name_what_needs_a_restart(&candidate.keep_what_needs_a_restart(now));
        candidate.warn();
        self.logs.set_level(candidate.settings.log.level);
        if self.standing.is_some() {
            self.current.candidate = candidate;
            return self.accept("the configuration was read again, it holds when the outbox is armed");
        }
        let store = match another(&self.current.store, &now.database, &candidate.settings) {
            Ok(store) => store,
            Err(error) => return self.refuse(&chain(&error)),
        };
        let next = Generation::new(self.next_number(), candidate, store, &self.shutdown);
        match spawn(&mut self.tasks, (&mut self.captures, &mut self.traces), &self.past, &next).await {
            Ok(()) => self.coming = Some(next),
            Err(error) => self.refuse(&format!("{error:#}")),
        }
    }

    /// The new one claims: the one before drains.
    fn relieve(&mut self) {
        let Some(next) = self.coming.take() else { return };
        let before = std::mem::replace(&mut self.current, next);
        before.ends.soft.cancel();
        self.draining.push(before.number);
        let is_there = |name: &str| self.current.candidate.settings.routes.iter().any(|route| route.name == name);
        for gone in before.candidate.settings.routes.iter().filter(|route| !is_there(&route.name)) {
            self.past.meters.forget_route(&gone.name);
            tracing::warn!(
                route = gone.name,
                "this route is not configured any more: mail for it waits until it is again, or another relay has it (hint: hapax \
                 ls --state pending)"
            );
        }
        self.accept("the configuration was read again: it holds from now on, what is under way ends as it began");
    }

    fn ended(&mut self, number: u64, result: Result<(), Error>) {
        if let Some(at) = self.dropped.iter().position(|dropped| *dropped == number) {
            self.dropped.swap_remove(at);
            return;
        }
        if self.coming.take_if(|coming| coming.number == number).is_some() {
            return match result {
                Err(error) if !self.shutdown.soft.is_cancelled() => self.refuse(&chain(&error)),
                Ok(()) | Err(_) => {}
            };
        }
        if number == self.current.number {
            return match result {
                Ok(()) => {}
                Err(error @ Error::Guard { .. }) => self.stand(&error),
                Err(error) => self.fail(error),
            };
        }
        self.draining.retain(|draining| *draining != number);
        match result {
            Ok(()) => tracing::debug!(generation = number, "the last replies of an earlier configuration have come"),
            // Its replies are told from memory by the one that works.
            Err(error @ (Error::Guard { .. } | Error::Abandoned(_))) if !self.shutdown.soft.is_cancelled() => {
                tracing::error!(error = chain(&error), "an earlier configuration did not end as it should");
            }
            Err(Error::Guard { .. }) => {}
            Err(error) => self.fail(error),
        }
    }

    /// As always when something dies that should not: the process ends, and what others have under way ends softly.
    fn fail(&mut self, error: Error) {
        tracing::error!(error = chain(&error), "the relay has stopped");
        self.failed.get_or_insert(error);
        self.shutdown.soft.cancel();
    }

    /// The database is another one: guard mode, until it is armed. What was about to come comes then.
    fn stand(&mut self, error: &Error) {
        tracing::error!(error = chain(error), "this relay sends nothing more until the outbox is armed");
        if let Some(coming) = self.coming.take() {
            self.drop_coming(&coming);
            self.current.number = self.next_number();
            self.current.candidate = coming.candidate;
            self.accept("the configuration was read again, it holds when the outbox is armed");
        }
        let (past, store, shutdown) = (self.past.clone(), self.current.store.clone(), self.shutdown.clone());
        let settings = &self.current.candidate.settings;
        let (options, after_failover) =
            (settings.database.options(&settings.application_name()), settings.database.after_failover);
        let shutdown_grace = settings.relay.limits.shutdown_grace;
        self.standing = Some(tokio::spawn(async move {
            let guard = Guard {
                store,
                options: &options,
                memory: &past.memory,
                after_failover,
                shutdown_grace,
                progress: &past.progress,
            };
            guard.stand(&shutdown).await
        }));
    }

    /// The next incarnation, of the configuration in force.
    async fn restart(&mut self) -> anyhow::Result<()> {
        self.current.number = self.next_number();
        (self.current.ends, self.current.started) = ends(&self.shutdown);
        self.spawn_current().await
    }

    async fn spawn_current(&mut self) -> anyhow::Result<()> {
        spawn(&mut self.tasks, (&mut self.captures, &mut self.traces), &self.past, &self.current).await
    }

    fn accept(&self, what: &str) {
        let log_level = self.current.candidate.settings.log.level.as_str();
        tracing::info!(
            generation = self.current.number,
            relay.incarnation = %self.current.store.incarnation(),
            draining = self.draining.len(),
            log_level,
            "{what}"
        );
        self.past.meters.reloaded(Ok(()));
        notify::ready();
    }

    fn refuse(&self, problems: &str) {
        tracing::error!(
            problems,
            "reload refused: the configuration that was read again is not taken over, the one from before stays in force (hint: hapax \
             check lists everything, then SIGHUP again)"
        );
        self.past.meters.reloaded(Err(()));
        notify::ready();
    }
}

impl Generation {
    fn new(number: u64, candidate: Candidate, store: Store, process: &Shutdown) -> Self {
        let (ends, started) = ends(process);
        Self { number, candidate, store, ends, started }
    }
}

/// Runs an incarnation.
async fn spawn(
    tasks: &mut JoinSet<(u64, Result<(), Error>)>,
    (captures, traces): (&mut Captures, &mut Traces),
    past: &Past,
    generation: &Generation,
) -> anyhow::Result<()> {
    let Generation { number, candidate, store, ends, started } = generation;
    past.meters.routes(candidate.settings.routes.iter().map(|route| route.name.as_str()));
    let (transports, catchers) = captures.transports(&candidate.settings).await?;
    let address_guard = candidate.settings.database.address_guard;
    let past = Past { address_guard, started: started.clone(), ..past.clone() };
    let tracing = traces.tracing(&candidate.settings);
    let config = RelayConfig { tracing, ..candidate.settings.relay_config(transports) };
    let (number, renderer, ends) = (*number, candidate.renderer.clone(), ends.clone());
    let run = Box::pin(hapax_relay::run_with(store.clone(), renderer, config, ends, past));
    tasks.spawn(async move {
        let result = run.await;
        drop(catchers);
        (number, result)
    });
    Ok(())
}

fn ends(process: &Shutdown) -> (Shutdown, CancellationToken) {
    let ends = Shutdown { soft: process.soft.child_token(), hard: process.hard.child_token() };
    (ends, CancellationToken::new())
}

/// The same outbox for the next incarnation: over the connections there are, unless they are made differently now.
fn another(store: &Store, now: &Database, next: &Settings) -> Result<Store, hapax_store::Error> {
    match are_the_same(now, &next.database) {
        true => Ok(store.another(Incarnation::fresh())),
        false => store.another_with(&next.database.options(&next.application_name()), Incarnation::fresh()),
    }
}

/// Whether connections would be made in the same way.
fn are_the_same(one: &Database, other: &Database) -> bool {
    let of = |database: &Database| (database.pool_size_max, database.statement_timeout);
    one.password == other.password && of(one) == of(other)
}

async fn started(coming: Option<&Generation>) {
    match coming {
        Some(coming) => coming.started.cancelled().await,
        None => std::future::pending().await,
    }
}

/// What a task answers that may be under way. May be dropped and asked again.
async fn answer<T>(task: &mut Option<JoinHandle<T>>) -> T {
    let Some(handle) = task else { return std::future::pending().await };
    let answered = handle.await;
    *task = None;
    answered.unwrap_or_else(|error| panicked(error))
}

/// A panic goes on where it is waited for.
fn panicked(error: JoinError) -> ! {
    match error.try_into_panic() {
        Ok(panic) => std::panic::resume_unwind(panic),
        Err(error) => unreachable!("nothing here is cancelled: {error}"),
    }
}
