//! What happened when, from the producer's INSERT to the server's reply. Pure: facts in, lines out, in the order of time.

use hapax_store::inspect::{Attempt, Decision};
use serde::Serialize;

use super::story::{Story, at, by_log, millis, quoted, words};
use crate::show::relay;

/// Shorter attempts are told in one line.
const ATTEMPT_WITH_A_BEGINNING_S: f64 = 1.0;

/// One statement writes an outcome and its consequence; their times differ by moments, either way.
const ONE_STATEMENT_MS: i64 = 250;

/// One thing that happened, or is to come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Event {
    /// ISO 8601, UTC.
    pub(crate) at: String,
    /// `ID/NO`.
    pub(crate) delivery: String,
    /// enqueued, attempt, outcome, doubt, decision, end, next.
    pub(crate) event: &'static str,
    pub(crate) text: String,
}

/// All events of all deliveries, oldest first.
pub(crate) fn timeline(stories: &[&Story]) -> Vec<Event> {
    let mut events: Vec<Event> = stories.iter().flat_map(|story| events(story)).collect();
    // Stable: what happened at the same time stays in the order of its making.
    events.sort_by(|a, b| a.at.cmp(&b.at));
    events
}

fn events(story: &Story) -> Vec<Event> {
    let delivery = &story.delivery;
    let mut told = Vec::new();
    let mut tell = |at: &str, event: &'static str, text: String| {
        told.push(Event { at: at.to_owned(), delivery: story.name(), event, text });
    };
    tell(&delivery.created_at, "enqueued", enqueued(story));
    for attempt in &story.attempts {
        if let Some(started) = attempt.started_at.as_deref().filter(|_| has_a_beginning(attempt)) {
            tell(started, "attempt", format!("{} begins an attempt{}", relay_of(attempt), route(attempt)));
        }
        tell(&attempt.finished_at, "outcome", outcome(story, attempt));
    }
    if let Some(doubt) = &story.doubt {
        let by = match doubt.marked_by.as_deref() {
            Some("reaper") => "another relay noticed that its relay had vanished",
            _ => "its relay says so itself",
        };
        tell(&after_outcome(story, &doubt.doubt_since), "doubt", format!("in doubt: {by}"));
    }
    for decision in story.decisions.as_deref().unwrap_or_default() {
        tell(&decision.at, "decision", decided(decision));
    }
    if let Some(finished) = &delivery.finished_at {
        let evidence = delivery.evidence.as_deref().map(|evidence| format!(", evidence: {evidence}"));
        let reason = delivery.reason.as_deref().map(|reason| format!(", reason: {}", quoted(reason)));
        let (evidence, reason) = (evidence.unwrap_or_default(), reason.unwrap_or_default());
        tell(&after_outcome(story, finished), "end", format!("ends as {}{evidence}{reason}", delivery.state));
    }
    if let (Some(due), Some(true)) = (&delivery.due_at, delivery.due_later) {
        tell(due, "next", "will be due".to_owned());
    }
    told
}

/// The time of a consequence, never before the outcome that was written with it.
fn after_outcome(story: &Story, at: &str) -> String {
    let later_ms = |attempt: &Attempt| Some(millis(&attempt.finished_at)? - millis(at)?);
    let together = |attempt: &&Attempt| later_ms(attempt).is_some_and(|later| later.abs() <= ONE_STATEMENT_MS);
    let outcome = story.attempts.iter().filter(together).map(|attempt| attempt.finished_at.as_str()).min();
    outcome.unwrap_or(at).max(at).to_owned()
}

fn enqueued(story: &Story) -> String {
    let delivery = &story.delivery;
    let application = delivery.application_name.as_deref().filter(|name| !name.is_empty());
    let application = application.map(|name| format!("application {name}, ")).unwrap_or_default();
    let mut text = format!(
        "enqueued as {} by {application}session user {}, transaction {}",
        delivery.kind, delivery.session_role, delivery.txid
    );
    let key = story.around.as_ref().and_then(|around| around.dedup_key.as_deref());
    let more = [
        ("dedup_key", key.map(ToOwned::to_owned)),
        ("not before", delivery.not_before.as_deref().map(at)),
        ("expires at", delivery.expires_at.as_deref().map(at)),
        ("on_doubt", delivery.on_doubt.clone()),
    ];
    for (name, value) in more {
        if let Some(value) = value {
            text = format!("{text}, {name} {value}");
        }
    }
    text
}

fn has_a_beginning(attempt: &Attempt) -> bool {
    attempt.outcome == "unknown" || attempt.took_s.is_some_and(|took| took >= ATTEMPT_WITH_A_BEGINNING_S)
}

fn relay_of(attempt: &Attempt) -> String {
    format!("relay {}", relay(attempt))
}

fn route(attempt: &Attempt) -> String {
    let route = attempt.route.as_deref().filter(|route| !route.is_empty());
    route.map(|route| format!(" by route {route}")).unwrap_or_default()
}

/// Who brought the evidence that has settled an attempt, and what it says; no server's words.
fn evidence(story: &Story, attempt: &Attempt) -> Option<String> {
    let mut decisions = story.decisions.as_deref().unwrap_or_default().iter();
    let brought = decisions.find(|one| one.token == Some(attempt.token) && one.action.starts_with("evidence "));
    let (source, says) = match (by_log(attempt), brought) {
        (Some(log), _) => ("the Postfix log", log),
        (None, Some(_)) => ("evidence from elsewhere", attempt.detail.as_deref().unwrap_or_default()),
        (None, None) => return None,
    };
    let who = brought.map(|decision| format!(", reconciled by session user {}", decision.actor)).unwrap_or_default();
    let what = if attempt.outcome == "not_sent" { "it did not arrive" } else { "it was accepted" };
    Some(format!("by {source}{who}: {what}: {}", quoted(says)))
}

fn outcome(story: &Story, attempt: &Attempt) -> String {
    let said = words(attempt).map(|words| format!(": {}", quoted(&words))).unwrap_or_default();
    let server = attempt.server.as_deref().map(|server| format!(" by {server}")).unwrap_or_default();
    let settled = if attempt.outcome == "unknown" { None } else { evidence(story, attempt) };
    let what = match attempt.outcome.as_str() {
        _ if settled.is_some() => settled.unwrap_or_default(),
        "accepted" => format!("accepted{server}{said}"),
        "refused" => format!("refused for good{server}, at {}{said}", attempt.phase),
        "deferred" => format!("refused for now{server}, at {}{said}", attempt.phase),
        "not_sent" => format!("attempt failed before anything was sent, at {}{said}", attempt.phase),
        "unknown" if attempt.code.is_some() => {
            format!("an answer that is neither yes nor no: the outcome is unknown{said}")
        }
        "unknown" => format!("no answer after the end of the message: the outcome is unknown{said}"),
        other => format!("{other}{said}"),
    };
    let took = attempt.took_s.map(|took| format!(", took {took:.3} s")).unwrap_or_default();
    format!("{what} ({}{}{took})", relay_of(attempt), route(attempt))
}

fn decided(decision: &Decision) -> String {
    let change = match (&decision.before, &decision.after) {
        (Some(before), Some(after)) => format!(" (before: {before}, after: {after})"),
        _ => String::new(),
    };
    let application = decision.application_name.as_deref().filter(|name| !name.is_empty());
    let application = application.map(|name| format!(", {name}")).unwrap_or_default();
    let reason = decision.reason.as_deref().map(|reason| format!(", reason: {}", quoted(reason)));
    format!("{} by session user {}{application}{change}{}", decision.action, decision.actor, reason.unwrap_or_default())
}
