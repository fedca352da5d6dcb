//! Signals of the daemon: the first SIGTERM or SIGINT ends it softly, the second at once; SIGHUP has the configuration
//! read again (`relays`).

use hapax_relay::Shutdown;
use tokio::{
    io::AsyncReadExt,
    signal::unix::{Signal, SignalKind, signal},
};

/// Listens from now on, for as long as the process lives.
///
/// # Errors
/// When the process cannot listen to signals.
pub(crate) fn listen(shutdown: &Shutdown) -> std::io::Result<()> {
    let (terminate, interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::spawn(end(terminate, interrupt, shutdown.clone()));
    Ok(())
}

/// SIGHUP, from now on: it does not end the process any more. Several that come together are one.
///
/// # Errors
/// When the process cannot listen to signals.
pub(crate) fn hangups() -> std::io::Result<Signal> {
    signal(SignalKind::hangup())
}

async fn end(mut terminate: Signal, mut interrupt: Signal, shutdown: Shutdown) {
    let mut asked = 0;
    loop {
        let name = tokio::select! {
            Some(()) = terminate.recv() => "SIGTERM",
            Some(()) = interrupt.recv() => "SIGINT",
            else => return,
        };
        asked += 1;
        if asked == 1 {
            tracing::info!(signal = name, "shutting down: waiting for open replies; a second signal ends it at once");
            shutdown.soft.cancel();
        } else {
            tracing::warn!(signal = name, "shutting down at once: what waits for a reply will be in doubt");
            shutdown.hard.cancel();
        }
    }
}

/// Ends softly when standard input is closed: a relay that was started by a demo does not outlive it.
pub(crate) fn end_with_stdin(shutdown: &Shutdown) {
    let soft = shutdown.soft.clone();
    tokio::spawn(async move {
        let (mut stdin, mut bytes) = (tokio::io::stdin(), [0; 64]);
        while stdin.read(&mut bytes).await.is_ok_and(|count| count > 0) {}
        tracing::info!("standard input was closed: shutting down");
        soft.cancel();
    });
}
