//! What becomes of the same content enqueued twice for one recipient: `guard_window`, `on_duplicate`.

use std::time::Duration;

use hapax_relay::{GuardWindow, OnDuplicate};

use super::{origin::Problem, reader::Section};

const WORDS: [(&str, OnDuplicate); 3] = [
    (OnDuplicate::Hold.as_str(), OnDuplicate::Hold),
    (OnDuplicate::Drop.as_str(), OnDuplicate::Drop),
    (OnDuplicate::Report.as_str(), OnDuplicate::Report),
];

/// Farther apart two are no accident, and what is remembered grows with it.
const LONGEST: Duration = Duration::from_secs(7 * 24 * 3600);

/// The guard of a kind, if it has one.
pub(super) fn read(section: &mut Section<'_>) -> Option<GuardWindow> {
    let within = section.duration_maybe("guard_window", Duration::from_secs(1)..=LONGEST);
    let given = section.word("on_duplicate", None, &WORDS);
    if within.is_none() && given.is_some() {
        let (path, window) = (section.path("on_duplicate"), section.path("guard_window"));
        let problem = Problem::new(path, "changes nothing: there is no guard_window");
        section.reader.warnings.push(problem.hint(format!("set {window} = \"10m\", or leave it out")));
    }
    within.map(|within| GuardWindow { within, on_duplicate: given.unwrap_or_default() })
}
