//! `hapax template check` and `hapax template render`.

use std::{fs, path::Path};

use crate::support::{run, run_in};

fn write(root: &Path, name: &str, text: &str) {
    let path = root.join(name);
    fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
    fs::write(path, text).expect("a file");
}

fn templates() -> tempfile::TempDir {
    let root = tempfile::tempdir().expect("a directory");
    write(root.path(), "t/hello/subject.txt", "Hello {{ name }}");
    write(root.path(), "t/hello/subject.de.txt", "Hallo {{ name }}");
    write(root.path(), "t/hello/body.html", "<p>{{ name }}, <a href=\"https://x.example/\">look</a></p>");
    write(root.path(), "t/hello/body.de.html", "<p>{{ name }}</p>");
    write(root.path(), "t/hello/sample.json", "{\"name\": \"Ada\"}");
    write(root.path(), "t/hello/sample.long.json", "{\"name\": \"Ada Lovelace\"}");
    root
}

#[tokio::test]
async fn check_renders_everything_and_names_file_and_line() {
    let root = templates();
    let ended = run_in(root.path(), &["template", "check", "--templates", "t"], &[]).await;
    assert_eq!((ended.code, ended.stdout.as_str()), (0, "ok: 1 kind\n"), "{}", ended.stderr);
    write(root.path(), "t/hello/body.de.html", "\n{{ nmae }}");
    let ended = run_in(root.path(), &["template", "check", "--templates", "t", "hello"], &[]).await;
    assert_eq!(ended.code, 1);
    let line = "hello/body.de.html:2: `nmae` is undefined (with hello/sample.json, locale de)\n";
    assert!(ended.stdout.starts_with(line), "{}", ended.stdout);
    let ended = run_in(root.path(), &["template", "check", "--templates", "t", "--json"], &[]).await;
    let json: serde_json::Value = serde_json::from_str(&ended.stdout).expect("JSON");
    assert_eq!((json["ok"].as_bool(), json["problems"][0]["line"].as_i64()), (Some(false), Some(2)));
    write(root.path(), "t/hello/body.html", "{% if %}");
    let ended = run_in(root.path(), &["template", "check", "--templates", "t"], &[]).await;
    assert_eq!(ended.code, 1);
    assert!(ended.stdout.starts_with("hello/body.html:1: syntax error"), "{}", ended.stdout);
}

#[tokio::test]
async fn what_is_not_there_is_said() {
    let root = templates();
    let ended = run(&["template", "check"], &[]).await;
    assert!(ended.code == 78 && ended.stderr.contains("no template directory"), "{}", ended.stderr);
    let ended = run_in(root.path(), &["template", "check", "--templates", "t", "helo"], &[]).await;
    assert!(ended.code == 1 && ended.stderr.contains("did you mean hello?"), "{}", ended.stderr);
    let ended = run_in(root.path(), &["template", "check", "--templates", "t", "invoice"], &[]).await;
    assert!(ended.code == 1 && ended.stderr.contains("there are: hello"), "{}", ended.stderr);
    let ended = run_in(root.path(), &["template", "check", "--templates", "nowhere"], &[]).await;
    assert!(ended.code == 78 && ended.stderr.contains("the template directory cannot be read"), "{}", ended.stderr);
    let args = ["template", "render", "hello", "--templates", "t", "--sample", "none"];
    let ended = run_in(root.path(), &args, &[]).await;
    assert!(ended.code == 1 && ended.stderr.contains("hello/sample.none.json: missing"), "{}", ended.stderr);
}

#[tokio::test]
async fn a_broken_kind_hides_neither_the_others_mistakes_nor_the_others() {
    let root = templates();
    write(root.path(), "t/broken/subject.txt", "{{ name");
    write(root.path(), "t/wrong/subject.txt", "{{ nmae }}");
    write(root.path(), "t/wrong/body.txt", "x");
    write(root.path(), "t/wrong/body.htm", "x");
    write(root.path(), "t/wrong/sample.json", "{}");
    let ended = run_in(root.path(), &["template", "check", "--templates", "t"], &[]).await;
    assert_eq!(ended.code, 1);
    for line in [
        "warning: wrong/body.htm: it has no effect: did you mean body.html?\n",
        "\nbroken/subject.txt:1: syntax error",
        "\nbroken/: missing: body.txt, body.html or body.mjml\n",
        "\nwrong/subject.txt:1: `nmae` is undefined (with wrong/sample.json)\n",
    ] {
        assert!(format!("\n{}", ended.stdout).contains(line), "{line}: {}", ended.stdout);
    }
    let good = run_in(root.path(), &["template", "check", "--templates", "t", "hello"], &[]).await;
    assert_eq!((good.code, good.stdout.as_str()), (0, "ok: 1 kind\n"));
    let good = run_in(root.path(), &["template", "render", "hello", "--templates", "t", "--part", "text"], &[]).await;
    assert_eq!(good.code, 0, "{}", good.stderr);
    let bad = run_in(root.path(), &["template", "render", "broken", "--templates", "t", "--data", "-"], &[]).await;
    assert!(bad.code == 1 && bad.stderr.contains("error: broken/subject.txt:1: syntax error"), "{}", bad.stderr);
}

#[tokio::test]
async fn render_prints_the_part_that_is_asked_for() {
    let root = templates();
    write(root.path(), "data.json", "{\"name\": \"Zoë <Co>\"}");
    for (more, wanted) in [
        (vec!["--part", "subject"], "Hello Ada\n"),
        (vec!["--part", "subject", "--locale", "de-AT", "--sample", "long"], "Hallo Ada Lovelace\n"),
        (vec!["--part", "subject", "--data", "data.json"], "Hello Zoë <Co>\n"),
        (vec!["--part", "html", "--locale", "de", "--data", "data.json"], "<p>Zoë &lt;Co&gt;</p>"),
        (vec!["--part", "text", "--locale", "de"], "Ada"),
    ] {
        let args = [vec!["template", "render", "hello", "--templates", "t"], more].concat();
        let ended = run_in(root.path(), &args, &[]).await;
        assert_eq!((ended.code, ended.stdout.trim_end()), (0, wanted.trim_end()), "{args:?}: {}", ended.stderr);
    }
    let args = ["template", "render", "hello", "--templates", "t", "--to", "Ada <ada@example.org>"];
    let first = run_in(root.path(), &args, &[]).await;
    assert!(first.stdout.contains("To: \"Ada\" <ada@example.org>\r\n"), "{}", first.stdout);
    assert!(first.stdout.contains("multipart/alternative"), "{}", first.stdout);
    assert_eq!(run_in(root.path(), &args, &[]).await.stdout, first.stdout);
}

#[tokio::test]
async fn a_kind_whose_links_nobody_can_sign_is_an_error_where_run_would_refuse_it() {
    let root = templates();
    write(root.path(), "t/hello/kind.toml", "[unsubscribe]\nurl = \"https://x.example/u\"\n");
    let line = "hello/kind.toml: [unsubscribe]: its links are signed, and there is no key";
    let apart = run_in(root.path(), &["template", "check", "--templates", "t"], &[]).await;
    assert_eq!(apart.code, 0, "{}", apart.stdout);
    assert!(apart.stdout.starts_with(&format!("warning: {line}")), "{}", apart.stdout);
    let config = "[database]\nurl = \"postgres://u@db/x\"\n[routes.default]\nurl = \"capture:\"\n\
                  from = \"a@example.org\"\n[templates]\ndirectory = \"t\"\n";
    write(root.path(), "hapax.toml", config);
    let ended = run_in(root.path(), &["template", "check"], &[]).await;
    assert!(ended.code == 1 && ended.stdout.starts_with(line), "{}", ended.stdout);
    let ended = run_in(root.path(), &["check"], &[]).await;
    assert!(ended.code == 78 && ended.stderr.contains("templates.unsubscribe_key_file"), "{}", ended.stderr);
    write(root.path(), "t/hello/body.htm", "");
    let key = [("HAPAX__TEMPLATES__UNSUBSCRIBE_KEY", "0123456789abcdef0123456789abcdef")];
    let ended = run_in(root.path(), &["template", "check"], &key).await;
    assert!(ended.code == 0 && ended.stdout.ends_with("\nok: 1 kind\n"), "{}", ended.stdout);
    let ended = run_in(root.path(), &["check"], &key).await;
    assert!(ended.code == 0 && ended.stdout.contains(", templates of 1 kind, "), "{}{}", ended.stdout, ended.stderr);
    let warning = "warning: templates: hello/body.htm: it has no effect: did you mean body.html?";
    assert!(ended.stderr.contains(warning), "{}", ended.stderr);
    std::fs::remove_dir_all(root.path().join("t/hello")).expect("removed");
    let ended = run_in(root.path(), &["check"], &key).await;
    assert!(ended.stdout.contains(", no kind in templates.directory, "), "{}", ended.stdout);
}
