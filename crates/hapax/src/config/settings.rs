//! The settings themselves, typed, with their defaults, and what they become for the relay.

use std::{collections::BTreeMap, fmt, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use hapax_core::{
    Codes, OnDoubt, RetryPart, RetryPolicy,
    guards::Guards,
    limits::{Limits, Timeouts},
};
use hapax_mail::Transport;
use hapax_relay::{
    AfterFailover, Canary, Directions, EnvelopeSender, FreightConfig, HardBounces, Idempotency, KindPolicy, Rate,
    RecipientLog, RelayConfig, Retention, WarmUp,
};
use hapax_render::{UnsubscribeKey, dkim::Key};
use hapax_store::ConnectOptions;

use super::{reader::Given, secrets::Secret, telemetry::Telemetry};

/// Everything the configuration says.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) database: Database,
    pub(crate) relay: Relay,
    pub(crate) retry: RetryPolicy,
    /// What refusals mean.
    pub(crate) codes: Codes,
    pub(crate) templates: Option<PathBuf>,
    pub(crate) unsubscribe_key: Option<UnsubscribeKey>,
    pub(crate) routes: Vec<Route>,
    pub(crate) kinds: BTreeMap<String, KindPolicy>,
    pub(crate) directions: Directions,
    pub(crate) guards: Guards,
    pub(crate) canary: Option<Arc<Canary>>,
    pub(crate) hard_bounces: Option<HardBounces>,
    pub(crate) retention: Retention,
    pub(crate) log: Log,
    pub(crate) http: Http,
    /// None: nothing is traced.
    pub(crate) telemetry: Option<Telemetry>,
}

/// `[database]`.
#[derive(Clone)]
pub(crate) struct Database {
    /// May hold a password: never shown.
    pub(crate) url: String,
    pub(crate) password: Option<Secret>,
    pub(crate) pool_size_max: usize,
    pub(crate) statement_timeout: Duration,
    /// What a relay does when the database fails over.
    pub(crate) after_failover: AfterFailover,
    /// Refuse a database at an unknown address.
    pub(crate) address_guard: bool,
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Database").field("url", &super::mask::mask(&self.url)).finish_non_exhaustive()
    }
}

impl Database {
    /// How to connect, under a name for `pg_stat_activity`.
    pub(crate) fn options(&self, application_name: &str) -> ConnectOptions {
        ConnectOptions {
            url: self.url.clone(),
            password: self.password.as_ref().map(|secret| secret.expose().to_owned()),
            pool_size_max: self.pool_size_max,
            statement_timeout: self.statement_timeout,
            application_name: application_name.to_owned(),
        }
    }
}

/// `[relay]`.
#[derive(Clone, Debug)]
pub(crate) struct Relay {
    pub(crate) name: String,
    pub(crate) limits: Limits,
    pub(crate) timeouts: Timeouts,
    pub(crate) on_doubt: OnDoubt,
    /// Ask producers to wake an idle relay.
    pub(crate) wake_up: bool,
    /// Large contents, and those from elsewhere.
    pub(crate) freight: FreightConfig,
}

/// One of `[routes]`.
#[derive(Clone, Debug)]
pub(crate) struct Route {
    pub(crate) name: String,
    pub(crate) way: Way,
    pub(crate) from: String,
    pub(crate) max_connections: usize,
    pub(crate) messages_per_connection_max: u32,
    pub(crate) connection_age_max: Duration,
    pub(crate) rate: Option<Rate>,
    pub(crate) warm_up: Option<WarmUp>,
    pub(crate) retry: RetryPart,
    pub(crate) codes: Codes,
    /// Routes that stand in for it.
    pub(crate) fallback: Vec<Given>,
    /// Routes that share what is for it, with their parts.
    pub(crate) weights: Vec<(Given, u32)>,
    pub(crate) envelope_sender: Option<EnvelopeSender>,
    pub(crate) idempotency: Option<Idempotency>,
    /// Of these, those sign that fit the author's domain.
    pub(crate) dkim: Vec<Arc<Key>>,
    pub(crate) traceparent_header: bool,
}

/// Where a route leads.
#[derive(Clone, Debug)]
pub(crate) enum Way {
    /// To a server or a directory.
    Transport(Box<Transport>),
    /// To the built-in catcher, which writes into this directory.
    Capture(Option<PathBuf>),
}

/// `[log]`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Log {
    pub(crate) level: Level,
    pub(crate) format: Format,
    /// How closing lines name recipients.
    pub(crate) recipient: RecipientLog,
}

/// `[http]`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Http {
    /// Where /livez, /readyz and /metrics are answered; nowhere unless set.
    pub(crate) listen: Option<SocketAddr>,
}

macro_rules! words {
    (
        $(#[$doc:meta])*
        $name:ident [$count:literal] { $($(#[$default:ident])? $variant:ident = $word:literal),* $(,)? }
    ) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
        pub(crate) enum $name { $($(#[$default])? $variant),* }

        impl $name {
            /// The words of the configuration.
            pub(crate) const WORDS: [(&'static str, Self); $count] = [$(($word, Self::$variant)),*];

            /// The word of this one.
            pub(crate) const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word),* }
            }
        }
    };
}

words!(
    /// How much is logged.
    Level [5] { Error = "error", Warn = "warn", #[default] Info = "info", Debug = "debug", Trace = "trace" }
);
words!(
    /// How it is logged.
    Format [4] { #[default] Auto = "auto", Pretty = "pretty", Json = "json", Journald = "journald" }
);

impl Settings {
    /// Who a relay's connections are in `pg_stat_activity`, unless the URL says.
    pub(crate) fn application_name(&self) -> String {
        format!("hapax {}", self.relay.name)
    }

    /// What the relay is told; `transports` are those of the routes, in their order, with every capture resolved.
    /// Whom it tells of attempts is the process's affair.
    pub(crate) fn relay_config(&self, transports: Vec<Transport>) -> RelayConfig {
        let routes = self.routes.iter().zip(transports).map(|(route, transport)| hapax_relay::RouteConfig {
            name: route.name.clone(),
            transport,
            from: route.from.clone(),
            max_connections: route.max_connections,
            messages_per_connection_max: route.messages_per_connection_max,
            connection_age_max: route.connection_age_max,
            rate: route.rate,
            warm_up: route.warm_up.clone(),
            retry: route.retry,
            codes: route.codes.clone(),
            fallback: route.fallback.iter().map(|given| given.text.clone()).collect(),
            weights: route.weights.iter().map(|(given, part)| (given.text.clone(), *part)).collect(),
            envelope_sender: route.envelope_sender.clone(),
            idempotency: route.idempotency.clone(),
            dkim: route.dkim.clone(),
            traceparent_header: route.traceparent_header,
        });
        RelayConfig {
            name: self.relay.name.clone(),
            host: host(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            limits: self.relay.limits,
            timeouts: self.relay.timeouts,
            retry: self.retry,
            codes: self.codes.clone(),
            routes: routes.collect(),
            kinds: self.kinds.clone(),
            directions: self.directions.clone(),
            on_doubt: self.relay.on_doubt,
            guards: self.guards.clone(),
            wake_up: self.relay.wake_up,
            freight: self.relay.freight.clone(),
            hard_bounces: self.hard_bounces,
            retention: self.retention,
            recipient_log: self.log.recipient,
            canary: self.canary.clone(),
            tracing: None,
        }
    }
}

/// The machine's name.
pub(crate) fn host() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = name.trim();
    if name.is_empty() { "localhost".to_owned() } else { name.to_owned() }
}
