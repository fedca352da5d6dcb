//! Freight: contents that are too large to be in memory, or are not in the outbox at all. They are gathered into a file
//! without a name before the delivery converses with its server, long before its intent, so whatever goes wrong here is
//! certainly not sent.
//!
//! A piece of a content is in memory, never a content: what 64 deliveries of 20 MB need is disk, and the pieces of the few
//! that are gathered at once.
//!
//! This module must not: follow a path out of its directory, ask a host that was not allowed, put an address or a path into
//! an error (the attachment's number says which it was).

mod assemble;
mod remote;

use std::{fs::File, path::PathBuf, sync::Arc, time::Duration};

use hapax_core::envelope::{AttachmentContent, Content, Notification};
use hapax_mail::Spooled;
use hapax_render::{Rendered, dkim::BodyHash};
use hapax_store::Store;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    time::timeout,
};

use self::assemble::{Assembled, Assembly};
use crate::job::chain;

/// How many messages are gathered from the database at once: each holds a connection meanwhile, and a few pieces in memory.
const GATHERED_AT_ONCE: usize = 2;
/// How many are gathered from files and hosts at once, at most (and no more than half of a route's connections, each of which
/// waits meanwhile), and how long another waits for its turn: these may be slow, and must not keep others from being sent.
const FETCHED_AT_ONCE: usize = 16;
const FETCH_TURN: Duration = Duration::from_millis(200);
/// How long a message waits for its turn at the database or at the press, and how long a template may take there.
const TURN: Duration = Duration::from_secs(10);
const PRESS_TIME_MAX: Duration = Duration::from_secs(20);
/// Pieces on their way to the disk, per message.
const PIECES_WAITING: usize = 2;

/// Where contents come from that notifications only name, and where large ones lie meanwhile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FreightConfig {
    /// Contents beyond this are not fetched with their message.
    pub inline_bytes_max: u64,
    /// The largest message, encoded.
    pub message_bytes_max: u64,
    /// For files without names.
    pub spool_directory: PathBuf,
    /// Attachments by `path` lie below it; none are allowed without.
    pub root: Option<PathBuf>,
    /// Hosts that attachments may be fetched from; none unless named.
    pub https_hosts: Vec<String>,
    /// Media types that are taken from there: `application/pdf`, `image/*`; any when empty.
    pub https_types: Vec<String>,
    /// The largest attachment from a file or a host.
    pub attachment_bytes_max: u64,
    /// For all of a fetch.
    pub https_timeout: Duration,
    /// Certificates to trust instead of the system's, PEM.
    pub https_ca_file: Option<PathBuf>,
}

impl FreightConfig {
    /// Whether it can be used, as far as that can be told without the network.
    ///
    /// # Errors
    /// The certificates cannot be used.
    pub fn check(&self) -> Result<(), String> {
        if self.https_hosts.is_empty() { Ok(()) } else { remote::Remote::new(self).map(drop) }
    }
}

impl Default for FreightConfig {
    /// 256 kB come along; 50 MiB a message; the system's directory for large temporary files; no files, no hosts.
    fn default() -> Self {
        let large = PathBuf::from("/var/tmp");
        Self {
            inline_bytes_max: 256 << 10,
            message_bytes_max: 50 << 20,
            spool_directory: if large.is_dir() { large } else { std::env::temp_dir() },
            root: None,
            https_hosts: Vec::new(),
            https_types: Vec::new(),
            attachment_bytes_max: 25 << 20,
            https_timeout: Duration::from_secs(60),
            https_ca_file: None,
        }
    }
}

/// Why there is no message.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// It may be there later.
    Later(String),
    /// It never will be.
    Never(String),
    /// Too many others are being made.
    Busy,
}

/// A piece on its way into the message.
enum Piece {
    /// As it is.
    Text(Vec<u8>),
    /// Base64 without line ends; whole lines but for the last piece.
    Base64(Vec<u8>),
    /// To be encoded.
    Binary(Vec<u8>),
    /// All of it, to be encoded.
    File(File),
    /// The content ends here, and must have had this hash.
    End(Option<[u8; 32]>),
}

/// A message whose body lies on disk.
pub(crate) struct Gathered {
    /// The header section and its empty line.
    pub(crate) head: Vec<u8>,
    /// None when there is no body.
    pub(crate) body: Option<Spooled>,
    /// Its hash for DKIM.
    pub(crate) body_hash: BodyHash,
    /// MAIL FROM.
    pub(crate) sender: String,
    /// The domain of From.
    pub(crate) author_domain: Option<String>,
}

/// The loading bay of a relay.
pub(crate) struct Freight {
    store: Store,
    config: FreightConfig,
    remote: Option<remote::Remote>,
    gatherers: Arc<Semaphore>,
    fetchers: Arc<Semaphore>,
    presses: Arc<Semaphore>,
}

impl Freight {
    /// `connections`: how many the smallest route may have.
    ///
    /// # Errors
    /// The certificates cannot be used.
    pub(crate) fn new(store: Store, config: FreightConfig, connections: usize) -> Result<Self, String> {
        let remote = if config.https_hosts.is_empty() { None } else { Some(remote::Remote::new(&config)?) };
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        let turns = |count: usize| Arc::new(Semaphore::new(count));
        let (gatherers, fetchers) = (turns(GATHERED_AT_ONCE), turns((connections / 2).clamp(1, FETCHED_AT_ONCE)));
        Ok(Self { store, config, remote, gatherers, fetchers, presses: turns((2 * cores).max(4)) })
    }

    pub(crate) fn inline_bytes_max(&self) -> i64 {
        i64::try_from(self.config.inline_bytes_max).unwrap_or(i64::MAX)
    }

    /// Whether a message needs to be gathered.
    pub(crate) fn is_wanted(notification: &Notification) -> bool {
        let elsewhere = |content: &AttachmentContent| !matches!(content, AttachmentContent::Bytes(_));
        matches!(notification.content, Content::StoredRaw { .. })
            || notification.attachments_later
            || notification.attachments.iter().any(|attachment| elsewhere(&attachment.content))
    }

    /// Renders on a thread of its own: what a template does may take long, and the relay's heart must not wait for it. A
    /// template that takes too long keeps its thread, and its turn, until it ends.
    pub(crate) async fn at_press(
        &self,
        render: impl FnOnce() -> Result<Rendered, String> + Send + 'static,
    ) -> Result<Rendered, Trouble> {
        let turn = turn(&self.presses, TURN).await?;
        let pressed = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            render()
        });
        match timeout(PRESS_TIME_MAX, pressed).await {
            Ok(Ok(rendered)) => rendered.map_err(Trouble::Never),
            // Its words may hold what was rendered.
            Ok(Err(_panic)) => Err(Trouble::Never("the renderer panicked, see the log".into())),
            Err(_elapsed) => {
                let limit_s = PRESS_TIME_MAX.as_secs();
                Err(Trouble::Never(format!(
                    "its template takes more than {limit_s} s: less CSS, fewer rows or smaller lists"
                )))
            }
        }
    }

    /// A notification with all that is attached to it.
    pub(crate) async fn completed(&self, notification: &Arc<Notification>) -> Result<Arc<Notification>, Trouble> {
        if !notification.attachments_later {
            return Ok(notification.clone());
        }
        let _turn = turn(&self.gatherers, TURN).await?;
        let attachments = self.store.attachments_of(notification.id).await.map_err(later)?;
        if attachments.is_empty() {
            return Err(Trouble::Later("its attachments are not in the outbox any more".into()));
        }
        Ok(Arc::new(Notification { attachments, attachments_later: false, ..Notification::clone(notification) }))
    }

    /// Gathers a finished message; `render` completes its header section.
    pub(crate) async fn gather_raw(
        &self,
        notification: &Notification,
        render: impl Fn(&Notification) -> Result<Rendered, String>,
    ) -> Result<Gathered, Trouble> {
        let turn = turn(&self.gatherers, TURN).await?;
        let (pieces, taken) = mpsc::channel(PIECES_WAITING);
        let assembly = Assembly::new(&self.config, true)?;
        let writer = tokio::task::spawn_blocking(move || assembly.run(taken));
        let read = self.store.raw_pieces(notification.id, &pieces, Piece::Text).await;
        drop((pieces, turn));
        let Content::StoredRaw { bytes: expected } = notification.content else {
            return Err(Trouble::Never("the message is none of the finished ones; please report this".into()));
        };
        let assembled = joined(writer.await, read.map_err(later).and_then(|bytes| complete(bytes, expected)))?;
        let headed = Notification { content: Content::Raw(assembled.head), ..notification.clone() };
        let rendered = render(&headed).map_err(Trouble::Never)?;
        Ok(Gathered {
            head: rendered.bytes,
            body: assembled.body,
            body_hash: assembled.body_hash,
            sender: rendered.envelope_sender.address(),
            author_domain: rendered.author_domain,
        })
    }

    /// Gathers what a rendered message has holes for.
    pub(crate) async fn gather(&self, notification: &Notification, rendered: Rendered) -> Result<Gathered, Trouble> {
        let fetched = |content: &AttachmentContent| {
            matches!(content, AttachmentContent::File { .. } | AttachmentContent::Url { .. })
        };
        let _turn = match notification.attachments.iter().any(|attachment| fetched(&attachment.content)) {
            true => Some(turn(&self.fetchers, FETCH_TURN).await?),
            false => None,
        };
        let (pieces, taken) = mpsc::channel(PIECES_WAITING);
        let assembly = Assembly::new(&self.config, false)?;
        let writer = tokio::task::spawn_blocking(move || assembly.run(taken));
        let head_end = hapax_render::head_end(&rendered.bytes).unwrap_or(rendered.bytes.len());
        let read = self.body(notification, &rendered, head_end, &pieces).await;
        drop(pieces);
        let assembled = joined(writer.await, read)?;
        Ok(Gathered {
            head: rendered.bytes[..head_end].to_vec(),
            body: assembled.body,
            body_hash: assembled.body_hash,
            sender: rendered.envelope_sender.address(),
            author_domain: rendered.author_domain,
        })
    }

    /// The body in its order: texts as they were rendered, contents where they belong.
    async fn body(
        &self,
        notification: &Notification,
        rendered: &Rendered,
        head_end: usize,
        into: &mpsc::Sender<Piece>,
    ) -> Result<(), Trouble> {
        let mut at = head_end;
        for hole in &rendered.holes {
            send(into, Piece::Text(rendered.bytes[at..hole.at].to_vec())).await?;
            let content = &notification.attachments[hole.attachment].content;
            let of = |trouble: Trouble| trouble.of(hole.attachment + 1);
            let sha256 = match content {
                AttachmentContent::Bytes(_) => None,
                AttachmentContent::Stored { element, base64_bytes } => {
                    let _turn = turn(&self.gatherers, TURN).await?;
                    let read = self.store.attachment_pieces(notification.id, *element, into, Piece::Base64).await;
                    complete(read.map_err(later)?, *base64_bytes).map_err(of)?;
                    None
                }
                AttachmentContent::File { path, sha256 } => {
                    let (config, path) = (self.config.clone(), path.clone());
                    let opened = tokio::task::spawn_blocking(move || remote::open(&config, &path)).await;
                    let file = opened
                        .unwrap_or_else(|_panic| Err(Trouble::Later("a panic, see the log".into())))
                        .map_err(of)?;
                    send(into, Piece::File(file)).await?;
                    *sha256
                }
                AttachmentContent::Url { url, sha256 } => {
                    let Some(remote) = &self.remote else {
                        let why = "is named by a url, and no host is allowed (hint: attachments.https_hosts)";
                        return Err(of(Trouble::Never(why.into())));
                    };
                    remote.fetch(url, into).await.map_err(of)?;
                    *sha256
                }
            };
            send(into, Piece::End(sha256)).await?;
            at = hole.at;
        }
        send(into, Piece::Text(rendered.bytes[at..].to_vec())).await
    }
}

impl Trouble {
    /// Of which attachment, from 1.
    fn of(self, number: usize) -> Self {
        match self {
            Self::Later(why) => Self::Later(format!("attachment {number} {why}")),
            Self::Never(why) => Self::Never(format!("attachment {number} {why}")),
            Self::Busy => Self::Busy,
        }
    }
}

/// A turn, if there is one in time.
async fn turn(of: &Arc<Semaphore>, limit: Duration) -> Result<OwnedSemaphorePermit, Trouble> {
    match timeout(limit, of.clone().acquire_owned()).await {
        Ok(Ok(turn)) => Ok(turn),
        _ => Err(Trouble::Busy),
    }
}

/// What the database could not give now.
#[allow(clippy::needless_pass_by_value, reason = "for map_err")]
fn later(error: hapax_store::Error) -> Trouble {
    Trouble::Later(format!("the content cannot be read: {}", chain(&error)))
}

/// A message may be gone, or erased, since it was claimed: half of a content must not pass for all of it.
fn complete(bytes: u64, expected: u64) -> Result<(), Trouble> {
    match bytes == expected {
        true => Ok(()),
        false => Err(Trouble::Later("is not in the outbox any more as it was claimed".into())),
    }
}

/// Nobody takes it any more: the assembly has ended, and says why.
async fn send(into: &mpsc::Sender<Piece>, piece: Piece) -> Result<(), Trouble> {
    into.send(piece).await.map_err(|_| Trouble::Later("the spool has ended".into()))
}

/// The assembly's own trouble comes first: it is why nobody listened.
fn joined(
    assembled: Result<Result<Assembled, Trouble>, tokio::task::JoinError>,
    read: Result<(), Trouble>,
) -> Result<Assembled, Trouble> {
    let assembled = assembled.unwrap_or_else(|_panic| Err(Trouble::Later("the spool panicked, see the log".into())));
    match (assembled, read) {
        (Err(Trouble::Never(why)), _) => Err(Trouble::Never(why)),
        (_, Err(trouble)) if !matches!(&trouble, Trouble::Later(why) if why == "the spool has ended") => Err(trouble),
        (assembled, _) => assembled,
    }
}
