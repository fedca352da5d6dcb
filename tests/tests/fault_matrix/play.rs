//! One stage played to its end, and judged.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use hapax_testkit::smtp::{Fault, Hold, Phase};
use hapax_testkit::{ChaosProxy, HapaxProcess, eventually};
use hapax_tests::stage::{DOMAIN, PATIENCE, Settings, Stage, running};

use super::table::{self, Actor, End, Place};
use super::theatre::{Cell, Theatre};

/// What came of many cells.
#[derive(Default)]
pub(crate) struct Tally {
    pub(crate) cells: usize,
    accepted: usize,
    attempts: usize,
    ends: BTreeMap<&'static str, usize>,
    pub(crate) wrong: Vec<String>,
}

impl Tally {
    pub(crate) fn add(&mut self, other: Self) {
        self.cells += other.cells;
        self.accepted += other.accepted;
        self.attempts += other.attempts;
        other.ends.into_iter().for_each(|(end, count)| *self.ends.entry(end).or_default() += count);
        self.wrong.extend(other.wrong);
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} cells, {} dialogues, accepted {}: {:?}", self.cells, self.attempts, self.accepted, self.ends)
    }
}

/// Plays `cells` with `actor`.
pub(crate) async fn play(actor: Actor, cells: Vec<(Phase, Fault)>) -> Tally {
    let mut stage = Stage::set().await;
    let theatre = Theatre::build(actor, cells);
    let proxy = ChaosProxy::start(([127, 0, 0, 1], stage.cluster.port()).into());
    let settings = theatre.routes(settings(actor, &stage));
    let first_settings = if actor == Actor::DatabaseUnreachable {
        settings.clone().set("database.url", format!("postgres://relay@127.0.0.1:{}/postgres", proxy.port()))
    } else {
        settings.clone()
    };
    // A relay makes its routes known; only then can they be named.
    let mut first = first_settings.run().await;
    first.sigterm();
    assert!(first.wait_exit(PATIENCE).await.success(), "{}", first.report());
    for cell in &theatre.cells {
        enqueue(&stage, &cell.recipient, &cell.route).await;
    }
    let holds = if actor == Actor::Alone { Vec::new() } else { theatre.hold() };
    let mut relays = vec![first_settings.spawn()];
    if actor == Actor::SecondRelay {
        relays.push(settings.clone().set("relay.name", "second").spawn());
    }
    for relay in &relays {
        running(relay).await;
    }
    gather(&stage, &theatre, &holds).await;
    act(actor, &mut stage, &theatre, holds, &settings, &proxy, &mut relays).await;
    let attempts = if actor == Actor::Alone {
        follow_up(&stage, &theatre, &relays).await
    } else {
        at_rest(&stage, &relays).await;
        theatre.cells.iter().map(Cell::attempts).collect()
    };
    for mut relay in relays {
        assert!(relay.status().is_none(), "it has lived through it\n{}", relay.report());
        relay.sigterm();
        assert!(relay.wait_exit(PATIENCE).await.success(), "{}", relay.report());
    }
    judge(actor, &stage, &theatre, &attempts).await
}

fn settings(actor: Actor, stage: &Stage) -> Settings {
    // Long enough for everybody to arrive at the gates; alone there are none.
    let patience = if actor == Actor::Alone { "4s" } else { "12s" };
    let outage = matches!(
        actor,
        Actor::DatabaseStopped | Actor::DatabaseKilled | Actor::DatabaseRestarted | Actor::DatabaseUnreachable
    );
    let mut settings = stage
        .settings()
        .set("relay.poll_interval_min", "100ms")
        .set("relay.poll_interval_max", "500ms")
        .set("relay.lease", if outage { "60s" } else { "2s" })
        .set("relay.transmit_deadline", if actor == Actor::Stop { "2s" } else { "60s" })
        .set("relay.shutdown_grace", "60s");
    for phase in ["connect", "command", "data", "body", "final_reply"] {
        settings = settings.set(&format!("relay.{phase}_timeout"), patience);
    }
    settings
}

async fn enqueue(stage: &Stage, recipient: &str, route: &str) {
    let sql = "SELECT outbox.enqueue(kind => 'note', recipients => ARRAY[$1], subject => 'Hello', body_text => E'one\\n.two\\n', route => $2)";
    stage.sql.execute(sql, &[&recipient, &route]).await.expect("enqueues");
}

/// Waits until every dialogue stands at its gate, and the database knows what belongs to that.
async fn gather(stage: &Stage, theatre: &Theatre, holds: &[(Hold, String)]) {
    if holds.is_empty() {
        return;
    }
    eventually(PATIENCE, async || {
        let missing = holds.iter().filter(|(hold, _)| hold.arrived() == 0);
        let missing: Vec<_> = missing.map(|(_, name)| name.clone()).collect();
        if missing.is_empty() { Ok(()) } else { Err(missing) }
    })
    .await;
    stage.until("sending", theatre.count(|place| matches!(place, Place::Body | Place::Marker))).await;
    stage.until("sent", theatre.count(|place| place == Place::After)).await;
}

/// The actor acts, and every server does what is wrong with it.
async fn act(
    actor: Actor,
    stage: &mut Stage,
    theatre: &Theatre,
    holds: Vec<(Hold, String)>,
    settings: &Settings,
    proxy: &ChaosProxy,
    relays: &mut Vec<HapaxProcess>,
) {
    let successor = settings.clone().set("relay.name", "successor");
    let outage = Duration::from_secs(1);
    match actor {
        Actor::Alone => {}
        Actor::Kill => {
            relays[0].sigkill();
            relays[0].wait_exit(PATIENCE).await;
            drop(holds);
            *relays = vec![successor.run().await];
        }
        Actor::Stop => {
            let sleeper = running(&relays[0]).await;
            relays[0].sigstop();
            relays[0].wait_stopped(PATIENCE).await;
            drop(holds);
            relays.push(successor.run().await);
            // Everything it has begun is in doubt, and its leases are over.
            tokio::time::sleep(3 * outage).await;
            let open = format!(
                "SELECT count(*) FROM outbox.queue WHERE intent_by = '{sleeper}' AND intent IS NOT NULL AND doubt_since IS NULL"
            );
            eventually(PATIENCE, async || stage.count(&open).await == 0).await;
            relays[0].sigcont();
        }
        Actor::Term => {
            relays[0].sigterm();
            drop(holds);
            assert!(relays[0].wait_exit(PATIENCE).await.success(), "{}", relays[0].report());
            *relays = vec![successor.run().await];
        }
        Actor::DatabaseStopped | Actor::DatabaseKilled => {
            let done = if actor == Actor::DatabaseKilled {
                stage.cluster.kill_immediate().await
            } else {
                stage.cluster.stop().await
            };
            done.expect("it ends");
            drop(holds);
            tokio::time::sleep(outage).await;
            stage.cluster.restart().await.expect("it starts");
            stage.reconnect().await;
        }
        Actor::DatabaseRestarted => {
            drop(holds);
            stage.cluster.restart().await.expect("it starts");
            stage.reconnect().await;
        }
        Actor::DatabaseUnreachable => {
            proxy.stall_all(true);
            drop(holds);
            tokio::time::sleep(2 * outage).await;
            proxy.cut_all().await;
            proxy.stall_all(false);
        }
        Actor::SecondRelay => {
            // Longer than a lease: whoever lives keeps what it has in hand, so nobody else comes to the gates.
            tokio::time::sleep(3 * outage).await;
            for (hold, name) in &holds {
                assert_eq!(hold.arrived(), 1, "{name}: taken over from a living relay");
            }
            drop(holds);
        }
        Actor::MailServerRestarted => {
            for cell in &theatre.cells {
                cell.server.restart().await;
            }
            drop(holds);
        }
    }
}

/// Waits until nothing moves any more.
async fn at_rest(stage: &Stage, relays: &[HapaxProcess]) {
    eventually(PATIENCE, async || {
        let states = stage.states().await;
        let moving = ["pending", "claimed", "sending"].iter().any(|state| states.contains_key(*state));
        if moving { Err((states, relays.iter().map(HapaxProcess::report).collect::<String>())) } else { Ok(()) }
    })
    .await;
}

/// One more delivery on every route, as soon as its cell has ended (an idle connection is not kept for long): it gets its
/// own answer. Answers how many dialogues each cell had before.
async fn follow_up(stage: &Stage, theatre: &Theatre, relays: &[HapaxProcess]) -> Vec<usize> {
    let ended = "SELECT recipient FROM outbox.deliveries WHERE state IN ('sent', 'failed', 'in_doubt')";
    let mut attempts: Vec<Option<usize>> = vec![None; theatre.cells.len()];
    eventually(PATIENCE, async || {
        let rows = stage.sql.query(ended, &[]).await.expect("deliveries can be read");
        let ended: BTreeSet<String> = rows.iter().map(|row| row.get(0)).collect();
        for (cell, attempts) in theatre.cells.iter().zip(&mut attempts) {
            if attempts.is_none() && ended.contains(&cell.recipient) {
                *attempts = Some(cell.attempts());
                enqueue(stage, &follower(cell), &cell.route).await;
            }
        }
        let missing = theatre.cells.iter().zip(&attempts).filter(|(_, attempts)| attempts.is_none());
        let missing: Vec<_> = missing.map(|(cell, _)| format!("{:?} {:?}", cell.phase, cell.fault)).collect();
        if missing.is_empty() { Ok(()) } else { Err(missing) }
    })
    .await;
    at_rest(stage, relays).await;
    attempts.into_iter().flatten().collect()
}

fn follower(cell: &Cell) -> String {
    format!("f{}", cell.recipient)
}

async fn judge(actor: Actor, stage: &Stage, theatre: &Theatre, attempts: &[usize]) -> Tally {
    let mut tally = Tally::default();
    let sql = "SELECT recipient, state, message_id::text, coalesce(reason, '') FROM outbox.deliveries";
    let rows = stage.sql.query(sql, &[]).await.expect("deliveries can be read");
    let found: BTreeMap<String, (String, String, String)> =
        rows.iter().map(|row| (row.get(0), (row.get(1), row.get(2), row.get(3)))).collect();
    for (cell, attempts) in theatre.cells.iter().zip(attempts) {
        let problems = judge_cell(actor, cell, *attempts, &found, &mut tally);
        if !problems.is_empty() {
            let (state, _, reason) = &found[&cell.recipient];
            tally.wrong.push(format!(
                "{:?} x {:?} x {actor:?}: {} ({state}: {reason}; {attempts} dialogues, fired at {:?})",
                cell.phase,
                cell.fault,
                problems.join("; "),
                cell.fired()
            ));
        }
    }
    tally
}

fn judge_cell(
    actor: Actor,
    cell: &Cell,
    attempts: usize,
    found: &BTreeMap<String, (String, String, String)>,
    tally: &mut Tally,
) -> Vec<String> {
    let (phase, fault) = (cell.phase, &cell.fault);
    let mut problems = Vec::new();
    let (state, id, _) = &found[&cell.recipient];
    let counts = cell.server.with_ledger(|ledger| ledger.counts(&format!("{id}@{DOMAIN}"), &cell.recipient));
    let ends = table::ends(actor, phase, fault);
    let retried = attempts > 1;
    let fits = |end: &&End| {
        end.state() == state
            && table::accepted(**end, actor, phase, fault).contains(&counts.accepted)
            && (actor != Actor::Alone || (**end == End::Retried) == retried)
    };
    let end = ends.iter().find(fits);
    if end.is_none() {
        problems.push(format!("allowed are {ends:?}, accepted {}, dialogues for it {attempts}", counts.accepted));
    }
    let refused = matches!((phase, fault), (Phase::EndMarker { .. }, Fault::Reply4xx));
    let markers = 1 + if refused { cell.fired().len() } else { 0 };
    if counts.end_markers > markers || counts.accepted > 1 {
        problems.push(format!("{counts:?}"));
    }
    if cell.fired().is_empty() && !(actor == Actor::MailServerRestarted || actor == Actor::Kill) {
        problems.push("the fault never happened".to_owned());
    }
    connections(actor, cell, &mut problems);
    if actor == Actor::Alone {
        let (state, id, _) = &found[&follower(cell)];
        let taken = cell.server.with_ledger(|ledger| ledger.accepted(&format!("{id}@{DOMAIN}"), &follower(cell)));
        if state != "sent" || taken != 1 {
            problems.push(format!("the next delivery is {state}, taken {taken} times"));
        }
    }
    tally.cells += 1;
    tally.accepted += counts.accepted;
    tally.attempts += attempts;
    let word = match (state.as_str(), retried) {
        ("sent", false) => "sent at once",
        ("sent", true) => "sent later",
        ("failed", _) => "failed",
        ("in_doubt", _) => "in doubt",
        _ => "other",
    };
    *tally.ends.entry(word).or_default() += 1;
    problems
}

/// No delivery follows a fault on its connection, unless the reply was whole and alone.
fn connections(actor: Actor, cell: &Cell, problems: &mut Vec<String>) {
    let Some(kept) = table::kept(cell.phase, &cell.fault) else { return };
    for (connection, transaction) in cell.fired() {
        let behind = cell.server.with_ledger(|ledger| ledger.connections()[connection - 1].transactions.len());
        if !kept && behind > transaction.max(usize::from(cell.phase == Phase::Quit)) {
            problems.push(format!("{} transactions on connection {connection} after its fault", behind - transaction));
        }
        if kept && actor == Actor::Alone && behind <= transaction {
            problems.push(format!("connection {connection} was given up"));
        }
    }
}
