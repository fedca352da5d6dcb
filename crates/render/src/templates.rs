//! Templates: one directory per kind with `subject.txt` and `body.txt` and / or `body.html`, shared pieces under
//! `_layouts/`. Everything is read, compiled and checked once; rendering never touches the disk.
//!
//! Invariants: a template sees the payload and nothing else (no clock, no chance, no files), so the same payload gives
//! the same text at every attempt. An undefined key is an error. HTML is escaped. Work, memory and output are bounded.
//! Error texts show the template's own source at most, never a value.

mod catalog;
mod check;
mod environment;
mod leave;
mod locale;

use std::{borrow::Cow, collections::BTreeMap};

use minijinja::{Environment, ErrorKind, Value};

use self::{
    catalog::{Catalog, Entry},
    environment::Bounded,
};
use crate::{
    Options,
    error::{Error, Problem, quoted},
    kind::Kind,
    source::{self, Files, Source},
    unsubscribe::UnsubscribeKey,
};

/// What a notification says: its own texts, or what a payload became.
pub(crate) struct Texts<'a> {
    pub(crate) subject: Cow<'a, str>,
    pub(crate) text: Option<Cow<'a, str>>,
    pub(crate) html: Option<Cow<'a, str>>,
    /// Header fields of the kind's own, checked.
    pub(crate) fields: Vec<(&'static str, String)>,
}

/// All templates, compiled.
pub(crate) struct Library {
    environment: Environment<'static>,
    kinds: BTreeMap<String, Entry>,
    /// Where they come from, for errors; `None` when there are none by configuration.
    place: Option<String>,
    output_bytes_max: usize,
    unsubscribe_key: Option<UnsubscribeKey>,
}

impl Library {
    pub(crate) fn load(options: &Options) -> Result<Self, Error> {
        let mut problems = Vec::new();
        let (place, files) = match &options.templates.0 {
            Source::None => (None, Files::new()),
            Source::Directory(root) => (Some(root.display().to_string()), source::read(root, &mut problems)),
            Source::Memory(files) => (Some("memory".to_owned()), files.clone()),
        };
        let Catalog { kinds, templates } = Catalog::new(&files, &mut problems);
        let mut environment = environment::environment(options);
        for (name, text) in templates {
            if let Err(error) = environment.add_template_owned(name.clone(), text) {
                let what = match error.detail() {
                    Some(detail) => format!("{}: {detail}", error.kind()),
                    None => error.kind().to_string(),
                };
                problems.push(Problem::new(name, error.line(), what));
            }
        }
        leave::compile(&mut environment, &kinds, options, &mut problems);
        if let Some(place) = place.as_ref().filter(|_| !problems.is_empty()) {
            problems.sort_by(|a, b| (&a.file, a.line).cmp(&(&b.file, b.line)));
            return Err(Error::Templates { place: place.clone(), problems });
        }
        Ok(Self {
            environment,
            kinds,
            place,
            output_bytes_max: options.template_output_bytes_max,
            unsubscribe_key: options.unsubscribe_key.clone(),
        })
    }

    /// The kinds, by name.
    pub(crate) fn kinds(&self) -> impl Iterator<Item = Kind> {
        self.kinds.iter().map(|(name, entry)| entry.describe(name))
    }

    /// The sample of that name; the empty one is `sample.json`.
    pub(crate) fn sample(&self, kind: &str, name: &str) -> Option<&str> {
        self.kinds.get(kind)?.samples.get(name).map(String::as_str)
    }

    /// Renders the kind's templates with the payload's keys, and `kind`, `message_id` and `locale` (which win over keys
    /// of the same name).
    pub(crate) fn render(
        &self,
        kind: &str,
        message_id: &str,
        payload: &str,
        locale: Option<&str>,
        recipient: &str,
    ) -> Result<Texts<'static>, Error> {
        let Some(place) = &self.place else {
            return Err(Error::NoTemplates { kind: quoted(kind) });
        };
        let Some(entry) = self.kinds.get(kind) else {
            let directory = format!("{place}/{}/", quoted(kind).trim_matches('"'));
            return Err(Error::NoKind { kind: quoted(kind), place: place.clone(), directory });
        };
        let (files, locale) = entry.locales.choose(locale);
        let leave = self.leave(kind, message_id, &locale, payload, recipient)?;
        let about = leave.as_ref().map(|leave| [("recipient", recipient), ("unsubscribe_url", leave.url.as_str())]);
        let context = context(kind, message_id, &locale, payload, about.as_ref().map_or(&[], |about| &about[..]))?;
        let subject = self.file(&files.subject, &context)?.trim().to_owned();
        let refuse = |what| Err(Error::Template(Problem::new(&files.subject, None, what)));
        if subject.contains(['\r', '\n']) {
            return refuse("a subject is one line");
        }
        if subject.chars().any(|c| c.is_control() && c != '\t') {
            return refuse("a control character in a subject");
        }
        let text = files.text.as_ref().map(|name| self.file(name, &context)).transpose()?;
        let html = files.html.as_ref().map(|name| self.file(name, &context)).transpose()?;
        Ok(Texts {
            subject: subject.into(),
            text: text.map(Cow::Owned),
            html: html.map(Cow::Owned),
            fields: leave.unwrap_or_default().fields,
        })
    }

    /// The text of one template.
    fn file(&self, name: &str, context: &Value) -> Result<String, Error> {
        let missing = |_| Error::Template(Problem::new(name, None, "missing"));
        let template = self.environment.get_template(name).map_err(missing)?;
        let mut output = Bounded { bytes: Vec::new(), bytes_max: self.output_bytes_max, exceeded: false };
        let result = template.render_captured_to(context.clone(), &mut output).map(drop);
        if output.exceeded {
            let what = format!("more than {} bytes of output", self.output_bytes_max);
            return Err(Error::Template(Problem::new(name, None, what)));
        }
        result.map_err(|error| Error::Template(self.explain(name, &error)))?;
        Ok(String::from_utf8(output.bytes)
            .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned()))
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

fn context(kind: &str, message_id: &str, locale: &str, payload: &str, reader: &[(&str, &str)]) -> Result<Value, Error> {
    let json: serde_json::Value = serde_json::from_str(payload).map_err(|error| {
        // Only the position: serde_json's own text may quote the payload.
        Error::Payload(format!("is not JSON: line {}, column {}", error.line(), error.column()))
    })?;
    let serde_json::Value::Object(object) = json else {
        return Err(Error::Payload("is not a JSON object, whose keys a template could use".to_owned()));
    };
    let own = [("kind", kind), ("message_id", message_id), ("locale", locale)];
    let own = own.iter().chain(reader).map(|(key, text)| (Value::from(*key), Value::from(*text)));
    Ok(Value::from_pairs(object.into_iter().map(|(key, json)| (Value::from(key), value(json))).chain(own)))
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
