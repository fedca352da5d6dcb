//! What must hold whatever the driver is.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hapax_client::content::Any;
use hapax_client::{Attachment, Cancelled, Error, Notification, OnDoubt, Priority, State, mailbox};
use hapax_tests::shop::Shop;
use serde_json::{Value, json};
use tokio_postgres::Client;
use uuid::Uuid;

use crate::application::{Application, End, Failure};

/// The scenarios as tests of the module that calls it.
macro_rules! scenarios {
    ($application:ty) => {
        use crate::scenarios;

        #[tokio::test]
        async fn a_commit_sends_a_rollback_does_not() {
            scenarios::a_commit_sends_a_rollback_does_not::<$application>().await;
        }

        #[tokio::test]
        async fn a_repeated_event_gives_the_first_id_and_other_content_a_conflict() {
            scenarios::a_repeated_event_gives_the_first_id_and_other_content_a_conflict::<$application>().await;
        }

        #[tokio::test]
        async fn a_refusal_names_argument_and_remedy_and_the_connection_goes_on() {
            scenarios::a_refusal_names_argument_and_remedy_and_the_connection_goes_on::<$application>().await;
        }

        #[tokio::test]
        async fn every_argument_arrives_as_given() {
            scenarios::every_argument_arrives_as_given::<$application>().await;
        }

        #[tokio::test]
        async fn many_arrive_in_order_all_or_none() {
            scenarios::many_arrive_in_order_all_or_none::<$application>().await;
        }

        #[tokio::test]
        async fn status_tells_and_cancel_stops() {
            scenarios::status_tells_and_cancel_stops::<$application>().await;
        }

        #[tokio::test]
        async fn what_is_not_the_outbox_stays_the_drivers_error() {
            scenarios::what_is_not_the_outbox_stays_the_drivers_error::<$application>().await;
        }
    };
}

async fn open<A: Application>() -> (Shop, A, Client) {
    let shop = Shop::open().await.unwrap();
    let application = A::connect(&shop.url()).await;
    let superuser = shop.superuser().await.unwrap();
    (shop, application, superuser)
}

fn thanks(to: &str) -> Notification<Any> {
    Notification::new("order_confirmed", to).subject("Your order").body_text("Thank you.").into_any()
}

async fn count(superuser: &Client, sql: &str) -> i64 {
    superuser.query_one(&format!("SELECT count(*) FROM {sql}"), &[]).await.unwrap().get(0)
}

pub(crate) async fn a_commit_sends_a_rollback_does_not<A: Application>() {
    let (_shop, mut application, superuser) = open::<A>().await;
    let sent = application.order("ada@example.org", &thanks("ada@example.org"), End::Commit).await.unwrap();
    let not_sent = application.order("bob@example.org", &thanks("bob@example.org"), End::Rollback).await.unwrap();
    assert_ne!(sent, not_sent);
    let rows = superuser.query("SELECT m.id, o.email FROM outbox.message m, public.orders o", &[]).await.unwrap();
    let rows: Vec<(Uuid, String)> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    assert_eq!(rows, [(sent, "ada@example.org".to_owned())]);
    assert_eq!(count(&superuser, "outbox.queue").await, 1);
}

pub(crate) async fn a_repeated_event_gives_the_first_id_and_other_content_a_conflict<A: Application>() {
    let (_shop, mut application, superuser) = open::<A>().await;
    let confirmed = || thanks("ada@example.org").dedup_key("order-42-confirmed").dedup_ttl(Duration::from_secs(3600));
    let first = application.order("ada@example.org", &confirmed(), End::Commit).await.unwrap();
    assert_eq!(application.order("ada@example.org", &confirmed(), End::Commit).await.unwrap(), first);
    assert_eq!(count(&superuser, "outbox.message").await, 1);
    let remembered = "outbox.dedup_key WHERE expires_at - clock_timestamp() BETWEEN '59 minutes' AND '1 hour'";
    assert_eq!(count(&superuser, remembered).await, 1);

    let another = thanks("bob@example.org").dedup_key("order-42-confirmed");
    match application.order("bob@example.org", &another, End::Commit).await.unwrap_err() {
        Error::DedupConflict { first: known, message, hint } => {
            assert_eq!(known, Some(first));
            assert_eq!(message, "outbox.enqueue: dedup_key: was used for other content");
            assert!(hint.unwrap().starts_with("use a key that names this very event"));
        }
        other => panic!("not a conflict: {other:?}"),
    }
    assert_eq!(count(&superuser, "public.orders").await, 2, "the conflict rolled its order back");
    // Of another tenant's keys nobody knows anything.
    let tenants = another.tenant("acme");
    application.order("bob@example.org", &tenants, End::Commit).await.unwrap();
}

/// Takes a refusal apart.
fn refusal(failure: Failure) -> (Option<String>, String, String, String) {
    match failure {
        Error::Refused { sqlstate, argument, message, hint } => (sqlstate, argument, message, hint.unwrap_or_default()),
        other => panic!("not refused: {other:?}"),
    }
}

pub(crate) async fn a_refusal_names_argument_and_remedy_and_the_connection_goes_on<A: Application>() {
    let (_shop, mut application, superuser) = open::<A>().await;
    let letter = || Notification::new("greeting", "ada@example.org").subject("Hello").body_text("Hello.");
    let second = || UNIX_EPOCH + Duration::from_secs(1);
    let raw = || Notification::new("greeting", "ada@example.org").raw_message("no header");
    for (bad, code, argument, problem) in [
        (thanks("bad.recipient"), "22H03", "recipients", "element 1 has no @"),
        (headline("Hello\nBcc: x@y.z"), "22H06", "subject", "has a control character"),
        (letter().header("Message-ID", "<x@y>").into_any(), "22H07", "headers", "message-id is written by Hapax"),
        (letter().attachment(Attachment::new("", "x")).into_any(), "22H08", "attachments", "element 1 has no filename"),
        (raw().into_any(), "22H09", "raw_message", "does not begin with a header block"),
        (letter().expires_at(second()).into_any(), "22H11", "expires_at", "is in the past"),
        (letter().dedup_ttl(Duration::from_secs(1)).into_any(), "22H13", "dedup_ttl", "is given without dedup_key"),
        (letter().dedup_key("k").dedup_ttl(Duration::MAX).into_any(), "22H13", "dedup_ttl", "is not between 0 and 10"),
        (letter().tracestate("a=b").into_any(), "22H15", "tracestate", "is given without traceparent"),
        (payload(&json!([1])), "22H05", "payload", "is a JSON array, not an object"),
        (payload(&json!({"name": "a\0b"})), "22H05", "payload", "has a value that cannot be stored"),
    ] {
        let failure = application.order("bad@example.org", &bad, End::Commit).await.unwrap_err();
        let (sqlstate, named, message, hint) = refusal(failure);
        assert_eq!(named, argument, "{message}");
        assert!(message.starts_with(&format!("outbox.enqueue: {argument}: {problem}")), "{message}");
        assert!(!hint.is_empty(), "{message}");
        assert_eq!(sqlstate.as_deref(), A::HAS_SQLSTATE.then_some(code), "{message}");
    }
    // What Postgres would not even let through is refused in the same form.
    for (nul, argument) in [
        (letter().recipient("a\0@example.org").into_any(), "recipients"),
        (letter().body_html("<p>\0</p>").into_any(), "body_html"),
        (letter().header("X-Order", "4\x002").into_any(), "headers"),
        (letter().attachment(Attachment::new("a\0.txt", "x")).into_any(), "attachments"),
        (letter().route("\0").into_any(), "route"),
    ] {
        let (sqlstate, named, message, _) = refusal(application.enqueue(&nul).await.unwrap_err());
        assert_eq!((sqlstate, &*named), (None, argument));
        assert_eq!(message, format!("outbox.enqueue: {argument}: has a NUL character"));
        let (.., message, _) = refusal(application.enqueue_many(&[thanks("ada@example.org"), nul]).await.unwrap_err());
        assert_eq!(message, format!("outbox.enqueue_many: element 2: {argument}: has a NUL character"));
    }
    assert_eq!(count(&superuser, "public.orders").await, 0);
    let good = application.order("ada@example.org", &thanks("ada@example.org"), End::Commit).await.unwrap();
    let sql = "outbox.message m JOIN public.orders o ON o.email = m.recipients[1]";
    assert_eq!(count(&superuser, sql).await, 1);
    assert_eq!(application.status(good).await.unwrap().len(), 1);
}

fn payload(value: &Value) -> Notification<Any> {
    Notification::new("order_confirmed", "ada@example.org").payload(value).unwrap().into_any()
}

fn headline(subject: &str) -> Notification<Any> {
    Notification::new("greeting", "ada@example.org").subject(subject).body_text("Hello.").into_any()
}

/// 2100-02-28 23:59:59.123456 UTC and later.
fn in_2100(days: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_micros(4_107_542_399_123_456) + Duration::from_secs(days * 86_400)
}

/// Everything that does not depend on the form of content.
fn with_options<C>(notification: Notification<C>, key: &str) -> Notification<C> {
    notification
        .recipient(mailbox(r#"O"Neil \ Sons, "Ltd""#, "sons@example.org"))
        .recipient("Ωmega <omega@example.org>")
        .cc("bob@example.org")
        .cc("Grace <grace@example.org>")
        .bcc("heidi@example.org")
        .sender("Shop <no-reply@shop.example>")
        .not_before(in_2100(0))
        .expires_at(in_2100(2))
        .priority(Priority::Urgent)
        .ordering_key("order-42")
        .dedup_key(key)
        .dedup_ttl(Duration::from_micros(86_400_000_001))
        .on_doubt(OnDoubt::AssumeSent)
        .route("transactional")
        .tenant("acme")
        .locale("pt-BR")
        .traceparent("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
        .tracestate("rojo=00f067aa0ba902b7")
}

/// What the row of such a notification says.
fn stored(key: &str) -> Value {
    json!({
        "kind": "order_confirmed",
        "recipients": ["Ada <ada@example.org>", r#""O\"Neil \\ Sons, \"Ltd\"" <sons@example.org>"#,
                       "Ωmega <omega@example.org>"],
        "cc": ["bob@example.org", "Grace <grace@example.org>"], "bcc": ["heidi@example.org"],
        "sender": "Shop <no-reply@shop.example>", "not_before": "2100-02-28T23:59:59.123456+00:00",
        "expires_at": "2100-03-02T23:59:59.123456+00:00", "priority": "urgent", "ordering_key": "order-42",
        "dedup_key": key, "on_doubt": "assume_sent", "route": "transactional", "tenant": "acme", "locale": "pt-BR",
        "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "tracestate": "rojo=00f067aa0ba902b7",
        "reply_to": null, "payload": null, "subject": null, "body_text": null, "body_html": null, "raw_message": null,
        "headers": null, "attachments": null,
    })
}

/// One notification of each form with everything it takes, and its row.
fn everything(keys: &str) -> Vec<(Notification<Any>, Value)> {
    let new = || Notification::new("order_confirmed", "Ada <ada@example.org>");
    let key = |form: &str| format!("{keys}-{form}");
    let mut forms = Vec::new();
    let mut form = |notification: Notification<Any>, key: &str, own: Value| {
        let mut row = stored(key);
        row.as_object_mut().unwrap().extend(own.as_object().unwrap().clone());
        forms.push((notification, row));
    };

    #[derive(serde::Serialize)]
    struct Order<'a> {
        order_id: i64,
        total: f64,
        note: Option<&'a str>,
        lines: [&'a str; 2],
    }
    let order = Order { order_id: i64::MAX, total: 19.9, note: None, lines: ["It's \"this\" \\ & that ☕", "\n"] };
    let notification = with_options(new(), &key("payload")).payload(&order).unwrap().reply_to("help@shop.example");
    let own = json!({"payload": {"order_id": i64::MAX, "total": 19.9, "note": null,
        "lines": ["It's \"this\" \\ & that ☕", "\n"]}, "reply_to": "help@shop.example"});
    form(notification.into_any(), &key("payload"), own);

    let notification = with_options(new(), &key("body"))
        .subject("Your order $1 → \"42\" \\ ünïcode ☕")
        .reply_to("Help <help@shop.example>")
        .header("X-Campaign", "'; DROP TABLE orders; --")
        .header("List-Unsubscribe", "<https://shop.example/u?a=1&b=2>")
        .body_text("Thank you.\r\n.\nA line.\t$2 {{ }} \\n")
        .body_html("<p>Thank&nbsp;you.</p>")
        .attachment(Attachment::new("Rechnung \"Nr. 42\".pdf", [0, 255, 10, 13, 46]).content_type("application/pdf"))
        .attachment(Attachment::new("logo.png", []).content_type("image/png").content_id("logo@shop"))
        .attachment(Attachment::new("plain", "as it is"));
    let own = json!({
        "reply_to": "Help <help@shop.example>", "subject": "Your order $1 → \"42\" \\ ünïcode ☕",
        "body_text": "Thank you.\r\n.\nA line.\t$2 {{ }} \\n", "body_html": "<p>Thank&nbsp;you.</p>",
        "headers": {"List-Unsubscribe": "<https://shop.example/u?a=1&b=2>", "X-Campaign": "'; DROP TABLE orders; --"},
        "attachments": [
            {"filename": "Rechnung \"Nr. 42\".pdf", "content_base64": "AP8KDS4=", "content_type": "application/pdf"},
            {"filename": "logo.png", "content_base64": "", "content_type": "image/png", "content_id": "logo@shop"},
            {"filename": "plain", "content_base64": "YXMgaXQgaXM="},
        ],
    });
    form(notification.into_any(), &key("body"), own);

    let raw: Vec<u8> = b"From: a@example.org\r\nSubject: Hi\r\n\r\n".iter().copied().chain(1..=255).collect();
    let hex: String = raw.iter().map(|byte| format!("{byte:02x}")).collect();
    let notification = with_options(new().raw_message(raw), &key("raw"));
    form(notification.into_any(), &key("raw"), json!({"raw_message": format!("\\x{hex}")}));

    // And one with nothing that is not needed.
    let notification = Notification::new("order_confirmed", "ada@example.org").subject("Hi").body_html("<p>Hi</p>");
    let mut nothing = stored("");
    nothing.as_object_mut().unwrap().values_mut().for_each(|value| *value = Value::Null);
    let own = json!({"kind": "order_confirmed", "recipients": ["ada@example.org"], "cc": [], "bcc": [],
        "priority": "normal", "subject": "Hi", "body_html": "<p>Hi</p>"});
    nothing.as_object_mut().unwrap().extend(own.as_object().unwrap().clone());
    forms.push((notification.into_any(), nothing));
    forms
}

async fn assert_stored(superuser: &Client, id: Uuid, expected: &Value) {
    superuser.batch_execute("SET TIME ZONE 'UTC'").await.unwrap();
    let sql = "SELECT to_jsonb(m)::text FROM outbox.message m WHERE id = $1";
    let row: String = superuser.query_one(sql, &[&id]).await.unwrap().get(0);
    let row: Value = serde_json::from_str(&row).unwrap();
    for (name, value) in expected.as_object().unwrap() {
        assert_eq!(&row[name], value, "{name}");
    }
}

pub(crate) async fn every_argument_arrives_as_given<A: Application>() {
    let (_shop, mut application, superuser) = open::<A>().await;
    for (notification, row) in everything("one") {
        let id = application.enqueue(&notification).await.unwrap();
        assert_stored(&superuser, id, &row).await;
    }
    let ttl = "outbox.dedup_key WHERE expires_at - clock_timestamp() BETWEEN '23:59:00' AND '24:00:00.000001'";
    assert_eq!(count(&superuser, ttl).await, 3);
}

/// What the outbox takes, this crate can give: a new argument of the outbox fails here.
#[tokio::test]
async fn there_is_a_method_for_every_argument() {
    let superuser = Shop::open().await.unwrap().superuser().await.unwrap();
    let sql = "SELECT attname::text FROM pg_attribute WHERE attrelid = 'outbox.notification'::regclass AND attnum > 0
               ORDER BY attname::text COLLATE \"C\"";
    let arguments: Vec<String> = superuser.query(sql, &[]).await.unwrap().iter().map(|row| row.get(0)).collect();
    // The id is made by the outbox; what dedup_ttl becomes is looked at in a test of its own.
    let stored = stored("");
    let mut known: Vec<&str> =
        stored.as_object().unwrap().keys().map(String::as_str).chain(["id", "dedup_ttl"]).collect();
    known.sort_unstable();
    assert_eq!(arguments, known);
}

pub(crate) async fn many_arrive_in_order_all_or_none<A: Application>() {
    let (_shop, mut application, superuser) = open::<A>().await;
    assert!(application.enqueue_many(&[]).await.unwrap().is_empty());
    let (notifications, rows): (Vec<_>, Vec<_>) = everything("many").into_iter().unzip();
    let ids = application.enqueue_many(&notifications).await.unwrap();
    assert_eq!(ids.len(), rows.len());
    for (id, row) in ids.iter().zip(&rows) {
        assert_stored(&superuser, *id, row).await;
    }
    // One by one they are the same events.
    for (notification, id) in notifications.iter().zip(&ids).take(3) {
        assert_eq!(application.enqueue(notification).await.unwrap(), *id);
    }
    let mut letters: Vec<_> = (0..200).map(|n| thanks(&format!("reader{n}@example.org"))).collect();
    let ids = application.enqueue_many(&letters).await.unwrap();
    let sql = "SELECT array_agg(m.recipients[1] ORDER BY u.no) FROM unnest($1::uuid[]) WITH ORDINALITY u(id, no)
               JOIN outbox.message m USING (id)";
    let readers: Vec<String> = superuser.query_one(sql, &[&ids]).await.unwrap().get(0);
    assert!(readers.iter().enumerate().all(|(n, reader)| *reader == format!("reader{n}@example.org")), "{readers:?}");

    letters[100] = thanks("nobody");
    let (_, argument, message, _) = refusal(application.enqueue_many(&letters).await.unwrap_err());
    assert_eq!(
        (&*argument, &*message),
        ("recipients", "outbox.enqueue_many: element 101: recipients: element 1 has no @")
    );
    assert_eq!(count(&superuser, "outbox.message").await, 204);
}

pub(crate) async fn status_tells_and_cancel_stops<A: Application>() {
    let (_shop, mut application, superuser) = open::<A>().await;
    let letter = thanks("Ada <ada@example.org>").cc("bob@example.org").bcc("heidi@example.org").not_before(in_2100(0));
    let id = application.enqueue(&letter).await.unwrap();
    let deliveries = application.status(id).await.unwrap();
    let states: Vec<_> = deliveries.iter().map(|row| (row.recipient_no, &*row.recipient, row.state.clone())).collect();
    let masked = ["a***@example.org", "b***@example.org", "h***@example.org"];
    assert_eq!(states, [1, 2, 3].map(|no| (no, masked[no as usize - 1], State::Pending)));
    assert!(deliveries.iter().all(|row| row.due_at == Some(in_2100(0)) && row.finished_at.is_none()), "{deliveries:?}");
    assert!(
        deliveries.iter().all(|row| (row.attempts, row.intents, row.open_doubts) == (0, 0, 0) && row.reason.is_none())
    );

    // One of them is on its way already.
    let intent = "UPDATE outbox.queue SET intent = gen_random_uuid(), intent_at = now() WHERE message_id = $1 AND recipient_no = 2";
    assert_eq!(superuser.execute(intent, &[&id]).await.unwrap(), 1);
    let results = application.cancel(id, "the order was withdrawn").await.unwrap();
    let results: Vec<_> = results.into_iter().map(|row| (row.recipient_no, row.result)).collect();
    let in_flight = Cancelled::TooLate("in flight".to_owned());
    assert_eq!(results, [(1, Cancelled::Now), (2, in_flight), (3, Cancelled::Now)]);

    let deliveries = application.status(id).await.unwrap();
    assert_eq!(deliveries[0].state, State::Cancelled);
    assert_eq!(deliveries[0].reason.as_deref(), Some("the order was withdrawn"));
    assert!(deliveries[0].state.is_final() && deliveries[0].due_at.is_none());
    let finished: String = superuser
        .query_one(
            "SELECT extract(epoch FROM finished_at)::text FROM outbox.done WHERE message_id = $1 LIMIT 1",
            &[&id],
        )
        .await
        .unwrap()
        .get(0);
    let seconds = deliveries[0].finished_at.unwrap().duration_since(UNIX_EPOCH).unwrap();
    assert_eq!(format!("{}.{:06}", seconds.as_secs(), seconds.subsec_micros()), finished);
    assert_eq!((&deliveries[1].state, deliveries[1].state.is_final()), (&State::Sending, false));
    assert_eq!(application.cancel(id, "again").await.unwrap()[0].result, Cancelled::Already);

    let (_, argument, ..) = refusal(application.cancel(id, " ").await.unwrap_err());
    assert_eq!(argument, "reason");
    let (sqlstate, argument, ..) = refusal(application.cancel(Uuid::nil(), "why").await.unwrap_err());
    assert_eq!((sqlstate.as_deref(), &*argument), (A::HAS_SQLSTATE.then_some("22H51"), "id"));
    assert_eq!(application.status(Uuid::nil()).await.unwrap(), []);
}

pub(crate) async fn what_is_not_the_outbox_stays_the_drivers_error<A: Application>() {
    let (shop, mut application, superuser) = open::<A>().await;
    superuser.batch_execute("REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA outbox FROM outbox_producer").await.unwrap();
    match application.enqueue(&thanks("ada@example.org")).await.unwrap_err() {
        Error::Database(error) => assert!(error.contains("permission denied") || error == "db error", "{error}"),
        other => panic!("not the driver's: {other:?}"),
    }
    drop(shop);
}
