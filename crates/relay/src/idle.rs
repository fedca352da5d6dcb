//! What the pump does while there is little to do: it looks at all its lanes with one cheap read instead of claiming from
//! each, rests between two looks, and may ask to be woken.
//!
//! A relay that asks to be woken makes producers NOTIFY, which makes their commits wait for each other: so it asks only
//! while traffic is low, and takes that back as soon as it is busy or sees producers waiting. No write per message.
//!
//! Nothing is missed that commits: who began to write before the registration was visible may not have seen it, and until
//! all of those have ended (`assured`) polling goes on as without it. The longest pause of a relay that has asked is the
//! net below that (a producer's snapshot may be older than its first write).

use std::time::Duration;

use hapax_core::{clock::Clock, limits::Limits};
use hapax_store::{Cursor, Look, Store};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{ear::Heard, lanes::Cursors, progress::Pulse};

/// How long after the last delivery polling stays at its fastest.
const ACTIVE_FOR: Duration = Duration::from_secs(1);

/// For how long it asks to be woken at once; renewed when a third of it is over.
const WAKE_FOR: Duration = Duration::from_secs(60);

/// Deliveries (or wake-ups) a second below which it asks to be woken, and above which it takes that back.
const CALM: f64 = 100.0;
const BUSY: f64 = 250.0;

/// Between taking it back and asking again: the shortest, after producers were seen waiting, and the longest of those.
const AWAKE_FOR: Duration = Duration::from_secs(1);
const PENALTY: Duration = Duration::from_secs(5);
const PENALTY_MAX: Duration = Duration::from_secs(300);

/// How many lanes are claimed from without a look when a producer has woken the relay: an empty one costs a look into an index.
const LANES_WOKEN: usize = 12;

/// Between two looks at whether producers wait for each other.
const WAITING_INTERVAL: Duration = Duration::from_millis(250);

/// It sleeps: producers have been asked to wake it.
#[derive(Clone, Copy, Debug)]
struct Asleep {
    since: Duration,
    renew_at: Duration,
    /// Above the transactions that may not know: none before the first look.
    mark: Option<i64>,
    /// All of those have ended.
    assured: bool,
    /// The connection that heard when it asked.
    connection: u64,
}

/// The state of the pump between two rounds. Times are CLOCK_BOOTTIME.
pub(crate) struct Idle {
    limits: Limits,
    ear: Option<watch::Receiver<Heard>>,
    asleep: Option<Asleep>,
    pause: Duration,
    active_until: Duration,
    /// Deliveries or wake-ups, a second's worth.
    traffic: f64,
    traffic_at: Duration,
    wake_ups: u64,
    /// It does not ask to be woken before this.
    not_before: Duration,
    penalty: Duration,
    /// The last round took as much as there was room for: the next one claims without looking.
    full: bool,
    waiting_at: Duration,
    quiet: bool,
    next_in: Option<Duration>,
}

impl Idle {
    pub(crate) fn new(limits: Limits, ear: Option<watch::Receiver<Heard>>) -> Self {
        Self {
            limits,
            ear,
            asleep: None,
            pause: limits.poll_interval_min,
            active_until: Duration::ZERO,
            traffic: 0.0,
            traffic_at: Duration::ZERO,
            wake_ups: 0,
            not_before: Duration::ZERO,
            penalty: PENALTY,
            full: false,
            waiting_at: Duration::ZERO,
            quiet: false,
            next_in: None,
        }
    }

    /// Which of the lanes are worth a claim, and whether that was seen: after a full round there is more, and who was woken is
    /// told that there is something, so nobody needs to ask.
    ///
    /// # Errors
    /// Those of the look.
    pub(crate) async fn look(
        &mut self,
        store: &Store,
        clock: &dyn Clock,
        lanes: Vec<i16>,
        all: bool,
        (cursors, pulse): (&mut Cursors, &Pulse),
    ) -> Result<(Vec<i16>, bool), hapax_store::Error> {
        // What is heard from here on ends the next rest.
        let heard = self.ear.as_mut().map(|ear| *ear.borrow_and_update()).unwrap_or_default();
        let now = clock.boottime();
        // An ear that was given up counts from nothing.
        let wake_ups = heard.wake_ups.saturating_sub(std::mem::replace(&mut self.wake_ups, heard.wake_ups));
        if self.asleep.is_some() {
            self.count(wake_ups, now);
        }
        self.keep_or_end(store, heard, now).await;
        pulse.beat();
        (self.quiet, self.next_in) = (false, None);
        let woken = self.asleep.is_some() && wake_ups > 0 && lanes.len() <= LANES_WOKEN;
        if lanes.is_empty() || (self.full || woken) && !cursors.looks_first() {
            return Ok((lanes, false));
        }
        let waiting = self.asleep.is_some() && now >= self.waiting_at;
        let mark = self.asleep.is_some_and(|asleep| asleep.mark.is_none());
        let began = clock.boottime();
        let lanes: Vec<_> = lanes.into_iter().map(|lane| (lane, cursors.start_of(lane, began))).collect();
        let whole = all && lanes.iter().all(|(_, from)| *from == Cursor::START);
        let seen = store.look(&lanes, waiting, mark).await?;
        cursors.reached(&lanes, &seen.reached, began, clock.boottime());
        if waiting {
            self.waiting_at = now + WAITING_INTERVAL;
        }
        pulse.beat();
        self.seen(&seen, whole);
        if seen.waiting > 0 {
            self.not_before = now + self.penalty;
            self.penalty = (self.penalty * 2).min(PENALTY_MAX);
            tracing::info!("producers wait for each other to wake this relay: it polls for a while");
            self.end(store).await;
        }
        if seen.due.is_empty() && self.asleep.is_none() {
            pulse.beat();
            self.ask(store, heard, now).await;
        }
        Ok((seen.due, true))
    }

    /// Quiet is what was seen whole: a lane that was read from behind its start may hold what committed late.
    fn seen(&mut self, seen: &Look, whole: bool) {
        (self.quiet, self.next_in) = (whole && seen.due.is_empty(), seen.next_in);
        if let Some(asleep) = &mut self.asleep {
            asleep.mark = asleep.mark.or(seen.mark);
            asleep.assured = asleep.assured || asleep.mark.is_some_and(|mark| seen.oldest > mark);
        }
    }

    /// After a round that found so much, with room for `room`. Answers whether to look again at once.
    pub(crate) async fn found(&mut self, store: &Store, found: usize, room: usize, now: Duration) -> bool {
        self.full = found > 0 && found * 2 >= room;
        if self.asleep.is_none() {
            self.count(found as u64, now);
        }
        if self.full {
            // At once: it may wait for room for long, and nobody needs to wake it for more.
            self.not_before = self.not_before.max(now + AWAKE_FOR);
            self.end(store).await;
        }
        if found > 0 {
            (self.active_until, self.pause) = (now + ACTIVE_FOR, self.limits.poll_interval_min);
            return true;
        }
        false
    }

    /// There is something to look at again then, at the latest.
    pub(crate) fn look_within(&mut self, pause: Duration) {
        self.next_in = Some(self.next_in.map_or(pause, |next| next.min(pause)));
    }

    fn count(&mut self, more: u64, now: Duration) {
        let passed = now.saturating_sub(std::mem::replace(&mut self.traffic_at, now));
        self.traffic = self.traffic * (-passed.as_secs_f64()).exp() + more as f64;
    }

    /// Goes on being woken, unless it is busy or cannot hear.
    async fn keep_or_end(&mut self, store: &Store, heard: Heard, now: Duration) {
        let Some(asleep) = self.asleep else { return };
        if !heard.listening || asleep.connection != heard.connection {
            return self.end(store).await;
        }
        if self.traffic > BUSY {
            self.not_before = self.not_before.max(now + AWAKE_FOR);
            return self.end(store).await;
        }
        if now.saturating_sub(asleep.since) > WAKE_FOR {
            self.penalty = PENALTY;
        }
        if now >= asleep.renew_at {
            match store.sleep(WAKE_FOR).await {
                Ok(_) => self.asleep = Some(Asleep { renew_at: now + WAKE_FOR / 3, ..asleep }),
                Err(error) => {
                    tracing::debug!(error = %error, "could not ask again to be woken");
                    self.end(store).await;
                }
            }
        }
    }

    /// Asks to be woken, if that is wanted, would be heard, and costs nobody much.
    async fn ask(&mut self, store: &Store, heard: Heard, now: Duration) {
        self.count(0, now);
        if !heard.listening || now < self.not_before || self.traffic > CALM {
            return;
        }
        match store.sleep(WAKE_FOR).await {
            Ok(true) => {
                self.asleep = Some(Asleep {
                    since: now,
                    renew_at: now + WAKE_FOR / 3,
                    mark: None,
                    assured: false,
                    connection: heard.connection,
                });
            }
            Ok(false) => {
                tracing::warn!(
                    "the relay is not woken, it polls: this server allows prepared transactions (max_prepared_transactions), and \
                     one that has woken a relay could not be prepared (hint: set wake_up = false below [relay])"
                );
                self.ear = None;
            }
            Err(error) => {
                tracing::warn!(error = %error, "could not ask to be woken, polling");
                self.not_before = now + WAKE_FOR;
            }
        }
    }

    /// Looks for itself again. If that cannot be said, it will be forgotten in time.
    pub(crate) async fn end(&mut self, store: &Store) {
        if self.asleep.take().is_some()
            && let Err(error) = store.awake().await
        {
            tracing::debug!(error = %error, "could not say that this relay is awake");
        }
    }

    /// How long to rest.
    fn next_pause(&mut self, now: Duration) -> Duration {
        let asleep = self.asleep.filter(|asleep| asleep.assured && self.quiet);
        let pause = if let Some(asleep) = asleep {
            self.limits.poll_interval_asleep.min(asleep.renew_at.saturating_sub(now))
        } else {
            if now >= self.active_until {
                self.pause = self.pause.mul_f64(1.5).min(self.limits.poll_interval_max);
            }
            self.pause.mul_f64(0.9 + 0.2 * fastrand::f64())
        };
        // The next delivery is due then, not before: a pause that is too short by the clocks' difference is only a look.
        self.next_in.map_or(pause, |next| pause.min(next.max(self.limits.poll_interval_min)))
    }

    /// Rests until it is time to look again, somebody wakes it, or the relay shuts down.
    pub(crate) async fn rest(&mut self, clock: &dyn Clock, soft: &CancellationToken) {
        let pause = self.next_pause(clock.boottime());
        let woken = async {
            match &mut self.ear {
                Some(ear) if self.asleep.is_some() => {
                    if ear.changed().await.is_err() {
                        std::future::pending::<()>().await;
                    }
                }
                _ => std::future::pending().await,
            }
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = woken => {}
            () = soft.cancelled() => {}
        }
    }
}
