//! Starting the binary: without this machine's own configuration, in a directory of its own.

use std::{
    path::Path,
    process::{Output, Stdio},
};

use tokio::process::{Child, Command};

/// A password that must never be seen.
pub(crate) const CANARY: &str = "CANARY-f1a5b0";

/// What a process said and how it ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// The binary in `directory`, deaf to this process's own environment.
pub(crate) fn hapax(directory: &Path, args: &[&str], variables: &[(&str, &str)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hapax"));
    command.current_dir(directory).args(args).env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
    for name in ["HAPAX_PG_BIN", "TMPDIR"] {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    for (name, value) in variables {
        command.env(name, value);
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

/// Runs it to its end.
pub(crate) async fn run_in(directory: &Path, args: &[&str], variables: &[(&str, &str)]) -> Ended {
    let output = hapax(directory, args, variables).output().await.expect("runs");
    ended(output)
}

/// Runs it to its end in an empty directory.
pub(crate) async fn run(args: &[&str], variables: &[(&str, &str)]) -> Ended {
    let directory = tempfile::tempdir().expect("a directory");
    run_in(directory.path(), args, variables).await
}

/// Waits for the end of a process.
pub(crate) async fn wait(child: Child) -> Ended {
    ended(child.wait_with_output().await.expect("ends"))
}

fn ended(output: Output) -> Ended {
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
    Ended { code: output.status.code().unwrap_or(-1), stdout: text(output.stdout), stderr: text(output.stderr) }
}
