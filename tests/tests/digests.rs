//! Digests with two relays: one message per recipient and window with everything in it, also when relays die at every step;
//! what was gathered ends as its digest does.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use hapax_testkit::{Fault, HapaxProcess, Phase, Rule, Script, SmtpServer, eventually};
use hapax_tests::stage::{PATIENCE, Settings, Stage};

/// Kind `comment` is gathered, `summary` is what becomes of it.
fn write_template(directory: &Path) {
    let kind = directory.join("summary");
    std::fs::create_dir(&kind).expect("it is new");
    std::fs::write(kind.join("subject.txt"), "{{ count }} comments").expect("it can be written");
    let body = "{% for item in items %}item {{ item.no }}\n{% endfor %}";
    std::fs::write(kind.join("body.txt"), body).expect("it can be written");
}

fn collecting(stage: &Stage, directory: &Path, within: &str) -> Settings {
    write_template(directory);
    let settings = stage.settings().set("templates.directory", directory.display());
    settings.set("kinds.comment.collect", within).set("kinds.comment.collect_as", "summary")
}

/// To each of `r1` to `r{readers}`, comments with these numbers, all in one commit.
async fn enqueue(stage: &Stage, readers: i32, numbers: std::ops::RangeInclusive<i32>) {
    let insert = "INSERT INTO outbox.notification (kind, recipients, payload)
                  SELECT 'comment', ARRAY['r' || r || '@example.org'], json_build_object('no', n) FROM generate_series(1, $1) r, generate_series($2::int, $3::int) n ORDER BY n, r";
    stage.sql.execute(insert, &[&readers, numbers.start(), numbers.end()]).await.expect("enqueues");
}

/// What the server took for each recipient: the items of each message.
fn taken(stage: &Stage) -> BTreeMap<String, Vec<Vec<i32>>> {
    let mut taken: BTreeMap<String, Vec<Vec<i32>>> = BTreeMap::new();
    for message in stage.server.ledger().messages() {
        let text = String::from_utf8_lossy(&message.body).into_owned();
        let items = text.lines().filter_map(|line| line.strip_prefix("item ")?.trim().parse().ok()).collect();
        taken.entry(message.recipients[0].clone()).or_default().push(items);
    }
    // The ledger goes connection by connection, not by time.
    taken.values_mut().for_each(|messages| messages.sort());
    taken
}

async fn until_ended(stage: &Stage, comments: i64) {
    let ended = "SELECT count(*) FROM outbox.deliveries WHERE kind = 'comment' AND finished_at IS NOT NULL";
    eventually(PATIENCE, async || {
        let now = stage.count(ended).await;
        if now == comments { Ok(()) } else { Err((now, stage.states().await)) }
    })
    .await;
}

/// Those that have ended otherwise than the digest that they are in, or are in none.
const UNLIKE: &str = "SELECT count(*) FROM outbox.deliveries d LEFT JOIN outbox.digest_members m USING (message_id, recipient_no)
    LEFT JOIN outbox.deliveries g ON g.message_id = m.digest_id WHERE d.kind = 'comment' AND (d.state, d.evidence) IS DISTINCT FROM (g.state, g.evidence)";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_reader_gets_one_message_a_window_and_what_is_in_it_ends_with_it() {
    let refuse = Rule::at(Phase::Rcpt, Fault::Reply5xx).recipient("r20@example.org");
    let doubt = Rule::at(Phase::EndMarker { took: false }, Fault::Eof).recipient("r19@example.org").times(1);
    let stage = Stage::with(SmtpServer::builder().script(Script::rules([refuse, doubt])).start()).await;
    let templates = tempfile::tempdir().expect("a directory");
    let settings = collecting(&stage, templates.path(), "3s");
    let _relays = (settings.run().await, settings.clone().set("relay.name", "two").run().await);
    enqueue(&stage, 20, 1..=6).await;
    // Within the window, from another commit.
    enqueue(&stage, 20, 7..=10).await;
    until_ended(&stage, 190).await;
    let all: Vec<i32> = (1..=10).collect();
    let first = taken(&stage);
    assert_eq!(first.len(), 18, "{first:?}");
    assert!(first.values().all(|messages| *messages == [all.clone()]), "{first:?}");
    let waiting = "SELECT count(*) FROM outbox.deliveries WHERE recipient = 'r19@example.org' AND kind = 'comment' AND state = 'in_doubt' AND reason LIKE 'in digest %'";
    assert_eq!(stage.count(waiting).await, 10, "they follow a decision");
    let decide = "SELECT outbox.resolve(message_id, recipient_no, 'resend', 'the log has no trace of it', token => token) FROM outbox.in_doubt";
    stage.sql.query(decide, &[]).await.expect("it can be decided");
    until_ended(&stage, 200).await;
    assert_eq!(stage.count(UNLIKE).await, 0);
    assert_eq!(
        stage.count("SELECT count(*) FROM outbox.deliveries WHERE kind = 'comment' AND state = 'failed'").await,
        10
    );
    // The next window.
    enqueue(&stage, 5, 11..=12).await;
    until_ended(&stage, 210).await;
    let second = taken(&stage);
    assert_eq!(second["r19@example.org"], std::slice::from_ref(&all));
    assert!(
        (1..=5).all(|reader| second[&format!("r{reader}@example.org")] == [all.clone(), vec![11, 12]]),
        "{second:?}"
    );
    told(&stage).await;
}

/// One that was gathered names its digest, and the digest what is in it.
async fn told(stage: &Stage) {
    let find = "SELECT m.message_id || ' ' || m.digest_id FROM outbox.digest_members m JOIN outbox.deliveries d USING (message_id) WHERE d.state = 'sent' LIMIT 1";
    let both = stage.text(find, &[]).await.expect("there is one");
    let (member, digest) = both.split_once(' ').expect("two ids");
    let operator = stage.settings_of("operator");
    for command in ["show", "explain"] {
        for (asked, other) in [(member, digest), (digest, member)] {
            let (code, said) = operator.command([command, asked]).await;
            assert!(code == 0 && said.contains(other) && said.contains("digest"), "{said}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn relays_that_die_at_any_step_lose_nothing_and_nothing_is_in_two_messages() {
    let stage = Stage::set().await;
    let templates = tempfile::tempdir().expect("a directory");
    let settings = collecting(&stage, templates.path(), "1s").set("relay.max_in_flight", 8);
    let points = [
        "claimed:1",
        "claim_sent:2",
        "claimed:3",
        "claim_sent:5",
        "release_sent:1",
        "rendered:3",
        "intended:2",
        "settled:4",
        "claimed:9",
    ];
    let mut no = 0;
    for point in points {
        let (name, nth) = point.split_once(':').expect("a point and a number");
        let fault = format!("{name}:kill:{nth}");
        let relay = |settings: &Settings| {
            HapaxProcess::builder().config(settings.toml()).env("HAPAX_FAULT", &fault).arg("run").spawn()
        };
        enqueue(&stage, 12, no + 1..=no + 3).await;
        let mut pair = [relay(&settings), relay(&settings.clone().set("relay.name", "two"))];
        enqueue(&stage, 12, no + 4..=no + 5).await;
        no += 5;
        // Some points are not reached by both: an end is given to them.
        for one in &mut pair {
            if tokio::time::timeout(Duration::from_secs(4), one.wait_exit(PATIENCE)).await.is_err() {
                one.sigkill();
                one.wait_exit(PATIENCE).await;
            }
        }
    }
    let _relays = (settings.run().await, settings.clone().set("relay.name", "two").run().await);
    let decide = "SELECT outbox.resolve(message_id, recipient_no, 'failed', 'nobody knows', token => token, force => true) FROM outbox.in_doubt";
    let (comments, ended) = (
        12 * i64::from(no),
        "SELECT count(*) FROM outbox.deliveries WHERE kind = 'comment' AND finished_at IS NOT NULL",
    );
    eventually(PATIENCE, async || {
        stage.sql.query(decide, &[]).await.expect("it can be decided");
        let now = stage.count(ended).await;
        if now == comments { Ok(()) } else { Err((now, stage.states().await)) }
    })
    .await;
    assert_eq!(stage.count(UNLIKE).await, 0);
    let digests =
        "SELECT count(*) FROM (SELECT message_id FROM outbox.digest_members GROUP BY message_id HAVING count(*) > 1) x";
    assert_eq!(stage.count(digests).await, 0);
    let mut seen = 0;
    for (reader, messages) in taken(&stage) {
        let mut items = messages.concat();
        seen += i64::try_from(items.len()).expect("few");
        items.sort_unstable();
        let all = items.len();
        items.dedup();
        assert_eq!(items.len(), all, "{reader} got something twice: {messages:?}");
    }
    let sent = stage.count("SELECT count(*) FROM outbox.deliveries WHERE kind = 'comment' AND state = 'sent'").await;
    // A doubt that was decided as failed may have been taken.
    assert!(sent <= seen && seen <= comments, "{sent} {seen} {comments}");
    assert!(sent > comments / 2, "{sent} of {comments}: there was little to see");
    assert_eq!(stage.count("SELECT count(*) FROM outbox.queue").await, 0);
    println!(
        "{sent} of {comments} sent, the server has {seen}, in {} messages",
        taken(&stage).values().map(Vec::len).sum::<usize>()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_paused_is_not_made_and_goes_in_one_message_afterwards() {
    let stage = Stage::set().await;
    let templates = tempfile::tempdir().expect("a directory");
    let settings = collecting(&stage, templates.path(), "2s");
    let _relays = (settings.run().await, settings.clone().set("relay.name", "two").run().await);
    enqueue(&stage, 5, 1..=4).await;
    let gathered = "SELECT count(*) FROM outbox.deliveries WHERE reason LIKE 'gathered: %'";
    eventually(PATIENCE, async || (stage.count(gathered).await == 20).then_some(()).ok_or("not gathered")).await;
    let operator = stage.settings_of("operator");
    let (code, said) = operator.command(["pause", "--kind", "comment", "--reason", "spam"]).await;
    assert_eq!(code, 0, "{said}");
    let paused = "SELECT count(*) FROM outbox.queue WHERE parked = 'paused'";
    eventually(PATIENCE, async || (stage.count(paused).await == 20).then_some(()).ok_or("not paused")).await;
    assert_eq!(stage.count("SELECT count(*) FROM outbox.digest").await, 0);
    let (code, said) = operator.command(["resume", "--kind", "comment", "--reason", "cleaned"]).await;
    assert_eq!(code, 0, "{said}");
    until_ended(&stage, 20).await;
    let taken = taken(&stage);
    assert!(taken.len() == 5 && taken.values().all(|messages| *messages == [vec![1, 2, 3, 4]]), "{taken:?}");
}
