//! Traces, from attempts that have ended to a collector (OTLP over HTTP, protobuf).
//!
//! Attempts wait in a queue that is bounded, and a task of its own sends what has gathered. Invariants: mail waits for none
//! of it; a collector that is slow or away costs the memory of the queue, and what does not fit, or is refused, is dropped
//! and counted; the end of the process waits for a few seconds at most.

mod spans;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use hapax_relay::{Attempt, Meters, Observer, Tracing};
use opentelemetry_proto::tonic::{collector::trace::v1::ExportTraceServiceResponse, resource::v1::Resource};
use prost::Message;
use reqwest::{StatusCode, header};
use tokio::{sync::mpsc, task::JoinSet};

use crate::config::{Settings, Telemetry, host};

/// Attempts that wait at most: some two megabytes.
const QUEUE_ATTEMPTS_MAX: usize = 2_048;

/// Attempts that are sent at once, and how long the first of them waits for more.
const BATCH_ATTEMPTS_MAX: usize = 512;
const BATCH_PAUSE: Duration = Duration::from_secs(1);

/// After a failure that may pass the same is sent once more.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// How long the end of the process waits for what is still in the queue.
const LAST_WAIT: Duration = Duration::from_secs(2);

/// A collector that is away is said once in so long.
const WARNING_PAUSE: Duration = Duration::from_secs(60);

/// Of an answer so much is read.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// The exporters of the process: one at a time, and those before it until they have sent what they have.
pub(crate) struct Traces {
    meters: Meters,
    current: Option<(Telemetry, Arc<Queue>)>,
    exporters: JoinSet<()>,
}

impl Traces {
    pub(crate) fn new(meters: Meters) -> Self {
        Self { meters, current: None, exporters: JoinSet::new() }
    }

    /// What the next incarnation is told of it: with the exporter there is, unless spans are sent differently now.
    pub(crate) fn tracing(&mut self, settings: &Settings) -> Option<Tracing> {
        while self.exporters.try_join_next().is_some() {}
        let Some(telemetry) = &settings.telemetry else {
            self.current = None;
            return None;
        };
        let queue = match &self.current {
            Some((current, queue)) if current.sends_as(telemetry) => queue.clone(),
            _ => self.start(telemetry, &settings.relay.name),
        };
        self.current = Some((telemetry.clone(), queue.clone()));
        Some(Tracing { sample_ratio: telemetry.sample_ratio, observer: queue })
    }

    fn start(&mut self, telemetry: &Telemetry, relay: &str) -> Arc<Queue> {
        let (sender, waiting) = mpsc::channel(QUEUE_ATTEMPTS_MAX);
        let resource = spans::resource(&telemetry.service_name, relay, &host());
        let (telemetry, meters) = (telemetry.clone(), self.meters.clone());
        let exporter = Exporter { telemetry, resource, meters, warned: None, dropped: 0 };
        self.exporters.spawn(exporter.run(waiting));
        Arc::new(Queue { sender, meters: self.meters.clone() })
    }

    /// Sends what is there, if that is quick.
    pub(crate) async fn finish(mut self) {
        self.current = None;
        let all = async { while self.exporters.join_next().await.is_some() {} };
        if tokio::time::timeout(LAST_WAIT, all).await.is_err() {
            tracing::warn!("the last traces could not be exported in time (hint: telemetry.otlp_endpoint)");
        }
    }
}

/// Where attempts wait.
#[derive(Debug)]
struct Queue {
    sender: mpsc::Sender<Attempt>,
    meters: Meters,
}

impl Observer for Queue {
    fn ended(&self, attempt: Attempt) {
        use mpsc::error::TrySendError::{Closed, Full};
        if let Err(Full(attempt) | Closed(attempt)) = self.sender.try_send(attempt) {
            self.meters.spans_dropped(spans::count(&attempt));
        }
    }
}

/// Why spans were not taken.
struct Refused {
    /// Without anything the collector said: that may be anything.
    why: String,
    /// It may take them a moment later.
    passes: bool,
}

struct Exporter {
    telemetry: Telemetry,
    resource: Resource,
    meters: Meters,
    warned: Option<Instant>,
    /// Since the last warning.
    dropped: usize,
}

impl Exporter {
    /// Until nobody hands in attempts any more, and all were sent or given up.
    async fn run(mut self, mut waiting: mpsc::Receiver<Attempt>) {
        let mut batch = Vec::with_capacity(BATCH_ATTEMPTS_MAX);
        while waiting.recv_many(&mut batch, BATCH_ATTEMPTS_MAX).await > 0 {
            let more = async {
                while batch.len() < BATCH_ATTEMPTS_MAX {
                    let room = BATCH_ATTEMPTS_MAX - batch.len();
                    if waiting.recv_many(&mut batch, room).await == 0 {
                        break;
                    }
                }
            };
            // With fewer, when that is all there is for now.
            tokio::time::timeout(BATCH_PAUSE, more).await.unwrap_or_default();
            self.send(&batch, &waiting).await;
            batch.clear();
        }
    }

    async fn send(&mut self, batch: &[Attempt], waiting: &mpsc::Receiver<Attempt>) {
        let count: usize = batch.iter().map(spans::count).sum();
        let body = || spans::request(&self.resource, batch).encode_to_vec();
        let mut sent = self.post(body()).await;
        if sent.as_ref().is_err_and(|refused| refused.passes) && !is_over(waiting) {
            tokio::time::sleep(RETRY_PAUSE).await;
            sent = self.post(body()).await;
        }
        let (rejected, why) = match sent {
            Ok(rejected) => (rejected.min(count), "it rejected some of them".to_owned()),
            Err(refused) => (count, refused.why),
        };
        self.meters.spans_exported(count - rejected);
        if rejected > 0 {
            self.meters.spans_dropped(rejected);
            self.warn(rejected, &why);
        }
    }

    /// One request. Answers how many spans the collector rejected.
    async fn post(&self, body: Vec<u8>) -> Result<usize, Refused> {
        let lost = |error: &reqwest::Error| {
            let why = if error.is_timeout() { "no answer in time".to_owned() } else { unreached(error) };
            Refused { why, passes: !error.is_timeout() }
        };
        let request = self.telemetry.client.post(self.telemetry.url.clone()).headers(self.telemetry.headers.clone());
        let request = request.header(header::CONTENT_TYPE, "application/x-protobuf").body(body);
        let mut response = request.send().await.map_err(|error| lost(&error))?;
        let status = response.status();
        if !status.is_success() {
            let passes = [
                StatusCode::TOO_MANY_REQUESTS,
                StatusCode::BAD_GATEWAY,
                StatusCode::SERVICE_UNAVAILABLE,
                StatusCode::GATEWAY_TIMEOUT,
            ];
            return Err(Refused { why: format!("it answers {}", status.as_u16()), passes: passes.contains(&status) });
        }
        let mut answer = Vec::new();
        while let Some(piece) = response.chunk().await.map_err(|error| lost(&error))? {
            if answer.len() + piece.len() > ANSWER_BYTES_MAX {
                return Ok(0);
            }
            answer.extend_from_slice(&piece);
        }
        // A collector that answers something else has taken them all the same.
        let partial = ExportTraceServiceResponse::decode(&answer[..]).ok().and_then(|answer| answer.partial_success);
        Ok(partial.map_or(0, |partial| usize::try_from(partial.rejected_spans).unwrap_or(0)))
    }

    fn warn(&mut self, rejected: usize, why: &str) {
        self.dropped += rejected;
        if self.warned.is_some_and(|at| at.elapsed() < WARNING_PAUSE) {
            return;
        }
        self.warned = Some(Instant::now());
        tracing::warn!(
            why,
            collector = %collector(&self.telemetry.url),
            spans = std::mem::take(&mut self.dropped),
            "spans are dropped, mail goes on; said once a minute at most (hint: telemetry.otlp_endpoint; metric \
             hapax_spans_dropped_total)"
        );
    }
}

/// The process ends: nobody hands in any more.
fn is_over(waiting: &mpsc::Receiver<Attempt>) -> bool {
    waiting.is_closed() && waiting.sender_strong_count() == 0
}

/// Why there was no answer: the innermost cause, which names neither the URL nor what was sent.
fn unreached(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    format!("it cannot be reached: {cause}")
}

/// Its host and port.
fn collector(url: &reqwest::Url) -> String {
    let port = url.port_or_known_default().map_or_else(String::new, |port| format!(":{port}"));
    format!("{}{port}", url.host_str().unwrap_or_default())
}
