//! How the answer is laid out: the verdict first, then the notifications, then the time line.

use std::collections::BTreeMap;

use hapax_store::inspect::{Erased, search::Twins};
use serde_json::json;

use super::{
    story::{Story, at, capital, counted, list, quoted},
    timeline::timeline,
    twins,
    verdict::{copies, copy_of, verdict},
    waiting::waits,
};
use crate::{
    look::{age, or_dash},
    output::{self, Table},
};

/// Two of a kind that are closer than this deserve a word.
const CLOSE_S: f64 = 3600.0;

/// What was found.
#[derive(Debug)]
pub(crate) struct Findings {
    /// address, message, Message-ID, token.
    pub(crate) by: &'static str,
    /// What was asked for, oldest first.
    pub(crate) stories: Vec<Story>,
    /// The twins of what was asked for by id.
    pub(crate) others: Vec<Story>,
    /// Newest first.
    pub(crate) twins: Vec<Twins>,
    /// Whether there are more than are told.
    pub(crate) more: bool,
    /// The states of all deliveries of the message, also of those that are not told.
    pub(crate) states: Vec<String>,
    /// What is known of the address by its proof, newest first.
    pub(crate) erased: Vec<Erased>,
}

/// # Errors
/// What is no JSON.
pub(crate) fn print(typed: &str, findings: &Findings, as_json: bool) -> anyhow::Result<()> {
    let verdicts = verdicts(findings);
    let mut stories: Vec<&Story> = findings.stories.iter().chain(&findings.others).collect();
    stories.sort_by(|a, b| a.delivery.created_at.cmp(&b.delivery.created_at));
    let events = timeline(&stories);
    if as_json {
        let told = stories.iter().map(|story| {
            json!({
                "delivery": story.delivery, "verdict": verdict(story), "waits": waits(story), "attempts": story.attempts,
                "decisions": story.decisions, "doubt": story.doubt, "circumstances": story.around,
            })
        });
        return output::json(&json!({
            "asked": typed, "found_by": findings.by, "verdict": verdicts, "deliveries": told.collect::<Vec<_>>(),
            "suspected_duplicates": findings.twins, "timeline": events, "more": findings.more,
            "erased": findings.erased,
        }));
    }
    output::line("Verdict");
    for sentence in verdicts {
        output::line(&format!("  {}", output::one_line(&sentence)));
    }
    erased_table(&findings.erased);
    if stories.is_empty() {
        return Ok(());
    }
    output::line("\nNotifications");
    let labels: BTreeMap<String, String> =
        stories.iter().enumerate().map(|(at, story)| (story.name(), format!("[{}]", at + 1))).collect();
    for story in &stories {
        let delivery = &story.delivery;
        let recipient = or_dash(delivery.recipient.as_deref());
        let head = format!("{}  {}  to {recipient}  {}", story.name(), delivery.kind, delivery.state);
        output::line(&format!("  {} {}", labels[&story.name()], output::one_line(&head)));
        if stories.len() > 1 {
            output::line(&format!("      {}", output::one_line(&verdict(story))));
        }
    }
    if findings.more {
        output::line(&format!("  ... and more: --limit {}", findings.stories.len() * 10));
    }
    output::line("\nTime line (UTC)");
    let mut table = Table::new(&[]);
    for event in &events {
        let at = event.at.trim_end_matches('Z').replacen('T', " ", 1);
        table.row([format!("  {at}"), labels[&event.delivery].clone(), event.text.clone()]);
    }
    table.print();
    if stories.iter().any(|story| story.decisions.is_none()) {
        output::line("  Decisions of operators are not shown: this database user may not read outbox.audit.");
    }
    Ok(())
}

/// The answer in a few sentences.
pub(crate) fn verdicts(findings: &Findings) -> Vec<String> {
    let stories = &findings.stories;
    let all: Vec<&Story> = stories.iter().chain(&findings.others).collect();
    let mut told = twins::verdicts(&findings.twins, &all, findings.by == "address");
    match stories.as_slice() {
        [] => {}
        // The twins have been told; of a message that has some, what became of it itself is worth a sentence, too.
        [only] => told.push(verdict(only)),
        _ => {
            let copied = stories.iter().filter(|story| copies(story).0 > 1);
            told.extend(copied.map(|story| format!("{}: {}", story.name(), verdict(story))));
            told.extend(stories.iter().filter_map(|story| Some(format!("{}: {}", story.name(), copy_of(story)?))));
            told.push(summary(findings));
            told.extend(close_but_different(findings));
        }
    }
    told.extend(dedup(findings));
    told.extend(forgotten(&findings.erased));
    told
}

/// What is known of an address that was erased.
fn forgotten(erased: &[Erased]) -> Option<String> {
    let last = erased.iter().map(|one| one.erased_at.as_str()).max()?;
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for one in erased {
        *counts.entry(&one.state).or_default() += 1;
    }
    let each: Vec<String> = counts.iter().map(|(state, count)| format!("{count} {state}")).collect();
    Some(format!(
        "The address was erased, last at {}: what was sent to it is known by a keyed hash alone, {}: {}. Its content is gone.",
        at(last),
        counted(erased.len(), "message"),
        list(&each)
    ))
}

fn erased_table(erased: &[Erased]) {
    if erased.is_empty() {
        return;
    }
    output::line("\nErased");
    let mut table = Table::new(&["  DELIVERY", "KIND", "ENQUEUED", "STATE", "FINISHED", "SERVER", "WORDS"]);
    for one in erased {
        table.row([
            format!("  {}/{}", one.message_id, one.recipient_no),
            one.kind.clone(),
            one.enqueued_at.clone(),
            one.state.clone(),
            one.finished_at.clone(),
            or_dash(one.server.as_deref()),
            or_dash(one.reply.as_deref()),
        ]);
    }
    table.print();
}

fn summary(findings: &Findings) -> String {
    let stories = &findings.stories;
    let shown: Vec<String> = stories.iter().map(|story| story.delivery.state.clone()).collect();
    let states = if findings.states.is_empty() { &shown } else { &findings.states };
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for state in states {
        *counts.entry(state).or_default() += 1;
    }
    let each: Vec<String> =
        counts.iter().map(|(state, count)| format!("{count} {}", state.replace('_', " "))).collect();
    let what = if findings.by == "address" {
        let since = stories.first().map(|story| at(&story.delivery.created_at)).unwrap_or_default();
        let newest = if findings.more { "The newest " } else { "" };
        capital(&format!("{newest}{} since {since}", counted(stories.len(), "notification")))
    } else {
        format!("One message to {}", counted(states.len(), "recipient"))
    };
    let nothing = if counts.contains_key("sent") { "" } else { " Nothing is known to have been sent." };
    let copied = stories.iter().any(is_copy);
    let different = if findings.by == "address" && findings.twins.is_empty() && !copied {
        " No two of them have the same kind and content within a day."
    } else {
        ""
    };
    format!("{what}: {}.{nothing}{different}", list(&each))
}

/// Whether an operator has sent it again from another.
fn is_copy(story: &Story) -> bool {
    story.around.as_ref().is_some_and(|around| around.copy_of.is_some())
}

/// A customer who complains about two mails may mean two that merely look alike.
fn close_but_different(findings: &Findings) -> Option<String> {
    if findings.by != "address" || !findings.twins.is_empty() {
        return None;
    }
    let made_ms = |story: &Story| story.delivery.message_id.as_u128() >> 80;
    // An operator's copy is no second notification of the application.
    let own: Vec<&Story> = findings.stories.iter().filter(|story| !is_copy(story)).collect();
    let pairs = own.windows(2).filter(|pair| pair[0].delivery.kind == pair[1].delivery.kind);
    let apart = |pair: &&[&Story]| made_ms(pair[1]).saturating_sub(made_ms(pair[0]));
    let closest = pairs.min_by_key(apart)?;
    #[expect(clippy::cast_precision_loss, reason = "48 bits")]
    let apart_s = apart(&closest) as f64 / 1000.0;
    (apart_s <= CLOSE_S).then(|| {
        format!(
            "Closest are two of kind {}, {} apart (transactions {} and {}): their content differs, so these are two \
             notifications, not one that was sent twice.",
            closest[0].delivery.kind,
            if apart_s < 0.1 { "less than 0.1 s".to_owned() } else { age(apart_s) },
            closest[0].delivery.txid,
            closest[1].delivery.txid
        )
    })
}

/// What a deduplication key protects. A repeat leaves no trace: say so, or somebody looks for it.
fn dedup(findings: &Findings) -> Vec<String> {
    let mut told: Vec<String> = Vec::new();
    for story in &findings.stories {
        let Some(around) = &story.around else { continue };
        let Some(key) = around.dedup_key.as_deref().map(quoted) else { continue };
        let id = story.delivery.message_id;
        let own = around.key_holder == Some(id);
        let not_sent = matches!(story.delivery.state.as_str(), "failed" | "cancelled" | "expired" | "suppressed");
        let not_sent = not_sent && !story.delivery.content_gone;
        let sentence = match (&around.key_until, around.key_in_force, around.key_holder) {
            // With twins the keys have been told.
            (Some(_), Some(true), _) if own && !findings.twins.is_empty() => continue,
            (Some(until), Some(true), _) if own && not_sent => format!(
                "It was not sent, but its dedup_key {key} is remembered until {}: an application that enqueues it again \
                 gets this message's id back, and nothing is sent. To send it: hapax retry {id} --reason '...', or free \
                 the key with outbox.release_key() and let the application enqueue it again.",
                at(until)
            ),
            (Some(until), Some(true), _) if own => format!(
                "Its dedup_key {key} is remembered until {}: an application that enqueues the same content with it again \
                 gets this message's id back, and no second mail is made. Such repeats leave no trace here.",
                at(until)
            ),
            (_, _, Some(holder)) if !own => {
                format!("Its dedup_key {key} was released or has expired, and stands for message {holder} now.")
            }
            _ => format!("Its dedup_key {key} was released or has expired: a repeat would be a second mail."),
        };
        if !told.contains(&sentence) {
            told.push(sentence);
        }
    }
    told
}
