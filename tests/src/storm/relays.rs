//! The ghosts of the relays: one for each. It starts its relay behind a proxy of its own, and does to it whatever chance
//! says, until the storm is over; then it leaves a relay that nobody disturbs any more.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use fastrand::Rng;
use hapax_testkit::{ChaosProxy, Direction, HapaxProcess};

use super::{World, around};
use crate::faketime::Clock;

/// Of all that befalls a relay, the share that are kills.
const SHARE_OF_KILLS: f64 = 0.62;

/// How long a relay that was told to end may take: its grace, and the wind-up.
const ENDS_WITHIN: Duration = Duration::from_secs(90);

/// What befalls a relay.
#[derive(Clone, Copy, Debug)]
enum Fate {
    Killed,
    KilledInItsSleep,
    Suspended(Duration),
    ToldToEnd,
    ToldToEndThenKilled,
    Cut,
    CutAfter(Direction, u64),
    Stalled(Option<Direction>, Duration),
    Delayed(Duration),
    Refused(Duration),
    ClockJumps(i64),
}

impl Fate {
    /// Draws the same amount of chance whatever comes of it.
    fn draw(random: &mut Rng, kill: bool) -> Self {
        let (kind, millis, bytes, direction) =
            (random.u8(0..24), random.u64(50..1_000), random.u64(1..6_000), random.bool());
        let direction = if direction { Direction::ToServer } else { Direction::ToClient };
        if kill {
            return match kind {
                0..=20 => Self::Killed,
                21 | 22 => Self::KilledInItsSleep,
                _ => Self::ToldToEndThenKilled,
            };
        }
        let short = Duration::from_millis(millis);
        match kind {
            0..=3 => Self::Suspended(short),
            // Longer than dead_after, the lease and the transmit deadline.
            4 | 5 => Self::Suspended(short * 6),
            6..=8 => Self::ToldToEnd,
            9 | 10 => Self::Cut,
            11..=13 => Self::CutAfter(direction, bytes),
            14..=16 => Self::Stalled((kind != 14).then_some(direction), short * 4),
            17 | 18 => Self::Delayed(short / 5),
            19 | 20 => Self::Refused(short * 2),
            _ => Self::ClockJumps([-86_400, -3_700, -5, 0, 5, 3_700, 86_400, 30_000_000][random.usize(0..8)]),
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Killed => "killed",
            Self::KilledInItsSleep => "killed while suspended",
            Self::Suspended(time) if time.as_millis() < 1_500 => "suspended",
            Self::Suspended(_) => "suspended beyond lease and dead_after",
            Self::ToldToEnd => "SIGTERM",
            Self::ToldToEndThenKilled => "SIGTERM, then killed",
            Self::Cut => "connections cut",
            Self::CutAfter(..) => "connection cut in mid-statement",
            Self::Stalled(..) => "database unreachable",
            Self::Delayed(_) => "database slow",
            Self::Refused(_) => "database refused",
            Self::ClockJumps(_) => "clock jumped",
        }
    }
}

/// A relay with its ghost's tools.
pub(super) struct Haunted {
    world: Arc<World>,
    /// Its wall clock, where there is one that can jump.
    clock: Option<Clock>,
    number: usize,
    proxy: ChaosProxy,
    process: HapaxProcess,
}

/// Runs relay `number` and haunts it until the storm is over.
pub(super) async fn haunt(world: Arc<World>, number: usize) -> Haunted {
    let mut random = world.plan.random(200 + number as u64);
    let quota = world.plan.kills / world.plan.relays + usize::from(number < world.plan.kills % world.plan.relays);
    let mean = world.plan.duration.mul_f64(SHARE_OF_KILLS / quota.max(1) as f64);
    let proxy = ChaosProxy::start(([127, 0, 0, 1], world.cluster.port()).into());
    let clock = Clock::available().map(|()| Clock::right()).map_err(|why| println!("clocks do not jump: {why}")).ok();
    let process = start(&world, clock.as_ref(), number, &proxy);
    let mut haunted = Haunted { world, clock, number, proxy, process };
    let (mut kills, mut next) = (0, tokio::time::Instant::now());
    while !haunted.world.is_over() {
        let pause = around(mean, &mut random);
        let kill = random.f64() < SHARE_OF_KILLS && kills < quota;
        let fate = Fate::draw(&mut random, kill);
        kills += usize::from(kill);
        // By the schedule, however long the last one took; but a relay lives for a while before the next.
        next += pause;
        let least = tokio::time::Instant::now() + (mean / 3).min(Duration::from_secs(1));
        tokio::time::sleep_until(next.max(least)).await;
        haunted.live_on();
        haunted.befall(fate).await;
    }
    haunted.proxy.stall_all(false);
    Direction::BOTH.into_iter().for_each(|direction| haunted.proxy.delay(direction, Duration::ZERO));
    haunted.proxy.refuse_new(false).await;
    haunted.live_on();
    haunted
}

fn start(world: &World, clock: Option<&Clock>, number: usize, proxy: &ChaosProxy) -> HapaxProcess {
    let url = format!("postgres://relay@127.0.0.1:{}/postgres", proxy.port());
    // The same name again and again: a name is a label only.
    let settings = world.settings.clone().set("database.url", url).set("relay.name", format!("relay-{number}"));
    let mut builder = HapaxProcess::builder().config(settings.toml()).arg("run");
    for (name, value) in clock.into_iter().flat_map(Clock::environment) {
        builder = builder.env(name, value);
    }
    if let Some(mutant) = world.plan.mutant {
        builder = builder.env("HAPAX_MUTANT", mutant);
    }
    builder.spawn()
}

impl Haunted {
    /// Starts the relay again if it has ended by itself, and keeps its last words.
    fn live_on(&mut self) {
        let Some(status) = self.process.status() else { return };
        let lines = self.process.lines();
        let last = lines.iter().rev().take(8).rev().cloned().collect::<Vec<_>>().join("\n");
        let mut died = self.world.died.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        died.push(format!("relay-{} ended by itself ({status}):\n{last}", self.number));
        drop(died);
        self.process = start(&self.world, self.clock.as_ref(), self.number, &self.proxy);
    }

    async fn befall(&mut self, fate: Fate) {
        self.world.note(format!("relay-{}: {}", self.number, fate.name()));
        match fate {
            Fate::Killed => self.kill().await,
            Fate::KilledInItsSleep => {
                self.process.sigstop();
                tokio::time::sleep(Duration::from_millis(1_700)).await;
                self.kill().await;
            }
            Fate::Suspended(time) => {
                self.process.sigstop();
                tokio::time::sleep(time).await;
                self.process.sigcont();
            }
            Fate::ToldToEnd => {
                self.process.sigterm();
                let status = self.process.wait_exit(ENDS_WITHIN).await;
                if !status.success() {
                    self.world.note("SIGTERM, and exit status not 0");
                }
                self.process = start(&self.world, self.clock.as_ref(), self.number, &self.proxy);
            }
            Fate::ToldToEndThenKilled => {
                self.process.sigterm();
                tokio::time::sleep(Duration::from_millis(15)).await;
                self.kill().await;
            }
            Fate::Cut => self.proxy.cut_all().await,
            Fate::CutAfter(direction, bytes) => self.proxy.cut_after_bytes(direction, bytes),
            Fate::Stalled(direction, time) => {
                let both = Direction::BOTH.into_iter().filter(|one| direction.is_none_or(|wanted| wanted == *one));
                both.clone().for_each(|direction| self.proxy.stall(direction, true));
                tokio::time::sleep(time).await;
                both.for_each(|direction| self.proxy.stall(direction, false));
            }
            Fate::Delayed(time) => {
                Direction::BOTH.into_iter().for_each(|direction| self.proxy.delay(direction, time));
                tokio::time::sleep(time * 20).await;
                Direction::BOTH.into_iter().for_each(|direction| self.proxy.delay(direction, Duration::ZERO));
            }
            Fate::Refused(time) => {
                self.proxy.refuse_new(true).await;
                self.proxy.cut_all().await;
                tokio::time::sleep(time).await;
                self.proxy.refuse_new(false).await;
            }
            Fate::ClockJumps(seconds) => {
                if let Some(clock) = &self.clock {
                    clock.jump(&format!("{seconds:+}"));
                }
            }
        }
    }

    /// SIGKILL, and a new one at once.
    async fn kill(&mut self) {
        let pid = i32::try_from(self.process.id()).expect("a process id fits");
        self.world.killed.lock().unwrap_or_else(std::sync::PoisonError::into_inner).insert(pid);
        self.process.sigkill();
        self.process.wait_exit(Duration::from_secs(30)).await;
        self.world.kills.fetch_add(1, Ordering::Relaxed);
        self.process = start(&self.world, self.clock.as_ref(), self.number, &self.proxy);
    }

    /// Ends the relay in good order; answers what was wrong with that.
    pub(super) async fn end(mut self) -> Option<String> {
        self.live_on();
        self.process.sigterm();
        let status = self.process.wait_exit(ENDS_WITHIN).await;
        (!status.success()).then(|| format!("relay-{} did not end well: {}", self.number, self.process.report()))
    }
}
