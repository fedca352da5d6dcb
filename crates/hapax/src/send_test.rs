//! `hapax send-test`: one message through a route, past the outbox.
//!
//! Invariants: nothing is recorded and nothing is repeated, whatever the outcome: who is in doubt is told so. The guards of
//! the configuration apply as they do to the relay. The only address that is ever printed is the one that was typed.

use std::{io::Read, path::Path, sync::Arc};

use anyhow::Context;
use hapax_core::{
    DeliveryKey, MessageId, Outcome, Recipient,
    clock::{Clock, SystemClock},
    guards::Addressee,
};
use hapax_mail::{Begun, Envelope, Gate, Heartbeat, Mailer, Message};
use hapax_render::{
    ORIGINAL_TO, Options, Renderer, Templates,
    dkim::{self, Key},
    stamp,
};
use uuid::Uuid;

use crate::{
    captures::Captures,
    cli::template::SendTest,
    config::{Loaded, Route, Settings},
    failure::{CONFIGURATION, Exit, Refusal, tell},
    output,
    run::install_crypto,
    sample::{self, Wish},
    template,
};

/// Renders, sends, and tells.
///
/// # Errors
/// Configuration, templates, or what was typed; not what a server said.
pub(crate) async fn run(loaded: Loaded, options: SendTest) -> anyhow::Result<Exit> {
    let mut settings = loaded.without_database()?.settings;
    install_crypto();
    let route = route(&settings, &options)?;
    settings.routes = vec![route.clone()];
    let typed = Recipient::parse(&options.to)
        .map_err(|error| Refusal::usage(format!("--to: {error}"), &["hapax send-test KIND --to me@example.com"]))?;
    tell!("this goes past the outbox: nothing is recorded, and nothing is repeated");
    let (recipient, original) = match settings.guards.addressee(typed) {
        Addressee::AsAddressed(recipient) => (recipient, None),
        Addressee::Redirected { to, original } => {
            tell!("guards.redirect_all_to: it goes to the address named there instead");
            (to, Some(original.address()))
        }
        Addressee::Stopped => {
            let hints = ["add it to guards.recipients_allow, or take one that is allowed"];
            return Err(Refusal::failed("guards.recipients_allow: this recipient is not on the list", &hints).into());
        }
    };
    let letter = letter(&settings, &route, options, original)?;
    let (transports, _catchers) = Captures::default().transports(&settings).await?;
    let transport = transports.into_iter().next().context("the route leads nowhere")?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let mailer =
        Mailer::new(transport, clock.clone()).map_err(|error| Refusal::of_error(CONFIGURATION, &error, &[]))?;
    say("rendered", &format!("{} bytes, Message-ID {}", letter.message.size(), letter.message_id));
    let outcome = Box::pin(converse(&mailer, clock, &settings, &letter, recipient)).await;
    Ok(tell(&outcome))
}

/// The named one, else the kind's, else the default one, else the first.
fn route(settings: &Settings, options: &SendTest) -> Result<Route, Refusal> {
    let of_kind = settings.kinds.get(&options.kind).and_then(|kind| kind.route.clone());
    let routes = &settings.routes;
    let found = match options.route.as_ref().or(of_kind.as_ref()) {
        Some(name) => routes.iter().find(|route| route.name == *name),
        None => routes.iter().find(|route| route.name == "default").or(routes.first()),
    };
    found.cloned().ok_or_else(|| {
        let names: Vec<&str> = routes.iter().map(|route| route.name.as_str()).collect();
        Refusal::usage("there is no such route", &[format!("the routes are: {}", names.join(", ")).as_str()])
    })
}

/// What is sent.
struct Letter {
    message: Message,
    message_id: String,
    sender: String,
    name: String,
}

fn letter(settings: &Settings, route: &Route, options: SendTest, original: Option<String>) -> anyhow::Result<Letter> {
    let directory = options.place.templates.as_ref().or(settings.templates.as_ref()).cloned();
    let templates = directory.clone().map_or_else(Templates::none, Templates::from_dir);
    let unsubscribe_key = settings.unsubscribe_key.clone();
    let renderer = Renderer::lenient(&Options { templates, unsubscribe_key, ..Options::default() });
    if directory.is_some() {
        template::known(&renderer, std::slice::from_ref(&options.kind))?;
    }
    let payload = payload(directory.as_deref(), &options)?;
    let id = Uuid::now_v7();
    let wish = Wish { kind: options.kind, locale: options.locale, payload, to: options.to };
    let rendered = renderer
        .render(&wish.notification(id, created_at_us(id)), &route.from, None)
        .map_err(|error| template::refusal(&error, "hapax template preview shows it with its source"))?;
    let keys = route.dkim.iter().map(AsRef::as_ref);
    let keys = keys.filter(|key: &&Key| rendered.author_domain.as_deref().is_some_and(|domain| key.signs_for(domain)));
    let time_s = u64::try_from(created_at_us(id) / 1_000_000).unwrap_or(0);
    let signed = dkim::signed(rendered.bytes, time_s, keys)?;
    let key = format!("{id}/1");
    let delivery = DeliveryKey { message_id: MessageId(id), recipient_no: 1 };
    let own_sender = route.envelope_sender.as_ref().map(|pattern| pattern.of(delivery));
    let mut fields: Vec<(&str, &str)> = Vec::new();
    fields.extend(route.idempotency.as_ref().map(|found| (found.header.as_str(), key.as_str())));
    fields.extend(original.as_deref().map(|address| (ORIGINAL_TO, address)));
    let bytes = if fields.is_empty() { signed } else { stamp(&signed, &fields)? };
    Ok(Letter {
        message: Message::new(&bytes),
        message_id: rendered.message_id_header,
        sender: own_sender.unwrap_or_else(|| rendered.envelope_sender.address()),
        name: format!("{id}-1"),
    })
}

/// When an id was made.
fn created_at_us(id: Uuid) -> i64 {
    let (seconds, nanoseconds) = id.get_timestamp().map_or((0, 0), |made| made.to_unix());
    i64::try_from(seconds).unwrap_or(0) * 1_000_000 + i64::from(nanoseconds) / 1_000
}

/// Of `--data`, else of the sample.
fn payload(directory: Option<&Path>, options: &SendTest) -> Result<String, Refusal> {
    if let Some(file) = &options.data {
        let mut text = String::new();
        let read = if file.as_os_str() == "-" {
            std::io::stdin().read_to_string(&mut text).map(|_| text)
        } else {
            std::fs::read_to_string(file)
        };
        return read.map_err(|error| {
            Refusal::usage(format!("--data: {}: {}", file.display(), error.to_string().to_lowercase()), &[])
        });
    }
    let name = options.sample.as_deref().unwrap_or_default();
    let Some(directory) = directory else {
        return Err(Refusal::setup("no template directory", &["--templates DIR", "or templates.directory"]));
    };
    sample::read(directory, &options.kind, name).ok_or_else(|| {
        let message = format!("{}/{}: there is no such sample", options.kind, sample::file(name));
        Refusal::usage(message, &["hapax send-test KIND --to ADDRESS --data FILE takes a payload from elsewhere"])
    })
}

/// The whole dialogue, told phase by phase.
async fn converse(
    mailer: &Mailer,
    clock: Arc<dyn Clock>,
    settings: &Settings,
    letter: &Letter,
    recipient: Recipient,
) -> Outcome {
    let connection = match mailer.open().await {
        Ok(connection) => connection,
        Err(outcome) => return outcome,
    };
    say("connected", connection.server());
    let envelope = Envelope {
        sender: Some(letter.sender.clone()),
        recipient,
        size: letter.message.size(),
        eight_bit: letter.message.needs_8bit(),
        name_hint: letter.name.clone(),
    };
    let data = match connection.begin(&envelope).await {
        Begun::Ready(data) => data,
        Begun::Ended { outcome, connection, .. } => {
            if let Some(connection) = connection {
                connection.quit().await;
            }
            return outcome;
        }
    };
    say("envelope", "sender and recipient are taken, the server waits for the message");
    // Nobody else's intent or heartbeat is asked: this attempt has a gate of its own, open for as long as one may be.
    let limit = settings.relay.limits.transmit_deadline;
    let heartbeat = Arc::new(Heartbeat::new(limit));
    let now = clock.boottime();
    heartbeat.record(now);
    let transmitted = data.transmit(&letter.message, &Gate::until(clock, now + limit, heartbeat)).await;
    say("message", &format!("{} bytes written", transmitted.bytes));
    if let Some(connection) = transmitted.connection {
        connection.quit().await;
    }
    transmitted.outcome
}

fn say(phase: &str, what: &str) {
    output::line(&format!("{phase:<10} {}", output::one_line(what)));
}

/// The end of it.
fn tell(outcome: &Outcome) -> Exit {
    let reply = outcome.reply().map(|reply| format!("{} {}", reply.code, reply.text)).unwrap_or_default();
    match outcome {
        Outcome::Accepted { .. } => {
            say("accepted", &reply);
            return Exit::Done;
        }
        Outcome::Refused { permanent, phase, .. } => {
            say(if *permanent { "refused" } else { "deferred" }, &format!("in phase {phase}: {reply}"));
        }
        Outcome::NotSent { phase, detail, .. } => {
            let reply = if reply.is_empty() { reply } else { format!(": {reply}") };
            say("not sent", &format!("in phase {phase}: {detail}{reply}"));
        }
        Outcome::Unknown { detail, .. } => {
            let reply = if reply.is_empty() { reply } else { format!(": {reply}") };
            say("unknown", &format!("{detail}{reply}"));
            tell!("nobody can know whether the server took it, and it was not repeated");
            tell!("hint: look for its Message-ID in the server's log");
        }
    }
    Exit::Failed
}
