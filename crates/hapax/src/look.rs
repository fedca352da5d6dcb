//! `hapax status` and `hapax ls`: the outbox at a glance. Addresses arrive here masked.

use hapax_core::State;
use hapax_store::{
    ArmedState,
    inspect::{Console, Delivery, DoubtFilter, OpenDoubt, Paused, Relay, StateCount},
};
use serde_json::json;

use crate::{
    blocked,
    cli::{Json, Ls},
    config::{Database, Loaded},
    connect,
    failure::{Exit, Refusal},
    output::{self, Table},
};

/// The widest reason in a list.
const REASON_CHARS_MAX: usize = 60;

/// A console for a command, and what it needs to explain errors.
pub(crate) async fn console(loaded: Loaded, command: &str) -> Result<(Console, Database), Refusal> {
    let database = loaded.database()?;
    crate::run::install_crypto();
    match Console::connect(&database.options(command)).await {
        Ok(console) => Ok((console, database)),
        Err(error) => Err(connect::explain(&error, &database)),
    }
}

/// # Errors
/// Configuration, an unreachable database.
pub(crate) async fn status(loaded: Loaded, options: Json) -> anyhow::Result<Exit> {
    let dead_after_s = loaded.settings.relay.limits.dead_after.as_secs_f64();
    let (console, database) = console(loaded, "hapax status").await?;
    let explain = |error| connect::explain(&error, &database);
    let here = console.armed_state().await.map_err(explain)?;
    let states = console.health().await.map_err(explain)?;
    let relays = console.relay_list().await.map_err(explain)?;
    let paused = console.pause_list().await.map_err(explain)?;
    let blocking = match blocked::is_possible(&states) {
        false => Some(Vec::new()),
        true => console.blocked_list(None, blocked::SHOWN_MAX).await.map_err(explain)?,
    };
    let alive = |relay: &Relay| relay.beat_age_s <= dead_after_s;
    if options.json {
        let relays: Option<Vec<_>> = relays.map(|relays| {
            relays
                .iter()
                .map(|relay| json!({ "relay": relay, "alive": alive(relay), "routes": route_states(relay) }))
                .collect()
        });
        output::json(&json!({
            "armed": here.armed,
            "standby": here.standby,
            "server": here,
            "states": states,
            "relays": relays,
            "paused": paused,
            "blocked_keys": blocking.map(|all| json!({ "blocking": blocked::count(&all), "first": all })),
        }))?;
        return Ok(Exit::Done);
    }
    let relay_lives = relays.as_ref().map(|relays| relays.iter().any(alive));
    for line in warnings(&here, relay_lives, &states) {
        output::line(&line);
    }
    print_states(&states);
    output::line("");
    print_relays(relays.as_deref(), alive);
    for line in paused.iter().flatten().map(pause_line) {
        output::line(&line);
    }
    for line in blocking.iter().flat_map(|all| blocked::lines(all)) {
        output::line(&line);
    }
    for hint in next_steps(&states) {
        output::line(&hint);
    }
    Ok(Exit::Done)
}

fn print_states(states: &[StateCount]) {
    let mut table = Table::new(&["STATE", "DELIVERIES", "OLDEST", "AGE"]).right(&[1]);
    for state in states {
        let about = if state.exact { "" } else { "~" };
        table.row([
            state.state.clone(),
            format!("{about}{}", state.deliveries),
            or_dash(state.oldest.as_deref()),
            state.oldest_age_s.map_or_else(|| "-".into(), age),
        ]);
    }
    table.print();
}

fn print_relays(relays: Option<&[Relay]>, alive: impl Fn(&Relay) -> bool) {
    let Some(relays) = relays else { return output::line("relays: not visible to this database user") };
    if relays.is_empty() {
        return output::line("relays: none has been heard of today; start one: hapax run");
    }
    let mut table = Table::new(&["RELAY", "HOST", "PID", "VERSION", "STARTED", "HEARTBEAT"]).right(&[2]);
    for relay in relays {
        let beat = format!("{} ago{}", age(relay.beat_age_s), if alive(relay) { "" } else { ", silent" });
        table.row([
            relay.name.clone(),
            relay.host.clone(),
            relay.pid.to_string(),
            relay.version.clone(),
            relay.started_at.clone(),
            beat,
        ]);
    }
    table.print();
    print_routes(relays.iter().filter(|relay| alive(relay)));
}

/// What a relay says of its routes that are not as they should be.
pub(crate) fn route_states(relay: &Relay) -> Vec<serde_json::Value> {
    relay.route_states.as_deref().and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
}

/// Routes that rest or are slowed down; nothing when there are none.
fn print_routes<'a>(relays: impl Iterator<Item = &'a Relay>) {
    let mut table = Table::new(&["ROUTE", "RELAY", "STATE", "FAILURES", "CONNECTIONS", "LAST"]).right(&[3, 4]);
    let mut any = false;
    for relay in relays {
        for told in route_states(relay) {
            let word = |key: &str| told[key].as_str().unwrap_or("-").to_owned();
            let number = |key: &str| told[key].as_u64().unwrap_or_default().to_string();
            table.row([
                word("route"),
                relay.name.clone(),
                word("state"),
                number("failures"),
                number("connections"),
                word("why"),
            ]);
            any = true;
        }
    }
    if any {
        output::line("");
        table.print();
    }
}

/// Why nothing is sent, if that is so: before everything else.
fn warnings(here: &ArmedState, relay_lives: Option<bool>, states: &[StateCount]) -> Vec<String> {
    let place = here.place();
    if here.standby {
        return vec![format!("this is a standby ({place}): nothing is sent from here, look at the primary\n")];
    }
    if here.copy {
        return vec![format!(
            "NOT ARMED: nothing is sent from here. A relay has met {place}, which is not known: a copy, or the server has \
             moved: hapax arm --reason '...'\n"
        )];
    }
    if !here.armed {
        let this = or_dash(here.here.as_deref());
        let armed_for = match here.armed_for.strip_prefix("disarmed: ") {
            Some(why) => format!("disarmed, {why}"),
            None => format!("armed for {}", here.armed_for),
        };
        return vec![format!(
            "NOT ARMED: nothing is sent from here ({armed_for}; this is {this}, {place}): hapax arm --reason '...'\n"
        )];
    }
    let waiting = count(states, State::Pending);
    match relay_lives {
        Some(false) if waiting > 0 => vec![format!(
            "no relay is alive, {waiting} {} to be sent: hapax run\n",
            if waiting == 1 { "delivery waits" } else { "deliveries wait" }
        )],
        _ => Vec::new(),
    }
}

fn count(states: &[StateCount], state: State) -> i64 {
    states.iter().find(|s| s.state == state.as_str()).map_or(0, |s| s.deliveries)
}

/// What waits although nothing is wrong with it.
fn pause_line(paused: &Paused) -> String {
    let Paused { what, name, paused_by, reason, since, age_s, until } = paused;
    let until = until.as_ref().map_or_else(String::new, |until| format!(", until {until}"));
    let (name, reason) = (output::one_line(name), output::one_line(reason));
    let (age, resume) = (age(*age_s), resume(what, &name));
    format!("\nPAUSED {what} {name} since {since} ({age}){until} by {paused_by}: {reason}; {resume}")
}

/// How a pause is ended. The name of an address is what may be shown of it.
pub(crate) fn resume(what: &str, name: &str) -> String {
    format!("hapax resume --{what} {} --reason '...'", if what == "address" { "ADDRESS" } else { name })
}

/// What a person would do next.
fn next_steps(states: &[StateCount]) -> Vec<String> {
    let count = |state| count(states, state);
    let mut hints = Vec::new();
    if count(State::InDoubt) > 0 {
        hints.push(format!("\n{} in doubt: hapax ls --in-doubt, then hapax resolve", count(State::InDoubt)));
    }
    if count(State::Held) > 0 {
        hints.push(format!("{} held: hapax ls --state held, then hapax release or hapax cancel", count(State::Held)));
    }
    if count(State::Failed) > 0 {
        hints.push(format!("{} failed: hapax ls --state failed, then hapax show ID", count(State::Failed)));
    }
    hints
}

/// # Errors
/// Configuration, an unreachable database.
pub(crate) async fn ls(loaded: Loaded, options: Ls) -> anyhow::Result<Exit> {
    let (console, database) = console(loaded, "hapax ls").await?;
    let explain = |error| connect::explain(&error, &database);
    if options.in_doubt {
        let filter = DoubtFilter { kind: options.kind, ..DoubtFilter::default() };
        let doubts = console.doubt_list(&filter, options.limit).await.map_err(explain)?;
        if let (Some(kind), true, false) = (&filter.kind, doubts.is_empty(), options.json.json) {
            output::line(&format!("no doubt has kind {}", output::one_line(kind)));
            return Ok(Exit::Done);
        }
        return print_doubts(&doubts, options.json.json);
    }
    let state = options.state.map(State::as_str);
    let deliveries = console.delivery_list(state, options.kind.as_deref(), options.limit).await.map_err(explain)?;
    if options.json.json {
        output::json(&deliveries)?;
        return Ok(Exit::Done);
    }
    if deliveries.is_empty() {
        output::line("no such deliveries");
        return Ok(Exit::Done);
    }
    let mut table =
        Table::new(&["DELIVERY", "STATE", "KIND", "RECIPIENT", "ENQUEUED", "DUE OR DONE", "TRIES", "REASON"]);
    for delivery in &deliveries {
        table.row([
            format!("{}/{}", delivery.message_id, delivery.recipient_no),
            delivery.state.clone(),
            delivery.kind.clone(),
            or_dash(delivery.recipient.as_deref()),
            delivery.created_at.clone(),
            when(delivery),
            delivery.attempts.to_string(),
            cut(&or_dash(delivery.reason.as_deref())),
        ]);
    }
    table.print();
    Ok(Exit::Done)
}

/// A reason that fits into a list, with a mark where it was cut.
fn cut(reason: &str) -> String {
    match reason.chars().count() > REASON_CHARS_MAX {
        true => reason.chars().take(REASON_CHARS_MAX - 1).chain(['…']).collect(),
        false => reason.to_owned(),
    }
}

fn print_doubts(doubts: &[OpenDoubt], as_json: bool) -> anyhow::Result<Exit> {
    if as_json {
        output::json(&doubts)?;
        return Ok(Exit::Done);
    }
    if doubts.is_empty() {
        output::line("nothing is in doubt");
        return Ok(Exit::Done);
    }
    let headline =
        ["DELIVERY", "TOKEN", "KIND", "RECIPIENT", "ROUTE", "SERVER", "INTENT AT", "AGE", "RELAY", "PHASE", "DECIDE"];
    let mut table = Table::new(&headline);
    for doubt in doubts {
        let decide = decidable(doubt.may_be_alive, doubt.grace_over, doubt.may_be_alive_until.as_deref());
        let server = match doubt.server_known_by.as_deref() {
            Some("route") => format!("{} (by its route)", or_dash(doubt.server.as_deref())),
            _ => or_dash(doubt.server.as_deref()),
        };
        let relay = match &doubt.relay_name {
            Some(name) => format!("{name} on {}: {}", or_dash(doubt.relay_host.as_deref()), doubt.relay_state),
            None => doubt.relay_state.clone(),
        };
        table.row([
            format!("{}/{}", doubt.message_id, doubt.recipient_no),
            doubt.token.to_string(),
            or_dash(doubt.kind.as_deref()),
            or_dash(doubt.recipient.as_deref()),
            or_dash(doubt.route.as_deref()),
            server,
            or_dash(doubt.intent_at.as_deref()),
            age(doubt.age_s),
            relay,
            doubt.phase.clone(),
            decide,
        ]);
    }
    table.print();
    output::line("\nIn the mail server's log, between the times given, search for:");
    for doubt in doubts {
        let (from, until) = (or_dash(doubt.search_from.as_deref()), or_dash(doubt.search_until.as_deref()));
        output::line(&format!(
            "  {}/{}  {from} to {until}  {}",
            doubt.message_id,
            doubt.recipient_no,
            output::one_line(&doubt.search_for)
        ));
    }
    output::line("then: hapax resolve TOKEN sent|resend|failed --reason '...'");
    output::line("or let hapax search in a Postfix log: hapax reconcile --postfix-log FILE --dry-run");
    Ok(Exit::Done)
}

/// When a doubt can be decided in every way. No time of a clock is promised that is over already.
fn decidable(may_be_alive: bool, grace_over: bool, until: Option<&str>) -> String {
    match until {
        _ if !may_be_alive => "now".to_owned(),
        Some(until) if !grace_over => format!("after {until}"),
        _ => "resend/failed once a running relay has watched it out".to_owned(),
    }
}

/// When it is due, or when it ended.
fn when(delivery: &Delivery) -> String {
    or_dash(delivery.finished_at.as_deref().or(delivery.due_at.as_deref()))
}

pub(crate) fn or_dash(text: Option<&str>) -> String {
    text.filter(|text| !text.is_empty()).unwrap_or("-").to_owned()
}

/// Seconds in the one or two units that matter.
pub(crate) fn age(seconds: f64) -> String {
    if seconds < 0.0 {
        return format!("in {}", age(-seconds));
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "not negative, and saturating")]
    let whole = seconds as u64;
    match whole {
        0 => format!("{seconds:.1} s"),
        1..=119 => format!("{whole} s"),
        120..=7199 => format!("{} min", whole / 60),
        7200..=172_799 => format!("{} h", whole / 3600),
        _ => format!("{} d", whole / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server() -> ArmedState {
        ArmedState {
            armed: true,
            standby: false,
            copy: false,
            armed_for: "7/00000001/5".into(),
            here: Some("7/00000001/5".into()),
            address: "10.0.0.2".into(),
            port: 5432,
            database: "shop".into(),
        }
    }

    #[test]
    fn status_begins_with_why_nothing_is_sent() {
        let pending = [StateCount {
            state: "pending".into(),
            deliveries: 3,
            exact: true,
            oldest: None,
            oldest_age_s: None,
            newest: None,
        }];
        let first = |here: &ArmedState, lives| warnings(here, lives, &pending).concat();
        assert_eq!(first(&server(), Some(true)), "");
        assert_eq!(first(&server(), None), "");
        assert!(first(&server(), Some(false)).starts_with("no relay is alive, 3 deliveries wait"));
        let other = ArmedState { armed: false, here: Some("7/00000002/5".into()), ..server() };
        assert_eq!(
            first(&other, Some(true)),
            "NOT ARMED: nothing is sent from here (armed for 7/00000001/5; this is 7/00000002/5, database shop at \
             10.0.0.2:5432): hapax arm --reason '...'\n"
        );
        let disarmed = ArmedState { armed: false, armed_for: "disarmed: restored".into(), ..server() };
        assert!(first(&disarmed, None).contains("(disarmed, restored; this is 7/00000001/5"));
        assert!(first(&ArmedState { armed: false, copy: true, ..server() }, None).contains("a copy"));
        let standby = ArmedState { armed: false, standby: true, here: None, ..server() };
        assert!(first(&standby, None).starts_with("this is a standby"));
    }

    #[test]
    fn a_reason_that_was_cut_says_so() {
        assert_eq!(cut("short"), "short");
        let long = cut(&"x".repeat(61));
        assert!(long.ends_with("x…") && long.chars().count() == 60, "{long}");
        assert!(!cut(&"x".repeat(60)).contains('…'));
    }

    #[test]
    fn no_time_that_is_over_is_promised_for_a_decision() {
        let until = Some("2026-11-26T10:31:02.000Z");
        assert_eq!(decidable(false, false, until), "now");
        assert_eq!(decidable(true, false, until), "after 2026-11-26T10:31:02.000Z");
        let watched = "resend/failed once a running relay has watched it out";
        assert_eq!((decidable(true, true, until), decidable(true, false, None)), (watched.into(), watched.into()));
    }

    #[test]
    fn ages_are_rounded_to_what_matters() {
        let cases = [(0.25, "0.2 s"), (5.9, "5 s"), (119.0, "119 s"), (120.0, "2 min"), (7200.0, "2 h"), (1e6, "11 d")];
        for (seconds, text) in cases {
            assert_eq!(age(seconds), text);
        }
        assert_eq!(age(-90.0), "in 90 s");
    }
}
