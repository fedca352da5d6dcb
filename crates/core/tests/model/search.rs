//! Exhaustive search with `stateright`, breadth first.

use std::time::{Duration, Instant};

use stateright::{Checker, Expectation, HasDiscoveries, Model};

use crate::{step::Step, steps::Protocol};

/// What a search came to.
#[derive(Debug)]
pub(crate) struct Found {
    /// Different worlds.
    pub(crate) states: usize,
    /// Steps between them.
    pub(crate) steps: usize,
    pub(crate) depth: usize,
    pub(crate) took: Duration,
    /// Properties that do not hold, each with a trace.
    pub(crate) violated: Vec<(&'static str, Vec<Step>)>,
    /// What should be possible and never happened.
    pub(crate) never: Vec<&'static str>,
}

impl Found {
    pub(crate) fn print(&self, name: &str) {
        let Self { states, steps, depth, took, .. } = self;
        let verdict = if self.violated.is_empty() { "complete, all properties hold" } else { "VIOLATED" };
        println!("model: {name}: {states} states, {steps} steps, depth {depth}, {took:.1?}: {verdict}");
        for (property, trace) in &self.violated {
            println!("  violated: {property}, in {} steps", trace.len());
            for (number, step) in (1..).zip(trace) {
                println!("    {number:2} {step:?}");
            }
        }
        if !self.never.is_empty() {
            println!("  never reached: {}", self.never.join("; "));
        }
    }
}

/// Looks at every world that `protocol` can come to, or stops at the first violation.
pub(crate) fn search(protocol: Protocol, threads: usize) -> Found {
    search_to(protocol, threads, usize::MAX)
}

/// The shortest trace of a violation. `stateright` answers the last one of the block of worlds it was looking at; what is
/// less deep is looked for again.
pub(crate) fn search_shortest(protocol: Protocol) -> Found {
    let mut found = search(protocol, 1);
    let longest = found.violated.iter().map(|(_, trace)| trace.len()).min().unwrap_or(0);
    // A world `n` steps from the beginning is at depth `n + 1`, and the depth given is the first that is not looked at.
    for steps in 0..longest {
        let shorter = search_to(protocol, 1, steps + 2);
        if !shorter.violated.is_empty() {
            return shorter;
        }
    }
    found.violated.retain(|(_, trace)| trace.len() == longest);
    found
}

fn search_to(protocol: Protocol, threads: usize, depth: usize) -> Found {
    let began = Instant::now();
    let properties = protocol.properties();
    let checker = protocol.checker().threads(threads).target_max_depth(depth).finish_when(HasDiscoveries::AnyFailures);
    let checker = checker.spawn_bfs().join();
    let discovered = checker.discoveries();
    let trace = |name: &'static str| discovered.get(name).map(|path| path.clone().into_actions());
    let (mut violated, mut never) = (Vec::new(), Vec::new());
    for property in properties {
        match (property.expectation, trace(property.name)) {
            (Expectation::Always, Some(trace)) => violated.push((property.name, trace)),
            (Expectation::Sometimes, None) => never.push(property.name),
            _ => {}
        }
    }
    Found {
        states: checker.unique_state_count(),
        steps: checker.state_count(),
        depth: checker.max_depth(),
        took: began.elapsed(),
        violated,
        never,
    }
}
