//! The suppression list with two relays and a server that knows its users: who bounced hard gets nothing more, where that
//! is wanted; who is on the list gets nothing; legal notices go out all the same.

use hapax_testkit::{Fault, Phase, Rule, Script, SmtpServer, eventually};
use hapax_tests::stage::{PATIENCE, Stage};

fn commands(stage: &Stage, recipient: &str) -> usize {
    stage.server.with_ledger(|ledger| ledger.count_rcpt_commands(recipient))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hard_bounce_and_an_entry_end_what_follows_on_every_relay_and_what_ignores_them_is_sent() {
    let says = |who: &str, words: &str| Rule::at(Phase::Rcpt, Fault::Custom(words.into())).recipient(who);
    let script = Script::rules([
        says("gone@example.org", "550 5.1.1 no such user\r\n"),
        says("odd@example.org", "550 go away\r\n"),
    ]);
    let stage = Stage::with(SmtpServer::builder().script(script).start()).await;
    // Before the relays: where there is no list yet, they look for one twice a second.
    let operator = stage.settings_of("operator");
    let (code, said) =
        operator.command(["suppress", "left@example.org", "--reason", "unsubscribed", "--kind", "note"]).await;
    assert!(code == 0 && said.contains("suppressed: entry 1, l***@example.org of kind note"), "{said}");
    let settings = stage.settings().set("suppression.hard_bounces", true).set("kinds.law.ignores_suppression", true);
    let (_one, _two) = (settings.run().await, settings.run().await);
    for address in ["gone@example.org", "odd@example.org"] {
        stage.enqueue_one(address, "").await;
        stage.until_state(address, "failed").await;
    }
    let listed = "SELECT count(*) FROM outbox.suppressions WHERE reason = 'hard_bounce' AND until > now() + interval '89 days' AND entered_by = 'relay'";
    eventually(PATIENCE, async || {
        let now = stage.count(listed).await;
        (now == 1).then_some(()).ok_or(now)
    })
    .await;
    for address in ["gone@example.org", "left@example.org"] {
        let insert = "SELECT outbox.enqueue(kind => k, recipients => ARRAY[$1::text], subject => 'x', body_text => 'x') FROM unnest(ARRAY['note', 'note', 'law']) k";
        stage.sql.query(insert, &[&address]).await.expect("enqueues");
    }
    stage.enqueue_one("else@example.org", "").await;
    stage.until_settled().await;
    let states =
        "SELECT string_agg(kind || ' ' || state, ', ' ORDER BY message_id) FROM outbox.deliveries WHERE recipient = $1";
    let told = async |address: &str| stage.text(states, &[&address]).await.unwrap_or_default();
    assert_eq!(told("gone@example.org").await, "note failed, note suppressed, note suppressed, law failed");
    assert_eq!(told("left@example.org").await, "note suppressed, note suppressed, law sent");
    assert_eq!(told("else@example.org").await, "note sent");
    assert_eq!(
        (commands(&stage, "gone@example.org"), commands(&stage, "left@example.org")),
        (2, 1),
        "nothing else reached the server"
    );
    assert_eq!(stage.count("SELECT count(*) FROM outbox.suppression").await, 2, "a bare 550 may mean anything");
    let (code, list) = operator.command(["suppressions", "gone@example.org"]).await;
    assert!(
        code == 0 && list.contains("g***@example.org") && list.contains("hard_bounce") && !list.contains("gone@"),
        "{list}"
    );
    let (code, said) = operator.command(["suppressions", "odd@example.org"]).await;
    assert!(code == 1 && said.contains("not on the suppression list"), "{said}");
    let (_, why) = operator.command(["explain", "left@example.org"]).await;
    assert!(why.contains("on the suppression list: unsubscribed since"), "{why}");
    let (code, said) = operator.command(["unsuppress", "left@example.org", "--reason", "came back", "--json"]).await;
    assert!(code == 0 && said.contains("removed: one entry"), "{said}");
    stage.enqueue_one("left@example.org", "").await;
    eventually(PATIENCE, async || {
        let now = commands(&stage, "left@example.org");
        (now == 2).then_some(()).ok_or(now)
    })
    .await;
}
