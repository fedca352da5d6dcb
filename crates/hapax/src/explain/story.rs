//! The facts about one delivery, as they were read, and what `explain` and `show` say about them in the same words.

use std::sync::Arc;

use hapax_store::inspect::{Attempt, Decision, Delivery, OpenDoubt, search::Circumstances};

use super::waiting::Standing;
use crate::output::one_line;

/// Everything that is known about one delivery.
#[derive(Clone, Debug)]
pub(crate) struct Story {
    pub(crate) delivery: Delivery,
    /// Its finished attempts, in the order of their ends.
    pub(crate) attempts: Vec<Attempt>,
    /// None when this database user may not see decisions.
    pub(crate) decisions: Option<Vec<Decision>>,
    pub(crate) doubt: Option<OpenDoubt>,
    pub(crate) around: Option<Circumstances>,
    /// Where something of its message waits.
    pub(crate) standing: Option<Arc<Standing>>,
}

impl Story {
    /// Picks what belongs to `delivery` from the facts of its message.
    pub(crate) fn of(
        delivery: &Delivery,
        attempts: &[Attempt],
        decisions: Option<&[Decision]>,
        doubts: &[OpenDoubt],
        around: &[Circumstances],
        standing: Option<&Arc<Standing>>,
    ) -> Self {
        let number = delivery.recipient_no;
        let concerns = |decision: &&Decision| decision.recipient_no.is_none_or(|concerned| concerned == number);
        Self {
            delivery: delivery.clone(),
            attempts: attempts.iter().filter(|attempt| attempt.recipient_no == number).cloned().collect(),
            decisions: decisions.map(|all| all.iter().filter(concerns).cloned().collect()),
            doubt: doubts.iter().find(|doubt| doubt.recipient_no == number).cloned(),
            around: around.iter().find(|around| around.recipient_no == number).cloned(),
            standing: standing.cloned(),
        }
    }

    /// `ID/NO`.
    pub(crate) fn name(&self) -> String {
        format!("{}/{}", self.delivery.message_id, self.delivery.recipient_no)
    }

    /// The attempts that ended like this.
    pub(crate) fn ended(&self, outcome: &str) -> Vec<&Attempt> {
        self.attempts.iter().filter(|attempt| attempt.outcome == outcome).collect()
    }

    /// The decisions of these kinds that may be seen, oldest first.
    pub(crate) fn decided(&self, actions: &[&str]) -> Vec<&Decision> {
        let decisions = self.decisions.as_deref().unwrap_or_default();
        decisions.iter().filter(|decision| actions.contains(&decision.action.as_str())).collect()
    }
}

/// A time of the database (ISO 8601, UTC) in a sentence.
pub(crate) fn at(time: &str) -> String {
    let seconds = time.split('.').next().unwrap_or(time).trim_end_matches('Z');
    format!("{} UTC", seconds.replacen('T', " ", 1))
}

/// The same where there may be none.
pub(crate) fn at_or_unknown(time: Option<&str>) -> String {
    time.map_or_else(|| "an unknown time".to_owned(), at)
}

/// A time of the database as milliseconds since 1970.
pub(crate) fn millis(time: &str) -> Option<i64> {
    let numbers: Vec<i64> = time
        .split(|c: char| !c.is_ascii_digit())
        .filter(|part| !part.is_empty())
        .map_while(|n| n.parse().ok())
        .collect();
    let [year, month, day, hour, minute, second, fraction] = numbers[..] else { return None };
    // Days of the civil calendar, with years that begin in March.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 719_469;
    Some((((days * 24 + hour) * 60 + minute) * 60 + second) * 1000 + fraction)
}

/// Words of somebody else, in quotes, on one line.
pub(crate) fn quoted(words: &str) -> String {
    format!("\"{}\"", one_line(words).trim())
}

/// What a mail server's log says of an attempt that no reply has settled.
pub(crate) fn by_log(attempt: &Attempt) -> Option<&str> {
    attempt.detail.as_deref()?.strip_prefix("Postfix log: ")
}

/// What an attempt has to say for itself: the server's words, else ours.
pub(crate) fn words(attempt: &Attempt) -> Option<String> {
    if by_log(attempt).is_some() {
        return attempt.detail.clone();
    }
    let code = attempt.code.map(|code| code.to_string());
    // Servers repeat the enhanced code in front of their words.
    let repeated = |enhanced: &&String| !attempt.reply.as_deref().is_some_and(|reply| reply.starts_with(*enhanced));
    let said = [code, attempt.enhanced.as_ref().filter(repeated).cloned(), attempt.reply.clone()];
    let said: Vec<String> = said.into_iter().flatten().filter(|part| !part.is_empty()).collect();
    let said = if said.is_empty() { attempt.detail.clone()? } else { said.join(" ") };
    Some(said).filter(|said| !said.trim().is_empty())
}

/// The server an attempt met.
pub(crate) fn server(attempt: &Attempt) -> String {
    attempt.server.clone().unwrap_or_else(|| "a server".to_owned())
}

/// Who decided: a policy speaks through a relay's user and says so in its reason.
pub(crate) fn who(decision: &Decision) -> String {
    match policy(decision) {
        Some(named) if named.starts_with("on_doubt") => format!("the policy {named}"),
        Some(_) => "a policy".to_owned(),
        None => format!("an operator (session user {})", decision.actor),
    }
}

/// What a policy says of itself, when one decided.
fn policy(decision: &Decision) -> Option<&str> {
    Some(decision.reason.as_deref()?.strip_prefix("policy")?.trim_start_matches([':', ' ']))
}

/// `, because "..."`; `on_doubt = ...` is its own reason.
pub(crate) fn because(decision: &Decision) -> String {
    let reason = match policy(decision) {
        Some(named) if named.starts_with("on_doubt") => return String::new(),
        Some(words) => words,
        None => decision.reason.as_deref().unwrap_or_default(),
    };
    if reason.trim().is_empty() { String::new() } else { format!(", because {}", quoted(reason)) }
}

/// A sentence begins with a capital letter.
pub(crate) fn capital(sentence: &str) -> String {
    let mut letters = sentence.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

/// Small numbers as words.
pub(crate) fn number(count: usize) -> String {
    let words = ["no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"];
    words.get(count).map_or_else(|| count.to_string(), ToString::to_string)
}

/// `a`, `a and b`, `a, b and c`.
pub(crate) fn list(items: &[String]) -> String {
    match items {
        [] => String::new(),
        [only] => only.clone(),
        [head @ .., last] => format!("{} and {last}", head.join(", ")),
    }
}

/// `1 attempt`, `2 attempts`.
pub(crate) fn counted(count: usize, noun: &str) -> String {
    if count == 1 { format!("one {noun}") } else { format!("{} {noun}s", number(count)) }
}

/// The state of another delivery, in a sentence.
pub(crate) fn state_words(state: Option<&str>) -> String {
    match state {
        Some("sent") => "was sent",
        Some("failed") => "failed",
        Some("cancelled") => "was cancelled",
        Some("expired") => "expired",
        Some("suppressed") => "was suppressed",
        Some("in_doubt") => "is in doubt",
        Some("held") => "is held",
        Some("claimed" | "sending") => "is being sent",
        Some("pending") => "waits to be sent",
        Some(other) => return format!("is {other}"),
        None => "is gone",
    }
    .to_owned()
}
