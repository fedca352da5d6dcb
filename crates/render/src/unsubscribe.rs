//! How a reader gets no more of a kind: `List-Unsubscribe` (RFC 2369) with a signed link, and one-click (RFC 8058).
//!
//! The link of one recipient and kind is always the same: it works from an old message too, and needs no table of
//! tokens. Anybody who has the key can check it:
//!
//! ```text
//! r = base64url(address)                             without padding; the bare address, as the message has it
//! s = base64url(first 16 bytes of HMAC-SHA256(key, kind + "\n" + address))
//! ```
//!
//! Invariants: only an address and a kind that were signed together verify; a URL cannot leave its `< >`. The rest of
//! the URL is not signed: what is unsubscribed from must follow from the kind.

use std::fmt;

use aws_lc_rs::{constant_time, hmac};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use hapax_core::Recipient;

/// How much of the HMAC a link carries.
const SIGNATURE_BYTES: usize = 16;
/// The shortest key: shorter ones can be guessed.
const KEY_BYTES_MIN: usize = 16;
/// The longest URL: it cannot be folded.
const URL_BYTES_MAX: usize = 900;

/// The key that signs links.
#[derive(Clone)]
pub struct UnsubscribeKey(hmac::Key);

impl fmt::Debug for UnsubscribeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("UnsubscribeKey")
    }
}

impl UnsubscribeKey {
    /// For messages that are only looked at: its links are refused by whoever checks them.
    #[must_use]
    pub fn for_show() -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, b"for show, not for mail"))
    }

    /// A key: the bytes of a secret, as they are.
    ///
    /// # Errors
    /// Fewer than 16 bytes.
    pub fn new(secret: &[u8]) -> Result<Self, &'static str> {
        match secret.len() {
            KEY_BYTES_MIN.. => Ok(Self(hmac::Key::new(hmac::HMAC_SHA256, secret))),
            _ => Err("the unsubscribe key has fewer than 16 bytes: openssl rand -hex 32 makes one"),
        }
    }

    fn signature(&self, kind: &str, address: &str) -> hmac::Tag {
        // A kind has no line break, so the two cannot be cut differently.
        hmac::sign(&self.0, format!("{kind}\n{address}").as_bytes())
    }

    /// The URL with the recipient and the signature as its last parameters, before any fragment.
    #[must_use]
    pub fn link(&self, url: &str, kind: &str, address: &str) -> String {
        let (head, fragment) = url.split_at(url.find('#').unwrap_or(url.len()));
        let joint = match head.find('?') {
            None => "?",
            Some(_) if head.ends_with(['?', '&']) => "",
            Some(_) => "&",
        };
        let tag = self.signature(kind, address);
        let signature = URL_SAFE_NO_PAD.encode(&tag.as_ref()[..SIGNATURE_BYTES]);
        format!("{head}{joint}r={}&s={signature}{fragment}", URL_SAFE_NO_PAD.encode(address))
    }

    /// The address of a link's `r`, if its `s` is right for the kind.
    #[must_use]
    pub fn verify(&self, kind: &str, r: &str, s: &str) -> Option<String> {
        let address = String::from_utf8(URL_SAFE_NO_PAD.decode(r).ok()?).ok()?;
        let tag = self.signature(kind, &address);
        let given = URL_SAFE_NO_PAD.decode(s).ok()?;
        constant_time::verify_slices_are_equal(&tag.as_ref()[..SIGNATURE_BYTES], &given).ok().map(|()| address)
    }
}

/// `List-Unsubscribe` and, with one-click, `List-Unsubscribe-Post`: names and values. The URL is finished.
///
/// # Errors
/// Why they would not be understood.
pub(crate) fn fields(
    url: Option<&str>,
    mailto: Option<&str>,
    one_click: bool,
) -> Result<Vec<(&'static str, String)>, &'static str> {
    let mut ways = Vec::new();
    if let Some(url) = url {
        check_url(url, one_click)?;
        ways.push(format!("<{url}>"));
    } else if one_click {
        return Err("one_click needs a url (RFC 8058)");
    }
    if let Some(mailto) = mailto {
        check_mailto(mailto)?;
        ways.push(format!("<mailto:{mailto}>"));
    }
    if ways.is_empty() {
        return Err("neither a url nor a mailto");
    }
    let mut fields = vec![("List-Unsubscribe", ways.join(", "))];
    if one_click {
        fields.push(("List-Unsubscribe-Post", "List-Unsubscribe=One-Click".to_owned()));
    }
    Ok(fields)
}

/// A URL for a header: `https://host...`, or `http://` where no mail server is to use it.
///
/// # Errors
/// Why it is none.
pub(crate) fn check_url(url: &str, one_click: bool) -> Result<(), &'static str> {
    let lower = url.get(..8).unwrap_or(url).to_ascii_lowercase();
    let rest = match (lower.strip_prefix("https://"), lower.strip_prefix("http://")) {
        (Some(_), _) => &url[8..],
        (None, Some(_)) if one_click => return Err("one_click needs a url that begins with https:// (RFC 8058)"),
        (None, Some(_)) => &url[7..],
        (None, None) => return Err("the url does not begin with https://"),
    };
    if rest.is_empty() || rest.starts_with(['/', '?', '#', ':']) {
        return Err("the url has no host");
    }
    if !url.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'<' | b'>' | b'"' | b'\\')) {
        return Err("the url has a space, a quote, < > or a letter that is not ascii: use the filter urlencode");
    }
    if url.len() > URL_BYTES_MAX {
        return Err("the url has more than 900 bytes, too long for a line");
    }
    Ok(())
}

/// An address, perhaps with `?subject=...` (RFC 6068).
///
/// # Errors
/// Why it is none.
pub(crate) fn check_mailto(mailto: &str) -> Result<(), &'static str> {
    let (address, query) = mailto.split_once('?').unwrap_or((mailto, ""));
    let fits = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'<' | b'>' | b'"'));
    let is_one = Recipient::parse(address).is_ok_and(|parsed| parsed.name().is_none());
    match is_one && fits(address) && fits(query) && mailto.len() <= URL_BYTES_MAX {
        true => Ok(()),
        false => Err("mailto is not an address, such as unsubscribe@example.org"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> UnsubscribeKey {
        UnsubscribeKey::new(b"0123456789abcdef0123456789abcdef").expect("a key")
    }

    #[test]
    fn a_link_carries_the_recipient_and_a_signature_and_is_always_the_same() {
        // printf 'offers\nada@example.org' | openssl dgst -sha256 -hmac 0123456789abcdef0123456789abcdef
        let tail = "r=YWRhQGV4YW1wbGUub3Jn&s=HplxJwBHhS7g1g0XYUCGHA";
        let link = |url| key().link(url, "offers", "ada@example.org");
        for (url, expected) in [
            ("https://x.example/u", format!("https://x.example/u?{tail}")),
            ("https://x.example", format!("https://x.example?{tail}")),
            ("https://x.example/u?", format!("https://x.example/u?{tail}")),
            ("https://x.example/u?a=b", format!("https://x.example/u?a=b&{tail}")),
            ("https://x.example/u?a=b&", format!("https://x.example/u?a=b&{tail}")),
            ("https://x.example/u?a=b#top?", format!("https://x.example/u?a=b&{tail}#top?")),
            ("https://x.example/u#top?", format!("https://x.example/u?{tail}#top?")),
        ] {
            assert_eq!(link(url), expected);
        }
        assert!(UnsubscribeKey::new(b"short").is_err() && !format!("{:?}", key()).contains("0123"));
    }

    #[test]
    fn only_what_was_signed_together_verifies() {
        let link = key().link("https://x.example/u", "offers", "jörg@example.org");
        let (r, s) = link.split_once("?r=").and_then(|(_, rest)| rest.split_once("&s=")).expect("both");
        assert_eq!(key().verify("offers", r, s).as_deref(), Some("jörg@example.org"));
        let another = URL_SAFE_NO_PAD.encode("eve@example.org");
        for (kind, r, s) in [
            ("news", r, s),
            ("offers", another.as_str(), s),
            ("offers", r, ""),
            ("offers", r, &s[..s.len() - 2]),
            ("offers", r, "AAAAAAAAAAAAAAAAAAAAAA"),
            ("offers", "!", s),
            ("offers\nj", r, s),
        ] {
            assert_eq!(key().verify(kind, r, s), None, "{kind} {r} {s}");
        }
        let other = UnsubscribeKey::new(b"another key of some length").expect("a key");
        assert_eq!(other.verify("offers", r, s), None);
    }

    #[test]
    fn the_fields_are_those_of_rfc_2369_and_rfc_8058() {
        let both = fields(Some("https://x.example/u?r=a&s=b"), Some("u@x.example?subject=stop"), true);
        assert_eq!(
            both,
            Ok(vec![
                ("List-Unsubscribe", "<https://x.example/u?r=a&s=b>, <mailto:u@x.example?subject=stop>".to_owned()),
                ("List-Unsubscribe-Post", "List-Unsubscribe=One-Click".to_owned()),
            ])
        );
        let one = fields(None, Some("u@x.example"), false);
        assert_eq!(one, Ok(vec![("List-Unsubscribe", "<mailto:u@x.example>".to_owned())]));
        assert!(fields(Some("http://x.example/"), None, false).is_ok());
        let long = format!("https://x.example/{}", "a".repeat(900));
        for url in [
            "",
            "x.example/u",
            "ftp://x.example",
            "https://",
            "https:///u",
            "https://x.example/a b",
            "https://x.example/>, <https://evil.example",
            "https://x.example/\r\nBcc: a@b.org",
            "https://x.example/ü",
            "javascript:alert(1)",
            "httpsü://",
            &long,
        ] {
            assert!(fields(Some(url), None, false).is_err(), "{url}");
        }
        assert!(fields(Some("http://x.example/"), None, true).is_err(), "one-click is for https only");
        assert!(fields(None, Some("u@x.example"), true).is_err() && fields(None, None, false).is_err());
        for mailto in ["", "nobody", "a@b.org>, <c@d.org", "Ada <a@b.org>", "a@b.org?subject=a b", "a@b.org\r\nX: y"] {
            assert!(fields(None, Some(mailto), false).is_err(), "{mailto}");
        }
    }
}
