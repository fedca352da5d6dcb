//! The ear: a connection of its own that hears when something is enqueued, and comes back when it breaks.
//!
//! Invariant: never fatal. While it does not hear, the pump polls as if there were none.

use std::time::Duration;

use hapax_store::{Error, Store};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::progress::Pulse;

/// Between two tries to listen: the first, the longest, and where a pooler hands no notifications on.
const PAUSE: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(60);
const PAUSE_DEAF: Duration = Duration::from_secs(600);

/// What the ear has heard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Heard {
    /// It hears.
    pub(crate) listening: bool,
    /// Counts up with every connection that hears: what was said between two of them is lost.
    pub(crate) connection: u64,
    /// Wake-ups since the start.
    pub(crate) wake_ups: u64,
}

/// Listens until `stop`.
pub(crate) async fn listen(store: Store, heard: watch::Sender<Heard>, pulse: Pulse, stop: CancellationToken) {
    let (mut pause, mut warned) = (PAUSE, false);
    loop {
        pulse.beat();
        let ended = tokio::select! {
            ended = hear(&store, &heard, &pulse, &mut warned) => ended,
            () = stop.cancelled() => return,
        };
        let listened = heard.send_if_modified(|heard| std::mem::replace(&mut heard.listening, false));
        pause = match ended {
            Error::Deaf => PAUSE_DEAF,
            _ if listened => PAUSE,
            _ => (pause * 2).min(PAUSE_MAX),
        };
        if !std::mem::replace(&mut warned, true) {
            tracing::warn!(error = %ended, "the relay cannot be woken, it polls");
        } else {
            tracing::debug!(error = %ended, "the relay still cannot be woken");
        }
        pulse.within(pause);
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = stop.cancelled() => return,
        }
    }
}

/// Answers why it hears no more.
async fn hear(store: &Store, heard: &watch::Sender<Heard>, pulse: &Pulse, warned: &mut bool) -> Error {
    let mut listener = match store.listen().await {
        Ok(listener) => listener,
        Err(error) => return error,
    };
    heard.send_modify(|heard| *heard = Heard { listening: true, connection: heard.connection + 1, ..*heard });
    if std::mem::replace(warned, false) {
        tracing::info!("the relay can be woken again");
    }
    pulse.idle();
    loop {
        match listener.heard().await {
            Ok(()) => heard.send_modify(|heard| heard.wake_ups += 1),
            Err(error) => return error,
        }
    }
}
