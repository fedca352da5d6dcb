//! Good and bad configurations, the bad ones with the exact text of each problem.

use std::collections::HashMap;

use super::*;

mod kinds;
mod ways;

const GOOD: &str = "\
[database]
url = \"postgres://relay@db/shop\"
[routes.default]
url = \"smtp://mail.example.com\"
from = \"Shop <shop@example.org>\"
";

/// Loads a file with this text, as `hapax.toml` in a directory of its own, and these variables.
fn load_text(text: &str, variables: &[(&str, &str)]) -> (Loaded, tempfile::TempDir) {
    crate::run::install_crypto();
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("hapax.toml");
    std::fs::write(&file, text).expect("written");
    let variables: HashMap<String, String> =
        variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    (load(&Inputs { file: Some(file), variables, ..Inputs::default() }), directory)
}

/// Every problem with its hint in one text, the directory written as DIR.
fn problems(text: &str, variables: &[(&str, &str)]) -> String {
    let (loaded, directory) = load_text(text, variables);
    let lines = loaded.problems.iter().map(|problem| match &problem.hint {
        Some(hint) => format!("{problem} ({hint})"),
        None => problem.to_string(),
    });
    let text = lines.collect::<Vec<_>>().join("\n");
    text.replace(&directory.path().display().to_string(), "DIR")
}

/// The good file with lines appended to one of its sections.
fn with(section: &str, lines: &str) -> String {
    let header = format!("[{section}]\n");
    if GOOD.contains(&header) {
        GOOD.replace(&header, &format!("{header}{lines}\n"))
    } else {
        format!("{GOOD}{header}{lines}\n")
    }
}

#[test]
fn a_small_configuration_has_no_problems_and_the_defaults_of_the_core() {
    let (loaded, _directory) = load_text(GOOD, &[]);
    assert_eq!((loaded.problems.as_slice(), loaded.warnings.as_slice()), (&[][..], &[][..]));
    assert_eq!(loaded.settings.relay.limits, hapax_core::limits::Limits::default());
    assert_eq!(loaded.settings.relay.timeouts, hapax_core::limits::Timeouts::default());
    assert_eq!(loaded.settings.retry, hapax_core::RetryPolicy::default());
}

#[test]
fn every_bad_value_is_refused_with_its_path_its_value_and_its_place() {
    let blocks: Vec<&str> = include_str!("bad_values.txt").split("\n\n").skip(1).collect();
    assert!(blocks.len() >= 25);
    for block in blocks {
        let (header, rest) = block.split_once('\n').expect("a section");
        let (lines, expected) = rest.split_once("\n=> ").expect("what is said");
        let section = header.trim_matches(['[', ']']);
        assert_eq!(problems(&with(section, lines), &[]), expected.trim_end(), "{block}");
    }
}

#[test]
fn bad_urls_and_senders_are_refused_without_their_passwords() {
    let dir = "[file DIR/hapax.toml]";
    let refused = |bad: &str| hapax_mail::parse_url(bad).expect_err("no route").to_string();
    let smtp = "smtp://mail.example.com";
    let sender = "Shop <shop@example.org>";
    let postgres = "postgres://relay@db/shop";
    let keyword = "postgres://user@host:5432/database?sslmode=verify-full";
    let cases = [
        (smtp, "ftp://u:CANARY@h", "routes.default.url = \"ftp://u:***@h\"", refused("ftp://u:CANARY@h"), ""),
        (smtp, "lmtp://h", "routes.default.url = \"lmtp://h\"", refused("lmtp://h"), ""),
        (smtp, "smtp://u:CA#NARY@h", "routes.default.url = \"smtp://u:***@h\"", refused("smtp://u:CA#NARY@h"), ""),
        (
            sender,
            "shop",
            "routes.default.from = \"shop\"",
            "not an address: write user@example.org or Name <user@example.org>".to_owned(),
            "",
        ),
        (
            postgres,
            "mysql://u:CANARY@db",
            "database.url = \"mysql://u:***@db\"",
            "not a connection string".to_owned(),
            keyword,
        ),
        (
            postgres,
            "host=a,b port=1,2,3 password=CANARY",
            "database.url = \"host=a,b port=1,2,3 password=***\"",
            "it names 2 hosts, 3 ports and 0 addresses".to_owned(),
            "one port for all or one for each, an address for none or for each; in a URL the port stands behind its host, \
             or hosts and ports both behind the ?",
        ),
        (
            postgres,
            "host=db password=CANARY CANARY=1",
            "database.url = \"host=db password=***\"",
            "not a connection string".to_owned(),
            keyword,
        ),
        (
            postgres,
            "postgres://u:CANARY@db/x?sslmode=full",
            "database.url = \"postgres://u:***@db/x?sslmode=full\"",
            "sslmode=full is not disable, allow, prefer, require, verify-ca or verify-full".to_owned(),
            "",
        ),
    ];
    for (good, bad, shown, message, hint) in cases {
        let found = problems(&GOOD.replace(good, bad), &[]);
        let hint = if hint.is_empty() { String::new() } else { format!(" ({hint})") };
        assert_eq!(found, format!("{shown}: {message} {dir}{hint}"));
        assert!(!found.contains("CANARY") && !found.contains("NARY"));
    }
}

#[test]
fn all_problems_are_listed_at_once() {
    let text = "[relay]\nlease = \"x\"\nnmae = \"y\"\n[retry]\nfactor = 0\n";
    let found = problems(text, &[("HAPAX__LOG__LEVEL", "loud"), ("HAPAX__RELAY__LEESE", "1s")]);
    let paths: Vec<&str> = found.lines().map(|line| line.split([' ', ':']).next().unwrap_or_default()).collect();
    let expected = ["database.url", "relay.lease", "relay.leese", "relay.nmae", "retry.factor", "routes", "log.level"];
    assert_eq!(paths, expected, "{found}");
    assert!(found.contains("[environment HAPAX__RELAY__LEESE] (did you mean lease?)"), "{found}");
}

#[test]
fn without_any_configuration_it_says_what_is_missing_and_how_to_give_it() {
    let loaded = load(&Inputs::default());
    let lines: Vec<String> = loaded.problems.iter().map(ToString::to_string).collect();
    assert_eq!(lines, ["database.url: is missing", "routes: there is none, so nothing could be sent"]);
    assert!(loaded.problems[0].hint.as_ref().is_some_and(|hint| hint.contains("--database-url")));
    assert!(loaded.problems[1].hint.as_ref().is_some_and(|hint| hint.contains("HAPAX__ROUTES__DEFAULT__URL")));
}

#[test]
fn a_route_needs_a_url_and_a_sender() {
    let text = "[database]\nurl = \"postgres://db/x\"\n[routes.default]\nmax_connections = 2\n";
    assert_eq!(
        problems(text, &[]),
        "routes.default.url: is missing (smtp://host, smtps://user@host, file:///directory or capture:)\n\
         routes.default.from: is missing \
         (the sender of mail that names none itself: from = \"Shop <no-reply@example.com>\")"
    );
}

#[test]
fn a_syntax_error_names_line_and_column_and_never_shows_the_line() {
    let found = problems("[database]\npassword = CANARY\n", &[]);
    assert!(found.starts_with("DIR/hapax.toml:2:12: not TOML: "), "{found}");
    assert!(!found.contains("CANARY"), "{found}");
    assert_eq!(found.lines().count(), 1, "what is missing may stand in the file: {found}");
}

#[test]
fn a_named_file_that_is_not_there_is_a_problem() {
    let loaded = load(&Inputs { file: Some("/nowhere/hapax.toml".into()), ..Inputs::default() });
    assert_eq!(
        loaded.problems[0].to_string(),
        "/nowhere/hapax.toml: cannot be read: No such file or directory (os error 2)"
    );
}

#[test]
fn the_environment_wins_over_the_file_and_flags_over_both() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("hapax.toml");
    std::fs::write(&file, with("relay", "name = \"file\"\nlease = \"30s\"")).expect("written");
    let variables = [
        ("HAPAX__RELAY__NAME", "environment"),
        ("HAPAX__DATABASE__URL", "postgres://env/x"),
        ("HAPAX__RELAY__LEASE", ""),
    ];
    let inputs = Inputs {
        file: Some(file),
        variables: variables.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
        flags: vec![("database.url", "database-url", "postgres://flag/x".into())],
        ..Inputs::default()
    };
    let loaded = load(&inputs);
    assert_eq!(loaded.problems, []);
    let origin = |path: &str| {
        let shown = loaded.shown.iter().find(|shown| shown.path == path).expect("shown");
        (
            shown.value.clone().unwrap_or_default(),
            shown.origin.to_string().split(' ').next().unwrap_or_default().to_owned(),
        )
    };
    assert_eq!(origin("relay.name"), ("\"environment\"".into(), "environment".into()));
    assert_eq!(origin("database.url"), ("\"postgres://flag/x\"".into(), "flag".into()));
    assert_eq!(origin("relay.lease"), ("\"30s\"".into(), "file".into()), "an empty variable is none");
    assert_eq!(origin("relay.dead_after"), ("\"30s\"".into(), "default".into()));
}

#[test]
fn http_listens_at_an_address_and_log_names_recipients_as_told() {
    let (loaded, _directory) =
        load_text(&format!("{}[http]\nlisten = \"[::1]:9464\"\n", with("log", "recipient = \"hashed\"")), &[]);
    assert_eq!((loaded.problems, loaded.warnings), (vec![], vec![]));
    assert_eq!(loaded.settings.http.listen.map(|listen| listen.to_string()).as_deref(), Some("[::1]:9464"));
    assert_eq!(loaded.settings.log.recipient, hapax_relay::RecipientLog::Hashed);
    let (loaded, _directory) = load_text(&with("http", "listen = \"localhost\""), &[]);
    assert!(loaded.problems[0].to_string().starts_with("http.listen"), "{}", loaded.problems[0]);
    let (loaded, _directory) = load_text(&with("log", "recipient = \"ful\""), &[]);
    assert_eq!(loaded.problems[0].hint.as_deref(), Some("did you mean full?"));
}

#[test]
fn several_routes_without_a_default_are_warned_about() {
    let text = "[database]\nurl = \"postgres://db/x\"\n[routes.b]\nurl = \"capture:\"\nfrom = \"a@example.org\"\n\
        [routes.a]\nurl = \"capture:/tmp/x\"\nfrom = \"a@example.org\"\n";
    let (loaded, _directory) = load_text(text, &[]);
    assert_eq!(
        loaded.warnings[0].to_string(),
        "routes: none of the 2 is called default: what names no route goes to a"
    );
    assert_eq!(loaded.settings.routes[0].name, "a");
}

#[test]
fn secrets_come_from_the_environment_a_file_or_the_credentials_directory_and_are_never_shown() {
    let directory = tempfile::tempdir().expect("a directory");
    std::fs::write(directory.path().join("secret"), "CANARY-file\n").expect("written");
    std::fs::write(directory.path().join("route_default_password"), "CANARY-credential").expect("written");
    let file = directory.path().join("hapax.toml");
    std::fs::write(&file, with("database", "password_file = \"secret\"").replace("smtp://mail", "smtps://user@mail"))
        .expect("written");
    let credentials = directory.path().display().to_string();
    let mut inputs = Inputs {
        file: Some(file),
        variables: [("CREDENTIALS_DIRECTORY".to_owned(), credentials)].into(),
        ..Inputs::default()
    };
    crate::run::install_crypto();
    let loaded = load(&inputs);
    assert_eq!(loaded.problems, []);
    assert_eq!(loaded.settings.database.options("x").password.as_deref(), Some("CANARY-file"));
    inputs.variables.insert("HAPAX__DATABASE__PASSWORD".into(), "CANARY-environment".into());
    let loaded = load(&inputs);
    assert_eq!(loaded.settings.database.options("x").password.as_deref(), Some("CANARY-environment"));
    let told = format!("{loaded:?} {:#?}", loaded.settings);
    assert!(!told.contains("CANARY"), "{told}");
    let password = loaded.shown.iter().find(|shown| shown.path == "routes.default.password").expect("shown");
    assert_eq!(password.origin.to_string(), "credentials directory, route_default_password");
    let credential = directory.path().join("route_default_password");
    std::fs::remove_file(&credential).expect("removed");
    std::fs::create_dir(&credential).expect("made");
    let found = load(&inputs).problems.iter().map(ToString::to_string).collect::<Vec<_>>();
    let wanted =
        "routes.default.password: $CREDENTIALS_DIRECTORY/route_default_password cannot be read: not a regular file";
    assert!(found.iter().any(|found| found == wanted), "{found:?}");
}

#[test]
fn commands_that_only_need_the_database_do_not_care_about_the_rest() {
    let (loaded, _directory) = load_text("[database]\nurl = \"postgres://db/x\"\n[relay]\nlease = 1\n", &[]);
    assert_eq!(loaded.problems.len(), 2);
    assert_eq!(loaded.database().expect("a database").url, "postgres://db/x");
    let (loaded, _directory) = load_text("[databse]\nurl = \"postgres://db/x\"\n", &[]);
    assert!(loaded.database().is_err());
}

#[test]
fn guards_and_de_duplicating_upstreams_are_read_from_file_and_environment_and_announced() {
    let text = with("guards", "recipients_allow = [\"@Example.org\", \"qa@example.com\"]\nmax_age = \"off\"");
    let text = text
        .replace("[routes.default]\n", "[routes.default]\nidempotency_header = \"Key\"\nidempotency_window = \"1h\"\n");
    let (loaded, _directory) = load_text(&text, &[("HAPAX__GUARDS__REDIRECT_ALL_TO", "staging@example.org")]);
    assert_eq!(loaded.problems, []);
    let guards = &loaded.settings.guards;
    assert_eq!((guards.recipients_allow.as_ref().map(Vec::len), guards.max_age), (Some(2), None));
    assert_eq!(
        guards.redirect_all_to.as_ref().map(hapax_core::Recipient::address).as_deref(),
        Some("staging@example.org")
    );
    let told: Vec<String> = loaded.warnings.iter().map(ToString::to_string).collect();
    let expected = [
        "guards.recipients_allow: is on: only these recipients get their mail",
        "guards.redirect_all_to: is on: all other mail goes to that address instead",
    ];
    assert_eq!(told, expected, "no address in what is logged");
    let idempotency = loaded.settings.routes[0].idempotency.as_ref().expect("there is one");
    assert_eq!((idempotency.header.as_str(), idempotency.window.as_secs()), ("Key", 3600));
    let (loaded, _directory) = load_text(GOOD, &[("HAPAX__GUARDS__RECIPIENTS_ALLOW", "@example.org, qa@example.com")]);
    assert_eq!(loaded.problems, []);
    assert_eq!(loaded.settings.guards.recipients_allow.as_ref().map(Vec::len), Some(2));
    assert_eq!(loaded.settings.guards.max_age, Some(hapax_core::guards::MAX_AGE));
}

fn sample() -> String {
    schema::EXAMPLE.to_owned()
}

#[test]
fn the_sample_configuration_is_accepted_as_it_is() {
    let (loaded, _directory) = load_text(&sample(), &[]);
    assert_eq!((loaded.problems, loaded.warnings), (vec![], vec![]));
}

#[test]
fn the_sample_configuration_has_every_key_with_its_default() {
    let (plain, _directory) = load_text(&sample(), &[]);
    let uncommented: Vec<String> = sample()
        .lines()
        .map(|line| match line.strip_prefix('#') {
            Some(rest) if rest.starts_with(|c: char| c.is_ascii_lowercase() || c == '[') => rest.to_owned(),
            _ => line.to_owned(),
        })
        .collect();
    let (full, _directory) = load_text(&uncommented.join("\n"), &[]);
    // Of files that are not here, and of keys that one section has all at once.
    let expected =
        ["cannot be read", "there is no such directory", "there is no such route", "does not belong to smtps"];
    let together = ["digests are of kind", "what is gathered could be sent after"];
    let about_files = |problem: &Problem| expected.iter().chain(&together).any(|words| problem.message.contains(words));
    let others: Vec<&Problem> = full.problems.iter().filter(|problem| !about_files(problem)).collect();
    assert_eq!(others, Vec::<&Problem>::new());
    // What has a default stands there with that default.
    for shown in &full.shown {
        let Some(default) = plain.shown.iter().find(|plain| plain.path == shown.path) else { continue };
        if default.origin == origin::Origin::Default && default.value.is_some() && shown.path != "relay.name" {
            assert_eq!(normal(shown.value.as_deref()), normal(default.value.as_deref()), "{}", shown.path);
            assert_ne!(shown.origin, origin::Origin::Default, "{} is missing in the sample", shown.path);
        }
    }
    let missing: Vec<&str> = full
        .shown
        .iter()
        .filter(|shown| shown.origin == origin::Origin::Default)
        .map(|shown| shown.path.as_str())
        .collect();
    assert_eq!(missing, Vec::<&str>::new(), "keys the sample does not mention");
}

/// 2.0 and 2 are the same number.
fn normal(value: Option<&str>) -> String {
    let value = value.unwrap_or_default();
    value.strip_suffix(".0").unwrap_or(value).to_owned()
}

/// The Ed25519 key of RFC 8463, which is no secret.
const PEM: &str = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIJ1hsZ3v/VpguoRK9JLsLMREScVpezJpGXA7rAMcrn9g\n\
    -----END PRIVATE KEY-----\n";

#[test]
fn keys_come_from_files_credentials_and_the_environment_and_every_route_has_all_of_them_or_those_it_names() {
    use std::os::unix::fs::PermissionsExt;
    crate::run::install_crypto();
    let directory = tempfile::tempdir().expect("a directory");
    let pem = directory.path().join("key.pem");
    for path in [&pem, &directory.path().join("dkim_b_private_key")] {
        std::fs::write(path, PEM).expect("written");
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).expect("only ours");
    }
    let key = |name: &str| format!("[dkim.{name}]\ndomain = \"example.org\"\nselector = \"{name}\"\n");
    let route = |name: &str, keys: &str| {
        format!("[routes.{name}]\nurl = \"capture:/tmp/x\"\nfrom = \"a@example.org\"\ndkim = {keys}\n")
    };
    let text = [
        GOOD,
        &key("a"),
        "private_key_file = \"key.pem\"\n",
        &key("b"),
        &key("c"),
        &route("some", "[\"c\", \"a\"]"),
        &route("none", "[]"),
    ];
    let file = directory.path().join("hapax.toml");
    std::fs::write(&file, text.concat()).expect("written");
    let inputs = Inputs {
        file: Some(file),
        variables: [
            ("CREDENTIALS_DIRECTORY".to_owned(), directory.path().display().to_string()),
            ("HAPAX__DKIM__C__PRIVATE_KEY".to_owned(), PEM.to_owned()),
        ]
        .into(),
        ..Inputs::default()
    };
    let loaded = load(&inputs);
    assert_eq!((loaded.problems.as_slice(), loaded.warnings.as_slice()), (&[][..], &[][..]));
    let used = |route: &str| -> Vec<String> {
        let route = loaded.settings.routes.iter().find(|found| found.name == route).expect("a route");
        route.dkim.iter().map(|key| key.record_name()).collect()
    };
    let record = |name: &str| format!("{name}._domainkey.example.org");
    assert_eq!(used("default"), ["a", "b", "c"].map(record));
    assert_eq!(used("some"), ["c", "a"].map(record));
    assert_eq!(used("none"), Vec::<String>::new());
    let told = format!("{loaded:?}");
    assert!(!told.contains("MC4CAQ") && told.contains("dkim.b.private_key"), "{told}");

    std::fs::set_permissions(&pem, std::fs::Permissions::from_mode(0o644)).expect("everybody's");
    let warnings: Vec<String> = load(&inputs).warnings.iter().map(ToString::to_string).collect();
    assert_eq!(warnings, ["dkim.a.private_key_file: everybody on this machine can read the private key"]);
}

#[test]
fn the_key_of_unsubscribe_links_is_long_enough_and_reaches_the_renderer() {
    let short = problems(GOOD, &[("HAPAX__TEMPLATES__UNSUBSCRIBE_KEY", "CANARY")]);
    assert_eq!(
        short,
        "templates.unsubscribe_key_file: the unsubscribe key has fewer than 16 bytes (openssl rand -hex 32 makes one)"
    );
    let directory = tempfile::tempdir().expect("a directory");
    let kind = directory.path().join("templates/offers");
    std::fs::create_dir_all(&kind).expect("made");
    std::fs::write(directory.path().join("unsubscribe_key"), "CANARY-0123456789abcdef\n").expect("written");
    let file = directory.path().join("hapax.toml");
    std::fs::write(&file, format!("{GOOD}[templates]\ndirectory = \"templates\"\n")).expect("written");
    for (name, text) in [
        ("subject.txt", "Offers"),
        ("body.txt", "x"),
        ("kind.toml", "[unsubscribe]\nurl = \"https://shop.example/u\"\n"),
    ] {
        std::fs::write(kind.join(name), text).expect("written");
    }
    let mut inputs = Inputs { file: Some(file), ..Inputs::default() };
    let loaded = load(&inputs).complete().expect("no problem");
    let error = crate::run::renderer(&loaded.settings).map(drop).expect_err("no key");
    assert!(error.to_string().contains("set templates.unsubscribe_key_file"), "{error}");
    inputs.variables.insert("CREDENTIALS_DIRECTORY".into(), directory.path().display().to_string());
    let loaded = load(&inputs).complete().expect("no problem");
    assert!(crate::run::renderer(&loaded.settings).is_ok());
    assert!(!format!("{loaded:?}").contains("CANARY"));
}

#[test]
fn a_selector_names_one_key_and_a_route_is_warned_when_no_key_fits_its_sender() {
    let key = |name: &str, domain: &str| format!("[dkim.{name}]\ndomain = \"{domain}\"\nselector = \"s\"\n");
    let variables = [("HAPAX__DKIM__A__PRIVATE_KEY", PEM), ("HAPAX__DKIM__B__PRIVATE_KEY", PEM)];
    let twice = format!("{GOOD}{}{}", key("a", "example.org"), key("b", "Example.org"));
    let said = "dkim.b.selector: another key signs for example.org with this selector already \
        (a selector names one key of its domain in the DNS)";
    assert_eq!(problems(&twice, &variables), said);
    let other = format!("{}{}", with("routes.default", "dkim = [\"a\"]"), key("a", "example.com"));
    let (loaded, _directory) = load_text(&other, &variables[..1]);
    assert_eq!(loaded.problems, []);
    let warnings: Vec<String> = loaded.warnings.iter().map(ToString::to_string).collect();
    assert_eq!(warnings, ["routes.default.dkim: none of these keys signs for the domain of the route's from"]);
}

#[test]
fn a_directory_of_attachments_that_holds_secrets_is_warned_of() {
    let warnings = |text: &str| -> Vec<String> {
        let (loaded, directory) = load_text(&format!("{GOOD}{text}"), &[]);
        assert_eq!(loaded.problems, &[]);
        let place = directory.path().display().to_string();
        loaded.warnings.iter().map(|warning| warning.to_string().replace(&place, "DIR")).collect()
    };
    assert_eq!(
        warnings("[attachments]\ndirectory = \"/\"\n"),
        ["attachments.directory: every file of this machine that hapax can read may be attached"]
    );
    assert_eq!(
        warnings("[attachments]\ndirectory = \".\"\n"),
        ["attachments.directory: what lies in it may be attached, and that includes the configuration"]
    );
    assert_eq!(warnings("[attachments]\ndirectory = \"/usr/share\"\n"), Vec::<String>::new());
}

#[test]
fn what_is_no_certificate_and_what_is_no_key_in_pem_form_says_how_to_make_it_one() {
    let directory = tempfile::tempdir().expect("a directory");
    let told = |section: &str, key: &str, bytes: &[u8]| {
        let file = directory.path().join("file");
        std::fs::write(&file, bytes).expect("written");
        let told = problems(&format!("{GOOD}[{section}]\n{key} = {:?}\n", file.display().to_string()), &[]);
        told.replace(&directory.path().display().to_string(), "HERE")
    };
    let ca = |bytes: &[u8]| told("attachments", "https_ca_file", bytes);
    let cut = ca(b"-----BEGIN CERTIFICATE-----\nMIIB");
    assert!(cut.contains("HERE/file is cut off or damaged: its PEM cannot be read"), "{cut}");
    let junk = ca(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    assert!(junk.contains("HERE/file: certificate 1 in it cannot be used"), "{junk}");
    let der = ca(b"\x30\x82\x01\xff");
    assert!(der.contains("no certificate in PEM form") && der.contains("openssl x509 -inform DER"), "{der}");
    let key = told("dkim.a", "domain = \"example.org\"\nselector = \"s\"\nprivate_key_file", b"\x30\x82\xff");
    assert!(key.contains("is binary, a key in PEM form is text"), "{key}");
    assert!(key.contains("openssl pkey -inform DER -in FILE -out FILE.pem"), "{key}");
    let public = b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n";
    let key = told("dkim.a", "domain = \"example.org\"\nselector = \"s\"\nprivate_key_file", public);
    assert!(key.contains("there is a public key or a certificate, not the private key (name the file"), "{key}");
}
