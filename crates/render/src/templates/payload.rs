//! From JSON to what templates see.
//!
//! Invariants: a number prints as it was written (19.90 stays 19.90, an integer of 30 digits keeps them all), and still
//! compares and calculates. Nothing here quotes the payload in an error. Nesting is bounded.

use std::{borrow::Cow, collections::HashMap};

use minijinja::Value;

use super::schema::Schema;
use crate::error::Error;

/// As deep as serde_json reads.
const DEPTH_MAX: usize = 127;
/// Integers of up to so many digits fit what JSON's own reader knows.
const DIGITS_SURE: usize = 18;
/// Marks an integer that is too long, or a number that is too large, for JSON's own reader on its way through it.
pub(super) const LONG_INTEGER: &str = "\u{10ffff}integer:";

/// How decimals were written, by their value: only those that would print otherwise.
pub(super) type Written = HashMap<u64, String>;

/// A payload, read.
#[derive(Clone)]
pub(super) struct Payload {
    pub(super) object: serde_json::Map<String, serde_json::Value>,
    pub(super) written: Written,
    has_long: bool,
}

impl Payload {
    pub(super) fn parse(text: &str) -> Result<Self, Error> {
        let scanned = scan(text)?;
        let json: serde_json::Value = serde_json::from_str(&scanned.text).map_err(|error| {
            // Only the position: serde_json's own text may quote the payload.
            Error::Payload(format!("is not JSON: line {}, column {}", error.line(), error.column()))
        })?;
        match json {
            serde_json::Value::Object(object) => {
                Ok(Self { object, written: scanned.written, has_long: matches!(scanned.text, Cow::Owned(_)) })
            }
            _ => Err(Error::Payload("is not a JSON object, whose keys a template could use".to_owned())),
        }
    }

    /// The payload, if the schema takes it.
    pub(super) fn checked(mut self, schema: &Schema) -> Result<Self, Error> {
        let json = serde_json::Value::Object(self.object);
        schema.check(&json, self.has_long)?;
        if let serde_json::Value::Object(object) = json {
            self.object = object;
            return Ok(self);
        }
        Err(Error::Payload("is not a JSON object".to_owned()))
    }

    /// The payload's keys and then ours, which win.
    pub(super) fn context(self, own: &[(&str, &str)]) -> Value {
        let own = own.iter().map(|(key, text)| (Value::from(*key), Value::from(*text)));
        let long = self.has_long;
        Value::from_pairs(self.object.into_iter().map(|(key, json)| (Value::from(key), value(json, long))).chain(own))
    }
}

fn value(json: serde_json::Value, long: bool) -> Value {
    match json {
        serde_json::Value::Null => Value::from(()),
        serde_json::Value::Bool(bool) => Value::from(bool),
        serde_json::Value::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(signed), _) => Value::from(signed),
            (None, Some(unsigned)) => Value::from(unsigned),
            (None, None) => Value::from(number.as_f64().unwrap_or(f64::NAN)),
        },
        serde_json::Value::String(text) => match text.strip_prefix(LONG_INTEGER).filter(|_| long) {
            // What no integer can hold stays a text: all its digits, but no number.
            Some(digits) => digits.parse::<i128>().map_or_else(|_| Value::from(digits), Value::from),
            None => Value::from(text),
        },
        serde_json::Value::Array(items) => items.into_iter().map(|item| value(item, long)).collect(),
        serde_json::Value::Object(object) => {
            Value::from_pairs(object.into_iter().map(|(key, json)| (key, value(json, long))))
        }
    }
}

struct Scanned<'a> {
    text: Cow<'a, str>,
    written: Written,
}

/// Goes over the numbers of a JSON text and how deep it is. Whether it is JSON is for its reader to say.
fn scan(text: &str) -> Result<Scanned<'_>, Error> {
    let bytes = text.as_bytes();
    let mut scanned = Scanned { text: Cow::Borrowed(text), written: Written::new() };
    let (mut at, mut depth, mut copied) = (0, 0_usize, 0);
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'"' => at = end_of_string(bytes, at + 1),
            b'{' | b'[' => {
                depth += 1;
                if depth > DEPTH_MAX {
                    return Err(Error::Payload(format!("is nested more than {DEPTH_MAX} levels deep")));
                }
                at += 1;
            }
            b'}' | b']' => {
                depth = depth.saturating_sub(1);
                at += 1;
            }
            b'-' | b'0'..=b'9' => {
                let from = at;
                while bytes.get(at).is_some_and(|byte| matches!(byte, b'-' | b'+' | b'.' | b'e' | b'E' | b'0'..=b'9')) {
                    at += 1;
                }
                let number = &text[from..at];
                let is_decimal = number.bytes().any(|byte| matches!(byte, b'.' | b'e' | b'E'));
                if is_decimal && !is_beyond(number) {
                    remember(number, &mut scanned.written);
                } else if is_decimal || (number.len() > DIGITS_SURE && is_integer(number)) {
                    let out = scanned.text.to_mut();
                    if copied == 0 {
                        out.clear();
                    }
                    out.push_str(&text[copied..from]);
                    out.push_str(&format!("\"{LONG_INTEGER}{number}\""));
                    copied = at;
                }
            }
            _ => at += 1,
        }
    }
    if let Cow::Owned(out) = &mut scanned.text {
        out.push_str(&text[copied..]);
    }
    Ok(scanned)
}

/// The place after the closing quote.
fn end_of_string(bytes: &[u8], mut at: usize) -> usize {
    while let Some(found) = memchr::memchr2(b'"', b'\\', bytes.get(at..).unwrap_or_default()) {
        at += found;
        if bytes[at] == b'"' {
            return at + 1;
        }
        at += 2;
    }
    bytes.len()
}

/// An integer as JSON writes it; others are left for its reader to refuse.
fn is_integer(number: &str) -> bool {
    let digits = number.strip_prefix('-').unwrap_or(number);
    digits.bytes().all(|byte| byte.is_ascii_digit()) && !digits.starts_with('0')
}

/// A number as JSON writes it that is too large for a float (1e400): Postgres knows larger ones.
fn is_beyond(number: &str) -> bool {
    let (mantissa, exponent) = number.split_once(['e', 'E']).unwrap_or((number, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, "0"));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let unsigned = whole.strip_prefix('-').unwrap_or(whole);
    number.parse::<f64>().is_ok_and(f64::is_infinite)
        && digits(unsigned)
        && (unsigned == "0" || !unsigned.starts_with('0'))
        && digits(fraction)
        && digits(exponent.strip_prefix(['+', '-']).unwrap_or(exponent))
}

/// Two spellings of one value (19.9 and 19.90) in one payload cannot be told apart: the longer one is shown.
fn remember(number: &str, written: &mut Written) {
    let Ok(value) = number.parse::<f64>() else { return };
    if Value::from(value).to_string() == number {
        return;
    }
    let known = written.entry(value.to_bits()).or_default();
    if known.len() < number.len() {
        number.clone_into(known);
    }
}
