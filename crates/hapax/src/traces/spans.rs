//! From an attempt to spans, in the words of OpenTelemetry's semantic conventions where they have any, and `hapax.` where
//! not. deploy/README.md lists them; a name that stands there does not change.

use std::time::{SystemTime, UNIX_EPOCH};

use hapax_relay::Attempt;
use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value::Value},
    resource::v1::Resource,
    trace::v1::{
        ResourceSpans, ScopeSpans, Span, Status,
        span::{Event, Link, SpanKind},
        status::StatusCode,
    },
};

/// Flags of spans and links (trace.proto): it is known whether the other one was made elsewhere, and it was.
const IS_REMOTE_KNOWN: u32 = 0x100;
const IS_REMOTE: u32 = 0x200;
const SAMPLED: u32 = 1;

/// How many spans become of it.
pub(super) fn count(attempt: &Attempt) -> usize {
    1 + usize::from(attempt.last)
}

/// What is sent for a batch.
pub(super) fn request(resource: &Resource, batch: &[Attempt]) -> ExportTraceServiceRequest {
    let mut spans = Vec::with_capacity(2 * batch.len());
    for attempt in batch {
        spans.push(of_attempt(attempt));
        if attempt.last {
            spans.push(of_delivery(attempt));
        }
    }
    let scope = InstrumentationScope {
        name: "hapax".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        ..InstrumentationScope::default()
    };
    let of_scope = ScopeSpans { scope: Some(scope), spans, schema_url: String::new() };
    ExportTraceServiceRequest {
        resource_spans: vec![ResourceSpans {
            resource: Some(resource.clone()),
            scope_spans: vec![of_scope],
            schema_url: String::new(),
        }],
    }
}

/// Who sends them.
pub(super) fn resource(service_name: &str, instance: &str, host: &str) -> Resource {
    let attributes = vec![
        text("service.name", service_name),
        text("service.version", env!("CARGO_PKG_VERSION")),
        text("service.instance.id", instance),
        text("host.name", host),
    ];
    Resource { attributes, ..Resource::default() }
}

/// One attempt: a child of its delivery.
fn of_attempt(attempt: &Attempt) -> Span {
    let mut attributes = common(attempt);
    attributes.extend([
        text("messaging.operation.name", "send"),
        text("messaging.operation.type", "send"),
        number("messaging.message.envelope.size", attempt.bytes),
        text("hapax.attempt.token", &attempt.token.to_string()),
        flag("hapax.intended", attempt.intended),
    ]);
    if let Some((host, port)) = attempt.server.as_deref().and_then(|server| server.rsplit_once(':')) {
        attributes.push(text("server.address", host));
        attributes.extend(port.parse::<u16>().ok().map(|port| number("server.port", port)));
    }
    let events = attempt.steps.iter().map(|(step, at)| Event {
        time_unix_nano: nanos(*at),
        name: (*step).to_owned(),
        ..Event::default()
    });
    Span {
        trace_id: attempt.context.trace_id.to_vec(),
        // Random as its token is.
        span_id: attempt.token.0.as_bytes()[8..].to_vec(),
        parent_span_id: attempt.context.span_id.to_vec(),
        flags: IS_REMOTE_KNOWN | SAMPLED,
        name: format!("send {}", attempt.route),
        kind: SpanKind::Client.into(),
        start_time_unix_nano: nanos(attempt.began),
        end_time_unix_nano: nanos(attempt.ended),
        attributes,
        events: events.collect(),
        links: links(attempt),
        status: Some(status(attempt)),
        ..Span::default()
    }
}

/// A delivery that has come to its end, from when it could first have been sent.
fn of_delivery(attempt: &Attempt) -> Span {
    let mut attributes = common(attempt);
    attributes.extend([text("messaging.operation.name", "deliver"), text("messaging.operation.type", "send")]);
    Span {
        trace_id: attempt.context.trace_id.to_vec(),
        span_id: attempt.context.span_id.to_vec(),
        flags: IS_REMOTE_KNOWN | SAMPLED,
        name: format!("deliver {}", attempt.kind),
        kind: SpanKind::Producer.into(),
        start_time_unix_nano: nanos(attempt.since.min(attempt.began)),
        end_time_unix_nano: nanos(attempt.ended),
        attributes,
        links: links(attempt),
        status: Some(status(attempt)),
        ..Span::default()
    }
}

/// What both say.
fn common(attempt: &Attempt) -> Vec<KeyValue> {
    let mut attributes = Vec::with_capacity(20);
    attributes.extend([
        text("messaging.system", "smtp"),
        text("messaging.destination.name", &attempt.route),
        text("messaging.message.id", &attempt.delivery.message_id.to_string()),
        text("hapax.delivery", &attempt.delivery.to_string()),
        number("hapax.recipient_no", attempt.delivery.recipient_no),
        number("hapax.attempt", attempt.number),
        text("hapax.kind", &attempt.kind),
        text("hapax.route", &attempt.route),
        text("hapax.verdict", attempt.verdict),
        text("hapax.outcome", attempt.outcome.unwrap_or("none")),
        text("hapax.phase", attempt.phase),
    ]);
    attributes.extend(attempt.code.map(|code| number("hapax.code", code)));
    attributes.extend(attempt.enhanced.as_deref().map(|enhanced| text("hapax.enhanced", enhanced)));
    if is_error(attempt) {
        attributes.push(text("error.type", attempt.outcome.unwrap_or(attempt.verdict)));
    }
    attributes
}

/// The trace in which the notification was enqueued.
fn links(attempt: &Attempt) -> Vec<Link> {
    let link = attempt.parent.map(|parent| Link {
        trace_id: parent.trace_id.to_vec(),
        span_id: parent.span_id.to_vec(),
        flags: IS_REMOTE_KNOWN | IS_REMOTE | u32::from(parent.sampled),
        ..Link::default()
    });
    link.into_iter().collect()
}

/// What a guard stopped is as it should be.
fn is_error(attempt: &Attempt) -> bool {
    !attempt.accepted && attempt.verdict != "suppressed"
}

fn status(attempt: &Attempt) -> Status {
    if !is_error(attempt) {
        return Status::default();
    }
    let message = match attempt.outcome {
        Some(outcome) => format!("{outcome} ({})", attempt.phase),
        None => attempt.verdict.to_owned(),
    };
    Status { message, code: StatusCode::Error.into() }
}

fn nanos(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
}

fn attribute(key: &str, value: Value) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
}

fn text(key: &str, value: &str) -> KeyValue {
    attribute(key, Value::StringValue(value.to_owned()))
}

fn flag(key: &str, value: bool) -> KeyValue {
    attribute(key, Value::BoolValue(value))
}

fn number(key: &str, value: impl TryInto<i64>) -> KeyValue {
    attribute(key, Value::IntValue(value.try_into().unwrap_or(i64::MAX)))
}
