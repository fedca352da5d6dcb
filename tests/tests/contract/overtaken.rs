//! A migration that changes how the doors store (0021) overtakes calls that wait for its lock: none of them may end as a
//! message that nobody ever sends.

use std::fs;
use std::path::PathBuf;

use hapax_testkit::eventually;
use hapax_tests::database::migration_files;
use hapax_tests::stage::PATIENCE;
use tokio_postgres::Client;

use super::support::{cluster, number};

const DOORS: [&str; 4] = [
    "SELECT outbox.enqueue('greeting', '{a@example.org}', subject => 's', body_text => 't')",
    "SELECT outbox.enqueue('greeting', '{a@example.org}', subject => 's', body_text => 't', dedup_key => 'k', ordering_key => 'o')",
    "INSERT INTO outbox.notification (kind, recipients, payload) VALUES ('greeting', '{a@example.org,b@example.org}', '{}')",
    r#"SELECT outbox.enqueue_many('[{"kind": "greeting", "recipients": ["a@example.org"], "payload": {}}]')"#,
];

/// The migrations of a range of numbers, in order.
fn migrations(from: &str, to: &str) -> Vec<String> {
    let name = |path: &PathBuf| path.file_name().expect("a name").to_string_lossy().into_owned();
    let files = migration_files().expect("there are migrations").into_iter();
    let files = files.filter(|path| (from..=to).contains(&&name(path)[..4]));
    files.map(|path| fs::read_to_string(path).expect("it can be read")).collect()
}

/// Messages, and those of them that have neither a queue row nor an end.
async fn stored(db: &Client) -> (i64, i64) {
    let lost =
        "SELECT count(*) FROM outbox.message m WHERE NOT EXISTS (SELECT FROM outbox.queue q WHERE q.message_id = m.id)";
    (number(db, "SELECT count(*) FROM outbox.message").await, number(db, lost).await)
}

#[tokio::test]
async fn a_call_that_waits_for_the_migration_is_stored_whole_or_asked_to_come_again() {
    for (at, door) in DOORS.iter().enumerate() {
        let name = format!("overtaken_{at}");
        cluster().await.execute("postgres", &format!("CREATE DATABASE {name}")).await.unwrap();
        let session = || async { cluster().await.client(&name).await.expect("it takes clients") };
        let (owner, producer, looker) = (session().await, session().await, session().await);
        for migration in migrations("0000", "0020") {
            owner.batch_execute(&format!("BEGIN; {migration}; COMMIT")).await.expect("it applies");
        }
        // As a session that has been at work: its plans are those of before.
        producer.batch_execute(&format!("BEGIN; {door}; ROLLBACK")).await.unwrap();
        let [migration] = &migrations("0021", "0021")[..] else { panic!("one migration") };
        owner.batch_execute(&format!("BEGIN; {migration}")).await.expect("it applies");
        let (call, migrated) = tokio::join!(producer.batch_execute(door), async {
            let waits = "SELECT count(*) FROM pg_locks l JOIN pg_database d ON d.oid = l.database WHERE NOT l.granted AND d.datname = current_database()";
            eventually(PATIENCE, async || match number(&looker, waits).await {
                0 => Err("nobody waits"),
                _ => Ok(()),
            })
            .await;
            owner.batch_execute("COMMIT").await
        });
        migrated.expect("it commits");
        let (messages, lost) = stored(&looker).await;
        match call {
            Ok(()) => assert_eq!((messages, lost), (1, 0), "{door}"),
            Err(error) => {
                assert_eq!(error.code().expect("the server's").code(), "40001", "{door}: {error:?}");
                assert_eq!((messages, lost), (0, 0), "{door}");
            }
        }
        // Again, as the error says; and from then on.
        for expected in 1..=2 {
            producer.batch_execute(&door.replace("'k'", &format!("'k{expected}'"))).await.expect("again");
            assert_eq!(stored(&looker).await, (messages + expected, 0), "{door}");
        }
    }
}
