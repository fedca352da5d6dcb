//! Encoded words (RFC 2047) in the values of others: what a reader would make of them.
//!
//! Invariant: nothing is decoded for use; it is only looked whether something is hidden there. In doubt it is refused: what
//! is lax in a reader is decoded here as well (lower-case q, missing padding, spaces in a word).

use base64::{
    Engine,
    alphabet::STANDARD,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};

/// As lax as readers are.
const LAX: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);
/// ESC, SO and SI switch alphabets in ISO-2022: they are no text.
const SHIFTS: [u8; 3] = [0x1b, 0x0e, 0x0f];

/// Whether a word decodes to a line break, a NUL or another control character.
pub(crate) fn hides_controls(value: &str) -> bool {
    value.match_indices("=?").any(|(at, _)| {
        let mut pieces = value[at + 2..].splitn(3, '?');
        let (Some(charset), Some(encoding), Some(rest)) = (pieces.next(), pieces.next(), pieces.next()) else {
            return false;
        };
        let text = rest.find("?=").map_or(rest, |end| &rest[..end]);
        match encoding.trim() {
            "B" | "b" => has_control(charset, &base64(text)),
            "Q" | "q" => has_control(charset, &quoted_printable(text)),
            _ => false,
        }
    })
}

fn has_control(charset: &str, bytes: &[u8]) -> bool {
    let charset = charset.split('*').next().unwrap_or_default().trim().to_ascii_lowercase();
    let shifts = charset.starts_with("iso-2022") || charset.starts_with("csiso2022") || charset.starts_with("hz-");
    let control = |byte: &u8| (*byte < b' ' && *byte != b'\t' && !(shifts && SHIFTS.contains(byte))) || *byte == 0x7f;
    // UTF-7 writes any character with letters; nobody needs it here.
    let unicode = || charset.starts_with("utf-8") || charset == "utf8";
    charset.contains("utf-7")
        || bytes.iter().any(control)
        || (unicode() && String::from_utf8_lossy(bytes).chars().any(|c| c.is_control() && c != '\t'))
}

/// What can be decoded of it, up to its first mistake.
fn base64(text: &str) -> Vec<u8> {
    let letters: Vec<u8> = text.bytes().filter(|byte| byte.is_ascii_alphanumeric() || b"+/".contains(byte)).collect();
    // A single letter at the end is less than a byte.
    let whole = letters.len() - usize::from(letters.len() % 4 == 1);
    LAX.decode(&letters[..whole]).unwrap_or_default()
}

fn quoted_printable(text: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        let mut ahead = bytes.clone();
        let hex = |byte: Option<u8>| byte.and_then(|byte| char::from(byte).to_digit(16));
        match (byte, hex(ahead.next()), hex(ahead.next())) {
            (b'=', Some(high), Some(low)) => {
                out.push(u8::try_from(high * 16 + low).unwrap_or(0));
                bytes = ahead;
            }
            _ => out.push(byte),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_break_is_seen_behind_every_encoding() {
        for word in [
            "=?utf-8?Q?a=0D=0ABcc:_x@y.z?=",
            "=?UTF-8?q?a=0a?=",
            "plain =?us-ascii?Q?=00?= plain",
            "=?utf-8?B?YQ0KQmNjOiB4?=",
            "=?utf-8?b?YQ0K",
            "=?utf-8?B?YQ0KQg?=",
            "=?iso-8859-1*en?Q?=7F?=",
            "=?utf-8?Q?=C2=85?=",
            "=?utf-7?Q?+AA0ACg-?=",
            "=?x?=?utf-8?Q?=0A?=",
        ] {
            assert!(hides_controls(word), "{word}");
        }
    }

    #[test]
    fn words_of_every_language_pass() {
        for word in [
            "=?utf-8?Q?Gr=C3=BC=C3=9Fe?= =?utf-8?B?8J+OiQ==?=",
            "=?iso-2022-jp?B?GyRCJDMkcyRLJEEkTxsoQg==?=",
            "=?windows-1252?Q?=93quoted=94?=",
            "a =? b ?= c",
            "=?utf-8?Q?tab=09tab?=",
            "https://x.example/?a=?b=0A",
        ] {
            assert!(!hides_controls(word), "{word}");
        }
    }
}
