//! A relay of the generation before: its hot statements as they were released (`tests/fixtures/previous`), with its
//! parameters, on today's schema. The fixtures change when a release is made, and only then: they are what may still be
//! running while a rolling upgrade goes on (RC-38).

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::SystemTime,
};

use hapax_core::{DeliveryKey, Incarnation, Lease, MessageId, Outcome};
use hapax_store::{Claimed, Cursor, IntendAnswer, Settlement, Store, Verdict};
use tokio_postgres::{
    Client, Row,
    types::{ToSql, Type},
};
use uuid::Uuid;

use super::{Attempt, LANE, LEASE};

type Typed<'a> = (&'a (dyn ToSql + Sync), Type);

pub(crate) struct Previous {
    client: Client,
    /// Registered for it: its incarnation and what it was armed for.
    store: Store,
    turns: AtomicU64,
}

impl Previous {
    pub(crate) fn new(client: Client, store: Store) -> Self {
        Self { client, store, turns: AtomicU64::new(0) }
    }

    pub(crate) fn incarnation(&self) -> Incarnation {
        self.store.incarnation()
    }

    /// Every second statement, in an order that is the same each time.
    pub(crate) fn takes_turn(&self) -> bool {
        let turn = self.turns.fetch_add(1, Ordering::SeqCst);
        turn.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 63 == 1
    }

    async fn rows(&self, sql: &str, rest: &[Typed<'_>]) -> Vec<Row> {
        let armed = self.store.armed();
        let mut parameters: Vec<Typed<'_>> = vec![(&armed.epoch, Type::UUID), (&armed.identity, Type::TEXT)];
        parameters.extend(rest.iter().cloned());
        self.client.query_typed(sql, &parameters).await.unwrap_or_else(|error| panic!("{error:?} in {sql}"))
    }

    pub(crate) async fn claim(&self) -> Vec<Claimed> {
        let lease = Lease::fresh();
        let parameters: [Typed<'_>; 7] = [
            (&lease.0, Type::UUID),
            (&LEASE.as_secs_f64(), Type::FLOAT8),
            (&LANE, Type::INT2),
            (&SystemTime::UNIX_EPOCH, Type::TIMESTAMPTZ),
            (&Uuid::nil(), Type::UUID),
            (&0_i16, Type::INT2),
            (&10_000_i64, Type::INT8),
        ];
        let rows = self.rows(include_str!("../fixtures/previous/claim.sql"), &parameters).await;
        let claimed = rows.iter().map(|row| Claimed {
            key: DeliveryKey { message_id: MessageId(row.get("message_id")), recipient_no: row.get("recipient_no") },
            lane: LANE,
            cursor: Cursor::START,
            lease,
            claims: row.get("claims"),
            attempt_no: row.get("attempt_no"),
            intents: row.get("intents"),
            open_doubts: row.get("open_doubts"),
            pinned_route: row.get("pinned_route"),
            // Not known then.
            due_for: std::time::Duration::ZERO,
            bound: None,
        });
        claimed.collect()
    }

    pub(crate) async fn intend(&self, attempt: &Attempt) -> IntendAnswer {
        let sql =
            include_str!("../fixtures/previous/intend.sql").replace("FOR UPDATE OF q SKIP LOCKED", "FOR UPDATE OF q");
        let sha256: &[u8] = &[7; 32];
        let parameters: [Typed<'_>; 8] = [
            (&vec![attempt.key.message_id.0], Type::UUID_ARRAY),
            (&vec![attempt.key.recipient_no], Type::INT2_ARRAY),
            (&vec![attempt.lease.0], Type::UUID_ARRAY),
            (&vec![attempt.token.0], Type::UUID_ARRAY),
            (&vec![sha256], Type::BYTEA_ARRAY),
            (&vec!["default"], Type::TEXT_ARRAY),
            (&self.store.incarnation().0, Type::UUID),
            (&"2s", Type::TEXT),
        ];
        let rows = self.rows(&sql, &parameters).await;
        match rows.first().map(|row| row.get::<_, String>("answer")).as_deref() {
            Some("granted") => IntendAnswer::Granted,
            Some("changed") => IntendAnswer::Changed,
            _ => IntendAnswer::Refused,
        }
    }

    pub(crate) async fn settle(&self, end: &Settlement) -> bool {
        let (word, after, counts, reason) = match &end.verdict {
            Verdict::Sent => ("sent", 0.0, true, None),
            Verdict::Failed(reason) => ("failed", 0.0, true, Some(reason.clone())),
            Verdict::InDoubt(reason) => ("in_doubt", 0.0, true, Some(reason.clone())),
            Verdict::Held(reason) => ("held", 0.0, false, Some(reason.clone())),
            Verdict::Poison(reason) => ("poison", 0.0, false, Some(reason.clone())),
            Verdict::Expired => ("expired", 0.0, false, Some("expires_at has passed".to_owned())),
            Verdict::Retry { after, counts } => ("retry", after.as_secs_f64(), *counts, None),
            later @ (Verdict::SentElsewhere(_) | Verdict::Suppressed(_) | Verdict::DoubtAgain(_)) => {
                panic!("the previous generation never settled {later:?}")
            }
        };
        let outcome = end.outcome.as_ref();
        let reply = outcome.and_then(Outcome::reply);
        let cause = outcome.and_then(|outcome| match outcome {
            Outcome::NotSent { cause, .. } | Outcome::Unknown { cause, .. } => Some(cause.as_str()),
            _ => None,
        });
        let code = reply.and_then(|reply| i16::try_from(reply.code).ok());
        let parameters: [Typed<'_>; 21] = [
            (&vec![end.key.message_id.0], Type::UUID_ARRAY),
            (&vec![end.key.recipient_no], Type::INT2_ARRAY),
            (&vec![end.lease.0], Type::UUID_ARRAY),
            (&vec![end.token.0], Type::UUID_ARRAY),
            (&vec![end.intended], Type::BOOL_ARRAY),
            (&vec![word], Type::TEXT_ARRAY),
            (&vec![after], Type::FLOAT8_ARRAY),
            (&vec![counts], Type::BOOL_ARRAY),
            (&vec![reason], Type::TEXT_ARRAY),
            (&vec![outcome.map(Outcome::as_str)], Type::TEXT_ARRAY),
            (&vec![outcome.map(|outcome| outcome.phase().as_str())], Type::TEXT_ARRAY),
            (&vec![cause], Type::TEXT_ARRAY),
            (&vec![code], Type::INT2_ARRAY),
            (&vec![reply.and_then(|reply| reply.enhanced.clone())], Type::TEXT_ARRAY),
            (&vec![reply.map(|reply| reply.text.clone())], Type::TEXT_ARRAY),
            (&vec![None::<String>], Type::TEXT_ARRAY),
            (&vec![Some("default")], Type::TEXT_ARRAY),
            (&vec![end.server.clone()], Type::TEXT_ARRAY),
            (&vec![end.took.as_secs_f64()], Type::FLOAT8_ARRAY),
            (&vec![100_i32], Type::INT4_ARRAY),
            (&self.store.incarnation().0, Type::UUID),
        ];
        !self.rows(include_str!("../fixtures/previous/settle.sql"), &parameters).await.is_empty()
    }

    pub(crate) async fn release(&self, attempt: &Attempt) -> usize {
        let parameters: [Typed<'_>; 5] = [
            (&vec![attempt.key.message_id.0], Type::UUID_ARRAY),
            (&vec![attempt.key.recipient_no], Type::INT2_ARRAY),
            (&vec![attempt.lease.0], Type::UUID_ARRAY),
            (&vec![0.0_f64], Type::FLOAT8_ARRAY),
            (&vec![None::<i16>], Type::INT2_ARRAY),
        ];
        self.rows(include_str!("../fixtures/previous/release.sql"), &parameters).await.len()
    }
}
