//! Two group committers: intents before the end marker, outcomes after the reply. Each collects what has arrived while
//! its previous commit was under way; no timers. Bounded by the permits: whoever waits here holds one.
//!
//! Invariants: an answer [`Intended::Granted`] is given only for a commit whose answer was read. A settle is never given
//! up while the process may live: the *mark* is repeated, never the send. Nothing is dropped because a row "was not
//! there": that is information for `settle_late`.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use hapax_core::{clock::Clock, fault, mutant};
use hapax_store::{IntendAnswer, IntendRequest, LateAnswer, Settlement, Store, Verdict, Wait};
use tokio::sync::{mpsc, oneshot};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    bounces,
    closing::{Closing, Durable},
    config::HardBounces,
    fatal::Fatal,
    job::Permit,
    meters::{Meters, Step},
    progress::{Progress, Pulse},
    registry::Registry,
};

/// The most deliveries in one commit.
const BATCH_MAX: usize = 512;

/// Between two tries while the database is away.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// Between two lines that say so.
const COMPLAINT_INTERVAL: Duration = Duration::from_secs(5);

/// What became of an intent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Intended {
    /// Durable, ours: the end marker may be written.
    Granted,
    /// Not ours any more, and never was: nothing of this attempt is written anywhere.
    Refused,
    /// Not ours any more, but an earlier execution, whose answer was lost, may have written the intent: the row may have
    /// been put in doubt since. Nothing was transmitted, and that must be said.
    RefusedLate,
    /// Other bytes than an attempt in doubt.
    Changed,
    /// No answer in time: it may or may not have been written, and nothing may be transmitted.
    Unavailable,
}

struct Asked {
    request: IntendRequest,
    asker: Asker,
}

struct Asker {
    /// CLOCK_BOOTTIME after which an answer is of no use.
    deadline: Duration,
    answer: oneshot::Sender<Intended>,
}

struct Ended {
    settlement: Settlement,
    rest: Rest,
}

struct Rest {
    permit: Option<Permit>,
    /// How often the hot statement has passed it over.
    passed_over: u32,
    closing: Option<Closing>,
}

impl Ended {
    /// Writes its closing line, if it has one that was not written yet.
    fn close(&mut self, durable: Durable) {
        if let Some(closing) = self.rest.closing.take() {
            closing.log(&self.settlement, durable);
        }
    }

    /// Nobody makes it durable any more, but whoever tells what memory keeps: what is known of it is said now.
    fn give_up(mut self) {
        self.close(Durable::No);
    }
}

/// Where couriers hand in intents and outcomes.
#[derive(Clone)]
pub(crate) struct Ledger {
    intents: mpsc::UnboundedSender<Asked>,
    outcomes: mpsc::UnboundedSender<Ended>,
}

impl Ledger {
    /// Starts both committers on `tasks`. They end when every handle has been dropped and all work is done; with `hard`
    /// cancelled they stop trying while the database is away.
    pub(crate) fn start(
        store: Store,
        clock: Arc<dyn Clock>,
        registry: Registry,
        fatal: Fatal,
        hard: CancellationToken,
        (progress, meters, bounces): (&Progress, &Meters, Option<HardBounces>),
        tasks: &TaskTracker,
    ) -> Self {
        let (intents, asked) = mpsc::unbounded_channel();
        let (outcomes, ended) = mpsc::unbounded_channel();
        let pulse = |task| progress.pulse(task, store.call_longest());
        let (intend, settle) = (pulse("intend"), pulse("settle"));
        let work = Work {
            store,
            clock,
            registry,
            fatal,
            meters: meters.clone(),
            bounces,
            complained: Arc::default(),
            hard,
            tasks: tasks.clone(),
        };
        tasks.spawn(intend_loop(work.clone(), asked, intend));
        tasks.spawn(settle_loop(work, ended, outcomes.downgrade(), settle));
        Self { intents, outcomes }
    }

    /// Asks for an intent, useful until `deadline` (CLOCK_BOOTTIME).
    pub(crate) async fn intend(&self, request: IntendRequest, deadline: Duration) -> Intended {
        let (answer, answered) = oneshot::channel();
        if self.intents.send(Asked { request, asker: Asker { deadline, answer } }).is_err() {
            return Intended::Unavailable;
        }
        answered.await.unwrap_or(Intended::Unavailable)
    }

    /// Hands in an outcome with the permit that is given back once it is durable.
    pub(crate) fn settle(&self, settlement: Settlement, permit: Permit, closing: Option<Closing>) {
        let rest = Rest { permit: Some(permit), passed_over: 0, closing };
        let ended = Ended { settlement, rest };
        // The receiver lives as long as any handle; when it is gone the process is going down, and what has an intent
        // will be in doubt, or the database is another one, and the guard tells it from memory.
        if let Err(mpsc::error::SendError(ended)) = self.outcomes.send(ended) {
            tracing::warn!("an outcome came after the ledger was closed, it is kept in memory");
            ended.give_up();
        }
    }
}

#[derive(Clone)]
struct Work {
    store: Store,
    clock: Arc<dyn Clock>,
    registry: Registry,
    fatal: Fatal,
    meters: Meters,
    bounces: Option<HardBounces>,
    complained: Arc<Mutex<Option<Instant>>>,
    hard: CancellationToken,
    tasks: TaskTracker,
}

impl Work {
    /// Whether it is time to say again that the database does not take outcomes: it is asked ten times a second.
    fn complains(&self) -> bool {
        let mut last = self.complained.lock().unwrap_or_else(PoisonError::into_inner);
        let due = last.is_none_or(|last| last.elapsed() >= COMPLAINT_INTERVAL);
        if due {
            *last = Some(Instant::now());
        }
        due
    }

    /// Waits a little before trying again; false when it is time to give up.
    async fn pause(&self) -> bool {
        tokio::select! {
            () = tokio::time::sleep(RETRY_PAUSE) => true,
            () = self.hard.cancelled() => false,
            () = self.fatal.reported() => false,
        }
    }
}

async fn intend_loop(work: Work, mut asked: mpsc::UnboundedReceiver<Asked>, pulse: Pulse) {
    let alive = work.fatal.alive("intend");
    let mut batch = Vec::new();
    while work_of(&pulse, asked.recv_many(&mut batch, BATCH_MAX)).await > 0 {
        let (requests, askers): (Vec<_>, Vec<_>) = batch.drain(..).map(|asked| (asked.request, asked.asker)).unzip();
        fault::point("intend_sent");
        let asked_at = Instant::now();
        let answered = work.store.intend(&requests, Wait::Skip).await;
        work.meters.committed(Step::Intend, asked_at.elapsed());
        match answered {
            Ok(answers) => {
                for ((request, asker), answer) in requests.into_iter().zip(askers).zip(answers) {
                    match answer {
                        IntendAnswer::Granted => tell(&request, asker, Intended::Granted),
                        IntendAnswer::Refused => tell(&request, asker, Intended::Refused),
                        IntendAnswer::Changed => tell(&request, asker, Intended::Changed),
                        IntendAnswer::Busy => {
                            work.tasks.spawn(intend_alone(work.clone(), Asked { request, asker }, false));
                        }
                    }
                }
            }
            Err(error) => {
                let Ok(error) = work.fatal.check_guard(error) else { break };
                tracing::warn!(error = %error, deliveries = requests.len(), "intents have no answer, each is asked for again");
                for (request, asker) in requests.into_iter().zip(askers) {
                    if mutant::is("lost_intend_granted") {
                        tell(&request, asker, Intended::Granted);
                        continue;
                    }
                    work.tasks.spawn(intend_alone(work.clone(), Asked { request, asker }, true));
                }
            }
        }
    }
    alive.finished();
}

/// One intent that was passed over or whose answer was lost: the same statement again, waiting for the row, never a
/// SELECT, until it is definite or of no use. `written`: an execution without an answer may have written it.
async fn intend_alone(work: Work, asked: Asked, mut written: bool) {
    let answer = loop {
        if work.clock.boottime() >= asked.asker.deadline {
            break Intended::Unavailable;
        }
        match work.store.intend(std::slice::from_ref(&asked.request), Wait::ForLocks).await {
            Ok(answers) => match answers.first() {
                Some(IntendAnswer::Granted) => break Intended::Granted,
                Some(IntendAnswer::Changed) => break Intended::Changed,
                _ if written => break Intended::RefusedLate,
                _ => break Intended::Refused,
            },
            Err(error) => {
                written = true;
                let Ok(error) = work.fatal.check_guard(error) else { break Intended::Unavailable };
                tracing::debug!(error = %error, "an intent has no answer yet");
                if !work.pause().await {
                    break Intended::Unavailable;
                }
            }
        }
    };
    tell(&asked.request, asked.asker, answer);
}

/// A courier that has gone meanwhile needs no answer: dropping a dialogue before the marker is always safe.
fn tell(request: &IntendRequest, asker: Asker, answer: Intended) {
    if asker.answer.send(answer).is_err() {
        tracing::debug!(delivery = %request.key, ?answer, "nobody waits for this intent any more");
    }
}

/// Waits for work, for however long that takes.
async fn work_of(pulse: &Pulse, received: impl Future<Output = usize>) -> usize {
    pulse.idle();
    let count = received.await;
    pulse.beat();
    count
}

async fn settle_loop(
    work: Work,
    mut ended: mpsc::UnboundedReceiver<Ended>,
    again: mpsc::WeakUnboundedSender<Ended>,
    pulse: Pulse,
) {
    let alive = work.fatal.alive("settle");
    let mut batch = Vec::new();
    while work_of(&pulse, ended.recv_many(&mut batch, BATCH_MAX)).await > 0 {
        let (mut left, mut open) = (std::mem::take(&mut batch), true);
        while !left.is_empty() && open {
            (left, open) = settle_batch(&work, left, &again, &pulse).await;
        }
        if !open {
            left.into_iter().for_each(Ended::give_up);
            break;
        }
    }
    ended.close();
    while let Ok(ended) = ended.try_recv() {
        ended.give_up();
    }
    alive.finished();
}

/// One commit. Answers what the hot statement passed over once (it goes into the next batch), and whether to go on.
async fn settle_batch(
    work: &Work,
    batch: Vec<Ended>,
    again: &mpsc::WeakUnboundedSender<Ended>,
    pulse: &Pulse,
) -> (Vec<Ended>, bool) {
    pulse.beat();
    let (settlements, rests): (Vec<_>, Vec<_>) = batch.into_iter().map(|ended| (ended.settlement, ended.rest)).unzip();
    fault::point("settle_sent");
    let asked_at = Instant::now();
    let answered = work.store.settle(&settlements).await;
    work.meters.committed(Step::Settle, asked_at.elapsed());
    let batch = settlements.into_iter().zip(rests).map(|(settlement, rest)| Ended { settlement, rest });
    match answered {
        Ok(settled) => {
            fault::point("settled");
            let (mut left, mut closed) = (Vec::new(), Vec::<Ended>::new());
            for (mut ended, settled) in batch.zip(settled) {
                ended.rest.passed_over += 1;
                if settled {
                    finish(work, &mut ended);
                    closed.push(ended);
                } else if ended.rest.passed_over == 1 {
                    left.push(ended);
                } else {
                    work.tasks.spawn(settle_late(work.clone(), ended, again.clone()));
                }
            }
            // Beside the next commit, not before it.
            work.tasks.spawn(async move {
                closed.iter_mut().for_each(|ended| ended.close(Durable::Yes));
            });
            (left, true)
        }
        Err(error) => {
            let batch: Vec<Ended> = batch.collect();
            let Ok(error) = work.fatal.check_guard(error) else { return (batch, false) };
            if mutant::is("outcome_dropped") {
                batch.into_iter().for_each(|mut ended| finish(work, &mut ended));
                return (Vec::new(), true);
            }
            if !error.may_blame_values() {
                if work.complains() {
                    tracing::warn!(
                        error = error.in_full(),
                        deliveries = batch.len(),
                        "outcomes are not durable yet, settling again"
                    );
                }
                let go_on = work.pause().await;
                return (batch, go_on);
            }
            (bisect(work, batch, &error, again, pulse).await, true)
        }
    }
}

/// Something in the batch is not to the database's liking (a byte in a server's reply, say): halves are tried until the
/// culprit is alone, and that one is settled with its code only.
async fn bisect(
    work: &Work,
    mut batch: Vec<Ended>,
    error: &hapax_store::Error,
    again: &mpsc::WeakUnboundedSender<Ended>,
    pulse: &Pulse,
) -> Vec<Ended> {
    if batch.len() > 1 {
        let second = batch.split_off(batch.len() / 2);
        let mut left = Box::pin(settle_batch(work, batch, again, pulse)).await.0;
        left.extend(Box::pin(settle_batch(work, second, again, pulse)).await.0);
        return left;
    }
    for ended in &mut batch {
        tracing::error!(error = %error, delivery = %ended.settlement.key, "an outcome cannot be stored as it is, storing its code only");
        ended.settlement = bare(&ended.settlement);
        ended.rest.passed_over = 0;
    }
    if work.pause().await {
        return batch;
    }
    batch.into_iter().for_each(Ended::give_up);
    Vec::new()
}

/// The same outcome without any text that came from outside.
fn bare(settlement: &Settlement) -> Settlement {
    use hapax_core::{Outcome, Reply};
    let plain = |reply: &Reply| Reply::new(reply.code, "");
    let outcome = settlement.outcome.as_ref().map(|outcome| match outcome {
        Outcome::Accepted { reply } => Outcome::Accepted { reply: plain(reply) },
        Outcome::Refused { permanent, phase, reply } => {
            Outcome::Refused { permanent: *permanent, phase: *phase, reply: plain(reply) }
        }
        Outcome::NotSent { phase, cause, reply, .. } => Outcome::NotSent {
            phase: *phase,
            cause: *cause,
            reply: reply.as_ref().map(plain),
            detail: "details could not be stored".into(),
        },
        Outcome::Unknown { cause, reply, .. } => Outcome::Unknown {
            cause: *cause,
            reply: reply.as_ref().map(plain),
            detail: "details could not be stored".into(),
        },
    });
    let word = "details could not be stored".to_owned();
    let verdict = match &settlement.verdict {
        Verdict::Failed(_) => Verdict::Failed(word),
        Verdict::InDoubt(_) => Verdict::InDoubt(word),
        Verdict::Held(_) => Verdict::Held(word),
        Verdict::Poison(_) => Verdict::Poison(word),
        other => other.clone(),
    };
    Settlement { outcome, verdict, server: None, ..settlement.clone() }
}

/// An outcome whose delivery has moved on, or is locked by somebody for long.
async fn settle_late(work: Work, mut ended: Ended, again: mpsc::WeakUnboundedSender<Ended>) {
    if ended.settlement.outcome.is_none() || mutant::is("late_truth_dropped") {
        // Nothing was attempted (it had expired): nothing to tell anybody.
        finish(&work, &mut ended);
        return ended.close(Durable::Late);
    }
    loop {
        fault::point("settle_late_sent");
        match work.store.settle_late(&ended.settlement).await {
            Ok(LateAnswer::Again) => {
                ended.rest.passed_over = 0;
                match again.upgrade() {
                    Some(outcomes) => {
                        if let Err(mpsc::error::SendError(ended)) = outcomes.send(ended) {
                            settle_alone(&work, ended).await;
                        }
                    }
                    None => settle_alone(&work, ended).await,
                }
                return;
            }
            Ok(answer) => {
                fault::point("settled_late");
                tracing::info!(delivery = %ended.settlement.key, ?answer, "an outcome came late");
                finish(&work, &mut ended);
                return ended.close(Durable::Late);
            }
            Err(error) => {
                let Ok(error) = work.fatal.check_guard(error) else { return ended.give_up() };
                if error.may_blame_values() {
                    tracing::error!(error = %error, delivery = %ended.settlement.key, "a late outcome cannot be stored as it is, storing its code only");
                    ended.settlement = bare(&ended.settlement);
                }
                if !work.pause().await {
                    return ended.give_up();
                }
            }
        }
    }
}

/// As the loop does it, when the loop has ended.
async fn settle_alone(work: &Work, mut ended: Ended) {
    loop {
        match work.store.settle(std::slice::from_ref(&ended.settlement)).await {
            Ok(settled) if settled == [true] => {
                finish(work, &mut ended);
                return ended.close(Durable::Yes);
            }
            Ok(_) => {}
            Err(error) if work.complains() => {
                tracing::warn!(error = %error, delivery = %ended.settlement.key, "an outcome is not durable yet");
            }
            Err(_) => {}
        }
        if !work.pause().await {
            return ended.give_up();
        }
    }
}

fn finish(work: &Work, ended: &mut Ended) {
    work.registry.settled(ended.settlement.token);
    drop(ended.rest.permit.take());
    let settled = &ended.settlement;
    if let Some(wanted) = work.bounces.filter(|_| bounces::is_hard(settled)) {
        work.tasks.spawn(bounces::enter(work.store.clone(), wanted, settled.key, settled.token));
    }
}

#[cfg(test)]
mod tests;
