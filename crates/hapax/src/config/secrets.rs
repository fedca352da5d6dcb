//! Where passwords come from, first found wins: the environment, `*_file`, `$CREDENTIALS_DIRECTORY/<name>`.
//!
//! Invariant: a secret is held by [`Secret`], which no formatting shows.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use super::{
    origin::{Origin, Problem, Shown},
    reader::{Given, Section},
};

/// A password or token.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Secret(String);

impl Secret {
    /// The secret itself, for the library that needs it.
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// The largest file that is read as a secret.
const SECRET_BYTES_MAX: u64 = 64 * 1024;

/// What is no text.
const BINARY: &str = "it is binary, not a text in UTF-8";

/// The names under which one secret can be given.
pub(crate) struct Names<'a> {
    /// The key for the environment: `password`.
    pub(crate) key: &'static str,
    /// The key of the file: `password_file`.
    pub(crate) file_key: &'static str,
    /// The file in `$CREDENTIALS_DIRECTORY`.
    pub(crate) credential: &'a str,
}

/// Looks for a secret; problems are reported to the section.
pub(crate) fn find(section: &mut Section<'_>, names: &Names<'_>, credentials: Option<&Path>) -> Option<Secret> {
    find_with_file(section, names, credentials).0
}

/// As [`find`], with the file that the configuration names for it.
pub(crate) fn find_with_file(
    section: &mut Section<'_>,
    names: &Names<'_>,
    credentials: Option<&Path>,
) -> (Option<Secret>, Option<PathBuf>) {
    let instead = format!(
        "write it to a file that only hapax can read and name that with {}, or put it into $CREDENTIALS_DIRECTORY/{}",
        names.file_key, names.credential
    );
    let direct = section.secret(names.key, &instead);
    let file = section.file(names.file_key);
    let path = section.path(names.key);
    let mut note = |origin: Origin| {
        section.reader.shown.push(Shown { path: path.clone(), value: Some("\"***\"".into()), origin });
    };
    if let Some(given) = direct {
        note(given.origin);
        return (Some(Secret(given.text)), None);
    }
    if let Some((path, given)) = file {
        return (from_file(section, names.file_key, &path, &given), Some(path));
    }
    let place = credentials.map(|directory| directory.join(names.credential));
    match place.filter(|place| place.symlink_metadata().is_ok()).map(|place| read(&place)) {
        None => (None, None),
        Some(Ok(text)) => {
            note(Origin::Credentials(names.credential.to_owned()));
            (Some(Secret(text)), None)
        }
        // Not passed over: whoever put it there would be told that there is no secret.
        Some(Err(problem)) => {
            let message =
                format!("$CREDENTIALS_DIRECTORY/{} cannot be read: {}", names.credential, problem.to_lowercase());
            section.reader.problems.push(Problem::new(path, message));
            (None, None)
        }
    }
}

fn from_file(section: &mut Section<'_>, key: &'static str, path: &Path, given: &Given) -> Option<Secret> {
    match read(path) {
        Ok(text) if text.is_empty() => {
            section.refuse(key, given, "the file is empty");
            None
        }
        Ok(text) => Some(Secret(text)),
        Err(problem) if problem == BINARY && key.starts_with("private_key") => {
            let hint = "a key in DER form becomes PEM: openssl pkey -inform DER -in FILE -out FILE.pem";
            section.refuse_with(key, given, "is binary, a key in PEM form is text", hint);
            None
        }
        Err(problem) => {
            section.refuse(key, given, format!("cannot be read: {problem}"));
            None
        }
    }
}

/// The text of a secret file without its last line end.
fn read(path: &Path) -> Result<String, String> {
    let facts = std::fs::metadata(path).map_err(|error| error.to_string())?;
    // A FIFO would wait for its writer, a device has no end.
    if !facts.is_file() {
        return Err("not a regular file".to_owned());
    }
    let size = facts.len();
    if size > SECRET_BYTES_MAX {
        return Err(format!("{size} bytes is too large for a secret"));
    }
    let bytes = std::fs::read(path).map_err(|error| error.to_string())?;
    let text = String::from_utf8(bytes).map_err(|_| BINARY.to_owned())?;
    let text = text.strip_suffix('\n').unwrap_or(&text);
    Ok(text.strip_suffix('\r').unwrap_or(text).to_owned())
}
