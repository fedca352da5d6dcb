//! One place where anything that must end the process reports it. A task that dies takes the process down: a relay that
//! limps along without one of its loops looks alive and is not.

use std::sync::{Arc, Mutex, PoisonError};

use tokio_util::sync::CancellationToken;

use crate::error::Error;

/// The first fatal error, and a signal that there is one. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Fatal {
    first: Arc<Mutex<Option<Error>>>,
    signal: CancellationToken,
}

impl Fatal {
    /// Reports; the first report is the one that counts.
    pub(crate) fn report(&self, error: Error) {
        let mut first = self.first.lock().unwrap_or_else(PoisonError::into_inner);
        if first.is_none() {
            *first = Some(error);
        }
        drop(first);
        self.signal.cancel();
    }

    /// Waits until something was reported.
    pub(crate) async fn reported(&self) {
        self.signal.cancelled().await;
    }

    /// Waits until it was reported that the database is another one.
    pub(crate) async fn reported_guard(&self) {
        self.reported().await;
        if !self.is_guard() {
            std::future::pending::<()>().await;
        }
    }

    /// Whether the report is that the database is another one.
    pub(crate) fn is_guard(&self) -> bool {
        matches!(*self.first.lock().unwrap_or_else(PoisonError::into_inner), Some(Error::Guard { .. }))
    }

    /// Takes the report, if there is one.
    pub(crate) fn take(&self) -> Option<Error> {
        self.first.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Held by a task for as long as it lives; reports its death unless it was [`Alive::finished`].
    pub(crate) fn alive(&self, task: &'static str) -> Alive {
        Alive { fatal: self.clone(), task: Some(task) }
    }

    /// Reports a store error if it is one that no repetition can heal.
    pub(crate) fn check_guard(&self, error: hapax_store::Error) -> Result<hapax_store::Error, ()> {
        if error.is_guard() {
            self.report(Error::Guard { source: error });
            return Err(());
        }
        Ok(error)
    }
}

/// Proof that a task lives.
#[derive(Debug)]
pub(crate) struct Alive {
    fatal: Fatal,
    task: Option<&'static str>,
}

impl Alive {
    /// The task has come to its planned end.
    pub(crate) fn finished(mut self) {
        self.task = None;
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        if let Some(task) = self.task {
            self.fatal.report(Error::Task(task));
        }
    }
}
