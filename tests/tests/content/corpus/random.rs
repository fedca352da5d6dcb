//! Messages by chance, from a fixed seed: any letters of any script, any lengths, any line ends, everything at once.

use fastrand::Rng;

use super::scripts::SCRIPTS;
use super::{Case, File, Person, ready};

const SEED: u64 = 20_261_126;
const COUNT: usize = 60;
const LINE_ENDS: [&str; 6] = ["\n", "\n", "\r\n", "\r", "\n\n", "\n.\n"];
const ODD: [&str; 12] = ["=", ".", "\t", "  ", "\"", "\\", "<", "&", "=?utf-8?q?x?=", "\u{feff}", "\u{200b}", "%0a"];

pub(super) fn cases() -> Vec<Case> {
    let mut random = Rng::with_seed(SEED);
    (0..COUNT).map(|number| case(number, &mut random)).collect()
}

/// A letter, a word or something odd.
fn piece(random: &mut Rng, out: &mut String) {
    match random.u8(0..10) {
        0 => out.push_str(random.choice(ODD).expect("there are some")),
        1 | 2 => {
            let sentence = random.choice(SCRIPTS).expect("there are some").2;
            out.extend(sentence.chars().skip(random.usize(0..10)).take(random.usize(1..30)));
        }
        3 => out.push(random.char('\u{a0}'..='\u{2ffff}')),
        _ => out.extend((0..random.usize(1..12)).map(|_| random.alphanumeric())),
    }
}

/// One line without control characters (application libraries refuse those, and so does the INSERT), trimmed, never empty.
fn line(random: &mut Rng, characters_max: usize) -> String {
    let mut out = String::new();
    let count = random.usize(1..=characters_max);
    while out.chars().count() < count {
        piece(random, &mut out);
        if random.u8(0..3) == 0 {
            out.push(' ');
        }
    }
    let short: String = out.chars().take(count).map(|c| if c.is_control() { '?' } else { c }).collect();
    let trimmed = short.trim().to_owned();
    if trimmed.is_empty() { "x".to_owned() } else { trimmed }
}

fn text(random: &mut Rng) -> String {
    let mut out = String::new();
    for _ in 0..random.usize(0..40) {
        for _ in 0..random.usize(0..20) {
            piece(random, &mut out);
        }
        out.push_str(random.choice(LINE_ENDS).expect("there are some"));
    }
    out
}

fn case(number: usize, random: &mut Rng) -> Case {
    let subject = line(random, 300);
    let (mut plain, html) = (random.u8(0..4) > 0, random.u8(0..2) > 0);
    plain |= !html;
    let (plain_text, html_text) = (text(random) + "x", text(random) + "</p>");
    let mut case =
        ready(format!("random {number}"), &subject, plain.then_some(&plain_text), html.then_some(&html_text));
    let names: Vec<String> = (0..6).map(|_| name(random)).collect();
    let address = |who: &str| format!("{who}{number}@example.org");
    let (to, cc, from) = (address("to"), address("cc"), format!("from{number}@shop.example"));
    case = case.to(&[Person(&names[0], &to), Person(&names[1], "ada@example.net")]);
    if random.bool() {
        case = case.cc(&[Person(&names[2], &cc)]);
    }
    if random.bool() {
        case = case.from(Person(&names[3], &from));
    }
    if random.bool() {
        case = case.reply_to(Person(&names[4], &from));
    }
    for header in 0..random.usize(0..4) {
        // A value in ASCII is the application's own writing and sent as it is; an encoded word in it is one.
        case = case.header(&format!("X-Random-{header}"), &line(random, 200).replace("=?", "=!"));
    }
    let files: Vec<(String, Vec<u8>)> = (0..random.usize(0..4))
        .map(|_| {
            let (name, mut content) = (line(random, 60), vec![0; random.usize(0..3_000)]);
            random.fill(&mut content);
            (name, content)
        })
        .collect();
    match files.is_empty() {
        true => case,
        false => case.attached(
            &files
                .iter()
                .map(|(name, content)| File::new(name, "application/x-any", content.clone()))
                .collect::<Vec<_>>(),
        ),
    }
}

/// A name that an application can write before an address.
fn name(random: &mut Rng) -> String {
    if random.u8(0..4) == 0 { String::new() } else { line(random, 40) }
}
