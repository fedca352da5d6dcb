//! Where templates come from: a directory, memory (what the binary embeds), or nowhere. The one place of this crate
//! that reads files, and only inside the given directory, only at start.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use crate::error::Problem;

/// The largest template, the most templates, and the deepest directory that are read.
const FILE_BYTES_MAX: u64 = 1 << 20;
const FILES_MAX: usize = 10_000;
const DEPTH_MAX: usize = 8;

/// Where to take templates from. Nothing is read before [`Renderer::new`](crate::Renderer::new).
#[derive(Clone, Default)]
pub struct Templates(pub(crate) Source);

#[derive(Clone, Default)]
pub(crate) enum Source {
    #[default]
    None,
    Directory(PathBuf),
    Memory(BTreeMap<String, String>),
}

impl Templates {
    /// No templates: a payload cannot be rendered, everything else can.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// `<directory>/<kind>/{subject.txt, body.txt, body.html}` and `<directory>/_layouts/...`. Only `.txt` and `.html`
    /// files count; names that begin with a dot are skipped (editors' files, and how Kubernetes mounts a ConfigMap).
    #[must_use]
    pub fn from_dir(directory: impl Into<PathBuf>) -> Self {
        Self(Source::Directory(directory.into()))
    }

    /// The same paths, relative and with `/`, and their texts.
    #[must_use]
    pub fn from_memory<P: Into<String>, T: Into<String>>(files: impl IntoIterator<Item = (P, T)>) -> Self {
        Self(Source::Memory(files.into_iter().map(|(path, text)| (path.into(), text.into())).collect()))
    }
}

impl std::fmt::Debug for Templates {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.0 {
            Source::None => f.write_str("none"),
            Source::Directory(directory) => write!(f, "directory {}", directory.display()),
            Source::Memory(files) => write!(f, "{} files in memory", files.len()),
        }
    }
}

/// All templates below `root`, by their path relative to it. What cannot be read becomes a problem.
pub(crate) fn read(root: &Path, problems: &mut Vec<Problem>) -> BTreeMap<String, String> {
    let mut reader = Reader { real_root: PathBuf::new(), files: BTreeMap::new(), problems };
    match root.canonicalize() {
        Ok(real_root) => {
            reader.real_root = real_root;
            reader.directory(root, "", 0);
        }
        Err(error) => reader.problem("", &error.to_string().to_lowercase()),
    }
    reader.files
}

struct Reader<'a> {
    real_root: PathBuf,
    files: BTreeMap<String, String>,
    problems: &'a mut Vec<Problem>,
}

impl Reader<'_> {
    fn directory(&mut self, directory: &Path, relative: &str, depth: usize) {
        if depth > DEPTH_MAX {
            return self.problem(relative, "directories nested too deeply");
        }
        let entries = match fs::read_dir(directory).and_then(Iterator::collect::<io::Result<Vec<_>>>) {
            Ok(entries) => entries,
            Err(error) => return self.problem(relative, &error.to_string().to_lowercase()),
        };
        for entry in entries {
            let file_name = entry.file_name();
            let Some(name) = file_name.to_str().filter(|name| !name.starts_with('.')) else {
                continue;
            };
            let path = entry.path();
            let relative = if relative.is_empty() { name.to_owned() } else { format!("{relative}/{name}") };
            if path.is_dir() {
                self.directory(&path, &relative, depth + 1);
            } else if depth > 0 && (name.ends_with(".txt") || name.ends_with(".html")) {
                self.file(&path, relative);
            }
        }
    }

    fn file(&mut self, path: &Path, relative: String) {
        if self.files.len() >= FILES_MAX {
            return self.problem(&relative, "too many templates");
        }
        match text_inside(&self.real_root, path) {
            Ok(text) => drop(self.files.insert(relative, text)),
            Err(what) => self.problem(&relative, &what),
        }
    }

    fn problem(&mut self, relative: &str, what: &str) {
        self.problems.push(Problem::new(if relative.is_empty() { "." } else { relative }, None, what));
    }
}

/// The text of a file that lies inside the directory, also after links are followed.
fn text_inside(real_root: &Path, path: &Path) -> Result<String, String> {
    let readable = |error: io::Error| error.to_string().to_lowercase();
    let real = path.canonicalize().map_err(readable)?;
    if !real.starts_with(real_root) {
        return Err("a link that leads out of the template directory".to_owned());
    }
    if fs::metadata(&real).map_err(readable)?.len() > FILE_BYTES_MAX {
        return Err(format!("more than {FILE_BYTES_MAX} bytes"));
    }
    String::from_utf8(fs::read(&real).map_err(readable)?).map_err(|_| "not UTF-8".to_owned())
}
