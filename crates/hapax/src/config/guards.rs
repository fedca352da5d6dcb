//! `[guards]`: who may get mail from here, and how long a delivery may have been due.
//!
//! A guard that narrows who gets mail is announced at every start: on a production system it is a mistake.

use std::time::Duration;

use config::{Map, Value};
use hapax_core::{
    Recipient,
    guards::{Guards, MAX_AGE, RecipientRule},
};

use super::{
    duration,
    origin::Problem,
    reader::{Reader, Section},
    schema::Shape,
};

const MINUTE: Duration = Duration::from_secs(60);
const YEAR: Duration = Duration::from_secs(366 * 24 * 3600);

pub(super) fn read(reader: &mut Reader, root: &mut Map<String, Value>) -> Guards {
    let mut section = reader.section(root, "", "guards");
    let recipients_allow = recipients_allow(&mut section);
    let redirect_all_to = redirect_all_to(&mut section);
    let max_age = max_age(&mut section);
    section.finish();
    let mut warn = |key: &str, message: &str| reader.warnings.push(Problem::new(format!("guards.{key}"), message));
    match (&recipients_allow, &redirect_all_to) {
        (Some(_), Some(_)) => {
            warn("recipients_allow", "is on: only these recipients get their mail");
            warn("redirect_all_to", "is on: all other mail goes to that address instead");
        }
        (Some(_), None) => {
            warn("recipients_allow", "is on: all other recipients get nothing, their mail is suppressed")
        }
        (None, Some(_)) => warn("redirect_all_to", "is on: all mail goes to that address, nobody gets theirs"),
        (None, None) => {}
    }
    Guards { recipients_allow, redirect_all_to, max_age }
}

fn recipients_allow(section: &mut Section<'_>) -> Option<Vec<RecipientRule>> {
    const HINT: &str =
        "everybody at a domain is \"@example.org\" (without its subdomains), one address \"qa@example.com\"";
    let given = section.list("recipients_allow")?;
    if given.is_empty() {
        let path = section.path("recipients_allow");
        let problem = Problem::new(path, "is empty, so nobody would get mail");
        section.reader.problems.push(problem.hint(format!("leave it out to let everybody get mail; {HINT}")));
    }
    let mut rules = Vec::new();
    for one in &given {
        match RecipientRule::parse(&one.text) {
            Ok(rule) => rules.push(rule),
            Err(error) => section.refuse_with("recipients_allow", one, error.to_string(), HINT),
        }
    }
    Some(rules)
}

fn redirect_all_to(section: &mut Section<'_>) -> Option<Recipient> {
    let given = section.take("redirect_all_to");
    section.show("redirect_all_to", given.as_ref(), None);
    let given = given?;
    match Recipient::parse(&given.text) {
        Ok(recipient) => Some(recipient),
        Err(error) => {
            let hint = "one address that gets everything: redirect_all_to = \"staging@example.org\"";
            section.refuse_with("redirect_all_to", &given, error.to_string(), hint);
            None
        }
    }
}

/// A duration, or `off`.
fn max_age(section: &mut Section<'_>) -> Option<Duration> {
    let given = section.take_as("max_age", Shape::DurationOr("off"));
    section.show("max_age", given.as_ref(), Some(format!("{:?}", duration::format(MAX_AGE))));
    let Some(given) = given else { return Some(MAX_AGE) };
    if given.text == "off" {
        return None;
    }
    match duration::parse(&given.text) {
        Some(limit) if (MINUTE..=YEAR).contains(&limit) => return Some(limit),
        Some(_) => {
            let message =
                format!("must be between {} and {}, or off", duration::format(MINUTE), duration::format(YEAR));
            section.refuse("max_age", &given, message);
        }
        None => section.refuse("max_age", &given, format!("is neither off nor {}", duration::SHAPE)),
    }
    Some(MAX_AGE)
}
