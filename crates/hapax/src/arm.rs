//! `hapax arm` and `hapax release --failover`: after a failover or a restore, this database is the one to send from.
//!
//! What may have been sent before is held before anything is armed, in batches, so that no row is locked for long.

use hapax_store::{ArmedState, Arming, inspect::Console};
use serde_json::json;

use crate::{
    cli::{Arm, Release},
    config::{Database, Loaded},
    decide::refused,
    failure::{Exit, Refusal},
    look::console,
    output,
};

/// Rows of one transaction.
const BATCH: i32 = 10_000;

/// # Errors
/// Configuration, an unreachable database, a missing privilege.
pub(crate) async fn run(loaded: Loaded, options: Arm) -> anyhow::Result<Exit> {
    let as_json = options.json.json;
    let (console, database) = console(loaded, "hapax arm").await?;
    if !options.go_on {
        hold(&console, &database).await?;
    }
    let hold_pending = match (options.hold, options.go_on) {
        (true, _) => Some(true),
        (_, true) => Some(false),
        _ => None,
    };
    let armed = console.arm(&options.reason, hold_pending).await.map_err(|error| refused(&error, &database))?;
    // Everything a failover has held, also what relays held before somebody chose to go on.
    let released = match options.release_held || options.go_on {
        true => release_all(&console, &database, &options.reason).await?,
        false => 0,
    };
    let here = console.armed_state().await.map_err(|error| refused(&error, &database))?;
    if as_json {
        output::json(&json!({ "armed": armed, "released": released, "server": here }))?;
        return Ok(Exit::Done);
    }
    for line in lines(&armed, &here, released) {
        output::line(&line);
    }
    Ok(Exit::Done)
}

/// # Errors
/// Configuration, an unreachable database, a missing privilege.
pub(crate) async fn release(loaded: Loaded, options: Release) -> anyhow::Result<Exit> {
    let (console, database) = console(loaded, "hapax release").await?;
    let released = release_all(&console, &database, &options.reason).await?;
    if options.json.json {
        output::json(&json!({ "released": released }))?;
    } else {
        output::line(&format!("{released} released"));
    }
    Ok(Exit::Done)
}

async fn hold(console: &Console, database: &Database) -> Result<(), Refusal> {
    while !console.quarantine(BATCH).await.map_err(|error| refused(&error, database))?.finished {}
    Ok(())
}

async fn release_all(console: &Console, database: &Database, reason: &str) -> Result<i64, Refusal> {
    let mut released = 0;
    loop {
        match console.release_failover(reason, BATCH).await.map_err(|error| refused(&error, database))? {
            0 => return Ok(released),
            more => released += more,
        }
    }
}

/// What was found, and what to do next.
fn lines(armed: &Arming, here: &ArmedState, released: i64) -> Vec<String> {
    let mut lines = vec![match armed.identity == armed.previous_identity {
        true => format!("armed anew for the same server {}", armed.identity),
        false => format!("armed for {}, it was {}", armed.identity, armed.previous_identity),
    }];
    lines.push(format!("this is {}", here.place()));
    if let Some(cause) = &armed.cause {
        lines.push(format!("cause: {cause}"));
    }
    let held = armed.held.saturating_sub(released).max(0);
    lines.push(format!(
        "held by this failover: {held}{}",
        if released > 0 { format!(", released: {released}") } else { String::new() }
    ));
    lines.push(format!("in doubt: {}", armed.in_doubt));
    if armed.sending > 0 {
        lines.push(format!(
            "{} were being sent when the old server went away; they become in doubt within a minute or two of a relay's start",
            armed.sending
        ));
    }
    lines.push("running relays go on by themselves; start the others: hapax run".to_owned());
    if held > 0 {
        lines.push(
            "held are those that may have been sent before: hapax ls --state held, then hapax cancel ID or hapax release ID \
             (all of them: hapax release --failover)"
                .to_owned(),
        );
    }
    if armed.in_doubt > 0 {
        lines.push("in doubt: hapax ls --in-doubt, then hapax resolve".to_owned());
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arming(held: i64, in_doubt: i64) -> Arming {
        Arming {
            identity: "7/00000002/5".into(),
            previous_identity: "7/00000001/5".into(),
            epoch: uuid::Uuid::nil(),
            cause: Some("another server, it was 7/00000001/5".into()),
            held,
            in_doubt,
            sending: 0,
        }
    }

    fn here() -> ArmedState {
        ArmedState {
            armed: true,
            standby: false,
            copy: false,
            armed_for: "7/00000002/5".into(),
            here: Some("7/00000002/5".into()),
            address: "10.0.0.2".into(),
            port: 5432,
            database: "shop".into(),
        }
    }

    #[test]
    fn it_says_what_was_found_and_what_to_type_next() {
        assert_eq!(
            lines(&arming(12, 3), &here(), 0).join("\n"),
            "armed for 7/00000002/5, it was 7/00000001/5\n\
             this is database shop at 10.0.0.2:5432\n\
             cause: another server, it was 7/00000001/5\n\
             held by this failover: 12\n\
             in doubt: 3\n\
             running relays go on by themselves; start the others: hapax run\n\
             held are those that may have been sent before: hapax ls --state held, then hapax cancel ID or hapax release ID \
             (all of them: hapax release --failover)\n\
             in doubt: hapax ls --in-doubt, then hapax resolve"
        );
    }

    #[test]
    fn what_was_released_is_not_held_any_more() {
        let text = lines(&arming(12, 0), &here(), 12).join("\n");
        assert!(text.contains("held by this failover: 0, released: 12") && !text.contains("hapax release"), "{text}");
    }
}
