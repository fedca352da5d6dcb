//! Every step of the protocol, and the worst that can happen there: the process is killed, or stands still for longer
//! than every lease, or its database dies, or the answer of the statement is lost although the statement was executed.
//!
//! Each cell is one relay with some tens of deliveries, driven to a named fault point of its life, and judged by the mail
//! server's ledger once everything has settled. What may come of it is said in [`CELLS`], by the place of the point in the
//! protocol, not computed by code of Hapax. `HAPAX_POINT=name` runs the cells of one point only.

mod crash_points {
    pub(crate) mod cell;
    pub(crate) mod lane;
}

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use crash_points::cell::{Action, CELLS, Cell};
use crash_points::lane::{INTENTS_WITHOUT_ANSWER, Lane};

/// Cells that are under way at once: they mostly wait.
const LANES: usize = 4;

async fn visit_every_point(action: Action) {
    tokio::task::LocalSet::new().run_until(visit(action)).await;
}

async fn visit(action: Action) {
    let only = std::env::var("HAPAX_POINT").ok();
    let chosen = CELLS.iter().filter(|cell| only.as_ref().is_none_or(|point| point == cell.point));
    let left: Arc<Mutex<VecDeque<&'static Cell>>> = Arc::new(Mutex::new(chosen.collect()));
    let mut lanes = tokio::task::JoinSet::new();
    for _ in 0..LANES {
        let left = left.clone();
        lanes.spawn_local(async move {
            let mut lane = Lane::set().await;
            let mut done = Vec::new();
            loop {
                let next = left.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
                let Some(cell) = next else { return done };
                done.push((cell, lane.run(cell, action).await));
            }
        });
    }
    let (mut cells, mut accepted, mut states) = (0, 0, BTreeMap::<String, usize>::new());
    while let Some(done) = lanes.join_next().await {
        for (cell, verdict) in done.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic())) {
            println!("{cell}: {verdict}");
            cells += 1;
            accepted += verdict.accepted;
            verdict.states.into_iter().for_each(|(state, count)| *states.entry(state).or_default() += count);
        }
    }
    println!("{action:?}: {cells} cells, accepted {accepted}, states {states:?}");
    assert!(only.is_some() || cells == CELLS.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rc22_killed_at_every_fault_point_only_what_had_an_intent_is_in_doubt_and_nothing_is_accepted_twice() {
    visit_every_point(Action::Kill).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rc35_rc05_stopped_at_every_fault_point_beyond_every_lease_nothing_is_sent_twice_and_awake_no_doubt_is_left() {
    visit_every_point(Action::Stop).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rc19_the_database_lost_at_every_fault_point_costs_neither_a_delivery_nor_a_doubt() {
    visit_every_point(Action::LoseDatabase).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rc37_rc40_the_answer_of_the_commit_lost_at_every_fault_point_costs_neither_a_delivery_nor_a_doubt() {
    visit_every_point(Action::LoseAnswer).await;
    if std::env::var("HAPAX_POINT").is_ok_and(|point| point != "intend_sent") {
        return;
    }
    let intents = INTENTS_WITHOUT_ANSWER.load(std::sync::atomic::Ordering::Relaxed);
    println!("{intents} intents were committed, and nobody was told");
    assert!(intents > 0, "in no cell was an intent committed whose answer was lost");
}

#[test]
fn every_fault_point_is_visited() {
    let source = include_str!("../../crates/core/src/fault.rs");
    let list = source.split("POINTS").nth(1).and_then(|rest| rest.split("];").next()).expect("the list of points");
    let points: Vec<&str> =
        list.lines().filter_map(|line| line.trim().strip_prefix('"')?.strip_suffix("\",")).collect();
    assert_eq!(points.len(), hapax_core::fault::POINTS.len(), "{points:?}");
    for point in points {
        assert!(CELLS.iter().any(|cell| cell.point == point), "{point} is in no cell");
    }
}
