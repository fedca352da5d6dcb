//! What happens to deliveries in hand: intend, settle, renew, release.

use std::{
    collections::{HashMap, HashSet},
    sync::atomic::Ordering,
    time::Duration,
};

use hapax_core::{DeliveryKey, Lease, MessageId, Outcome, Phase, Token};
use tokio_postgres::{Row, types::Type};

use crate::{Store, error::Error};

/// One delivery that wants to transmit.
#[derive(Clone, Debug)]
pub struct IntendRequest {
    /// Which one.
    pub key: DeliveryKey,
    /// The lease of its claim.
    pub lease: Lease,
    /// The token of this attempt.
    pub token: Token,
    /// Of the bytes that will be transmitted.
    pub sha256: [u8; 32],
    /// Where they will go.
    pub route: String,
    /// What is there, when it de-duplicates by a key the bytes carry.
    pub upstream: Option<Upstream>,
}

/// An upstream that de-duplicates, as the outbox knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Upstream {
    /// Server, account and header, as a number.
    pub id: i64,
    /// For how long after the first intent the key may be used.
    pub usable: Duration,
}

/// What became of an intent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IntendAnswer {
    /// Durable: the end marker may be written.
    Granted,
    /// Seen under lock and not ours any more, or gone: drop the delivery, it is somebody else's.
    Refused,
    /// An earlier attempt that is in doubt transmitted other bytes: hold it.
    Changed,
    /// Locked by somebody: nothing is known, ask again alone.
    Busy,
}

/// Whether to wait for rows that somebody has locked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Skip them, they are answered [`IntendAnswer::Busy`].
    Skip,
    /// Wait up to two seconds, then fail.
    ForLocks,
}

/// How a statement takes its rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rows {
    /// All as they are expected, without locking them first: half the work. Fails soon when somebody has one locked.
    Expected,
    /// Locked first; what somebody else has locked is passed over.
    Skip,
    /// Locked first; waited for.
    Wait,
}

impl Rows {
    const fn word(self) -> &'static str {
        match self {
            Self::Expected => "expected",
            Self::Skip => "skip",
            Self::Wait => "wait",
        }
    }

    /// How long it waits for a lock: nobody else's row may hold up those who wait behind their 354.
    const fn patience(self) -> &'static str {
        match self {
            Self::Expected => "20ms",
            Self::Skip | Self::Wait => "2s",
        }
    }
}

/// Where a delivery goes when its attempt has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Terminal.
    Sent,
    /// Terminal, and sent to somebody else than it is addressed to; the note says why.
    SentElsewhere(&'static str),
    /// Terminal: a guard forbids its recipient.
    Suppressed(String),
    /// Terminal, with the reason people read.
    Failed(String),
    /// Terminal: its time has passed.
    Expired,
    /// Pending again.
    Retry {
        /// Due so long from now.
        after: Duration,
        /// Whether the attempt concerned the message.
        counts: bool,
    },
    /// Nobody knows.
    InDoubt(String),
    /// Nothing was transmitted, and an earlier attempt, which was to be repeated with the same key, is in doubt as before.
    DoubtAgain(String),
    /// Parked for a person.
    Held(String),
    /// Parked for a person, because relays die of it.
    Poison(String),
}

impl Verdict {
    /// The word for it.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Sent | Self::SentElsewhere(_) => "sent",
            Self::Suppressed(_) => "suppressed",
            Self::DoubtAgain(_) => "doubt_again",
            Self::Failed(_) => "failed",
            Self::Expired => "expired",
            Self::Retry { .. } => "retry",
            Self::InDoubt(_) => "in_doubt",
            Self::Held(_) => "held",
            Self::Poison(_) => "poison",
        }
    }

    /// Whether the attempt concerned the message.
    const fn counts(&self) -> bool {
        match self {
            Self::Retry { counts, .. } => *counts,
            Self::Sent | Self::SentElsewhere(_) | Self::Failed(_) | Self::InDoubt(_) => true,
            _ => false,
        }
    }

    pub(crate) fn reason(&self) -> Option<String> {
        match self {
            Self::Failed(reason)
            | Self::InDoubt(reason)
            | Self::DoubtAgain(reason)
            | Self::Held(reason)
            | Self::Poison(reason)
            | Self::Suppressed(reason) => Some(capped(reason)),
            Self::SentElsewhere(note) => Some((*note).to_owned()),
            Self::Expired => Some("expires_at has passed".into()),
            Self::Sent | Self::Retry { .. } => None,
        }
    }
}

/// The end of one attempt.
#[derive(Clone, Debug)]
pub struct Settlement {
    /// Which delivery.
    pub key: DeliveryKey,
    /// The lease of its claim.
    pub lease: Lease,
    /// The token of the attempt.
    pub token: Token,
    /// Whether the intent is known to have been written. When not, the lease matches too.
    pub intended: bool,
    /// Where the delivery goes.
    pub verdict: Verdict,
    /// What the attempt came to; none when nothing was attempted (it had expired).
    pub outcome: Option<Outcome>,
    /// The route.
    pub route: String,
    /// The server, as far as it introduced itself.
    pub server: Option<String>,
    /// How long the attempt took.
    pub took: Duration,
    /// Bytes of the message handed to the kernel.
    pub bytes: usize,
}

/// What became of a settle that came late.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LateAnswer {
    /// The truth changed the delivery.
    Settled,
    /// It is in the ledger and changes nothing.
    Noted,
    /// This very attempt was settled before.
    Already,
    /// The row is this attempt's after all: settle it again.
    Again,
}

/// One delivery to give back.
#[derive(Clone, Copy, Debug)]
pub struct Release {
    /// Which one.
    pub key: DeliveryKey,
    /// The lease of its claim.
    pub lease: Lease,
    /// Due no earlier than so long from now.
    pub after: Duration,
    /// Into this lane instead of its own.
    pub lane: Option<i16>,
}

pub(crate) fn capped(text: &str) -> String {
    text.replace('\0', "\u{fffd}").chars().take(2_000).collect()
}

/// Seconds that fit into an interval, and added to the present into a timestamp: 31 years at most.
pub(crate) fn seconds_of(duration: Duration) -> f64 {
    duration.as_secs_f64().min(1e9)
}

/// Whose answer a row is: the attempt's, not the delivery's, since two attempts of one may be in one batch.
fn answered(row: &Row) -> (DeliveryKey, Token) {
    (DeliveryKey { message_id: MessageId(row.get(0)), recipient_no: row.get(1) }, Token(row.get(2)))
}

pub(crate) fn code(outcome: &Outcome) -> Option<i16> {
    outcome.reply().and_then(|reply| i16::try_from(reply.code).ok())
}

pub(crate) fn cause(outcome: &Outcome) -> Option<&'static str> {
    match outcome {
        Outcome::NotSent { cause, .. } | Outcome::Unknown { cause, .. } => Some(cause.as_str()),
        _ => None,
    }
}

pub(crate) fn detail(outcome: &Outcome) -> Option<String> {
    match outcome {
        Outcome::NotSent { detail, .. } | Outcome::Unknown { detail, .. } => Some(capped(detail)),
        _ => None,
    }
}

impl Store {
    /// Makes intents durable, all in one commit. The answers are in the order of the requests.
    ///
    /// # Errors
    /// After an ambiguous one ([`Error::is_ambiguous`]) each request must be repeated with [`Wait::ForLocks`].
    pub async fn intend(&self, requests: &[IntendRequest], wait: Wait) -> Result<Vec<IntendAnswer>, Error> {
        match wait {
            Wait::ForLocks => self.intend_rows(requests, Rows::Wait).await,
            // A lock that was not to be had in time is an answer: nothing of this execution happened.
            Wait::Skip => match self.intend_rows(requests, Rows::Expected).await {
                Err(error) if error.is_lock_timeout() => self.intend_rows(requests, Rows::Skip).await,
                answered => answered,
            },
        }
    }

    async fn intend_rows(&self, requests: &[IntendRequest], rows: Rows) -> Result<Vec<IntendAnswer>, Error> {
        let column = |f: fn(&IntendRequest) -> uuid::Uuid| requests.iter().map(f).collect::<Vec<_>>();
        let numbers: Vec<i16> = requests.iter().map(|request| request.key.recipient_no).collect();
        let digests: Vec<&[u8]> = requests.iter().map(|request| request.sha256.as_slice()).collect();
        let routes: Vec<&str> = requests.iter().map(|request| request.route.as_str()).collect();
        let upstreams: Vec<Option<i64>> = requests.iter().map(|request| request.upstream.map(|u| u.id)).collect();
        let usable: Vec<Option<f64>> =
            requests.iter().map(|request| request.upstream.map(|u| seconds_of(u.usable))).collect();
        let found = self
            .durable_rows(
                "intend",
                include_str!("../queries/intend.sql"),
                &[
                    (&self.armed.epoch, Type::UUID),
                    (&self.armed.identity, Type::TEXT),
                    (&column(|request| request.key.message_id.0), Type::UUID_ARRAY),
                    (&numbers, Type::INT2_ARRAY),
                    (&column(|request| request.lease.0), Type::UUID_ARRAY),
                    (&column(|request| request.token.0), Type::UUID_ARRAY),
                    (&digests, Type::BYTEA_ARRAY),
                    (&routes, Type::TEXT_ARRAY),
                    (&self.incarnation.0, Type::UUID),
                    (&rows.patience(), Type::TEXT),
                    (&upstreams, Type::INT8_ARRAY),
                    (&usable, Type::FLOAT8_ARRAY),
                    (&self.beat.load(Ordering::SeqCst), Type::INT8),
                    (&rows.word(), Type::TEXT),
                ],
            )
            .await?;
        let answers: HashMap<(DeliveryKey, Token), &str> =
            found.iter().map(|row| (answered(row), row.get(3))).collect();
        let answer = |request: &IntendRequest| match (answers.get(&(request.key, request.token)), rows) {
            (Some(&"granted"), _) => IntendAnswer::Granted,
            (Some(&"changed"), _) => IntendAnswer::Changed,
            (Some(_), _) | (None, Rows::Wait) => IntendAnswer::Refused,
            (None, Rows::Expected | Rows::Skip) => IntendAnswer::Busy,
        };
        Ok(requests.iter().map(answer).collect())
    }

    /// Makes outcomes durable, all in one commit. Answers, in order, which attempts still owned their deliveries; the
    /// others are locked by somebody or have moved on: repeat them, then [`Store::settle_late`].
    ///
    /// # Errors
    /// Repeat the same call; a settle is idempotent.
    pub async fn settle(&self, batch: &[Settlement]) -> Result<Vec<bool>, Error> {
        match self.settle_rows(batch, Rows::Expected).await {
            // Nothing of this execution happened; the other one finds what this did not expect, and locks first.
            Err(error) if error.is_lock_timeout() || error.is_already_there() => {
                self.settle_rows(batch, Rows::Skip).await
            }
            answered => answered,
        }
    }

    async fn settle_rows(&self, batch: &[Settlement], how: Rows) -> Result<Vec<bool>, Error> {
        let ids = |f: fn(&Settlement) -> uuid::Uuid| batch.iter().map(f).collect::<Vec<_>>();
        let texts = |f: fn(&Settlement) -> Option<String>| batch.iter().map(f).collect::<Vec<_>>();
        let numbers: Vec<i16> = batch.iter().map(|settlement| settlement.key.recipient_no).collect();
        let intended: Vec<bool> = batch.iter().map(|settlement| settlement.intended).collect();
        let verdicts: Vec<&str> = batch.iter().map(|settlement| settlement.verdict.as_str()).collect();
        let (mut after, mut counts) = (Vec::with_capacity(batch.len()), Vec::with_capacity(batch.len()));
        for settlement in batch {
            counts.push(settlement.verdict.counts());
            after.push(match settlement.verdict {
                Verdict::Retry { after, .. } => seconds_of(after),
                _ => 0.0,
            });
        }
        let codes: Vec<Option<i16>> =
            batch.iter().map(|settlement| settlement.outcome.as_ref().and_then(code)).collect();
        let took: Vec<f64> = batch.iter().map(|settlement| seconds_of(settlement.took)).collect();
        let bytes: Vec<i32> =
            batch.iter().map(|settlement| i32::try_from(settlement.bytes).unwrap_or(i32::MAX)).collect();
        let rows = self
            .durable_rows(
                "settle",
                include_str!("../queries/settle.sql"),
                &[
                    (&self.armed.epoch, Type::UUID),
                    (&self.armed.identity, Type::TEXT),
                    (&ids(|settlement| settlement.key.message_id.0), Type::UUID_ARRAY),
                    (&numbers, Type::INT2_ARRAY),
                    (&ids(|settlement| settlement.lease.0), Type::UUID_ARRAY),
                    (&ids(|settlement| settlement.token.0), Type::UUID_ARRAY),
                    (&intended, Type::BOOL_ARRAY),
                    (&verdicts, Type::TEXT_ARRAY),
                    (&after, Type::FLOAT8_ARRAY),
                    (&counts, Type::BOOL_ARRAY),
                    (&texts(|settlement| settlement.verdict.reason()), Type::TEXT_ARRAY),
                    (&texts(|settlement| settlement.outcome.as_ref().map(|o| o.as_str().to_owned())), Type::TEXT_ARRAY),
                    (
                        &texts(|settlement| settlement.outcome.as_ref().map(|o| o.phase().as_str().to_owned())),
                        Type::TEXT_ARRAY,
                    ),
                    (
                        &texts(|settlement| settlement.outcome.as_ref().and_then(cause).map(str::to_owned)),
                        Type::TEXT_ARRAY,
                    ),
                    (&codes, Type::INT2_ARRAY),
                    (
                        &texts(|s| s.outcome.as_ref().and_then(Outcome::reply).and_then(|r| r.enhanced.clone())),
                        Type::TEXT_ARRAY,
                    ),
                    (
                        &texts(|s| s.outcome.as_ref().and_then(Outcome::reply).map(|r| capped(&r.text))),
                        Type::TEXT_ARRAY,
                    ),
                    (&texts(|settlement| settlement.outcome.as_ref().and_then(detail)), Type::TEXT_ARRAY),
                    (&texts(|settlement| Some(capped(&settlement.route))), Type::TEXT_ARRAY),
                    (&texts(|settlement| settlement.server.as_deref().map(capped)), Type::TEXT_ARRAY),
                    (&took, Type::FLOAT8_ARRAY),
                    (&bytes, Type::INT4_ARRAY),
                    (&self.incarnation.0, Type::UUID),
                    (&how.word(), Type::TEXT),
                    (&how.patience(), Type::TEXT),
                ],
            )
            .await?;
        let settled: HashSet<(DeliveryKey, Token)> = rows.iter().map(answered).collect();
        Ok(batch.iter().map(|settlement| settled.contains(&(settlement.key, settlement.token))).collect())
    }

    /// Settles one attempt whose delivery has moved on meanwhile. Late truth wins.
    ///
    /// # Errors
    /// Repeat the same call.
    pub async fn settle_late(&self, late: &Settlement) -> Result<LateAnswer, Error> {
        let outcome = late.outcome.as_ref();
        let phase = outcome.map_or(Phase::Prepare, Outcome::phase).as_str();
        let word = outcome.map_or("not_sent", Outcome::as_str);
        let reply = outcome.and_then(Outcome::reply);
        let rows = self
            .durable_rows(
                "settle_late",
                include_str!("../queries/settle_late.sql"),
                &[
                    (&self.armed.epoch, Type::UUID),
                    (&self.armed.identity, Type::TEXT),
                    (&late.key.message_id.0, Type::UUID),
                    (&late.key.recipient_no, Type::INT2),
                    (&late.lease.0, Type::UUID),
                    (&late.token.0, Type::UUID),
                    (&late.intended, Type::BOOL),
                    (&word, Type::TEXT),
                    (&phase, Type::TEXT),
                    (&outcome.and_then(cause), Type::TEXT),
                    (&outcome.and_then(code), Type::INT2),
                    (&reply.and_then(|reply| reply.enhanced.as_deref()), Type::TEXT),
                    (&reply.map(|reply| capped(&reply.text)), Type::TEXT),
                    (&outcome.and_then(detail), Type::TEXT),
                    (&capped(&late.route), Type::TEXT),
                    (&late.server.as_deref().map(capped), Type::TEXT),
                    (&self.incarnation.0, Type::UUID),
                    (&seconds_of(late.took), Type::FLOAT8),
                    (&i32::try_from(late.bytes).unwrap_or(i32::MAX), Type::INT4),
                ],
            )
            .await?;
        Ok(match rows.first().map(|row| row.get::<_, &str>(0)) {
            Some("settled") => LateAnswer::Settled,
            Some("noted") => LateAnswer::Noted,
            Some("already") => LateAnswer::Already,
            _ => LateAnswer::Again,
        })
    }

    /// Keeps the leases of what is in hand and has no intent yet. Answers how many were kept.
    ///
    /// # Errors
    /// Any; a lease that was not renewed expires, which is always safe.
    pub async fn renew(&self, in_hand: &[(DeliveryKey, Lease)], lease_for: Duration) -> Result<usize, Error> {
        let ids: Vec<uuid::Uuid> = in_hand.iter().map(|(key, _)| key.message_id.0).collect();
        let numbers: Vec<i16> = in_hand.iter().map(|(key, _)| key.recipient_no).collect();
        let leases: Vec<uuid::Uuid> = in_hand.iter().map(|(_, lease)| lease.0).collect();
        let rows = self
            .rows(
                "renew",
                include_str!("../queries/renew.sql"),
                &[
                    (&self.armed.epoch, Type::UUID),
                    (&self.armed.identity, Type::TEXT),
                    (&ids, Type::UUID_ARRAY),
                    (&numbers, Type::INT2_ARRAY),
                    (&leases, Type::UUID_ARRAY),
                    (&lease_for.as_secs_f64(), Type::FLOAT8),
                ],
            )
            .await?;
        Ok(rows.len())
    }

    /// Gives back what has no intent.
    ///
    /// # Errors
    /// Any; what was not given back becomes pending when its lease expires.
    pub async fn release(&self, batch: &[Release]) -> Result<usize, Error> {
        self.release_rows(batch, &vec![None; batch.len()]).await
    }

    /// As [`Store::release`], each with why it waits, for people: their `reason` until something else is to be said.
    ///
    /// # Errors
    /// Its own.
    pub async fn release_saying(&self, batch: &[(Release, String)]) -> Result<usize, Error> {
        let (batch, notes): (Vec<Release>, Vec<_>) =
            batch.iter().map(|(one, note)| (*one, Some(note.as_str()))).unzip();
        self.release_rows(&batch, &notes).await
    }

    async fn release_rows(&self, batch: &[Release], notes: &[Option<&str>]) -> Result<usize, Error> {
        let ids: Vec<uuid::Uuid> = batch.iter().map(|release| release.key.message_id.0).collect();
        let numbers: Vec<i16> = batch.iter().map(|release| release.key.recipient_no).collect();
        let leases: Vec<uuid::Uuid> = batch.iter().map(|release| release.lease.0).collect();
        let after: Vec<f64> = batch.iter().map(|release| seconds_of(release.after)).collect();
        let lanes: Vec<Option<i16>> = batch.iter().map(|release| release.lane).collect();
        let rows = self
            .rows(
                "release",
                include_str!("../queries/release.sql"),
                &[
                    (&self.armed.epoch, Type::UUID),
                    (&self.armed.identity, Type::TEXT),
                    (&ids, Type::UUID_ARRAY),
                    (&numbers, Type::INT2_ARRAY),
                    (&leases, Type::UUID_ARRAY),
                    (&after, Type::FLOAT8_ARRAY),
                    (&lanes, Type::INT2_ARRAY),
                    (&notes, Type::TEXT_ARRAY),
                ],
            )
            .await?;
        Ok(rows.len())
    }
}
