//! `hapax resolve`, `retry`, `cancel`, `hold`, `release`, `send-again`: decisions, one line of result per delivery.
//!
//! Several targets are decided one after another; an error of one does not keep the others from being decided.

use clap::ValueEnum;
use hapax_store::inspect::{Answer, Console, DoubtFilter, ManyDoubts};
use serde_json::json;

use crate::{
    cli::{Decide, Resolve, Retry, SendAgain, Verdict},
    config::{Database, Loaded},
    connect,
    failure::{Exit, Refusal, report, tell},
    look::console,
    output,
    target::Target,
};

/// Which of the operators' functions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Cancel,
    Hold,
    Release,
}

/// What was done to one delivery.
struct Line {
    delivery: String,
    result: String,
    done: bool,
}

/// Gathers results and errors of one command.
struct Outcome {
    lines: Vec<Line>,
    errors: Vec<(String, Refusal)>,
    as_json: bool,
}

impl Outcome {
    fn new(as_json: bool) -> Self {
        Self { lines: Vec::new(), errors: Vec::new(), as_json }
    }

    fn answers(&mut self, id: uuid::Uuid, answers: Vec<Answer>, done: impl Fn(&str) -> bool) {
        for answer in answers {
            let done = done(&answer.result);
            self.line(format!("{id}/{}", answer.recipient_no), as_typed(&answer.result), done);
        }
    }

    fn line(&mut self, delivery: String, result: String, done: bool) {
        if !self.as_json {
            output::line(&format!("{delivery}  {}", output::one_line(&result)));
        }
        self.lines.push(Line { delivery, result, done });
    }

    fn error(&mut self, target: &str, refusal: Refusal) {
        if !self.as_json {
            report(&refusal.clone().into());
        }
        self.errors.push((target.to_owned(), refusal));
    }

    fn finish(self) -> anyhow::Result<Exit> {
        let all = self.errors.is_empty() && self.lines.iter().all(|line| line.done);
        if self.as_json {
            let lines = self.lines.iter();
            let lines =
                lines.map(|line| json!({ "delivery": line.delivery, "result": line.result, "done": line.done }));
            let errors = self.errors.iter().map(|(target, refusal)| refusal.to_json(target));
            output::json(&lines.chain(errors).collect::<Vec<_>>())?;
        }
        Ok(if all { Exit::Done } else { Exit::Failed })
    }
}

/// # Errors
/// Usage, configuration, an unreachable database.
pub(crate) async fn resolve(loaded: Loaded, options: Resolve) -> anyhow::Result<Exit> {
    let (targets, verdict) = words(&options)?;
    if targets.is_empty() {
        return resolve_many(loaded, &options, verdict).await;
    }
    if options.token.is_some() && targets.len() > 1 {
        let hint = "name each doubt by its own token instead: hapax resolve TOKEN TOKEN ... sent --reason '...'";
        return Err(Refusal::usage("--token names one doubt, but there are several deliveries", &[hint]).into());
    }
    let (console, database) = console(loaded, "hapax resolve").await?;
    let mut outcome = Outcome::new(options.json.json);
    for target in targets {
        let named = match target.recipient_no {
            Some(number) => Ok(Some((target.id, number, options.token))),
            None => doubt_of(&console, &database, target.id).await,
        };
        match named {
            Err(refusal) => outcome.error(&target.id.to_string(), refusal),
            Ok(None) => {
                let result = "nothing to resolve: no open doubt has this token".to_owned();
                outcome.line(target.id.to_string(), result, false);
            }
            Ok(Some((id, number, token))) => {
                let answered =
                    console.resolve(id, number, verdict.as_str(), &options.reason, token, options.force).await;
                match answered {
                    Ok(result) => {
                        let done = !result.ends_with("is not of this delivery");
                        outcome.line(format!("{id}/{number}"), result, done);
                    }
                    Err(error) => outcome.error(&format!("{id}/{number}"), refused(&error, &database)),
                }
            }
        }
    }
    outcome.finish()
}

/// The targets and the verdict behind them; no targets where filters name the doubts.
fn words(options: &Resolve) -> Result<(Vec<Target>, Verdict), Refusal> {
    let (last, targets) = options.words.split_last().expect("clap requires one");
    let verdict = Verdict::from_str(last, false).map_err(|_| {
        let hint = "hapax resolve TOKEN sent --reason '...'; or hapax resolve --route ROUTE sent --reason '...'";
        Refusal::usage(format!("{last:?} is no verdict: the last word is sent, resend or failed"), &[hint])
    })?;
    let named = [&options.route, &options.kind, &options.server, &options.tenant].iter().any(|filter| filter.is_some());
    let filtered = named || options.all || options.older_than.is_some() || options.newer_than.is_some();
    match (filtered, targets.is_empty()) {
        (true, false) => {
            let hint = "either name deliveries, or give filters";
            Err(Refusal::usage("there are deliveries and filters", &[hint]))
        }
        (false, true) => {
            let hint = "name deliveries (ID/NO) or doubts (TOKEN) before the verdict, or give filters: --route, --kind, \
                        --server, --tenant, --older-than, --newer-than; --all for every doubt there is";
            Err(Refusal::usage("nothing says which doubts", &[hint]))
        }
        (true, true) if options.token.is_some() => Err(Refusal::usage(
            "--token names one doubt, filters name many",
            &["name it alone: hapax resolve TOKEN ..."],
        )),
        (false, false) if options.dry_run => {
            let hint = "look at single doubts with hapax ls --in-doubt";
            Err(Refusal::usage("--dry-run is for filters", &[hint]))
        }
        _ => Ok((targets.iter().map(|target| Target::parse(target)).collect::<Result<_, _>>()?, verdict)),
    }
}

async fn resolve_many(loaded: Loaded, options: &Resolve, verdict: Verdict) -> anyhow::Result<Exit> {
    let (console, database) = console(loaded, "hapax resolve").await?;
    let which = ManyDoubts {
        route: options.route.clone(),
        kind: options.kind.clone(),
        server: options.server.clone(),
        tenant: options.tenant.clone(),
        older_than: options.older_than,
        newer_than: options.newer_than,
        everything: options.all,
    };
    let decided = console
        .resolve_many(verdict.as_str(), &options.reason, &which, options.force, options.dry_run)
        .await
        .map_err(|error| refused(&error, &database))?;
    let mut outcome = Outcome::new(options.json.json);
    for one in &decided {
        outcome.line(format!("{}/{}", one.message_id, one.recipient_no), one.result.clone(), one.done);
    }
    let done = decided.iter().filter(|one| one.done).count();
    let word = if options.dry_run { "would be decided" } else { "decided" };
    let early = decided.iter().any(|one| one.result.starts_with("too early"));
    match decided.is_empty() {
        true => tell!("{}", unmatched(&console, &database, verdict, &options.reason, &which).await?),
        false => tell!("{}", summary(decided.len(), done, word)),
    }
    if early {
        tell!("hint: wait with a relay running, or pass --force when you know that the relay's process is gone");
    }
    outcome.finish()
}

/// Which of the filters is to blame when nothing matches: a name that was mistyped must not look like work that is done.
async fn unmatched(
    console: &Console,
    database: &Database,
    verdict: Verdict,
    reason: &str,
    which: &ManyDoubts,
) -> Result<String, Refusal> {
    let none = ManyDoubts::default;
    let alone = [
        ("has taken route", &which.route, ManyDoubts { route: which.route.clone(), ..none() }),
        ("has kind", &which.kind, ManyDoubts { kind: which.kind.clone(), ..none() }),
        ("went to server", &which.server, ManyDoubts { server: which.server.clone(), ..none() }),
        ("has tenant", &which.tenant, ManyDoubts { tenant: which.tenant.clone(), ..none() }),
    ];
    let mut reasons = Vec::new();
    for (what, given, filter) in alone {
        let Some(given) = given else { continue };
        let found = console.resolve_many(verdict.as_str(), reason, &filter, false, true).await;
        if found.map_err(|error| refused(&error, database))?.is_empty() {
            reasons.push(format!("no doubt {what} {}", output::one_line(given)));
        }
    }
    Ok(match reasons.is_empty() {
        true => "nothing in doubt matches".to_owned(),
        false => reasons.join("; "),
    })
}

fn summary(all: usize, done: usize, word: &str) -> String {
    match all {
        _ if done == all => format!("{done} {word} of {all} in doubt that match"),
        _ => format!("{done} {word} of {all} in doubt that match, {} left", all - done),
    }
}

/// The delivery and token of a doubt that was named by its token. A message id is not guessed at: the error
/// says what to type.
async fn doubt_of(
    console: &Console,
    database: &Database,
    token: uuid::Uuid,
) -> Result<Option<(uuid::Uuid, i32, Option<uuid::Uuid>)>, Refusal> {
    let explain = |error| connect::explain(&error, database);
    let filter = DoubtFilter { token: Some(token), ..DoubtFilter::default() };
    if let Some(doubt) = console.doubt_list(&filter, 1).await.map_err(explain)?.first() {
        return Ok(Some((doubt.message_id, doubt.recipient_no, Some(doubt.token))));
    }
    let deliveries = console.message_deliveries(token, None).await.map_err(explain)?;
    if deliveries.is_empty() {
        return Ok(None);
    }
    let doubtful: Vec<String> = deliveries
        .iter()
        .filter(|delivery| delivery.state == hapax_core::State::InDoubt.as_str())
        .map(|delivery| format!("{token}/{}", delivery.recipient_no))
        .collect();
    let hint = match doubtful.is_empty() {
        true => "none of its deliveries is in doubt".to_owned(),
        false => format!("in doubt: {}", doubtful.join(", ")),
    };
    Err(Refusal::failed(format!("{token} is a message: name the delivery (ID/NO) or the token of the doubt"), &[&hint]))
}

/// The functions' own refusals say all there is to say; everything else is explained.
pub(crate) fn refused(error: &hapax_store::Error, database: &Database) -> Refusal {
    match error.sqlstate() {
        Some(state) if state.code().starts_with("22H") => Refusal::of_error(1, error, &[]).map(as_typed),
        _ => connect::explain(error, database),
    }
}

/// What the functions advise, as one would type it here instead of in SQL.
fn as_typed(text: &str) -> String {
    let text = match text.split_once(": outbox.") {
        // "resolve: outbox.resolve: verdict: ...": once is enough.
        Some((operation, rest)) if rest.starts_with(operation) => rest.to_owned(),
        _ => text.to_owned(),
    };
    if text.starts_with("list deliveries with: SELECT") {
        return "list deliveries with: hapax ls".to_owned();
    }
    text.replace("force => true", "--force")
        .replace("everything => true", "--all")
        .replace("token => ", "--token ")
        .replace("outbox.resolve()", "hapax resolve")
        .replace("outbox.release()", "hapax release")
        .replace("outbox.resume()", "hapax resume")
        .replace("look at outbox.in_doubt again", "look again with hapax ls --in-doubt")
}

/// # Errors
/// Usage, configuration, an unreachable database.
pub(crate) async fn retry(loaded: Loaded, options: Retry) -> anyhow::Result<Exit> {
    let targets: Result<Vec<Target>, Refusal> = options.targets.iter().map(|target| Target::parse(target)).collect();
    let targets = targets?;
    let (console, database) = console(loaded, "hapax retry").await?;
    let mut outcome = Outcome::new(options.json.json);
    for target in targets {
        match console.retry(target.id, target.recipient_no, &options.reason, options.force).await {
            Ok(answers) => outcome.answers(target.id, answers, |result| result.starts_with("pending")),
            Err(error) => outcome.error(&target.id.to_string(), refused(&error, &database)),
        }
    }
    outcome.finish()
}

/// # Errors
/// Configuration, an unreachable database.
pub(crate) async fn decide(loaded: Loaded, action: Action, options: Decide) -> anyhow::Result<Exit> {
    let (name, words): (&str, &[&str]) = match action {
        Action::Cancel => ("hapax cancel", &["cancelled", "already cancelled"]),
        Action::Hold => ("hapax hold", &["held", "nothing to hold: it is held"]),
        Action::Release => ("hapax release", &["pending", "nothing to release: it is pending"]),
    };
    let (console, database) = console(loaded, name).await?;
    let mut outcome = Outcome::new(options.json.json);
    for id in options.targets {
        let answered = match action {
            Action::Cancel => console.cancel(id, &options.reason).await,
            Action::Hold => console.hold(id, &options.reason).await,
            Action::Release => console.release_held(id, &options.reason).await,
        };
        match answered {
            Ok(answers) => outcome.answers(id, answers, |result| words.contains(&result)),
            Err(error) => outcome.error(&id.to_string(), refused(&error, &database)),
        }
    }
    outcome.finish()
}

/// # Errors
/// Usage, configuration, an unreachable database.
pub(crate) async fn send_again(loaded: Loaded, options: SendAgain) -> anyhow::Result<Exit> {
    let targets: Result<Vec<Target>, Refusal> = options.targets.iter().map(|target| Target::parse(target)).collect();
    let targets = targets?;
    let (console, database) = console(loaded, "hapax send-again").await?;
    let mut outcome = Outcome::new(options.json.json);
    for target in targets {
        let name = target.recipient_no.map_or_else(|| target.id.to_string(), |no| format!("{}/{no}", target.id));
        match console.send_again(target.id, target.recipient_no, &options.reason).await {
            Ok(Some(again)) => outcome.line(name, format!("pending: sent again as {again}"), true),
            Ok(None) => outcome.line(name, "nothing to send again".to_owned(), false),
            Err(error) => outcome.error(&name, refused(&error, &database)),
        }
    }
    outcome.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advice_of_the_functions_is_given_as_commands() {
        let cases = [
            ("resolve: outbox.resolve: verdict: too early (22H54)", "resolve: verdict: too early (22H54)"),
            ("wait, or pass force => true when you know", "wait, or pass --force when you know"),
            (
                "nothing to retry: it is held, release it with outbox.release()",
                "nothing to retry: it is held, release it with hapax release",
            ),
            ("list deliveries with: SELECT message_id FROM x", "list deliveries with: hapax ls"),
        ];
        for (text, typed) in cases {
            assert_eq!(as_typed(text), typed);
        }
    }
}
