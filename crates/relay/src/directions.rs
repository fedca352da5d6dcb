//! Which route a message belongs to: its own word, its kind's, its tenant's, its sender's domain's, the default; and which
//! of several share what is for one route.
//!
//! Invariants: the same message is given the same route at every attempt, by every relay with the same configuration; what
//! has had an intent stays where that was. Must not look at whether a route works: that is `detour`'s affair.

use std::{collections::BTreeMap, sync::Arc};

use hapax_core::{MessageId, Recipient, envelope::Notification};
use hapax_store::Claimed;
use sha2::{Digest, Sha256};

use crate::{
    config::{KindPolicy, RelayConfig},
    detour::Ways,
    job::Letter,
    pump::Pump,
    quiet::Zone,
    route::Route,
};

/// So many deliveries are claimed at once from the lanes of a route that rests, to find those that go by another.
const GUESTS: usize = 32;

/// What the configuration says of tenants and senders.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Directions {
    /// Tenants by name.
    pub tenants: BTreeMap<String, Tenant>,
    /// The routes of senders, by their domain in lower case.
    pub senders: BTreeMap<String, String>,
}

/// What applies to mail of one tenant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tenant {
    /// Its route.
    pub route: Option<String>,
    /// Where it is.
    pub zone: Option<Zone>,
}

impl Directions {
    /// The tenant of a notification, if anything is said of it.
    pub(crate) fn tenant(&self, notification: &Notification) -> Option<&Tenant> {
        self.tenants.get(notification.tenant.as_ref()?)
    }

    /// The name of the route that a message belongs to; none: the default.
    pub(crate) fn route_of<'a>(&'a self, notification: &'a Notification, policy: &'a KindPolicy) -> Option<&'a str> {
        let said = notification.route.as_ref().or(policy.route.as_ref());
        let tenants = || self.tenant(notification).and_then(|tenant| tenant.route.as_ref());
        said.or_else(tenants).or_else(|| self.of_sender(notification)).map(String::as_str)
    }

    /// Whether any mail goes by a route for its tenant or its sender.
    fn lead_elsewhere(&self) -> bool {
        !self.senders.is_empty() || self.tenants.values().any(|tenant| tenant.route.is_some())
    }

    fn of_sender(&self, notification: &Notification) -> Option<&String> {
        if self.senders.is_empty() {
            return None;
        }
        let sender = Recipient::parse(notification.sender.as_ref()?).ok()?;
        self.senders.get(&sender.domain().to_ascii_lowercase())
    }
}

impl RelayConfig {
    /// The route that a message is for, where others share what is for that one.
    pub(crate) fn shared_route(&self, letter: &Letter) -> Option<&str> {
        if self.routes.iter().all(|route| route.weights.is_empty()) {
            return None;
        }
        let route = match self.directions.route_of(&letter.notification, &letter.policy) {
            Some(name) => self.routes.iter().find(|route| route.name == name),
            None => self.routes.get(self.default_route()),
        };
        route.filter(|route| !route.weights.is_empty()).map(|route| route.name.as_str())
    }
}

/// The one of several that a message goes by: each gets its share of them.
pub(crate) fn pick<'a>(route: &str, weights: &'a [(String, u32)], message: MessageId) -> Option<&'a str> {
    let all: u64 = weights.iter().map(|(_, weight)| u64::from(*weight)).sum();
    let digest = Sha256::new().chain_update(route).chain_update(message.0.as_bytes()).finalize();
    let chance = digest.iter().take(8).fold(0_u64, |chance, byte| (chance << 8) | u64::from(*byte));
    let mut place = chance.checked_rem(all)?;
    for (name, weight) in weights {
        let weight = u64::from(*weight);
        if place < weight {
            return Some(name);
        }
        place -= weight;
    }
    None
}

impl Ways {
    /// The route among those that share what is for `route`: where its last intent went, or by chance, always the same.
    pub(crate) fn share(&self, route: &Arc<Route>, claimed: &Claimed) -> Arc<Route> {
        let weights = &route.config.weights;
        if weights.is_empty() {
            return route.clone();
        }
        if let Some(pinned) = claimed.pinned_route.as_deref().filter(|_| claimed.intents > 0) {
            let sharers = weights.iter().filter_map(|(name, _)| self.named(name)).chain([route]);
            let is_there = |other: &&Arc<Route>| other.config.name == pinned || self.stands_in(other, pinned);
            if let Some(there) =
                sharers.clone().find(|other| other.config.name == pinned).or(sharers.clone().find(is_there))
            {
                return there.clone();
            }
        }
        let picked = pick(&route.config.name, weights, claimed.key.message_id).and_then(|name| self.named(name));
        picked.unwrap_or(route).clone()
    }
}

impl Pump {
    /// Whether mail of other routes lies in the lanes of this one: its producer's database knows of kinds and of what a message
    /// says, not of tenants, senders and parts.
    pub(crate) fn has_guests(&self, route: &Arc<Route>) -> bool {
        let by_default = || Arc::ptr_eq(route, &self.routes.0[self.default_route]);
        !route.config.weights.is_empty() || by_default() && self.office.config.directions.lead_elsewhere()
    }

    /// How many deliveries may be claimed from the lanes of a route. While it rests, its guests go on; what is its own waits
    /// until it has rested.
    pub(crate) fn room(&self, route: &Arc<Route>) -> usize {
        let own = self.routes.room(route);
        if own > 0 || route.closed_for().is_none() || !self.has_guests(route) {
            return own;
        }
        let others = self.routes.0.iter().filter(|other| !Arc::ptr_eq(other, route));
        others.map(|other| other.free()).max().unwrap_or(0).min(GUESTS)
    }
}

#[cfg(test)]
mod tests {
    use hapax_core::{Priority, envelope::Content};

    use super::*;

    fn notification(route: Option<&str>, tenant: Option<&str>, sender: Option<&str>) -> Notification {
        Notification {
            id: MessageId(uuid::Uuid::nil()),
            created_at_us: 0,
            kind: "k".into(),
            sender: sender.map(str::to_owned),
            reply_to: None,
            recipients: Vec::new(),
            cc: Vec::new(),
            bcc: Vec::new(),
            content: Content::Payload("{}".into()),
            headers: Vec::new(),
            attachments: Vec::new(),
            attachments_later: false,
            priority: Priority::Normal,
            expires_in: None,
            age: std::time::Duration::ZERO,
            on_doubt: None,
            route: route.map(str::to_owned),
            tenant: tenant.map(str::to_owned),
            locale: None,
        }
    }

    #[test]
    fn its_own_word_comes_before_its_kinds_its_tenants_and_its_senders_domains() {
        let tenant = Tenant { route: Some("t".into()), zone: None };
        let directions = Directions {
            tenants: BTreeMap::from([("acme".to_owned(), tenant), ("bare".to_owned(), Tenant::default())]),
            senders: BTreeMap::from([("example.org".to_owned(), "s".to_owned())]),
        };
        let kind = KindPolicy { route: Some("k".into()), ..KindPolicy::default() };
        let none = KindPolicy::default();
        let sender = Some("Shop <news@EXAMPLE.org>");
        let of = |notification: &Notification, policy: &KindPolicy| {
            directions.route_of(notification, policy).map(str::to_owned).unwrap_or_default()
        };
        assert_eq!(of(&notification(Some("own"), Some("acme"), sender), &kind), "own");
        assert_eq!(of(&notification(None, Some("acme"), sender), &kind), "k");
        assert_eq!(of(&notification(None, Some("acme"), sender), &none), "t");
        assert_eq!(of(&notification(None, Some("other"), sender), &none), "s");
        assert_eq!(of(&notification(None, Some("bare"), sender), &none), "s");
        assert_eq!(of(&notification(None, None, Some("news@mail.example.org")), &none), "", "its own domain only");
        assert_eq!(of(&notification(None, None, None), &none), "");
    }

    #[test]
    fn each_gets_its_share_of_the_messages_and_each_message_always_the_same() {
        let weights = [("a".to_owned(), 9), ("off".to_owned(), 0), ("b".to_owned(), 1)];
        let ids: Vec<MessageId> = (0..10_000_u128).map(|n| MessageId(uuid::Uuid::from_u128(n << 64))).collect();
        let picked: Vec<&str> = ids.iter().filter_map(|id| pick("r", &weights, *id)).collect();
        assert_eq!(picked.len(), ids.len());
        let tenth = picked.iter().filter(|name| **name == "b").count();
        assert!((850..1_150).contains(&tenth), "five standard deviations: {tenth}");
        assert!(!picked.contains(&"off"));
        assert_eq!(picked, ids.iter().filter_map(|id| pick("r", &weights, *id)).collect::<Vec<_>>());
        let other = ids.iter().filter_map(|id| pick("s", &weights, *id));
        assert_ne!(picked, other.collect::<Vec<_>>(), "two routes share independently");
        assert_eq!(pick("r", &[("a".to_owned(), 0)], ids[0]), None);
    }
}
