//! What an examination found: one finding a thing, with evidence and remedy.

use serde::Serialize;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Severity {
    /// As it should be.
    Ok,
    /// Good to know, or could not be looked at.
    Note,
    /// Works, and will hurt.
    Warning,
    /// Does not work, or is not safe.
    Error,
}

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Finding {
    /// How bad.
    pub(crate) severity: Severity,
    /// What was looked at: `database.fsync`, `route.default.tls`. Always the same for the same thing.
    pub(crate) name: String,
    /// What was seen.
    pub(crate) evidence: String,
    /// What to do about it.
    pub(crate) remedy: Option<String>,
}

impl Finding {
    pub(crate) fn ok(name: impl Into<String>, evidence: impl Into<String>) -> Self {
        Self { severity: Severity::Ok, name: name.into(), evidence: evidence.into(), remedy: None }
    }

    pub(crate) fn note(name: impl Into<String>, evidence: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::of(Severity::Note, name, evidence, remedy)
    }

    pub(crate) fn warning(name: impl Into<String>, evidence: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::of(Severity::Warning, name, evidence, remedy)
    }

    pub(crate) fn error(name: impl Into<String>, evidence: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::of(Severity::Error, name, evidence, remedy)
    }

    fn of(severity: Severity, name: impl Into<String>, evidence: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { severity, name: name.into(), evidence: evidence.into(), remedy: Some(remedy.into()) }
    }
}

/// An age or a pause, as people read it: two units at most.
pub(crate) fn told(seconds: f64) -> String {
    let whole = std::time::Duration::from_secs_f64(seconds.clamp(0.0, 1e12));
    let s = whole.as_secs();
    match s {
        0 if whole.as_millis() > 0 => format!("{} ms", whole.as_millis()),
        0..=119 => format!("{s} s"),
        120..=7_199 => format!("{} min", s / 60),
        7_200..=172_799 => format!("{} h {} min", s / 3_600, s % 3_600 / 60),
        _ => format!("{} days", s / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shorter_than_a_second_is_not_nothing() {
        let words = [0.0, 0.25, 0.999, 1.5, 120.0, 7_260.0, 172_800.0].map(told);
        assert_eq!(words, ["0 s", "250 ms", "999 ms", "1 s", "2 min", "2 h 1 min", "2 days"]);
    }
}
