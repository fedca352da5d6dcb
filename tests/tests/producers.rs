//! Every recipe of `deploy/producers`, executed under the restricted role against a real Postgres, with a relay and the
//! scripted mail server behind: commit sends, rollback does not, a retry with the same key enqueues once, what is bad is
//! refused with an error that helps. For each framework's mailer also: what arrives through the outbox in a real
//! Postfix's mailboxes is what the framework's own SMTP mailer would have sent.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use hapax_testkit::eventually;
use hapax_tests::anatomy::{Anatomy, anatomy, field};
use hapax_tests::letters::PEOPLE;
use hapax_tests::mailbox;
use hapax_tests::postfix::Postfix;
use hapax_tests::recipe::{Recipe, recipes};
use hapax_tests::shop::ORDERS;
use hapax_tests::stage::{PATIENCE, Stage};

/// What the recipes promise, one after another, and once more by the ledger of the mail server.
async fn keeps_its_promises(recipe: Recipe) {
    let stage = Stage::set().await;
    stage.sql.batch_execute(ORDERS).await.expect("the shop has a table");
    let _relay = stage.settings().run().await;
    let tag = format!("{}{}", recipe.language, recipe.name);
    let variables = [("DATABASE_URL", stage.cluster.url_for("postgres", "producer")), ("TAG", tag.clone())];
    let address = |what: &str| format!("{what}.{tag}@example.org");
    let known = async |id| stage.count(&format!("SELECT count(*) FROM outbox.message WHERE id = '{id}'")).await;

    let committed = recipe.run(&["commit"], &variables).await.ids();
    for id in &committed {
        assert_eq!(known(id).await, 1, "the id that was returned is the message's");
    }
    let rolled_back = recipe.run(&["rollback"], &variables).await.ids();
    for id in &rolled_back {
        assert_eq!(known(id).await, 0, "rolled back");
    }
    let twice = recipe.run(&["twice"], &variables).await.ids();
    assert_eq!(twice.len(), 2);
    assert_eq!(twice[0], twice[1], "the second attempt of the same event is the first message");
    let bad = recipe.run(&["bad"], &variables).await;
    let errors = bad.errors();
    assert!(!errors.is_empty(), "nothing was refused");
    for error in &errors {
        assert!(error.sqlstate.starts_with("22H"), "{error:?}");
        assert!(error.message.contains("outbox."), "{error:?} names the door and the argument");
        assert!(error.hint.as_deref().is_none_or(|hint| !hint.is_empty()), "{error:?}");
        assert!(!format!("{error:?}").contains(&tag), "{error:?} repeats the address");
    }

    let expected = ["commit", "twice", "after"].map(address);
    for address in &expected {
        stage.until_state(address, "sent").await;
    }
    stage.until_settled().await;
    let ledger = stage.server.ledger();
    let took: Vec<String> = ledger.messages().flat_map(|message| message.recipients.clone()).collect();
    assert_eq!(took.len(), expected.len(), "{took:?}");
    assert_eq!(took.iter().collect::<BTreeSet<_>>(), expected.iter().collect::<BTreeSet<_>>());
    assert_eq!(stage.count("SELECT count(*) FROM outbox.deliveries").await, 3);
    let orders = async |what: &str| {
        stage.count(&format!("SELECT count(*) FROM public.orders WHERE email = '{}'", address(what))).await
    };
    assert_eq!(orders("commit").await, 1, "the order was committed with its notification");
    assert_eq!(orders("rollback").await, 0);
    assert_eq!(orders("bad").await, 0, "the refusal took the order with it");
    let producers = "SELECT count(*) FROM outbox.message WHERE session_role <> 'producer'";
    assert_eq!(stage.count(producers).await, 0, "all of it under the restricted role");
}

/// By case and reader: what lies in the mailboxes.
fn delivered(postfix: &Postfix) -> BTreeMap<(String, String), Vec<Vec<u8>>> {
    let mut mails: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for (number, reader) in PEOPLE.iter().enumerate() {
        for mail in mailbox::read(&postfix.maildir(number)) {
            let case = field(&anatomy(&mail), "x-case").unwrap_or_else(|| panic!("a mail without X-Case for {reader}"));
            mails.entry((case, (*reader).to_owned())).or_default().push(mail);
        }
    }
    mails
}

/// The framework's own messages, by its own SMTP mailer and through the outbox, into two real Postfixes.
async fn arrives_as_by_the_frameworks_own_mailer(recipe: Recipe) {
    if let Err(why) = Postfix::available() {
        assert!(std::env::var_os("HAPAX_TESTS_ALL").is_none(), "{why}");
        eprintln!("SKIPPED: {why}");
        return;
    }
    let (theirs, ours) = (Postfix::start(&PEOPLE).await, Postfix::start(&PEOPLE).await);
    let stage = Stage::set().await;
    stage.sql.batch_execute(ORDERS).await.expect("the shop has a table");
    let _relay = stage
        .settings()
        .set("routes.default.url", format!("smtp://127.0.0.1:{}?starttls=none", ours.smtp()))
        .run()
        .await;
    let variables = [
        ("DATABASE_URL", stage.cluster.url_for("postgres", "producer")),
        ("TAG", "mailer".to_owned()),
        ("SMTP_PORT", theirs.smtp().to_string()),
    ];
    let cases = recipe.run(&["send-smtp"], &variables).await.number("cases");
    assert_eq!(recipe.run(&["send-outbox"], &variables).await.number("cases"), cases);
    assert!(cases >= 10, "{cases} are too few to mean much");
    stage.until_settled().await;
    let states = stage.states().await;
    assert_eq!(states.keys().collect::<Vec<_>>(), ["sent"], "{states:?}");
    let deliveries = usize::try_from(states["sent"]).expect("few");
    for postfix in [&theirs, &ours] {
        let count = || (0..PEOPLE.len()).map(|number| mailbox::count(&postfix.maildir(number))).sum::<usize>();
        eventually(PATIENCE, async || (count() == deliveries).then_some(()).ok_or_else(|| (count(), postfix.log())))
            .await;
    }
    let (theirs, ours) = (delivered(&theirs), delivered(&ours));
    assert_eq!(
        theirs.keys().collect::<Vec<_>>(),
        ours.keys().collect::<Vec<_>>(),
        "the same cases for the same readers"
    );
    let names: BTreeSet<&String> = theirs.keys().map(|(case, _)| case).collect();
    assert_eq!(names.len(), cases, "{names:?}");
    let mut wrong = Vec::new();
    for (key, one) in &theirs {
        let other = &ours[key];
        assert_eq!((one.len(), other.len()), (1, 1), "{key:?} arrived once by each way");
        let (expected, actual) = (anatomy(&one[0]), anatomy(&other[0]));
        if expected != actual {
            wrong.push(format!("{key:?}:\n{}\n", difference(&expected, &actual)));
        }
        for mail in [&one[0], &other[0]] {
            assert_eq!(mailbox::headers(mail, "Bcc"), Vec::<String>::new(), "{key:?}");
        }
        for name in ["Message-ID", "Date", "From", "Auto-Submitted"] {
            assert_eq!(mailbox::headers(&other[0], name).len(), 1, "{key:?} has one {name}");
        }
        let (parsed, mut same) = (as_another_parser_reads(&other[0]), as_another_parser_reads(&one[0]));
        same.message_id.clone_from(&parsed.message_id);
        assert!(same == parsed, "{key:?} is another mail to another parser");
        let leaked: Vec<_> = actual.fields.iter().filter(|field| field.starts_with("x-hapax-")).collect();
        assert!(leaked.is_empty(), "{key:?}: {leaked:?}");
    }
    assert!(wrong.is_empty(), "{} of {} differ:\n{}", wrong.len(), theirs.len(), wrong.join("\n"));

    // The same events twice: each message is built again, with what its library makes anew, and is the first.
    let known = async || stage.count("SELECT count(*) FROM outbox.message").await;
    let (before, keyed) = (known().await, [&variables[..], &[("KEYED", recipe.name.to_owned())]].concat());
    for _ in 0..2 {
        assert_eq!(recipe.run(&["send-outbox"], &keyed).await.number("cases"), cases);
        assert_eq!(known().await, before + i64::try_from(cases).expect("few"), "each event is one message");
    }
    println!("{}/{}: {cases} messages, {deliveries} deliveries, equal", recipe.language, recipe.name);
}

/// With attached messages, whose boundaries each sending makes anew, without those.
fn as_another_parser_reads(message: &[u8]) -> mailbox::Mail {
    let mut mail = mailbox::parse(message);
    for (_, content) in &mut mail.attachments {
        if content.windows(9).any(|window| window == b"boundary=") {
            let Anatomy { fields, body } = anatomy(content);
            *content = format!("{fields:?}{body}").into_bytes();
        }
    }
    mail
}

/// The lines that only one of them has.
fn difference(expected: &Anatomy, actual: &Anatomy) -> String {
    let lines =
        |one: &Anatomy| one.fields.iter().cloned().chain(one.body.lines().map(ToOwned::to_owned)).collect::<Vec<_>>();
    let (expected, actual) = (lines(expected), lines(actual));
    let only = |one: &[String], other: &[String], sign: char| {
        let lacking = one.iter().filter(|line| !other.contains(line));
        lacking.map(|line| format!("  {sign} {line:?}")).take(12).collect::<Vec<_>>().join("\n")
    };
    format!("{}\n{}", only(&expected, &actual, '-'), only(&actual, &expected, '+'))
}

/// One test for each recipe, so that a failure has a name; and two for a framework's mailer.
macro_rules! recipes {
    ($($language:ident { $($name:ident: [$($file:literal),*] $(, $mailer:ident)?;)* })*) => {
        $(mod $language {
            use super::{Recipe, keeps_its_promises};
            $(mod $name {
                use super::*;

                const RECIPE: Recipe = Recipe { language: stringify!($language), name: stringify!($name) };

                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn keeps_what_its_readme_promises() {
                    keeps_its_promises(RECIPE).await;
                }

                $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $mailer() {
                    crate::arrives_as_by_the_frameworks_own_mailer(RECIPE).await;
                })?
            })*
        })*
        const FILES: &[&str] = &[$($($(concat!(stringify!($language), "/", $file),)*)*)*];
    };
}

recipes! {
    go {
        databasesql: ["databasesql/outbox.go"];
        pgx: ["pgx/outbox.go"];
        gomail: ["databasesql/gomail.go"], arrives_in_a_real_postfix_as_by_its_own_smtp;
        gomail_pgx: [], arrives_in_a_real_postfix_as_by_its_own_smtp;
    }
    java {
        jdbc: ["Notification.java"];
        spring: ["OutboxMailSender.java"], arrives_in_a_real_postfix_as_by_its_own_smtp;
        hibernate: [];
    }
    node {
        pg: ["outbox-pg.js"];
        knex: ["outbox-knex.js"];
        drizzle: ["outbox-drizzle.js"];
        nodemailer: ["outbox-transport.js", "package.json"], arrives_in_a_real_postfix_as_by_its_own_smtp;
        nodemailer_knex: [];
        nodemailer_drizzle: [];
    }
    php {
        pdo: ["Outbox.php"];
        symfony: ["OutboxTransport.php", "OutboxTransportFactory.php"], arrives_in_a_real_postfix_as_by_its_own_smtp;
    }
    psql {
        psql: ["order.sql"];
    }
    python {
        django: ["django_backend.py"], arrives_in_a_real_postfix_as_by_its_own_smtp;
        sqlalchemy: ["sqlalchemy_outbox.py"];
        psycopg: ["psycopg_outbox.py"];
    }
    ruby {
        actionmailer: ["outbox_delivery.rb"], arrives_in_a_real_postfix_as_by_its_own_smtp;
        activerecord: ["outbox_notification.rb"];
    }
}

#[test]
fn every_recipe_that_is_offered_is_executed_and_fits_on_a_screen() {
    let (mut offered, mut folders) = (BTreeSet::new(), vec![recipes()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path()) {
            let name = entry.strip_prefix(recipes()).expect("it lies there").display().to_string();
            if entry.is_dir() {
                assert!(name.contains('/') || entry.join("README.md").exists(), "{name} has a README");
                folders.push(entry);
            } else if !name.ends_with("README.md") {
                let lines = fs::read_to_string(&entry).expect("a text").lines().count();
                assert!(lines <= 80, "{name} has {lines} lines: more than a screen");
                offered.insert(name);
            }
        }
    }
    assert_eq!(offered, FILES.iter().map(|file| (*file).to_owned()).collect::<BTreeSet<_>>());
}
