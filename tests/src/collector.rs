//! A collector of traces (OTLP over HTTP): takes what it is sent, decodes it with the published messages, and keeps the bytes.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hapax_testkit::eventually;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value::Value};
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

const PATIENCE: Duration = Duration::from_secs(60);

/// What it does with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// Takes everything.
    Takes,
    /// Reads, and never answers.
    Silent,
}

/// What arrived.
#[derive(Debug, Default)]
struct Arrived {
    heads: Vec<String>,
    bytes: Vec<u8>,
    requests: Vec<ExportTraceServiceRequest>,
}

/// A collector at a port of its own, until it is dropped.
#[derive(Debug)]
pub struct Collector {
    endpoint: String,
    arrived: Arc<Mutex<Arrived>>,
    task: JoinHandle<()>,
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Collector {
    /// Starts it.
    ///
    /// # Panics
    /// When there is no port.
    pub async fn start(manner: Manner) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let endpoint = format!("http://{}", listener.local_addr().expect("an address"));
        let arrived = Arc::<Mutex<Arrived>>::default();
        let shared = arrived.clone();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, manner, shared.clone()));
            }
        });
        Self { endpoint, arrived, task }
    }

    /// For `telemetry.otlp_endpoint`.
    #[must_use]
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// The spans that have arrived.
    #[must_use]
    pub fn spans(&self) -> Vec<Span> {
        let arrived = self.arrived.lock().unwrap_or_else(PoisonError::into_inner);
        let scopes = arrived.requests.iter().flat_map(|request| &request.resource_spans);
        scopes.flat_map(|of| &of.scope_spans).flat_map(|of| &of.spans).cloned().collect()
    }

    /// Waits for so many spans.
    ///
    /// # Panics
    /// When that takes too long.
    pub async fn until(&self, count: usize) -> Vec<Span> {
        eventually(PATIENCE, async || {
            let spans = self.spans();
            if spans.len() >= count { Ok(spans) } else { Err(spans) }
        })
        .await
    }

    /// The attributes of the last sender.
    ///
    /// # Panics
    /// When nothing has arrived.
    #[must_use]
    pub fn resource(&self) -> Vec<KeyValue> {
        let arrived = self.arrived.lock().unwrap_or_else(PoisonError::into_inner);
        let of = arrived.requests.last().and_then(|request| request.resource_spans.last());
        of.and_then(|of| of.resource.clone()).expect("a resource").attributes
    }

    /// The heads of the requests, and all bodies as they came, one behind the other.
    #[must_use]
    pub fn raw(&self) -> (Vec<String>, Vec<u8>) {
        let arrived = self.arrived.lock().unwrap_or_else(PoisonError::into_inner);
        (arrived.heads.clone(), arrived.bytes.clone())
    }
}

async fn serve(mut stream: TcpStream, manner: Manner, arrived: Arc<Mutex<Arrived>>) {
    while let Some((head, body)) = read(&mut stream).await {
        {
            let mut arrived = arrived.lock().unwrap_or_else(PoisonError::into_inner);
            if let Ok(request) = ExportTraceServiceRequest::decode(&body[..]) {
                arrived.requests.push(request);
            }
            arrived.heads.push(head);
            arrived.bytes.extend_from_slice(&body);
        }
        if manner == Manner::Silent {
            // Whoever asked gives up; that is the end of it.
            let mut rest = [0];
            drop(stream.read(&mut rest).await);
            return;
        }
        let answer = b"HTTP/1.1 200 OK\r\ncontent-type: application/x-protobuf\r\ncontent-length: 0\r\n\r\n";
        if stream.write_all(answer).await.is_err() {
            return;
        }
    }
}

/// One request: its head and its body.
async fn read(stream: &mut TcpStream) -> Option<(String, Vec<u8>)> {
    let mut bytes = Vec::new();
    loop {
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "))?.parse::<usize>().ok()?;
            let mut body = bytes.split_off(end + 4);
            let have = body.len();
            body.resize(length, 0);
            stream.read_exact(&mut body[have..]).await.ok()?;
            return Some((head, body));
        }
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    }
}

/// An attribute of a span, as text.
#[must_use]
pub fn attribute(attributes: &[KeyValue], key: &str) -> Option<String> {
    let value = attributes.iter().find(|attribute| attribute.key == key)?.value.as_ref()?.value.as_ref()?;
    Some(match value {
        Value::StringValue(text) => text.clone(),
        Value::IntValue(number) => number.to_string(),
        Value::BoolValue(flag) => flag.to_string(),
        other => format!("{other:?}"),
    })
}
