//! The configuration as JSON Schema, made from what the reader reads: a key cannot be in the one and not in the other.
//!
//! It describes the file. Nothing in it is required, the environment may have it; secrets are not in it, a file may not
//! have them; relations between values, and files that must exist, are beyond it.

use std::collections::{BTreeMap, HashMap};

use serde_json::{Map, Value, json};

use super::{Inputs, load};

/// What stands for any name below the sections of [`NAMED`].
const ANY: &str = "any";

/// The sections whose keys are names.
const NAMED: [&str; 5] = ["routes", "kinds", "tenants", "senders", "dkim"];

/// The sample configuration.
pub(crate) const EXAMPLE: &str = include_str!("../../../../deploy/hapax.toml");

/// What a key may hold.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Shape {
    /// Any text.
    Text,
    /// A path; relative ones are relative to the file.
    Path,
    /// A duration between two.
    Duration { least: String, most: String },
    /// A duration, or a word.
    DurationOr(&'static str),
    /// So many in a time.
    Rate,
    /// A number between two, as they are written.
    Number { whole: bool, least: String, most: String },
    /// True or false.
    Switch,
    /// One of these.
    Words(Vec<&'static str>),
    /// A list of texts, or one text with commas.
    List,
    /// Numbers by name.
    Parts,
    /// What codes mean.
    Codes,
    /// A list of whole numbers above zero, or one text with commas.
    Volumes,
    /// Read from the environment, or from files.
    Secret,
}

/// A key that was read.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Key {
    /// `section.key`.
    pub(crate) path: String,
    pub(crate) shape: Shape,
    /// As it would be written.
    pub(crate) default: Option<String>,
}

/// All of it.
pub(crate) fn schema() -> Value {
    let (keys, texts) = (keys(), descriptions(EXAMPLE));
    let mut sections: BTreeMap<&str, Map<String, Value>> = BTreeMap::new();
    for key in keys.iter().filter(|key| key.shape != Shape::Secret) {
        let Some((section, name)) = key.path.rsplit_once('.') else { continue };
        let mut property = property(&key.shape);
        if let (Some(default), true) = (default(key), property.is_object()) {
            property["default"] = default;
        }
        describe(&mut property, texts.get(&key.path));
        sections.entry(section).or_default().insert(name.to_owned(), property);
    }
    let mut properties = Map::new();
    for (path, keys) in sections {
        let mut parts = path.split('.');
        let (section, named, sub) = (parts.next().unwrap_or(path), parts.next().is_some(), parts.next());
        let mut table = json!({ "type": "object", "additionalProperties": false, "properties": keys });
        if named {
            let names = if ["kinds", "tenants", "senders"].contains(&section) { "^.+$" } else { "^[a-z0-9_-]{1,63}$" };
            describe(&mut table, texts.get(path));
            // Sorted: the section that it is in has been made before.
            if let Some((sub, outer)) = sub.zip(properties.get_mut(section)) {
                outer["patternProperties"][names]["properties"][sub] = table;
                continue;
            }
            table = json!({ "type": "object", "additionalProperties": false, "patternProperties": { names: table } });
        } else {
            describe(&mut table, texts.get(path));
        }
        properties.insert(section.to_owned(), table);
    }
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "hapax.toml",
        "description": "The configuration file of hapax. Every key can be given as HAPAX__SECTION__KEY in the environment instead.",
        "type": "object",
        "additionalProperties": false,
        "properties": properties,
    })
}

/// Every key there is, by reading a configuration that has one section of each kind.
pub(super) fn keys() -> Vec<Key> {
    let variables: HashMap<String, String> = NAMED
        .iter()
        .map(|section| (format!("HAPAX__{}__{}__X", section.to_uppercase(), ANY.to_uppercase()), "x".to_owned()))
        .collect();
    let mut keys = load(&Inputs { variables, ..Inputs::default() }).keys;
    keys.sort_by(|a, b| a.path.cmp(&b.path));
    keys.dedup_by(|a, b| a.path == b.path);
    keys
}

fn property(shape: &Shape) -> Value {
    const DURATION: &str = "([0-9]+(ms|[dhms]))+";
    let number = |text: &str| text.parse::<serde_json::Number>().map_or(Value::Null, Value::Number);
    match shape {
        Shape::Text | Shape::Secret => json!({ "type": "string" }),
        Shape::Path => json!({ "type": "string", "minLength": 1 }),
        Shape::Duration { least, most } => json!({
            "type": "string",
            "pattern": format!("^{DURATION}$"),
            "description": format!("A duration between {least} and {most}."),
        }),
        Shape::DurationOr(word) => json!({ "type": "string", "pattern": format!("^({word}|{DURATION})$") }),
        Shape::Rate => json!({ "type": "string", "pattern": "^[0-9]+/(s|min|h|day)$" }),
        Shape::Number { whole, least, most } => json!({
            "type": if *whole { "integer" } else { "number" },
            "minimum": number(least),
            "maximum": number(most),
        }),
        Shape::Switch => json!({ "type": "boolean" }),
        Shape::Words(words) => json!({ "enum": words }),
        Shape::Parts => json!({
            "type": "object",
            "minProperties": 1,
            "additionalProperties": { "type": "integer", "minimum": 0, "maximum": super::weights::MOST },
        }),
        Shape::Codes => json!({
            "type": "object",
            "additionalProperties": { "enum": super::retry::MEANINGS.map(|(word, _)| word) },
        }),
        Shape::Volumes => json!({
            "anyOf": [{ "type": "array", "items": { "type": "integer", "minimum": 1 } }, { "type": "string" }],
        }),
        Shape::List => json!({ "anyOf": [{ "type": "array", "items": { "type": "string" } }, { "type": "string" }] }),
    }
}

/// The machine's own name is no default for everybody.
fn default(key: &Key) -> Option<Value> {
    if key.path == "relay.name" {
        return None;
    }
    serde_json::from_str(key.default.as_deref()?).ok()
}

fn describe(value: &mut Value, text: Option<&String>) {
    let Some(text) = text else { return };
    let range = value["description"].as_str().map(|range| format!(" {range}")).unwrap_or_default();
    value["description"] = Value::String(format!("{text}{range}"));
}

/// What the sample says about each key and section: the comment right above it.
fn descriptions(sample: &str) -> HashMap<String, String> {
    let (mut texts, mut section, mut comment) = (HashMap::new(), String::new(), Vec::new());
    for line in sample.lines() {
        if let Some(words) = line.strip_prefix("# ") {
            comment.push(words.trim());
            continue;
        }
        let line = line.strip_prefix('#').unwrap_or(line);
        let path = if let Some(header) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            section = match header.split('.').collect::<Vec<_>>().as_slice() {
                [named, _, sub] if !header.contains('"') => format!("{named}.{ANY}.{sub}"),
                [named, _, ..] => format!("{named}.{ANY}"),
                _ => header.to_owned(),
            };
            Some(section.clone())
        } else {
            line.split_once(" = ").map(|(key, _)| format!("{section}.{key}"))
        };
        let text = std::mem::take(&mut comment).join(" ");
        if let Some(path) = path
            && !text.is_empty()
        {
            texts.entry(path).or_insert(text);
        }
    }
    texts
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMITTED: &str = include_str!("../../../../deploy/hapax.schema.json");

    fn instance(toml: &str) -> Value {
        serde_json::to_value(toml.parse::<toml::Table>().expect("TOML")).expect("JSON")
    }

    fn validator() -> jsonschema::Validator {
        jsonschema::draft202012::new(&schema()).expect("a schema")
    }

    #[test]
    fn the_committed_schema_is_the_one_of_this_code() {
        let committed: Value = serde_json::from_str(COMMITTED).expect("JSON");
        assert_eq!(committed, schema(), "hapax config schema > deploy/hapax.schema.json");
        jsonschema::meta::validate(&committed).expect("a schema");
    }

    #[test]
    fn the_example_fits_the_schema_as_it_is_and_with_everything_in_it() {
        let all: Vec<&str> = EXAMPLE
            .lines()
            .map(|line| match line.strip_prefix('#') {
                Some(rest) if rest.starts_with(|c: char| c.is_ascii_lowercase() || c == '[') => rest,
                _ => line,
            })
            .collect();
        for text in [EXAMPLE, &all.join("\n")] {
            let errors: Vec<String> = validator().iter_errors(&instance(text)).map(|error| error.to_string()).collect();
            assert_eq!(errors, Vec::<String>::new());
        }
    }

    #[test]
    fn what_is_refused_by_its_shape_is_refused_by_the_schema_too() {
        let shapes = [
            "unknown key",
            "unknown section",
            "is not one of ",
            "is not a whole number",
            "is a list",
            "is a section",
            "is neither ",
            "is not a duration",
            "is not a rate",
            "is not a list of texts",
            "a secret does not belong",
            "name is 1 to 63",
        ];
        let (validator, mut refused) = (validator(), 0);
        for block in include_str!("bad_values.txt").split("\n\n").skip(1) {
            let (toml, said) = block.split_once("\n=> ").expect("what is said");
            let value = instance(toml);
            let is_number = said.contains("must be between") && !said.contains("\": must");
            if is_number || shapes.iter().any(|shape| said.contains(shape)) {
                assert!(!validator.is_valid(&value), "{block}");
                refused += 1;
            }
        }
        assert!(refused >= 30, "{refused}");
    }

    #[test]
    fn defaults_ranges_and_comments_are_in_it_and_secrets_are_not() {
        let schema = schema();
        assert_eq!(schema["properties"]["relay"]["properties"]["max_in_flight"]["default"], json!(64));
        assert_eq!(schema["properties"]["log"]["properties"]["level"]["default"], json!("info"));
        let words = &schema["properties"]["relay"]["properties"]["lease"]["description"];
        assert!(words.as_str().is_some_and(|words| words.ends_with("A duration between 1s and 1d.")), "{words}");
        assert!(!schema.to_string().contains("\"password\""), "a file may not have one");
    }
}
