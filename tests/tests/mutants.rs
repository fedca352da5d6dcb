//! The test of the tests: the protocol is broken on purpose, rule by rule, and somebody must notice.
//!
//! A mutant is a switch in the binary (`HAPAX_MUTANT=name`, only in builds with `fault-points`; the list is
//! `hapax_core::mutant`). Each scenario is played without a mutant first, which must end without a breach, then with each
//! of its mutants, which must not. `tests/README.md` has the table.

#[path = "mutants/database.rs"]
mod database;
#[path = "mutants/dialogue.rs"]
mod dialogue;
#[path = "mutants/relays.rs"]
mod relays;

use std::time::{Duration, Instant};

use hapax_testkit::HapaxProcess;
use hapax_tests::stage::{Settings, Stage};
use hapax_tests::storm::{Plan, rage};
use hapax_tests::verdict::Verdict;

/// How long what a breach shows is waited for; a sound relay is waited for as long as it takes.
const SHOWN_WITHIN: Duration = Duration::from_secs(10);

/// A relay, sound or broken.
#[derive(Clone, Copy, Debug)]
struct Kind(Option<&'static str>);

impl Kind {
    const SOUND: Self = Self(None);

    async fn start(self, stage: &Stage, settings: &Settings, more: &[(&str, &str)]) -> HapaxProcess {
        for (function, fragment, replacement) in self.0.into_iter().flat_map(hapax_core::mutant::in_functions) {
            break_function(stage, function, fragment, replacement).await;
        }
        let mut builder = HapaxProcess::builder().config(settings.toml()).arg("run");
        for (name, value) in self.0.map(|mutant| ("HAPAX_MUTANT", mutant)).iter().chain(more) {
            builder = builder.env(name, value);
        }
        builder.spawn()
    }

    /// How patient to be.
    fn patience(self) -> Duration {
        if self.0.is_some() { SHOWN_WITHIN } else { hapax_tests::stage::PATIENCE }
    }
}

/// Puts `replacement` in the place of `fragment` in a function of the schema; a relay before this one may have done so.
async fn break_function(stage: &Stage, function: &str, fragment: &str, replacement: &str) {
    let text = format!("SELECT pg_get_functiondef('outbox.{function}'::regproc)");
    let sound: String = stage.sql.query_one(&text, &[]).await.expect("the function is there").get(0);
    if sound.contains(fragment) {
        stage.sql.batch_execute(&sound.replace(fragment, replacement)).await.expect("the function is replaced");
    } else {
        assert!(sound.contains(replacement), "{function} no longer contains {fragment:?}");
    }
}

/// Waits for a condition; whether it came true in time.
async fn comes_true(limit: Duration, mut condition: impl AsyncFnMut() -> bool) -> bool {
    let until = Instant::now() + limit;
    loop {
        if condition().await {
            return true;
        }
        if Instant::now() > until {
            return false;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// What the oracle says, and what never settled.
async fn breaches(stage: &Stage, kind: Kind) -> Vec<String> {
    let moving = "SELECT count(*) FROM outbox.queue WHERE parked IS NULL";
    let mut breaches = Vec::new();
    if !comes_true(kind.patience(), async || stage.count(moving).await == 0).await {
        breaches.push(format!("never settles: {:?}", stage.states().await));
    }
    let verdict = Verdict::of(&stage.sql, &stage.server.ledger()).await;
    breaches.extend(verdict.wrong);
    breaches
}

/// Plays it with a sound relay, then with each mutant.
async fn play(scenario: impl AsyncFn(Kind) -> Vec<String>, mutants: &[&'static str]) {
    for mutant in mutants {
        assert!(hapax_core::mutant::MUTANTS.iter().any(|(name, _)| name == mutant), "{mutant} is a mutant");
    }
    let sound = scenario(Kind::SOUND).await;
    assert!(sound.is_empty(), "without a mutant: {sound:#?}");
    for mutant in mutants {
        // Some breaches need an instant that a busy machine may miss: one play of three has to show it.
        let mut seen = Vec::new();
        for _ in 0..3 {
            seen = scenario(Kind(Some(mutant))).await;
            if !seen.is_empty() {
                break;
            }
        }
        println!("mutant {mutant}: {} breaches, for example {:?}", seen.len(), seen.first());
        assert!(!seen.is_empty(), "mutant {mutant} was not noticed");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storm_over_a_broken_relay_is_seen_by_the_oracle() {
    // The kills are random, and must hit a relay between a marker and its intent: some storms have to.
    for seed in 7..12 {
        let plan = Plan {
            deliveries: 250,
            kills: 12,
            duration: Duration::from_secs(8),
            relays: 2,
            seed,
            mutant: Some("intent_after_marker"),
            controls: false,
        };
        let report = rage(plan).await;
        println!("{report}");
        if report.accepted_twice > 0 {
            return;
        }
    }
    panic!("five storms over a broken relay, and nothing was accepted twice");
}

#[test]
fn every_mutant_is_played() {
    let suites = concat!(
        include_str!("mutants/database.rs"),
        include_str!("mutants/dialogue.rs"),
        include_str!("mutants/relays.rs")
    );
    let readme = include_str!("../README.md");
    for (name, _) in hapax_core::mutant::MUTANTS {
        assert!(suites.contains(&format!("\"{name}\"")), "no scenario plays {name}");
        assert!(readme.contains(&format!("`{name}`")), "tests/README.md does not know {name}");
    }
}

#[test]
fn every_statement_that_a_mutant_breaks_has_what_is_to_be_broken() {
    let queries = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/store/queries");
    for (operation, fragment) in hapax_core::mutant::in_statements() {
        let file = queries.join(operation).with_extension("sql");
        let text = std::fs::read_to_string(&file).expect("each operation is a file of queries");
        assert!(text.contains(fragment), "{operation} no longer contains {fragment:?}: its mutant would only panic");
    }
}
