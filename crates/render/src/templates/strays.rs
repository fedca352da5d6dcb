//! Files in a kind's folder that nobody uses: most are a name with a slip in it, and their author waits for their effect.
//!
//! Invariant: nothing here is an error, and what another tool or an editor leaves behind is not told.

use std::collections::BTreeSet;

use crate::{
    error::{Problem, quoted},
    kind::{KIND_FILE, distance},
    source::{Files, extension, image_type},
    templates::locale,
};

/// The names that mean something.
const KNOWN: [&str; 7] = ["subject.txt", "body.txt", "body.html", "body.mjml", "sample.json", "schema.json", KIND_FILE];
/// How many letters may be wrong in a name that is still meant to be another.
const SLIPS_MAX: usize = 2;

/// All of them, by name. `strays` were not even read.
pub(super) fn warnings(files: &Files, strays: &[String]) -> Vec<Problem> {
    let sources: Vec<&str> =
        files.iter().filter(|(name, _)| is_source(name)).filter_map(|(_, bytes)| text(bytes)).collect();
    let mut warnings: Vec<Problem> = strays.iter().filter_map(|name| stray(name)).collect();
    // `cid:{{ name }}` may show any of them.
    let any_image = sources.iter().any(|source| source.contains("cid:{"));
    for name in files.keys() {
        let Some((_, file)) = name.split_once('/') else { continue };
        if image_type(name).is_some() {
            let shows = |source: &&str| source.contains(&format!("cid:{file}"));
            if !any_image && !sources.iter().any(shows) {
                let what = format!("no template shows it: <img src=\"cid:{file}\"> does");
                warnings.push(Problem::new(name, None, what));
            }
        } else if !name.starts_with('_') && !means_something(file) {
            let own = file.rsplit('/').next().unwrap_or(file);
            // A piece that a template includes.
            if !(is_source(name) && sources.iter().any(|source| source.contains(own))) {
                warnings.push(unused(name, own));
            }
        }
    }
    warnings.sort_by(|a, b| a.file.cmp(&b.file));
    warnings
}

fn is_source(name: &str) -> bool {
    matches!(extension(name), "txt" | "html" | "mjml" | "toml")
}

fn text(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes).ok()
}

/// Whether the catalog takes it, or refuses it with a better reason.
fn means_something(file: &str) -> bool {
    let sample = file.strip_prefix("sample.").is_some_and(|rest| rest.ends_with("json"));
    sample || file == "schema.json" || extension(file) == "toml" || locale::parse(file).is_some()
}

/// A file of a kind that was not read; those of the shared folders may be for other tools.
fn stray(name: &str) -> Option<Problem> {
    let (kind, file) = name.split_once('/')?;
    (!kind.starts_with('_')).then(|| unused(name, file.rsplit('/').next().unwrap_or(file)))
}

fn unused(name: &str, file: &str) -> Problem {
    let what = match nearest(file) {
        Some(near) => format!("it has no effect: did you mean {near}?"),
        None if is_source(name) => "it has no effect: no template mentions it".to_owned(),
        None => format!("it has no effect: {} is no name of a kind's file, and no image", quoted(file)),
    };
    Problem::new(name, None, what)
}

/// The known name it was probably meant to be, with its own locale or sample name in the middle.
fn nearest(file: &str) -> Option<String> {
    let pieces: Vec<&str> = file.split('.').collect();
    let (plain, middle) = match pieces[..] {
        [stem, middle, extension] => (format!("{stem}.{extension}"), Some(middle)),
        _ => (file.to_owned(), None),
    };
    let named: BTreeSet<(usize, &str)> =
        KNOWN.iter().map(|known| (distance(&plain.to_ascii_lowercase(), known), *known)).collect();
    let (slips, known) = named.first().copied()?;
    if slips > SLIPS_MAX {
        return None;
    }
    match (middle, known.split_once('.')) {
        (Some(middle), Some((stem, extension))) if stem != "schema" && known != KIND_FILE => {
            Some(format!("{stem}.{middle}.{extension}"))
        }
        _ => Some(known.to_owned()),
    }
}
