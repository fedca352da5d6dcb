//! What lies in a template directory at one moment: its kinds, their locales and samples, and a renderer of those that
//! are not broken. Made anew when anything has changed.
//!
//! Invariant: nothing is ever written anywhere. A kind that cannot be loaded never keeps another from being shown.

use std::{
    collections::BTreeSet,
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
};

use hapax_render::{Error, Options, Problem, Renderer, Templates, UnsubscribeKey};
use serde::Serialize;
use uuid::Uuid;

use crate::sample::{self, Wish, is_plain};

/// Who gets what is shown.
pub(super) const READER: &str = "Ada Reader <ada.reader@example.org>";
/// The same for every message: what is shown changes only when a template or a payload does. The date is that of 1 January
/// 2026.
const ID: u128 = 0x0199_aa3e_6f0c_7d2e_9b6f_0d8f_3a1c_2b4d;
const CREATED_AT_US: i64 = 1_767_225_600_000_000;
/// Lines shown before and after one with an error.
const AROUND: usize = 4;

/// A directory at one moment.
pub(super) struct Catalog {
    directory: PathBuf,
    pub(super) from: String,
    pub(super) kinds: Vec<Kind>,
    /// Nothing where the templates make it panic.
    renderer: Option<Renderer>,
}

/// One kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Kind {
    pub(super) name: String,
    /// Besides the one without a name.
    pub(super) locales: Vec<String>,
    /// Names; the empty one is `sample.json`.
    pub(super) samples: Vec<String>,
    /// What goes wrong, in any locale with any sample.
    pub(super) failures: Vec<String>,
}

/// A problem with the lines around it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Explained {
    pub(super) file: String,
    pub(super) line: Option<usize>,
    pub(super) what: String,
    /// Line numbers and lines.
    pub(super) lines: Vec<(usize, String)>,
}

impl Catalog {
    /// Reads a directory, and renders everything in it once.
    pub(super) fn read(directory: &Path, from: &str) -> Self {
        let renderer = lenient(directory);
        let mut catalog = Self { directory: directory.to_owned(), from: from.to_owned(), kinds: Vec::new(), renderer };
        let names = entries(directory).into_iter().filter(|name| is_kind(directory, name));
        catalog.kinds = names.map(|name| catalog.kind(name)).collect();
        catalog
    }

    fn kind(&self, name: String) -> Kind {
        let (mut locales, mut samples) = (BTreeSet::new(), BTreeSet::new());
        for file in entries(&self.directory.join(&name)) {
            let parts: Vec<&str> = file.split('.').collect();
            match parts[..] {
                ["sample", "json"] => drop(samples.insert(String::new())),
                ["sample", name, "json"] => drop(samples.insert(name.to_owned())),
                ["subject" | "body", locale, "txt" | "html" | "mjml"] => drop(locales.insert(locale.to_owned())),
                _ => {}
            }
        }
        if let Some(known) = self.renderer.as_ref().and_then(|known| known.kinds().into_iter().find(|k| k.name == name))
        {
            (locales, samples) = (known.locales.into_iter().collect(), known.samples.into_iter().collect());
        }
        let mut kind = Kind {
            name,
            locales: locales.into_iter().collect(),
            samples: samples.into_iter().collect(),
            failures: Vec::new(),
        };
        kind.failures = self.failures(&kind);
        kind
    }

    /// Everything that goes wrong with a kind, each once.
    fn failures(&self, kind: &Kind) -> Vec<String> {
        let loaded = self.renderer.as_ref().filter(|known| known.kinds().iter().any(|known| known.name == kind.name));
        if let Some(renderer) = loaded.filter(|_| !kind.samples.is_empty()) {
            let checked = catch_unwind(AssertUnwindSafe(|| renderer.check_kind(&kind.name)));
            return checked.unwrap_or_default().iter().map(ToString::to_string).collect();
        }
        let mut failures = BTreeSet::new();
        let default = vec![String::new()];
        for sample in if kind.samples.is_empty() { &default } else { &kind.samples } {
            let payload = self.sample(&kind.name, sample);
            for locale in std::iter::once(None).chain(kind.locales.iter().cloned().map(Some)) {
                let wish = Wish { kind: kind.name.clone(), locale, payload: payload.clone(), to: READER.to_owned() };
                let problems = self.render(&wish).err().into_iter().flatten();
                failures.extend(problems.map(|problem| problem.to_string()));
            }
        }
        failures.into_iter().collect()
    }

    /// The text of a sample; an empty object when there is none.
    pub(super) fn sample(&self, kind: &str, name: &str) -> String {
        sample::read(&self.directory, kind, name).unwrap_or_else(|| "{}\n".to_owned())
    }

    /// The bytes of a message.
    ///
    /// # Errors
    /// What is wrong with the templates or the payload.
    pub(super) fn render(&self, wish: &Wish) -> Result<Vec<u8>, Vec<Problem>> {
        let failed = |what: String| vec![Problem { file: String::new(), line: None, what }];
        let panicked = || failed("the renderer panicked: please report this".to_owned());
        let Some(renderer) = &self.renderer else { return Err(panicked()) };
        let notification = wish.notification(Uuid::from_u128(ID), CREATED_AT_US);
        let rendered = catch_unwind(AssertUnwindSafe(|| renderer.render(&notification, &self.from, None)));
        match rendered {
            Ok(Ok(rendered)) => Ok(rendered.bytes),
            Ok(Err(Error::Templates { problems, .. })) => Err(problems),
            Ok(Err(Error::Template(problem))) => Err(vec![problem]),
            Ok(Err(other)) => Err(failed(crate::failure::chain(&other))),
            Err(_) => Err(panicked()),
        }
    }

    /// A problem with the source around it.
    pub(super) fn explain(&self, problem: &Problem) -> Explained {
        let inside = !problem.file.is_empty() && problem.file.split('/').all(is_plain);
        let text = inside.then(|| fs::read_to_string(self.directory.join(&problem.file)).ok()).flatten();
        let lines = match (text, problem.line) {
            (Some(text), Some(line)) => {
                let first = line.saturating_sub(AROUND).max(1);
                let lines = text.lines().enumerate().map(|(at, text)| (at + 1, text.to_owned()));
                lines.skip(first - 1).take(line + AROUND + 1 - first).collect()
            }
            _ => Vec::new(),
        };
        Explained { file: problem.file.clone(), line: problem.line, what: problem.what.clone(), lines }
    }
}

/// The names in a directory, sorted, without hidden ones.
fn entries(directory: &Path) -> Vec<String> {
    let read = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut names: Vec<String> =
        read.filter_map(|entry| entry.file_name().into_string().ok()).filter(|name| is_plain(name)).collect();
    names.sort();
    names
}

fn is_kind(directory: &Path, name: &str) -> bool {
    !name.starts_with('_') && directory.join(name).is_dir()
}

/// A renderer of everything that is not broken.
fn lenient(directory: &Path) -> Option<Renderer> {
    let unsubscribe_key = Some(UnsubscribeKey::for_show());
    let options = Options { templates: Templates::from_dir(directory), unsubscribe_key, ..Options::default() };
    catch_unwind(AssertUnwindSafe(|| Renderer::lenient(&options))).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory(files: &[(&str, &str)]) -> tempfile::TempDir {
        let directory = tempfile::tempdir().expect("a directory");
        for (name, text) in files {
            let path = directory.path().join(name);
            fs::create_dir_all(path.parent().expect("a parent")).expect("made");
            fs::write(path, text).expect("written");
        }
        directory
    }

    fn wish(kind: &str) -> Wish {
        Wish { kind: kind.to_owned(), locale: None, payload: "{\"name\":\"Ada\"}".to_owned(), to: READER.to_owned() }
    }

    #[test]
    fn kinds_come_with_their_locales_and_samples() {
        let files = [
            ("welcome/subject.txt", "Hi"),
            ("welcome/body.txt", "Hello"),
            ("welcome/sample.json", "{}"),
            ("welcome/sample.long.json", "{}"),
            ("_layouts/base.html", "x"),
        ];
        let directory = directory(&files);
        let catalog = Catalog::read(directory.path(), "shop@example.org");
        assert_eq!(catalog.kinds.len(), 1);
        let kind = &catalog.kinds[0];
        assert_eq!((kind.name.as_str(), &kind.samples), ("welcome", &vec![String::new(), "long".to_owned()]));
        assert_eq!(kind.failures, Vec::<String>::new());
    }

    #[test]
    fn one_broken_kind_leaves_the_others_usable_and_is_explained() {
        let files = [
            ("good/subject.txt", "Hi {{ name }}"),
            ("good/body.txt", "Hello"),
            ("bad/subject.txt", "Hi"),
            ("bad/body.txt", "one\ntwo {{ name\nthree\n"),
        ];
        let directory = directory(&files);
        let catalog = Catalog::read(directory.path(), "shop@example.org");
        let good = catalog.render(&wish("good")).expect("renders");
        assert!(String::from_utf8_lossy(&good).contains("Subject: Hi Ada"));
        let problems = catalog.render(&wish("bad")).expect_err("is broken");
        let explained = catalog.explain(&problems[0]);
        assert_eq!((explained.file.as_str(), explained.line.is_some()), ("bad/body.txt", true));
        assert!(explained.lines.iter().any(|(number, text)| (*number, text.as_str()) == (2, "two {{ name")));
        assert_eq!(catalog.kinds.iter().map(|kind| kind.failures.len()).collect::<Vec<_>>(), [1, 1]);
    }

    #[test]
    fn no_name_leads_out_of_the_directory() {
        let directory = directory(&[("outside/sample.json", "{\"secret\":1}"), ("in/welcome/subject.txt", "x")]);
        let catalog = Catalog::read(&directory.path().join("in"), "shop@example.org");
        assert_eq!(catalog.sample("../outside", ""), "{}\n");
        assert_eq!(catalog.sample("welcome", "x/../../../outside/sample"), "{}\n");
        let problem = Problem { file: "../outside/sample.json".to_owned(), line: Some(1), what: "x".to_owned() };
        assert_eq!(catalog.explain(&problem).lines, []);
    }
}
