//! `hapax bench remote-link`: delivery over a link with a long round trip, beside what two round trips a message allow.
//!
//! The rate is that between the first and the last end marker at the sink, so connecting does not count. The bound is
//! that of the round trip asked for; what the proxy really makes of it is measured and shown beside.

use std::{
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use anyhow::Context;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{
    contender::{Contender, Hapax, this_binary},
    delay::Delay,
    process::Process,
    progress,
    runs::{self, Column, Results, Run, column, distinct, each_once, plain},
    sink::Sink,
    stage::Stage,
    vet,
};
use crate::{
    cli::bench::{RemoteLink, SinkKind},
    failure::Exit,
};

/// Round trips that one message needs at least: MAIL, RCPT and DATA in one write, the message in another.
const ROUND_TRIPS: f64 = 2.0;
/// The fewest that make a rate.
const MESSAGES_MIN: u32 = 10;
const IN_FLIGHT_MIN: u32 = 16;
const LOOK_INTERVAL: Duration = Duration::from_millis(20);
const PROBES: u32 = 5;

const COLUMNS: [Column; 4] = [
    column("rate", "msgs/s", 1),
    column("rate_per_connection", "per connection", 2),
    column("share", "% of the bound", 1),
    plain("round_trip_ms", "round trip ms", 2),
];

/// `hapax bench remote-link`.
pub(super) async fn run(options: &RemoteLink) -> anyhow::Result<(Results, Exit)> {
    distinct("--connections", &options.connections)?;
    each_once(&options.settings)?;
    let own = Hapax {
        name: "hapax".to_owned(),
        binary: this_binary()?,
        in_flight: IN_FLIGHT_MIN,
        connections: 1,
        settings: options.settings.clone(),
        shared: options.settings.len(),
        ..Hapax::default()
    };
    let mut binaries = vec![own.clone()];
    for path in &options.against {
        binaries.push(own.clone().against(path)?);
    }
    vet::binaries(&binaries.iter().collect::<Vec<_>>()).await?;
    let stage = Stage::set(None).await?;
    let mut runs = Vec::new();
    for run in 1..=options.common.runs {
        for connections in &options.connections {
            for hapax in &binaries {
                let name = format!("{}, {connections:>2} connections", hapax.name);
                progress(&format!("remote-link: run {run} of {}, {name}", options.common.runs));
                let hapax = Hapax {
                    name: name.clone(),
                    // Each connection finds its next message at hand while the outcome of the last is made durable.
                    in_flight: (2 * u32::from(*connections)).max(IN_FLIGHT_MIN),
                    connections: (*connections).into(),
                    ..hapax.clone()
                };
                let mut result = Run { run, ..Run::new(&name) };
                if let Err(error) = Box::pin(measure(&stage, hapax, options, *connections, &mut result)).await {
                    result.error = Some(crate::failure::chain(error.as_ref()));
                }
                runs.push(result);
            }
        }
    }
    let bound = bound(options.round_trip);
    let about = format!(
        "round trip {} ms, so at most {bound:.1} messages/s per connection with {ROUND_TRIPS} round trips each, {}; \
         median (range)",
        options.round_trip.as_millis(),
        runs::each(options.common.runs)
    );
    let results = Results::new("remote-link", about, stage.machine(), "our own sink behind a delaying proxy", runs);
    let exit = if results.complete() { Exit::Done } else { Exit::Failed };
    Ok((results, exit))
}

/// Prints the table.
pub(super) fn print(results: &Results) {
    results.print(None, &[&COLUMNS]);
}

/// Messages per second and connection.
fn bound(round_trip: Duration) -> f64 {
    1.0 / (ROUND_TRIPS * round_trip.as_secs_f64())
}

async fn measure(
    stage: &Stage,
    hapax: Hapax,
    options: &RemoteLink,
    connections: u16,
    run: &mut Run,
) -> anyhow::Result<()> {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "thousands at most")]
    let each = (bound(options.round_trip) * f64::from(options.seconds)).ceil() as u32;
    let messages = (each * u32::from(connections)).max(MESSAGES_MIN);
    let contender = Contender::Hapax(hapax);
    let patience = options.patience.patience;
    contender.prepare(stage, patience).await?;
    contender.enqueue(stage, messages, patience).await?;
    stage.execute(contender.database(), "VACUUM ANALYZE").await?;
    stage.execute("postgres", "CHECKPOINT").await?;
    let sink = Sink::start(SinkKind::Own, true, &stage.log("sink")).await?;
    let link = Delay::start(sink.port, options.round_trip / 2).await.context("the proxy did not start")?;
    let round_trip = probe(link.port).await.context("nobody answers behind the proxy")?;
    let mut workers = contender.start(stage, link.port, 1, messages)?;
    let waited = wait(&sink, &mut workers, messages, patience).await;
    let log_tail = workers.first().map(Process::log_tail).unwrap_or_default();
    for worker in &mut workers {
        worker.stop().await;
    }
    let mut times: Vec<Duration> = sink.stamps().into_values().collect();
    drop(link);
    let received = sink.stop().await;
    waited.map_err(|error| anyhow::anyhow!("{error:#}{log_tail}"))?;
    times.sort_unstable();
    let (first, last) = times.first().zip(times.last()).context("nothing arrived")?;
    let took = last.saturating_sub(*first).as_secs_f64();
    // With the first end marker the clock starts: its connection's messages are one less, and so are the others'.
    let rate = f64::from(messages.saturating_sub(connections.into())) / took;
    run.note("messages", f64::from(messages));
    run.note("rate", rate);
    run.note("rate_per_connection", rate / f64::from(connections));
    run.note("share", 100.0 * rate / f64::from(connections) / bound(options.round_trip));
    run.note("round_trip_ms", round_trip.as_secs_f64() * 1e3);
    if let Some(received) = received {
        run.note("received", received as f64);
    }
    stage.drop_database(contender.database()).await
}

async fn wait(sink: &Sink, workers: &mut [Process], messages: u32, patience: Duration) -> anyhow::Result<()> {
    let started = Instant::now();
    while sink.stamped() < messages as usize {
        if let Some(status) = workers.iter_mut().find_map(Process::ended) {
            anyhow::bail!("the relay ended by itself ({status})");
        }
        anyhow::ensure!(started.elapsed() < patience, "{} of {messages} messages arrived in time", sink.stamped());
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
    Ok(())
}

/// The shortest of a few round trips through the proxy.
async fn probe(port: u16) -> anyhow::Result<Duration> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
    stream.set_nodelay(true)?;
    let mut bytes = [0; 512];
    anyhow::ensure!(stream.read(&mut bytes).await? > 0, "no greeting");
    let mut shortest = Duration::MAX;
    for _ in 0..PROBES {
        let began = Instant::now();
        stream.write_all(b"NOOP\r\n").await?;
        anyhow::ensure!(stream.read(&mut bytes).await? > 0, "no answer");
        shortest = shortest.min(began.elapsed());
    }
    Ok(shortest)
}
