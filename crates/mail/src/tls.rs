//! TLS for a route: built once, used by all its connections.
//!
//! The handshake is ours (tokio-rustls over [`WireStream`]) and not lettre's: STARTTLS must not carry over bytes that
//! were sent in plain text, and the gate must stay below the encryption.
//!
//! Invariant: a certificate is checked against the system's roots or the route's own CA file, never both, and always,
//! except for opportunistic STARTTLS, which is never trusted with credentials.

use std::{path::Path, sync::Arc, time::Duration};

use hapax_core::{Outcome, Phase, outcome::Cause};
use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::CryptoProvider,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject};
use tokio::time::timeout;
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::{
    channel::cause_of,
    config::{Error, Security, SmtpServer},
    wire::WireStream,
};

/// A route's TLS configuration, and the name its certificates must carry.
#[derive(Clone)]
pub(crate) struct Tls {
    connector: TlsConnector,
    name: ServerName<'static>,
    /// Whether the server's certificate is checked.
    pub(crate) verified: bool,
}

impl Tls {
    /// Nothing for a route without TLS: then no certificate store is needed either.
    pub(crate) fn new(server: &SmtpServer) -> Result<Option<Self>, Error> {
        let name = server.tls_name.as_deref().unwrap_or(&server.host);
        let name = ServerName::try_from(name.to_owned()).map_err(|_| Error::ServerName { name: name.to_owned() })?;
        let verified = match server.security {
            Security::None => return Ok(None),
            Security::Opportunistic => false,
            Security::Required | Security::Implicit => true,
        };
        Self::build(server, name, verified).map(Some)
    }

    /// Takes any certificate, to look at one that was refused: no secret may be said over it.
    pub(crate) fn blind(server: &SmtpServer) -> Result<Self, Error> {
        let name = server.tls_name.as_deref().unwrap_or(&server.host);
        let name = ServerName::try_from(name.to_owned()).map_err(|_| Error::ServerName { name: name.to_owned() })?;
        Self::build(server, name, false)
    }

    fn build(server: &SmtpServer, name: ServerName<'static>, verified: bool) -> Result<Self, Error> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(Error::Tls)?;
        let config = if !verified {
            builder.dangerous().with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
        } else if let Some(path) = &server.ca_file {
            builder.with_root_certificates(roots(path)?)
        } else {
            let verifier = rustls_platform_verifier::Verifier::new(provider).map_err(Error::Tls)?;
            builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier))
        };
        Ok(Self { connector: TlsConnector::from(Arc::new(config.with_no_client_auth())), name, verified })
    }

    /// Encrypts a connection.
    pub(crate) async fn handshake(&self, wire: WireStream, limit: Duration) -> Result<TlsStream<WireStream>, Outcome> {
        let error = match timeout(limit, self.connector.connect(self.name.clone(), wire)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => error,
            Err(_) => return Err(Outcome::not_sent(Phase::Tls, Cause::Timeout, "no TLS handshake in time")),
        };
        let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
        Err(match tls {
            Some(error @ (rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented)) => {
                Outcome::not_sent(Phase::Tls, Cause::Certificate, format!("the server's certificate: {}", told(error)))
            }
            _ => Outcome::not_sent(Phase::Tls, cause_of(&error), format!("TLS handshake: {error}")),
        })
    }
}

/// In our words, where the library's say nothing to whoever has to mend it.
fn told(error: &rustls::Error) -> String {
    let words = error.to_string();
    match words.contains("CaUsedAsEndEntity") {
        true => "it is that of an authority (CA:TRUE), with which no server may present itself".to_owned(),
        false => words,
    }
}

fn roots(path: &Path) -> Result<RootCertStore, Error> {
    let problem = |problem: String| Error::CaFile { path: path.to_owned(), problem };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(path).map_err(|error| problem(error.to_string()))? {
        let certificate = certificate.map_err(|error| problem(error.to_string()))?;
        roots.add(certificate).map_err(|error| problem(error.to_string()))?;
    }
    if roots.is_empty() { Err(problem("it holds no certificate".to_owned())) } else { Ok(roots) }
}

/// Takes any certificate, but insists that the peer has its key. For opportunistic STARTTLS only.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
