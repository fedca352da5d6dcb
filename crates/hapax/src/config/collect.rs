//! Kinds whose notifications go in one message: `collect`, `collect_max`, `collect_as`.
//!
//! What could not be rendered, or would be gathered twice, is refused.

use std::{collections::BTreeMap, path::Path, time::Duration};

use hapax_relay::{Collecting, KindPolicy};

use super::{
    duration::format,
    nearest::nearest,
    origin::Problem,
    reader::{Given, Reader, Section},
};

const SHORTEST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(7 * 24 * 3600);

/// How a kind collects, whose notifications expire after so long; and what was given for `collect_as`.
pub(super) fn read(
    section: &mut Section<'_>,
    expires_after: Option<Duration>,
    templates: Option<&Path>,
) -> (Option<Collecting>, Option<Given>) {
    let within = section.duration_maybe("collect", SHORTEST..=LONGEST);
    let max = section.number("collect_max", 50_i32, 2..=1_000, "a whole number");
    let as_kind = section.take("collect_as");
    section.show("collect_as", as_kind.as_ref(), None);
    let Some(within) = within else {
        if as_kind.is_some() && !section.has_problem("collect") {
            let problem = Problem::new(section.path("collect_as"), "changes nothing: there is no collect");
            let hint = format!("set {} = \"15m\", or leave it out", section.path("collect"));
            section.reader.warnings.push(problem.hint(hint));
        }
        return (None, None);
    };
    let path = section.path("collect");
    if templates.is_none() {
        let problem = Problem::new(path.clone(), "there are no templates: a digest is made by one, from payloads");
        section.reader.problems.push(problem.hint("set templates.directory, or leave collect out"));
    }
    if let Some(expires) = expires_after.filter(|expires| *expires <= within) {
        let message =
            format!("is {}, and expires_after {}: all of it would expire unsent", format(within), format(expires));
        section.reader.problems.push(Problem::new(path, message).hint("make expires_after longer, or collect shorter"));
    }
    let name = as_kind.as_ref().map(|given| given.text.clone());
    (Some(Collecting { within, max, as_kind: name }), as_kind)
}

/// Whether each digest can be made, once all kinds are known.
pub(super) fn check(
    reader: &mut Reader,
    kinds: &BTreeMap<String, KindPolicy>,
    given: &BTreeMap<String, Given>,
    templates: Option<&Path>,
) {
    let Some(directory) = templates.filter(|directory| directory.is_dir()) else { return };
    for (kind, policy) in kinds {
        let Some(collect) = &policy.collect else { continue };
        let other = collect.as_kind.as_ref().unwrap_or(kind);
        let problem = |message: String| match given.get(kind) {
            Some(given) => {
                Problem::new(format!("kinds.{kind}.collect_as"), message).of(given.shown(), given.origin.clone())
            }
            None => Problem::new(format!("kinds.{kind}.collect"), message),
        };
        if other != kind && kinds.get(other).is_some_and(|policy| policy.collect.is_some()) {
            let message = format!("kind {other} collects, too: what is a digest is not gathered again");
            reader.problems.push(problem(message).hint("name a kind that does not collect, or leave it out"));
        } else if !directory.join(other).is_dir() {
            let names = names(directory);
            let hint = match nearest(other, names.iter().map(String::as_str)) {
                Some(near) if near != other => format!("did you mean {near}?"),
                _ => format!("make it: {other}/subject.txt and {other}/body.txt, of items and count"),
            };
            reader.problems.push(problem(format!("there is no template {other}")).hint(hint));
        }
    }
}

/// Of the kinds that have templates.
fn names(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter(|entry| entry.path().is_dir()).filter_map(|entry| entry.file_name().into_string().ok()).collect()
}
