//! Our own mail sink, `hapax bench sink`: takes everything, keeps nothing, counts, and notes when each end marker was
//! read.
//!
//! It is a process of its own, so that its CPU time is not that of the measurement. It says `port N` first, then, with
//! `--stamps`, `ID NANOSECONDS` for every message that has an `X-Bench-Id` (time since boot), and `count N` when its
//! standard input is closed.

use std::{
    io,
    net::Ipv4Addr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use anyhow::Context;
use hapax_core::clock::{Clock, SystemClock};
use hapax_sandbox::smtp::{DotDecoder, LineReader, header, split_command};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
};

use super::letters::ID_HEADER;
use crate::{cli::bench::Sink, failure::Exit, output};

const LINE_BYTES_MAX: usize = 4096;
const GREETING: &[u8] = b"220 sink.invalid ESMTP\r\n";
const EHLO: &[u8] =
    b"250-sink.invalid\r\n250-PIPELINING\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n250 ENHANCEDSTATUSCODES\r\n";

/// Takes mail until standard input is closed.
///
/// # Errors
/// When no socket can be bound.
pub(super) async fn run(options: Sink) -> anyhow::Result<Exit> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.context("no port of 127.0.0.1")?;
    output::line(&format!("port {}", listener.local_addr()?.port()));
    let count = Arc::new(AtomicU64::new(0));
    let accepting = tokio::spawn(accept(listener, Arc::clone(&count), options.stamps));
    let mut rest = Vec::new();
    // Whatever comes, and an error, are the end, too.
    drop(tokio::io::stdin().read_to_end(&mut rest).await);
    accepting.abort();
    output::line(&format!("count {}", count.load(Ordering::Relaxed)));
    Ok(Exit::Done)
}

async fn accept(listener: TcpListener, count: Arc<AtomicU64>, stamps: bool) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let count = Arc::clone(&count);
                // A client that breaks off is its own business.
                tokio::spawn(async move { drop(serve(stream, &count, stamps).await) });
            }
            Err(_) => tokio::task::yield_now().await,
        }
    }
}

async fn serve(stream: TcpStream, count: &AtomicU64, stamps: bool) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let (reader, mut writer) = stream.into_split();
    let mut reader = LineReader::new(reader);
    let (mut replies, mut body) = (GREETING.to_vec(), Vec::new());
    loop {
        if !reader.has_line() {
            flush(&mut writer, &mut replies).await?;
        }
        let Some(line) = reader.line(LINE_BYTES_MAX).await? else { return Ok(()) };
        let text = line.text();
        match split_command(&text).0.as_str() {
            "EHLO" => replies.extend_from_slice(EHLO),
            "DATA" => {
                replies.extend_from_slice(b"354 go ahead\r\n");
                flush(&mut writer, &mut replies).await?;
                read_body(&mut reader, &mut body).await?;
                let read_at = SystemClock.boottime();
                count.fetch_add(1, Ordering::Relaxed);
                if stamps && let Some(id) = header(&body, ID_HEADER) {
                    output::line(&format!("{id} {}", read_at.as_nanos()));
                }
                replies.extend_from_slice(b"250 2.0.0 taken\r\n");
            }
            "QUIT" => {
                replies.extend_from_slice(b"221 2.0.0 bye\r\n");
                return flush(&mut writer, &mut replies).await;
            }
            _ => replies.extend_from_slice(b"250 2.0.0 ok\r\n"),
        }
    }
}

/// The message up to its end marker.
async fn read_body(reader: &mut LineReader<OwnedReadHalf>, body: &mut Vec<u8>) -> io::Result<()> {
    body.clear();
    let mut decoder = DotDecoder::new();
    loop {
        let (taken, done) = decoder.feed(reader.buffered(), body);
        reader.consume(taken);
        if done {
            return Ok(());
        }
        if reader.fill().await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

async fn flush(writer: &mut OwnedWriteHalf, replies: &mut Vec<u8>) -> io::Result<()> {
    writer.write_all(replies).await?;
    replies.clear();
    Ok(())
}
