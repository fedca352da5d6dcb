//! One pass over a log: what it says of the Message-IDs that are looked for, and which times it covers.
//!
//! Bounded: kept are the traces of wanted messages, the open sessions of smtpd, and a few numbers for each host; the log
//! itself may be of any size. A queue id names a message only between its begin and its removal: short ids are used
//! again within seconds.

use std::collections::{BTreeMap, HashMap};

use uuid::Uuid;

use super::{
    line::{self, Header, Said},
    time::{Clock, Stamp},
};

/// Lines of one host may be out of order by so much; more is another log.
const DISORDER_MAX_S: i64 = 60;
/// Silences remembered for each host.
const GAPS_MAX: usize = 10_000;
/// Traces of wanted messages.
const TRACES_MAX: usize = 1_000_000;
/// Queue ids remembered as given up; forgetting them leaves a doubt undecided, no more.
const ABORTED_MAX: usize = 10_000;
/// Lines without a readable time at the beginning after which this is no log.
const STRANGE_LINES_MAX: u64 = 200;

/// What the log says of one queue id of a wanted message.
#[derive(Clone, Debug)]
pub(crate) struct Trace {
    pub(crate) host: String,
    pub(crate) queue_id: String,
    /// For whom, where delivery agents (or a refusal) say it.
    pub(crate) recipients: Vec<String>,
    pub(crate) end: End,
    /// When that was; before its end, when cleanup saw its Message-ID.
    pub(crate) ended_at: i64,
}

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// Seen, and nothing else: undecided.
    Open,
    /// Discarded or put on hold: undecided.
    Kept,
    /// Queued: Postfix took it.
    Queued,
    /// Refused at its end.
    Refused,
    /// The client was lost before the end.
    Aborted,
}

/// What one host's lines cover.
#[derive(Clone, Debug)]
pub(crate) struct Coverage {
    pub(crate) first: i64,
    pub(crate) last: i64,
    /// Silences longer than the longest that is none.
    pub(crate) gaps: Vec<(i64, i64)>,
    /// When lines are known to be lost.
    pub(crate) holes: Vec<i64>,
    /// All its times have a zone.
    pub(crate) zoned: bool,
    /// Some of its times lack year or zone in the line itself.
    pub(crate) guessed: bool,
    /// The least time from the making of a message to its first line: tells how wrong a clock, an offset or a year is.
    pub(crate) delay_min: Option<i64>,
    /// A filter in front of the queue takes messages.
    pub(crate) proxied: bool,
}

/// Why a log cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Nonsense {
    #[error(
        "line {line}: is no line of a log: no readable time\nhint: Nov 26 10:31:02 mx1 postfix/..., or 2026-11-26T10:31:02+01:00 mx1 postfix/... is expected"
    )]
    Unreadable { line: u64 },
    #[error(
        "line {line}: time goes back by {seconds} s on {host}\nhint: read rotated logs together, oldest first, each once; cut out an hour that a change of clocks has repeated"
    )]
    Disorder { line: u64, host: String, seconds: i64 },
    #[error(
        "there is no line of Postfix in it\nhint: is it the log of a Postfix? look at maillog_file, or at /var/log/mail.log"
    )]
    NoPostfix,
    #[error(
        "no line of it has a Message-ID\nhint: Postfix writes them as postfix/cleanup[...]: ...: message-id=<...>; is the log filtered?"
    )]
    NoMessageId,
    #[error(
        "it has more traces of the messages in doubt than fit into memory\nhint: cut the log to the time around the doubts"
    )]
    TooMany,
    #[error("line {line}: is dated after today\nhint: a log whose times lack the year must be younger than a year")]
    Future { line: u64 },
}

/// The pass.
#[derive(Debug)]
pub(crate) struct Search {
    clock: Clock,
    now: i64,
    max_gap: i64,
    wanted: HashMap<String, usize>,
    traces: Vec<(usize, Trace)>,
    /// Where the trace of a queue id is.
    open: HashMap<Place, usize>,
    /// Which queue id each smtpd is receiving, and the other way round.
    receiving: HashMap<Place, String>,
    receivers: HashMap<Place, Place>,
    /// Given up before cleanup has logged the Message-ID: it does so when smtpd hands over what it had buffered.
    aborted: HashMap<Place, i64>,
    hosts: BTreeMap<String, Coverage>,
    lines: u64,
    strange: u64,
    postfix_lines: u64,
    message_ids: u64,
    last: Option<i64>,
}

/// Host, instance, and queue id or process.
type Place = (String, String, String);

impl Search {
    /// Looks for Message-IDs: whole ones (`<a@b>`), or the part before the `@` (`<a`). The answer names them by their
    /// position.
    pub(crate) fn new(wanted: impl IntoIterator<Item = String>, clock: Clock, now: i64, max_gap: i64) -> Self {
        Self {
            clock,
            now,
            max_gap,
            wanted: wanted.into_iter().enumerate().map(|(at, id)| (id, at)).collect(),
            traces: Vec::new(),
            open: HashMap::new(),
            receiving: HashMap::new(),
            receivers: HashMap::new(),
            aborted: HashMap::new(),
            hosts: BTreeMap::new(),
            lines: 0,
            strange: 0,
            postfix_lines: 0,
            message_ids: 0,
            last: None,
        }
    }

    /// One more line.
    ///
    /// # Errors
    /// When this is no log.
    pub(crate) fn line(&mut self, line: &str) -> Result<(), Nonsense> {
        self.lines += 1;
        if line.trim().is_empty() {
            return Ok(());
        }
        // Some loggers write the priority first.
        let line = line.strip_prefix('<').and_then(|rest| Some(rest.split_once('>')?.1)).unwrap_or(line);
        let Some((stamp, rest)) = self.clock.read(line) else { return self.strange_line() };
        if stamp.seconds > self.now + 2 * 86_400 {
            return Err(Nonsense::Future { line: self.lines });
        }
        self.last = Some(stamp.seconds);
        let Some(header) = Header::read(rest) else { return Ok(()) };
        if let Some(host) = self.hosts.get_mut(header.host).filter(|_| header.lost_lines()) {
            host.holes.push(stamp.seconds);
        }
        let Some((instance, service)) = header.postfix() else { return Ok(()) };
        self.postfix_lines += 1;
        self.cover(header.host, stamp)?;
        match line::read(service, header.text) {
            Some(said) => self.said(&header, instance, stamp.seconds, said),
            None => Ok(()),
        }
    }

    /// A line without a time: a few may be torn; what they said is lost.
    fn strange_line(&mut self) -> Result<(), Nonsense> {
        self.strange += 1;
        let read = self.lines - self.strange;
        if (read == 0 && self.strange >= STRANGE_LINES_MAX) || (read > 0 && self.strange > STRANGE_LINES_MAX + read) {
            return Err(Nonsense::Unreadable { line: self.lines });
        }
        if let Some(at) = self.last {
            self.hosts.values_mut().for_each(|host| host.holes.push(at));
        }
        Ok(())
    }

    fn cover(&mut self, host: &str, stamp: Stamp) -> Result<(), Nonsense> {
        let at = stamp.seconds;
        let Some(known) = self.hosts.get_mut(host) else {
            let fresh = Coverage {
                first: at,
                last: at,
                gaps: Vec::new(),
                holes: Vec::new(),
                zoned: stamp.zoned,
                guessed: stamp.guessed,
                delay_min: None,
                proxied: false,
            };
            self.hosts.insert(host.to_owned(), fresh);
            return Ok(());
        };
        if at < known.last - DISORDER_MAX_S {
            let (line, seconds) = (self.lines, known.last - at);
            return Err(Nonsense::Disorder { line, host: host.to_owned(), seconds });
        }
        if at - known.last > self.max_gap && known.gaps.len() < GAPS_MAX {
            known.gaps.push((known.last, at));
        }
        known.last = known.last.max(at);
        known.zoned &= stamp.zoned;
        known.guessed |= stamp.guessed;
        Ok(())
    }

    fn said(&mut self, header: &Header<'_>, instance: &str, at: i64, said: Said<'_>) -> Result<(), Nonsense> {
        let place = |what: &str| (header.host.to_owned(), instance.to_owned(), what.to_owned());
        match said {
            Said::Begins { queue_id } => {
                self.open.remove(&place(queue_id));
                self.aborted.remove(&place(queue_id));
                self.leave(&place(header.pid));
                let (process, queue) = (place(header.pid), place(queue_id));
                self.receiving.insert(process.clone(), queue_id.to_owned());
                self.receivers.insert(queue, process);
            }
            Said::Idle => self.leave(&place(header.pid)),
            Said::Aborted => {
                let queue = self.receiving.get(&place(header.pid)).map(|queue_id| place(queue_id));
                if let Some(queue) = queue {
                    self.end(&queue, at, End::Aborted);
                    if self.aborted.len() >= ABORTED_MAX {
                        self.aborted.clear();
                    }
                    self.aborted.insert(queue, at);
                }
            }
            Said::MessageId { queue_id, message_id } => return self.seen(place(queue_id), at, message_id),
            Said::Queued { queue_id } => self.end(&place(queue_id), at, End::Queued),
            Said::Delivery { queue_id, recipient } => {
                self.end(&place(queue_id), at, End::Queued);
                self.recipient(&place(queue_id), recipient);
            }
            Said::Refused { queue_id, recipient } => {
                self.end(&place(queue_id), at, End::Refused);
                if let Some(recipient) = recipient {
                    self.recipient(&place(queue_id), recipient);
                }
            }
            Said::Kept { queue_id } => self.end(&place(queue_id), at, End::Kept),
            Said::Removed { queue_id, delivered } => {
                if delivered {
                    self.end(&place(queue_id), at, End::Queued);
                }
                self.open.remove(&place(queue_id));
                if let Some(process) = self.receivers.remove(&place(queue_id)) {
                    self.receiving.remove(&process);
                }
            }
            Said::Proxied => {
                if let Some(host) = self.hosts.get_mut(header.host) {
                    host.proxied = true;
                }
            }
        }
        Ok(())
    }

    /// A process has nothing in hand any more.
    fn leave(&mut self, process: &Place) {
        if let Some(queue_id) = self.receiving.remove(process) {
            self.receivers.remove(&(process.0.clone(), process.1.clone(), queue_id));
        }
    }

    fn seen(&mut self, queue: Place, at: i64, message_id: &str) -> Result<(), Nonsense> {
        self.message_ids += 1;
        let local = message_id.split_once('@').map(|(local, _)| local);
        if let (Some(made_at), Some(host)) = (local.and_then(made_at), self.hosts.get_mut(&queue.0)) {
            let delay = at - made_at;
            host.delay_min = Some(host.delay_min.map_or(delay, |least| least.min(delay)));
        }
        self.open.remove(&queue);
        let whole = self.wanted.get(message_id).copied();
        let Some(wanted) = whole.or_else(|| self.wanted.get(local?).copied()) else { return Ok(()) };
        if self.traces.len() >= TRACES_MAX {
            return Err(Nonsense::TooMany);
        }
        let end = if self.aborted.remove(&queue).is_some() { End::Aborted } else { End::Open };
        let (host, queue_id) = (queue.0.clone(), queue.2.clone());
        let trace = Trace { host, queue_id, recipients: Vec::new(), end, ended_at: at };
        self.traces.push((wanted, trace));
        self.open.insert(queue, self.traces.len() - 1);
        Ok(())
    }

    /// Queued outranks everything; the first other end stays.
    fn end(&mut self, queue: &Place, at: i64, end: End) {
        let Some((_, trace)) = self.open.get(queue).and_then(|index| self.traces.get_mut(*index)) else { return };
        if trace.end == End::Open || (end == End::Queued && trace.end != End::Queued) {
            (trace.end, trace.ended_at) = (end, at);
        }
    }

    fn recipient(&mut self, queue: &Place, recipient: &str) {
        let Some((_, trace)) = self.open.get(queue).and_then(|index| self.traces.get_mut(*index)) else { return };
        if !trace.recipients.iter().any(|known| known == recipient) {
            trace.recipients.push(recipient.to_owned());
        }
    }

    /// The end of the log.
    ///
    /// # Errors
    /// When it was none of Postfix.
    pub(crate) fn finish(self) -> Result<Found, Nonsense> {
        if self.lines > self.strange && self.postfix_lines == 0 || self.lines == 0 {
            return Err(Nonsense::NoPostfix);
        }
        if self.postfix_lines == 0 {
            return Err(Nonsense::Unreadable { line: 1 });
        }
        if self.message_ids == 0 {
            return Err(Nonsense::NoMessageId);
        }
        let mut traces: HashMap<usize, Vec<Trace>> = HashMap::new();
        for (wanted, trace) in self.traces {
            traces.entry(wanted).or_default().push(trace);
        }
        Ok(Found { traces, hosts: self.hosts, lines: self.lines, message_ids: self.message_ids, took_s: 0 })
    }
}

/// When a message of Hapax was made: its id says so (uuid version 7).
fn made_at(local: &str) -> Option<i64> {
    let id: Uuid = local.strip_prefix('<')?.parse().ok()?;
    (id.get_version_num() == 7).then_some(())?;
    let (seconds, _) = id.get_timestamp()?.to_unix();
    i64::try_from(seconds).ok()
}

/// What a log says.
#[derive(Debug)]
pub(crate) struct Found {
    /// By the position of the wanted Message-ID.
    pub(crate) traces: HashMap<usize, Vec<Trace>>,
    pub(crate) hosts: BTreeMap<String, Coverage>,
    pub(crate) lines: u64,
    pub(crate) message_ids: u64,
    /// How long it took to read, seconds: so much later than the doubts its lines may be.
    pub(crate) took_s: i64,
}
