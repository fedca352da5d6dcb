//! Identities of traces (W3C Trace Context, level 1): what producers gave, and what a delivery has.
//!
//! Invariant: a delivery's own identity derives from the delivery alone, so that every relay, every attempt and the header in
//! its message say the same.

use std::fmt::{self, Write as _};

use hapax_core::DeliveryKey;
use sha2::{Digest, Sha256};

/// The longest text that is looked at: later versions may have more fields.
const BYTES_MAX: usize = 512;

/// A place in a trace.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct TraceParent {
    /// Of the trace.
    pub trace_id: [u8; 16],
    /// Of a span in it.
    pub span_id: [u8; 8],
    /// Whether that span is kept by whoever made it.
    pub sampled: bool,
}

impl fmt::Debug for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TraceParent({self})")
    }
}

/// As the header `traceparent` has it, version 00.
impl fmt::Display for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{}-{}-{:02x}", hex(&self.trace_id), hex(&self.span_id), u8::from(self.sampled))
    }
}

impl TraceParent {
    /// Reads `00-<32 hex digits>-<16 hex digits>-<2 hex digits>`, in lower case. Of a later version only these fields are
    /// read; version ff and ids of zeros alone are invalid.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() > BYTES_MAX {
            return None;
        }
        let mut fields = text.split('-');
        let [version] = bytes(fields.next()?)?;
        let (trace_id, span_id): ([u8; 16], [u8; 8]) = (bytes(fields.next()?)?, bytes(fields.next()?)?);
        let [flags] = bytes(fields.next()?)?;
        let more = fields.next().is_some();
        let valid = version != 0xff && !(version == 0 && more) && trace_id != [0; 16] && span_id != [0; 8];
        valid.then_some(Self { trace_id, span_id, sampled: flags & 1 == 1 })
    }

    /// The place of a delivery: its own trace, and in it the span of the whole delivery. Kept when its producer's is; without
    /// one, when it falls into `ratio`, which does not depend on who asks either.
    #[must_use]
    pub fn of_delivery(delivery: DeliveryKey, parent: Option<&Self>, ratio: f64) -> Self {
        let mut digest = Sha256::new_with_prefix(b"hapax trace\n");
        digest.update(delivery.message_id.0.as_bytes());
        digest.update(delivery.recipient_no.to_be_bytes());
        let digest = digest.finalize();
        let (mut trace_id, mut span_id) = ([0; 16], [0; 8]);
        trace_id.copy_from_slice(&digest[..16]);
        span_id.copy_from_slice(&digest[16..24]);
        // A hash that is all zeros has never been seen; an id must not be.
        trace_id[0] |= u8::from(trace_id == [0; 16]);
        span_id[0] |= u8::from(span_id == [0; 8]);
        let sampled = parent.map_or_else(|| falls_into(&trace_id, ratio), |parent| parent.sampled);
        Self { trace_id, span_id, sampled }
    }

    /// The trace, in 32 hex digits.
    #[must_use]
    pub fn trace_hex(&self) -> String {
        hex(&self.trace_id)
    }
}

/// The last seven bytes of a trace id decide (as other implementations have it), so that all of a trace is kept or nothing.
fn falls_into(trace_id: &[u8; 16], ratio: f64) -> bool {
    let chance = trace_id[9..].iter().fold(0_u64, |sum, byte| (sum << 8) | u64::from(*byte));
    (chance as f64) < ratio * (1_u64 << 56) as f64
}

/// In hexadecimal.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// Exactly so many bytes, in hexadecimal of lower case.
fn bytes<const LEN: usize>(text: &str) -> Option<[u8; LEN]> {
    let is_hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    if text.len() != 2 * LEN || !text.bytes().all(is_hex) {
        return None;
    }
    let mut bytes = [0; LEN];
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * at..2 * at + 2], 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use hapax_core::MessageId;

    use super::*;

    const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
    const SPAN: &str = "b7ad6b7169203331";

    fn delivery(id: u128, recipient_no: i16) -> DeliveryKey {
        DeliveryKey { message_id: MessageId(uuid::Uuid::from_u128(id)), recipient_no }
    }

    #[test]
    fn what_the_specification_calls_valid_is_read_and_written_as_it_was() {
        for flags in ["00", "01"] {
            let text = format!("00-{TRACE}-{SPAN}-{flags}");
            let read = TraceParent::parse(&text).expect("valid");
            assert_eq!((read.to_string(), read.sampled, read.trace_hex()), (text, flags == "01", TRACE.to_owned()));
        }
        for (text, sampled) in [
            (format!("00-{TRACE}-{SPAN}-03"), true),
            (format!("00-{TRACE}-{SPAN}-fe"), false),
            (format!("cc-{TRACE}-{SPAN}-01"), true),
            (format!("01-{TRACE}-{SPAN}-01-what-the-future-brings"), true),
        ] {
            assert_eq!(TraceParent::parse(&text).map(|read| read.sampled), Some(sampled), "{text}");
        }
    }

    #[test]
    fn what_the_specification_calls_invalid_is_none() {
        let zeros = "0".repeat(32);
        for text in [
            String::new(),
            "-".repeat(55),
            format!("ff-{TRACE}-{SPAN}-01"),
            format!("00-{zeros}-{SPAN}-01"),
            format!("00-{TRACE}-{}-01", &zeros[..16]),
            format!("00-{TRACE}-{SPAN}-01-more"),
            format!("00-{TRACE}-{SPAN}-01-"),
            format!("00-{TRACE}-{SPAN}"),
            format!("00-{TRACE}-{SPAN}-1"),
            format!("00-{TRACE}-{SPAN}-001"),
            format!("0-{TRACE}-{SPAN}-01"),
            format!("00-{}-{SPAN}-01", TRACE.to_uppercase()),
            format!("00-{}-{SPAN}-01", &TRACE[1..]),
            format!("00-{TRACE}-{SPAN}-0g"),
            format!(" 00-{TRACE}-{SPAN}-01"),
            format!("00-{TRACE}-{SPAN}-01 "),
            format!("00_{TRACE}_{SPAN}_01"),
            format!("00-é{}-{SPAN}-01", &TRACE[2..]),
            format!("01-{TRACE}-{SPAN}-01-{}", "x".repeat(BYTES_MAX)),
        ] {
            assert_eq!(TraceParent::parse(&text), None, "{text}");
        }
    }

    #[test]
    fn a_delivery_has_one_identity_and_no_other_delivery_has_it() {
        let of = |id, no| TraceParent::of_delivery(delivery(id, no), None, 1.0);
        assert_eq!(of(1, 1), of(1, 1));
        assert_ne!(of(1, 1).trace_id, of(1, 2).trace_id);
        assert_ne!(of(1, 1).trace_id, of(2, 1).trace_id);
        assert_eq!(TraceParent::parse(&of(7, 1).to_string()), Some(of(7, 1)), "it is a valid one");
        // By sha256sum: a release that derives others would change messages between two attempts.
        assert_eq!(of(1, 1).to_string(), "00-25c84ba82482a5bffd93076097257810-bc8ef95eb04a502f-01");
    }

    #[test]
    fn the_producers_word_counts_and_without_one_the_share_that_was_asked_for() {
        let mut parent = TraceParent::parse(&format!("00-{TRACE}-{SPAN}-01")).expect("valid");
        let sampled =
            |id, parent: Option<&TraceParent>, ratio| TraceParent::of_delivery(delivery(id, 1), parent, ratio).sampled;
        assert!(sampled(1, Some(&parent), 0.0));
        parent.sampled = false;
        assert!(!sampled(1, Some(&parent), 1.0));
        assert!((0..100).all(|id| sampled(id, None, 1.0) && !sampled(id, None, 0.0)));
        let half = (0..1_000).filter(|id| sampled(*id, None, 0.5)).count();
        assert!((420..580).contains(&half), "{half}");
    }
}
