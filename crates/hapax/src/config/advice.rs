//! What is allowed, but does not go together: values that make each other useless, or leave doubts that others would not.

use std::time::Duration;

use super::{duration::format, origin::Problem, settings::Settings};

/// RFC 5321, 4.5.3.2.6.
const FINAL_REPLY: Duration = Duration::from_secs(600);

/// How long a relay with these settings may take to end, in whole seconds.
pub(crate) fn stop_timeout(settings: &Settings) -> Duration {
    let call = settings.database.statement_timeout.saturating_mul(3);
    let longest = hapax_relay::stop_longest(&settings.relay.limits, call);
    Duration::from_secs(longest.as_millis().div_ceil(1000).try_into().unwrap_or(u64::MAX))
}

/// All there is to advise against.
pub(crate) fn advice(settings: &Settings) -> Vec<Problem> {
    let mut found = replies(settings);
    found.extend(statements(settings));
    found.extend(retries(settings));
    found.extend(routes(settings));
    found.extend(listener(settings));
    found
}

fn listener(settings: &Settings) -> Option<Problem> {
    settings.http.listen.filter(|listen| listen.port() == 0).map(|listen| {
        let message = format!(
            "{listen}: any free port, another one at each start: no probe, no Prometheus and no \
            hapax healthcheck can know it"
        );
        Problem::new("http.listen", message).hint("set a fixed port, 9464 say")
    })
}

fn replies(settings: &Settings) -> Vec<Problem> {
    let (limits, reply) = (&settings.relay.limits, settings.relay.timeouts.final_reply);
    let mut found = Vec::new();
    if reply < FINAL_REPLY {
        let message = format!("{}: a server may take longer, and its delivery is in doubt then", format(reply));
        let hint = "RFC 5321 asks for 10m; waiting costs nothing but a connection";
        found.push(Problem::new("relay.final_reply_timeout", message).hint(hint));
    }
    let last = limits.transmit_deadline + reply;
    if limits.shutdown_grace < last {
        let message = format!(
            "{}: an attempt may take transmit_deadline and final_reply_timeout, together {}, and is in doubt when the \
             relay does not wait for it",
            format(limits.shutdown_grace),
            format(last)
        );
        found.push(Problem::new("relay.shutdown_grace", message).hint(format!("set it to {}", format(last))));
    }
    found
}

/// What one statement may take, against what waits for it.
fn statements(settings: &Settings) -> Vec<Problem> {
    let (limits, longest) = (&settings.relay.limits, settings.database.statement_timeout);
    let cases = [
        ("relay.dead_after", limits.dead_after, "others take this relay for dead after one slow heartbeat"),
        ("relay.transmit_deadline", limits.transmit_deadline, "an intent that takes as long is of no use any more"),
        ("relay.lease", limits.lease, "a lease may end while it is renewed"),
    ];
    let contradicts = cases.into_iter().filter(|(_, limit, _)| longest >= *limit);
    contradicts
        .map(|(path, limit, why)| {
            let message = format!("{} is not less than {path} ({}): {why}", format(longest), format(limit));
            Problem::new("database.statement_timeout", message).hint(format!("set it well below {}", format(limit)))
        })
        .collect()
}

fn retries(settings: &Settings) -> Vec<Problem> {
    let (retry, mut found) = (&settings.retry, Vec::new());
    if retry.give_up_after <= retry.first {
        let message = format!(
            "{}: not after retry.first ({}), so nothing is ever tried again",
            format(retry.give_up_after),
            format(retry.first)
        );
        found.push(Problem::new("retry.give_up_after", message).hint("the default is 3d"));
    }
    for (kind, policy) in &settings.kinds {
        if let Some(expires) = policy.expires_after.filter(|expires| *expires <= retry.first) {
            let message = format!(
                "{}: not after retry.first ({}), so one refusal for now ends it",
                format(expires),
                format(retry.first)
            );
            found.push(Problem::new(format!("kinds.{kind}.expires_after"), message).hint("make retry.first shorter"));
        }
    }
    found
}

fn routes(settings: &Settings) -> Vec<Problem> {
    let limits = &settings.relay.limits;
    let most = hapax_relay::most_in_flight(settings.routes.len(), limits.max_in_flight);
    let grace = limits.doubt_grace(&settings.relay.timeouts);
    let mut found = Vec::new();
    for route in &settings.routes {
        if route.max_connections > most {
            let message = format!(
                "{}: of relay.max_in_flight ({}, {} routes) one has {most} at most, more are never used",
                route.max_connections,
                limits.max_in_flight,
                settings.routes.len()
            );
            let hint = format!("raise max_in_flight, or set it to {most}");
            found.push(Problem::new(format!("routes.{}.max_connections", route.name), message).hint(hint));
        }
        let window = route.idempotency.as_ref().map(|found| found.window);
        if let Some(window) = window.filter(|window| *window * 9 / 10 <= grace) {
            let message = format!(
                "{}: a doubt is sent again after {}, when this window (less a tenth) has closed",
                format(window),
                format(grace)
            );
            let hint = "no doubt would ever be resolved by it: a longer window, or shorter timeouts in [relay]";
            found.push(Problem::new(format!("routes.{}.idempotency_window", route.name), message).hint(hint));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::{
        super::{Inputs, load, schema::EXAMPLE},
        *,
    };

    fn settings(text: &str) -> (Settings, Vec<String>) {
        crate::run::install_crypto();
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("hapax.toml");
        std::fs::write(&file, text).expect("written");
        let settings = load(&Inputs { file: Some(file), variables: HashMap::new(), ..Inputs::default() }).complete();
        let settings = settings.expect("a good configuration").settings;
        let told = advice(&settings).iter().map(|one| one.path.clone()).collect();
        (settings, told)
    }

    #[test]
    fn the_defaults_go_together_and_take_less_than_fourteen_minutes_to_end() {
        let (settings, told) = settings(EXAMPLE);
        assert_eq!((told, stop_timeout(&settings)), (Vec::new(), Duration::from_secs(820)));
    }

    #[test]
    fn values_that_make_each_other_useless_are_advised_against() {
        let text = EXAMPLE
            .replace("#final_reply_timeout = \"10m\"", "final_reply_timeout = \"5m\"")
            .replace("#shutdown_grace = \"11m\"", "shutdown_grace = \"5m\"")
            .replace("#statement_timeout = \"10s\"", "statement_timeout = \"2m\"")
            .replace("#first = \"30s\"", "first = \"5m\"")
            .replace("#give_up_after = \"3d\"", "give_up_after = \"5m\"")
            .replace(
                "#max_connections = 16",
                "max_connections = 65\nidempotency_header = \"Key\"\nidempotency_window = \"9m\"",
            );
        let text = format!("{text}\n[kinds.login]\nexpires_after = \"2m\"\n");
        let (settings, told) = settings(&text);
        let expected = [
            "relay.final_reply_timeout",
            "relay.shutdown_grace",
            "database.statement_timeout",
            "database.statement_timeout",
            "database.statement_timeout",
            "retry.give_up_after",
            "kinds.login.expires_after",
            "routes.default.max_connections",
            "routes.default.idempotency_window",
        ];
        assert_eq!(told, expected);
        assert_eq!(stop_timeout(&settings), Duration::from_secs(300 + 10 + 60 + 9 * 120));
    }
}
