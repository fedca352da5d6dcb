//! The layers of the configuration: file, environment, flags, later ones over earlier ones.
//!
//! Each value carries its origin through the `config` crate. Values of secret keys never appear in an error of this
//! module: a syntax error is reported by line and column, not by the text of the line.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

use config::{Config, ConfigError, Environment, Map, Source, Value, ValueKind};

use super::origin::{Origin, Problem};

/// The prefix and the separator of environment variables.
const PREFIX: &str = "HAPAX";
const SEPARATOR: &str = "__";

/// What the `config` crate calls the origin of a variable.
const ENVIRONMENT: &str = "the environment";

/// Everything a configuration is made of, so that tests need no process of their own.
#[derive(Clone, Debug, Default)]
pub(crate) struct Inputs {
    /// `--config`; it must exist.
    pub(crate) file: Option<PathBuf>,
    /// Tried in this order when no file was named.
    pub(crate) search: Vec<PathBuf>,
    /// The environment.
    pub(crate) variables: HashMap<String, String>,
    /// Names of variables that are not UTF-8.
    pub(crate) unreadable: Vec<String>,
    /// Flags: path, the flag's name, value.
    pub(crate) flags: Vec<(&'static str, &'static str, String)>,
}

impl Inputs {
    /// Of this process.
    pub(crate) fn of_process(file: Option<PathBuf>, flags: Vec<(&'static str, &'static str, String)>) -> Self {
        let search = vec!["./hapax.toml".into(), "/etc/hapax/hapax.toml".into()];
        let mut inputs = Self { file, search, flags, ..Self::default() };
        for (name, value) in std::env::vars_os() {
            match (name.into_string(), value.into_string()) {
                (Ok(name), Ok(value)) => drop(inputs.variables.insert(name, value)),
                (Ok(name), Err(_)) => inputs.unreadable.push(name),
                (Err(name), _) => inputs.unreadable.push(name.to_string_lossy().into_owned()),
            }
        }
        inputs
    }

    /// The file that will be read, if any.
    fn chosen(&self) -> Option<&Path> {
        self.file.as_deref().or_else(|| self.search.iter().map(PathBuf::as_path).find(|path| path.is_file()))
    }
}

/// The merged layers.
pub(crate) struct Layers {
    /// Sections and keys, each with its origin.
    pub(crate) root: Map<String, Value>,
    /// The file that was read.
    pub(crate) file: Option<PathBuf>,
    /// A file that cannot be read or is not TOML.
    pub(crate) problems: Vec<Problem>,
}

/// Reads and merges.
pub(crate) fn merge(inputs: &Inputs) -> Layers {
    let mut problems = Vec::new();
    let file = inputs.chosen().map(Path::to_owned);
    let mut builder = Config::builder();
    if let Some(path) = &file {
        match read(path) {
            Ok(table) => builder = builder.add_source(Layer { table, origin: path.display().to_string() }),
            Err(problem) => problems.push(*problem),
        }
    }
    let variables = inputs.variables.clone().into_iter().collect();
    builder = builder.add_source(
        Environment::with_prefix(PREFIX)
            .prefix_separator(SEPARATOR)
            .separator(SEPARATOR)
            .ignore_empty(true)
            .source(Some(variables)),
    );
    for (path, flag, value) in &inputs.flags {
        let value = Value::new(Some(&format!("--{flag}")), ValueKind::String(value.clone()));
        match builder.clone().set_override(*path, value) {
            Ok(next) => builder = next,
            Err(error) => problems.push(Problem::new(*path, error.to_string())),
        }
    }
    let root = match builder.build().and_then(|config| config.cache.into_table()) {
        Ok(root) => root,
        Err(error) => {
            problems.push(Problem::new("environment", error.to_string()));
            Map::new()
        }
    };
    Layers { root, file, problems }
}

/// The origin of a value at `path`.
pub(crate) fn origin(value: &Value, path: &str) -> Origin {
    match value.origin() {
        Some(ENVIRONMENT) => {
            let name = path.split('.').map(str::to_uppercase).collect::<Vec<_>>().join(SEPARATOR);
            Origin::Environment(format!("{PREFIX}{SEPARATOR}{name}"))
        }
        Some(flag) if flag.starts_with("--") => Origin::Flag(flag.to_owned()),
        Some(file) => Origin::File(file.into()),
        None => Origin::Default,
    }
}

fn read(path: &Path) -> Result<toml::Table, Box<Problem>> {
    let name = path.display().to_string();
    let text = std::fs::read_to_string(path).map_err(|error| {
        let hint = "name another file with --config FILE, or leave it out to use ./hapax.toml or /etc/hapax/hapax.toml";
        Box::new(Problem::new(&name, format!("cannot be read: {error}")).hint(hint))
    })?;
    text.parse::<toml::Table>().map_err(|error| {
        // Only the message and the place: the line itself may hold a password.
        let (line, column) = error.span().map_or((1, 1), |span| place(&text, span.start));
        let message = format!("not TOML: {}", error.message().replace('\n', ", "));
        Box::new(Problem::new(format!("{name}:{line}:{column}"), message))
    })
}

/// Line and column (from 1) of a byte offset.
fn place(text: &str, offset: usize) -> (usize, usize) {
    let before = &text[..text.floor_char_boundary(offset)];
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    (line, column)
}

/// A parsed file as a layer.
#[derive(Clone, Debug)]
struct Layer {
    table: toml::Table,
    origin: String,
}

impl Source for Layer {
    fn clone_into_box(&self) -> Box<dyn Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<Map<String, Value>, ConfigError> {
        Ok(self.table.iter().map(|(key, value)| (key.clone(), convert(value, &self.origin))).collect())
    }
}

fn convert(value: &toml::Value, origin: &String) -> Value {
    let kind = match value {
        toml::Value::String(text) => ValueKind::String(text.clone()),
        toml::Value::Integer(number) => ValueKind::I64(*number),
        toml::Value::Float(number) => ValueKind::Float(*number),
        toml::Value::Boolean(on) => ValueKind::Boolean(*on),
        toml::Value::Datetime(time) => ValueKind::String(time.to_string()),
        toml::Value::Array(items) => ValueKind::Array(items.iter().map(|item| convert(item, origin)).collect()),
        toml::Value::Table(table) => {
            ValueKind::Table(table.iter().map(|(key, value)| (key.clone(), convert(value, origin))).collect())
        }
    };
    Value::new(Some(origin), kind)
}
