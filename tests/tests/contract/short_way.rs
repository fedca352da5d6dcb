//! The short way of the doors (migration 0021) answers as the long one: many generated notifications, right and wrong, go
//! through both, and what is stored, or said, must be the same to the byte.
//!
//! The long way is what 0003, 0005 and 0006 made, put back in a database of its own: its functions never ask
//! `outbox.is_plain()`, and a trigger with one way for everything fills the queue.

use fastrand::Rng;
use serde_json::{Map, Value, json};
use tokio_postgres::{Client, Error};

use super::support::Outbox;

/// The functions that have a short way now: the file of the long one, where it begins there, and what follows it.
const LONG_WAY: [(&str, &str, &str); 4] = [
    ("0003_protocol.sql", "CREATE FUNCTION outbox.fill_queue(", "COMMENT ON FUNCTION outbox.fill_queue("),
    ("0005_enqueue.sql", "CREATE FUNCTION outbox.put(", "COMMENT ON FUNCTION outbox.put("),
    ("0005_enqueue.sql", "DO $migration$", "CREATE FUNCTION outbox.notification_inserts("),
    ("0006_enqueue_many.sql", "CREATE FUNCTION outbox.put_many(", "COMMENT ON FUNCTION outbox.put_many("),
];

/// What one statement left behind or was told.
const LEFT: &str = "SELECT coalesce(jsonb_agg(to_jsonb(m) - '{id,created_at,txid}'::text[] || jsonb_build_object('queue', (
      SELECT jsonb_agg(jsonb_build_array(q.recipient_no, q.lane, q.parked, q.address_hash, q.order_key,
        q.due_at = greatest(m.created_at, m.not_before)) ORDER BY q.recipient_no) FROM outbox.queue q WHERE q.message_id = m.id),
    'key', (SELECT jsonb_agg(jsonb_build_array(k.tenant, k.key, k.digest)) FROM outbox.dedup_key k WHERE k.message_id = m.id))
    ORDER BY m.id), '[]')::text FROM outbox.message m";

async fn both() -> (Outbox, Outbox) {
    let (short, long) = (Outbox::new().await, Outbox::new().await);
    for (file, head, next) in LONG_WAY {
        let path = format!("{}/../migrations/{file}", env!("CARGO_MANIFEST_DIR"));
        let text = std::fs::read_to_string(&path).unwrap();
        let made = &text[text.find(head).expect("it is made there")..text.find(next).expect("something follows")];
        let again = made.replacen("CREATE FUNCTION", "CREATE OR REPLACE FUNCTION", 1);
        long.db.batch_execute(&again).await.expect("the long way is back");
    }
    let trigger = "ALTER TABLE outbox.message ALTER COLUMN created_at SET DEFAULT clock_timestamp();
        CREATE TRIGGER message_fills_queue AFTER INSERT ON outbox.message
        REFERENCING NEW TABLE AS fresh FOR EACH STATEMENT EXECUTE FUNCTION outbox.fill_queue()";
    long.db.batch_execute(trigger).await.expect("and its trigger");
    for outbox in [&short, &long] {
        let known = "INSERT INTO outbox.route (name) VALUES ('fast'), ('slow');
            INSERT INTO outbox.kind (name, priority, route) VALUES ('note', NULL, NULL), ('alarm', 'urgent', 'fast'), ('news', 'bulk', NULL)";
        outbox.db.batch_execute(known).await.expect("kinds and routes are known");
    }
    (short, long)
}

/// Runs the statements in a transaction that is rolled back.
async fn answer(db: &Client, statements: &[String]) -> String {
    db.batch_execute("BEGIN").await.unwrap();
    let mut said = Vec::new();
    for statement in statements {
        said.push(match db.batch_execute(statement).await {
            Ok(()) => db.query_one(LEFT, &[]).await.map_or_else(|e| refusal(&e), |row| row.get(0)),
            Err(error) => refusal(&error),
        });
    }
    db.batch_execute("ROLLBACK").await.unwrap();
    said.join("\n")
}

/// Every field a client sees, but for ids and times.
fn refusal(error: &Error) -> String {
    let said = error.as_db_error().unwrap_or_else(|| panic!("not the server's error: {error:?}"));
    let detail = said.detail().unwrap_or_default().split(|c: char| c.is_ascii_hexdigit()).filter(|s| !s.is_empty());
    let detail = detail.collect::<Vec<_>>().join("#");
    format!(
        "{} {} | {:?} | {:?} | {:?} | {:?} | {detail}",
        said.code().code(),
        said.message(),
        said.column(),
        said.hint(),
        said.table(),
        said.schema()
    )
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

fn as_sql(field: &str, value: &Value) -> String {
    match value {
        Value::Null => "NULL".to_owned(),
        Value::Array(items) if field != "attachments" => {
            let items: Vec<_> = items.iter().map(|item| item.as_str().map_or("NULL".to_owned(), quoted)).collect();
            format!("ARRAY[{}]::text[]", items.join(", "))
        }
        Value::String(text) => quoted(text),
        other => quoted(&other.to_string()),
    }
}

/// The same notification for each door.
fn doors(notification: &Map<String, Value>) -> [String; 3] {
    let names: Vec<_> = notification.keys().map(String::as_str).collect();
    let values: Vec<_> = notification.iter().map(|(field, value)| as_sql(field, value)).collect();
    let named: Vec<_> = names.iter().zip(&values).map(|(name, value)| format!("{name} => {value}")).collect();
    // Under names of their own where JSON has others.
    let document = Value::Array(vec![
        json!({"kind": "note", "recipients": ["first@example.org"], "payload": {}}),
        notification.clone().into(),
    ]);
    [
        format!("SELECT outbox.enqueue({})", named.join(", ")),
        format!("INSERT INTO outbox.notification ({}) VALUES ({})", names.join(", "), values.join(", ")),
        format!("SELECT outbox.enqueue_many({})", quoted(&document.to_string())),
    ]
}

/// Values at and around the edge of the short way, for each argument.
#[allow(clippy::too_many_lines, reason = "a table")]
fn edges() -> Vec<(&'static str, Vec<Value>)> {
    let local = |n: usize| format!("{}@example.org", "l".repeat(n));
    let addresses = [
        "ada@example.org",
        "ADA+tag@Example.Org",
        "Ada <ada@example.org>",
        "Ada Lovelace <ada@example.org>",
        "\"A, L\" <ada@example.org>",
        " ada@example.org",
        "ada@example.org ",
        "ada@example.org\n",
        "Ada\n<ada@example.org>",
        "Ada <ada@example.org>\n",
        "Ada <ada@example.org> ",
        "<ada@example.org>",
        " <ada@example.org>",
        "a.b@x",
        "a..b@x.org",
        ".a@x.org",
        "a.@x.org",
        "a@-x.org",
        "a@x-.org",
        "a@x..org",
        "a@x--y.org",
        "a@x.org.",
        "a@x_y.org",
        "a@b@c.org",
        "a b@c.org",
        "a,b@c.org",
        "Ada <ada@example.org",
        "ada@example.org>",
        "Ada <<ada@example.org>",
        "Ada <ada@example.org>>",
        "",
        " ",
        "@x.org",
        "a@",
        "ada",
        "Ädä <ada@example.org>",
        "ädä@example.org",
        "ada@exämple.org",
        "ada@[192.0.2.1]",
        "\"a b\"@example.org",
        "a\u{7f}@x.org",
        "A\u{85}B <a@x.org>",
        "A\u{7f}B <a@x.org>",
        "A;B <a@x.org>",
        "A@B <a@x.org>",
        "Ada<ada@example.org>",
        "Ada < ada@example.org>",
        "ada@example.org\u{a0}",
        "\u{a0}ada@example.org",
    ];
    let mut recipients: Vec<Value> = addresses.iter().map(|address| json!([address])).collect();
    recipients.extend([52, 53, 64, 65].map(|n| json!([local(n)])));
    recipients.extend([
        json!([format!("{} <ada@example.org>", "n".repeat(46))]),
        json!([format!("{} <ada@example.org>", "n".repeat(47))]),
        json!([format!("{} <ada@example.org>", "ä".repeat(46))]),
    ]);
    recipients.extend([
        json!([]),
        json!([null]),
        json!(["a@x.org", null]),
        json!(["a@x.org", "A@X.ORG"]),
        json!(["a@x.org", "b@x.org", "Ada <a@x.org>"]),
        json!("{a@x.org}"),
        json!("[0:0]={a@x.org}"),
        json!("[2:2]={a@x.org}"),
        json!("{{a@x.org}}"),
        Value::Null,
    ]);
    let text = |values: &[&str]| values.iter().map(|value| json!(value)).collect::<Vec<_>>();
    let long = |n: usize| json!("s".repeat(n));
    let mut subjects =
        text(&["", " ", "  x", "x ", "x\ny", "x\n", "\u{1}x", "x\u{7f}", "\u{7f}", "Ünï", "\u{85}x", "\u{a0}"]);
    subjects.extend([
        long(998),
        long(999),
        json!("ä".repeat(499)),
        json!("ä".repeat(500)),
        json!("ä".repeat(998)),
        json!("ä".repeat(999)),
        Value::Null,
    ]);
    let mut kinds =
        text(&["note", "alarm", "news", "n", "", "Note", "1note", "no te", "note\n", "nöte", "no.te-x_1", "unknown"]);
    kinds.extend([long(63), long(64), Value::Null]);
    let mut keys = text(&["k", "", " ", "k\n", "k\u{7f}", "\u{1}", "schlüssel"]);
    keys.extend([
        long(512),
        long(513),
        json!("ä".repeat(256)),
        json!("ä".repeat(257)),
        json!("ä".repeat(512)),
        json!("ä".repeat(513)),
        Value::Null,
    ]);
    let body = || vec![json!(""), json!("x"), json!("a\nb\n"), json!("\u{1}"), Value::Null];
    vec![
        ("recipients", recipients),
        ("subject", subjects),
        ("kind", kinds),
        ("dedup_key", keys.clone()),
        ("ordering_key", keys),
        ("body_text", body()),
        ("body_html", body()),
        (
            "payload",
            vec![
                json!({}),
                json!({"a": 1.50, "b": [null]}),
                json!([]),
                json!("x"),
                json!("null"),
                json!("{\"a\": \"\\u0000\"}"),
                json!("{\"a\": 1e999999}"),
                json!("{\"a\" : 1, \"a\":2}"),
                json!("{"),
                json!(1),
                Value::Null,
            ],
        ),
        (
            "sender",
            text(&["shop@example.org", "Shop <shop@example.org>", "x", "", " shop@example.org ", "S\n<a@x.org>"]),
        ),
        ("reply_to", text(&["shop@example.org", "x\ny", "Shop <shop@x>", "shop@example.org\n", "é <a@x.org>"])),
        ("cc", vec![json!([]), json!(["c@x.org"]), json!(["ada@example.org"]), json!(["x"]), Value::Null]),
        ("bcc", vec![json!([]), json!(["b@x.org"]), json!([null]), Value::Null]),
        ("headers", headers()),
        (
            "attachments",
            vec![
                json!([]),
                json!([{"filename": "a", "content_base64": "YQ=="}]),
                json!([{"filename": "a"}]),
                json!({}),
                Value::Null,
            ],
        ),
        ("not_before", text(&["2100-01-01T00:00:00Z", "infinity", "-infinity", "2000-01-01T00:00:00Z", "x"])),
        ("expires_at", text(&["2100-01-01T00:00:00Z", "2000-01-01T00:00:00Z", "infinity", "-infinity"])),
        ("priority", vec![json!("normal"), json!("urgent"), json!("bulk"), json!("x"), json!(""), Value::Null]),
        ("dedup_ttl", text(&["1 day", "0 days", "-1 day", "10 years", "10 years 1 second", "x"])),
        ("on_doubt", text(&["hold", "resend", "assume_sent", "x", ""])),
        ("route", with_lengths(63, text(&["fast", "Fast", "nowhere", "", "1", "a\n", "eu.west_1-b"]))),
        ("tenant", with_lengths(100, text(&["t", "t t", "", "T:1_2.3-4", "-t", "t\n", "é"]))),
        ("locale", with_lengths(35, text(&["de", "d e", "pt-BR", "pt_BR", "de-", "", "1"]))),
        (
            "traceparent",
            text(&[
                "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
                "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
                "00-00000000000000000000000000000000-b7ad6b7169203331-01",
                "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
                "00-0AF7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
                "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\n",
                "00-0af7651916cd43dd8448eb211c80319cb7-ad6b7169203331-01",
                "x",
            ]),
        ),
        ("tracestate", text(&["a=b", "", "é"])),
        ("nonsense", text(&["x"])),
        ("id", text(&["01970000-0000-7000-8000-000000000000"])),
    ]
}

/// Around the 84 bytes of text up to which the short way looks at headers itself.
fn headers() -> Vec<Value> {
    let named = |name: usize, value: usize| json!({"x".repeat(name): "v".repeat(value)});
    vec![
        json!({}),
        json!({"X-A": "1"}),
        json!({"X-A": "1", "X-B": "2"}),
        json!({"X-A": ""}),
        json!({"": "1"}),
        json!({"X A": "1"}),
        json!({"X-Ä": "1"}),
        json!({"From": "x"}),
        json!({"X-A": "1", "rEpLy-To": "a@x.org"}),
        json!({"DKIM-Signature": "x"}),
        json!({"Dates": "x", "Sender-Of": "x"}),
        json!({"X-Hapax-Dedup-Key": "x"}),
        json!({"X-A": "1", "x-hAPAX-": "x"}),
        json!({"X-A": "\"from\": \"x\""}),
        json!({"X-A": "a\\b\"c/d", "X-B": "ä 🎉"}),
        json!({"X-A": "1\n2"}),
        json!({"X-A": "\u{7f}"}),
        json!({"X-A": "\u{85}"}),
        json!({"X-A": "\u{1}"}),
        json!({"X-A": 1}),
        json!({"X-A": null}),
        json!({"X-A": ["1"]}),
        json!({"X-A": {"X-B": "1"}}),
        named(76, 0),
        named(77, 0),
        named(78, 0),
        named(76, 10),
        named(77, 100),
        named(10, 66),
        named(10, 67),
        named(10, 8000),
        named(10, 8001),
        Value::from((0..100).map(|n| (format!("X-{n}"), json!("v"))).collect::<Map<_, _>>()),
        Value::from((0..101).map(|n| (format!("X-{n}"), json!("v"))).collect::<Map<_, _>>()),
        json!([]),
        json!(["X-A"]),
        json!("x"),
        json!("null"),
        Value::Null,
    ]
}

/// And the longest that is allowed, and one more.
fn with_lengths(most: usize, mut values: Vec<Value>) -> Vec<Value> {
    values.extend([most, most + 1].map(|n| json!("a".repeat(n))));
    values
}

fn forms() -> [Map<String, Value>; 3] {
    let form = |more: Value| {
        let mut all = json!({"kind": "note", "recipients": ["ada@example.org"]}).as_object().unwrap().clone();
        all.extend(more.as_object().unwrap().clone());
        all
    };
    [
        form(json!({"subject": "Hello", "body_text": "hi", "body_html": "<p>hi"})),
        form(json!({"payload": {"a": 1}})),
        form(json!({"subject": "Hello", "body_html": "<p>hi", "dedup_key": "k"})),
    ]
}

async fn compare(short: &Outbox, long: &Outbox, statements: &[String]) -> bool {
    let (said, before) = (answer(&short.db, statements).await, answer(&long.db, statements).await);
    assert_eq!(said, before, "{statements:#?}");
    !said.contains(" | ")
}

#[tokio::test]
async fn every_edge_of_every_argument_is_answered_as_before() {
    let (short, long) = both().await;
    let (mut stored, mut refused) = (0, 0);
    for form in forms() {
        for (field, values) in edges() {
            for value in values {
                let mut notification = form.clone();
                notification.insert(field.to_owned(), value);
                for statement in doors(&notification) {
                    if compare(&short, &long, &[statement]).await { stored += 1 } else { refused += 1 }
                }
            }
        }
    }
    assert!(stored > 300 && refused > 300, "{stored} stored, {refused} refused");
}

#[tokio::test]
async fn random_combinations_and_repeats_are_answered_as_before() {
    let seed = std::env::var("HAPAX_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(|| fastrand::u64(..));
    println!("HAPAX_SEED={seed}");
    let (mut random, edges, forms) = (Rng::with_seed(seed), edges(), forms());
    let (short, long) = both().await;
    for _ in 0..300 {
        let mut statements = Vec::new();
        for _ in 0..2 {
            let mut notification = forms[random.usize(..3)].clone();
            for _ in 0..random.usize(0..3) {
                let (field, values) = &edges[random.usize(..edges.len())];
                notification.insert((*field).to_owned(), values[random.usize(..values.len())].clone());
            }
            statements.push(doors(&notification)[random.usize(..3)].clone());
        }
        compare(&short, &long, &statements).await;
    }
}

#[tokio::test]
async fn the_queue_is_filled_as_before_whatever_is_enqueued() {
    let (short, long) = both().await;
    let addresses = ["a@x.org", "A@X.org", "Ada <a@x.org>", "\"<\" <É@x.org>", "b@x.org", "< a@x.org >", "B <b@X.ORG>"];
    let options = [
        json!({}),
        json!({"route": "slow"}),
        json!({"priority": "bulk"}),
        json!({"ordering_key": "o"}),
        json!({"ordering_key": "o", "tenant": "t"}),
        json!({"not_before": "2100-01-01T00:00:00Z"}),
        json!({"dedup_key": "k"}),
    ];
    let mut random = Rng::with_seed(7);
    for _ in 0..150 {
        let mut elements = Vec::new();
        for _ in 0..random.usize(1..4) {
            let mut list = |least: usize| {
                let count = random.usize(least..4);
                Value::from((0..count).map(|_| addresses[random.usize(..addresses.len())]).collect::<Vec<_>>())
            };
            let mut one = json!({"recipients": list(1), "cc": list(0), "bcc": list(0), "payload": {}})
                .as_object()
                .unwrap()
                .clone();
            one.insert("kind".to_owned(), json!(["note", "alarm", "news", "other"][random.usize(..4)]));
            one.extend(options[random.usize(..options.len())].as_object().unwrap().clone());
            elements.push(one);
        }
        let statements: Vec<_> = elements.iter().map(|one| doors(one)[random.usize(..2)].clone()).collect();
        compare(&short, &long, &statements).await;
        let document = Value::from(elements.into_iter().map(Value::from).collect::<Vec<_>>());
        compare(&short, &long, &[format!("SELECT outbox.enqueue_many({})", quoted(&document.to_string()))]).await;
    }
}

#[tokio::test]
async fn the_common_notification_goes_the_short_way() {
    let (short, long) = both().await;
    for outbox in [&short, &long] {
        outbox
            .db
            .batch_execute("ALTER FUNCTION outbox.checked(text, outbox.notification) RENAME TO put_away")
            .await
            .unwrap();
    }
    for form in forms() {
        for statement in doors(&form) {
            // A document with a key is looked at closely.
            if form.contains_key("dedup_key") && statement.contains("enqueue_many") {
                continue;
            }
            short
                .db
                .batch_execute(&statement.replace("\"k\"", "null").replace("'k'", "NULL"))
                .await
                .expect("nothing else is asked");
            assert_eq!(long.db.batch_execute(&statement).await.unwrap_err().code().unwrap().code(), "42883");
        }
    }
}
