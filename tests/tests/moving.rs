//! From code that sends mail directly to the outbox and back, as `deploy/producers/README.md` describes it: a Django
//! shop, whose code never changes. Each step is one setting of the application or of the relay, and after each the mail
//! server's ledger says what arrived.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use hapax_testkit::{Fault, HapaxProcess, Phase, Rule, Script};
use hapax_tests::anatomy::{Anatomy, anatomy, field};
use hapax_tests::recipe::{Outcome, Recipe};
use hapax_tests::shop::ORDERS;
use hapax_tests::stage::Stage;

const SHOP: Recipe = Recipe { language: "python", name: "shop" };
const DIRECT: &str = "django.core.mail.backends.smtp.EmailBackend";
const OUTBOX: &str = "django_backend.EmailBackend";
/// Of each phase. Every third payment is declined, after the mails have been sent.
const ORDERS_PLACED: usize = 6;
const COMMITTED: usize = 4;

/// The shop works for a while; all that differs between the steps is the backend.
async fn trade(stage: &Stage, tag: &str, backend: &str) -> Outcome {
    let variables = [
        ("DATABASE_URL", stage.cluster.url_for("postgres", "producer")),
        ("TAG", tag.to_owned()),
        ("EMAIL_BACKEND", backend.to_owned()),
        ("SMTP_PORT", stage.server.port().to_string()),
        ("SHOP_DECLINE_EVERY", "3".to_owned()),
    ];
    SHOP.run(&["order", &ORDERS_PLACED.to_string()], &variables).await
}

/// The mails of a phase by their subjects, the same as if all phases had one tag.
fn of_phase(mails: &[Vec<u8>], tag: &str) -> BTreeMap<String, Vec<Anatomy>> {
    let mut all: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for mail in mails {
        let text = String::from_utf8_lossy(mail);
        if text.contains(&format!("{tag}/")) {
            let mail = anatomy(text.replace(tag, "TAG").as_bytes());
            all.entry(field(&mail, "subject").expect("a subject")).or_default().push(mail);
        }
    }
    all
}

fn arrived(stage: &Stage) -> Vec<Vec<u8>> {
    stage.server.with_ledger(|ledger| ledger.messages().map(|message| message.body.to_vec()).collect())
}

fn captured(directory: &Path) -> Vec<Vec<u8>> {
    let files = fs::read_dir(directory).expect("the relay made it").map(|entry| entry.expect("an entry").path());
    let visible = files.filter(|path| path.extension().is_some_and(|extension| extension == "eml"));
    visible.map(|path| fs::read(path).expect("a mail")).collect()
}

async fn stop(mut relay: HapaxProcess) {
    relay.sigterm();
    assert!(relay.wait_exit(Duration::from_secs(30)).await.success(), "{}", relay.report());
}

/// Every mail of a committed order once, and nothing of a declined one.
fn assert_only_committed_orders(mails: &BTreeMap<String, Vec<Anatomy>>) {
    let subjects: Vec<_> = mails.iter().map(|(about, copies)| (about.as_str(), copies.len())).collect();
    let expected = ["Pack", "Your order"].map(|what| [1, 2, 4, 5].map(|number| format!("{what} TAG/{number}")));
    assert_eq!(subjects, expected.as_flattened().iter().map(|about| (about.as_str(), 1)).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shop_moves_to_the_outbox_and_back_and_its_code_stays() {
    let stage = Stage::set().await;
    stage.sql.batch_execute(ORDERS).await.expect("the shop has a table");
    let shadow = tempfile::tempdir().expect("a directory");

    // Before: by SMTP. The schema is installed and touches nothing. Mails of declined orders went out, too: the fault that
    // the outbox repairs.
    assert_eq!(trade(&stage, "beforephase", DIRECT).await.number("declined"), 2);
    let before = of_phase(&arrived(&stage), "beforephase");
    assert_eq!(before.len(), 2 * ORDERS_PLACED, "{:?}", before.keys());
    assert_eq!(stage.count("SELECT count(*) FROM outbox.message").await, 0);

    // 1. The mailer is switched, in staging; the relay writes into a directory. Nobody gets mail.
    let route = format!("file://{}", shadow.path().display());
    let relay = stage.settings().set("routes.default.url", route).run().await;
    trade(&stage, "shadowphase", OUTBOX).await;
    let sent = i64::try_from(2 * COMMITTED).expect("few");
    stage.until("sent", sent).await;
    let shadowed = of_phase(&captured(shadow.path()), "shadowphase");
    assert_only_committed_orders(&shadowed);
    assert_eq!(
        arrived(&stage).len(),
        before.values().map(Vec::len).sum::<usize>(),
        "the mail server saw nothing of it"
    );
    // 2. Compared: what would have been sent is what was sent before.
    for (about, mails) in &shadowed {
        assert_eq!(mails[0], before[about][0], "{about}");
    }
    stop(relay).await;

    // Another way to compare: everything to one mailbox, by the real mail server.
    let relay = stage.settings().set("guards.redirect_all_to", "shadow@example.org").run().await;
    trade(&stage, "redirectedphase", OUTBOX).await;
    stage.until("sent", 2 * sent).await;
    assert_only_committed_orders(&of_phase(&arrived(&stage), "redirectedphase"));
    let to = stage
        .server
        .with_ledger(|ledger| ledger.messages().filter(|message| message.recipients == ["shadow@example.org"]).count());
    assert_eq!(to, 2 * COMMITTED);
    stop(relay).await;

    // 3. Switched over: the relay's route is the mail server. What was shadowed has been sent and is not sent again.
    let relay = stage.settings().run().await;
    trade(&stage, "livephase", OUTBOX).await;
    stage.until("sent", 3 * sent).await;
    assert_only_committed_orders(&of_phase(&arrived(&stage), "livephase"));
    assert!(of_phase(&arrived(&stage), "shadowphase").is_empty());

    // The mail server is away for a while: orders are placed all the same, and mail is late, not lost.
    stage.server.stop().await;
    let placed = trade(&stage, "outagephase", OUTBOX).await;
    assert_eq!(placed.number("declined"), 2, "{placed:?}");
    stage.server.restart().await;
    stage.until("sent", 4 * sent).await;
    assert_only_committed_orders(&of_phase(&arrived(&stage), "outagephase"));

    // 4. Rolled back: the old setting. What is in the outbox is still delivered, by the relay that still runs.
    stage.server.script(Script::rules([Rule::at(Phase::Rcpt, Fault::Reply4xx).times(3)]));
    trade(&stage, "lastphase", OUTBOX).await;
    trade(&stage, "afterphase", DIRECT).await;
    stage.until("sent", 5 * sent).await;
    assert_only_committed_orders(&of_phase(&arrived(&stage), "lastphase"));
    assert_eq!(of_phase(&arrived(&stage), "afterphase").values().map(Vec::len).sum::<usize>(), 2 * ORDERS_PLACED);
    stop(relay).await;
    let ids = "SELECT count(*) FROM outbox.attempt WHERE outcome = 'accepted'";
    assert_eq!(stage.count(ids).await, 5 * sent, "each once");
}
