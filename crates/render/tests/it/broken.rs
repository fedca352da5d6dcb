//! Directories in which something is wrong: everything is named, and nothing else suffers.

use std::{fs, path::Path};

use hapax_core::envelope::{Content, Notification};
use hapax_render::{Error, Options, Renderer, Templates};

use crate::support::*;

pub(crate) fn directory(files: &[(&str, &str)]) -> tempfile::TempDir {
    let root = tempfile::tempdir().expect("a directory");
    for (name, text) in files {
        let path = root.path().join(name);
        fs::create_dir_all(path.parent().expect("a parent")).expect("made");
        fs::write(path, text).expect("written");
    }
    root
}

fn lenient(root: &Path) -> Renderer {
    Renderer::lenient(&Options { templates: Templates::from_dir(root), ..Options::default() })
}

fn of(kind: &str) -> Notification {
    let mut one = notification(Content::Payload("{}".to_owned()));
    one.kind = kind.to_owned();
    one
}

fn told(problems: &[hapax_render::Problem]) -> Vec<String> {
    problems.iter().map(ToString::to_string).collect()
}

#[test]
fn a_broken_kind_keeps_no_other_from_being_rendered_or_checked() {
    let root = directory(&[
        ("good/subject.txt", "Hi"),
        ("good/body.txt", "x"),
        ("good/sample.json", "{}"),
        ("broken/subject.txt", "Hi"),
        ("broken/body.txt", "{{ name"),
        ("broken/sample.json", "{}"),
        ("wrong/subject.txt", "{{ nmae }}"),
        ("wrong/body.txt", "x"),
        ("wrong/sample.json", "{}"),
        ("using/subject.txt", "Hi"),
        ("using/body.html", "\n{% include \"_pieces/foot.html\" %}"),
        ("using/sample.json", "{}"),
        ("_pieces/foot.html", "a\nb\n{% if %}"),
    ]);
    let renderer = lenient(root.path());
    assert!(renderer.render(&of("good"), FROM, None).is_ok());
    let refused = renderer.render(&of("broken"), FROM, None).expect_err("broken");
    assert!(matches!(&refused, Error::Templates { problems, .. } if problems.len() == 1), "{refused}");
    let shared = renderer.render(&of("using"), FROM, None).expect_err("broken").to_string();
    assert!(shared.starts_with("_pieces/foot.html:3: syntax error"), "{shared}");
    let problems = told(&renderer.check());
    let files: Vec<&str> = problems.iter().filter_map(|problem| problem.split(": ").next()).collect();
    assert_eq!(files, ["_pieces/foot.html:3", "broken/body.txt:1", "wrong/subject.txt:1"], "{problems:?}");
    let own = told(&renderer.check_kind("using"));
    assert!(own.len() == 1 && own[0].starts_with("_pieces/foot.html:3: syntax error"), "{own:?}");
    // Who runs them wants none of that.
    let strict = Renderer::new(Options { templates: Templates::from_dir(root.path()), ..Options::default() });
    let error = strict.map(drop).expect_err("refused").to_string();
    assert!(error.contains("_pieces/foot.html:3") && error.contains("broken/body.txt:1"), "{error}");
}

#[test]
fn a_file_whose_name_has_a_slip_is_named_with_what_was_meant() {
    let root = directory(&[
        ("k/subject.txt", "Hi"),
        ("k/body.txt", "{% include \"./row.txt\" %}<img src=\"cid:img/used.png\">"),
        ("k/row.txt", "a row"),
        ("k/subject.tx", ""),
        ("k/body.htm", ""),
        ("k/body.de.htm", ""),
        ("k/bdy.html", ""),
        ("k/subject.html", ""),
        ("k/sample.jsn", ""),
        ("k/smaple.long.json", ""),
        ("k/kind.tml", ""),
        ("k/notes.docx", ""),
        ("k/img/used.png", ""),
        ("k/logo.png", ""),
        ("k/README.md", ""),
        ("k/.DS_Store", ""),
        ("k/body.html~", ""),
        ("k/#body.html#", ""),
        ("_layouts/base.css", ""),
    ]);
    assert_eq!(
        told(lenient(root.path()).warnings()),
        [
            "k/bdy.html: it has no effect: did you mean body.html?",
            "k/body.de.htm: it has no effect: did you mean body.de.html?",
            "k/body.htm: it has no effect: did you mean body.html?",
            "k/kind.tml: it has no effect: did you mean kind.toml?",
            "k/logo.png: no template shows it: <img src=\"cid:logo.png\"> does",
            "k/notes.docx: it has no effect: \"notes.docx\" is no name of a kind's file, and no image",
            "k/sample.jsn: it has no effect: did you mean sample.json?",
            "k/smaple.long.json: it has no effect: did you mean sample.long.json?",
            "k/subject.html: it has no effect: no template mentions it",
            "k/subject.tx: it has no effect: did you mean subject.txt?",
        ]
    );
    let root = directory(&[("k/subject.txt", ""), ("k/body.html", "<img src=\"cid:{{ x }}\">"), ("k/logo.png", "")]);
    assert_eq!(told(lenient(root.path()).warnings()), Vec::<String>::new(), "it may show any image");
}

fn mistakes(files: &[(&str, &str)]) -> Vec<String> {
    told(&lenient(directory(files).path()).check())
}

/// What a kind with this file in it, which is fine otherwise, is told.
fn mistake(name: &str, text: &str) -> String {
    let mut files = vec![("k/subject.txt", "Hi"), ("k/sample.json", "{\"n\": [1], \"blank\": \" \"}")];
    if !name.contains("body") {
        files.push(("k/body.txt", "x"));
    }
    let path = format!("k/{name}");
    files.retain(|(own, _)| *own != path);
    files.push((&path, text));
    let found = mistakes(&files);
    assert_eq!(found.len(), 1, "{found:?}");
    found[0].replace(" (with k/sample.json)", "")
}

#[test]
fn what_writes_nothing_is_a_mistake() {
    assert_eq!(mistake("subject.txt", "{{ blank }}"), "k/subject.txt: it writes nothing: a message needs a subject");
    assert_eq!(mistake("subject.txt", ""), "k/subject.txt: it writes nothing: a message needs a subject");
    assert_eq!(
        mistake("body.txt", "{% if not n %}x{% endif %}\n"),
        "k/body.txt: it writes nothing: a message needs a body"
    );
    assert_eq!(mistake("body.html", " \n"), "k/body.html: it writes nothing: a message needs a body");
    let image =
        [("k/subject.txt", "Hi"), ("k/body.html", "<img src=\"https://x.example/a.png\">"), ("k/sample.json", "{}")];
    assert_eq!(mistakes(&image), Vec::<String>::new(), "no text, and still something to see");
}

#[test]
fn templates_that_go_round_are_named_in_their_order() {
    let found = mistakes(&[
        ("k/subject.txt", "Hi"),
        ("k/body.txt", "{% include \"_a.txt\" %}{% include \"./one.txt\" %}"),
        ("k/one.txt", "\n{% include \"_p/two.txt\" %}"),
        ("_p/two.txt", "{% include \"k/one.txt\" %}"),
        ("k/sample.json", "{}"),
    ]);
    assert!(found[0].contains("template not found"), "{found:?}");
    let found = mistakes(&[
        ("k/subject.txt", "Hi"),
        ("k/body.txt", "{% include \"./one.txt\" %}"),
        ("k/one.txt", "\n{% include \"_p/two.txt\" %}"),
        ("_p/two.txt", "{% include \"k/one.txt\" %}"),
        ("k/sample.json", "{}"),
    ]);
    let chain = "it includes itself without an end: k/one.txt -> _p/two.txt -> k/one.txt (with k/sample.json)";
    assert!(found.len() == 1 && found[0].ends_with(chain), "{found:?}");
    assert_eq!(
        mistake("body.txt", "\n{% include \"k/body.txt\" %}"),
        "k/body.txt:2: it includes itself without an end: k/body.txt -> k/body.txt"
    );
    let macros = mistake("body.txt", "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}");
    assert!(macros.contains("it calls itself without an end: a macro"), "{macros}");
    let extends = mistake("body.html", "{% extends \"k/body.html\" %}");
    assert!(extends.contains("it extends itself"), "{extends}");
    let fuel = mistake("body.txt", "{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}");
    assert!(fuel.contains("too much work, beyond a limit that is fixed"), "{fuel}");
}

#[test]
fn mjml_that_is_not_well_formed_is_named_with_its_line() {
    let found: Vec<String> = [
        "<mjml>\n<mj-body>\n<mj-section>\n",
        "<mjml>\n<mj-body>\n<mj-text <b>\n</mj-body></mjml>",
        "<mjml>\n<mj-body>\n<mj-text>\n<!-- x</mj-text>\n</mj-body></mjml>",
        "<mjml>\n<mj-body>\n<mj-image src=></mj-image>\n</mj-body></mjml>",
    ]
    .iter()
    .flat_map(|mjml| mistakes(&[("k/subject.txt", "Hi"), ("k/sample.json", "{}"), ("k/body.mjml", mjml)]))
    .map(|told| told.replace(" (with k/sample.json)", ""))
    .collect();
    assert_eq!(
        found,
        [
            "k/body.mjml:3: bad mjml: it ends before its last element does",
            "k/body.mjml:3: bad mjml: it is not well-formed",
            "k/body.mjml:4: bad mjml: it is not well-formed",
            "k/body.mjml:3: bad mjml: it is not well-formed",
        ]
    );
}

#[test]
fn a_schema_that_cannot_be_used_says_where_and_what_to_do() {
    let found = mistake("schema.json", "{\n\"type\": \"object\",\n}");
    assert!(found.starts_with("k/schema.json:3: is not JSON: trailing comma"), "{found}");
    let remote = "{\n\"properties\": {\n\"a\": {\"$ref\": \"https://x.example/a.json\"}}}";
    assert_eq!(
        mistake("schema.json", remote),
        "k/schema.json:3: the $ref \"https://x.example/a.json\" is nothing in this file, and nothing else is fetched: \
         copy it into $defs, and write \"$ref\": \"#/$defs/NAME\""
    );
    let file = mistake("schema.json", "{\"properties\": {\"a\": {\"$ref\": \"other.json#/x\"}}}");
    assert!(file.contains("nothing else is fetched"), "{file}");
}

#[test]
fn a_number_beyond_a_float_is_printed_as_it_was_written() {
    let schema = "{\"properties\": {\"n\": {\"type\": \"number\", \"minimum\": 5}, \"m\": {\"maximum\": 5}}}";
    let files = [
        ("k/subject.txt", "{{ n }} {{ m }} {{ l }}"),
        ("k/body.txt", "x"),
        ("k/schema.json", schema),
        ("k/sample.json", "{\"n\": 1e400, \"m\": -1.5E+999, \"l\": [1e400]}"),
    ];
    let root = directory(&files);
    let renderer = lenient(root.path());
    assert_eq!(told(&renderer.check()), Vec::<String>::new());
    let mut one = of("k");
    one.content = Content::Payload(files[3].1.to_owned());
    let bytes = renderer.render(&one, FROM, None).expect("it renders").bytes;
    assert_eq!(field(&bytes, "Subject").as_deref(), Some("1e400 -1.5E+999 ['1e400']"));
    for (payload, what) in [
        ("{\"n\": -1e400, \"m\": 1, \"l\": 1}", "\"/n\" breaks minimum"),
        ("{\"n\": 1e400.5, \"m\": 1, \"l\": 1}", "is not JSON"),
        ("{\"n\": 01e400, \"m\": 1, \"l\": 1}", "is not JSON"),
    ] {
        one.content = Content::Payload(payload.to_owned());
        let error = renderer.render(&one, FROM, None).expect_err("refused").to_string();
        assert!(error.contains(what), "{payload}: {error}");
    }
}
