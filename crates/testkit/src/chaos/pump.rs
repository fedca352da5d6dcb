//! One connection through the proxy: two lines of bytes, each with its reader, its queue and its writer.
//!
//! The reader stamps each chunk with its arrival; the writer waits until stamp + delay, then until the line is not
//! stalled. So the delay is latency, not a pause per chunk, and order is the queue's.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use super::{Direction, Shared, lock};

const CHUNK_BYTES: usize = 16 * 1024;
const CHUNKS_QUEUED_MAX: usize = 256;
const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);

enum End {
    /// Both sides have closed in good order.
    Closed,
    /// A side was reset, or the proxy cuts: reset both.
    Reset,
    /// The budget of this direction is used up.
    Spent(Direction),
}

pub(super) async fn serve(mut client: TcpStream, shared: Arc<Shared>) {
    let number = shared.change(|state| {
        state.last_connection += 1;
        state.open.insert(state.last_connection);
        state.last_connection
    });
    relay(&mut client, &shared, number).await;
    // Closed before it is counted as gone: whoever waits for the count may rely on it.
    drop(client);
    shared.change(|state| state.open.remove(&number));
}

async fn relay(client: &mut TcpStream, shared: &Shared, number: u64) {
    let upstream = *lock(&shared.upstream);
    let Ok(mut server) = TcpStream::connect(upstream).await else {
        shared.change(|state| state.totals.upstream_failed += 1);
        // A socket that is gone has no linger to set.
        let _ = client.set_zero_linger();
        return;
    };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let mut cut_until = shared.cut_until.subscribe();
    let end = {
        let (client_reader, client_writer) = client.split();
        let (server_reader, server_writer) = server.split();
        let both = async {
            tokio::try_join!(
                pump(client_reader, server_writer, Direction::ToServer, shared),
                pump(server_reader, client_writer, Direction::ToClient, shared),
            )
        };
        tokio::select! {
            result = both => result.map_or_else(|end| end, |_| End::Closed),
            _ = cut_until.wait_for(|until| *until >= number) => {
                shared.change(|state| state.totals.cut += 1);
                End::Reset
            }
        }
    };
    let reset = |stream: &TcpStream| {
        let _ = stream.set_zero_linger();
    };
    match end {
        End::Closed => {}
        End::Reset => {
            reset(client);
            reset(&server);
        }
        End::Spent(direction) => {
            shared.change(|state| state.totals.cut += 1);
            let (sender, receiver) = match direction {
                Direction::ToServer => (client, &mut server),
                Direction::ToClient => (&mut server, client),
            };
            reset(sender);
            finish(receiver).await;
        }
    }
}

/// FIN, then what the other side still sends is read and dropped, so that the FIN does not become a RST.
async fn finish(stream: &mut TcpStream) {
    let _ = stream.shutdown().await;
    let drain = async {
        let mut sink = vec![0; CHUNK_BYTES];
        while stream.read(&mut sink).await.is_ok_and(|count| count > 0) {}
    };
    let _ = tokio::time::timeout(DRAIN_TIMEOUT, drain).await;
}

async fn pump(
    mut reader: impl AsyncRead + Unpin,
    mut writer: impl AsyncWrite + Unpin,
    direction: Direction,
    shared: &Shared,
) -> Result<(), End> {
    let (sender, mut receiver) = mpsc::channel::<(Instant, Vec<u8>)>(CHUNKS_QUEUED_MAX);
    let read = async {
        // Moved in, so that the writer sees the end of the queue when the reader is done.
        let sender = sender;
        loop {
            let mut chunk = Vec::with_capacity(CHUNK_BYTES);
            let count = reader.read_buf(&mut chunk).await.map_err(|_| End::Reset)?;
            // The empty chunk is the end of the stream; it waits in the line like any other.
            if sender.send((Instant::now(), chunk)).await.is_err() || count == 0 {
                return Ok(());
            }
        }
    };
    let write = async {
        let line = shared.line(direction);
        let mut stalled = line.stalled.subscribe();
        while let Some((arrived, chunk)) = receiver.recv().await {
            let delay = *lock(&line.delay);
            sleep_until(arrived + delay).await;
            // The sender lives in `shared`.
            let _ = stalled.wait_for(|stalled| !stalled).await;
            if chunk.is_empty() {
                return writer.shutdown().await.map_err(|_| End::Reset);
            }
            let (allowed, spent) = spend(&mut lock(&line.budget), chunk.len());
            hand_on(&mut writer, &chunk[..allowed], direction, shared).await.map_err(|_| End::Reset)?;
            if spent {
                return Err(End::Spent(direction));
            }
        }
        Ok(())
    };
    tokio::try_join!(read, write).map(|_| ())
}

async fn hand_on(
    writer: &mut (impl AsyncWrite + Unpin),
    bytes: &[u8],
    direction: Direction,
    shared: &Shared,
) -> io::Result<()> {
    writer.write_all(bytes).await?;
    shared.change(|state| {
        let total = match direction {
            Direction::ToServer => &mut state.totals.bytes_to_server,
            Direction::ToClient => &mut state.totals.bytes_to_client,
        };
        *total += bytes.len() as u64;
    });
    Ok(())
}

/// How many of `wanted` bytes may pass, and whether the budget is spent with them; a spent budget is gone.
fn spend(budget: &mut Option<u64>, wanted: usize) -> (usize, bool) {
    let Some(left) = *budget else { return (wanted, false) };
    let allowed = usize::try_from(left).map_or(wanted, |left| left.min(wanted));
    let rest = left - allowed as u64;
    *budget = (rest > 0).then_some(rest);
    (allowed, rest == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_is_spent_once_and_to_the_byte() {
        let mut budget = Some(10);
        assert_eq!(spend(&mut budget, 4), (4, false));
        assert_eq!(spend(&mut budget, 6), (6, true));
        assert_eq!(spend(&mut budget, 6), (6, false));
        budget = Some(0);
        assert_eq!(spend(&mut budget, 6), (0, true));
    }
}
