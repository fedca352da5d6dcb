//! Who holds an advisory lock of the outbox: any login of the database may take one.

use hapax_store::inspect::doctor::LockHolder;

use super::{
    database::Patient,
    finding::{Finding, told},
};

/// What is at work rightly has ended by then.
const HELD_S_MAX: f64 = 60.0;

pub(super) async fn examine(patient: &Patient<'_>) -> Vec<Finding> {
    let name = "database.advisory_locks";
    let console = match patient.console(name).await {
        Ok(console) => console,
        Err(findings) => return findings,
    };
    match console.doctor_locks(HELD_S_MAX).await {
        Ok(holders) if holders.is_empty() => vec![Finding::ok(name, "nobody keeps those of the outbox")],
        Ok(holders) => holders.iter().map(|holder| held(name, holder)).collect(),
        Err(error) => vec![patient.failed(name, &error)],
    }
}

fn held(name: &'static str, holder: &LockHolder) -> Finding {
    let means = match holder.what.as_str() {
        "upkeep" => "no week is made or dropped",
        "contents" => "no content is removed",
        "erasing" => "nothing is erased but messages",
        _ => "hapax migrate up waits",
    };
    let long = holder.held_s.map(|held| format!(", for {}", told(held))).unwrap_or_default();
    let Some(pid) = holder.pid else {
        let evidence = format!("a prepared transaction holds the lock of {}: {means}", holder.what);
        return Finding::warning(name, evidence, "COMMIT PREPARED or ROLLBACK PREPARED it: pg_prepared_xacts has it");
    };
    let or_none = |words: &Option<String>| words.clone().filter(|words| !words.is_empty()).unwrap_or("-".to_owned());
    let (user, application) = (or_none(&holder.user_name), or_none(&holder.application));
    let stranger = if holder.is_stranger { ", which has no business with it," } else { "" };
    let what = &holder.what;
    let evidence = format!(
        "pid {pid}, user {user}, application {application:?}{stranger} holds the lock of {what}{long}: {means} meanwhile"
    );
    let remedy = format!(
        "end it where it comes from; or SELECT pg_terminate_backend({pid}); any login may take such a lock: REVOKE CONNECT \
         ON DATABASE from who need not be here"
    );
    Finding::warning(name, evidence, remedy)
}
