//! Whether the schema's objects are as the migrations made them: what somebody has switched on, dropped, granted or given
//! away since.

use hapax_store::inspect::intact::Secured;

use super::{database::Patient, finding::Finding};

/// Row level security, and whether it would mislead every other question.
pub(super) async fn row_security(patient: &Patient<'_>) -> (Vec<Finding>, bool) {
    let name = "schema.row_security";
    let console = match patient.console(name).await {
        Ok(console) => console,
        Err(findings) => return (findings, false),
    };
    match console.doctor_row_security().await {
        Ok(tables) => (vec![judge_security(name, &tables)], tables.iter().any(|table| table.hides)),
        Err(error) => (vec![patient.failed(name, &error)], false),
    }
}

fn judge_security(name: &str, tables: &[Secured]) -> Finding {
    if tables.is_empty() {
        return Finding::ok(name, "off for every table");
    }
    let all = |separator: &str, words: fn(&str) -> String| {
        tables.iter().map(|table| words(&table.name)).collect::<Vec<_>>().join(separator)
    };
    let names = all(", ", |table| format!("outbox.{table}"));
    let off = all(" ", |table| format!("ALTER TABLE outbox.{table} DISABLE ROW LEVEL SECURITY;"));
    let remedy = format!("as the owner: {off}");
    if tables.iter().any(|table| table.hides || table.hides_from_relays) {
        let evidence = format!(
            "row level security is on for {names}: what it hides would be taken for missing, so relays do nothing; \
             no policy makes up for it"
        );
        return Finding::error(name, evidence, remedy);
    }
    Finding::note(name, format!("row level security is on for {names}, and every relay's user bypasses it"), remedy)
}
