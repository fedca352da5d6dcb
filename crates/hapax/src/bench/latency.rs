//! `hapax bench latency`: from the return of a COMMIT to the end marker at the sink, and what an idle relay costs; or what
//! urgent messages wait while a backlog is delivered.
//!
//! The sink notes the time in its own process by the same clock (time since boot), so no reply is part of the figure.

use std::time::{Duration, Instant};

use anyhow::Context;
use hapax_core::clock::{Clock, SystemClock};
use tokio_postgres::Client;

use super::{
    contender::{self, Contender},
    drain::no_strays,
    letters::Letter,
    proc,
    process::Process,
    producer::{Producer, quantile},
    progress,
    runs::{self, Column, Results, Run, column},
    sink::Sink,
    stage::{Stage, Watcher},
    vet,
};
use crate::{
    cli::bench::{Latency, SinkKind},
    failure::{Exit, Refusal},
};

/// Messages before anything is measured: connections are open, code is loaded.
const WARM_UP: u32 = 20;
/// After the last message, until everything that polls has slowed down.
const REST: Duration = Duration::from_secs(2);
const LOOK_INTERVAL: Duration = Duration::from_millis(5);

const TIMES: [Column; 4] = [
    column("p50_ms", "p50 ms", 2),
    column("p90_ms", "p90 ms", 2),
    column("p99_ms", "p99 ms", 2),
    column("max_ms", "max ms", 1),
];
const LEFT: [Column; 1] = [column("left", "bulk left at the end", 0)];
const IDLE: [Column; 4] = [
    column("idle_cpu_worker", "idle: relay % of a core", 2),
    column("idle_cpu_postgres", "Postgres %", 2),
    column("idle_cpu", "together %", 2),
    column("idle_transactions", "transactions/s", 1),
];

/// `hapax bench latency`.
pub(super) async fn run(options: &Latency) -> anyhow::Result<(Results, Exit)> {
    let contenders = contender::all(&options.relay, Some(&options.peers), false)?;
    let contenders: Vec<Contender> = contenders.into_iter().map(Contender::for_latency).collect();
    if options.backlog > 0 && contenders.iter().any(|contender| matches!(contender, Contender::Peer(_))) {
        let problem = "--backlog: the peers know no priorities";
        return Err(Refusal::usage(problem, &["leave --peer out, or --backlog"]).into());
    }
    for contender in &contenders {
        if let Contender::Peer(peer) = contender
            && (peer.oneshot || peer.enqueue_sql(&Letter::new(1)).is_none())
        {
            let problem = format!("--peer {}: latency needs a worker that stays, and enqueue_sql", peer.name);
            return Err(Refusal::usage(problem, &["measure it with hapax bench drain"]).into());
        }
    }
    vet::contenders(&contenders).await?;
    let stage = Stage::set(None).await?;
    let mut runs = Vec::new();
    for run in 1..=options.common.runs {
        for (contender, backlog) in contenders.iter().flat_map(|contender| turns(contender, options)) {
            let label = match (options.backlog, backlog) {
                (0, _) => contender.name().to_owned(),
                (_, 0) => format!("{}, empty queue", contender.name()),
                _ => format!("{}, {backlog} bulk pending", contender.name()),
            };
            progress(&format!("latency: run {run} of {}, {label}", options.common.runs));
            let mut result = Run { run, ..Run::new(&label) };
            if let Err(error) = Box::pin(measure(&stage, contender, options, backlog, &mut result)).await {
                result.error = Some(crate::failure::chain(error.as_ref()));
            }
            runs.push(result);
        }
    }
    let what = if options.backlog > 0 { "urgent messages" } else { "messages" };
    let about = format!(
        "{} {what}/s for {} s, after {} s of idleness, {}; COMMIT to end marker; median (range)",
        options.rate,
        options.seconds,
        options.idle_seconds,
        runs::each(options.common.runs)
    );
    let results = Results::new("latency", about, stage.machine(), "our own sink", runs);
    let exit = if results.complete() { Exit::Done } else { Exit::Failed };
    Ok((results, exit))
}

/// With an empty queue, and with a backlog where that is asked for.
fn turns<'a>(contender: &'a Contender, options: &Latency) -> impl Iterator<Item = (&'a Contender, u32)> {
    std::iter::once((contender, 0)).chain((options.backlog > 0).then_some((contender, options.backlog)))
}

/// Prints the tables.
pub(super) fn print(results: &Results) {
    if results.has("left") {
        // Each quantile beside that of the empty queue.
        results.print(Some("p50_ms"), &[&TIMES]);
        results.print(Some("p99_ms"), &[&TIMES, &LEFT]);
    } else {
        results.print(Some("p50_ms"), &[&TIMES, &IDLE]);
    }
}

/// Who enqueues one message.
enum Door {
    Function(Producer),
    Statement(Client, Contender),
}

impl Door {
    async fn open(stage: &Stage, contender: &Contender, urgent: bool) -> anyhow::Result<Self> {
        let database = contender.database();
        Ok(match contender {
            Contender::Hapax(_) if urgent => Self::Function(Producer::urgent(stage, database).await?),
            Contender::Hapax(_) => Self::Function(Producer::connect(stage, database).await?),
            _ => Self::Statement(stage.client(database).await?, contender.clone()),
        })
    }

    async fn put(&self, letter: &Letter) -> anyhow::Result<()> {
        match self {
            Self::Function(producer) => producer.put(letter).await,
            Self::Statement(client, Contender::Peer(peer)) => {
                let sql = peer.enqueue_sql(letter).context("it has no enqueue_sql")?;
                client.batch_execute(&sql).await.context("could not enqueue")
            }
            Self::Statement(..) => anyhow::bail!("it takes no messages"),
        }
    }
}

async fn measure(
    stage: &Stage,
    contender: &Contender,
    options: &Latency,
    backlog: u32,
    run: &mut Run,
) -> anyhow::Result<()> {
    contender.prepare(stage, options.patience.patience).await?;
    if backlog > 0 {
        let patience = options.patience.patience;
        contender::enqueue_many(stage, contender.database(), backlog, "bulk", patience).await?;
    }
    let watcher = stage.watcher(contender.database()).await?;
    let sink = Sink::start(SinkKind::Own, true, &stage.log("sink")).await?;
    let mut workers = contender.start(stage, sink.port, 1, 0)?;
    let door = Door::open(stage, contender, options.backlog > 0).await?;
    let played = play(stage, &door, &sink, &watcher, &mut workers, (options, backlog), run).await;
    let log_tail = workers.first().map(Process::log_tail).unwrap_or_default();
    let strays = workers.iter().map(Process::end_strays).sum();
    for worker in &mut workers {
        worker.stop().await;
    }
    sink.stop().await;
    played.map_err(|error| anyhow::anyhow!("{error:#}{log_tail}"))?;
    no_strays(strays)?;
    drop((watcher, door));
    stage.drop_database(contender.database()).await
}

async fn play(
    stage: &Stage,
    door: &Door,
    sink: &Sink,
    watcher: &Watcher,
    workers: &mut [Process],
    (options, backlog): (&Latency, u32),
    run: &mut Run,
) -> anyhow::Result<()> {
    let warm = backlog + 1..backlog + WARM_UP + 1;
    for id in warm.clone() {
        door.put(&Letter::new(id)).await?;
        arrived(sink, workers, id..id + 1, options.patience.patience).await?;
    }
    if options.idle_seconds > 0 && options.backlog == 0 {
        tokio::time::sleep(REST).await;
        idle(stage, watcher, workers, Duration::from_secs(options.idle_seconds.into()), run).await?;
    }
    let count = options.rate * options.seconds;
    let pause = Duration::from_secs(1) / options.rate;
    let mut committed = Vec::new();
    let mut due = Instant::now() + pause;
    let measured = warm.end..warm.end + count;
    for id in measured.clone() {
        let letter = Letter::new(id);
        tokio::time::sleep_until(due.into()).await;
        door.put(&letter).await?;
        committed.push((id, SystemClock.boottime()));
        due += pause;
    }
    arrived(sink, workers, measured, options.patience.patience).await?;
    if backlog > 0 {
        let left = watcher.one::<i64>("SELECT count(*) FROM outbox.queue").await?;
        anyhow::ensure!(left > 0, "the backlog was delivered before the last urgent one: give a bigger --backlog");
        run.note("left", left as f64);
    }
    let stamps = sink.stamps();
    let mut times = Vec::new();
    for (id, committed_at) in committed {
        let read_at = stamps.get(&id).with_context(|| format!("message {id} did not arrive"))?;
        // An end marker before our return from the COMMIT is possible: the relay sees the row before we see the answer.
        times.push(read_at.saturating_sub(committed_at));
    }
    times.sort_unstable();
    run.note("messages", f64::from(count));
    for (name, share) in [("p50_ms", 0.5), ("p90_ms", 0.9), ("p99_ms", 0.99), ("max_ms", 1.0)] {
        run.note(name, quantile(&times, share).context("nothing was measured")?.as_secs_f64() * 1e3);
    }
    Ok(())
}

/// Waits until the sink has these messages.
async fn arrived(
    sink: &Sink,
    workers: &mut [Process],
    ids: std::ops::Range<u32>,
    patience: Duration,
) -> anyhow::Result<()> {
    let started = Instant::now();
    for id in ids.clone() {
        while !sink.has(id) {
            if let Some(status) = workers.iter_mut().find_map(Process::ended) {
                anyhow::bail!("its worker ended by itself ({status})");
            }
            anyhow::ensure!(started.elapsed() < patience, "message {id} of {ids:?} did not arrive in time");
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    }
    Ok(())
}

/// What a relay costs that has nothing to do.
async fn idle(
    stage: &Stage,
    watcher: &Watcher,
    workers: &[Process],
    time: Duration,
    run: &mut Run,
) -> anyhow::Result<()> {
    let groups: Vec<u32> = workers.iter().map(Process::group).collect();
    let (postmaster, own) = (stage.postmaster(), watcher.pid());
    let worker = || proc::living_cpu(|process| groups.contains(&process.group));
    let postgres = || {
        let family = |process: proc::Kin| process.pid == postmaster || process.parent == postmaster;
        proc::living_cpu(|process| family(process) && process.pid != own)
    };
    let transactions = watcher.transactions().await?;
    let (worker_before, postgres_before, began) = (worker(), postgres(), Instant::now());
    tokio::time::sleep(time).await;
    let (worker, postgres) = (worker().since_us(&worker_before), postgres().since_us(&postgres_before));
    let took = began.elapsed();
    let percent = |us: u64| us as f64 / 1e4 / took.as_secs_f64();
    run.note("idle_cpu_worker", percent(worker));
    run.note("idle_cpu_postgres", percent(postgres));
    run.note("idle_cpu", percent(worker + postgres));
    let more = watcher.transactions().await? - transactions;
    run.note("idle_transactions", more as f64 / took.as_secs_f64());
    Ok(())
}
