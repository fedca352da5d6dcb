//! Doubts, as people look at them and decide them: one by one, many by a filter, or by the evidence of a mail server's
//! log.
//!
//! Addresses come masked, with one exception: [`Doubtful`] holds them for comparing with a log, in [`Recipient`]s and
//! [`Address`]es, which do not print.
//!
//! [`Recipient`]: hapax_core::Recipient

use std::{fmt, time::Duration};

use serde::Serialize;
use tokio_postgres::{Row, types::Type};
use uuid::Uuid;

use super::Console;
use crate::{Typed, error::Error};

readable!(
    /// A delivery in doubt, with what is needed to decide it.
    pub struct OpenDoubt {
        /// The message.
        pub message_id: Uuid,
        /// Which delivery of it.
        pub recipient_no: i32,
        /// Names this very doubt.
        pub token: Uuid,
        /// Masked.
        pub recipient: Option<String>,
        /// Kind of the notification.
        pub kind: Option<String>,
        /// Its tenant.
        pub tenant: Option<String>,
        /// When it was marked.
        pub doubt_since: String,
        /// Seconds since then.
        pub age_s: f64,
        /// relay: it lost the connection; reaper: the relay vanished.
        pub marked_by: Option<String>,
        /// The relay's label.
        pub relay_name: Option<String>,
        /// The relay's machine.
        pub relay_host: Option<String>,
        /// The relay's identity.
        pub relay_incarnation: Option<Uuid>,
        /// Whether that relay has ended orderly.
        pub relay_signed_off: bool,
        /// Whether that relay lives, in words.
        pub relay_state: String,
        /// The route it took.
        pub route: Option<String>,
        /// How far the attempt came for certain.
        pub phase: String,
        /// The mail server it spoke to, as far as that is known.
        pub server: Option<String>,
        /// attempt: the server named itself; route: it is configured so.
        pub server_known_by: Option<String>,
        /// The message's id: the beginning of its Message-ID, unless the message brought its own.
        pub message_id_header: String,
        /// What to search for in the mail server's log.
        pub search_for: String,
        /// Where in the log to begin.
        pub search_from: Option<String>,
        /// Where in the log to end.
        pub search_until: Option<String>,
        /// When its intent was written.
        pub intent_at: Option<String>,
        /// How many attempts have come to their end marker.
        pub intents: i32,
        /// How often it was sent again before.
        pub resends: i32,
        /// Until when its attempt may still be alive, as the database's clock goes.
        pub may_be_alive_until: Option<String>,
        /// Whether it may be alive now.
        pub may_be_alive: bool,
        /// It may be alive although that time is over: no relay has watched it for its grace yet.
        pub grace_over: bool,
        /// What the relay or the reaper said.
        pub note: Option<String>,
    }
);

readable!(
    /// What became of one doubt of many.
    pub struct Decided {
        /// The message.
        pub message_id: Uuid,
        /// Which delivery of it.
        pub recipient_no: i32,
        /// The doubt that was seen.
        pub token: Uuid,
        /// What was done, or why not.
        pub result: String,
        /// Whether it was decided (or would be).
        pub done: bool,
    }
);

/// Which doubts to list.
#[derive(Clone, Debug, Default)]
pub struct DoubtFilter {
    /// The doubt of this token.
    pub token: Option<Uuid>,
    /// Those of this message.
    pub message_id: Option<Uuid>,
    /// Those of this delivery of the message.
    pub recipient_no: Option<i32>,
    /// Those of this kind.
    pub kind: Option<String>,
}

/// Which doubts to decide alike. Without any filter `everything` is needed.
#[derive(Clone, Debug, Default)]
pub struct ManyDoubts {
    /// Those that took this route.
    pub route: Option<String>,
    /// Those of this kind.
    pub kind: Option<String>,
    /// Those that went to this mail server.
    pub server: Option<String>,
    /// Those of this tenant.
    pub tenant: Option<String>,
    /// Those that are doubts for so long at least.
    pub older_than: Option<Duration>,
    /// Those that are doubts for less.
    pub newer_than: Option<Duration>,
    /// All there are.
    pub everything: bool,
}

/// An address, for comparing only.
#[derive(Clone, PartialEq, Eq)]
pub struct Address(String);

impl Address {
    /// The bare address of `Name <local@domain>` or `local@domain`.
    #[must_use]
    pub fn of(mailbox: &str) -> Self {
        let bare = match mailbox.trim().strip_suffix('>').and_then(|rest| rest.rsplit_once('<')) {
            Some((_, address)) => address,
            None => mailbox,
        };
        Self(bare.trim().to_lowercase())
    }

    /// Whether `address` is the same, letters large or small, its domain in either spelling.
    #[must_use]
    pub fn is(&self, address: &str) -> bool {
        let given = address.trim().to_lowercase();
        let plain = |text: &str| hapax_core::Recipient::parse(text).map(|r| r.address().to_lowercase());
        given == self.0 || plain(&self.0).is_ok_and(|ours| plain(&given).is_ok_and(|theirs| ours == theirs))
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// A doubt, with what a mail server's log is compared with.
#[derive(Clone, Debug)]
pub struct Doubtful {
    /// The message.
    pub message_id: Uuid,
    /// Which delivery of it.
    pub recipient_no: i32,
    /// Names this very doubt.
    pub token: Uuid,
    /// Its recipient.
    pub recipient: Address,
    /// The same, for people.
    pub masked: String,
    /// The other recipients of the message.
    pub others: Vec<Address>,
    /// The route it took.
    pub route: Option<String>,
    /// The mail server it spoke to, as far as that is known.
    pub server: Option<String>,
    /// As Postfix would write its Message-ID: whole when `own_id`, else the part before the `@`.
    pub search_for: String,
    /// Whether its attempt may still be alive.
    pub may_be_alive: bool,
    /// How many attempts have come to their end marker.
    pub intents: i32,
    /// When its intent was written, seconds since 1970 by the database's clock.
    pub intent_at_s: f64,
    /// When its attempt was over, likewise.
    pub over_at_s: f64,
    /// Now, likewise.
    pub now_s: f64,
    /// Its Message-ID was brought by a finished message, and may not be its own.
    pub own_id: bool,
    /// Another finished delivery to the same address has the same Message-ID.
    pub namesakes: bool,
}

impl Doubtful {
    fn read(row: &Row) -> Self {
        Self {
            message_id: row.get("message_id"),
            recipient_no: row.get("recipient_no"),
            token: row.get("token"),
            recipient: Address::of(row.get::<_, Option<&str>>("recipient").unwrap_or_default()),
            masked: row.get::<_, Option<String>>("masked").unwrap_or_default(),
            others: row.get::<_, Vec<Option<&str>>>("others").into_iter().flatten().map(Address::of).collect(),
            route: row.get("route"),
            server: row.get("server"),
            search_for: row.get("search_for"),
            may_be_alive: row.get("may_be_alive"),
            intents: row.get("intents"),
            intent_at_s: row.get("intent_at_s"),
            over_at_s: row.get("over_at_s"),
            now_s: row.get("now_s"),
            own_id: row.get("own_id"),
            namesakes: row.get("namesakes"),
        }
    }
}

impl Console {
    /// Doubts, oldest first.
    ///
    /// # Errors
    /// Any.
    pub async fn doubt_list(&self, filter: &DoubtFilter, limit: i64) -> Result<Vec<OpenDoubt>, Error> {
        let params: [Typed<'_>; 5] = [
            (&filter.token, Type::UUID),
            (&filter.message_id, Type::UUID),
            (&filter.recipient_no, Type::INT4),
            (&filter.kind, Type::TEXT),
            (&limit, Type::INT8),
        ];
        let rows = self.rows("doubt_list", include_str!("../../queries/doubt_list.sql"), &params).await?;
        Ok(rows.iter().map(OpenDoubt::read).collect())
    }

    /// Decides a doubt. Answers what was done, in words.
    ///
    /// # Errors
    /// Unknown delivery, too early, a missing token; any of the database's.
    pub async fn resolve(
        &self,
        id: Uuid,
        recipient_no: i32,
        verdict: &str,
        reason: &str,
        token: Option<Uuid>,
        force: bool,
    ) -> Result<String, Error> {
        let params: [Typed<'_>; 6] = [
            (&id, Type::UUID),
            (&recipient_no, Type::INT4),
            (&verdict, Type::TEXT),
            (&reason, Type::TEXT),
            (&token, Type::UUID),
            (&force, Type::BOOL),
        ];
        let rows = self.rows("resolve", include_str!("../../queries/resolve.sql"), &params).await?;
        Ok(rows.first().map(|row| row.get("result")).unwrap_or_default())
    }

    /// Decides all doubts that match, or only says what it would do.
    ///
    /// # Errors
    /// No filter, no reason; any of the database's. A doubt that cannot be decided is no error.
    pub async fn resolve_many(
        &self,
        verdict: &str,
        reason: &str,
        which: &ManyDoubts,
        force: bool,
        dry_run: bool,
    ) -> Result<Vec<Decided>, Error> {
        let (older_s, newer_s) =
            (which.older_than.map(|age| age.as_secs_f64()), which.newer_than.map(|age| age.as_secs_f64()));
        let params: [Typed<'_>; 11] = [
            (&verdict, Type::TEXT),
            (&reason, Type::TEXT),
            (&which.route, Type::TEXT),
            (&which.kind, Type::TEXT),
            (&which.server, Type::TEXT),
            (&which.tenant, Type::TEXT),
            (&older_s, Type::FLOAT8),
            (&newer_s, Type::FLOAT8),
            (&which.everything, Type::BOOL),
            (&force, Type::BOOL),
            (&dry_run, Type::BOOL),
        ];
        let rows = self.rows("resolve_many", include_str!("../../queries/resolve_many.sql"), &params).await?;
        Ok(rows.iter().map(Decided::read).collect())
    }

    /// Every doubt, with what a mail server's log is compared with; none for who may not see addresses.
    ///
    /// # Errors
    /// Any.
    pub async fn reconcile_list(&self) -> Result<Vec<Doubtful>, Error> {
        let rows = self.rows("reconcile_list", include_str!("../../queries/reconcile_list.sql"), &[]).await?;
        Ok(rows.iter().map(Doubtful::read).collect())
    }

    /// Settles the doubt of one attempt by evidence: `accepted` or `not_sent`. Answers what was done, in words.
    ///
    /// # Errors
    /// Unknown delivery, too early, locked by somebody; any of the database's.
    pub async fn settle_evidence(
        &self,
        id: Uuid,
        recipient_no: i32,
        token: Uuid,
        verdict: &str,
        evidence: &str,
    ) -> Result<String, Error> {
        let params: [Typed<'_>; 5] = [
            (&id, Type::UUID),
            (&recipient_no, Type::INT4),
            (&token, Type::UUID),
            (&verdict, Type::TEXT),
            (&evidence, Type::TEXT),
        ];
        let rows = self.rows("settle_evidence", include_str!("../../queries/settle_evidence.sql"), &params).await?;
        Ok(rows.first().map(|row| row.get("result")).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_compared_as_mail_servers_write_them() {
        let ada = Address::of("Ada Lovelace <Ada@Example.org>");
        assert!(ada.is("ada@example.org") && ada.is("ADA@EXAMPLE.ORG") && !ada.is("bob@example.org") && !ada.is(""));
        let idn = Address::of("x@bücher.example");
        assert!(idn.is("x@xn--bcher-kva.example") && idn.is("x@bücher.example"));
        assert_eq!(format!("{ada:?}"), "***");
    }
}
