//! The pure part of a dialogue: a message made fit for the wire.
//!
//!     make microbench

#![allow(missing_docs, reason = "macros of criterion make public functions")]

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use hapax_mail::Message;

fn message(c: &mut Criterion) {
    let lines = |end: &str| format!("Widget, blue, extra long description   19.90 EUR{end}").repeat(40).into_bytes();
    let cases = [
        ("crlf_2k", lines("\r\n")),
        ("lf_2k", lines("\n")),
        ("dots_2k", lines("\r\n.")),
        ("base64_1m", format!("{}\r\n", "QUJD".repeat(19)).repeat(13_443).into_bytes()),
    ];
    let mut group = c.benchmark_group("message");
    for (name, raw) in cases {
        group.throughput(Throughput::Bytes(raw.len() as u64));
        group.bench_function(name, |b| b.iter(|| Message::new(black_box(&raw))));
    }
    group.finish();
}

criterion_group!(benches, message);
criterion_main!(benches);
