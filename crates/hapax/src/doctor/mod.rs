//! `hapax doctor`: examines everything a relay needs, and says of each thing that is wrong what was seen and what to
//! do about it.
//!
//! Invariants: nothing is written and no mail is sent; it needs no more than the relay's own user; each examination has
//! its own time limit and, in the database, its own connection, so that one which hangs hides no other. No secret and
//! no address is in a finding.
//!
//! Must not: repair anything.

mod database;
mod finding;
mod horizon;
mod intact;
mod locks;
mod machine;
mod outbox;
mod pooler;
mod records;
mod report;
mod route;
mod schema;
mod senders;
mod server;
mod setup;

use std::{future::Future, pin::Pin, time::Duration};

use finding::{Finding, Severity};
use futures_util::future::join_all;

use crate::{
    cli::doctor::Doctor,
    config::{Loaded, Route},
    failure::{Exit, Refusal},
    run::install_crypto,
};

/// One examination under way.
type Examination<'a> = Pin<Box<dyn Future<Output = Vec<Finding>> + 'a>>;

/// An examination is several steps: it may take so many times the limit of one.
const STEPS: u32 = 4;

/// Examines, and prints.
///
/// # Errors
/// A route that there is not. What is wrong with the system is a finding.
pub(crate) async fn run(loaded: Loaded, options: Doctor) -> anyhow::Result<Exit> {
    install_crypto();
    let routes = routes(&loaded, &options)?;
    let mut findings = setup::examine(&loaded);
    findings.extend(setup::templates(&loaded));
    findings.extend(machine::examine(&loaded.settings));
    if !options.offline {
        let mut examinations: Vec<Examination<'_>> = Vec::new();
        // What a file would have said that cannot be read is not asked about either.
        let database_is_named = !loaded.settings.database.url.is_empty()
            && !loaded.problems.iter().any(|problem| problem.path.starts_with("database"));
        if options.route.is_none() && database_is_named {
            examinations.push(Box::pin(database::examine(&loaded.settings, &options)));
        }
        for route in &routes {
            let name = format!("route.{}", route.name);
            examinations.push(limited(
                name,
                options.timeout,
                Box::pin(route::examine(route, &loaded.settings, &options)),
            ));
        }
        examinations.push(Box::pin(senders::examine(&routes, &options)));
        findings.extend(join_all(examinations).await.into_iter().flatten());
    }
    report::print(&findings, options.json, options.verbose)?;
    Ok(if report::worst(&findings) == Severity::Error { Exit::Failed } else { Exit::Done })
}

/// The routes to look at.
fn routes<'a>(loaded: &'a Loaded, options: &Doctor) -> Result<Vec<&'a Route>, Refusal> {
    let all = &loaded.settings.routes;
    let Some(wanted) = &options.route else { return Ok(all.iter().collect()) };
    match all.iter().find(|route| route.name == *wanted) {
        Some(route) => Ok(vec![route]),
        None => {
            let names: Vec<&str> = all.iter().map(|route| route.name.as_str()).collect();
            Err(Refusal::usage("there is no such route", &[&format!("the routes are: {}", names.join(", "))]))
        }
    }
}

/// The same, with an end: what hangs is a finding of its own.
fn limited<'a>(name: impl Into<String> + 'a, step: Duration, examination: Examination<'a>) -> Examination<'a> {
    let limit = step * STEPS;
    Box::pin(async move {
        match tokio::time::timeout(limit, examination).await {
            Ok(findings) => findings,
            Err(_elapsed) => {
                let evidence = format!("no end within {}", finding::told(limit.as_secs_f64()));
                vec![Finding::error(name, evidence, "see what it waits for, or give it longer: --timeout 1m")]
            }
        }
    })
}
