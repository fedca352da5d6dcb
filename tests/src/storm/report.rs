//! The end of a storm: everything settles, the oracle looks, one line says it all.
//!
//! Beside the rules of [`Verdict`]: nothing committed is missing, nothing rolled back exists, nothing is stuck; in doubt
//! is only what the mail server was sent a body of, or whose relay was killed; and one kill leaves no more doubts than
//! [`IN_FLIGHT`].

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use hapax_testkit::Ledger;
use tokio_postgres::Client;
use uuid::Uuid;

use super::relays::Haunted;
use super::{IN_FLIGHT, Plan, Produced, SETTLE_MIN, World, digests, operator};
use crate::verdict::Verdict;

/// What came of it.
#[derive(Debug)]
pub struct Report {
    /// The seed it can be repeated with.
    pub seed: u64,
    /// Deliveries whose commit was answered.
    pub deliveries: usize,
    /// SIGKILLs of relays, and how many of the killed had done anything before.
    pub kills: (usize, usize),
    /// Breaches of the rules; empty when the promise was kept.
    pub breaches: Vec<String>,
    /// Deliveries that were accepted more often than was decided.
    pub accepted_twice: usize,
    /// Committed deliveries that are gone or stuck.
    pub lost: usize,
    /// In doubt when everything had settled, before anybody decided what blocks ordering keys.
    pub in_doubt: usize,
    /// The doubts that killed relays left: of each that left any.
    pub doubt_per_kill: Vec<usize>,
    /// What the oracle saw at the very end.
    pub verdict: Verdict,
    /// What happened, how often.
    pub events: BTreeMap<String, usize>,
    /// The lives of deliveries that a rule was broken for, with what happened around.
    pub lives: Vec<String>,
    /// Digests, and deliveries that went in them.
    digests: (i64, i64),
    produced: Produced,
    took: Duration,
}

impl Report {
    /// Asserts that every rule was kept.
    ///
    /// # Panics
    /// With the breaches and the seed, otherwise.
    #[track_caller]
    pub fn assert_clean(&self) {
        let most: Vec<&String> = self.breaches.iter().take(30).collect();
        assert!(
            self.breaches.is_empty(),
            "{self}\n{} breaches: {most:#?}\n{}",
            self.breaches.len(),
            self.lives.join("\n")
        );
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let events: Vec<String> = self.events.iter().map(|(name, count)| format!("{name} {count}")).collect();
        writeln!(f, "happened: {}", events.join(", "))?;
        writeln!(
            f,
            "produced: {} notifications committed, {} rolled back, {} without an answer, {} requests repeated, {} deliveries cancelled",
            self.produced.committed.len(),
            self.produced.rolled_back.len(),
            self.produced.unanswered.len(),
            self.produced.repeated,
            self.produced.cancelled
        )?;
        let decided = self.verdict.twice.iter().filter(|(_, taken, resends)| *taken <= 1 + *resends as usize).count();
        let (digests, members) = self.digests;
        writeln!(
            f,
            "ended: {:?}, taken again by decision {decided}; {members} went in {digests} digests",
            self.verdict.states
        )?;
        let (kills, busy) = self.kills;
        let doubts: usize = self.doubt_per_kill.iter().sum();
        write!(
            f,
            "storm HAPAX_SEED={}: deliveries {}, kills {kills} ({busy} of relays at work), accepted twice {}, lost {}, \
             in doubt {}, doubt per kill max {} mean {:.2} (bound {IN_FLIGHT}), {} breaches, {:.0?}",
            self.seed,
            self.deliveries,
            self.accepted_twice,
            self.lost,
            self.in_doubt,
            self.doubt_per_kill.iter().max().unwrap_or(&0),
            doubts as f64 / kills.max(1) as f64,
            self.breaches.len(),
            self.took
        )
    }
}

/// All is well again: waits, looks, decides what blocks others, looks again.
pub(super) async fn settle_and_judge(world: &World, produced: Produced, relays: Vec<Haunted>) -> Report {
    let sql = world.sql().await;
    let mut breaches = Vec::new();
    breaches.extend(world.died.lock().unwrap_or_else(std::sync::PoisonError::into_inner).iter().cloned());
    breaches.extend(produced.repeated_wrongly.iter().cloned());
    breaches.extend(settled(&sql, &world.plan, produced.deliveries()).await);
    let ledger = world.server.ledger();
    let first = Verdict::of(&sql, &ledger).await;
    breaches.extend(first.wrong.iter().cloned());
    breaches.extend(doubts_without_cause(&sql, world, &ledger).await);
    let mut random = world.plan.random(4);
    while breaches.is_empty() && operator::unblock(&sql, &mut random).await {
        breaches.extend(settled(&sql, &world.plan, produced.deliveries()).await);
    }
    for relay in relays {
        breaches.extend(relay.end().await);
    }
    let ledger = world.server.ledger();
    let verdict = Verdict::of(&sql, &ledger).await;
    breaches.extend(verdict.wrong.iter().filter(|wrong| !first.wrong.contains(wrong)).cloned());
    let (lost, missing) = missing(&sql, &produced).await;
    breaches.extend(missing);
    breaches.extend(digests::breaches(&sql).await);
    breaches.extend(ledger.violations().take(5).map(|(connection, what)| format!("connection {connection}: {what}")));
    let (busy, doubt_per_kill) = doubts_by_kill(&sql, world).await;
    let over = doubt_per_kill.iter().filter(|doubts| **doubts > IN_FLIGHT);
    breaches.extend(over.map(|doubts| format!("one kill left {doubts} in doubt")));
    let twice =
        |(_, taken, resends): &&(String, usize, i32)| *taken > 1 + usize::try_from(*resends).unwrap_or_default();
    Report {
        seed: world.plan.seed,
        deliveries: produced.deliveries(),
        kills: (world.kills.load(Ordering::Relaxed), busy),
        accepted_twice: verdict.twice.iter().filter(twice).count(),
        lost,
        in_doubt: first.count("in_doubt"),
        doubt_per_kill,
        events: counted(world),
        lives: lives(&sql, world, &verdict).await,
        verdict,
        breaches,
        digests: digests::counted(&sql).await,
        produced,
        took: world.began.elapsed(),
    }
}

/// Waits until nothing is due, owned, or about to be decided by its policy; answers what did not settle.
async fn settled(sql: &Client, plan: &Plan, deliveries: usize) -> Option<String> {
    let moving = "SELECT count(*), coalesce(min(q.message_id::text || '/' || q.recipient_no || ' ' || outbox.state_of(q.parked, q.intent, q.lease, q.lease_until)), '')
         FROM outbox.queue q JOIN outbox.message m ON m.id = q.message_id
         WHERE q.parked IS NULL OR q.parked = 'paused' OR (q.parked = 'doubt' AND $1 AND (m.on_doubt = 'assume_sent' OR (m.on_doubt = 'resend' AND q.resends = 0)))
            OR (q.parked = 'ordered' AND NOT EXISTS (
                  SELECT FROM outbox.queue h WHERE h.order_key = q.order_key AND h.parked IN ('doubt', 'held', 'poison') AND NOT outbox.is_skipped(h.message_id, h.recipient_no, h.parked)))";
    let deadline =
        Instant::now() + SETTLE_MIN + Duration::from_millis(3) * u32::try_from(deliveries).unwrap_or(u32::MAX);
    loop {
        let row = sql.query_one(moving, &[&plan.mutant.is_none()]).await.expect("the queue can be read");
        let (count, example): (i64, String) = (row.get(0), row.get(1));
        let untold: i64 = sql.query_one(digests::NOT_TOLD, &[]).await.expect("digests can be read").get(0);
        if count + untold == 0 {
            return None;
        }
        if Instant::now() > deadline {
            return Some(format!(
                "{count} deliveries are stuck, for example {example}; {untold} have not ended as their digest"
            ));
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// The fourth rule: in doubt is only what was on the wire, or whose relay was killed behind its intent.
async fn doubts_without_cause(sql: &Client, world: &World, ledger: &Ledger) -> Vec<String> {
    let query = "SELECT d.message_id::text, d.recipient, r.pid, q.doubt_by FROM outbox.queue q
         JOIN outbox.deliveries d ON d.message_id = q.message_id AND d.recipient_no = q.recipient_no
         LEFT JOIN outbox.relay r ON r.incarnation = q.intent_by WHERE q.parked = 'doubt'";
    let rows = sql.query(query, &[]).await.expect("doubts can be read");
    let mut wrong = Vec::new();
    for row in &rows {
        let (id, recipient): (String, String) = (row.get(0), row.get(1));
        let killed = row.get::<_, Option<i32>>(2).is_some_and(|pid| world.was_killed(pid));
        let marked = ledger.end_markers_read(&format!("{id}@{}", crate::stage::DOMAIN), &recipient);
        if marked == 0 && !killed && !ledger.was_cut(&recipient) {
            wrong.push(format!(
                "{id} to {recipient} is in doubt, but was never on the wire (by {:?})",
                row.get::<_, Option<String>>(3)
            ));
        }
    }
    wrong
}

/// What was committed and is not there, and what was rolled back and is.
async fn missing(sql: &Client, produced: &Produced) -> (usize, Vec<String>) {
    // Digests nobody commits but relays.
    let query = "SELECT message_id, count(*) FROM outbox.deliveries WHERE kind <> 'puddle' GROUP BY 1";
    let rows = sql.query(query, &[]).await;
    let rows = rows.expect("the deliveries can be read");
    let known: BTreeMap<Uuid, i64> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    let (mut lost, mut wrong) = (0, Vec::new());
    for (id, deliveries) in &produced.committed {
        let there = usize::try_from(known.get(id).copied().unwrap_or_default()).unwrap_or_default();
        if there != *deliveries {
            lost += deliveries.abs_diff(there);
            wrong.push(format!("{id} was committed with {deliveries} deliveries, and has {there}"));
        }
    }
    wrong.extend(
        produced
            .rolled_back
            .iter()
            .filter(|id| known.contains_key(id))
            .map(|id| format!("{id} was rolled back, and exists")),
    );
    let mut expected: BTreeSet<Uuid> = produced.committed.iter().map(|(id, _)| *id).collect();
    expected.extend(&produced.unanswered);
    wrong.extend(
        known.keys().filter(|id| !expected.contains(id)).map(|id| format!("{id} exists, and nobody committed it")),
    );
    (lost, wrong)
}

/// Of the relays that were killed: how many had done anything, and the doubts of each that left any. A doubt that was
/// decided meanwhile is still an attempt of unknown outcome.
async fn doubts_by_kill(sql: &Client, world: &World) -> (usize, Vec<usize>) {
    let query = "SELECT r.pid, count(a.token), count(a.token) FILTER (WHERE a.outcome = 'unknown' AND a.detail LIKE 'the relay vanished%')
         FROM outbox.relay r LEFT JOIN outbox.attempt a ON a.relay = r.incarnation GROUP BY r.incarnation, r.pid";
    let rows = sql.query(query, &[]).await.expect("attempts can be read");
    let killed: Vec<_> = rows.iter().filter(|row| world.was_killed(row.get(0))).collect();
    let busy = killed.iter().filter(|row| row.get::<_, i64>(1) > 0).count();
    let doubts = killed.iter().map(|row| usize::try_from(row.get::<_, i64>(2)).unwrap_or_default());
    (busy, doubts.filter(|doubts| *doubts > 0).collect())
}

/// Events by what they are, whichever relay they befell.
fn counted(world: &World) -> BTreeMap<String, usize> {
    let mut counted = BTreeMap::new();
    for (_, event) in world.events.lock().unwrap_or_else(std::sync::PoisonError::into_inner).iter() {
        let name = event.split_once(": ").map_or(event.as_str(), |(_, name)| name);
        *counted.entry(name.to_owned()).or_default() += 1;
    }
    counted
}

/// The attempts of the first few deliveries that were taken too often, and everything that happened from five seconds
/// before the first of them to the end of the last.
async fn lives(sql: &Client, world: &World, verdict: &Verdict) -> Vec<String> {
    let attempts = "SELECT extract(epoch FROM a.started_at)::float8, extract(epoch FROM a.finished_at)::float8,
                a.outcome || ' at ' || a.phase || ', ' || coalesce(a.detail, a.reply, '') || ' by ' || coalesce(r.name, '?') || ' pid ' || coalesce(r.pid, 0)
         FROM outbox.attempt a LEFT JOIN outbox.relay r ON r.incarnation = a.relay WHERE a.message_id::text = $1 ORDER BY a.started_at";
    let mut lives = Vec::new();
    let too_often =
        verdict.twice.iter().filter(|(_, taken, resends)| *taken > 1 + usize::try_from(*resends).unwrap_or_default());
    for (delivery, ..) in too_often.take(3) {
        let id = delivery.split('/').next().unwrap_or_default();
        let rows = sql.query(attempts, &[&id]).await.expect("attempts can be read");
        let mut lines: Vec<(f64, String)> = Vec::new();
        for row in &rows {
            let (from, to): (f64, f64) = (row.get(0), row.get(1));
            lines.push((from, format!("  ATTEMPT until {to:.3}: {}", row.get::<_, String>(2))));
        }
        let times = lines.iter().map(|(at, _)| *at);
        let (from, to) = (times.clone().fold(f64::MAX, f64::min) - 5.0, times.fold(0.0, f64::max) + 10.0);
        let events = world.events.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        lines.extend(events.iter().filter(|(at, _)| (from..to).contains(at)).cloned());
        lines.sort_by(|a, b| a.0.total_cmp(&b.0));
        let lines: Vec<String> = lines.iter().map(|(at, what)| format!("{at:.3} {what}")).collect();
        lives.push(format!("{delivery}:\n{}", lines.join("\n")));
    }
    lives
}
