//! Three books that must agree: what the relay counts, what the tables say, what the mail server took. And a fourth: what
//! the log tells.

use std::collections::BTreeMap;
use std::fmt;

use hapax_testkit::{HapaxProcess, eventually};
use hapax_tests::probe::{Probe, Scrape};
use hapax_tests::stage::{PATIENCE, Stage};
use hapax_tests::verdict::Verdict;

use super::trouble::Trouble;

const OUTCOMES: [&str; 5] = ["accepted", "refused", "deferred", "not_sent", "unknown"];

/// Lines beside the closing ones: at the start and the end, for each outage, and for each misdeed of the mail server, most
/// of which only the closing line tells.
const LINES_AT_ALL: usize = 60;
const LINES_PER_OUTAGE: usize = 12;
const LINES_PER_MISDEED: usize = 1;

/// From so many ended deliveries on their states are estimated, from a fifth of the table that has changed at most.
const ESTIMATED_FROM: i64 = 20_000;

/// Compares them to the last message; answers how many attempts there were.
///
/// # Panics
/// With what does not agree.
pub(super) async fn compare(stage: &Stage, probe: &Probe, produced: usize) -> usize {
    let ledger = stage.server.ledger();
    let verdict = Verdict::of(&stage.sql, &ledger).await;
    verdict.assert_clean(produced);
    assert!(verdict.twice.is_empty(), "{verdict}");
    println!("{verdict}");
    let rows = stage.sql.query("SELECT outcome, count(*) FROM outbox.attempts GROUP BY outcome", &[]).await;
    let attempts: BTreeMap<String, i64> = rows.expect("attempts").iter().map(|row| (row.get(0), row.get(1))).collect();
    println!("attempts {attempts:?}");
    let of = |outcome: &str| attempts.get(outcome).copied().unwrap_or_default();
    // Estimates are those of the last ANALYZE, and each crash of the server makes it forget that one is due.
    stage.sql.batch_execute("ANALYZE outbox.done").await.expect("analyses");
    // The tables are what the courier waits for; it counts a moment later. Of the whole outbox it tells every few seconds.
    let states = stage.states().await;
    let scrape = eventually(PATIENCE, async || {
        let scrape = probe.scrape().await;
        let differences = differences(&scrape, &attempts, &states);
        if differences.is_empty() { Ok(scrape) } else { Err(differences) }
    })
    .await;

    // The mail server against the tables: what it took is sent, or in doubt and nobody was told.
    let taken_in_doubt = in_doubt_and_taken(stage, &ledger).await;
    let sent = verdict.count("sent");
    assert_eq!(verdict.accepted, sent + taken_in_doubt, "{verdict}");
    assert_eq!(of("accepted"), sent as i64, "one acceptance for each that is sent: {verdict}");
    assert_eq!(of("unknown"), verdict.count("in_doubt") as i64, "none is tried again: {verdict}");
    // The relay against itself.
    let doubts: f64 = sum(&scrape, "hapax_in_doubt_total");
    assert_eq!(doubts, of("unknown") as f64, "in_doubt_total");
    assert_eq!(scrape.value("time_to_accept_seconds_count"), of("accepted") as f64);
    assert_eq!(scrape.value("config_reloads_total{result=\"failed\"}"), 0.0);
    usize::try_from(attempts.values().sum::<i64>()).expect("a count")
}

fn sum(scrape: &Scrape, prefix: &str) -> f64 {
    scrape.series.iter().filter(|(name, _)| name.starts_with(prefix)).map(|(_, value)| value).sum()
}

fn differences(scrape: &Scrape, attempts: &BTreeMap<String, i64>, states: &BTreeMap<String, i64>) -> Vec<String> {
    let outcomes = OUTCOMES.map(|outcome| {
        let name = format!("hapax_attempts_total{{route=\"default\",outcome=\"{outcome}\"}}");
        (name, attempts.get(outcome).copied().unwrap_or_default())
    });
    let name = |state: &str| format!("hapax_deliveries{{state=\"{state}\"}}");
    let (waiting, ended): (Vec<_>, Vec<_>) = states.iter().partition(|(state, _)| *state == "in_doubt");
    let all_ended: i64 = ended.iter().map(|(_, count)| **count).sum();
    let exact = if all_ended < ESTIMATED_FROM { [waiting, ended.clone()].concat() } else { waiting };
    let all = outcomes.into_iter().chain(exact.into_iter().map(|(state, count)| (name(state), *count)));
    let mut wrong: Vec<String> = all
        .filter_map(|(name, expected)| {
            let told = scrape.series.get(&name).copied();
            (told != Some(expected as f64)).then(|| format!("{name} is {told:?}, the table has {expected}"))
        })
        .collect();
    let told: f64 = ended.iter().filter_map(|(state, _)| scrape.series.get(&name(state))).sum();
    if (told - all_ended as f64).abs() > all_ended as f64 / 5.0 {
        wrong.push(format!("{told} are told to have ended, the table has {all_ended}"));
    }
    wrong
}

/// Deliveries in doubt whose message the server has.
async fn in_doubt_and_taken(stage: &Stage, ledger: &hapax_testkit::Ledger) -> usize {
    let sql = "SELECT message_id::text, recipient FROM outbox.deliveries WHERE state = 'in_doubt'";
    let rows = stage.sql.query(sql, &[]).await.expect("doubts can be read");
    let taken = |id: String, recipient: String| {
        ledger.accepted(&format!("{id}@{}", hapax_tests::stage::DOMAIN), &recipient) > 0
    };
    rows.iter().filter(|row| taken(row.get(0), row.get(1))).count()
}

/// The lines of a relay's log.
#[derive(Debug)]
pub(super) struct Told {
    closing: usize,
    /// The others, by what they say.
    others: BTreeMap<String, usize>,
}

impl Told {
    /// All that it has printed.
    pub(super) fn by(relay: &HapaxProcess) -> Self {
        let (mut closing, mut others) = (0, BTreeMap::new());
        for line in relay.lines() {
            let json: serde_json::Value =
                serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error} in {line}"));
            if json.get("attempt.token").is_some() && json.get("verdict").is_some() {
                closing += 1;
                continue;
            }
            let message = json["message"].as_str().unwrap_or_else(|| panic!("no message in {line}"));
            *others.entry(format!("{} {message}", json["level"])).or_default() += 1;
        }
        Self { closing, others }
    }

    fn others(&self) -> usize {
        self.others.values().sum()
    }

    /// Asserts one closing line for each attempt, and of all others a few for each thing that went wrong.
    ///
    /// # Panics
    /// With the figures, otherwise.
    #[track_caller]
    pub(super) fn assert_bounded(&self, attempts: usize, trouble: &Trouble) {
        assert_eq!(self.closing, attempts, "one closing line for each attempt\n{self}");
        let most = LINES_AT_ALL + LINES_PER_OUTAGE * trouble.outages() + LINES_PER_MISDEED * trouble.misdeeds();
        assert!(self.others() <= most, "{} lines for {trouble}\n{self}", self.others());
        println!(
            "{} lines for {attempts} attempts: {:.3} for each; beside the closing ones {}, allowed were {most}",
            self.closing + self.others(),
            (self.closing + self.others()) as f64 / attempts as f64,
            self.others()
        );
    }
}

impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} closing lines, {} others:", self.closing, self.others())?;
        self.others.iter().try_for_each(|(what, count)| writeln!(f, "  {count:6} {what}"))
    }
}
