//! The cleaner that outlives us.
//!
//! `Drop` does not run when a process is killed, and `PR_SET_PDEATHSIG` needs unsafe code. So a tiny shell waits on a
//! pipe whose other end only we hold: a line means "all is clean, leave"; end of file means that we died, and then the
//! server named by the pid file is stopped and the directory removed. The shell sits in its own process group, out of
//! reach of a Ctrl-C or a test runner's group kill.
//!
//! Invariant: the pid is signalled only if its command line names our (randomly named) directory, as far as the system
//! can tell; a recycled pid is left alone.

use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

const SCRIPT: &str = r#"
read -r line
[ "$line" = clean ] && exit 0
pid=$(head -n 1 "$1/data/postmaster.pid" 2>/dev/null)
if [ -n "$pid" ]; then
    if [ ! -d /proc/self ] || grep -qaF "$1" "/proc/$pid/cmdline" 2>/dev/null; then
        kill -CONT "$pid" 2>/dev/null
        kill -QUIT "$pid" 2>/dev/null
        tries=0
        while kill -0 "$pid" 2>/dev/null && [ $tries -lt 100 ]; do sleep 0.1; tries=$((tries + 1)); done
        kill -KILL "$pid" 2>/dev/null
    fi
fi
rm -rf "$1"
"#;

/// Cleans a cluster's directory up if this process dies without doing so.
#[derive(Debug)]
pub(crate) struct Watchdog {
    shell: Child,
}

impl Watchdog {
    pub(crate) fn guard(directory: &Path) -> io::Result<Self> {
        let shell = Command::new("/bin/sh")
            .args(["-c", SCRIPT, "hapax-sandbox-watchdog"])
            .arg(directory)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()?;
        Ok(Self { shell })
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        if let Some(mut pipe) = self.shell.stdin.take() {
            // A shell that is gone has nothing left to be told.
            let _ = pipe.write_all(b"clean\n");
        }
        let _ = self.shell.wait();
    }
}
