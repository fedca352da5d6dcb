//! Every kind, in every locale, with every sample: what a deployment would find out one message at a time.
//!
//! Invariant: a check renders as the relay does, by the same functions.

use hapax_core::envelope::{Content, Notification};

use crate::{
    Renderer,
    error::{Error, Problem},
    templates::{Library, catalog::Entry},
};

/// What the samples are sent from and to.
const SENDER: &str = "sender@example.com";
const RECIPIENT: &str = "recipient@example.com";

/// A notification of a sample, always the same.
fn notification(kind: &str, payload: &str, locale: Option<&str>) -> Notification {
    Notification {
        id: hapax_core::MessageId(uuid::Uuid::nil()),
        created_at_us: 0,
        kind: kind.to_owned(),
        sender: None,
        reply_to: None,
        recipients: vec![RECIPIENT.to_owned()],
        cc: vec![],
        bcc: vec![],
        content: Content::Payload(payload.to_owned()),
        headers: vec![],
        attachments: vec![],
        attachments_later: false,
        priority: hapax_core::Priority::Normal,
        expires_in: None,
        age: std::time::Duration::ZERO,
        on_doubt: None,
        route: None,
        tenant: None,
        locale: locale.map(str::to_owned),
    }
}

impl Library {
    /// What is wrong with the kinds of these names, or with all.
    pub(crate) fn check(&self, renderer: &Renderer, is_wanted: impl Fn(&str) -> bool) -> Vec<Problem> {
        let of = |problem: &Problem| problem.file.split('/').next().unwrap_or_default().to_owned();
        let mut problems: Vec<Problem> = self.problems.iter().filter(|own| is_wanted(&of(own))).cloned().collect();
        for (kind, entry) in self.kinds.iter().filter(|(kind, _)| is_wanted(kind)) {
            if entry.samples.is_empty() {
                let what = "missing: without a sample nothing is checked but the syntax";
                problems.push(Problem::new(format!("{kind}/sample.json"), None, what));
            }
            incomplete(kind, entry, &mut problems);
            // Nothing of it is rendered before it can be read.
            if self.problems.iter().any(|problem| problem.is_of(kind)) {
                continue;
            }
            for (name, payload) in &entry.samples {
                let file = sample_file(kind, name);
                try_sample(renderer, (kind, entry), &file, payload, &mut problems);
            }
        }
        problems.sort_by(|a, b| (&a.file, a.line).cmp(&(&b.file, b.line)));
        problems
    }

    /// What is wrong with a kind whose messages are digests of another: made of each of that one's samples.
    pub(crate) fn check_digest(&self, renderer: &Renderer, digest: &str, member: &str) -> Vec<Problem> {
        let mut problems = Vec::new();
        let is_broken = self.problems.iter().any(|problem| problem.is_of(digest));
        let (Some(entry), Some(of), false) = (self.kinds.get(digest), self.kinds.get(member), is_broken) else {
            return problems;
        };
        for (name, payload) in &of.samples {
            let payload = format!(r#"{{"items":[{payload}],"count":1}}"#);
            try_sample(
                renderer,
                (digest, entry),
                &format!("a digest of {}", sample_file(member, name)),
                &payload,
                &mut problems,
            );
        }
        problems
    }
}

fn sample_file(kind: &str, name: &str) -> String {
    match name {
        "" => format!("{kind}/sample.json"),
        name => format!("{kind}/sample.{name}.json"),
    }
}

/// Renders a payload in every locale of a kind.
fn try_sample(
    renderer: &Renderer,
    (kind, entry): (&str, &Entry),
    file: &str,
    payload: &str,
    problems: &mut Vec<Problem>,
) {
    for (locale, texts) in entry.locales.all() {
        let one = notification(kind, payload, locale);
        let blank = || {
            let name = texts.html.as_ref().or(texts.text.as_ref()).unwrap_or(&texts.subject);
            Error::Template(Problem::new(name, None, "it writes nothing: a message needs a body"))
        };
        let rendered = renderer.render(&one, SENDER, None);
        let Err(error) = rendered.and_then(|done| if done.is_blank { Err(blank()) } else { Ok(()) }) else { continue };
        if problems.iter().any(|known| matches!(&error, Error::Template(own) if own == known)) {
            continue;
        }
        let problem = problem(file, locale, error);
        if !problems.contains(&problem) {
            problems.push(problem);
        }
    }
}

/// A locale that lacks a part the default has: its readers would get less, without anybody's knowing.
fn incomplete(kind: &str, entry: &Entry, problems: &mut Vec<Problem>) {
    let Some((_, default)) = entry.locales.all().next() else {
        return;
    };
    for (locale, texts) in entry.locales.all() {
        let Some(locale) = locale else { continue };
        for (name, wanted, has) in [
            ("txt", default.text.is_some(), texts.text.is_some()),
            ("html", default.html.is_some(), texts.html.is_some()),
        ] {
            // A text is derived from HTML where there is none.
            if wanted && !has && !(name == "txt" && texts.html.is_some()) {
                let what = "missing: the default texts of this kind have it";
                problems.push(Problem::new(format!("{kind}/body.{locale}.{name}"), None, what));
            }
        }
    }
}

fn problem(sample: &str, locale: Option<&str>, error: Error) -> Problem {
    match error {
        Error::Template(mut problem) => {
            let locale = locale.map(|locale| format!(", locale {locale}")).unwrap_or_default();
            problem.what = format!("{} (with {sample}{locale})", problem.what);
            problem
        }
        other => Problem::new(sample, None, other.to_string()),
    }
}
