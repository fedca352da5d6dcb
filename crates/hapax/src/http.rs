//! `[http]`: what machines ask a running relay. Is it alive (`/livez`), is it of use (`/readyz`), and its figures
//! (`/metrics`).
//!
//! Invariants: `/livez` never touches the database, and a mail server that is down makes nothing unready; nothing in here
//! can be changed from outside, and nothing that is said holds an address, a host or a secret.

pub(crate) mod healthcheck;
mod plain;
mod ready;

use std::{net::SocketAddr, sync::Arc, time::Instant};

use axum::{
    Router,
    extract::{RawQuery, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use hapax_relay::Past;
use tokio::net::TcpListener;

use self::ready::Ready;
use crate::failure::Refusal;

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
        let hint = "another process may listen there (ss -ltnp); set another address, or port 0 for any free one";
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
    tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, app).await {
            tracing::error!(error = %error, "nothing answers /livez, /readyz and /metrics any more");
        }
    });
    Ok(())
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
    let wanted = headers.get_all(header::ACCEPT);
    let open = wanted
        .iter()
        .filter_map(|value| value.to_str().ok())
        .any(|value| value.contains("application/openmetrics-text"));
    if open {
        return answer(StatusCode::OK, OPEN_METRICS, text);
    }
    answer(StatusCode::OK, PLAIN, plain::from_open_metrics(&text))
}
