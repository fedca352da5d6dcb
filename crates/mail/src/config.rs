//! What a route's configuration says about its server: host, security, credentials, timeouts, trust.
//!
//! Invariant: no formatting of anything in here shows a password or a token.

use std::{fmt, net::IpAddr, path::PathBuf};

use hapax_core::{certainty::Trust, limits::Timeouts};

/// How a connection is encrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Security {
    /// Plain text, whatever the server offers.
    None,
    /// STARTTLS where the server offers it, without asking who it is (RFC 7435): a protection against listeners only,
    /// so credentials are not sent over it. Plain text where it is not offered or refused.
    Opportunistic,
    /// STARTTLS with a certificate that was checked, or nothing is sent.
    Required,
    /// TLS from the first byte (`smtps`), with a certificate that was checked.
    Implicit,
}

/// A password or token. Shown by no formatting.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a secret.
    #[must_use]
    pub fn new(secret: impl Into<String>) -> Self {
        Self(secret.into())
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// How to authenticate.
#[derive(Clone, PartialEq, Eq)]
pub enum Credentials {
    /// AUTH PLAIN or LOGIN, by what the server offers.
    Password {
        /// The user name.
        user: String,
        /// The password.
        password: Secret,
    },
    /// AUTH XOAUTH2.
    XOAuth2 {
        /// The user name.
        user: String,
        /// The access token.
        token: Secret,
    },
}

impl fmt::Debug for Credentials {
    /// User names are often addresses: not shown either.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Password { .. } => "Password(***)",
            Self::XOAuth2 { .. } => "XOAuth2(***)",
        })
    }
}

impl Credentials {
    pub(crate) fn user(&self) -> &str {
        match self {
            Self::Password { user, .. } | Self::XOAuth2 { user, .. } => user,
        }
    }

    pub(crate) fn secret(&self) -> &Secret {
        match self {
            Self::Password { password: secret, .. } | Self::XOAuth2 { token: secret, .. } => secret,
        }
    }
}

/// A mail server to submit to.
#[derive(Clone, Debug)]
pub struct SmtpServer {
    /// Name or address.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Encryption.
    pub security: Security,
    /// How to authenticate; nothing when absent.
    pub credentials: Option<Credentials>,
    /// PEM certificates to trust *instead of* the system's.
    pub ca_file: Option<PathBuf>,
    /// The name the certificate must carry, when it is not `host`.
    pub tls_name: Option<String>,
    /// The name given with EHLO.
    pub hello_name: String,
    /// The address of this machine that connections come from; whichever the system takes when absent.
    pub local_address: Option<IpAddr>,
    /// Send credentials even where anybody could read them. Never needed on a loopback address.
    pub insecure_auth: bool,
    /// One timeout per phase.
    pub timeouts: Timeouts,
    /// How far the server's answers are trusted.
    pub trust: Trust,
}

impl SmtpServer {
    /// A server with everything at its safest sensible default: verified STARTTLS, no credentials.
    #[must_use]
    pub fn new(host: impl Into<String>, port: u16) -> Self {
        Self {
            host: host.into(),
            port,
            security: Security::Required,
            credentials: None,
            ca_file: None,
            tls_name: None,
            hello_name: default_hello_name(),
            local_address: None,
            insecure_auth: false,
            timeouts: Timeouts::default(),
            trust: Trust::default(),
        }
    }

    /// Sets the password (or token) of the credentials that are there, for a URL that names only the user.
    pub fn set_secret(&mut self, secret: Secret) {
        match &mut self.credentials {
            Some(Credentials::Password { password: place, .. } | Credentials::XOAuth2 { token: place, .. }) => {
                *place = secret;
            }
            None => {}
        }
    }
}

/// Where a route's mail goes.
#[expect(clippy::large_enum_variant, reason = "one per route, made at start-up and never moved in a loop")]
#[derive(Clone, Debug)]
pub enum Transport {
    /// To a mail server.
    Smtp(SmtpServer),
    /// Into a directory, one `.eml` file per delivery.
    File {
        /// The directory; made when missing.
        directory: PathBuf,
    },
}

impl Transport {
    /// Which server and account this is, for comparing. The user name may be an address: never show it.
    #[must_use]
    pub fn account(&self) -> String {
        match self {
            Self::Smtp(server) => {
                let user = server.credentials.as_ref().map_or("", Credentials::user);
                format!("smtp {}:{} {user}", server.host.to_ascii_lowercase(), server.port)
            }
            Self::File { directory } => format!("file {}", directory.display()),
        }
    }
}

/// The machine's own name where it can serve in EHLO, else the address literal RFC 5321 section 4.1.4 asks for.
#[must_use]
pub fn default_hello_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = name.trim();
    if is_hello_name(name) { name.to_owned() } else { "[127.0.0.1]".to_owned() }
}

/// A domain or an address literal, as far as the safety of a command line goes.
pub(crate) fn is_hello_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 255
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_[]:".contains(&byte))
}

/// Why a route's transport cannot be used. Found at start-up, before anything is sent.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The CA file cannot be read or holds no certificate.
    #[error("cannot use the CA file {}: {problem}", path.display())]
    CaFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The host, or the name its certificate must carry, is neither a host name nor an address.
    #[error("{name:?} is not a host name or address")]
    ServerName {
        /// The name.
        name: String,
    },
    /// The EHLO name could not stand in a command.
    #[error("{name:?} cannot be given with EHLO: use a domain name or an address literal such as [192.0.2.1]")]
    HelloName {
        /// The name.
        name: String,
    },
    /// The credentials are incomplete or cannot be sent.
    #[error("the credentials for {host} cannot be used: {problem}")]
    Credentials {
        /// The server.
        host: String,
        /// What is wrong, without the secret.
        problem: &'static str,
    },
    /// The TLS library or the system's certificate store cannot be used.
    #[error("TLS cannot be set up")]
    Tls(#[source] rustls::Error),
}
