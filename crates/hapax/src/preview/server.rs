//! The page's server: what it serves, to whom, and under which policy.
//!
//! Invariants: a request that names another host (DNS rebinding), or changes something from another site's page, is
//! refused before anything else happens; a message is served under a policy that forbids scripts and everything from
//! elsewhere, at an address nobody can guess.

use std::{
    collections::VecDeque,
    convert::Infallible,
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::{
    Json, Router,
    extract::{Path, Query, Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    middleware::{Next, from_fn_with_state},
    response::{
        IntoResponse, Response,
        sse::{Event, KeepAlive, Sse},
    },
    routing::{get, post},
};
use futures_util::stream::{Stream, unfold};
use serde::{Deserialize, Serialize};
use tokio::sync::broadcast::{Receiver, Sender, error::RecvError};
use uuid::Uuid;

use super::{
    catalog::{Catalog, Explained, Kind, Wish},
    display::{Scheme, display},
    view::{Shown, View, take_apart},
};

/// How many messages are kept for frames: a few more than a person looks at.
const SHOWN_MAX: usize = 32;
const KEEP_ALIVE: Duration = Duration::from_secs(15);

const PAGE_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
    frame-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// What is true of every answer.
const HEADERS: [(&str, &str); 5] = [
    ("x-content-type-options", "nosniff"),
    ("referrer-policy", "no-referrer"),
    ("cache-control", "no-store"),
    ("x-dns-prefetch-control", "off"),
    ("cross-origin-opener-policy", "same-origin"),
];

/// What pages are told.
#[derive(Clone, Copy, Debug)]
enum Notice {
    /// The templates are others now.
    Changed,
    /// A message in a frame is so tall, in pixels.
    Height { id: Uuid, pixels: u32 },
}

/// Everything the page is served from.
pub(super) struct Desk {
    pub(super) directory: PathBuf,
    from: String,
    address: SocketAddr,
    catalog: Mutex<(u64, Option<Arc<Catalog>>)>,
    shown: Mutex<VecDeque<(Uuid, Arc<Shown>)>>,
    notices: Sender<Notice>,
}

impl Desk {
    /// Nothing is read yet.
    pub(super) fn new(directory: PathBuf, from: String, address: SocketAddr) -> Self {
        Self {
            directory,
            from,
            address,
            catalog: Mutex::new((0, None)),
            shown: Mutex::new(VecDeque::new()),
            notices: Sender::new(64),
        }
    }

    /// Reads the directory (blocking), and tells every page.
    pub(super) fn read(&self) {
        let catalog = Arc::new(Catalog::read(&self.directory, &self.from));
        {
            let mut place = self.catalog.lock().unwrap_or_else(PoisonError::into_inner);
            *place = (place.0 + 1, Some(catalog));
        }
        // Nobody listening is no failure.
        drop(self.notices.send(Notice::Changed));
    }

    fn catalog(&self) -> (u64, Option<Arc<Catalog>>) {
        self.catalog.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn keep(&self, shown: Shown) -> Uuid {
        let id = Uuid::new_v4();
        let mut kept = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        kept.push_front((id, Arc::new(shown)));
        kept.truncate(SHOWN_MAX);
        id
    }

    fn shown(&self, id: Uuid) -> Option<Arc<Shown>> {
        let kept = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        kept.iter().find(|(own, _)| *own == id).map(|(_, shown)| shown.clone())
    }

    /// Whether a `Host` is one of this machine's own names. The port does not matter: who rebinds a name has a name.
    fn is_own(&self, host: &str) -> bool {
        let name = match host.rsplit_once(':') {
            Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
            _ => host,
        };
        let ip = self.address.ip();
        let own = if ip.is_ipv6() { format!("[{ip}]") } else { ip.to_string() };
        ["localhost", "127.0.0.1", "[::1]", own.as_str()].iter().any(|known| name.eq_ignore_ascii_case(known))
    }
}

/// The routes.
pub(super) fn router(desk: Arc<Desk>) -> Router {
    Router::new()
        .route("/", get(|| asset("text/html; charset=utf-8", include_str!("assets/page.html"))))
        .route("/page.css", get(|| asset("text/css; charset=utf-8", include_str!("assets/page.css"))))
        .route("/page.js", get(|| asset("text/javascript; charset=utf-8", include_str!("assets/page.js"))))
        .route("/api/kinds", get(kinds))
        .route("/api/render", post(render))
        .route("/api/events", get(events))
        .route("/shown/{id}/html", get(html))
        .route("/shown/{id}/part/{number}", get(part))
        .route("/shown/{id}/height/{pixels}", get(height))
        .layer(from_fn_with_state(desk.clone(), guard))
        .with_state(desk)
}

async fn guard(State(desk): State<Arc<Desk>>, request: Request, next: Next) -> Response {
    let headers = request.headers();
    let host = text(headers, &header::HOST).to_owned();
    let mut response = if !desk.is_own(&host) {
        let words = format!("this page is at http://{}/ and answers to no other name\n", desk.address);
        (StatusCode::FORBIDDEN, words).into_response()
    } else if !request.method().is_safe() && is_foreign(headers, &host) {
        (StatusCode::FORBIDDEN, "this page takes nothing from other sites\n").into_response()
    } else {
        next.run(request).await
    };
    let headers = response.headers_mut();
    for (name, value) in HEADERS {
        headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    headers.entry(header::CONTENT_SECURITY_POLICY).or_insert(HeaderValue::from_static(PAGE_POLICY));
    response
}

fn text<'h>(headers: &'h HeaderMap, name: &HeaderName) -> &'h str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

/// Whether a page of another site asks. What is no browser says neither and is none.
fn is_foreign(headers: &HeaderMap, host: &str) -> bool {
    let origin = text(headers, &header::ORIGIN);
    let site = text(headers, &HeaderName::from_static("sec-fetch-site"));
    (headers.contains_key(header::ORIGIN) && origin != format!("http://{host}")) || !["", "same-origin"].contains(&site)
}

async fn asset(media_type: &'static str, body: &'static str) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, media_type)], body)
}

#[derive(Serialize)]
struct Kinds {
    version: u64,
    directory: String,
    from: String,
    kinds: Vec<Kind>,
}

async fn kinds(State(desk): State<Arc<Desk>>) -> Json<Kinds> {
    let (version, catalog) = desk.catalog();
    let kinds = catalog.as_ref().map_or_else(Vec::new, |catalog| catalog.kinds.clone());
    let from = catalog.map_or_else(String::new, |catalog| catalog.from.clone());
    Json(Kinds { version, directory: desk.directory.display().to_string(), from, kinds })
}

/// What the page asks for.
#[derive(Debug, Deserialize)]
struct Asked {
    kind: String,
    #[serde(default)]
    sample: String,
    #[serde(default)]
    locale: String,
    /// Typed into the page; the sample's own text when absent.
    payload: Option<String>,
}

#[derive(Serialize)]
struct Answer {
    version: u64,
    /// What was rendered.
    payload: String,
    /// Where its frame is: `/shown/ID/html`.
    id: Option<Uuid>,
    view: Option<View>,
    problems: Vec<Explained>,
}

async fn render(State(desk): State<Arc<Desk>>, Json(asked): Json<Asked>) -> Result<Json<Answer>, StatusCode> {
    let (version, Some(catalog)) = desk.catalog() else { return Err(StatusCode::SERVICE_UNAVAILABLE) };
    let answer = tokio::task::spawn_blocking(move || {
        let payload = asked.payload.unwrap_or_else(|| catalog.sample(&asked.kind, &asked.sample));
        let locale = Some(asked.locale).filter(|locale| !locale.is_empty());
        match catalog.render(&Wish { kind: asked.kind, locale, payload: payload.clone() }) {
            Ok(bytes) => {
                let (view, shown) = take_apart(&bytes);
                Answer { version, payload, id: Some(desk.keep(shown)), view: Some(view), problems: Vec::new() }
            }
            Err(problems) => {
                let problems = problems.iter().map(|problem| catalog.explain(problem)).collect();
                Answer { version, payload, id: None, view: None, problems }
            }
        }
    });
    answer.await.map(Json).map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)
}

async fn events(State(desk): State<Arc<Desk>>) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let receiver = desk.notices.subscribe();
    // The first event is always one: whoever comes back may have missed a change.
    let stream = unfold((desk, receiver, true), async |(desk, mut receiver, first)| {
        let notice = if first { Notice::Changed } else { next(&mut receiver).await? };
        let event = match notice {
            Notice::Changed => Event::default().event("changed").data(desk.catalog().0.to_string()),
            Notice::Height { id, pixels } => Event::default().event("height").data(format!("{id} {pixels}")),
        };
        Some((Ok(event), (desk, receiver, false)))
    });
    Sse::new(stream).keep_alive(KeepAlive::new().interval(KEEP_ALIVE))
}

async fn next(receiver: &mut Receiver<Notice>) -> Option<Notice> {
    match receiver.recv().await {
        Ok(notice) => Some(notice),
        Err(RecvError::Lagged(_)) => Some(Notice::Changed),
        Err(RecvError::Closed) => None,
    }
}

#[derive(Deserialize)]
struct Dress {
    #[serde(default)]
    dark: bool,
}

async fn html(
    State(desk): State<Arc<Desk>>,
    Path(id): Path<Uuid>,
    Query(dress): Query<Dress>,
    headers: HeaderMap,
) -> Result<Response, StatusCode> {
    let shown = desk.shown(id).ok_or(StatusCode::NOT_FOUND)?;
    let scheme = if dress.dark { Scheme::Dark } else { Scheme::Light };
    let body = display(&shown.html, &format!("/shown/{id}"), &shown.cids, scheme);
    // The host was looked at before.
    let host = text(&headers, &header::HOST);
    let policy = format!(
        "default-src 'none'; img-src data: http://{host}; style-src 'unsafe-inline'; base-uri 'none'; \
         form-action 'none'; frame-ancestors 'self'; sandbox"
    );
    let policy = HeaderValue::from_str(&policy).map_err(|_| StatusCode::BAD_REQUEST)?;
    let mut response = ([(header::CONTENT_TYPE, "text/html; charset=utf-8")], body).into_response();
    response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, policy);
    Ok(response)
}

async fn part(State(desk): State<Arc<Desk>>, Path((id, number)): Path<(Uuid, usize)>) -> Result<Response, StatusCode> {
    let shown = desk.shown(id).ok_or(StatusCode::NOT_FOUND)?;
    let (media_type, bytes) = shown.parts.get(number).ok_or(StatusCode::NOT_FOUND)?;
    let mut response = bytes.clone().into_response();
    let media_type = HeaderValue::from_str(media_type).map_err(|_| StatusCode::NOT_FOUND)?;
    response.headers_mut().insert(header::CONTENT_TYPE, media_type);
    // An SVG opened by itself is a document, which could have scripts.
    let policy = HeaderValue::from_static("default-src 'none'; style-src 'unsafe-inline'; sandbox");
    response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, policy);
    Ok(response)
}

/// Asked for by the probe of a frame.
async fn height(State(desk): State<Arc<Desk>>, Path((id, pixels)): Path<(Uuid, u32)>) -> StatusCode {
    if desk.shown(id).is_none() {
        return StatusCode::NOT_FOUND;
    }
    drop(desk.notices.send(Notice::Height { id, pixels }));
    StatusCode::NO_CONTENT
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_this_machine_are_its_own() {
        let desk = |address: &str| Desk::new(PathBuf::new(), String::new(), address.parse().expect("an address"));
        let local = desk("127.0.0.1:7878");
        for host in ["127.0.0.1:7878", "localhost:7878", "LOCALHOST", "[::1]:7878", "127.0.0.1"] {
            assert!(local.is_own(host), "{host}");
        }
        for host in ["", "evil.example:7878", "127.0.0.1.evil.example", "localhost.evil.example:7878", "10.0.0.1:7878"]
        {
            assert!(!local.is_own(host), "{host}");
        }
        assert!(desk("10.0.0.1:7878").is_own("10.0.0.1:7878"));
    }

    #[test]
    fn other_sites_pages_are_foreign_and_programs_are_not() {
        let headers = |pairs: &[(&'static str, &'static str)]| {
            let pairs = pairs.iter().map(|(n, v)| (HeaderName::from_static(n), HeaderValue::from_static(v)));
            pairs.collect::<HeaderMap>()
        };
        let host = "127.0.0.1:7878";
        assert!(!is_foreign(&headers(&[]), host));
        assert!(!is_foreign(&headers(&[("origin", "http://127.0.0.1:7878"), ("sec-fetch-site", "same-origin")]), host));
        for foreign in [
            ("origin", "https://evil.example"),
            ("origin", "null"),
            ("origin", "http://127.0.0.1:1"),
            ("sec-fetch-site", "cross-site"),
            ("sec-fetch-site", "same-site"),
        ] {
            assert!(is_foreign(&headers(&[foreign]), host), "{foreign:?}");
        }
    }
}
