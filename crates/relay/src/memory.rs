//! What this process knows of its attempts of the last minutes, whatever its database remembers: every token an intent was
//! asked for under, and how it ended. After an asynchronous failover this is the only record of them.
//!
//! Bounded: attempts whose outcome is durable are forgotten after [`AGE_MAX`], and the oldest of them when there are more
//! than [`ATTEMPTS_MAX`]; the others are bounded by the relay's permits. Texts are cut to [`TEXT_CHARS_MAX`] characters:
//! some 600 bytes an attempt, 60 MB when it is full.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use hapax_core::{Incarnation, Outcome, Reply, Token};
use hapax_store::{Attempted, IntendRequest, Settlement, Verdict};
use tokio_util::task::TaskTracker;

/// How long a durable outcome is remembered, from its intent.
const AGE_MAX: Duration = Duration::from_secs(15 * 60);

/// How many attempts are remembered at most.
const ATTEMPTS_MAX: usize = 100_000;

/// The longest text that is remembered of a reply or a reason.
const TEXT_CHARS_MAX: usize = 200;

/// The memory of a process, over all its incarnations. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    attempts: Arc<Mutex<Attempts>>,
    /// Couriers that went on reading their replies when their incarnation ended.
    pub(crate) stragglers: TaskTracker,
}

#[derive(Debug, Default)]
struct Attempts {
    known: HashMap<Token, Known>,
    /// In the order of their intents.
    order: VecDeque<Token>,
}

#[derive(Debug)]
struct Known {
    attempted: Attempted,
    asked_at: Duration,
    durable: bool,
    /// It was said that its message is gone: while its reply was outstanding, or at its end.
    mourned: Option<bool>,
}

impl Memory {
    fn lock(&self) -> MutexGuard<'_, Attempts> {
        self.attempts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An intent is about to be asked for. `now` is CLOCK_BOOTTIME.
    pub(crate) fn asked(&self, request: &IntendRequest, relay: Incarnation, now: Duration) {
        let attempted = Attempted {
            relay,
            key: request.key,
            lease: request.lease,
            token: request.token,
            route: request.route.clone(),
            age: Duration::ZERO,
            granted: false,
            end: None,
        };
        let mut attempts = self.lock();
        attempts.known.insert(request.token, Known { attempted, asked_at: now, durable: false, mourned: None });
        attempts.order.push_back(request.token);
        attempts.forget_old(now);
    }

    pub(crate) fn granted(&self, token: Token) {
        if let Some(known) = self.lock().known.get_mut(&token) {
            known.attempted.granted = true;
        }
    }

    /// How an attempt ended; nothing for those that never asked for an intent.
    pub(crate) fn ended(&self, settlement: &Settlement) {
        if let Some(known) = self.lock().known.get_mut(&settlement.token) {
            known.attempted.end = Some(brief(settlement));
        }
    }

    pub(crate) fn durable(&self, token: Token) {
        if let Some(known) = self.lock().known.get_mut(&token) {
            known.durable = true;
        }
    }

    /// Whether that its message is gone is news: once, and once more when its reply has come since.
    pub(crate) fn mourn(&self, attempt: &Attempted) -> bool {
        let ended = Some(attempt.end.is_some());
        self.lock().known.get_mut(&attempt.token).is_none_or(|known| {
            let news = known.mourned < ended;
            known.mourned = known.mourned.max(ended);
            news
        })
    }

    pub(crate) fn forget(&self, token: Token) {
        self.lock().known.remove(&token);
    }

    /// Everything that has ended or may have left, in the order of the intents.
    pub(crate) fn all(&self, now: Duration) -> Vec<Attempted> {
        self.some(now, |known| known.attempted.granted || known.attempted.end.is_some())
    }

    /// What has ended and is not durable, of other incarnations than `present`.
    pub(crate) fn untold(&self, now: Duration, present: Option<Incarnation>) -> Vec<Attempted> {
        self.some(now, |known| {
            known.attempted.end.is_some() && !known.durable && Some(known.attempted.relay) != present
        })
    }

    fn some(&self, now: Duration, wanted: impl Fn(&Known) -> bool) -> Vec<Attempted> {
        let attempts = self.lock();
        let known = attempts.order.iter().filter_map(|token| attempts.known.get(token));
        known
            .filter(|known| wanted(known))
            .map(|known| Attempted { age: now.saturating_sub(known.asked_at), ..known.attempted.clone() })
            .collect()
    }
}

impl Attempts {
    /// From the front, what is durable and too old or too much. What is not durable stays, behind the others.
    fn forget_old(&mut self, now: Duration) {
        for _ in 0..8 {
            let Some(token) = self.order.front().copied() else { return };
            match self.known.get(&token) {
                None => {}
                Some(known) => {
                    let old = now.saturating_sub(known.asked_at) > AGE_MAX || self.known.len() > ATTEMPTS_MAX;
                    match (old, known.durable) {
                        (false, _) => return,
                        (true, true) => drop(self.known.remove(&token)),
                        (true, false) => self.order.push_back(token),
                    }
                }
            }
            self.order.pop_front();
        }
    }
}

/// The same with short texts.
fn brief(settlement: &Settlement) -> Settlement {
    let cut = |text: &str| text.chars().take(TEXT_CHARS_MAX).collect::<String>();
    let reply = |reply: &Reply| Reply { text: cut(&reply.text), ..reply.clone() };
    let outcome = settlement.outcome.as_ref().map(|outcome| match outcome {
        Outcome::Accepted { reply: said } => Outcome::Accepted { reply: reply(said) },
        Outcome::Refused { permanent, phase, reply: said } => {
            Outcome::Refused { permanent: *permanent, phase: *phase, reply: reply(said) }
        }
        Outcome::NotSent { phase, cause, reply: said, detail } => {
            Outcome::NotSent { phase: *phase, cause: *cause, reply: said.as_ref().map(reply), detail: cut(detail) }
        }
        Outcome::Unknown { cause, reply: said, detail } => {
            Outcome::Unknown { cause: *cause, reply: said.as_ref().map(reply), detail: cut(detail) }
        }
    });
    let verdict = match &settlement.verdict {
        Verdict::Failed(reason) => Verdict::Failed(cut(reason)),
        Verdict::InDoubt(reason) => Verdict::InDoubt(cut(reason)),
        Verdict::Held(reason) => Verdict::Held(cut(reason)),
        Verdict::Poison(reason) => Verdict::Poison(cut(reason)),
        other => other.clone(),
    };
    Settlement { outcome, verdict, server: settlement.server.as_deref().map(cut), ..settlement.clone() }
}

#[cfg(test)]
mod tests {
    use hapax_core::{DeliveryKey, Lease, MessageId};

    use super::*;

    fn request() -> IntendRequest {
        let key = DeliveryKey { message_id: MessageId(Lease::fresh().0), recipient_no: 1 };
        IntendRequest {
            key,
            lease: Lease::fresh(),
            token: Token::fresh(),
            sha256: [0; 32],
            route: "default".into(),
            upstream: None,
        }
    }

    fn settlement(request: &IntendRequest, text: &str) -> Settlement {
        Settlement {
            key: request.key,
            lease: request.lease,
            token: request.token,
            intended: true,
            verdict: Verdict::Sent,
            outcome: Some(Outcome::Accepted { reply: Reply::new(250, text) }),
            route: "default".into(),
            server: None,
            took: Duration::ZERO,
            bytes: 1,
        }
    }

    #[test]
    fn what_is_durable_is_forgotten_in_time_and_what_is_not_never() {
        let (memory, relay) = (Memory::default(), Incarnation::fresh());
        let (old, open) = (request(), request());
        for request in [&old, &open] {
            memory.asked(request, relay, Duration::ZERO);
            memory.granted(request.token);
        }
        memory.ended(&settlement(&old, "2.0.0 ok"));
        memory.durable(old.token);
        memory.asked(&request(), relay, AGE_MAX);
        assert_eq!(memory.all(AGE_MAX).len(), 2, "the third has neither left nor ended");
        memory.asked(&request(), relay, AGE_MAX + Duration::from_millis(1));
        let left: Vec<Token> = memory.all(AGE_MAX).iter().map(|attempted| attempted.token).collect();
        assert_eq!(left, [open.token]);
    }

    #[test]
    fn it_is_bounded_and_gives_up_the_oldest_first() {
        let (memory, relay) = (Memory::default(), Incarnation::fresh());
        let mut first = None;
        for number in 0..ATTEMPTS_MAX + 10 {
            let request = request();
            first.get_or_insert(request.token);
            memory.asked(&request, relay, Duration::from_millis(number as u64 / 1000));
            memory.ended(&settlement(&request, "ok"));
            memory.durable(request.token);
        }
        let kept = memory.all(Duration::from_secs(1));
        assert_eq!(kept.len(), ATTEMPTS_MAX);
        assert!(kept.iter().all(|attempted| Some(attempted.token) != first));
    }

    #[test]
    fn long_replies_are_cut_and_only_other_incarnations_are_told() {
        let (memory, relay) = (Memory::default(), Incarnation::fresh());
        let request = request();
        memory.asked(&request, relay, Duration::ZERO);
        memory.ended(&settlement(&request, &"x".repeat(5_000)));
        assert!(memory.untold(Duration::ZERO, Some(relay)).is_empty());
        let untold = memory.untold(Duration::from_secs(3), None);
        assert_eq!(untold[0].age, Duration::from_secs(3));
        let end = untold[0].end.as_ref().expect("ended");
        let reply = end.outcome.as_ref().and_then(Outcome::reply).expect("a reply");
        assert_eq!(reply.text.len(), TEXT_CHARS_MAX);
        memory.durable(request.token);
        assert!(memory.untold(Duration::ZERO, None).is_empty());
        let outstanding = Attempted { end: None, ..untold[0].clone() };
        let said = [&outstanding, &outstanding, &untold[0], &untold[0], &outstanding].map(|one| memory.mourn(one));
        assert_eq!(said, [true, false, true, false, false], "a lost message is said once, and once more at its end");
    }
}
