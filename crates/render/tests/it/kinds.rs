//! What a kind says of itself, its locales and samples.

use hapax_core::envelope::{Content, Notification};
use hapax_render::{Error, KindFile, Options, Renderer, Templates};

use crate::support::*;

pub(crate) fn renderer(files: &[(&str, &str)]) -> Result<Renderer, Error> {
    Renderer::new(Options { templates: Templates::from_memory(files.iter().copied()), ..Options::default() })
}

pub(crate) fn payload(payload: &str, locale: Option<&str>) -> Notification {
    let mut one = notification(Content::Payload(payload.to_owned()));
    one.locale = locale.map(str::to_owned);
    one
}

fn parse_file(text: &str) -> Vec<String> {
    let problems = KindFile::parse("k/kind.toml", text).expect_err("problems");
    problems.iter().map(ToString::to_string).collect()
}

#[test]
fn every_key_of_a_kind_file_is_read() {
    let file = KindFile::parse(
        "k/kind.toml",
        "default_locale = \"en\"\ntimezone = \"Europe/Berlin\"\nthread_key = \"order-{{ id }}\"\n[headers]\nZ = \"1\"\n\
         A = \"2\"\n[unsubscribe]\nurl = \"https://x\"\nmailto = \"u@x\"\none_click = true\n",
    )
    .expect("a good file");
    let text = |line: Option<hapax_render::Line>| line.map(|line| (line.text, line.line));
    assert_eq!(text(file.default_locale), Some(("en".to_owned(), 1)));
    assert_eq!(text(file.timezone), Some(("Europe/Berlin".to_owned(), 2)));
    assert_eq!(text(file.thread_key), Some(("order-{{ id }}".to_owned(), 3)));
    assert_eq!(
        file.headers.iter().map(|(name, line)| (name.as_str(), line.line)).collect::<Vec<_>>(),
        [("Z", 5), ("A", 6)]
    );
    let unsubscribe = file.unsubscribe.expect("a table");
    assert_eq!(text(unsubscribe.url), Some(("https://x".to_owned(), 8)));
    assert!(unsubscribe.one_click && unsubscribe.mailto.is_some() && unsubscribe.line == 7);
}

#[test]
fn a_mistake_in_a_kind_file_is_named_with_its_line_and_the_nearest_key() {
    assert_eq!(
        parse_file("\ntime_zone = \"UTC\""),
        ["k/kind.toml:2: unknown key \"time_zone\": did you mean timezone?"]
    );
    assert_eq!(
        parse_file("[unsubscribe]\nurl = \"x\"\noneclick = true"),
        ["k/kind.toml:3: unknown key \"oneclick\": did you mean unsubscribe.one_click?"]
    );
    assert_eq!(
        parse_file("[headers]\nthread_key = \"x\""),
        ["k/kind.toml:2: thread_key belongs above the first [table]"]
    );
    assert_eq!(parse_file("timezone = 1"), ["k/kind.toml:1: \"timezone\" must be a string"]);
    assert_eq!(parse_file("[unsubscribe]\n"), ["k/kind.toml:1: [unsubscribe] needs a url or a mailto"]);
    assert_eq!(
        parse_file("[unsubscribe]\nmailto = \"x\"\none_click = true"),
        ["k/kind.toml:1: unsubscribe.one_click needs a url (RFC 8058)"]
    );
    assert_eq!(parse_file("a = \n").len(), 1);
    let error = renderer(&[
        ("k/subject.txt", "s"),
        ("k/body.txt", "t"),
        ("k/kind.toml", "timezone = \"Europe/Berln\"\ndefault_locale = \"english\""),
        ("k/kinds.toml", ""),
    ]);
    let error = error.map(drop).expect_err("problems").to_string();
    assert!(error.contains("k/kind.toml:1: timezone \"Europe/Berln\" is unknown"), "{error}");
    assert!(error.contains("k/kind.toml:2: default_locale \"english\" is not a locale"), "{error}");
    assert!(error.contains("k/kinds.toml: unknown: the settings of a kind are in kind.toml"), "{error}");
}

const LOCALISED: [(&str, &str); 9] = [
    ("order_confirmed/subject.txt", "default {{ locale }}"),
    ("order_confirmed/body.txt", "default"),
    ("order_confirmed/body.html", "default"),
    ("order_confirmed/subject.pt.txt", "pt {{ locale }}"),
    ("order_confirmed/body.pt.txt", "pt"),
    ("order_confirmed/subject.pt-BR.txt", "pt-BR {{ locale }}"),
    ("order_confirmed/subject.de.txt", "de {{ locale }}"),
    ("order_confirmed/body.de.html", "de"),
    ("order_confirmed/kind.toml", ""),
];

#[test]
fn one_language_is_chosen_for_the_whole_message() {
    let renderer = renderer(&LOCALISED).expect("good templates");
    for (locale, subject, text, html) in [
        (None, "default en", Some("default"), Some("default")),
        (Some("pt-BR"), "pt-BR pt-BR", Some("pt"), None),
        (Some("pt_br"), "pt-BR pt-BR", Some("pt"), None),
        (Some("pt-PT"), "pt pt-PT", Some("pt"), None),
        (Some("de-AT-1996"), "de de-AT-1996", None, Some("de")),
        (Some("fr"), "default en", Some("default"), Some("default")),
        (Some("en-GB"), "default en-GB", Some("default"), Some("default")),
        (Some("no such thing"), "default en", Some("default"), Some("default")),
    ] {
        let bytes = renderer.render(&payload("{}", locale), FROM, None).expect("it renders").bytes;
        let message = parse(&bytes);
        assert_eq!(message.subject(), Some(subject), "{locale:?}");
        let own = |part: Option<&mail_parser::MessagePart<'_>>| {
            part.and_then(|part| part.text_contents()).map(|text| text.trim_end().to_owned())
        };
        let part = |media: &str| {
            own(message.parts.iter().find(|part| {
                use mail_parser::MimeHeaders;
                part.content_type().is_some_and(|own| own.subtype() == Some(media))
            }))
        };
        if text.is_some() {
            assert_eq!(part("plain").as_deref(), text, "{locale:?}");
        }
        assert_eq!(part("html").as_deref(), html, "{locale:?}");
    }
    let kind = &renderer.kinds()[0];
    assert_eq!(kind.locales, ["de", "pt", "pt-BR"]);
}

#[test]
fn a_default_locale_makes_files_without_one_unnecessary() {
    let files =
        [("k/kind.toml", "default_locale = \"de\""), ("k/subject.de.txt", "de"), ("k/body.de.txt", "{{ locale }}")];
    let renderer = renderer(&files).expect("good templates");
    let mut one = payload("{}", Some("fr"));
    one.kind = "k".to_owned();
    let bytes = renderer.render(&one, FROM, None).expect("it renders").bytes;
    assert!(bytes.ends_with(b"\r\n\r\nde\r\n"));
}

#[test]
fn what_a_locale_lacks_is_found_at_load_or_by_the_check() {
    let error = renderer(&[
        ("k/subject.txt", "s"),
        ("k/body.txt", "s"),
        ("k/body.html", "s"),
        ("k/body.mjml", "s"),
        ("k/subject.de.txt", "s"),
        ("k/body.fr.txt", "s"),
        ("k/body.partial.txt", "s"),
    ]);
    let error = error.map(drop).expect_err("problems").to_string();
    for part in [
        "k/: missing: body.de.txt, body.de.html or body.de.mjml",
        "k/subject.fr.txt: missing: a locale needs a subject",
        "k/body.partial.txt: \"partial\" is not a locale",
        "k/body.mjml: the same part as k/body.html: keep one of them",
    ] {
        assert!(error.contains(part), "{part:?} in {error}");
    }
    let problems = renderer(&LOCALISED).expect("good templates").check();
    let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
    assert!(
        problems.contains(&"order_confirmed/body.pt.html: missing: the default texts of this kind have it".to_owned())
    );
}

#[test]
fn a_check_renders_every_sample_in_every_locale() {
    let files = [
        ("a/subject.txt", "{{ x }}"),
        ("a/body.txt", "t"),
        ("a/subject.de.txt", "{{ y }}"),
        ("a/body.de.txt", "\n{{ x.z }}"),
        ("a/sample.json", r#"{"x": {"z": 1}, "y": 2}"#),
        ("a/sample.short.json", r#"{"x": 1}"#),
        ("a/sample.bad.json", "["),
        ("b/subject.txt", "s"),
        ("b/body.txt", "t"),
    ];
    let renderer = renderer(&files).expect("good templates");
    assert_eq!(renderer.kinds()[0].samples, ["", "bad", "short"]);
    assert_eq!(renderer.sample("a", "short"), Some(r#"{"x": 1}"#));
    assert_eq!(renderer.sample("a", "none").or(renderer.sample("none", "")), None);
    let problems: Vec<String> = renderer.check().iter().map(ToString::to_string).collect();
    assert_eq!(
        problems,
        [
            "a/sample.bad.json: the payload is not JSON: line 1, column 1",
            "a/subject.de.txt:1: `y` is undefined (with a/sample.short.json, locale de)",
            "b/sample.json: missing: without a sample nothing is checked but the syntax",
        ]
    );
    assert_eq!(renderer.check_kind("b").len(), 1);
}

#[test]
fn a_digest_is_checked_with_what_it_would_be_made_of() {
    let files = [
        ("a/subject.txt", "{{ x }}"),
        ("a/body.txt", "t"),
        ("a/sample.json", r#"{"x": 1}"#),
        ("a/sample.odd.json", r#"{"y": 1}"#),
        ("good/subject.txt", "{{ count }} new"),
        ("good/body.txt", "{% for item in items %}{{ item.x | default('-') }}{% endfor %}"),
        ("short/subject.txt", "{{ items[0].x }}"),
        ("short/body.txt", "t"),
    ];
    let renderer = renderer(&files).expect("good templates");
    let told = |digest: &str, of: &str| -> Vec<String> {
        renderer.check_digest(digest, of).iter().map(ToString::to_string).collect()
    };
    assert_eq!((told("good", "a"), told("short", "good"), told("none", "a")), (vec![], vec![], vec![]));
    let x = "`x` is undefined (with a digest of a/sample.json)";
    assert_eq!(told("a", "a").first(), Some(&format!("a/subject.txt:1: {x}")));
    assert_eq!(told("short", "a").len(), 1, "{:?}", told("short", "a"));
    assert!(told("short", "a")[0].ends_with("(with a digest of a/sample.odd.json)"), "{:?}", told("short", "a"));
}

#[test]
fn the_demo_templates_pass_the_check() {
    let directory = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../hapax/assets/demo-templates");
    let options = Options { templates: Templates::from_dir(directory), ..Options::default() };
    let renderer = Renderer::new(options).expect("good templates");
    assert_eq!(renderer.check(), []);
    assert_eq!(renderer.kinds().len(), 3);
}

#[test]
fn a_byte_order_mark_goes_and_what_is_no_file_is_refused_before_it_is_opened() {
    let root = tempfile::tempdir().expect("a directory");
    let kind = root.path().join("k");
    std::fs::create_dir(&kind).expect("made");
    std::fs::write(kind.join("subject.txt"), "\u{feff}Hello").expect("written");
    std::fs::write(kind.join("body.txt"), "\u{feff}one").expect("written");
    let load = || Renderer::new(Options { templates: Templates::from_dir(root.path()), ..Options::default() });
    let one = Notification { kind: "k".into(), ..payload("{}", None) };
    let rendered = load().expect("a good kind").render(&one, "a@example.org", None).expect("renders");
    let text = String::from_utf8(rendered.bytes).expect("ASCII");
    assert!(text.contains("\r\nSubject: Hello\r\n") && text.ends_with("\r\n\r\none\r\n"), "{text}");
    // It would wait for a writer for ever.
    let made = std::process::Command::new("mkfifo").arg(kind.join("sample.json")).status().expect("there is mkfifo");
    assert!(made.success());
    let error = load().map(drop).expect_err("a fifo").to_string();
    assert!(error.contains("k/sample.json: not a regular file"), "{error}");
}
