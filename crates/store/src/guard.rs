//! When the database is not the one it was: what guard mode asks and says. Nothing here asserts that the server is armed.
//!
//! Invariant: no statement here makes anything due. What is remembered is restored as done or in doubt, what is not known is
//! held.

use std::{sync::atomic::Ordering, time::Duration};

use hapax_core::{DeliveryKey, Incarnation, MessageId, Outcome, Token};
use tokio_postgres::types::Type;
use uuid::Uuid;

use crate::{
    Store,
    error::Error,
    hot::{Settlement, Verdict, capped, cause, code, detail, seconds_of},
};

/// Which server answers, and what it is armed for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Situation {
    /// The arming epoch it knows.
    pub epoch: Uuid,
    /// The identity it is armed for.
    pub armed_for: String,
    /// Its own identity.
    pub found: String,
    /// It is a standby: nothing can be done yet.
    pub in_recovery: bool,
    /// Its history has the epoch of this store: it is not an older one.
    pub descends: bool,
}

impl Situation {
    /// Whether this server is the one its outbox is armed for.
    #[must_use]
    pub fn is_armed(&self) -> bool {
        !self.in_recovery && self.armed_for == self.found
    }
}

/// Where the server says it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// The armed server has been met there before, or nowhere yet.
    pub known: bool,
    /// As people write it.
    pub here: String,
    /// Where the armed server has been met.
    pub others: String,
}

/// One attempt as its relay remembers it.
#[derive(Clone, Debug)]
pub struct Attempted {
    /// The incarnation that made it.
    pub relay: Incarnation,
    /// Which delivery.
    pub key: DeliveryKey,
    /// The lease of its claim.
    pub lease: hapax_core::Lease,
    /// Its own name.
    pub token: Token,
    /// The route it took.
    pub route: String,
    /// Since its intent was asked for.
    pub age: Duration,
    /// Whether its intent was granted: the end marker may have left.
    pub granted: bool,
    /// How it ended, if it has.
    pub end: Option<Settlement>,
}

/// What became of what a relay remembered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reasserted {
    /// Which delivery.
    pub key: DeliveryKey,
    /// Which attempt.
    pub token: Token,
    /// restored, settled, noted, already, sending, missing, stranger.
    pub answer: String,
}

/// One step of a walk through the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Batch {
    /// Held in all.
    pub held: i64,
    /// There is nothing left to walk.
    pub finished: bool,
}

/// A page of messages that was looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unqueued {
    /// How many were looked at.
    pub looked: i64,
    /// The last of them.
    pub last: Option<Uuid>,
    /// How many have neither a queue row nor a terminal record.
    pub how_many: i64,
    /// The first of those.
    pub missing: Vec<Uuid>,
}

impl Store {
    /// The last heartbeat that was answered.
    #[must_use]
    pub fn beat(&self) -> i64 {
        self.beat.load(Ordering::SeqCst)
    }

    /// Which server answers now.
    ///
    /// # Errors
    /// Any; ask again.
    pub async fn situation(&self) -> Result<Situation, Error> {
        let rows = self
            .rows("situation", include_str!("../queries/situation.sql"), &[(&self.armed.epoch, Type::UUID)])
            .await?;
        let row = rows.first().ok_or(Error::NoOutbox)?;
        Ok(Situation {
            epoch: row.get("epoch"),
            armed_for: row.get("identity"),
            found: row.get("found"),
            in_recovery: row.get("in_recovery"),
            descends: row.get("descends"),
        })
    }

    /// Whether the server is where it was met before.
    ///
    /// # Errors
    /// Any; ask again.
    pub async fn address(&self) -> Result<Address, Error> {
        let rows = self.rows("address", include_str!("../queries/address.sql"), &[]).await?;
        let row = rows.first().ok_or(Error::NoOutbox)?;
        let (address, port): (String, i32) = (row.get("address"), row.get("port"));
        let here = match address.as_str() {
            "" => format!("port {port}"),
            v6 if v6.contains(':') => format!("[{v6}]:{port}"),
            v4 => format!("{v4}:{port}"),
        };
        Ok(Address { known: row.get("known"), here, others: row.get("others") })
    }

    /// Records this address as one of the armed server.
    ///
    /// # Errors
    /// Any; call again.
    pub async fn note_address(&self, how: &str) -> Result<(), Error> {
        self.rows("note_address", include_str!("../queries/note_address.sql"), &[(&how, Type::TEXT)]).await.map(|_| ())
    }

    /// Notes that this looks like a copy: the next arming holds what is pending.
    ///
    /// # Errors
    /// Any; call again.
    pub async fn suspect_copy(&self) -> Result<(), Error> {
        self.durable_rows("suspect_copy", include_str!("../queries/suspect_copy.sql"), &[]).await.map(|_| ())
    }

    /// Disarms the outbox if this relay's heartbeat has fallen back in it. Answers whether it has.
    ///
    /// # Errors
    /// Any; call again.
    pub async fn disarm(&self) -> Result<bool, Error> {
        let params = [
            (&self.armed.epoch as _, Type::UUID),
            (&self.incarnation.0 as _, Type::UUID),
            (&self.beat() as _, Type::INT8),
        ];
        let rows = self.durable_rows("disarm", include_str!("../queries/disarm.sql"), &params).await?;
        Ok(rows.first().is_some_and(|row| row.get(0)))
    }

    /// Arms a later timeline of the same database, holding nothing. Answers whether that was done.
    ///
    /// # Errors
    /// Any; call again.
    pub async fn continue_after_failover(&self) -> Result<bool, Error> {
        let params = [
            (&self.armed.epoch as _, Type::UUID),
            (&self.incarnation.0 as _, Type::UUID),
            (&self.beat() as _, Type::INT8),
        ];
        let sql = include_str!("../queries/continue_after_failover.sql");
        let rows = self.durable_rows("continue_after_failover", sql, &params).await?;
        Ok(rows.first().is_some_and(|row| row.get(0)))
    }

    /// Holds the next batch of what the server's unknown past may have sent.
    ///
    /// # Errors
    /// Any; call again, it goes on where it was.
    pub async fn quarantine(&self, batch: i32) -> Result<Batch, Error> {
        let rows = self.rows("quarantine", include_str!("../queries/quarantine.sql"), &[(&batch, Type::INT4)]).await?;
        let row = rows.first().ok_or(Error::NoOutbox)?;
        Ok(Batch { held: row.get("held"), finished: row.get("finished") })
    }

    /// Says what is remembered, in the order of the intents.
    ///
    /// # Errors
    /// Any; call again.
    pub async fn reassert(&self, attempts: &[Attempted]) -> Result<Vec<Reasserted>, Error> {
        let ids = |f: fn(&Attempted) -> Uuid| attempts.iter().map(f).collect::<Vec<_>>();
        let ends = |f: fn(&Settlement) -> Option<String>| {
            attempts.iter().map(|attempt| attempt.end.as_ref().and_then(f)).collect::<Vec<_>>()
        };
        let outcomes = |f: fn(&Outcome) -> Option<String>| {
            let outcome = |attempt: &Attempted| attempt.end.as_ref().and_then(|end| end.outcome.as_ref().and_then(f));
            attempts.iter().map(outcome).collect::<Vec<_>>()
        };
        let numbers: Vec<i16> = attempts.iter().map(|attempt| attempt.key.recipient_no).collect();
        let intended: Vec<bool> = attempts.iter().map(|attempt| attempt.granted).collect();
        let after: Vec<f64> = attempts.iter().map(|attempt| attempt.end.as_ref().map_or(0.0, after_s)).collect();
        let codes: Vec<Option<i16>> = attempts
            .iter()
            .map(|attempt| attempt.end.as_ref().and_then(|end| end.outcome.as_ref().and_then(code)))
            .collect();
        let routes: Vec<String> = attempts.iter().map(|attempt| capped(&attempt.route)).collect();
        let ages: Vec<f64> = attempts.iter().map(|attempt| seconds_of(attempt.age)).collect();
        let bytes =
            |attempt: &Attempted| attempt.end.as_ref().map_or(0, |end| i32::try_from(end.bytes).unwrap_or(i32::MAX));
        let bytes: Vec<i32> = attempts.iter().map(bytes).collect();
        let reply = |f: fn(&hapax_core::Reply) -> Option<String>| {
            let end = |attempt: &Attempted| attempt.end.as_ref()?.outcome.as_ref()?.reply().and_then(f);
            attempts.iter().map(end).collect::<Vec<_>>()
        };
        let rows = self
            .durable_rows(
                "reassert",
                include_str!("../queries/reassert.sql"),
                &[
                    (&self.armed.epoch, Type::UUID),
                    (&ids(|attempt| attempt.relay.0), Type::UUID_ARRAY),
                    (&ids(|attempt| attempt.key.message_id.0), Type::UUID_ARRAY),
                    (&numbers, Type::INT2_ARRAY),
                    (&ids(|attempt| attempt.lease.0), Type::UUID_ARRAY),
                    (&ids(|attempt| attempt.token.0), Type::UUID_ARRAY),
                    (&intended, Type::BOOL_ARRAY),
                    (&ends(|end| Some(end.verdict.as_str().to_owned())), Type::TEXT_ARRAY),
                    (&after, Type::FLOAT8_ARRAY),
                    (&ends(|end| end.verdict.reason()), Type::TEXT_ARRAY),
                    (&outcomes(|outcome| Some(outcome.as_str().to_owned())), Type::TEXT_ARRAY),
                    (&outcomes(|outcome| Some(outcome.phase().as_str().to_owned())), Type::TEXT_ARRAY),
                    (&outcomes(|outcome| cause(outcome).map(str::to_owned)), Type::TEXT_ARRAY),
                    (&codes, Type::INT2_ARRAY),
                    (&reply(|reply| reply.enhanced.clone()), Type::TEXT_ARRAY),
                    (&reply(|reply| Some(capped(&reply.text))), Type::TEXT_ARRAY),
                    (&outcomes(detail), Type::TEXT_ARRAY),
                    (&routes, Type::TEXT_ARRAY),
                    (&ends(|end| end.server.as_deref().map(capped)), Type::TEXT_ARRAY),
                    (&ages, Type::FLOAT8_ARRAY),
                    (&bytes, Type::INT4_ARRAY),
                ],
            )
            .await?;
        let read = |row: &tokio_postgres::Row| Reasserted {
            key: DeliveryKey { message_id: MessageId(row.get("message_id")), recipient_no: row.get("recipient_no") },
            token: Token(row.get("token")),
            answer: row.get("answer"),
        };
        Ok(rows.iter().map(read).collect())
    }

    /// Looks at the next messages behind `after` (and of the last day) for such that nobody will ever send.
    ///
    /// # Errors
    /// Any; call again.
    pub async fn unqueued(&self, after: Uuid, limit: i64) -> Result<Unqueued, Error> {
        let params = [(&after as _, Type::UUID), (&limit as _, Type::INT8)];
        let rows = self.rows("unqueued", include_str!("../queries/unqueued.sql"), &params).await?;
        Ok(rows.first().map_or_else(Unqueued::default, |row| Unqueued {
            looked: row.get("looked"),
            last: row.get("last"),
            how_many: row.get("how_many"),
            missing: row.get::<_, Option<Vec<Uuid>>>("missing").unwrap_or_default(),
        }))
    }
}

fn after_s(end: &Settlement) -> f64 {
    match end.verdict {
        Verdict::Retry { after, .. } => seconds_of(after),
        _ => 0.0,
    }
}
