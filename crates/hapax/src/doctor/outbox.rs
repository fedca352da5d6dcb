//! The outbox itself: what waits, what is in doubt, who delivers, and from which server.

use hapax_store::inspect::{Console, Relay, StateCount};

use super::{
    database::Patient,
    finding::{Finding, told},
};

/// What is due for longer is late, in seconds.
const LATE_S: f64 = 300.0;

/// Whether a relay would send from here.
pub(super) async fn arming(patient: &Patient<'_>) -> Vec<Finding> {
    let name = "outbox.armed";
    let console = match patient.console(name).await {
        Ok(console) => console,
        Err(findings) => return findings,
    };
    let armed = match console.doctor_arming().await {
        Ok(armed) => armed,
        Err(error) => return vec![patient.failed(name, &error)],
    };
    if armed.identity != armed.found {
        let evidence = format!("armed for {}, but this server is {}: no relay sends", armed.identity, armed.found);
        let remedy = "after a failover or a restore: see what was lost, then hapax arm --reason 'why'";
        return vec![Finding::error(name, evidence, remedy)];
    }
    if !armed.address_known && patient.settings.database.address_guard {
        let evidence =
            "relays never met the server at this address: unless one of them lives in it, it is taken for a copy";
        let remedy = "when it is the one to send from: hapax arm --reason 'why'";
        return vec![Finding::warning(name, evidence, remedy)];
    }
    vec![Finding::ok(name, format!("for this server, {}", armed.identity))]
}

/// States and relays.
pub(super) async fn states(patient: &Patient<'_>) -> Vec<Finding> {
    let name = "outbox.states";
    let console = match patient.console(name).await {
        Ok(console) => console,
        Err(findings) => return findings,
    };
    let relays = relays(patient, &console).await;
    match console.health().await {
        Ok(states) => {
            let mut findings = judge(&states);
            findings.push(unqueued(patient, &console).await);
            findings.extend(
                relays.map(|relays| patient_relays(patient, &relays, &states)).unwrap_or_else(|finding| vec![finding]),
            );
            findings
        }
        Err(error) => vec![patient.failed(name, &error)],
    }
}

/// Messages that neither wait nor have ended.
async fn unqueued(patient: &Patient<'_>, console: &Console) -> Finding {
    let name = "outbox.unqueued";
    let found = match console.find_unqueued(None, None).await {
        Ok(found) => found,
        Err(error) => return patient.failed(name, &error),
    };
    let Some(newest) = found.first() else {
        return Finding::ok(name, "every message of the last seven days has its deliveries");
    };
    let (have, id) = (if newest.how_many == 1 { "message has" } else { "messages have" }, newest.message_id);
    let evidence = format!(
        "{} {have} no delivery, neither queued nor ended: nobody sends them; one is {id} ({}, enqueued {})",
        newest.how_many, newest.kind, newest.enqueued_at
    );
    let remedy = format!(
        "somebody has deleted from outbox.queue, or a restore left it out: SELECT * FROM outbox.find_unqueued(); hapax \
         explain {id}; enqueue again what shall be sent, with a dedup_key of its own"
    );
    Finding::warning(name, evidence, remedy)
}

async fn relays(patient: &Patient<'_>, console: &Console) -> Result<Vec<Relay>, Finding> {
    match console.relay_list().await {
        Ok(Some(relays)) => Ok(relays),
        Ok(None) => Err(Finding::note(
            "outbox.relays",
            "this user may not see the relays",
            "GRANT outbox_relay (or outbox_viewer) TO it",
        )),
        Err(error) => Err(patient.failed("outbox.relays", &error)),
    }
}

fn judge(states: &[StateCount]) -> Vec<Finding> {
    let of = |word: &str| states.iter().find(|state| state.state == word);
    let count = |word: &str| of(word).map_or(0, |state| state.deliveries);
    let age = |word: &str| of(word).and_then(|state| state.oldest_age_s).unwrap_or_default();
    let mut findings = Vec::new();
    let (pending, late) = (count("pending"), age("pending"));
    findings.push(if pending > 0 && late > LATE_S {
        let evidence = format!("{pending} wait, the oldest has been due for {}", told(late));
        let remedy =
            "see whether a relay runs and what its routes say: hapax status; hapax ls --state pending; its log";
        Finding::warning("outbox.pending", evidence, remedy)
    } else {
        Finding::ok("outbox.pending", format!("{pending} wait, none for long"))
    });
    let doubts = count("in_doubt");
    findings.push(if doubts > 0 {
        let evidence =
            format!("{doubts} in doubt, the oldest for {}: nobody knows whether they arrived", told(age("in_doubt")));
        let remedy =
            "hapax reconcile with the mail server's log; then decide: hapax ls --state in_doubt, hapax resolve";
        Finding::warning("outbox.doubts", evidence, remedy)
    } else {
        Finding::ok("outbox.doubts", "none")
    });
    let held = count("held");
    findings.push(if held > 0 {
        let evidence = format!("{held} held by a guard or a person");
        Finding::note("outbox.held", evidence, "hapax ls --state held says why; hapax release lets them go on")
    } else {
        Finding::ok("outbox.held", "none")
    });
    findings
}

fn patient_relays(patient: &Patient<'_>, relays: &[Relay], states: &[StateCount]) -> Vec<Finding> {
    let name = "outbox.relays";
    let dead_after = patient.settings.relay.limits.dead_after.as_secs_f64();
    let (alive, silent): (Vec<&Relay>, Vec<&Relay>) = relays.iter().partition(|relay| relay.beat_age_s <= dead_after);
    let waiting: i64 = states
        .iter()
        .filter(|state| ["pending", "claimed", "sending"].contains(&state.state.as_str()))
        .map(|state| state.deliveries)
        .sum();
    let mut findings = Vec::new();
    let told: Vec<String> = alive.iter().map(|relay| format!("{} ({})", relay.name, relay.version)).collect();
    findings.push(match (alive.is_empty(), waiting > 0) {
        (false, _) => Finding::ok(name, format!("{} alive: {}", alive.len(), told.join(", "))),
        (true, true) => Finding::warning(name, format!("none is alive, and {waiting} deliveries wait"), "hapax run"),
        (true, false) => Finding::note(name, "none is alive: nothing is delivered until one is", "hapax run"),
    });
    if !silent.is_empty() {
        let evidence = format!("{} ended today without signing off (killed, or cut off)", silent.len());
        let remedy = "nothing is lost, what they had on the wire is in doubt: hapax status; see why they ended";
        findings.push(Finding::note("outbox.silent_relays", evidence, remedy));
    }
    let own = env!("CARGO_PKG_VERSION");
    let others: Vec<&str> =
        alive.iter().map(|relay| relay.version.as_str()).filter(|version| *version != own).collect();
    if let Some(other) = others.first() {
        let evidence = format!("{} of them run another version than this one ({other}, not {own})", others.len());
        findings.push(Finding::note("outbox.relay_versions", evidence, "fine during an upgrade; finish it"));
    }
    findings
}
