//! Whether this process is of use now, check by check.

use std::{
    fmt::Write as _,
    time::{Duration, Instant},
};

use hapax_relay::{Meters, Past, Phase, Progress};
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
    database: Mutex<Option<(Instant, Finding)>>,
}

/// What was found.
pub(super) struct Report(Vec<(&'static str, Finding)>);

impl Ready {
    pub(super) fn new(past: &Past) -> Self {
        let (progress, meters) = (past.progress.clone(), past.meters.clone());
        Self { progress, meters, relay: Handle::current(), database: Mutex::default() }
    }

    pub(super) async fn report(&self) -> Report {
        let phase = self.progress.phase();
        let draining = if phase == Phase::Draining { Err("this process was told to end") } else { Ok(()) };
        let polled = match phase {
            Phase::Starting => Err("the queue is not looked at: still starting, or in guard mode (hapax status)"),
            Phase::Running | Phase::Draining => Ok(()),
        };
        // A relay begins only with a schema that it can work with.
        let schema = self.meters.store().map(drop).ok_or("not compared yet");
        Report(vec![
            ("database", self.database().await),
            ("schema", schema),
            ("first-poll", polled),
            ("draining", draining),
        ])
    }

    async fn database(&self) -> Finding {
        let mut known = self.database.lock().await;
        if let Some((at, finding)) = *known
            && at.elapsed() < GOOD_FOR
        {
            return finding;
        }
        let finding = match self.meters.store() {
            None => Err("no connection yet"),
            // Where its connections live.
            Some(store) => {
                let asked = self.relay.spawn(async move { store.ready().await });
                match tokio::time::timeout(PATIENCE, asked).await {
                    Ok(Ok(Ok(()))) => Ok(()),
                    Ok(Ok(Err(error))) if error.is_guard() => Err("it is not the one this relay was armed for"),
                    Ok(Ok(Err(_)) | Err(_)) => Err("it does not answer"),
                    Err(_elapsed) => Err("it does not answer in time"),
                }
            }
        };
        *known = Some((Instant::now(), finding));
        finding
    }
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
