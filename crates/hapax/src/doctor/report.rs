//! Findings as a person reads them, and as JSON.

use serde_json::json;

use super::finding::{Finding, Severity};
use crate::output;

/// Prints everything; what is well only where it was asked for.
///
/// # Errors
/// None that can happen.
pub(super) fn print(findings: &[Finding], as_json: bool, verbose: bool) -> anyhow::Result<()> {
    if as_json {
        return output::json(&json!({
            "ok": worst(findings) < Severity::Error,
            "counts": {
                "ok": count(findings, Severity::Ok),
                "note": count(findings, Severity::Note),
                "warning": count(findings, Severity::Warning),
                "error": count(findings, Severity::Error),
            },
            "findings": findings,
        }));
    }
    output::raw(&text(findings, verbose));
    Ok(())
}

/// The worst there is.
pub(super) fn worst(findings: &[Finding]) -> Severity {
    findings.iter().map(|finding| finding.severity).max().unwrap_or(Severity::Ok)
}

fn count(findings: &[Finding], severity: Severity) -> usize {
    findings.iter().filter(|finding| finding.severity == severity).count()
}

fn text(findings: &[Finding], verbose: bool) -> String {
    let mut text = String::new();
    // The worst first; within that, in the order of the examination.
    for severity in [Severity::Error, Severity::Warning, Severity::Note, Severity::Ok] {
        if severity == Severity::Ok && !verbose {
            continue;
        }
        for finding in findings.iter().filter(|finding| finding.severity == severity) {
            let word = word(severity);
            text.push_str(&format!("{word:<8} {}: {}\n", finding.name, output::one_line(&finding.evidence)));
            if let Some(remedy) = &finding.remedy {
                text.push_str(&format!("{:<8} {}\n", "", output::one_line(remedy)));
            }
        }
    }
    text.push_str(&summary(findings));
    text
}

const fn word(severity: Severity) -> &'static str {
    match severity {
        Severity::Ok => "ok",
        Severity::Note => "note",
        Severity::Warning => "warning",
        Severity::Error => "error",
    }
}

fn summary(findings: &[Finding]) -> String {
    let of = |severity| count(findings, severity);
    let (errors, warnings) = (of(Severity::Error), of(Severity::Warning));
    let checks = findings.len();
    match (errors, warnings) {
        (0, 0) => format!("all is well: {checks} things examined\n"),
        _ => format!("{}, {} among {checks} things examined\n", number(errors, "error"), number(warnings, "warning")),
    }
}

fn number(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_worst_comes_first_and_what_is_well_only_when_asked_for() {
        let findings = [
            Finding::ok("database.version", "Postgres 15.4"),
            Finding::note("database.pooler", "a pooler", "connect past it"),
            Finding::error("database.fsync", "fsync is off\nreally", "turn it on"),
        ];
        let short = "error    database.fsync: fsync is off really\n         turn it on\n\
                     note     database.pooler: a pooler\n         connect past it\n\
                     1 error, 0 warnings among 3 things examined\n";
        assert_eq!(text(&findings, false), short);
        assert!(text(&findings, true).contains("ok       database.version: Postgres 15.4\n1 error"));
        assert_eq!(worst(&findings), Severity::Error);
        assert_eq!(text(&findings[..1], false), "all is well: 1 things examined\n");
    }
}
