//! Trouble of every sort, in an order that the seed decides, each again and again: the mail server misbehaves at all its
//! steps all the time, and now and then is away; the database crashes; either stands still on the way; connections are
//! cut; the configuration is read again.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hapax_tests::misdeeds::misbehaving;
use tokio::time::Instant;

use super::{World, reload};

/// Of thousand steps of a dialogue, so many go wrong; five times as many at the end marker.
const PERMILLE: u32 = 6;

/// What can happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    MailServerAway,
    DatabaseKilled,
    DatabaseStalled,
    DatabaseCut,
    MailStalled,
    MailCut,
    Reload,
}

const EVENTS: [Event; 7] = [
    Event::MailServerAway,
    Event::DatabaseKilled,
    Event::DatabaseStalled,
    Event::DatabaseCut,
    Event::MailStalled,
    Event::MailCut,
    Event::Reload,
];

/// What has happened.
#[derive(Debug)]
pub(super) struct Trouble {
    events: BTreeMap<Event, usize>,
    misdeeds: usize,
}

impl Trouble {
    /// What happened but for what the mail server did.
    pub(super) fn outages(&self) -> usize {
        self.events.values().sum()
    }

    /// Steps at which the mail server did something wrong.
    pub(super) fn misdeeds(&self) -> usize {
        self.misdeeds
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} misdeeds of the mail server, events {:?}", self.misdeeds, self.events)
    }
}

/// Makes trouble until it is over, and leaves everything well.
pub(super) async fn make(world: Arc<World>) -> Trouble {
    let mut random = world.plan.random(2);
    let misdeeds = Arc::new(AtomicUsize::new(0));
    let mut events = BTreeMap::new();
    // Every sort at least twice in the shortest, one about every quarter of a minute in the longest.
    let mean = (world.plan.duration / 20).clamp(Duration::from_millis(700), Duration::from_secs(15));
    let mut deck: Vec<Event> = Vec::new();
    world.stage.server.script(misbehaving(PERMILLE, random.fork(), Arc::clone(&misdeeds)));
    while calm_for(&world, mean.mul_f64(0.5 + random.f64())).await {
        if deck.is_empty() {
            deck.extend(EVENTS);
            random.shuffle(&mut deck);
        }
        let event = deck.pop().expect("it was filled");
        world.stage.server.final_reply_delay(Duration::from_millis(random.u64(0..60)));
        let length = Duration::from_millis(random.u64(100..1_000)).max(mean.mul_f64(random.f64() * 0.3));
        happen(&world, event, length, &mut random).await;
        *events.entry(event).or_default() += 1;
    }
    Trouble { events, misdeeds: misdeeds.load(Ordering::Relaxed) }
}

async fn happen(world: &World, event: Event, length: Duration, random: &mut fastrand::Rng) {
    let (cluster, server) = (&world.stage.cluster, &world.stage.server);
    match event {
        Event::MailServerAway => {
            server.stop().await;
            tokio::time::sleep(length).await;
            server.restart().await;
        }
        Event::DatabaseKilled => {
            cluster.kill_immediate().await.expect("it can be killed");
            tokio::time::sleep(length / 2).await;
            cluster.restart().await.expect("it comes back");
        }
        Event::DatabaseStalled | Event::MailStalled => {
            let proxy = if event == Event::MailStalled { &world.mail } else { &world.database };
            proxy.stall_all(true);
            tokio::time::sleep(length).await;
            proxy.stall_all(false);
        }
        Event::DatabaseCut => world.database.cut_all().await,
        Event::MailCut => world.mail.cut_all().await,
        Event::Reload => {
            let connections = random.u8(8..=16);
            reload(world, &world.settings.clone().set("routes.default.max_connections", connections)).await;
        }
    }
}

/// Waits; answers whether it goes on.
async fn calm_for(world: &World, pause: Duration) -> bool {
    let until = Instant::now() + pause;
    while Instant::now() < until && !world.is_over() {
        tokio::time::sleep_until(until.min(Instant::now() + Duration::from_millis(100))).await;
    }
    !world.is_over()
}
