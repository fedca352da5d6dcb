//! Body and marker in one write: for every number of bytes the kernel may have taken of it.

use std::time::Duration;

use hapax_core::{certainty::Trust, limits::Timeouts};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::*;
use crate::{
    capabilities::Capabilities,
    channel::Channel,
    wire::{
        WireStream,
        tests::{fill, open_gate, pair},
    },
};

const RAW: &[u8] = b"Subject: joined\r\n\r\n.one\r\ntwo\r\n";

fn session(wire: WireStream) -> Session {
    let patient = Duration::from_secs(60);
    Session {
        channel: Channel::new(Stream::Plain(wire)),
        capabilities: Capabilities::default(),
        timeouts: Timeouts { command: patient, data: patient, body: patient, final_reply: patient, connect: patient },
        trust: Trust::default(),
        spent: false,
    }
}

/// Reads until the marker, answers it, and says what was read.
async fn server(mut peer: TcpStream, skip: usize) -> Vec<u8> {
    peer.read_exact(&mut vec![0; skip]).await.expect("read");
    let mut read = Vec::new();
    while !read.ends_with(MARKER) {
        read.push(peer.read_u8().await.expect("more"));
    }
    peer.write_all(b"250 taken\r\n").await.expect("written");
    read
}

fn on_the_wire(message: &Message) -> Vec<u8> {
    [message.wire_bytes(), MARKER].concat()
}

#[tokio::test]
async fn whatever_the_kernel_takes_of_the_joined_write_body_and_marker_go_out_once_and_whole() {
    let message = Message::new(RAW);
    let whole = message.wire_len() + MARKER.len();
    for taken in 1..=whole {
        let (mut wire, peer) = pair().await;
        wire.joined_at_most = Some(taken);
        let (mut session, gate, mut bytes) = (session(wire), open_gate(), 0);
        let (outcome, read) = tokio::join!(session.transmit(&message, &gate, &mut bytes), server(peer, 0));
        assert_eq!(outcome.as_str(), "accepted", "{taken}: {outcome:?}");
        assert_eq!((read, bytes), (on_the_wire(&message), whole), "{taken}");
        assert!(gate.marker_begun());
    }
}

#[tokio::test]
async fn what_the_kernel_took_decides_whether_the_marker_has_begun() {
    let message = Message::new(RAW);
    let body_len = message.wire_len();
    for taken in 1..=body_len + MARKER.len() {
        let (mut wire, mut peer) = pair().await;
        wire.joined_at_most = Some(taken);
        let (mut session, gate, mut bytes) = (session(wire), open_gate(), 0);
        let begun = session.write_joined(message.wire_bytes(), &gate, &mut bytes).await.expect("written");
        assert_eq!((bytes, begun), (taken.min(body_len), taken.saturating_sub(body_len)), "{taken}");
        assert_eq!(gate.marker_begun(), taken > body_len, "{taken}");
        // What had not begun can still be kept back, and is.
        assert_eq!(gate.close(), taken <= body_len, "{taken}");
        drop(session);
        let mut read = Vec::new();
        let _ = peer.read_to_end(&mut read).await;
        assert!(read.len() <= taken && on_the_wire(&message).starts_with(&read), "{taken}: not a byte more");
    }
}

#[tokio::test]
async fn a_gate_that_closes_behind_a_part_of_the_body_lets_nothing_of_the_marker_through() {
    let message = Message::new(RAW);
    for taken in 1..=message.wire_len() {
        let (mut wire, mut peer) = pair().await;
        wire.joined_at_most = Some(taken);
        let (mut session, gate, mut bytes) = (session(wire), open_gate(), 0);
        session.write_joined(message.wire_bytes(), &gate, &mut bytes).await.expect("written");
        assert!(gate.close());
        let outcome = match session.write_body(message.wire_bytes(), &gate, &mut bytes).await {
            Err(outcome) => outcome,
            Ok(()) => session.finish(&gate, 0, &mut bytes, &mut false).await,
        };
        assert!(matches!(outcome, Outcome::NotSent { cause: Cause::Aborted, .. }), "{taken}: {outcome:?}");
        drop(session);
        let mut read = Vec::new();
        let _ = peer.read_to_end(&mut read).await;
        assert!(read.len() <= message.wire_len(), "{taken}");
    }
}

#[tokio::test]
async fn a_joined_write_that_has_to_wait_for_the_socket_has_not_begun_and_goes_out_when_there_is_room() {
    let message = Message::new(RAW);
    let (mut wire, peer) = pair().await;
    let filled = fill(&mut wire).await;
    let (mut session, gate, mut bytes) = (session(wire), open_gate(), 0);
    {
        let transmit = session.transmit(&message, &gate, &mut bytes);
        tokio::pin!(transmit);
        assert!(is_pending(transmit.as_mut()), "there is no room");
        assert!(!gate.marker_begun(), "and so nothing has begun");
        let (outcome, read) = tokio::join!(transmit, server(peer, filled));
        assert_eq!((outcome.as_str(), read), ("accepted", on_the_wire(&message)));
    }
    assert_eq!(bytes, message.wire_len() + MARKER.len());
}

#[tokio::test]
async fn a_joined_write_that_waits_sees_what_the_server_says_meanwhile_and_sends_nothing() {
    for (words, cause) in
        [(&b"421 bye\r\n"[..], Cause::Unexpected), (b"250 early\r\n", Cause::Unexpected), (b"", Cause::Eof)]
    {
        let message = Message::new(RAW);
        let (mut wire, mut peer) = pair().await;
        fill(&mut wire).await;
        let (mut session, gate, mut bytes) = (session(wire), open_gate(), 0);
        let speak = async {
            peer.write_all(words).await.expect("written");
            if words.is_empty() {
                peer.shutdown().await.expect("closed for writing");
            }
        };
        let outcome = {
            let transmit = session.transmit(&message, &gate, &mut bytes);
            tokio::pin!(transmit);
            assert!(is_pending(transmit.as_mut()));
            tokio::join!(transmit, speak).0
        };
        match outcome {
            Outcome::NotSent { phase: Phase::Body, cause: told, .. } => assert_eq!(told, cause),
            other => panic!("{other:?}"),
        }
        assert!(!gate.marker_begun());
        assert_eq!(bytes, 0);
    }
}

#[tokio::test]
async fn a_body_that_is_longer_than_a_joined_write_may_be_is_written_before_its_marker() {
    let message = Message::new(&vec![b'x'; JOINED_BYTES_MAX + 1]);
    let (mut wire, peer) = pair().await;
    // Nobody takes this: there is no joined write.
    wire.joined_at_most = Some(0);
    let (mut session, gate, mut bytes) = (session(wire), open_gate(), 0);
    let (outcome, read) = tokio::join!(session.transmit(&message, &gate, &mut bytes), server(peer, 0));
    assert_eq!((outcome.as_str(), read), ("accepted", on_the_wire(&message)));
    assert_eq!(session.channel.stream.wire().joined_at_most, Some(0));
}

/// Polls once.
fn is_pending(future: std::pin::Pin<&mut impl Future>) -> bool {
    future.poll(&mut Context::from_waker(std::task::Waker::noop())).is_pending()
}
