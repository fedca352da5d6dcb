//! `[routes.NAME]`: a URL, its options and its secrets, made into a transport and checked as far as the network is not
//! needed.

use std::{net::IpAddr, ops::RangeInclusive, path::Path, sync::Arc, time::Duration};

use config::{Map, Value};
use hapax_core::{Recipient, certainty::Trust, clock::SystemClock, limits::Timeouts};
use hapax_mail::{Credentials, Mailer, ParsedUrl, Security, SmtpServer, Transport};
use hapax_relay::Idempotency;

use super::{
    dkim, envelope,
    origin::Problem,
    rate,
    reader::{Given, Reader, Section},
    retry,
    secrets::{self, Names, Secret},
    settings::{Route, Way},
    warm_up, weights,
};

const STARTTLS: [(&str, Security); 3] =
    [("required", Security::Required), ("opportunistic", Security::Opportunistic), ("none", Security::None)];
const MINUTE: Duration = Duration::from_secs(60);

/// A minute of it is margin, at least; nobody is known to remember keys for longer.
const WINDOW: RangeInclusive<Duration> = Duration::from_secs(300)..=Duration::from_secs(30 * 24 * 3600);

/// What a route says besides its URL.
struct Options {
    starttls: Option<Security>,
    password: Option<Secret>,
    token: Option<Secret>,
    ca_file: Option<std::path::PathBuf>,
    hello_name: Option<String>,
    local_address: Option<IpAddr>,
    tls_name: Option<String>,
    trust_4xx_after_data: bool,
}

/// What all routes are read with.
pub(super) struct Shared<'a> {
    pub(super) timeouts: &'a Timeouts,
    pub(super) keys: &'a dkim::Keys,
    pub(super) credentials: Option<&'a Path>,
}

/// Reads one route; `None` when it has no usable URL.
pub(super) fn read(
    reader: &mut Reader,
    table: &mut Map<String, Value>,
    name: &str,
    shared: &Shared<'_>,
) -> Option<Route> {
    let mut section = reader.section(table, "routes", name);
    let url = section.take("url");
    section.show("url", url.as_ref(), None);
    if url.is_none() {
        section.missing("url", "smtp://host, smtps://user@host, file:///directory or capture:");
    }
    let from = from(&mut section);
    let max_connections = section.number("max_connections", 16_usize, 1..=1000, "a whole number");
    let messages_per_connection_max =
        section.number("messages_per_connection_max", 100_u32, 1..=1_000_000, "a whole number");
    let connection_age_max =
        section.duration("connection_age_max", 5 * MINUTE, Duration::from_secs(1)..=24 * 60 * MINUTE);
    let options = options(&mut section, name, shared.credentials);
    let idempotency = idempotency(&mut section);
    let dkim = dkim::of_route(&mut section, shared.keys, from.as_deref());
    let traceparent_header = section.switch("traceparent_header", false);
    let rate = rate::read(&mut section);
    let warm_up = warm_up::read(&mut section);
    let (retry, codes) = retry::part(&mut section);
    let fallback = section.list("fallback").unwrap_or_default();
    let weights = weights::read(&mut section);
    let envelope_sender = envelope::sender(&mut section);
    let way = url.and_then(|url| way(&mut section, &url, options, shared.timeouts));
    section.finish();
    Some(Route {
        name: name.to_owned(),
        way: way?,
        from: from?,
        max_connections,
        messages_per_connection_max,
        connection_age_max,
        rate,
        warm_up,
        retry,
        codes,
        fallback,
        weights,
        envelope_sender,
        idempotency,
        dkim,
        traceparent_header,
    })
}

fn from(section: &mut Section<'_>) -> Option<String> {
    let given = section.take("from");
    section.show("from", given.as_ref(), None);
    let Some(given) = given else {
        section.missing("from", "the sender of mail that names none itself: from = \"Shop <no-reply@example.com>\"");
        return None;
    };
    if let Err(error) = Recipient::parse(&given.text) {
        section.refuse("from", &given, error.to_string());
        return None;
    }
    Some(given.text)
}

/// The header and the window belong together.
fn idempotency(section: &mut Section<'_>) -> Option<Idempotency> {
    let header = section.take("idempotency_header");
    section.show("idempotency_header", header.as_ref(), None);
    let window = section.duration_maybe("idempotency_window", WINDOW);
    let header = header.and_then(|header| match hapax_render::check_stamp_name(&header.text) {
        Ok(()) => Some(header.text),
        Err(why) => {
            let hint = "the header by which this upstream de-duplicates, for example Resend-Idempotency-Key";
            section.refuse_with("idempotency_header", &header, why, hint);
            None
        }
    });
    match (header, window) {
        (Some(header), Some(window)) => Some(Idempotency { header, window }),
        (Some(_), None) if !section.has_problem("idempotency_window") => {
            section.missing(
                "idempotency_window",
                "there is an idempotency_header: say for how long its upstream remembers a key, \
                 idempotency_window = \"24h\"",
            );
            None
        }
        (None, Some(_)) if !section.has_problem("idempotency_header") => {
            section.missing(
                "idempotency_header",
                "there is an idempotency_window: name the header that carries the key, \
                 idempotency_header = \"Resend-Idempotency-Key\"",
            );
            None
        }
        _ => None,
    }
}

fn options(section: &mut Section<'_>, name: &str, credentials: Option<&Path>) -> Options {
    let starttls = section.word("starttls", None, &STARTTLS);
    let password = Names { key: "password", file_key: "password_file", credential: &format!("route_{name}_password") };
    let password = secrets::find(section, &password, credentials);
    let token = Names {
        key: "xoauth2_token",
        file_key: "xoauth2_token_file",
        credential: &format!("route_{name}_xoauth2_token"),
    };
    let token = secrets::find(section, &token, credentials);
    if password.is_some() && token.is_some() {
        let path = section.path("xoauth2_token_file");
        section.reader.problems.push(Problem::new(path, "there is a password, too: a route has one or the other"));
    }
    let ca_file = section.file("ca_file").and_then(|(path, given)| match std::fs::File::open(&path) {
        Ok(_) => Some(path),
        Err(error) => {
            section.refuse("ca_file", &given, format!("cannot be read: {error}"));
            None
        }
    });
    Options {
        starttls,
        password,
        token,
        ca_file,
        hello_name: section.text("hello_name", None),
        local_address: envelope::local_address(section),
        tls_name: section.text("tls_name", None),
        trust_4xx_after_data: section.switch("trust_4xx_after_data", true),
    }
}

fn way(section: &mut Section<'_>, url: &Given, options: Options, timeouts: &Timeouts) -> Option<Way> {
    match hapax_mail::parse_url(&url.text) {
        Ok(ParsedUrl::Capture) => Some(Way::Capture(capture_directory(&url.text))),
        Ok(ParsedUrl::Transport(Transport::Smtp(server))) => {
            let server = apply(section, url, server, options, *timeouts);
            let transport = Transport::Smtp(server);
            if let Err(error) = Mailer::new(transport.clone(), Arc::new(SystemClock)) {
                let (message, hints) = crate::failure::split_hints(&crate::failure::chain(&error));
                section.refuse("url", url, message);
                if let Some(problem) = section.reader.problems.last_mut() {
                    problem.hint = hints.into_iter().next();
                }
            }
            Some(Way::Transport(Box::new(transport)))
        }
        Ok(ParsedUrl::Transport(transport)) => Some(Way::Transport(Box::new(transport))),
        Err(error) => {
            section.refuse("url", url, error.to_string());
            None
        }
    }
}

fn apply(
    section: &mut Section<'_>,
    url: &Given,
    mut server: SmtpServer,
    options: Options,
    timeouts: Timeouts,
) -> SmtpServer {
    server.timeouts = timeouts;
    server.trust = Trust { four_xx_after_data: options.trust_4xx_after_data };
    if let Some(security) = options.starttls {
        if server.security == Security::Implicit {
            let path = section.path("starttls");
            section.reader.problems.push(Problem::new(path, "does not belong to smtps://, which is always encrypted"));
        } else {
            server.security = security;
        }
    }
    if let Some(secret) = options.password.or_else(|| options.token.clone()) {
        match &mut server.credentials {
            None => section.refuse_with(
                "url",
                url,
                "there is a password or token for it, but no user name",
                "write the user before the host: smtps://user@host (an @ in the user name as %40)",
            ),
            Some(_) => server.set_secret(hapax_mail::Secret::new(secret.expose())),
        }
    }
    if options.token.is_some()
        && let Some(Credentials::Password { user, password: token }) = server.credentials.take_if(is_password)
    {
        server.credentials = Some(Credentials::XOAuth2 { user, token });
    }
    server.ca_file = options.ca_file.or(server.ca_file);
    server.tls_name = options.tls_name.or(server.tls_name);
    server.local_address = options.local_address;
    server.hello_name = options.hello_name.unwrap_or(server.hello_name);
    server
}

fn is_password(credentials: &mut Credentials) -> bool {
    matches!(credentials, Credentials::Password { .. })
}

/// `capture:` and `capture:/directory` (or `capture:///directory`).
fn capture_directory(url: &str) -> Option<std::path::PathBuf> {
    let path = url.trim().split_once(':')?.1;
    let path = path.strip_prefix("//").unwrap_or(path);
    (!path.is_empty()).then(|| path.into())
}
