//! From a notification to what a driver sends: a statement and its values, or an element of a document.
//!
//! Only arguments that were given are named: an older outbox, which does not know the newest ones, serves whoever does
//! not use them. All values are texts, lists of texts or bytes, which every driver can bind; SQL casts them.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use crate::attachment::Attachment;
use crate::content::Content;
use crate::error::Error;
use crate::notification::{Notification, OnDoubt, Priority};
use crate::time;

/// The arguments of `outbox.enqueue()`, by its names.
#[derive(Clone, Default)]
pub(crate) struct Arguments {
    pub(crate) kind: String,
    pub(crate) recipients: Vec<String>,
    pub(crate) payload: Option<String>,
    pub(crate) subject: Option<String>,
    pub(crate) body_text: Option<String>,
    pub(crate) body_html: Option<String>,
    pub(crate) raw_message: Option<Vec<u8>>,
    pub(crate) sender: Option<String>,
    pub(crate) reply_to: Option<String>,
    pub(crate) cc: Vec<String>,
    pub(crate) bcc: Vec<String>,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) attachments: Vec<Attachment>,
    pub(crate) not_before: Option<SystemTime>,
    pub(crate) expires_at: Option<SystemTime>,
    pub(crate) priority: Option<Priority>,
    pub(crate) ordering_key: Option<String>,
    pub(crate) dedup_key: Option<String>,
    pub(crate) dedup_ttl: Option<Duration>,
    pub(crate) on_doubt: Option<OnDoubt>,
    pub(crate) route: Option<String>,
    pub(crate) tenant: Option<String>,
    pub(crate) locale: Option<String>,
    pub(crate) traceparent: Option<String>,
    pub(crate) tracestate: Option<String>,
}

/// A value to bind.
#[derive(Debug)]
pub(crate) enum Value<'a> {
    Text(Cow<'a, str>),
    Texts(&'a [String]),
    Bytes(&'a [u8]),
}

/// A statement that returns lines of text, and what to bind to $1, $2, ...
#[derive(Debug)]
pub(crate) struct Statement<'a> {
    pub(crate) sql: Cow<'static, str>,
    pub(crate) values: Vec<Value<'a>>,
}

/// One argument: its value, and how SQL and JSON read it.
enum Form<'a> {
    Text(&'a str),
    /// A text that SQL casts.
    Cast(String, &'static str),
    /// JSON that the parameter takes as text.
    Payload(&'a str),
    Jsonb(String),
    Texts(&'a [String]),
    Bytes(&'a [u8]),
}

type Given<'a> = (&'static str, Form<'a>);

impl Arguments {
    /// What was given, in the order of `outbox.enqueue()`.
    fn given(&self) -> Vec<Given<'_>> {
        fn text<'a>(name: &'static str, value: Option<&'a str>) -> Option<Given<'a>> {
            value.map(|value| (name, Form::Text(value)))
        }
        fn texts<'a>(name: &'static str, values: &'a [String]) -> Option<Given<'a>> {
            (!values.is_empty()).then_some((name, Form::Texts(values)))
        }
        fn time<'a>(name: &'static str, at: Option<SystemTime>) -> Option<Given<'a>> {
            at.map(|at| (name, Form::Cast(time::timestamp(at), "timestamptz")))
        }
        let headers = (!self.headers.is_empty()).then(|| json!(self.headers).to_string());
        let attachments = (!self.attachments.is_empty())
            .then(|| serde_json::Value::from_iter(self.attachments.iter().map(Attachment::json)).to_string());
        let all = [
            Some(("kind", Form::Text(&self.kind))),
            Some(("recipients", Form::Texts(&self.recipients))),
            self.payload.as_deref().map(|payload| ("payload", Form::Payload(payload))),
            text("subject", self.subject.as_deref()),
            text("body_text", self.body_text.as_deref()),
            text("body_html", self.body_html.as_deref()),
            self.raw_message.as_deref().map(|message| ("raw_message", Form::Bytes(message))),
            text("sender", self.sender.as_deref()),
            text("reply_to", self.reply_to.as_deref()),
            texts("cc", &self.cc),
            texts("bcc", &self.bcc),
            headers.map(|headers| ("headers", Form::Jsonb(headers))),
            attachments.map(|attachments| ("attachments", Form::Jsonb(attachments))),
            time("not_before", self.not_before),
            time("expires_at", self.expires_at),
            text("priority", self.priority.map(Priority::word)),
            text("ordering_key", self.ordering_key.as_deref()),
            text("dedup_key", self.dedup_key.as_deref()),
            self.dedup_ttl.map(|span| ("dedup_ttl", Form::Cast(time::interval(span), "interval"))),
            text("on_doubt", self.on_doubt.map(OnDoubt::word)),
            text("route", self.route.as_deref()),
            text("tenant", self.tenant.as_deref()),
            text("locale", self.locale.as_deref()),
            text("traceparent", self.traceparent.as_deref()),
            text("tracestate", self.tracestate.as_deref()),
        ];
        all.into_iter().flatten().collect()
    }

    /// Texts with a NUL character: Postgres would refuse them before the outbox sees them, with an error that names no
    /// argument. (In a payload the outbox finds them.)
    fn refuse_nul<D>(&self, door: &str, given: &[Given<'_>]) -> Result<(), Error<D>> {
        let has_nul = |text: &str| text.contains('\0');
        let found = given.iter().find(|(name, form)| match form {
            Form::Text(value) => has_nul(value),
            Form::Texts(values) => values.iter().any(|value| has_nul(value)),
            Form::Jsonb(_) if *name == "headers" => {
                self.headers.iter().any(|(name, value)| has_nul(name) || has_nul(value))
            }
            Form::Jsonb(_) => self.attachments.iter().flat_map(Attachment::texts).any(has_nul),
            Form::Cast(..) | Form::Payload(_) | Form::Bytes(_) => false,
        });
        let Some((argument, _)) = found else { return Ok(()) };
        Err(Error::Refused {
            sqlstate: None,
            argument: (*argument).to_owned(),
            message: format!("{door}: {argument}: has a NUL character"),
            hint: Some("remove it: no text can hold one".to_owned()),
        })
    }
}

/// An element of the document that `outbox.enqueue_many()` takes.
fn write_json(given: Vec<Given<'_>>, document: &mut String) {
    let mut separator = '{';
    for (name, form) in given {
        document.push(separator);
        separator = ',';
        // Writing to a string cannot fail, and neither can texts as JSON.
        let _ = match form {
            Form::Text(value) => write!(document, r#""{name}":{}"#, json!(value)),
            Form::Cast(value, _) => write!(document, r#""{name}":{}"#, json!(value)),
            Form::Payload(json) => write!(document, r#""{name}":{json}"#),
            Form::Jsonb(json) => write!(document, r#""{name}":{json}"#),
            Form::Texts(values) => write!(document, r#""{name}":{}"#, json!(values)),
            Form::Bytes(bytes) => write!(document, r#""{name}_base64":"{}""#, STANDARD.encode(bytes)),
        };
    }
    document.push('}');
}

/// The call of `outbox.enqueue()`.
pub(crate) fn enqueue<C: Content, D>(notification: &Notification<C>) -> Result<Statement<'_>, Error<D>> {
    let arguments = notification.arguments();
    let given = arguments.given();
    arguments.refuse_nul("outbox.enqueue", &given)?;
    let mut sql = String::from("SELECT outbox.enqueue(");
    let mut values = Vec::with_capacity(given.len());
    for (name, form) in given {
        let (value, cast) = match form {
            Form::Text(value) | Form::Payload(value) => (Value::Text(Cow::Borrowed(value)), "text"),
            Form::Cast(value, cast) => (Value::Text(Cow::Owned(value)), cast),
            Form::Jsonb(json) => (Value::Text(Cow::Owned(json)), "jsonb"),
            Form::Texts(values) => (Value::Texts(values), "text[]"),
            Form::Bytes(bytes) => (Value::Bytes(bytes), "bytea"),
        };
        values.push(value);
        let separator = if values.len() == 1 { "" } else { ", " };
        // What is bound is text, text[] or bytea; anything else is a cast of text. The application's search_path may find others.
        let bound = if matches!(cast, "text[]" | "bytea") { cast } else { "text" };
        // Writing to a string cannot fail.
        let _ = write!(sql, "{separator}{name} => ${}::pg_catalog.{bound}", values.len());
        if cast != bound {
            let _ = write!(sql, "::pg_catalog.{cast}");
        }
    }
    sql.push_str(")::pg_catalog.text AS line");
    Ok(Statement { sql: Cow::Owned(sql), values })
}

/// The call of `outbox.enqueue_many()`.
pub(crate) fn enqueue_many<C: Content, D>(notifications: &[Notification<C>]) -> Result<Statement<'static>, Error<D>> {
    let mut document = String::from("[");
    for (index, notification) in notifications.iter().enumerate() {
        let given = notification.arguments().given();
        notification.arguments().refuse_nul(&format!("outbox.enqueue_many: element {}", index + 1), &given)?;
        if index > 0 {
            document.push(',');
        }
        write_json(given, &mut document);
    }
    document.push(']');
    Ok(Statement {
        sql: Cow::Borrowed(
            "SELECT id::pg_catalog.text AS line FROM outbox.enqueue_many($1::pg_catalog.text) ORDER BY ordinal",
        ),
        values: vec![Value::Text(Cow::Owned(document))],
    })
}

impl Priority {
    fn word(self) -> &'static str {
        match self {
            Self::Urgent => "urgent",
            Self::Normal => "normal",
            Self::Bulk => "bulk",
        }
    }
}

impl OnDoubt {
    fn word(self) -> &'static str {
        match self {
            Self::Hold => "hold",
            Self::Resend => "resend",
            Self::AssumeSent => "assume_sent",
        }
    }
}
