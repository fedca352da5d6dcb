//! What an application has enqueued twice, in sentences: by whom, how far apart, what became of it, and the remedy. Pure.

use std::collections::BTreeSet;

use hapax_store::inspect::search::Twins;
use uuid::Uuid;

use super::{
    story::{Story, capital, list, number, quoted, state_words},
    verdict::copies,
};
use crate::look::age;

/// Which of several, in words.
const ORDINALS: [&str; 5] = ["first", "second", "third", "fourth", "fifth"];

/// One of several notifications that are the same.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Twin {
    id: Uuid,
    no: i32,
    txid: String,
    application: Option<String>,
    role: String,
    dedup_key: Option<String>,
    state: Option<String>,
}

/// The same notification, enqueued two or more times for one recipient.
#[derive(Clone, Debug)]
struct Group {
    recipient: String,
    kind: String,
    apart_s: f64,
    twins: Vec<Twin>,
    /// Recipients that have it the same way, this one included.
    recipients: usize,
}

/// The sentences, oldest first. `asked` is true when all are about the one address somebody asked for.
pub(crate) fn verdicts(pairs: &[Twins], stories: &[&Story], asked: bool) -> Vec<String> {
    groups(pairs).iter().map(|group| sentences(group, stories, asked)).collect()
}

/// Chains pairs of neighbours, and puts recipients together that share the messages.
fn groups(pairs: &[Twins]) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    // They come newest first.
    for pair in pairs.iter().rev() {
        let chained = groups
            .iter_mut()
            .find(|group| group.twins.last().is_some_and(|last| (last.id, last.no) == (pair.first_id, pair.first_no)));
        if let Some(group) = chained {
            group.twins.push(second(pair));
            group.apart_s += pair.gap_s;
            continue;
        }
        groups.push(Group {
            recipient: pair.recipient.clone().unwrap_or_else(|| "a recipient".into()),
            kind: pair.kind.clone(),
            apart_s: pair.gap_s,
            twins: vec![first(pair), second(pair)],
            recipients: 1,
        });
    }
    let mut merged: Vec<Group> = Vec::new();
    for group in groups {
        let same = |other: &&mut Group| other.twins.iter().map(|t| t.id).eq(group.twins.iter().map(|t| t.id));
        match merged.iter_mut().find(same) {
            Some(other) => other.recipients += 1,
            None => merged.push(group),
        }
    }
    merged
}

fn first(pair: &Twins) -> Twin {
    Twin {
        id: pair.first_id,
        no: pair.first_no,
        txid: pair.first_txid.clone(),
        application: pair.first_application.clone().filter(|name| !name.is_empty()),
        role: pair.first_role.clone(),
        dedup_key: pair.first_dedup_key.clone(),
        state: pair.first_state.clone(),
    }
}

fn second(pair: &Twins) -> Twin {
    Twin {
        id: pair.second_id,
        no: pair.second_no,
        txid: pair.second_txid.clone(),
        application: pair.second_application.clone().filter(|name| !name.is_empty()),
        role: pair.second_role.clone(),
        dedup_key: pair.second_dedup_key.clone(),
        state: pair.second_state.clone(),
    }
}

fn sentences(group: &Group, stories: &[&Story], asked: bool) -> String {
    let count = group.twins.len();
    let whom = match (asked, group.recipients) {
        (true, _) => "this address".to_owned(),
        (false, 1) => group.recipient.clone(),
        (false, more) => format!("{} and {} more", group.recipient, number(more - 1)),
    };
    let apart = match (count, group.apart_s < 0.1) {
        (2, true) => "less than 0.1 s apart".to_owned(),
        (2, false) => format!("{} apart", age(group.apart_s)),
        (_, true) => "within 0.1 s".to_owned(),
        (_, false) => format!("within {}", age(group.apart_s)),
    };
    format!(
        "{} notifications of kind {} with the same content were enqueued for {whom} {apart} by {}; {}. {}",
        capital(&number(count)),
        group.kind,
        producers(&group.twins),
        became(&group.twins, stories),
        remedy(group)
    )
}

fn by(twin: &Twin) -> String {
    let application = twin.application.as_deref().map(|name| format!("application {name}, "));
    format!("{}session user {}", application.unwrap_or_default(), twin.role)
}

fn producers(twins: &[Twin]) -> String {
    let transactions: BTreeSet<&str> = twins.iter().map(|twin| twin.txid.as_str()).collect();
    let producers: BTreeSet<String> = twins.iter().map(by).collect();
    let by_all = producers.iter().next().cloned().unwrap_or_default();
    if transactions.len() == 1 {
        return format!("one transaction ({by_all}, transaction {})", twins[0].txid);
    }
    let different = format!("{} different transactions", number(transactions.len()));
    if producers.len() == 1 {
        let mut ids: Vec<String> = twins.iter().map(|twin| twin.txid.clone()).collect();
        ids.dedup();
        return format!("{different} ({by_all}, transactions {})", list(&ids));
    }
    let each: Vec<String> = twins.iter().map(|twin| format!("transaction {} of {}", twin.txid, by(twin))).collect();
    format!("{different} ({})", each.join("; "))
}

fn was_sent(twin: &Twin) -> bool {
    twin.state.as_deref() == Some("sent")
}

fn became(twins: &[Twin], stories: &[&Story]) -> String {
    if twins.iter().all(was_sent) {
        let told = |twin: &Twin| {
            let is = |story: &&&Story| (story.delivery.message_id, story.delivery.recipient_no) == (twin.id, twin.no);
            stories.iter().find(is).map(|story| copies(story))
        };
        let once = twins.iter().all(|twin| told(twin) == Some((1, 0)));
        return if once { "each was sent once" } else { "each was sent" }.to_owned();
    }
    let each: Vec<String> = twins
        .iter()
        .enumerate()
        .map(|(at, twin)| {
            let which = ORDINALS.get(at).map_or_else(|| format!("number {}", at + 1), |word| (*word).to_owned());
            format!("the {which} {}", state_words(twin.state.as_deref()))
        })
        .collect();
    list(&each)
}

/// Who made the duplicate, how to stop what is still to come, and how to keep it from happening again.
fn remedy(group: &Group) -> String {
    let twins = &group.twins;
    let waiting = |twin: &&Twin| matches!(twin.state.as_deref(), Some("pending" | "held"));
    let stop = match twins.iter().skip(1).find(waiting) {
        Some(twin) => format!(" To stop what has not been sent: hapax cancel {} --reason '...'", twin.id),
        None => String::new(),
    };
    let one_transaction = twins.iter().all(|twin| twin.txid == twins[0].txid);
    let how = if one_transaction { ", within one transaction (a loop, or a list with the address twice)" } else { "" };
    let all = if twins.len() == 2 { "both" } else { "all of them" };
    let keys: BTreeSet<Option<&str>> = twins.iter().map(|twin| twin.dedup_key.as_deref()).collect();
    let named: Vec<String> = keys.iter().flatten().map(|key| quoted(key)).collect();
    let advice = match (keys.contains(&None), named.as_slice()) {
        (true, []) => format!("give {all} the same dedup_key, and only the first is enqueued"),
        (true, _) => format!("not all had a dedup_key ({} did): give {all} the same", list(&named)),
        (false, [only]) => format!("{all} had the dedup_key {only}, but it had been released or forgotten in between"),
        (false, _) => format!("their dedup keys differ ({}): a key has to name the event, not the try", list(&named)),
    };
    format!("The duplicate was made by the application{how}: {advice}.{stop}")
}
