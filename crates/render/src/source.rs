//! Where templates come from: a directory, memory (what the binary embeds), or nowhere. The one place of this crate
//! that reads files, and only inside the given directory, only at start.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use crate::error::Problem;

/// The largest file, all of them, the most files, and the deepest directory that are read.
const FILE_BYTES_MAX: u64 = 1 << 20;
const TOTAL_BYTES_MAX: usize = 256 << 20;
/// U+FEFF in UTF-8.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";
const FILES_MAX: usize = 10_000;
const DEPTH_MAX: usize = 8;

/// What is read as text, and what as it is.
const TEXTS: [&str; 5] = ["txt", "html", "mjml", "json", "toml"];
const IMAGES: [(&str, &str); 6] = [
    ("png", "image/png"),
    ("jpg", "image/jpeg"),
    ("jpeg", "image/jpeg"),
    ("gif", "image/gif"),
    ("svg", "image/svg+xml"),
    ("webp", "image/webp"),
];

/// All files by their path relative to the template directory, with `/`.
pub(crate) type Files = BTreeMap<String, Vec<u8>>;

/// What a directory holds.
#[derive(Default)]
pub(crate) struct Found {
    pub(crate) files: Files,
    /// The names of files that mean nothing, and that nobody else's tools leave there.
    pub(crate) strays: Vec<String>,
}

/// Whether editors, systems and people leave files of this name beside others.
fn is_litter(name: &str) -> bool {
    let lower = name.to_ascii_lowercase();
    let beginnings = ["readme", "license", "licence", "changelog", "makefile", "#"];
    let ends = ["~", ".md", ".bak", ".orig", ".rej", ".swp", ".tmp", ".pyc"];
    beginnings.iter().any(|beginning| lower.starts_with(beginning))
        || ends.iter().any(|end| lower.ends_with(end))
        || ["thumbs.db", "desktop.ini", "ehthumbs.db"].contains(&lower.as_str())
}

/// What comes after the last dot of a name.
pub(crate) fn extension(name: &str) -> &str {
    name.rsplit_once('.').map_or("", |(_, extension)| extension)
}

/// The media type of an image by its name.
pub(crate) fn image_type(name: &str) -> Option<&'static str> {
    IMAGES.iter().find(|(own, _)| *own == extension(name)).map(|(_, media_type)| *media_type)
}

/// Where to take templates from. Nothing is read before [`Renderer::new`](crate::Renderer::new).
#[derive(Clone, Default)]
pub struct Templates(pub(crate) Source);

#[derive(Clone, Default)]
pub(crate) enum Source {
    #[default]
    None,
    Directory(PathBuf),
    Memory(Files),
}

impl Templates {
    /// No templates: a payload cannot be rendered, everything else can.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// `<directory>/<kind>/{subject.txt, body.txt, body.html, ...}` and `<directory>/_layouts/...`. Only files that mean
    /// something count (`.txt`, `.html`, `.mjml`, `.json`, `.toml`, images); names that begin with a dot are skipped
    /// (editors' files, and how Kubernetes mounts a ConfigMap).
    #[must_use]
    pub fn from_dir(directory: impl Into<PathBuf>) -> Self {
        Self(Source::Directory(directory.into()))
    }

    /// The same paths, relative and with `/`, and what the files hold.
    #[must_use]
    pub fn from_memory<P: Into<String>, T: Into<Vec<u8>>>(files: impl IntoIterator<Item = (P, T)>) -> Self {
        Self(Source::Memory(files.into_iter().map(|(path, bytes)| (path.into(), bytes.into())).collect()))
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

/// All files below `root`, by their path relative to it. What cannot be read becomes a problem.
pub(crate) fn read(root: &Path, problems: &mut Vec<Problem>) -> Found {
    let mut reader = Reader { real_root: PathBuf::new(), found: Found::default(), bytes: 0, problems };
    match root.canonicalize() {
        Ok(real_root) => {
            reader.real_root = real_root;
            reader.directory(root, "", 0);
        }
        Err(error) => reader.problem("", &error.to_string().to_lowercase()),
    }
    reader.found.strays.sort();
    reader.found
}

struct Reader<'a> {
    real_root: PathBuf,
    found: Found,
    bytes: usize,
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
            } else if depth > 0 && (TEXTS.contains(&extension(name)) || image_type(name).is_some()) {
                self.file(&path, relative);
            } else if depth > 0 && !is_litter(name) {
                self.found.strays.push(relative);
            }
        }
    }

    fn file(&mut self, path: &Path, relative: String) {
        if self.found.files.len() >= FILES_MAX {
            return self.problem(&relative, "too many templates");
        }
        match bytes_inside(&self.real_root, path) {
            Ok(bytes) if self.bytes + bytes.len() > TOTAL_BYTES_MAX => {
                self.problem(&relative, "more than 256 MiB of templates and images");
            }
            Ok(bytes) => {
                self.bytes += bytes.len();
                self.found.files.insert(relative, bytes);
            }
            Err(what) => self.problem(&relative, &what),
        }
    }

    fn problem(&mut self, relative: &str, what: &str) {
        self.problems.push(Problem::new(if relative.is_empty() { "." } else { relative }, None, what));
    }
}

/// A file that lies inside the directory, also after links are followed.
fn bytes_inside(real_root: &Path, path: &Path) -> Result<Vec<u8>, String> {
    let readable = |error: io::Error| error.to_string().to_lowercase();
    let real = path.canonicalize().map_err(readable)?;
    if !real.starts_with(real_root) {
        return Err("a link that leads out of the template directory".to_owned());
    }
    let facts = fs::metadata(&real).map_err(readable)?;
    // A FIFO would wait for its writer, a device has no end.
    if !facts.is_file() {
        return Err("not a regular file".to_owned());
    }
    if facts.len() > FILE_BYTES_MAX {
        return Err(format!("more than {FILE_BYTES_MAX} bytes"));
    }
    let mut bytes = fs::read(&real).map_err(readable)?;
    // Some editors begin a text with a byte order mark, which would be a part of the subject.
    if bytes.starts_with(BYTE_ORDER_MARK) {
        bytes.drain(..BYTE_ORDER_MARK.len());
    }
    Ok(bytes)
}
