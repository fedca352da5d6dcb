//! What a pending delivery waits for, as far as the database knows: in a word for programs, in sentences for people. What
//! only a relay's configuration knows (a `rate`, `max_connections`) is not told here.

use std::sync::Arc;

use hapax_core::State;
use hapax_store::{
    ArmedState, Error,
    inspect::{Attempt, Blocking, Console, Delivery, Relay, search::Circumstances},
};
use serde::Serialize;

use super::{
    story::{Story, at, counted, state_words},
    verdict::{SILENT_S, ending},
};
use crate::look::{resume, route_states};

/// Failures here are the route's (server, network, credentials), not the message's.
const ROUTE_PHASES: [&str; 8] = ["resolve", "connect", "tls", "greeting", "ehlo", "starttls", "auth", "intend"];
/// So many routes and relays are told of.
const HINDRANCES_MAX: usize = 5;
/// As far as is counted, of one lane.
const DUE_COUNTED: i64 = 20_000;

/// What stands around the deliveries of a message that wait.
#[derive(Clone, Debug)]
pub(crate) struct Standing {
    pub(crate) server: ArmedState,
    /// None when this database user may not look.
    pub(crate) relays: Option<Vec<Relay>>,
    /// How many are due, and in nobody's hands.
    pub(crate) due: Option<i64>,
    /// Heads of ordering keys that have stopped.
    pub(crate) blocking: Vec<Blocking>,
}

/// What a delivery waits for.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "for", rename_all = "snake_case")]
pub(crate) enum Waits {
    /// What is ahead of it in its ordering key.
    OrderingKey { head: String, state: Option<String>, ahead: i64, passed_at: Option<String> },
    /// Its route, kind, tenant or address is paused.
    Resume { why: String },
    /// Quiet hours of its kind.
    QuietHours { until: Option<String>, why: String },
    /// Others that go with it in one message, or that message.
    Digest { until: Option<String>, why: String },
    /// The time the application wants.
    NotBefore { until: String },
    /// A time at which it is tried, again or for the first time: a route that rests gives back what it had.
    NextTry { until: Option<String>, hindrances: Vec<String> },
    /// It is due: a relay, and what that could want.
    Relay { since: Option<String>, due: Option<i64>, hindrances: Vec<String> },
    /// Nothing that has a name.
    Unknown { why: Option<String> },
}

/// Asks what stands around `deliveries`, if any of them waits.
///
/// # Errors
/// Any of the database's.
pub(crate) async fn ask(
    console: &Console,
    deliveries: &[Delivery],
    around: &[Circumstances],
) -> Result<Option<Arc<Standing>>, Error> {
    if deliveries.iter().all(|delivery| delivery.state != State::Pending.as_str()) {
        return Ok(None);
    }
    let server = console.armed_state().await?;
    let relays = console.relay_list().await?;
    let due = console.due_count().await?;
    let mut blocking = Vec::new();
    let mut heads: Vec<_> = around.iter().filter(|one| is_stopped(one)).filter_map(head).collect();
    heads.dedup();
    for head in heads {
        blocking.extend(console.blocked_list(Some(head), 1).await?.unwrap_or_default());
    }
    Ok(Some(Arc::new(Standing { server, relays, due, blocking })))
}

fn head(around: &Circumstances) -> Option<(uuid::Uuid, i32)> {
    Some((around.waits_for?, around.waits_for_no.unwrap_or_default()))
}

fn is_stopped(around: &Circumstances) -> bool {
    let stopped = [State::InDoubt, State::Held].map(State::as_str);
    around.waits_for_state.as_deref().is_some_and(|state| stopped.contains(&state))
}

/// What it waits for; none when it does not wait.
pub(crate) fn waits(story: &Story) -> Option<Waits> {
    let delivery = &story.delivery;
    if delivery.state != State::Pending.as_str() {
        return None;
    }
    let later = delivery.due_later == Some(true);
    if let Some((around, head)) = story.around.as_ref().and_then(|around| Some((around, head(around)?))) {
        let blocking = story.standing.iter().flat_map(|standing| &standing.blocking);
        let passed_at =
            blocking.filter(|one| (one.message_id, one.recipient_no) == head).find_map(|one| one.passed_at.clone());
        return Some(Waits::OrderingKey {
            head: format!("{}/{}", head.0, head.1),
            state: around.waits_for_state.clone(),
            ahead: around.ahead.unwrap_or_default(),
            passed_at,
        });
    }
    let reason = delivery.reason.clone().unwrap_or_default();
    let until = delivery.due_at.clone();
    let hindrances = || story.standing.as_ref().map(|standing| hindrances(story, standing)).unwrap_or_default();
    Some(match &delivery.not_before {
        _ if reason.starts_with("paused (") => Waits::Resume { why: reason },
        _ if reason.starts_with("quiet hours") && later => Waits::QuietHours { until, why: reason },
        _ if reason.starts_with("in digest ") || reason.starts_with("gathered: ") && later => {
            Waits::Digest { until, why: reason }
        }
        Some(earliest) if later && story.attempts.is_empty() => Waits::NotBefore { until: earliest.clone() },
        _ if later => Waits::NextTry { until, hindrances: hindrances() },
        _ if until.is_some() => Waits::Relay {
            since: until,
            due: story.standing.as_ref().and_then(|standing| standing.due),
            hindrances: hindrances(),
        },
        _ => Waits::Unknown { why: delivery.reason.clone() },
    })
}

/// Why relays do not take what is due, as far as they or the server have said.
fn hindrances(story: &Story, standing: &Standing) -> Vec<String> {
    if standing.server.standby {
        return vec!["This is a standby: nothing is sent from here.".to_owned()];
    }
    if !standing.server.armed {
        return vec!["Nothing is sent from this database: it is not armed, `hapax status` says why.".to_owned()];
    }
    let Some(relays) = &standing.relays else { return Vec::new() };
    let alive = || relays.iter().filter(|relay| relay.beat_age_s <= SILENT_S);
    if alive().next().is_none() {
        return vec!["No relay is alive: hapax run".to_owned()];
    }
    if let Some(route) = story.delivery.route.as_deref().filter(|route| !route.is_empty())
        && alive().all(|relay| has_route(relay, route) == Some(false))
    {
        return vec![format!(
            "No running relay has route {route} in its configuration: five minutes after the last one that had it, it goes by \
             the configuration there is, or is held. Put [routes.{route}] back, or hapax cancel it."
        )];
    }
    // Which way it takes may be known to the configuration alone: then of every route.
    let last = story.attempts.last().and_then(|last| last.route.as_deref());
    let own = story.delivery.route.as_deref().or(last).filter(|route| !route.is_empty());
    let told = alive().flat_map(|relay| route_states(relay).into_iter().map(move |told| (relay, told)));
    let concerns = |route: &str| own.is_none_or(|own| own == route);
    let told = told.filter(|(_, told)| told["route"].as_str().is_some_and(concerns));
    told.take(HINDRANCES_MAX).map(|(relay, told)| route_words(relay, &told)).collect()
}

/// Whether a relay has that route, where it says which it has.
fn has_route(relay: &Relay, route: &str) -> Option<bool> {
    let routes: Vec<String> = serde_json::from_str(relay.routes.as_deref()?).ok()?;
    Some(routes.iter().any(|own| own == route))
}

/// What a relay says of a route, in a sentence.
fn route_words(relay: &Relay, told: &serde_json::Value) -> String {
    let word = |key: &str| told[key].as_str().unwrap_or("-").to_owned();
    let number = |key: &str| usize::try_from(told[key].as_u64().unwrap_or_default()).unwrap_or(usize::MAX);
    let (route, name) = (word("route"), &relay.name);
    let why = Some(word("why")).filter(|why| !why.is_empty()).map(|why| format!(" ({why})")).unwrap_or_default();
    match told["state"].as_str() {
        Some("resting") => format!(
            "Route {route} rests on relay {name} after {}{why}: it is tried with one delivery now and then.",
            counted(number("failures"), "failure")
        ),
        Some("slowed") => {
            format!(
                "Route {route} is slowed down on relay {name} to {}{why}.",
                counted(number("connections"), "connection")
            )
        }
        _ => format!("Route {route} is {} on relay {name}{why}.", word("state")),
    }
}

/// The same for people.
pub(super) fn sentences(story: &Story) -> Vec<String> {
    let Some(waits) = waits(story) else { return Vec::new() };
    match waits {
        Waits::OrderingKey { head, state, ahead, passed_at } => {
            let others = if ahead > 1 { format!(" ({ahead} are ahead of it)") } else { String::new() };
            let state = state_words(state.as_deref());
            let passed = passed_at.map(|time| format!(" It is passed at {}.", at(&time))).unwrap_or_default();
            vec![format!(
                "Waits behind its ordering key, whose head {head} {state}{others}.{passed} hapax explain {head}"
            )]
        }
        Waits::Resume { why } => vec![format!("Waits: it is {why}. It goes on after `{}`.", resume_of(&why))],
        Waits::QuietHours { why, .. } | Waits::Digest { why, .. } => vec![format!("Waits: {why}.")],
        Waits::NotBefore { until } => {
            vec![format!("Waits for its time: the application wants it sent not before {}.", at(&until))]
        }
        Waits::NextTry { until, hindrances } => {
            let next = until.map_or_else(|| "not due".to_owned(), |time| format!("next try at {}", at(&time)));
            std::iter::once(tried(story, &next)).chain(hindrances).collect()
        }
        Waits::Relay { since, due, hindrances } => {
            let since = since.map_or_else(|| "due".to_owned(), |time| format!("due since {}", at(&time)));
            let mut told = vec![tried(story, &since)];
            if hindrances.is_empty() {
                told.extend(among(due));
            }
            told.extend(hindrances);
            told
        }
        Waits::Unknown { why } => vec![tried(story, why.as_deref().unwrap_or("not due"))],
    }
}

/// How to end such a pause: what is paused stands in front of who did it.
fn resume_of(why: &str) -> String {
    let what = why
        .strip_prefix("paused (")
        .and_then(|rest| rest.split_once(", by "))
        .and_then(|(what, _)| what.split_once(' '));
    what.map_or_else(|| "hapax resume".to_owned(), |(what, name)| resume(what, name))
}

fn among(due: Option<i64>) -> Option<String> {
    let due = due.filter(|due| *due > 1)?;
    let more = if due < DUE_COUNTED { "" } else { " or more" };
    Some(format!(
        "{due}{more} deliveries are due; how fast they go is up to `rate` and `max_connections` of their routes."
    ))
}

/// What has been tried so far, and what comes next.
fn tried(story: &Story, next: &str) -> String {
    let Some(last) = story.attempts.last() else {
        return format!("Waits for a relay: {next}. No attempt has been made yet; `hapax status` shows the relays.");
    };
    let route = |attempt: &&Attempt| attempt.outcome == "not_sent" && ROUTE_PHASES.contains(&attempt.phase.as_str());
    let failures = story.attempts.iter().rev().take_while(route).count();
    if failures > 0 {
        let route = last.route.as_deref().filter(|route| !route.is_empty()).unwrap_or("default");
        let times = if failures == 1 { "once".to_owned() } else { format!("{failures} times in a row") };
        return format!("Waits: route {route} has failed {times} for it; the last attempt {}; {next}.", ending(last));
    }
    format!("Waits, after {}: the last one {}; {next}.", counted(story.attempts.len(), "attempt"), ending(last))
}
