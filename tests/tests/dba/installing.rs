//! What is installed by an owner that may do little, what is taken away and brought back, and what is removed: by the
//! boxes of `deploy/DBA.md`.

use hapax_tests::stage::PATIENCE;

use crate::page::{Shop, boxes_of, enqueue};

/// The line that begins so.
fn line<'a>(said: &'a str, begin: &str) -> &'a str {
    said.lines().find(|line| line.starts_with(begin)).unwrap_or_else(|| panic!("no {begin:?} in {said}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_owner_that_may_make_no_roles_is_told_which_and_what_makes_them() {
    let shop = Shop::new().await;
    shop.sql("CREATE ROLE outbox_owner LOGIN; GRANT CREATE ON DATABASE shop TO outbox_owner").await;
    let owner = shop.settings("outbox_owner");
    let (code, said) = owner.command(["migrate", "up"]).await;
    assert_eq!(code, 0, "{said}");
    let notices: Vec<&str> = said.lines().filter(|line| line.starts_with("notice: ")).collect();
    println!("{notices:#?}");
    assert!(notices.len() == 1 && notices[0].contains("outbox_owner may not create roles"), "{notices:?}");
    assert!(notices[0].contains("CREATE ROLE outbox_relay NOLOGIN;"), "{notices:?}");
    let (code, said) = owner.command(["migrate", "verify"]).await;
    assert_eq!(code, 0, "{said}");
    let notice = line(&said, "notice: there is no role outbox_producer, outbox_relay, outbox_operator, outbox_viewer");
    let (make, give) = notice
        .split_once("as who may make roles: ")
        .expect("what makes them")
        .1
        .split_once("then as the owner: ")
        .expect("and what then");
    shop.sql(make).await;
    shop.sql("CREATE ROLE hapax LOGIN IN ROLE outbox_relay").await;
    let doctor = async || shop.settings("hapax").command(["doctor", "--verbose", "--timeout", "3s"]).await.1;
    let said = doctor().await;
    assert!(said.contains("may not use schema outbox"), "{said}");
    shop.as_user("outbox_owner").await.batch_execute(give).await.expect("gives");
    let said = doctor().await;
    line(&said, "ok       schema.privileges");
    line(&said, "ok       database.privileges");
    let (_, said) = owner.command(["migrate", "verify"]).await;
    assert!(!said.contains("notice"), "{said}");
    let (_, said) = owner.command(["migrate", "verify", "--json"]).await;
    assert!(said.contains("\"missing_roles\": []"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_week_goes_and_comes_back_as_the_page_says_with_what_came_meanwhile() {
    let shop = Shop::installed().await;
    let (app, owner) = (shop.as_user("app").await, shop.as_user("outbox_owner").await);
    enqueue(&app, "recipients => '{before@example.org}'").await;
    // The page has an example: here it is this week.
    let days = "SELECT to_char(w, 'YYYYMMDD'), to_char(w, 'YYYY-MM-DD'), to_char(w + interval '7 days', 'YYYY-MM-DD')
                FROM date_trunc('week', now() AT TIME ZONE 'UTC') w";
    let days = shop.admin.query_one(days, &[]).await.expect("a week");
    let [stamp, from, to] = [0, 1, 2].map(|at| days.get::<_, String>(at));
    let boxes = boxes_of("To take a week away");
    assert!(boxes.len() == 3 && boxes.iter().all(|typed| typed.user == "outbox_owner"));
    let of_week = |sql: &str| sql.replace("20260105", &stamp).replace("2026-01-05", &from).replace("2026-01-12", &to);
    let how_many = format!(
        "SELECT unfinished, attached FROM ({}) w WHERE week = 'message_{stamp}'",
        boxes[0].sql.trim_end_matches(';')
    );
    let row = owner.query_one(&how_many, &[]).await.expect("looks");
    assert_eq!((row.get::<_, i64>(0), row.get::<_, bool>(1)), (1, true));
    owner.batch_execute(&of_week(boxes[1].sql)).await.unwrap_or_else(|error| panic!("{error:?}"));
    enqueue(&app, "recipients => '{meanwhile@example.org}'").await;
    owner.batch_execute(&of_week(boxes[2].sql)).await.unwrap_or_else(|error| panic!("{error:?}"));
    shop.until(&format!("SELECT count(*) FROM outbox.message_{stamp}"), 2).await;
    shop.until("SELECT count(*) FROM outbox.message", 2).await;
    let relay = shop.settings("hapax").run().await;
    shop.until("SELECT count(*) FROM outbox.done WHERE state = 'sent'", 2).await;
    drop(relay);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_removed_as_the_page_says_leaves_nothing_and_can_be_installed_again() {
    let shop = Shop::installed().await;
    let app = shop.as_user("app").await;
    for quiet in boxes_of("Who is connected").iter().filter(|typed| typed.sql.starts_with("ALTER ROLE")) {
        shop.sql(quiet.sql).await;
    }
    let mut relay = shop.settings("hapax").run().await;
    enqueue(&app, "recipients => '{a@example.org}'").await;
    shop.until("SELECT count(*) FROM outbox.done", 1).await;
    relay.sigterm();
    relay.wait_exit(PATIENCE).await;
    let boxes = boxes_of("To remove it");
    assert!(boxes.len() == 2 && boxes.iter().all(|typed| typed.user == "postgres"));
    // How many entries of the lock table that takes is said on the page.
    let locks = "SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid()";
    let mut taken = Vec::new();
    for ahead in ["28 days", "308 days"] {
        shop.sql(&format!("SELECT outbox.maintain('{ahead}')")).await;
        shop.sql("BEGIN; DROP SCHEMA outbox, outbox_test CASCADE").await;
        taken.push(shop.admin.query_one(locks, &[]).await.expect("counts").get::<_, i64>(0));
        shop.sql("ROLLBACK").await;
    }
    println!("{taken:?}");
    for typed in &boxes {
        shop.sql(typed.sql).await;
    }
    let left = "SELECT (SELECT count(*) FROM pg_namespace WHERE nspname ~ 'outbox') + (SELECT count(*) FROM pg_roles WHERE rolname ~ 'outbox')
      + (SELECT count(*) FROM pg_default_acl) + (SELECT count(*) FROM pg_db_role_setting WHERE setrole <> 0)
      + (SELECT count(*) FROM aclexplode((SELECT datacl FROM pg_database WHERE datname = 'shop')) a WHERE a.privilege_type = 'CREATE' AND a.grantee NOT IN (0, 10))";
    shop.until(left, 0).await;
    shop.sql("DROP ROLE app").await;
    shop.install().await;
    enqueue(&shop.as_user("app").await, "recipients => '{b@example.org}'").await;
}
