//! A claimed delivery on its way through the relay, and the message it belongs to.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use hapax_core::{
    DeliveryKey, Priority, Recipient, Token,
    clock::Clock,
    envelope::{Content, Notification},
    fault,
    guards::{Addressee, Guards},
};
use hapax_mail::Spooled;
use hapax_render::{
    Rendered,
    dkim::{self, Key},
};
use hapax_store::Claimed;
use sha2::{Digest, Sha256};
use tokio::sync::{Mutex, OwnedSemaphorePermit, oneshot};

use crate::{
    config::{KindPolicy, RouteConfig},
    flights::Place,
    freight::{Freight, Gathered, Trouble},
    pace::Turn,
    registry::InHand,
    trace::{self, TraceParent},
    upstream,
};

/// A place among those that may be claimed, and one among its route's; from the beginning of the attempt also one among
/// `max_in_flight`. All are given back when the outcome is durable.
#[derive(Debug)]
pub(crate) struct Permit {
    pub(crate) _global: OwnedSemaphorePermit,
    pub(crate) _route: Option<OwnedSemaphorePermit>,
    pub(crate) flight: Option<Flight>,
    /// Its place among what its route may send in a time; spent before MAIL.
    pub(crate) turn: Turn,
}

/// A place in flight, and one among its route's.
#[derive(Debug)]
pub(crate) struct Flight {
    pub(crate) _global: Place,
    pub(crate) _route: Place,
}

/// One delivery in the relay's hands.
pub(crate) struct Job {
    pub(crate) claimed: Claimed,
    pub(crate) letter: Arc<Letter>,
    pub(crate) token: Token,
    pub(crate) permit: Permit,
    /// Keeps its lease alive for as long as the attempt has no intent.
    pub(crate) _in_hand: InHand,
    /// Told when the intent is durable (or dropped when the attempt ends): a suspect runs alone until then.
    pub(crate) intended: Option<oneshot::Sender<()>>,
    /// CLOCK_BOOTTIME after which nothing of it may be transmitted: it is sent again with the same key.
    pub(crate) window_ends: Option<Duration>,
    /// Its place in its trace, where this relay traces.
    pub(crate) trace: Option<TraceParent>,
}

/// What was made of a message for the route of that name, or why nothing can be.
type Made = (String, Result<Arc<Ready>, String>);

/// A message as its deliveries share it: rendered once, however many recipients are in hand.
pub(crate) struct Letter {
    pub(crate) notification: Arc<Notification>,
    pub(crate) policy: KindPolicy,
    /// What its producer's trace calls itself, where this relay traces.
    pub(crate) parent: Option<TraceParent>,
    fetched_at: Duration,
    /// With the route it was made for.
    ready: OnceLock<Made>,
    /// The same, of a message that takes time to make. Locked meanwhile: once for all recipients.
    slow: Mutex<Option<Made>>,
}

/// The bytes of a message, fit for the wire.
pub(crate) struct Ready {
    pub(crate) message: hapax_mail::Message,
    pub(crate) sha256: [u8; 32],
    pub(crate) sender: Option<String>,
    /// Of a message whose body lies on disk: its header section and its body.
    on_disk: Option<(Vec<u8>, Spooled)>,
}

impl Ready {
    fn new(bytes: &[u8], sender: Option<String>) -> Self {
        let message = hapax_mail::Message::new(bytes);
        let sha256 = Sha256::digest(message.wire_bytes()).into();
        Self { message, sha256, sender, on_disk: None }
    }

    /// Reads all of the body, for its hash: blocks.
    fn on_disk(head: Vec<u8>, body: Spooled, sender: Option<String>) -> Result<Self, std::io::Error> {
        let message = hapax_mail::Message::with_spooled(&head, &body);
        Ok(Self { sha256: message.sha256()?, message, sender, on_disk: Some((head, body)) })
    }

    /// The same with fields of one delivery in front.
    fn stamped(&self, fields: &[(&str, &str)]) -> Result<Self, Unfit> {
        let broken = |error: hapax_render::Error| Unfit::Broken(chain(&error));
        if let Some((head, body)) = &self.on_disk {
            let head = hapax_render::stamp(head, fields).map_err(broken)?;
            return Self::on_disk(head, body.clone(), self.sender.clone()).map_err(spool_lost);
        }
        let content = self.message.content().map_err(spool_lost)?;
        Ok(Self::new(&hapax_render::stamp(&content, fields).map_err(broken)?, self.sender.clone()))
    }
}

#[allow(clippy::needless_pass_by_value, reason = "for map_err")]
fn spool_lost(error: std::io::Error) -> Unfit {
    Unfit::Later(format!("the spool cannot be read: {}", error.to_string().to_lowercase()))
}

/// What is transmitted for one delivery, and to whom.
pub(crate) struct Parcel {
    pub(crate) recipient: Recipient,
    pub(crate) ready: Arc<Ready>,
    /// It goes to somebody else than it is addressed to.
    pub(crate) redirected: bool,
}

/// Why there is no parcel.
pub(crate) enum Unfit {
    /// A guard forbids its recipient.
    Stopped,
    /// It cannot be rendered.
    Broken(String),
    /// Something it needs is not to be had now.
    Later(String),
    /// Others are being made: it is not tried now.
    Busy,
}

impl From<Trouble> for Unfit {
    fn from(trouble: Trouble) -> Self {
        match trouble {
            Trouble::Later(why) => Self::Later(why),
            Trouble::Never(why) => Self::Broken(why),
            Trouble::Busy => Self::Busy,
        }
    }
}

impl Letter {
    pub(crate) fn new(notification: Notification, policy: KindPolicy, clock: &dyn Clock) -> Self {
        let notification = Arc::new(notification);
        let (fetched_at, ready, slow) = (clock.boottime(), OnceLock::new(), Mutex::default());
        Self { notification, policy, parent: None, fetched_at, ready, slow }
    }

    /// Since it first could have been sent.
    pub(crate) fn age(&self, clock: &dyn Clock) -> Duration {
        self.notification.age + clock.boottime().saturating_sub(self.fetched_at)
    }

    /// Since it was read.
    pub(crate) fn held_for(&self, clock: &dyn Clock) -> Duration {
        clock.boottime().saturating_sub(self.fetched_at)
    }

    /// Until it expires, by its own word or its kind's, whichever comes first.
    pub(crate) fn expires_in(&self, clock: &dyn Clock) -> Option<Duration> {
        let passed = clock.boottime().saturating_sub(self.fetched_at);
        let own = self.notification.expires_in.map(|left| left.saturating_sub(passed));
        let kind = self.policy.expires_after.map(|limit| limit.saturating_sub(self.age(clock)));
        match (own, kind) {
            (Some(own), Some(kind)) => Some(own.min(kind)),
            (own, kind) => own.or(kind),
        }
    }

    /// Its lane's priority: its own word, or its kind's where it says nothing.
    pub(crate) fn priority(&self) -> Priority {
        match (self.notification.priority, self.policy.priority) {
            (Priority::Normal, Some(kind)) => kind,
            (own, _) => own,
        }
    }

    /// What one delivery transmits: the one place where an address from the outbox becomes that of an envelope, so the
    /// one place where guards are asked. With fields of its own where the route or a guard wants them.
    ///
    /// # Errors
    /// A guard, or why it cannot be rendered; never repeats an address.
    pub(crate) async fn parcel(
        &self,
        delivery: DeliveryKey,
        guards: &Guards,
        maker: Maker<'_>,
    ) -> Result<Parcel, Unfit> {
        let addressed = self.recipient(delivery.recipient_no).map_err(Unfit::Broken)?;
        let (recipient, original) = match guards.addressee(addressed) {
            Addressee::AsAddressed(recipient) => (recipient, None),
            Addressee::Redirected { to, original } => (to, Some(original.address())),
            Addressee::Stopped => return Err(Unfit::Stopped),
        };
        let is_template = matches!(self.notification.content, Content::Payload(_));
        let mut ready = match is_template || Freight::is_wanted(&self.notification) {
            true => self.slow(&maker).await?,
            false => self.ready(&maker).map_err(Unfit::Broken)?,
        };
        let key = upstream::key_of(delivery);
        let mut fields = Vec::new();
        fields.extend(maker.route.idempotency.as_ref().map(|found| (found.header.as_str(), key.as_str())));
        fields.extend(original.as_deref().map(|address| (hapax_render::ORIGINAL_TO, address)));
        let is_raw = matches!(self.notification.content, Content::Raw(_) | Content::StoredRaw { .. });
        let place = maker.place.filter(|_| maker.route.traceparent_header && !is_raw).map(|place| place.to_string());
        fields.extend(place.as_deref().map(|place| (trace::HEADER, place)));
        if !fields.is_empty() {
            ready = Arc::new(ready.stamped(&fields)?);
        }
        Ok(Parcel { recipient, ready, redirected: original.is_some() })
    }

    /// Whom a delivery is addressed to, whatever a guard makes of it.
    pub(crate) fn recipient(&self, recipient_no: i16) -> Result<Recipient, String> {
        let Notification { recipients, cc, bcc, .. } = &*self.notification;
        let place = usize::try_from(recipient_no).ok().and_then(|no| no.checked_sub(1));
        let mailbox = place.and_then(|place| recipients.iter().chain(cc).chain(bcc).nth(place));
        let mailbox = mailbox.ok_or_else(|| format!("the message has no recipient {recipient_no}"))?;
        Recipient::parse(mailbox).map_err(|error| format!("recipient {recipient_no}: {error}"))
    }

    /// The bytes all recipients have in common, rendered by whoever asks first. A delivery that is bound to another
    /// route than its message's has them made for that one.
    fn ready(&self, maker: &Maker<'_>) -> Result<Arc<Ready>, String> {
        let make = || self.signed(&maker.press, maker.press.render(&self.notification)?);
        let (route, made) = self.ready.get_or_init(|| (maker.route.name.clone(), make()));
        if *route == maker.route.name { made.clone() } else { make() }
    }

    fn signed(&self, press: &Press, rendered: Rendered) -> Result<Arc<Ready>, String> {
        let keys = press.keys(rendered.author_domain.as_deref());
        let bytes = dkim::signed(rendered.bytes, self.time_s(), keys).map_err(|error| chain(&error))?;
        Ok(Arc::new(Ready::new(&bytes, Some(rendered.envelope_sender.address()))))
    }

    /// As [`Letter::ready`], of a message that takes time: its template may be a slow one, or its contents are elsewhere.
    async fn slow(&self, maker: &Maker<'_>) -> Result<Arc<Ready>, Unfit> {
        let mut known = self.slow.lock().await;
        if let Some((route, made)) = known.as_ref()
            && *route == maker.route.name
            && !maker.press.renderer.is_per_recipient(&self.notification)
        {
            return made.clone().map_err(Unfit::Broken);
        }
        let made = match self.made(maker).await {
            Ok(ready) => Ok(ready),
            Err(Unfit::Broken(why)) => Err(why),
            Err(unfit) => return Err(unfit),
        };
        *known = Some((maker.route.name.clone(), made.clone()));
        made.map_err(Unfit::Broken)
    }

    async fn made(&self, maker: &Maker<'_>) -> Result<Arc<Ready>, Unfit> {
        let (press, freight) = (&maker.press, maker.freight);
        let notification = freight.completed(&self.notification).await?;
        let all = match &notification.content {
            Content::StoredRaw { .. } => freight.gather_raw(&notification, |headed| press.render(headed)).await?,
            Content::Payload(_) => {
                let (completed, press) = (notification.clone(), press.clone());
                let rendered = freight.at_press(move || press.render(&completed)).await?;
                if rendered.holes.is_empty() {
                    return self.signed(&maker.press, rendered).map_err(Unfit::Broken);
                }
                freight.gather(&notification, rendered).await?
            }
            _ => freight.gather(&notification, press.render(&notification).map_err(Unfit::Broken)?).await?,
        };
        let Gathered { mut head, body, body_hash, sender, author_domain } = all;
        let signatures = dkim::sign(&head, &body_hash, self.time_s(), press.keys(author_domain.as_deref()));
        head.splice(..0, signatures.map_err(|error| Unfit::Broken(chain(&error)))?);
        let Some(body) = body else {
            return Ok(Arc::new(Ready::new(&head, Some(sender))));
        };
        let ready = tokio::task::spawn_blocking(move || Ready::on_disk(head, body, Some(sender))).await;
        Ok(Arc::new(
            ready.unwrap_or_else(|_panic| Err(std::io::Error::other("a panic, see the log"))).map_err(spool_lost)?,
        ))
    }

    /// When the notification came into being: a signature is the same at every attempt.
    fn time_s(&self) -> u64 {
        u64::try_from(self.notification.created_at_us / 1_000_000).unwrap_or(0)
    }
}

/// What makes messages of notifications, for one route.
pub(crate) struct Maker<'a> {
    pub(crate) press: Press,
    pub(crate) freight: &'a Freight,
    pub(crate) route: &'a RouteConfig,
    /// The delivery's, in its trace.
    pub(crate) place: Option<TraceParent>,
}

/// The part of it that computes: on a thread of its own where that may take long.
#[derive(Clone)]
pub(crate) struct Press {
    pub(crate) renderer: Arc<hapax_render::Renderer>,
    pub(crate) from: String,
    pub(crate) dkim: Vec<Arc<Key>>,
    /// For whom, where that makes a difference.
    pub(crate) recipient_no: i16,
}

impl Press {
    /// A panic of the renderer fails this delivery alone.
    fn render(&self, notification: &Notification) -> Result<Rendered, String> {
        let render = || {
            fault::spill(|| match &notification.content {
                Content::Payload(payload) => notification.recipients.concat() + payload,
                _ => notification.recipients.concat(),
            });
            self.renderer.render_for(notification, self.recipient_no, &self.from, None)
        };
        let attempt = std::panic::AssertUnwindSafe(render);
        std::panic::catch_unwind(attempt)
            .map_err(|_| "the renderer panicked, see the log".to_owned())?
            .map_err(|error| chain(&error))
    }

    /// Those that sign for this author.
    fn keys(&self, author_domain: Option<&str>) -> impl Iterator<Item = &Key> {
        let signs = move |key: &&Key| author_domain.is_some_and(|domain| key.signs_for(domain));
        self.dkim.iter().map(AsRef::as_ref).filter(signs)
    }
}

/// An error with its sources, in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}
