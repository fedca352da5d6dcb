//! What is to be done for all relays beside watching them: ordering keys without a head, digests, mail of routes that no
//! relay has, what came past the doors, upkeep. Every relay does it, the database sees to it that nothing is done twice.
//!
//! Invariant: apart from the reaper. A chore that fails or takes its time keeps nobody from seeing that a relay is dead, nor
//! from deciding a doubt; and it keeps no other chore from its turn.

use std::{sync::Arc, time::Duration};

use hapax_core::clock::Clock;
use hapax_store::{Error, Store};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{complaint::Complaint, config::RelayConfig, fatal::Fatal, progress::Pulse, upkeep::Upkeep};

/// Between two looks for ordering keys without a head.
const FREE_ORDERED_INTERVAL: Duration = Duration::from_secs(2);

/// Between two looks at what has become of digests, and whether outcomes have changed after their end.
const FOLLOW_INTERVAL: Duration = Duration::from_secs(2);
const FOLLOW_ALL_INTERVAL: Duration = Duration::from_secs(10);

/// Between two looks for mail of routes that no relay has.
const ORPHANS_INTERVAL: Duration = Duration::from_secs(10);

/// How much of it is moved at once.
const ORPHANS_BATCH: i32 = 2_000;

/// Between two looks for messages that came past the doors, and how many are looked at in one.
const UNQUEUED_INTERVAL: Duration = Duration::from_secs(10);

const UNQUEUED_PAGE: i64 = 10_000;

/// Before the first such look.
const UNQUEUED_FIRST: Duration = Duration::from_secs(5);

/// Who does them.
pub(crate) struct Chores {
    pub(crate) store: Store,
    pub(crate) config: Arc<RelayConfig>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) fatal: Fatal,
    pub(crate) pulse: Pulse,
}

/// When a chore is next, and whether it was said that it fails.
#[derive(Debug, Default)]
struct Turn {
    next: Duration,
    complaint: Complaint,
}

impl Turn {
    /// Whether it is time; the next is after a while then, whatever becomes of this one.
    fn begins(&mut self, now: Duration, interval: Duration) -> bool {
        let is_due = now >= self.next;
        if is_due {
            self.next = now + interval;
        }
        is_due
    }
}

/// What goes on over a reload.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    free_ordered: Turn,
    /// Ordering keys up to this one have been looked at.
    free_ordered_after: Option<String>,
    follow: Turn,
    next_follow_all: Duration,
    orphans: Turn,
    unqueued: Turn,
    /// Messages up to this one have been looked at.
    unqueued_after: Uuid,
    upkeep: Upkeep,
    maintain: Complaint,
}

impl Chores {
    /// One after the other, until `soft`, or until the database is another one.
    pub(crate) async fn run(&self, memory: &mut Memory, soft: &CancellationToken) {
        // Not at once: a relay that starts has better things to do than to read the messages of a day.
        memory.unqueued.next = memory.unqueued.next.max(self.clock.boottime() + UNQUEUED_FIRST);
        // What is kept for how long may have been changed.
        memory.upkeep = Upkeep::default();
        while !soft.is_cancelled() && !self.fatal.is_guard() {
            self.round(memory).await;
            self.pulse.beat();
            tokio::select! {
                () = soft.cancelled() => {}
                () = tokio::time::sleep(self.config.limits.heartbeat_interval) => {}
            }
        }
        self.pulse.idle();
    }

    async fn round(&self, memory: &mut Memory) {
        let now = self.clock.boottime();
        if memory.free_ordered.begins(now, FREE_ORDERED_INTERVAL) {
            self.pulse.beat();
            let freed = self.store.free_ordered(memory.free_ordered_after.as_deref()).await;
            let freed = freed.map(|(_, after)| memory.free_ordered_after = after);
            self.say("free ordering keys", freed, &mut memory.free_ordered.complaint);
        }
        if memory.follow.begins(now, FOLLOW_INTERVAL) {
            self.pulse.beat();
            let all = now >= memory.next_follow_all;
            let followed = self.store.follow_digests(all).await;
            if followed.is_ok() && all {
                memory.next_follow_all = now + FOLLOW_ALL_INTERVAL;
            }
            self.say("follow digests", followed.map(drop), &mut memory.follow.complaint);
        }
        if memory.orphans.begins(now, ORPHANS_INTERVAL) {
            self.pulse.beat();
            self.say(
                "look for mail of routes that are gone",
                self.adopt_orphans().await,
                &mut memory.orphans.complaint,
            );
        }
        if memory.unqueued.begins(now, UNQUEUED_INTERVAL) {
            self.pulse.beat();
            let reported = self.report_unqueued(&mut memory.unqueued_after).await;
            self.say("look for messages that are not queued", reported, &mut memory.unqueued.complaint);
        }
        let kept_up = memory.upkeep.round(&self.store, &self.config, &self.pulse, now).await;
        if matches!(kept_up, Ok(true)) {
            // From the start of the last day again: what was loaded past the doors may be older than what is new.
            memory.unqueued_after = Uuid::nil();
        }
        if !matches!(kept_up, Ok(false)) {
            self.say("maintain the outbox", kept_up.map(drop), &mut memory.maintain);
        }
    }

    /// What fails is said, and tried again at its next turn.
    fn say(&self, what: &'static str, done: Result<(), Error>, complaint: &mut Complaint) {
        match done {
            Ok(()) => complaint.is_over(),
            Err(error) => {
                let Ok(error) = self.fatal.check_guard(error) else { return };
                if complaint.is_due() {
                    tracing::warn!(error = error.in_full(), "could not {what}, trying again");
                }
            }
        }
    }

    /// What waits for a route that was taken out of the configuration goes by what that says now.
    async fn adopt_orphans(&self) -> Result<(), Error> {
        let moved = self.store.adopt_orphans(ORPHANS_BATCH).await?;
        if moved > 0 {
            tracing::warn!(
                deliveries = moved,
                "no relay has had their route for five minutes: they go by what the configuration says now, or are held"
            );
        }
        Ok(())
    }

    /// Messages that neither wait nor have ended: loaded past the doors, nobody will ever send them.
    async fn report_unqueued(&self, after: &mut Uuid) -> Result<(), Error> {
        let page = self.store.unqueued(*after, UNQUEUED_PAGE).await?;
        *after = page.last.unwrap_or(*after);
        if page.how_many > 0 {
            let some: Vec<String> = page.missing.iter().map(ToString::to_string).collect();
            tracing::warn!(
                messages = page.how_many,
                some = some.join(" "),
                "messages have neither a queue row nor a terminal record: they were loaded past the doors (a restore, a replica, \
                 an INSERT into a partition) and will not be sent (hint: enqueue again what shall be, with outbox.enqueue())"
            );
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_is_taken_once_an_interval_whether_it_succeeds_or_not() {
        let mut turn = Turn::default();
        let at = Duration::from_secs;
        assert_eq!([0, 9, 10, 11, 20].map(|second| turn.begins(at(second), at(10))), [true, false, true, false, true]);
    }
}
