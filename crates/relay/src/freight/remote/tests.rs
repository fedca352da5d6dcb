//! What is said when a host cannot be asked: each cause in words of its own, by real sockets.

use std::{path::Path, sync::Arc};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, KeyUsagePurpose};
use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer},
};
use tokio::{io::AsyncWriteExt, net::TcpListener, task::JoinHandle};
use tokio_rustls::TlsAcceptor;

use super::*;

type Authority = CertifiedIssuer<'static, KeyPair>;

fn authority(name: &str) -> Authority {
    let mut params = CertificateParams::new(Vec::<String>::new()).expect("no names, no bad name");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("an authority")
}

/// Shakes hands with everybody, with a certificate of that name and age.
async fn serve(authority: &Authority, name: &str, expired: bool) -> (u16, JoinHandle<()>) {
    let mut params = CertificateParams::new(vec![name.to_owned()]).expect("a good name");
    if expired {
        params.not_before = rcgen::date_time_ymd(2001, 1, 1);
        params.not_after = rcgen::date_time_ymd(2002, 1, 1);
    }
    let key = KeyPair::generate().expect("a key");
    let certificate: CertificateDer<'static> = params.signed_by(&key, authority).expect("a certificate").der().clone();
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let config = ServerConfig::builder().with_no_client_auth().with_single_cert(vec![certificate], key).expect("fits");
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("bound").port();
    let server = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            drop(acceptor.accept(stream).await);
        }
    });
    (port, server)
}

/// What is said of a fetch from there.
async fn told(ca: &Path, url: &str) -> String {
    let config = FreightConfig {
        https_hosts: vec!["localhost".to_owned(), ".invalid".to_owned()],
        https_ca_file: Some(ca.to_owned()),
        https_timeout: Duration::from_secs(20),
        ..FreightConfig::default()
    };
    let (into, _taken) = mpsc::channel(1);
    match Remote::new(&config).expect("a client").fetch(url, &into).await {
        Err(Trouble::Later(why)) => why,
        Err(Trouble::Never(why)) => format!("never: {why}"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn each_cause_is_told_in_its_own_words() {
    drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
    let (trusted, stranger) = (authority("trusted"), authority("stranger"));
    let place = tempfile::tempdir().expect("a directory");
    let ca = place.path().join("ca.pem");
    std::fs::write(&ca, trusted.pem()).expect("written");
    let (unknown, a) = serve(&stranger, "localhost", false).await;
    let (other, b) = serve(&trusted, "other.example", false).await;
    let (expired, c) = serve(&trusted, "localhost", true).await;
    let plain = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let plain_port = plain.local_addr().expect("bound").port();
    let d = tokio::spawn(async move {
        while let Ok((mut stream, _)) = plain.accept().await {
            drop(stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await);
        }
    });
    let free = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let closed = free.local_addr().expect("bound").port();
    drop(free);
    let hint = "(hint: attachments.https_ca_file)";
    for (port, wanted) in [
        (unknown, format!("the certificate of localhost is from an issuer that is not trusted {hint}")),
        (other, "the certificate of localhost is for another name".to_owned()),
        (expired, "the certificate of localhost has expired, or the clock of this machine is wrong".to_owned()),
        (plain_port, "localhost does not speak https on that port".to_owned()),
        (closed, "localhost refuses connections: nothing listens there".to_owned()),
    ] {
        let why = told(&ca, &format!("https://localhost:{port}/x?key=canary")).await;
        assert_eq!(why, format!("cannot be fetched: {wanted}"));
    }
    let nowhere = told(&ca, "https://files.invalid/x?key=canary").await;
    assert!(nowhere.starts_with("cannot be fetched: files.invalid has no address in the DNS"), "{nowhere}");
    let http = told(&ca, "http://localhost/x").await;
    assert_eq!(http, "never: has a url that does not begin with https://");
    for server in [a, b, c, d] {
        server.abort();
    }
}
