//! Templates: one directory per kind with `subject.txt` and `body.txt` and / or `body.html`, shared pieces under
//! `_layouts/`. Everything is read, compiled and checked once; rendering never touches the disk.
//!
//! Invariants: a template sees the payload and nothing else (no clock, no chance, no files), so the same payload gives
//! the same text at every attempt. An undefined key is an error. HTML is escaped. Work, memory and output are bounded.
//! Error texts show the template's own source at most, never a value.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    io,
};

use minijinja::{AutoEscape, Environment, ErrorKind, UndefinedBehavior, Value, syntax::SyntaxConfig};

use crate::{
    Options,
    error::{Error, Problem, quoted},
    source::{self, Source},
};

const SUBJECT: &str = "subject.txt";
const TEXT: &str = "body.txt";
const HTML: &str = "body.html";

/// What a notification says: its own texts, or what a payload became.
pub(crate) struct Texts<'a> {
    pub(crate) subject: Cow<'a, str>,
    pub(crate) text: Option<Cow<'a, str>>,
    pub(crate) html: Option<Cow<'a, str>>,
}

/// All templates, compiled.
pub(crate) struct Library {
    environment: Environment<'static>,
    kinds: BTreeSet<String>,
    /// Where they come from, for errors; `None` when there are none by configuration.
    place: Option<String>,
    output_bytes_max: usize,
}

impl Library {
    pub(crate) fn load(options: &Options) -> Result<Self, Error> {
        let mut problems = Vec::new();
        let (place, files) = match &options.templates.0 {
            Source::None => (None, BTreeMap::new()),
            Source::Directory(root) => (Some(root.display().to_string()), source::read(root, &mut problems)),
            Source::Memory(files) => (Some("memory".to_owned()), files.clone()),
        };
        let kinds = complete_kinds(&files, &mut problems);
        let mut environment = environment(options);
        for (name, text) in files {
            if let Err(error) = environment.add_template_owned(name.clone(), text) {
                let what = match error.detail() {
                    Some(detail) => format!("{}: {detail}", error.kind()),
                    None => error.kind().to_string(),
                };
                problems.push(Problem::new(name, error.line(), what));
            }
        }
        if let Some(place) = place.as_ref().filter(|_| !problems.is_empty()) {
            problems.sort_by(|a, b| (&a.file, a.line).cmp(&(&b.file, b.line)));
            return Err(Error::Templates { place: place.clone(), problems });
        }
        Ok(Self { environment, kinds, place, output_bytes_max: options.template_output_bytes_max })
    }

    /// Renders the kind's templates with the payload's keys, and `kind` and `message_id` (which win over keys of the
    /// same name).
    pub(crate) fn render(&self, kind: &str, message_id: &str, payload: &str) -> Result<Texts<'static>, Error> {
        let Some(place) = &self.place else {
            return Err(Error::NoTemplates { kind: quoted(kind) });
        };
        if !self.kinds.contains(kind) {
            let directory = format!("{place}/{}/", quoted(kind).trim_matches('"'));
            return Err(Error::NoKind { kind: quoted(kind), place: place.clone(), directory });
        }
        let context = context(kind, message_id, payload)?;
        let subject_file = format!("{kind}/{SUBJECT}");
        let subject = self.file(&subject_file, &context)?.unwrap_or_default().trim().to_owned();
        if subject.contains(['\r', '\n']) {
            return Err(Error::Template(Problem::new(subject_file, None, "a subject is one line")));
        }
        if subject.chars().any(|c| c.is_control() && c != '\t') {
            return Err(Error::Template(Problem::new(subject_file, None, "a control character in a subject")));
        }
        let text = self.file(&format!("{kind}/{TEXT}"), &context)?;
        let html = self.file(&format!("{kind}/{HTML}"), &context)?;
        Ok(Texts { subject: subject.into(), text: text.map(Cow::Owned), html: html.map(Cow::Owned) })
    }

    /// The text of one template; `None` when the kind does not have it.
    fn file(&self, name: &str, context: &Value) -> Result<Option<String>, Error> {
        let Ok(template) = self.environment.get_template(name) else {
            return Ok(None);
        };
        let mut output = Bounded { bytes: Vec::new(), bytes_max: self.output_bytes_max, exceeded: false };
        let result = template.render_captured_to(context.clone(), &mut output).map(drop);
        if output.exceeded {
            let what = format!("more than {} bytes of output", self.output_bytes_max);
            return Err(Error::Template(Problem::new(name, None, what)));
        }
        result.map_err(|error| Error::Template(self.explain(name, &error)))?;
        Ok(Some(String::from_utf8_lossy(&output.bytes).into_owned()))
    }

    /// File, line and reason of the innermost error. minijinja's details may quote values, so only those that speak of
    /// the template's own text are repeated; for the rest the failing expression is shown as it stands in the source.
    fn explain(&self, name: &str, outermost: &minijinja::Error) -> Problem {
        let mut error = outermost;
        while let Some(inner) = std::error::Error::source(error).and_then(|source| source.downcast_ref()) {
            error = inner;
        }
        let file = error.name().unwrap_or(name);
        let detail = error.detail().map(str::to_owned).filter(|_| {
            matches!(
                error.kind(),
                ErrorKind::UndefinedError
                    | ErrorKind::SyntaxError
                    | ErrorKind::UnknownFilter
                    | ErrorKind::UnknownTest
                    | ErrorKind::UnknownFunction
                    | ErrorKind::UnknownBlock
            )
        });
        let source = self.environment.get_template(file).ok();
        let expression = source.as_ref().and_then(|template| template.source().get(error.range()?));
        let what = match (error.kind(), detail, expression) {
            (ErrorKind::OutOfFuel, ..) => "too much work: an endless loop, or the fuel limit is too low".to_owned(),
            (ErrorKind::UndefinedError, Some(detail), _) => detail,
            (kind, Some(detail), _) => format!("{kind}: {detail}"),
            (kind, None, Some(expression)) => format!("{kind} in `{}`", expression.trim()),
            (kind, None, None) => kind.to_string(),
        };
        Problem::new(file, error.line(), what)
    }
}

/// The kinds that have all they need; what is missing becomes a problem. Top-level names that begin with `_` are shared.
fn complete_kinds(files: &BTreeMap<String, String>, problems: &mut Vec<Problem>) -> BTreeSet<String> {
    let kinds: BTreeSet<String> = files
        .keys()
        .filter_map(|name| name.split_once('/'))
        .map(|(kind, _)| kind.to_owned())
        .filter(|kind| !kind.starts_with('_'))
        .collect();
    for kind in &kinds {
        let has = |file: &str| files.contains_key(&format!("{kind}/{file}"));
        if !has(SUBJECT) {
            problems.push(Problem::new(format!("{kind}/{SUBJECT}"), None, "missing: every kind needs a subject"));
        }
        if !has(TEXT) && !has(HTML) {
            problems.push(Problem::new(format!("{kind}/"), None, "missing: body.txt or body.html"));
        }
    }
    kinds
}

fn environment(options: &Options) -> Environment<'static> {
    let mut environment = Environment::new();
    // So that an error names the key that was missing. The error then also carries a copy of the payload: it is dropped
    // in `explain`, never kept or shown.
    environment.set_debug(true);
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_fuel(Some(options.template_fuel_max));
    environment.set_auto_escape_callback(|name| match name.ends_with(".txt") {
        true => AutoEscape::None,
        false => AutoEscape::Html,
    });
    environment.set_path_join_callback(resolve);
    // It prints the whole context, with everything the payload holds.
    environment.remove_global("debug");
    // A line that holds only a block tag leaves no trace in a plain text.
    if let Ok(syntax) = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build() {
        environment.set_syntax(syntax);
    }
    environment
}

/// Names are relative to the template directory; `./` and `../` to the including file. Only what was loaded can be
/// found, so no name leads out of the directory; one that tries resolves to a name no template has.
fn resolve<'s>(name: &'s str, parent: &'s str) -> Cow<'s, str> {
    if !name.starts_with("./") && !name.starts_with("../") {
        return Cow::Borrowed(name);
    }
    let mut path: Vec<&str> = parent.split('/').collect();
    path.pop();
    for segment in name.split('/') {
        match segment {
            "." => {}
            ".." if path.pop().is_none() => return Cow::Borrowed(".."),
            ".." => {}
            segment => path.push(segment),
        }
    }
    Cow::Owned(path.join("/"))
}

fn context(kind: &str, message_id: &str, payload: &str) -> Result<Value, Error> {
    let json: serde_json::Value = serde_json::from_str(payload).map_err(|error| {
        // Only the position: serde_json's own text may quote the payload.
        Error::Payload(format!("is not JSON: line {}, column {}", error.line(), error.column()))
    })?;
    let serde_json::Value::Object(object) = json else {
        return Err(Error::Payload("is not a JSON object, whose keys a template could use".to_owned()));
    };
    let own = [("kind", kind), ("message_id", message_id)].map(|(key, text)| (key.to_owned(), Value::from(text)));
    Ok(Value::from_pairs(object.into_iter().map(|(key, json)| (key, value(json))).chain(own)))
}

fn value(json: serde_json::Value) -> Value {
    match json {
        serde_json::Value::Null => Value::from(()),
        serde_json::Value::Bool(bool) => Value::from(bool),
        serde_json::Value::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(signed), _) => Value::from(signed),
            (None, Some(unsigned)) => Value::from(unsigned),
            (None, None) => Value::from(number.as_f64().unwrap_or(f64::NAN)),
        },
        serde_json::Value::String(text) => Value::from(text),
        serde_json::Value::Array(items) => items.into_iter().map(value).collect(),
        serde_json::Value::Object(object) => Value::from_pairs(object.into_iter().map(|(k, v)| (k, value(v)))),
    }
}

/// Output that stops at a limit.
struct Bounded {
    bytes: Vec<u8>,
    bytes_max: usize,
    exceeded: bool,
}

impl io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.len() > self.bytes_max - self.bytes.len() {
            self.exceeded = true;
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
