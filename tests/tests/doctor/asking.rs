//! Running the doctor, and reading what it says.

use hapax_testkit::HapaxProcess;
use hapax_tests::stage::{PATIENCE, Settings};
use serde_json::Value;

/// No output may hold these.
pub(crate) const USER: &str = "canary-user-7c1d";
/// The same.
pub(crate) const PASSWORD: &str = "canary-password-93fe";

/// What it said.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) code: i32,
    /// Severity, name, evidence, remedy.
    pub(crate) findings: Vec<[String; 4]>,
    /// Everything it printed, as JSON and for people.
    pub(crate) text: String,
}

/// Runs it twice: as JSON, and for people.
pub(crate) async fn ask(settings: &Settings, arguments: &[&str]) -> Said {
    ask_with(settings, arguments, &[]).await
}

/// The same, with environment variables.
pub(crate) async fn ask_with(settings: &Settings, arguments: &[&str], environment: &[(&str, &str)]) -> Said {
    let run = async |more: &[&str]| {
        let mut builder = HapaxProcess::builder().config(settings.toml()).arg("doctor").args(arguments).args(more);
        for (name, value) in environment {
            builder = builder.env(name, value);
        }
        let mut process = builder.spawn();
        let status = process.wait_exit(PATIENCE).await;
        (status.code().unwrap_or(-1), process.stdout(), process.stderr())
    };
    let (code, json, errors) = run(&["--json"]).await;
    let (again, people, _) = run(&["--verbose"]).await;
    assert_eq!(code, again, "{json}\n{people}");
    let parsed: Value = serde_json::from_str(&json).unwrap_or_else(|error| panic!("{error}: {json}\n{errors}"));
    let text = |finding: &Value, key: &str| finding[key].as_str().unwrap_or_default().to_owned();
    let findings: Vec<[String; 4]> = parsed["findings"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|finding| ["severity", "name", "evidence", "remedy"].map(|key| text(finding, key)))
        .collect();
    let has_error = findings.iter().any(|finding| finding[0] == "error");
    assert_eq!((code, &parsed["ok"]), (i32::from(has_error), &Value::Bool(!has_error)), "{json}");
    for [severity, name, evidence, remedy] in &findings {
        assert!(people.contains(&format!("{name}: ")), "{name} is missing in\n{people}");
        assert!(!evidence.is_empty() && (severity == "ok") == remedy.is_empty(), "{name}: {evidence} / {remedy}");
    }
    let text = format!("{json}\n{people}\n{errors}");
    assert!(!text.contains(PASSWORD) && !text.contains(USER), "a secret is in\n{text}");
    Said { code, findings, text }
}

impl Said {
    /// What is worth a warning, or worse.
    pub(crate) fn ills(&self) -> Vec<(&str, &str)> {
        let is_ill = |finding: &&[String; 4]| ["warning", "error"].contains(&finding[0].as_str());
        self.findings.iter().filter(is_ill).map(|finding| (finding[0].as_str(), finding[1].as_str())).collect()
    }

    /// Exactly this is wrong, and these words are in its evidence and its remedy.
    #[track_caller]
    pub(crate) fn assert_only(&self, severity: &str, name: &str, evidence: &str, remedy: &str) {
        assert_eq!(self.ills(), [(severity, name)], "{}", self.text);
        self.assert_has(severity, name, evidence, remedy);
    }

    /// This is among what was found.
    #[track_caller]
    pub(crate) fn assert_has(&self, severity: &str, name: &str, evidence: &str, remedy: &str) {
        let is_it = |finding: &&[String; 4]| finding[0] == severity && finding[1] == name;
        let found = self.findings.iter().find(|finding| is_it(finding) && finding[2].contains(evidence));
        let found = found.unwrap_or_else(|| panic!("no {severity} {name} with {evidence:?} in\n{}", self.text));
        assert!(found[3].contains(remedy), "{remedy:?} is not the remedy of {found:?}");
    }

    /// Nothing is wrong.
    #[track_caller]
    pub(crate) fn assert_well(&self) {
        assert!(self.ills().is_empty() && self.code == 0, "{}", self.text);
    }
}
