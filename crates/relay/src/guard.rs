//! Guard mode: the database that answers is not the one this relay was armed for (PROTOCOL section 5).
//!
//! Nothing is claimed and no end marker begins: the incarnation has ended, its gates are closed, and the next one starts
//! only when the outbox is armed for the server that answers. Meanwhile what this process remembers is told to that server
//! again and again (a failover may have lost it), and what its lost past may have sent is held. Replies that are still
//! outstanding are read by their couriers, and told when they come.

use std::time::Duration;

use hapax_core::{
    Incarnation, Token,
    clock::{Clock, SystemClock},
};
use hapax_store::{Attempted, ConnectOptions, Reasserted, RelaySeen, Store, Verdict};
use tokio_util::sync::CancellationToken;

use crate::{
    Error, Memory, Shutdown,
    progress::{Progress, Pulse},
};

/// What a relay does when its database fails over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AfterFailover {
    /// Holds what may have been sent, and waits for a person.
    #[default]
    Hold,
    /// Goes on by itself: right only where no commit can be lost (synchronous replication).
    Continue,
}

/// Between two looks at the situation.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// Between two words about it.
const REMIND_INTERVAL: Duration = Duration::from_secs(60);

/// Between two warnings that it does not answer.
const WARN_INTERVAL: Duration = Duration::from_secs(10);

/// Attempts told in one statement.
const BATCH: usize = 200;

/// Queue rows walked in one statement: some 100 ms of locks.
const QUARANTINE_BATCH: i32 = 5_000;

/// The shortest time a relay at an unknown address waits for a sign of life, and the longest.
const SIGN_OF_LIFE: (Duration, Duration) = (Duration::from_secs(3), Duration::from_secs(30));

/// Guard mode of one process.
#[derive(Debug)]
pub struct Guard<'a> {
    /// The store of the incarnation that has ended.
    pub store: Store,
    /// How to connect for the next one.
    pub options: &'a ConnectOptions,
    /// What this process remembers.
    pub memory: &'a Memory,
    /// Whether a person is needed.
    pub after_failover: AfterFailover,
    /// At the end of the process, how long outstanding replies are waited for.
    pub shutdown_grace: Duration,
    /// What the loops of this process say of themselves.
    pub progress: &'a Progress,
}

/// What has been done about which server.
#[derive(Debug, Default)]
struct Done {
    /// The server (epoch and identity) that has been told everything, and whose queue was walked.
    told: Option<(uuid::Uuid, String)>,
    held: Option<i64>,
    restored: bool,
    /// It was said that this is an older server.
    older: bool,
}

impl Guard<'_> {
    /// Waits until the outbox is armed for the server that answers; answers a store for the next incarnation, or none when
    /// the process was told to end.
    ///
    /// # Errors
    /// What makes going on impossible.
    pub async fn stand(self, shutdown: &Shutdown) -> Result<Option<Store>, Error> {
        let mut done = Done::default();
        self.progress.stands();
        let pulse = self.progress.pulse("guard", self.store.call_longest() + LOOK_INTERVAL);
        let (mut reminded, mut warned) = (None, None::<Duration>);
        loop {
            // Every statement of a look may be given up in the middle and executed again.
            let looked = tokio::select! {
                looked = self.look(&mut done, &pulse) => looked,
                () = shutdown.soft.cancelled() => Ok(None),
            };
            let now = SystemClock.boottime();
            match looked {
                Ok(Some(store)) => return Ok(Some(store)),
                Err(error) if warned.is_none_or(|last| now.saturating_sub(last) >= WARN_INTERVAL) => {
                    warned = Some(now);
                    tracing::warn!(error = %error, "guard mode: the database does not answer as it should, asking again");
                }
                Ok(None) | Err(_) => {}
            }
            if reminded.is_none_or(|last| now.saturating_sub(last) >= REMIND_INTERVAL) {
                reminded = Some(now);
                tracing::error!(
                    held = done.held,
                    "guard mode: the database is not the one this relay was armed for (failover, restore or copy). Nothing is sent; \
                     what this relay remembers is told to it, what may have been sent before is held (hint: check what was lost, \
                     then hapax arm --reason 'why'; this relay goes on by itself then)"
                );
            }
            tokio::select! {
                () = tokio::time::sleep(LOOK_INTERVAL) => {}
                () = shutdown.soft.cancelled() => {
                    self.end(shutdown).await;
                    return Ok(None);
                }
            }
        }
    }

    /// One look: tells, holds, and answers the next store when the time has come.
    async fn look(&self, done: &mut Done, pulse: &Pulse) -> Result<Option<Store>, hapax_store::Error> {
        pulse.beat();
        let seen = self.store.situation().await?;
        if seen.in_recovery {
            return Ok(None);
        }
        let mut armed = seen.is_armed();
        pulse.beat();
        if armed && seen.epoch == self.store.armed().epoch {
            // Nothing is different but its state: an earlier one, or this relay was led astray for a moment.
            armed = !self.store.disarm().await?;
            done.restored |= !armed;
        } else if armed && !seen.descends {
            // Armed, but before the arming this relay knows: the old primary is back. What was sent since is pending there.
            armed = false;
            if !std::mem::replace(&mut done.older, true) {
                tracing::error!(
                    "guard mode: the database that answers is older than the last arming: this looks like the primary from before a \
                     failover. Nothing is sent from it (hint: shut it down, two primaries send everything twice)"
                );
            }
        } else if armed {
            // Armed anew. But if this relay's heartbeat has fallen back, and nobody has thought of what had been sent, then the
            // server was restored in place and armed before it was noticed.
            armed = !self.store.disarm().await?;
            done.restored |= !armed;
        }
        pulse.beat();
        let server = (seen.epoch, seen.found);
        if done.told.as_ref() != Some(&server) || armed {
            let all = self.memory.all();
            self.tell(all, pulse).await?;
        } else {
            let untold = self.memory.untold();
            self.tell(untold, pulse).await?;
        }
        if armed {
            let store = Store::connect(self.options, Incarnation::fresh()).await?;
            tracing::warn!(relay.incarnation = %store.incarnation(), "the outbox is armed for this database: going on");
            return Ok(Some(store));
        }
        if self.after_failover == AfterFailover::Continue
            && !done.restored
            && self.store.continue_after_failover().await?
        {
            tracing::error!("the database has failed over and was armed by after_failover = continue: nothing is held");
            return Ok(None);
        }
        if done.told.as_ref() != Some(&server) {
            let held = loop {
                pulse.beat();
                let batch = self.store.quarantine(QUARANTINE_BATCH).await?;
                if batch.finished {
                    break batch.held;
                }
            };
            done.held = Some(held);
            done.told = Some(server);
        }
        Ok(None)
    }

    async fn tell(&self, attempts: Vec<Token>, pulse: &Pulse) -> Result<(), hapax_store::Error> {
        for batch in attempts.chunks(BATCH) {
            pulse.beat();
            tell(&self.store, self.memory, batch.to_vec()).await?;
        }
        pulse.beat();
        Ok(())
    }

    /// The process ends: outstanding replies are read if that does not take too long, and told.
    async fn end(&self, shutdown: &Shutdown) {
        self.memory.stragglers.close();
        tokio::select! {
            () = self.memory.stragglers.wait() => {}
            () = shutdown.hard.cancelled() => {}
            () = tokio::time::sleep(self.shutdown_grace) => {}
        }
        let untold = self.memory.untold();
        if let Err(error) = tell(&self.store, self.memory, untold).await {
            tracing::warn!(error = %error, "not everything this relay remembers could be told to the database");
            return;
        }
        say_goodbye(&self.store, self.memory).await;
    }
}

/// Tells a database what this process remembers; what it has taken is durable.
pub(crate) async fn tell(store: &Store, memory: &Memory, attempts: Vec<Token>) -> Result<(), hapax_store::Error> {
    for batch in attempts.chunks(BATCH) {
        let batch = memory.recall(batch, SystemClock.boottime());
        match store.reassert(&batch).await {
            Ok(told) => batch.iter().zip(&told).for_each(|(attempt, told)| taken(memory, attempt, told)),
            Err(error) if error.is_transient() || error.is_ambiguous() => return Err(error),
            // One of them is not to the database's liking: the others must not suffer.
            Err(_) => {
                for attempt in &batch {
                    match store.reassert(std::slice::from_ref(attempt)).await {
                        Ok(told) => told.iter().for_each(|told| taken(memory, attempt, told)),
                        Err(error) if error.is_transient() || error.is_ambiguous() => return Err(error),
                        Err(error) => {
                            tracing::error!(error = %error, delivery = %attempt.key, "what is remembered of it cannot be told");
                        }
                    }
                }
            }
        }
    }
    Ok(())
}

fn taken(memory: &Memory, attempt: &Attempted, told: &Reasserted) {
    match told.answer.as_str() {
        "missing" => mourn(memory, attempt),
        "stranger" => return,
        "restored" => tracing::warn!(delivery = %told.key, "restored from memory: a failover had lost it"),
        answer => tracing::debug!(delivery = %told.key, answer, "told from memory"),
    }
    if attempt.end.is_some() {
        memory.durable(told.token);
    }
}

/// Says what is known of an attempt whose message the database does not have.
fn mourn(memory: &Memory, attempt: &Attempted) {
    if !memory.mourn(attempt) {
        return;
    }
    let outcome = attempt.end.as_ref().and_then(|end| end.outcome.as_ref());
    tracing::error!(
        delivery = %attempt.key,
        attempt.token = %attempt.token,
        route = attempt.route,
        outcome = outcome.map_or("not known yet", hapax_core::Outcome::as_str),
        reply.code = outcome.and_then(hapax_core::Outcome::reply).map(|reply| reply.code),
        attempt.age_s = attempt.age.as_secs(),
        "its message is not in this database, and {} (hint: its enqueue was lost with the old server: compare with the \
         application's data; see outbox.audit, action 'lost by a failover')",
        remembered(attempt)
    );
}

/// What this process knows about whether it was sent.
fn remembered(attempt: &Attempted) -> &'static str {
    match &attempt.end {
        Some(end) if end.verdict == Verdict::Sent => "it was sent: a mail server has accepted it (2xx)",
        Some(end) if end.outcome.as_ref().is_some_and(|outcome| outcome.as_str() != "unknown") => "it was not sent",
        _ if attempt.granted => "it may have been sent: its reply was not read",
        _ => "it was not sent by this attempt",
    }
}

/// Tells the database, until `stop`, what couriers of earlier incarnations have learnt since.
pub(crate) async fn tell_stragglers(store: Store, memory: Memory, stop: CancellationToken) {
    while !stop.is_cancelled() {
        let untold = memory.untold();
        if let Err(error) = tell(&store, &memory, untold).await {
            tracing::warn!(error = %error, "late outcomes could not be told to the database, trying again");
        }
        say_goodbye(&store, &memory).await;
        tokio::select! {
            () = tokio::time::sleep(LOOK_INTERVAL) => {}
            () = stop.cancelled() => {}
        }
    }
}

/// For earlier incarnations of this process that could not, and of which nothing is under way any more.
pub(crate) async fn say_goodbye(store: &Store, memory: &Memory) {
    for incarnation in memory.at_rest() {
        match store.sign_off_of(incarnation).await {
            Ok(()) => memory.signed_off(incarnation),
            Err(error) => {
                tracing::debug!(error = %error, relay.incarnation = %incarnation, "could not be signed off, trying again");
                return;
            }
        }
    }
}

/// Whether the server is where the armed one was met before; at another address, whether a living relay's heartbeat goes on
/// in it. A file copy of a whole server has everything of the original but that.
pub(crate) async fn recognise(
    store: &Store,
    heartbeat_interval: Duration,
    stop: &CancellationToken,
) -> Result<(), Error> {
    let fail = |source| Error::Store { doing: "finding out where this database is", source };
    let address = store.address().await.map_err(fail)?;
    if address.known {
        return Ok(());
    }
    tracing::warn!(
        database.address = address.here,
        database.known_at = address.others,
        "this outbox has not been met at this address before: looking for a living relay in it"
    );
    let patience = (heartbeat_interval * 2).clamp(SIGN_OF_LIFE.0, SIGN_OF_LIFE.1);
    let began = SystemClock.boottime();
    let mut seen: Vec<RelaySeen> = Vec::new();
    while SystemClock.boottime().saturating_sub(began) < patience && !stop.is_cancelled() {
        for relay in store.relays().await.map_err(fail)? {
            match seen.iter().find(|earlier| earlier.incarnation == relay.incarnation) {
                Some(earlier) if earlier.beat < relay.beat => {
                    return store.note_address("the heartbeat of another relay goes on there").await.map_err(fail);
                }
                Some(_) => {}
                None => seen.push(relay),
            }
        }
        tokio::time::sleep(patience / 20).await;
    }
    store.suspect_copy().await.map_err(fail)?;
    Err(Error::Copy { here: address.here, others: address.others })
}
