//! Contents that are not in the outbox: files below one directory, and https addresses of allowed hosts.

use std::{error::Error as StdError, fs::File, io, time::Duration};

use tokio::sync::mpsc;
use url::Url;

use super::{FreightConfig, Piece, Trouble, send};

/// Opens an attachment's file, wherever links lead, if that is below the root.
pub(super) fn open(config: &FreightConfig, path: &str) -> Result<File, Trouble> {
    let Some(root) = &config.root else {
        return Err(Trouble::Never(
            "is named by a path, and no directory is allowed (hint: attachments.directory)".into(),
        ));
    };
    let readable =
        |error: std::io::Error| Trouble::Later(format!("cannot be read: {}", error.to_string().to_lowercase()));
    let root = root.canonicalize().map_err(|error| {
        Trouble::Later(format!("cannot be read: attachments.directory: {}", error.to_string().to_lowercase()))
    })?;
    let real = root.join(path).canonicalize().map_err(readable)?;
    if !real.starts_with(&root) {
        return Err(Trouble::Never("leads out of attachments.directory".into()));
    }
    // Before it is opened: a FIFO would wait for its writer.
    let facts = real.metadata().map_err(readable)?;
    if !facts.is_file() {
        return Err(Trouble::Never("is not a file".into()));
    }
    let file = File::open(&real).map_err(readable)?;
    if facts.len() > config.attachment_bytes_max {
        return Err(too_large(config.attachment_bytes_max));
    }
    Ok(file)
}

fn too_large(limit: u64) -> Trouble {
    Trouble::Never(format!("has more than {limit} bytes (attachments.bytes_max)"))
}

/// A client that asks allowed hosts only, and follows nobody.
pub(super) struct Remote {
    client: reqwest::Client,
    hosts: Vec<String>,
    types: Vec<String>,
    bytes_max: u64,
    timeout: Duration,
}

impl Remote {
    pub(super) fn new(config: &FreightConfig) -> Result<Self, String> {
        // A redirect would lead to another host; a proxy of the environment was not asked for.
        let mut builder = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .https_only(true)
            .timeout(config.https_timeout)
            .user_agent(concat!("hapax/", env!("CARGO_PKG_VERSION")));
        if let Some(file) = &config.https_ca_file {
            let text = std::fs::read(file).map_err(|error| format!("{}: {error}", file.display()))?;
            let roots = reqwest::Certificate::from_pem_bundle(&text);
            let roots = roots.map_err(|error| format!("{}: {error}", file.display()))?;
            builder = builder.tls_certs_only(roots);
        }
        Ok(Self {
            client: builder.build().map_err(|error| error.to_string())?,
            hosts: config.https_hosts.clone(),
            types: config.https_types.clone(),
            bytes_max: config.attachment_bytes_max,
            timeout: config.https_timeout,
        })
    }

    /// Hands the content on, piece after piece.
    pub(super) async fn fetch(&self, url: &str, into: &mpsc::Sender<Piece>) -> Result<(), Trouble> {
        let url = Url::parse(url).map_err(|_| Trouble::Never("has a url that is none".into()))?;
        if url.scheme() != "https" {
            return Err(Trouble::Never("has a url that does not begin with https://".into()));
        }
        let host = url.host_str().unwrap_or_default().to_ascii_lowercase();
        if !self.allows(&host) {
            return Err(Trouble::Never(format!(
                "is at a host that is not allowed: {host} (hint: attachments.https_hosts)"
            )));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(Trouble::Never("has a url with credentials in it".into()));
        }
        let response = self.client.get(url).send().await.map_err(|error| self.lost(&host, &error))?;
        let status = response.status();
        if status != reqwest::StatusCode::OK {
            return Err(Trouble::Later(format!("cannot be fetched: {host} says {}", status.as_u16())));
        }
        if response.content_length().is_some_and(|bytes| bytes > self.bytes_max) {
            return Err(too_large(self.bytes_max));
        }
        let kind = response.headers().get(reqwest::header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let kind = kind.unwrap_or_default().split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        if !self.takes(&kind) {
            return Err(Trouble::Never("has a media type that is not allowed (hint: attachments.https_types)".into()));
        }
        let (mut response, mut bytes) = (response, 0);
        while let Some(piece) = response.chunk().await.map_err(|error| self.lost(&host, &error))? {
            bytes += piece.len() as u64;
            if bytes > self.bytes_max {
                return Err(too_large(self.bytes_max));
            }
            send(into, Piece::Binary(piece.to_vec())).await?;
        }
        Ok(())
    }

    /// `host`, or `.domain` for all below it.
    fn allows(&self, host: &str) -> bool {
        self.hosts.iter().any(|allowed| match allowed.starts_with('.') {
            true => host.ends_with(allowed.as_str()),
            false => host == allowed,
        })
    }

    fn takes(&self, kind: &str) -> bool {
        self.types.is_empty()
            || self.types.iter().any(|allowed| match allowed.strip_suffix("/*") {
                Some(main) => kind.split('/').next() == Some(main),
                None => kind == allowed,
            })
    }

    /// Without the address, which may hold a key.
    fn lost(&self, host: &str, error: &reqwest::Error) -> Trouble {
        Trouble::Later(match () {
            () if error.is_timeout() => format!("cannot be fetched within {} s", self.timeout.as_secs()),
            () if error.is_connect() => format!("cannot be fetched: {}", unconnected(host, error)),
            () => "cannot be fetched: the connection was lost".into(),
        })
    }
}

/// Why there is no connection, and whose matter that is.
fn unconnected(host: &str, error: &reqwest::Error) -> String {
    if let Some(error) = cause::<rustls::Error>(error) {
        return untrusted(host, error);
    }
    let mut causes = std::iter::successors(Some(error as &(dyn StdError + 'static)), |error| beneath(*error));
    // The client says it in no other way.
    if causes.any(|cause| cause.to_string() == "dns error") {
        return format!("{host} has no address in the DNS, or no resolver answers (hint: attachments.https_hosts)");
    }
    match cause::<io::Error>(error).map(io::Error::kind) {
        Some(io::ErrorKind::ConnectionRefused) => format!("{host} refuses connections: nothing listens there"),
        Some(io::ErrorKind::TimedOut) => format!("{host} does not answer: a firewall, or the host is down"),
        Some(io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable) => {
            format!("there is no way through the network to {host}")
        }
        Some(io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset) => {
            format!("{host} closes the connection before TLS is spoken: is that port its https?")
        }
        _ => format!("no connection to {host}"),
    }
}

fn untrusted(host: &str, error: &rustls::Error) -> String {
    use rustls::{CertificateError as Bad, Error};
    match error {
        Error::InvalidCertificate(Bad::UnknownIssuer | Bad::BadSignature) => {
            format!("the certificate of {host} is from an issuer that is not trusted (hint: attachments.https_ca_file)")
        }
        Error::InvalidCertificate(Bad::Expired | Bad::ExpiredContext { .. }) => {
            format!("the certificate of {host} has expired, or the clock of this machine is wrong")
        }
        Error::InvalidCertificate(Bad::NotValidYet | Bad::NotValidYetContext { .. }) => {
            format!("the certificate of {host} is not valid yet, or the clock of this machine is wrong")
        }
        Error::InvalidCertificate(Bad::NotValidForName | Bad::NotValidForNameContext { .. }) => {
            format!("the certificate of {host} is for another name")
        }
        Error::InvalidCertificate(Bad::Revoked) => format!("the certificate of {host} is revoked"),
        Error::InvalidCertificate(_) => {
            format!("the certificate of {host} is not usable (hint: its issuer belongs into attachments.https_ca_file)")
        }
        Error::InvalidMessage(_) => format!("{host} does not speak https on that port"),
        Error::AlertReceived(_) => format!("{host} refuses to speak TLS with a client like this one"),
        _ => format!("no TLS can be spoken with {host}"),
    }
}

/// What an error is made of; an I/O error hides its own.
fn beneath<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a (dyn StdError + 'static)> {
    match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
        Some(inner) => Some(inner),
        None => error.source(),
    }
}

/// The outermost cause of a kind.
fn cause<'a, T: StdError + 'static>(error: &'a (dyn StdError + 'static)) -> Option<&'a T> {
    std::iter::successors(Some(error), |error| beneath(*error)).find_map(|cause| cause.downcast_ref())
}

#[cfg(test)]
mod tests;
