//! `promtool`, of the Debian package `prometheus`: what the makers of Prometheus think of an exposition.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// The program: installed, or unpacked by `tests/operations/setup`.
///
/// # Errors
/// How to get it.
pub fn find() -> Result<PathBuf, &'static str> {
    let unpacked = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/operations/promtool");
    let known = ["/usr/bin/promtool", "/usr/local/bin/promtool", unpacked].map(PathBuf::from);
    known.into_iter().find(|path| path.is_file()).ok_or("no promtool (hint: make test-servers)")
}

/// What `promtool check metrics` says of a text: nothing, when all is well.
///
/// # Panics
/// When it cannot be run.
#[must_use]
pub fn check_metrics(promtool: &PathBuf, text: &str) -> (bool, String) {
    let mut child = Command::new(promtool)
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool starts");
    let mut stdin = child.stdin.take().expect("it was piped");
    stdin.write_all(text.as_bytes()).expect("promtool reads");
    drop(stdin);
    let output = child.wait_with_output().expect("promtool ends");
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&said).into_owned())
}
