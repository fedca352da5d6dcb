//! Kinds whose notifications go in one message: `collect`, `collect_max`, `collect_as`.
//!
//! What could not be rendered, or would be gathered twice, is refused.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    time::Duration,
};

use hapax_core::{OnDoubt, Priority};
use hapax_relay::{Collecting, KindPolicy};

use super::{
    duration::format,
    nearest::nearest,
    origin::{Origin, Problem},
    reader::{Reader, Section},
};

const SHORTEST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(7 * 24 * 3600);

/// How a kind collects, whose notifications expire after so long; and whether `collect_as` was given.
pub(super) fn read(
    section: &mut Section<'_>,
    expires_after: Option<Duration>,
    templates: Option<&Path>,
) -> (Option<Collecting>, bool) {
    let within = section.duration_maybe("collect", SHORTEST..=LONGEST);
    let max = section.number("collect_max", 50_i32, 2..=1_000, "a whole number");
    let path = section.path("collect_max");
    let max_given =
        section.reader.shown.iter().any(|shown| shown.path == path && !matches!(shown.origin, Origin::Default));
    let as_kind = section.take("collect_as");
    section.show("collect_as", as_kind.as_ref(), None);
    let Some(within) = within else {
        let hint = format!("set {} = \"15m\", or leave it out", section.path("collect"));
        for (key, given) in [("collect_max", max_given), ("collect_as", as_kind.is_some())] {
            if given && !section.has_problem("collect") {
                let problem = Problem::new(section.path(key), "changes nothing: there is no collect");
                section.reader.warnings.push(problem.hint(hint.clone()));
            }
        }
        return (None, false);
    };
    let path = section.path("collect");
    if templates.is_none() {
        let problem = section.reader.of(&path, "there are no templates: a digest is made by one, from payloads");
        section.reader.problems.push(problem.hint("set templates.directory, or leave collect out"));
    }
    if let Some(expires) = expires_after.filter(|expires| *expires <= within) {
        let message =
            format!("is {}, and expires_after {}: all of it would expire unsent", format(within), format(expires));
        let problem = section.reader.of(&path, message);
        section.reader.problems.push(problem.hint("make expires_after longer, or collect shorter"));
    }
    let as_kind = as_kind.filter(|given| {
        let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_.-".contains(&byte);
        let name = &given.text;
        let is_kind = name.starts_with(|first: char| first.is_ascii_lowercase()) && name.bytes().all(fits);
        if !is_kind || name.len() > 63 {
            let problem = Problem::new(section.path("collect_as"), "is no name of a kind");
            let problem = problem.of(given.shown(), given.origin.clone());
            section.reader.problems.push(problem.hint("a-z, 0-9, _ . -, begins with a letter, up to 63 characters"));
        }
        is_kind
    });
    let name = as_kind.as_ref().map(|given| given.text.clone());
    (Some(Collecting { within, max, as_kind: name }), as_kind.is_some())
}

/// Whether each digest can be made, once all kinds are known.
pub(super) fn check(
    reader: &mut Reader,
    kinds: &BTreeMap<String, KindPolicy>,
    given: &BTreeSet<String>,
    templates: Option<&Path>,
    on_doubt_else: OnDoubt,
) {
    for (kind, policy) in kinds {
        if let Some(collect) = &policy.collect {
            check_policies(reader, kinds, kind, collect, on_doubt_else);
        }
    }
    let Some(directory) = templates.filter(|directory| directory.is_dir()) else { return };
    for (kind, policy) in kinds {
        let Some(collect) = &policy.collect else { continue };
        let other = collect.as_kind.as_ref().unwrap_or(kind);
        let key = if given.contains(kind) { "collect_as" } else { "collect" };
        let problem = |reader: &Reader, message: String| reader.of(&format!("kinds.{kind}.{key}"), message);
        if other != kind && kinds.get(other).is_some_and(|policy| policy.collect.is_some()) {
            let message = format!("kind {other} collects, too: what is a digest is not gathered again");
            let problem = problem(reader, message);
            reader.problems.push(problem.hint("name a kind that does not collect, or leave it out"));
        } else if !directory.join(other).is_dir() {
            let names = names(directory);
            let hint = match nearest(other, names.iter().map(String::as_str)) {
                Some(near) if near != other => format!("did you mean {near}?"),
                _ => format!("make it: {other}/subject.txt and {other}/body.txt, of items and count"),
            };
            let problem = problem(reader, format!("there is no template {other}"));
            reader.problems.push(problem.hint(hint));
        }
    }
}

/// A digest is decided on by its own kind: what that says must be what its members were promised.
fn check_policies(
    reader: &mut Reader,
    kinds: &BTreeMap<String, KindPolicy>,
    kind: &str,
    collect: &Collecting,
    on_doubt_else: OnDoubt,
) {
    let member = &kinds[kind];
    let path = format!("kinds.{kind}.collect");
    if member.priority == Some(Priority::Urgent) {
        let problem = reader.of(&path, "changes nothing: what is urgent goes by itself");
        reader.warnings.push(problem.hint(format!("leave it out, or set another kinds.{kind}.priority")));
    }
    let other = collect.as_kind.as_deref().unwrap_or(kind);
    let nothing = KindPolicy::default();
    let digest = kinds.get(other).unwrap_or(&nothing);
    let on_doubt = |policy: &KindPolicy| policy.on_doubt.unwrap_or(on_doubt_else).as_str();
    let (ours, theirs) = (on_doubt(member), on_doubt(digest));
    let mut differs = |key: &str, ours: &str, theirs: &str| {
        let message = format!("digests are of kind {other}, which has {key} = {theirs} where {kind} has {ours}");
        let hint = format!("a digest is decided on by its own kind: say the same for both in kinds.{other}.{key}");
        let problem = reader.of(&path, message);
        reader.problems.push(problem.hint(hint));
    };
    if ours != theirs {
        differs("on_doubt", ours, theirs);
    }
    if member.ignores_suppression != digest.ignores_suppression {
        let word = |policy: &KindPolicy| policy.ignores_suppression.to_string();
        differs("ignores_suppression", &word(member), &word(digest));
    }
    // The time of a digest begins when it is made: by then its first has waited for the whole window.
    let Some(most) = member.expires_after.and_then(|expires| expires.checked_sub(collect.within)) else { return };
    if most > Duration::ZERO && digest.expires_after.is_none_or(|expires| expires > most) {
        let message = format!("what is gathered could be sent after kinds.{kind}.expires_after");
        let hint = match collect.as_kind.as_deref().filter(|other| *other != kind) {
            Some(other) => format!("set kinds.{other}.expires_after to {} or less", format(most)),
            None => {
                format!("give digests a kind of their own, collect_as, with expires_after of {} or less", format(most))
            }
        };
        let problem = reader.of(&path, message);
        reader.problems.push(problem.hint(hint));
    }
}

/// Of the kinds that have templates.
fn names(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter(|entry| entry.path().is_dir()).filter_map(|entry| entry.file_name().into_string().ok()).collect()
}
