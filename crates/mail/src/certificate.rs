//! What a server's certificate says of itself: names, validity, issuer. Nothing here decides whether it is trusted.

use std::time::Duration;

use rustls_pki_types::{CertificateDer, UnixTime};
use x509_cert::{
    Certificate as Parsed,
    der::Decode,
    ext::pkix::{SubjectAltName, name::GeneralName},
};

/// One certificate of a chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// The names it is for: DNS names and addresses; its subject where it has none.
    pub names: Vec<String>,
    /// Its subject.
    pub subject: String,
    /// Who issued it.
    pub issuer: String,
    /// The last day it is valid, as `YYYY-MM-DD`.
    pub not_after: String,
    /// Since 1970.
    pub not_after_unix: Duration,
    /// Until then; nothing once it has ended.
    pub remaining: Option<Duration>,
}

impl Certificate {
    /// Reads one; nothing where it cannot be read.
    pub(crate) fn read(der: &CertificateDer<'_>) -> Option<Self> {
        let parsed = Parsed::from_der(der).ok()?.tbs_certificate;
        let end = parsed.validity.not_after;
        let now = UnixTime::now().as_secs();
        let until = end.to_unix_duration();
        let subject = parsed.subject.to_string();
        let alternative = parsed.get::<SubjectAltName>().ok().flatten();
        let names: Vec<String> = alternative.iter().flat_map(|(_, names)| names.0.iter().filter_map(name)).collect();
        let date = end.to_date_time();
        Some(Self {
            names: if names.is_empty() { vec![subject.clone()] } else { names },
            subject,
            issuer: parsed.issuer.to_string(),
            not_after: format!("{:04}-{:02}-{:02}", date.year(), date.month(), date.day()),
            not_after_unix: until,
            remaining: until.as_secs().checked_sub(now).map(Duration::from_secs),
        })
    }
}

fn name(name: &GeneralName) -> Option<String> {
    match name {
        GeneralName::DnsName(name) => Some(name.to_string()),
        GeneralName::IpAddress(bytes) => match bytes.as_bytes() {
            [a, b, c, d] => Some(std::net::Ipv4Addr::new(*a, *b, *c, *d).to_string()),
            bytes => <[u8; 16]>::try_from(bytes).ok().map(|bytes| std::net::Ipv6Addr::from(bytes).to_string()),
        },
        _ => None,
    }
}
