//! `schema.json`: which payloads a kind takes (JSON Schema, the draft that `$schema` names).
//!
//! Invariants: references lead nowhere outside the file; an error names the place and the rule, never the value.

use jsonschema::{ReferencingError, Validator, error::ValidationErrorKind};

use super::payload::LONG_INTEGER;
use crate::error::{Error, Problem, quoted};

/// How many mistakes one error tells of.
const TOLD_MAX: usize = 5;

/// A schema, compiled.
pub(super) struct Schema {
    validator: Validator,
    file: String,
}

impl Schema {
    pub(super) fn compile(file: &str, text: &str) -> Result<Self, Problem> {
        let json: serde_json::Value = serde_json::from_str(text)
            .map_err(|error| Problem::new(file, Some(error.line()), format!("is not JSON: {error}")))?;
        let validator = jsonschema::options().offline().build(&json).map_err(|error| {
            if let ValidationErrorKind::Referencing(ReferencingError::Unretrievable { uri, .. }) = error.kind() {
                let line = text.lines().position(|line| line.contains("\"$ref\"") && line.contains(uri.as_str()));
                let what = "is nothing in this file, and nothing else is fetched: copy it into $defs, and write \
                            \"$ref\": \"#/$defs/NAME\"";
                return Problem::new(file, line.map(|line| line + 1), format!("the $ref {} {what}", quoted(uri)));
            }
            let place = error.instance_path().to_string();
            let place = if place.is_empty() { "the schema".to_owned() } else { place };
            Problem::new(file, None, format!("is not a usable JSON Schema: {place} ({})", error.kind().keyword()))
        })?;
        Ok(Self { validator, file: file.to_owned() })
    }

    /// `has_long`: some integers of it are too long for JSON's own reader and are marked texts.
    pub(super) fn check(&self, payload: &serde_json::Value, has_long: bool) -> Result<(), Error> {
        let plain = has_long.then(|| unmarked(payload.clone()));
        let payload = plain.as_ref().unwrap_or(payload);
        if self.validator.is_valid(payload) {
            return Ok(());
        }
        let mistakes: Vec<String> = self
            .validator
            .iter_errors(payload)
            .take(TOLD_MAX)
            .map(|error| {
                let place = error.instance_path().to_string();
                let place = if place.is_empty() { "the object".to_owned() } else { quoted(&place) };
                match error.kind() {
                    // Names out of the schema, not out of the payload.
                    ValidationErrorKind::Required { property } => format!("{place} lacks {property}"),
                    kind => format!("{place} breaks {}", kind.keyword()),
                }
            })
            .collect();
        Err(Error::Payload(format!("does not fit {}: {}", self.file, mistakes.join(", "))))
    }
}

/// Long numbers as numbers again: for a schema they need not be exact, and one that is too large for it is the largest.
fn unmarked(json: serde_json::Value) -> serde_json::Value {
    match json {
        serde_json::Value::String(text) => match text.strip_prefix(LONG_INTEGER) {
            Some(number) => serde_json::from_str(number)
                .unwrap_or_else(|_| if number.starts_with('-') { f64::MIN.into() } else { f64::MAX.into() }),
            None => serde_json::Value::String(text),
        },
        serde_json::Value::Array(items) => items.into_iter().map(unmarked).collect(),
        serde_json::Value::Object(object) => object.into_iter().map(|(key, json)| (key, unmarked(json))).collect(),
        other => other,
    }
}
