//! What a relay is told: limits, routes, kinds. Validated by the binary; here it is only held.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use hapax_core::{
    Codes, OnDoubt, Outcome, Priority, RetryPart, RetryPolicy, codes,
    guards::Guards,
    limits::{Limits, Timeouts},
};

use crate::{directions::Directions, freight::FreightConfig, quiet::QuietHours, trace::Tracing, verp::EnvelopeSender};

/// Everything a relay process needs to know besides its store and its renderer.
#[derive(Clone, Debug)]
pub struct RelayConfig {
    /// A label for people; correctness never depends on it.
    pub name: String,
    /// The machine, a label too.
    pub host: String,
    /// Of the binary.
    pub version: String,
    /// Numbers that bound what it does.
    pub limits: Limits,
    /// The longest timeouts of any route: how long an attempt may be alive.
    pub timeouts: Timeouts,
    /// When to try again.
    pub retry: RetryPolicy,
    /// What refusals mean.
    pub codes: Codes,
    /// At least one. The first is the default for kinds that name none, unless one is called `default`.
    pub routes: Vec<RouteConfig>,
    /// Policies of kinds.
    pub kinds: BTreeMap<String, KindPolicy>,
    /// What is said of tenants and senders.
    pub directions: Directions,
    /// What becomes of doubts where neither message nor kind says.
    pub on_doubt: OnDoubt,
    /// Who may get mail from here, and how old it may be.
    pub guards: Guards,
    /// Ask producers to wake this relay while it has little to do.
    pub wake_up: bool,
    /// Where large contents lie, and what may be attached from elsewhere.
    pub freight: FreightConfig,
    /// What becomes of addresses that do not exist; none: nothing.
    pub hard_bounces: Option<HardBounces>,
    /// What is kept, and for how long.
    pub retention: crate::Retention,
    /// How closing lines name recipients.
    pub recipient_log: RecipientLog,
    /// A notification of Hapax's own, to see that mail goes through.
    pub canary: Option<Arc<hapax_store::Canary>>,
    /// Attempts are traced.
    pub tracing: Option<Tracing>,
}

impl RelayConfig {
    /// The place among `routes` of the one that takes what names none: the one called `default`, else the first.
    pub(crate) fn default_route(&self) -> usize {
        self.routes.iter().position(|route| route.name == "default").unwrap_or(0)
    }

    /// When a delivery of such a kind by such a route is tried again: its kind's word comes first, then the route's.
    pub(crate) fn retry_of(&self, kind: &KindPolicy, route: &RouteConfig) -> RetryPolicy {
        kind.retry.over(route.retry.over(self.retry))
    }

    /// The outcome as the tables have it, in the same order.
    pub(crate) fn weigh(&self, outcome: Outcome, kind: &KindPolicy, route: &RouteConfig) -> Outcome {
        codes::weigh(outcome, &[&kind.codes, &route.codes, &self.codes])
    }
}

/// Addresses that do not exist go on the suppression list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HardBounces {
    /// For so long.
    pub expire_after: Duration,
    /// No more than so many an hour, over all relays.
    pub per_hour_max: i32,
}

/// How the closing line of an attempt names its recipient.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RecipientLog {
    /// `a***@example.org`.
    #[default]
    Masked,
    /// The first 16 hex digits of the SHA-256 of the address in lower case.
    Hashed,
    /// As it is.
    Full,
}

/// One way out.
#[derive(Clone, Debug)]
pub struct RouteConfig {
    /// Its name in configuration, ledger and metrics.
    pub name: String,
    /// Where it leads.
    pub transport: hapax_mail::Transport,
    /// The sender of notifications that name none: `Name <address>`.
    pub from: String,
    /// Connections at once.
    pub max_connections: usize,
    /// Messages over one connection before it is closed.
    pub messages_per_connection_max: u32,
    /// The age at which a connection is closed.
    pub connection_age_max: Duration,
    /// At most so many attempts that reach MAIL, over all relays.
    pub rate: Option<crate::Rate>,
    /// The volumes of its first days.
    pub warm_up: Option<crate::WarmUp>,
    /// When what goes by it is tried again.
    pub retry: RetryPart,
    /// What refusals mean here.
    pub codes: Codes,
    /// Routes that stand in for it while it rests, the first that works.
    pub fallback: Vec<String>,
    /// Routes that share what is for this one, itself among them or not, with their parts; none: it goes by this one.
    pub weights: Vec<(String, u32)>,
    /// Who its envelopes are from, where that is not the sender of the message.
    pub envelope_sender: Option<EnvelopeSender>,
    /// Its upstream de-duplicates by a key.
    pub idempotency: Option<Idempotency>,
    /// What its messages are signed with: each key whose domain is the author's, or above it.
    pub dkim: Vec<Arc<hapax_render::dkim::Key>>,
    /// What is rendered for it says in a header where its delivery is in its trace.
    pub traceparent_header: bool,
}

/// How an upstream de-duplicates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Idempotency {
    /// The header that carries the key.
    pub header: String,
    /// For how long it remembers a key.
    pub window: Duration,
}

impl RouteConfig {
    /// The mail server it leads to; none for a directory.
    pub(crate) fn host(&self) -> Option<String> {
        match &self.transport {
            hapax_mail::Transport::Smtp(server) => Some(server.host.clone()),
            hapax_mail::Transport::File { .. } => None,
        }
    }

    /// Where it listens, also when it does not answer.
    pub(crate) fn address(&self) -> Option<String> {
        match &self.transport {
            hapax_mail::Transport::Smtp(server) => Some(format!("{}:{}", server.host, server.port)),
            hapax_mail::Transport::File { .. } => None,
        }
    }
}

/// What the configuration says of a kind.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct KindPolicy {
    /// Its lane, for notifications that do not name one.
    pub priority: Option<Priority>,
    /// What becomes of its doubts.
    pub on_doubt: Option<OnDoubt>,
    /// Its route.
    pub route: Option<String>,
    /// It expires so long after it was enqueued.
    pub expires_after: Option<Duration>,
    /// Suppressed addresses get it, too.
    pub ignores_suppression: bool,
    /// Those behind one of it in an ordering key pass it so long after it stopped (in doubt, held); none: they wait.
    pub skip_after: Option<Duration>,
    /// One of it that has an ordering key and fails is held instead, so that its key waits.
    pub failed_blocks: bool,
    /// When it is tried again.
    pub retry: RetryPart,
    /// What refusals mean for it.
    pub codes: Codes,
    /// What becomes of the same content enqueued twice; none: nothing.
    pub guard: Option<hapax_store::GuardWindow>,
    /// How its notifications go in digests; none: each by itself.
    pub collect: Option<hapax_store::Collecting>,
    /// For how long its content is kept after its end; none: as [`Retention::content`](crate::Retention::content) says.
    pub keep_content: Option<crate::KeepContent>,
    /// When it waits.
    pub quiet: Option<Arc<QuietHours>>,
}
