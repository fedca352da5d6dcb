//! From a fault to the bytes and events on the wire: a pure table.
//!
//! Invariant: [`Answer::Over`] if and only if the steps end the connection.

use std::time::Duration;

use super::script::{Fault, Phase};

const HUGE_BYTES: usize = 200 * 1024;

/// One thing done to the socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Write(Vec<u8>),
    WriteSlowly(Vec<u8>),
    Sleep(Duration),
    Stall,
    Eof,
    Reset,
}

/// What the dialogue makes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// The server said yes.
    Yes,
    /// It said no, or nothing sensible; the dialogue goes on.
    No,
    /// The connection is over.
    Over,
}

/// The steps of `fault` at `phase`, where `good` is the right reply (empty where there is none to give).
pub(super) fn steps(fault: &Fault, phase: Phase, good: &[u8]) -> (Vec<Step>, Answer) {
    if phase == Phase::Tls {
        return tls_steps(fault);
    }
    let write = |bytes: Vec<u8>| vec![Step::Write(bytes)];
    let line = |text: &str| write(format!("{text}\r\n").into_bytes());
    match fault {
        Fault::Stall => (vec![Step::Stall], Answer::Over),
        Fault::Eof => (vec![Step::Eof], Answer::Over),
        Fault::Reset => (vec![Step::Reset], Answer::Over),
        Fault::Reply421 => (then(line("421 4.3.2 scripted: going down"), Step::Eof), Answer::Over),
        Fault::Reply4xx if phase == Phase::Auth => (line("454 4.7.0 scripted: try again later"), Answer::No),
        Fault::Reply4xx => (line("451 4.3.0 scripted: try again later"), Answer::No),
        Fault::Reply5xx if phase == Phase::Auth => (line("535 5.7.8 scripted: refused"), Answer::No),
        Fault::Reply5xx => (line("554 5.7.1 scripted: refused"), Answer::No),
        Fault::Reply3xx if phase == Phase::Data => (line("334 c2NyaXB0ZWQ="), Answer::No),
        Fault::Reply3xx => (line("354 scripted: out of place"), Answer::No),
        Fault::Garbage => (write(b"\x00\xff\x01\xfe scripted garbage\r\n".to_vec()), Answer::No),
        Fault::HalfLine => (then(write(half(good)), Step::Stall), Answer::Over),
        Fault::HalfLineEof => (then(write(half(good)), Step::Eof), Answer::Over),
        Fault::LfOnlyLine => {
            (write(good_or_greeting(good).into_iter().filter(|byte| *byte != b'\r').collect()), Answer::Yes)
        }
        Fault::HugeReply => (write(huge_reply(good)), Answer::Yes),
        Fault::HugeLine => (write(with_text(good, &[b'x'; HUGE_BYTES])), Answer::Yes),
        Fault::Latin1Text => (write(with_text(good, b"gr\xfc\xdf dich")), Answer::Yes),
        // Before a body has ended no reply is due: the delay alone is the fault.
        Fault::DelayedGood(delay) if matches!(phase, Phase::Body { .. }) => (vec![Step::Sleep(*delay)], Answer::Yes),
        Fault::DelayedGood(delay) => (vec![Step::Sleep(*delay), Step::Write(good.to_vec())], Answer::Yes),
        Fault::ByteByByte => (vec![Step::WriteSlowly(good.to_vec())], Answer::Yes),
        Fault::TwoRepliesAtOnce => (write([good, b"250 2.0.0 scripted: one more\r\n"].concat()), Answer::Yes),
        Fault::Stray(bytes) => (write([good, bytes].concat()), Answer::Yes),
        Fault::GoodThenEof => (vec![Step::Write(good.to_vec()), Step::Eof], Answer::Over),
        Fault::GoodThenReset => (vec![Step::Write(good.to_vec()), Step::Reset], Answer::Over),
        Fault::Custom(bytes) => {
            let yes = if phase == Phase::Data { b'3' } else { b'2' };
            (write(bytes.clone()), if bytes.first() == Some(&yes) { Answer::Yes } else { Answer::No })
        }
    }
}

/// In place of a handshake: a late or slow one, or plain text and the end.
fn tls_steps(fault: &Fault) -> (Vec<Step>, Answer) {
    match fault {
        Fault::DelayedGood(delay) => (vec![Step::Sleep(*delay)], Answer::Yes),
        Fault::ByteByByte => (vec![Step::WriteSlowly(Vec::new())], Answer::Yes),
        other => {
            // The greeting stands for the good reply; the phase only must not be `Tls` again.
            let (mut steps, answer) = steps(other, Phase::Greeting, b"220 plain.invalid scripted: no TLS here\r\n");
            if answer != Answer::Over {
                steps.push(Step::Eof);
            }
            (steps, Answer::Over)
        }
    }
}

fn then(mut steps: Vec<Step>, last: Step) -> Vec<Step> {
    steps.push(last);
    steps
}

fn good_or_greeting(good: &[u8]) -> Vec<u8> {
    if good.is_empty() { b"220 scripted\r\n".to_vec() } else { good.to_vec() }
}

/// The first half of the first line, without its end.
fn half(good: &[u8]) -> Vec<u8> {
    let good = good_or_greeting(good);
    let line = good.split(|byte| *byte == b'\r').next().unwrap_or_default();
    line[..line.len().div_ceil(2)].to_vec()
}

/// The good reply with another text in its first line.
fn with_text(good: &[u8], text: &[u8]) -> Vec<u8> {
    let good = good_or_greeting(good);
    let end = good.windows(2).position(|pair| pair == b"\r\n").unwrap_or(good.len());
    [&good[..4.min(end)], text, &good[end..]].concat()
}

/// Lines of 500 bytes before the good reply, all of them of the same reply.
fn huge_reply(good: &[u8]) -> Vec<u8> {
    let good = good_or_greeting(good);
    let line = [&good[..3], b"-", &[b'x'; 494], b"\r\n"].concat();
    let mut reply = line.repeat(HUGE_BYTES / line.len());
    // An EHLO reply keeps its first line first: it is the name, not a capability.
    reply.extend_from_slice(&good);
    reply
}

/// Whether these bytes are a whole 2xx reply.
pub(super) fn is_whole_yes(bytes: &[u8]) -> bool {
    let mut lines = bytes.split_inclusive(|byte| *byte == b'\n');
    lines.any(|line| line.first() == Some(&b'2') && line.get(3) != Some(&b'-') && line.ends_with(b"\r\n"))
}

#[cfg(test)]
mod tests {
    use super::super::script::matrix;
    use super::*;

    #[test]
    fn the_connection_is_over_exactly_when_the_last_step_ends_it() {
        for (phase, fault) in matrix(Duration::from_millis(1)) {
            let (steps, answer) = steps(&fault, phase, b"250 2.0.0 ok\r\n");
            let ends = matches!(steps.last(), Some(Step::Stall | Step::Eof | Step::Reset));
            assert_eq!(ends, answer == Answer::Over, "{phase:?} {fault:?}");
        }
    }

    #[test]
    fn replies_are_cut_and_stretched_as_named() {
        let good = b"250-mx\r\n250 SIZE\r\n";
        assert_eq!(half(good), b"250");
        assert_eq!(with_text(good, b"\xfc"), b"250-\xfc\r\n250 SIZE\r\n");
        let huge = huge_reply(good);
        assert!(huge.len() > 199 * 1024 && huge.ends_with(good));
        assert!(is_whole_yes(&huge) && !is_whole_yes(b"250 half") && !is_whole_yes(b"250-more\r\n"));
        assert!(!is_whole_yes(b"250 lf only\n") && !is_whole_yes(b"421 no\r\n"));
    }
}
