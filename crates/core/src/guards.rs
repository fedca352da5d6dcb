//! Guards: who may get mail from here, and how long a delivery may have been due. For staging systems, and for databases
//! that were restored or forgotten.
//!
//! Architecture Invariant: a [`Recipient`] becomes the address of an envelope only through [`Guards::addressee`], so that
//! no path can forget to ask.

use std::time::Duration;

use crate::address::{Error, Recipient, ascii_domain};

/// How long a delivery may have been due, unless the configuration says otherwise: as long as the retries of a refused
/// one go on.
pub const MAX_AGE: Duration = Duration::from_secs(3 * 24 * 3600);

/// What is allowed to leave.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Guards {
    /// Only these get mail as it is addressed; everybody does when absent.
    pub recipients_allow: Option<Vec<RecipientRule>>,
    /// Whoever is not allowed is replaced by this address; suppressed when absent and there is a list of allowed ones.
    pub redirect_all_to: Option<Recipient>,
    /// What has been due for longer is held.
    pub max_age: Option<Duration>,
}

/// One entry of `recipients_allow`: everybody at a domain (`@example.org`), or one address (`qa@example.com`). Domains
/// are compared in ASCII and whatever their case, their subdomains are others. Local parts are compared whatever their
/// case (as the outbox does when it counts recipients), and `"qa"@example.com` is `qa@example.com` (RFC 5321 4.1.2).
#[derive(Clone, PartialEq, Eq)]
pub struct RecipientRule {
    local: Option<String>,
    domain: String,
}

impl std::fmt::Debug for RecipientRule {
    /// Never a whole address.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}@{}", if self.local.is_some() { "***" } else { "" }, self.domain)
    }
}

impl RecipientRule {
    /// Reads `@domain` or `local@domain`.
    ///
    /// # Errors
    /// Says what is wrong, without repeating the text.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let text = text.trim();
        if text.chars().any(char::is_control) {
            return Err(Error::Control);
        }
        if let Some(domain) = text.strip_prefix('@') {
            let domain = ascii_domain(domain).ok_or(Error::Domain)?;
            return Ok(Self { local: None, domain: domain.to_ascii_lowercase() });
        }
        if text.ends_with('>') {
            return Err(Error::Shape);
        }
        let one = Recipient::parse(text)?;
        Ok(Self { local: Some(one.local_compared()), domain: one.domain().to_ascii_lowercase() })
    }

    fn matches(&self, recipient: &Recipient) -> bool {
        recipient.domain().eq_ignore_ascii_case(&self.domain)
            && self.local.as_ref().is_none_or(|local| *local == recipient.local_compared())
    }
}

/// Where a delivery may go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Addressee {
    /// To the one it is addressed to.
    AsAddressed(Recipient),
    /// To somebody else, by `redirect_all_to`.
    Redirected {
        /// Who gets it.
        to: Recipient,
        /// Who would have got it.
        original: Recipient,
    },
    /// To nobody, by `recipients_allow`.
    Stopped,
}

impl Guards {
    /// Who may get what is addressed to `recipient`: the allowed ones themselves, of the others the one named by
    /// `redirect_all_to`, or nobody.
    #[must_use]
    pub fn addressee(&self, recipient: Recipient) -> Addressee {
        let allowed = self.recipients_allow.as_ref().map(|rules| rules.iter().any(|rule| rule.matches(&recipient)));
        match (allowed, &self.redirect_all_to) {
            (Some(true), _) | (None, None) => Addressee::AsAddressed(recipient),
            (_, Some(to)) => Addressee::Redirected { to: to.clone(), original: recipient },
            (Some(false), None) => Addressee::Stopped,
        }
    }

    /// Whether a delivery has been due for too long to be sent without asking somebody.
    #[must_use]
    pub fn is_too_old(&self, due_for: Duration) -> bool {
        self.max_age.is_some_and(|limit| due_for > limit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recipient(text: &str) -> Recipient {
        Recipient::parse(text).expect("an address")
    }

    fn allowing(rules: &[&str]) -> Guards {
        let rules = rules.iter().map(|rule| RecipientRule::parse(rule).expect("a rule")).collect();
        Guards { recipients_allow: Some(rules), ..Guards::default() }
    }

    #[test]
    fn a_domain_is_matched_whatever_its_case_or_script_but_never_with_its_subdomains() {
        let guards = allowing(&["@Example.ORG", "@exämple.net"]);
        for allowed in ["ada@example.org", "Ada <ADA@EXAMPLE.org>", "a@xn--exmple-cua.net", "a@EXÄMPLE.net"] {
            assert_eq!(guards.addressee(recipient(allowed)), Addressee::AsAddressed(recipient(allowed)), "{allowed}");
        }
        for other in [
            "ada@sub.example.org",
            "ada@example.org.evil.net",
            "ada@notexample.org",
            "\"a@example.org\"@evil.net",
            "@example.org <ada@evil.net>",
        ] {
            assert_eq!(guards.addressee(recipient(other)), Addressee::Stopped, "{other}");
        }
    }

    #[test]
    fn an_address_is_matched_as_the_outbox_tells_recipients_apart_and_quoting_makes_no_difference() {
        let guards = allowing(&["qa@example.com", "\"o'neil jr\"@example.com"]);
        for allowed in ["qa@example.com", "QA@Example.com", "\"qa\"@example.com", "\"q\\a\"@example.com"] {
            assert_eq!(guards.addressee(recipient(allowed)), Addressee::AsAddressed(recipient(allowed)), "{allowed}");
        }
        assert_ne!(guards.addressee(recipient("\"O'Neil Jr\"@example.com")), Addressee::Stopped);
        for other in ["qb@example.com", "qa@example.org", "\"qa \"@example.com", "qa+x@example.com"] {
            assert_eq!(guards.addressee(recipient(other)), Addressee::Stopped, "{other}");
        }
    }

    #[test]
    fn with_both_guards_the_allowed_get_theirs_and_the_others_are_redirected() {
        let to = recipient("staging@example.org");
        let both = Guards { redirect_all_to: Some(to.clone()), ..allowing(&["@example.org"]) };
        let ada = recipient("ada@example.org");
        assert_eq!(both.addressee(ada.clone()), Addressee::AsAddressed(ada.clone()));
        let eve = recipient("eve@example.com");
        assert_eq!(both.addressee(eve.clone()), Addressee::Redirected { to: to.clone(), original: eve });
        let redirect = Guards { redirect_all_to: Some(to.clone()), ..Guards::default() };
        assert_eq!(redirect.addressee(ada.clone()), Addressee::Redirected { to, original: ada.clone() });
        assert_eq!(Guards::default().addressee(ada.clone()), Addressee::AsAddressed(ada));
        assert_eq!(allowing(&[]).addressee(recipient("a@b.org")), Addressee::Stopped, "nobody is nobody");
    }

    #[test]
    fn what_is_no_rule_is_refused_without_being_repeated() {
        let cases = [
            ("example.org", Error::Shape),
            ("@", Error::Domain),
            ("@@example.org", Error::Domain),
            ("@exa mple.org", Error::Domain),
            ("Ada <ada@example.org>", Error::Shape),
            ("a b@example.org", Error::Local),
            ("@exam\nple.org", Error::Control),
            ("", Error::Shape),
        ];
        for (text, why) in cases {
            assert_eq!(RecipientRule::parse(text), Err(why), "{text:?}");
        }
        assert_eq!(format!("{:?}", allowing(&["ada@example.org"]).recipients_allow), "Some([***@example.org])");
    }

    #[test]
    fn a_delivery_is_too_old_only_beyond_the_limit_and_never_without_one() {
        let guards = Guards { max_age: Some(Duration::from_secs(10)), ..Guards::default() };
        assert!(!guards.is_too_old(Duration::from_secs(10)) && guards.is_too_old(Duration::from_millis(10_001)));
        assert!(!Guards::default().is_too_old(Duration::MAX));
    }
}
