//! The side of Hapax in `make render-bench`: renders one kind again and again when told so, and says how long it took.
//!
//!     render_bench KIND_DIRECTORY PAYLOADS      (a JSON object a line)
//!
//! Reads `CASE COUNT` from its standard input and answers with nanoseconds; `show CASE FILE` writes the first message.
//! It must not do anything between two commands: the other side has its turn then.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, Write},
    time::{Duration, Instant},
};

use hapax_core::{
    MessageId, Priority,
    envelope::{Content, Notification},
};
use hapax_render::{Options, Renderer, Templates};

type Failure = Box<dyn std::error::Error>;

/// A kind's files, in memory, and a renderer that is made once.
struct Kind {
    files: Vec<(String, String)>,
    renderer: Renderer,
}

fn renderer(files: &[(String, String)]) -> Result<Renderer, hapax_render::Error> {
    let templates = Templates::from_memory(files.iter().cloned());
    Renderer::new(Options { templates, ..Options::default() })
}

fn notification(payload: &str, number: usize) -> Result<Notification, Failure> {
    Ok(Notification {
        id: MessageId(format!("019a5b2c-0000-7000-8000-{number:012x}").parse()?),
        created_at_us: 1_763_851_753_000_000 + i64::try_from(number)?,
        kind: "order".to_owned(),
        sender: None,
        reply_to: None,
        recipients: vec!["Ada Lovelace <ada@example.org>".to_owned()],
        cc: vec![],
        bcc: vec![],
        content: Content::Payload(payload.to_owned()),
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
    })
}

fn render(renderer: &Renderer, notification: &Notification) -> Result<Vec<u8>, hapax_render::Error> {
    Ok(renderer.render(notification, "Shop <no-reply@shop.example>", None)?.bytes)
}

/// `mjml`, `derived` (the same without body.txt) and `html`.
fn kinds(directory: &str) -> Result<BTreeMap<&'static str, Kind>, Failure> {
    let mut kinds = BTreeMap::new();
    let contents: [(&str, &[&str]); 3] = [
        ("mjml", &["subject.txt", "body.mjml", "body.txt"]),
        ("derived", &["subject.txt", "body.mjml"]),
        ("html", &["subject.txt", "body.html", "body.txt"]),
    ];
    for (name, own) in contents {
        let read = |file: &&str| Ok((format!("order/{file}"), fs::read_to_string(format!("{directory}/{file}"))?));
        let files = own.iter().map(read).collect::<Result<Vec<_>, Failure>>()?;
        let renderer = renderer(&files)?;
        kinds.insert(name, Kind { files, renderer });
    }
    Ok(kinds)
}

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, directory, payloads] = arguments.as_slice() else {
        return Err("usage: render_bench KIND_DIRECTORY PAYLOADS".into());
    };
    let kinds = kinds(directory)?;
    let payloads = fs::read_to_string(payloads)?;
    let notifications = payloads.lines().enumerate().map(|(number, line)| notification(line, number));
    let notifications = notifications.collect::<Result<Vec<_>, Failure>>()?;
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let words: Vec<&str> = line.split(' ').collect();
        let case = if words[0] == "show" { words[1] } else { words[0] };
        let (name, cached) = case.strip_suffix("-uncached").map_or((case, true), |name| (name, false));
        let kind = kinds.get(name).ok_or("no such case")?;
        let one = |notification: &Notification| match cached {
            true => render(&kind.renderer, notification),
            false => render(&renderer(&kind.files)?, notification),
        };
        if words[0] == "show" {
            fs::write(words[2], one(&notifications[0])?)?;
            println!("0");
        } else {
            let count: usize = words[1].parse()?;
            let start = Instant::now();
            for notification in notifications.iter().cycle().take(count) {
                std::hint::black_box(one(notification)?);
            }
            println!("{}", start.elapsed().as_nanos());
        }
        std::io::stdout().flush()?;
    }
    Ok(())
}
