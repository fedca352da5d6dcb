//! A signing key, with the name under which its public half stands in the DNS.

use std::fmt;

use aws_lc_rs::{
    digest,
    encoding::{AsDer, PublicKeyX509Der},
    rand::SystemRandom,
    rsa,
    signature::{Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use hapax_core::Recipient;
use rustls_pki_types::{PrivateKeyDer, pem::PemObject};

use super::Error;

/// The longest label of a selector, and the longest selector (RFC 1035 section 2.3.4).
const LABEL_BYTES_MAX: usize = 63;
const SELECTOR_BYTES_MAX: usize = 200;

/// A private key for one domain and selector. `Debug` shows its names only.
pub struct Key {
    domain: String,
    selector: String,
    pair: Pair,
}

enum Pair {
    Rsa(Box<rsa::KeyPair>),
    Ed25519(Box<Ed25519KeyPair>),
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key").field("domain", &self.domain).field("selector", &self.selector).finish_non_exhaustive()
    }
}

impl Key {
    /// A key from PEM text: PKCS#8 (`BEGIN PRIVATE KEY`), RSA or Ed25519, or PKCS#1 (`BEGIN RSA PRIVATE KEY`).
    ///
    /// # Errors
    /// What is wrong with the domain, the selector or the key.
    pub fn new(domain: &str, selector: &str, pem: &str) -> Result<Self, Error> {
        let domain = ascii_domain(domain).ok_or(Error::Domain)?;
        if !is_selector(selector) {
            return Err(Error::Selector);
        }
        Ok(Self { domain, selector: selector.to_ascii_lowercase(), pair: Pair::parse(pem)? })
    }

    /// The domain that signs (`d=`), in ASCII and lower case.
    #[must_use]
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// The selector (`s=`), in lower case.
    #[must_use]
    pub fn selector(&self) -> &str {
        &self.selector
    }

    /// The length of an RSA key; 256 for Ed25519.
    #[must_use]
    pub fn bits(&self) -> usize {
        match &self.pair {
            Pair::Rsa(pair) => pair.public_modulus_len() * 8,
            Pair::Ed25519(_) => 256,
        }
    }

    /// Whether it may sign for an author at this domain: the key's own, or one below it (so that DMARC is satisfied).
    #[must_use]
    pub fn signs_for(&self, from_domain: &str) -> bool {
        let from = from_domain.to_ascii_lowercase();
        match from.strip_suffix(&self.domain) {
            Some(rest) => rest.is_empty() || rest.ends_with('.'),
            None => false,
        }
    }

    /// Where the public key stands in the DNS.
    #[must_use]
    pub fn record_name(&self) -> String {
        format!("{}._domainkey.{}", self.selector, self.domain)
    }

    /// The TXT record with the public key (RFC 6376 section 3.6.1, RFC 8463 section 4.2).
    ///
    /// # Errors
    /// [`Error::Kind`] where the public half cannot be written.
    pub fn record(&self) -> Result<String, Error> {
        Ok(match &self.pair {
            Pair::Rsa(pair) => {
                let der: PublicKeyX509Der<'_> = pair.public_key().as_der().map_err(|_| Error::Kind)?;
                format!("v=DKIM1; k=rsa; p={}", STANDARD.encode(der.as_ref()))
            }
            Pair::Ed25519(pair) => format!("v=DKIM1; k=ed25519; p={}", STANDARD.encode(pair.public_key())),
        })
    }

    /// Whether these are its names.
    pub(super) fn is(&self, domain: &str, selector: &str) -> bool {
        self.domain.eq_ignore_ascii_case(domain) && self.selector.eq_ignore_ascii_case(selector)
    }

    /// `a=`.
    pub(super) const fn algorithm(&self) -> &'static str {
        match &self.pair {
            Pair::Rsa(_) => "rsa-sha256",
            Pair::Ed25519(_) => "ed25519-sha256",
        }
    }

    /// The signature over canonical header data.
    pub(super) fn sign(&self, data: &[u8]) -> Result<Vec<u8>, Error> {
        match &self.pair {
            Pair::Rsa(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                // PKCS#1 v1.5 takes no randomness; the library ignores the argument.
                let sign = pair.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), data, &mut signature);
                sign.map(|()| signature).map_err(|_| Error::Sign)
            }
            // RFC 8463 section 3: PureEdDSA over the hash.
            Pair::Ed25519(pair) => {
                let hash = digest::digest(&digest::SHA256, data);
                pair.try_sign(hash.as_ref()).map(|signature| signature.as_ref().to_vec()).map_err(|_| Error::Sign)
            }
        }
    }
}

impl Pair {
    fn parse(pem: &str) -> Result<Self, Error> {
        if pem.contains("\nProc-Type: 4,ENCRYPTED") {
            return Err(Error::Encrypted);
        }
        let der = PrivateKeyDer::from_pem_slice(pem.as_bytes());
        let rsa = |parsed: Result<rsa::KeyPair, aws_lc_rs::error::KeyRejected>| match parsed {
            Ok(pair) => Ok(Self::Rsa(Box::new(pair))),
            Err(why) if why.description_() == "TooSmall" => Err(Error::Small),
            Err(_) => Err(Error::Kind),
        };
        match der {
            Ok(PrivateKeyDer::Pkcs1(der)) => rsa(rsa::KeyPair::from_der(der.secret_pkcs1_der())),
            Ok(PrivateKeyDer::Pkcs8(der)) => match Ed25519KeyPair::from_pkcs8(der.secret_pkcs8_der()) {
                Ok(pair) => Ok(Self::Ed25519(Box::new(pair))),
                Err(_) => rsa(rsa::KeyPair::from_pkcs8(der.secret_pkcs8_der())),
            },
            Ok(_) => Err(Error::Kind),
            Err(_) => Err(Self::why(pem)),
        }
    }

    /// What it is instead of a private key.
    fn why(pem: &str) -> Error {
        let begins = |what: &str| pem.contains(&format!("-----BEGIN {what}"));
        match () {
            () if pem.contains("ENCRYPTED") => Error::Encrypted,
            () if begins("OPENSSH PRIVATE KEY") => Error::OpenSsh,
            () if pem.contains("PRIVATE KEY-----") => Error::Damaged,
            () if begins("PUBLIC KEY") || begins("RSA PUBLIC KEY") || begins("CERTIFICATE") => Error::Public,
            () => Error::Pem,
        }
    }
}

/// The ASCII form of a domain name; address literals are none.
fn ascii_domain(domain: &str) -> Option<String> {
    let domain = Recipient::parse(&format!("x@{}", domain.trim())).ok()?.domain().to_ascii_lowercase();
    (!domain.starts_with('[')).then_some(domain)
}

/// `sub-domain *( "." sub-domain )` (RFC 6376 section 3.1).
fn is_selector(text: &str) -> bool {
    let label = |label: &str| {
        (1..=LABEL_BYTES_MAX).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    text.len() <= SELECTOR_BYTES_MAX && text.split('.').all(label)
}
