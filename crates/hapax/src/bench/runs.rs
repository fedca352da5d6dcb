//! Runs and what is made of them: medians, ranges, tables, JSON.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::{
    cli::bench::repeated,
    failure::Refusal,
    output::{self, Table},
};

/// A run shorter than this says little.
const SHORT_S: f64 = 1.0;

/// What one run of one contender came to.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Run {
    pub(super) contender: String,
    /// From 1.
    pub(super) run: u32,
    /// Why it did not end as it should.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) error: Option<String>,
    pub(super) figures: BTreeMap<&'static str, f64>,
    /// Samples of what the backends were doing, by wait event.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) waits: BTreeMap<String, u64>,
}

impl Run {
    /// An empty one.
    pub(super) fn new(contender: &str) -> Self {
        Self { contender: contender.to_owned(), ..Self::default() }
    }

    /// Notes a figure.
    pub(super) fn note(&mut self, name: &'static str, value: f64) {
        self.figures.insert(name, value);
    }
}

/// How many there are, for people.
pub(super) fn each(runs: u32) -> String {
    if runs == 1 { "1 run each".to_owned() } else { format!("{runs} runs each") }
}

/// Refuses a number that is there twice: each is one row of the table.
///
/// # Errors
/// A usage error.
pub(super) fn distinct(flag: &str, numbers: &[u16]) -> anyhow::Result<()> {
    match (1..numbers.len()).find(|at| numbers[..*at].contains(&numbers[*at])) {
        Some(at) => {
            let problem = format!("{flag}: {} is there twice", numbers[at]);
            Err(Refusal::usage(problem, &["leave one of them out; --runs repeats"]).into())
        }
        None => Ok(()),
    }
}

/// Refuses a setting that is given twice.
///
/// # Errors
/// A usage error.
pub(super) fn each_once(settings: &[(String, String)]) -> anyhow::Result<()> {
    match repeated(settings) {
        Some(path) => Err(Refusal::usage(format!("--set {path}: it is set twice"), &["leave one of them out"]).into()),
        None => Ok(()),
    }
}

/// A column of a table.
#[derive(Clone, Copy, Debug)]
pub(super) struct Column {
    pub(super) figure: &'static str,
    pub(super) headline: &'static str,
    pub(super) decimals: usize,
    pub(super) range: bool,
}

/// A column with its range.
pub(super) const fn column(figure: &'static str, headline: &'static str, decimals: usize) -> Column {
    Column { figure, headline, decimals, range: true }
}

/// A column without.
pub(super) const fn plain(figure: &'static str, headline: &'static str, decimals: usize) -> Column {
    Column { figure, headline, decimals, range: false }
}

/// Median, least and greatest.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Spread {
    pub(super) median: f64,
    pub(super) min: f64,
    pub(super) max: f64,
}

impl Spread {
    /// Of nothing there is none.
    pub(super) fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_unstable_by(f64::total_cmp);
        let (min, max) = (*values.first()?, *values.last()?);
        let middle = values.len() / 2;
        let median =
            if values.len() % 2 == 1 { values[middle] } else { f64::midpoint(values[middle - 1], values[middle]) };
        Some(Self { median, min, max })
    }
}

/// All runs of a measurement.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Results {
    pub(super) bench: &'static str,
    /// Of this binary.
    pub(super) version: &'static str,
    /// What was measured how, in a line.
    pub(super) about: String,
    pub(super) machine: String,
    pub(super) sink: &'static str,
    pub(super) runs: Vec<Run>,
    pub(super) summary: BTreeMap<String, BTreeMap<&'static str, Spread>>,
    #[serde(skip)]
    order: Vec<String>,
}

impl Results {
    /// Sums the runs up; contenders keep their order.
    pub(super) fn new(bench: &'static str, about: String, machine: String, sink: &'static str, runs: Vec<Run>) -> Self {
        let mut order: Vec<String> = Vec::new();
        for run in &runs {
            if !order.contains(&run.contender) {
                order.push(run.contender.clone());
            }
        }
        let mut summary = BTreeMap::<String, BTreeMap<&'static str, Spread>>::new();
        for contender in &order {
            let good = || runs.iter().filter(|run| run.contender == *contender && run.error.is_none());
            let names: std::collections::BTreeSet<_> = good().flat_map(|run| run.figures.keys().copied()).collect();
            let spreads = names.into_iter().filter_map(|name| {
                let values = good().filter_map(|run| run.figures.get(name).copied()).collect();
                Some((name, Spread::of(values)?))
            });
            summary.insert(contender.clone(), spreads.collect());
        }
        Self { bench, version: env!("CARGO_PKG_VERSION"), about, machine, sink, runs, summary, order }
    }

    /// The median of a figure.
    pub(super) fn median(&self, contender: &str, figure: &str) -> Option<f64> {
        self.summary.get(contender)?.get(figure).map(|spread| spread.median)
    }

    /// Whether somebody has this figure.
    pub(super) fn has(&self, figure: &str) -> bool {
        self.summary.values().any(|figures| figures.contains_key(figure))
    }

    /// Whether every run ended as it should.
    pub(super) fn complete(&self) -> bool {
        self.runs.iter().all(|run| run.error.is_none())
    }

    /// What stderr is told when runs failed.
    pub(super) fn failures(&self) -> Option<String> {
        let failed: Vec<&Run> = self.runs.iter().filter(|run| run.error.is_some()).collect();
        let (first, error) = failed.first().and_then(|run| Some((run, run.error.as_ref()?.lines().next()?)))?;
        let count = format!("{} of {} runs failed", failed.len(), self.runs.len());
        Some(format!("{}: {count}; run {} of {}: {error}", self.bench, first.run, first.contender))
    }

    /// Prints what it is about and a table, with the ratio of a figure to the first contender's.
    pub(super) fn print(&self, ratio: Option<&str>, columns: &[&[Column]]) {
        output::line(&format!("{}: {}", self.bench, self.about));
        output::line(&format!("{}; mail goes to {}", self.machine, self.sink));
        for (at, columns) in columns.iter().enumerate() {
            // What nobody has a figure for needs no column, and no table.
            let columns: Vec<Column> = columns.iter().filter(|column| self.has(column.figure)).copied().collect();
            if !columns.is_empty() {
                output::line("");
                self.table(ratio.filter(|_| at == 0), &columns).print();
            }
        }
        let seconds = |contender| self.median(contender, "wall_s");
        if self.order.iter().filter_map(|contender| seconds(contender)).any(|seconds| seconds < SHORT_S) {
            output::line(
                "\nruns of less than a second are mostly start-up and chance: compare longer ones (--messages)",
            );
        }
        for run in self.runs.iter().filter(|run| run.error.is_some()) {
            let error = run.error.as_deref().unwrap_or_default();
            output::line(&format!("\nfailed: run {} of {}: {error}", run.run, run.contender));
        }
        self.print_waits();
        output::line("");
    }

    fn table(&self, ratio: Option<&str>, columns: &[Column]) -> Table {
        let mut headline = vec![""];
        headline.extend(columns.iter().map(|column| column.headline));
        headline.extend(ratio.map(|_| "ratio"));
        let mut table = Table::new(&headline).right(&(1..headline.len()).collect::<Vec<_>>());
        let known = |column: &Column, contender: &String| self.summary.get(contender)?.get(column.figure).copied();
        let first = ratio.and_then(|figure| self.median(self.order.first()?, figure));
        for contender in &self.order {
            let mut cells = vec![contender.clone()];
            cells
                .extend(columns.iter().map(|column| known(column, contender).map_or("-".into(), |s| cell(s, *column))));
            if let Some(figure) = ratio {
                let own = self.median(contender, figure);
                let quotient = first.zip(own).filter(|(first, _)| *first > 0.0).map(|(first, own)| own / first);
                cells.push(quotient.map_or("-".into(), |quotient| format!("{quotient:.2}")));
            }
            table.cells(cells);
        }
        table
    }

    /// What backends were seen doing, in percent of the samples.
    fn print_waits(&self) {
        for contender in &self.order {
            let mut waits = BTreeMap::<&str, u64>::new();
            for run in self.runs.iter().filter(|run| run.contender == *contender) {
                for (event, samples) in &run.waits {
                    *waits.entry(event).or_default() += samples;
                }
            }
            let total: u64 = waits.values().sum();
            if total == 0 {
                continue;
            }
            let mut waits: Vec<(&str, u64)> = waits.into_iter().collect();
            waits.sort_by_key(|(_, samples)| std::cmp::Reverse(*samples));
            let share = |(event, samples): &(&str, u64)| format!("{event} {} %", samples * 100 / total);
            let list: Vec<String> = waits.iter().take(8).map(share).collect();
            output::line(&format!("\nbackends of {contender}, {total} samples while active: {}", list.join(", ")));
        }
    }
}

/// `8,896 (8,492-10,126)`.
fn cell(spread: Spread, column: Column) -> String {
    let number = |value: f64| grouped(value, column.decimals);
    let median = number(spread.median);
    let (min, max) = (number(spread.min), number(spread.max));
    if !column.range || (min == median && max == median) { median } else { format!("{median} ({min}-{max})") }
}

/// With a comma every three digits.
fn grouped(value: f64, decimals: usize) -> String {
    let text = format!("{value:.decimals$}");
    let (whole, fraction) = text.split_once('.').map_or((text.as_str(), None), |(whole, rest)| (whole, Some(rest)));
    let (sign, digits) = whole.strip_prefix('-').map_or(("", whole), |digits| ("-", digits));
    let mut out = sign.to_owned();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    if let Some(fraction) = fraction {
        out.push('.');
        out.push_str(fraction);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_ranges() {
        let spread = |values: &[f64]| Spread::of(values.to_vec());
        assert_eq!(spread(&[]), None);
        assert_eq!(spread(&[3.0, 1.0, 2.0]), Some(Spread { median: 2.0, min: 1.0, max: 3.0 }));
        assert_eq!(spread(&[4.0, 1.0, 2.0, 3.0]), Some(Spread { median: 2.5, min: 1.0, max: 4.0 }));
    }

    #[test]
    fn numbers_are_grouped() {
        assert_eq!(grouped(1_234_567.0, 0), "1,234,567");
        assert_eq!((grouped(999.4, 0), grouped(-1234.56, 1)), ("999".into(), "-1,234.6".into()));
    }

    #[test]
    fn runs_that_failed_do_not_count() {
        let mut good = Run::new("a");
        good.note("rate", 10.0);
        let mut bad = Run { error: Some("died".into()), ..Run::new("a") };
        bad.note("rate", 99.0);
        let results = Results::new("drain", String::new(), String::new(), "own", vec![good, bad]);
        assert_eq!(results.median("a", "rate"), Some(10.0));
        assert!(!results.complete());
    }
}
