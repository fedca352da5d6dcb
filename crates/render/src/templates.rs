//! Templates: one directory per kind with `subject.txt` and `body.txt` and / or `body.html`, shared pieces under
//! `_layouts/`. Everything is read, compiled and checked once; rendering never touches the disk.
//!
//! Invariants: a template sees the payload and nothing else (no clock, no chance, no files), so the same payload gives
//! the same text at every attempt. An undefined key is an error. HTML is escaped. Work, memory and output are bounded.
//! Error texts show the template's own source at most, never a value.

mod catalog;
mod check;
mod environment;
mod explain;
mod fields;
mod filters;
mod html;
mod images;
mod leave;
mod locale;
mod payload;
mod schema;
mod strays;

use std::{borrow::Cow, collections::BTreeMap};

use hapax_core::envelope::{Attachment, Notification};
use minijinja::{Environment, Value};

use self::{
    catalog::{Catalog, Entry},
    environment::Bounded,
    fields::Fields,
    filters::Scope,
    images::Images,
    payload::Payload,
};
use crate::{
    Options,
    error::{Error, Problem, quoted},
    kind::Kind,
    source::{self, Found, Source},
    unsubscribe::UnsubscribeKey,
};

/// What a notification says: its own texts, or what a payload became.
pub(crate) struct Texts<'a> {
    pub(crate) subject: Cow<'a, str>,
    pub(crate) text: Option<Cow<'a, str>>,
    pub(crate) html: Option<Cow<'a, str>>,
    /// Header fields of the kind's own, checked.
    pub(crate) fields: Vec<(&'static str, String)>,
    /// What the kind adds to the header.
    pub(crate) headers: Vec<(String, String)>,
    /// The images that the HTML shows.
    pub(crate) images: Vec<Attachment>,
}

/// All templates, compiled.
pub(crate) struct Library {
    environment: Environment<'static>,
    kinds: BTreeMap<String, Entry>,
    /// Where they come from, for errors; `None` when there are none by configuration.
    place: Option<String>,
    output_bytes_max: usize,
    unsubscribe_key: Option<UnsubscribeKey>,
    images: Images,
    /// What is wrong with what was read, by file and line. A kind with problems is not rendered.
    problems: Vec<Problem>,
    /// What its authors hardly meant.
    warnings: Vec<Problem>,
}

impl Library {
    /// Reads and compiles what is there. What is broken is left out, and is among the problems.
    pub(crate) fn load(options: &Options) -> Self {
        let mut problems = Vec::new();
        let (place, Found { files, strays }) = match &options.templates.0 {
            Source::None => (None, Found::default()),
            Source::Directory(root) => (Some(root.display().to_string()), source::read(root, &mut problems)),
            Source::Memory(files) => (Some("memory".to_owned()), Found { files: files.clone(), strays: Vec::new() }),
        };
        let warnings = strays::warnings(&files, &strays);
        let Catalog { mut kinds, templates } = Catalog::new(&files, &mut problems);
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
        for (kind, entry) in &mut kinds {
            if let Some(file) = &entry.file {
                entry.fields = Fields::compile(kind, file, &mut environment, &mut problems);
            }
        }
        problems.sort_by(|a, b| (&a.file, a.line).cmp(&(&b.file, b.line)));
        Self {
            environment,
            kinds,
            place,
            output_bytes_max: options.template_output_bytes_max,
            unsubscribe_key: options.unsubscribe_key.clone(),
            images: Images::new(files),
            problems,
            warnings,
        }
    }

    /// What keeps some of it from being used, if anything does.
    pub(crate) fn broken(&self) -> Result<(), Error> {
        self.refuse(self.problems.clone())
    }

    /// Everything that is wrong with what was read.
    pub(crate) fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// What its authors hardly meant.
    pub(crate) fn warnings(&self) -> &[Problem] {
        &self.warnings
    }

    fn refuse(&self, problems: Vec<Problem>) -> Result<(), Error> {
        match &self.place {
            Some(place) if !problems.is_empty() => Err(Error::Templates { place: place.clone(), problems }),
            _ => Ok(()),
        }
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
        notification: &Notification,
        payload: &str,
        sender_domain: &str,
        recipient: &str,
    ) -> Result<Texts<'static>, Error> {
        let kind = notification.kind.as_str();
        let Some(place) = &self.place else {
            return Err(Error::NoTemplates { kind: quoted(kind) });
        };
        let Some(entry) = self.kinds.get(kind) else {
            let directory = format!("{place}/{}/", quoted(kind).trim_matches('"'));
            return Err(Error::NoKind { kind: quoted(kind), place: place.clone(), directory });
        };
        self.refuse(self.problems.iter().filter(|problem| problem.is_of(kind)).cloned().collect())?;
        let mut payload = Payload::parse(payload)?;
        if let Some(schema) = &entry.schema {
            payload = payload.checked(schema)?;
        }
        let (files, locale) = entry.locales.choose(notification.locale.as_deref());
        let written = std::mem::take(&mut payload.written);
        let id = notification.id.to_string();
        let scope = Scope { locale: locale.clone().into_owned(), zone: entry.zone.clone(), written };
        filters::within(scope, || {
            let mut own = vec![("kind", kind), ("message_id", &id), ("locale", &locale)];
            let leave = match entry.file.as_ref().and_then(|file| file.unsubscribe.as_ref()) {
                Some(unsubscribe) => {
                    own.push(("recipient", recipient));
                    Some(self.leave(kind, unsubscribe, &payload.clone().context(&own), recipient)?)
                }
                None => None,
            };
            own.extend(leave.as_ref().map(|leave| ("unsubscribe_url", leave.url.as_str())));
            let context = payload.context(&own);
            let mut texts = self.texts(files, &context)?;
            texts.fields = leave.map(|leave| leave.fields).unwrap_or_default();
            if !entry.fields.is_empty() {
                let tenant = notification.tenant.as_deref();
                let render = |name: &str, context: &Value| self.file(name, context);
                texts.headers = entry.fields.render(&notification.headers, tenant, sender_domain, &context, render)?;
            }
            if let (Some(html), Some(file)) = (texts.html.take(), &files.html) {
                let own = &notification.attachments;
                let (html, images) = self.images.attach(kind, file, html.into_owned(), own).map_err(Error::Template)?;
                texts.html = Some(html.into());
                texts.images = images;
            }
            Ok(texts)
        })
    }

    /// Subject and bodies.
    fn texts(&self, files: &locale::Texts, context: &Value) -> Result<Texts<'static>, Error> {
        let subject = self.file(&files.subject, context)?.trim().to_owned();
        let refuse = |what| Err(Error::Template(Problem::new(&files.subject, None, what)));
        if subject.contains(['\r', '\n']) {
            return refuse("a subject is one line");
        }
        if subject.chars().any(|c| c.is_control() && c != '\t') {
            return refuse("a control character in a subject");
        }
        if subject.is_empty() {
            return refuse("it writes nothing: a message needs a subject");
        }
        let mut text = files.text.as_ref().map(|name| self.file(name, context)).transpose()?;
        let html = files.html.as_ref().map(|name| self.html(name, context)).transpose()?;
        if let (None, Some(html), Some(name)) = (&text, &html, &files.html) {
            text = Some(html::to_text(name, html)).transpose().map_err(Error::Template)?;
        }
        let (text, html) = (text.map(Cow::Owned), html.map(Cow::Owned));
        Ok(Texts { subject: subject.into(), text, html, fields: Vec::new(), headers: Vec::new(), images: Vec::new() })
    }

    /// The HTML of one template, or of its MJML.
    fn html(&self, name: &str, context: &Value) -> Result<String, Error> {
        let written = self.file(name, context)?;
        let html = if name.ends_with(".mjml") {
            let template = self.environment.get_template(name).ok();
            let source = template.as_ref().map_or("", |template| template.source());
            html::from_mjml(name, source, &written).map_err(Error::Template)?
        } else {
            match html::inlined(name, &written).map_err(Error::Template)? {
                Cow::Owned(inlined) => inlined,
                Cow::Borrowed(_) => written,
            }
        };
        if html.len() > self.output_bytes_max {
            return Err(Error::Template(self.too_long(name)));
        }
        Ok(html)
    }

    fn too_long(&self, name: &str) -> Problem {
        Problem::new(name, None, format!("more than {} bytes of output", self.output_bytes_max))
    }

    /// The text of one template.
    fn file(&self, name: &str, context: &Value) -> Result<String, Error> {
        let missing = |_| Error::Template(Problem::new(name, None, "missing"));
        let template = self.environment.get_template(name).map_err(missing)?;
        let mut output = Bounded { bytes: Vec::new(), bytes_max: self.output_bytes_max, exceeded: false };
        let result = template.render_captured_to(context.clone(), &mut output).map(drop);
        if output.exceeded {
            return Err(Error::Template(self.too_long(name)));
        }
        let explain = |error| explain::explain(&self.environment, &self.problems, name, &error);
        result.map_err(|error| Error::Template(explain(error)))?;
        Ok(String::from_utf8(output.bytes)
            .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned()))
    }
}
