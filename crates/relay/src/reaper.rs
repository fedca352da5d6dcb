//! Puts in doubt what dead relays have left behind an intent, and lets policies decide doubts.
//!
//! Dead is what this process has itself observed: a heartbeat counter unchanged for `dead_after` of its own
//! CLOCK_BOOTTIME with the database reachable throughout, an incarnation that signed off, or one that does not exist.
//! Never a comparison of wall clocks: a clock jump or a database outage would put everything on the wire in doubt.
//! The reaper never makes anything pending. What else there is to do for all relays (`chores.rs`) goes on beside it.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use hapax_core::{
    DeliveryKey, Incarnation, MessageId, Outcome, Phase, Token,
    clock::Clock,
    fault,
    outcome::Cause,
    policy::{DoubtDecision, decide_doubt},
};
use hapax_store::{Doubt, RelaySeen, Settlement, Store, Verdict};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    chores::{self, Chores},
    complaint::Complaint,
    config::RelayConfig,
    fatal::Fatal,
    meters::Meters,
    progress::Pulse,
    registry::Registry,
};

/// Between two listings of this process's own intents, and between two marks by age.
const SELF_CHECK_INTERVAL: Duration = Duration::from_secs(60);

/// Doubts looked at in one statement.
const DOUBTS_PAGE: i64 = 500;

/// What one observer has seen of other incarnations' counters. Pure: fed with what was read and when.
#[derive(Debug, Default)]
pub(crate) struct Observer {
    seen: HashMap<Incarnation, (i64, Duration)>,
}

impl Observer {
    /// The database was not reachable: nobody could beat, so nothing is known about anybody.
    pub(crate) fn interrupted(&mut self) {
        self.seen.clear();
    }

    /// Reads the counters at `now`; answers who is dead.
    pub(crate) fn observe(&mut self, relays: &[RelaySeen], now: Duration, dead_after: Duration) -> Vec<Incarnation> {
        self.seen.retain(|incarnation, _| relays.iter().any(|relay| relay.incarnation == *incarnation));
        let mut dead = Vec::new();
        for relay in relays {
            let entry = self.seen.entry(relay.incarnation).or_insert((relay.beat, now));
            if entry.0 != relay.beat {
                *entry = (relay.beat, now);
            }
            if relay.signed_off || now.saturating_sub(entry.1) >= dead_after {
                dead.push(relay.incarnation);
            }
        }
        dead
    }
}

/// The reaper's loop and its memory.
pub(crate) struct Reaper {
    pub(crate) store: Store,
    pub(crate) config: Arc<RelayConfig>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) registry: Registry,
    pub(crate) fatal: Fatal,
    pub(crate) meters: Meters,
    pub(crate) pulse: Pulse,
    pub(crate) lanes: Vec<i16>,
    pub(crate) chores: Chores,
    pub(crate) watch: Watch,
}

/// What the reapers of one process have seen, one after another: a doubt's grace goes on over a reload. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Watch(Arc<tokio::sync::Mutex<Memory>>);

#[derive(Debug, Default)]
struct Memory {
    watched: Watched,
    chores: chores::Memory,
}

#[derive(Debug, Default)]
struct Watched {
    observer: Observer,
    /// Since when each dead incarnation is known to be dead. Rows that somebody has locked are passed over by a mark, so
    /// it is repeated every round until the marks by age have taken over.
    reaped: HashMap<Incarnation, Duration>,
    /// When each open doubt was first seen.
    doubts: HashMap<Token, Duration>,
    /// Doubts whose grace has been seen to end, and which the database knows to be over.
    over: HashSet<Token>,
    next_self_check: Duration,
}

impl Reaper {
    /// Runs until `stop`. From `soft` on it looks after its own intents only: others decide doubts, by what holds now.
    pub(crate) async fn run(self, soft: CancellationToken, stop: CancellationToken) {
        let alive = self.fatal.alive("reaper");
        let mut orphans = HashSet::new();
        self.pulse.idle();
        tokio::select! {
            // The one before lets go of it when its round has ended.
            mut memory = self.watch.0.lock() => {
                let Memory { watched, chores } = &mut *memory;
                tokio::join!(self.watch_over(watched, &mut orphans, &soft), self.chores.run(chores, &soft));
            }
            () = soft.cancelled() => {}
        }
        while !stop.is_cancelled() && !self.fatal.is_guard() {
            self.pulse.idle();
            tokio::select! {
                () = stop.cancelled() => break,
                () = tokio::time::sleep(SELF_CHECK_INTERVAL) => {}
            }
            let checked = self.settle_orphans(&mut orphans).await;
            if let Err(error) = checked.or_else(|error| self.fatal.check_guard(error).map_or(Ok(()), Err)) {
                tracing::warn!(error = %error, "the reaper could not finish its round");
            }
        }
        alive.finished();
    }

    /// Rounds until `soft`, or until the database is another one.
    async fn watch_over(&self, memory: &mut Watched, orphans: &mut HashSet<Token>, soft: &CancellationToken) {
        memory.observer.interrupted();
        memory.reaped.clear();
        // The database that answers now may not know it.
        memory.over.clear();
        memory.next_self_check = Duration::ZERO;
        let mut complaint = Complaint::default();
        while !soft.is_cancelled() {
            self.pulse.beat();
            match self.round(memory, orphans).await {
                Ok(()) => complaint.is_over(),
                Err(error) => {
                    // The counters were read, and who gives its reasons was there: everybody could beat.
                    if !error.is_answer() {
                        memory.observer.interrupted();
                    }
                    let Ok(error) = self.fatal.check_guard(error) else { return };
                    if complaint.is_due() {
                        tracing::warn!(error = error.in_full(), "the reaper could not finish its round");
                    }
                }
            }
            self.pulse.beat();
            tokio::select! {
                () = soft.cancelled() => {}
                () = tokio::time::sleep(self.config.limits.heartbeat_interval) => {}
            }
        }
    }

    async fn round(&self, memory: &mut Watched, orphans: &mut HashSet<Token>) -> Result<(), hapax_store::Error> {
        // What keeps the counters from being read, reasons or not, may keep them from being written.
        let relays = self.store.relays().await.inspect_err(|_| memory.observer.interrupted())?;
        let now = self.clock.boottime();
        let mut dead = memory.observer.observe(&relays, now, self.config.limits.dead_after);
        dead.retain(|incarnation| *incarnation != self.store.incarnation());
        let self_check = now >= memory.next_self_check;
        memory.reaped.retain(|incarnation, _| dead.contains(incarnation));
        let lately =
            |since: Option<&Duration>| since.is_none_or(|since| now.saturating_sub(*since) <= SELF_CHECK_INTERVAL);
        let mut failed = None;
        if self_check || dead.iter().any(|incarnation| lately(memory.reaped.get(incarnation))) {
            match self.mark(&dead).await {
                Ok(()) => {
                    for incarnation in dead {
                        memory.reaped.entry(incarnation).or_insert(now);
                    }
                }
                // The others need not wait until that can be done.
                Err(error) if error.is_answer() => failed = Some(error),
                Err(error) => return Err(error),
            }
        }
        if self_check {
            self.settle_orphans(orphans).await?;
            memory.next_self_check = now + SELF_CHECK_INTERVAL;
        }
        self.apply_policies(memory).await?;
        failed.map_or(Ok(()), Err)
    }

    async fn mark(&self, dead: &[Incarnation]) -> Result<(), hapax_store::Error> {
        let age = self.config.limits.doubt_grace(&self.config.timeouts);
        self.pulse.beat();
        fault::point("mark_sent");
        let all = self.store.mark_in_doubt(dead, age).await?;
        if !all.is_empty() {
            fault::point("marked");
        }
        for marked in all {
            self.meters.vanished(marked.route.as_deref());
            tracing::error!(
                delivery = %marked.key,
                attempt.token = %marked.token,
                relay = marked.relay.map(|relay| relay.to_string()),
                route = marked.route,
                "in doubt: its relay vanished between intent and outcome (hint: hapax ls --in-doubt)"
            );
        }
        Ok(())
    }

    /// Own intents that no courier has worked on for two listings were never transmitted: only a courier transmits.
    async fn settle_orphans(&self, seen: &mut HashSet<Token>) -> Result<(), hapax_store::Error> {
        self.pulse.beat();
        let own = self.store.own_sending().await?;
        let orphans: Vec<_> = own.into_iter().filter(|(_, token)| !self.registry.is_live(*token)).collect();
        for (key, token) in orphans.iter().filter(|(_, token)| seen.contains(token)) {
            self.pulse.beat();
            tracing::warn!(delivery = %key, "an intent of this relay that nobody works on is given back");
            let settlement = Settlement {
                key: *key,
                lease: hapax_core::Lease(Uuid::nil()),
                token: *token,
                intended: true,
                verdict: Verdict::Retry { after: Duration::ZERO, counts: false },
                outcome: Some(Outcome::not_sent(Phase::Intend, Cause::Aborted, "the intent was never used")),
                route: String::new(),
                server: None,
                took: Duration::ZERO,
                bytes: 0,
            };
            self.store.settle(&[settlement]).await?;
        }
        *seen = orphans.into_iter().map(|(_, token)| token).collect();
        Ok(())
    }

    async fn apply_policies(&self, memory: &mut Watched) -> Result<(), hapax_store::Error> {
        let mut after = DeliveryKey { message_id: MessageId(Uuid::nil()), recipient_no: 0 };
        let mut open = HashSet::new();
        loop {
            self.pulse.beat();
            let asked = self.clock.boottime();
            let page = self.store.doubts(&self.lanes, after, DOUBTS_PAGE).await?;
            self.pulse.beat();
            self.note_over(&page, memory).await?;
            for doubt in &page {
                self.pulse.beat();
                open.insert(doubt.token);
                self.apply_policy(doubt, memory, asked).await?;
            }
            match page.last() {
                Some(last) if page.len() == usize::try_from(DOUBTS_PAGE).unwrap_or(usize::MAX) => {
                    after = last.key;
                }
                _ => break,
            }
        }
        memory.doubts.retain(|token, _| open.contains(token));
        memory.over.retain(|token| open.contains(token));
        Ok(())
    }

    /// Tells the database which attempts can no longer be alive, as this process has watched them for their whole grace
    /// by its own clock: only then a person may send them again without force, whatever the database's clock says.
    async fn note_over(&self, page: &[Doubt], memory: &mut Watched) -> Result<(), hapax_store::Error> {
        let now = self.clock.boottime();
        let mut over = Vec::new();
        for doubt in page.iter().filter(|doubt| !doubt.grace.is_zero()) {
            let first_seen = *memory.doubts.entry(doubt.token).or_insert(now);
            if now.saturating_sub(first_seen) >= doubt.grace && !memory.over.contains(&doubt.token) {
                over.push((doubt.key, doubt.token));
            }
        }
        if !over.is_empty() {
            self.store.doubts_over(&over).await?;
            memory.over.extend(over.into_iter().map(|(_, token)| token));
        }
        Ok(())
    }

    async fn apply_policy(
        &self,
        doubt: &Doubt,
        memory: &mut Watched,
        asked: Duration,
    ) -> Result<(), hapax_store::Error> {
        let now = self.clock.boottime();
        let first_seen = *memory.doubts.entry(doubt.token).or_insert(now);
        let kind = self.config.kinds.get(&doubt.kind).and_then(|kind| kind.on_doubt);
        let policy = doubt.on_doubt.or(kind).unwrap_or(self.config.on_doubt);
        let waited = now.saturating_sub(first_seen);
        if self.resolve_with_key(doubt, waited, asked).await? {
            return Ok(());
        }
        let resends = doubt.resends - doubt.same_key_resends;
        let verdict = match decide_doubt(policy, waited, doubt.grace, resends, self.config.limits.max_resends) {
            DoubtDecision::Wait => return Ok(()),
            DoubtDecision::Resend => "resend",
            DoubtDecision::AssumeSent => "sent",
        };
        let reason = format!("policy on_doubt = {}", policy.as_str());
        fault::point("decide_sent");
        let answer = self.store.decide_doubt(doubt, verdict, &reason).await?;
        tracing::warn!(delivery = %doubt.key, policy = policy.as_str(), answer, "a doubt was decided by policy");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEAD_AFTER: Duration = Duration::from_secs(30);

    fn seen(incarnation: Incarnation, beat: i64) -> RelaySeen {
        RelaySeen { incarnation, beat, signed_off: false }
    }

    #[test]
    fn only_a_counter_that_stood_still_for_the_whole_time_is_dead() {
        let (a, b) = (Incarnation::fresh(), Incarnation::fresh());
        let mut observer = Observer::default();
        let at = Duration::from_secs;
        assert!(
            observer.observe(&[seen(a, 1), seen(b, 1)], at(100), DEAD_AFTER).is_empty(),
            "first sight proves nothing"
        );
        assert!(observer.observe(&[seen(a, 1), seen(b, 2)], at(129), DEAD_AFTER).is_empty());
        assert_eq!(observer.observe(&[seen(a, 1), seen(b, 3)], at(130), DEAD_AFTER), [a]);
        assert!(observer.observe(&[seen(a, 2), seen(b, 4)], at(131), DEAD_AFTER).is_empty(), "it woke up");
    }

    #[test]
    fn a_database_outage_kills_nobody() {
        let a = Incarnation::fresh();
        let mut observer = Observer::default();
        observer.observe(&[seen(a, 1)], Duration::from_secs(0), DEAD_AFTER);
        observer.interrupted();
        assert!(observer.observe(&[seen(a, 1)], Duration::from_secs(900), DEAD_AFTER).is_empty());
        assert_eq!(observer.observe(&[seen(a, 1)], Duration::from_secs(930), DEAD_AFTER), [a]);
    }

    #[test]
    fn who_signed_off_is_gone_at_once() {
        let relay = RelaySeen { signed_off: true, ..seen(Incarnation::fresh(), 7) };
        assert_eq!(Observer::default().observe(&[relay], Duration::ZERO, DEAD_AFTER), [relay.incarnation]);
    }
}
