//! `hapax bench drain`, and the run that other measurements vary: messages are pending, workers are started, the clock
//! runs until none is left.
//!
//! What looks costs as little as it can: the count is asked for a few times, and every 20 ms only towards the end; its
//! backend and its statements are left out.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use tokio::task::JoinHandle;

use super::{
    contender::{self, Contender},
    proc::{self, Peaks},
    process::Process,
    producer::{Producers, quantile},
    progress,
    runs::{self, Column, Results, Run, column, plain},
    sink::{self, Sink},
    stage::{Stage, Watcher, Work},
    vet,
};
use crate::{
    cli::bench::{Drain, SinkKind},
    config::duration,
    failure::Exit,
};

const POLL_INTERVAL_MIN: Duration = Duration::from_millis(20);
const POLL_INTERVAL_MAX: Duration = Duration::from_secs(2);
const FIRST_POLL: Duration = Duration::from_millis(100);
/// A pause is no longer than this part of what has passed: until workers are warm, their pace says little about the rest.
const PAUSE_SHARE_MAX: f64 = 0.25;
/// More of the time than this spent looking is no measurement of anything else.
const LOOKING_SHARE_MAX: f64 = 0.5;
/// What a message makes the sink read at least: its text alone is longer.
const MESSAGE_BYTES_MIN: u64 = 500;
const MEMORY_INTERVAL: Duration = Duration::from_millis(100);
const WAIT_EVENTS_INTERVAL: Duration = Duration::from_millis(20);

/// The columns of a drain.
pub(super) const SPEED: [Column; 5] = [
    column("rate", "msgs/s", 0),
    column("cpu_worker_us", "CPU us/msg: relay", 1),
    column("cpu_postgres_us", "Postgres", 1),
    column("cpu_sink_us", "sink", 1),
    column("cpu_us", "relay + Postgres", 1),
];
const COST: [Column; 9] = [
    column("wal_records", "WAL B/msg: delivery", 0),
    column("wal_images", "full pages", 0),
    plain("wal_enqueue", "enqueue", 0),
    column("peak_mb", "peak memory MB", 1),
    column("commits", "commits/msg", 3),
    column("versions", "row versions/msg", 2),
    column("buffers", "buffers/msg", 0),
    plain("statements", "statements/msg", 3),
    plain("received", "at the sink", 0),
];

/// One run.
#[derive(Clone, Debug)]
pub(super) struct Plan<'a> {
    pub(super) contender: &'a Contender,
    pub(super) messages: u32,
    pub(super) relays: u16,
    pub(super) patience: Duration,
    pub(super) sink: SinkKind,
    /// Sample wait events.
    pub(super) waits: bool,
    /// Ask pg_stat_statements.
    pub(super) statements: bool,
    /// Another session holds a snapshot meanwhile.
    pub(super) snapshot: bool,
    /// So many messages per second are added meanwhile, as many as are pending at most.
    pub(super) producers: Option<u32>,
    /// It is over when no more than so many are left.
    pub(super) left_max: i64,
}

/// `hapax bench drain`.
pub(super) async fn run(options: &Drain) -> anyhow::Result<(Results, Exit)> {
    let mut contenders = contender::all(&options.relay, Some(&options.peers), options.limit)?;
    if options.history > 0 {
        let beside = contenders[0].with_history(options.history);
        contenders.splice(1..1, beside);
    }
    let sink = sink::resolve(options.sink.sink)?;
    vet::contenders(&contenders).await?;
    let stage = Stage::set(options.count_statements.then_some("pg_stat_statements")).await?;
    let mut runs = Vec::new();
    for run in 1..=options.common.runs {
        for contender in &contenders {
            progress(&format!("drain: run {run} of {}, {}", options.common.runs, contender.name()));
            let plan = Plan {
                contender,
                messages: options.messages,
                relays: options.relays,
                patience: options.patience.patience,
                sink,
                waits: options.wait_events || options.relays > 1,
                statements: options.count_statements,
                snapshot: false,
                producers: None,
                left_max: 0,
            };
            runs.push(Run { run, ..plan.play(&stage).await });
        }
    }
    let relays = if options.relays == 1 { String::new() } else { format!(", {} relay processes", options.relays) };
    let about = format!(
        "{} pending messages, {} in flight{relays}, {}; median (range)",
        options.messages,
        options.relay.in_flight,
        runs::each(options.common.runs)
    );
    let results = Results::new("drain", about, stage.machine(), sink_name(sink), runs);
    let exit = if results.complete() { Exit::Done } else { Exit::Failed };
    Ok((results, exit))
}

/// Prints a drain's tables.
pub(super) fn print(results: &Results) {
    results.print(Some("rate"), &[&SPEED, &COST]);
}

/// For people.
pub(super) fn sink_name(sink: SinkKind) -> &'static str {
    match sink {
        SinkKind::Own => "our own sink",
        SinkKind::Auto | SinkKind::SmtpSink => "smtp-sink",
    }
}

impl Plan<'_> {
    /// Sets it up, runs it, measures it, takes it down. What goes wrong is noted.
    pub(super) async fn play(&self, stage: &Stage) -> Run {
        let mut run = Run::new(self.contender.name());
        if let Err(error) = Box::pin(self.measure(stage, &mut run)).await {
            run.error = Some(crate::failure::chain(error.as_ref()));
        }
        run
    }

    async fn measure(&self, stage: &Stage, run: &mut Run) -> anyhow::Result<()> {
        let contender = self.contender;
        contender.prepare(stage, self.patience).await?;
        let watcher = stage.watcher(contender.database()).await?;
        self.enqueue(stage, &watcher, run).await?;
        let old_snapshot = self.hold_snapshot(stage).await?;
        let sink = Sink::start(self.sink, false, &stage.log("sink")).await?;
        let producers = match self.producers {
            Some(rate) => {
                let (first, most) = (self.messages + 1, self.messages);
                Some(Producers::start(stage, contender.database(), rate, first, most).await?)
            }
            None => None,
        };
        let before = Usage::look(stage, &watcher, &sink).await?;
        let started = Instant::now();
        let mut workers = contender.start(stage, sink.port, self.relays, self.messages)?;
        let samplers = Samplers::start(self, stage, &workers).await?;
        let left = self.wait(&watcher, &mut workers, started).await;
        let wall = started.elapsed();
        let left = left.and_then(|left| self.ended_well(&mut workers).map(|()| left));
        let worker_us = worker_cpu_us(&mut workers, &before);
        let after = Usage::look(stage, &watcher, &sink).await?;
        let (peaks, waits) = samplers.stop(&workers).await;
        let times = match producers {
            Some(producers) => producers.stop().await?,
            None => Vec::new(),
        };
        let log_tail = workers.first().map(Process::log_tail).unwrap_or_default();
        let strays = workers.iter().map(Process::end_strays).sum();
        for worker in &mut workers {
            worker.stop().await;
        }
        let read = before.sink_bytes.zip(sink.bytes_read()).map(|(before, now)| now.saturating_sub(before));
        let received = sink.stop().await;
        drop(old_snapshot);
        let left = left.map_err(|error| anyhow::anyhow!("{error:#}{log_tail}"))?;
        no_strays(strays)?;
        let messages = f64::from(self.messages) + times.len() as f64 - left as f64;
        anyhow::ensure!(messages > 0.0, "nothing was delivered");
        run.waits = waits;
        self.note(run, messages, wall, worker_us, &before, &after);
        run.note("peak_mb", peaks.kib() as f64 / 1024.0);
        if let Some(received) = received {
            run.note("received", received as f64);
        }
        if let (Some(half), Some(most)) = (quantile(&times, 0.5), quantile(&times, 0.99)) {
            run.note("commit_p50_ms", half.as_secs_f64() * 1e3);
            run.note("commit_p99_ms", most.as_secs_f64() * 1e3);
            run.note("added", times.len() as f64);
        }
        self.ask_database(stage, &watcher, run, messages, (&before, &after)).await?;
        has_arrived(messages, received, read)?;
        drop(watcher);
        match contender {
            Contender::Source(_) => Ok(()),
            kept if kept.keeps_its_database() => Ok(()),
            _ => stage.drop_database(contender.database()).await,
        }
    }

    /// Makes the messages pending, and the database as if they had been so for a while.
    async fn enqueue(&self, stage: &Stage, watcher: &Watcher, run: &mut Run) -> anyhow::Result<()> {
        let Some(remaining) = self.contender.remaining_sql() else { return Ok(()) };
        watcher.batch("CHECKPOINT").await?;
        let before = watcher.lsn().await?;
        self.contender.enqueue(stage, self.messages, self.patience).await?;
        let wal = stage.wal(&before, &watcher.lsn().await?).await?;
        run.note("wal_enqueue", wal.records.unwrap_or(wal.total) / f64::from(self.messages));
        let pending: i64 = watcher.one(&remaining).await?;
        anyhow::ensure!(pending == i64::from(self.messages), "{pending} of {} messages are pending", self.messages);
        watcher.batch("VACUUM ANALYZE").await?;
        watcher.batch("CHECKPOINT").await?;
        if self.statements {
            stage.execute("postgres", "CREATE EXTENSION IF NOT EXISTS pg_stat_statements").await?;
            stage.execute("postgres", "SELECT pg_stat_statements_reset()").await?;
        }
        Ok(())
    }

    /// A session that began before and does not end.
    async fn hold_snapshot(&self, stage: &Stage) -> anyhow::Result<Option<tokio_postgres::Client>> {
        if !self.snapshot {
            return Ok(None);
        }
        let client = stage.client(self.contender.database()).await?;
        client.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM pg_class").await?;
        Ok(Some(client))
    }

    /// Waits until nothing is left, or no more than is allowed; how many are left.
    async fn wait(&self, watcher: &Watcher, workers: &mut [Process], started: Instant) -> anyhow::Result<i64> {
        let Some(sql) = self.contender.remaining_sql() else {
            let ended = tokio::time::timeout(self.patience, workers[0].wait()).await;
            let status =
                ended.map_err(|_| anyhow::anyhow!("not done within {}", duration::format(self.patience)))??;
            anyhow::ensure!(status.success(), "its worker failed ({status})");
            return Ok(0);
        };
        let (mut pause, mut looking) = (FIRST_POLL, Duration::ZERO);
        loop {
            tokio::time::sleep(pause).await;
            // Asked before the count: what it did last is counted.
            let ended = workers.iter_mut().find_map(Process::ended);
            let began = Instant::now();
            let look = tokio::time::timeout(self.patience, watcher.one::<i64>(&sql)).await;
            let left = look.map_err(|_| anyhow::anyhow!("a look at what is left took too long: {sql}"))??;
            looking += began.elapsed();
            let passed = started.elapsed();
            if left <= self.left_max {
                let share = looking.as_secs_f64() / passed.as_secs_f64();
                let (took, all) = (looking.as_secs_f64(), passed.as_secs_f64());
                anyhow::ensure!(
                    share < LOOKING_SHARE_MAX,
                    "looking at what is left took {took:.1} of {all:.1} s: {sql}"
                );
                return Ok(left);
            }
            if let Some(status) = ended {
                anyhow::bail!("a worker ended by itself ({status}), {left} messages are left");
            }
            if passed > self.patience {
                anyhow::bail!("not done within {}, {left} messages are left", duration::format(self.patience));
            }
            let done = (i64::from(self.messages) - left).max(0);
            pause = next_pause(passed, done, left);
        }
    }

    /// Refuses workers that are gone although nobody has told them to end, or that failed.
    fn ended_well(&self, workers: &mut [Process]) -> anyhow::Result<()> {
        match workers.iter_mut().find_map(Process::ended) {
            Some(status) if status.success() && self.contender.ends_by_itself() => Ok(()),
            Some(status) => anyhow::bail!("everything is done, but a worker ended by itself ({status})"),
            None => Ok(()),
        }
    }

    fn note(&self, run: &mut Run, messages: f64, wall: Duration, worker_us: u64, before: &Usage, after: &Usage) {
        let each = |us: u64| us as f64 / messages;
        let postgres = each(after.postgres_us.saturating_sub(before.postgres_us));
        run.note("messages", messages);
        run.note("wall_s", wall.as_secs_f64());
        run.note("rate", messages / wall.as_secs_f64());
        run.note("cpu_worker_us", each(worker_us));
        run.note("cpu_sink_us", each(after.sink_us.saturating_sub(before.sink_us)));
        if self.contender.remaining_sql().is_some() {
            run.note("cpu_postgres_us", postgres);
            run.note("cpu_us", each(worker_us) + postgres);
        }
    }

    /// What only the database knows, once the workers are gone.
    async fn ask_database(
        &self,
        stage: &Stage,
        watcher: &Watcher,
        run: &mut Run,
        messages: f64,
        (before, after): (&Usage, &Usage),
    ) -> anyhow::Result<()> {
        if self.contender.remaining_sql().is_none() {
            return Ok(());
        }
        let wal = stage.wal(&before.lsn, &after.lsn).await?;
        run.note("wal_total", wal.total / messages);
        run.note("wal_records", wal.records.unwrap_or(wal.total) / messages);
        if let Some(records) = wal.records {
            run.note("wal_images", (wal.total - records) / messages);
        }
        run.note("commits", (watcher.transactions().await? - before.transactions) as f64 / messages);
        let work = watcher.work().await?;
        run.note("versions", (work.versions - before.work.versions) / messages);
        run.note("buffers", (work.buffers - before.work.buffers) / messages);
        if self.statements {
            let sql = format!(
                "SELECT coalesce(sum(calls), 0)::bigint FROM pg_stat_statements WHERE dbid = {} AND query NOT LIKE '%pg_stat%'",
                watcher.one::<u32>("SELECT oid FROM pg_database WHERE datname = current_database()").await?
            );
            let calls: i64 = stage.client("postgres").await?.query_one(&sql, &[]).await?.get(0);
            run.note("statements", calls as f64 / messages);
        }
        if matches!(self.contender, Contender::Hapax(_)) {
            let sent: i64 = watcher.one("SELECT count(*) FROM outbox.done WHERE state = 'sent'").await?;
            run.note("delivered", sent as f64);
            let expected = messages as i64;
            // Producers go on for a moment after the last count: what they added then may be waiting still.
            let waiting: i64 = match self.producers {
                Some(_) => watcher.one("SELECT count(*) FROM outbox.queue").await?,
                None => 0,
            };
            if sent + waiting < expected {
                let others = "SELECT coalesce(string_agg(concat_ws(' ', n, state, '(' || reason || ')'), ', '), 'none is known') \
                              FROM (SELECT state, reason, count(*) AS n FROM outbox.done WHERE state <> 'sent' GROUP BY 1, 2 \
                              ORDER BY n DESC LIMIT 5) d";
                let others: String = watcher.one(others).await?;
                anyhow::bail!("{sent} of {expected} deliveries are sent, {waiting} are waiting; the others: {others}");
            }
        }
        Ok(())
    }
}

/// Two fifths of what it may still take, for all that can be told so early.
fn next_pause(passed: Duration, done: i64, left: i64) -> Duration {
    let rest = if done > 0 { passed.mul_f64(0.4 * left as f64 / done as f64) } else { FIRST_POLL };
    rest.min(passed.mul_f64(PAUSE_SHARE_MAX)).clamp(POLL_INTERVAL_MIN, POLL_INTERVAL_MAX)
}

/// What leaves its process group is in no figure.
pub(super) fn no_strays(strays: usize) -> anyhow::Result<()> {
    anyhow::ensure!(
        strays == 0,
        "{strays} of its processes had left its process group: what they used is in no figure"
    );
    Ok(())
}

/// Whatever the contender's database says: its mail has to have reached the sink. Ours counts; of another one it is known
/// how much it has read.
fn has_arrived(messages: f64, received: Option<u64>, read: Option<u64>) -> anyhow::Result<()> {
    if let Some(received) = received {
        anyhow::ensure!(received as f64 >= messages, "{messages} messages are done, but the sink has {received}");
    } else if let Some(read) = read {
        let each = read as f64 / messages;
        anyhow::ensure!(
            each >= MESSAGE_BYTES_MIN as f64,
            "{messages} messages are done, but the sink has read only {read} bytes"
        );
    }
    Ok(())
}

/// What has been used so far.
struct Usage {
    postgres_us: u64,
    sink_us: u64,
    sink_bytes: Option<u64>,
    children_us: u64,
    lsn: String,
    transactions: i64,
    work: Work,
}

impl Usage {
    async fn look(stage: &Stage, watcher: &Watcher, sink: &Sink) -> anyhow::Result<Self> {
        // CPU first: what follows costs some.
        let postgres_us = stage.postgres_cpu_us(&[watcher.pid()]);
        let (sink_us, sink_bytes) = (sink.cpu_us(), sink.bytes_read());
        let children_us = proc::ended_children_cpu_us();
        let work = watcher.work().await?;
        let (lsn, transactions) = (watcher.lsn().await?, watcher.transactions().await?);
        Ok(Self { postgres_us, sink_us, sink_bytes, children_us, lsn, transactions, work })
    }
}

/// Of those that run; those that have ended are among our dead children.
fn worker_cpu_us(workers: &mut [Process], before: &Usage) -> u64 {
    let mut ended = false;
    let mut living = 0;
    for worker in workers {
        match worker.ended() {
            Some(_) => ended = true,
            None => living += proc::group_cpu_us(worker.group()),
        }
    }
    living + if ended { proc::ended_children_cpu_us().saturating_sub(before.children_us) } else { 0 }
}

/// What is looked at from time to time while workers run.
struct Samplers {
    peaks: Arc<Mutex<Peaks>>,
    waits: Arc<Mutex<BTreeMap<String, u64>>>,
    tasks: Vec<JoinHandle<()>>,
}

impl Samplers {
    async fn start(plan: &Plan<'_>, stage: &Stage, workers: &[Process]) -> anyhow::Result<Self> {
        let groups: Vec<u32> = workers.iter().map(Process::group).collect();
        let (peaks, waits) = (Arc::<Mutex<Peaks>>::default(), Arc::<Mutex<BTreeMap<String, u64>>>::default());
        let seen = Arc::clone(&peaks);
        let mut tasks = vec![tokio::spawn(async move {
            loop {
                seen.lock().unwrap_or_else(PoisonError::into_inner).look(&groups);
                tokio::time::sleep(MEMORY_INTERVAL).await;
            }
        })];
        if plan.waits {
            // From another database, so that it does not count as work of this one.
            let watcher = stage.watcher("postgres").await?;
            let sql = format!(
                "SELECT coalesce(wait_event_type || ':' || wait_event, 'running'), count(*) FROM pg_stat_activity \
                 WHERE datname = '{}' AND state = 'active' GROUP BY 1",
                plan.contender.database()
            );
            let seen = Arc::clone(&waits);
            tasks.push(tokio::spawn(async move {
                while let Ok(events) = watcher.pairs(&sql).await {
                    for (event, backends) in events {
                        *seen.lock().unwrap_or_else(PoisonError::into_inner).entry(event).or_default() +=
                            backends.unsigned_abs();
                    }
                    tokio::time::sleep(WAIT_EVENTS_INTERVAL).await;
                }
            }));
        }
        Ok(Self { peaks, waits, tasks })
    }

    async fn stop(self, workers: &[Process]) -> (Peaks, BTreeMap<String, u64>) {
        for task in self.tasks {
            task.abort();
            // It was aborted: that is how it ends.
            drop(task.await);
        }
        let groups: Vec<u32> = workers.iter().map(Process::group).collect();
        let mut peaks = self.peaks.lock().unwrap_or_else(PoisonError::into_inner).clone();
        peaks.look(&groups);
        let waits = self.waits.lock().unwrap_or_else(PoisonError::into_inner).clone();
        (peaks, waits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pace_that_was_seen_too_early_makes_no_long_pause() {
        let milliseconds = Duration::from_millis;
        // Five of three hundred after a tenth of a second, while connections are being opened.
        assert_eq!(next_pause(milliseconds(100), 5, 295), milliseconds(25));
        assert_eq!(next_pause(milliseconds(100), 0, 300), milliseconds(25));
        assert_eq!(next_pause(milliseconds(2000), 10_000, 10_000), milliseconds(500));
        let near = next_pause(milliseconds(4000), 19_000, 1_000);
        assert!((milliseconds(84)..milliseconds(85)).contains(&near), "{near:?}");
        assert_eq!(next_pause(milliseconds(4000), 19_990, 10), POLL_INTERVAL_MIN);
        assert_eq!(next_pause(Duration::from_secs(600), 10, 1_000_000), POLL_INTERVAL_MAX);
    }

    #[test]
    fn mail_that_the_sink_never_saw_is_not_delivered() {
        assert!(has_arrived(20.0, Some(20), None).is_ok() && has_arrived(20.0, Some(19), None).is_err());
        assert!(has_arrived(20.0, None, Some(40_000)).is_ok() && has_arrived(20.0, None, Some(900)).is_err());
        // Nobody can tell.
        assert!(has_arrived(20.0, None, None).is_ok());
    }
}
