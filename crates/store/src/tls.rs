//! TLS to Postgres: rustls with aws-lc-rs, the platform's roots or a file of one's own.

use std::{
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::{
        ResolvesClientCert,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
    sign::CertifiedKey,
};
use rustls_platform_verifier::BuilderVerifierExt;
use tokio_postgres::{Socket, tls::MakeTlsConnect};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::{
    connect::{Encryption, Identity, Verify},
    error::Error,
};

/// Makes connections that are encrypted where server and `sslmode` want that.
#[derive(Clone)]
pub(crate) struct Connector(MakeRustlsConnect);

impl MakeTlsConnect<Socket> for Connector {
    type Stream = <MakeRustlsConnect as MakeTlsConnect<Socket>>::Stream;
    type TlsConnect = <MakeRustlsConnect as MakeTlsConnect<Socket>>::TlsConnect;
    type Error = <MakeRustlsConnect as MakeTlsConnect<Socket>>::Error;

    fn make_tls_connect(&mut self, name: &str) -> Result<Self::TlsConnect, Self::Error> {
        // A Unix-domain socket comes without a name, which rustls refuses. It is asked for before anybody knows whether there
        // is anything to encrypt, and there never is: without a name tokio-postgres begins no handshake.
        let name = if name.is_empty() { "localhost" } else { name };
        MakeTlsConnect::<Socket>::make_tls_connect(&mut self.0, name)
    }
}

pub(crate) fn connector(encryption: &Encryption) -> Result<Connector, Error> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::Config { reason: error.to_string() })?;
    let builder = match &encryption.verify {
        Verify::Full(Some(path)) => builder.with_root_certificates(roots(path)?),
        Verify::Full(None) => builder.with_platform_verifier().map_err(|error| Error::Config {
            reason: format!("sslmode=verify-full: the platform's certificates: {error}"),
        })?,
        // libpq's prefer and require encrypt without asking who is there.
        Verify::Disabled | Verify::Encrypted => {
            builder.dangerous().with_custom_certificate_verifier(Arc::new(Anybody(provider.clone())))
        }
    };
    let config = match &encryption.identity {
        None => builder.with_no_client_auth(),
        Some(identity) => builder.with_client_cert_resolver(Arc::new(Ourselves::new(identity, provider)?)),
    };
    Ok(Connector(MakeRustlsConnect::new(config)))
}

/// Our certificate, read again for each connection: it may have been renewed. Where it cannot be read the last one serves.
#[derive(Debug)]
struct Ourselves {
    identity: Identity,
    provider: Arc<CryptoProvider>,
    last: Mutex<Arc<CertifiedKey>>,
}

impl Ourselves {
    fn new(identity: &Identity, provider: Arc<CryptoProvider>) -> Result<Self, Error> {
        let last = Mutex::new(Arc::new(read(identity, &provider)?));
        Ok(Self { identity: identity.clone(), provider, last })
    }
}

impl ResolvesClientCert for Ourselves {
    fn resolve(&self, _authorities: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        match read(&self.identity, &self.provider) {
            Ok(now) => *last = Arc::new(now),
            Err(error) => {
                tracing::warn!(error = %error, "the certificate for the database is the one that was read before")
            }
        }
        Some(last.clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

fn read(identity: &Identity, provider: &CryptoProvider) -> Result<CertifiedKey, Error> {
    let Identity { certificate, key } = identity;
    let fail =
        |word: &str, path: &Path, what: String| Error::Config { reason: format!("{word}={}: {what}", path.display()) };
    let chain = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| fail("sslcert", certificate, error.to_string()))?;
    if chain.is_empty() {
        return Err(fail("sslcert", certificate, "no certificate in this file".to_owned()));
    }
    let secret = PrivateKeyDer::from_pem_file(key).map_err(|error| fail("sslkey", key, error.to_string()))?;
    CertifiedKey::from_der(chain, secret, provider).map_err(|error| fail("sslkey", key, error.to_string()))
}

fn roots(path: &Path) -> Result<RootCertStore, Error> {
    let fail = |what: String| Error::Config { reason: format!("sslrootcert={}: {what}", path.display()) };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(path).map_err(|error| fail(error.to_string()))? {
        let certificate = certificate.map_err(|error| fail(error.to_string()))?;
        roots.add(certificate).map_err(|error| fail(error.to_string()))?;
    }
    if roots.is_empty() { Err(fail("no certificate in this file".into())) } else { Ok(roots) }
}

/// Accepts any certificate, but checks that the peer has its key.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
