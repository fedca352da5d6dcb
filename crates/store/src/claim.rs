//! How deliveries come into a relay's hands: claim, and what their messages say.

use std::{
    collections::HashMap,
    time::{Duration, SystemTime},
};

use hapax_core::{Lease, MessageId, envelope::Notification};
use tokio_postgres::types::Type;
use uuid::Uuid;

use crate::{
    Store, Typed,
    error::Error,
    rows::{self, Claimed, Cursor, Turn},
};

/// A lane to claim from.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// Which one.
    pub lane: i16,
    /// The room its deliveries need a place in: lanes of one route share one.
    pub room: usize,
    /// At most so many.
    pub limit: usize,
    /// Only what lies behind it.
    pub from: Cursor,
}

impl Store {
    /// Leases due deliveries of many lanes, in the order of `wanted` and, within a lane, in the order they are due; `free`
    /// at most, and no more of each room than it has.
    ///
    /// # Errors
    /// Any; a claim whose answer was lost leaves leases behind that expire.
    ///
    /// # Panics
    /// When a lane names a room that is not in `rooms`.
    pub async fn claim_lanes(
        &self,
        wanted: &[Wanted],
        free: usize,
        rooms: &[usize],
        lease_for: Duration,
    ) -> Result<Vec<Claimed>, Error> {
        assert!(wanted.iter().all(|lane| lane.room < rooms.len()), "a lane without a room");
        let lease = Lease::fresh();
        let number = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        let lanes: Vec<i16> = wanted.iter().map(|lane| lane.lane).collect();
        let limits: Vec<i64> = wanted.iter().map(|lane| number(lane.limit)).collect();
        let room_of: Vec<i32> = wanted.iter().map(|lane| i32::try_from(lane.room + 1).unwrap_or(1)).collect();
        let rooms: Vec<i64> = rooms.iter().copied().map(number).collect();
        let due_at: Vec<SystemTime> = wanted.iter().map(|lane| lane.from.due_at).collect();
        let message_ids: Vec<uuid::Uuid> = wanted.iter().map(|lane| lane.from.message_id).collect();
        let recipient_nos: Vec<i16> = wanted.iter().map(|lane| lane.from.recipient_no).collect();
        let rows = self
            .rows(
                "claim",
                include_str!("../queries/claim.sql"),
                &[
                    (&self.armed.epoch, Type::UUID),
                    (&self.armed.identity, Type::TEXT),
                    (&lease.0, Type::UUID),
                    (&lease_for.as_secs_f64(), Type::FLOAT8),
                    (&number(free), Type::INT8),
                    (&rooms, Type::INT8_ARRAY),
                    (&lanes, Type::INT2_ARRAY),
                    (&limits, Type::INT8_ARRAY),
                    (&room_of, Type::INT4_ARRAY),
                    (&due_at, Type::TIMESTAMPTZ_ARRAY),
                    (&message_ids, Type::UUID_ARRAY),
                    (&recipient_nos, Type::INT2_ARRAY),
                ],
            )
            .await?;
        let place = |lane: i16| wanted.iter().position(|wanted| wanted.lane == lane);
        let mut claimed: Vec<Claimed> = rows.iter().map(|row| rows::claimed(row, lease)).collect();
        claimed.sort_by_cached_key(|claimed| (place(claimed.lane), claimed.cursor));
        Ok(claimed)
    }

    /// In which of these lanes several tenants wait, those without one being one more.
    ///
    /// # Errors
    /// Any.
    pub async fn lanes_by_turns(&self, lanes: &[i16]) -> Result<Vec<i16>, Error> {
        let sql = include_str!("../queries/lanes_by_turns.sql");
        let rows = self.rows("lanes_by_turns", sql, &[(&lanes, Type::INT2_ARRAY)]).await?;
        Ok(rows.first().map(|row| row.get(0)).unwrap_or_default())
    }

    /// As [`Store::claim`], but by turns: as many of each tenant that waits, those first whose turn it is; in the order they are
    /// due within a tenant. Answers where the next claim of the lane goes on, too.
    ///
    /// # Errors
    /// Any; see there.
    pub async fn claim_turns(
        &self,
        lane: i16,
        turn: Turn,
        limit: usize,
        lease_for: Duration,
    ) -> Result<(Turn, Vec<Claimed>), Error> {
        let lease = Lease::fresh();
        let rows = self
            .rows(
                "claim_turns",
                include_str!("../queries/claim_turns.sql"),
                &[
                    (&self.armed.epoch, Type::UUID),
                    (&self.armed.identity, Type::TEXT),
                    (&lease.0, Type::UUID),
                    (&lease_for.as_secs_f64(), Type::FLOAT8),
                    (&lane, Type::INT2),
                    (&i64::try_from(limit).unwrap_or(i64::MAX), Type::INT8),
                    (&turn.after, Type::INT4),
                    (&turn.seen.due_at, Type::TIMESTAMPTZ),
                    (&turn.seen.message_id, Type::UUID),
                    (&turn.seen.recipient_no, Type::INT2),
                ],
            )
            .await?;
        let next = rows.first().map_or(turn, rows::turn);
        // Without a message it only says how far the claim has looked.
        let taken = rows.iter().filter(|row| row.get::<_, Option<Uuid>>("message_id").is_some());
        let mut claimed: Vec<Claimed> = taken.map(|row| rows::claimed(row, lease)).collect();
        claimed.sort_by_key(|claimed| claimed.cursor);
        Ok((next, claimed))
    }

    /// As [`Store::claim_lanes`], of one lane; answers the cursor to go on from, too.
    ///
    /// # Errors
    /// Any; see there.
    pub async fn claim(
        &self,
        lane: i16,
        from: Cursor,
        limit: usize,
        lease_for: Duration,
    ) -> Result<(Cursor, Vec<Claimed>), Error> {
        let wanted = Wanted { lane, room: 0, limit, from };
        let claimed = self.claim_lanes(&[wanted], limit, &[limit], lease_for).await?;
        Ok((claimed.last().map_or(from, |claimed| claimed.cursor), claimed))
    }

    /// What the messages say. A message that is gone or unreadable has its error in place; the batch goes on. Attachments and
    /// finished messages beyond `inline_bytes_max` do not come along: see [`Store::attachments_of`] and [`Store::raw_pieces`].
    ///
    /// # Errors
    /// Any of the statement's own.
    pub async fn letters(
        &self,
        ids: &[MessageId],
        inline_bytes_max: i64,
    ) -> Result<Vec<Result<Notification, Error>>, Error> {
        let ids: Vec<uuid::Uuid> = ids.iter().map(|id| id.0).collect();
        let params: [Typed<'_>; 2] = [(&ids, Type::UUID_ARRAY), (&inline_bytes_max, Type::INT8)];
        let rows = self.rows("letters", include_str!("../queries/letters.sql"), &params).await?;
        Ok(rows.iter().map(rows::notification).collect())
    }

    /// The trace contexts that producers gave with these messages; not all did. A statement of its own: whoever does not
    /// trace pays nothing for it, and the partitions of others are not looked at.
    ///
    /// # Errors
    /// Any of the statement's own.
    pub async fn traceparents(&self, ids: &[MessageId]) -> Result<HashMap<MessageId, String>, Error> {
        let ids: Vec<uuid::Uuid> = ids.iter().map(|id| id.0).collect();
        let sql = include_str!("../queries/traceparents.sql");
        let rows = self.rows("traceparents", sql, &[(&ids, Type::UUID_ARRAY)]).await?;
        Ok(rows.iter().map(|row| (MessageId(row.get(0)), row.get(1))).collect())
    }
}
