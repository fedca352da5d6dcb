//! `hapax erase`: an address leaves the outbox, batch by batch.
//!
//! Invariant: the address is in nothing that is printed or logged.

use std::{io::Read, time::Duration};

use hapax_store::inspect::{Console, Erasing};
use serde_json::json;

use crate::{
    cli::Erase,
    config::{Database, Loaded},
    decide::refused,
    failure::{Exit, Refusal},
    look::console,
    output,
};

/// Messages of one transaction: a relay that waits for one of its rows waits for no more than these.
const BATCH: i32 = 100;
/// Messages to others that are read at a time.
const PAGE: i32 = 2000;
/// How often what somebody has locked is tried again.
const BUSY_TRIES_MAX: u32 = 10;
const BUSY_PAUSE: Duration = Duration::from_millis(300);
/// More is no address.
const ADDRESS_BYTES_MAX: u64 = 4096;

/// # Errors
/// Usage, configuration, an unreachable database, what the function refuses.
pub(crate) async fn run(loaded: Loaded, options: Erase) -> anyhow::Result<Exit> {
    let address = match options.address.as_str() {
        "-" => typed()?,
        address => address.to_owned(),
    };
    let (console, database) = console(loaded, "hapax erase").await?;
    let (mut done, mut kept) = all(&console, &database, &address, &options).await?;
    if options.mentions {
        let mut named = mentions(&console, &database, &address, &options).await?;
        if options.dry_run {
            // What is his own still has him as its recipient, and has been told.
            named.retain(|one| !done.iter().chain(&kept).any(|own| own.message_id == one.message_id));
        }
        let (waiting, now): (Vec<_>, Vec<_>) = named.into_iter().partition(is_kept);
        done.extend(now);
        // What is kept as his own has been told.
        kept.extend(
            waiting
                .into_iter()
                .filter(|one| !kept.iter().any(|own| own.message_id == one.message_id))
                .collect::<Vec<_>>(),
        );
    }
    if options.json.json {
        let answer = match options.dry_run {
            true => json!({ "dry_run": true, "would_erase": done, "would_keep": kept }),
            false => json!({ "done": kept.is_empty(), "erased": done, "kept": kept }),
        };
        output::json(&answer)?;
    } else {
        for one in done.iter().chain(&kept) {
            output::line(&format!("{}  {}", name(one), output::one_line(&told(&one.result))));
        }
        output::line(&summary(&done, &kept, options.dry_run));
    }
    Ok(if kept.is_empty() || options.dry_run { Exit::Done } else { Exit::Failed })
}

/// What was done, and what is kept after the last call.
async fn all(
    console: &Console,
    database: &Database,
    address: &str,
    options: &Erase,
) -> anyhow::Result<(Vec<Erasing>, Vec<Erasing>)> {
    if options.dry_run {
        let answers = console.would_erase(address, options.close_doubts).await;
        let answers = answers.map_err(|error| refused(&error, database))?;
        // Of those that would be cancelled only, erase tells twice.
        return Ok(answers.into_iter().partition(|one| !one.result.contains("kept: ")));
    }
    let mut done = Vec::new();
    let mut busy_tries = 0;
    loop {
        let answers = console.erase(address, reason(options), BATCH, options.close_doubts).await;
        let answers = answers.map_err(|error| refused(&error, database))?;
        let (kept, now): (Vec<_>, Vec<_>) = answers.into_iter().partition(is_kept);
        if !now.is_empty() {
            done.extend(now);
            continue;
        }
        if busy_tries == BUSY_TRIES_MAX || !kept.iter().any(|one| one.result.starts_with("kept: busy")) {
            return Ok((done, kept));
        }
        busy_tries += 1;
        tokio::time::sleep(BUSY_PAUSE).await;
    }
}

/// What came of all messages to others that name it.
async fn mentions(
    console: &Console,
    database: &Database,
    address: &str,
    options: &Erase,
) -> anyhow::Result<Vec<Erasing>> {
    let (mut found, mut after) = (Vec::new(), None);
    loop {
        let page = match options.dry_run {
            true => console.would_erase_mentions(address, after, PAGE).await,
            false => console.erase_mentions(address, reason(options), after, PAGE).await,
        };
        let (more, named): (Vec<_>, Vec<_>) =
            page.map_err(|error| refused(&error, database))?.into_iter().partition(|one| one.result == "more");
        found.extend(named);
        match more.first() {
            Some(last) => after = last.message_id,
            None => return Ok(found),
        }
    }
}

/// Only a dry run has none.
fn reason(options: &Erase) -> &str {
    options.reason.as_deref().unwrap_or_default()
}

fn is_kept(one: &Erasing) -> bool {
    one.result.starts_with("kept:")
}

/// The first line of standard input.
fn typed() -> anyhow::Result<String> {
    let mut text = String::new();
    let read = std::io::stdin().lock().take(ADDRESS_BYTES_MAX).read_to_string(&mut text);
    match (read, text.lines().next().map(str::trim)) {
        (Ok(_), Some(address)) if !address.is_empty() => Ok(address.to_owned()),
        _ => {
            Err(Refusal::usage("standard input has no address", &["printf %s \"$address\" | hapax erase - ..."]).into())
        }
    }
}

fn name(one: &Erasing) -> String {
    match (one.message_id, one.recipient_no) {
        (Some(id), Some(number)) => format!("{id}/{number}"),
        (Some(id), None) => id.to_string(),
        _ => "-".to_owned(),
    }
}

/// As one would type it here.
fn told(result: &str) -> String {
    result
        .replace("decide it with outbox.resolve()", "decide it with hapax resolve, or pass --close-doubts")
        .replace("outbox.resume()", "hapax resume")
}

fn summary(done: &[Erasing], kept: &[Erasing], dry_run: bool) -> String {
    let ended = done.iter().filter(|one| one.message_id.is_some() && one.result.ends_with("erased")).count();
    let is_cancelled = |one: &&Erasing| one.result.starts_with("cancelled");
    let cancelled = done.iter().filter(is_cancelled).count() + kept.iter().filter(is_cancelled).count();
    match (done.is_empty(), kept.len(), dry_run) {
        (true, 0, _) => "nothing to erase: no table has this address".to_owned(),
        (_, kept, true) => {
            format!("would erase: {ended} messages; {cancelled} would be cancelled; kept: {kept}; nothing was changed")
        }
        (_, 0, false) => format!("erased: {ended} messages, {cancelled} of them cancelled"),
        (_, kept, false) => {
            format!("erased: {ended} messages; {cancelled} cancelled; kept: {kept}, run it again later")
        }
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn the_summary_counts_messages_and_says_what_is_left() {
        let of = |results: &[&str]| -> Vec<Erasing> {
            let id = Some(Uuid::nil());
            results
                .iter()
                .map(|result| Erasing { message_id: id, recipient_no: Some(1), result: (*result).into() })
                .collect()
        };
        let elsewhere = Erasing { message_id: None, recipient_no: None, result: "erased: in a pause".into() };
        let mut done = of(&["erased", "cancelled, erased", "cancelled, kept: busy; call again"]);
        done.push(elsewhere);
        assert_eq!(summary(&[], &[], false), "nothing to erase: no table has this address");
        assert_eq!(summary(&done[..2], &[], false), "erased: 2 messages, 1 of them cancelled");
        let kept = of(&["kept: busy; call again"]);
        assert_eq!(summary(&done, &kept, false), "erased: 2 messages; 2 cancelled; kept: 1, run it again later");
        let dry = "would erase: 2 messages; 2 would be cancelled; kept: 1; nothing was changed";
        assert_eq!(summary(&done, &kept, true), dry);
        assert_eq!(name(&done[3]), "-");
        assert_eq!(
            told("kept: in doubt; decide it with outbox.resolve()"),
            "kept: in doubt; decide it with hapax resolve, or pass --close-doubts"
        );
    }
}
