//! `hapax template publish`: the `schema.json` of each kind into the database, one line of result per kind.
//!
//! Invariants: a schema that cannot be published does not keep the others from it; what the database has already stays
//! as it is, and so does whether it is enforced: that is for operators, in SQL.

use std::{
    io,
    path::{Path, PathBuf},
};

use anyhow::Context;

use crate::{
    cli::template::TemplatePublish,
    config::Loaded,
    decide,
    failure::{Exit, Refusal, report},
    look::console,
    output,
};

/// # Errors
/// No template directory, an unknown kind, an unreachable database.
pub(crate) async fn run(loaded: Loaded, options: TemplatePublish) -> anyhow::Result<Exit> {
    let directory = directory(options.place.templates, &loaded)?;
    let schemas = schemas(&directory, &options.kinds)?;
    if schemas.is_empty() {
        output::line("no kind has a schema.json");
        return Ok(Exit::Done);
    }
    let (console, database) = console(loaded, "hapax template publish").await?;
    let mut refused = 0;
    for (kind, file) in schemas {
        let published = match read(&file) {
            Ok(schema) => match console.publish_schema(&kind, &schema, "hapax template publish").await {
                Ok(result) => Ok(result),
                Err(error) => {
                    let ours = error.sqlstate().is_some_and(|state| state.code().starts_with("22H"));
                    let refusal = decide::refused(&error, &database);
                    if !ours {
                        return Err(refusal.into());
                    }
                    Err(refusal)
                }
            },
            Err(refusal) => Err(refusal),
        };
        match published {
            Ok(result) => output::line(&format!("{kind}  {}", output::one_line(&result))),
            Err(refusal) => {
                refused += 1;
                output::line(&format!("{kind}  refused"));
                report(&refusal.at(&file.display().to_string()).into());
            }
        }
    }
    Ok(if refused == 0 { Exit::Done } else { Exit::Failed })
}

fn directory(typed: Option<PathBuf>, loaded: &Loaded) -> Result<PathBuf, Refusal> {
    let Some(directory) = typed.or_else(|| loaded.settings.templates.clone()) else {
        let hints = ["hapax template publish --templates DIR", "or set templates.directory in the configuration"];
        return Err(Refusal::setup("no template directory", &hints));
    };
    if !directory.is_dir() {
        let hints = ["hapax template publish --templates DIR"];
        return Err(Refusal::setup(format!("{} is not a directory", directory.display()), &hints));
    }
    Ok(directory)
}

/// The kinds with a schema, and its file, in order; of those that were named each.
fn schemas(directory: &Path, named: &[String]) -> anyhow::Result<Vec<(String, PathBuf)>> {
    let mut found = Vec::new();
    let unreadable = || format!("the directory {} is not readable", directory.display());
    for entry in std::fs::read_dir(directory).with_context(unreadable)? {
        let entry = entry.with_context(unreadable)?;
        let kind = entry.file_name().to_string_lossy().into_owned();
        let file = entry.path().join("schema.json");
        // Shared files are in directories that begin with _.
        if !kind.starts_with(['_', '.']) && file.is_file() {
            found.push((kind, file));
        }
    }
    found.sort();
    if let Some(unknown) = named.iter().find(|name| !found.iter().any(|(kind, _)| kind == *name)) {
        let hint = format!("schemas are in {}/KIND/schema.json", directory.display());
        return Err(Refusal::usage(format!("{unknown:?} has no schema.json"), &[&hint]).into());
    }
    found.retain(|(kind, _)| named.is_empty() || named.contains(kind));
    Ok(found)
}

/// The text of a schema, if it is JSON: the database would not say where it is not.
fn read(file: &Path) -> Result<String, Refusal> {
    let unreadable =
        |error: io::Error| Refusal::failed(format!("not readable: {}", error.to_string().to_lowercase()), &[]);
    let text = std::fs::read_to_string(file).map_err(unreadable)?;
    match serde_json::from_str::<serde::de::IgnoredAny>(&text) {
        Ok(_) => Ok(text),
        Err(error) => {
            let place = format!("not JSON at line {}, column {}", error.line(), error.column());
            Err(Refusal::failed(place, &["write a JSON Schema: {\"type\": \"object\"}"]))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_with_a_schema_are_found_in_order_and_shared_directories_are_none() -> anyhow::Result<()> {
        let place = tempfile::tempdir()?;
        for (name, schema) in [("b", true), ("a", true), ("c", false), ("_layouts", true), (".git", true)] {
            std::fs::create_dir(place.path().join(name))?;
            if schema {
                std::fs::write(place.path().join(name).join("schema.json"), "{}")?;
            }
        }
        let names = |named: &[&str]| -> anyhow::Result<Vec<String>> {
            let named: Vec<String> = named.iter().map(ToString::to_string).collect();
            Ok(schemas(place.path(), &named)?.into_iter().map(|(kind, _)| kind).collect())
        };
        assert_eq!(names(&[])?, ["a", "b"]);
        assert_eq!(names(&["b"])?, ["b"]);
        let error = names(&["b", "c"]).expect_err("c has none");
        assert_eq!(error.to_string(), "\"c\" has no schema.json");
        Ok(())
    }

    #[test]
    fn what_is_not_json_is_named_by_its_place_and_not_repeated() -> anyhow::Result<()> {
        let place = tempfile::tempdir()?;
        let file = place.path().join("schema.json");
        std::fs::write(&file, "{\"type\":\n  canary}")?;
        let refusal = read(&file).expect_err("not JSON");
        assert_eq!(refusal.to_string(), "not JSON at line 2, column 3");
        assert!(read(&place.path().join("none")).is_err());
        std::fs::write(&file, "{}")?;
        assert_eq!(read(&file)?, "{}");
        Ok(())
    }
}
