//! Traces: what a collector is sent of deliveries, and what mail pays when there is none that listens. Real processes, a
//! real database, the scripted mail server, and a collector that decodes what it gets.

use std::time::{Duration, Instant};

use hapax_testkit::smtp::TlsMode;
use hapax_testkit::{Fault, HapaxProcess, Phase, ReservedPort, Rule, Script, SmtpServer, eventually};
use hapax_tests::collector::{Collector, Manner, attribute};
use hapax_tests::probe::Probe;
use hapax_tests::promtool;
use hapax_tests::stage::{PATIENCE, Settings, Stage};
use opentelemetry_proto::tonic::trace::v1::{Span, span::SpanKind, status::StatusCode};

const PRODUCER: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
const PRODUCER_UNSAMPLED: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";
const STEPS: [&str; 10] =
    ["connect", "greeting", "ehlo", "mail", "rcpt", "data", "intent", "body", "end_marker", "reply"];

fn traced(stage: &Stage, endpoint: &str) -> Settings {
    stage
        .settings()
        .set("http.listen", "127.0.0.1:0")
        .set("telemetry.otlp_endpoint", endpoint)
        .set("routes.default.max_connections", 1)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn text(span: &Span, key: &str) -> String {
    attribute(&span.attributes, key).unwrap_or_default()
}

fn steps(span: &Span) -> Vec<&str> {
    span.events.iter().map(|event| event.name.as_str()).collect()
}

/// The closing lines of a relay's attempts, as JSON.
fn closing_lines(relay: &HapaxProcess) -> Vec<serde_json::Value> {
    let lines = relay.lines();
    let parsed = lines.iter().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    parsed.filter(|line| line.get("attempt.token").is_some() && line.get("verdict").is_some()).collect()
}

/// Enqueues one notification of which no word may be in a trace; answers its id.
async fn enqueue_secret(stage: &Stage, recipient: &str, traceparent: Option<&str>) -> String {
    let sql = "SELECT outbox.enqueue(kind => 'note', recipients => ARRAY[$1], subject => 'CANARY-SUBJECT', \
               body_text => 'CANARY-BODY', traceparent => $2)::text";
    stage.text(sql, &[&recipient, &traceparent]).await.expect("an id")
}

/// The times of a span and its events rise.
fn assert_in_time(span: &Span) {
    let mut times = vec![span.start_time_unix_nano];
    times.extend(span.events.iter().map(|event| event.time_unix_nano));
    times.push(span.end_time_unix_nano);
    assert!(times.windows(2).all(|pair| pair[0] <= pair[1]), "{span:?}");
    assert!(span.end_time_unix_nano > span.start_time_unix_nano, "{span:?}");
}

/// Both attempts of a delivery, and the delivery.
fn assert_one_trace(spans: &[Span], id: &str) -> String {
    let [refused, accepted, delivery] = spans else { panic!("two attempts and their delivery: {spans:#?}") };
    let kinds: Vec<i32> = spans.iter().map(|span| span.kind).collect();
    assert_eq!(kinds, [SpanKind::Client as i32, SpanKind::Client as i32, SpanKind::Producer as i32]);
    assert!(spans.iter().all(|span| span.trace_id == delivery.trace_id && span.trace_id.len() == 16));
    assert!(delivery.parent_span_id.is_empty());
    for (attempt, number, outcome) in [(refused, "1", "deferred"), (accepted, "2", "accepted")] {
        assert_eq!(attempt.parent_span_id, delivery.span_id);
        assert_eq!(attempt.name, "send default");
        assert_eq!(
            (text(attempt, "hapax.attempt").as_str(), text(attempt, "hapax.outcome").as_str()),
            (number, outcome)
        );
        assert_eq!(
            (text(attempt, "messaging.system"), text(attempt, "messaging.message.id")),
            ("smtp".into(), id.into())
        );
        assert_eq!((text(attempt, "server.address"), text(attempt, "hapax.kind")), ("127.0.0.1".into(), "note".into()));
        assert_in_time(attempt);
    }
    assert_ne!(refused.span_id, accepted.span_id);
    assert_eq!(steps(refused), STEPS[..5]);
    // On the same connection, if it was still there.
    assert!(steps(accepted).ends_with(&STEPS[3..]), "{accepted:?}");
    let code = |span: &Span| span.status.as_ref().map(|status| status.code);
    let (error, unset) = (Some(StatusCode::Error as i32), Some(StatusCode::Unset as i32));
    assert_eq!((code(refused), code(accepted), code(delivery)), (error, unset, unset));
    assert_eq!((text(refused, "hapax.phase"), text(refused, "error.type")), ("rcpt".into(), "deferred".into()));
    assert_eq!((delivery.name.as_str(), text(delivery, "hapax.verdict").as_str()), ("deliver note", "sent"));
    assert!(delivery.start_time_unix_nano <= refused.start_time_unix_nano);
    for link in spans.iter().map(|span| &span.links) {
        let [link] = &link[..] else { panic!("one link: {link:?}") };
        assert_eq!(format!("00-{}-{}-01", hex(&link.trace_id), hex(&link.span_id)), PRODUCER);
        assert_ne!(link.trace_id, delivery.trace_id, "a link, not a parent");
    }
    hex(&delivery.trace_id)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_delivery_is_one_trace_that_names_nobody_and_only_what_is_sampled_is_sent() {
    let refusal = Rule::at(Phase::Rcpt, Fault::Reply4xx).recipient("canary-address@example.org").times(1);
    let stage = Stage::with(SmtpServer::builder().script(Script::rules([refusal])).start()).await;
    let collector = Collector::start(Manner::Takes).await;
    let settings = traced(&stage, collector.endpoint()).set("telemetry.sample_ratio", 0).set("relay.name", "mail-7");
    let headers = stage.cluster.url_for("postgres", "relay"); // any text that is long and secret
    let headers = format!("Authorization: Bearer {}\nX-Tenant: shop\n", hex(headers.as_bytes()));
    let secret = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(secret.path(), &headers).expect("written");
    let mut relay = settings.set("telemetry.otlp_headers_file", secret.path().display()).run().await;
    let probe = Probe::of(&relay).await;
    assert_eq!(probe.scrape().await.value("spans_dropped_total"), 0.0);

    let id = enqueue_secret(&stage, "canary-address@example.org", Some(PRODUCER)).await;
    stage.until("sent", 1).await;
    // Nobody asked for these: one has no producer's trace and the share is 0, the other's is not kept.
    enqueue_secret(&stage, "first@example.org", None).await;
    enqueue_secret(&stage, "second@example.org", Some(PRODUCER_UNSAMPLED)).await;
    stage.until("sent", 3).await;
    let mut spans = collector.until(3).await;
    spans.sort_by_key(|span| (span.parent_span_id.is_empty(), span.start_time_unix_nano));
    let trace = assert_one_trace(&spans, &id);

    let (heads, bytes) = collector.raw();
    let bearer = headers.lines().next().expect("a header").to_ascii_lowercase();
    for head in &heads {
        assert!(head.starts_with("post /v1/traces http/1.1") && head.contains(&bearer), "{head}");
        assert!(head.contains("content-type: application/x-protobuf") && head.contains("x-tenant: shop"), "{head}");
    }
    let sent = String::from_utf8_lossy(&bytes).to_ascii_lowercase();
    for word in ["canary", "example.org", "no-reply", "mailbox", "recipient ok", "bearer"] {
        assert!(!sent.contains(word), "{word}: {sent}");
    }
    let resource = collector.resource();
    for (key, value) in [("service.name", "hapax"), ("service.instance.id", "mail-7")] {
        assert_eq!(attribute(&resource, key).as_deref(), Some(value));
    }

    // The log names the same trace, and so does the figure, to whoever asks for that format.
    let closed = closing_lines(&relay);
    let of = |line: &&serde_json::Value| line["delivery"].as_str().is_some_and(|key| key.starts_with(&id));
    let named: Vec<&str> = closed.iter().filter(of).filter_map(|line| line["trace_id"].as_str()).collect();
    assert_eq!(named, [trace.as_str(), trace.as_str()]);
    let exemplar = format!("# {{trace_id=\"{trace}\"}}");
    let open = probe.get_with("/metrics", "application/openmetrics-text").await.body;
    assert!(
        open.lines().any(|line| line.contains("time_to_accept_seconds_bucket") && line.contains(&exemplar)),
        "{open}"
    );
    let plain = probe.scrape().await;
    assert!(!plain.text.contains(&trace), "{}", plain.text);
    if let Ok(promtool) = promtool::find() {
        assert_eq!(promtool::check_metrics(&promtool, &plain.text), (true, String::new()), "{}", plain.text);
    }
    assert_eq!((plain.value("spans_exported_total"), plain.value("spans_dropped_total")), (3.0, 0.0));
    relay.sigterm();
    assert_eq!(relay.wait_exit(PATIENCE).await.code(), Some(0), "{}", relay.report());
    assert_eq!(collector.spans().len(), 3, "nothing but what is sampled");
    assert!(!relay.lines().join("\n").to_ascii_lowercase().contains(&bearer));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_collector_that_listens_mail_flows_spans_are_counted_and_the_end_is_prompt() {
    let stage = Stage::set().await;
    let nobody = ReservedPort::reserve().expect("a port");
    let silent = Collector::start(Manner::Silent).await;
    let mut sent = 0;
    for endpoint in [format!("http://127.0.0.1:{}", nobody.number()), silent.endpoint().to_owned()] {
        let settings = traced(&stage, &endpoint).set("telemetry.otlp_timeout", "500ms");
        let mut relay = settings.set("routes.default.max_connections", 8).run().await;
        let probe = Probe::of(&relay).await;
        stage.enqueue(200).await;
        sent += 200;
        stage.until("sent", sent).await;
        let lost = eventually(PATIENCE, async || {
            let lost = probe.scrape().await.value("spans_dropped_total");
            if lost > 0.0 { Ok(lost) } else { Err(lost) }
        })
        .await;
        // The last ones are in the queue when it is to end, and the collector would keep them waiting.
        stage.enqueue(50).await;
        sent += 50;
        stage.until("sent", sent).await;
        let asked = Instant::now();
        relay.sigterm();
        assert_eq!(relay.wait_exit(PATIENCE).await.code(), Some(0), "{}", relay.report());
        println!("{lost} spans were dropped, ended within {:.1?}", asked.elapsed());
        assert!(asked.elapsed() < Duration::from_secs(6), "{}", relay.report());
        let warned = relay.lines().iter().filter(|line| line.contains("spans are dropped")).count();
        assert_eq!(warned, 1, "{}", relay.report());
    }
    assert_eq!(stage.states().await.len(), 1, "everything was sent");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_header_is_the_place_of_the_delivery_and_the_same_at_every_attempt() {
    let refuse = |to: &str| Rule::at(Phase::EndMarker { took: false }, Fault::Reply4xx).recipient(to).times(1);
    let script = Script::rules([refuse("one@example.org"), refuse("two@example.org")]);
    let server = SmtpServer::builder()
        .script(script)
        .tls(TlsMode::StartTls)
        .credentials("canary-user", "CANARY-PASSWORD")
        .start();
    let stage = Stage::with(server).await;
    let [collector, next] = [Collector::start(Manner::Takes).await, Collector::start(Manner::Takes).await];
    let files = tempfile::tempdir().expect("a directory");
    std::fs::write(files.path().join("ca.pem"), stage.server.ca_pem()).expect("written");
    std::fs::write(files.path().join("password"), "CANARY-PASSWORD").expect("written");
    let settings = traced(&stage, collector.endpoint())
        .set("routes.default.url", format!("smtp://canary-user@localhost:{}?starttls=required", stage.server.port()))
        .set("routes.default.ca_file", files.path().join("ca.pem").display())
        .set("routes.default.password_file", files.path().join("password").display())
        .set("routes.default.traceparent_header", true);
    // Two relays, one after another: nothing is remembered between them.
    let mut first = settings.clone().set("retry.first", "1s").run().await;
    let sql = "SELECT outbox.enqueue(kind => 'note', recipients => ARRAY['one@example.org', 'two@example.org'], \
               subject => 'Hello', body_text => 'one', headers => '{\"Traceparent\": \"theirs\"}', traceparent => $1)::text";
    stage.text(sql, &[&Some(PRODUCER)]).await.expect("an id");
    stage.server.wait_until_within(PATIENCE, |ledger| ledger.totals().end_markers >= 2).await;
    first.sigterm();
    assert_eq!(first.wait_exit(PATIENCE).await.code(), Some(0), "{}", first.report());
    let relay = settings.run().await;
    let raw = "SELECT outbox.enqueue(kind => 'note', recipients => ARRAY['raw@example.org'], \
               raw_message => convert_to(E'Subject: raw\\r\\n\\r\\nraw\\r\\n', 'UTF8'))::text";
    stage.text(raw, &[]).await.expect("an id");
    stage.until("sent", 3).await;
    let ledger = stage.server.ledger();
    let mut places = Vec::new();
    for recipient in ["one@example.org", "two@example.org"] {
        let to = |one: &&hapax_testkit::smtp::Transaction| one.end_marker_read && one.recipients == [recipient];
        let attempts: Vec<_> = ledger.transactions().filter(to).collect();
        assert_eq!(attempts.len(), 2, "refused, then accepted");
        assert_eq!(attempts[0].body, attempts[1].body, "byte for byte");
        let head = String::from_utf8_lossy(&attempts[0].body).to_ascii_lowercase();
        assert_eq!(head.matches("traceparent:").count(), 1, "{head}");
        places.push(attempts[0].header("traceparent").expect("the header"));
    }
    let raw = ledger.messages().find(|one| one.recipients == ["raw@example.org"]).expect("it was taken");
    assert_eq!(raw.header("traceparent"), None, "a finished message stays as it is");
    // Five attempts, of them two of a relay that has ended, and three deliveries.
    let spans = collector.until(8).await;
    let (attempts, deliveries): (Vec<Span>, Vec<Span>) =
        spans.into_iter().partition(|span| span.kind == SpanKind::Client as i32);
    assert_eq!((attempts.len(), deliveries.len()), (5, 3));
    let encrypted = attempts.iter().find(|span| span.events[0].name == "connect").expect("one that connected");
    assert_eq!(steps(encrypted)[..7], ["connect", "greeting", "ehlo", "tls", "ehlo", "auth", "mail"]);
    for place in &places {
        let is_it = |span: &Span| format!("00-{}-{}-01", hex(&span.trace_id), hex(&span.span_id)) == *place;
        assert!(deliveries.iter().any(is_it), "{place}: {deliveries:#?}");
    }
    assert_ne!(places[0], places[1], "each recipient has a trace");
    // Read again: from now on they go to another collector.
    let settings = settings.set("telemetry.otlp_endpoint", next.endpoint());
    std::fs::write(relay.directory().join("hapax.toml"), settings.toml()).expect("written");
    let mark = relay.lines().len();
    relay.sighup();
    relay.wait_for_line_after(mark, |line| line.contains("it holds from now on")).await;
    stage.enqueue(1).await;
    next.until(2).await;
    assert_eq!(collector.spans().len(), 8);
    let bytes = [collector.raw().1, next.raw().1].concat();
    assert!(!String::from_utf8_lossy(&bytes).to_ascii_lowercase().contains("canary"), "no user, no password");
}
