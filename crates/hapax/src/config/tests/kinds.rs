//! Kinds: what is enqueued twice, and what goes in digests.

use std::time::Duration;

use hapax_relay::KeepContent;

use super::*;

/// With templates of these kinds.
fn with_templates(kinds: &str, templates: &[&str]) -> (Loaded, Vec<String>) {
    let place = tempfile::tempdir().expect("a directory");
    for kind in templates {
        std::fs::create_dir(place.path().join(kind)).expect("it is new");
    }
    let text = format!("{GOOD}[templates]\ndirectory = \"{}\"\n{kinds}", place.path().display());
    let (loaded, _directory) = load_text(&text, &[]);
    let said = loaded.problems.iter().map(|problem| {
        let hint = problem.hint.as_deref().unwrap_or("-");
        format!("{}: {} ({hint})", problem.path, problem.message)
    });
    let said = said.collect();
    (loaded, said)
}

#[test]
fn a_kind_collects_by_itself_or_as_another_one_and_what_cannot_be_made_is_refused() {
    let (loaded, said) = with_templates("[kinds.a]\ncollect = \"15m\"\ncollect_as = \"b\"\n", &["a", "b"]);
    assert_eq!((said, loaded.warnings.as_slice()), (vec![], &[][..]));
    let collect = loaded.settings.kinds["a"].collect.clone().expect("it collects");
    assert_eq!((collect.within, collect.max, collect.as_kind.as_deref()), (Duration::from_secs(900), 50, Some("b")));
    let (loaded, said) = with_templates("[kinds.a]\ncollect = \"15m\"\ncollect_max = 3\ncollect_as = \"a\"\n", &["a"]);
    assert_eq!((said, loaded.settings.kinds["a"].collect.clone().map(|collect| collect.max)), (vec![], Some(3)));
    for (kinds, expected) in [
        (
            "[kinds.a]\ncollect = \"15m\"\n",
            "kinds.a.collect: there is no template a (make it: a/subject.txt and a/body.txt, of items and count)",
        ),
        (
            "[kinds.b]\ncollect = \"15m\"\ncollect_as = \"summry\"\n",
            "kinds.b.collect_as: there is no template summry (did you mean summary?)",
        ),
        (
            "[kinds.b]\ncollect = \"15m\"\ncollect_as = \"summary\"\n[kinds.summary]\ncollect = \"1h\"\n",
            "kinds.b.collect_as: kind summary collects, too: what is a digest is not gathered again \
             (name a kind that does not collect, or leave it out)",
        ),
        (
            "[kinds.b]\ncollect = \"15m\"\nexpires_after = \"10m\"\n",
            "kinds.b.collect: is 15m, and expires_after 10m: all of it would expire unsent \
             (make expires_after longer, or collect shorter)",
        ),
        (
            "[relay]\non_doubt = \"resend\"\n[kinds.b]\ncollect = \"15m\"\ncollect_as = \"summary\"\non_doubt = \"hold\"\n",
            "kinds.b.collect: digests are of kind summary, which has on_doubt = resend where b has hold \
             (a digest is decided on by its own kind: say the same for both in kinds.summary.on_doubt)",
        ),
        (
            "[kinds.b]\ncollect = \"15m\"\ncollect_as = \"summary\"\nignores_suppression = true\n",
            "kinds.b.collect: digests are of kind summary, which has ignores_suppression = false where b has true \
             (a digest is decided on by its own kind: say the same for both in kinds.summary.ignores_suppression)",
        ),
        (
            "[kinds.b]\ncollect = \"15m\"\nexpires_after = \"1h\"\n",
            "kinds.b.collect: what is gathered could be sent after kinds.b.expires_after \
             (give digests a kind of their own, collect_as, with expires_after of 45m or less)",
        ),
        (
            "[kinds.b]\ncollect = \"15m\"\nexpires_after = \"1h\"\ncollect_as = \"summary\"\n[kinds.summary]\nexpires_after = \"46m\"\n",
            "kinds.b.collect: what is gathered could be sent after kinds.b.expires_after \
             (set kinds.summary.expires_after to 45m or less)",
        ),
        (
            "[kinds.b]\ncollect = \"15m\"\ncollect_as = \"\"\n",
            "kinds.b.collect_as: is no name of a kind (a-z, 0-9, _ . -, begins with a letter, up to 63 characters)",
        ),
        (
            "[kinds.\"Bad Name\"]\n[tenants.\"a b\"]\n",
            "kinds.Bad Name: no producer can name it: it would apply to nothing \
             (a-z, 0-9, _ . -, begins with a letter, up to 63 characters)",
        ),
    ] {
        assert_eq!(with_templates(kinds, &["b", "summary"]).1[..1], [expected]);
    }
    let in_time = "[kinds.b]\ncollect = \"15m\"\nexpires_after = \"1h\"\ncollect_as = \"summary\"\n[kinds.summary]\nexpires_after = \"45m\"\n";
    assert_eq!(with_templates(in_time, &["b", "summary"]).1, [""; 0]);
}

#[test]
fn what_changes_nothing_is_warned_of() {
    let kinds = "[kinds.a]\ncollect_as = \"b\"\ncollect_max = 7\non_duplicate = \"drop\"\non_block = \"skip\"\nfailed_blocks = true\n";
    let warnings: Vec<String> = with_templates(kinds, &[]).0.warnings.iter().map(ToString::to_string).collect();
    assert_eq!(
        warnings,
        [
            "kinds.a.failed_blocks: changes nothing: on_block skips what has stopped",
            "kinds.a.on_duplicate: changes nothing: there is no guard_window",
            "kinds.a.collect_max: changes nothing: there is no collect",
            "kinds.a.collect_as: changes nothing: there is no collect",
        ]
    );
    let guard = with_templates("[kinds.a]\nguard_window = \"10m\"\n", &[]).0.settings.kinds["a"].guard;
    let expected =
        hapax_relay::GuardWindow { within: Duration::from_secs(600), on_duplicate: hapax_relay::OnDuplicate::Hold };
    assert_eq!(guard, Some(expected));
}

#[test]
fn content_that_would_outlive_its_record_is_warned_about() {
    let kinds = "[retention]\nrecords = \"60d\"\ncontent = \"90d\"\n[kinds.a]\nkeep_content = \"61d\"\n\
                 [kinds.b]\nkeep_content = \"accepted\"\n[kinds.c]\nkeep_content = \"forever\"\n[kinds.d]\nkeep_content = \"60d\"\n";
    let (loaded, _) = with_templates(kinds, &[]);
    let warnings: Vec<String> = loaded.warnings.iter().map(ToString::to_string).collect();
    let words = "is longer than retention.records (60d): it goes with its record";
    let said = |path: &str| warnings.iter().any(|said| said.starts_with(path) && said.contains(words));
    assert!(warnings.len() == 2 && said("retention.content = \"90d\"") && said("kinds.a.keep_content"), "{warnings:?}");
    let kept = |kind: &str| loaded.settings.kinds[kind].keep_content;
    assert_eq!((kept("b"), kept("c")), (Some(KeepContent::Accepted), Some(KeepContent::Forever)));
    assert_eq!(loaded.settings.retention.records, Some(Duration::from_secs(60 * 86_400)));
}
