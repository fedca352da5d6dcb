//! `[telemetry]`: where traces go, and how many. Off unless there is an endpoint.

use std::{fmt, path::Path, time::Duration};

use config::{Map, Value};
use reqwest::{
    Url,
    header::{HeaderMap, HeaderName, HeaderValue},
};

use super::{
    attachments::certificates,
    origin::Problem,
    reader::{Given, Reader, Section},
    secrets::{self, Names, Secret},
    settings::Route,
};

/// Where a collector takes traces, below its base.
const PATH: &str = "v1/traces";

const TIMEOUT: Duration = Duration::from_secs(5);

/// Keys that are nothing without the endpoint.
const DEPENDENT: [&str; 3] = ["sample_ratio", "service_name", "otlp_timeout"];

/// A collector, and what it is sent.
#[derive(Clone)]
pub(crate) struct Telemetry {
    pub(crate) url: Url,
    pub(crate) client: reqwest::Client,
    /// May hold a token: marked as sensitive, so that nothing shows it.
    pub(crate) headers: HeaderMap,
    pub(crate) timeout: Duration,
    pub(crate) service_name: String,
    pub(crate) sample_ratio: f64,
    /// What the client trusts, where that is not the system's.
    ca: Option<Vec<u8>>,
}

impl fmt::Debug for Telemetry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let headers = self.headers.len();
        f.debug_struct("Telemetry").field("url", &self.url.as_str()).field("headers", &headers).finish_non_exhaustive()
    }
}

impl Telemetry {
    /// Whether spans would be sent in the same way.
    pub(crate) fn sends_as(&self, other: &Self) -> bool {
        let of = |telemetry: &Self| (telemetry.url.clone(), telemetry.timeout, telemetry.service_name.clone());
        of(self) == of(other) && self.headers == other.headers && self.ca == other.ca
    }
}

pub(super) fn read(
    reader: &mut Reader,
    root: &mut Map<String, Value>,
    credentials: Option<&Path>,
) -> Option<Telemetry> {
    let mut section = reader.section(root, "", "telemetry");
    let given = section.names();
    let endpoint = section.take("otlp_endpoint");
    section.show("otlp_endpoint", endpoint.as_ref(), None);
    let names = Names { key: "otlp_headers", file_key: "otlp_headers_file", credential: "otlp_headers" };
    let (secret, file) = secrets::find_with_file(&mut section, &names, credentials);
    let key = if file.is_some() { "otlp_headers_file" } else { "otlp_headers" };
    let headers = secret.map(|secret| headers(&mut section, key, &secret)).unwrap_or_default();
    let ca = section.file("otlp_ca_file").and_then(|(path, given)| trusted(&mut section, &path, &given));
    let millisecond = Duration::from_millis(1);
    let timeout = section.duration("otlp_timeout", TIMEOUT, 100 * millisecond..=60_000 * millisecond);
    let service_name = section.text("service_name", Some("hapax")).unwrap_or_default();
    let sample_ratio = section.number("sample_ratio", 1.0, 0.0..=1.0, "a number");
    let url = endpoint.as_ref().and_then(|endpoint| url(&mut section, endpoint));
    let useless = DEPENDENT.into_iter().find(|key| endpoint.is_none() && given.iter().any(|given| given == key));
    if let Some(key) = useless {
        let warning = Problem::new(section.path(key), "has no effect without telemetry.otlp_endpoint");
        section.reader.warnings.push(warning.hint("otlp_endpoint = \"http://127.0.0.1:4318\" turns traces on"));
    }
    let client = client(&mut section, ca.as_deref(), timeout);
    section.finish();
    Some(Telemetry { url: url?, client: client?, headers, timeout, service_name, sample_ratio, ca })
}

fn url(section: &mut Section<'_>, given: &Given) -> Option<Url> {
    let hint = "the base of a collector's OTLP over HTTP, to which /v1/traces is added: http://127.0.0.1:4318, or \
                https://otlp.example.com";
    let mut refuse = |message: &str, hint: &str| {
        section.refuse_with("otlp_endpoint", given, message, hint);
        None
    };
    let Ok(mut url) = Url::parse(&given.text) else { return refuse("is not a URL", hint) };
    if !["http", "https"].contains(&url.scheme()) || url.host_str().is_none() {
        return refuse("is not a URL that begins with http:// or https://", hint);
    }
    if !url.username().is_empty() || url.password().is_some() {
        return refuse(
            "has credentials in it",
            "write them to a file as a header, and name that with otlp_headers_file",
        );
    }
    if url.query().is_some() || url.fragment().is_some() {
        return refuse("has more than a path behind its host", hint);
    }
    let base = url.path().trim_end_matches('/').to_owned();
    if !base.ends_with(&format!("/{PATH}")) {
        url.set_path(&format!("{base}/{PATH}"));
    }
    Some(url)
}

/// `Name: value`, one a line. What is wrong with them is said without any of it.
fn headers(section: &mut Section<'_>, key: &str, secret: &Secret) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (at, line) in secret.expose().lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let header = line.split_once(':').and_then(|(name, value)| {
            let name = HeaderName::from_bytes(name.trim().as_bytes()).ok()?;
            let mut value = HeaderValue::from_str(value.trim()).ok()?;
            value.set_sensitive(true);
            Some((name, value))
        });
        match header {
            Some((name, value)) => drop(headers.insert(name, value)),
            None => {
                let problem = Problem::new(section.path(key), format!("line {} in it is not a header", at + 1));
                section.reader.problems.push(problem.hint("one a line: Authorization: Bearer TOKEN"));
            }
        }
    }
    headers
}

fn trusted(section: &mut Section<'_>, path: &Path, given: &Given) -> Option<Vec<u8>> {
    if let Err((message, hint)) = certificates(path) {
        section.refuse_with("otlp_ca_file", given, message, hint);
        return None;
    }
    std::fs::read(path).ok()
}

/// A redirect would lead to another host; a proxy of the environment was not asked for.
fn client(section: &mut Section<'_>, ca: Option<&[u8]>, timeout: Duration) -> Option<reqwest::Client> {
    let mut builder = reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .timeout(timeout)
        .user_agent(concat!("hapax/", env!("CARGO_PKG_VERSION")));
    if let Some(Ok(roots)) = ca.map(reqwest::Certificate::from_pem_bundle) {
        builder = builder.tls_certs_only(roots);
    }
    match builder.build() {
        Ok(client) => Some(client),
        Err(error) => {
            let message = format!("no connection can be made: {}", crate::failure::chain(&error));
            section.reader.problems.push(Problem::new(section.path("otlp_ca_file"), message));
            None
        }
    }
}

/// What routes ask for that nobody would see.
pub(super) fn warn(reader: &mut Reader, routes: &[Route]) {
    for route in routes.iter().filter(|route| route.traceparent_header) {
        let path = format!("routes.{}.traceparent_header", route.name);
        let warning = Problem::new(path, "has no effect without telemetry.otlp_endpoint");
        reader
            .warnings
            .push(warning.hint("otlp_endpoint = \"http://127.0.0.1:4318\" below [telemetry] turns traces on"));
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Inputs, Loaded, load};

    fn loaded(endpoint: &str, headers: &str) -> Loaded {
        crate::run::install_crypto();
        let variables = [("ENDPOINT", endpoint), ("HEADERS", headers)];
        let variable = |(key, value): (&str, &str)| (format!("HAPAX__TELEMETRY__OTLP_{key}"), value.to_owned());
        load(&Inputs { variables: variables.map(variable).into(), ..Inputs::default() })
    }

    #[test]
    fn the_path_is_added_once() {
        for (given, url) in [
            ("http://127.0.0.1:4318", "http://127.0.0.1:4318/v1/traces"),
            ("http://127.0.0.1:4318/", "http://127.0.0.1:4318/v1/traces"),
            ("https://otlp.example.com/tenant/7/", "https://otlp.example.com/tenant/7/v1/traces"),
            ("https://otlp.example.com/v1/traces", "https://otlp.example.com/v1/traces"),
        ] {
            let telemetry = loaded(given, "").settings.telemetry.expect("an endpoint");
            assert_eq!(telemetry.url.as_str(), url, "{given}");
        }
        assert!(loaded("", "").settings.telemetry.is_none(), "off");
    }

    #[test]
    fn headers_are_one_a_line_and_nothing_shows_them() {
        let good = loaded("http://127.0.0.1:4318", "Authorization: Bearer CANARY\n\nx-tenant:shop\n");
        let telemetry = good.settings.telemetry.as_ref().expect("an endpoint");
        assert_eq!(telemetry.headers["authorization"], "Bearer CANARY");
        assert_eq!(telemetry.headers["x-tenant"], "shop");
        let shown = format!("{telemetry:?} {:?} {:?}", telemetry.headers, good.shown);
        assert!(!shown.contains("CANARY"), "{shown}");
        let bad = loaded("http://127.0.0.1:4318", "x-tenant: shop\nCANARY");
        let problems: Vec<String> = bad.problems.iter().map(ToString::to_string).collect();
        let said = problems.iter().find(|said| said.starts_with("telemetry.")).expect("a problem");
        assert!(said.contains("telemetry.otlp_headers: line 2 in it is not a header"), "{said}");
        assert!(!problems.concat().contains("CANARY"), "{problems:?}");
    }
}
