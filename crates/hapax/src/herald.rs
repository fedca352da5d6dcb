//! What a service manager hears, from the first sign of life to the last (see `notify`).
//!
//! - ready: the configuration is good, the schema fits, the queue was looked at for the first time;
//! - while it starts (a database that is away is waited for) and while it ends (replies are waited for): that it needs
//!   longer, again and again, so that the manager's limits only end what no longer moves;
//! - a line of live numbers;
//! - the watchdog's beat, as long as every loop goes on. A loop that stands still silences it, and the longer times, too.
//!
//! Invariants: it says nothing that it does not see, holds nobody up, and ends nothing itself. It has a thread and a clock of
//! its own: a task that blocks a thread may stop the others of its runtime, and that is what it has to see. What is said is
//! decided by [`Herald::words`], which is pure.

use std::time::{Duration, Instant};

use hapax_relay::{Past, Phase, Shutdown, Stall, Tally};
use tokio_util::sync::CancellationToken;

use crate::notify;

/// Between two looks, at most.
const PERIOD: Duration = Duration::from_secs(5);

/// What is asked for each time: some periods may be missed by a busy machine.
const EXTENSION: Duration = Duration::from_secs(30);

/// Speaks until the process ends. Begins before the database is reached.
///
/// # Errors
/// When no thread can be started.
pub(crate) fn speak(shutdown: &Shutdown, past: &Past) -> std::io::Result<()> {
    if !notify::is_heard() {
        return Ok(());
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
    let (soft, past) = (shutdown.soft.clone(), past.clone());
    let thread = std::thread::Builder::new().name("herald".to_owned());
    thread.spawn(move || runtime.block_on(go_on(&soft, &past)))?;
    Ok(())
}

async fn go_on(soft: &CancellationToken, past: &Past) {
    let Past { progress, memory, meters, .. } = past;
    let watched = notify::watchdog_interval();
    // A third: one beat may be late and one lost.
    let period = watched.map_or(PERIOD, |interval| PERIOD.min(interval / 3));
    let mut herald = Herald { watched: watched.is_some(), ..Herald::default() };
    loop {
        let phase = if soft.is_cancelled() { Phase::Draining } else { progress.phase() };
        herald.refused = meters.reload_was_refused();
        let words = herald.words(phase, progress.stalled(Instant::now()), memory.tally());
        words.iter().for_each(Word::say);
        tokio::select! {
            () = tokio::time::sleep(period) => {}
            _ = progress.started(), if phase == Phase::Starting => {}
            () = soft.cancelled(), if phase != Phase::Draining => {}
        }
    }
}

/// One thing to say.
#[derive(Debug, PartialEq, Eq)]
enum Word {
    Ready,
    Stopping,
    Status(String),
    Longer,
    Alive,
}

impl Word {
    fn say(&self) {
        match self {
            Self::Ready => notify::ready(),
            Self::Stopping => notify::stopping(),
            Self::Status(text) => notify::status(text),
            Self::Longer => notify::extend(EXTENSION),
            Self::Alive => notify::watchdog(),
        }
    }
}

/// What was said already.
#[derive(Debug, Default)]
struct Herald {
    watched: bool,
    ready: bool,
    stopping: bool,
    stalled: bool,
    /// The last reload was.
    refused: bool,
}

impl Herald {
    fn words(&mut self, phase: Phase, stall: Option<Stall>, tally: Tally) -> Vec<Word> {
        let mut words = Vec::new();
        if phase == Phase::Running && !std::mem::replace(&mut self.ready, true) {
            words.push(Word::Ready);
        }
        if phase == Phase::Draining && !std::mem::replace(&mut self.stopping, true) {
            words.push(Word::Stopping);
        }
        match stall {
            Some(stall) if !std::mem::replace(&mut self.stalled, true) => tracing::error!(
                task = stall.task,
                stalled_s = stall.since.as_secs(),
                watchdog = self.watched,
                "a loop of this relay stands still: the watchdog hears nothing until it goes on"
            ),
            Some(_) => {}
            None => {
                if std::mem::take(&mut self.stalled) {
                    tracing::warn!("every loop of this relay goes on again");
                }
                // After the start a manager limits only the end.
                if phase == Phase::Draining || !self.ready {
                    words.push(Word::Longer);
                }
                if self.watched {
                    words.push(Word::Alive);
                }
            }
        }
        words.push(Word::Status(self.status(phase, stall, tally)));
        words
    }

    fn status(&self, phase: Phase, stall: Option<Stall>, tally: Tally) -> String {
        let Tally { under_way, accepted, otherwise } = tally;
        let doing = match (phase, stall) {
            (_, Some(Stall { task, since })) => format!("stalled: {task} stands still for {} s", since.as_secs()),
            (Phase::Starting, _) if self.ready => "nothing is sent until the outbox is armed (guard mode)".to_owned(),
            (Phase::Starting, _) => return "starting: waiting for the database".to_owned(),
            (Phase::Running, _) => "running".to_owned(),
            (Phase::Draining, _) => "ending: waiting for open replies".to_owned(),
        };
        let refused = if self.refused { "; THE LAST RELOAD WAS REFUSED, see the log" } else { "" };
        format!(
            "{doing}{refused}; {under_way} under way; transmitted since the start: {accepted} accepted, {otherwise} otherwise"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STALL: Stall = Stall { task: "pump", since: Duration::from_secs(70) };

    fn tally() -> Tally {
        Tally { under_way: 3, accepted: 20, otherwise: 1 }
    }

    fn said(herald: &mut Herald, phase: Phase, stall: Option<Stall>) -> Vec<Word> {
        let mut words = herald.words(phase, stall, tally());
        assert!(matches!(words.pop(), Some(Word::Status(_))), "each time it says how it is doing, last");
        words
    }

    #[test]
    fn ready_and_stopping_are_said_once_and_more_time_is_asked_for_before_and_after() {
        let mut herald = Herald { watched: true, ..Herald::default() };
        assert_eq!(said(&mut herald, Phase::Starting, None), [Word::Longer, Word::Alive]);
        assert_eq!(said(&mut herald, Phase::Starting, None), [Word::Longer, Word::Alive]);
        assert_eq!(said(&mut herald, Phase::Running, None), [Word::Ready, Word::Alive]);
        assert_eq!(said(&mut herald, Phase::Running, None), [Word::Alive]);
        // Guard mode: it works, but does not send.
        assert_eq!(said(&mut herald, Phase::Starting, None), [Word::Alive]);
        assert_eq!(said(&mut herald, Phase::Running, None), [Word::Alive]);
        assert_eq!(said(&mut herald, Phase::Draining, None), [Word::Stopping, Word::Longer, Word::Alive]);
        assert_eq!(said(&mut herald, Phase::Draining, None), [Word::Longer, Word::Alive]);
    }

    #[test]
    fn a_loop_that_stands_still_silences_the_watchdog_and_asks_for_no_more_time() {
        let mut herald = Herald { watched: true, ..Herald::default() };
        assert_eq!(said(&mut herald, Phase::Starting, Some(STALL)), []);
        assert_eq!(said(&mut herald, Phase::Running, Some(STALL)), [Word::Ready]);
        assert_eq!(said(&mut herald, Phase::Running, None), [Word::Alive]);
        assert_eq!(said(&mut herald, Phase::Draining, Some(STALL)), [Word::Stopping]);
    }

    #[test]
    fn without_a_watchdog_nobody_is_told_of_life() {
        let mut herald = Herald::default();
        assert_eq!(said(&mut herald, Phase::Running, None), [Word::Ready]);
        assert_eq!(said(&mut herald, Phase::Running, None), []);
    }

    #[test]
    fn the_status_has_live_numbers_and_names_a_stall() {
        let herald = Herald { ready: true, ..Herald::default() };
        let running = herald.status(Phase::Running, None, tally());
        assert_eq!(running, "running; 3 under way; transmitted since the start: 20 accepted, 1 otherwise");
        assert!(herald.status(Phase::Running, Some(STALL), tally()).contains("pump stands still for 70 s"));
        assert!(herald.status(Phase::Starting, None, tally()).contains("guard mode"));
        assert_eq!(Herald::default().status(Phase::Starting, None, tally()), "starting: waiting for the database");
    }
}
