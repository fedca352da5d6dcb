//! `hapax bench enqueue`: what an application pays for `outbox.enqueue` beside a bare INSERT of the same payload.
//!
//! Every form is prepared once by each client and has the same columns. The plain table has one index, its primary key,
//! which grows at its end: nothing could be cheaper.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::Context;
use tokio::task::JoinSet;
use tokio_postgres::{Client, Statement, types::ToSql};

use super::{
    contender::{Hapax, this_binary},
    letters::{self, Letter},
    producer::{ENQUEUE, quantile},
    progress,
    runs::{self, Column, Results, Run, column, distinct},
    stage::Stage,
};
use crate::{cli::bench::Enqueue, failure::Exit};

const DATABASE: &str = "bench_enqueue";
const MIGRATE_TIMEOUT: Duration = Duration::from_secs(600);
/// How many messages one statement of the bulk forms has.
const BULK: u32 = 100;

const PLAIN_TABLE: &str = "CREATE TABLE public.plain (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, \
     created_at timestamptz NOT NULL DEFAULT now(), kind text NOT NULL, recipients text[] NOT NULL, subject text, \
     body_text text, body_html text, headers jsonb)";
const PLAIN: &str = "INSERT INTO public.plain (kind, recipients, subject, body_text, body_html, headers) \
     VALUES ('bench', $1, $2, $3, $4, $5) RETURNING id::text";
const KEYED: &str = "SELECT outbox.enqueue(kind => 'bench', recipients => $1, subject => $2, body_text => $3, \
     body_html => $4, headers => $5, dedup_key => $6)::text";
const VIEW: &str = "INSERT INTO outbox.notification (kind, recipients, subject, body_text, body_html, headers) \
     VALUES ('bench', $1, $2, $3, $4, $5) RETURNING id::text";
const PLAIN_MANY: &str = "INSERT INTO public.plain (kind, recipients, subject, body_text, body_html, headers) \
     SELECT n.kind, n.recipients, n.subject, n.body_text, n.body_html, n.headers \
     FROM json_to_recordset($1::text::json) AS n (kind text, recipients text[], subject text, body_text text, \
     body_html text, headers jsonb) RETURNING id::text";
const MANY: &str = "SELECT id::text FROM outbox.enqueue_many($1::text)";

const COLUMNS: [Column; 4] = [
    column("rate", "msgs/s", 0),
    column("cpu_postgres_us", "CPU us/msg: Postgres", 1),
    column("p50_ms", "COMMIT p50 ms", 2),
    column("p99_ms", "p99 ms", 2),
];

/// A way to enqueue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Plain,
    Function,
    Keyed,
    View,
    PlainMany,
    Many,
}

/// Each with the one it is compared with.
const FORMS: [Form; 6] = [Form::Plain, Form::Function, Form::Keyed, Form::View, Form::PlainMany, Form::Many];

impl Form {
    const fn name(self) -> &'static str {
        match self {
            Self::Plain => "bare INSERT",
            Self::Function => "outbox.enqueue",
            Self::Keyed => "outbox.enqueue, dedup key",
            Self::View => "INSERT INTO outbox.notification",
            Self::PlainMany => "bare INSERT of 100",
            Self::Many => "outbox.enqueue_many of 100",
        }
    }

    const fn sql(self) -> &'static str {
        match self {
            Self::Plain => PLAIN,
            Self::Function => ENQUEUE,
            Self::Keyed => KEYED,
            Self::View => VIEW,
            Self::PlainMany => PLAIN_MANY,
            Self::Many => MANY,
        }
    }

    const fn baseline(self) -> Self {
        match self {
            Self::PlainMany | Self::Many => Self::PlainMany,
            _ => Self::Plain,
        }
    }
}

/// `hapax bench enqueue`.
pub(super) async fn run(options: &Enqueue) -> anyhow::Result<(Results, Exit)> {
    distinct("--clients", &options.clients)?;
    let stage = Stage::set(None).await?;
    let hapax = Hapax { name: "hapax".into(), binary: this_binary()?, ..Hapax::default() };
    hapax.prepare(&stage, DATABASE, MIGRATE_TIMEOUT).await?;
    stage.execute(DATABASE, PLAIN_TABLE).await?;
    let time = Duration::from_secs(options.seconds.into());
    let next = Arc::new(AtomicU32::new(1));
    let mut runs = Vec::new();
    for run in 1..=options.common.runs {
        for clients in &options.clients {
            for form in FORMS {
                progress(&format!("enqueue: run {run} of {}, {clients} clients, {}", options.common.runs, form.name()));
                let mut result = Run { run, ..Run::new(&label(form, *clients)) };
                if let Err(error) = measure(&stage, form, *clients, time, &next, &mut result).await {
                    result.error = Some(crate::failure::chain(error.as_ref()));
                }
                runs.push(result);
            }
        }
    }
    compare(&mut runs, &options.clients);
    let about = format!(
        "{} s each, {}, every COMMIT durable; median (range); ratio to the bare INSERT of as many clients",
        options.seconds,
        runs::each(options.common.runs)
    );
    let results = Results::new("enqueue", about, stage.machine(), "nobody: no relay runs", runs);
    let exit = if results.complete() { Exit::Done } else { Exit::Failed };
    Ok((results, exit))
}

fn label(form: Form, clients: u16) -> String {
    format!("{clients:>2} clients: {}", form.name())
}

/// Within one run: they followed each other closely.
fn compare(runs: &mut [Run], clients: &[u16]) {
    let rates: Vec<(String, u32, f64)> =
        runs.iter().filter_map(|run| Some((run.contender.clone(), run.run, *run.figures.get("rate")?))).collect();
    let rate = |name: &str, number: u32| {
        rates.iter().find(|(contender, run, _)| contender == name && *run == number).map(|(.., rate)| *rate)
    };
    for run in runs {
        let cell = clients.iter().flat_map(|clients| FORMS.map(|form| (form, *clients)));
        let Some((form, clients)) = cell.into_iter().find(|(form, clients)| label(*form, *clients) == run.contender)
        else {
            continue;
        };
        let own = run.figures.get("rate").copied();
        if let Some((own, bare)) = own.zip(rate(&label(form.baseline(), clients), run.run)) {
            run.note("ratio", own / bare);
        }
    }
}

/// Prints the table.
pub(super) fn print(results: &Results) {
    let columns = [COLUMNS[0], column("ratio", "of the bare INSERT", 2), COLUMNS[1], COLUMNS[2], COLUMNS[3]];
    results.print(None, &[&columns]);
}

async fn measure(
    stage: &Stage,
    form: Form,
    clients: u16,
    time: Duration,
    next: &Arc<AtomicU32>,
    run: &mut Run,
) -> anyhow::Result<()> {
    let watcher = stage.watcher(DATABASE).await?;
    watcher.batch("CHECKPOINT").await?;
    let mut connections = Vec::new();
    for _ in 0..clients {
        let client = stage.client(DATABASE).await?;
        let statement =
            client.prepare(form.sql()).await.with_context(|| format!("could not prepare {}", form.name()))?;
        connections.push((client, statement));
    }
    let before = stage.postgres_cpu_us(&[watcher.pid()]);
    let began = Instant::now();
    let mut tasks = JoinSet::new();
    for (client, statement) in connections {
        tasks.spawn(insert(client, statement, form, began + time, Arc::clone(next)));
    }
    let (mut times, mut open) = (Vec::new(), Vec::new());
    while let Some(ended) = tasks.join_next().await {
        let (own, client) = ended.context("a client panicked")??;
        times.extend(own);
        // Backends that live on are counted as they are.
        open.push(client);
    }
    let took = began.elapsed();
    let cpu_us = stage.postgres_cpu_us(&[watcher.pid()]).saturating_sub(before);
    times.sort_unstable();
    let each = if form.baseline() == Form::PlainMany { BULK } else { 1 };
    let messages = times.len() as f64 * f64::from(each);
    run.note("messages", messages);
    run.note("rate", messages / took.as_secs_f64());
    run.note("cpu_postgres_us", cpu_us as f64 / messages);
    for (name, share) in [("p50_ms", 0.5), ("p99_ms", 0.99)] {
        run.note(name, quantile(&times, share).context("nothing was enqueued")?.as_secs_f64() * 1e3);
    }
    Ok(())
}

async fn insert(
    client: Client,
    statement: Statement,
    form: Form,
    until: Instant,
    next: Arc<AtomicU32>,
) -> anyhow::Result<(Vec<Duration>, Client)> {
    let mut times = Vec::new();
    while Instant::now() < until {
        if form.baseline() == Form::PlainMany {
            let first = next.fetch_add(BULK, Ordering::Relaxed);
            let document = letters::document(first..first + BULK, "normal");
            let began = Instant::now();
            client.query(&statement, &[&document]).await.context("could not enqueue")?;
            times.push(began.elapsed());
            continue;
        }
        let letter = Letter::new(next.fetch_add(1, Ordering::Relaxed));
        let (recipients, headers) = (vec![letter.to.as_str()], letter.headers());
        let key = format!("bench-{}", letter.id);
        let parameters: [&(dyn ToSql + Sync); 6] =
            [&recipients, &letter.subject, &letter.text, &letter.html, &headers, &key];
        let count = if form == Form::Keyed { 6 } else { 5 };
        let began = Instant::now();
        client.query(&statement, &parameters[..count]).await.context("could not enqueue")?;
        times.push(began.elapsed());
    }
    Ok((times, client))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_form_is_compared_with_the_bare_insert_of_as_many_clients_in_the_same_run() {
        let run = |form, clients, number, rate| {
            let mut run = Run { run: number, ..Run::new(&label(form, clients)) };
            run.note("rate", rate);
            run
        };
        let mut runs = vec![
            run(Form::Plain, 1, 1, 100.0),
            run(Form::Function, 1, 1, 80.0),
            run(Form::Plain, 1, 2, 200.0),
            run(Form::Function, 1, 2, 100.0),
            run(Form::PlainMany, 8, 1, 10.0),
            run(Form::Many, 8, 1, 20.0),
        ];
        compare(&mut runs, &[1, 8]);
        let ratios: Vec<f64> = runs.iter().filter_map(|run| run.figures.get("ratio").copied()).collect();
        assert_eq!(ratios, [1.0, 0.8, 1.0, 0.5, 1.0, 2.0]);
    }
}
