//! What DNS records of a sender must say (RFC 6376, RFC 7208, RFC 7489). Pure.

/// The tags of a `tag=value; ...` record, white space left out of the values.
fn tag<'a>(record: &'a str, wanted: &str) -> Option<&'a str> {
    let pairs = record.split(';').filter_map(|pair| pair.split_once('='));
    pairs.map(|(tag, value)| (tag.trim(), value.trim())).find(|(tag, _)| *tag == wanted).map(|(_, value)| value)
}

/// How a DKIM record is related to the key that signs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dkim {
    /// The same key.
    Same,
    /// There is no record.
    Missing,
    /// `p=` is empty: revoked.
    Revoked,
    /// Another key.
    Other,
    /// Several records: receivers may take any.
    Several,
}

/// Compares the records at a key's name with what it should be.
pub(super) fn dkim(found: &[String], wanted: &str) -> Dkim {
    let key = |record: &str| tag(record, "p").map(|p| p.split_whitespace().collect::<String>());
    let records: Vec<String> = found.iter().filter_map(|record| key(record)).collect();
    match records.as_slice() {
        [] => Dkim::Missing,
        [one] if one.is_empty() => Dkim::Revoked,
        [one] if Some(one) == key(wanted).as_ref() => Dkim::Same,
        [_] => Dkim::Other,
        _ => Dkim::Several,
    }
}

/// The SPF records among a domain's TXT records.
pub(super) fn spf(found: &[String]) -> Vec<&String> {
    let is_spf = |record: &&String| {
        let lower = record.to_ascii_lowercase();
        lower == "v=spf1" || lower.starts_with("v=spf1 ")
    };
    found.iter().filter(is_spf).collect()
}

/// The DMARC records among those at `_dmarc.DOMAIN`.
pub(super) fn dmarc(found: &[String]) -> Vec<&String> {
    found.iter().filter(|record| tag(record, "v") == Some("DMARC1")).collect()
}

/// The policy of a DMARC record.
pub(super) fn policy(record: &str) -> &str {
    tag(record, "p").unwrap_or("none")
}

/// The domain, and those above it but the last label: where a DMARC record may stand.
pub(super) fn domain_and_above(domain: &str) -> Vec<&str> {
    let mut domains = vec![domain];
    let mut rest = domain;
    while let Some((_, parent)) = rest.split_once('.') {
        if !parent.contains('.') {
            break;
        }
        domains.push(parent);
        rest = parent;
    }
    domains
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(records: &[&str]) -> Vec<String> {
        records.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_key_is_compared_by_its_public_half_alone() {
        let wanted = "v=DKIM1; k=rsa; p=AAAA";
        let cases: [(&[&str], Dkim); 7] = [
            (&["v=DKIM1; k=rsa; p=AAAA"], Dkim::Same),
            (&["k=rsa;p=AA AA ; t=s"], Dkim::Same),
            (&["v=DKIM1; p=BBBB"], Dkim::Other),
            (&["v=DKIM1; p="], Dkim::Revoked),
            (&["google-site-verification"], Dkim::Missing),
            (&[], Dkim::Missing),
            (&["p=AAAA", "p=BBBB"], Dkim::Several),
        ];
        for (found, expected) in cases {
            assert_eq!(dkim(&texts(found), wanted), expected, "{found:?}");
        }
    }

    #[test]
    fn records_of_other_purposes_are_no_policies() {
        let found = texts(&["v=spf1 -all", "v=spf10", "V=SPF1", "v=DMARC1; p=reject"]);
        assert_eq!(spf(&found).len(), 2);
        assert_eq!(dmarc(&found), [&"v=DMARC1; p=reject".to_owned()]);
        assert_eq!((policy(&found[3]), policy("v=DMARC1")), ("reject", "none"));
    }

    #[test]
    fn a_policy_may_stand_above_the_domain_but_not_at_a_top_level_domain() {
        assert_eq!(domain_and_above("a.b.example.org"), ["a.b.example.org", "b.example.org", "example.org"]);
        assert_eq!(domain_and_above("shop.example"), ["shop.example"]);
    }
}
