//! Waiting for a condition that no signal announces (a row in Postgres, a file).
//!
//! ```no_run
//! # async fn example(cluster: hapax_testkit::PgCluster) {
//! use std::time::Duration;
//!
//! let client = cluster.client("shop").await.unwrap();
//! let state: String = hapax_testkit::eventually(Duration::from_secs(10), async || {
//!     let row = client.query_opt("SELECT state FROM hapax.deliveries WHERE state <> 'pending'", &[]).await.ok()??;
//!     Some(row.get(0))
//! })
//! .await;
//! # }
//! ```

use std::fmt::Debug;
use std::future::Future;
use std::panic::Location;
use std::time::{Duration, Instant};

const POLL_FIRST: Duration = Duration::from_millis(2);
const POLL_MAX: Duration = Duration::from_millis(50);

/// What a condition may return: `bool`, `Option<T>` or `Result<T, E>`.
pub trait Settled {
    /// What the wait yields.
    type Value;

    /// The value, or why it is not there yet.
    ///
    /// # Errors
    /// A description of the present state, for the panic at the deadline.
    fn settled(self) -> Result<Self::Value, String>;
}

impl Settled for bool {
    type Value = ();

    fn settled(self) -> Result<(), String> {
        if self { Ok(()) } else { Err("still false".into()) }
    }
}

impl<T> Settled for Option<T> {
    type Value = T;

    fn settled(self) -> Result<T, String> {
        self.ok_or_else(|| "still none".into())
    }
}

impl<T, E: Debug> Settled for Result<T, E> {
    type Value = T;

    fn settled(self) -> Result<T, String> {
        self.map_err(|error| format!("still {error:?}"))
    }
}

/// Evaluates `condition` until it settles, at growing intervals of 2 to 50 ms, and returns its value.
///
/// # Panics
/// At the deadline, with the caller's place and what the condition said last.
#[track_caller]
pub fn eventually<R: Settled>(
    deadline: Duration,
    mut condition: impl AsyncFnMut() -> R,
) -> impl Future<Output = R::Value> {
    let caller = Location::caller();
    async move {
        let started = Instant::now();
        let mut pause = POLL_FIRST;
        loop {
            match condition().await.settled() {
                Ok(value) => return value,
                Err(state) if started.elapsed() >= deadline => {
                    panic!("the condition at {caller} did not come true within {deadline:?}: {state}")
                }
                Err(_) => {}
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(POLL_MAX);
        }
    }
}
