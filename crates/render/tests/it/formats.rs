//! Dates, numbers and money, and payloads that keep their digits.

use crate::{
    kinds::{payload, renderer},
    support::*,
};

fn text_with(files: &[(&str, &str)], body: &str, json: &str, locale: Option<&str>) -> Result<String, String> {
    let mut all = vec![("order_confirmed/subject.txt", "s"), ("order_confirmed/body.txt", body)];
    all.extend_from_slice(files);
    let rendered = renderer(&all).expect("good templates").render(&payload(json, locale), FROM, None);
    let bytes = rendered.map_err(|error| error.to_string())?.bytes;
    Ok(parse(&bytes).body_text(0).expect("a text").trim_end().replace(['\u{a0}', '\u{202f}'], " "))
}

fn in_locale(locale: &str, body: &str, json: &str) -> String {
    let kind = format!("default_locale = \"{locale}\"\ntimezone = \"Europe/Berlin\"");
    text_with(&[("order_confirmed/kind.toml", &kind)], body, json, None).expect("it renders")
}

#[test]
fn dates_numbers_and_money_follow_the_locale_and_the_time_zone() {
    let json = r#"{"at": "2026-07-31T22:30:00Z", "day": "2026-07-31", "n": 1234567.5, "sum": 1234.50, "text": "0.10"}"#;
    for (locale, body, wanted) in [
        ("en-US", "{{ at | date }}", "Aug 1, 2026"),
        ("en-GB", "{{ at | date('long') }}", "1 August 2026"),
        ("de", "{{ at | date('long') }}", "1. August 2026"),
        ("de", "{{ at | date('short') }}", "01.08.26"),
        ("de", "{{ day | date }}", "31.07.2026"),
        ("de", "{{ at | time }}", "00:30"),
        ("en-US", "{{ at | time('long') }}", "12:30:00 AM"),
        ("de", "{{ at | datetime }}", "01.08.2026, 00:30"),
        ("de", "{{ n | number }}", "1.234.567,5"),
        ("en", "{{ 1234567 | number }}", "1,234,567"),
        ("de", "{{ sum | money('EUR') }}", "1.234,50 €"),
        ("en-US", "{{ text | money('usd') }}", "$0.10"),
        ("en-US", "{{ 5 | money('EUR') }}", "€5.00"),
        ("ja", "{{ 1200 | money('JPY') }}", "￥1,200"),
        ("en", "{% macro m(x) %}{{ x | date }}{% endmacro %}{{ m(at) }}", "Aug 1, 2026"),
    ] {
        assert_eq!(in_locale(locale, body, json), wanted, "{locale}: {body}");
    }
}

#[test]
fn bad_input_of_a_filter_is_an_error_with_its_place_and_without_the_value() {
    for body in [
        "{{ x | date }}",
        "{{ x | number }}",
        "{{ x | money('EUR') }}",
        "{{ 1 | money(x) }}",
        "{{ n | date }}",
        "{{ at | date(x) }}",
        "{{ day | time }}",
        "{{ big | number }}",
        "{{ 1 | money }}",
    ] {
        let json = r#"{"x": "canary", "n": 1, "at": "2026-07-31T22:30:00Z", "day": "2026-07-31", "big": 1e300}"#;
        let error = text_with(&[], &format!("\n{body}"), json, None).expect_err(body);
        assert!(error.starts_with("order_confirmed/body.txt:2: ") && !error.contains("canary"), "{body}: {error}");
    }
    let error = text_with(&[], "{{ 'x' | date }}", "{}", None).expect_err("no date");
    assert_eq!(
        error,
        "order_confirmed/body.txt:1: a date filter needs a text such as 2026-05-01T12:30:00Z (RFC 3339), or 2026-05-01"
    );
}

#[test]
fn numbers_keep_their_digits_and_still_calculate() {
    let json = r#"{"price": 19.90, "big": 123456789012345678901234567890, "other": 123456789012345678901234567891,
        "huge": 1234567890123456789012345678901234567890, "id": 9007199254740993, "s": "1234567890123456789012 \" 1.50",
        "list": [1.10, -0.50, 1e3], "minus": -12345678901234567890123}"#;
    for (body, wanted) in [
        ("{{ price }}", "19.90"),
        ("{{ price > 19.8 and price < 20 }}", "True"),
        ("{{ price * 2 == 39.8 }}", "True"),
        ("{{ big }} {{ other }}", "123456789012345678901234567890 123456789012345678901234567891"),
        ("{{ big + 1 == other }}", "True"),
        ("{{ huge }}", "1234567890123456789012345678901234567890"),
        ("{{ id }}", "9007199254740993"),
        ("{{ s }}", "1234567890123456789012 \" 1.50"),
        ("{% for x in list %}{{ x }};{% endfor %}", "1.10;-0.50;1e3;"),
        ("{{ minus }}", "-12345678901234567890123"),
        ("{{ price is number }}", "True"),
        ("{{ big | number }}", "123,456,789,012,345,678,901,234,567,890"),
    ] {
        let text = text_with(&[], body, json, None).expect(body);
        assert_eq!(text.to_lowercase(), wanted.to_lowercase(), "{body}");
    }
}

#[test]
fn payloads_nested_too_deeply_are_refused_clearly() {
    let nested = |levels: usize| format!("{{\"a\": {}{}}}", "[".repeat(levels), "]".repeat(levels));
    assert_eq!(text_with(&[], "t", &nested(126), None).as_deref(), Ok("t"));
    let error = text_with(&[], "t", &nested(127), None).expect_err("too deep");
    assert_eq!(error, "the payload is nested more than 127 levels deep");
    text_with(&[], "t", &nested(1_000_000), None).expect_err("far too deep");
}
