//! How a command ends: exit codes, and errors as people read them (`error: ...`, `hint: ...`).

use std::{error::Error as StdError, fmt, io::Write as _, process::ExitCode};

use crate::config::Problem;

/// How a command that ran ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// 0.
    Done,
    /// 1: it has already said why.
    Failed,
    /// 78: it has already said why.
    Configuration,
}

/// The exit code of a usage error.
pub(crate) const USAGE: u8 = 64;
/// The exit code of a configuration error.
pub(crate) const CONFIGURATION: u8 = 78;

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        match exit {
            Exit::Done => Self::SUCCESS,
            Exit::Failed => Self::FAILURE,
            Exit::Configuration => Self::from(CONFIGURATION),
        }
    }
}

/// An error that was made for people: several lines, hints, an exit code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    code: u8,
    lines: Vec<(String, Vec<String>)>,
}

impl Refusal {
    /// One line with its hints, exit code 78.
    pub(crate) fn setup(message: impl Into<String>, hints: &[&str]) -> Self {
        Self { code: CONFIGURATION, lines: vec![(message.into(), hints.iter().map(ToString::to_string).collect())] }
    }

    /// One line with its hints, exit code 1.
    pub(crate) fn failed(message: impl Into<String>, hints: &[&str]) -> Self {
        Self { code: 1, ..Self::setup(message, hints) }
    }

    /// One line with its hints, exit code 64.
    pub(crate) fn usage(message: impl Into<String>, hints: &[&str]) -> Self {
        Self { code: USAGE, ..Self::setup(message, hints) }
    }

    /// All problems of a configuration.
    pub(crate) fn configuration(problems: &[Problem]) -> Self {
        let line = |problem: &Problem| (problem.to_string(), problem.hint.clone().into_iter().collect());
        Self { code: CONFIGURATION, lines: problems.iter().map(line).collect() }
    }

    /// The same in other words.
    pub(crate) fn map(mut self, reword: impl Fn(&str) -> String) -> Self {
        for (message, hints) in &mut self.lines {
            *message = reword(message);
            hints.iter_mut().for_each(|hint| *hint = reword(hint));
        }
        self
    }

    /// Several lines, each with its hints.
    pub(crate) fn lines(code: u8, lines: Vec<(String, Vec<String>)>) -> Self {
        Self { code, lines }
    }

    /// The same, with the place where it was met in front; hints stay as they are.
    pub(crate) fn at(mut self, place: &str) -> Self {
        for (message, _) in &mut self.lines {
            *message = format!("{place}: {message}");
        }
        self
    }

    /// The lines, each with its hints.
    pub(crate) fn parts(&self) -> &[(String, Vec<String>)] {
        &self.lines
    }

    /// For `--json`.
    pub(crate) fn to_json(&self, target: &str) -> serde_json::Value {
        let hints: Vec<&String> = self.lines.iter().flat_map(|(_, hints)| hints).collect();
        serde_json::json!({ "target": target, "error": self.to_string(), "hints": hints })
    }

    /// One line from a whole error, exit code as given.
    pub(crate) fn of_error(code: u8, error: &(dyn StdError + 'static), hints: &[&str]) -> Self {
        let (message, mut found) = split_hints(&chain(error));
        found.extend(server_hint(error));
        found.extend(hints.iter().map(ToString::to_string));
        Self { code, lines: vec![(message, found)] }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let messages: Vec<&str> = self.lines.iter().map(|(message, _)| message.as_str()).collect();
        f.write_str(&messages.join("; "))
    }
}

impl StdError for Refusal {}

/// Prints a line to stderr; nobody is left to tell where that cannot be written.
pub(crate) fn line(text: &str) {
    drop(writeln!(std::io::stderr(), "{text}"));
}

/// [`line()`], written as `eprintln!` is, which would panic where stderr cannot be written.
macro_rules! tell {
    ($($part:tt)*) => { $crate::failure::line(&format!($($part)*)) };
}
pub(crate) use tell;

/// Prints an error to stderr and says how the process ends.
pub(crate) fn report(error: &anyhow::Error) -> ExitCode {
    let refusal = match error.downcast_ref::<Refusal>() {
        Some(refusal) => refusal.clone(),
        None => Refusal::of_error(1, error.as_ref(), &[]),
    };
    for (message, hints) in &refusal.lines {
        line(&format!("error: {message}"));
        for (at, hint) in hints.iter().enumerate() {
            if !hints[..at].contains(hint) {
                line(&format!("hint: {hint}"));
            }
        }
    }
    ExitCode::from(refusal.code)
}

/// An error with its sources in one line. Stops at the database's own error, whose words the store has chosen already:
/// its DETAIL may hold data.
pub(crate) fn chain(error: &(dyn StdError + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = beneath(error);
    while let Some(source) = next {
        let words = source.to_string();
        if !text.contains(&words) {
            text = format!("{text}: {words}");
        }
        next = beneath(source);
    }
    text
}

fn beneath<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a (dyn StdError + 'static)> {
    match error.downcast_ref::<hapax_store::Error>() {
        Some(hapax_store::Error::Query { source, .. }) if source.as_db_error().is_some() => None,
        _ => error.source(),
    }
}

/// Takes the hints out of an error's text: `(hint: ...)` at the end of a part, or a line of its own.
pub(crate) fn split_hints(text: &str) -> (String, Vec<String>) {
    let (mut message, mut hints) = (String::new(), Vec::new());
    for line in text.lines() {
        if let Some(hint) = line.strip_prefix("hint: ") {
            hints.push(hint.to_owned());
            continue;
        }
        let mut rest = line;
        if !message.is_empty() {
            message.push('\n');
        }
        while let Some((before, after)) = rest.split_once(" (hint: ") {
            let (hint, after) = match after.split_once("): ") {
                Some((hint, after)) => (hint.to_owned(), after),
                None => (after.strip_suffix(')').unwrap_or(after).to_owned(), ""),
            };
            message.push_str(before);
            if !after.is_empty() {
                message.push_str(": ");
            }
            hints.push(hint);
            rest = after;
        }
        message.push_str(rest);
    }
    (message, hints)
}

/// What the server itself hints at.
fn server_hint(error: &(dyn StdError + 'static)) -> Option<String> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(hint) = error.downcast_ref::<hapax_store::Error>().and_then(hapax_store::Error::hint) {
            return Some(hint.to_owned());
        }
        next = error.source();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hints_are_taken_out_of_texts() {
        assert_eq!(split_hints("plain"), ("plain".into(), vec![]));
        assert_eq!(
            split_hints("there is no outbox (hint: hapax migrate up)"),
            ("there is no outbox".into(), vec!["hapax migrate up".into()])
        );
        assert_eq!(
            split_hints("starting: no server (hint: start it): cause"),
            ("starting: no server: cause".into(), vec!["start it".into()])
        );
        assert_eq!(
            split_hints("no binaries\nhint: apt-get install postgresql"),
            ("no binaries".into(), vec!["apt-get install postgresql".into()])
        );
    }

    #[test]
    fn a_hint_may_hold_brackets() {
        let (message, hints) = split_hints("x (hint: use f(a), then g(b))");
        assert_eq!((message.as_str(), hints[0].as_str()), ("x", "use f(a), then g(b)"));
    }
}
