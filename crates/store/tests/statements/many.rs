//! resolve_many: one decision about many doubts, each by the token that was seen; and what outbox.in_doubt shows of them.

use crate::common::{Stage, lock};

/// What it answers, delivery by delivery.
async fn many(stage: &Stage, arguments: &str) -> Vec<(String, bool)> {
    let sql = format!("SELECT result, done FROM outbox.resolve_many({arguments})");
    let rows = stage.sql.query(&sql, &[]).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}

async fn code(stage: &Stage, arguments: &str) -> String {
    let sql = format!("SELECT * FROM outbox.resolve_many({arguments})");
    let error = stage.sql.query(&sql, &[]).await.expect_err("refused");
    error.code().map(|code| code.code().to_owned()).unwrap_or_else(|| panic!("{error:?}"))
}

#[tokio::test]
async fn filters_must_all_match_and_nothing_else_is_decided() {
    let stage = Stage::set().await;
    let (a, b, c) = (stage.doubtful().await, stage.doubtful().await, stage.doubtful().await);
    stage
        .run(&format!(
            "UPDATE outbox.queue SET pinned_route = 'eu', doubt_since = now() - interval '1 hour' WHERE message_id = '{0}';
             UPDATE outbox.message SET tenant = 'blue', kind = 'invoice' WHERE id = '{0}';
             UPDATE outbox.attempt SET server = 'MX1.example.com' WHERE message_id IN ('{0}', '{1}')",
            a.key.message_id, b.key.message_id
        ))
        .await;
    for (filter, matches) in [
        ("route => 'eu'", 1),
        ("route => 'us'", 0),
        ("kind => 'invoice'", 1),
        ("kind => 'note'", 2),
        ("server => 'mx1.example.com'", 2),
        ("tenant => 'blue'", 1),
        ("older_than => '30 min'", 1),
        ("newer_than => '30 min'", 2),
        ("older_than => '30 min', newer_than => '45 min'", 0),
        ("kind => 'note', server => 'mx1.example.com'", 1),
        ("everything => true", 3),
        ("everything => true, kind => 'note'", 2),
    ] {
        let would = many(&stage, &format!("'resend', 'test', {filter}, dry_run => true")).await;
        assert_eq!(would, vec![("would be sent again".to_owned(), true); matches], "{filter}");
    }
    assert_eq!(stage.count("SELECT count(*) FROM outbox.audit").await, 0, "dry");
    let answer = many(&stage, "'resend', 'mx1 lost its queue', server => 'mx1.example.com', kind => 'note'").await;
    assert_eq!(answer, [("pending: it will be sent again".to_owned(), true)]);
    assert_eq!((stage.state(a.key).await, stage.state(b.key).await), ("in_doubt".into(), "pending".into()));
    assert_eq!(stage.state(c.key).await, "in_doubt");
    let audit = "SELECT string_agg(action || ' ' || token || ' ' || reason, ';') FROM outbox.audit";
    assert_eq!(stage.text(audit).await, format!("resolve resend {} mx1 lost its queue", b.token.0));
    assert!(many(&stage, "'resend', 'again', server => 'mx1.example.com', kind => 'note'").await.is_empty(), "a no-op");
    stage.assert_consistent().await;
}

#[tokio::test]
async fn a_server_is_named_by_its_greeting_its_host_or_its_host_and_port() {
    let stage = Stage::set().await;
    let full = "smtp.example.com:587 (MX1.example.com)";
    for (server, given, is) in [
        (full, "mx1.example.com", true),
        (full, "SMTP.example.com", true),
        (full, "smtp.example.com:587", true),
        (full, full, true),
        (full, "mx1.example", false),
        (full, "smtp.example.com:25", false),
        (full, "587", false),
        (full, "", false),
        ("[2001:db8::1]:25 (-)", "2001:db8::1", true),
        ("[2001:db8::1]:25 (-)", "[2001:db8::1]:25", true),
        ("[2001:db8::1]:25 (-)", "-", false),
        ("smtp.example.com", "smtp.EXAMPLE.com", true),
        ("smtp.example.com", "example.com", false),
    ] {
        let sql = format!("SELECT outbox.is_server('{server}', '{given}')::text");
        assert_eq!(stage.text(&sql).await, is.to_string(), "{server}: {given}");
    }
    assert_eq!(stage.text("SELECT outbox.is_server(NULL, 'x')::text").await, "false");
    let doubt = stage.doubtful().await;
    stage.run(&format!("UPDATE outbox.attempt SET server = '{full}' WHERE token = '{}'", doubt.token.0)).await;
    assert!(many(&stage, "'resend', 'test', server => 'mx2.example.com'").await.is_empty());
    let answer = many(&stage, "'resend', 'test', server => 'mx1.example.com'").await;
    assert_eq!(answer, [("pending: it will be sent again".to_owned(), true)]);
}

#[tokio::test]
async fn without_filter_reason_or_verdict_nothing_is_decided_and_the_error_says_what_is_missing() {
    let stage = Stage::set().await;
    stage.doubtful().await;
    assert_eq!(code(&stage, "'sent', 'test'").await, "22H55");
    assert_eq!(code(&stage, "'sent', 'test', everything => false").await, "22H55");
    assert_eq!(code(&stage, "'sent', ' ', everything => true").await, "22H50");
    assert_eq!(code(&stage, "'maybe', 'test', everything => true").await, "22H52");
    assert_eq!(stage.count("SELECT count(*) FROM outbox.in_doubt").await, 1);
}

#[tokio::test]
async fn one_that_is_too_early_or_locked_is_reported_and_keeps_no_other_from_being_decided() {
    let stage = Stage::set().await;
    let (early, late, locked) = (stage.reaped().await, stage.doubtful().await, stage.doubtful().await);
    let (other, _driver) = stage.session().await;
    lock(&other, locked.key).await;
    let answers = many(&stage, "'failed', 'test', everything => true").await;
    assert_eq!(answers.len(), 3);
    assert!(answers[0].0.starts_with("too early for failed, the attempt may be alive until") && !answers[0].1);
    assert_eq!(answers[1], ("failed".to_owned(), true));
    assert!(answers[2].0.starts_with("skipped: locked by somebody") && !answers[2].1, "{answers:?}");
    other.batch_execute("ROLLBACK").await.expect("rolls back");
    assert_eq!(stage.state(late.key).await, "failed");
    let forced = many(&stage, "'failed', 'its host is gone', everything => true, force => true").await;
    assert_eq!(forced, vec![("failed".to_owned(), true); 2]);
    assert_eq!((stage.state(early.key).await, stage.state(locked.key).await), ("failed".into(), "failed".into()));
    stage.assert_consistent().await;
}

#[tokio::test]
async fn rc46_two_who_decide_many_at_once_decide_each_doubt_once() {
    let stage = Stage::set().await;
    for _ in 0..20 {
        stage.doubtful().await;
    }
    let (one, _driver) = stage.session().await;
    let (other, _other_driver) = stage.session().await;
    let sql = "SELECT count(*) FILTER (WHERE done) FROM outbox.resolve_many('resend', 'test', everything => true)";
    let (a, b) = tokio::join!(one.query_one(sql, &[]), other.query_one(sql, &[]));
    let (a, b): (i64, i64) = (a.expect("decides").get(0), b.expect("decides").get(0));
    assert_eq!(a + b, 20, "{a} and {b}");
    assert_eq!(stage.count("SELECT count(*) FROM outbox.audit").await, 20);
    assert_eq!(stage.count("SELECT sum(resends)::int8 FROM outbox.queue").await, 20);
    stage.assert_consistent().await;
}

#[tokio::test]
async fn in_doubt_shows_where_to_look_and_whether_the_relay_lives() {
    let stage = Stage::set().await;
    let routes = [("default".to_owned(), Some("smtp.example.com".to_owned())), ("files".to_owned(), None)];
    stage.store.register_routes(&routes).await.expect("registers");
    let reaped = stage.reaped().await;
    let told = stage.doubtful().await;
    stage
        .run(&format!(
            "UPDATE outbox.attempt SET server = 'mx1.example.com' WHERE token = '{}';
             UPDATE outbox.queue SET pinned_route = 'default'",
            told.token.0
        ))
        .await;
    let row =
        "SELECT concat_ws('|', phase, server, server_known_by, may_be_alive, search_for = 'message-id=<' || message_id,
                 search_from <= intent_at - interval '10 min',
                 search_until >= greatest(intent_at, doubt_since, may_be_alive_until) + interval '10 min', intents) FROM outbox.in_doubt WHERE token = ";
    let of = async |attempt: &crate::common::Attempt| stage.text(&format!("{row}'{}'", attempt.token.0)).await;
    assert_eq!(of(&reaped).await, "end_marker|smtp.example.com|route|t|t|t|t|1");
    assert_eq!(of(&told).await, "end_marker|mx1.example.com|attempt|f|t|t|t|1");
    // A route that leads elsewhere now says nothing about what went before.
    stage
        .store
        .register_routes(&[("default".to_owned(), Some("new.example.com".to_owned()))])
        .await
        .expect("registers");
    assert_eq!(of(&reaped).await, "end_marker|t|t|t|t|1");
    let relay = "SELECT min(relay_state) FROM outbox.in_doubt";
    for (change, state) in [
        ("beat_at = now()", "alive, last beat 0 s ago"),
        ("beat_at = now() - interval '50 s'", "silent for 50 s"),
        ("beat_at = now() - interval '200 s'", "silent for 3 min"),
        ("beat_at = now() - interval '3 h'", "silent for 3 h"),
        ("signed_off_at = now()", "signed off"),
    ] {
        stage.run("BEGIN").await;
        stage.run(&format!("UPDATE outbox.relay SET {change}")).await;
        assert_eq!(stage.text(relay).await, state);
        stage.run("ROLLBACK").await;
    }
    stage.run("DELETE FROM outbox.relay").await;
    assert_eq!(stage.text(relay).await, "unknown");
}

#[tokio::test]
async fn a_finished_message_is_searched_by_the_message_id_it_brought() {
    let stage = Stage::set().await;
    for (raw, id) in [
        ("From: a@b.example\\r\\nMessage-ID: <abc@app.example.org>\\r\\n\\r\\nx", "<abc@app.example.org>"),
        ("MESSAGE-ID:<abc@app.example.org>\\nFrom: a@b.example\\n\\nx", "<abc@app.example.org>"),
        ("From: a@b.example\\r\\nMessage-Id:\\r\\n <abc@app.example.org>\\r\\n\\r\\nx", "<abc@app.example.org>"),
        ("From: a@b.example\\r\\n\\r\\nMessage-ID: <body@app.example.org>", ""),
        ("From: a@b.example\\r\\nX-Message-ID: <other@app.example.org>\\r\\n\\r\\nx", ""),
        ("From: a@b.example\\r\\nMessage-ID:\\r\\n\\r\\nx", ""),
    ] {
        let sql = format!("SELECT coalesce(outbox.own_message_id(E'{raw}'), '')").replace("E'", "convert_to(E'");
        let sql = sql.replace("'), '')", "', 'UTF8')), '')");
        assert_eq!(stage.text(&sql).await, id, "{raw}");
    }
    let bytes = "SELECT coalesce(outbox.own_message_id('\\xff004d6573736167652d49443a203c613e'::bytea), 'none')";
    assert_eq!(stage.text(bytes).await, "none");
}
