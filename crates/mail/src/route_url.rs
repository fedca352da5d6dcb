//! A route's URL: `smtp://`, `smtps://`, `file:///directory`, `capture:`.
//!
//! Invariant: an error names the part that is wrong and the remedy, and never repeats the URL, which may hold a
//! password.

use std::path::PathBuf;

use url::{Host, Url};

use crate::config::{Credentials, Secret, Security, SmtpServer, Transport};

/// What a route's URL says.
#[expect(clippy::large_enum_variant, reason = "one per route, made at start-up and never moved in a loop")]
#[derive(Clone, Debug)]
pub enum ParsedUrl {
    /// A mail server or a directory.
    Transport(Transport),
    /// The built-in catcher; the binary puts its own server in its place.
    Capture,
}

/// Why a URL is no route.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// No URL at all.
    #[error(
        "not a URL ({0}): write smtp://host, smtps://user@host, file:///directory or capture:, and in a user name or \
         password %23 for #, %2F for /, %3F for ?, %40 for @"
    )]
    Shape(url::ParseError),
    /// LMTP.
    #[error("lmtp:// is not supported yet: use smtp:// to a server that delivers to it")]
    Lmtp,
    /// Another scheme.
    #[error("{0}: is not a route's scheme: use smtp://, smtps://, file:///directory or capture:")]
    Scheme(String),
    /// No host.
    #[error("the host is missing: write smtp://host or smtps://host")]
    NoHost,
    /// A path where none belongs.
    #[error("there is a path after the host: remove it")]
    Path,
    /// A fragment, which an unescaped `#` in a password makes.
    #[error("there is a # in the URL: write %23 if it is part of the user name or password")]
    Fragment,
    /// A file URL without an absolute path.
    #[error("the directory must be absolute: write file:///var/spool/hapax")]
    Directory,
    /// A percent escape that is none, or not UTF-8.
    #[error("the user name or password has a broken percent escape: write % as %25")]
    Escape,
    /// An option nobody knows.
    #[error("unknown option{0}: known are starttls, auth, insecure_auth, ca_file, tls_name and hello")]
    Option(String),
    /// An option with a value it cannot have.
    #[error("the option {name} must be {allowed}")]
    Value {
        /// The option.
        name: &'static str,
        /// What it can be.
        allowed: &'static str,
    },
}

/// Reads a route's URL.
///
/// Defaults: `smtps` port 465; `smtp` port 587 with a user, else 25. `starttls=required`, except on a loopback host:
/// `opportunistic`. A user without a password gets an empty one, to be set by [`SmtpServer::set_secret`].
///
/// # Errors
/// Says which part is wrong and what to write instead.
pub fn parse_url(url: &str) -> Result<ParsedUrl, UrlError> {
    let url = Url::parse(url.trim()).map_err(|error| match error {
        url::ParseError::EmptyHost => UrlError::NoHost,
        error => UrlError::Shape(error),
    })?;
    if url.fragment().is_some() {
        return Err(UrlError::Fragment);
    }
    match url.scheme() {
        "smtp" => smtp(&url, false),
        "smtps" => smtp(&url, true),
        "file" => {
            if let Some((name, _)) = url.query_pairs().next() {
                return Err(unknown_option(&name));
            }
            let directory = url.to_file_path().map_err(|()| UrlError::Directory)?;
            Ok(ParsedUrl::Transport(Transport::File { directory }))
        }
        "capture" => Ok(ParsedUrl::Capture),
        "lmtp" => Err(UrlError::Lmtp),
        scheme => Err(UrlError::Scheme(scheme.to_owned())),
    }
}

fn smtp(url: &Url, implicit: bool) -> Result<ParsedUrl, UrlError> {
    let (host, loopback) = match url.host().ok_or(UrlError::NoHost)? {
        // Outside of http and its like, the url crate leaves IPv4 addresses and percent escapes alone.
        Host::Domain(name) => {
            let name = decode(name)?;
            let address = name.parse::<std::net::Ipv4Addr>();
            let loopback = name.eq_ignore_ascii_case("localhost") || address.is_ok_and(|ip| ip.is_loopback());
            (name, loopback)
        }
        Host::Ipv4(ip) => (ip.to_string(), ip.is_loopback()),
        Host::Ipv6(ip) => (ip.to_string(), ip.is_loopback()),
    };
    if host.is_empty() {
        return Err(UrlError::NoHost);
    }
    if !matches!(url.path(), "" | "/") {
        return Err(UrlError::Path);
    }
    let user = decode(url.username())?;
    let secret = Secret::new(decode(url.password().unwrap_or_default())?);
    let port = url.port().unwrap_or(if implicit {
        465
    } else if user.is_empty() {
        25
    } else {
        587
    });
    let mut server = SmtpServer::new(host, port);
    server.security = match (implicit, loopback) {
        (true, _) => Security::Implicit,
        (false, true) => Security::Opportunistic,
        (false, false) => Security::Required,
    };
    // A password without a user is kept, so that the mailer's check can say what is missing.
    if !user.is_empty() || !secret.is_empty() {
        server.credentials = Some(Credentials::Password { user, password: secret });
    }
    for (name, value) in url.query_pairs() {
        option(&mut server, implicit, &name, &value)?;
    }
    Ok(ParsedUrl::Transport(Transport::Smtp(server)))
}

fn option(server: &mut SmtpServer, implicit: bool, name: &str, value: &str) -> Result<(), UrlError> {
    match (name, value) {
        ("starttls", _) if implicit => {
            return Err(UrlError::Value {
                name: "starttls",
                allowed: "absent from smtps://, which is always encrypted",
            });
        }
        ("starttls", "required") => server.security = Security::Required,
        ("starttls", "opportunistic") => server.security = Security::Opportunistic,
        ("starttls", "none") => server.security = Security::None,
        ("starttls", _) => {
            return Err(UrlError::Value { name: "starttls", allowed: "required, opportunistic or none" });
        }
        ("insecure_auth", "true") => server.insecure_auth = true,
        ("insecure_auth", "false") => server.insecure_auth = false,
        ("insecure_auth", _) => return Err(UrlError::Value { name: "insecure_auth", allowed: "true or false" }),
        ("auth", "password") => {}
        ("auth", "xoauth2") => {
            if let Some(Credentials::Password { user, password }) = server.credentials.take() {
                server.credentials = Some(Credentials::XOAuth2 { user, token: password });
            }
        }
        ("auth", _) => return Err(UrlError::Value { name: "auth", allowed: "password or xoauth2" }),
        ("ca_file", "") => return Err(UrlError::Value { name: "ca_file", allowed: "the path of a PEM file" }),
        ("ca_file", path) => server.ca_file = Some(PathBuf::from(path)),
        ("tls_name", "") => return Err(UrlError::Value { name: "tls_name", allowed: "a host name" }),
        ("tls_name", name) => server.tls_name = Some(name.to_owned()),
        ("hello", "") => return Err(UrlError::Value { name: "hello", allowed: "a domain name" }),
        ("hello", name) => server.hello_name = name.to_owned(),
        (other, _) => return Err(unknown_option(other)),
    }
    Ok(())
}

/// An unescaped `?` in a password makes an option of the rest of it: only what looks like a name is repeated.
fn unknown_option(name: &str) -> UrlError {
    let word = name.len() <= 20 && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
    UrlError::Option(if word { format!(" {name}") } else { String::new() })
}

/// Undoes percent escapes.
fn decode(text: &str) -> Result<String, UrlError> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((byte, after)) = rest.split_first() {
        rest = after;
        if *byte != b'%' {
            bytes.push(*byte);
            continue;
        }
        let digit = |at: usize| after.get(at).and_then(|digit| char::from(*digit).to_digit(16));
        let (Some(high), Some(low)) = (digit(0), digit(1)) else { return Err(UrlError::Escape) };
        bytes.push(u8::try_from(high * 16 + low).map_err(|_| UrlError::Escape)?);
        rest = &after[2..];
    }
    String::from_utf8(bytes).map_err(|_| UrlError::Escape)
}
