//! The oracle: what the mail server took, against what the database says.
//!
//! It asks no code of Hapax, only its tables, and believes the server. The four rules of the duplicate catalogue:
//! nothing is taken more often than was decided; `sent` means taken; what is not sent (and was never in doubt) was not
//! taken; in doubt is only what had an intent. And a fifth: the server has seen nothing the database does not know.

use std::collections::BTreeMap;
use std::fmt;

use hapax_testkit::Ledger;
use tokio_postgres::Client;

use crate::stage::DOMAIN;

/// What came of everything that was enqueued.
#[derive(Clone, Debug, Default)]
pub struct Verdict {
    /// Deliveries by state.
    pub states: BTreeMap<String, usize>,
    /// How often the server took something, in all.
    pub accepted: usize,
    /// Deliveries that the server took more than once, with how often it was decided to send them again.
    pub twice: Vec<(String, usize, i32)>,
    /// Breaches of the rules.
    pub wrong: Vec<String>,
}

impl Verdict {
    /// Compares everything.
    ///
    /// # Panics
    /// When the database refuses.
    pub async fn of(sql: &Client, ledger: &Ledger) -> Self {
        Self::of_those(sql, ledger, "").await
    }

    /// Compares what went to recipients that end in `suffix`.
    ///
    /// # Panics
    /// When the database refuses.
    pub async fn of_those(sql: &Client, ledger: &Ledger, suffix: &str) -> Self {
        // One that went in a digest is taken with that, and doubts of it are the digest's.
        let query = "SELECT d.message_id::text, d.recipient, d.state, coalesce(d.evidence, ''), coalesce(g.open_doubts, d.open_doubts)::int,
                            d.resends, coalesce(g.intents, d.intents), x.digest_id::text
                     FROM outbox.deliveries d LEFT JOIN outbox.digest_members x USING (message_id, recipient_no)
                     LEFT JOIN outbox.deliveries g ON g.message_id = x.digest_id WHERE right(d.recipient, length($1)) = $1";
        let rows = sql.query(query, &[&suffix]).await.expect("the deliveries can be read");
        let theirs = ledger.all_counts().iter().filter(|((_, recipient), _)| recipient.ends_with(suffix));
        let accepted = theirs.map(|(_, counts)| counts.accepted).sum();
        let mut verdict = Self { accepted, ..Self::default() };
        let mut known = 0;
        for row in &rows {
            let (id, recipient, state): (String, String, String) = (row.get(0), row.get(1), row.get(2));
            let (evidence, open_doubts, resends): (String, i32, i32) = (row.get(3), row.get(4), row.get(5));
            let own = ledger.counts(&format!("{id}@{DOMAIN}"), &recipient);
            let digest: Option<String> = row.get(7);
            let counts = digest.as_ref().map_or(own, |digest| ledger.counts(&format!("{digest}@{DOMAIN}"), &recipient));
            known += own.accepted;
            let mut wrong =
                |what: &str| verdict.wrong.push(format!("{id} to {recipient} ({state}): {what}: {counts:?}"));
            if digest.is_some() && own.accepted > 0 {
                wrong("taken by itself, and in a digest");
            }
            if own.accepted > 1 + usize::try_from(resends).unwrap_or_default() {
                wrong("taken more often than was decided");
            }
            match state.as_str() {
                "sent" if evidence == "reply" && counts.accepted == 0 => wrong("sent, but never taken"),
                "sent" => {}
                "in_doubt" | "sending" if row.get::<_, i32>(6) == 0 => wrong("nothing was intended"),
                "in_doubt" | "sending" => {}
                // In a digest that is on its way or in doubt: as that has ended when it has.
                "pending" if digest.is_some() => {}
                _ if counts.accepted > 0 && open_doubts == 0 => wrong("taken, and nobody knows"),
                _ => {}
            }
            if own.accepted > 1 {
                verdict.twice.push((format!("{id}/{recipient}"), own.accepted, resends));
            }
            *verdict.states.entry(state).or_default() += 1;
        }
        if known != verdict.accepted {
            verdict.wrong.push(format!("{} were taken that the database does not know", verdict.accepted - known));
        }
        verdict
    }

    /// Deliveries in a state.
    #[must_use]
    pub fn count(&self, state: &str) -> usize {
        self.states.get(state).copied().unwrap_or_default()
    }

    /// Asserts that no rule was broken, and nothing was lost: so many deliveries there are.
    ///
    /// # Panics
    /// With every breach, otherwise.
    #[track_caller]
    pub fn assert_clean(&self, deliveries: usize) {
        assert!(self.wrong.is_empty(), "{self}\n{}", self.wrong.join("\n"));
        assert_eq!(self.states.values().sum::<usize>(), deliveries, "{self}");
    }

    /// As [`assert_clean`](Self::assert_clean), and every delivery is sent and was taken exactly once.
    ///
    /// # Panics
    /// With what is otherwise.
    #[track_caller]
    pub fn assert_each_once(&self, deliveries: usize) {
        self.assert_clean(deliveries);
        assert_eq!((self.count("sent"), self.accepted, self.twice.len()), (deliveries, deliveries, 0), "{self}");
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "states {:?}, accepted {}, accepted twice {:?}", self.states, self.accepted, self.twice)
    }
}
