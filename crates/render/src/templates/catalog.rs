//! Which kinds there are and what belongs to each, from the files that were read.
//!
//! Invariant: everything that is missing, misnamed or not UTF-8 is found here, before anything is rendered; all
//! problems at once.

use std::collections::BTreeMap;

use jiff::tz::TimeZone;

use crate::{
    error::{Problem, quoted},
    kind::{KIND_FILE, Kind, KindFile},
    source::{Files, extension},
    templates::{
        fields::Fields,
        locale::{self, Locales},
        schema::Schema,
    },
};

/// One kind, ready to render.
pub(super) struct Entry {
    pub(super) locales: Locales,
    /// `kind.toml`, where there is one.
    pub(super) file: Option<KindFile>,
    /// By name; `sample.json` is the empty one.
    pub(super) samples: BTreeMap<String, String>,
    pub(super) schema: Option<Schema>,
    /// For the date filters.
    pub(super) zone: Option<TimeZone>,
    /// The templates of `kind.toml`, once they are compiled.
    pub(super) fields: Fields,
}

/// What was read, sorted out.
pub(super) struct Catalog {
    pub(super) kinds: BTreeMap<String, Entry>,
    /// Names and sources.
    pub(super) templates: Vec<(String, String)>,
}

impl Entry {
    pub(super) fn describe(&self, name: &str) -> Kind {
        let file = self.file.as_ref();
        Kind {
            name: name.to_owned(),
            locales: self.locales.tags().map(str::to_owned).collect(),
            default_locale: file.and_then(|file| file.default_locale.as_ref()).map(|line| line.text.clone()),
            samples: self.samples.keys().cloned().collect(),
            has_schema: self.schema.is_some(),
            unsubscribe: file.is_some_and(|file| file.unsubscribe.is_some()),
            unsubscribe_url: file.and_then(|file| file.unsubscribe.as_ref()).is_some_and(|own| own.url.is_some()),
        }
    }
}

impl Catalog {
    /// Top-level names that begin with `_` are shared: they are no kinds.
    pub(super) fn new(files: &Files, problems: &mut Vec<Problem>) -> Self {
        let mut texts: BTreeMap<&str, &str> = BTreeMap::new();
        for (name, bytes) in files.iter().filter(|(name, _)| crate::source::image_type(name).is_none()) {
            match std::str::from_utf8(bytes) {
                Ok(text) => drop(texts.insert(name, text)),
                Err(_) => problems.push(Problem::new(name, None, "not UTF-8")),
            }
        }
        let mut names: Vec<&str> = files.keys().filter_map(|name| name.split_once('/')).map(|(kind, _)| kind).collect();
        names.dedup();
        let kinds = names.iter().filter(|name| !name.starts_with('_'));
        let kinds = kinds.map(|name| ((*name).to_owned(), entry(name, &texts, problems))).collect();
        let is_template = |name: &str| matches!(extension(name), "txt" | "html" | "mjml");
        let templates = texts.iter().filter(|(name, _)| is_template(name));
        Self { kinds, templates: templates.map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect() }
    }
}

fn entry(kind: &str, texts: &BTreeMap<&str, &str>, problems: &mut Vec<Problem>) -> Entry {
    let mut found = Vec::new();
    let mut samples = BTreeMap::new();
    let mut kind_file = None;
    let mut schema = None;
    let prefix = format!("{kind}/");
    let own = texts.range(prefix.as_str()..).take_while(|(name, _)| name.starts_with(&prefix));
    for (name, text) in own {
        let file = &name[prefix.len()..];
        match file {
            KIND_FILE => match KindFile::parse(name, text) {
                Ok(parsed) => kind_file = Some(check(name, parsed, problems)),
                Err(found) => problems.extend(found),
            },
            "schema.json" => match Schema::compile(name, text) {
                Ok(compiled) => schema = Some(compiled),
                Err(problem) => problems.push(problem),
            },
            file if extension(file) == "toml" => {
                problems.push(Problem::new(*name, None, format!("unknown: the settings of a kind are in {KIND_FILE}")));
            }
            file => {
                if let Some(sample) = sample_name(file) {
                    samples.insert(sample.to_owned(), (*text).to_owned());
                }
                match locale::parse(file) {
                    Some(Ok((part, tag, extension))) => found.push((part_of(part, extension), tag, (*name).to_owned())),
                    Some(Err(tag)) => {
                        let what = format!("{} is not a locale, such as de or pt-BR", quoted(tag));
                        problems.push(Problem::new(*name, None, what));
                    }
                    None => {}
                }
            }
        }
    }
    twice(&found, problems);
    let default_locale = kind_file.as_ref().and_then(|file: &KindFile| file.default_locale.as_ref());
    let locales = Locales::new(&found, default_locale.map(|line| line.text.as_str()), &mut |file, what| {
        problems.push(Problem::new(format!("{prefix}{file}"), None, what));
    });
    let zone = kind_file.as_ref().and_then(|file| file.timezone.as_ref());
    let zone = zone.and_then(|line| TimeZone::get(&line.text).ok());
    Entry { locales, file: kind_file, samples, schema, zone, fields: Fields::default() }
}

/// HTML is written as it is or as MJML: one of them.
fn part_of(part: &str, extension: &str) -> &'static str {
    match (part, extension) {
        ("subject", _) => "subject",
        (_, "txt") => "text",
        _ => "html",
    }
}

fn twice(found: &[(&'static str, Option<String>, String)], problems: &mut Vec<Problem>) {
    for (at, (part, tag, name)) in found.iter().enumerate() {
        if let Some((.., other)) = found[..at].iter().find(|(own, locale, _)| own == part && locale == tag) {
            problems.push(Problem::new(name, None, format!("the same part as {other}: keep one of them")));
        }
    }
}

/// `sample.json` is the empty name, `sample.NAME.json` is `NAME`.
fn sample_name(file: &str) -> Option<&str> {
    let name = file.strip_prefix("sample.")?.strip_suffix("json")?;
    Some(name.strip_suffix('.').unwrap_or(name))
}

/// The values of `kind.toml` that can be checked by themselves.
fn check(name: &str, mut file: KindFile, problems: &mut Vec<Problem>) -> KindFile {
    if let Some(line) = &mut file.default_locale {
        match locale::canonical(&line.text) {
            Some(tag) => line.text = tag,
            None => {
                let what = format!("default_locale {} is not a locale, such as de or pt-BR", quoted(&line.text));
                problems.push(Problem::new(name, Some(line.line), what));
            }
        }
    }
    if let Some(line) = file.timezone.as_ref().filter(|line| TimeZone::get(&line.text).is_err()) {
        let what = format!("timezone {} is unknown: write an IANA name such as Europe/Berlin", quoted(&line.text));
        problems.push(Problem::new(name, Some(line.line), what));
    }
    file
}
