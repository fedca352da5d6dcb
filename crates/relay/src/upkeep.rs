//! Upkeep and retention: partitions ahead, old weeks dropped, the content of what has ended removed. Every relay asks for
//! it, the database lets one at a time do it.
//!
//! Nothing of it is urgent, and nothing waits for it: what cannot be done now is done later, and said when it stays undone.

use std::time::{Duration, Instant};

use hapax_store::{Keeps, Store};

use crate::{complaint::Complaint, config::RelayConfig, progress::Pulse};

/// Between two calls of `outbox.maintain()` that leave nothing to do.
const MAINTAIN_INTERVAL: Duration = Duration::from_secs(3600);

/// After one that has postponed something.
const POSTPONED_INTERVAL: Duration = Duration::from_secs(300);

/// Between two looks for content whose time is over.
const CONTENTS_INTERVAL: Duration = Duration::from_secs(10);

/// After one that failed.
const FAILED_INTERVAL: Duration = Duration::from_secs(60);

/// Messages in one batch.
const CONTENTS_BATCH: i32 = 500;

/// There are other chores: no new batch of a round begins after so long.
const BUDGET: Duration = Duration::from_secs(1);

/// For how long content is kept after the end of its message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KeepContent {
    /// As long as the message itself.
    #[default]
    Forever,
    /// Until a server has accepted it for all its recipients.
    Accepted,
    /// For so long.
    For(Duration),
}

/// What is kept, and for how long.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retention {
    /// Messages, attempts and ends; none: forever.
    pub records: Option<Duration>,
    /// Content of kinds that say nothing themselves.
    pub content: KeepContent,
}

impl KeepContent {
    /// In seconds, as the database has it.
    fn seconds(self) -> Option<f64> {
        match self {
            Self::Forever => None,
            Self::Accepted => Some(0.0),
            Self::For(time) => Some(time.as_secs_f64()),
        }
    }
}

/// Of content, by kind.
fn keeps(config: &RelayConfig) -> Keeps {
    let own = |(name, kind): (&String, &crate::KindPolicy)| Some((name.clone(), kind.keep_content?.seconds()));
    Keeps { kinds: config.kinds.iter().filter_map(own).collect(), default: config.retention.content.seconds() }
}

/// When what is next.
#[derive(Debug, Default)]
pub(crate) struct Upkeep {
    next_maintain: Duration,
    next_contents: Duration,
    complaint: Complaint,
}

impl Upkeep {
    /// A part of it, if it is time. Whether partitions were looked after.
    pub(crate) async fn round(
        &mut self,
        store: &Store,
        config: &RelayConfig,
        pulse: &Pulse,
        now: Duration,
    ) -> Result<bool, hapax_store::Error> {
        if now >= self.next_contents {
            let more = self.remove_contents(store, &keeps(config), pulse).await;
            self.next_contents = if more { now } else { now + CONTENTS_INTERVAL };
        }
        if now < self.next_maintain {
            return Ok(false);
        }
        pulse.beat();
        self.next_maintain = now + FAILED_INTERVAL;
        let actions = store.maintain(config.retention.records).await?;
        for (action, detail) in &actions {
            match action.as_str() {
                "overdue" => tracing::warn!(
                    action,
                    detail,
                    "upkeep cannot be done for days (hint: SELECT * FROM outbox.upkeep_postponed; a lock is held by one of SELECT * FROM \
                     pg_stat_activity WHERE xact_start < now() - interval '1 hour')"
                ),
                _ => tracing::info!(action, detail, "outbox.maintain"),
            }
        }
        let is = |words: &[&str]| actions.iter().any(|(action, _)| words.contains(&action.as_str()));
        self.next_maintain = now
            + match () {
                () if is(&["more"]) => Duration::ZERO,
                () if is(&["postponed", "overdue"]) => POSTPONED_INTERVAL,
                () => MAINTAIN_INTERVAL,
            };
        Ok(!is(&["more"]))
    }

    /// Batches until the budget is spent; whether there are more. What fails is tried again.
    async fn remove_contents(&mut self, store: &Store, keeps: &Keeps, pulse: &Pulse) -> bool {
        let begun = Instant::now();
        let mut messages = 0;
        let more = loop {
            if keeps.is_all() {
                break false;
            }
            pulse.beat();
            match store.remove_contents(keeps, CONTENTS_BATCH).await {
                Ok(removed) => {
                    self.complaint.is_over();
                    messages += removed.messages;
                    if !removed.more || begun.elapsed() >= BUDGET {
                        break removed.more;
                    }
                }
                Err(error) => {
                    if self.complaint.is_due() {
                        tracing::warn!(error = error.in_full(), "content whose time is over could not be removed yet");
                    }
                    break false;
                }
            }
        };
        if messages > 0 {
            tracing::debug!(messages, "the content of what has ended was removed");
        }
        more
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_database_is_told_seconds_zero_for_accepted_and_nothing_for_forever() {
        let seconds = [KeepContent::Forever, KeepContent::Accepted, KeepContent::For(Duration::from_secs(86_400))];
        assert_eq!(seconds.map(KeepContent::seconds), [None, Some(0.0), Some(86_400.0)]);
    }
}
