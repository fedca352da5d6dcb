//! Why a template failed, in words that quote the template's own text at most.
//!
//! Invariant: minijinja's details may hold values of the payload; only those that speak of the template are repeated.

use minijinja::{Environment, Error, ErrorKind};

use super::{fields, filters};
use crate::error::Problem;

/// How many names of a chain of includes are told.
const CHAIN_MAX: usize = 8;

/// File, line and reason of the innermost error. For what may quote a value the failing expression is shown as it stands
/// in the source. `broken` are the templates that were left out.
pub(super) fn explain(environment: &Environment<'_>, broken: &[Problem], name: &str, outermost: &Error) -> Problem {
    let mut error = outermost;
    let mut names: Vec<&str> = Vec::new();
    loop {
        names.extend(error.name());
        match std::error::Error::source(error).and_then(|source| source.downcast_ref()) {
            Some(inner) => error = inner,
            None => break,
        }
    }
    let file = error.name().unwrap_or(name);
    // A shared piece that is broken is a better answer than that it is not there.
    if error.kind() == ErrorKind::TemplateNotFound
        && let Some(broken) = broken.iter().find(|broken| missing(error) == Some(broken.file.as_str()))
    {
        return broken.clone();
    }
    let what = what(environment, file, &names, error);
    let (file, line) = fields::place(file, error.line());
    Problem::new(file, line, what)
}

fn what(environment: &Environment<'_>, file: &str, names: &[&str], error: &Error) -> String {
    let source = environment.get_template(file).ok();
    let expression = source.as_ref().and_then(|template| template.source().get(error.range()?));
    let detail = error.detail();
    match (error.kind(), detail, expression) {
        (ErrorKind::OutOfFuel, ..) => "too much work, beyond a limit that is fixed: mostly a loop in a loop over long \
                                       lists, or a large range() or repetition; put fewer items into the payload"
            .to_owned(),
        (ErrorKind::InvalidOperation, Some("recursion limit exceeded"), _) => recursion(names),
        (ErrorKind::InvalidOperation, Some(detail), _) if detail.starts_with("cycle in template inheritance") => {
            "it extends itself, by way of what it extends".to_owned()
        }
        (ErrorKind::InvalidOperation, Some(detail), _) if detail.starts_with(filters::OWN_WORDS) => {
            detail.replacen(filters::OWN_WORDS, "", 1)
        }
        (ErrorKind::UndefinedError, Some(detail), _) => detail.to_owned(),
        (
            kind @ (ErrorKind::SyntaxError
            | ErrorKind::UnknownFilter
            | ErrorKind::UnknownTest
            | ErrorKind::UnknownFunction
            | ErrorKind::UnknownBlock),
            Some(detail),
            _,
        ) => format!("{kind}: {detail}"),
        (kind, _, Some(expression)) => format!("{kind} in `{}`", expression.trim()),
        (kind, _, None) => kind.to_string(),
    }
}

/// Which templates go round: `a -> b -> a`.
fn recursion(names: &[&str]) -> String {
    let again = (1..names.len()).find(|at| names[..*at].contains(&names[*at]));
    match again {
        Some(end) if end < CHAIN_MAX => {
            let start = names[..end].iter().position(|name| *name == names[end]).unwrap_or(0);
            format!("it includes itself without an end: {}", names[start..=end].join(" -> "))
        }
        _ => "it calls itself without an end: a macro, or a template that includes itself".to_owned(),
    }
}

/// The name that no template has.
fn missing(error: &Error) -> Option<&str> {
    error.detail()?.split(['"', '\'']).nth(1)
}
