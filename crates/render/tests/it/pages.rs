//! MJML, style sheets, derived texts, images; schemas and fields of a kind.

use hapax_core::envelope::Content;
use hapax_render::{Options, Renderer, Templates};
use mail_parser::{MimeHeaders, PartType};

use crate::{
    kinds::{payload, renderer},
    support::*,
};

const SUBJECT: (&str, &str) = ("order_confirmed/subject.txt", "s");

fn bytes_of(files: &[(&str, &str)], json: &str) -> Result<Vec<u8>, String> {
    let mut all = vec![SUBJECT];
    all.extend_from_slice(files);
    let renderer = renderer(&all).map_err(|error| error.to_string())?;
    let rendered = renderer.render(&payload(json, None), FROM, None).map_err(|error| error.to_string())?;
    assert_wire(&rendered.bytes);
    assert_eq!(rendered, renderer.render(&payload(json, None), FROM, None).expect("as before"));
    Ok(rendered.bytes)
}

fn html_and_text(files: &[(&str, &str)], json: &str) -> (String, String) {
    let bytes = bytes_of(files, json).expect("it renders");
    let message = parse(&bytes);
    let own = |text: Option<std::borrow::Cow<'_, str>>| text.expect("a part").replace("\r\n", "\n");
    (own(message.body_html(0)), own(message.body_text(0)))
}

const MJML: &str = "<mjml><mj-head><mj-preview>hidden</mj-preview></mj-head><mj-body><mj-section><mj-column>\n\
    <mj-text>Hello {{ name }}</mj-text>\n\
    {% for item in items %}<mj-text>{{ item }}</mj-text>{% endfor %}\
    <mj-button href=\"https://shop.example/?a=1&amp;b=2\">Pay</mj-button>\n\
    </mj-column></mj-section></mj-body></mjml>";

#[test]
fn mjml_becomes_html_and_a_text_is_derived() {
    let (html, text) =
        html_and_text(&[("order_confirmed/body.mjml", MJML)], r#"{"name": "Zoë & <Co>", "items": ["tea", "jam"]}"#);
    assert!(html.starts_with("<!doctype html>") && !html.contains("<mj-"), "{html}");
    assert!(html.contains("Hello Zoë &amp; &lt;Co&gt;") && html.contains("jam"), "{html}");
    assert!(text.contains("Hello Zoë & <Co>") && text.contains("tea\n"), "{text}");
    assert!(text.contains("https://shop.example/?a=1&b=2"), "{text}");
    assert!(!text.contains("hidden"), "{text}");
}

#[test]
fn mjml_is_the_same_in_every_process() {
    // Two renderers, as two relays: nothing may hang on the seed of a hash table.
    let fonts = "<mjml><mj-head><mj-style>.a { color: red; } .b { margin: 0 }</mj-style><mj-attributes><mj-all \
        font-family=\"Roboto, Lato, Ubuntu, Open Sans\" /></mj-attributes></mj-head><mj-body><mj-section><mj-column \
        css-class=\"a b\"><mj-text>x</mj-text></mj-column><mj-column><mj-text>y</mj-text></mj-column></mj-section>\
        </mj-body></mjml>";
    let first = bytes_of(&[("order_confirmed/body.mjml", fonts)], "{}").expect("it renders");
    for _ in 0..20 {
        assert_eq!(bytes_of(&[("order_confirmed/body.mjml", fonts)], "{}").expect("it renders"), first);
    }
}

#[test]
fn bad_mjml_is_told_with_its_file_and_line() {
    let bad = "<mjml><mj-body>\n<mj-section>\n<mj-nonsense />\n</mj-section></mj-body></mjml>";
    let error = bytes_of(&[("order_confirmed/body.mjml", bad)], "{}").expect_err("bad mjml");
    assert_eq!(error, "order_confirmed/body.mjml:3: bad mjml: there is no <mj-nonsense> here");
    let bad = "<mjml>\n<mj-boddy></mj-boddy></mjml>";
    let error = bytes_of(&[("order_confirmed/body.mjml", bad)], "{}").expect_err("bad mjml");
    assert_eq!(error, "order_confirmed/body.mjml:2: bad mjml: an element that does not belong here");
    let error = bytes_of(&[("order_confirmed/body.mjml", "{{ x }}<mjml><mj-body>")], r#"{"x": ""}"#);
    assert!(error.expect_err("bad mjml").starts_with("order_confirmed/body.mjml: bad mjml: "));
    let deep = format!("<mjml><mj-body>{}</mj-body></mjml>", "<div>".repeat(100_000));
    let error = bytes_of(&[("order_confirmed/body.mjml", &deep)], "{}").expect_err("too deep");
    assert_eq!(error, "order_confirmed/body.mjml: elements are nested more than 256 deep");
}

#[test]
fn style_sheets_go_to_the_elements_and_media_rules_stay() {
    let page = "<html><head><link rel=\"stylesheet\" href=\"file:///etc/hostname\"><style>p { color: red }\n\
        @media (max-width: 600px) { p { color: blue } }</style></head><body><p>{{ x }}</p></body></html>";
    let (html, text) = html_and_text(&[("order_confirmed/body.html", page)], r#"{"x": "Hi"}"#);
    assert!(html.contains("<p style=\"color: red;\">Hi</p>"), "{html}");
    assert!(html.contains("@media (max-width: 600px)"), "{html}");
    assert_eq!(text.trim(), "Hi");
    let (html, _) = html_and_text(&[("order_confirmed/body.html", "<P>as it is")], "{}");
    assert_eq!(html.trim_end(), "<P>as it is");
}

#[test]
fn deep_and_large_html_ends() {
    let deep = "{% for a in range(90000) %}<div>{% endfor %}x";
    let error = bytes_of(&[("order_confirmed/body.html", deep)], "{}").expect_err("too deep");
    assert_eq!(error, "order_confirmed/body.html: elements are nested more than 256 deep");
    let row = "<tr><td>0123456789</td><td><b>0123456789</b></td></tr>\n";
    let large = format!("<table>{}</table>", row.repeat(1_000));
    let (html, text) = html_and_text(&[("order_confirmed/body.html", &large)], "{}");
    assert!(html.len() > 50_000 && text.matches("0123456789").count() == 2_000);
    let too_large = format!("<p>{}", "x ".repeat(300_000));
    let error = bytes_of(&[("order_confirmed/body.html", &too_large)], "{}").expect_err("too large");
    assert!(error.starts_with("order_confirmed/body.html: more than 524288 bytes, too many to derive"), "{error}");
    bytes_of(&[("order_confirmed/body.html", &too_large), ("order_confirmed/body.txt", "t")], "{}").expect("a text");
}

#[test]
fn images_of_the_kind_are_attached_once_under_an_id_from_their_bytes() {
    let files: [(&str, &[u8]); 5] = [
        ("order_confirmed/subject.txt", b"s"),
        (
            "order_confirmed/body.html",
            b"<img src=\"cid:logo.png\"><img src='cid:logo.png'><td background=\"cid:a/b.gif\">",
        ),
        ("order_confirmed/logo.png", b"\x89PNG\r\n\x00\xff"),
        ("_layouts/logo.png", b"other"),
        ("_shared/a/b.gif", b"GIF"),
    ];
    let renderer = Renderer::new(Options { templates: Templates::from_memory(files), ..Options::default() });
    let renderer = renderer.expect("good templates");
    let bytes = renderer.render(&payload("{}", None), FROM, None).expect("it renders").bytes;
    assert_wire(&bytes);
    let message = parse(&bytes);
    let images: Vec<_> = message.parts.iter().filter(|part| part.content_id().is_some()).collect();
    assert_eq!(images.len(), 2);
    assert_eq!(images[0].contents(), b"\x89PNG\r\n\x00\xff");
    let html = message.body_html(0).expect("html");
    for image in images {
        let id = image.content_id().expect("an id");
        assert!(html.contains(&format!("cid:{id}")), "{id} in {html}");
        assert!(matches!(image.body, PartType::Binary(_) | PartType::InlineBinary(_)));
    }
    assert!(!html.contains("logo.png"), "{html}");
}

#[test]
fn an_image_that_is_nowhere_is_an_error_unless_the_notification_brings_it() {
    let files = [SUBJECT, ("order_confirmed/body.html", "<img src=\"cid:chart\">")];
    let renderer = renderer(&files).expect("good templates");
    let mut one = payload("{}", None);
    let error = renderer.render(&one, FROM, None).expect_err("no chart").to_string();
    assert!(error.starts_with("order_confirmed/body.html: cid:\"chart\" names no image"), "{error}");
    one.attachments = vec![attachment("chart.png", b"x")];
    one.attachments[0].content_id = Some("<chart>".to_owned());
    let bytes = renderer.render(&one, FROM, None).expect("it renders").bytes;
    assert_eq!(parse(&bytes).parts.iter().filter_map(|part| part.content_id()).collect::<Vec<_>>(), ["chart"]);
}

const SCHEMA: &str = r#"{"$schema": "https://json-schema.org/draft/2020-12/schema", "type": "object",
    "required": ["id"], "properties": {"id": {"type": "integer"}, "items": {"items": {"required": ["price"],
    "properties": {"price": {"type": "number"}}}}}}"#;

#[test]
fn a_payload_that_does_not_fit_its_schema_is_refused_by_place_and_rule() {
    let files = [("order_confirmed/body.txt", "{{ id }}"), ("order_confirmed/schema.json", SCHEMA)];
    bytes_of(&files, r#"{"id": 123456789012345678901234567890}"#).expect("it fits");
    let error = bytes_of(&files, r#"{"id": "canary", "items": [{"price": 1.50}, {"price": "canary"}, {}]}"#);
    assert_eq!(
        error.expect_err("it does not fit"),
        "the payload does not fit order_confirmed/schema.json: \"/id\" breaks type, \"/items/1/price\" breaks type, \
         \"/items/2\" lacks \"price\""
    );
    for schema in ["{\"type\": 1}", "{\"$ref\": \"https://example.com/x\"}", "{\"$ref\": \"file:///etc/x\"}", "{\n["] {
        let files = [("order_confirmed/body.txt", "t"), ("order_confirmed/schema.json", schema)];
        let error = bytes_of(&files, "{}").expect_err(schema);
        assert!(error.contains("order_confirmed/schema.json"), "{error}");
    }
}

#[test]
fn a_kind_adds_its_fields_and_its_thread() {
    let kind = "thread_key = \"order-{{ id }}\"\n[headers]\nFeedback-ID = \"{{ kind }}:shop\"\nX-Odd = \"{{ odd }}\"\n";
    let files = [SUBJECT, ("order_confirmed/body.txt", "t"), ("order_confirmed/kind.toml", kind)];
    let renderer = renderer(&files).expect("good templates");
    let render = |json: &str, tenant: Option<&str>| {
        let mut one = payload(json, None);
        one.tenant = tenant.map(str::to_owned);
        one.headers = vec![("References".to_owned(), "<own@x>".to_owned())];
        renderer.render(&one, FROM, None).map(|rendered| rendered.bytes).map_err(|error| error.to_string())
    };
    let bytes = render(r#"{"id": 1, "odd": ""}"#, None).expect("it renders");
    assert_eq!(field(&bytes, "Feedback-ID").as_deref(), Some("order_confirmed:shop"));
    assert_eq!(field(&bytes, "X-Odd"), None);
    assert_eq!(field(&bytes, "References").as_deref(), Some("<own@x>"));
    let thread =
        |json: &str, tenant| field(&render(json, tenant).expect("it renders"), "In-Reply-To").expect("a thread");
    let one = thread(r#"{"id": 1, "odd": "a"}"#, None);
    assert!(one.starts_with('<') && one.ends_with("@shop.example>"), "{one}");
    assert_eq!(one, thread(r#"{"id": 1, "odd": "b"}"#, None));
    assert_ne!(one, thread(r#"{"id": 2, "odd": "a"}"#, None));
    assert_ne!(one, thread(r#"{"id": 1, "odd": "a"}"#, Some("t")));
    let error = render(r#"{"id": 1, "odd": "a\r\nBcc: canary@x"}"#, None).expect_err("an injection");
    assert!(!error.contains("canary"), "{error}");
    assert_eq!(render("{}", None).expect_err("no key"), "order_confirmed/kind.toml:4: `odd` is undefined");
}

#[test]
fn fields_that_only_hapax_writes_are_refused_at_load() {
    for name in ["From", "bcc", "DKIM-Signature", "Content-Type", "\"A B\""] {
        let kind = format!("\n[headers]\n{name} = \"x\"");
        let files = [("order_confirmed/body.txt", "t"), ("order_confirmed/kind.toml", kind.as_str())];
        let error = bytes_of(&files, "{}").expect_err(name);
        assert!(error.contains("order_confirmed/kind.toml:3: header "), "{error}");
    }
    let files = [("order_confirmed/body.txt", "t"), ("order_confirmed/kind.toml", "thread_key = \"{{ x\"")];
    assert!(bytes_of(&files, "{}").expect_err("bad syntax").contains("order_confirmed/kind.toml:1: "));
}

#[test]
fn ready_texts_are_left_as_they_are() {
    let one = notification(Content::Ready {
        subject: "s".to_owned(),
        text: None,
        html: Some("<style>p {color: red}</style><img src=\"cid:x\">".to_owned()),
    });
    let bytes = try_render(&one).expect("it renders").bytes;
    assert!(String::from_utf8_lossy(&bytes).contains("<style>p {color: red}</style>"));
}
