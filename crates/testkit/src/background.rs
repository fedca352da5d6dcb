//! A thread with a runtime of its own.
//!
//! Servers that play the outside world must not share the runtime of the code under test: with a paused clock their
//! delays would vanish, and a blocked worker would stop them.

use std::future::Future;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

#[derive(Debug)]
pub(crate) struct Background {
    handle: Handle,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Background {
    pub(crate) fn start(name: &str) -> Self {
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime can be built");
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel::<()>();
        let run = move || {
            // Whatever ends the wait, the sender's drop included, ends the thread.
            let _ = runtime.block_on(stopped);
        };
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(run).expect("a thread can be started");
        Self { handle, stop: Some(stop), thread: Some(thread) }
    }

    pub(crate) fn handle(&self) -> &Handle {
        &self.handle
    }
}

/// Waits for `condition` in the caller's task, with a deadline on `handle`'s clock: in real time even if the caller's
/// clock is paused. `None` when the deadline came first.
pub(crate) async fn within<T>(handle: &Handle, deadline: Duration, condition: impl Future<Output = T>) -> Option<T> {
    let (sender, receiver) = oneshot::channel::<()>();
    let timer = handle.spawn(async move {
        tokio::time::sleep(deadline).await;
        let _ = sender.send(());
    });
    let result = tokio::select! {
        biased;
        value = condition => Some(value),
        _ = receiver => None,
    };
    timer.abort();
    result
}

impl Drop for Background {
    fn drop(&mut self) {
        self.stop.take();
        if let Some(thread) = self.thread.take() {
            // A panic there has been printed there.
            let _ = thread.join();
        }
    }
}
