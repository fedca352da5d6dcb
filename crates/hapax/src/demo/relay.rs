//! The relay as a process: this very binary, started again and again.

use std::{path::PathBuf, process::Stdio, time::Duration};

use anyhow::Context;
use tokio::process::{Child, ChildStdin, Command};

use super::stage::Stage;
use crate::failure::Refusal;

/// How long an orderly end may take.
const END_TIMEOUT: Duration = Duration::from_secs(45);

/// The lines of its log that are shown when it died by itself.
const LOG_TAIL_LINES: usize = 15;

/// A running relay; killed when dropped.
pub(super) struct RelayProcess {
    child: Child,
    /// Its standard input: it ends when this is closed. Apart from the child, whose `wait` would close it.
    lifeline: Option<ChildStdin>,
    config: PathBuf,
    log: PathBuf,
}

impl RelayProcess {
    /// Starts it.
    pub(super) fn start(stage: &Stage) -> anyhow::Result<Self> {
        let (config, log) = (stage.config(), stage.log());
        let mut child = spawn(&config, &log)?;
        Ok(Self { lifeline: child.stdin.take(), child, config, log })
    }

    /// SIGKILL, and a new one at once.
    pub(super) async fn kill_and_restart(&mut self) -> anyhow::Result<()> {
        self.child.kill().await.context("could not kill the relay")?;
        self.child = spawn(&self.config, &self.log)?;
        self.lifeline = self.child.stdin.take();
        Ok(())
    }

    /// # Errors
    /// With the end of its log when it has died by itself.
    pub(super) fn must_live(&mut self) -> anyhow::Result<()> {
        match self.child.try_wait().context("could not look after the relay")? {
            None => Ok(()),
            Some(status) => Err(self.died(&status.to_string())),
        }
    }

    /// Waits for it to die.
    pub(super) async fn death(&mut self) -> anyhow::Result<()> {
        let status = self.child.wait().await.context("could not look after the relay")?;
        Err(self.died(&status.to_string()))
    }

    fn died(&self, status: &str) -> anyhow::Error {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let tail = lines[lines.len().saturating_sub(LOG_TAIL_LINES)..].join("\n");
        Refusal::failed(format!("the relay process ended by itself ({status}); the end of its log:\n{tail}"), &[])
            .into()
    }

    /// Ends it orderly: it ends when its standard input is closed.
    pub(super) async fn end(mut self) -> anyhow::Result<()> {
        drop(self.lifeline.take());
        match tokio::time::timeout(END_TIMEOUT, self.child.wait()).await {
            Ok(status) => {
                let status = status.context("could not wait for the relay")?;
                if status.success() { Ok(()) } else { Err(self.died(&status.to_string())) }
            }
            Err(_elapsed) => {
                let message = format!("the relay did not end within {} s", END_TIMEOUT.as_secs());
                Err(Refusal::failed(message, &[]).into())
            }
        }
    }
}

fn spawn(config: &PathBuf, log: &PathBuf) -> anyhow::Result<Child> {
    let binary = std::env::current_exe().context("could not find this very program")?;
    let log =
        std::fs::OpenOptions::new().create(true).append(true).open(log).context("could not open the relay's log")?;
    let mut command = Command::new(binary);
    command.args(["run", "--until-stdin-closes", "--log-format", "json", "--config"]).arg(config);
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(log).kill_on_drop(true);
    // A terminal's Ctrl-C is ours to handle.
    command.process_group(0);
    for (name, _) in std::env::vars_os() {
        let name_text = name.to_string_lossy();
        if name_text.to_uppercase().starts_with("HAPAX__") || name_text == "CREDENTIALS_DIRECTORY" {
            command.env_remove(&name);
        }
    }
    command.spawn().context("could not start the relay process")
}
