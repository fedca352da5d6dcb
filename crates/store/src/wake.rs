//! Waking an idle relay: the cheap look that stands for a claim per lane, and the connection of its own that hears NOTIFY.
//!
//! Invariant: everything here is a hint. What it says is checked by the claim, and what it does not say is found by the
//! poll: no error here stops a relay.

use std::time::{Duration, SystemTime};

use futures_util::stream::{BoxStream, StreamExt, poll_fn};
use tokio_postgres::{AsyncMessage, Client, Row, types::Type};

use crate::{Cursor, Store, connect, error::Error};

/// How long a wake-up may take from one connection to the other before the listener counts as deaf.
const PROBE_PATIENCE: Duration = Duration::from_secs(5);

/// What an idle relay sees of the queue.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Look {
    /// The lanes in which something may be claimed.
    pub due: Vec<i16>,
    /// Until the next delivery of the other lanes is due, by the database's clock.
    pub next_in: Option<Duration>,
    /// Every transaction with a lower number has ended.
    pub oldest: i64,
    /// Whoever had begun to write before this look has a lower number; where it was asked for.
    pub mark: Option<i64>,
    /// Sessions that wait for others to notify; zero when it was not asked for.
    pub waiting: i64,
    /// Lane by lane: nothing before it may be claimed, but for what commits late or is given back.
    pub reached: Vec<Cursor>,
}

/// A connection that hears wake-ups, and is known to.
pub struct Listener {
    /// The connection ends with it.
    _client: Client,
    messages: BoxStream<'static, Result<AsyncMessage, tokio_postgres::Error>>,
}

impl std::fmt::Debug for Listener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Listener").finish_non_exhaustive()
    }
}

impl Store {
    /// Looks into the lanes, each from its cursor on, without claiming; with `waiting`, also for sessions that wait for each
    /// other to notify; with `mark`, takes a transaction number.
    ///
    /// # Errors
    /// Any; look again.
    pub async fn look(&self, lanes: &[(i16, Cursor)], waiting: bool, mark: bool) -> Result<Look, Error> {
        let (lanes, from): (Vec<i16>, Vec<SystemTime>) = lanes.iter().map(|(lane, from)| (*lane, from.due_at)).unzip();
        let params = [
            (&lanes as _, Type::INT2_ARRAY),
            (&from as _, Type::TIMESTAMPTZ_ARRAY),
            (&waiting as _, Type::BOOL),
            (&mark as _, Type::BOOL),
        ];
        let rows = self.rows("look", include_str!("../queries/look.sql"), &params).await?;
        let next_in = |seconds: f64| Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or(Duration::MAX);
        let reached = |row: &Row| row.get::<_, Option<Vec<SystemTime>>>("reached").unwrap_or_default();
        Ok(rows.first().map_or_else(Look::default, |row| Look {
            due: row.get::<_, Option<Vec<i16>>>("due").unwrap_or_default(),
            next_in: row.get::<_, Option<f64>>("next_in_s").map(next_in),
            oldest: row.get("oldest"),
            mark: row.get("mark"),
            waiting: row.get("waiting"),
            reached: reached(row).into_iter().map(Cursor::before).collect(),
        }))
    }

    /// Asks producers to wake this relay for so long. Answers whether they will: never where transactions may be prepared.
    ///
    /// # Errors
    /// Any; it is not registered then, or for no longer than it asked for.
    pub async fn sleep(&self, wake_for: Duration) -> Result<bool, Error> {
        let params = [(&self.incarnation.0 as _, Type::UUID), (&wake_for.as_secs_f64() as _, Type::FLOAT8)];
        self.rows("sleep", include_str!("../queries/sleep.sql"), &params).await.map(|rows| !rows.is_empty())
    }

    /// Asks producers not to wake this relay any more.
    ///
    /// # Errors
    /// Any; then they do until the time is over.
    pub async fn awake(&self) -> Result<(), Error> {
        let params = [(&self.incarnation.0 as _, Type::UUID)];
        self.rows("awake", include_str!("../queries/awake.sql"), &params).await.map(|_| ())
    }

    /// Opens a connection that hears wake-ups, outside the pool, and makes sure that it hears.
    ///
    /// # Errors
    /// Any; [`Error::Deaf`] where a pooler stands between.
    pub async fn listen(&self) -> Result<Listener, Error> {
        match tokio::time::timeout(self.statement_timeout + PROBE_PATIENCE, self.try_listen()).await {
            Ok(listening) => listening,
            Err(_elapsed) => Err(Error::Timeout { operation: "listen" }),
        }
    }

    async fn try_listen(&self) -> Result<Listener, Error> {
        let fail = |source| Error::query("listen", source);
        let (client, mut connection) = connect::unpooled(&self.options).await?;
        let mut messages = poll_fn(move |cx| connection.poll_message(cx)).boxed();
        {
            let listen = client.batch_execute(include_str!("../queries/listen.sql"));
            tokio::pin!(listen);
            loop {
                tokio::select! {
                    listening = &mut listen => break listening.map_err(fail)?,
                    message = messages.next() => drop(ended(message)?),
                }
            }
        }
        let word = self.incarnation.0.to_string();
        self.rows("probe", include_str!("../queries/probe.sql"), &[(&word, Type::TEXT)]).await?;
        let own = async {
            loop {
                match messages.next().await {
                    Some(Ok(AsyncMessage::Notification(heard))) if heard.payload() == word => return Ok(()),
                    other => drop(ended(other)?),
                }
            }
        };
        match tokio::time::timeout(PROBE_PATIENCE, own).await {
            Ok(heard) => heard?,
            Err(_elapsed) => return Err(Error::Deaf),
        }
        Ok(Listener { _client: client, messages })
    }
}

/// What was said, unless the connection has ended.
fn ended(message: Option<Result<AsyncMessage, tokio_postgres::Error>>) -> Result<Option<AsyncMessage>, Error> {
    match message {
        Some(Ok(message)) => Ok(Some(message)),
        Some(Err(source)) => Err(Error::query("listen", source)),
        None => Err(Error::Closed),
    }
}

impl Listener {
    /// Waits for the next wake-up. May be dropped and called again.
    ///
    /// # Errors
    /// The connection has ended: [`Store::listen`] again.
    pub async fn heard(&mut self) -> Result<(), Error> {
        loop {
            if let Some(AsyncMessage::Notification(_)) = ended(self.messages.next().await)? {
                return Ok(());
            }
        }
    }
}
