//! `hapax bench mixed` and `hapax bench old-snapshot`: a drain with something going on beside it, in turns with one that
//! has the database for itself.

use std::time::Duration;

use super::{
    contender::{self, Contender},
    drain::{self, Plan, SPEED},
    progress,
    runs::{self, Results, Run, column},
    sink,
    stage::Stage,
    vet,
};
use crate::{
    cli::bench::{Common, Mixed, OldSnapshot, Relays, SinkKind},
    failure::Exit,
};

/// A relay has caught up when so many are left for each that may be in flight, and a tenth of the backlog at most.
const LEFT_PER_FLIGHT: i64 = 2;

/// What goes on beside the drain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Beside {
    Nothing,
    Producers(u32),
    OldSnapshot,
}

impl Beside {
    fn label(self, contender: &str) -> String {
        match self {
            Self::Nothing => format!("{contender} alone"),
            Self::Producers(rate) => format!("{contender}, {rate}/s added"),
            Self::OldSnapshot => format!("{contender}, old snapshot"),
        }
    }
}

/// `hapax bench mixed`.
pub(super) async fn mixed(options: &Mixed) -> anyhow::Result<(Results, Exit)> {
    let about = format!(
        "{} pending messages, with and without {}/s added meanwhile, {} in flight, {}; median (range)",
        options.messages,
        options.rate,
        options.relay.in_flight,
        runs::each(options.common.runs)
    );
    let limits = (options.patience.patience, options.sink.sink);
    let beside = Beside::Producers(options.rate);
    compare("mixed", about, &options.common, limits, &options.relay, options.messages, beside).await
}

/// `hapax bench old-snapshot`.
pub(super) async fn old_snapshot(options: &OldSnapshot) -> anyhow::Result<(Results, Exit)> {
    let about = format!(
        "{} pending messages, with and without an old snapshot, {} in flight, {}; median (range)",
        options.messages,
        options.relay.in_flight,
        runs::each(options.common.runs)
    );
    let limits = (options.patience.patience, options.sink.sink);
    let beside = Beside::OldSnapshot;
    compare("old-snapshot", about, &options.common, limits, &options.relay, options.messages, beside).await
}

/// Prints the tables.
pub(super) fn print(results: &Results) {
    let producers = [
        column("added", "added meanwhile", 0),
        column("commit_p50_ms", "their COMMIT p50 ms", 2),
        column("commit_p99_ms", "p99 ms", 2),
    ];
    if results.has("added") {
        results.print(Some("rate"), &[&SPEED, &producers]);
    } else {
        results.print(Some("rate"), &[&SPEED]);
    }
}

async fn compare(
    bench: &'static str,
    about: String,
    common: &Common,
    (patience, sink): (Duration, SinkKind),
    relays: &Relays,
    messages: u32,
    beside: Beside,
) -> anyhow::Result<(Results, Exit)> {
    let contenders = contender::all(relays, None, false)?;
    let sink = sink::resolve(sink)?;
    vet::contenders(&contenders).await?;
    let stage = Stage::set(None).await?;
    let mut runs = Vec::new();
    for run in 1..=common.runs {
        for contender in &contenders {
            for beside in [Beside::Nothing, beside] {
                let label = beside.label(contender.name());
                progress(&format!("{bench}: run {run} of {}, {label}", common.runs));
                let result = plan(contender, (patience, sink), messages, beside, relays).play(&stage).await;
                runs.push(Run { run, contender: label, ..result });
            }
        }
    }
    let results = Results::new(bench, about, stage.machine(), drain::sink_name(sink), runs);
    let exit = if results.complete() { Exit::Done } else { Exit::Failed };
    Ok((results, exit))
}

fn plan<'a>(
    contender: &'a Contender,
    (patience, sink): (Duration, SinkKind),
    messages: u32,
    beside: Beside,
    relays: &Relays,
) -> Plan<'a> {
    let producers = match beside {
        Beside::Producers(rate) => Some(rate),
        _ => None,
    };
    Plan {
        contender,
        messages,
        relays: 1,
        patience,
        sink,
        waits: false,
        statements: false,
        snapshot: beside == Beside::OldSnapshot,
        producers,
        left_max: match producers {
            Some(_) => (LEFT_PER_FLIGHT * i64::from(relays.in_flight)).min(i64::from(messages / 10)),
            None => 0,
        },
    }
}
