//! A mail server that misbehaves at random, at every step of the dialogue.
//!
//! What the mail server never does: answer the end marker with a refusal and take the message, or say before the end marker
//! that it has taken one. Nobody can keep a promise to a server that lies. It does say 451 in the middle of a body and takes
//! the message nevertheless: the first storm found that this refusal, where it crosses the end marker, was believed.

use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use fastrand::Rng;
use hapax_testkit::{Action, Context, Fault, Phase, Script};

/// A server that does something wrong at `permille` of all steps, five times as often at the end marker; counts what it
/// did.
#[must_use]
pub fn misbehaving(permille: u32, random: Rng, misdeeds: Arc<AtomicUsize>) -> Script {
    // And the connections that have refused too early: a server that does so, takes the message, and then goes without a word
    // about it has answered with a refusal as far as anybody can see.
    let memory = Mutex::new((random, HashSet::new()));
    Script::from_fn(move |context: &Context| {
        let (random, refused) = &mut *memory.lock().unwrap_or_else(PoisonError::into_inner);
        if refused.contains(&context.connection) {
            return Action::Proceed;
        }
        let odds = if matches!(context.phase, Phase::EndMarker { .. }) { permille * 5 } else { permille };
        let action = if random.u32(0..1_000) >= odds { Action::Proceed } else { misdeed(context.phase, random) };
        let early = matches!(context.phase, Phase::Body { .. });
        if early && matches!(action, Action::Fault(Fault::Reply4xx | Fault::Reply5xx)) {
            refused.insert(context.connection);
        }
        misdeeds.fetch_add(usize::from(action != Action::Proceed), Ordering::Relaxed);
        action
    })
    .body_percents([50])
}

fn misdeed(phase: Phase, random: &mut Rng) -> Action {
    let late = Fault::DelayedGood(Duration::from_millis(random.u64(10..1_500)));
    if let Phase::EndMarker { .. } = phase {
        return match random.u8(0..18) {
            0 => Action::TakeThen(Fault::Stall),
            1 => Action::TakeThen(Fault::Eof),
            2 => Action::TakeThen(Fault::Reset),
            3 => Action::TakeThen(Fault::Reply421),
            4 => Action::TakeThen(Fault::Garbage),
            5 => Action::TakeThen(Fault::HalfLineEof),
            6 => Action::TakeThen(Fault::Reply3xx),
            7 => Action::Fault(Fault::Eof),
            8 => Action::Fault(Fault::Reset),
            9 => Action::Fault(Fault::Stall),
            10 => Action::Fault(Fault::Reply5xx),
            11 | 12 => Action::Fault(Fault::Reply4xx),
            13 => Action::TakeThen(Fault::GoodThenEof),
            14 => Action::TakeThen(Fault::GoodThenReset),
            15 => Action::TakeThen(Fault::ByteByByte),
            16 => Action::TakeThen(Fault::TwoRepliesAtOnce),
            _ => Action::TakeThen(late),
        };
    }
    if let Phase::Body { .. } = phase {
        return Action::Fault(match random.u8(0..6) {
            0 => Fault::Stall,
            1 => Fault::Eof,
            2 => Fault::Reset,
            3 => Fault::Reply4xx,
            4 => Fault::Reply5xx,
            _ => Fault::Reply421,
        });
    }
    Action::Fault(match random.u8(0..12) {
        0 => Fault::Stall,
        1 => Fault::Eof,
        2 => Fault::Reset,
        3 => Fault::Reply421,
        4 | 5 => Fault::Reply4xx,
        6 if matches!(phase, Phase::Mail | Phase::Rcpt | Phase::Data) => Fault::Reply5xx,
        7 => Fault::Garbage,
        8 => Fault::HalfLine,
        9 => Fault::HalfLineEof,
        10 => Fault::Stray(b"451 4.3.0 stray\r\n".to_vec()),
        _ => late,
    })
}
