//! What can be typed to forget somebody: `hapax erase`.

use clap::Args;

use super::Json;

pub(super) const ERASE: &str = "\
Takes an address out of every table of the outbox (the right to be forgotten), and with it the content of all messages \
that it was a recipient of. What waits for it is cancelled. What is in flight or in doubt, or whose message has other \
deliveries that have not ended, is kept, and said why: exit code 1, run it again later. A keyed hash stays, by which \
`hapax explain ADDRESS` and outbox.erased() still tell what was sent to it and when. Nothing brings the rest back.

The suppression list and pauses keep a hash of it and go on working. With --mentions messages to others that have it in \
their payload, text or reply_to are emptied as well. Not reached: what is encoded in base64, logs, backups, and what has \
left (mailboxes, captured files).

With --dry-run nothing is done: it says what would be, message by message, in the same words. It only reads: no lock is \
taken that a relay or a producer would wait for. What is at work goes on meanwhile, so that a moment later it may be more or \
less.

With - as the address it is read from standard input: the process list does not show it then. It is a parameter of the \
statement; where the server logs parameters (log_parameter_max_length), its log has it. Needs the privileges of \
outbox_operator.

Examples:
  hapax erase ada@example.org --dry-run
  hapax erase ada@example.org --reason 'request of 2026-11-27'
  hapax erase ada@example.org --reason 'request of 2026-11-27' --close-doubts --mentions
  printf %s \"$address\" | hapax erase - --reason 'ticket 4711'";

/// `hapax erase`.
#[derive(Args, Clone, Debug)]
pub(crate) struct Erase {
    /// Whom to forget; - reads it from standard input
    #[arg(value_name = "ADDRESS")]
    pub(crate) address: String,
    /// End doubts whose attempt is certainly over as taken for sent, instead of keeping them
    #[arg(long)]
    pub(crate) close_doubts: bool,
    /// Empty messages to others, too, that have the address in them: reads every message
    #[arg(long)]
    pub(crate) mentions: bool,
    /// Only say what would be erased and what kept, and change nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Why, for outbox.audit: not with the address in it
    #[arg(long, value_name = "REASON", required_unless_present = "dry_run")]
    pub(crate) reason: Option<String>,
    #[command(flatten)]
    pub(crate) json: Json,
}
