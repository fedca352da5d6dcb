//! What the views and `status` say of deliveries in every state, and to whom.

use super::support::{Outbox, texts};

/// A relay, and one message per state a delivery can have; ids by the state's name.
async fn every_state(outbox: &Outbox) {
    let (relay, lease, intent) = ("'00000000-0000-4000-8000-00000000000a'", "gen_random_uuid()", "gen_random_uuid()");
    outbox
        .db
        .batch_execute(&format!(
            "CREATE TABLE public.example (name text PRIMARY KEY, id uuid NOT NULL);
             INSERT INTO outbox.relay (incarnation, name, host, pid, version, doubt_grace) VALUES ({relay}, 'relay-0', 'host-0', 1, '0.1', '15 minutes');
             INSERT INTO public.example
             SELECT name, outbox.enqueue('greeting', ARRAY['Ada <' || name || '@example.org>'], '{{}}', dedup_key => 'key-' || name || '@example.org', route => 'eu')
             FROM unnest('{{pending,deferred,claimed,expired_lease,sending,in_doubt,reaped,held,poison,sent,failed,cancelled,expired,suppressed}}'::text[]) name;
             UPDATE outbox.queue q SET
               note = CASE name WHEN 'deferred' THEN '450 4.2.0 <deferred@example.org> busy' WHEN 'held' THEN 'by hand' WHEN 'in_doubt' THEN 'no answer for in_doubt@example.org' END,
               attempt_no = (name = 'deferred')::int,
               lease = CASE WHEN name IN ('claimed', 'expired_lease', 'sending') THEN {lease} END,
               lease_until = CASE name WHEN 'expired_lease' THEN now() - interval '1 second' ELSE now() + interval '1 minute' END,
               intent = CASE WHEN name IN ('sending', 'in_doubt', 'reaped') THEN {intent} END,
               intent_by = CASE WHEN name IN ('sending', 'in_doubt', 'reaped') THEN {relay}::uuid END,
               intent_at = CASE WHEN name IN ('sending', 'in_doubt', 'reaped') THEN now() - interval '1 hour' END,
               intents = (name IN ('sending', 'in_doubt', 'reaped'))::int, open_doubts = (name IN ('in_doubt', 'reaped'))::int,
               doubt_since = CASE WHEN name IN ('in_doubt', 'reaped') THEN now() - interval '5 minutes' END,
               doubt_by = CASE name WHEN 'in_doubt' THEN 'relay' WHEN 'reaped' THEN 'reaper' END,
               pinned_route = CASE WHEN name IN ('in_doubt', 'reaped') THEN 'eu-2' END,
               parked = CASE WHEN name IN ('in_doubt', 'reaped') THEN 'doubt' WHEN name IN ('held', 'poison') THEN name END,
               due_at = CASE WHEN name IN ('in_doubt', 'reaped', 'held', 'poison') THEN 'infinity' ELSE due_at END
             FROM public.example e WHERE e.id = q.message_id;
             WITH gone AS (
               DELETE FROM outbox.queue q USING public.example e
               WHERE q.message_id = e.id AND e.name IN ('sent', 'failed', 'cancelled', 'expired', 'suppressed') RETURNING q.*, e.name
             )
             INSERT INTO outbox.done (message_id, recipient_no, state, evidence, reason, lane, address_hash, attempt_no, intents)
             SELECT message_id, 1, name, CASE name WHEN 'sent' THEN 'reply' END, CASE name WHEN 'failed' THEN '550 failed@example.org unknown' END, lane, address_hash, 1, 1 FROM gone;
             INSERT INTO outbox.attempt (message_id, recipient_no, token, attempt_no, outcome, phase, code, reply, detail, relay, route, server, started_at, finished_at)
             SELECT id, 1, gen_random_uuid(), n, CASE n WHEN 1 THEN 'deferred' ELSE 'refused' END, 'rcpt', 400 + n, CASE n WHEN 1 THEN 'later' ELSE '550 <failed@example.org> unknown' END,
                    'to failed@example.org', {relay}, 'eu', 'mx.example.net', now() - interval '3 seconds', now() - interval '1 second' * (3 - n)
             FROM public.example, generate_series(1, 2) n WHERE name = 'failed'"
        ))
        .await
        .expect("the examples are made");
}

#[tokio::test]
async fn deliveries_shows_each_state_in_its_word() {
    let outbox = Outbox::new().await;
    every_state(&outbox).await;
    let seen = outbox
        .texts("SELECT concat_ws(' | ', e.name, d.state, d.reason, d.evidence) FROM outbox.deliveries d JOIN public.example e ON e.id = d.message_id ORDER BY d.message_id")
        .await;
    assert_eq!(
        seen,
        [
            "pending | pending",
            "deferred | pending | 450 4.2.0 <deferred@example.org> busy",
            "claimed | claimed",
            "expired_lease | pending",
            "sending | sending",
            "in_doubt | in_doubt | no answer for in_doubt@example.org",
            "reaped | in_doubt",
            "held | held | by hand",
            "poison | held | its relays died on it",
            "sent | sent | reply",
            "failed | failed | 550 failed@example.org unknown",
            "cancelled | cancelled",
            "expired | expired",
            "suppressed | suppressed",
        ]
    );
    let facts = "SELECT concat_ws('|', recipient_no, recipient, kind, route, priority, attempts, intents, open_doubts, due_at IS NULL, finished_at IS NULL, dedup_key) \
                 FROM outbox.deliveries WHERE message_id = (SELECT id FROM public.example WHERE name = 'reaped')";
    assert_eq!(
        outbox.texts(facts).await,
        ["1|Ada <reaped@example.org>|greeting|eu-2|normal|0|1|1|t|t|key-reaped@example.org"]
    );
}

#[tokio::test]
async fn status_tells_the_producer_what_became_of_it() {
    let outbox = Outbox::new().await;
    every_state(&outbox).await;
    let failed = "SELECT concat_ws('|', recipient_no, recipient, state, reason, attempts, intents, due_at IS NULL, finished_at IS NULL, last_outcome, last_reply, open_doubts) \
                  FROM outbox.status((SELECT id FROM public.example WHERE name = 'failed'))";
    assert_eq!(
        outbox.texts(failed).await,
        [
            "1|Ada <failed@example.org>|failed|550 failed@example.org unknown|1|1|t|f|refused|550 <failed@example.org> unknown|0"
        ]
    );
    let id = outbox.texts("SELECT id FROM public.example WHERE name = 'failed'").await.remove(0);
    let masked = failed.replace("(SELECT id FROM public.example WHERE name = 'failed')", &format!("'{id}'"));
    let producer = outbox.member_of("outbox_producer").await;
    assert_eq!(
        texts(&producer, &masked).await.unwrap(),
        ["1|f***@example.org|failed|550 *** unknown|1|1|t|f|refused|550 <***> unknown|0"]
    );
    let operator = outbox.member_of("outbox_operator").await;
    assert!(texts(&operator, &masked).await.unwrap()[0].contains("Ada <failed@example.org>"));
    // As SET ROLE, not only as a login.
    outbox.db.batch_execute("SET ROLE outbox_producer").await.unwrap();
    assert!(outbox.texts(&masked).await[0].starts_with("1|f***@example.org|"));
    outbox.db.batch_execute("RESET ROLE").await.unwrap();
    assert!(
        outbox.texts("SELECT state FROM outbox.status(gen_random_uuid())").await.is_empty(),
        "an unknown id has no rows"
    );
    assert_eq!(
        outbox.texts("SELECT state FROM outbox.status((SELECT id FROM public.example WHERE name = 'in_doubt'))").await,
        ["in_doubt"]
    );
}

#[tokio::test]
async fn in_doubt_lists_the_evidence() {
    let outbox = Outbox::new().await;
    every_state(&outbox).await;
    let sql = "SELECT concat_ws('|', e.name, v.recipient, v.kind, v.marked_by, v.relay_name, v.relay_host, v.relay_signed_off, v.route, v.message_id_header = e.id::text, \
               v.resends, round(extract(epoch FROM v.age) / 60), coalesce(round(extract(epoch FROM v.may_be_alive_until - v.doubt_since) / 60)::text, 'gone'), v.note, \
               v.token = q.intent) FROM outbox.in_doubt v JOIN public.example e ON e.id = v.message_id JOIN outbox.queue q ON q.message_id = e.id ORDER BY e.name";
    assert_eq!(
        outbox.texts(sql).await,
        [
            "in_doubt|Ada <in_doubt@example.org>|greeting|relay|relay-0|host-0|f|eu-2|t|0|5|gone|no answer for in_doubt@example.org|t",
            "reaped|Ada <reaped@example.org>|greeting|reaper|relay-0|host-0|f|eu-2|t|0|5|15|t",
        ]
    );
    outbox.db.batch_execute("UPDATE outbox.relay SET signed_off_at = now()").await.unwrap();
    let alive = "SELECT concat_ws('|', relay_signed_off, may_be_alive_until IS NULL) FROM outbox.in_doubt WHERE marked_by = 'reaper'";
    assert_eq!(outbox.texts(alive).await, ["t|t"], "what has signed off cannot be alive");
}

#[tokio::test]
async fn in_doubt_finds_its_rows_behind_any_queue() {
    let outbox = Outbox::new().await;
    every_state(&outbox).await;
    outbox
        .db
        .batch_execute(
            "INSERT INTO outbox.queue (message_id, recipient_no, lane, due_at, address_hash) SELECT gen_random_uuid(), 1, i % 7, now(), i FROM generate_series(1, 30000) i;
             ANALYZE outbox.queue",
        )
        .await
        .unwrap();
    for view in ["in_doubt", "queue_health"] {
        let plan = outbox.texts(&format!("SELECT 1 FROM outbox.{view}")).await.len();
        assert!(plan > 0);
        let rows = outbox.db.query(&format!("EXPLAIN SELECT * FROM outbox.{view}"), &[]).await.unwrap();
        let lines: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
        let scans = lines.iter().filter(|line| line.contains("Seq Scan on queue")).count();
        assert_eq!(scans, 0, "{}", lines.join("\n"));
        // Above this estimate the server compiles the plan (JIT): half a second for what takes milliseconds.
        let (_, cost) = lines[0].split_once("..").expect("the estimate");
        let cost: f64 = cost.split_whitespace().next().unwrap().parse().expect("a number");
        assert!(cost < 100_000.0, "{}", lines.join("\n"));
    }
    assert_eq!(outbox.number("SELECT count(*) FROM outbox.in_doubt").await, 2);
}

#[tokio::test]
async fn attempts_shows_every_attempt_with_its_reply() {
    let outbox = Outbox::new().await;
    every_state(&outbox).await;
    let sql = "SELECT concat_ws('|', recipient_no, recipient, attempt_no, outcome, phase, code, reply, detail, route, server, relay_name, relay_host, took) \
               FROM outbox.attempts ORDER BY finished_at";
    let tail = "to failed@example.org|eu|mx.example.net|relay-0|host-0";
    assert_eq!(
        outbox.texts(sql).await,
        [
            format!("1|Ada <failed@example.org>|1|deferred|rcpt|401|later|{tail}|00:00:01"),
            format!("1|Ada <failed@example.org>|2|refused|rcpt|402|550 <failed@example.org> unknown|{tail}|00:00:02"),
        ]
    );
}

#[tokio::test]
async fn queue_health_has_one_row_per_state_and_counts() {
    let outbox = Outbox::new().await;
    let empty =
        outbox.texts("SELECT concat_ws(' ', state, deliveries, exact, oldest, newest) FROM outbox.queue_health").await;
    let states =
        ["pending", "claimed", "sending", "in_doubt", "held", "sent", "failed", "cancelled", "expired", "suppressed"];
    assert_eq!(empty, states.map(|state| format!("{state} 0 t")));
    every_state(&outbox).await;
    let seen = outbox
        .texts("SELECT concat_ws(' ', state, deliveries, exact, oldest <= newest) FROM outbox.queue_health")
        .await;
    let counts = [3, 1, 1, 2, 2, 1, 1, 1, 1, 1];
    let expected: Vec<String> =
        states.iter().zip(counts).map(|(state, count)| format!("{state} {count} t t")).collect();
    assert_eq!(seen, expected);
    assert_eq!(outbox.number("SELECT outbox.backlog()").await, 3, "due, not claimed, no intent");
    outbox.enqueue(", payload => '{}', not_before => now() + interval '1 hour'").await;
    assert_eq!(outbox.number("SELECT outbox.backlog()").await, 3, "the future is no backlog");
}

#[tokio::test]
async fn queue_health_estimates_beyond_its_bound() {
    let outbox = Outbox::new().await;
    outbox
        .db
        .batch_execute(
            "INSERT INTO outbox.queue (message_id, recipient_no, lane, due_at, address_hash) SELECT outbox.uuid_v7(), 1, 1, now(), i FROM generate_series(1, 45000) i;
             INSERT INTO outbox.done (message_id, recipient_no, state, evidence, lane, address_hash)
             SELECT outbox.uuid_v7(), 1, CASE WHEN i % 4 = 0 THEN 'failed' ELSE 'sent' END, CASE WHEN i % 4 > 0 THEN 'reply' END, 1, i FROM generate_series(1, 60000) i;
             ANALYZE outbox.queue; ANALYZE outbox.done",
        )
        .await
        .unwrap();
    let seen = outbox
        .texts("SELECT concat_ws(' ', state, deliveries, exact) FROM outbox.queue_health WHERE deliveries > 0")
        .await;
    assert_eq!(seen, ["pending 45000 f", "sent 45000 f", "failed 15000 f"]);
}

#[tokio::test]
async fn addresses_are_masked_unless_the_role_may_see_them() {
    let outbox = Outbox::new().await;
    every_state(&outbox).await;
    let everything = "SELECT d::text FROM outbox.deliveries d UNION ALL SELECT a::text FROM outbox.attempts a UNION ALL SELECT i::text FROM outbox.in_doubt i";
    let viewer = outbox.member_of("outbox_viewer").await;
    let seen = texts(&viewer, everything).await.unwrap();
    assert_eq!(seen.len(), 18);
    for row in &seen {
        let cleared = row.replace("***@example.org", "");
        assert!(!cleared.contains('@') && !cleared.contains("Ada"), "an address: {row}");
    }
    let operator = outbox.member_of("outbox_operator").await;
    assert!(texts(&operator, everything).await.unwrap().iter().filter(|row| row.contains("Ada <")).count() == 18);
    // A reader's own functions are never called by the views.
    outbox.db.batch_execute("GRANT CREATE ON SCHEMA public TO outbox_viewer").await.unwrap();
    viewer
        .batch_execute(
            "CREATE FUNCTION public.regexp_replace(text, text, text) RETURNS text LANGUAGE sql AS 'SELECT $1';
             CREATE FUNCTION public.regexp_replace(text, text, text, text) RETURNS text LANGUAGE sql AS 'SELECT $1';
             CREATE FUNCTION public.has_function_privilege(name, oid, text) RETURNS boolean LANGUAGE sql AS 'SELECT true';
             SET search_path = public, pg_catalog",
        )
        .await
        .unwrap();
    assert!(texts(&viewer, everything).await.unwrap().iter().all(|row| !row.contains("Ada")));
    // The privilege alone decides: a DBA may give it to a role of their own.
    outbox
        .db
        .batch_execute(&format!("GRANT EXECUTE ON FUNCTION outbox.unmasked() TO outbox_viewer_of_{}", outbox.name))
        .await
        .unwrap();
    assert!(texts(&viewer, everything).await.unwrap().iter().all(|row| row.contains("Ada <")));
}

#[tokio::test]
async fn masks_leave_nothing_of_the_name_and_one_letter_of_the_address() {
    let outbox = Outbox::new().await;
    for (mailbox, masked) in [
        ("ada@example.org", "a***@example.org"),
        ("Ada Lovelace <ada@example.org>", "a***@example.org"),
        ("\"a@b\" <x@example.org>", "x***@example.org"),
        ("\"a b\"@example.org", "a***@example.org"),
        ("Ada <ada@example.org> junk", "a***@example.org"),
        ("nonsense", "n***"),
        ("", "***"),
    ] {
        let seen: String = outbox.db.query_one("SELECT outbox.mask_address($1)", &[&mailbox]).await.unwrap().get(0);
        assert_eq!(seen, masked, "{mailbox}");
    }
    for (text, masked) in [
        ("550 5.1.1 <ada@example.org>: user unknown", "550 5.1.1 <***>: user unknown"),
        ("to=ada@example.org, relay=mx", "to=***, relay=mx"),
        ("no address here", "no address here"),
    ] {
        let seen: String = outbox.db.query_one("SELECT outbox.mask_text($1)", &[&text]).await.unwrap().get(0);
        assert_eq!(seen, masked, "{text}");
    }
}

#[tokio::test]
async fn a_local_part_in_a_servers_words_is_masked_where_it_stands_alone() {
    let outbox = Outbox::new().await;
    for (mailbox, words, masked) in [
        ("ada@example.org", "550 5.1.1 user ada unknown", "550 5.1.1 user *** unknown"),
        ("Ada L <Ada.B@example.org>", "no mailbox 'ada.b' here, adaxb is", "no mailbox '***' here, adaxb is"),
        ("ada+news@example.org", "<ada+news>: ADA is over quota", "<***>: *** is over quota"),
        ("ada@example.org", "adabas and granada, to ada@example.org", "adabas and granada, to ***"),
        ("a+b@example.org", "this is a permanent a+b", "this is a permanent ***"),
        ("a@example.org", "this is a permanent error", "this is a permanent error"),
        (".*(@example.org", "anything .*( anything", "anything *** anything"),
        ("a\\d$^{2}|[x]@example.org", "a1 a\\d$^{2}|[x] b", "a1 *** b"),
        ("\"ada b\"@example.org", "user ada b is gone", "user *** is gone"),
        ("jos\u{e9}@example.org", "JOS\u{e9} and jos", "*** and jos"),
        ("nonsense", "nonsense of x@y", "nonsense of ***"),
        ("", "of x@y", "of ***"),
    ] {
        let seen: String =
            outbox.db.query_one("SELECT outbox.mask_words($1, $2)", &[&words, &mailbox]).await.unwrap().get(0);
        assert_eq!(seen, masked, "{mailbox}: {words}");
    }
    let nothing = "SELECT coalesce(outbox.mask_words(NULL, 'ada@example.org'), '-') || outbox.mask_words('x@y', NULL)";
    assert_eq!(outbox.texts(nothing).await, ["-***"]);
}

#[tokio::test]
async fn what_servers_say_of_a_recipient_does_not_give_it_away_in_any_view() {
    let outbox = Outbox::new().await;
    every_state(&outbox).await;
    let words = "(SELECT 'user ' || substring(m.recipients[1], '<(.*)@') || ' unknown' FROM outbox.message m WHERE m.id = message_id)";
    outbox
        .db
        .batch_execute(&format!(
            "UPDATE outbox.attempt SET reply = {words}, detail = {words};
             UPDATE outbox.queue SET note = {words} WHERE note IS NOT NULL OR parked = 'doubt';
             UPDATE outbox.done SET reason = {words}"
        ))
        .await
        .expect("they can say so");
    let everything = "SELECT d.reason FROM outbox.deliveries d UNION ALL SELECT unnest(ARRAY[a.reply, a.detail]) FROM outbox.attempts a
        UNION ALL SELECT i.note FROM outbox.in_doubt i UNION ALL SELECT b.reason FROM outbox.blocked_keys b
        UNION ALL SELECT unnest(ARRAY[s.reason, s.last_reply]) FROM (SELECT DISTINCT message_id FROM outbox.deliveries) m CROSS JOIN LATERAL outbox.status(m.message_id) s";
    let told = |told: &str| format!("SELECT w FROM ({everything}) e (w) WHERE w LIKE 'user % unknown' AND {told}");
    let (plain, masked) = (told("w <> 'user *** unknown'"), told("w = 'user *** unknown'"));
    let (viewer, operator) = (outbox.member_of("outbox_viewer").await, outbox.member_of("outbox_operator").await);
    let words = texts(&operator, &plain).await.unwrap();
    assert!(words.len() > 20, "{words:?}");
    assert_eq!(texts(&viewer, &plain).await.unwrap(), [] as [&str; 0]);
    assert_eq!(texts(&viewer, &masked).await.unwrap().len(), words.len());
}

#[tokio::test]
async fn an_address_in_an_ordering_key_is_masked_for_who_may_not_see_addresses() {
    let outbox = Outbox::new().await;
    let enqueue = "SELECT outbox.enqueue('note', ARRAY['a@example.org'], '{}', ordering_key => 'of carol@example.org')";
    outbox.db.batch_execute(enqueue).await.expect("enqueues");
    let keys = "SELECT ordering_key FROM outbox.deliveries";
    let (viewer, operator) = (outbox.member_of("outbox_viewer").await, outbox.member_of("outbox_operator").await);
    assert_eq!(texts(&viewer, keys).await.unwrap(), ["of ***"]);
    assert_eq!(texts(&operator, keys).await.unwrap(), ["of carol@example.org"]);
}

#[tokio::test]
async fn find_state_finds_what_deliveries_shows_newest_first() {
    let outbox = Outbox::new().await;
    every_state(&outbox).await;
    let states =
        "unnest('{pending,claimed,sending,in_doubt,held,sent,failed,cancelled,expired,suppressed}'::text[]) s (state)";
    let differ = format!(
        "SELECT s.state FROM {states} WHERE ARRAY(SELECT d.message_id FROM outbox.deliveries d WHERE d.state = s.state ORDER BY d.message_id DESC)
           IS DISTINCT FROM ARRAY(SELECT f.message_id FROM outbox.find_state(s.state) f)"
    );
    assert_eq!(outbox.texts(&differ).await, [] as [&str; 0]);
    let found = format!("SELECT count(*) FROM {states} CROSS JOIN LATERAL outbox.find_state(s.state, 'greeting')");
    assert_eq!(outbox.number(&found).await, outbox.number("SELECT count(*) FROM outbox.deliveries").await);
    assert_eq!(outbox.number("SELECT count(*) FROM outbox.find_state('pending', max_rows => 2)").await, 2);
    assert_eq!(outbox.number("SELECT count(*) FROM outbox.find_state('pending', 'other')").await, 0);
    assert_eq!(outbox.number("SELECT count(*) FROM outbox.find_state('no such state')").await, 0);
}
