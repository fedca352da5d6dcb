//! The fuzz targets with stable tools: the committed inputs, and mutations of them from a fixed seed (HAPAX_SEED for
//! another, HAPAX_FUZZ_INPUTS for more). `make fuzz` runs the same targets under libFuzzer.

use std::path::Path;

#[path = "../fuzz/harness.rs"]
mod harness;

/// What mutations put in: what has a meaning somewhere on the way.
const TOKENS: [&[u8]; 40] = [
    b"\r\n",
    b"\n",
    b"\r",
    b"\r\n.\r\n",
    b"\n.\n",
    b"\r\n\r\n",
    b"\0",
    b"\t",
    b" ",
    b".",
    b"..",
    b"\"",
    b"\\",
    b"<",
    b">",
    b"@",
    b",",
    b";",
    b":",
    b"(",
    b")",
    b"=?utf-8?q?",
    b"?=",
    b"=?",
    b"=0d=0a",
    b"Bcc: x@y.example",
    b"\r\n ",
    b"--",
    b"=_",
    b"%0d%0a",
    b"{{ a }}",
    b"{% for x in b %}",
    b"{% endfor %}",
    b"\xc3\xa9",
    b"\xf0\x9f\x8e\x89",
    b"\xe2\x80\xae",
    b"\xc2\x85",
    b"\xe2\x80\xa8",
    b"\x7f",
    &[harness::SEPARATOR],
];

/// SplitMix64: the same numbers everywhere.
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ (z >> 31)) % bound.max(1) as u64).unwrap_or_default()
    }

    /// One to eight changes: a token or a piece of another input put in, bytes changed, removed, repeated.
    fn mutate(&mut self, input: &[u8], other: &[u8]) -> Vec<u8> {
        let mut out = input.to_vec();
        for _ in 0..=self.below(8) {
            let at = self.below(out.len() + 1);
            let until = (at + self.below(20)).min(out.len());
            match self.below(8) {
                0..=2 => drop(out.splice(at..at, TOKENS[self.below(TOKENS.len())].iter().copied())),
                3 => drop(out.splice(at..until, TOKENS[self.below(TOKENS.len())].iter().copied())),
                4 => {
                    let from = self.below(other.len() + 1);
                    let piece = &other[from..(from + self.below(60)).min(other.len())];
                    drop(out.splice(at..at, piece.iter().copied()));
                }
                5 => drop(out.drain(at..until)),
                6 => {
                    let piece = out[at..until].repeat(self.below(200));
                    drop(out.splice(at..at, piece));
                }
                _ => {
                    let byte = u8::try_from(self.below(256)).unwrap_or_default();
                    if let Some(place) = out.get_mut(at) {
                        *place = byte;
                    }
                }
            }
        }
        out.truncate(20_000);
        out
    }
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

/// As large as a main thread's: templates are compiled there, and minijinja's parser, built without optimization, needs
/// more than a test's 2 MiB for 150 nested expressions (its limit).
const STACK_BYTES: usize = 8 << 20;

/// Runs a target over its inputs and their mutations; prints the input that breaks it.
fn fuzz(name: &'static str) {
    let thread = std::thread::Builder::new().stack_size(STACK_BYTES).spawn(|| run(name));
    if let Err(panic) = thread.expect("a thread starts").join() {
        std::panic::resume_unwind(panic);
    }
}

fn run(name: &str) {
    let (_, target) = *harness::TARGETS.iter().find(|target| target.0 == name).expect("there is such a target");
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name);
    let entries = std::fs::read_dir(directory).expect("there are inputs");
    let mut inputs: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
    inputs.sort();
    let inputs: Vec<Vec<u8>> = inputs.iter().map(|path| std::fs::read(path).expect("it can be read")).collect();
    let mut chance = Chance(number("HAPAX_SEED", 20_261_126));
    let count = usize::try_from(number("HAPAX_FUZZ_INPUTS", 3_000)).unwrap_or_default();
    let mut rendered = 0;
    for turn in 0..inputs.len() + count {
        let input = match inputs.get(turn) {
            Some(input) => input.clone(),
            None => {
                let one = chance.below(inputs.len());
                chance.mutate(&inputs[one], &inputs[turn % inputs.len()])
            }
        };
        match std::panic::catch_unwind(|| target(&input)) {
            Ok(message) => rendered += usize::from(message),
            Err(panic) => {
                eprintln!("{name}, input {turn}: {}", input.escape_ascii());
                std::panic::resume_unwind(panic);
            }
        }
    }
    println!("{name}: {} inputs, {rendered} became messages", inputs.len() + count);
    assert!(rendered * 40 > count, "only {rendered} of {count} became messages: too few to show anything");
}

#[test]
fn no_mailbox_breaks_a_message() {
    fuzz("address");
}

#[test]
fn no_header_breaks_a_message() {
    fuzz("header");
}

#[test]
fn no_text_and_no_attachment_breaks_a_message() {
    fuzz("mime");
}

#[test]
fn no_raw_message_breaks_the_wire() {
    fuzz("raw");
}

#[test]
fn no_template_breaks_a_message() {
    fuzz("template");
}
