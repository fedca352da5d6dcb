//! `hapax show`: one message from its enqueue to the server's words, with a verdict in a sentence per delivery.

use hapax_store::inspect::{Attempt, Decision, Delivery, DoubtFilter};
use serde_json::json;

use crate::{
    cli::Show,
    config::Loaded,
    connect,
    explain::{
        story::{Story, words},
        verdict,
        waiting::{self, waits},
        without_delivery,
    },
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
        if let Some(refusal) = without_delivery(&console.find_unqueued(None, Some(id)).await.map_err(explain)?) {
            return Err(refusal.into());
        }
        let message = format!("there is no delivery {}", options.delivery);
        let hints = ["hapax ls", "its transaction may not have committed, or its partition has been dropped"];
        return Err(Refusal::failed(message, &hints).into());
    };
    let attempts = console.message_attempts(id, recipient_no).await.map_err(explain)?;
    let audit = console.message_audit(id, recipient_no).await.map_err(explain)?;
    let filter = DoubtFilter { message_id: Some(id), recipient_no, ..DoubtFilter::default() };
    let doubts = console.doubt_list(&filter, 1000).await.map_err(explain)?;
    let around = console.circumstances(id).await.map_err(explain)?;
    let standing = waiting::ask(&console, &deliveries, &around).await.map_err(explain)?;
    let story = |delivery| Story::of(delivery, &attempts, audit.as_deref(), &doubts, &around, standing.as_ref());
    let stories: Vec<Story> = deliveries.iter().map(story).collect();
    if options.json.json {
        let told = stories.iter().map(|story| {
            json!({
                "delivery": story.delivery, "doubt": story.doubt, "verdict": verdict(story), "waits": waits(story),
            })
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
    for story in &stories {
        output::line(&format!("  /{}  {}", story.delivery.recipient_no, output::one_line(&verdict(story))));
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
    if first.content_gone {
        table.row(["content".into(), "gone: erased, or past its time".into()]);
    }
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
            or_dash(words(attempt).as_deref()),
        ]);
    }
    table.print();
}

/// The relay of an attempt, by its label.
pub(crate) fn relay(attempt: &Attempt) -> String {
    match (&attempt.relay_name, &attempt.relay_host, attempt.relay_incarnation) {
        (Some(name), Some(host), _) if name != host => format!("{name} on {host}"),
        (Some(name), ..) => name.clone(),
        (None, _, Some(incarnation)) => incarnation.to_string(),
        _ => "-".to_owned(),
    }
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
