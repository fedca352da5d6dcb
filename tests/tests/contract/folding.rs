//! `outbox.folded()`: what lower() makes in ordinary databases, and the same of ASCII in all.

use std::process::Command;

use hapax_testkit::find_hapax;

use super::support::{Outbox, apply, cluster, number, texts};

/// Each character by itself, and among letters whose small forms depend on their neighbours. Left out are scripts without
/// small letters: ideographs, Hangul, cuneiform and hieroglyphs.
const DIFFERS: &str = "
    SELECT to_hex(g) FROM generate_series(1, 131071) g CROSS JOIN LATERAL (
      SELECT unnest(ARRAY[chr(g), 'A' || chr(g) || 'I', chr(g) || 'I' || chr(g) || '@' || chr(g) || '.ORG']) AS words) w
    WHERE g NOT BETWEEN 55296 AND 57343
      AND g NOT BETWEEN 13312 AND 40959 AND g NOT BETWEEN 44032 AND 55203 AND g NOT BETWEEN 73728 AND 92735
      AND convert_to(outbox.folded(words), 'UTF8') <> convert_to(lower(words), 'UTF8')";

/// The functions that fold nothing themselves, by what the others have in them.
const LOWERS: &str = "
    SELECT p.oid::regprocedure FROM pg_proc p WHERE p.pronamespace IN ('outbox'::regnamespace, 'outbox_test'::regnamespace) AND p.prokind IN ('f', 'p')
      AND pg_get_functiondef(p.oid) ~* '\\m(lower|upper|initcap)\\(|\\milike\\M|~~\\*' AND p.proname <> 'folded' ORDER BY 1";

async fn hashes(db: &tokio_postgres::Client) -> Vec<String> {
    let sql = "SELECT concat_ws(' ', outbox.address_hash(a), outbox.address_hash_of(ARRAY[a]), encode(outbox.address_digest(a), 'hex'),
                 (SELECT string_agg(r::text, ' ') FROM outbox.recipients_of(ARRAY[a], NULL, NULL) r), outbox.names_address('To: ' || a, 'info@irk.info'),
                 outbox.without_address(a, 'info@irk.info'), outbox.without_mailbox(ARRAY[a], 'info@irk.info', 'x'), outbox.is_server(a, 'INFO'))
               FROM unnest(ARRAY['info@irk.info', 'INFO@IRK.INFO', 'Irk <Info@Irk.Info>', 'Irk <I@I.org>', 'info']) a";
    texts(db, sql).await.expect("computes")
}

/// Databases: how they are made, and whether all of their lower() is that of ordinary ones.
const LOCALES: [(&str, bool); 6] = [
    ("LOCALE_PROVIDER icu ICU_LOCALE 'en-US'", true),
    ("LOCALE_PROVIDER icu ICU_LOCALE 'de-DE'", true),
    ("LOCALE 'C.UTF-8'", true),
    ("LOCALE 'C'", true),
    ("LOCALE_PROVIDER icu ICU_LOCALE 'tr-TR'", false),
    ("LOCALE_PROVIDER icu ICU_LOCALE 'az'", false),
];

/// Whether this server was built with ICU. Debian's was; what there is of other majors (`make postgres-matrix`) may not be.
async fn has_icu(db: &tokio_postgres::Client) -> bool {
    let has = number(db, "SELECT count(*) FROM pg_collation WHERE collname LIKE '%-x-icu'").await > 0;
    let version = number(db, "SELECT current_setting('server_version_num')::int8").await;
    assert!(has || version >= 160_000, "Postgres 15 of Debian has ICU");
    if !has {
        println!("this server has no ICU: its locales are left out");
    }
    has
}

#[tokio::test]
async fn in_ordinary_databases_folding_is_lowering_to_the_byte_and_ascii_is_folded_alike_in_all() {
    let outbox = Outbox::new().await;
    let expected = hashes(&outbox.db).await;
    assert_eq!(expected.len(), 5);
    assert!(expected[..3].iter().all(|one| one.contains(" t ") && one.contains("***")), "{expected:?}");
    let icu = has_icu(&outbox.db).await;
    let locales = LOCALES.into_iter().filter(|(made, _)| icu || !made.contains("icu"));
    for (number, (made, ordinary)) in locales.enumerate() {
        let name = format!("{}_{number}", outbox.name);
        let create = format!("CREATE DATABASE {name} TEMPLATE template0 ENCODING 'UTF8' {made}");
        cluster().await.execute("postgres", &create).await.expect("a database");
        let db = cluster().await.client(&name).await.expect("it takes a client");
        let url = cluster().await.url_for(&name, "postgres");
        let up = Command::new(find_hapax()).args(["migrate", "up", "--database-url", &url]).output();
        assert!(up.expect("it starts").status.success(), "the migrations apply: {made}");
        let differs = texts(&db, DIFFERS).await.expect("reads");
        assert_eq!(differs.is_empty(), ordinary, "{made}: {differs:?}");
        assert_eq!(hashes(&db).await, expected, "{made}");
    }
}

#[tokio::test]
async fn nothing_is_lowered_but_by_folding() {
    let outbox = Outbox::new().await;
    assert_eq!(outbox.texts(LOWERS).await, [""; 0]);
}

#[tokio::test]
async fn what_a_turkish_database_has_from_before_is_found_by_the_address_again() {
    let outbox = Outbox::new().await;
    if !has_icu(&outbox.db).await {
        return;
    }
    let name = format!("{}_before", outbox.name);
    let create = format!("CREATE DATABASE {name} TEMPLATE template0 LOCALE_PROVIDER icu ICU_LOCALE 'tr-TR'");
    cluster().await.execute("postgres", &create).await.expect("a database");
    let db = cluster().await.client(&name).await.expect("it takes a client");
    db.batch_execute("CREATE SCHEMA outbox").await.expect("a schema");
    apply(&db, "0001"..="0049").await;
    let fill = "SELECT outbox.enqueue('note', ARRAY['Ida <IDA@X.ORG>'], cc => ARRAY['ada@x.org', 'INFO@X.INFO'], subject => 'x', body_text => 'x') FROM generate_series(1, 2);
                SELECT outbox.cancel((SELECT min(message_id::text)::uuid FROM outbox.queue), 'x')";
    db.batch_execute(fill).await.expect("fills");
    let found =
        async |address: &str| number(&db, &format!("SELECT count(*) FROM outbox.find_deliveries('{address}')")).await;
    assert_eq!((found("ada@x.org").await, found("ida@x.org").await, found("info@x.info").await), (2, 0, 0));
    apply(&db, "0050"..="9999").await;
    for address in ["ada@x.org", "ida@x.org", "info@x.info", "INFO@X.INFO"] {
        assert_eq!(found(address).await, 2, "{address}");
    }
}
