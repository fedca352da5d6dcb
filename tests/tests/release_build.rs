//! A release build has no fault points: neither the command that makes it asks for them, nor can it be made with them, nor
//! is anything of them in what is compiled.

use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// What a command has printed, on both streams, and whether it succeeded.
fn run(command: &mut Command) -> (bool, String) {
    let output = command.current_dir(root()).output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    (output.status.success(), text.concat())
}

/// The features of `hapax-core` in a build of these arguments, as cargo resolves them.
fn features(arguments: &[&str]) -> String {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["tree", "--offline", "--edges", "features", "--invert", "hapax-core"]).args(arguments);
    let (succeeded, text) = run(&mut command);
    assert!(succeeded, "{text}");
    text
}

#[test]
fn make_build_makes_a_release_without_fault_points() {
    let (succeeded, text) = run(Command::new("make").args(["--dry-run", "--no-print-directory", "build"]));
    assert!(succeeded, "{text}");
    let line = text.lines().find(|line| line.contains("cargo build")).expect("it builds with cargo");
    let words: Vec<&str> = line.split_whitespace().skip_while(|word| *word != "build").skip(1).collect();
    assert!(words.contains(&"--release"), "{line}");
    // cargo tree takes the same arguments, but for the profile.
    let arguments: Vec<&str> = words.into_iter().filter(|word| *word != "--release").collect();
    assert!(!features(&arguments).contains("fault-points"), "{line}");
    // The tests' own build has them: cargo tree would show them.
    let with = [&arguments[..], &["--features", "hapax/fault-points"]].concat();
    assert!(features(&with).contains("fault-points"));
}

/// Compiles the module of the fault points by itself, as a release would; answers what the compiler says, and the object.
fn compile(flags: &[&str]) -> (bool, String, Vec<u8>) {
    let directory = tempfile::tempdir().expect("a directory");
    let object = directory.path().join("fault.o");
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let mut command = Command::new(rustc);
    command.args(["--edition", "2024", "--crate-type", "lib", "--emit", "obj", "-C", "opt-level=3", "-o"]);
    command.arg(&object).args(flags).arg("crates/core/src/fault.rs");
    let (succeeded, text) = run(&mut command);
    (succeeded, text, std::fs::read(object).unwrap_or_default())
}

#[test]
fn a_release_cannot_be_made_with_fault_points() {
    let (succeeded, text, _) = compile(&["--cfg", "feature=\"fault-points\"", "-C", "debug-assertions=off"]);
    assert!(!succeeded && text.contains("a build without debug assertions must not have it"), "{text}");
}

#[test]
fn nothing_of_the_fault_points_is_compiled_into_a_release() {
    let (succeeded, text, object) = compile(&["-C", "debug-assertions=off"]);
    assert!(succeeded && !object.is_empty(), "{text}");
    let contains = |word: &str| object.windows(word.len()).any(|bytes| bytes == word.as_bytes());
    assert!(!contains("HAPAX_FAULT"));
    // What tests run has them: a search of the binary would find them.
    let binary = std::fs::read(hapax_testkit::find_hapax()).expect("the binary can be read");
    let name = b"HAPAX_FAULT";
    assert!(binary.windows(name.len()).any(|bytes| bytes == name), "this binary was built without fault points");
}
