//! What a log means for one doubt. Pure.
//!
//! `accepted` is believed of any log: a message that a later server queued was taken by the first. `not sent` is what
//! makes a duplicate when it is wrong: it needs the log of the very server, complete from the intent until the attempt
//! can no longer be alive, with times that are known to be right, and no trace that could be this delivery's.

use std::collections::BTreeMap;

use hapax_store::inspect::Doubtful;

use super::{
    search::{Coverage, End, Found, Trace},
    server::{Server, quoted},
    time::iso,
};

/// Lines may be dated so many seconds later than the database's now; more proves that a clock or an offset is wrong.
const FUTURE_MAX_S: i64 = 120;

/// How the reasons against "not sent" begin; what trace there is takes its place.
const NO_TRACE: &str = "no trace of it";

/// What the caller asserts, and how careful to be.
#[derive(Clone, Debug, Default)]
pub(crate) struct Terms {
    /// This is the complete log of these servers.
    pub(crate) servers: Vec<String>,
    /// And of these routes.
    pub(crate) routes: Vec<String>,
    /// Seconds.
    pub(crate) margin: i64,
}

/// What is to be done about a doubt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Judgement {
    /// It was taken: the evidence.
    Accepted(String),
    /// It was not: the evidence.
    NotSent(String),
    /// The reason.
    Left(String),
}

/// Judges one doubt by the traces of its Message-ID. `shared`: another doubt has the same Message-ID and recipient.
pub(crate) fn judge(doubt: &Doubtful, traces: &[Trace], found: &Found, shared: bool, terms: &Terms) -> Judgement {
    let ambiguous = doubt.own_id && (shared || doubt.namesakes);
    let (mut ours, mut unclear) = (Vec::new(), Vec::new());
    for trace in traces {
        match whose(doubt, trace) {
            Whose::Ours => ours.push(trace),
            Whose::Unclear => unclear.push(trace),
            Whose::Others => {}
        }
    }
    // What was queued before this attempt was another mail: applications give the same Message-ID again.
    let earlier = |trace: &Trace| doubt.own_id && trace.ended_at < window(doubt, terms.margin).0;
    if let Some(trace) = ours.iter().find(|trace| trace.end == End::Queued && earlier(trace)) {
        return Judgement::Left(format!(
            "{}: a mail with its Message-ID was queued at {}, before this attempt: the log cannot tell them apart",
            named(trace),
            iso(trace.ended_at)
        ));
    }
    if let Some(trace) = ours.iter().find(|trace| trace.end == End::Queued) {
        if ambiguous {
            return Judgement::Left(format!(
                "{}: another delivery to the same address has the same Message-ID, the log cannot tell them apart",
                named(trace)
            ));
        }
        return Judgement::Accepted(format!("{}: queued at {}", named(trace), iso(trace.ended_at)));
    }
    let open = |trace: &&&Trace| !matches!(trace.end, End::Refused | End::Aborted);
    if let Some(trace) = unclear.iter().find(open) {
        return Judgement::Left(format!(
            "{}: has its Message-ID, but no line says for which of its recipients",
            named(trace)
        ));
    }
    if let Some(trace) = ours.iter().find(open) {
        let what = if trace.end == End::Kept { "held or discarded there" } else { "seen, neither queued nor refused" };
        return Judgement::Left(format!("{}: {what} at {}", named(trace), iso(trace.ended_at)));
    }
    if ambiguous {
        return Judgement::Left("another delivery to the same address has the same Message-ID".into());
    }
    let refusals: Vec<&Trace> = ours.into_iter().chain(unclear).collect();
    let why_left = |why: String| match (refusals.last(), why.strip_prefix(NO_TRACE)) {
        (Some(trace), Some(rest)) => Judgement::Left(format!("{}{rest}", refusal(trace))),
        _ => Judgement::Left(why),
    };
    not_sent(doubt, &refusals, traces, found, terms).unwrap_or_else(why_left)
}

/// Whether the log proves that it was not taken; `Err`: why it does not.
fn not_sent(
    doubt: &Doubtful,
    refusals: &[&Trace],
    all: &[Trace],
    found: &Found,
    terms: &Terms,
) -> Result<Judgement, String> {
    if doubt.may_be_alive {
        return Err("no trace of it, but its attempt may still be alive".into());
    }
    if doubt.own_id && refusals.is_empty() {
        return Err("no trace of it; it brought its own Message-ID, which the log may show otherwise".into());
    }
    // An alias that leads to another recipient of the same message, say: then who is who cannot be told.
    let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
    for recipient in all.iter().flat_map(|trace| &trace.recipients) {
        *seen.entry(recipient).or_default() += 1;
    }
    if let Some(most) = seen.values().max().filter(|most| **most > 1 && !doubt.others.is_empty()) {
        return Err(format!("the log shows its Message-ID {most} times for another recipient of the same message"));
    }
    no_future(doubt, found)?;
    let hosts = relevant(doubt, found, terms)?;
    for (name, host) in &hosts {
        covered(doubt, name, host, terms.margin)?;
    }
    let names: Vec<&str> = hosts.iter().map(|(name, _)| *name).collect();
    let (from, until) = window(doubt, terms.margin);
    Ok(Judgement::NotSent(match refusals.last() {
        Some(trace) => refusal(trace),
        None => format!("the log of {} from {} to {} has no trace of it", names.join(", "), iso(from), iso(until)),
    }))
}

/// A log with lines that are not written yet covers nothing: its times are wrong, by nobody knows how much.
fn no_future(doubt: &Doubtful, found: &Found) -> Result<(), String> {
    #[expect(clippy::cast_possible_truncation, reason = "seconds since 1970, and saturating")]
    let latest = (doubt.now_s.ceil() as i64).saturating_add(found.took_s).saturating_add(FUTURE_MAX_S);
    match found.hosts.iter().find(|(_, host)| host.last > latest) {
        None => Ok(()),
        Some((name, host)) => Err(format!(
            "no trace of it, but the log of {name} goes on until {}, which is in the future: its clock or the \
             --utc-offset is wrong",
            iso(host.last)
        )),
    }
}

/// The hosts of the log that the attempt could have gone to.
fn relevant<'a>(doubt: &Doubtful, found: &'a Found, terms: &Terms) -> Result<Vec<(&'a str, &'a Coverage)>, String> {
    let server = doubt.server.as_deref().map(Server::of);
    let asserted = server.is_some_and(|server| terms.servers.iter().any(|given| server.is(given)))
        || doubt.route.as_ref().is_some_and(|route| terms.routes.contains(route));
    let of = |(name, host): (&'a String, &'a Coverage)| (name.as_str(), host);
    if asserted {
        return Ok(found.hosts.iter().map(of).collect());
    }
    let same = |(name, _): &(&String, &Coverage)| server.is_some_and(|server| server.wrote(name));
    let hosts: Vec<_> = found.hosts.iter().filter(same).map(of).collect();
    if hosts.is_empty() {
        let names: Vec<&str> = found.hosts.keys().map(String::as_str).collect();
        let advice = match (server, &doubt.route) {
            (Some(server), _) => format!(
                "it went to {}; if this is its complete log: --server {}",
                doubt.server.as_deref().unwrap_or_default(),
                server.typed()
            ),
            (None, Some(route)) => {
                format!("where it went is not known; if this is all of its route: --route {}", quoted(route))
            }
            (None, None) => "where it went is not known".to_owned(),
        };
        return Err(format!("no trace of it, but the log is of {}: {advice}", names.join(", ")));
    }
    Ok(hosts)
}

/// What a log must cover.
fn window(doubt: &Doubtful, margin: i64) -> (i64, i64) {
    #[expect(clippy::cast_possible_truncation, reason = "seconds since 1970, and saturating")]
    let (from, until) = (doubt.intent_at_s.floor() as i64, doubt.over_at_s.ceil() as i64);
    (from - margin, until + margin)
}

fn covered(doubt: &Doubtful, name: &str, host: &Coverage, margin: i64) -> Result<(), String> {
    let (from, until) = window(doubt, margin);
    if !host.zoned {
        return Err(format!("no trace of it, but the times of {name} have no zone: say which with --utc-offset"));
    }
    if host.proxied {
        return Err(format!("no trace of it, but a filter in front of {name} may have taken it"));
    }
    if host.first > from {
        return Err(format!(
            "no trace of it, but the log of {name} begins at {}, after {}",
            iso(host.first),
            iso(from)
        ));
    }
    if host.last < until {
        return Err(format!("no trace of it, but the log of {name} ends at {}, before {}", iso(host.last), iso(until)));
    }
    let within = |gap: &&(i64, i64)| gap.0 < until && gap.1 > from;
    if let Some((gone, back)) = host.gaps.iter().find(within) {
        return Err(format!(
            "no trace of it, but {name} is silent from {} to {} (--max-gap, if it was only quiet)",
            iso(*gone),
            iso(*back)
        ));
    }
    if let Some(at) = host.holes.iter().find(|at| (from..=until).contains(*at)) {
        return Err(format!("no trace of it, but the log of {name} has lost lines about {}", iso(*at)));
    }
    match host.delay_min {
        Some(delay) if delay < -margin => Err(format!(
            "no trace of it, but by the times of {name} a message was logged {} s before it was made: a clock, the \
             --utc-offset or the year is wrong",
            -delay
        )),
        Some(delay) if host.guessed && delay > margin => Err(format!(
            "no trace of it, but by the times of {name} no message was logged within {delay} s after it was made: the \
             --utc-offset or the year may be wrong"
        )),
        None if host.guessed => Err(format!(
            "no trace of it, but {name} shows no other message of this outbox, by which its times could be checked"
        )),
        _ => Ok(()),
    }
}

enum Whose {
    Ours,
    Others,
    Unclear,
}

fn whose(doubt: &Doubtful, trace: &Trace) -> Whose {
    let alone = doubt.others.is_empty() && !doubt.own_id;
    if alone || trace.recipients.iter().any(|recipient| doubt.recipient.is(recipient)) {
        return Whose::Ours;
    }
    let anothers = |recipient: &String| doubt.others.iter().any(|other| other.is(recipient));
    if !trace.recipients.is_empty() && trace.recipients.iter().all(anothers) { Whose::Others } else { Whose::Unclear }
}

/// A trace that ended without its being taken.
fn refusal(trace: &Trace) -> String {
    let what = if trace.end == End::Refused { "refused" } else { "given up by the client before its end" };
    format!("{}: {what} at {}", named(trace), iso(trace.ended_at))
}

fn named(trace: &Trace) -> String {
    format!("{} {}", trace.host, trace.queue_id)
}
