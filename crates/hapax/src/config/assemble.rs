//! From layers to settings: which sections and keys there are, with their defaults, ranges and meaning.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    time::Duration,
};

use config::{Map, Value};
use hapax_core::{
    OnDoubt, Priority,
    limits::{Limits, Timeouts},
};
use hapax_relay::{AfterFailover, KindPolicy, RecipientLog};
use hapax_render::UnsubscribeKey;

use super::{
    attachments, canary, collect, dkim, guard_window, guards, on_block, quiet,
    reader::{Reader, Section},
    retention, retry,
    routes::{self, Shared},
    secrets,
    settings::{Database, Format, Http, Level, Log, Relay, Route, Settings, host},
    suppression, telemetry, tenants,
};

const SECTIONS: [&str; 17] = [
    "database",
    "relay",
    "retry",
    "guards",
    "suppression",
    "retention",
    "templates",
    "attachments",
    "dkim",
    "routes",
    "kinds",
    "tenants",
    "senders",
    "canary",
    "log",
    "http",
    "telemetry",
];
const ON_DOUBT: [(&str, OnDoubt); 3] = [
    (OnDoubt::Hold.as_str(), OnDoubt::Hold),
    (OnDoubt::Resend.as_str(), OnDoubt::Resend),
    (OnDoubt::AssumeSent.as_str(), OnDoubt::AssumeSent),
];
const PRIORITY: [(&str, Priority); 3] = [
    (Priority::Urgent.as_str(), Priority::Urgent),
    (Priority::Normal.as_str(), Priority::Normal),
    (Priority::Bulk.as_str(), Priority::Bulk),
];
const AFTER_FAILOVER: [(&str, AfterFailover); 2] =
    [("hold", AfterFailover::Hold), ("continue", AfterFailover::Continue)];
const RECIPIENT: [(&str, RecipientLog); 3] =
    [("masked", RecipientLog::Masked), ("hashed", RecipientLog::Hashed), ("full", RecipientLog::Full)];
const ADDRESS_GUARD: [(&str, bool); 2] = [("refuse", true), ("off", false)];
const MILLISECOND: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);
const YEAR: Duration = Duration::from_secs(366 * 24 * 3600);

/// The longest name of a route or key.
pub(super) const NAME_BYTES_MAX: usize = 63;

/// Reads everything. Problems go to the reader, their keys keep their defaults.
pub(super) fn assemble(reader: &mut Reader, mut root: Map<String, Value>, credentials: Option<&Path>) -> Settings {
    let database = database(reader, &mut root, credentials);
    let relay = relay(reader, &mut root);
    let (retry, codes) = retry::read(reader, &mut root);
    let guards = guards::read(reader, &mut root);
    let hard_bounces = suppression::read(reader, &mut root);
    let retention = retention::read(reader, &mut root);
    let (templates, unsubscribe_key) = templates(reader, &mut root, credentials);
    let freight = attachments::read(reader, &mut root, relay.freight.clone());
    let keys = dkim::read(reader, &mut root, credentials);
    let routes = routes(reader, &mut root, &Shared { timeouts: &relay.timeouts, keys: &keys, credentials });
    let kinds = kinds(reader, &mut root, &routes, templates.as_deref(), relay.on_doubt);
    let directions = tenants::read(reader, &mut root, &routes);
    let canary = canary::read(reader, &mut root, &routes, &guards);
    let log = log(reader, &mut root);
    let http = http(reader, &mut root);
    let telemetry = telemetry::read(reader, &mut root, credentials);
    if telemetry.is_none() {
        telemetry::warn(reader, &routes);
    }
    reader.unknown_sections(root, &SECTIONS);
    let relay = Relay { freight, ..relay };
    Settings {
        database,
        relay,
        retry,
        codes,
        templates,
        unsubscribe_key,
        routes,
        kinds,
        directions,
        guards,
        hard_bounces,
        retention,
        canary,
        log,
        http,
        telemetry,
    }
}

fn database(reader: &mut Reader, root: &mut Map<String, Value>, credentials: Option<&Path>) -> Database {
    let mut section = reader.section(root, "", "database");
    let given = section.take("url");
    section.show("url", given.as_ref(), None);
    let url = match given {
        None => {
            section.missing(
                "url",
                "write url = \"postgres://user@host/database\" below [database] in hapax.toml, \
                 or set HAPAX__DATABASE__URL, or pass --database-url",
            );
            String::new()
        }
        Some(given) => {
            if let Err(error) = hapax_store::parse_url(&given.text) {
                let (message, hint) = crate::failure::split_hints(&error.to_string());
                let message = message.strip_prefix("database.url: ").unwrap_or(&message).to_owned();
                // The parser may quote a part of the string, and with keywords that part may be a password.
                let plain = "not a connection string";
                let whole = hapax_store::is_url(&given.text) || !message.starts_with(plain);
                let message = if whole { message } else { plain.to_owned() };
                section.refuse("url", &given, message);
                if let Some(problem) = section.reader.problems.last_mut() {
                    problem.hint = hint.into_iter().next();
                }
            }
            given.text
        }
    };
    let names = secrets::Names { key: "password", file_key: "password_file", credential: "database_password" };
    let password = secrets::find(&mut section, &names, credentials);
    let pool_size_max = section.number("pool_size_max", 8_usize, 2..=500, "a whole number");
    let statement_timeout = section.duration("statement_timeout", 10 * SECOND, 100 * MILLISECOND..=HOUR);
    let after_failover = section.word("after_failover", Some("hold"), &AFTER_FAILOVER).unwrap_or_default();
    let address_guard = section.word("address_guard", Some("refuse"), &ADDRESS_GUARD).unwrap_or(true);
    section.finish();
    Database { url, password, pool_size_max, statement_timeout, after_failover, address_guard }
}

fn relay(reader: &mut Reader, root: &mut Map<String, Value>) -> Relay {
    let (limits, timeouts) = (Limits::default(), Timeouts::default());
    let mut section = reader.section(root, "", "relay");
    let name = section.text("name", Some(&host())).unwrap_or_default();
    let timeouts = Timeouts {
        connect: section.duration("connect_timeout", timeouts.connect, 100 * MILLISECOND..=HOUR),
        command: section.duration("command_timeout", timeouts.command, 100 * MILLISECOND..=HOUR),
        data: section.duration("data_timeout", timeouts.data, 100 * MILLISECOND..=HOUR),
        body: section.duration("body_timeout", timeouts.body, 100 * MILLISECOND..=HOUR),
        final_reply: section.duration("final_reply_timeout", timeouts.final_reply, 100 * MILLISECOND..=HOUR),
    };
    let max_in_flight = section.number("max_in_flight", limits.max_in_flight, 1..=10_000, "a whole number");
    let limits = Limits {
        max_in_flight,
        prefetch: section.number("prefetch", max_in_flight, 0..=10_000, "a whole number"),
        transmit_deadline: section.duration("transmit_deadline", limits.transmit_deadline, SECOND..=HOUR),
        heartbeat_interval: section.duration(
            "heartbeat_interval",
            limits.heartbeat_interval,
            50 * MILLISECOND..=60 * SECOND,
        ),
        dead_after: section.duration("dead_after", limits.dead_after, 100 * MILLISECOND..=HOUR),
        lease: section.duration("lease", limits.lease, SECOND..=DAY),
        poll_interval_max: section.duration("poll_interval_max", limits.poll_interval_max, MILLISECOND..=60 * SECOND),
        poll_interval_asleep: section.duration("poll_interval_asleep", limits.poll_interval_asleep, MILLISECOND..=HOUR),
        poll_interval_min: section.duration("poll_interval_min", limits.poll_interval_min, MILLISECOND..=60 * SECOND),
        shutdown_grace: section.duration("shutdown_grace", limits.shutdown_grace, 100 * MILLISECOND..=DAY),
        max_resends: section.number("max_resends", limits.max_resends, 0..=100, "a whole number"),
        ..limits
    };
    let on_doubt = section.word("on_doubt", Some(OnDoubt::default().as_str()), &ON_DOUBT);
    let wake_up = section.switch("wake_up", true);
    let freight = attachments::spool(&mut section);
    section.finish();
    Relay { name, limits, timeouts, on_doubt: on_doubt.unwrap_or_default(), wake_up, freight }
}

fn templates(
    reader: &mut Reader,
    root: &mut Map<String, Value>,
    credentials: Option<&Path>,
) -> (Option<PathBuf>, Option<UnsubscribeKey>) {
    let mut section = reader.section(root, "", "templates");
    let directory = section.file("directory");
    if let Some((path, given)) = &directory
        && !path.is_dir()
    {
        section.refuse_with(
            "directory",
            given,
            if path.exists() { "is not a directory" } else { "there is no such directory" },
            "it holds KIND/subject.txt, KIND/body.txt and KIND/body.html; \
             leave it out when no payload is to be rendered",
        );
    }
    let names =
        secrets::Names { key: "unsubscribe_key", file_key: "unsubscribe_key_file", credential: "unsubscribe_key" };
    let secret = secrets::find(&mut section, &names, credentials);
    let key = secret.and_then(|secret| match UnsubscribeKey::new(secret.expose().as_bytes()) {
        Ok(key) => Some(key),
        Err(text) => {
            let (message, hint) = text.split_once(": ").unwrap_or((text, ""));
            let path = section.path("unsubscribe_key_file");
            section.reader.problems.push(super::origin::Problem::new(path, message).hint(hint));
            None
        }
    });
    section.finish();
    (directory.map(|(path, _)| path), key)
}

fn routes(reader: &mut Reader, root: &mut Map<String, Value>, shared: &Shared<'_>) -> Vec<Route> {
    let mut section = reader.section(root, "", "routes");
    let names = section.names();
    let mut table = section.take_table();
    let mut routes = Vec::new();
    for name in &names {
        if !valid_route_name(name) {
            let path = format!("routes.{name}");
            let message = format!("a route's name is 1 to {NAME_BYTES_MAX} of a-z, 0-9, _ and -");
            reader.problems.push(super::origin::Problem::new(path, message));
            continue;
        }
        if let Some(route) = routes::read(reader, &mut table, name, shared) {
            routes.push(route);
        }
    }
    if names.is_empty() {
        reader.problems.push(super::origin::Problem::new("routes", "there is none, so nothing could be sent").hint(
            "write below [routes.default] in hapax.toml: url = \"smtps://user@smtp.example.com\" and \
             from = \"Shop <no-reply@example.com>\"; or set \
             HAPAX__ROUTES__DEFAULT__URL and HAPAX__ROUTES__DEFAULT__FROM",
        ));
    } else if names.len() > 1 && !names.iter().any(|name| name == "default") {
        let message =
            format!("none of the {} is called default: what names no route goes to {}", names.len(), names[0]);
        reader.warnings.push(super::origin::Problem::new("routes", message));
    }
    routes
}

/// Whether a route or key may be called so.
pub(super) fn valid_route_name(name: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_' || byte == b'-';
    !name.is_empty() && name.len() <= NAME_BYTES_MAX && name.bytes().all(fits)
}

/// Kinds and tenants are what producers name: others are met by nothing.
pub(super) fn named_by_producers(reader: &mut Reader, section: &str, name: &str, longest: usize, shape: &str) {
    let is_kind = section == "kinds";
    let first = |byte: u8| byte.is_ascii_lowercase() || !is_kind && byte.is_ascii_alphanumeric();
    let fits = |byte: u8| {
        let others: &[u8] = if is_kind { b"_.-" } else { b"_.:-" };
        byte.is_ascii_digit() || first(byte) || others.contains(&byte)
    };
    if !name.bytes().next().is_some_and(first) || !name.bytes().all(fits) || name.len() > longest {
        let problem = super::origin::Problem::new(
            format!("{section}.{name}"),
            "no producer can name it: it would apply to nothing",
        );
        reader.problems.push(problem.hint(format!("{shape}, up to {longest} characters")));
    }
}

fn kinds(
    reader: &mut Reader,
    root: &mut Map<String, Value>,
    routes: &[Route],
    templates: Option<&Path>,
    on_doubt_else: OnDoubt,
) -> BTreeMap<String, KindPolicy> {
    let mut section = reader.section(root, "", "kinds");
    let names = section.names();
    let mut table = section.take_table();
    let (mut kinds, mut digests) = (BTreeMap::new(), BTreeSet::new());
    for name in names {
        named_by_producers(reader, "kinds", &name, 63, "a-z, 0-9, _ . -, begins with a letter");
        let mut section = reader.section(&mut table, "kinds", &name);
        let priority = section.word("priority", None, &PRIORITY);
        let on_doubt = section.word("on_doubt", None, &ON_DOUBT);
        let expires_after = section.duration_maybe("expires_after", SECOND..=YEAR);
        let ignores_suppression = section.switch("ignores_suppression", false);
        let route = known_route(&mut section, routes);
        let (skip_after, failed_blocks) = on_block::read(&mut section);
        let guard = guard_window::read(&mut section);
        let (collect, digest) = collect::read(&mut section, expires_after, templates);
        digests.extend(digest.then(|| name.clone()));
        let quiet = quiet::read(&mut section, expires_after);
        let keep_content = retention::keep(&mut section, "keep_content", None);
        let (retry, codes) = retry::part(&mut section);
        section.finish();
        let policy = KindPolicy {
            priority,
            on_doubt,
            route,
            expires_after,
            ignores_suppression,
            skip_after,
            failed_blocks,
            retry,
            codes,
            guard,
            collect,
            keep_content,
            quiet,
        };
        kinds.insert(name, policy);
    }
    collect::check(reader, &kinds, &digests, templates, on_doubt_else);
    kinds
}

/// The key `route`: one of those that there are.
pub(super) fn known_route(section: &mut Section<'_>, routes: &[Route]) -> Option<String> {
    let given = section.take("route");
    section.show("route", given.as_ref(), None);
    let given = given?;
    if !routes.iter().any(|route| route.name == given.text) {
        let known: Vec<&str> = routes.iter().map(|route| route.name.as_str()).collect();
        let hint = match super::nearest::nearest(&given.text, known.iter().copied()) {
            Some(near) => format!("did you mean {near}?"),
            None if known.is_empty() => "there are no usable routes".to_owned(),
            None => format!("the routes are: {}", known.join(", ")),
        };
        section.refuse_with("route", &given, "there is no such route", &hint);
    }
    Some(given.text)
}

fn log(reader: &mut Reader, root: &mut Map<String, Value>) -> Log {
    let mut section = reader.section(root, "", "log");
    let level = section.word("level", Some(Level::default().as_str()), &Level::WORDS).unwrap_or_default();
    let format = section.word("format", Some(Format::default().as_str()), &Format::WORDS).unwrap_or_default();
    let recipient = section.word("recipient", Some("masked"), &RECIPIENT).unwrap_or_default();
    section.finish();
    Log { level, format, recipient }
}

fn http(reader: &mut Reader, root: &mut Map<String, Value>) -> Http {
    let mut section = reader.section(root, "", "http");
    let given = section.take("listen");
    section.show("listen", given.as_ref(), None);
    let listen = given.and_then(|given| match given.text.parse() {
        Ok(address) => Some(address),
        Err(_) => {
            let hint = "an IP address and a port: 127.0.0.1:9464, [::1]:9464, or 0.0.0.0:9464 for all interfaces";
            section.refuse_with("listen", &given, "is not an address to listen at", hint);
            None
        }
    });
    section.finish();
    Http { listen }
}
