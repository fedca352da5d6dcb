//! From a notification to its bytes, without any I/O: a message of 2 kB as most are, one by a template, one that needs
//! quoted-printable, one with an attachment, a finished one.
//!
//!     make microbench

#![allow(missing_docs, reason = "macros of criterion make public functions")]

use std::{hint::black_box, time::Duration};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use hapax_core::{
    MessageId, Priority,
    envelope::{Attachment, Content, Notification},
};
use hapax_render::{Options, Renderer, Templates, stamp};
use uuid::Uuid;

const FROM: &str = "Shop <no-reply@shop.example>";

fn notification(content: Content) -> Notification {
    Notification {
        id: MessageId(Uuid::from_u128(0x019a_5b2c_0000_7000_8000_0000_0000_0001)),
        created_at_us: 1_763_851_753_999_999,
        kind: "order_confirmed".to_owned(),
        sender: None,
        reply_to: None,
        recipients: vec!["Ada Lovelace <ada@example.org>".to_owned()],
        cc: vec![],
        bcc: vec![],
        content,
        headers: vec![],
        attachments: vec![],
        attachments_later: false,
        priority: Priority::Normal,
        expires_in: None,
        age: Duration::ZERO,
        on_doubt: None,
        route: None,
        tenant: None,
        locale: None,
    }
}

/// About 2 kB, text and HTML.
fn ready(item: &str) -> Content {
    Content::Ready {
        subject: "Your order 4711 has been received".to_owned(),
        text: Some(format!(
            "Hello Ada,\n\nthank you for your order.\n{}\nKind regards\nThe Shop\n",
            format!("{item}, blue, extra long description   19.90 EUR\n").repeat(12)
        )),
        html: Some(format!(
            "<html><body><h1>Order 4711</h1>\n<table>\n{}</table>\n<p>Kind regards<br>The Shop</p></body></html>\n",
            format!("<tr><td>4711</td><td>{item}, blue</td><td>19.90</td></tr>\n").repeat(12)
        )),
    }
}

fn templates() -> Templates {
    Templates::from_memory([
        ("order_confirmed/subject.txt", "Order {{ order }} has been received\n"),
        (
            "order_confirmed/body.txt",
            "Hello {{ name }},\n\n{% for item in items %}\n{{ item.name }}: {{ item.price }}\n{% endfor %}\nThe Shop\n",
        ),
        (
            "order_confirmed/body.html",
            "<h1>Order {{ order }}</h1>\n{% for item in items %}\n<p>{{ item.name }}: {{ item.price }}</p>\n{% endfor %}\n",
        ),
    ])
}

fn render(c: &mut Criterion) {
    let renderer =
        Renderer::new(Options { templates: templates(), ..Options::default() }).expect("the templates are good");
    let item = r#"{"name": "Widget, blue, extra long description", "price": "19.90 EUR"}"#;
    let payload = format!(r#"{{"order": 4711, "name": "Ada", "items": [{}]}}"#, [item; 12].join(","));
    let mut attached = notification(ready("Widget"));
    attached.attachments.push(Attachment {
        filename: "invoice.pdf".to_owned(),
        content_type: "application/pdf".to_owned(),
        content_id: None,
        content: (0..65_536_u32).map(|at| at.to_le_bytes()[at as usize % 4]).collect::<Vec<_>>().into(),
    });
    let plain = notification(ready("Widget"));
    let raw = renderer.render(&plain, FROM, None).expect("it renders").bytes;
    let cases = [
        ("text_and_html_2k", plain),
        ("template_2k", notification(Content::Payload(payload))),
        ("quoted_printable_2k", notification(ready("Gerät für Grüße"))),
        ("attachment_64k", attached),
        ("raw_2k", notification(Content::Raw(raw.clone()))),
    ];
    let mut group = c.benchmark_group("render");
    for (name, notification) in cases {
        let bytes = renderer.render(&notification, FROM, None).expect("it renders").bytes.len();
        group.throughput(Throughput::Bytes(bytes as u64));
        group.bench_function(name, |b| b.iter(|| renderer.render(black_box(&notification), FROM, None)));
    }
    group.throughput(Throughput::Bytes(raw.len() as u64));
    group.bench_function("stamp_2k", |b| {
        b.iter(|| stamp(black_box(&raw), &[("Idempotency-Key", "019a5b2c-0000-7000-8000-000000000001/1")]))
    });
    group.finish();
}

criterion_group!(benches, render);
criterion_main!(benches);
