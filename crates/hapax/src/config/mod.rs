//! The configuration: one TOML file, overridden by `HAPAX__SECTION__KEY`, overridden by flags.
//!
//! Everything is read to the end: all problems are listed at once, each with its path, its value, where the value came
//! from, and a hint. Invariant: no secret is ever in a problem, a shown value, or a `Debug` of the settings.

pub(crate) mod advice;
mod assemble;
mod attachments;
mod canary;
mod collect;
mod dkim;
pub(crate) mod duration;
mod envelope;
mod fallback;
mod guard_window;
mod guards;
mod layers;
mod mask;
mod nearest;
mod on_block;
mod origin;
mod quiet;
mod rate;
mod reader;
mod relations;
mod retention;
mod retry;
mod routes;
pub(crate) mod schema;
mod secrets;
mod settings;
mod strays;
mod suppression;
mod telemetry;
mod tenants;
#[cfg(test)]
mod tests;
mod warm_up;
mod weights;

use std::path::{Path, PathBuf};

pub(crate) use duration::parse as duration;
pub(crate) use layers::Inputs;
pub(crate) use mask::mask;
pub(crate) use nearest::nearest;
pub(crate) use origin::{Problem, Shown};
pub(crate) use settings::{Database, Format, Level, Log, Route, Settings, Way, host};
pub(crate) use telemetry::Telemetry;

use crate::failure::Refusal;

/// What was read, and what is wrong with it.
#[derive(Debug)]
pub(crate) struct Loaded {
    /// Typed; keys with problems have their defaults.
    pub(crate) settings: Settings,
    /// The file that was read.
    pub(crate) file: Option<PathBuf>,
    /// Whatever keeps the relay from running.
    pub(crate) problems: Vec<Problem>,
    /// Whatever has no effect, or more of one than might be expected.
    pub(crate) warnings: Vec<Problem>,
    /// Every value with its origin.
    pub(crate) shown: Vec<Shown>,
    /// Every key there is.
    keys: Vec<schema::Key>,
}

/// Reads, merges and checks.
pub(crate) fn load(inputs: &Inputs) -> Loaded {
    let layers = layers::merge(inputs);
    let unreadable = !layers.problems.is_empty();
    let mut reader = reader::Reader { problems: layers.problems, ..reader::Reader::default() };
    let credentials = inputs.variables.get("CREDENTIALS_DIRECTORY").filter(|path| !path.is_empty()).map(Path::new);
    let before = reader.problems.len();
    let settings = assemble::assemble(&mut reader, layers.root, credentials);
    relations::check(&mut reader, &settings);
    fallback::check(&mut reader, &settings.routes);
    retry::check(&mut reader, &settings);
    retention::check(&mut reader, &settings.retention, &settings.kinds);
    weights::check(&mut reader, &settings.routes);
    strays::check(&mut reader, inputs);
    if unreadable {
        // What is "missing" may well stand in the file that could not be read.
        reader.problems.truncate(before);
    }
    let reader::Reader { problems, warnings, shown, keys, files: _ } = reader;
    Loaded { settings, file: layers.file, problems, warnings, shown, keys }
}

impl Loaded {
    /// The settings, if nothing is wrong with them.
    ///
    /// # Errors
    /// Every problem at once, exit code 78.
    pub(crate) fn complete(self) -> Result<Self, Refusal> {
        if self.problems.is_empty() { Ok(self) } else { Err(Refusal::configuration(&self.problems)) }
    }

    /// The settings, for commands that ask no database.
    ///
    /// # Errors
    /// Every problem but those of the section `database`.
    pub(crate) fn without_database(mut self) -> Result<Self, Refusal> {
        self.problems.retain(|problem| problem.path != "database" && !problem.path.starts_with("database."));
        self.complete()
    }

    /// The database's part, for commands that need nothing else.
    ///
    /// # Errors
    /// Every problem of the sections `database` and `log`, and of the file as a whole.
    pub(crate) fn database(self) -> Result<Database, Refusal> {
        let others = [
            "relay",
            "retry",
            "guards",
            "suppression",
            "retention",
            "templates",
            "attachments",
            "dkim",
            "routes",
            "kinds",
            "tenants",
            "senders",
            "canary",
            "http",
            "telemetry",
        ];
        let section = |problem: &Problem| problem.path.split('.').next().unwrap_or_default().to_owned();
        let concerned: Vec<Problem> =
            self.problems.into_iter().filter(|problem| !others.contains(&section(problem).as_str())).collect();
        if concerned.is_empty() { Ok(self.settings.database) } else { Err(Refusal::configuration(&concerned)) }
    }
}
