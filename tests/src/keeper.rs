//! A server that ends with us: a shell waits on a pipe that only we hold, and ends it when the pipe closes, also when this
//! process is killed.

use std::fs;
use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};

const KEEPER: &str = r#"set -f; "$@" & server=$!; read -r word; kill -TERM $server 2>/dev/null; wait $server
[ -z "$KEEPER_REMOVES" ] || [ "$word" = keep ] || rm -rf "$KEEPER_REMOVES""#;

/// A server that ends when its standard input does.
#[derive(Debug)]
pub struct Keeper(Child);

impl Keeper {
    /// Runs `command`, which writes to `log`; `removes` is deleted after its end.
    ///
    /// # Panics
    /// When there is no shell, or the log cannot be opened.
    #[must_use]
    pub fn run(command: Command, log: &Path, removes: Option<&Path>) -> Self {
        let open = || fs::File::options().create(true).append(true).open(log).expect("the log can be opened");
        let mut shell = Command::new("/bin/sh");
        shell.args(["-c", KEEPER, "keeper"]).arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            if let Some(value) = value {
                shell.env(name, value);
            }
        }
        let child = shell
            .env("KEEPER_REMOVES", removes.map(Path::as_os_str).unwrap_or_default())
            .stdin(Stdio::piped())
            .stdout(open())
            .stderr(open())
            // A Ctrl-C meant for us must not end it under our feet.
            .process_group(0)
            .spawn()
            .expect("there is a shell");
        Self(child)
    }

    /// Ends the server, but deletes nothing.
    pub fn end(mut self) {
        if let Some(stdin) = &mut self.0.stdin {
            // When it has ended by itself there is nothing to be told to.
            let _ = stdin.write_all(b"keep\n");
        }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        // It has been asked to end; nothing else can be done about it here.
        let _ = self.0.wait();
    }
}
