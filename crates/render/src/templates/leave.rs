//! `[unsubscribe]` of a kind: checked when it is loaded, and the link of one recipient.
//!
//! Invariant: a kind that promises a link and could not sign it is refused at load, not at the first message.

use std::collections::BTreeMap;

use minijinja::{Environment, Value};

use crate::{
    Options,
    error::{Error, Problem},
    kind::{KIND_FILE, Line, Unsubscribe},
    templates::{Library, catalog::Entry},
    unsubscribe,
};

/// What a kind with `[unsubscribe]` says to one recipient.
pub(super) struct Leave {
    /// For templates: `unsubscribe_url`, empty where there is only an address.
    pub(super) url: String,
    /// Header fields.
    pub(super) fields: Vec<(&'static str, String)>,
}

/// The name under which a kind's URL is compiled.
fn template(kind: &str) -> String {
    format!("{kind}/{KIND_FILE}#unsubscribe.url")
}

/// Checks every kind's `[unsubscribe]` and compiles its URL.
pub(super) fn compile(
    environment: &mut Environment<'static>,
    kinds: &BTreeMap<String, Entry>,
    options: &Options,
    problems: &mut Vec<Problem>,
) {
    for (kind, entry) in kinds {
        let Some(own) = entry.file.as_ref().and_then(|file| file.unsubscribe.as_ref()) else { continue };
        let mut problem = |line, what: String| {
            problems.push(Problem::new(format!("{kind}/{KIND_FILE}"), Some(line), what));
        };
        if let Some(Line { text, line }) = &own.mailto
            && let Err(what) = unsubscribe::check_mailto(text)
        {
            problem(*line, format!("unsubscribe: {what}"));
        }
        let Some(Line { text, line }) = &own.url else { continue };
        if own.one_click && !text.starts_with("https://") && !text.starts_with('{') {
            problem(*line, "unsubscribe.one_click needs a url that begins with https:// (RFC 8058)".to_owned());
        }
        if options.unsubscribe_key.is_none() {
            let what = "its links are signed, and there is no key: set templates.unsubscribe_key_file";
            problem(own.line, format!("[unsubscribe]: {what}"));
        }
        if let Err(error) = environment.add_template_owned(template(kind), text.clone()) {
            problem(*line, format!("unsubscribe.url: {}", error.detail().unwrap_or("a syntax error")));
        }
    }
}

impl Library {
    /// Whether a kind's messages differ by recipient.
    pub(crate) fn is_per_recipient(&self, kind: &str) -> bool {
        self.kinds.get(kind).and_then(|entry| entry.file.as_ref()).is_some_and(|file| file.unsubscribe.is_some())
    }

    /// The link and the fields for one recipient.
    pub(super) fn leave(&self, kind: &str, own: &Unsubscribe, context: &Value, address: &str) -> Result<Leave, Error> {
        let refuse = |what: &str| {
            let line = own.url.as_ref().map_or(own.line, |url| url.line);
            Error::Template(Problem::new(format!("{kind}/{KIND_FILE}"), Some(line), format!("unsubscribe: {what}")))
        };
        let url = match (&own.url, &self.unsubscribe_key) {
            (Some(_), Some(key)) => {
                let url = self.file(&template(kind), context).map_err(|error| match error {
                    Error::Template(problem) => refuse(&problem.what),
                    other => other,
                })?;
                Some(key.link(url.trim(), kind, address))
            }
            (Some(_), None) => return Err(refuse("there is no key")),
            (None, _) => None,
        };
        let mailto = own.mailto.as_ref().map(|line| line.text.as_str());
        let fields = unsubscribe::fields(url.as_deref(), mailto, own.one_click).map_err(refuse)?;
        Ok(Leave { url: url.unwrap_or_default(), fields })
    }
}
