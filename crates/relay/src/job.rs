//! A claimed delivery on its way through the relay, and the message it belongs to.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use hapax_core::{Priority, Recipient, Token, clock::Clock, envelope::Notification};
use hapax_store::Claimed;
use sha2::{Digest, Sha256};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use crate::{
    config::{KindPolicy, RouteConfig},
    registry::InHand,
};

/// A place among `max_in_flight`, and one among its route's. Given back when the outcome is durable.
#[derive(Debug)]
pub(crate) struct Permit {
    pub(crate) _global: OwnedSemaphorePermit,
    pub(crate) _route: Option<OwnedSemaphorePermit>,
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
}

/// A message as its deliveries share it: rendered once, however many recipients are in hand.
pub(crate) struct Letter {
    pub(crate) notification: Notification,
    pub(crate) policy: KindPolicy,
    fetched_at: Duration,
    ready: OnceLock<Result<Ready, String>>,
}

/// The bytes of a message, fit for the wire.
pub(crate) struct Ready {
    pub(crate) message: hapax_mail::Message,
    pub(crate) sha256: [u8; 32],
    pub(crate) sender: Option<String>,
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

    /// The mailbox of one delivery.
    ///
    /// # Errors
    /// Why the stored address cannot be used; never repeats it.
    pub(crate) fn recipient(&self, recipient_no: i16) -> Result<Recipient, String> {
        let Notification { recipients, cc, bcc, .. } = &self.notification;
        let place = usize::try_from(recipient_no).ok().and_then(|no| no.checked_sub(1));
        let mailbox = place.and_then(|place| recipients.iter().chain(cc).chain(bcc).nth(place));
        let mailbox = mailbox.ok_or_else(|| format!("the message has no recipient {recipient_no}"))?;
        Recipient::parse(mailbox).map_err(|error| format!("recipient {recipient_no}: {error}"))
    }

    /// The bytes, rendered by whoever asks first. A panic of the renderer fails this delivery alone.
    ///
    /// # Errors
    /// Why it cannot be rendered, for people.
    pub(crate) fn ready(&self, renderer: &hapax_render::Renderer, route: &RouteConfig) -> Result<&Ready, &str> {
        let made = self.ready.get_or_init(|| {
            let attempt = std::panic::AssertUnwindSafe(|| renderer.render(&self.notification, &route.from, None));
            let rendered = std::panic::catch_unwind(attempt)
                .map_err(|_| "the renderer panicked, see the log".to_owned())?
                .map_err(|error| chain(&error))?;
            let message = hapax_mail::Message::new(&rendered.bytes);
            let sha256 = Sha256::digest(message.wire_bytes()).into();
            Ok(Ready { message, sha256, sender: Some(rendered.envelope_sender.address()) })
        });
        made.as_ref().map_err(String::as_str)
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
