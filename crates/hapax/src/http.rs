//! `[http]`: what machines ask a running relay. Is it alive (`/livez`), is it of use (`/readyz`), and its figures
//! (`/metrics`).
//!
//! Invariants: `/livez` never touches the database, and a mail server that is down makes nothing unready; nothing in here
//! can be changed from outside, and nothing that is said holds an address, a host or a secret. Whoever asks slowly, or all at
//! once, takes neither descriptors nor memory from the mail: connections are few, short, and for one question each.

mod accept;
pub(crate) mod healthcheck;
mod plain;
mod ready;

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    Router,
    extract::{RawQuery, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use hapax_relay::Past;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{net::TcpListener, sync::Semaphore};

use self::ready::Ready;
use crate::failure::Refusal;

/// Connections at once, how long a question may take to arrive, and how long all of it may take.
const CONNECTIONS_MAX: usize = 64;
const HEADER_TIME_MAX: Duration = Duration::from_secs(5);
const CONNECTION_TIME_MAX: Duration = Duration::from_secs(15);
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

const TEXT: &str = "text/plain; charset=utf-8";
const PLAIN: &str = "text/plain; version=0.0.4; charset=utf-8";
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What the answers are made of.
struct Desk {
    past: Past,
    ready: Ready,
}

/// Listens, and answers from now on until the process ends: also while it waits for its database, and while it drains.
///
/// # Errors
/// An address that cannot be listened at.
pub(crate) async fn start(listen: Option<SocketAddr>, past: &Past) -> Result<(), Refusal> {
    let Some(listen) = listen else { return Ok(()) };
    let refused = |error: std::io::Error| {
        let hint = match error.kind() {
            std::io::ErrorKind::PermissionDenied => "ports below 1024 are for root: set a higher one",
            std::io::ErrorKind::AddrNotAvailable => {
                "this machine has no such address: 127.0.0.1, or 0.0.0.0 for all it has"
            }
            _ => "another process may listen there (ss -ltnp); set another address, or port 0 for any free one",
        };
        Refusal::failed(
            format!("http.listen: cannot listen at {listen}: {}", error.to_string().to_lowercase()),
            &[hint],
        )
    };
    let listener = TcpListener::bind(listen).await.map_err(refused)?;
    let address = listener.local_addr().map_err(refused)?;
    let desk = Arc::new(Desk { ready: Ready::new(past), past: past.clone() });
    tracing::info!(http.listen = %address, "answering /livez, /readyz and /metrics");
    let app = Router::new()
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .with_state(desk);
    // A thread and a runtime of its own: a task that blocks a thread may stop others of its runtime, and /livez has to say so.
    let listener = listener.into_std().map_err(refused)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(refused)?;
    let thread = std::thread::Builder::new().name("http".to_owned());
    let answering = async move {
        match TcpListener::from_std(listener) {
            Ok(listener) => serve(listener, app).await,
            Err(error) => tracing::error!(error = %error, "nothing answers /livez, /readyz and /metrics"),
        }
    };
    thread.spawn(move || runtime.block_on(answering)).map_err(refused)?;
    Ok(())
}

/// Answers for ever. Who comes when there are many already is sent away.
async fn serve(listener: TcpListener, app: Router) {
    let turns = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // It has gone already, or there are no descriptors: that passes.
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let Ok(turn) = turns.clone().try_acquire_owned() else { continue };
        let service = TowerToHyperService::new(app.clone());
        tokio::spawn(async move {
            let _turn = turn;
            let mut http = http1::Builder::new();
            http.timer(TokioTimer::new()).header_read_timeout(HEADER_TIME_MAX).keep_alive(false);
            let answered = http.serve_connection(TokioIo::new(stream), service);
            drop(tokio::time::timeout(CONNECTION_TIME_MAX, answered).await);
        });
    }
}

fn answer(status: StatusCode, kind: &'static str, body: String) -> Response {
    let headers = [(header::CONTENT_TYPE, kind), (header::CACHE_CONTROL, "no-store")];
    (status, headers, body).into_response()
}

async fn livez(State(desk): State<Arc<Desk>>) -> Response {
    match desk.past.progress.stalled(Instant::now()) {
        None => answer(StatusCode::OK, TEXT, "ok\n".to_owned()),
        Some(stall) => {
            let words = format!("stalled: {} has not gone on for {} s\n", stall.task, stall.since.as_secs());
            answer(StatusCode::SERVICE_UNAVAILABLE, TEXT, words)
        }
    }
}

async fn readyz(State(desk): State<Arc<Desk>>, RawQuery(query): RawQuery) -> Response {
    let verbose = query.is_some_and(|query| query.split('&').any(|part| part.split('=').next() == Some("verbose")));
    let report = desk.ready.report().await;
    let status = if report.is_ready() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    answer(status, TEXT, report.text(verbose))
}

async fn metrics(State(desk): State<Arc<Desk>>, headers: HeaderMap) -> Response {
    let text = desk.past.meters.open_metrics();
    let accepted = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    if accept::prefers_open_metrics(accepted) {
        return answer(StatusCode::OK, OPEN_METRICS, text);
    }
    answer(StatusCode::OK, PLAIN, plain::from_open_metrics(&text))
}
