//! The demo is the shortest end-to-end test there is.

use crate::support::run;

/// The count in the report's row of this name.
fn count(report: &str, name: &str) -> u32 {
    let row = report.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("no {name} in:\n{report}"));
    let number = row[name.len()..].split_whitespace().next().and_then(|word| word.parse().ok());
    number.unwrap_or_else(|| panic!("no number in {row:?}"))
}

#[tokio::test]
async fn every_committed_notification_of_the_demo_arrives_once() {
    let ended = run(&["demo", "--messages", "50"], &[("HAPAX__RELAY__LEASE", "nonsense")]).await;
    assert_eq!(ended.code, 0, "{}{}", ended.stdout, ended.stderr);
    assert_eq!((count(&ended.stdout, "orders committed"), count(&ended.stdout, "orders rolled back")), (45, 5));
    assert_eq!(count(&ended.stdout, "delivered "), count(&ended.stdout, "deliveries expected"));
    assert_eq!((count(&ended.stdout, "in doubt"), count(&ended.stdout, "lost")), (0, 0));
    assert_eq!(ended.stderr, "", "quiet where there is no terminal");
}

#[tokio::test]
async fn killing_the_relay_again_and_again_doubles_and_loses_nothing() {
    let ended = run(&["demo", "--chaos", "--messages", "80", "--kills", "3"], &[]).await;
    assert_eq!(ended.code, 0, "{}{}", ended.stdout, ended.stderr);
    assert_eq!(count(&ended.stdout, "relay killed"), 3);
    assert_eq!((count(&ended.stdout, "duplicates"), count(&ended.stdout, "lost")), (0, 0));
}

#[tokio::test]
async fn without_postgres_it_says_what_to_install() {
    let ended = run(&["demo"], &[("HAPAX_PG_BIN", "/nowhere")]).await;
    assert_eq!(ended.code, 1);
    assert!(
        ended.stderr.starts_with("error: ") && ended.stderr.contains("hint: apt-get install postgresql"),
        "{}",
        ended.stderr
    );
}
