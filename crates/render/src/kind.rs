//! What a kind says of itself: `kind.toml`, and what [`Renderer::kinds`](crate::Renderer::kinds) tells of it.
//!
//! Invariants: an unknown key, a key in the wrong table and a value of the wrong type are problems with file and
//! line; a typing error never turns a setting off silently. Nothing is compiled or rendered here.

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use crate::error::{Problem, quoted};

/// The file's name in a kind's directory.
pub const KIND_FILE: &str = "kind.toml";

const TOP: [&str; 5] = ["default_locale", "timezone", "thread_key", "headers", "unsubscribe"];
const UNSUBSCRIBE: [&str; 3] = ["url", "mailto", "one_click"];

/// A kind of notification that has templates.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kind {
    /// The directory's name.
    pub name: String,
    /// The locales it has texts for, as BCP 47 tags; the files without a locale are not among them.
    pub locales: Vec<String>,
    /// What is used when no locale is asked for, or one that nobody has.
    pub default_locale: Option<String>,
    /// Its samples: `sample.NAME.json` by its name, `sample.json` as the empty string.
    pub samples: Vec<String>,
    /// Whether payloads are checked against a `schema.json`.
    pub has_schema: bool,
    /// Whether readers can unsubscribe from it.
    pub unsubscribe: bool,
    /// Whether they do so by a link, which is signed.
    pub unsubscribe_url: bool,
}

/// A text of `kind.toml` and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// The text, often a template.
    pub text: String,
    /// From 1.
    pub line: usize,
}

/// `kind.toml`, taken apart. Templates in it are not compiled yet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KindFile {
    /// The language of the files without a locale, or the locale to fall back to.
    pub default_locale: Option<Line>,
    /// An IANA name, for the date filters.
    pub timezone: Option<Line>,
    /// A template: messages of one key are one thread.
    pub thread_key: Option<Line>,
    /// Header fields and the templates of their values, in the file's order.
    pub headers: Vec<(String, Line)>,
    /// How a reader gets no more of it.
    pub unsubscribe: Option<Unsubscribe>,
}

/// `[unsubscribe]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unsubscribe {
    /// A template over the payload and `recipient`.
    pub url: Option<Line>,
    /// An address.
    pub mailto: Option<Line>,
    /// Whether a POST to the URL is enough (RFC 8058).
    pub one_click: bool,
    /// Where the table begins.
    pub line: usize,
}

impl KindFile {
    /// Takes the text of a `kind.toml` apart. `file` is its name in problems.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn parse(file: &str, text: &str) -> Result<Self, Vec<Problem>> {
        let mut reader = Reader { file, text, problems: Vec::new() };
        let kind = match DeTable::parse(text) {
            Ok(table) => reader.top(table.get_ref()),
            Err(error) => {
                let at = error.span().map_or(0, |span| span.start);
                // Only the first line: the others draw the source.
                reader.problem(at, error.message().lines().next().unwrap_or("is not toml"));
                Self::default()
            }
        };
        if reader.problems.is_empty() { Ok(kind) } else { Err(reader.problems) }
    }
}

struct Reader<'a> {
    file: &'a str,
    text: &'a str,
    problems: Vec<Problem>,
}

impl Reader<'_> {
    fn line(&self, at: usize) -> usize {
        1 + self.text.as_bytes().iter().take(at).filter(|byte| **byte == b'\n').count()
    }

    fn problem(&mut self, at: usize, what: impl Into<String>) {
        self.problems.push(Problem::new(self.file, Some(self.line(at)), what));
    }

    fn top(&mut self, table: &DeTable<'_>) -> KindFile {
        let mut kind = KindFile::default();
        for (key, value) in table {
            match key.get_ref().as_ref() {
                "default_locale" => kind.default_locale = self.string(key, value),
                "timezone" => kind.timezone = self.string(key, value),
                "thread_key" => kind.thread_key = self.string(key, value),
                "headers" => kind.headers = self.headers(key, value),
                "unsubscribe" => kind.unsubscribe = self.unsubscribe(key, value),
                _ => self.unknown(key, &TOP, ""),
            }
        }
        kind
    }

    fn headers(&mut self, key: &Spanned<impl AsRef<str>>, value: &Spanned<DeValue<'_>>) -> Vec<(String, Line)> {
        let Some(table) = self.table(key, value) else {
            return Vec::new();
        };
        let mut headers = Vec::new();
        for (key, value) in table {
            let name: &str = key.get_ref().as_ref();
            // A key that is written below `[headers]` belongs to it, whatever its author meant.
            if TOP.contains(&name) {
                self.problem(key.span().start, format!("{name} belongs above the first [table]"));
            } else if let Some(line) = self.string(key, value) {
                headers.push((line.line, name.to_owned(), line));
            }
        }
        headers.sort_by_key(|(line, ..)| *line);
        headers.into_iter().map(|(_, name, line)| (name, line)).collect()
    }

    fn unsubscribe(&mut self, key: &Spanned<impl AsRef<str>>, value: &Spanned<DeValue<'_>>) -> Option<Unsubscribe> {
        let table = self.table(key, value)?;
        let mut unsubscribe = Unsubscribe { line: self.line(key.span().start), ..Unsubscribe::default() };
        for (key, value) in table {
            match key.get_ref().as_ref() {
                "url" => unsubscribe.url = self.string(key, value),
                "mailto" => unsubscribe.mailto = self.string(key, value),
                "one_click" => match value.get_ref() {
                    DeValue::Boolean(bool) => unsubscribe.one_click = *bool,
                    _ => self.problem(value.span().start, "one_click must be true or false"),
                },
                _ => self.unknown(key, &UNSUBSCRIBE, "unsubscribe."),
            }
        }
        if unsubscribe.url.is_none() && unsubscribe.mailto.is_none() && self.problems.is_empty() {
            self.problem(key.span().start, "[unsubscribe] needs a url or a mailto");
        } else if unsubscribe.one_click && unsubscribe.url.is_none() {
            self.problem(key.span().start, "unsubscribe.one_click needs a url (RFC 8058)");
        }
        Some(unsubscribe)
    }

    fn table<'t>(
        &mut self,
        key: &Spanned<impl AsRef<str>>,
        value: &'t Spanned<DeValue<'_>>,
    ) -> Option<&'t DeTable<'t>> {
        let DeValue::Table(table) = value.get_ref() else {
            self.problem(key.span().start, format!("{} must be a table", key.get_ref().as_ref()));
            return None;
        };
        Some(table)
    }

    fn string(&mut self, key: &Spanned<impl AsRef<str>>, value: &Spanned<DeValue<'_>>) -> Option<Line> {
        let DeValue::String(text) = value.get_ref() else {
            self.problem(key.span().start, format!("{} must be a string", quoted(key.get_ref().as_ref())));
            return None;
        };
        Some(Line { text: text.as_ref().to_owned(), line: self.line(key.span().start) })
    }

    fn unknown(&mut self, key: &Spanned<impl AsRef<str>>, known: &[&str], table: &str) {
        let name = key.get_ref().as_ref();
        let nearest = known.iter().min_by_key(|known| distance(name, known)).copied().unwrap_or_default();
        self.problem(key.span().start, format!("unknown key {}: did you mean {table}{nearest}?", quoted(name)));
    }
}

/// How many letters one has to change, add or leave out (Levenshtein).
pub(crate) fn distance(a: &str, b: &str) -> usize {
    let a: Vec<char> = a.chars().take(64).collect();
    let mut row: Vec<usize> = (0..=a.len()).collect();
    for (above, letter) in b.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], above + 1);
        for (at, own) in a.iter().enumerate() {
            let changed = diagonal + usize::from(*own != letter);
            diagonal = row[at + 1];
            row[at + 1] = changed.min(row[at] + 1).min(diagonal + 1);
        }
    }
    row.last().copied().unwrap_or_default()
}
