//! What metrics say of the whole outbox: asked now and then, by one relay.

use std::time::Duration;

use hapax_core::Incarnation;
use tokio_postgres::types::Type;

use crate::{Store, Typed, error::Error, migrate::Status};

/// A relay whose heartbeat goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Living {
    /// Which one.
    pub incarnation: Incarnation,
    /// Its label.
    pub name: String,
    /// Its machine's.
    pub host: String,
    /// Of its binary.
    pub version: String,
}

/// The relays of an outbox, and its clock.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Standing {
    /// The database's time, in seconds since 1970.
    pub now_s: f64,
    /// Who lives, the oldest first.
    pub living: Vec<Living>,
}

/// The deliveries of one state.
#[derive(Clone, Debug, PartialEq)]
pub struct Counted {
    /// Its word.
    pub state: String,
    /// How many: counted, or estimated where there are very many.
    pub deliveries: i64,
    /// Since when the oldest of them waits (due, marked, enqueued or finished), in seconds since 1970.
    pub oldest_s: Option<f64>,
}

/// What there is to do.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Overview {
    /// Every state.
    pub states: Vec<Counted>,
    /// Due, and in nobody's hands; counted up to 20,000 per lane.
    pub backlog: i64,
    /// How many routes, kinds, tenants and addresses are paused.
    pub paused: [i64; 4],
}

impl Store {
    /// Who lives: whoever has beaten within `dead_after`, by the database's clock.
    ///
    /// # Errors
    /// Any.
    pub async fn standing(&self, dead_after: Duration) -> Result<Standing, Error> {
        let params: [Typed<'_>; 1] = [(&dead_after.as_secs_f64(), Type::FLOAT8)];
        let rows = self.rows("standing", include_str!("../queries/standing.sql"), &params).await?;
        let living = rows.iter().filter_map(|row| {
            let text = |column| row.get::<_, Option<String>>(column).unwrap_or_default();
            let incarnation = Incarnation(row.get::<_, Option<uuid::Uuid>>("incarnation")?);
            Some(Living { incarnation, name: text("name"), host: text("host"), version: text("version") })
        });
        Ok(Standing { now_s: rows.first().map_or(0.0, |row| row.get("now_s")), living: living.collect() })
    }

    /// How much there is of everything. Tens of milliseconds, however long the queue.
    ///
    /// # Errors
    /// Any.
    pub async fn overview(&self) -> Result<Overview, Error> {
        let rows = self.rows("overview", include_str!("../queries/overview.sql"), &[]).await?;
        let counted = rows.iter().map(|row| Counted {
            state: row.get("state"),
            deliveries: row.get("deliveries"),
            oldest_s: row.get("oldest_s"),
        });
        let paused = rows.first().map(|row| row.get::<_, Vec<i64>>("paused")).unwrap_or_default();
        Ok(Overview {
            states: counted.collect(),
            backlog: rows.first().map_or(0, |row| row.get("backlog")),
            paused: std::array::from_fn(|at| paused.get(at).copied().unwrap_or(0)),
        })
    }

    /// Asks what a relay needs of its database to be of use: that it answers, can be written, and is the armed one.
    ///
    /// # Errors
    /// Why not.
    pub async fn ready(&self) -> Result<(), Error> {
        let armed = self.read_armed().await?;
        if armed == *self.armed {
            return Ok(());
        }
        Err(Error::NotArmed { detail: "the outbox was armed anew since this relay started".to_owned() })
    }

    /// Compares the migrations of the database with those this binary works with.
    ///
    /// # Errors
    /// Any; where there is no outbox any more, [`Error::NoOutbox`].
    pub async fn schema(&self) -> Result<Status, Error> {
        match self.rows("migrations", include_str!("../queries/migrations.sql"), &[]).await {
            Ok(rows) => Ok(Status::read(&rows)),
            Err(error) if error.is_missing_table() => Err(Error::NoOutbox),
            Err(error) => Err(error),
        }
    }

    /// Connections of the pool: in use, and idle.
    #[must_use]
    pub fn connections(&self) -> (usize, usize) {
        let status = self.pool.status();
        (status.size.saturating_sub(status.available), status.available)
    }
}
