//! Random lists of operations against a small model of what the protocol means, with a printed seed.
//!
//! The model is written from PROTOCOL.md and shares nothing with the SQL: a delivery is a place, a ledger and a few
//! facts. After every step the whole visible state must be what the model says, and the properties P1 to P8 must hold as
//! far as SQL can see them. `HAPAX_SEED` repeats one list, `HAPAX_RUNS` makes more of them.

use std::collections::BTreeMap;

use hapax_core::{DeliveryKey, Outcome, Token};
use hapax_store::{IntendAnswer, LateAnswer, Verdict};
use uuid::Uuid;

use crate::common::{Attempt, GRACE, Stage, accepted, deferred, not_sent, refused, settlement, unknown};

const STEPS: usize = 40;
const RUNS: u64 = 60;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Word {
    Accepted,
    Refused,
    Deferred,
    NotSent,
    Unknown,
}

impl Word {
    /// Doubt is what most of the protocol is about.
    const ROLLED: [Self; 6] =
        [Self::Accepted, Self::Refused, Self::Deferred, Self::NotSent, Self::Unknown, Self::Unknown];

    fn end(self) -> (Outcome, Verdict) {
        match self {
            Self::Accepted => accepted(),
            Self::Refused => refused(),
            Self::Deferred => deferred(),
            Self::NotSent => not_sent(),
            Self::Unknown => unknown(),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// Pending, or claimed under this lease.
    Queue(Option<Uuid>),
    Held,
    Sending(Uuid),
    Doubt(Uuid),
    Sent {
        by_reply: bool,
        token: Option<Uuid>,
    },
    Failed,
    Cancelled,
}

struct Delivery {
    key: DeliveryKey,
    place: Place,
    ledger: BTreeMap<Uuid, Word>,
    accepted_late: bool,
    decided_before: bool,
    attempts: Vec<Attempt>,
    /// Tokens that were granted: their markers may have been written.
    granted: Vec<Uuid>,
    /// Copies that somebody decided to send although an earlier one may have arrived.
    resends: usize,
}

impl Delivery {
    fn open_doubts(&self) -> usize {
        self.ledger.values().filter(|word| **word == Word::Unknown).count()
    }

    /// Granted, and nothing definite is known.
    fn is_open(&self, attempt: &Attempt) -> bool {
        let token = attempt.token.0;
        self.granted.contains(&token) && matches!(self.ledger.get(&token), None | Some(Word::Unknown))
    }

    fn finish_if_accepted(&mut self) -> bool {
        let token = self.ledger.iter().find(|(_, word)| **word == Word::Accepted).map(|(token, _)| *token);
        if token.is_some() {
            (self.place, self.accepted_late) = (Place::Sent { by_reply: true, token }, false);
        }
        token.is_some()
    }

    fn intend(&mut self, attempt: &Attempt) -> bool {
        match self.place {
            Place::Queue(Some(lease)) if lease == attempt.lease.0 => {
                let arrived_perhaps = self.granted.iter().filter(|token| {
                    !matches!(self.ledger.get(token), Some(Word::Refused | Word::Deferred | Word::NotSent))
                });
                let arrived_perhaps = arrived_perhaps.count();
                assert!(
                    arrived_perhaps <= self.resends,
                    "P2: {arrived_perhaps} copies may exist, {} decided",
                    self.resends
                );
                self.place = Place::Sending(attempt.token.0);
                self.granted.push(attempt.token.0);
                true
            }
            Place::Sending(token) => token == attempt.token.0 && !self.accepted_late,
            _ => false,
        }
    }

    /// What hot and cold settle mean together.
    fn settle(&mut self, attempt: &Attempt, intended: bool, word: Word) {
        let token = attempt.token.0;
        let own = match self.place {
            Place::Sending(holder) | Place::Doubt(holder) => holder == token,
            Place::Queue(Some(lease)) => !intended && lease == attempt.lease.0,
            _ => false,
        };
        if !matches!(self.ledger.get(&token), None | Some(Word::Unknown)) {
            return;
        }
        self.ledger.insert(token, word);
        if own {
            self.place = match word {
                Word::Unknown => Place::Doubt(token),
                Word::Refused => Place::Failed,
                Word::Accepted | Word::Deferred | Word::NotSent => Place::Queue(None),
            };
            self.finish_if_accepted();
            return;
        }
        match (word, self.place) {
            (Word::Accepted, Place::Sending(_)) => self.accepted_late = true,
            (Word::Accepted, Place::Sent { by_reply: true, .. }) => {}
            (Word::Accepted, _) => self.place = Place::Sent { by_reply: true, token: Some(token) },
            (Word::Unknown, _) => {}
            (_, Place::Sent { by_reply: false, token: decided }) if decided == Some(token) => {
                (self.place, self.decided_before) = (Place::Held, true);
            }
            _ => {}
        }
    }

    fn mark(&mut self) {
        if let Place::Sending(token) = self.place {
            self.ledger.entry(token).or_insert(Word::Unknown);
            self.place = Place::Doubt(token);
            self.finish_if_accepted();
        }
    }

    fn resolve(&mut self, verdict: &str, named: Option<Uuid>) {
        let Place::Doubt(token) = self.place else { return };
        if named.is_some_and(|named| named != token) || (named.is_none() && self.decided_before) {
            return;
        }
        self.place = match verdict {
            "sent" => Place::Sent { by_reply: false, token: Some(token) },
            "failed" => Place::Failed,
            _ => {
                (self.resends, self.decided_before) = (self.resends + 1, true);
                Place::Queue(None)
            }
        };
    }
}

/// A generator of its own, so that a seed means the same for ever.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ (z >> 31)) % u64::try_from(sides).expect("few sides")).expect("fits")
    }
}

#[tokio::test]
async fn any_order_of_operations_leaves_what_the_model_says() {
    every_list(&Stage::set().await, RUNS).await;
}

#[tokio::test]
async fn rc38_any_order_of_operations_by_two_generations_of_the_relay_leaves_what_the_model_says() {
    every_list(&Stage::set().await.with_previous().await, RUNS / 3).await;
}

async fn every_list(stage: &Stage, runs: u64) {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seeds: Vec<u64> = match number("HAPAX_SEED") {
        Some(seed) => vec![seed],
        None => (0..number("HAPAX_RUNS").unwrap_or(runs)).collect(),
    };
    for seed in seeds {
        run(stage, seed).await;
        stage.run("DELETE FROM outbox.queue; DELETE FROM outbox.done; DELETE FROM outbox.attempt").await;
    }
}

async fn run(stage: &Stage, seed: u64) {
    let mut dice = Dice(seed);
    let mut deliveries: Vec<Delivery> = stage.enqueue(2).await.into_iter().map(fresh).collect();
    let mut history = Vec::new();
    if seed % 2 == 1 {
        doubtful_prelude(stage, &mut deliveries).await;
        history.push("both in doubt, both resent".to_owned());
    }
    for _ in 0..STEPS {
        let chosen = dice.roll(2);
        let step = step(stage, &mut deliveries, chosen, &mut dice).await;
        history.push(step);
        for delivery in &deliveries {
            compare(stage, delivery, &format!("HAPAX_SEED={seed}: {history:#?}")).await;
        }
        stage.assert_consistent().await;
    }
}

/// Half of the lists begin with an open doubt that is being sent again: by chance alone that is too rare.
async fn doubtful_prelude(stage: &Stage, deliveries: &mut [Delivery]) {
    claim(stage, deliveries).await;
    for delivery in deliveries {
        let attempt = delivery.attempts[0];
        assert_eq!(stage.intend(&attempt).await == IntendAnswer::Granted, delivery.intend(&attempt));
        settle(stage, delivery, attempt, Word::Unknown).await;
        stage.resolve(delivery.key, "resend", Some(attempt.token), false).await;
        delivery.resolve("resend", Some(attempt.token.0));
    }
}

fn fresh(key: DeliveryKey) -> Delivery {
    Delivery {
        key,
        place: Place::Queue(None),
        ledger: BTreeMap::new(),
        accepted_late: false,
        decided_before: false,
        attempts: Vec::new(),
        granted: Vec::new(),
        resends: 0,
    }
}

async fn step(stage: &Stage, deliveries: &mut [Delivery], chosen: usize, dice: &mut Dice) -> String {
    // Every other step goes on from where the delivery is, or second copies would be too rare to meet late replies.
    let onwards = match deliveries[chosen].place {
        Place::Queue(None) => 0,
        Place::Queue(Some(_)) => 5,
        Place::Sending(_) | Place::Sent { .. } => 8,
        Place::Doubt(_) => [8, 12][dice.roll(2)],
        Place::Held => 14,
        Place::Failed | Place::Cancelled => 15,
    };
    let operation = if dice.roll(2) == 0 { onwards } else { dice.roll(16) };
    match operation {
        0..=2 => return claim(stage, deliveries).await,
        3 => {
            stage.store.mark_in_doubt(&stage.incarnations(), GRACE).await.expect("marks");
            deliveries.iter_mut().for_each(Delivery::mark);
            return "mark".into();
        }
        4 => {
            stage.run("UPDATE outbox.queue SET lease_until = now() - interval '1 s' WHERE lease IS NOT NULL").await;
            return format!("leases expire; {}", claim_expired(stage, deliveries).await);
        }
        _ => {}
    }
    let delivery = &mut deliveries[chosen];
    let attempt = match delivery.attempts.len() {
        0 => None,
        // Mostly the last one, sometimes one whose time has passed.
        count => Some(delivery.attempts[if dice.roll(3) > 0 { count - 1 } else { dice.roll(count) }]),
    };
    let done = match (operation, attempt) {
        (5..=7, Some(attempt)) => {
            let granted = stage.intend(&attempt).await == IntendAnswer::Granted;
            assert_eq!(granted, delivery.intend(&attempt), "intend {attempt:?} at {:?}", delivery.place);
            format!("intend {} {granted}", attempt.token)
        }
        (8..=11, Some(attempt)) => {
            // Mostly one whose last word has not been said: late truths are what is easily got wrong.
            let open: Vec<Attempt> =
                delivery.attempts.iter().copied().filter(|attempt| delivery.is_open(attempt)).collect();
            let attempt = if open.is_empty() || dice.roll(4) == 0 { attempt } else { open[dice.roll(open.len())] };
            settle(stage, delivery, attempt, Word::ROLLED[dice.roll(6)]).await
        }
        (12 | 13, _) => {
            let verdict = ["sent", "resend", "resend", "failed"][dice.roll(4)];
            let named = attempt.filter(|_| dice.roll(4) > 0).map(|attempt| attempt.token);
            let answer = stage.resolve(delivery.key, verdict, named, true).await;
            delivery.resolve(verdict, named.map(|token| token.0));
            format!("resolve {verdict} {named:?}: {answer}")
        }
        (14, _) => decide(stage, delivery, ["cancel", "hold", "release"][dice.roll(3)]).await,
        (15, _) if dice.roll(2) == 0 => {
            let answer = stage.retry(delivery.key, true).await;
            if matches!(delivery.place, Place::Failed | Place::Cancelled) {
                delivery.resends += usize::from(delivery.open_doubts() > 0);
                delivery.decided_before |= delivery.place == Place::Failed;
                delivery.place = Place::Queue(None);
            }
            format!("retry: {answer}")
        }
        (15, Some(attempt)) => {
            stage.release(&attempt).await;
            if delivery.place == Place::Queue(Some(attempt.lease.0)) {
                delivery.place = Place::Queue(None);
            }
            format!("give back {}", attempt.lease)
        }
        _ => "nothing".into(),
    };
    format!("{chosen}: {done}")
}

async fn claim(stage: &Stage, deliveries: &mut [Delivery]) -> String {
    let claimed = stage.claim().await;
    for delivery in deliveries.iter_mut() {
        let found = claimed.iter().find(|claimed| claimed.key == delivery.key);
        assert_eq!(found.is_some(), delivery.place == Place::Queue(None), "claim at {:?}", delivery.place);
        if let Some(claimed) = found {
            delivery.place = Place::Queue(Some(claimed.lease.0));
            delivery.attempts.push(Attempt { key: claimed.key, lease: claimed.lease, token: Token::fresh() });
        }
    }
    format!("claim {}", claimed.len())
}

/// Every lease has expired: who is claimed may be claimed by another.
async fn claim_expired(stage: &Stage, deliveries: &mut [Delivery]) -> String {
    for delivery in deliveries.iter_mut() {
        if matches!(delivery.place, Place::Queue(Some(_))) {
            delivery.place = Place::Queue(None);
        }
    }
    claim(stage, deliveries).await
}

/// As the relay does it: hot, then cold, then hot again. An attempt says what its server said, never two definite things,
/// and what was never granted was never sent.
async fn settle(stage: &Stage, delivery: &mut Delivery, attempt: Attempt, rolled: Word) -> String {
    let granted = delivery.granted.contains(&attempt.token.0);
    let word = match delivery.ledger.get(&attempt.token.0) {
        Some(known) if *known != Word::Unknown => *known,
        _ if granted => rolled,
        _ => Word::NotSent,
    };
    let mut end = settlement(&attempt, word.end());
    end.intended = granted;
    let mut answers = Vec::new();
    loop {
        if stage.settle_hot(&end).await {
            break;
        }
        let answer = stage.store.settle_late(&end).await.expect("settles late");
        answers.push(answer);
        if answer != LateAnswer::Again {
            break;
        }
        assert!(answers.len() < 3, "neither hot nor cold: {answers:?}");
    }
    delivery.settle(&attempt, granted, word);
    // P6: whatever became of it, the ledger has it.
    let stored = stage.outcome(&attempt).await;
    assert_eq!(stored.as_deref(), delivery.ledger.get(&attempt.token.0).map(|word| word.end().0.as_str()));
    format!("settle {} {word:?} {answers:?}", attempt.token)
}

async fn decide(stage: &Stage, delivery: &mut Delivery, function: &str) -> String {
    let answer = stage.decide(function, delivery.key).await;
    match (function, delivery.place) {
        ("cancel", Place::Queue(_) | Place::Held) => delivery.place = Place::Cancelled,
        ("hold", Place::Queue(_) | Place::Held) => delivery.place = Place::Held,
        ("release", Place::Held) => delivery.place = Place::Queue(None),
        _ => {}
    }
    format!("{function}: {answer:?}")
}

async fn compare(stage: &Stage, delivery: &Delivery, context: &str) {
    let (queued, done) = (stage.queued(delivery.key).await, stage.done(delivery.key).await);
    let found = match (&queued, &done) {
        (Some(row), None) => match (row.parked.as_deref(), row.intent) {
            (None, None) => Place::Queue(row.lease),
            (None, Some(token)) => Place::Sending(token),
            (Some("doubt"), Some(token)) => Place::Doubt(token),
            (Some("held"), None) => Place::Held,
            other => panic!("{other:?} is no state\n{context}"),
        },
        (None, Some(done)) => match done.state.as_str() {
            "sent" => Place::Sent { by_reply: done.evidence.as_deref() == Some("reply"), token: done.token },
            "failed" => Place::Failed,
            "cancelled" => Place::Cancelled,
            other => panic!("{other} is no end\n{context}"),
        },
        both => panic!("in both or neither: {both:?}\n{context}"),
    };
    let same = match (found, delivery.place) {
        // Which of two acceptances is named is a matter of taste.
        (Place::Sent { by_reply: true, token }, Place::Sent { by_reply: true, .. }) => {
            token.and_then(|token| delivery.ledger.get(&token)) == Some(&Word::Accepted)
        }
        (found, expected) => found == expected,
    };
    assert!(same, "{:?} is {found:?}, should be {:?}\n{context}", delivery.key, delivery.place);
    let open = queued.map_or_else(|| done.map_or(0, |done| done.open_doubts), |row| row.open_doubts);
    assert_eq!(usize::try_from(open), Ok(delivery.open_doubts()), "open doubts\n{context}");
}
