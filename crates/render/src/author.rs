//! Whose message it is: the domain of its From field.
//!
//! Errs on the side of "nobody's": who is not recognised is not signed for.

use hapax_core::Recipient;

use crate::raw;

/// The domain of a mailbox; an address literal is none.
pub(crate) fn domain(mailbox: &Recipient) -> Option<String> {
    let domain = mailbox.domain().to_ascii_lowercase();
    (!domain.starts_with('[')).then_some(domain)
}

/// That of the From field of a message; of its first mailbox if there are several. None where there are several fields.
pub(crate) fn domain_of_from(message: &[u8]) -> Option<String> {
    let (fields, _) = raw::split(message).ok()?;
    let mut from = fields.iter().filter(|field| field.name == "from");
    let (first, another) = (from.next()?, from.next());
    if another.is_some() {
        return None;
    }
    domain(&Recipient::parse(&first_address(&raw::unfolded(first.value))).ok()?)
}

/// The first `addr-spec` of a list of mailboxes (RFC 5322 section 3.4): what stands in the first `< >`, or before the
/// first comma; without comments, and without regard to what is quoted.
fn first_address(list: &str) -> String {
    let (mut address, mut comments, mut is_quoted) = (String::new(), 0_usize, false);
    let mut chars = list.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' if is_quoted || comments > 0 => {
                let escaped = chars.next();
                if comments == 0 {
                    address.push(c);
                    address.extend(escaped);
                }
            }
            '"' if comments == 0 => {
                is_quoted = !is_quoted;
                address.push(c);
            }
            _ if is_quoted => address.push(c),
            '(' => comments += 1,
            ')' => comments = comments.saturating_sub(1),
            _ if comments > 0 => {}
            '<' => address.clear(),
            '>' | ',' | ';' => break,
            // The name of a group.
            ':' => address.clear(),
            _ => address.push(c),
        }
    }
    address.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_author_is_found_however_the_field_is_written() {
        for (from, domain) in [
            ("a@Example.ORG", Some("example.org")),
            ("Ada <a@exämple.org>", Some("xn--exmple-cua.org")),
            ("\"a@evil.example, <b@evil.example>\" <a@example.org>", Some("example.org")),
            ("\"\\\"<b@evil.example>\" <a@example.org>", Some("example.org")),
            ("(a@evil.example <b@evil.example>) a@example.org (\\) c@evil.example)", Some("example.org")),
            ("=?utf-8?q?Ada?= <a@example.org>, b@example.com", Some("example.org")),
            ("a@example.org, b@example.com", Some("example.org")),
            ("team: a@example.org, b@example.com;", Some("example.org")),
            ("Ada\r\n <a@sub.example.org>", Some("sub.example.org")),
            ("\"a@b\"@example.org", Some("example.org")),
            ("a@[192.0.2.1]", None),
            ("undisclosed:;", None),
            ("nobody", None),
            ("", None),
        ] {
            let message = format!("To: x@example.net\r\nFrom: {from}\r\n\r\nFrom: y@example.net\r\n");
            assert_eq!(domain_of_from(message.as_bytes()).as_deref(), domain, "{from}");
        }
        assert_eq!(domain_of_from(b"From: a@example.org\r\nFrom: a@example.org\r\n\r\n"), None);
        assert_eq!(domain_of_from(b"Subject: x\r\n\r\n"), None);
    }
}
