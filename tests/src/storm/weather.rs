//! The database server crashes, restarts, freezes; the mail server misbehaves, now less, now more, and restarts.
//!
//! What the mail server never does: answer the end marker with a refusal and take the message, or say before the end marker
//! that it has taken one. Nobody can keep a promise to a server that lies. It does say 451 in the middle of a body and takes
//! the message nevertheless: the first storm found that this refusal, where it crosses the end marker, was believed.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use fastrand::Rng;
use hapax_testkit::{Action, Context, Fault, Phase, Script};

use super::{World, around};

/// Crashes and restarts Postgres now and then until the storm is over.
pub(super) async fn postgres(world: Arc<World>) {
    let mut random = world.plan.random(1);
    let mean = (world.plan.duration / 100).max(Duration::from_secs(6));
    loop {
        let (pause, event, length) = (around(mean, &mut random), random.u8(0..5), random.u64(50..3_000));
        if !calm_for(&world, pause).await {
            return;
        }
        let (name, done) = match event {
            0 | 1 => ("postgres killed", world.cluster.kill_immediate().await),
            2 => ("postgres crashed", world.cluster.crash().await),
            3 => ("postgres restarted", world.cluster.stop().await),
            _ => ("postgres frozen", world.cluster.freeze().await),
        };
        done.unwrap_or_else(|error| panic!("{name}: {error}"));
        world.note(name);
        tokio::time::sleep(Duration::from_millis(length / if event == 4 { 1 } else { 4 })).await;
        let back = if event == 4 { world.cluster.thaw().await } else { world.cluster.restart().await };
        back.unwrap_or_else(|error| panic!("{name}, and did not come back: {error}"));
    }
}

/// Changes what the mail server does until the storm is over.
pub(super) async fn mail(world: Arc<World>) {
    let mut random = world.plan.random(2);
    let mean = (world.plan.duration / 150).max(Duration::from_secs(3));
    loop {
        let permille = [0, 1, 3, 10][random.usize(0..4)];
        let delay = Duration::from_millis(random.u64(0..40));
        let script = misbehaving(permille, random.fork());
        let (pause, event, away) = (around(mean, &mut random), random.u8(0..8), random.u64(0..1_500));
        world.server.final_reply_delay(delay);
        world.server.script(script);
        match event {
            0 => {
                world.note("mail server restarted");
                world.server.restart().await;
            }
            1 => {
                world.note("mail server away");
                world.server.stop().await;
                tokio::time::sleep(Duration::from_millis(away)).await;
                world.server.restart().await;
            }
            _ => {}
        }
        if !calm_for(&world, pause).await {
            return;
        }
    }
}

/// Waits; answers whether the storm still rages.
async fn calm_for(world: &World, pause: Duration) -> bool {
    let until = tokio::time::Instant::now() + pause;
    while tokio::time::Instant::now() < until && !world.is_over() {
        tokio::time::sleep_until(until.min(tokio::time::Instant::now() + Duration::from_millis(200))).await;
    }
    !world.is_over()
}

/// A server that does something wrong at `permille` of all steps, ten times as often at the end marker.
fn misbehaving(permille: u32, random: Rng) -> Script {
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
