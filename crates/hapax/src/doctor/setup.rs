//! Configuration and templates, as `hapax check` and `hapax template check` see them.

use hapax_render::Problem as TemplateProblem;

use super::finding::Finding;
use crate::{
    config::{Loaded, Problem},
    run,
};

/// Every problem and warning of the configuration.
pub(super) fn examine(loaded: &Loaded) -> Vec<Finding> {
    let remedy = |problem: &Problem| {
        problem.hint.clone().unwrap_or_else(|| "see deploy/hapax.toml; hapax check lists every problem".to_owned())
    };
    let name = |problem: &Problem| format!("config.{}", problem.path);
    let errors =
        loaded.problems.iter().map(|problem| Finding::error(name(problem), problem.to_string(), remedy(problem)));
    let warnings =
        loaded.warnings.iter().map(|problem| Finding::warning(name(problem), problem.to_string(), remedy(problem)));
    let mut findings: Vec<Finding> = errors.chain(warnings).collect();
    if findings.is_empty() {
        let file = loaded.file.as_ref().map_or_else(|| "no file".to_owned(), |file| file.display().to_string());
        findings.push(Finding::ok("config", format!("{file}: nothing is wrong with it")));
    }
    findings
}

/// Every problem of the templates, with its file and line.
pub(super) fn templates(loaded: &Loaded) -> Vec<Finding> {
    if loaded.problems.iter().any(|problem| problem.path.starts_with("templates")) {
        return Vec::new();
    }
    let told = |problem: &TemplateProblem| {
        Finding::error("templates", problem.to_string(), "mend it; hapax template check lists them all")
    };
    match run::renderer(&loaded.settings) {
        Err(refusal) => {
            let lines = refusal.parts();
            let remedy = "mend it; hapax template check lists them all";
            lines.iter().map(|(line, _)| Finding::error("templates", line, remedy)).collect()
        }
        Ok(renderer) => {
            let problems = renderer.check();
            match (loaded.settings.templates.is_some(), problems.is_empty()) {
                (false, _) => vec![Finding::ok("templates", "none: no directory is named")],
                (true, true) => {
                    let kinds = renderer.kinds().len();
                    vec![Finding::ok("templates", format!("{kinds} kinds render with all their samples"))]
                }
                (true, false) => problems.iter().map(told).collect(),
            }
        }
    }
}
