//! Reading the configuration again while the relay runs (SIGHUP): all of it, file, environment, templates and secrets,
//! and all of it is checked before any of it is used. What is bad is named, and changes nothing.
//!
//! This module must not: put a value that is refused into the log; it may be an address.

use std::sync::Arc;

use hapax_render::Renderer;

use crate::{
    config::{self, Inputs, Loaded, Log, Problem, Settings},
    failure::Refusal,
    run,
};

/// A configuration that can be run.
pub(crate) struct Candidate {
    pub(crate) settings: Box<Settings>,
    pub(crate) renderer: Arc<Renderer>,
    pub(crate) warnings: Vec<Problem>,
}

/// How this process was configured, and is again.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    inputs: Inputs,
}

impl Source {
    /// The same inputs; the file that was found at the start is the one from then on.
    pub(crate) fn new(mut inputs: Inputs, loaded: &Loaded) -> Self {
        inputs.file = loaded.file.clone().or(inputs.file);
        Self { inputs }
    }

    /// Reads and checks everything, on a thread of its own: a disk or a template may take long.
    pub(crate) fn read(&self) -> tokio::task::JoinHandle<Result<Candidate, String>> {
        let inputs = self.inputs.clone();
        tokio::task::spawn_blocking(move || {
            let loaded = config::load(&inputs);
            if !loaded.problems.is_empty() {
                return Err(said(&loaded.problems));
            }
            Candidate::of(loaded).map_err(|refusal| refusal.to_string())
        })
    }
}

impl Candidate {
    /// # Errors
    /// Every problem of the configuration, or of its templates.
    pub(crate) fn of(loaded: Loaded) -> Result<Self, Refusal> {
        let loaded = loaded.complete()?;
        let renderer = Arc::new(run::renderer(&loaded.settings)?);
        Ok(Self { settings: Box::new(loaded.settings), renderer, warnings: loaded.warnings })
    }

    /// Says what has no effect, or more of one than might be expected.
    pub(crate) fn warn(&self) {
        for warning in &self.warnings {
            tracing::warn!(key = warning.path, "configuration: {warning}");
        }
    }

    /// Keeps of `now` what cannot change while the relay runs; answers the keys that differ.
    pub(crate) fn keep_what_needs_a_restart(&mut self, now: &Settings) -> Vec<&'static str> {
        let mut keys = Vec::new();
        let database = &mut self.settings.database;
        if database.url != now.database.url {
            database.url.clone_from(&now.database.url);
            keys.push("database.url");
        }
        keys.extend(self.keep_what_the_process_has(now));
        keys
    }

    /// As [`Candidate::keep_what_needs_a_restart`], before a database was reached.
    pub(crate) fn keep_what_the_process_has(&mut self, now: &Settings) -> Vec<&'static str> {
        let differ = [
            ("log.format", self.settings.log.format != now.log.format),
            ("http.listen", self.settings.http != now.http),
        ];
        self.settings.log = Log { format: now.log.format, ..self.settings.log };
        self.settings.http = now.http;
        differ.into_iter().filter(|(_, differs)| *differs).map(|(key, _)| key).collect()
    }
}

/// Says which keys have changed without effect.
pub(crate) fn name_what_needs_a_restart(keys: &[&str]) {
    for key in keys {
        tracing::warn!(key, "this key has changed, but needs a restart: it stays as it was (hint: restart hapax)");
    }
}

/// All problems in one line.
fn said(problems: &[Problem]) -> String {
    problems.iter().map(without_value).collect::<Vec<_>>().join("; ")
}

fn without_value(problem: &Problem) -> String {
    Problem { value: None, ..problem.clone() }.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Format;

    fn candidate(text: &str) -> (Candidate, Source, tempfile::TempDir) {
        run::install_crypto();
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("hapax.toml");
        std::fs::write(&file, text).expect("written");
        let inputs = Inputs { search: vec![file], ..Inputs::default() };
        let loaded = config::load(&inputs);
        let source = Source::new(inputs, &loaded);
        (Candidate::of(loaded).expect("a good configuration"), source, directory)
    }

    const GOOD: &str = "[database]\nurl = \"postgres://relay@db/shop\"\n[log]\nformat = \"json\"\n\
        [routes.default]\nurl = \"smtp://mail.example.com\"\nfrom = \"Shop <CANARY@example.org>\"\n";

    #[test]
    fn what_needs_a_restart_is_named_and_keeps_its_value_and_the_rest_is_new() {
        let (now, ..) = candidate(GOOD);
        let next = GOOD
            .replace("@db/", "@other/")
            .replace("json\"", "pretty\"\n[http]\nlisten = \"[::1]:9464\"")
            .replace("CANARY", "new");
        let (mut next, ..) = candidate(&next);
        assert_eq!(next.keep_what_needs_a_restart(&now.settings), ["database.url", "log.format", "http.listen"]);
        assert_eq!(
            (next.settings.database.url.as_str(), next.settings.log.format),
            ("postgres://relay@db/shop", Format::Json)
        );
        assert_eq!(next.settings.routes[0].from, "Shop <new@example.org>");
        assert!(next.keep_what_needs_a_restart(&now.settings).is_empty());
    }

    #[tokio::test]
    async fn every_problem_is_named_without_its_value_and_the_file_of_the_start_must_still_be_there() {
        let (_, source, directory) = candidate(GOOD);
        let bad = "[relay]\nleese = \"1s\"\n[guards]\nredirect_all_to = \"CANARY @example.org\"\n";
        std::fs::write(directory.path().join("hapax.toml"), format!("{GOOD}{bad}")).expect("written");
        let said = source.read().await.expect("no panic").map(drop).expect_err("problems");
        assert!(said.contains("relay.leese: unknown key") && said.contains("; guards.redirect_all_to: "), "{said}");
        assert!(!said.contains("CANARY"), "{said}");
        std::fs::remove_file(directory.path().join("hapax.toml")).expect("removed");
        let said = source.read().await.expect("no panic").map(drop).expect_err("a problem");
        assert!(said.contains("hapax.toml: cannot be read"), "{said}");
    }
}
