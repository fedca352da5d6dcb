//! Where a value came from, and what is wrong with it.

use std::{fmt, path::PathBuf};

use serde_json::json;

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// Built in.
    Default,
    /// The configuration file.
    File(PathBuf),
    /// An environment variable.
    Environment(String),
    /// The command line.
    Flag(String),
    /// `$CREDENTIALS_DIRECTORY`.
    Credentials(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path) => write!(f, "file {}", path.display()),
            Self::Environment(name) => write!(f, "environment {name}"),
            Self::Flag(name) => write!(f, "flag {name}"),
            Self::Credentials(name) => write!(f, "credentials directory, {name}"),
        }
    }
}

/// Something wrong, or without effect, in the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    /// `section.key`.
    pub(crate) path: String,
    /// The value as it may be shown.
    pub(crate) value: Option<String>,
    /// Where it came from.
    pub(crate) origin: Option<Origin>,
    /// What is wrong.
    pub(crate) message: String,
    /// What to do about it.
    pub(crate) hint: Option<String>,
}

impl Problem {
    /// A problem without a value.
    pub(crate) fn new(path: impl Into<String>, message: impl Into<String>) -> Self {
        Self { path: path.into(), value: None, origin: None, message: message.into(), hint: None }
    }

    /// With what to do about it.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// With the value it is about, as it may be shown.
    pub(crate) fn of(mut self, value: impl Into<String>, origin: Origin) -> Self {
        self.value = Some(value.into());
        self.origin = Some(origin);
        self
    }

    /// For `--json`.
    pub(crate) fn to_json(&self) -> serde_json::Value {
        json!({
            "path": self.path,
            "value": self.value,
            "origin": self.origin.as_ref().map(ToString::to_string),
            "message": self.message,
            "hint": self.hint,
        })
    }
}

impl fmt::Display for Problem {
    /// `relay.max_in_flight = 0: must be ... [file hapax.toml]`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.path)?;
        if let Some(value) = &self.value {
            write!(f, " = {value}")?;
        }
        write!(f, ": {}", self.message)?;
        match &self.origin {
            Some(origin) if *origin != Origin::Default => write!(f, " [{origin}]"),
            _ => Ok(()),
        }
    }
}

/// A value in force, as `hapax check --print` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Shown {
    /// `section.key`.
    pub(crate) path: String,
    /// Masked; `None` when it is not set.
    pub(crate) value: Option<String>,
    /// Where it came from.
    pub(crate) origin: Origin,
}
