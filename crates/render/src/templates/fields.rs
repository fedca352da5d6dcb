//! The templates of a `kind.toml`: header fields and the thread of a message.
//!
//! Invariants: a field that only Hapax writes is refused at load; a value is checked again when it is rendered, by the
//! rules for a notification's own fields. What the notification brings itself wins. Messages of one tenant and key have
//! one thread, whatever came first.

use minijinja::{Environment, Value};
use sha2::{Digest, Sha256};

use crate::{
    error::Problem,
    header,
    kind::{KIND_FILE, KindFile, Line},
};

/// How a template inside a `kind.toml` is called: `KIND/kind.toml#LINE#NAME`.
fn name(kind: &str, line: &Line, what: &str) -> String {
    format!("{kind}/{KIND_FILE}#{}#{what}", line.line)
}

/// The file and line of such a name; others stay as they are.
pub(super) fn place(name: &str, line: Option<usize>) -> (&str, Option<usize>) {
    let mut pieces = name.splitn(3, '#');
    match (pieces.next(), pieces.next().and_then(|line| line.parse().ok()), pieces.next()) {
        (Some(file), Some(own), Some(_)) if file.ends_with(KIND_FILE) => (file, Some(own)),
        _ => (name, line),
    }
}

/// What a kind adds to a message, by the names of the templates.
#[derive(Default)]
pub(super) struct Fields {
    pub(super) headers: Vec<(String, String)>,
    pub(super) thread_key: Option<String>,
}

impl Fields {
    pub(super) fn compile(
        kind: &str,
        file: &KindFile,
        environment: &mut Environment<'static>,
        problems: &mut Vec<Problem>,
    ) -> Self {
        let place = format!("{kind}/{KIND_FILE}");
        let mut add = |line: &Line, what: &str, problems: &mut Vec<Problem>| {
            let name = name(kind, line, what);
            if let Err(error) = environment.add_template_owned(name.clone(), line.text.clone()) {
                let what = error.detail().map_or_else(|| error.kind().to_string(), str::to_owned);
                problems.push(Problem::new(&place, Some(line.line), what));
            }
            name
        };
        let mut fields = Self::default();
        for (field, line) in &file.headers {
            let probe = [(field.clone(), "x".to_owned())];
            if let Err(error) = header::own(&probe, false) {
                problems.push(Problem::new(&place, Some(line.line), error.to_string()));
            }
            fields.headers.push((field.clone(), add(line, field, problems)));
        }
        fields.thread_key = file.thread_key.as_ref().map(|line| add(line, "thread_key", problems));
        fields
    }

    pub(super) fn is_empty(&self) -> bool {
        self.headers.is_empty() && self.thread_key.is_none()
    }

    /// The rendered fields that the notification does not bring itself. `render` renders one template.
    pub(super) fn render<E>(
        &self,
        own: &[(String, String)],
        tenant: Option<&str>,
        domain: &str,
        context: &Value,
        render: impl Fn(&str, &Value) -> Result<String, E>,
    ) -> Result<Vec<(String, String)>, E> {
        let is_own = |name: &str| own.iter().any(|(own, _)| own.eq_ignore_ascii_case(name));
        let mut fields = Vec::new();
        for (field, template) in self.headers.iter().filter(|(field, _)| !is_own(field)) {
            let value = render(template, context)?.trim().to_owned();
            // A field whose template writes nothing is left out: `{% if campaign is defined %}...`.
            if !value.is_empty() {
                fields.push((field.clone(), value));
            }
        }
        if let Some(template) = &self.thread_key {
            let key = render(template, context)?;
            if !key.trim().is_empty() {
                let id = thread_id(tenant, key.trim(), domain);
                let known =
                    |name: &str| fields.iter().any(|(own, _): &(String, String)| own.eq_ignore_ascii_case(name));
                let missing = ["In-Reply-To", "References"].into_iter().filter(|name| !is_own(name) && !known(name));
                let missing: Vec<_> = missing.map(|name| (name.to_owned(), id.clone())).collect();
                fields.extend(missing);
            }
        }
        Ok(fields)
    }
}

/// One id for all messages of a tenant's key: no reader has a message of that id, all of them put its answers together.
fn thread_id(tenant: Option<&str>, key: &str, domain: &str) -> String {
    let mut hash = Sha256::new();
    let tenant = tenant.unwrap_or_default();
    hash.update((tenant.len() as u64).to_be_bytes());
    hash.update(tenant);
    hash.update(key);
    let hex: String = hash.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    format!("<{hex}@{domain}>")
}
