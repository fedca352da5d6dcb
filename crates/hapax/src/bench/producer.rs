//! An application that enqueues: one connection, each message a COMMIT of its own.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::Context;
use tokio::task::JoinSet;
use tokio_postgres::{Client, Statement};

use super::{letters::Letter, stage::Stage};

/// One message by the function; the parameters are those of [`Producer::put`].
pub(super) const ENQUEUE: &str = "SELECT outbox.enqueue(kind => 'bench', recipients => $1, subject => $2, body_text => $3, \
     body_html => $4, headers => $5)";

/// The same, urgent.
const ENQUEUE_URGENT: &str = "SELECT outbox.enqueue(kind => 'bench', recipients => $1, subject => $2, body_text => $3, \
     body_html => $4, headers => $5, priority => 'urgent')";

/// How many share a steady rate.
const PRODUCERS: u32 = 4;

/// A connection with its statement prepared.
pub(super) struct Producer {
    client: Client,
    statement: Statement,
}

impl Producer {
    /// Connects to `database`.
    pub(super) async fn connect(stage: &Stage, database: &str) -> anyhow::Result<Self> {
        Self::of(stage, database, ENQUEUE).await
    }

    /// As [`Producer::connect`], of urgent messages.
    pub(super) async fn urgent(stage: &Stage, database: &str) -> anyhow::Result<Self> {
        Self::of(stage, database, ENQUEUE_URGENT).await
    }

    async fn of(stage: &Stage, database: &str, enqueue: &str) -> anyhow::Result<Self> {
        let client = stage.client(database).await?;
        let statement = client.prepare(enqueue).await.context("could not prepare outbox.enqueue")?;
        Ok(Self { client, statement })
    }

    /// Enqueues and commits.
    pub(super) async fn put(&self, letter: &Letter) -> anyhow::Result<()> {
        let (recipients, headers) = (vec![letter.to.as_str()], letter.headers());
        let parameters: [&(dyn tokio_postgres::types::ToSql + Sync); 5] =
            [&recipients, &letter.subject, &letter.text, &letter.html, &headers];
        self.client.query_one(&self.statement, &parameters).await.context("could not enqueue")?;
        Ok(())
    }
}

/// Several producers at a steady rate, until they are stopped or have enqueued as many as they should.
pub(super) struct Producers {
    stop: Arc<AtomicBool>,
    count: Arc<AtomicU32>,
    tasks: JoinSet<anyhow::Result<Vec<Duration>>>,
}

impl Producers {
    /// Starts them; their messages are numbered from `first` and are `most` at most.
    pub(super) async fn start(stage: &Stage, database: &str, rate: u32, first: u32, most: u32) -> anyhow::Result<Self> {
        let mut all = Self { stop: Arc::default(), count: Arc::default(), tasks: JoinSet::new() };
        let pause = Duration::from_secs(1) * PRODUCERS / rate.max(1);
        for number in 0..PRODUCERS {
            let producer = Producer::connect(stage, database).await?;
            let (stop, count) = (Arc::clone(&all.stop), Arc::clone(&all.count));
            let offset = pause * number / PRODUCERS;
            all.tasks.spawn(async move {
                let mut times = Vec::new();
                let mut due = Instant::now() + offset;
                while !stop.load(Ordering::Relaxed) {
                    tokio::time::sleep_until(due.into()).await;
                    let number = count.fetch_add(1, Ordering::Relaxed);
                    if number >= most {
                        break;
                    }
                    let letter = Letter::new(first + number);
                    let began = Instant::now();
                    producer.put(&letter).await?;
                    times.push(began.elapsed());
                    due += pause;
                }
                Ok(times)
            });
        }
        Ok(all)
    }

    /// Stops them; how long each COMMIT took.
    pub(super) async fn stop(mut self) -> anyhow::Result<Vec<Duration>> {
        self.stop.store(true, Ordering::Relaxed);
        let mut times = Vec::new();
        while let Some(ended) = self.tasks.join_next().await {
            times.extend(ended.context("a producer panicked")??);
        }
        times.sort_unstable();
        Ok(times)
    }
}

/// The value below which a share of the sorted values lies.
pub(super) fn quantile(sorted: &[Duration], share: f64) -> Option<Duration> {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a share of a length is an index")]
    let at = ((sorted.len() as f64) * share) as usize;
    sorted.get(at.min(sorted.len().checked_sub(1)?)).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_of_sorted_values() {
        let times: Vec<Duration> = (0..100).map(Duration::from_millis).collect();
        assert_eq!(quantile(&times, 0.5), Some(Duration::from_millis(50)));
        assert_eq!(quantile(&times, 0.99), Some(Duration::from_millis(99)));
        assert_eq!(quantile(&times, 1.0), Some(Duration::from_millis(99)));
        assert_eq!(quantile(&[], 0.5), None);
    }
}
