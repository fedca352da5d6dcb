//! What the command line reads and decides: outside the protocol, for people.
//!
//! A [`Console`] needs no arming and no incarnation: it looks at views and calls the operators' functions, and works on
//! an outbox that no relay may touch at the moment. Addresses come masked from the statements themselves, whoever asks.

use std::time::Duration;

use serde::Serialize;
use tokio::task::JoinHandle;
use tokio_postgres::{Client, Row, error::SqlState, types::Type};
use uuid::Uuid;

use crate::{ConnectOptions, Typed, error::Error};

macro_rules! readable {
    ($(#[$doc:meta])* pub struct $name:ident { $($(#[$field_doc:meta])* pub $field:ident: $type:ty,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Debug, Serialize)]
        pub struct $name { $($(#[$field_doc])* pub $field: $type,)* }

        impl $name {
            fn read(row: &Row) -> Self {
                Self { $($field: row.get(stringify!($field)),)* }
            }
        }
    };
}

mod control;
/// The facts behind `hapax doctor`.
pub mod doctor;
mod doubts;
mod erase;
/// The facts behind `hapax doctor` about what somebody has changed in the schema.
pub mod intact;
/// Finding deliveries, and what was enqueued twice.
pub mod search;

pub use control::{Blocking, Paused, Suppressing, Suppression};
pub use doubts::{Address, Decided, DoubtFilter, Doubtful, ManyDoubts, OpenDoubt};
pub use erase::{Erased, Erasing};

readable!(
    /// How many deliveries are in a state. Times are ISO 8601, UTC.
    pub struct StateCount {
        /// The state's word.
        pub state: String,
        /// How many.
        pub deliveries: i64,
        /// Counted, or estimated.
        pub exact: bool,
        /// The oldest, by the time that matters in this state.
        pub oldest: Option<String>,
        /// Its age in seconds; negative when it is due in the future.
        pub oldest_age_s: Option<f64>,
        /// The newest.
        pub newest: Option<String>,
    }
);

readable!(
    /// A relay that has not signed off.
    pub struct Relay {
        /// Its identity.
        pub incarnation: Uuid,
        /// Its label.
        pub name: String,
        /// Its machine.
        pub host: String,
        /// Its process there.
        pub pid: i32,
        /// Of its binary.
        pub version: String,
        /// When it started.
        pub started_at: String,
        /// Its last heartbeat.
        pub beat_at: String,
        /// Since its last heartbeat, by the database's clock, in seconds.
        pub beat_age_s: f64,
        /// Its routes that rest or are slowed down, as JSON.
        #[serde(skip)]
        pub route_states: Option<String>,
        /// Its routes, as JSON.
        #[serde(skip)]
        pub routes: Option<String>,
    }
);

readable!(
    /// One delivery as `outbox.deliveries` shows it.
    pub struct Delivery {
        /// The message.
        pub message_id: Uuid,
        /// Position in `recipients || cc || bcc`, from 1.
        pub recipient_no: i32,
        /// Masked.
        pub recipient: Option<String>,
        /// Kind of the notification.
        pub kind: String,
        /// The state's word.
        pub state: String,
        /// Why it is in this state, where that needs a reason.
        pub reason: Option<String>,
        /// Its tenant.
        pub tenant: Option<String>,
        /// Its route, where one is known.
        pub route: Option<String>,
        /// urgent, normal or bulk.
        pub priority: String,
        /// When it was enqueued.
        pub created_at: String,
        /// When it may be claimed; none when it waits for something else than time.
        pub due_at: Option<String>,
        /// Whether that is in the future.
        pub due_later: Option<bool>,
        /// Finished attempts that concerned the message.
        pub attempts: i32,
        /// Intents ever written.
        pub intents: i32,
        /// Attempts of unknown outcome.
        pub open_doubts: i32,
        /// How often somebody decided to send it again.
        pub resends: i32,
        /// Why `sent` is believed.
        pub evidence: Option<String>,
        /// When it ended.
        pub finished_at: Option<String>,
        /// Not before.
        pub not_before: Option<String>,
        /// Not after.
        pub expires_at: Option<String>,
        /// Its own doubt policy.
        pub on_doubt: Option<String>,
        /// The producer's application.
        pub application_name: Option<String>,
        /// The producer's role.
        pub session_role: String,
        /// The producer's transaction.
        pub txid: String,
        /// Whether the message has been emptied: it cannot be sent any more.
        pub content_gone: bool,
    }
);

readable!(
    /// One finished attempt.
    pub struct Attempt {
        /// Which delivery of the message.
        pub recipient_no: i32,
        /// The attempt's own name.
        pub token: Uuid,
        /// Its number among those that concerned the message.
        pub attempt_no: i32,
        /// accepted, refused, deferred, not_sent, unknown.
        pub outcome: String,
        /// How far it came.
        pub phase: String,
        /// What ended it, where that was not a reply.
        pub cause: Option<String>,
        /// The server's code.
        pub code: Option<i32>,
        /// Its enhanced code.
        pub enhanced: Option<String>,
        /// The server's words.
        pub reply: Option<String>,
        /// Ours.
        pub detail: Option<String>,
        /// The route it took.
        pub route: Option<String>,
        /// The server it met.
        pub server: Option<String>,
        /// The relay's label.
        pub relay_name: Option<String>,
        /// The relay's machine.
        pub relay_host: Option<String>,
        /// The relay's identity.
        pub relay_incarnation: Option<Uuid>,
        /// When it began.
        pub started_at: Option<String>,
        /// When it ended.
        pub finished_at: String,
        /// Seconds.
        pub took_s: Option<f64>,
        /// Bytes of the message.
        pub bytes: Option<i32>,
    }
);

readable!(
    /// A decision.
    pub struct Decision {
        /// When.
        pub at: String,
        /// The database user.
        pub actor: String,
        /// Its application.
        pub application_name: Option<String>,
        /// What was done.
        pub action: String,
        /// To which delivery; none means the whole message.
        pub recipient_no: Option<i32>,
        /// Which doubt it was about.
        pub token: Option<Uuid>,
        /// Why.
        pub reason: Option<String>,
        /// The state before.
        pub before: Option<String>,
        /// The state after.
        pub after: Option<String>,
    }
);

/// What an operator's function did to one delivery, in its words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Which delivery of the message.
    pub recipient_no: i32,
    /// What was done, or why not.
    pub result: String,
}

/// One connection for a person's questions and decisions.
pub struct Console {
    client: Client,
    statement_timeout: Duration,
    _driver: JoinHandle<()>,
}

impl std::fmt::Debug for Console {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Console").finish_non_exhaustive()
    }
}

impl Console {
    /// Connects once.
    ///
    /// # Errors
    /// Unreachable database.
    pub async fn connect(options: &ConnectOptions) -> Result<Self, Error> {
        let (client, driver) = crate::connect::single(options).await?;
        Ok(Self { client, statement_timeout: options.statement_timeout, _driver: driver })
    }

    pub(crate) async fn rows(
        &self,
        operation: &'static str,
        sql: &str,
        params: &[Typed<'_>],
    ) -> Result<Vec<Row>, Error> {
        match tokio::time::timeout(self.statement_timeout, self.client.query_typed(sql, params)).await {
            Ok(Ok(rows)) => Ok(rows),
            Ok(Err(source)) => Err(Error::query(operation, source).explain_missing_schema()),
            Err(_elapsed) => Err(Error::Timeout { operation }),
        }
    }

    /// One row per state, all ten.
    ///
    /// # Errors
    /// Any.
    pub async fn health(&self) -> Result<Vec<StateCount>, Error> {
        let rows = self.rows("health", include_str!("../queries/health.sql"), &[]).await?;
        Ok(rows.iter().map(StateCount::read).collect())
    }

    /// The relays of today that have not signed off; none when this role may not look.
    ///
    /// # Errors
    /// Any other.
    pub async fn relay_list(&self) -> Result<Option<Vec<Relay>>, Error> {
        let rows = self.rows("relay_list", include_str!("../queries/relay_list.sql"), &[]).await;
        Ok(permitted(rows)?.map(|rows| rows.iter().map(Relay::read).collect()))
    }

    /// Deliveries, newest first.
    ///
    /// # Errors
    /// Any.
    pub async fn delivery_list(
        &self,
        state: Option<&str>,
        kind: Option<&str>,
        limit: i64,
    ) -> Result<Vec<Delivery>, Error> {
        let params: [Typed<'_>; 3] = [(&state, Type::TEXT), (&kind, Type::TEXT), (&limit, Type::INT8)];
        let rows = match state {
            Some(_) => self.rows("delivery_list", include_str!("../queries/delivery_list_state.sql"), &params).await?,
            None => self.rows("delivery_list", include_str!("../queries/delivery_list.sql"), &params[1..]).await?,
        };
        Ok(rows.iter().map(Delivery::read).collect())
    }

    /// The deliveries of one message, or one of them.
    ///
    /// # Errors
    /// Any.
    pub async fn message_deliveries(&self, id: Uuid, recipient_no: Option<i32>) -> Result<Vec<Delivery>, Error> {
        let params: [Typed<'_>; 2] = [(&id, Type::UUID), (&recipient_no, Type::INT4)];
        let rows = self.rows("message_deliveries", include_str!("../queries/message_deliveries.sql"), &params).await?;
        Ok(rows.iter().map(Delivery::read).collect())
    }

    /// The finished attempts of one message, or of one of its deliveries.
    ///
    /// # Errors
    /// Any.
    pub async fn message_attempts(&self, id: Uuid, recipient_no: Option<i32>) -> Result<Vec<Attempt>, Error> {
        let params: [Typed<'_>; 2] = [(&id, Type::UUID), (&recipient_no, Type::INT4)];
        let rows = self.rows("message_attempts", include_str!("../queries/message_attempts.sql"), &params).await?;
        Ok(rows.iter().map(Attempt::read).collect())
    }

    /// The decisions about one message, or one of its deliveries; none when this role may not look.
    ///
    /// # Errors
    /// Any other.
    pub async fn message_audit(&self, id: Uuid, recipient_no: Option<i32>) -> Result<Option<Vec<Decision>>, Error> {
        let params: [Typed<'_>; 2] = [(&id, Type::UUID), (&recipient_no, Type::INT4)];
        let rows = self.rows("message_audit", include_str!("../queries/message_audit.sql"), &params).await;
        Ok(permitted(rows)?.map(|rows| rows.iter().map(Decision::read).collect()))
    }

    /// Makes finished deliveries pending again, and pending ones due now.
    ///
    /// # Errors
    /// Unknown delivery; any of the database's.
    pub async fn retry(
        &self,
        id: Uuid,
        recipient_no: Option<i32>,
        reason: &str,
        force: bool,
    ) -> Result<Vec<Answer>, Error> {
        let params: [Typed<'_>; 4] =
            [(&id, Type::UUID), (&recipient_no, Type::INT4), (&reason, Type::TEXT), (&force, Type::BOOL)];
        self.rows("retry", include_str!("../queries/retry.sql"), &params).await.map(|rows| answers(&rows))
    }

    /// Cancels what is not yet sending.
    ///
    /// # Errors
    /// Unknown message; any of the database's.
    pub async fn cancel(&self, id: Uuid, reason: &str) -> Result<Vec<Answer>, Error> {
        let params: [Typed<'_>; 2] = [(&id, Type::UUID), (&reason, Type::TEXT)];
        self.rows("cancel", include_str!("../queries/cancel.sql"), &params).await.map(|rows| answers(&rows))
    }

    /// Stops what is not yet sending.
    ///
    /// # Errors
    /// Unknown message; any of the database's.
    pub async fn hold(&self, id: Uuid, reason: &str) -> Result<Vec<Answer>, Error> {
        let params: [Typed<'_>; 2] = [(&id, Type::UUID), (&reason, Type::TEXT)];
        self.rows("hold", include_str!("../queries/hold.sql"), &params).await.map(|rows| answers(&rows))
    }

    /// Lets held deliveries go on.
    ///
    /// # Errors
    /// Unknown message; any of the database's.
    pub async fn release_held(&self, id: Uuid, reason: &str) -> Result<Vec<Answer>, Error> {
        let params: [Typed<'_>; 2] = [(&id, Type::UUID), (&reason, Type::TEXT)];
        self.rows("release", include_str!("../queries/release_held.sql"), &params).await.map(|rows| answers(&rows))
    }

    /// Sends a message, or one delivery of it, once more: answers the id of the new message.
    ///
    /// # Errors
    /// Unknown, or not ended; any of the database's.
    pub async fn send_again(&self, id: Uuid, recipient_no: Option<i32>, reason: &str) -> Result<Option<Uuid>, Error> {
        let params: [Typed<'_>; 3] = [(&id, Type::UUID), (&reason, Type::TEXT), (&recipient_no, Type::INT4)];
        let rows = self.rows("send_again", include_str!("../queries/send_again.sql"), &params).await?;
        Ok(rows.first().map(|row| row.get("id")))
    }

    /// Publishes the JSON Schema of a kind's payloads: `published`, or `unchanged`.
    ///
    /// # Errors
    /// A schema that the database cannot check by; any of the database's.
    pub async fn publish_schema(&self, kind: &str, schema: &str, reason: &str) -> Result<String, Error> {
        let params: [Typed<'_>; 3] = [(&kind, Type::TEXT), (&schema, Type::TEXT), (&reason, Type::TEXT)];
        let rows = self.rows("publish_schema", include_str!("../queries/publish_schema.sql"), &params).await?;
        Ok(rows.first().map(|row| row.get("result")).unwrap_or_default())
    }
}

fn answers(rows: &[Row]) -> Vec<Answer> {
    rows.iter().map(|row| Answer { recipient_no: row.get("recipient_no"), result: row.get("result") }).collect()
}

/// Nothing, where the role lacks the privilege.
fn permitted(rows: Result<Vec<Row>, Error>) -> Result<Option<Vec<Row>>, Error> {
    match rows {
        Err(error) if error.sqlstate() == Some(&SqlState::INSUFFICIENT_PRIVILEGE) => Ok(None),
        other => other.map(Some),
    }
}
