//! Secrets in connection strings, masked before anything is printed. Errs on the side of hiding too much.

const STARS: &str = "***";

/// Words that begin the name of a parameter whose value nobody may see.
const SECRET_WORDS: [&str; 5] = ["pass", "pasw", "pwd", "token", "secret"];

/// The text with every password hidden: in the user part of a URL, in its query, in a `keyword = value` string. Works
/// on texts that are not well-formed, too: those are the ones that end up in error messages.
pub(crate) fn mask(text: &str) -> String {
    match text.split_once("://").filter(|(scheme, _)| is_scheme(scheme)) {
        // A password may hold / ? # that somebody forgot to escape: the last @ ends it, not the first slash.
        Some((scheme, rest)) => format!("{scheme}://{}", mask_query(&mask_user(rest))),
        // Neither does a ? in it begin a query, nor a :// before it end a scheme.
        None => mask_keywords(&mask_user(text)),
    }
}

/// RFC 3986 3.1.
fn is_scheme(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_alphabetic())
        && text.chars().all(|one| one.is_ascii_alphanumeric() || "+.-".contains(one))
}

/// Hides what stands between the first colon and the last `@`, or between a colon and the path where no port stands.
fn mask_user(rest: &str) -> String {
    if let Some((user, host)) = rest.rsplit_once('@') {
        return match user.split_once(':') {
            Some((name, _)) => format!("{name}:{STARS}@{host}"),
            None => rest.to_owned(),
        };
    }
    let end = rest.find(['/', '?', '#', ' ']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    match authority.rsplit_once(':') {
        Some((host, port)) if !authority.ends_with(']') && !port.bytes().all(|byte| byte.is_ascii_digit()) => {
            format!("{host}:{STARS}{path}")
        }
        _ => rest.to_owned(),
    }
}

/// Hides secret parameters of a query. Where there is none, or a secret keyword before it: as without one.
fn mask_query(text: &str) -> String {
    let Some((head, query)) = text.split_once('?').filter(|(head, _)| !(head.contains('=') && is_secret(head))) else {
        return mask_keywords(text);
    };
    let pairs = query.split('&').map(|pair| match pair.split_once('=') {
        Some((name, _)) if is_secret(name) => format!("{name}={STARS}"),
        _ => pair.to_owned(),
    });
    format!("{head}?{}", pairs.collect::<Vec<_>>().join("&"))
}

/// Hides everything behind the first secret keyword.
fn mask_keywords(text: &str) -> String {
    match text.split_once('=') {
        Some(_) if is_secret(text) => {
            let lower = text.to_ascii_lowercase();
            let start = SECRET_WORDS.iter().filter_map(|word| lower.find(word)).min().unwrap_or(0);
            let equals = text[start..].find('=').map_or(text.len(), |at| start + at);
            format!("{}={STARS}", &text[..equals])
        }
        _ => text.to_owned(),
    }
}

fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    SECRET_WORDS.iter().any(|word| name.contains(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_spelling_of_a_connection_string_shows_its_password() {
        let cases = [
            ("postgres://relay:CANARY@db/shop", "postgres://relay:***@db/shop"),
            ("postgres://relay@db/shop", "postgres://relay@db/shop"),
            ("postgres://db:5432/shop", "postgres://db:5432/shop"),
            ("postgres://a:CANARY/with#odd?signs@db/x", "postgres://a:***@db/x"),
            ("postgres://a:CANARY@b@db/x", "postgres://a:***@db/x"),
            ("postgres://db/shop?user=u&password=CANARY", "postgres://db/shop?user=u&password=***"),
            ("postgres://db/shop?sslpassword=CANARY&a=b", "postgres://db/shop?sslpassword=***&a=b"),
            ("postgres://db/shop?passwd=CANARY&password=CANARY&a=b", "postgres://db/shop?passwd=***&password=***&a=b"),
            ("smtp://user:CANARY", "smtp://user:***"),
            ("smtp:user:CANARY@host", "smtp:***@host"),
            ("host=db user=u password=CANARY dbname=x", "host=db user=u password=***"),
            ("host=db PASSWORD = 'CANARY CANARY'", "host=db PASSWORD =***"),
            ("host=db password=a?CANARY dbname=x", "host=db password=***"),
            ("host=db password='?a=1&CANARY' dbname=x", "host=db password=***"),
            ("host=db password=p://CANARY dbname=x", "host=db password=***"),
            ("postgres://db password=a?CANARY", "postgres://db password=***"),
            ("smtp://[::1]:25", "smtp://[::1]:25"),
            ("capture:", "capture:"),
        ];
        for (text, masked) in cases {
            assert_eq!(mask(text), masked);
            assert!(!mask(text).contains("CANARY"), "{text}");
        }
    }
}
