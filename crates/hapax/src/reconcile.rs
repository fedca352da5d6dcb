//! `hapax reconcile`: settles doubts by what a Postfix log says of them.
//!
//! Reads the doubts, then the log once from its beginning to its end, judges each doubt, and settles by the token it
//! saw: a doubt that was decided meanwhile is left alone by the database. Shows no address.

mod judge;
mod line;
mod search;
mod server;
#[cfg(test)]
mod tests;
mod time;

use std::{
    collections::HashMap,
    fs::File,
    io::{BufRead, BufReader, Read},
    path::Path,
};

use hapax_store::inspect::{Console, Doubtful};
use serde_json::json;
pub(crate) use time::offset;

use self::{
    judge::{Judgement, Terms, judge},
    search::{Found, Nonsense, Search},
    server::Server,
};
use crate::{
    cli::Reconcile,
    config::{Database, Loaded},
    decide::refused,
    failure::{Exit, Refusal, tell},
    look::console,
    output::{self, Table},
};

/// The longest line of a log.
const LINE_MAX: usize = 64 * 1024;

/// One doubt, and what came of it.
struct Row {
    doubt: Doubtful,
    judgement: Judgement,
    /// The database's answer.
    answer: Option<Result<String, String>>,
}

/// # Errors
/// Usage, configuration, an unreachable database, a file that is no log of Postfix.
pub(crate) async fn run(loaded: Loaded, options: Reconcile) -> anyhow::Result<Exit> {
    let (console, database) = console(loaded, "hapax reconcile").await?;
    let doubts = console.reconcile_list().await.map_err(|error| refused(&error, &database))?;
    if doubts.is_empty() {
        may_look(&console, &database).await?;
    }
    let (doubts, found) = {
        let options = options.clone();
        tokio::task::spawn_blocking(move || read(&options, doubts)).await??
    };
    for unknown in unmatched(&doubts, &options) {
        tell!("note: {unknown}");
    }
    let mut rows = judged(doubts, &found, &options);
    if !options.dry_run {
        for row in &mut rows {
            row.answer = settle(&console, &database, row).await;
        }
    }
    print(&rows, &found, &options)
}

/// Nothing in doubt, or nothing that this user may compare?
async fn may_look(console: &Console, database: &Database) -> Result<(), Refusal> {
    let open = console.doubt_list(&hapax_store::inspect::DoubtFilter::default(), 1).await;
    match open.map_err(|error| refused(&error, database))?.is_empty() {
        true => Ok(()),
        false => {
            let hint = "use one who is a member of outbox_operator (--database-url postgres://sre@db/shop)";
            Err(Refusal::failed("this database user may not see addresses, which a log is compared with", &[hint]))
        }
    }
}

/// Doubts that look for the same Message-ID share a number.
fn numbered(doubts: &[Doubtful]) -> (Vec<String>, Vec<usize>) {
    let (mut wanted, mut known) = (Vec::new(), HashMap::new());
    let numbers = doubts.iter().map(|doubt| {
        let id = doubt.search_for.trim_start_matches("message-id=").to_owned();
        *known.entry(id.clone()).or_insert_with(|| {
            wanted.push(id);
            wanted.len() - 1
        })
    });
    let numbers = numbers.collect();
    (wanted, numbers)
}

fn read(options: &Reconcile, doubts: Vec<Doubtful>) -> anyhow::Result<(Vec<Doubtful>, Found)> {
    #[expect(clippy::cast_possible_truncation, reason = "seconds since 1970")]
    let now = doubts.first().map_or(i64::MAX / 4, |doubt| doubt.now_s as i64);
    let max_gap = i64::try_from(options.max_gap.as_secs()).unwrap_or(i64::MAX);
    let (wanted, _) = numbered(&doubts);
    let today = if doubts.is_empty() { 0 } else { now };
    let mut search = Search::new(wanted, time::Clock::new(today, options.utc_offset), now, max_gap);
    let name = options.postfix_log.display().to_string();
    let unreadable = |error: std::io::Error| Refusal::failed(format!("{name}: cannot be read: {error}"), &[]);
    let began = std::time::Instant::now();
    let mut log = open(&options.postfix_log).map_err(unreadable)?;
    let mut line = Vec::new();
    let bad = |error: Nonsense| {
        let (message, hints) = crate::failure::split_hints(&format!("{name}: {error}"));
        Refusal::lines(1, vec![(message, hints)])
    };
    loop {
        line.clear();
        let limit = u64::try_from(LINE_MAX).unwrap_or(u64::MAX);
        if log.by_ref().take(limit).read_until(b'\n', &mut line).map_err(unreadable)? == 0 {
            break;
        }
        search.line(String::from_utf8_lossy(&line).trim_end_matches(['\n', '\r'])).map_err(bad)?;
    }
    let mut found = search.finish().map_err(bad)?;
    found.took_s = i64::try_from(began.elapsed().as_secs()).unwrap_or(i64::MAX / 4);
    Ok((doubts, found))
}

fn open(path: &Path) -> std::io::Result<Box<dyn BufRead>> {
    if path == Path::new("-") {
        return Ok(Box::new(BufReader::new(std::io::stdin())));
    }
    Ok(Box::new(BufReader::with_capacity(1 << 20, File::open(path)?)))
}

/// What was asserted of servers and routes that no doubt went to: mistyped, perhaps.
fn unmatched(doubts: &[Doubtful], options: &Reconcile) -> Vec<String> {
    let went =
        |given: &str| doubts.iter().filter_map(|doubt| doubt.server.as_deref()).any(|it| Server::of(it).is(given));
    let took = |given: &String| doubts.iter().any(|doubt| doubt.route.as_ref() == Some(given));
    let servers = options.server.iter().filter(|given| !went(given));
    let routes = options.route.iter().filter(|given| !took(given));
    let servers = servers.map(|given| format!("no doubt went to server {}", output::one_line(given)));
    servers.chain(routes.map(|given| format!("no doubt has taken route {}", output::one_line(given)))).collect()
}

fn judged(doubts: Vec<Doubtful>, found: &Found, options: &Reconcile) -> Vec<Row> {
    let terms = Terms {
        servers: options.server.clone(),
        routes: options.route.clone(),
        margin: i64::try_from(options.margin.as_secs()).unwrap_or(i64::MAX / 4),
    };
    let (_, numbers) = numbered(&doubts);
    let alike = |a: usize, b: usize| a != b && numbers[a] == numbers[b] && doubts[a].recipient == doubts[b].recipient;
    let shared: Vec<bool> = (0..doubts.len()).map(|at| (0..doubts.len()).any(|other| alike(at, other))).collect();
    let rows = doubts.iter().enumerate().map(|(at, doubt)| {
        let traces = found.traces.get(&numbers[at]).map_or(&[][..], Vec::as_slice);
        let judgement = judge(doubt, traces, found, shared[at], &terms);
        Row { doubt: doubt.clone(), judgement, answer: None }
    });
    rows.collect()
}

async fn settle(console: &Console, database: &Database, row: &Row) -> Option<Result<String, String>> {
    let (verdict, evidence) = match &row.judgement {
        Judgement::Accepted(evidence) => ("accepted", evidence),
        Judgement::NotSent(evidence) => ("not_sent", evidence),
        Judgement::Left(_) => return None,
    };
    let (id, number, token) = (row.doubt.message_id, row.doubt.recipient_no, row.doubt.token);
    let answer = console.settle_evidence(id, number, token, verdict, &format!("Postfix log: {evidence}")).await;
    Some(answer.map_err(|error| refused(&error, database).to_string()))
}

fn print(rows: &[Row], found: &Found, options: &Reconcile) -> anyhow::Result<Exit> {
    let (mut accepted, mut not_sent, mut left) = (0, 0, 0);
    let mut table = Table::new(&["DELIVERY", "RECIPIENT", "VERDICT", "WHY", "RESULT"]);
    let mut all = Vec::new();
    for row in rows {
        let (verdict, why) = match &row.judgement {
            Judgement::Accepted(why) => ("accepted", why),
            Judgement::NotSent(why) => ("not sent", why),
            Judgement::Left(why) => ("undecided", why),
        };
        let failed = matches!(row.answer, Some(Err(_)));
        match verdict {
            _ if failed => left += 1,
            "accepted" => accepted += 1,
            "not sent" => not_sent += 1,
            _ => left += 1,
        }
        let result = match (&row.answer, &row.judgement) {
            (Some(Ok(answer) | Err(answer)), _) => answer.clone(),
            (None, Judgement::Accepted(_)) => "would be sent".to_owned(),
            (None, Judgement::NotSent(_)) => "would be pending again".to_owned(),
            (None, Judgement::Left(_)) => "left in doubt".to_owned(),
        };
        let delivery = format!("{}/{}", row.doubt.message_id, row.doubt.recipient_no);
        all.push(json!({
            "delivery": delivery, "token": row.doubt.token, "recipient": row.doubt.masked, "verdict": verdict, "why": why,
            "result": result, "settled": matches!(row.answer, Some(Ok(_))),
        }));
        table.row([delivery, row.doubt.masked.clone(), verdict.to_owned(), why.clone(), result]);
    }
    match options.json.json {
        true => output::json(&all)?,
        false if rows.is_empty() => output::line("nothing is in doubt"),
        false => table.print(),
    }
    let would = if options.dry_run { "would be " } else { "" };
    tell!(
        "{} lines with {} Message-IDs read; of {} in doubt: {accepted} {would}sent, {not_sent} {would}pending again, {left} left",
        found.lines,
        found.message_ids,
        rows.len()
    );
    Ok(if left == 0 { Exit::Done } else { Exit::Failed })
}
