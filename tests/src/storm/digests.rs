//! What went in digests: every one in one of them, which says what it says, and each has ended as its digest has.

use tokio_postgres::Client;

/// Members that have not ended although their digest has, or otherwise than it.
pub(super) const NOT_TOLD: &str =
    "SELECT count(*) FROM outbox.digest_members x JOIN outbox.done g ON g.message_id = x.digest_id
    LEFT JOIN outbox.done d ON d.message_id = x.message_id AND d.recipient_no = x.recipient_no
    WHERE (d.state, d.evidence) IS DISTINCT FROM (g.state, g.evidence)";

/// Digests that do not say exactly what those say that they were made of, and those that are for somebody else.
const OTHERWISE: &str = "SELECT g.digest_id::text, g.said, g.members FROM (
        SELECT x.digest_id, (SELECT json_agg(i->>'no' ORDER BY i->>'no') FROM json_array_elements(max(m.payload::text)::json->'items') i)::text AS said,
               json_agg(p.payload->>'no' ORDER BY p.payload->>'no')::text AS members,
               bool_and(p.recipients[x.recipient_no] = m.recipients[1]) AS theirs
        FROM outbox.digest_members x JOIN outbox.message m ON m.id = x.digest_id JOIN outbox.message p ON p.id = x.message_id
        GROUP BY x.digest_id) g
    WHERE g.said IS DISTINCT FROM g.members OR NOT g.theirs";

/// Digests, and of how many they were made.
const COUNTED: &str = "SELECT count(DISTINCT digest_id), count(*) FROM outbox.digest_members";

/// What is wrong with them.
pub(super) async fn breaches(sql: &Client) -> Vec<String> {
    let rows = sql.query(OTHERWISE, &[]).await.expect("digests can be read");
    let named = |row: &tokio_postgres::Row| {
        let (id, said, members): (String, Option<String>, String) = (row.get(0), row.get(1), row.get(2));
        format!("digest {id} says {said:?}, and was made of {members}")
    };
    rows.iter().map(named).collect()
}

/// How many there are, and how many went in them.
pub(super) async fn counted(sql: &Client) -> (i64, i64) {
    let row = sql.query_one(COUNTED, &[]).await.expect("digests can be counted");
    (row.get(0), row.get(1))
}
