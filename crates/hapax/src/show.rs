//! `hapax show`: one message from its enqueue to the server's words, with a verdict in a sentence per delivery.

use hapax_core::State;
use hapax_store::inspect::{Attempt, Decision, Delivery, DoubtFilter, OpenDoubt};
use serde_json::json;

use crate::{
    cli::Show,
    config::Loaded,
    connect,
    failure::{Exit, Refusal},
    look::{console, or_dash},
    output::{self, Table},
    target::Target,
};

/// # Errors
/// Usage, configuration, an unreachable database, no such message.
pub(crate) async fn run(loaded: Loaded, options: Show) -> anyhow::Result<Exit> {
    let Target { id, recipient_no } = Target::parse(&options.delivery)?;
    let (console, database) = console(loaded, "hapax show").await?;
    let explain = |error| connect::explain(&error, &database);
    let deliveries = console.message_deliveries(id, recipient_no).await.map_err(explain)?;
    let Some(first) = deliveries.first() else {
        let message = format!("there is no delivery {}", options.delivery);
        let hints = ["hapax ls", "its transaction may not have committed, or its partition has been dropped"];
        return Err(Refusal::failed(message, &hints).into());
    };
    let attempts = console.message_attempts(id, recipient_no).await.map_err(explain)?;
    let audit = console.message_audit(id, recipient_no).await.map_err(explain)?;
    let filter = DoubtFilter { message_id: Some(id), recipient_no, ..DoubtFilter::default() };
    let doubts = console.doubt_list(&filter, 1000).await.map_err(explain)?;
    if options.json.json {
        let told = deliveries.iter().map(|delivery| {
            let doubt = doubts.iter().find(|doubt| doubt.recipient_no == delivery.recipient_no);
            json!({ "delivery": delivery, "doubt": doubt, "verdict": verdict(delivery, &attempts, doubt) })
        });
        output::json(&json!({
            "message_id": id, "deliveries": told.collect::<Vec<_>>(), "attempts": attempts, "decisions": audit,
        }))?;
        return Ok(Exit::Done);
    }
    facts(first);
    delivery_table(&deliveries);
    attempt_table(&attempts);
    audit_table(audit.as_deref());
    output::line("\nVerdict");
    for delivery in &deliveries {
        let doubt = doubts.iter().find(|doubt| doubt.recipient_no == delivery.recipient_no);
        output::line(&format!("  /{}  {}", delivery.recipient_no, verdict(delivery, &attempts, doubt)));
    }
    Ok(Exit::Done)
}

fn facts(first: &Delivery) {
    let mut table = Table::new(&[]);
    let application = or_dash(first.application_name.as_deref());
    table.row(["message".into(), first.message_id.to_string()]);
    table.row(["kind".into(), format!("{}, {}", first.kind, first.priority)]);
    table.row(["enqueued".into(), first.created_at.clone()]);
    table.row(["by".into(), format!("{} ({application}), transaction {}", first.session_role, first.txid)]);
    let optional = [
        ("tenant", &first.tenant),
        ("not before", &first.not_before),
        ("expires", &first.expires_at),
        ("on doubt", &first.on_doubt),
    ];
    for (name, value) in optional {
        if let Some(value) = value {
            table.row([name.into(), value.clone()]);
        }
    }
    table.print();
}

fn delivery_table(deliveries: &[Delivery]) {
    output::line("\nDeliveries");
    let mut table = Table::new(&[
        "  NO",
        "STATE",
        "RECIPIENT",
        "ROUTE",
        "DUE",
        "FINISHED",
        "TRIES",
        "INTENTS",
        "DOUBTS",
        "EVIDENCE",
        "REASON",
    ]);
    for delivery in deliveries {
        table.row([
            format!("  /{}", delivery.recipient_no),
            delivery.state.clone(),
            or_dash(delivery.recipient.as_deref()),
            or_dash(delivery.route.as_deref()),
            or_dash(delivery.due_at.as_deref()),
            or_dash(delivery.finished_at.as_deref()),
            delivery.attempts.to_string(),
            delivery.intents.to_string(),
            delivery.open_doubts.to_string(),
            or_dash(delivery.evidence.as_deref()),
            or_dash(delivery.reason.as_deref()),
        ]);
    }
    table.print();
}

fn attempt_table(attempts: &[Attempt]) {
    output::line("\nAttempts");
    if attempts.is_empty() {
        return output::line("  none has finished");
    }
    let mut table =
        Table::new(&["  NO", "STARTED", "FINISHED", "TOOK", "OUTCOME", "PHASE", "ROUTE", "SERVER", "RELAY", "WORDS"]);
    for attempt in attempts {
        table.row([
            format!("  /{}", attempt.recipient_no),
            or_dash(attempt.started_at.as_deref()),
            attempt.finished_at.clone(),
            attempt.took_s.map_or_else(|| "-".into(), |seconds| format!("{seconds:.3} s")),
            attempt.outcome.clone(),
            attempt.phase.clone(),
            or_dash(attempt.route.as_deref()),
            or_dash(attempt.server.as_deref()),
            relay(attempt),
            words(attempt),
        ]);
    }
    table.print();
}

fn relay(attempt: &Attempt) -> String {
    match (&attempt.relay_name, &attempt.relay_host, attempt.relay_incarnation) {
        (Some(name), Some(host), _) if name != host => format!("{name} on {host}"),
        (Some(name), ..) => name.clone(),
        (None, _, Some(incarnation)) => incarnation.to_string(),
        _ => "-".to_owned(),
    }
}

/// The server's words, else ours.
fn words(attempt: &Attempt) -> String {
    let code = attempt.code.map(|code| code.to_string()).unwrap_or_default();
    let said = [Some(code), attempt.enhanced.clone(), attempt.reply.clone()];
    let said: Vec<String> = said.into_iter().flatten().filter(|part| !part.is_empty()).collect();
    if said.is_empty() { or_dash(attempt.detail.as_deref()) } else { said.join(" ") }
}

fn audit_table(audit: Option<&[Decision]>) {
    output::line("\nDecisions");
    let Some(audit) = audit else { return output::line("  not visible to this database user") };
    if audit.is_empty() {
        return output::line("  none");
    }
    let mut table = Table::new(&["  AT", "NO", "WHO", "WHAT", "BEFORE", "AFTER", "REASON"]);
    for decision in audit {
        table.row([
            format!("  {}", decision.at),
            decision.recipient_no.map_or_else(|| "-".into(), |number| format!("/{number}")),
            decision.actor.clone(),
            decision.action.clone(),
            or_dash(decision.before.as_deref()),
            or_dash(decision.after.as_deref()),
            or_dash(decision.reason.as_deref()),
        ]);
    }
    table.print();
}

/// What became of a delivery, in a sentence.
pub(crate) fn verdict(delivery: &Delivery, attempts: &[Attempt], doubt: Option<&OpenDoubt>) -> String {
    let own: Vec<&Attempt> = attempts.iter().filter(|attempt| attempt.recipient_no == delivery.recipient_no).collect();
    let finished = or_dash(delivery.finished_at.as_deref());
    let reason = delivery.reason.as_deref().map(|reason| format!(": {reason}")).unwrap_or_default();
    let may_have_arrived =
        if delivery.open_doubts > 0 { " It may have arrived: an attempt's outcome never became known." } else { "" };
    match delivery.state.parse::<State>() {
        Ok(State::Sent) => sent(delivery, &own, &finished),
        Ok(State::Pending) => pending(delivery, &own),
        Ok(State::Claimed) => "A relay has it in hand; nothing has been transmitted.".to_owned(),
        Ok(State::Sending) => {
            "Its end marker may be on the wire: a relay transmits it or waits for the reply.".to_owned()
        }
        Ok(State::InDoubt) => in_doubt(doubt),
        Ok(State::Held) => format!(
            "Held, nothing goes out until it is released{reason}. hapax release {} --reason '...'",
            delivery.message_id
        ),
        Ok(State::Failed) => format!("Not delivered, failed at {finished}{reason}.{may_have_arrived}"),
        Ok(State::Cancelled) => format!("Not delivered, cancelled at {finished}{reason}.{may_have_arrived}"),
        Ok(State::Expired) => format!("Not delivered, its time had passed at {finished}{reason}.{may_have_arrived}"),
        Ok(State::Suppressed) => format!("Not delivered, suppressed{reason}.{may_have_arrived}"),
        Err(_) => format!("Its state is {}, which this version does not know.", delivery.state),
    }
}

fn sent(delivery: &Delivery, own: &[&Attempt], finished: &str) -> String {
    // A doubt that was decided by somebody stays one: it is the attempt that is taken for sent.
    let decided = i32::from(matches!(delivery.evidence.as_deref(), Some("operator" | "policy")));
    let copies = match (delivery.open_doubts - decided).max(0) {
        0 => String::new(),
        open => format!(" {open} other attempt(s) of it may have arrived, too."),
    };
    match delivery.evidence.as_deref() {
        Some(evidence @ ("reply" | "idempotent upstream")) => {
            let accepted = own.iter().rev().find(|attempt| attempt.outcome == "accepted");
            let server = accepted.and_then(|attempt| attempt.server.clone()).unwrap_or_else(|| "a server".into());
            let said = accepted.map(|attempt| format!(" (\"{}\")", words(attempt))).unwrap_or_default();
            let tries = if own.len() > 1 { format!(" after {} attempts", own.len()) } else { String::new() };
            let once = match evidence {
                "reply" => "",
                _ => {
                    " The attempts in doubt before carried the same key, and its upstream de-duplicates by a key: one mail."
                }
            };
            let note = delivery.reason.as_deref().map(|reason| format!(", {reason}")).unwrap_or_default();
            format!("Accepted by {server} at {finished}{tries}{said}{note}.{once}{copies}")
        }
        Some(evidence) => format!("Taken for sent at {finished} by {evidence}, not by a server's reply.{copies}"),
        None => format!("Sent at {finished}.{copies}"),
    }
}

fn pending(delivery: &Delivery, own: &[&Attempt]) -> String {
    let due = match (&delivery.due_at, delivery.due_later) {
        (Some(due), Some(true)) => format!("due at {due}"),
        (Some(due), _) => format!("due since {due}, a relay will take it"),
        (None, _) => delivery.reason.clone().unwrap_or_else(|| "not due".into()),
    };
    match own.last() {
        None => format!("Not sent yet, {due}."),
        Some(last) => {
            format!("Not sent yet, {due}; its last attempt ended {} at {}: {}.", last.outcome, last.phase, words(last))
        }
    }
}

fn in_doubt(doubt: Option<&OpenDoubt>) -> String {
    let Some(doubt) = doubt else {
        return "Nobody knows whether it arrived; the doubt has just changed, look again.".to_owned();
    };
    let why = match doubt.marked_by.as_deref() {
        Some("reaper") => "its relay vanished after the intent to send was written",
        _ => "the connection was lost between end marker and reply",
    };
    let early = match &doubt.may_be_alive_until {
        Some(until) if doubt.may_be_alive => format!(" (resend and failed only after {until})"),
        _ => String::new(),
    };
    format!(
        "Nobody knows whether it arrived: {why}. Look for {} in the mail server's log around {}, then: \
         hapax resolve {} sent|resend|failed --reason '...'{early}",
        doubt.message_id_header,
        or_dash(doubt.intent_at.as_deref()),
        doubt.token
    )
}
