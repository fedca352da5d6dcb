//! Incarnations and doubts: register, heartbeat, what the reaper reads and marks, upkeep.

use std::{sync::atomic::Ordering, time::Duration};

use hapax_core::{DeliveryKey, Incarnation, MessageId, OnDoubt, Token};
use tokio_postgres::{Row, types::Type};
use uuid::Uuid;

use crate::{
    Collecting, GuardWindow, Store, Typed,
    error::Error,
    rows::{elapsed, seconds},
};

/// Another relay's heartbeat counter, as it stands in the database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RelaySeen {
    /// Whose.
    pub incarnation: Incarnation,
    /// The counter.
    pub beat: i64,
    /// It has said goodbye after closing everything.
    pub signed_off: bool,
}

/// A delivery the reaper has put in doubt.
#[derive(Clone, Debug)]
pub struct Marked {
    /// Which one.
    pub key: DeliveryKey,
    /// The attempt nobody knows about.
    pub token: Token,
    /// The incarnation that vanished.
    pub relay: Option<Incarnation>,
    /// The route its intent names.
    pub route: Option<String>,
}

/// A doubt a policy may decide.
#[derive(Clone, Debug)]
pub struct Doubt {
    /// Which delivery.
    pub key: DeliveryKey,
    /// The attempt nobody knows about.
    pub token: Token,
    /// Its kind, whose policy applies when the message has none.
    pub kind: String,
    /// The message's own policy.
    pub on_doubt: Option<OnDoubt>,
    /// How often it was sent again before.
    pub resends: i16,
    /// How long after the mark its attempt may still be alive; zero when it certainly is not.
    pub grace: Duration,
    /// The route its attempts went to.
    pub pinned_route: Option<String>,
    /// The de-duplicating upstream that all its attempts in doubt went to.
    pub upstream: Option<i64>,
    /// Since its first intent, by the database's clock; none when that lies in the future.
    pub since_first_intent: Option<Duration>,
    /// How many of `resends` were with the same key.
    pub same_key_resends: i16,
}

/// Where the pages of doubts go on. From a [`MessageId`] alone: behind all its recipients.
#[derive(Clone, Copy, Debug)]
pub struct DoubtCursor(DeliveryKey);

impl From<DeliveryKey> for DoubtCursor {
    fn from(key: DeliveryKey) -> Self {
        Self(key)
    }
}

impl From<MessageId> for DoubtCursor {
    fn from(message_id: MessageId) -> Self {
        Self(DeliveryKey { message_id, recipient_no: i16::MAX })
    }
}

fn key(row: &Row) -> DeliveryKey {
    DeliveryKey { message_id: MessageId(row.get("message_id")), recipient_no: row.get("recipient_no") }
}

/// What the configuration says of a kind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kind {
    /// Its name.
    pub name: String,
    /// The priority of its notifications that name none.
    pub priority: Option<&'static str>,
    /// Their route.
    pub route: Option<String>,
    /// They go to suppressed addresses, too.
    pub ignores_suppression: bool,
    /// Those behind one of them in an ordering key pass it so long after it stopped; none: they wait.
    pub skip_after: Option<Duration>,
    /// One of them that has an ordering key and fails is held instead.
    pub failed_blocks: bool,
    /// What becomes of the same content enqueued twice; none: nothing.
    pub guard: Option<GuardWindow>,
    /// How they go in digests; none: each by itself.
    pub collect: Option<Collecting>,
}

impl Store {
    /// Introduces this process.
    ///
    /// # Errors
    /// Any; call again.
    pub async fn register(
        &self,
        name: &str,
        host: &str,
        version: &str,
        doubt_grace: Duration,
        routes: &[String],
    ) -> Result<(), Error> {
        let pid = i32::try_from(std::process::id()).unwrap_or(0);
        self.rows(
            "register",
            include_str!("../queries/register.sql"),
            &[
                (&self.incarnation.0, Type::UUID),
                (&name, Type::TEXT),
                (&host, Type::TEXT),
                (&pid, Type::INT4),
                (&version, Type::TEXT),
                (&doubt_grace.as_secs_f64(), Type::FLOAT8),
                (&routes, Type::TEXT_ARRAY),
            ],
        )
        .await
        .map(|_| ())
    }

    /// Says which routes rest or are slowed down, as JSON, for people.
    ///
    /// # Errors
    /// Any.
    pub async fn tell_routes(&self, states: &str) -> Result<(), Error> {
        let params: [Typed<'_>; 2] = [(&self.incarnation.0, Type::UUID), (&states, Type::TEXT)];
        self.rows("tell_routes", include_str!("../queries/tell_routes.sql"), &params).await.map(drop)
    }

    /// Advances the heartbeat counter from `beat`. Answers the counter that stands now, or none when the row is gone or
    /// signed off.
    ///
    /// # Errors
    /// Any; call again with the same `beat`.
    pub async fn heartbeat(&self, beat: i64) -> Result<Option<i64>, Error> {
        let rows = self
            .rows(
                "heartbeat",
                include_str!("../queries/heartbeat.sql"),
                &[
                    (&self.incarnation.0, Type::UUID),
                    (&beat, Type::INT8),
                    (&self.armed.epoch, Type::UUID),
                    (&self.armed.identity, Type::TEXT),
                ],
            )
            .await?;
        if let Some(row) = rows.first().filter(|row| row.get::<_, Option<bool>>("moved") == Some(true)) {
            // Where it was met before this statement.
            match row.get::<_, &str>("met_at") {
                "" => tracing::info!(
                    "the address of this database is recorded, so that a copy of it elsewhere can be told apart (by a socket or \
                     loopback only its port)"
                ),
                others => tracing::info!(
                    database.known_at = others,
                    "the database is met at a new address, which is recorded: the heartbeat of this relay goes on there"
                ),
            }
        }
        let stands: Option<i64> = rows.first().and_then(|row| row.get(0));
        if stands == Some(beat + 1) {
            self.beat.fetch_max(beat + 1, Ordering::SeqCst);
        }
        Ok(stands)
    }

    /// Says goodbye: all sockets are closed, all settles done.
    ///
    /// # Errors
    /// Any; an incarnation that did not sign off is reaped like one that died.
    pub async fn sign_off(&self) -> Result<(), Error> {
        self.sign_off_of(self.incarnation).await
    }

    /// The same, for an earlier incarnation of this process that could not.
    ///
    /// # Errors
    /// As [`Store::sign_off`].
    pub async fn sign_off_of(&self, incarnation: Incarnation) -> Result<(), Error> {
        self.rows("sign_off", include_str!("../queries/sign_off.sql"), &[(&incarnation.0, Type::UUID)])
            .await
            .map(|_| ())
    }

    /// The heartbeat counters of all incarnations of late.
    ///
    /// # Errors
    /// Any; then the observation must begin anew.
    pub async fn relays(&self) -> Result<Vec<RelaySeen>, Error> {
        let rows = self.rows("relays", include_str!("../queries/relays.sql"), &[]).await?;
        let seen = |row: &Row| RelaySeen {
            incarnation: Incarnation(row.get("incarnation")),
            beat: row.get("beat"),
            signed_off: row.get("signed_off"),
        };
        Ok(rows.iter().map(seen).collect())
    }

    /// Puts in doubt what incarnations observed to be dead have left behind an intent, and what is older than `age`.
    ///
    /// # Errors
    /// Any; call again.
    pub async fn mark_in_doubt(&self, dead: &[Incarnation], age: Duration) -> Result<Vec<Marked>, Error> {
        let dead: Vec<Uuid> = dead.iter().map(|incarnation| incarnation.0).collect();
        let rows = self
            .durable_rows(
                "mark_in_doubt",
                include_str!("../queries/mark_in_doubt.sql"),
                &[
                    (&self.armed.epoch, Type::UUID),
                    (&self.armed.identity, Type::TEXT),
                    (&dead, Type::UUID_ARRAY),
                    (&age.as_secs_f64(), Type::FLOAT8),
                ],
            )
            .await?;
        let marked = |row: &Row| Marked {
            key: key(row),
            token: Token(row.get("token")),
            relay: row.get::<_, Option<Uuid>>("relay").map(Incarnation),
            route: row.get("route"),
        };
        Ok(rows.iter().map(marked).collect())
    }

    /// The intents this incarnation is said to hold.
    ///
    /// # Errors
    /// Any.
    pub async fn own_sending(&self) -> Result<Vec<(DeliveryKey, Token)>, Error> {
        let rows = self
            .rows("own_sending", include_str!("../queries/own_sending.sql"), &[(&self.incarnation.0, Type::UUID)])
            .await?;
        Ok(rows.iter().map(|row| (key(row), Token(row.get("intent")))).collect())
    }

    /// Deliveries in doubt of the given lanes, in key order after `after`. Give the key of the last one of the page before:
    /// its message alone would skip the remaining recipients of that message.
    ///
    /// # Errors
    /// Any.
    pub async fn doubts(&self, lanes: &[i16], after: impl Into<DoubtCursor>, limit: i64) -> Result<Vec<Doubt>, Error> {
        let (lanes, DoubtCursor(after)) = (lanes.to_vec(), after.into());
        let rows = self
            .rows(
                "doubts",
                include_str!("../queries/doubts.sql"),
                &[
                    (&lanes, Type::INT2_ARRAY),
                    (&after.message_id.0, Type::UUID),
                    (&after.recipient_no, Type::INT2),
                    (&limit, Type::INT8),
                ],
            )
            .await?;
        let doubt = |row: &Row| Doubt {
            key: key(row),
            token: Token(row.get("intent")),
            kind: row.get("kind"),
            on_doubt: row.get::<_, Option<&str>>("on_doubt").and_then(|word| word.parse().ok()),
            resends: row.get("resends"),
            grace: match (row.get::<_, Option<&str>>("doubt_by"), row.get("signed_off")) {
                (Some("reaper"), false) => seconds(row.get("grace_s")),
                _ => Duration::ZERO,
            },
            pinned_route: row.get("pinned_route"),
            upstream: row.get("upstream"),
            since_first_intent: row.get::<_, Option<f64>>("first_intent_age_s").and_then(elapsed),
            same_key_resends: row.get("same_key_resends"),
        };
        Ok(rows.iter().map(doubt).collect())
    }

    /// Decides one doubt by policy. Answers what was done, in words; waits for no lock.
    ///
    /// # Errors
    /// Any; the token makes a repetition harmless.
    pub async fn decide_doubt(&self, doubt: &Doubt, verdict: &str, reason: &str) -> Result<String, Error> {
        let number = i32::from(doubt.key.recipient_no);
        let rows = self
            .durable_rows(
                "decide_doubt",
                include_str!("../queries/decide_doubt.sql"),
                &[
                    (&self.armed.epoch, Type::UUID),
                    (&self.armed.identity, Type::TEXT),
                    (&doubt.key.message_id.0, Type::UUID),
                    (&number, Type::INT4),
                    (&verdict, Type::TEXT),
                    (&reason, Type::TEXT),
                    (&doubt.token.0, Type::UUID),
                ],
            )
            .await?;
        Ok(rows.first().map_or_else(|| "nothing: it is gone, or locked by somebody".into(), |row| row.get(0)))
    }

    /// Resolves one doubt by sending again with the same key: to `upstream` by `route`, if the first intent is younger than
    /// `usable`. Answers what was done, in words; waits for no lock.
    ///
    /// # Errors
    /// Any; the token makes a repetition harmless.
    pub async fn resend_same_key(
        &self,
        doubt: &Doubt,
        route: &str,
        upstream: i64,
        usable: Duration,
        reason: &str,
    ) -> Result<String, Error> {
        let number = i32::from(doubt.key.recipient_no);
        let rows = self
            .durable_rows(
                "resend_same_key",
                include_str!("../queries/resend_same_key.sql"),
                &[
                    (&self.armed.epoch, Type::UUID),
                    (&self.armed.identity, Type::TEXT),
                    (&doubt.key.message_id.0, Type::UUID),
                    (&number, Type::INT4),
                    (&doubt.token.0, Type::UUID),
                    (&route, Type::TEXT),
                    (&upstream, Type::INT8),
                    (&usable.as_secs_f64(), Type::FLOAT8),
                    (&reason, Type::TEXT),
                ],
            )
            .await?;
        Ok(rows.first().map_or_else(|| "nothing: it is gone, or locked by somebody".into(), |row| row.get(0)))
    }

    /// Frees ordering keys whose head ended while their next delivery was being committed: a page of the keys behind
    /// `after`. Answers how many, and where the next page begins, none when it is the first again.
    ///
    /// # Errors
    /// Any; call again.
    pub async fn free_ordered(&self, after: Option<&str>) -> Result<(i64, Option<String>), Error> {
        let sql = include_str!("../queries/free_ordered.sql");
        let rows = self.rows("free_ordered", sql, &[(&after, Type::TEXT)]).await?;
        Ok(rows.first().map_or((0, None), |row| (row.get("freed"), row.get("next"))))
    }

    /// Moves what is due in lanes of routes that no relay has had for a while into the lanes of the default route, at most
    /// `batch`; answers how many.
    ///
    /// # Errors
    /// Any; call again.
    pub async fn adopt_orphans(&self, batch: i32) -> Result<i64, Error> {
        let sql = include_str!("../queries/adopt_orphans.sql");
        let rows = self.rows("adopt_orphans", sql, &[(&batch, Type::INT4)]).await?;
        Ok(rows.first().map_or(0, |row| row.get(0)))
    }

    /// The reaper's word that it has watched these doubts for their whole grace by its own monotonic clock.
    ///
    /// # Errors
    /// Any; call again.
    pub async fn doubts_over(&self, doubts: &[(DeliveryKey, Token)]) -> Result<(), Error> {
        let ids: Vec<Uuid> = doubts.iter().map(|(key, _)| key.message_id.0).collect();
        let numbers: Vec<i16> = doubts.iter().map(|(key, _)| key.recipient_no).collect();
        let tokens: Vec<Uuid> = doubts.iter().map(|(_, token)| token.0).collect();
        self.durable_rows(
            "doubts_over",
            include_str!("../queries/doubts_over.sql"),
            &[
                (&self.armed.epoch, Type::UUID),
                (&self.armed.identity, Type::TEXT),
                (&ids, Type::UUID_ARRAY),
                (&numbers, Type::INT2_ARRAY),
                (&tokens, Type::UUID_ARRAY),
                (&self.incarnation.0, Type::UUID),
            ],
        )
        .await
        .map(|_| ())
    }

    /// Registers routes, each with the host it leads to; answers the lane group of each.
    ///
    /// # Errors
    /// Any; call again.
    pub async fn register_routes(&self, routes: &[(String, Option<String>)]) -> Result<Vec<(String, i16)>, Error> {
        let names: Vec<&str> = routes.iter().map(|(name, _)| name.as_str()).collect();
        let hosts: Vec<Option<&str>> = routes.iter().map(|(_, host)| host.as_deref()).collect();
        // A name that another relay registered at the same moment is not in the statement's snapshot: look again.
        loop {
            let rows = self
                .rows(
                    "register_routes",
                    include_str!("../queries/register_routes.sql"),
                    &[(&names, Type::TEXT_ARRAY), (&hosts, Type::TEXT_ARRAY)],
                )
                .await?;
            let groups: Vec<(String, i16)> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
            if names.iter().all(|name| groups.iter().any(|(known, _)| known == name)) {
                return Ok(groups);
            }
        }
    }

    /// Registers what the configuration says of kinds.
    ///
    /// # Errors
    /// Any; call again.
    pub async fn register_kinds(&self, kinds: &[Kind]) -> Result<(), Error> {
        let names: Vec<&str> = kinds.iter().map(|kind| kind.name.as_str()).collect();
        let priorities: Vec<Option<&str>> = kinds.iter().map(|kind| kind.priority).collect();
        let routes: Vec<Option<&str>> = kinds.iter().map(|kind| kind.route.as_deref()).collect();
        let ignores: Vec<bool> = kinds.iter().map(|kind| kind.ignores_suppression).collect();
        let skips: Vec<Option<f64>> =
            kinds.iter().map(|kind| kind.skip_after.map(|after| after.as_secs_f64())).collect();
        let blocks: Vec<bool> = kinds.iter().map(|kind| kind.failed_blocks).collect();
        let windows: Vec<Option<f64>> =
            kinds.iter().map(|kind| kind.guard.map(|guard| guard.within.as_secs_f64())).collect();
        let on_duplicate: Vec<&str> =
            kinds.iter().map(|kind| kind.guard.unwrap_or_default().on_duplicate.as_str()).collect();
        let collects: Vec<Option<f64>> =
            kinds.iter().map(|kind| kind.collect.as_ref().map(|collect| collect.within.as_secs_f64())).collect();
        let most: Vec<Option<i32>> =
            kinds.iter().map(|kind| kind.collect.as_ref().map(|collect| collect.max)).collect();
        let collects_as: Vec<Option<&str>> =
            kinds.iter().map(|kind| kind.collect.as_ref().and_then(|collect| collect.as_kind.as_deref())).collect();
        self.rows(
            "register_kinds",
            include_str!("../queries/register_kinds.sql"),
            &[
                (&names, Type::TEXT_ARRAY),
                (&priorities, Type::TEXT_ARRAY),
                (&routes, Type::TEXT_ARRAY),
                (&ignores, Type::BOOL_ARRAY),
                (&skips, Type::FLOAT8_ARRAY),
                (&blocks, Type::BOOL_ARRAY),
                (&windows, Type::FLOAT8_ARRAY),
                (&on_duplicate, Type::TEXT_ARRAY),
                (&collects, Type::FLOAT8_ARRAY),
                (&most, Type::INT4_ARRAY),
                (&collects_as, Type::TEXT_ARRAY),
            ],
        )
        .await
        .map(|_| ())
    }
}
