//! The pace of a route: so many attempts that reach MAIL in a time, over all relays that live.
//!
//! Each process has one token bucket per route, kept over its incarnations, that fills with its share: the rate divided
//! by the number of living relays. A place in it is *reserved* before a delivery is claimed (so what cannot be sent soon
//! is not claimed at all, and other routes keep their places) and *spent* immediately before MAIL (so what waited behind
//! a slow server does not go out all at once later).
//!
//! Invariants: whoever does not know how many relays live spends nothing, and what was known is forgotten `dead_after`
//! later, when others count this one as dead. A process that joins others waits until they have noticed. A bucket begins
//! empty. What drains after a reload counts as one relay more for the others until it has ended: they send less, never
//! more. So in any time T all relays together spend at most rate x T, and what was saved: [`BURST`] of the rate, one at
//! least of each relay that lived in T.

use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use hapax_core::{Incarnation, Priority, clock::Clock, limits::Limits};
use hapax_mail::Heartbeat;
use hapax_store::{Standing, Store};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::flights::Flights;

/// What may be saved while nothing is sent: this time's worth, one at least.
const BURST: Duration = Duration::from_millis(500);

/// How long ahead of its time a delivery is claimed.
const AHEAD: Duration = Duration::from_millis(100);

/// This time's worth is claimed at once where that is more than one.
const BATCH: Duration = Duration::from_millis(20);

/// How long a courier waits for its turn: longer only where the rate has shrunk meanwhile.
const TURN_WITHIN: Duration = Duration::from_secs(1);

/// At most so many in so long: `14/s`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// How many.
    pub count: u32,
    /// In how long.
    pub per: Duration,
}

impl Rate {
    pub(crate) fn per_second(self) -> f64 {
        f64::from(self.count) / self.per.as_secs_f64()
    }
}

/// Who lives, as far as this process knows.
#[derive(Debug, Default)]
pub(crate) struct Crowd {
    /// Its own incarnations: those that drain send nothing new.
    own: HashSet<Incarnation>,
    /// While it joins others, it waits until then.
    joins_at: Duration,
    known: Known,
    living: usize,
    /// The database's clock at the last look.
    now_s: Option<f64>,
}

/// How many relays live; 0 while nobody knows.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Known {
    living: u32,
    until: Duration,
}

impl Crowd {
    /// An incarnation of this process begins. The first one gives others `patience` to notice.
    pub(crate) fn begins(&mut self, own: Incarnation, now: Duration, patience: Duration) {
        if self.own.is_empty() {
            self.joins_at = now + patience;
        }
        self.own.insert(own);
    }

    /// What a look showed that was asked for at `asked`, known for `keep` from when this process was last seen alive.
    pub(crate) fn saw(&mut self, standing: &Standing, asked: Duration, until: Duration) -> Known {
        let others = standing.living.iter().filter(|living| !self.own.contains(&living.incarnation)).count();
        (self.living, self.now_s) = (others + 1, Some(standing.now_s));
        let living = match others {
            1.. if asked < self.joins_at => 0,
            _ => u32::try_from(self.living).unwrap_or(u32::MAX),
        };
        self.known = Known { living, until: until.max(self.known.until) };
        self.known
    }

    /// How many relays live, this one among them, whether or not the others have noticed; 0 before the first look.
    pub(crate) fn living(&self) -> usize {
        self.living
    }

    /// The time by the database's clock, as of the last look.
    pub(crate) fn now_s(&self) -> Option<f64> {
        self.now_s
    }

    pub(crate) fn known(&self) -> Known {
        self.known
    }
}

/// The bucket of one route in this process. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pace(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    limited: AtomicBool,
    bucket: Mutex<Bucket>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Bucket {
    rate: Option<Rate>,
    known: Known,
    tokens: f64,
    /// Filled up to here (CLOCK_BOOTTIME).
    at: Duration,
    reserved: usize,
    /// Couriers that wait for their turn, by priority.
    waiting: [usize; 3],
}

impl Bucket {
    /// This process's part of it, per second.
    fn share(&self) -> f64 {
        self.rate.filter(|_| self.known.living > 0).map_or(0.0, |rate| rate.per_second() / f64::from(self.known.living))
    }

    fn fill(&mut self, now: Duration) {
        let passed = now.min(self.known.until).saturating_sub(self.at);
        let most = (self.share() * BURST.as_secs_f64()).max(1.0);
        self.tokens = (self.tokens + passed.as_secs_f64() * self.share()).min(most);
        self.at = self.at.max(now);
    }

    fn is_known(&self, now: Duration) -> bool {
        self.known.living > 0 && now < self.known.until
    }

    /// Those there are or will be soon, without the reserved ones.
    fn soon(&self) -> f64 {
        self.tokens + self.share() * AHEAD.as_secs_f64() - self.reserved as f64
    }

    fn batch(&self) -> f64 {
        (self.share() * BATCH.as_secs_f64()).floor().max(1.0)
    }
}

impl Pace {
    fn bucket(&self) -> MutexGuard<'_, Bucket> {
        self.0.bucket.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether there is a rate.
    pub(crate) fn is_limited(&self) -> bool {
        self.0.limited.load(Ordering::Relaxed)
    }

    /// From now on at most `rate`. What was saved stays as far as it fits; a bucket that is new is empty.
    pub(crate) fn limit(&self, rate: Option<Rate>, known: Known, now: Duration) {
        let mut bucket = self.bucket();
        bucket.fill(now);
        if bucket.rate.is_none() {
            bucket.tokens = 0.0;
        }
        (bucket.rate, bucket.known) = (rate, known);
        bucket.fill(now);
        self.0.limited.store(rate.is_some(), Ordering::Relaxed);
        drop(bucket);
        self.0.changed.notify_waiters();
    }

    /// So many relays live.
    pub(crate) fn shared_by(&self, known: Known, now: Duration) {
        let mut bucket = self.bucket();
        bucket.fill(now);
        bucket.known = known;
        bucket.fill(now);
        drop(bucket);
        self.0.changed.notify_waiters();
    }

    /// Its part for this process, per second; none without a rate.
    pub(crate) fn share(&self) -> Option<f64> {
        let bucket = self.bucket();
        bucket.rate.map(|_| bucket.share())
    }

    /// How many deliveries may be claimed for it now.
    pub(crate) fn room(&self, now: Duration) -> usize {
        if !self.is_limited() {
            return usize::MAX;
        }
        let mut bucket = self.bucket();
        bucket.fill(now);
        let soon = bucket.soon();
        if !bucket.is_known(now) || soon < bucket.batch() { 0 } else { soon as usize }
    }

    /// When there will be room, as far as time makes it.
    pub(crate) fn room_in(&self, now: Duration) -> Option<Duration> {
        let mut bucket = self.bucket();
        bucket.fill(now);
        let (missing, share) = (bucket.batch() - bucket.soon(), bucket.share());
        (share > 0.0).then(|| Duration::try_from_secs_f64(missing.max(0.0) / share).unwrap_or(Duration::MAX))
    }

    /// A turn for a delivery that has been claimed. None when there are no more.
    pub(crate) fn reserve(&self, now: Duration) -> Option<Turn> {
        if !self.is_limited() {
            return Some(Turn(None));
        }
        let mut bucket = self.bucket();
        bucket.fill(now);
        if !bucket.is_known(now) || bucket.soon() < 1.0 {
            return None;
        }
        bucket.reserved += 1;
        Some(Turn(Some(self.clone())))
    }

    /// Takes one, or says how long that will take: who waits may not overtake the more urgent.
    fn spend(&self, now: Duration, priority: Priority) -> Result<(), Duration> {
        let mut bucket = self.bucket();
        if bucket.rate.is_none() {
            bucket.reserved = bucket.reserved.saturating_sub(1);
            return Ok(());
        }
        bucket.fill(now);
        let before = bucket.waiting[..place(priority)].iter().sum::<usize>() as f64;
        // What is due now is due: a rounding error is no reason to wait.
        let missing = 1.0 + before - bucket.tokens - 1e-9;
        if bucket.is_known(now) && missing <= 0.0 {
            bucket.tokens -= 1.0;
            bucket.reserved = bucket.reserved.saturating_sub(1);
            return Ok(());
        }
        let share = bucket.share();
        let wait = if share > 0.0 { missing.max(0.0) / share } else { f64::MAX };
        Err(Duration::try_from_secs_f64(wait).unwrap_or(Duration::MAX).max(Duration::from_millis(1)))
    }
}

fn place(priority: Priority) -> usize {
    usize::from(priority.lane_offset().unsigned_abs()).min(2)
}

/// A place in a bucket, reserved until it is spent or dropped. Without a bucket behind it there is nothing to wait for.
#[derive(Debug)]
pub(crate) struct Turn(Option<Pace>);

impl Turn {
    /// Waits until it is its turn. Answers whether it came soon enough; when dropped meanwhile, nothing is spent.
    pub(crate) async fn take(&mut self, clock: &dyn Clock, priority: Priority) -> bool {
        let Some(pace) = &self.0 else { return true };
        if pace.spend(clock.boottime(), priority).is_err() {
            let waiting = Waiting::new(pace, place(priority));
            let until = clock.boottime() + TURN_WITHIN;
            loop {
                let changed = waiting.pace.0.changed.notified();
                let now = clock.boottime();
                match waiting.pace.spend(now, priority) {
                    Ok(()) => break,
                    Err(_) if now >= until => return false,
                    Err(wait) => tokio::select! {
                        () = tokio::time::sleep(wait.min(until.saturating_sub(now))) => {}
                        () = changed => {}
                    },
                }
            }
        }
        self.0 = None;
        true
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if let Some(pace) = self.0.take() {
            let mut bucket = pace.bucket();
            bucket.reserved = bucket.reserved.saturating_sub(1);
        }
    }
}

/// A courier in the line; leaves it when dropped.
struct Waiting<'a> {
    pace: &'a Pace,
    place: usize,
}

impl<'a> Waiting<'a> {
    fn new(pace: &'a Pace, place: usize) -> Self {
        pace.bucket().waiting[place] += 1;
        Self { pace, place }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut bucket = self.pace.bucket();
        bucket.waiting[self.place] = bucket.waiting[self.place].saturating_sub(1);
        drop(bucket);
        self.pace.0.changed.notify_waiters();
    }
}

/// How long a relay that joins others waits for them to notice.
pub(crate) fn joining(limits: &Limits) -> Duration {
    limits.heartbeat_interval * 2
}

/// Looks, as often as the heart beats, who lives.
pub(crate) struct Watcher {
    pub(crate) store: Store,
    pub(crate) flights: Flights,
    pub(crate) heartbeat: Arc<Heartbeat>,
    pub(crate) limits: Limits,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) stop: CancellationToken,
}

impl Watcher {
    /// Looks until `stop`; after each look, tells `told`.
    pub(crate) async fn watch(self, told: impl Fn()) {
        while !self.stop.is_cancelled() {
            let asked = self.clock.boottime();
            match self.store.standing(self.limits.dead_after).await {
                Ok(standing) => {
                    // Others believe in this process for as long as they have heard of it.
                    let heard = self.heartbeat.last().unwrap_or(asked).min(asked);
                    self.flights.saw(&standing, asked, heard + self.limits.dead_after, self.clock.boottime());
                    told();
                }
                Err(error) => tracing::debug!(error = %error, "who shares the rates could not be asked"),
            }
            tokio::select! {
                () = tokio::time::sleep(self.limits.heartbeat_interval) => {}
                () = self.stop.cancelled() => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use hapax_store::Living;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn known(living: u32) -> Known {
        Known { living, until: Duration::MAX }
    }

    fn paced(count: u32, living: u32) -> Pace {
        let pace = Pace::default();
        pace.limit(Some(Rate { count, per: SECOND }), known(living), SECOND);
        pace
    }

    /// Claims and spends whatever may be, every `step`; answers how many in `time`.
    fn spent(pace: &Pace, from: Duration, time: Duration, step: Duration) -> usize {
        let (mut now, mut turns, mut count) = (from, Vec::new(), 0);
        while now < from + time {
            turns.extend((0..pace.room(now)).map_while(|_| pace.reserve(now)));
            while let Some(mut turn) = turns.pop() {
                if pace.spend(now, Priority::Normal).is_err() {
                    turns.push(turn);
                    break;
                }
                turn.0 = None;
                count += 1;
            }
            now += step;
        }
        count
    }

    #[test]
    fn a_bucket_begins_empty_reaches_its_share_and_never_exceeds_it_by_more_than_its_burst() {
        for (count, living) in [(14, 2), (1, 1), (1, 3), (200, 1), (3_000, 4)] {
            let pace = paced(count, living);
            let share = f64::from(count) / f64::from(living);
            let sent = spent(&pace, SECOND, 60 * SECOND, Duration::from_millis(3)) as f64;
            assert!(sent <= 60.0 * share + 1.0 && sent >= 0.97 * 60.0 * share - 1.0, "{count}/{living}: {sent}");
            let rested = spent(&pace, 600 * SECOND, SECOND, Duration::from_millis(3)) as f64;
            let burst = (share * BURST.as_secs_f64()).max(1.0);
            assert!(rested <= share + burst + 1.0, "{count}/{living}: {rested} in a second after a rest");
        }
    }

    #[test]
    fn what_is_reserved_is_not_claimed_again_and_a_turn_that_is_dropped_comes_back() {
        let pace = paced(20, 1);
        let now = 100 * SECOND;
        let room = pace.room(now);
        assert_eq!(room, 12, "half a second's worth, and a tenth ahead");
        let turns: Vec<Turn> = (0..room).map_while(|_| pace.reserve(now)).collect();
        assert_eq!((turns.len(), pace.room(now), pace.reserve(now).is_none()), (12, 0, true));
        assert_eq!(pace.room_in(now), Some(Duration::from_millis(50)));
        drop(turns);
        assert_eq!(pace.room(now), 12);
    }

    #[test]
    fn nothing_is_spent_while_nobody_knows_who_lives_nor_when_that_is_too_long_ago() {
        let pace = Pace::default();
        pace.limit(Some(Rate { count: 10, per: SECOND }), Known::default(), SECOND);
        assert_eq!((pace.room(100 * SECOND), pace.share()), (0, Some(0.0)));
        pace.shared_by(Known { living: 2, until: 110 * SECOND }, 100 * SECOND);
        assert_eq!(pace.room(101 * SECOND), 3);
        assert_eq!(pace.room(110 * SECOND), 0);
        assert!(pace.spend(110 * SECOND, Priority::Urgent).is_err());
        assert_eq!(pace.room(1_000 * SECOND), 0);
        let unlimited = Pace::default();
        assert_eq!((unlimited.room(SECOND), unlimited.share()), (usize::MAX, None));
    }

    #[test]
    fn another_rate_holds_at_once_and_brings_no_burst() {
        let pace = paced(100, 1);
        assert_eq!(pace.room(100 * SECOND), 60);
        pace.limit(Some(Rate { count: 4, per: SECOND }), known(1), 100 * SECOND);
        assert_eq!(pace.room(100 * SECOND), 2);
        pace.limit(Some(Rate { count: 1_000, per: SECOND }), known(1), 100 * SECOND);
        assert_eq!(pace.bucket().tokens as u32, 2, "what was saved");
        pace.limit(None, known(1), 100 * SECOND);
        assert_eq!(pace.room(100 * SECOND), usize::MAX);
        pace.limit(Some(Rate { count: 1_000, per: SECOND }), known(1), 100 * SECOND);
        assert_eq!(pace.bucket().tokens, 0.0);
    }

    #[tokio::test]
    async fn the_more_urgent_one_goes_first_and_who_waits_too_long_goes_back() {
        let clock = hapax_core::clock::SystemClock;
        let pace = Pace::default();
        pace.limit(Some(Rate { count: 25, per: SECOND }), known(1), clock.boottime());
        let turn = || Turn(Some(pace.clone()));
        let (mut bulk, mut urgent) = (turn(), turn());
        let first = tokio::select! {
            biased;
            true = bulk.take(&clock, Priority::Bulk) => "bulk",
            true = urgent.take(&clock, Priority::Urgent) => "urgent",
        };
        assert_eq!(first, "urgent");
        assert_eq!(pace.bucket().waiting, [0, 0, 0]);
        pace.limit(Some(Rate { count: 1, per: 3600 * SECOND }), known(1), clock.boottime());
        pace.bucket().tokens = 0.0;
        assert!(!bulk.take(&clock, Priority::Bulk).await);
    }

    #[test]
    fn who_joins_others_waits_for_them_and_its_own_incarnations_are_one() {
        let living =
            |incarnation| Living { incarnation, name: String::new(), host: String::new(), version: String::new() };
        let (own, next, other) = (Incarnation::fresh(), Incarnation::fresh(), Incarnation::fresh());
        let alone = Standing { now_s: 0.0, living: vec![living(own)] };
        let both = Standing { now_s: 0.0, living: vec![living(own), living(other), living(next)] };
        let mut crowd = Crowd::default();
        crowd.begins(own, SECOND, 10 * SECOND);
        assert_eq!(crowd.saw(&alone, 2 * SECOND, SECOND).living, 1, "nobody needs to notice");
        crowd.begins(next, 3 * SECOND, 10 * SECOND);
        assert_eq!(crowd.saw(&both, 4 * SECOND, SECOND).living, 0, "it joins");
        assert_eq!(crowd.saw(&both, 11 * SECOND, SECOND).living, 2);
    }
}
