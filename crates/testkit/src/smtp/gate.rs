//! Barriers: dialogues stop at a phase until the test lets them go on.

use std::sync::{Arc, Mutex};

use tokio::runtime::Handle;
use tokio::sync::watch;

use super::script::Phase;
use super::{WAIT_TIMEOUT, lock};
use crate::background::within;

#[derive(Debug, Default)]
pub(super) struct Gates {
    gates: Arc<Mutex<Vec<Gate>>>,
}

#[derive(Clone, Debug)]
struct Gate {
    phase: Phase,
    open: watch::Receiver<bool>,
    arrived: watch::Sender<usize>,
}

/// Dialogues wait while this lives; see [`SmtpServer::hold`](super::SmtpServer::hold).
#[derive(Debug)]
#[must_use = "dropping a hold releases it"]
pub struct Hold {
    gates: Arc<Mutex<Vec<Gate>>>,
    open: watch::Sender<bool>,
    arrived: watch::Receiver<usize>,
    clock: Handle,
}

impl Hold {
    /// How many dialogues have arrived here so far.
    #[must_use]
    pub fn arrived(&self) -> usize {
        *self.arrived.borrow()
    }

    /// Waits until `count` dialogues have arrived in all.
    ///
    /// # Panics
    /// After [`WAIT_TIMEOUT`] of real time.
    pub async fn wait_for(&self, count: usize) {
        let mut arrived = self.arrived.clone();
        let here = arrived.wait_for(|arrived| *arrived >= count);
        let reached = within(&self.clock, WAIT_TIMEOUT, here).await.is_some();
        assert!(reached, "{} of {count} dialogues arrived within {WAIT_TIMEOUT:?}", self.arrived());
    }

    /// Lets everybody go on, now and from now on.
    pub fn release(self) {}
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.open.send_replace(true);
        lock(&self.gates).retain(|gate| !*gate.open.borrow());
    }
}

impl Gates {
    pub(super) fn hold(&self, phase: Phase, clock: Handle) -> Hold {
        let (open, opened) = watch::channel(false);
        let (arrived, arrivals) = watch::channel(0);
        lock(&self.gates).push(Gate { phase, open: opened, arrived });
        Hold { gates: Arc::clone(&self.gates), open, arrived: arrivals, clock }
    }

    /// Returns when no gate at this phase is closed.
    pub(super) async fn pass(&self, phase: Phase) {
        loop {
            let closed = |gate: &&Gate| gate.phase.same_step(phase) && !*gate.open.borrow();
            let Some(mut gate) = lock(&self.gates).iter().find(closed).cloned() else { return };
            gate.arrived.send_modify(|count| *count += 1);
            // An error means that the hold is gone, which opens the gate as well.
            let _ = gate.open.wait_for(|open| *open).await;
        }
    }
}
