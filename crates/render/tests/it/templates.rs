//! Templates: loading, limits, and errors that say where.

use std::{fs, path::Path};

use hapax_core::envelope::Content;
use hapax_render::{Error, Options, Rendered, Renderer, Templates};

use crate::support::*;

const SUBJECT: (&str, &str) = ("order_confirmed/subject.txt", "Order {{ order_id }}\n");

fn renderer(files: &[(&str, &str)]) -> Result<Renderer, Error> {
    Renderer::new(Options { templates: Templates::from_memory(files.iter().copied()), ..Options::default() })
}

fn with_body(name: &str, body: &str, payload: &str) -> Result<Rendered, Error> {
    let renderer = renderer(&[SUBJECT, (name, body)]).expect("good templates");
    renderer.render(&notification(Content::Payload(payload.to_owned())), FROM, None)
}

fn error_of(body: &str, payload: &str) -> String {
    with_body("order_confirmed/body.txt", body, payload).expect_err("an error").to_string()
}

fn problems(result: Result<Renderer, Error>) -> String {
    result.map(drop).expect_err("problems").to_string()
}

#[test]
fn a_payload_becomes_subject_text_and_html() {
    let renderer = renderer(&[
        ("_layouts/page.html", "<body>{% block main %}{% endblock %}</body>"),
        ("_layouts/bye.txt", "Bye, {{ name }}.\n"),
        ("order_confirmed/subject.txt", "\n  Order {{ order_id }} für {{ name }} \n"),
        (
            "order_confirmed/body.txt",
            "{{ kind }} {{ message_id }}\n{% for item in items %}\n- {{ item.name }}: {{ item.n }}\n{% endfor %}\n\
             {% if note is defined %}{{ note }}{% endif %}{% include '../_layouts/bye.txt' %}",
        ),
        (
            "order_confirmed/body.html",
            "{% extends '_layouts/page.html' %}{% block main %}<p>{{ name }}</p>{% endblock %}",
        ),
    ])
    .expect("good templates");
    let payload =
        r#"{"order_id": 42, "name": "Zoë & <Co>", "items": [{"name": "tea", "n": 2}, {"name": "jam", "n": 1.5}]}"#;
    let one = notification(Content::Payload(payload.to_owned()));
    let rendered = renderer.render(&one, FROM, None).expect("it renders");
    assert_wire(&rendered.bytes);
    let message = parse(&rendered.bytes);
    assert_eq!(message.subject(), Some("Order 42 für Zoë & <Co>"));
    let text = format!("order_confirmed {ID}\r\n- tea: 2\r\n- jam: 1.5\r\nBye, Zoë & <Co>.");
    assert_eq!(message.body_text(0).as_deref(), Some(text.as_str()));
    assert_eq!(message.body_html(0).as_deref(), Some("<body><p>Zoë &amp; &lt;Co&gt;</p></body>"));
    assert_eq!(rendered, renderer.render(&one, FROM, None).expect("it renders"));
}

#[test]
fn a_missing_key_is_named_with_file_and_line() {
    assert_eq!(
        error_of("Dear\n\n{{ customer.nmae }}", r#"{"order_id": 1, "customer": {"name": "canary"}}"#),
        "order_confirmed/body.txt:3: `customer.nmae` is undefined"
    );
    for body in
        ["{{ a | upper }}", "{% if a %}{% endif %}", "{% for x in a %}{% endfor %}", "{{ 'x' ~ a }}", "{{ a.b }}"]
    {
        assert_eq!(error_of(body, r#"{"order_id": 1}"#), "order_confirmed/body.txt:1: `a` is undefined", "{body}");
    }
    let missing_in_subject = error_of("x", "{}");
    assert_eq!(missing_in_subject, "order_confirmed/subject.txt:1: `order_id` is undefined");
    let files = [
        SUBJECT,
        ("order_confirmed/body.txt", "x\n{% include '_layouts/a.txt' %}"),
        ("_layouts/a.txt", "\n\n{{ nothing }}"),
    ];
    let error = renderer(&files).expect("good templates");
    let error = error.render(&notification(Content::Payload(r#"{"order_id": 1}"#.to_owned())), FROM, None);
    assert_eq!(error.expect_err("an error").to_string(), "_layouts/a.txt:3: `nothing` is undefined");
}

#[test]
fn errors_show_the_template_and_never_the_payload() {
    let payload = r#"{"order_id": 1, "secret": "canary", "n": 7}"#;
    let bodies = [
        "{{ secret + n }}",
        "{{ secret | int }}",
        "{{ -secret }}",
        "{{ secret() }}",
        "{{ secret.x.y }}",
        "{{ secret.go() }}",
        "{% include secret %}",
        "{% extends secret %}",
        "{% include [secret, 'b'] %}",
        "{{ n | replace }}",
        "{{ n[secret] }}",
        "{{ {}[secret] }}",
        "{% for a, b in [secret] %}{% endfor %}",
        "{{ secret | nope }}",
        "{{ nope(secret) }}",
        "{{ secret is nope }}",
        "{{ dict(secret) }}",
        "{{ secret % n }}",
        "{{ n // 0 }}",
        "{{ debug() }}",
        "{{ secret | batch(secret) | list }}",
        "{% import secret as x %}",
        "{{ namespace(secret) }}",
        "{{ range(secret) }}",
    ];
    for body in bodies {
        let error = with_body("order_confirmed/body.txt", body, payload).expect_err(body);
        let text = format!("{error} {error:?}");
        assert!(error.to_string().starts_with("order_confirmed/body.txt:1: "), "{body}: {text}");
        assert!(!text.contains("canary"), "{body}: {text}");
    }
    assert_eq!(
        error_of("a\n{{ secret + n }}", payload),
        "order_confirmed/body.txt:2: invalid operation in `secret + n`"
    );
}

#[test]
fn a_payload_that_is_no_object_is_refused_without_its_text() {
    for payload in ["", "canary", "[\"canary\"]", "\"canary\"", "{\"a\": canary}", "null", "{\"canary\": 1} x"] {
        let error = error_of("x", payload);
        assert!(error.starts_with("the payload is not ") && !error.contains("canary"), "{error}");
    }
}

#[test]
fn all_problems_are_reported_at_once() {
    let error = problems(renderer(&[
        ("a/subject.txt", "{{ x"),
        ("a/body.html", "one\ntwo {% if %}"),
        ("b/body.txt", "x"),
        ("c/subject.txt", "x"),
        ("_layouts/l.html", "{% endblock %}"),
    ]));
    for part in [
        "the templates in memory cannot be used: ",
        "a/subject.txt:1: syntax error: ",
        "a/body.html:2: syntax error: ",
        "b/subject.txt: missing",
        "c/: missing: body.txt, body.html or body.mjml",
        "_layouts/l.html:1: syntax error: ",
    ] {
        assert!(error.contains(part), "{part:?} in {error}");
    }
}

#[test]
fn endless_work_and_endless_output_stop_at_their_limits() {
    let payload = r#"{"order_id": 1, "wide": 100000000000}"#;
    let work = "too much work, beyond a limit that is fixed: mostly a loop in a loop over long lists, or a large range() \
                or repetition; put fewer items into the payload";
    let endless = "\n{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}";
    assert_eq!(error_of(endless, payload), format!("order_confirmed/body.txt:2: {work}"));
    assert_eq!(error_of("{{ 'x' * wide }}", payload), format!("order_confirmed/body.txt:1: {work}"));
    let macros = "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}";
    assert!(error_of(macros, payload).starts_with("order_confirmed/body.txt:1: "));
    assert!(error_of("{% include 'order_confirmed/body.txt' %}", payload).starts_with("order_confirmed/body.txt:1: "));
    let wordy = "{% for a in range(9999) %}0123456789012345678901234567890123456789\
                 0123456789012345678901234567890123456789012345678901234567890123456789\
                 0123456789012345678901234567890123456789012345678901234567890123456789\
                 0123456789012345678901234567890123456789012345678901234567890123456789{% endfor %}";
    assert_eq!(error_of(wordy, payload), "order_confirmed/body.txt: more than 2097152 bytes of output");
}

#[test]
fn no_include_leads_out_of_the_directory() {
    let outside = tempfile::tempdir().expect("a directory");
    let root = outside.path().join("templates");
    write(outside.path(), "secret.txt", "canary");
    write(&root, "order_confirmed/subject.txt", "s");
    for name in
        ["../secret.txt", "../../secret.txt", "/etc/hostname", "./../../secret.txt", "_layouts/../../secret.txt"]
    {
        write(&root, "order_confirmed/body.txt", &format!("{{% include '{name}' %}}"));
        let renderer = Renderer::new(Options { templates: Templates::from_dir(&root), ..Options::default() });
        let one = notification(Content::Payload("{}".to_owned()));
        let error = renderer.expect("good templates").render(&one, FROM, None).expect_err(name).to_string();
        assert!(error.starts_with("order_confirmed/body.txt:1: template not found in `"), "{name}: {error}");
    }
}

#[test]
fn links_out_of_the_directory_are_refused_and_inside_it_followed() {
    let outside = tempfile::tempdir().expect("a directory");
    let root = outside.path().join("templates");
    write(outside.path(), "secret.txt", "canary");
    write(&root, "order_confirmed/..data/subject.txt", "hidden by its dot");
    write(&root, "order_confirmed/..data/body.txt", "linked");
    for name in ["subject.txt", "body.txt"] {
        let target = root.join("order_confirmed/..data").join(name);
        std::os::unix::fs::symlink(target, root.join("order_confirmed").join(name)).expect("a link");
    }
    let load = || Renderer::new(Options { templates: Templates::from_dir(&root), ..Options::default() });
    let rendered = load().expect("good").render(&notification(Content::Payload("{}".to_owned())), FROM, None);
    assert!(rendered.expect("it renders").bytes.ends_with(b"\r\n\r\nlinked\r\n"));
    std::os::unix::fs::symlink(outside.path().join("secret.txt"), root.join("order_confirmed/x.txt")).expect("a link");
    assert!(problems(load()).contains("order_confirmed/x.txt: a link that leads out of the template directory"));
}

#[test]
fn rendering_does_not_touch_the_disk() {
    let root = tempfile::tempdir().expect("a directory");
    write(root.path(), "order_confirmed/subject.txt", "s");
    write(root.path(), "order_confirmed/body.html", "<p>{{ kind }}");
    write(root.path(), "README.txt", "{{ not a template");
    write(root.path(), "order_confirmed/logo.png", "\u{0}");
    let options = Options { templates: Templates::from_dir(root.path()), ..Options::default() };
    let renderer = Renderer::new(options).expect("good templates");
    drop(root);
    let rendered = renderer.render(&notification(Content::Payload("{}".to_owned())), FROM, None);
    let bytes = rendered.expect("it renders").bytes;
    assert_eq!(parse(&bytes).body_html(0).as_deref().map(str::trim_end), Some("<p>order_confirmed"));
}

#[test]
fn what_is_missing_is_named_with_its_directory() {
    let one = notification(Content::Payload("{}".to_owned()));
    let none = try_render(&one).expect_err("no templates").to_string();
    assert!(none.contains("order_confirmed") && none.contains("no templates are configured"), "{none}");
    let renderer = renderer(&[("other/subject.txt", "s"), ("other/body.txt", "t")]).expect("good templates");
    assert_eq!(
        renderer.render(&one, FROM, None).expect_err("no such kind").to_string(),
        "no templates for kind \"order_confirmed\" in memory: it needs subject.txt and body.txt or body.html in \
         memory/order_confirmed/"
    );
    let mut odd = one;
    odd.kind = "../other\r\n".to_owned();
    let error = renderer.render(&odd, FROM, None).expect_err("no such kind").to_string();
    assert!(!error.contains(['\r', '\n']), "{error}");
    let absent = Options { templates: Templates::from_dir("/no/such/place"), ..Options::default() };
    assert!(problems(Renderer::new(absent)).contains("/no/such/place cannot be used: .: no such file or directory"));
}

#[test]
fn a_subject_is_one_line_without_control_characters() {
    for (subject, payload) in
        [("a\nb", "{}"), ("{{ x }}", r#"{"x": "a\r\nBcc: b"}"#), ("{{ x }}", r#"{"x": "a\u0000b"}"#)]
    {
        let renderer = renderer(&[("order_confirmed/subject.txt", subject), ("order_confirmed/body.txt", "t")]);
        let one = notification(Content::Payload(payload.to_owned()));
        let error = renderer.expect("good templates").render(&one, FROM, None).expect_err(subject).to_string();
        assert!(error.starts_with("order_confirmed/subject.txt: a "), "{error}");
    }
}

#[test]
fn the_demo_templates_render() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../hapax/assets/demo-templates");
    let renderer = Renderer::new(Options { templates: Templates::from_dir(directory), ..Options::default() });
    let renderer = renderer.expect("good templates");
    let payloads = [
        (
            "order_confirmed",
            r#"{"name": "Ada", "order_id": 42, "total": "19.90 €", "items": [{"name": "Earl Grey", "quantity": 2, "price": "9.95 €"}]}"#,
        ),
        ("password_reset", r#"{"name": "Ada", "url": "https://shop.example/reset/x?a=1&b=2", "minutes": 15}"#),
        (
            "newsletter",
            r#"{"name": "Ada", "title": "Neues im Mai", "stories": [{"title": "Blätter", "text": "…", "url": "https://shop.example/1"}]}"#,
        ),
    ];
    for (kind, payload) in payloads {
        let mut one = notification(Content::Payload(payload.to_owned()));
        one.kind = kind.to_owned();
        let rendered = renderer.render(&one, FROM, None).expect(kind);
        assert_wire(&rendered.bytes);
        let message = parse(&rendered.bytes);
        assert!(message.subject().is_some_and(|subject| !subject.is_empty()));
        assert!(message.body_text(0).is_some_and(|text| text.contains("Ada")), "{kind}");
        assert!(message.body_html(0).is_some_and(|html| html.contains("Ada") && html.contains("</html>")), "{kind}");
    }
}

fn write(root: &Path, name: &str, text: &str) {
    let path = root.join(name);
    fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
    fs::write(path, text).expect("a file");
}
