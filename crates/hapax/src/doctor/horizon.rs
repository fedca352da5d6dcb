//! What keeps dead rows from being cleaned: old transactions, prepared transactions, replication slots.

use hapax_store::inspect::doctor::Holder;

use super::{
    database::Patient,
    finding::{Finding, told},
};

/// A slot this far back, in transactions, keeps everything since then.
const SLOT_AGE_MAX: f64 = 1_000_000.0;

pub(super) async fn examine(patient: &Patient<'_>) -> Vec<Finding> {
    let name = "database.horizon";
    let console = match patient.console(name).await {
        Ok(console) => console,
        Err(findings) => return findings,
    };
    let old = patient.doctor.transaction_age.as_secs_f64();
    let holders = match console.doctor_horizon(old).await {
        Ok(holders) => holders,
        Err(error) => return vec![patient.failed(name, &error)],
    };
    let sees_all = console.doctor_role().await.is_ok_and(|role| role.sees_all_sessions);
    judge(&holders, sees_all, old)
}

fn judge(holders: &[Holder], sees_all: bool, old_s: f64) -> Vec<Finding> {
    let of = |kind: &str| holders.iter().filter(|holder| holder.kind == kind).collect::<Vec<_>>();
    let (transactions, prepared) = (of("transaction"), of("prepared"));
    let mut findings = Vec::new();
    if let Some(oldest) = transactions.first() {
        let evidence = format!("open for {}: {}{}", age(oldest), oldest.what, others(&transactions));
        let remedy = format!("end it where it comes from; or SELECT pg_terminate_backend({});", oldest.pid);
        findings.push(Finding::warning("database.transactions", evidence, remedy));
    } else if sees_all {
        findings.push(Finding::ok("database.transactions", format!("none is older than {}", told(old_s))));
    } else {
        let evidence = "this user sees its own sessions only: what others keep open could not be looked at";
        let remedy = "to see them: GRANT pg_read_all_stats TO it, or run the doctor as a member of pg_monitor";
        findings.push(Finding::note("database.transactions", evidence, remedy));
    }
    findings.push(match prepared.first() {
        None => Finding::ok("database.prepared", "no prepared transaction is old"),
        Some(oldest) => {
            let evidence = format!("prepared {} ago: {}{}", age(oldest), oldest.what, others(&prepared));
            let remedy = "COMMIT PREPARED or ROLLBACK PREPARED it, as its owner and in its database; until then it \
                          holds its locks, through restarts";
            Finding::warning("database.prepared", evidence, remedy)
        }
    });
    findings.push(slots(&of("slot")));
    findings
}

fn slots(slots: &[&Holder]) -> Finding {
    let is_behind = |slot: &Holder| slot.age_s.is_some_and(|age| age > SLOT_AGE_MAX);
    let bad: Vec<String> = slots
        .iter()
        .filter(|slot| slot.what.ends_with("inactive)") || is_behind(slot))
        .map(|slot| match slot.age_s {
            Some(age) => format!("{}, {age:.0} transactions behind", slot.what),
            None => slot.what.clone(),
        })
        .collect();
    if bad.is_empty() {
        return Finding::ok("database.slots", "no replication slot is left behind");
    }
    let remedy =
        "start what reads it, or SELECT pg_drop_replication_slot('...'): it keeps dead rows and write-ahead log";
    Finding::warning("database.slots", bad.join("; "), remedy)
}

fn age(holder: &Holder) -> String {
    told(holder.age_s.unwrap_or_default())
}

fn others(holders: &[&Holder]) -> String {
    match holders.len() {
        0 | 1 => String::new(),
        more => format!(" (and {} more)", more - 1),
    }
}
