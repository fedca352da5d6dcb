//! Whether this process is of use now, check by check.

use std::{
    fmt::Write as _,
    time::{Duration, Instant},
};

use hapax_relay::{Meters, Past, Phase, Progress};
use hapax_store::{Error, migrate::Status};
use tokio::{runtime::Handle, sync::Mutex};

/// How long the database may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// For how long its answer is good: however often somebody asks, the database is asked once.
const GOOD_FOR: Duration = Duration::from_millis(500);

type Finding = Result<(), &'static str>;

pub(super) struct Ready {
    progress: Progress,
    meters: Meters,
    /// The runtime of the relay.
    relay: Handle,
    /// When they were asked last, and what was found: the database, its schema.
    known: Mutex<Option<(Instant, Finding, Finding)>>,
}

/// What was found.
pub(super) struct Report(Vec<(&'static str, Finding)>);

impl Ready {
    pub(super) fn new(past: &Past) -> Self {
        let (progress, meters) = (past.progress.clone(), past.meters.clone());
        Self { progress, meters, relay: Handle::current(), known: Mutex::default() }
    }

    pub(super) async fn report(&self) -> Report {
        let phase = self.progress.phase();
        let draining = if phase == Phase::Draining { Err("this process was told to end") } else { Ok(()) };
        let polled = match phase {
            Phase::Starting => Err("the queue is not looked at: still starting, or in guard mode (hapax status)"),
            Phase::Running | Phase::Draining => Ok(()),
        };
        let (database, schema) = self.database().await;
        Report(vec![("database", database), ("schema", schema), ("first-poll", polled), ("draining", draining)])
    }

    async fn database(&self) -> (Finding, Finding) {
        let mut known = self.known.lock().await;
        if let Some((at, database, schema)) = *known
            && at.elapsed() < GOOD_FOR
        {
            return (database, schema);
        }
        // A relay begins only with a schema that it can work with.
        let last = known.map_or(Ok(()), |(_, _, schema)| schema);
        let (database, schema) = match self.meters.store() {
            None => (Err("no connection yet"), Err("not compared yet")),
            // Where its connections live.
            Some(store) => {
                let asked = self.relay.spawn(async move { (store.ready().await, compared(store.schema().await)) });
                match tokio::time::timeout(PATIENCE, asked).await {
                    Ok(Ok((Ok(()), schema))) => (Ok(()), schema.unwrap_or(last)),
                    Ok(Ok((Err(error), schema))) if error.is_guard() => {
                        (Err("it is not the one this relay was armed for"), schema.unwrap_or(last))
                    }
                    // It answers: that there is no outbox.
                    Ok(Ok((Err(_), Some(schema @ Err(_))))) => (Ok(()), schema),
                    Ok(Ok((Err(error), schema))) if error.sqlstate().is_some() => {
                        (Err("it refuses what this relay asks (hapax doctor)"), schema.unwrap_or(last))
                    }
                    Ok(Ok((Err(_), schema))) => (Err("it does not answer"), schema.unwrap_or(last)),
                    Ok(Err(_)) => (Err("it does not answer"), last),
                    Err(_elapsed) => (Err("it does not answer in time"), last),
                }
            }
        };
        *known = Some((Instant::now(), database, schema));
        (database, schema)
    }
}

/// What a look at the schema comes to; nothing when it came to nothing.
fn compared(looked: Result<Status, Error>) -> Option<Finding> {
    Some(match looked {
        Ok(status) if !status.problems().is_empty() => {
            Err("it is not the one this relay works with (hapax migrate verify)")
        }
        Ok(status) if !status.pending().is_empty() => Err("it lacks migrations (hapax migrate up)"),
        Ok(_) => Ok(()),
        Err(Error::NoOutbox) => Err("there is no outbox any more (hapax migrate status)"),
        Err(_) => return None,
    })
}

impl Report {
    pub(super) fn is_ready(&self) -> bool {
        self.0.iter().all(|(_, finding)| finding.is_ok())
    }

    /// `ok`, or what is wrong; every check where that is asked for.
    pub(super) fn text(&self, verbose: bool) -> String {
        let ready = self.is_ready();
        if ready && !verbose {
            return "ok\n".to_owned();
        }
        let mut text = String::new();
        for (check, finding) in &self.0 {
            // Writing to a string does not fail.
            let _ = match finding {
                Ok(()) if verbose => writeln!(text, "[+] {check} ok"),
                Ok(()) => Ok(()),
                Err(why) => writeln!(text, "[-] {check}: {why}"),
            };
        }
        text + if ready { "ready\n" } else { "not ready\n" }
    }
}
