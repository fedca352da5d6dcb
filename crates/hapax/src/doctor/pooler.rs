//! Whether a pooler in transaction mode stands in front of the database, and whether notifications come through.
//!
//! Nothing says so: two connections are compared, of which one is in the middle of a transaction.

use hapax_core::Incarnation;
use hapax_store::{Error, Store};

use super::{database::Patient, finding::Finding};

pub(super) async fn examine(patient: &Patient<'_>) -> Vec<Finding> {
    let name = "database.pooler";
    let (one, mut other) = match (patient.console(name).await, patient.console(name).await) {
        (Ok(one), Ok(other)) => (one, other),
        (Err(findings), _) | (_, Err(findings)) => return findings,
    };
    let pooled = match one.is_pooled_with(&mut other).await {
        Ok(pooled) => pooled,
        Err(error) => return vec![patient.failed(name, &error)],
    };
    drop((one, other));
    let wake_up = patient.settings.relay.wake_up;
    if pooled {
        let evidence = "a pooler in transaction mode stands in front of the database: statements work (hapax prepares \
                        none by name), notifications do not arrive";
        let remedy = match wake_up {
            true => "relays poll instead; connect past it to be woken, or set wake_up = false below [relay]",
            false => "nothing: wake_up is off, relays poll",
        };
        return vec![Finding::note(name, evidence, remedy)];
    }
    let mut findings = vec![Finding::ok(name, "none in transaction mode")];
    if wake_up && let Some(finding) = hears(patient).await {
        findings.push(finding);
    }
    findings
}

/// Whether what is notified arrives; nothing where no store can be had, which others have said.
async fn hears(patient: &Patient<'_>) -> Option<Finding> {
    let name = "database.notify";
    let store = Store::connect(&patient.options, Incarnation::fresh()).await.ok()?;
    Some(match store.listen().await {
        Ok(_listener) => Finding::ok(name, "notifications arrive"),
        Err(Error::Deaf) => {
            let remedy =
                "relays poll instead; connect past the pooler to be woken, or set wake_up = false below [relay]";
            Finding::note(name, "what is notified does not arrive on this connection", remedy)
        }
        Err(error) => patient.failed(name, &error),
    })
}
