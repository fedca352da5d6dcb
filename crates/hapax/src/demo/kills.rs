//! The chaos: SIGKILL at random moments, but while mail is under way.

use std::{sync::atomic::Ordering, time::Duration};

use super::{LOOK_INTERVAL, Progress, relay::RelayProcess, show_progress, stage::Stage};
use crate::cli::Demo;

/// What a relay has between two kills, on the average.
const LIFE: Duration = Duration::from_millis(800);

/// A relay that finds nothing to do for so long is killed all the same.
const IDLE_MAX: Duration = Duration::from_secs(4);

/// Longer than the catcher's pause before its reply: a kill comes before, during or after one.
const AIM_MS_MAX: u64 = 30;

/// The pause between two orders of one assistant, so that there is something to deliver until the last kill.
pub(super) fn pace(options: Demo) -> Duration {
    LIFE * options.kills * super::shop::ASSISTANTS / options.messages.max(1)
}

/// Kills as often as asked, and leaves a living relay behind.
pub(super) async fn haunt(
    stage: &Stage,
    relay: &mut RelayProcess,
    options: Demo,
    progress: &Progress,
) -> anyhow::Result<()> {
    let mut chance = fastrand::Rng::new();
    let share = u64::from(options.messages / (options.kills + 1)).max(1);
    for _ in 0..options.kills {
        let aim = stage.catcher.count() + chance.u64(1..=share);
        let waited = tokio::time::timeout(IDLE_MAX, async {
            while stage.catcher.count() < aim {
                relay.must_live()?;
                show_progress(stage, options, progress);
                drop(tokio::time::timeout(LOOK_INTERVAL, stage.catcher.wait_for(aim)).await);
            }
            Ok::<(), anyhow::Error>(())
        });
        if let Ok(result) = waited.await {
            result?;
        }
        tokio::time::sleep(Duration::from_millis(chance.u64(0..=AIM_MS_MAX))).await;
        relay.kill_and_restart().await?;
        progress.kills.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}
