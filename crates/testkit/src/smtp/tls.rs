//! Certificates of the scripted server, and a stream that is plain or TLS.
//!
//! Every server makes its own authority, so a test trusts exactly one server by trusting its
//! [`ca_pem`](crate::SmtpServer::ca_pem).

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, KeyUsagePurpose};
use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

/// When TLS begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TlsMode {
    /// Never.
    #[default]
    None,
    /// After STARTTLS.
    StartTls,
    /// At once (smtps).
    Implicit,
}

/// What is wrong with the certificate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Certificate {
    /// Nothing: localhost and 127.0.0.1, from the server's own authority.
    #[default]
    Good,
    /// It is for another name.
    WrongName,
    /// It ended in 2001.
    Expired,
    /// It is not from the authority.
    SelfSigned,
    /// Likewise, and one of an authority itself, as `openssl req -x509` makes them.
    SelfSignedAuthority,
    /// It ends in five days.
    EndsSoon,
}

/// An authority of a server's own.
#[derive(Debug)]
pub(super) struct Authority(CertifiedIssuer<'static, KeyPair>);

fn key() -> KeyPair {
    KeyPair::generate().expect("a key can be made")
}

impl Authority {
    pub(super) fn fresh() -> Self {
        let mut params = CertificateParams::new(Vec::<String>::new()).expect("no names, no bad name");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name.push(rcgen::DnType::CommonName, "hapax testkit authority");
        Self(CertifiedIssuer::self_signed(params, key()).expect("an authority can be made"))
    }

    pub(super) fn pem(&self) -> String {
        self.0.pem()
    }

    /// A server configuration with a certificate from it.
    #[expect(clippy::disallowed_methods, reason = "certificates end by the wall clock")]
    pub(super) fn configure(&self, kind: Certificate) -> Arc<ServerConfig> {
        let names = match kind {
            Certificate::WrongName => vec!["elsewhere.invalid".to_owned()],
            _ => vec!["localhost".to_owned(), "127.0.0.1".to_owned()],
        };
        let mut params = CertificateParams::new(names).expect("the names are good");
        if kind == Certificate::Expired {
            params.not_before = rcgen::date_time_ymd(2000, 1, 1);
            params.not_after = rcgen::date_time_ymd(2001, 1, 1);
        }
        if kind == Certificate::EndsSoon {
            params.not_after =
                (std::time::SystemTime::now() + std::time::Duration::from_secs(5 * 86_400 + 3_600)).into();
        }
        if kind == Certificate::SelfSignedAuthority {
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        }
        let server_key = key();
        let certificate = match kind {
            Certificate::SelfSigned | Certificate::SelfSignedAuthority => params.self_signed(&server_key),
            _ => params.signed_by(&server_key, &self.0),
        };
        let certificate = certificate.expect("a certificate can be made");
        let private_key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(server_key.serialize_der()));
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("the provider knows TLS 1.2 and 1.3")
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], private_key)
            .expect("the key belongs to the certificate");
        Arc::new(config)
    }
}

/// A TCP stream that can be told to write one byte at a time.
#[derive(Debug)]
pub(super) struct Trickle {
    pub(super) tcp: TcpStream,
    pub(super) one_byte: bool,
}

impl AsyncRead for Trickle {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_read(context, buffer)
    }
}

impl AsyncWrite for Trickle {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let bytes = if self.one_byte { &bytes[..bytes.len().min(1)] } else { bytes };
        Pin::new(&mut self.tcp).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(context)
    }
}

/// Plain or TLS.
#[derive(Debug)]
pub(super) enum Stream {
    Plain(Trickle),
    Tls(Box<TlsStream<Trickle>>),
}

impl Stream {
    pub(super) fn tcp(&self) -> &TcpStream {
        match self {
            Self::Plain(trickle) => &trickle.tcp,
            Self::Tls(stream) => &stream.get_ref().0.tcp,
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(context),
            Self::Tls(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}
