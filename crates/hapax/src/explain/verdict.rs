//! What became of one delivery, in a few sentences. Pure: facts in, words out.
//!
//! Invariant: only the ledger says that a copy was accepted; what somebody decided is called a decision, and an attempt
//! without an answer is a copy that may have arrived, whatever the state says.

use hapax_core::State;
use hapax_store::inspect::{Attempt, Decision, OpenDoubt};

use super::{
    story::{
        Story, at, at_or_unknown, because, by_log, capital, counted, list, millis, number, quoted, server, who, words,
    },
    waiting,
};
use crate::look::age;

/// The decisions after which a second copy may exist.
const RESENDS: [&str; 2] = ["resolve resend", "retry as resend"];

/// What a relay notes when it sends to another address than the recipient's.
const REDIRECTED: &str = "redirected by guards.redirect_all_to";
/// Heartbeats come several times in this.
pub(super) const SILENT_S: f64 = 10.0;

/// The whole verdict.
pub(crate) fn verdict(story: &Story) -> String {
    let delivery = &story.delivery;
    let finished = at_or_unknown(delivery.finished_at.as_deref());
    let sentences = match delivery.state.parse::<State>() {
        Ok(state)
            if state.is_terminal()
                && state != State::Sent
                && delivery.open_doubts > 0
                && in_digest(story).is_some() =>
        {
            vec![format!("It may have arrived: its digest, which has ended as {state}, may have.")]
        }
        Ok(State::Sent) => sent(story, &finished),
        Ok(State::Pending) => pending(story),
        Ok(State::Claimed) => vec!["A relay has it in hand; nothing has been transmitted yet.".to_owned()],
        Ok(State::Sending) => vec![sending(story)],
        Ok(State::InDoubt) => in_doubt(story),
        Ok(State::Held) => std::iter::once(held(story)).chain(may_have_arrived(story)).collect(),
        Ok(State::Failed) => failed(story, &finished),
        Ok(State::Cancelled) => cancelled(story, &finished),
        Ok(State::Expired) => expired(story, &finished),
        // A guard of the configuration, not something about the address.
        Ok(State::Suppressed) if reason(story).starts_with(": guards.") => {
            std::iter::once(format!("Not sent, suppressed{}.", reason(story))).chain(may_have_arrived(story)).collect()
        }
        Ok(State::Suppressed) => std::iter::once(format!("Not sent: its address is suppressed{}.", reason(story)))
            .chain(may_have_arrived(story))
            .collect(),
        Err(_) => vec![format!("Its state is {}, which this version does not know.", delivery.state)],
    };
    sentences
        .into_iter()
        .chain(evidence(story))
        .chain(copy_of(story))
        .chain(digest(story))
        .chain(sent_again_anew(story))
        .chain(delivery.content_gone.then(|| "Its content is gone: it cannot be sent again.".to_owned()))
        .collect::<Vec<_>>()
        .join(" ")
}

/// How many copies were certainly accepted, and how many more may have been.
pub(crate) fn copies(story: &Story) -> (usize, usize) {
    (story.ended("accepted").len(), story.ended("unknown").len())
}

fn reason(story: &Story) -> String {
    story.delivery.reason.as_deref().map(|reason| format!(": {}", reason.trim_end_matches('.'))).unwrap_or_default()
}

fn accepted_by(attempt: &Attempt) -> String {
    format!("accepted {}", by_server(attempt))
}

fn by_server(attempt: &Attempt) -> String {
    if let Some(log) = by_log(attempt) {
        return format!("by {}, by the Postfix log ({})", server(attempt), quoted(log));
    }
    let said = words(attempt).map(|words| format!(" with {}", quoted(&words))).unwrap_or_default();
    format!("by {} at {}{said}", server(attempt), at(&attempt.finished_at))
}

fn sent(story: &Story, finished: &str) -> Vec<String> {
    let accepted = story.ended("accepted");
    if story.delivery.evidence.as_deref() == Some("idempotent upstream") && !is_redirected(story) {
        let by = accepted.last().map_or_else(|| format!("as of {finished}"), |attempt| accepted_by(attempt));
        return vec![format!("Sent once: {by}. Its upstream knows repeats by their key: they made no further copy.")];
    }
    let mut told = match (story.delivery.evidence.as_deref(), accepted.as_slice()) {
        (_, []) if in_digest(story).is_some() => vec![format!("Sent at {finished}, in a digest.")],
        _ if is_redirected(story) => vec![redirected(&accepted)],
        (Some("reply") | None, []) => vec![format!("Sent at {finished}; the attempt itself is not kept any more.")],
        (_, [only]) => vec![once(story, only)],
        (_, [_, _, ..]) => {
            let each: Vec<String> = accepted.iter().map(|attempt| by_server(attempt)).collect();
            vec![format!("{} copies were accepted: {}.", capital(&number(accepted.len())), list(&each))]
        }
        (Some(evidence), []) => vec![taken_for_sent(story, evidence, finished)],
    };
    // The attempt that was taken for sent has been told.
    let taken =
        usize::from(accepted.is_empty() && matches!(story.delivery.evidence.as_deref(), Some("operator" | "policy")));
    told.extend(open_doubts(story, taken));
    told.extend(resends(story));
    told.extend(late(story));
    told
}

/// Whether the relay sent it to the address of a test instead.
fn is_redirected(story: &Story) -> bool {
    story.delivery.reason.as_deref().is_some_and(|reason| reason.contains(REDIRECTED))
}

fn redirected(accepted: &[&Attempt]) -> String {
    let each: Vec<String> = accepted.iter().map(|attempt| accepted_by(attempt)).collect();
    let how = if each.is_empty() { String::new() } else { format!(": {}", list(&each)) };
    format!("Redirected: it went to the address in guards.redirect_all_to, not to this one{how}.")
}

/// A relay that is silent for longer will hardly come back; another one decides.
fn sending(story: &Story) -> String {
    match story.around.as_ref().and_then(|around| around.relay_silent_s) {
        Some(silent_s) if silent_s > SILENT_S => format!(
            "It was being sent, but its relay has been silent for {}; another running relay will put it in doubt: start \
             one if there is none.",
            age(silent_s)
        ),
        _ => "It is being sent at this moment: a relay transmits it or waits for the server's reply.".to_owned(),
    }
}

fn once(story: &Story, accepted: &Attempt) -> String {
    let doubts = story.ended("unknown").len();
    let others = story.attempts.len() - 1 - doubts;
    let after = match others {
        0 => String::new(),
        others => format!(", after {} that left no copy", counted(others, "attempt")),
    };
    let head = if doubts == 0 { "Sent once" } else { "One copy is certain" };
    format!("{head}: {}{after}.", accepted_by(accepted))
}

fn taken_for_sent(story: &Story, evidence: &str, finished: &str) -> String {
    let decision = story.decided(&["resolve sent"]).pop();
    match (evidence, decision) {
        ("operator" | "policy", Some(decision)) => format!(
            "Taken for sent: {} decided so at {}{}. No reply of a server is known.",
            who(decision),
            at(&decision.at),
            because(decision)
        ),
        ("operator", None) => {
            let why = story.delivery.reason.as_deref().map(|reason| format!(", because {}", quoted(reason)));
            let why = why.unwrap_or_default();
            format!("Taken for sent: an operator decided so at {finished}{why}. No reply of a server is known.")
        }
        ("policy", None) => format!(
            "Taken for sent: its policy decided so at {finished}{}. No reply of a server is known.",
            reason(story)
        ),
        ("erased", _) => format!(
            "Taken for sent: its doubt was closed at {finished}, when its address was erased. No reply of a server is known."
        ),
        _ => format!("Sent, as far as is known at {finished}: the evidence is {}{}.", quoted(evidence), reason(story)),
    }
}

/// Attempts without an answer, but for so many that have been told.
fn open_doubts(story: &Story, told: usize) -> Option<String> {
    let unknown = story.ended("unknown");
    let since: Vec<String> = unknown.iter().map(|attempt| at(&attempt.finished_at)).collect();
    let known = usize::try_from(story.delivery.open_doubts).unwrap_or_default();
    let open = unknown.len().max(known).saturating_sub(told);
    match open {
        0 => None,
        1 if since.len() == 1 => {
            Some(format!("The attempt of {} ended without an answer: that copy may have arrived, too.", since[0]))
        }
        open => Some(format!("{} ended without an answer: each may have arrived.", capital(&counted(open, "attempt")))),
    }
}

/// Who wanted a further copy, and what was known then.
fn resends(story: &Story) -> Vec<String> {
    let decisions = story.decided(&RESENDS);
    if decisions.is_empty() {
        return match story.delivery.resends {
            0 => Vec::new(),
            times => {
                let times = if times == 1 { "once".to_owned() } else { format!("{times} times") };
                vec![format!("It was sent again {times} by decision; who decided can be seen as outbox_operator.")]
            }
        };
    }
    let mut told: Vec<String> = decisions.iter().map(|decision| resend(decision)).collect();
    if let (Some(decision), [first, _, ..]) = (decisions.first(), story.ended("accepted").as_slice())
        && first.finished_at > decision.at
    {
        told.push(format!("That the first copy had been accepted became known only at {}.", at(&first.finished_at)));
    }
    told
}

fn resend(decision: &Decision) -> String {
    let decided = capital(&who(decision));
    format!("{decided} decided at {} to send it again{}.", at(&decision.at), because(decision))
}

/// The reply that came after everybody had given it up.
fn late(story: &Story) -> Option<String> {
    let reason = story.delivery.reason.as_deref()?;
    if let Some(before) = reason.strip_prefix("late reply, after it was ") {
        return Some(format!("The server's reply became known late, when the delivery already counted as {before}."));
    }
    let doubted = reason.starts_with("late reply") || reason == "an earlier attempt was accepted";
    doubted.then(|| "The server's reply became known late: until then it was in doubt.".to_owned())
}

/// What is known about a doubt, and how to decide it.
fn in_doubt(story: &Story) -> Vec<String> {
    if let Some(id) = in_digest(story) {
        return vec![format!("In doubt, with digest {id}: nobody knows whether that arrived. It is decided there.")];
    }
    let Some(doubt) = &story.doubt else {
        return vec!["Nobody knows whether it arrived; the doubt has just changed, look again.".to_owned()];
    };
    let answer = story.attempts.iter().find(|attempt| attempt.token == doubt.token && attempt.code.is_some());
    let why = match (doubt.marked_by.as_deref(), answer.and_then(words)) {
        (Some("reaper"), _) => "its relay vanished while it was sending".to_owned(),
        (_, Some(said)) => format!("the server answered {}, which is neither yes nor no", quoted(&said)),
        _ => "the connection was lost between the end of the message and the server's reply".to_owned(),
    };
    let mut told = vec![format!(
        "In doubt since {}. Nobody knows whether it arrived: {why}. Look for {} in the mail server's log around {}, then: \
         hapax resolve {} sent|resend|failed --reason '...'{}",
        at(&doubt.doubt_since),
        doubt.message_id_header,
        at_or_unknown(doubt.intent_at.as_deref()),
        doubt.token,
        early(doubt)
    )];
    if is_redirected(story) {
        told.push("It went to the address in guards.redirect_all_to, not to this one.".to_owned());
    }
    told.extend(by_itself(story));
    for attempt in story.ended("accepted") {
        told.push(format!("An earlier copy was {}.", accepted_by(attempt)));
    }
    let earlier = story.ended("unknown").into_iter().filter(|attempt| attempt.token != doubt.token).count();
    if earlier > 0 {
        told.push(format!("{} before it ended without an answer, too.", capital(&counted(earlier, "attempt"))));
    }
    told.extend(resends(story));
    told
}

/// When resend and failed are refused: never a time that is over by the database's clock.
fn early(doubt: &OpenDoubt) -> String {
    if !doubt.may_be_alive {
        return String::new();
    }
    #[expect(clippy::cast_possible_truncation, reason = "an age in milliseconds")]
    let now = millis(&doubt.doubt_since).map(|since| since + (doubt.age_s * 1000.0) as i64);
    let until = doubt.may_be_alive_until.as_deref();
    match until {
        Some(until) if millis(until) > now => format!(" (resend and failed only after {})", at(until)),
        _ => " (resend and failed only once a running relay has watched it for the whole grace)".to_owned(),
    }
}

/// What the database knows of policies; those of kinds and routes are in the relays' configuration.
fn by_itself(story: &Story) -> Option<String> {
    let same_key = story.around.as_ref().and_then(|around| around.same_key) == Some(true);
    let own = story.delivery.on_doubt.as_deref().filter(|policy| matches!(*policy, "resend" | "assume_sent"));
    let policy = match (own, same_key) {
        (_, true) => "its upstream knows repeats by their key".to_owned(),
        (Some(policy), false) => format!("on_doubt = {policy}"),
        (None, false) => return None,
    };
    Some(format!("It may decide itself by policy ({policy})."))
}

fn held(story: &Story) -> String {
    let delivery = &story.delivery;
    if let Some(id) = in_digest(story) {
        return format!("Held, with digest {id}: nothing is sent until somebody decides on that.");
    }
    let go_on = format!("Nothing is sent until somebody decides: hapax release {} --reason '...'", delivery.message_id);
    match story.decided(&["hold", "release"]).last() {
        Some(decision) if decision.action == "hold" => {
            format!("Held: {} stopped it at {}{}. {go_on}", who(decision), at(&decision.at), because(decision))
        }
        _ => {
            let by = if story.decisions.is_some() { "a guard" } else { "a guard or an operator" };
            format!("Held by {by}{}. {go_on}", reason(story))
        }
    }
}

fn may_have_arrived(story: &Story) -> Option<String> {
    (story.delivery.open_doubts > 0)
        .then(|| "It may have arrived nevertheless: an attempt ended without an answer.".to_owned())
}

fn failed(story: &Story, finished: &str) -> Vec<String> {
    let decision = story.decided(&["resolve failed"]).pop();
    let refused = story.attempts.last().filter(|attempt| attempt.outcome == "refused");
    let first = match (decision, refused) {
        (Some(decision), _) if story.delivery.open_doubts > 0 => format!(
            "Given up: {} decided at {} that it did not arrive and shall not be sent again{}.",
            who(decision),
            at(&decision.at),
            because(decision)
        ),
        (_, Some(refused)) => {
            let said = words(refused).map(|words| format!(" with {}", quoted(&words))).unwrap_or_default();
            format!("Not sent: {} refused it for good at {}{said}.", server(refused), at(&refused.finished_at))
        }
        _ => format!("Not sent: it failed at {finished}{}.", reason(story)),
    };
    std::iter::once(first).chain(may_have_arrived(story)).chain(resends(story)).collect()
}

fn cancelled(story: &Story, finished: &str) -> Vec<String> {
    let first = match story.decided(&["cancel"]).pop() {
        Some(decision) => format!(
            "Not sent: cancelled by session user {} at {}{}.",
            decision.actor,
            at(&decision.at),
            because(decision)
        ),
        None => {
            let why = story.delivery.reason.as_deref().map(|reason| format!(", because {}", quoted(reason)));
            format!("Not sent: cancelled at {finished}{}.", why.unwrap_or_default())
        }
    };
    std::iter::once(first).chain(may_have_arrived(story)).collect()
}

fn expired(story: &Story, finished: &str) -> Vec<String> {
    let limit = story.delivery.expires_at.as_deref().map(|limit| format!(" (expires_at {})", at(limit)));
    let mut told = vec![format!("Not sent: its time had passed at {finished}{}.", limit.unwrap_or_default())];
    told.extend(story.attempts.last().map(|last| format!("Its last attempt {}.", ending(last))));
    told.extend(may_have_arrived(story));
    told
}

/// How an attempt ended, in a sentence that begins with "the attempt".
pub(super) fn ending(attempt: &Attempt) -> String {
    if let (Some(log), "not_sent") = (by_log(attempt), attempt.outcome.as_str()) {
        return format!("did not arrive, by the Postfix log: {}", quoted(log));
    }
    let said = words(attempt).map(|words| format!(": {}", quoted(&words))).unwrap_or_default();
    let (when, server) = (at(&attempt.finished_at), server(attempt));
    match attempt.outcome.as_str() {
        "deferred" => format!("was refused for now by {server} at {when}{said}"),
        "refused" => format!("was refused for good by {server} at {when}{said}"),
        "accepted" => format!("was accepted by {server} at {when}{said}"),
        "unknown" => format!("ended without an answer at {when}{said}"),
        _ => format!("ended at {when} before anything was sent ({}){said}", attempt.phase),
    }
}

fn pending(story: &Story) -> Vec<String> {
    let mut told = waiting::sentences(story);
    told.extend(resends(story));
    told.extend(story.ended("accepted").iter().map(|attempt| format!("An earlier copy was {}.", accepted_by(attempt))));
    told.extend(open_doubts(story, 0));
    told
}

/// What a mail server's log or a report has settled: the ledger has it, but no relay read that reply.
fn evidence(story: &Story) -> Vec<String> {
    let decisions = story.decisions.as_deref().unwrap_or_default().iter();
    let told = decisions.filter_map(|decision| {
        let what = match decision.action.strip_prefix("evidence ")? {
            "accepted" => "that it was accepted",
            "not_sent" => "that it had not arrived",
            _ => return None,
        };
        let brought = format!("session user {} brought evidence at {}", decision.actor, at(&decision.at));
        let words = decision.reason.as_deref().map(|reason| format!(": {}", quoted(reason))).unwrap_or_default();
        Some(capital(&format!("{brought} {what}{words}.")))
    });
    told.collect()
}

/// It is itself what an operator has sent again.
pub(crate) fn copy_of(story: &Story) -> Option<String> {
    let around = story.around.as_ref()?;
    let (original, when) = (around.copy_of?, at_or_unknown(around.copied_at.as_deref()));
    let by = around.copied_by.as_deref().map(|by| format!(" (session user {by})")).unwrap_or_default();
    let why = around.copy_reason.as_deref().map(|why| format!(", because {}", quoted(why))).unwrap_or_default();
    Some(format!("This is message {original}, which an operator{by} sent again at {when}{why}."))
}

/// The digest that it is in.
fn in_digest(story: &Story) -> Option<&str> {
    story.delivery.reason.as_deref()?.strip_prefix("in digest ")?.get(..36)
}

/// It is in a digest, or is one.
fn digest(story: &Story) -> Vec<String> {
    let within = in_digest(story).map(|id| format!("It ends as digest {id}: hapax explain {id}."));
    let made_of = story.around.as_ref().map(|around| around.made_of.as_slice()).filter(|members| !members.is_empty());
    let made_of = made_of.map(|members| format!("It is a digest of {}: {}.", members.len(), members.join(", ")));
    within.into_iter().chain(made_of).collect()
}

/// An operator has enqueued the same again as a new message.
fn sent_again_anew(story: &Story) -> Vec<String> {
    let decisions = story.decisions.as_deref().unwrap_or_default().iter();
    let anew = decisions.filter(|decision| decision.action.replace('_', " ").starts_with("send again"));
    anew.map(|decision| {
        let decided = capital(&who(decision));
        let into = decision.after.as_deref().map(|after| format!(" ({after})")).unwrap_or_default();
        format!("{decided} sent the same again as a new message{into} at {}{}.", at(&decision.at), because(decision))
    })
    .collect()
}
