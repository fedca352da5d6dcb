//! Writing, stalling, closing, resetting.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};

use super::super::ledger::Ended;
use super::super::steps::Step;
use super::{Flow, Session, Stop};

/// How long a closed connection is drained, so that unread bytes do not turn its FIN into a RST.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);
/// A reply up to this length is split with a pause after each byte, a longer one without.
const SLOW_BYTES_MAX: usize = 128;
const SLOW_PAUSE: Duration = Duration::from_millis(1);
const STALL_POLL_INTERVAL: Duration = Duration::from_millis(10);

impl Session {
    pub(super) async fn perform_step(&mut self, step: Step) -> Flow {
        match step {
            Step::Write(bytes) => self.write(&bytes).await,
            Step::WriteSlowly(bytes) => self.write_slowly(&bytes).await,
            Step::Sleep(delay) => {
                tokio::time::sleep(delay).await;
                Ok(())
            }
            Step::Stall => self.stall().await,
            Step::Eof => self.close(Ended::Scripted).await,
            Step::Reset => {
                // Dropped right after: with a linger of zero that is a RST.
                self.reader().get_mut().tcp().set_zero_linger()?;
                Err(Stop::Ended(Ended::Scripted))
            }
        }
    }

    pub(super) async fn write(&mut self, bytes: &[u8]) -> Flow {
        let stream = self.reader().get_mut();
        stream.write_all(bytes).await?;
        stream.flush().await?;
        Ok(())
    }

    async fn write_slowly(&mut self, bytes: &[u8]) -> Flow {
        for byte in bytes {
            self.write(&[*byte]).await?;
            if bytes.len() <= SLOW_BYTES_MAX {
                tokio::time::sleep(SLOW_PAUSE).await;
            } else {
                tokio::task::yield_now().await;
            }
        }
        Ok(())
    }

    /// Does nothing until the client goes away (or the server is stopped, which drops us).
    async fn stall(&mut self) -> Flow {
        let stream = self.reader().get_mut();
        loop {
            let ready = stream.tcp().ready(Interest::READABLE | Interest::ERROR).await?;
            if ready.is_read_closed() || ready.is_error() {
                return Err(Stop::Ended(Ended::ClientClosed));
            }
            // Readable and not read: readiness stays, so the end can only be seen by looking again.
            tokio::time::sleep(STALL_POLL_INTERVAL).await;
        }
    }

    /// Closes in good order: FIN, then everything the client still sends is read and dropped.
    pub(super) async fn close(&mut self, ended: Ended) -> Flow {
        self.record(|connection| {
            connection.ended.get_or_insert(ended.clone());
        });
        let stream = self.reader().get_mut();
        // The client may be gone already: then there is nothing to close.
        let _ = stream.shutdown().await;
        let drain = async {
            let mut sink = vec![0; 16 * 1024];
            while stream.read(&mut sink).await.is_ok_and(|count| count > 0) {}
        };
        let _ = tokio::time::timeout(DRAIN_TIMEOUT, drain).await;
        Err(Stop::Ended(ended))
    }
}
