//! What this process knows of its attempts of the last minutes, whatever its database remembers: every token an intent was
//! asked for under, and how it ended. After an asynchronous failover this is the only record of them.
//!
//! Bounded: attempts whose outcome is durable are forgotten after [`AGE_MAX`], and the oldest of them when there are more
//! than [`ATTEMPTS_MAX`], or more than [`TEXT_BYTES_MAX`] of what only few have; the others are bounded by the relay's
//! permits. The usual end, an acceptance, is kept in a fixed form (`compact.rs`): 112 bytes an attempt and 5 to find it.

mod compact;
mod departed;

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use hapax_core::{DeliveryKey, Incarnation, Lease, MessageId, Token};
use hapax_store::{Attempted, IntendRequest, Settlement};
use hashbrown::HashTable;
use tokio_util::task::TaskTracker;

use self::compact::{End, Words};

/// How long a durable outcome is remembered, from its intent.
const AGE_MAX: Duration = Duration::from_secs(15 * 60);

/// How many attempts are remembered at most.
const ATTEMPTS_MAX: usize = 80_000;

/// How much may be remembered outside the fixed form: ends that are no acceptance, and replies that are long.
const TEXT_BYTES_MAX: usize = 8 << 20;

/// By how many attempts the memory grows: exactly, so that it is never much larger than what is in it.
const GROWTH: usize = 4_096;

/// The memory of a process, over all its incarnations. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    attempts: Arc<Mutex<Attempts>>,
    /// Couriers that went on reading their replies when their incarnation ended.
    pub(crate) stragglers: TaskTracker,
}

/// Attempts of a process, counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// From the request for the intent until the outcome is durable.
    pub under_way: usize,
    /// Since the start: a mail server has accepted them.
    pub accepted: u64,
    /// Since the start: all others, doubts included.
    pub otherwise: u64,
}

#[derive(Debug, Default)]
struct Attempts {
    /// In the order of their intents; what was forgotten out of turn is a gap until it is first.
    known: VecDeque<Option<Known>>,
    /// The number of the first in `known`; numbers wrap around, places do not.
    first: u32,
    /// The number of each token.
    numbers: HashTable<u32>,
    /// Ended and not durable.
    open_ends: usize,
    /// Its `under_way` are those that are known and not durable.
    tally: Tally,
    /// Outside the fixed form.
    text_bytes: usize,
    /// Those that are known of, each in its place until nothing names it any more.
    relays: Vec<Incarnation>,
    /// Those that are at work: their ledgers tell the database themselves.
    living: Vec<Incarnation>,
    /// Those that ended without signing off, and their couriers.
    departed: Vec<(Incarnation, TaskTracker)>,
    routes: Words,
    words: Words,
}

#[derive(Debug)]
struct Known {
    message_id: MessageId,
    lease: Lease,
    token: Token,
    /// CLOCK_BOOTTIME in sixteenths of a second: eight years.
    asked_at: u32,
    recipient_no: i16,
    /// Indexes into `relays` and `routes`.
    relay: u16,
    route: u16,
    granted: bool,
    durable: bool,
    /// It was said that its message is gone: while its reply was outstanding, or at its end.
    mourned: Option<bool>,
    end: End,
}

/// Tokens are chance already.
fn hash(token: Token) -> u64 {
    let (high, low) = token.0.as_u64_pair();
    high ^ low
}

fn sixteenths(time: Duration) -> u32 {
    u32::try_from(time.as_millis() * 16 / 1000).unwrap_or(u32::MAX)
}

fn since(now: Duration, asked_at: u32) -> Duration {
    now.saturating_sub(Duration::from_millis(u64::from(asked_at) * 1000 / 16))
}

/// Proof that an incarnation is at work.
#[derive(Debug)]
pub(crate) struct Living {
    memory: Memory,
    incarnation: Incarnation,
}

impl Drop for Living {
    fn drop(&mut self) {
        self.memory.lock().living.retain(|living| *living != self.incarnation);
    }
}

impl Memory {
    fn lock(&self) -> MutexGuard<'_, Attempts> {
        self.attempts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An incarnation begins to work; it ends when the answer is dropped.
    pub(crate) fn lives(&self, incarnation: Incarnation) -> Living {
        self.lock().living.push(incarnation);
        Living { memory: self.clone(), incarnation }
    }

    /// Whether this process has an incarnation that began later.
    pub(crate) fn is_relieved(&self, incarnation: Incarnation) -> bool {
        self.lock().living.last().is_some_and(|last| *last != incarnation)
    }

    /// An intent is about to be asked for. `now` is CLOCK_BOOTTIME.
    pub(crate) fn asked(&self, request: &IntendRequest, relay: Incarnation, now: Duration) {
        let mut attempts = self.lock();
        let known = Known {
            message_id: request.key.message_id,
            recipient_no: request.key.recipient_no,
            lease: request.lease,
            token: request.token,
            asked_at: sixteenths(now),
            relay: attempts.relay(relay),
            route: attempts.routes.index_of(&request.route).unwrap_or_default(),
            granted: false,
            durable: false,
            mourned: None,
            end: End::Open,
        };
        attempts.push(known);
        attempts.forget_old(now);
    }

    pub(crate) fn granted(&self, token: Token) {
        if let Some(known) = self.lock().get_mut(token) {
            known.granted = true;
        }
    }

    /// How it has gone so far.
    #[must_use]
    pub fn tally(&self) -> Tally {
        self.lock().tally
    }

    /// How an attempt ended; nothing for those that never asked for an intent.
    pub(crate) fn ended(&self, settlement: &Settlement) {
        let mut attempts = self.lock();
        let Some(place) = attempts.place(settlement.token) else { return };
        let end = End::of(settlement, &mut attempts.words);
        let accepted = matches!(end, End::Sent(_));
        attempts.text_bytes += end.text_bytes();
        if let Some(Some(known)) = attempts.known.get_mut(place) {
            let before = std::mem::replace(&mut known.end, end);
            let news = matches!(before, End::Open) && !known.durable;
            attempts.text_bytes -= before.text_bytes();
            attempts.open_ends += usize::from(news);
            attempts.tally.accepted += u64::from(news && accepted);
            attempts.tally.otherwise += u64::from(news && !accepted);
        }
    }

    pub(crate) fn durable(&self, token: Token) {
        let mut attempts = self.lock();
        let Some(known) = attempts.get_mut(token) else { return };
        let news = !std::mem::replace(&mut known.durable, true);
        let told = news && !matches!(known.end, End::Open);
        attempts.open_ends -= usize::from(told);
        attempts.tally.under_way -= usize::from(news);
    }

    /// Whether that its message is gone is news: once, and once more when its reply has come since.
    pub(crate) fn mourn(&self, attempt: &Attempted) -> bool {
        let ended = Some(attempt.end.is_some());
        self.lock().get_mut(attempt.token).is_none_or(|known| {
            let news = known.mourned < ended;
            known.mourned = known.mourned.max(ended);
            news
        })
    }

    pub(crate) fn forget(&self, token: Token) {
        let mut attempts = self.lock();
        if let Some(place) = attempts.place(token) {
            attempts.remove(place);
        }
    }

    /// Everything that has ended or may have left, in the order of the intents.
    pub(crate) fn all(&self) -> Vec<Token> {
        self.lock().some(|known| known.granted || !matches!(known.end, End::Open))
    }

    /// What has ended and is not durable, of incarnations that are not at work any more.
    pub(crate) fn untold(&self) -> Vec<Token> {
        let attempts = self.lock();
        let lives = |relay: &Incarnation| attempts.living.contains(relay);
        if attempts.open_ends == 0 || attempts.relays.iter().all(lives) {
            return Vec::new();
        }
        let lives: Vec<bool> = attempts.relays.iter().map(lives).collect();
        attempts.some(|known| !matches!(known.end, End::Open) && !known.durable && !lives[usize::from(known.relay)])
    }

    /// All that is known of these; those that were forgotten meanwhile are left out. `now` is CLOCK_BOOTTIME.
    pub(crate) fn recall(&self, tokens: &[Token], now: Duration) -> Vec<Attempted> {
        let attempts = self.lock();
        let known = tokens.iter().filter_map(|token| attempts.known[attempts.place(*token)?].as_ref());
        known.map(|known| attempts.expand(known, now)).collect()
    }
}

impl Attempts {
    fn place(&self, token: Token) -> Option<usize> {
        let place = |number: u32| number.wrapping_sub(self.first) as usize;
        let is_it = |number: &u32| matches!(self.known.get(place(*number)), Some(Some(known)) if known.token == token);
        self.numbers.find(hash(token), is_it).map(|number| place(*number))
    }

    fn get_mut(&mut self, token: Token) -> Option<&mut Known> {
        let place = self.place(token)?;
        self.known.get_mut(place)?.as_mut()
    }

    fn relay(&mut self, relay: Incarnation) -> u16 {
        let known = self.relays.iter().position(|known| *known == relay).unwrap_or_else(|| {
            // A process that is told of a new configuration every hour has many, and nothing names most of them.
            let mut named = vec![false; self.relays.len()];
            self.known.iter().flatten().for_each(|known| named[usize::from(known.relay)] = true);
            let place = named.iter().position(|named| !named).unwrap_or(named.len());
            match self.relays.get_mut(place) {
                Some(free) => *free = relay,
                None => self.relays.push(relay),
            }
            place
        });
        u16::try_from(known).unwrap_or(u16::MAX)
    }

    fn push(&mut self, known: Known) {
        if self.known.len() == self.known.capacity() {
            self.known.reserve_exact(GROWTH);
        }
        let number = self.first.wrapping_add(self.known.len() as u32);
        let token = known.token;
        self.tally.under_way += usize::from(!known.durable);
        self.known.push_back(Some(known));
        let (first, known) = (self.first, &self.known);
        let hash_of = |number: &u32| {
            let place = number.wrapping_sub(first) as usize;
            known.get(place).and_then(Option::as_ref).map_or(0, |known| hash(known.token))
        };
        self.numbers.insert_unique(hash(token), number, hash_of);
    }

    /// Leaves a gap.
    fn remove(&mut self, place: usize) -> Option<Known> {
        let number = self.first.wrapping_add(place as u32);
        let known = self.known.get_mut(place)?.take()?;
        if let Ok(found) = self.numbers.find_entry(hash(known.token), |other| *other == number) {
            found.remove();
        }
        self.text_bytes -= known.end.text_bytes();
        self.open_ends -= usize::from(!known.durable && !matches!(known.end, End::Open));
        self.tally.under_way -= usize::from(!known.durable);
        Some(known)
    }

    /// From the front, what is durable and too old or too much. What is not durable stays, behind the others.
    fn forget_old(&mut self, now: Duration) {
        for _ in 0..8 {
            let Some(first) = self.known.front() else { return };
            if let Some(known) = first {
                let much = self.numbers.len() > ATTEMPTS_MAX || self.text_bytes > TEXT_BYTES_MAX;
                if !much && since(now, known.asked_at) <= AGE_MAX {
                    return;
                }
            }
            let known = self.remove(0);
            self.known.pop_front();
            self.first = self.first.wrapping_add(1);
            if let Some(known) = known.filter(|known| !known.durable) {
                self.text_bytes += known.end.text_bytes();
                self.open_ends += usize::from(!matches!(known.end, End::Open));
                self.push(known);
            }
        }
    }

    fn some(&self, wanted: impl Fn(&Known) -> bool) -> Vec<Token> {
        self.known.iter().flatten().filter(|known| wanted(known)).map(|known| known.token).collect()
    }

    fn expand(&self, known: &Known, now: Duration) -> Attempted {
        let key = DeliveryKey { message_id: known.message_id, recipient_no: known.recipient_no };
        let route = self.routes.get(known.route);
        Attempted {
            relay: self.relays[usize::from(known.relay)],
            key,
            lease: known.lease,
            token: known.token,
            route: route.into(),
            age: since(now, known.asked_at),
            granted: known.granted,
            end: known.end.expand(key, known.lease, known.token, route, &self.words),
        }
    }
}

#[cfg(test)]
mod tests {
    use hapax_core::{Outcome, Reply};
    use hapax_store::Verdict;

    use super::{compact::TEXT_CHARS_MAX, *};

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
        assert_eq!(memory.all().len(), 2, "the third has neither left nor ended");
        memory.asked(&request(), relay, AGE_MAX + Duration::from_millis(1));
        assert_eq!(memory.all(), [open.token]);
        assert_eq!(memory.tally(), Tally { under_way: 3, accepted: 1, otherwise: 0 });
        memory.ended(&settlement(&open, "2.0.0 at last"));
        assert_eq!(memory.tally(), Tally { under_way: 3, accepted: 2, otherwise: 0 });
        assert_eq!(memory.untold(), [open.token], "found where it has gone");
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
        let kept = memory.all();
        assert_eq!(kept.len(), ATTEMPTS_MAX);
        assert!(kept.iter().all(|token| Some(*token) != first));
    }

    #[test]
    fn long_replies_are_cut_and_only_other_incarnations_are_told() {
        let (memory, relay) = (Memory::default(), Incarnation::fresh());
        let request = request();
        memory.asked(&request, relay, Duration::ZERO);
        memory.ended(&settlement(&request, &"x".repeat(5_000)));
        let (living, _other) = (memory.lives(relay), memory.lives(Incarnation::fresh()));
        assert!(memory.untold().is_empty(), "its own ledger tells the database");
        drop(living);
        let untold = memory.recall(&memory.untold(), Duration::from_secs(3));
        assert_eq!(untold[0].age, Duration::from_secs(3));
        let end = untold[0].end.as_ref().expect("ended");
        let reply = end.outcome.as_ref().and_then(Outcome::reply).expect("a reply");
        assert_eq!(reply.text.len(), TEXT_CHARS_MAX);
        memory.durable(request.token);
        assert!(memory.untold().is_empty());
        let outstanding = Attempted { end: None, ..untold[0].clone() };
        let said = [&outstanding, &outstanding, &untold[0], &untold[0], &outstanding].map(|one| memory.mourn(one));
        assert_eq!(said, [true, false, true, false, false], "a lost message is said once, and once more at its end");
    }

    #[test]
    fn incarnations_that_nothing_names_any_more_take_no_place() {
        let memory = Memory::default();
        for number in 0..100_u64 {
            let (relay, request) = (Incarnation::fresh(), request());
            memory.asked(&request, relay, AGE_MAX * u32::try_from(number).unwrap_or_default() * 2);
            assert_eq!(memory.recall(&[request.token], Duration::ZERO)[0].relay, relay);
            memory.ended(&settlement(&request, "ok"));
            memory.durable(request.token);
        }
        assert!(memory.lock().relays.len() <= 3, "{}", memory.lock().relays.len());
    }

    /// What it takes, by its own account: what only few have is counted, the rest has a fixed size.
    fn bytes(memory: &Memory) -> usize {
        let attempts = memory.lock();
        attempts.known.capacity() * size_of::<Option<Known>>()
            + attempts.numbers.allocation_size()
            + attempts.text_bytes
    }

    fn filled(text: impl Fn(usize) -> String, verdict: &Verdict) -> Memory {
        let (memory, relay) = (Memory::default(), Incarnation::fresh());
        for number in 0..ATTEMPTS_MAX + GROWTH {
            let request = request();
            memory.asked(&request, relay, Duration::from_millis(number as u64));
            memory.granted(request.token);
            let settlement = Settlement { verdict: verdict.clone(), ..settlement(&request, &text(number)) };
            memory.ended(&settlement);
            memory.durable(request.token);
        }
        memory
    }

    #[test]
    fn a_full_one_takes_ten_megabytes_and_never_more_than_nineteen() {
        let postfix = filled(|number| format!("2.0.0 Ok: queued as 4Xyz{number:011}"), &Verdict::Sent);
        let kept = postfix.all().len();
        println!("{kept} accepted by Postfix: {} bytes", bytes(&postfix));
        assert_eq!(kept, ATTEMPTS_MAX);
        assert!(bytes(&postfix) < 11 << 20);
        let text = |number| format!("2.0.0 OK  {number} a640c23a62f3a-{number:030} - gsmtp");
        for (text, verdict) in [(text, Verdict::Sent), (text, Verdict::Failed("x".repeat(500)))] {
            let memory = filled(text, &verdict);
            println!("{} with long texts: {} bytes", memory.all().len(), bytes(&memory));
            assert!(bytes(&memory) < 19 << 20);
            assert!(memory.all().len() > 8_000, "and what was last is in it");
        }
    }

    #[test]
    fn what_is_forgotten_out_of_turn_leaves_the_others_where_they_are() {
        let (memory, relay) = (Memory::default(), Incarnation::fresh());
        let requests: Vec<IntendRequest> = (0..10).map(|_| request()).collect();
        for request in &requests {
            memory.asked(request, relay, Duration::ZERO);
            memory.granted(request.token);
        }
        memory.forget(requests[3].token);
        memory.forget(requests[3].token);
        assert_eq!(memory.tally().under_way, 9);
        memory.ended(&settlement(&requests[7], "2.0.0 ok"));
        let left: Vec<Token> =
            requests.iter().map(|request| request.token).filter(|t| *t != requests[3].token).collect();
        assert_eq!(memory.all(), left);
        assert_eq!(memory.untold(), [requests[7].token]);
        assert!(memory.recall(&[requests[3].token], Duration::ZERO).is_empty());
    }
}
