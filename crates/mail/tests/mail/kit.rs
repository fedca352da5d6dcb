//! What all tests here use: a route to a scripted server, deliveries, gates, a clock.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use hapax_core::{
    Outcome, Recipient,
    clock::{Clock, SystemClock},
    limits::Timeouts,
};
use hapax_mail::{
    Begun, Connection, Credentials, Data, Envelope, Gate, Heartbeat, Mailer, Message, Secret, Security,
    SmtpServer as Server, Transmitted, Transport,
};
use hapax_testkit::{SmtpServer, smtp::TlsMode};

/// Far more than anything good takes, even on a busy machine.
pub(crate) const LONG: Duration = Duration::from_secs(20);

/// For servers that are silent: all that is waited for.
pub(crate) const SHORT: Duration = Duration::from_millis(1_000);

pub(crate) fn timeouts(limit: Duration) -> Timeouts {
    Timeouts { connect: limit, command: limit, data: limit, body: limit, final_reply: limit }
}

/// The route to a scripted server on loopback, with the security that fits it.
pub(crate) fn route(server: &SmtpServer, tls: TlsMode) -> Server {
    let mut route = Server::new("127.0.0.1", server.port());
    route.timeouts = timeouts(LONG);
    route.hello_name = "relay.example".to_owned();
    route.security = match tls {
        TlsMode::None => Security::None,
        TlsMode::StartTls => Security::Required,
        TlsMode::Implicit => Security::Implicit,
    };
    if tls != TlsMode::None {
        route.ca_file = Some(ca_file(server.ca_pem()));
    }
    route
}

/// A PEM file that lives as long as the tests.
pub(crate) fn ca_file(pem: &str) -> std::path::PathBuf {
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    std::fs::write(file.path(), pem).expect("written");
    file.into_temp_path().keep().expect("kept")
}

pub(crate) fn password(user: &str, password: &str) -> Option<Credentials> {
    Some(Credentials::Password { user: user.to_owned(), password: Secret::new(password) })
}

pub(crate) fn mailer(route: Server) -> Mailer {
    Mailer::new(Transport::Smtp(route), Arc::new(SystemClock)).expect("a good route")
}

pub(crate) async fn open(route: Server) -> Connection {
    mailer(route).open().await.expect("open")
}

/// A delivery: its message and envelope.
#[derive(Clone)]
pub(crate) struct Mail {
    pub(crate) id: String,
    pub(crate) message: Message,
    pub(crate) envelope: Envelope,
}

pub(crate) const ADA: &str = "ada@example.com";

impl Mail {
    pub(crate) fn new() -> Self {
        Self::with_body("Hello Ada.\r\n")
    }

    pub(crate) fn with_body(body: &str) -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(1);
        let id = format!("m{}@shop.example", NEXT.fetch_add(1, Ordering::Relaxed));
        Self::raw(&id, format!("Message-ID: <{id}>\r\nSubject: test\r\n\r\n{body}").as_bytes())
    }

    pub(crate) fn raw(id: &str, raw: &[u8]) -> Self {
        let message = Message::new(raw);
        let envelope = Envelope {
            sender: Some("shop@example.com".to_owned()),
            recipient: Recipient::parse(ADA).expect("an address"),
            size: message.size(),
            eight_bit: message.needs_8bit(),
            name_hint: "hint-0".to_owned(),
        };
        Self { id: id.to_owned(), message, envelope }
    }

    pub(crate) fn big(bytes: usize) -> Self {
        let line = format!("{}\r\n", "0123456789".repeat(7));
        Self::with_body(&line.repeat(bytes / line.len()))
    }
}

/// A gate that stays open.
pub(crate) fn gate() -> Gate {
    let heartbeat = Arc::new(Heartbeat::new(Duration::from_secs(3_600)));
    heartbeat.record(SystemClock.boottime());
    Gate::until(Arc::new(SystemClock), Duration::MAX, heartbeat)
}

pub(crate) async fn ready(connection: Connection, mail: &Mail) -> Data {
    match connection.begin(&mail.envelope).await {
        Begun::Ready(data) => data,
        Begun::Ended { outcome, .. } => panic!("not ready: {outcome:?}"),
    }
}

/// One whole delivery.
pub(crate) async fn deliver(connection: Connection, mail: &Mail) -> Transmitted {
    match connection.begin(&mail.envelope).await {
        Begun::Ready(data) => data.transmit(&mail.message, &gate()).await,
        Begun::Ended { outcome, connection, .. } => Transmitted { outcome, connection, marker_begun: false, bytes: 0 },
    }
}

#[track_caller]
pub(crate) fn assert_accepted(transmitted: &Transmitted) {
    assert_eq!(transmitted.outcome.as_str(), "accepted", "{:?}", transmitted.outcome);
    assert!(transmitted.connection.is_some() && transmitted.marker_begun);
}

/// Waits until the server has seen the end of every connection.
pub(crate) async fn all_ended(server: &SmtpServer) {
    server.wait_until(|ledger| ledger.connections().iter().all(|connection| connection.ended.is_some())).await;
}

pub(crate) fn short(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Accepted { .. } => "accepted".to_owned(),
        Outcome::Refused { phase, .. } => format!("{} {phase}", outcome.as_str()),
        Outcome::NotSent { phase, cause, .. } => format!("not_sent {phase} {cause}"),
        Outcome::Unknown { cause, .. } => format!("unknown {cause}"),
    }
}

/// Polls a future at most so many times, then drops it in the middle of whatever it was doing.
pub(crate) struct Polls<F> {
    inner: Pin<Box<F>>,
    left: usize,
}

impl<F: Future> Polls<F> {
    pub(crate) fn new(inner: F, times: usize) -> Self {
        Self { inner: Box::pin(inner), left: times }
    }
}

impl<F: Future> Future for Polls<F> {
    type Output = Option<F::Output>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        self.left -= 1;
        match self.inner.as_mut().poll(cx) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending if self.left == 0 => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    }
}

/// A clock that stands at zero for so many questions, and at an hour from then on.
#[derive(Debug)]
pub(crate) struct JumpingClock {
    questions_left: AtomicU64,
}

impl JumpingClock {
    pub(crate) fn after(questions: u64) -> Arc<Self> {
        Arc::new(Self { questions_left: AtomicU64::new(questions) })
    }
}

impl Clock for JumpingClock {
    fn boottime(&self) -> Duration {
        let less = |left: u64| left.checked_sub(1);
        match self.questions_left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, less) {
            Ok(_) => Duration::ZERO,
            Err(_) => Duration::from_secs(3_600),
        }
    }
}
