//! Mailboxes: `Name <local@domain>` or `local@domain`. The address itself comes out only through an explicit method;
//! `Debug` and `Display` are masked, so that no log can leak it by accident.

use std::fmt;

/// The longest local part and domain, in octets (RFC 5321 section 4.5.3.1).
const LOCAL_MAX: usize = 64;
const DOMAIN_MAX: usize = 255;

/// A parsed mailbox, fit for an envelope and a header.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Recipient {
    name: Option<String>,
    local: String,
    /// In its ASCII (punycode) form.
    domain: String,
}

/// Why a text is not a mailbox. Never repeats the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Empty, or no `@`.
    #[error("not an address: write user@example.org or Name <user@example.org>")]
    Shape,
    /// A control character, which could end a command or a header early.
    #[error("a control character in an address")]
    Control,
    /// A local part that is empty, too long, or has characters that need quoting and are not quoted.
    #[error("the part before the @ is empty, longer than 64 bytes, or has characters that must be quoted")]
    Local,
    /// A domain that IDNA does not accept.
    #[error("the part after the @ is not a domain name")]
    Domain,
}

impl Recipient {
    /// Parses one mailbox (the `mailbox` of RFC 5322 section 3.4, without comments and groups).
    ///
    /// # Errors
    /// Says what is wrong, without repeating the address.
    pub fn parse(text: &str) -> Result<Self, Error> {
        if text.chars().any(char::is_control) {
            return Err(Error::Control);
        }
        let text = text.trim();
        let (name, address) = match text.strip_suffix('>').and_then(|rest| rest.rsplit_once('<')) {
            Some((name, address)) => (unquote(name.trim()), address),
            None if text.contains(['<', '>']) => return Err(Error::Shape),
            None => (String::new(), text),
        };
        let (local, domain) = address.rsplit_once('@').ok_or(Error::Shape)?;
        if !valid_local(local) {
            return Err(Error::Local);
        }
        let domain = ascii_domain(domain).ok_or(Error::Domain)?;
        Ok(Self { name: (!name.is_empty()).then_some(name), local: local.to_owned(), domain })
    }

    /// The address for the envelope: `local@domain`, the domain in ASCII. The one place where it comes out.
    #[must_use]
    pub fn address(&self) -> String {
        format!("{}@{}", self.local, self.domain)
    }

    /// The display name, if one was given.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// The domain, in ASCII form.
    #[must_use]
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// The local part as it is compared: without quotes and escapes, which change nothing (RFC 5321 section 4.1.2), and
    /// without regard to case.
    pub(crate) fn local_compared(&self) -> String {
        let Some(quoted) = self.local.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) else {
            return self.local.to_lowercase();
        };
        let mut plain = String::with_capacity(quoted.len());
        let mut chars = quoted.chars();
        while let Some(c) = chars.next() {
            plain.extend(if c == '\\' { chars.next() } else { Some(c) });
        }
        plain.to_lowercase()
    }

    /// Whether the local part is not ASCII, so that the server must offer SMTPUTF8 (RFC 6531).
    #[must_use]
    pub fn needs_smtputf8(&self) -> bool {
        !self.local.is_ascii()
    }
}

impl fmt::Display for Recipient {
    /// Masked: `a***@example.org`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let first = self.local.chars().next().unwrap_or('?');
        write!(f, "{first}***@{}", self.domain)
    }
}

impl fmt::Debug for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

fn unquote(name: &str) -> String {
    match name.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
        Some(quoted) => quoted.replace("\\\"", "\"").replace("\\\\", "\\"),
        None => name.to_owned(),
    }
}

/// A dot-atom (RFC 5322 section 3.2.3, with UTF-8 as in RFC 6532) or a quoted string.
fn valid_local(local: &str) -> bool {
    if local.is_empty() || local.len() > LOCAL_MAX {
        return false;
    }
    if let Some(inner) = local.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
        let mut chars = inner.chars();
        while let Some(c) = chars.next() {
            match c {
                '"' => return false,
                '\\' if chars.next().is_none() => return false,
                _ => {}
            }
        }
        return local.len() > 2;
    }
    let atext = |c: char| {
        c.is_ascii_alphanumeric() || "!#$%&'*+-/=?^_`{|}~.".contains(c) || (!c.is_ascii() && !c.is_whitespace())
    };
    local.chars().all(atext) && !local.starts_with('.') && !local.ends_with('.') && !local.contains("..")
}

/// The ASCII form of a domain name, or of an address literal (`[192.0.2.1]`, RFC 5321 section 4.1.3).
pub(crate) fn ascii_domain(domain: &str) -> Option<String> {
    if let Some(literal) = domain.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        let ok = is_ipv4(literal)
            || literal.strip_prefix("IPv6:").is_some_and(|v6| v6.parse::<std::net::Ipv6Addr>().is_ok());
        return ok.then(|| domain.to_owned());
    }
    let domain = domain.strip_suffix('.').unwrap_or(domain);
    // What is ASCII is in its wire form already. IDNA would refuse names that exist: r3---sn.example has hyphens where
    // only xn-- may have them.
    let ascii = match domain.is_ascii() {
        true => domain.split('.').all(is_host_label).then(|| domain.to_ascii_lowercase())?,
        false => idna::domain_to_ascii_strict(domain).ok()?,
    };
    (!ascii.is_empty() && ascii.len() <= DOMAIN_MAX && !ascii.split('.').any(str::is_empty)).then_some(ascii)
}

/// Letters, digits and inner hyphens (RFC 1123 section 2.1).
fn is_host_label(label: &str) -> bool {
    (1..=63).contains(&label.len())
        && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        && !label.starts_with('-')
        && !label.ends_with('-')
}

/// `Snum` four times (RFC 5321 section 4.1.3); unlike the standard library it allows leading zeros.
fn is_ipv4(literal: &str) -> bool {
    let number = |text: &str| {
        (1..=3).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit()) && text.parse::<u8>().is_ok()
    };
    literal.split('.').count() == 4 && literal.split('.').all(number)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn mailboxes_are_taken_apart() {
        let ada = Recipient::parse("Ada Lovelace <ada@Example.ORG>").expect("an address");
        assert_eq!((ada.name(), ada.address().as_str()), (Some("Ada Lovelace"), "ada@example.org"));
        let quoted = Recipient::parse("\"Lovelace, \\\"Ada\\\"\" <ada@example.org>").expect("an address");
        assert_eq!(quoted.name(), Some("Lovelace, \"Ada\""));
        assert_eq!(Recipient::parse("jörg@exämple.org").expect("an address").address(), "jörg@xn--exmple-cua.org");
        assert!(Recipient::parse("jörg@example.org").expect("an address").needs_smtputf8());
        assert!(!Recipient::parse("j@exämple.org").expect("an address").needs_smtputf8());
        for literal in ["a@[192.0.2.1]", "a@[192.000.2.010]", "a@[IPv6:2001:db8::1]", "a@[IPv6:::ffff:192.0.2.1]"] {
            assert_eq!(Recipient::parse(literal).expect("an address").address(), literal);
        }
    }

    #[test]
    fn a_domain_in_ascii_is_taken_as_it_is_another_goes_through_idna() {
        let domain = |text: &str| Recipient::parse(&format!("a@{text}")).map(|found| found.domain().to_owned());
        for (text, ascii) in [
            ("Example.ORG", "example.org"),
            ("localhost", "localhost"),
            ("r3---SN.ab--cd.example", "r3---sn.ab--cd.example"),
            ("xn--exmple-cua.org", "xn--exmple-cua.org"),
            ("xn--0.org", "xn--0.org"),
            ("1.2.3.4", "1.2.3.4"),
            ("BÜCHER.example", "xn--bcher-kva.example"),
            ("bücher\u{3002}example", "xn--bcher-kva.example"),
        ] {
            assert_eq!(domain(text).as_deref(), Ok(ascii), "{text}");
        }
        let long = format!("{}.org", "a".repeat(64));
        let long_in_ascii = format!("{}.org", "ü".repeat(63));
        let bad =
            ["-a.org", "a-.org", "a..org", "a_b.org", "ü_b.org", "a.org..", "\u{301}a.org", &long, &long_in_ascii];
        for text in bad {
            assert_eq!(domain(text), Err(Error::Domain), "{text}");
        }
    }

    #[test]
    fn what_is_no_mailbox_is_refused_with_its_reason() {
        let long = format!("{}@example.org", "a".repeat(65));
        let cases = [
            ("", Error::Shape),
            ("ada", Error::Shape),
            ("Ada <ada@example.org", Error::Shape),
            ("<a@b.org>, <c@d.org> x", Error::Shape),
            ("@example.org", Error::Local),
            ("a b@example.org", Error::Local),
            ("a..b@example.org", Error::Local),
            (".a@example.org", Error::Local),
            ("a@b@example.org", Error::Local),
            (long.as_str(), Error::Local),
            ("ada@", Error::Domain),
            ("ada@exa mple.org", Error::Domain),
            ("ada@-example..org", Error::Domain),
            ("ada@[300.1.1.1]", Error::Domain),
            ("ada@[1.2.3.0004]", Error::Domain),
            ("ada@[1.2.3]", Error::Domain),
            ("ada@example.org\r\nRCPT TO:<x@y.org>", Error::Control),
        ];
        for (text, why) in cases {
            assert_eq!(Recipient::parse(text), Err(why), "{text:?}");
        }
    }

    #[test]
    fn no_formatting_shows_the_address() {
        let ada = Recipient::parse("Ada Lovelace <ada.lovelace@example.org>").expect("an address");
        assert_eq!(format!("{ada} {ada:?} {ada:#?}"), "a***@example.org a***@example.org a***@example.org");
    }

    proptest! {
        #[test]
        fn an_envelope_address_never_breaks_a_command_line(text in "\\PC*|[ -~\\r\\n\\t<>@\"]{0,40}") {
            if let Ok(recipient) = Recipient::parse(&text) {
                let address = recipient.address();
                prop_assert!(!address.contains(['\r', '\n', '\0', '<', '>', ' ']) || address.starts_with('"'));
                prop_assert!(!address.chars().any(char::is_control));
            }
        }
    }
}
