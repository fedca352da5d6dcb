//! The tokens this process is responsible for: from the moment an intent is asked for until its outcome is durable.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
};

use hapax_core::Token;

/// Shared by couriers, ledger and reaper. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Registry(Arc<Mutex<HashSet<Token>>>);

impl Registry {
    /// An intent is about to be asked for.
    pub(crate) fn asked(&self, token: Token) {
        self.tokens().insert(token);
    }

    /// Its outcome is durable, or it turned out never to have been ours.
    pub(crate) fn settled(&self, token: Token) {
        self.tokens().remove(&token);
    }

    /// Whether this process still works on it.
    pub(crate) fn is_live(&self, token: Token) -> bool {
        self.tokens().contains(&token)
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.tokens().len()
    }

    fn tokens(&self) -> std::sync::MutexGuard<'_, HashSet<Token>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
