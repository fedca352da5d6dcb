//! Kinds that readers can unsubscribe from.

use hapax_core::envelope::{Content, Notification};
use hapax_render::{Error, Options, Renderer, Templates, UnsubscribeKey};

use crate::support::*;

const KIND: &str = "[unsubscribe]\nurl = \"https://shop.example/u?list={{ list }}\"\nmailto = \"u@shop.example\"\n\
    one_click = true\n";

fn key() -> UnsubscribeKey {
    UnsubscribeKey::new(b"0123456789abcdef0123456789abcdef").expect("a key")
}

fn renderer(kind: &str, key: Option<UnsubscribeKey>) -> Result<Renderer, Error> {
    let templates = Templates::from_memory([
        ("offers/subject.txt", "Offers"),
        ("offers/body.txt", "For {{ recipient }}: {{ unsubscribe_url }}\n"),
        ("offers/sample.json", "{\"list\": \"a\"}"),
        ("offers/kind.toml", kind),
    ]);
    Renderer::new(Options { templates, unsubscribe_key: key, ..Options::default() })
}

fn offers(payload: &str) -> Notification {
    let mut one = notification(Content::Payload(payload.to_owned()));
    one.kind = "offers".to_owned();
    one.bcc = vec!["Eve <eve@example.org>".to_owned()];
    one
}

#[test]
fn every_recipient_has_a_link_of_its_own_the_same_at_every_attempt() {
    let renderer = renderer(KIND, Some(key())).expect("templates");
    let one = offers("{\"list\": \"a\"}");
    assert!(renderer.is_per_recipient(&one) && !renderer.is_per_recipient(&ready("x", Some("y"), None)));
    for (number, address) in [(1, "ada@example.org"), (2, "eve@example.org")] {
        let bytes = renderer.render_for(&one, number, FROM, None).expect("it renders").bytes;
        assert_eq!(bytes, renderer.render_for(&one, number, FROM, None).expect("it renders").bytes);
        assert_wire(&bytes);
        let link = key().link("https://shop.example/u?list=a", "offers", address);
        assert_eq!(field(&bytes, "List-Unsubscribe"), Some(format!("<{link}>, <mailto:u@shop.example>")));
        assert_eq!(field(&bytes, "List-Unsubscribe-Post").as_deref(), Some("List-Unsubscribe=One-Click"));
        let parsed = parse(&bytes);
        assert_eq!(parsed.body_text(0).expect("a text").trim_end(), format!("For {address}: {link}"));
    }
    assert!(renderer.render_for(&one, 3, FROM, None).is_err() && renderer.render_for(&one, 0, FROM, None).is_err());
    assert_eq!(renderer.check(), vec![]);
    let mut own = one;
    own.headers = vec![("List-Unsubscribe".to_owned(), "<mailto:own@shop.example>".to_owned())];
    let bytes = renderer.render(&own, FROM, None).expect("it renders").bytes;
    assert_eq!(names(&bytes).iter().filter(|name| name.starts_with("List-")).count(), 1);
}

#[test]
fn no_payload_leaves_the_url() {
    let renderer = renderer(KIND, Some(key())).expect("templates");
    for list in ["a>, <https://evil.example/", "a b", "ü", "\\r\\nBcc: x@example.org", "\\\""] {
        let error =
            renderer.render(&offers(&format!("{{\"list\": \"{list}\"}}")), FROM, None).expect_err(list).to_string();
        assert!(error.starts_with("offers/kind.toml:2: unsubscribe: the url has "), "{error}");
        assert!(!error.contains("evil"), "{error}");
    }
    let error = renderer.render(&offers("{}"), FROM, None).expect_err("no list").to_string();
    assert!(error.starts_with("offers/kind.toml:2: unsubscribe: "), "{error}");
}

#[test]
fn what_could_not_work_is_refused_when_it_is_loaded() {
    let refused = |kind: &str, key| renderer(kind, key).map(drop).expect_err(kind).to_string();
    for (kind, key, what) in [
        (KIND.to_owned(), None, "offers/kind.toml:1: [unsubscribe]: its links are signed, and there is no key"),
        (
            KIND.replace("https", "http"),
            Some(key()),
            "offers/kind.toml:2: unsubscribe.one_click needs a url that begins",
        ),
        (KIND.replace("u@shop", "nobody"), Some(key()), "offers/kind.toml:3: unsubscribe: mailto is not an address"),
        (KIND.replace("}}", "}"), Some(key()), "offers/kind.toml:2: unsubscribe.url: "),
    ] {
        let error = refused(&kind, key);
        assert!(error.contains(what), "{error}");
    }
}
