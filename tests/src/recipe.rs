//! The recipes for producers (`deploy/producers`), run by their drivers (`tests/producers/LANGUAGE/run RECIPE SCENARIO`)
//! as an application would run them: another process, another language, the restricted role.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use tokio::process::Command;
use uuid::Uuid;

/// A compiler may have to start first.
const DEADLINE: Duration = Duration::from_secs(150);

/// A way to enqueue from another language.
#[derive(Clone, Copy, Debug)]
pub struct Recipe {
    /// The folder.
    pub language: &'static str,
    /// What its driver calls it, but for `-`.
    pub name: &'static str,
}

/// What a scenario printed.
#[derive(Clone, Debug)]
pub struct Outcome(Value);

/// What an application sees of a refusal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Five characters.
    pub sqlstate: String,
    /// The server's words.
    pub message: String,
    /// What to do, where the driver of the language hands it on.
    pub hint: Option<String>,
}

/// The directory of all recipes.
#[must_use]
pub fn recipes() -> PathBuf {
    repository().join("deploy/producers")
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests lies in the repository").to_owned()
}

impl Recipe {
    /// Runs a scenario with further variables in its environment.
    ///
    /// # Panics
    /// When the driver fails, prints no JSON, or takes too long.
    pub async fn run(&self, scenario: &[&str], variables: &[(&str, String)]) -> Outcome {
        let driver = repository().join("tests/producers").join(self.language).join("run");
        let mut command = Command::new(&driver);
        command
            .arg(self.name.replace('_', "-"))
            .args(scenario)
            .current_dir(repository())
            .stdin(Stdio::null())
            .kill_on_drop(true);
        // What the machine of a developer says of its own databases must not matter.
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("PG")) {
            command.env_remove(name);
        }
        command.envs(variables.iter().map(|(name, value)| (*name, value.as_str())));
        let output = tokio::time::timeout(DEADLINE, command.output()).await.expect("the driver ends in time");
        let output = output.unwrap_or_else(|error| panic!("{}: {error}: run tests/setup", driver.display()));
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        let json = serde_json::from_str(out.trim()).ok().filter(Value::is_object);
        match json {
            Some(json) if output.status.success() => Outcome(json),
            _ => panic!("{self:?} {scenario:?}: {}\nstdout: {out}\nstderr: {err}", output.status),
        }
    }
}

impl Outcome {
    /// The ids that the recipe returned.
    ///
    /// # Panics
    /// When one is no id.
    #[must_use]
    pub fn ids(&self) -> Vec<Uuid> {
        let ids = self.0["ids"].as_array().unwrap_or_else(|| panic!("no ids in {self:?}"));
        ids.iter()
            .map(|id| id.as_str().and_then(|id| id.parse().ok()).unwrap_or_else(|| panic!("{id} is none")))
            .collect()
    }

    /// What was refused.
    ///
    /// # Panics
    /// When an error lacks SQLSTATE or message.
    #[must_use]
    pub fn errors(&self) -> Vec<Refusal> {
        let errors = self.0["errors"].as_array().unwrap_or_else(|| panic!("no errors in {self:?}"));
        let text = |error: &Value, key: &str| error[key].as_str().map(ToOwned::to_owned);
        let refusal = |error: &Value| {
            Some(Refusal {
                sqlstate: text(error, "sqlstate")?,
                message: text(error, "message")?,
                hint: text(error, "hint"),
            })
        };
        errors.iter().map(|error| refusal(error).unwrap_or_else(|| panic!("{error} says too little"))).collect()
    }

    /// A number, such as how many messages were sent.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    pub fn number(&self, key: &str) -> usize {
        let number = self.0[key].as_u64().and_then(|number| usize::try_from(number).ok());
        number.unwrap_or_else(|| panic!("no {key} in {self:?}"))
    }
}
