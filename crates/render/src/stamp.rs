//! Fields that belong to one delivery rather than to its message, put in front of the others: the key for an upstream that
//! de-duplicates, and who a redirected message was for.
//!
//! Invariant: a stamped name occurs once. What the message itself brought under that name goes: an upstream that is given
//! two keys, or the application's one for all recipients, would not de-duplicate deliveries.

use mail_builder::headers::Header;

use crate::{error::Error, header, raw, wire};

/// Who a message would have gone to, were it not redirected.
pub const ORIGINAL_TO: &str = "X-Hapax-Original-To";

/// The message with these fields. `message` is one that [`Renderer::render`](crate::Renderer::render) has made.
///
/// # Errors
/// A name or value that cannot be written, a message that is none.
pub fn stamp(message: &[u8], fields: &[(&str, &str)]) -> Result<Vec<u8>, Error> {
    let given: Vec<(String, String)> =
        fields.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let stamped = header::own(&given, false)?;
    let (own, body) = raw::split(message)?;
    let mut out = Vec::with_capacity(message.len() + 256);
    for (name, value) in stamped {
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(b": ");
        value.write_header(&mut out, name.len() + 2);
    }
    for field in own.iter().filter(|field| !fields.iter().any(|(name, _)| name.eq_ignore_ascii_case(&field.name))) {
        out.extend_from_slice(field.whole);
    }
    out.extend_from_slice(b"\r\n");
    out.extend_from_slice(body);
    match wire::first_fault(&out) {
        Some((what, line)) => Err(Error::Wire { what, line }),
        None => Ok(out),
    }
}

/// Whether a de-duplicating upstream's field may have this name.
///
/// # Errors
/// Why not.
pub fn check_stamp_name(name: &str) -> Result<(), &'static str> {
    if !header::is_name(name) {
        return Err("is not a header name: 1 to 76 printable ASCII characters without space and colon");
    }
    let lower = name.to_ascii_lowercase();
    let prefixes = ["resent-", "list-", "content-", "arc-", "x-hapax-"];
    if header::has_a_meaning(&lower) || prefixes.iter().any(|prefix| lower.starts_with(prefix)) {
        return Err("has a meaning of its own in a message");
    }
    Ok(())
}
