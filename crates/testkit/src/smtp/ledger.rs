//! What the mail server saw: the oracle.
//!
//! Invariants: an end marker is in the ledger before anything is done about it; "taken" is in the ledger before the
//! first byte of a reply is written; "confirmed" only after the last one was handed to the kernel. Hapax delivers to one
//! recipient per transaction with one Message-ID per message, so the key of a delivery is (Message-ID, recipient).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

/// What is known about one (Message-ID, recipient).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// End markers read.
    pub end_markers: usize,
    /// Times the server took the message.
    pub accepted: usize,
    /// Times a whole 2xx reply was handed to the kernel. Noted after the write, so a client that has read its reply may
    /// be a moment ahead: wait for this one, the other two never lag.
    pub confirmed: usize,
}

/// How a connection ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The client said QUIT.
    Quit,
    /// The client closed without QUIT.
    ClientClosed,
    /// Reading or writing failed: the client is gone.
    Lost(String),
    /// The script ended it.
    Scripted,
    /// The server refused or ended it for another reason, for example by being stopped.
    Server,
}

/// A connection, in the order of their arrival.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Connection {
    /// From 1.
    pub number: usize,
    /// Where it came from.
    pub client: Option<SocketAddr>,
    /// Whether TLS is on by now.
    pub tls: bool,
    /// The name in the last EHLO.
    pub ehlo: Option<String>,
    /// Mechanism and identity of the AUTH that succeeded.
    pub auth: Option<(String, String)>,
    /// AUTH attempts, failed ones included, as (mechanism, identity).
    pub auth_attempts: Vec<(String, String)>,
    /// Every command line, in order. AUTH is there with its arguments.
    pub commands: Vec<String>,
    /// Transactions, in order.
    pub transactions: Vec<Transaction>,
    /// How it ended; `None` while it lives.
    pub ended: Option<Ended>,
    /// Breaches of the protocol by the client.
    pub violations: Vec<String>,
}

/// A transaction: from a MAIL that was accepted to the end of its message, or to whatever came first.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Transaction {
    /// The connection's number.
    pub connection: usize,
    /// From 1, on its connection.
    pub number: usize,
    /// MAIL FROM.
    pub sender: String,
    /// The parameters of MAIL.
    pub mail_parameters: Vec<String>,
    /// Recipients that were accepted.
    pub recipients: Vec<String>,
    /// Recipients that were refused, or never got an answer.
    pub recipients_refused: Vec<String>,
    /// Whether the 354 was written.
    pub data_began: bool,
    /// Bytes of the body on the wire (dots stuffed), without the end marker once that has been read.
    pub body_bytes: usize,
    /// The body, dots unstuffed: whole after the end marker, partial where the body was broken off.
    pub body: Arc<Vec<u8>>,
    /// The Message-ID with its brackets, if its header was read.
    pub message_id: Option<String>,
    /// Whether the end marker was read.
    pub end_marker_read: bool,
    /// Whether the server took the message.
    pub took: bool,
    /// Whether a whole 2xx reply to the end marker was handed to the kernel.
    pub confirmed: bool,
}

impl Transaction {
    /// The first header of that name, in any case, unfolded.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<String> {
        hapax_sandbox::smtp::header(&self.body, name)
    }
}

/// Everything the server saw.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    pub(super) connections: Vec<Connection>,
    counts: BTreeMap<(String, String), Counts>,
    rcpt_commands: BTreeMap<String, usize>,
    totals: Counts,
    /// When MAIL commands were read.
    mails: Vec<Instant>,
    /// Recipients of transactions whose body was cut off, by this server or on the way.
    cut: BTreeSet<String>,
}

impl Ledger {
    /// The connections in order.
    #[must_use]
    pub fn connections(&self) -> &[Connection] {
        &self.connections
    }

    /// All transactions, connection by connection.
    pub fn transactions(&self) -> impl Iterator<Item = &Transaction> {
        self.connections.iter().flat_map(|connection| &connection.transactions)
    }

    /// All messages that were taken, connection by connection.
    pub fn messages(&self) -> impl Iterator<Item = &Transaction> {
        self.transactions().filter(|transaction| transaction.took)
    }

    /// How often the server took this message for this recipient.
    #[must_use]
    pub fn accepted(&self, message_id: &str, recipient: &str) -> usize {
        self.counts(message_id, recipient).accepted
    }

    /// How often the end marker of this message for this recipient was read.
    #[must_use]
    pub fn end_markers_read(&self, message_id: &str, recipient: &str) -> usize {
        self.counts(message_id, recipient).end_markers
    }

    /// How often a whole 2xx for this message and recipient was handed to the kernel.
    #[must_use]
    pub fn confirmed(&self, message_id: &str, recipient: &str) -> usize {
        self.counts(message_id, recipient).confirmed
    }

    /// All three counts of a delivery. The Message-ID may be given with or without its brackets.
    #[must_use]
    pub fn counts(&self, message_id: &str, recipient: &str) -> Counts {
        let key = (bare(message_id).to_owned(), recipient.to_owned());
        self.counts.get(&key).copied().unwrap_or_default()
    }

    /// The counts of every delivery whose end marker was read, by (Message-ID without brackets, recipient).
    #[must_use]
    pub fn all_counts(&self) -> &BTreeMap<(String, String), Counts> {
        &self.counts
    }

    /// The sums over all deliveries (a transaction with two recipients counts twice).
    #[must_use]
    pub fn totals(&self) -> Counts {
        self.totals
    }

    /// How many MAIL commands were read.
    #[must_use]
    pub fn count_mail_commands(&self) -> usize {
        self.count_commands("MAIL")
    }

    /// When each MAIL command was read, in order, by CLOCK_MONOTONIC.
    #[must_use]
    pub fn mails(&self) -> &[Instant] {
        &self.mails
    }

    pub(super) fn count_mail(&mut self) {
        self.mails.push(Instant::now());
    }

    /// How many commands with this verb were read.
    #[must_use]
    pub fn count_commands(&self, verb: &str) -> usize {
        let is = |line: &&String| line.split([' ', ':']).next().is_some_and(|word| word.eq_ignore_ascii_case(verb));
        self.connections.iter().flat_map(|connection| &connection.commands).filter(is).count()
    }

    /// How many RCPT commands named this recipient.
    #[must_use]
    pub fn count_rcpt_commands(&self, recipient: &str) -> usize {
        self.rcpt_commands.get(recipient).copied().unwrap_or_default()
    }

    /// Whether a body for this recipient began (its 354 was written) on a connection that ended before its end marker was
    /// read: the client may have written the marker all the same.
    #[must_use]
    pub fn was_cut(&self, recipient: &str) -> bool {
        self.cut.contains(recipient)
    }

    /// Breaches of the protocol by clients, with the connection's number.
    pub fn violations(&self) -> impl Iterator<Item = (usize, &str)> {
        self.connections.iter().flat_map(|connection| {
            connection.violations.iter().map(|violation| (connection.number, violation.as_str()))
        })
    }

    /// Asserts that each of the deliveries was taken exactly once, and nothing else was.
    ///
    /// # Panics
    /// With the differences and the whole ledger, otherwise.
    #[track_caller]
    pub fn assert_each_accepted_once<M: AsRef<str>, R: AsRef<str>>(&self, expected: impl IntoIterator<Item = (M, R)>) {
        let mut wrong = Vec::new();
        let mut seen = 0;
        for (message_id, recipient) in expected {
            let (message_id, recipient) = (message_id.as_ref(), recipient.as_ref());
            let accepted = self.accepted(message_id, recipient);
            seen += usize::from(accepted > 0);
            if accepted != 1 {
                wrong.push(format!("{message_id} to {recipient}: accepted {accepted} times"));
            }
        }
        let all = self.counts.values().filter(|counts| counts.accepted > 0).count();
        if seen != all {
            wrong.push(format!("{} deliveries were accepted that nobody expected", all - seen));
        }
        assert!(wrong.is_empty(), "not each accepted once:\n{}\n{self}", wrong.join("\n"));
    }

    /// Asserts that nothing was taken twice.
    ///
    /// # Panics
    /// With the culprits and the whole ledger, otherwise.
    #[track_caller]
    pub fn assert_none_accepted_twice(&self) {
        let twice: Vec<_> = self.counts.iter().filter(|(_, counts)| counts.accepted > 1).collect();
        assert!(twice.is_empty(), "accepted more than once: {twice:?}\n{self}");
    }

    /// A connection has ended: notes what it left half done, and forgets its dialogue unless it is to be kept.
    pub(super) fn end(&mut self, connection: usize, keep: bool) {
        let connection = &mut self.connections[connection - 1];
        if let Some(last) = connection.transactions.last().filter(|last| last.data_began && !last.end_marker_read) {
            self.cut.extend(last.recipients.iter().cloned());
        }
        if !keep {
            connection.commands = Vec::new();
            connection.transactions = Vec::new();
            connection.auth_attempts = Vec::new();
        }
    }

    pub(super) fn count_rcpt(&mut self, recipient: &str) -> usize {
        let count = self.rcpt_commands.entry(recipient.to_owned()).or_default();
        *count += 1;
        *count
    }

    /// Changes the counts of every delivery of a transaction; a missing Message-ID is the empty one.
    pub(super) fn count(&mut self, connection: usize, change: impl Fn(&mut Counts)) {
        let Some(transaction) = self.connections[connection - 1].transactions.last() else { return };
        let message_id = bare(transaction.message_id.as_deref().unwrap_or_default()).to_owned();
        for recipient in &transaction.recipients {
            change(self.counts.entry((message_id.clone(), recipient.clone())).or_default());
            change(&mut self.totals);
        }
    }
}

fn bare(message_id: &str) -> &str {
    message_id.trim().trim_start_matches('<').trim_end_matches('>')
}

impl fmt::Display for Ledger {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for connection in &self.connections {
            writeln!(
                formatter,
                "connection {} tls={} ended={:?}",
                connection.number, connection.tls, connection.ended
            )?;
            writeln!(formatter, "  {}", connection.commands.join(" | "))?;
            for transaction in &connection.transactions {
                writeln!(
                    formatter,
                    "  transaction {}: {} to {:?} (refused {:?}) data={} bytes={} end_marker={} took={} confirmed={}",
                    transaction.number,
                    transaction.message_id.as_deref().unwrap_or("-"),
                    transaction.recipients,
                    transaction.recipients_refused,
                    transaction.data_began,
                    transaction.body_bytes,
                    transaction.end_marker_read,
                    transaction.took,
                    transaction.confirmed,
                )?;
            }
            for violation in &connection.violations {
                writeln!(formatter, "  violation: {violation}")?;
            }
        }
        Ok(())
    }
}
