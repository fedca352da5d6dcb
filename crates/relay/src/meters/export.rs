//! How the instruments are called, and what is gathered only when somebody asks.

use std::fmt;

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder, text::encode},
    metrics::{MetricType, counter::Counter, family::Family, gauge::ConstGauge, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

use super::*;

/// Of statements, in seconds.
const STATEMENT: [f64; 13] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0];

/// Of parts of an SMTP dialogue, up to the longest time-outs.
const DIALOGUE: [f64; 16] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0, 60.0, 300.0, 600.0];

/// From commit to acceptance: from a moment to a day.
const ACCEPTANCE: [f64; 15] =
    [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 300.0, 1_800.0, 21_600.0, 86_400.0];

/// Deliveries in one claim.
const BATCH: [f64; 10] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0];

impl Meters {
    /// Everything, as OpenMetrics 1.0 text.
    #[must_use]
    pub fn open_metrics(&self) -> String {
        let mut text = String::with_capacity(16 * 1024);
        // Writing to a string does not fail, and collectors hand on only what it says.
        let _ = encode(&mut text, &self.0.registry);
        text
    }
}

fn statements() -> Histogram {
    Histogram::new(STATEMENT)
}

fn dialogue() -> Histogram {
    Histogram::new(DIALOGUE)
}

pub(super) fn meters() -> Meters {
    let commits = Family::<One, Histogram>::new_with_constructor(statements as fn() -> Histogram);
    let of_step = |step: &str| commits.get_or_create_owned(&[("step", step.to_owned())]);
    let (intend, settle) = (of_step("intend"), of_step("settle"));
    let timed = Family::<One, Histogram>::new_with_constructor(dialogue as fn() -> Histogram);
    let of_phase = |phase: Phase| (phase, timed.get_or_create_owned(&[("phase", phase.as_str().to_owned())]));
    let phases = TIMED.map(of_phase).into_iter().collect();
    let in_doubt = Family::<Two, Counter>::default();
    let nowhere = [("route", super::NO_ROUTE.to_owned()), ("phase", Phase::Intend.as_str().to_owned())];
    drop(in_doubt.get_or_create(&nowhere));
    let mut meters = Inner {
        registry: Registry::default(),
        attempts: Family::default(),
        in_doubt,
        connections: Family::default(),
        blocked: Family::default(),
        certificates: Family::default(),
        rates: Family::default(),
        waiting_for_rate: Family::default(),
        connections_limits: Family::default(),
        detours: Family::default(),
        phases,
        claims: Counter::default(),
        claim_batch: Histogram::new(BATCH),
        claim_duration: statements(),
        time_to_accept: HistogramWithExemplars::new(ACCEPTANCE.into_iter()),
        intend,
        settle,
        last_poll: Gauge::default(),
        clock_skew: Gauge::default(),
        reloads: Family::default(),
        reload_successful: Gauge::default(),
        reload_at: Gauge::default(),
        canaries: canary::Canaries::default(),
        spans_exported: Counter::default(),
        spans_dropped: Counter::default(),
        whole: Arc::default(),
    };
    for result in ["ok", "failed"] {
        drop(meters.reloads.get_or_create(&[("result", result.to_owned())]));
    }
    // What is in force was read at the start.
    meters.reload_successful.set(1);
    meters.reload_at.set(now_s());
    meters.registry = registry(&meters, commits, timed);
    Meters(Arc::new(meters))
}

type Timed = Family<One, Histogram, fn() -> Histogram>;

fn registry(meters: &Inner, commits: Timed, timed: Timed) -> Registry {
    let mut all = Registry::default();
    let own = all.sub_registry_with_prefix("hapax");
    let build = Family::<One, Gauge>::default();
    build.get_or_create(&[("version", env!("CARGO_PKG_VERSION").to_owned())]).set(1);
    own.register("build_info", "The version that runs", build);
    own.register("attempts", "Attempts that have ended, as the ledger calls their outcomes", meters.attempts.clone());
    own.register(
        "in_doubt",
        "Deliveries put in doubt by this relay; phase intend where another relay vanished (its route, or unknown)",
        meters.in_doubt.clone(),
    );
    own.register("claims", "Deliveries claimed", meters.claims.clone());
    own.register("claim_batch_size", "Deliveries in a claim that found any", meters.claim_batch.clone());
    own.register("claim_duration_seconds", "How long claims took", meters.claim_duration.clone());
    own.register(
        "time_to_accept_seconds",
        "From the time a message could be sent to its acceptance by a mail server",
        meters.time_to_accept.clone(),
    );
    own.register(
        "smtp_phase_duration_seconds",
        "Parts of attempts: connect (with TLS and AUTH), data (MAIL to 354), intend, end_marker (body to final reply)",
        timed,
    );
    own.register("ledger_commit_duration_seconds", "How long commits of intents and outcomes took", commits);
    own.register("smtp_connections", "Open connections to mail servers", meters.connections.clone());
    own.register("route_blocked", "1 while a route rests after failures", meters.blocked.clone());
    own.register(
        "route_detours",
        "Deliveries of a route that were handed to a fallback of it because it rested",
        meters.detours.clone(),
    );
    own.register(
        "route_connections_limit",
        "Connections that a route may have at once on this relay: its part of max_connections, fewer while its server asks for less",
        meters.connections_limits.clone(),
    );
    own.register(
        "route_rate_limit",
        "Attempts a second that this relay may make by a route with a rate: its share of it",
        meters.rates.clone(),
    );
    own.register(
        "route_waiting_for_rate",
        "1 while nothing more is claimed for a route because of its rate",
        meters.waiting_for_rate.clone(),
    );
    own.register(
        "certificate_expiry_timestamp_seconds",
        "When the certificate a mail server showed last expires",
        meters.certificates.clone(),
    );
    own.register("last_poll_timestamp_seconds", "When the queue was looked at last", meters.last_poll.clone());
    own.register("clock_skew_seconds", "The clock of the database minus the one here", meters.clock_skew.clone());
    own.register("config_reloads", "Reloads of the configuration", meters.reloads.clone());
    own.register(
        "config_last_reload_successful",
        "1 unless the last reload of the configuration was refused",
        meters.reload_successful.clone(),
    );
    own.register(
        "config_last_reload_timestamp_seconds",
        "When the configuration in force was read",
        meters.reload_at.clone(),
    );
    meters.canaries.register(own);
    own.register("spans_exported", "Spans that a collector took", meters.spans_exported.clone());
    own.register(
        "spans_dropped",
        "Spans that no collector took: it is slow, away, or refuses them",
        meters.spans_dropped.clone(),
    );
    own.register_collector(Box::new(meters.whole.clone()));
    all.register_collector(Box::new(process::Process));
    all
}

fn gauge(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: f64) -> fmt::Result {
    ConstGauge::new(value).encode(encoder.encode_descriptor(name, help, None, MetricType::Gauge)?)
}

fn labelled(metric: &mut MetricEncoder<'_>, labels: &[(&'static str, &str)], value: i64) -> fmt::Result {
    ConstGauge::new(value).encode(metric.encode_family(&labels)?)
}

/// What may hold anything, as a label's value: the encoder writes values as they are.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

impl Collector for Whole {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let store = lock(&self.store).clone();
        let up = store.as_ref().is_some_and(Store::is_up);
        gauge(&mut encoder, "database_up", "1 while the database answers", f64::from(u8::from(up)))?;
        let (busy, idle) = store.map_or((0, 0), |store| store.connections());
        let help = "Connections to the database";
        let mut pool = encoder.encode_descriptor("db_pool_connections", help, None, MetricType::Gauge)?;
        labelled(&mut pool, &[("state", "busy")], i64::try_from(busy).unwrap_or(i64::MAX))?;
        labelled(&mut pool, &[("state", "idle")], i64::try_from(idle).unwrap_or(i64::MAX))?;
        match &*lock(&self.overview) {
            Some(seen) if seen.at.elapsed() < OVERVIEW_KEPT => seen.encode(&mut encoder),
            _ => Ok(()),
        }
    }
}

impl Seen {
    /// What is true of the whole outbox.
    fn encode(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let help = "Deliveries of the whole outbox; estimated where there are more than 20,000";
        let mut states = encoder.encode_descriptor("deliveries", help, None, MetricType::Gauge)?;
        for counted in &self.overview.states {
            labelled(&mut states, &[("state", &counted.state)], counted.deliveries)?;
        }
        // What is due later does not wait yet.
        let oldest = |state: &str| {
            let counted = self.overview.states.iter().find(|counted| counted.state == state);
            counted.and_then(|counted| counted.oldest_s).filter(|at| *at <= self.standing.now_s).unwrap_or(0.0)
        };
        let help = "When the oldest delivery that is due became so; 0 when there is none";
        gauge(encoder, "oldest_pending_timestamp_seconds", help, oldest("pending"))?;
        let help = "When the oldest doubt began; 0 when there is none";
        gauge(encoder, "oldest_in_doubt_timestamp_seconds", help, oldest("in_doubt"))?;
        let help = "Deliveries that are due and in nobody's hands; counted up to 20,000 per lane";
        gauge(encoder, "backlog", help, self.overview.backlog as f64)?;
        let help = "Routes, kinds, tenants and addresses that are paused";
        let mut paused = encoder.encode_descriptor("paused", help, None, MetricType::Gauge)?;
        for (what, count) in ["route", "kind", "tenant", "address"].into_iter().zip(self.overview.paused) {
            labelled(&mut paused, &[("what", what)], count)?;
        }
        let living = &self.standing.living;
        gauge(encoder, "relays_alive", "Relays whose heartbeat goes on", living.len() as f64)?;
        let mut relays = encoder.encode_descriptor("relay_info", "The living relays", None, MetricType::Gauge)?;
        for relay in living {
            let incarnation = relay.incarnation.to_string();
            let [name, host, version] = [&relay.name, &relay.host, &relay.version].map(|text| escaped(text));
            let labels: [(&str, &str); 4] =
                [("incarnation", &incarnation), ("name", &name), ("host", &host), ("version", &version)];
            labelled(&mut relays, &labels, 1)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use hapax_core::Reply;
    use hapax_store::{Counted, Living};

    use super::*;

    #[test]
    fn every_series_of_a_route_is_there_from_the_start_at_zero() {
        let meters = Meters::default();
        meters.routes(["default"]);
        let text = meters.open_metrics();
        for outcome in OUTCOMES {
            let line = format!("hapax_attempts_total{{route=\"default\",outcome=\"{outcome}\"}} 0\n");
            assert!(text.contains(&line), "{line}{text}");
        }
        for line in [
            "hapax_in_doubt_total{route=\"default\",phase=\"end_marker\"} 0",
            "hapax_smtp_connections{route=\"default\",state=\"busy\"} 0",
            "hapax_route_blocked{route=\"default\"} 0",
            "hapax_config_reloads_total{result=\"failed\"} 0",
            "hapax_ledger_commit_duration_seconds_count{step=\"settle\"} 0",
            "hapax_smtp_phase_duration_seconds_count{phase=\"end_marker\"} 0",
            "hapax_database_up 0",
            "# EOF",
        ] {
            assert!(text.lines().any(|found| found.starts_with(line)), "{line}\n{text}");
        }
        assert!(!text.contains("hapax_deliveries"), "nobody has asked the database");
    }

    #[test]
    fn what_is_due_later_is_not_the_oldest_that_waits_and_only_who_looked_last_tells() {
        let meters = Meters::default();
        let [own, other] = [Incarnation::fresh(), Incarnation::fresh()];
        let counted =
            |state: &str, oldest_s| Counted { state: state.to_owned(), deliveries: 3, oldest_s: Some(oldest_s) };
        let living = Living { incarnation: own, name: "a".into(), host: "b\"\\\nc".into(), version: "1".into() };
        let standing = Standing { now_s: 1_000.0, living: vec![living] };
        let overview = Overview {
            states: vec![counted("pending", 1_060.0), counted("in_doubt", 900.5)],
            backlog: 7,
            paused: [0, 2, 0, 0],
        };
        meters.saw(own, standing, overview);
        meters.looks_away(other);
        let text = meters.open_metrics();
        assert!(text.contains("hapax_deliveries{state=\"pending\"} 3\n"), "{text}");
        assert!(text.contains("hapax_paused{what=\"kind\"} 2\n"), "{text}");
        assert!(text.contains("hapax_oldest_pending_timestamp_seconds 0.0\n"), "{text}");
        assert!(text.contains("hapax_oldest_in_doubt_timestamp_seconds 900.5\n"), "{text}");
        assert!(text.contains(r#"host="b\"\\\nc""#), "{text}");
        meters.looks_away(own);
        assert!(!meters.open_metrics().contains("hapax_deliveries"));
    }

    #[test]
    fn an_attempt_counts_once_under_the_word_of_its_outcome() {
        let meters = Meters::default();
        let route = meters.route("a");
        route.ended(&Outcome::Accepted { reply: Reply::new(250, "ok") });
        route.doubted(Phase::EndMarker);
        let text = meters.open_metrics();
        assert!(text.contains("hapax_attempts_total{route=\"a\",outcome=\"accepted\"} 1\n"), "{text}");
        assert!(text.contains("hapax_attempts_total{route=\"a\",outcome=\"unknown\"} 0\n"), "{text}");
        assert!(text.contains("hapax_in_doubt_total{route=\"a\",phase=\"end_marker\"} 1\n"), "{text}");
    }
}
