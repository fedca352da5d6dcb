//! DKIM signatures (RFC 6376, RFC 8301, RFC 8463): RSA and Ed25519, SHA-256, relaxed/relaxed.
//!
//! Why our own: the libraries there are take `t=` from the clock and want the whole message in memory. A message has
//! the same bytes at every attempt, so its signature must follow from the message alone, and a body of 25 MB is hashed
//! while it passes. Both algorithms are deterministic: the same message, time and key give the same bytes.
//!
//! Invariants: From, To, Subject, Date, Message-ID and Reply-To are signed once more than they are there, so that
//! another one breaks the signature. There is no `l=` (all of the body is signed) and no `x=`. A key's bytes leave this module
//! only as signatures.
//!
//! Must not: read a clock or a file, change the message, sign twice for one domain and selector.

mod body;
mod field;
mod key;
#[cfg(test)]
mod tests;

pub use body::{BodyHash, BodyHasher};
pub use key::Key;

/// Why there is no key, or no signature. Never repeats anything of the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The text has no PEM section with a private key.
    #[error(
        "there is no private key in PEM form: a line -----BEGIN PRIVATE KEY----- begins one \
         (from DER: openssl pkey -inform DER -in FILE -out FILE.pem)"
    )]
    Pem,
    /// The key needs a pass phrase.
    #[error("the private key is encrypted: write it without a pass phrase (openssl pkey -in FILE -out FILE)")]
    Encrypted,
    /// The other half of the pair.
    #[error(
        "there is a public key or a certificate, not the private key: name the file that openssl genpkey wrote, which \
         begins with -----BEGIN PRIVATE KEY-----"
    )]
    Public,
    /// A part of a key.
    #[error(
        "the private key is cut off, or was changed: copy the whole file again, from the line -----BEGIN to the line \
         -----END (openssl pkey -in FILE -noout says nothing when it is whole)"
    )]
    Damaged,
    /// As ssh-keygen writes them.
    #[error("the private key is in OpenSSH's own form: ssh-keygen -p -m PKCS8 -f FILE rewrites an RSA key as PEM")]
    OpenSsh,
    /// Neither RSA nor Ed25519, or damaged.
    #[error(
        "the private key is neither an RSA nor an Ed25519 key, or damaged: openssl pkey -in FILE -noout -text tells; \
         openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out FILE makes one"
    )]
    Kind,
    /// RFC 8301 section 3.2: verifiers need not accept it, and it can be broken.
    #[error("the RSA key has fewer than 2048 bits, too few to be trusted: make one of 2048")]
    Small,
    /// Not a domain name.
    #[error("the domain is not a domain name, such as example.org")]
    Domain,
    /// Not a selector.
    #[error("the selector is not one or more labels of letters, digits and hyphens, such as 2026a")]
    Selector,
    /// The library refused to sign.
    #[error("the message could not be signed with its key")]
    Sign,
}

/// The whole message with its signatures in front; as it is where nobody signs. See [`sign`].
///
/// # Errors
/// As [`sign`].
pub fn signed<'a>(
    mut message: Vec<u8>,
    time_s: u64,
    keys: impl IntoIterator<Item = &'a Key>,
) -> Result<Vec<u8>, Error> {
    let mut keys = keys.into_iter().peekable();
    if keys.peek().is_some() {
        let head_end = crate::head_end(&message).unwrap_or(message.len());
        let mut hash = BodyHasher::new();
        hash.update(&message[head_end..]);
        let signatures = sign(&message[..head_end], &hash.finish(), time_s, keys)?;
        message.splice(..0, signatures);
    }
    Ok(message)
}

/// The `DKIM-Signature` fields for a message, one a key, each ending with CRLF, to be put in front of its header.
///
/// `header_section` is the header as it will be sent, CRLF only, with or without the empty line behind it; `time_s`
/// (Unix time) is when the message came into being, not when it is sent. A key whose domain and selector the header has
/// a signature of already signs nothing.
///
/// # Errors
/// [`Error::Sign`], which a key that could be read does not cause.
pub fn sign<'a>(
    header_section: &[u8],
    body_hash: &BodyHash,
    time_s: u64,
    keys: impl IntoIterator<Item = &'a Key>,
) -> Result<Vec<u8>, Error> {
    let fields = field::split(header_section);
    let names = field::to_sign(&fields);
    let signed_already = field::signatures(&fields);
    let mut out = Vec::new();
    for key in keys {
        if signed_already.iter().any(|(domain, selector)| key.is(domain, selector)) {
            continue;
        }
        let mut unsigned = field::unsigned(key, body_hash, time_s, &names);
        let signature = key.sign(&field::signed_data(&fields, &names, &unsigned.text))?;
        unsigned.base64(&signature);
        out.extend_from_slice(unsigned.text.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
    Ok(out)
}
