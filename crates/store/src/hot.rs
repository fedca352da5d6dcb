//! The five statements every delivery passes: claim, contents, intend, settle, release.

use std::{
    collections::{HashMap, HashSet},
    sync::atomic::Ordering,
    time::Duration,
};

use hapax_core::{DeliveryKey, Lease, MessageId, Outcome, Phase, Token, envelope::Notification};
use tokio_postgres::{Row, types::Type};

use crate::{
    Store,
    error::Error,
    rows::{self, Claimed, Cursor},
};

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
    pub(crate) const fn word(&self) -> &'static str {
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
    let key = DeliveryKey { message_id: MessageId(row.get("message_id")), recipient_no: row.get("recipient_no") };
    (key, Token(row.get("token")))
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
    /// Leases up to `limit` due deliveries of one lane behind `cursor`. Answers them in the order they are due, with the
    /// cursor to go on from.
    ///
    /// # Errors
    /// Any; a claim whose answer was lost leaves leases behind that expire.
    pub async fn claim(
        &self,
        lane: i16,
        cursor: Cursor,
        limit: usize,
        lease_for: Duration,
    ) -> Result<(Cursor, Vec<Claimed>), Error> {
        let lease = Lease::fresh();
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let rows = self
            .rows(
                "claim",
                include_str!("../queries/claim.sql"),
                &[
                    (&self.armed.epoch, Type::UUID),
                    (&self.armed.identity, Type::TEXT),
                    (&lease.0, Type::UUID),
                    (&lease_for.as_secs_f64(), Type::FLOAT8),
                    (&lane, Type::INT2),
                    (&cursor.due_at, Type::TIMESTAMPTZ),
                    (&cursor.message_id, Type::UUID),
                    (&cursor.recipient_no, Type::INT2),
                    (&limit, Type::INT8),
                ],
            )
            .await?;
        let mut claimed: Vec<(Cursor, Claimed)> = rows.iter().map(|row| rows::claimed(row, lease)).collect();
        claimed.sort_by_key(|(cursor, _)| *cursor);
        let next = claimed.last().map_or(cursor, |(cursor, _)| *cursor);
        Ok((next, claimed.into_iter().map(|(_, claimed)| claimed).collect()))
    }

    /// What the messages say. A message that is gone or unreadable has its error in place; the batch goes on.
    ///
    /// # Errors
    /// Any of the statement's own.
    pub async fn contents(&self, ids: &[MessageId]) -> Result<Vec<Result<Notification, Error>>, Error> {
        let ids: Vec<uuid::Uuid> = ids.iter().map(|id| id.0).collect();
        let rows = self.rows("contents", include_str!("../queries/contents.sql"), &[(&ids, Type::UUID_ARRAY)]).await?;
        Ok(rows.iter().map(rows::notification).collect())
    }

    /// Makes intents durable, all in one commit. The answers are in the order of the requests.
    ///
    /// # Errors
    /// After an ambiguous one ([`Error::is_ambiguous`]) each request must be repeated with [`Wait::ForLocks`].
    pub async fn intend(&self, requests: &[IntendRequest], wait: Wait) -> Result<Vec<IntendAnswer>, Error> {
        const SKIPPING: &str = include_str!("../queries/intend.sql");
        let sql = match wait {
            Wait::Skip => SKIPPING.to_owned(),
            Wait::ForLocks => SKIPPING.replace("FOR UPDATE OF q SKIP LOCKED", "FOR UPDATE OF q"),
        };
        let column = |f: fn(&IntendRequest) -> uuid::Uuid| requests.iter().map(f).collect::<Vec<_>>();
        let numbers: Vec<i16> = requests.iter().map(|request| request.key.recipient_no).collect();
        let digests: Vec<&[u8]> = requests.iter().map(|request| request.sha256.as_slice()).collect();
        let routes: Vec<&str> = requests.iter().map(|request| request.route.as_str()).collect();
        let upstreams: Vec<Option<i64>> = requests.iter().map(|request| request.upstream.map(|u| u.id)).collect();
        let usable: Vec<Option<f64>> =
            requests.iter().map(|request| request.upstream.map(|u| seconds_of(u.usable))).collect();
        let rows = self
            .durable_rows(
                "intend",
                &sql,
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
                    (&"2s", Type::TEXT),
                    (&upstreams, Type::INT8_ARRAY),
                    (&usable, Type::FLOAT8_ARRAY),
                    (&self.beat.load(Ordering::SeqCst), Type::INT8),
                ],
            )
            .await?;
        let answers: HashMap<(DeliveryKey, Token), &str> =
            rows.iter().map(|row| (answered(row), row.get("answer"))).collect();
        let answer = |request: &IntendRequest| match (answers.get(&(request.key, request.token)), wait) {
            (Some(&"granted"), _) => IntendAnswer::Granted,
            (Some(&"changed"), _) => IntendAnswer::Changed,
            (Some(_), _) | (None, Wait::ForLocks) => IntendAnswer::Refused,
            (None, Wait::Skip) => IntendAnswer::Busy,
        };
        Ok(requests.iter().map(answer).collect())
    }

    /// Makes outcomes durable, all in one commit. Answers, in order, which attempts still owned their deliveries; the
    /// others are locked by somebody or have moved on: repeat them, then [`Store::settle_late`].
    ///
    /// # Errors
    /// Repeat the same call; a settle is idempotent.
    pub async fn settle(&self, batch: &[Settlement]) -> Result<Vec<bool>, Error> {
        let ids = |f: fn(&Settlement) -> uuid::Uuid| batch.iter().map(f).collect::<Vec<_>>();
        let texts = |f: fn(&Settlement) -> Option<String>| batch.iter().map(f).collect::<Vec<_>>();
        let numbers: Vec<i16> = batch.iter().map(|settlement| settlement.key.recipient_no).collect();
        let intended: Vec<bool> = batch.iter().map(|settlement| settlement.intended).collect();
        let verdicts: Vec<&str> = batch.iter().map(|settlement| settlement.verdict.word()).collect();
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
                ],
            )
            .await?;
        Ok(rows.len())
    }
}
