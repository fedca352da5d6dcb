//! Reads sections key by key: each read says what the key is, and what is left over at the end is unknown.
//!
//! Nothing here stops at the first problem: a key that cannot be read is reported and its default goes on.

use std::{
    fmt::Display,
    ops::RangeInclusive,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use config::{Map, Value, ValueKind};

use super::{
    duration, layers,
    mask::mask,
    nearest::nearest,
    origin::{Origin, Problem, Shown},
    schema::{Key, Shape},
};

/// What has been found so far, over all sections.
#[derive(Debug, Default)]
pub(crate) struct Reader {
    pub(crate) problems: Vec<Problem>,
    pub(crate) warnings: Vec<Problem>,
    pub(crate) shown: Vec<Shown>,
    /// Files and directories by the path of their key.
    pub(crate) files: Vec<(String, PathBuf)>,
    pub(crate) keys: Vec<Key>,
}

/// A value that was given, as text.
#[derive(Clone, Debug)]
pub(crate) struct Given {
    pub(crate) text: String,
    pub(crate) origin: Origin,
    /// A text, not a number.
    pub(super) quoted: bool,
}

impl Given {
    fn unquoted(text: String, origin: &Origin) -> Self {
        Self { text, origin: origin.clone(), quoted: false }
    }

    /// As it stands in TOML, passwords masked.
    pub(crate) fn shown(&self) -> String {
        let masked = mask(&self.text);
        if self.quoted { format!("{masked:?}") } else { masked }
    }
}

/// One table of the configuration.
pub(crate) struct Section<'a> {
    pub(crate) reader: &'a mut Reader,
    path: String,
    table: Map<String, Value>,
    known: Vec<&'static str>,
    secret: Vec<&'static str>,
}

impl Reader {
    /// Takes the table at `key` out of `parent`; an empty one when it is not there.
    pub(crate) fn section<'a>(&'a mut self, parent: &mut Map<String, Value>, prefix: &str, key: &str) -> Section<'a> {
        let path = if prefix.is_empty() { key.to_owned() } else { format!("{prefix}.{key}") };
        let table = match parent.remove(key) {
            None => Map::new(),
            Some(Value { kind: ValueKind::Table(table), .. }) => table,
            Some(value) => {
                let origin = layers::origin(&value, &path);
                let problem = Problem::new(&path, "is a section, not a value").of("***", origin);
                self.problems.push(problem.hint(format!("write [{path}] and its keys below")));
                Map::new()
            }
        };
        Section { reader: self, path, table, known: Vec::new(), secret: Vec::new() }
    }

    /// A problem of what was read at `path`, with its value.
    pub(crate) fn of(&self, path: &str, message: impl Into<String>) -> Problem {
        let problem = Problem::new(path, message);
        match self.shown.iter().rev().find(|shown| shown.path == path) {
            Some(Shown { value: Some(value), origin, .. }) => problem.of(value.clone(), origin.clone()),
            _ => problem,
        }
    }

    /// Reports what was left over at the top.
    pub(crate) fn unknown_sections(&mut self, root: Map<String, Value>, known: &[&'static str]) {
        let mut left: Vec<_> = root.into_iter().collect();
        left.sort_by(|a, b| a.0.cmp(&b.0));
        for (key, value) in left {
            self.unknown(&key, &key, &value, known, "section");
        }
    }

    fn unknown(&mut self, path: &str, key: &str, value: &Value, known: &[&'static str], what: &str) {
        let is_table = matches!(value.kind, ValueKind::Table(_));
        let origin = origin_below(value, path);
        let shown = if is_table || looks_secret(key) { None } else { Some(show(value)) };
        let mut problem = Problem { origin: Some(origin), ..Problem::new(path, format!("unknown {what}")) };
        problem.value = shown;
        // [section.some] with key_file in it, where some_key_file is meant.
        let joined = match &value.kind {
            ValueKind::Table(table) => {
                let joined = |inner: &String| known.iter().find(|known| **known == format!("{key}_{inner}"));
                table.keys().find_map(joined).zip(path.rsplit_once('.'))
            }
            _ => None,
        };
        problem.hint = Some(match (joined, nearest(key, known.iter().copied())) {
            (Some((known, (section, _))), _) => format!("write {known} in [{section}]"),
            (None, Some(near)) => format!("did you mean {near}?"),
            (None, None) => format!("known here: {}", known.join(", ")),
        });
        self.problems.push(problem);
    }
}

/// A table made by one variable has no origin of its own: that of its first value.
fn origin_below(value: &Value, path: &str) -> Origin {
    if let ValueKind::Table(table) = &value.kind
        && let Some((key, inner)) = table.iter().min_by(|a, b| a.0.cmp(b.0))
    {
        return origin_below(inner, &format!("{path}.{key}"));
    }
    layers::origin(value, path)
}

fn duration_shape(range: &RangeInclusive<Duration>) -> Shape {
    Shape::Duration { least: duration::format(*range.start()), most: duration::format(*range.end()) }
}

fn looks_secret(key: &str) -> bool {
    let key = key.to_ascii_lowercase();
    ["pass", "pasw", "pw", "token", "secret", "key", "cred", "auth"].iter().any(|word| key.contains(word))
}

fn show(value: &Value) -> String {
    given(value, Origin::Default).map_or_else(|| "a list".to_owned(), |given| given.shown())
}

fn given(value: &Value, origin: Origin) -> Option<Given> {
    let (text, quoted) = match &value.kind {
        ValueKind::String(text) => (text.clone(), true),
        ValueKind::Nil | ValueKind::Table(_) | ValueKind::Array(_) => return None,
        _ => (value.clone().into_string().ok()?, false),
    };
    Some(Given { text, origin, quoted })
}

impl Section<'_> {
    /// `section.key`.
    pub(crate) fn path(&self, key: &str) -> String {
        format!("{}.{key}", self.path)
    }

    /// The names of everything in it, sorted.
    pub(crate) fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = self.table.keys().cloned().collect();
        names.sort();
        names
    }

    /// Its tables, for sections of sections.
    pub(crate) fn take_table(&mut self) -> Map<String, Value> {
        std::mem::take(&mut self.table)
    }

    /// The value as text, if one was given.
    pub(crate) fn take(&mut self, key: &'static str) -> Option<Given> {
        self.take_as(key, Shape::Text)
    }

    /// Notes that there is such a key.
    fn note(&mut self, key: &'static str, shape: Shape) {
        self.known.push(key);
        let path = self.path(key);
        self.reader.keys.push(Key { path, shape, default: None });
    }

    /// As [`Section::take`], of a value that must have a shape, which the caller sees to.
    pub(crate) fn take_as(&mut self, key: &'static str, shape: Shape) -> Option<Given> {
        self.note(key, shape);
        let value = self.table.remove(key)?;
        let path = self.path(key);
        let origin = origin_below(&value, &path);
        let taken = given(&value, origin.clone());
        if taken.is_none() {
            let what = if matches!(value.kind, ValueKind::Table(_)) { "a section" } else { "a list" };
            self.reader
                .problems
                .push(Problem::new(path, format!("is {what}, one value is expected")).of("...", origin));
        }
        taken
    }

    /// The values of a list: of TOML, or one text with commas (the environment). None when it was not given, or is none.
    pub(crate) fn list(&mut self, key: &'static str) -> Option<Vec<Given>> {
        self.list_as(key, Shape::List)
    }

    /// As [`Section::list`], of values that have a shape, which the caller sees to.
    pub(crate) fn list_as(&mut self, key: &'static str, shape: Shape) -> Option<Vec<Given>> {
        self.note(key, shape);
        let path = self.path(key);
        let Some(value) = self.table.remove(key) else {
            self.show(key, None, None);
            return None;
        };
        let origin = origin_below(&value, &path);
        let of = |text: &str| Given { text: text.trim().to_owned(), origin: origin.clone(), quoted: true };
        let entries: Option<Vec<Given>> = match &value.kind {
            ValueKind::Array(values) => values.iter().map(|value| given(value, origin.clone())).collect(),
            ValueKind::String(text) => Some(text.split(',').map(of).collect()),
            _ => None,
        };
        let Some(entries) = entries else {
            let problem = Problem::new(path, "is not a list of texts").of(show(&value), origin);
            self.reader.problems.push(problem);
            return None;
        };
        let shown: Vec<String> = entries.iter().map(Given::shown).collect();
        self.reader.shown.push(Shown { path, value: Some(format!("[{}]", shown.join(", "))), origin });
        Some(entries)
    }

    /// A table of values by name, in the order of the names; empty when it was not given, or is none.
    pub(crate) fn parts(&mut self, key: &'static str, shape: Shape) -> Vec<(String, Given)> {
        self.note(key, shape);
        let path = self.path(key);
        let Some(value) = self.table.remove(key) else {
            self.show(key, None, None);
            return Vec::new();
        };
        let origin = origin_below(&value, &path);
        let ValueKind::Table(table) = &value.kind else {
            let problem = Problem::new(path, "is not a table").of(show(&value), origin);
            self.reader.problems.push(problem.hint(format!("write {key} = {{ NAME = VALUE, ... }}")));
            return Vec::new();
        };
        if table.is_empty() {
            let problem = Problem::new(path, "is empty").of("{ }", origin);
            self.reader.problems.push(problem.hint(format!("write {key} = {{ NAME = VALUE, ... }}, or leave it out")));
            return Vec::new();
        }
        let of = |value: &Value| given(value, origin.clone()).unwrap_or_else(|| Given::unquoted(show(value), &origin));
        let mut parts: Vec<(String, Given)> = table.iter().map(|(name, value)| (name.clone(), of(value))).collect();
        parts.sort_by(|a, b| a.0.cmp(&b.0));
        let shown: Vec<String> = parts.iter().map(|(name, given)| format!("{name} = {}", given.text)).collect();
        self.reader.shown.push(Shown { path, value: Some(format!("{{ {} }}", shown.join(", "))), origin });
        parts
    }

    /// Whether something is wrong with a key already.
    pub(crate) fn has_problem(&self, key: &str) -> bool {
        let path = self.path(key);
        self.reader.problems.iter().any(|problem| problem.path == path)
    }

    /// Reports a problem of a value that was given.
    pub(crate) fn refuse(&mut self, key: &str, given: &Given, message: impl Into<String>) {
        let problem = Problem::new(self.path(key), message).of(given.shown(), given.origin.clone());
        self.reader.problems.push(problem);
    }

    /// As [`Section::refuse`], with a hint.
    pub(crate) fn refuse_with(&mut self, key: &str, given: &Given, message: impl Into<String>, hint: &str) {
        self.refuse(key, given, message);
        if let Some(problem) = self.reader.problems.last_mut() {
            problem.hint = Some(hint.to_owned());
        }
    }

    /// Reports a value that is needed and not there.
    pub(crate) fn missing(&mut self, key: &str, hint: impl Into<String>) {
        self.reader.problems.push(Problem::new(self.path(key), "is missing").hint(hint));
    }

    /// Notes a value for `--print`.
    pub(crate) fn show(&mut self, key: &str, given: Option<&Given>, default: Option<String>) {
        let path = self.path(key);
        if let Some(noted) = self.reader.keys.iter_mut().rev().find(|noted| noted.path == path) {
            noted.default.clone_from(&default);
        }
        let (value, origin) = match given {
            Some(given) => (Some(given.shown()), given.origin.clone()),
            None => (default, Origin::Default),
        };
        self.reader.shown.push(Shown { path, value, origin });
    }

    /// Any text.
    pub(crate) fn text(&mut self, key: &'static str, default: Option<&str>) -> Option<String> {
        let given = self.take(key);
        self.show(key, given.as_ref(), default.map(|text| format!("{text:?}")));
        given.map(|given| given.text).or_else(|| default.map(str::to_owned))
    }

    /// A duration within a range.
    pub(crate) fn duration(
        &mut self,
        key: &'static str,
        default: Duration,
        range: RangeInclusive<Duration>,
    ) -> Duration {
        let given = self.take_as(key, duration_shape(&range));
        self.show(key, given.as_ref(), Some(format!("{:?}", duration::format(default))));
        self.parse_duration(key, given, range).unwrap_or(default)
    }

    /// A duration that may be absent.
    pub(crate) fn duration_maybe(&mut self, key: &'static str, range: RangeInclusive<Duration>) -> Option<Duration> {
        let given = self.take_as(key, duration_shape(&range));
        self.show(key, given.as_ref(), None);
        self.parse_duration(key, given, range)
    }

    fn parse_duration(&mut self, key: &str, given: Option<Given>, range: RangeInclusive<Duration>) -> Option<Duration> {
        let given = given?;
        match duration::parse(&given.text) {
            Some(value) if range.contains(&value) => Some(value),
            Some(_) => {
                let (least, most) = (duration::format(*range.start()), duration::format(*range.end()));
                self.refuse(key, &given, format!("must be between {least} and {most}"));
                None
            }
            None => {
                self.refuse(key, &given, format!("is not {}", duration::SHAPE));
                None
            }
        }
    }

    /// A number within a range.
    pub(crate) fn number<T>(&mut self, key: &'static str, default: T, range: RangeInclusive<T>, what: &str) -> T
    where
        T: FromStr + PartialOrd + Display + Copy,
    {
        let (least, most) = (range.start().to_string(), range.end().to_string());
        let given = self.take_as(key, Shape::Number { whole: what.contains("whole"), least, most });
        self.show(key, given.as_ref(), Some(default.to_string()));
        let Some(given) = given else { return default };
        match given.text.trim().parse::<T>() {
            Ok(value) if range.contains(&value) => return value,
            Ok(_) => self.refuse(key, &given, format!("must be between {} and {}", range.start(), range.end())),
            Err(_) => {
                self.refuse(key, &given, format!("is not {what} between {} and {}", range.start(), range.end()));
            }
        }
        default
    }

    /// True or false.
    pub(crate) fn switch(&mut self, key: &'static str, default: bool) -> bool {
        let given = self.take_as(key, Shape::Switch);
        self.show(key, given.as_ref(), Some(default.to_string()));
        match given.as_ref().map(|given| given.text.as_str()) {
            None => return default,
            Some("true") => return true,
            Some("false") => return false,
            Some(_) => {}
        }
        if let Some(given) = given {
            self.refuse(key, &given, "is neither true nor false");
        }
        default
    }

    /// One of some words.
    pub(crate) fn word<T: Copy>(
        &mut self,
        key: &'static str,
        default: Option<&str>,
        words: &[(&'static str, T)],
    ) -> Option<T> {
        let given = self.take_as(key, Shape::Words(words.iter().map(|(word, _)| *word).collect()));
        self.show(key, given.as_ref(), default.map(|word| format!("{word:?}")));
        let find = |text: &str| words.iter().find(|(word, _)| *word == text).map(|(_, value)| *value);
        let Some(given) = given else { return default.and_then(find) };
        if let Some(value) = find(&given.text) {
            return Some(value);
        }
        let known: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        let message = format!("is not one of {}", known.join(", "));
        match nearest(&given.text, known) {
            Some(near) => self.refuse_with(key, &given, message, &format!("did you mean {near}?")),
            None => self.refuse(key, &given, message),
        }
        default.and_then(find)
    }

    /// A number that may be absent.
    pub(crate) fn number_maybe(&mut self, key: &'static str, range: RangeInclusive<f64>) -> Option<f64> {
        let (least, most) = (range.start().to_string(), range.end().to_string());
        let message = format!("is not a number between {least} and {most}");
        let given = self.take_as(key, Shape::Number { whole: false, least, most });
        self.show(key, given.as_ref(), None);
        let given = given?;
        let value = given.text.trim().parse().ok().filter(|value| range.contains(value));
        if value.is_none() {
            self.refuse(key, &given, message);
        }
        value
    }

    /// A section of this one; it shows nothing where it is not given.
    pub(crate) fn sub<T>(&mut self, key: &'static str, read: impl FnOnce(&mut Section<'_>) -> T) -> T {
        self.known.push(key);
        let (is_given, shown) = (self.table.contains_key(key), self.reader.shown.len());
        let mut section = self.reader.section(&mut self.table, &self.path, key);
        let value = read(&mut section);
        section.finish();
        if !is_given {
            self.reader.shown.truncate(shown);
        }
        value
    }

    /// A path; relative ones in a file are relative to that file.
    pub(crate) fn file(&mut self, key: &'static str) -> Option<(PathBuf, Given)> {
        let given = self.take_as(key, Shape::Path);
        self.show(key, given.as_ref(), None);
        let given = given?;
        if given.text.is_empty() {
            self.refuse(key, &given, "is empty, a path is expected");
            return None;
        }
        let base = match &given.origin {
            Origin::File(file) => file.parent().unwrap_or(Path::new("")).to_owned(),
            _ => PathBuf::new(),
        };
        let path = base.join(&given.text);
        self.reader.files.push((self.path(key), path.clone()));
        Some((path, given))
    }

    /// A secret that only the environment may hold; in a file it is refused. Never shown.
    pub(crate) fn secret(&mut self, key: &'static str, instead: &str) -> Option<Given> {
        self.secret.push(key);
        let mut given = self.take_as(key, Shape::Secret)?;
        given.quoted = false;
        if matches!(given.origin, Origin::File(_)) {
            let problem = Problem::new(self.path(key), "a secret does not belong in this file").of("***", given.origin);
            self.reader.problems.push(problem.hint(instead));
            return None;
        }
        Some(given)
    }

    /// Reports whatever nobody asked for.
    pub(crate) fn finish(self) {
        let mut left: Vec<_> = self.table.into_iter().collect();
        left.sort_by(|a, b| a.0.cmp(&b.0));
        for (key, value) in left {
            let path = format!("{}.{key}", self.path);
            // In a file a secret's key is no help: it would be refused there.
            let in_file = matches!(origin_below(&value, &path), Origin::File(_));
            let known = self.known.iter().copied().filter(|known| !in_file || !self.secret.contains(known));
            self.reader.unknown(&path, &key, &value, &known.collect::<Vec<_>>(), "key");
        }
    }
}
