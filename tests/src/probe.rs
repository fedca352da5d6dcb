//! Asking a running relay over HTTP, as a probe or a scraper does.

use std::collections::BTreeMap;
use std::time::Duration;

use hapax_testkit::HapaxProcess;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const PATIENCE: Duration = Duration::from_secs(10);

/// What was answered.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The status code; 0 when nobody answered.
    pub status: u16,
    /// Of the body.
    pub content_type: String,
    /// The body.
    pub body: String,
}

/// The listener of a relay.
#[derive(Clone, Debug)]
pub struct Probe(String);

impl Probe {
    /// Waits until the relay says where it listens.
    ///
    /// # Panics
    /// When it says nothing, or something else.
    pub async fn of(relay: &HapaxProcess) -> Self {
        let line = relay.wait_for_line(|line| line.contains("http.listen")).await;
        let json: serde_json::Value = serde_json::from_str(&line).expect("a line of the log is JSON");
        Self(json["http.listen"].as_str().expect("it says where").to_owned())
    }

    /// The address.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.0
    }

    /// Asks once.
    pub async fn get(&self, path: &str) -> Answer {
        self.get_with(path, "*/*").await
    }

    /// Asks once for a kind of text.
    pub async fn get_with(&self, path: &str, accept: &str) -> Answer {
        let asked = tokio::time::timeout(PATIENCE, self.ask(path, accept)).await;
        let text = asked.ok().and_then(Result::ok).unwrap_or_default();
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or_default();
        let content_type = head.lines().find_map(|line| line.strip_prefix("content-type: "));
        Answer {
            status: head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0),
            content_type: content_type.unwrap_or_default().to_owned(),
            body: body.to_owned(),
        }
    }

    async fn ask(&self, path: &str, accept: &str) -> std::io::Result<String> {
        let mut stream = TcpStream::connect(&self.0).await?;
        let request =
            format!("GET {path} HTTP/1.1\r\nHost: {}\r\nAccept: {accept}\r\nConnection: close\r\n\r\n", self.0);
        stream.write_all(request.as_bytes()).await?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await?;
        Ok(text)
    }

    /// Scrapes: every series with its value.
    ///
    /// # Panics
    /// When nobody answers.
    pub async fn scrape(&self) -> Scrape {
        let answer = self.get("/metrics").await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let series = answer.body.lines().filter(|line| !line.starts_with('#')).filter_map(|line| {
            let (name, value) = line.rsplit_once(' ')?;
            Some((name.to_owned(), value.parse().ok()?))
        });
        Scrape { series: series.collect(), text: answer.body.clone() }
    }
}

/// The figures of one moment.
#[derive(Clone, Debug)]
pub struct Scrape {
    /// Names with their labels, as they are written.
    pub series: BTreeMap<String, f64>,
    /// As it came.
    pub text: String,
}

impl Scrape {
    /// The value of a series without the prefix `hapax_`, `attempts_total{route="default",outcome="accepted"}`.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    pub fn value(&self, series: &str) -> f64 {
        let found = self.series.get(&format!("hapax_{series}"));
        *found.unwrap_or_else(|| panic!("no series hapax_{series} in\n{}", self.text))
    }

    /// Whether there is a series that begins so.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.series.keys().any(|series| series.starts_with(name))
    }
}
