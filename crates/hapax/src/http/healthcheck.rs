//! `hapax healthcheck`: asks the listener of a running relay, for containers that have no other tool.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{
    cli::Healthcheck,
    config::Loaded,
    failure::{Exit, Refusal},
};

/// How long the answer may take: shorter than the time-outs of those who run this.
const PATIENCE: Duration = Duration::from_secs(4);

/// More than any answer to it.
const ANSWER_BYTES_MAX: u64 = 64 * 1024;

/// # Errors
/// No address to ask at.
pub(crate) async fn run(loaded: Loaded, options: Healthcheck) -> anyhow::Result<Exit> {
    let wrong: Vec<_> = loaded.problems.iter().filter(|problem| problem.path.starts_with("http")).cloned().collect();
    if !wrong.is_empty() {
        return Err(Refusal::configuration(&wrong).into());
    }
    let Some(listen) = loaded.settings.http.listen else {
        let hint = "write listen = \"127.0.0.1:9464\" below [http], or set HAPAX__HTTP__LISTEN";
        return Err(Refusal::setup("http.listen is not set: there is nobody to ask", &[hint]).into());
    };
    if listen.port() == 0 {
        let hint = "set a fixed one, 127.0.0.1:9464 say, in the configuration that both are started with";
        let problem = "http.listen has port 0: the relay takes any free one at its start, and only its log says which";
        return Err(Refusal::setup(problem, &[hint]).into());
    }
    let path = if options.ready { "/readyz" } else { "/livez" };
    match tokio::time::timeout(PATIENCE, ask(reachable(listen), path)).await {
        Ok(Ok((200, body))) => {
            crate::output::line(body.trim_end());
            Ok(Exit::Done)
        }
        Ok(Ok((status, body))) => {
            Err(Refusal::failed(format!("{path} answers {status}: {}", body.trim_end()), &[]).into())
        }
        Ok(Err(error)) => {
            let words = error.to_string().to_lowercase();
            Err(Refusal::failed(format!("nobody answers at {listen}: {words}"), &["is hapax run at work there?"])
                .into())
        }
        Err(_elapsed) => {
            Err(Refusal::failed(format!("{path} at {listen} has not answered within {PATIENCE:?}"), &[]).into())
        }
    }
}

/// Who listens everywhere is asked here.
fn reachable(mut listen: SocketAddr) -> SocketAddr {
    match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => listen.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => listen.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    listen
}

async fn ask(address: SocketAddr, path: &str) -> io::Result<(u16, String)> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer).await?;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
    let status = status.ok_or_else(|| io::Error::other("that is not HTTP"))?;
    Ok((status, answer.split_once("\r\n\r\n").map_or("", |(_, body)| body).to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_listens_everywhere_is_asked_on_this_machine() {
        let reached = |listen: &str| reachable(listen.parse().expect("an address")).to_string();
        assert_eq!(reached("0.0.0.0:9464"), "127.0.0.1:9464");
        assert_eq!(reached("[::]:9464"), "[::1]:9464");
        assert_eq!(reached("10.0.0.7:1"), "10.0.0.7:1");
    }
}
