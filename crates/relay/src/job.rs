//! A claimed delivery on its way through the relay, and the message it belongs to.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use hapax_core::{
    DeliveryKey, Priority, Recipient, Token,
    clock::Clock,
    envelope::Notification,
    guards::{Addressee, Guards},
};
use hapax_store::Claimed;
use sha2::{Digest, Sha256};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use crate::{
    config::{KindPolicy, RouteConfig},
    registry::InHand,
    upstream,
};

/// A place among those that may be claimed, and one among its route's; from the beginning of the attempt also one among
/// `max_in_flight`. All are given back when the outcome is durable.
#[derive(Debug)]
pub(crate) struct Permit {
    pub(crate) _global: OwnedSemaphorePermit,
    pub(crate) _route: Option<OwnedSemaphorePermit>,
    pub(crate) flight: Option<Flight>,
}

/// A place in flight, and one among its route's.
#[derive(Debug)]
pub(crate) struct Flight {
    pub(crate) _global: OwnedSemaphorePermit,
    pub(crate) _route: OwnedSemaphorePermit,
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
}

/// A message as its deliveries share it: rendered once, however many recipients are in hand.
pub(crate) struct Letter {
    pub(crate) notification: Notification,
    pub(crate) policy: KindPolicy,
    fetched_at: Duration,
    /// With the route's `from` it was made for.
    ready: OnceLock<(String, Result<Arc<Ready>, String>)>,
}

/// The bytes of a message, fit for the wire.
pub(crate) struct Ready {
    pub(crate) message: hapax_mail::Message,
    pub(crate) sha256: [u8; 32],
    pub(crate) sender: Option<String>,
}

impl Ready {
    fn new(bytes: &[u8], sender: Option<String>) -> Self {
        let message = hapax_mail::Message::new(bytes);
        let sha256 = Sha256::digest(message.wire_bytes()).into();
        Self { message, sha256, sender }
    }
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
}

impl Letter {
    pub(crate) fn new(notification: Notification, policy: KindPolicy, clock: &dyn Clock) -> Self {
        Self { notification, policy, fetched_at: clock.boottime(), ready: OnceLock::new() }
    }

    /// Since it first could have been sent.
    pub(crate) fn age(&self, clock: &dyn Clock) -> Duration {
        self.notification.age + clock.boottime().saturating_sub(self.fetched_at)
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
    pub(crate) fn parcel(
        &self,
        delivery: DeliveryKey,
        guards: &Guards,
        renderer: &hapax_render::Renderer,
        route: &RouteConfig,
    ) -> Result<Parcel, Unfit> {
        let addressed = self.recipient(delivery.recipient_no).map_err(Unfit::Broken)?;
        let (recipient, original) = match guards.addressee(addressed) {
            Addressee::AsAddressed(recipient) => (recipient, None),
            Addressee::Redirected { to, original } => (to, Some(original.address())),
            Addressee::Stopped => return Err(Unfit::Stopped),
        };
        let mut ready = self.ready(renderer, route).map_err(Unfit::Broken)?;
        let key = upstream::key_of(delivery);
        let mut fields = Vec::new();
        fields.extend(route.idempotency.as_ref().map(|found| (found.header.as_str(), key.as_str())));
        fields.extend(original.as_deref().map(|address| (hapax_render::ORIGINAL_TO, address)));
        if !fields.is_empty() {
            let stamped = hapax_render::stamp(&ready.message.content(), &fields);
            let stamped = stamped.map_err(|error| Unfit::Broken(chain(&error)))?;
            ready = Arc::new(Ready::new(&stamped, ready.sender.clone()));
        }
        Ok(Parcel { recipient, ready, redirected: original.is_some() })
    }

    fn recipient(&self, recipient_no: i16) -> Result<Recipient, String> {
        let Notification { recipients, cc, bcc, .. } = &self.notification;
        let place = usize::try_from(recipient_no).ok().and_then(|no| no.checked_sub(1));
        let mailbox = place.and_then(|place| recipients.iter().chain(cc).chain(bcc).nth(place));
        let mailbox = mailbox.ok_or_else(|| format!("the message has no recipient {recipient_no}"))?;
        Recipient::parse(mailbox).map_err(|error| format!("recipient {recipient_no}: {error}"))
    }

    /// The bytes all recipients have in common, rendered by whoever asks first. A delivery that is bound to another
    /// route than its message's has them made for that one.
    fn ready(&self, renderer: &hapax_render::Renderer, route: &RouteConfig) -> Result<Arc<Ready>, String> {
        let (from, made) = self.ready.get_or_init(|| (route.from.clone(), self.render(renderer, &route.from)));
        if *from == route.from { made.clone() } else { self.render(renderer, &route.from) }
    }

    /// A panic of the renderer fails this delivery alone.
    fn render(&self, renderer: &hapax_render::Renderer, from: &str) -> Result<Arc<Ready>, String> {
        let attempt = std::panic::AssertUnwindSafe(|| renderer.render(&self.notification, from, None));
        let rendered = std::panic::catch_unwind(attempt)
            .map_err(|_| "the renderer panicked, see the log".to_owned())?
            .map_err(|error| chain(&error))?;
        Ok(Arc::new(Ready::new(&rendered.bytes, Some(rendered.envelope_sender.address()))))
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
