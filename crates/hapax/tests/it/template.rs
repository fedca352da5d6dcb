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
    assert_eq!((ended.code, ended.stdout.as_str()), (0, "ok: 1 kinds\n"), "{}", ended.stderr);
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
    assert!(ended.code == 1 && ended.stderr.contains("there are: hello"), "{}", ended.stderr);
    let args = ["template", "render", "hello", "--templates", "t", "--sample", "none"];
    let ended = run_in(root.path(), &args, &[]).await;
    assert!(ended.code == 1 && ended.stderr.contains("hello/sample.none.json: missing"), "{}", ended.stderr);
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
