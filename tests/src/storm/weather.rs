//! The database server crashes, restarts, freezes; the mail server misbehaves, now less, now more, and restarts.

use std::sync::Arc;
use std::time::Duration;

use super::{World, around};
use crate::misdeeds::misbehaving;

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
        let script = misbehaving(permille, random.fork(), Arc::default());
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
