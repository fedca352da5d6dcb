//! Upstreams that de-duplicate by a key: which they are, the key of a delivery, and how the reaper resolves their doubts.
//!
//! Architecture Invariant: a delivery is sent again with its key only to the route *and* the server and account that all
//! its attempts in doubt went to, and only inside the window, which counts from its first intent. Asked when the reaper
//! decides, when the delivery is claimed, at its intend (there by the database as well), and by the gate.

use std::time::Duration;

use hapax_core::{
    DeliveryKey,
    policy::{KeyWindow, SameKey, decide_same_key, usable_window},
};
use hapax_store::{Bound, Doubt, Upstream};
use sha2::{Digest, Sha256};

use crate::{
    config::{RelayConfig, RouteConfig},
    reaper::Reaper,
};

/// What the header of one delivery says: the same in every attempt, another for every delivery.
pub(crate) fn key_of(delivery: DeliveryKey) -> String {
    format!("{}-{}", delivery.message_id, delivery.recipient_no)
}

impl RouteConfig {
    /// The de-duplicating upstream behind this route, if it is one. Server, account and header make it; a password or a
    /// token does not, since both are renewed.
    pub(crate) fn upstream(&self) -> Option<Upstream> {
        let idempotency = self.idempotency.as_ref()?;
        let told = format!("{}\n{}", self.transport.account(), idempotency.header.to_ascii_lowercase());
        let digest = Sha256::digest(told.as_bytes());
        let id = digest.iter().take(8).fold(0_i64, |id, byte| (id << 8) | i64::from(*byte));
        Some(Upstream { id, usable: usable_window(idempotency.window) })
    }
}

/// The route that a delivery in doubt, or on its way with the same key, belongs to: by its name, and only if the same
/// upstream is still behind it.
fn pinned<'a>(
    config: &'a RelayConfig,
    route: Option<&str>,
    upstream: Option<i64>,
) -> Option<(&'a RouteConfig, Upstream)> {
    let found = config.routes.iter().find(|found| Some(found.name.as_str()) == route)?;
    let behind = found.upstream()?;
    (Some(behind.id) == upstream).then_some((found, behind))
}

/// Where a delivery that is sent again with the same key must go, and until when (CLOCK_BOOTTIME). `asked` is the boot
/// time before the claim was sent: its age was read later, so the window ends too early rather than too late.
///
/// # Errors
/// Why it cannot go there any more: it is in doubt again.
pub(crate) fn way_of<'a>(
    config: &'a RelayConfig,
    route: Option<&str>,
    bound: Bound,
    asked: Duration,
) -> Result<(&'a str, Duration), String> {
    let Some((found, upstream)) = pinned(config, route, bound.upstream) else {
        return Err("the route it was sent by is gone, or leads to another server or account: \
                    not sent again with the same key"
            .to_owned());
    };
    let left = bound.since_first_intent.and_then(|since| upstream.usable.checked_sub(since));
    match left {
        Some(left) if !left.is_zero() => Ok((&found.name, asked + left)),
        _ => Err(closed()),
    }
}

/// What is said of a delivery whose window has closed before it could be sent again.
pub(crate) fn closed() -> String {
    "the window in which its upstream de-duplicates has closed: not sent again with the same key".to_owned()
}

impl Reaper {
    /// Resolves a doubt by sending again with the same key, where its upstream de-duplicates. Answers whether that is
    /// all there is to do about it now; if not, its policy decides. `asked` is the boot time before it was read.
    pub(crate) async fn resolve_with_key(
        &self,
        doubt: &Doubt,
        waited: Duration,
        asked: Duration,
    ) -> Result<bool, hapax_store::Error> {
        let Some((route, upstream)) = pinned(&self.config, doubt.pinned_route.as_deref(), doubt.upstream) else {
            return Ok(false);
        };
        let since_read = self.clock.boottime().saturating_sub(asked);
        let window = KeyWindow {
            usable: upstream.usable,
            since_first_intent: doubt.since_first_intent.map(|since| since.saturating_add(since_read)),
            tries: doubt.same_key_resends,
        };
        match decide_same_key(window, waited, doubt.grace, &self.config.retry) {
            SameKey::Closed => return Ok(false),
            SameKey::Wait => return Ok(true),
            SameKey::SendAgain => {}
        }
        let Some(idempotency) = &route.idempotency else { return Ok(false) };
        let reason = format!(
            "policy: route {} de-duplicates by {} for {} s after the first intent, sent again with the same key",
            route.name,
            idempotency.header,
            idempotency.window.as_secs()
        );
        let answer = self.store.resend_same_key(doubt, &route.name, upstream.id, upstream.usable, &reason).await?;
        tracing::warn!(delivery = %doubt.key, route = route.name, answer, "a doubt is resolved by sending again with the same key");
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use hapax_mail::{ParsedUrl, Transport};

    use super::*;
    use crate::config::Idempotency;

    fn route(name: &str, url: &str, header: Option<&str>) -> RouteConfig {
        let Ok(ParsedUrl::Transport(transport)) = hapax_mail::parse_url(url) else { panic!("a transport: {url}") };
        let idempotency =
            header.map(|header| Idempotency { header: header.to_owned(), window: Duration::from_secs(600) });
        RouteConfig {
            name: name.into(),
            transport,
            from: "a@example.org".into(),
            max_connections: 1,
            messages_per_connection_max: 1,
            connection_age_max: Duration::ZERO,
            rate: None,
            warm_up: None,
            fallback: Vec::new(),
            weights: Vec::new(),
            envelope_sender: None,
            idempotency,
            retry: hapax_core::RetryPart::default(),
            codes: hapax_core::Codes::default(),
            dkim: Vec::new(),
            traceparent_header: false,
        }
    }

    const URL: &str = "smtps://hapax@smtp.example.com";

    #[test]
    fn another_server_port_account_or_header_is_another_upstream_a_password_is_not() {
        let id = |url: &str, header| route("r", url, header).upstream().map(|upstream| upstream.id);
        let header = Some("Idempotency-Key");
        let known = id(URL, header);
        assert!(known.is_some() && id(URL, None).is_none());
        assert_eq!(id("smtps://hapax:secret@SMTP.example.com:465", Some("idempotency-key")), known);
        let others = [
            ("smtps://other@smtp.example.com", header),
            ("smtps://smtp.example.com", header),
            ("smtps://hapax@smtp.example.net", header),
            ("smtps://hapax@smtp.example.com:2465", header),
            (URL, Some("Other-Key")),
        ];
        for (url, header) in others {
            assert_ne!(id(url, header), known, "{url} {header:?}");
        }
    }

    #[test]
    fn a_delivery_goes_only_to_its_pinned_upstream_inside_its_window() {
        let config = RelayConfig {
            name: String::new(),
            host: String::new(),
            version: String::new(),
            limits: hapax_core::limits::Limits::default(),
            timeouts: hapax_core::limits::Timeouts::default(),
            retry: hapax_core::RetryPolicy::default(),
            codes: hapax_core::Codes::default(),
            routes: vec![route("a", URL, Some("Key")), route("b", URL, None)],
            kinds: std::collections::BTreeMap::new(),
            directions: crate::Directions::default(),
            on_doubt: hapax_core::OnDoubt::Hold,
            guards: hapax_core::guards::Guards::default(),
            wake_up: true,
            freight: crate::FreightConfig::default(),
            hard_bounces: None,
            retention: crate::Retention::default(),
            recipient_log: crate::RecipientLog::default(),
            canary: None,
            tracing: None,
        };
        let id = config.routes[0].upstream().map(|upstream| upstream.id);
        let asked = Duration::from_secs(100);
        let age = |seconds| Some(Duration::from_secs(seconds));
        let way = |route, upstream, since_first_intent| {
            way_of(&config, route, Bound { upstream, since_first_intent }, asked).ok()
        };
        assert_eq!(way(Some("a"), id, age(0)), Some(("a", Duration::from_secs(640))));
        assert_eq!(way(Some("a"), id, age(539)), Some(("a", Duration::from_secs(101))));
        assert_eq!(way(Some("a"), id, age(540)), None, "600 s less a minute");
        assert_eq!(way(Some("a"), id, None), None, "a clock was set back");
        assert_eq!(way(Some("a"), Some(7), age(0)), None, "another account");
        assert_eq!(way(Some("a"), None, age(0)), None);
        assert_eq!(way(Some("b"), id, age(0)), None, "no header any more");
        assert_eq!(way(Some("c"), id, age(0)), None, "the route is gone");
        assert_eq!(way(None, id, age(0)), None);
    }

    #[test]
    fn a_file_route_is_an_upstream_by_its_directory() {
        let of = |directory: &str| Transport::File { directory: directory.into() }.account();
        assert_ne!(of("/a"), of("/b"));
    }
}
