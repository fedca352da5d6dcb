//! Help, exit codes, `check`, secrets.

use std::path::Path;

use crate::support::{CANARY, run, run_in};

const COMMANDS: [&str; 23] = [
    "demo",
    "run",
    "migrate",
    "check",
    "config",
    "status",
    "ls",
    "show",
    "explain",
    "resolve",
    "reconcile",
    "retry",
    "cancel",
    "hold",
    "release",
    "send-again",
    "pause",
    "resume",
    "suppress",
    "unsuppress",
    "suppressions",
    "erase",
    "arm",
];

#[tokio::test]
async fn every_command_has_a_help_with_an_example() {
    let all = run(&["--help"], &[]).await;
    assert_eq!((all.code, all.stderr.as_str()), (0, ""));
    assert!(all.stdout.contains("Exit codes: 0 done, 1 failed, 64 usage, 78 configuration."));
    for command in COMMANDS {
        assert!(all.stdout.contains(&format!("\n  {command} ")), "{command} is not listed");
        let help = run(&[command, "--help"], &[]).await;
        assert_eq!(help.code, 0, "{command}");
        assert!(help.stdout.contains(&format!("hapax {command}")), "{command} has no example:\n{}", help.stdout);
        assert!(help.stdout.contains("Example"), "{command} has no example:\n{}", help.stdout);
    }
}

#[tokio::test]
async fn the_version_is_told() {
    let version = run(&["--version"], &[]).await;
    assert_eq!((version.code, version.stdout), (0, format!("hapax {}\n", env!("CARGO_PKG_VERSION"))));
}

#[tokio::test]
async fn wrong_usage_ends_with_64_and_says_so_on_stderr() {
    let id = "0199aa3e-6f0c-7d2e-9b6f-0d8f3a1c2b4d";
    let cases: [&[&str]; 22] = [
        &[],
        &["bogus"],
        &["run", "--bogus"],
        &["ls", "--state", "lost"],
        &["ls", "--limit", "0"],
        &["show"],
        &["show", "not-an-id"],
        &["explain", "not-an-id"],
        &["explain", id, "--since", "yesterday"],
        &["explain", id, "--limit", "0"],
        &["resolve", id, "sent"],
        &["resolve", id, "maybe", "--reason", "x"],
        &["resolve", "sent", "--reason", "x"],
        &["resolve", id, "sent", "--all", "--reason", "x"],
        &["resolve", "--all", "sent", "--reason", "x", "--token", id],
        &["resolve", "--older-than", "10", "sent", "--reason", "x"],
        &["resolve", id, "sent", "--dry-run", "--reason", "x"],
        &["reconcile"],
        &["reconcile", "--postfix-log", "-", "--utc-offset", "CET"],
        &["resolve", &format!("{id}/1"), &format!("{id}/2"), "sent", "--reason", "x", "--token", id],
        &["demo", "--kills", "3"],
        &["migrate", "sql", "--from", "12", "--to", "3"],
    ];
    for args in cases {
        let ended = run(args, &[]).await;
        assert_eq!((ended.code, ended.stdout.as_str()), (64, ""), "{args:?}\n{}", ended.stderr);
        assert!(!ended.stderr.is_empty(), "{args:?}");
    }
}

#[tokio::test]
async fn without_configuration_run_and_check_say_what_is_missing() {
    for command in ["run", "check"] {
        let ended = run(&[command], &[]).await;
        assert_eq!((ended.code, ended.stdout.as_str()), (78, ""));
        assert!(ended.stderr.starts_with("error: database.url: is missing\nhint: write url = "), "{}", ended.stderr);
        assert!(ended.stderr.contains("error: routes: there is none, so nothing could be sent\nhint: "));
    }
    let ended = run(&["status"], &[]).await;
    assert_eq!(ended.code, 78);
    assert_eq!(ended.stderr.matches("error: ").count(), 1, "{}", ended.stderr);
}

#[tokio::test]
async fn check_accepts_the_sample_configuration() {
    let sample = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/hapax.toml");
    let sample = sample.canonicalize().expect("deploy/hapax.toml").display().to_string();
    let ended = run(&["check", "--config", &sample], &[]).await;
    assert_eq!((ended.code, ended.stderr.as_str()), (0, ""));
    assert!(ended.stdout.starts_with("ok: "), "{}", ended.stdout);
}

#[tokio::test]
async fn the_example_it_prints_is_accepted_fits_the_schema_it_prints_and_says_how_long_an_end_may_take() {
    let (example, schema) = (run(&["config", "example"], &[]).await, run(&["config", "schema"], &[]).await);
    assert_eq!((example.code, schema.code), (0, 0));
    let schema: serde_json::Value = serde_json::from_str(&schema.stdout).expect("JSON");
    let value: toml::Table = example.stdout.parse().expect("TOML");
    let value = serde_json::to_value(value).expect("JSON");
    jsonschema::draft202012::new(&schema).expect("a schema").validate(&value).expect("it fits");
    let directory = tempfile::tempdir().expect("a directory");
    std::fs::write(directory.path().join("hapax.toml"), &example.stdout).expect("written");
    let ended = run_in(directory.path(), &["check", "--stop-timeout", "820"], &[]).await;
    assert_eq!((ended.code, ended.stderr.as_str()), (0, ""));
    assert!(ended.stdout.contains("TimeoutStopSec=820 (systemd;"), "{}", ended.stdout);
    let ended = run_in(directory.path(), &["check", "--stop-timeout", "13m"], &[]).await;
    assert_eq!(ended.code, 78);
    assert!(ended.stderr.contains("780 s is too short: a relay may take 820 s to end"), "{}", ended.stderr);
    let short = [("HAPAX__RELAY__FINAL_REPLY_TIMEOUT", "1m"), ("HAPAX_RELAY_LEASE", "")];
    let ended = run_in(directory.path(), &["check"], &short).await;
    assert_eq!(ended.code, 0);
    assert!(
        ended.stderr.starts_with("advice: relay.final_reply_timeout: 1m: a server may take longer"),
        "{}",
        ended.stderr
    );
}

#[tokio::test]
async fn check_print_shows_every_value_with_its_origin() {
    let directory = tempfile::tempdir().expect("a directory");
    let text = "[database]\nurl = \"postgres://u@db/x\"\n[routes.default]\nurl = \"capture:\"\nfrom = \"a@example.org\"\nrate = \"1/s\"\n";
    std::fs::write(directory.path().join("hapax.toml"), text).expect("written");
    let variables = [("HAPAX__RELAY__NAME", "here")];
    let ended = run_in(directory.path(), &["check", "--print", "--log-level", "warn"], &variables).await;
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    let line = |start: &str| {
        let line = ended.stdout.lines().find(|line| line.starts_with(start)).unwrap_or_default();
        line.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    assert_eq!(line("database.url "), "database.url = \"postgres://u@db/x\" # file ./hapax.toml");
    assert_eq!(line("relay.name "), "relay.name = \"here\" # environment HAPAX__RELAY__NAME");
    assert_eq!(line("log.level "), "log.level = \"warn\" # flag --log-level");
    assert_eq!(line("relay.lease "), "relay.lease = \"2m\" # default");
    assert_eq!(line("routes.default.rate "), "routes.default.rate = \"1/s\" # file ./hapax.toml");
}

#[tokio::test]
async fn check_speaks_json() {
    let ended = run(&["check", "--json"], &[("HAPAX__RELAY__LEASE", "soon")]).await;
    assert_eq!(ended.code, 78);
    let json: serde_json::Value = serde_json::from_str(&ended.stdout).expect("JSON");
    assert_eq!((json["ok"].as_bool(), json["problems"].as_array().map(Vec::len)), (Some(false), Some(3)));
    assert_eq!(json["problems"][1]["origin"], "environment HAPAX__RELAY__LEASE");
}

#[tokio::test]
async fn a_digest_that_its_templates_cannot_make_is_found_by_check() {
    let directory = tempfile::tempdir().expect("a directory");
    let write = |file: &str, text: &str| {
        let path = directory.path().join(file);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("made");
        std::fs::write(path, text).expect("written");
    };
    write("t/comment/subject.txt", "{{ title }}");
    write("t/comment/body.txt", "t");
    write("t/comment/sample.json", r#"{"title": "x"}"#);
    let config =
        "[database]\nurl = \"postgres://db/x\"\n[templates]\ndirectory = \"t\"\n[kinds.comment]\ncollect = \"15m\"\n";
    let route = "[routes.default]\nurl = \"capture:\"\nfrom = \"a@example.org\"\n";
    write("hapax.toml", &format!("{config}{route}"));
    let ended = run_in(directory.path(), &["check", "--config", "hapax.toml"], &[]).await;
    let said = "kinds.comment.collect: its digest cannot be made: comment/subject.txt:1: `title` is undefined (with a digest of comment/sample.json)";
    assert!(ended.code == 78 && ended.stderr.contains(said) && ended.stderr.contains("collect_as"), "{}", ended.stderr);
    write("t/comments/subject.txt", "{{ count }} new");
    write("t/comments/body.txt", "{% for item in items %}{{ item.title }}{% endfor %}");
    write("hapax.toml", &format!("{config}collect_as = \"comments\"\n{route}"));
    let ended = run_in(directory.path(), &["check", "--config", "hapax.toml"], &[]).await;
    assert_eq!(ended.code, 0, "{}", ended.stderr);
}

#[tokio::test]
async fn broken_templates_are_found_by_check() {
    let directory = tempfile::tempdir().expect("a directory");
    std::fs::create_dir_all(directory.path().join("templates/welcome")).expect("made");
    std::fs::write(directory.path().join("templates/welcome/subject.txt"), "{{ name").expect("written");
    let text = "[database]\nurl = \"postgres://db/x\"\n[templates]\ndirectory = \"templates\"\n[routes.default]\nurl = \"capture:\"\nfrom = \"a@example.org\"\n";
    std::fs::write(directory.path().join("hapax.toml"), text).expect("written");
    let ended = run_in(directory.path(), &["check"], &[]).await;
    assert_eq!(ended.code, 78);
    assert!(ended.stderr.contains("welcome/subject.txt"), "{}", ended.stderr);
}

#[tokio::test]
async fn no_output_ever_shows_a_password() {
    let directory = tempfile::tempdir().expect("a directory");
    let text = format!(
        "[database]\nurl = \"postgres://u:{CANARY}@127.0.0.1:1/x\"\n[routes.default]\nurl = \"smtps://u:{CANARY}@127.0.0.1\"\n\
         from = \"a@example.org\"\npassword = \"{CANARY}\"\npasswort = \"{CANARY}\"\n[databse]\npassword = \"{CANARY}\"\n"
    );
    std::fs::write(directory.path().join("hapax.toml"), text).expect("written");
    let variables = [
        ("HAPAX__DATABASE__PASSWORD", CANARY),
        ("HAPAX__DATABASE_PASSWORD", CANARY),
        ("HAPAX__ROUTES__DEFAULT__XOAUTH2_TOKEN", CANARY),
        ("HAPAX__RELAY__PASSWORD", CANARY),
    ];
    let (url, keywords) = (format!("postgres://u:{CANARY}/@h"), format!("host=127.0.0.1 port=1 password={CANARY}"));
    let cases: [&[&str]; 9] = [
        &["check"],
        &["check", "--print"],
        &["check", "--print", "--json"],
        &["run", "--log-level", "trace"],
        &["status", "--log-level", "trace"],
        &["ls", "--database-url", &url],
        &["ls", "--database-url", &keywords],
        &["migrate", "up", "--database-url", "postgres://u@127.0.0.1:1/x"],
        &["run", "--database-url", &url],
    ];
    for args in cases {
        let ended = run_in(directory.path(), args, &variables).await;
        assert_ne!(ended.code, 0, "{args:?}");
        let said = format!("{}{}", ended.stdout, ended.stderr);
        assert!(!said.contains(CANARY), "{args:?} shows a password:\n{said}");
    }
}

#[tokio::test]
async fn a_database_that_is_away_is_an_error_with_its_masked_url() {
    let ended = run(&["status", "--database-url", &format!("postgres://u:{CANARY}@127.0.0.1:1/x")], &[]).await;
    assert_eq!((ended.code, ended.stdout.as_str()), (1, ""));
    assert_eq!(
        ended.stderr,
        "error: connect: error connecting to server: Connection refused (os error 111)\n\
         hint: database.url is postgres://u:***@127.0.0.1:1/x\n"
    );
}

#[tokio::test]
async fn migrate_sql_needs_no_database() {
    let ended = run(&["migrate", "sql", "--to", "2"], &[]).await;
    assert_eq!((ended.code, ended.stderr.as_str()), (0, ""));
    assert!(ended.stdout.contains("-- 0001_schema.sql") && !ended.stdout.contains("-- 0003_"));
}
