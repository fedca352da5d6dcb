//! The account: what the shop committed against what the catcher took.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use super::{shop::Books, stage::Stage};
use crate::{
    cli::Demo,
    output::{self, Table},
};

/// The counts.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Report {
    committed: usize,
    rolled_back: usize,
    repeated: u32,
    repeated_otherwise: u32,
    kills: Option<u32>,
    expected: usize,
    delivered: usize,
    duplicates: usize,
    in_doubt: usize,
    in_doubt_arrived: usize,
    lost: usize,
    /// Mails nobody committed, those of rolled-back orders included.
    unexpected: usize,
}

/// A message and an address.
type Key = (String, String);

impl Report {
    /// Asks both witnesses.
    pub(super) async fn draw_up(stage: &Stage, books: &Books, options: Demo) -> anyhow::Result<Self> {
        let mut accepted: HashMap<Key, usize> = HashMap::new();
        for mail in stage.catcher.received() {
            let header = mail.header("Message-ID").unwrap_or_default();
            let id = header.trim_start_matches('<').split('@').next().unwrap_or_default().to_owned();
            for recipient in &mail.recipients {
                *accepted.entry((id.clone(), recipient.clone())).or_default() += 1;
            }
        }
        let doubts = stage.deliveries().await?.into_iter().filter(|(.., state)| state == "in_doubt");
        let doubts: HashSet<Key> = doubts.map(|(id, address, _)| (id, address)).collect();
        let report = Self { kills: options.chaos.then_some(options.kills), ..Self::count(books, &accepted, &doubts) };
        Ok(report)
    }

    fn count(books: &Books, accepted: &HashMap<Key, usize>, doubts: &HashSet<Key>) -> Self {
        let expected: HashSet<Key> = books
            .committed
            .iter()
            .flat_map(|(id, addresses)| addresses.iter().map(|address| (id.to_string(), address.clone())))
            .collect();
        let arrived = |key: &&Key| accepted.contains_key(*key);
        Self {
            committed: books.committed.len(),
            rolled_back: books.rolled_back.len(),
            repeated: books.repeated,
            repeated_otherwise: books.repeated_otherwise,
            kills: None,
            expected: expected.len(),
            delivered: expected.iter().filter(arrived).count(),
            duplicates: accepted.values().map(|count| count - 1).sum(),
            in_doubt: doubts.len(),
            in_doubt_arrived: doubts.iter().filter(arrived).count(),
            lost: expected.iter().filter(|key| !accepted.contains_key(*key) && !doubts.contains(*key)).count(),
            unexpected: accepted.keys().filter(|key| !expected.contains(*key)).count(),
        }
    }

    /// Whether the promise was kept.
    pub(super) fn holds(&self) -> bool {
        self.duplicates == 0 && self.lost == 0 && self.unexpected == 0 && self.repeated_otherwise == 0
    }

    /// Prints it.
    pub(super) fn print(&self, took: Duration) {
        let mut table = Table::new(&[]).right(&[1]);
        let mut row = |name: &str, count: String, note: String| table.row([name.to_owned(), count, note]);
        row("orders committed", self.committed.to_string(), String::new());
        row("orders rolled back", self.rolled_back.to_string(), "their notifications never existed".into());
        row("requests repeated", self.repeated.to_string(), "same dedup key: the first message stands".into());
        if let Some(kills) = self.kills {
            row("relay killed", kills.to_string(), "SIGKILL, while it delivered".into());
        }
        row("deliveries expected", self.expected.to_string(), "one per recipient of a committed order".into());
        row("delivered", self.delivered.to_string(), "accepted by the mail catcher".into());
        row("duplicates", self.duplicates.to_string(), String::new());
        let why = match self.in_doubt {
            0 => String::new(),
            _ => format!(
                "the relay was killed between intent and recorded reply; {} of them did arrive according to the catcher",
                self.in_doubt_arrived
            ),
        };
        row("in doubt", self.in_doubt.to_string(), why);
        row("lost", self.lost.to_string(), String::new());
        row("delivered, but never committed", self.unexpected.to_string(), String::new());
        table.print();
        let seconds = took.as_secs_f64();
        output::line("");
        match (self.holds(), self.in_doubt) {
            (true, 0) => output::line(&format!("Every committed notification arrived, once ({seconds:.1} s).")),
            (true, _) => output::line(&format!(
                "Every committed notification arrived once or waits for a decision; \
                 none was sent twice ({seconds:.1} s)."
            )),
            (false, _) => {
                output::line("The counts do not agree: this is a bug in hapax, please report it with this table.")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn key(id: Uuid, address: &str) -> Key {
        (id.to_string(), address.to_owned())
    }

    #[test]
    fn the_account_tells_delivered_doubtful_lost_doubled_and_uncommitted_apart() {
        let [first, second, gone] = [Uuid::from_u128(1), Uuid::from_u128(2), Uuid::from_u128(3)];
        let books = Books {
            committed: vec![(first, vec!["a@x".into(), "b@x".into()]), (second, vec!["c@x".into(), "d@x".into()])],
            rolled_back: vec![gone],
            ..Books::default()
        };
        let accepted =
            [(key(first, "a@x"), 1), (key(first, "b@x"), 2), (key(second, "c@x"), 1), (key(gone, "e@x"), 1)].into();
        let doubts = [key(second, "c@x")].into();
        let report = Report::count(&books, &accepted, &doubts);
        let counts = (report.expected, report.delivered, report.duplicates, report.in_doubt, report.in_doubt_arrived);
        assert_eq!(counts, (4, 3, 1, 1, 1));
        assert_eq!((report.lost, report.unexpected, report.holds()), (1, 1, false));
    }

    #[test]
    fn doubt_is_neither_loss_nor_failure() {
        let id = Uuid::from_u128(1);
        let books = Books { committed: vec![(id, vec!["a@x".into()])], ..Books::default() };
        let report = Report::count(&books, &HashMap::new(), &[key(id, "a@x")].into());
        assert_eq!((report.lost, report.in_doubt, report.in_doubt_arrived, report.holds()), (0, 1, 0, true));
    }
}
