//! `[canary]`: a notification of Hapax's own, to see that mail goes through.

use std::{sync::Arc, time::Duration};

use config::{Map, Value};
use hapax_core::{
    Recipient,
    guards::{Addressee, Guards},
};
use hapax_relay::Canary;

use super::{
    assemble::known_route,
    origin::Problem,
    reader::{Reader, Section},
    settings::Route,
};

const EVERY: Duration = Duration::from_secs(300);
const EVERY_MIN: Duration = Duration::from_secs(1);
const EVERY_MAX: Duration = Duration::from_secs(24 * 3600);
/// More often than this is for trying it out.
const EVERY_USUAL: Duration = Duration::from_secs(10);

/// There is one where a recipient is named.
pub(super) fn read(
    reader: &mut Reader,
    root: &mut Map<String, Value>,
    routes: &[Route],
    guards: &Guards,
) -> Option<Arc<Canary>> {
    let mut section = reader.section(root, "", "canary");
    let is_begun = !section.names().is_empty();
    let recipient = address(&mut section, "recipient");
    if is_begun && recipient.is_none() && !section.has_problem("recipient") {
        section.missing(
            "recipient",
            "a mailbox of your own, or an address that accepts and discards: recipient = \"canary@example.com\"; \
             or leave all of [canary] out",
        );
    }
    let every = section.duration("every", EVERY, EVERY_MIN..=EVERY_MAX);
    let route = known_route(&mut section, routes);
    let from = address(&mut section, "from");
    section.finish();
    let (recipient, parsed) = recipient?;
    let mut warn = |key: &str, message: &str| reader.warnings.push(Problem::new(format!("canary.{key}"), message));
    if guards.addressee(parsed) == Addressee::Stopped {
        warn(
            "recipient",
            "guards.recipients_allow does not allow it: every canary is suppressed, so it is always late",
        );
    }
    if every < EVERY_USUAL {
        warn("every", "is short: one message so often, for good");
    }
    let from = from.map(|(from, _)| from);
    Some(Arc::new(Canary { recipient, every, route, from }))
}

fn address(section: &mut Section<'_>, key: &'static str) -> Option<(String, Recipient)> {
    let given = section.take(key);
    section.show(key, given.as_ref(), None);
    let given = given?;
    match Recipient::parse(&given.text) {
        Ok(parsed) => Some((given.text, parsed)),
        Err(error) => {
            section.refuse(key, &given, error.to_string());
            None
        }
    }
}
