//! Which texts of a kind a reader gets: one locale for the whole message.
//!
//! Invariants: subject and bodies come from one language, never a subject from one and a body from another. The choice
//! depends on the notification's locale and the files alone. From `pt-BR` it falls back to `pt`, then to the kind's
//! `default_locale`, then to the files without a locale.

use std::{borrow::Cow, collections::BTreeMap};

use icu_locale_core::Locale;

/// What dates and numbers look like where nobody says which language the texts have.
const UNNAMED: &str = "en";

/// The files of one locale, by their names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Texts {
    pub(super) subject: String,
    pub(super) text: Option<String>,
    pub(super) html: Option<String>,
}

/// All of a kind's texts.
#[derive(Clone, Debug)]
pub(super) struct Locales {
    by_tag: BTreeMap<String, Texts>,
    /// What is used for everybody else.
    default: Texts,
    /// The language of those.
    default_tag: String,
}

/// What a file's name says: which part, which locale, and its extension.
pub(super) type Named<'a> = (&'a str, Option<String>, &'a str);

/// A subject or body file: `subject.de.txt` is `("subject", Some("de"), "txt")`. `Err` is a locale that is none.
pub(super) fn parse(file: &str) -> Option<Result<Named<'_>, &str>> {
    let (stem, extension) = file.rsplit_once('.')?;
    let (part, locale) = match stem.split_once('.') {
        Some((part, locale)) => (part, Some(locale)),
        None => (stem, None),
    };
    match (part, extension) {
        ("subject", "txt") | ("body", "txt" | "html" | "mjml") => {}
        _ => return None,
    }
    let Some(locale) = locale else {
        return Some(Ok((part, None, extension)));
    };
    Some(match canonical(locale) {
        Some(tag) => Ok((part, Some(tag), extension)),
        None => Err(locale),
    })
}

/// A BCP 47 tag in its usual spelling: `PT_br` is `pt-BR`. Extensions (`-u-...`) do not matter here.
pub(super) fn canonical(tag: &str) -> Option<String> {
    let locale = Locale::try_from_str(tag).or_else(|_| Locale::try_from_str(&tag.replace('_', "-"))).ok()?;
    let known = !locale.id.language.is_unknown() && locale.id.language.as_str().len() <= 3;
    known.then(|| locale.id.to_string())
}

/// The tag without its last subtag: `zh-Hant` of `zh-Hant-TW`.
fn shorter(tag: &str) -> Option<&str> {
    tag.rsplit_once('-').map(|(shorter, _)| shorter)
}

fn chain(tag: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(Some(tag), |tag| shorter(tag))
}

impl Locales {
    /// From a kind's files (`part`, locale and name of each). What is missing is told as `(file, what)`.
    pub(super) fn new(
        files: &[(&str, Option<String>, String)],
        default_locale: Option<&str>,
        missing: &mut dyn FnMut(&str, String),
    ) -> Self {
        let find = |part: &str, tag: Option<&str>| {
            let own = files.iter().find(|(own, locale, _)| *own == part && locale.as_deref() == tag);
            own.map(|(.., name)| name.clone())
        };
        let set = |tag: Option<&str>| {
            let nearest = |part: &str| match tag {
                Some(tag) => chain(tag).find_map(|tag| find(part, Some(tag))),
                None => find(part, None),
            };
            (nearest("subject"), nearest("text"), nearest("html"))
        };
        let mut by_tag = BTreeMap::new();
        for tag in files.iter().filter_map(|(_, tag, _)| tag.as_deref()) {
            match set(Some(tag)) {
                (Some(subject), text, html) if text.is_some() || html.is_some() => {
                    by_tag.insert(tag.to_owned(), Texts { subject, text, html });
                }
                (None, ..) => missing(&format!("subject.{tag}.txt"), "missing: a locale needs a subject".to_owned()),
                _ => missing("", format!("missing: body.{tag}.txt, body.{tag}.html or body.{tag}.mjml")),
            }
        }
        let named = default_locale.and_then(|tag| chain(tag).find_map(|tag| by_tag.get(tag)));
        let default_tag = default_locale.unwrap_or(UNNAMED).to_owned();
        if let Some(default) = named.cloned() {
            return Self { by_tag, default, default_tag };
        }
        let (subject, text, html) = set(None);
        if subject.is_none() {
            missing("subject.txt", "missing: every kind needs a subject, or a default_locale that has one".to_owned());
        }
        if text.is_none() && html.is_none() {
            missing("", "missing: body.txt, body.html or body.mjml".to_owned());
        }
        Self { by_tag, default: Texts { subject: subject.unwrap_or_default(), text, html }, default_tag }
    }

    /// The texts for a locale, and the locale in which dates and numbers are written there.
    pub(super) fn choose(&self, requested: Option<&str>) -> (&Texts, Cow<'_, str>) {
        let default = (&self.default, Cow::Borrowed(self.default_tag.as_str()));
        let Some(requested) = requested.and_then(canonical) else {
            return default;
        };
        let found = chain(&requested).find_map(|tag| self.by_tag.get(tag));
        // English texts for a reader in Britain have British dates; for one in Brazil they stay as they are.
        let is_default = chain(&requested).any(|tag| tag == self.default_tag);
        match found {
            Some(texts) => (texts, Cow::Owned(requested)),
            None if is_default => (&self.default, Cow::Owned(requested)),
            None => default,
        }
    }

    pub(super) fn tags(&self) -> impl Iterator<Item = &str> {
        self.by_tag.keys().map(String::as_str)
    }

    /// The default texts and the others.
    pub(super) fn all(&self) -> impl Iterator<Item = (Option<&str>, &Texts)> {
        let others = self.by_tag.iter().map(|(tag, texts)| (Some(tag.as_str()), texts));
        std::iter::once((None, &self.default)).chain(others)
    }
}
