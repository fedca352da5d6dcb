//! The ledger on a real Postgres: its calls dropped at every poll, and what a refusal means after a lost answer.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use hapax_core::{
    DeliveryKey, Incarnation, Lease, MessageId, Outcome, Phase, Reply, Token, clock::SystemClock, outcome::Cause,
};
use hapax_store::{ConnectOptions, Cursor, migrate::Migrator};
use hapax_testkit::{PgCluster, eventually, migrations_recipe};
use tokio::sync::Semaphore;

use super::*;

const PATIENCE: Duration = Duration::from_secs(30);
const LONG: Duration = Duration::from_secs(3_600);
const POLLS_MAX: usize = 1_000;

/// Polls a future at most so many times, then drops it.
struct Polls<F>(Pin<Box<F>>, usize);

impl<F: Future> Future for Polls<F> {
    type Output = Option<F::Output>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if self.1 == 0 {
            return Poll::Ready(None);
        }
        self.1 -= 1;
        match self.0.as_mut().poll(cx) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending if self.1 == 0 => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    }
}

async fn polled<F: Future>(inner: F, times: usize) -> Option<F::Output> {
    Polls(Box::pin(inner), times).await
}

struct Desk {
    work: Work,
    ledger: Ledger,
    sql: tokio_postgres::Client,
    permits: Arc<Semaphore>,
    _cluster: PgCluster,
}

impl Desk {
    /// A pool of one connection: the next statement certainly meets what a dropped one left behind on it.
    async fn set() -> Self {
        let options = |cluster: &PgCluster| ConnectOptions {
            url: cluster.url(),
            password: None,
            pool_size_max: 1,
            statement_timeout: Duration::from_secs(20),
            application_name: "hapax-test".into(),
        };
        let fill = async |cluster: &PgCluster| {
            Migrator::connect(&options(cluster)).await.expect("connects").up(|_| {}).await.expect("migrates");
            Ok(())
        };
        let recipe = migrations_recipe("migrated");
        let cluster = PgCluster::builder().start_prepared(&recipe, fill).await.expect("a cluster");
        let store = Store::connect(&options(&cluster), Incarnation::fresh()).await.expect("connects");
        store.register("desk", "localhost", "0", LONG, &[]).await.expect("registers");
        let (registry, fatal, hard) = (
            Registry::new(crate::memory::Memory::default(), store.incarnation()),
            Fatal::default(),
            CancellationToken::new(),
        );
        let (clock, tasks): (Arc<dyn Clock>, _) = (Arc::new(SystemClock), TaskTracker::new());
        let ledger = Ledger::start(
            store.clone(),
            clock.clone(),
            registry.clone(),
            fatal.clone(),
            hard.clone(),
            (&Progress::default(), &Meters::default(), None),
            &tasks,
        );
        let sql = cluster.client("postgres").await.expect("a client");
        let work = Work {
            store,
            clock,
            registry,
            fatal,
            meters: Meters::default(),
            bounces: None,
            complained: Arc::default(),
            hard,
            tasks,
        };
        Self { work, ledger, sql, permits: Arc::new(Semaphore::new(1)), _cluster: cluster }
    }

    /// A fresh delivery, claimed.
    async fn claimed(&self) -> IntendRequest {
        let insert = "INSERT INTO outbox.notification (kind, recipients, subject, body_text)
                      VALUES ('note', ARRAY['ada@example.org'], 'Hello', 'Hello') RETURNING id";
        let id = self.sql.query_one(insert, &[]).await.expect("enqueues").get(0);
        let key = DeliveryKey { message_id: MessageId(id), recipient_no: 1 };
        self.claim(key).await
    }

    async fn claim(&self, key: DeliveryKey) -> IntendRequest {
        let claimed = self.work.store.claim(1, Cursor::START, 100, LONG).await.expect("claims").1;
        let lease = claimed.iter().find(|claimed| claimed.key == key).expect("is due").lease;
        IntendRequest { key, lease, token: Token::fresh(), sha256: [7; 32], route: "default".into(), upstream: None }
    }

    fn deadline(&self) -> Duration {
        self.work.clock.boottime() + LONG
    }

    async fn intended(&self, request: &IntendRequest) -> Intended {
        self.ledger.intend(request.clone(), self.deadline()).await
    }

    /// `intend_alone` as the loop starts it, and its answer.
    async fn alone(&self, request: &IntendRequest, unanswered: bool) -> Intended {
        let (answer, answered) = oneshot::channel();
        let asked = Asked { request: request.clone(), asker: Asker { deadline: self.deadline(), answer } };
        intend_alone(self.work.clone(), asked, unanswered).await;
        answered.await.expect("an answer")
    }

    /// Token, number of intents, and reason to be parked.
    async fn row(&self, key: DeliveryKey) -> (Option<uuid::Uuid>, i16, Option<String>) {
        let sql = "SELECT intent, intents, parked FROM outbox.queue WHERE message_id = $1";
        let row = self.sql.query_one(sql, &[&key.message_id.0]).await.expect("queued");
        (row.get(0), row.get(1), row.get(2))
    }

    async fn count(&self, sql: &str, key: DeliveryKey) -> i64 {
        self.sql.query_one(sql, &[&key.message_id.0]).await.expect("counts").get(0)
    }

    fn permit(&self) -> Permit {
        let permit = self.permits.clone().try_acquire_owned().expect("the permit of the one before came back");
        let turn = crate::pace::Pace::default().reserve(Duration::ZERO).expect("there is no rate");
        Permit { _global: permit, _route: None, flight: None, turn }
    }

    async fn until_settled(&self) {
        eventually(PATIENCE, async || (self.permits.available_permits() == 1).then_some(()).ok_or("no permit")).await;
    }
}

fn ended(request: &IntendRequest, intended: bool, outcome: Outcome, verdict: Verdict) -> Settlement {
    Settlement {
        key: request.key,
        lease: request.lease,
        token: request.token,
        intended,
        verdict,
        outcome: Some(outcome),
        route: "default".into(),
        server: None,
        took: Duration::ZERO,
        bytes: 0,
    }
}

fn accepted(request: &IntendRequest) -> Settlement {
    ended(request, true, Outcome::Accepted { reply: Reply::new(250, "2.0.0 ok") }, Verdict::Sent)
}

const ACCEPTED: &str = "SELECT count(*) FROM outbox.attempt WHERE message_id = $1 AND outcome = 'accepted'";
const SENT: &str = "SELECT count(*) FROM outbox.done WHERE message_id = $1 AND state = 'sent'";

#[tokio::test]
async fn an_intend_dropped_at_every_poll_is_no_answer_for_anybody_else_and_granted_when_asked_again() {
    let desk = Desk::set().await;
    for alone in [false, true] {
        let mut done = false;
        for times in 0..POLLS_MAX {
            let dropped = desk.claimed().await;
            let answer = match alone {
                false => polled(desk.intended(&dropped), times).await,
                true => polled(desk.alone(&dropped, false), times).await,
            };
            let stranger = IntendRequest { token: Token::fresh(), lease: Lease::fresh(), ..desk.claimed().await };
            assert_eq!(desk.alone(&stranger, false).await, Intended::Refused, "{times} polls: another's answer");
            for _ in 0..2 {
                assert_eq!(desk.alone(&dropped, false).await, Intended::Granted, "{times} polls");
            }
            let rival = IntendRequest { token: Token::fresh(), ..dropped.clone() };
            assert_eq!(desk.alone(&rival, false).await, Intended::Refused, "{times} polls");
            assert_eq!(desk.row(dropped.key).await, (Some(dropped.token.0), 1, None), "{times} polls");
            if let Some(answer) = answer {
                assert_eq!(answer, Intended::Granted);
                println!("intend, alone = {alone}: {times} polls");
                done = times > 1;
                break;
            }
        }
        assert!(done, "neither dropped nor done");
    }
}

#[tokio::test]
async fn a_late_settle_dropped_at_every_poll_is_in_the_ledger_once_when_it_is_repeated() {
    let desk = Desk::set().await;
    for times in 0..POLLS_MAX {
        let request = desk.claimed().await;
        assert_eq!(desk.intended(&request).await, Intended::Granted);
        desk.work.store.mark_in_doubt(&[desk.work.store.incarnation()], LONG).await.expect("marks");
        let resolve = "SELECT outbox.resolve($1, 1, 'failed', 'test', NULL, true)";
        desk.sql.query_one(resolve, &[&request.key.message_id.0]).await.expect("resolves");
        let late =
            |permit| Ended { settlement: accepted(&request), rest: Rest { permit, passed_over: 2, closing: None } };
        let again = desk.ledger.outcomes.downgrade();
        let done = polled(settle_late(desk.work.clone(), late(Some(desk.permit())), again), times).await.is_some();
        assert_eq!(desk.permits.available_permits(), 1, "{times} polls: a permit is lost");
        // The whole way again, as a courier would hand it in.
        desk.ledger.settle(accepted(&request), desk.permit(), None);
        desk.until_settled().await;
        assert_eq!((desk.count(ACCEPTED, request.key).await, desk.count(SENT, request.key).await), (1, 1), "{times}");
        if done {
            assert!(times > 1, "{times} polls cannot have asked anybody");
            println!("settle_late: {times} polls");
            return;
        }
    }
    panic!("still not done after {POLLS_MAX} polls");
}

/// Found by the model: the answer of an intend is lost, its statement runs, the delivery moves on, the repetition is
/// refused. Whoever believes that it was never written leaves it behind.
#[tokio::test]
async fn rc40_a_refusal_after_a_lost_answer_is_settled_because_the_intent_may_have_been_written() {
    let desk = Desk::set().await;
    let never = |request: &IntendRequest| {
        let outcome = Outcome::not_sent(Phase::Intend, Cause::Aborted, "no durable intent in time");
        ended(request, false, outcome, Verdict::Retry { after: Duration::ZERO, counts: false })
    };
    // Marked in doubt meanwhile, though certainly not sent.
    let first = desk.claimed().await;
    assert_eq!(desk.intended(&first).await, Intended::Granted);
    desk.work.store.mark_in_doubt(&[desk.work.store.incarnation()], LONG).await.expect("marks");
    assert_eq!(desk.alone(&first, false).await, Intended::Refused, "never lost an answer: it is another's");
    assert_eq!(desk.alone(&first, true).await, Intended::RefusedLate);
    desk.ledger.settle(never(&first), desk.permit(), None);
    desk.until_settled().await;
    assert_eq!(desk.row(first.key).await, (None, 1, None), "pending again, not in doubt");

    // An earlier attempt turned out accepted meanwhile.
    let second = desk.claim(first.key).await;
    assert_eq!(desk.intended(&second).await, Intended::Granted);
    desk.work.store.mark_in_doubt(&[desk.work.store.incarnation()], LONG).await.expect("marks");
    let resolve = "SELECT outbox.resolve($1, 1, 'resend', 'test', $2, true)";
    desk.sql.query_one(resolve, &[&first.key.message_id.0, &second.token.0]).await.expect("resolves");
    let third = desk.claim(first.key).await;
    assert_eq!(desk.intended(&third).await, Intended::Granted);
    desk.ledger.settle(accepted(&second), desk.permit(), None);
    desk.until_settled().await;
    assert_eq!(desk.alone(&third, true).await, Intended::RefusedLate);
    desk.ledger.settle(never(&third), desk.permit(), None);
    desk.until_settled().await;
    assert_eq!(desk.count(SENT, first.key).await, 1, "not sending with nobody at work on it");
}
