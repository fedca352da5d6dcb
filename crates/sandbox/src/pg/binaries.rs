//! Where the server programs are, and as whom they run.
//!
//! Order: `$HAPAX_PG_BIN`, the newest `/usr/lib/postgresql/*/bin` (Debian), common places of other systems, `$PATH`.
//! As root the server runs as `postgres`, else `nobody`; otherwise as ourselves.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::error::Error;

/// A directory that holds `initdb` and `postgres`.
#[derive(Clone, Debug)]
pub(crate) struct Binaries {
    directory: PathBuf,
}

impl Binaries {
    pub(crate) fn find() -> Result<Self, Error> {
        if let Some(directory) = std::env::var_os("HAPAX_PG_BIN") {
            // An explicit choice is obeyed or refused, never replaced by another.
            return Self::first_of(vec![directory.into()]);
        }
        let mut candidates = versions_of(Path::new("/usr/lib/postgresql"), "bin");
        candidates.extend(versions_of(Path::new("/usr"), "bin").into_iter().filter(|path| is_pgdg_rpm(path)));
        candidates.extend(["/opt/homebrew/opt/postgresql/bin", "/usr/local/pgsql/bin"].map(PathBuf::from));
        candidates.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()));
        Self::first_of(candidates)
    }

    fn first_of(candidates: Vec<PathBuf>) -> Result<Self, Error> {
        let complete = |directory: &&PathBuf| ["initdb", "postgres"].iter().all(|name| directory.join(name).is_file());
        match candidates.iter().find(complete) {
            Some(directory) => Ok(Self { directory: directory.clone() }),
            None => Err(Error::BinariesMissing { searched: candidates }),
        }
    }

    pub(crate) fn path(&self, program: &str) -> PathBuf {
        self.directory.join(program)
    }

    /// A command for `program`, as the right user, in `directory`, deaf to the caller's `PG*` variables.
    pub(crate) fn command(&self, program: &str, user: Option<ServerUser>, directory: &Path) -> Command {
        let mut command = Command::new(self.path(program));
        command.current_dir(directory).stdin(Stdio::null());
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("PG") {
                command.env_remove(name);
            }
        }
        if let Some(user) = user {
            // std drops the supplementary groups of root when it changes the user.
            command.uid(user.uid).gid(user.gid).env("HOME", directory);
        }
        command
    }
}

fn is_pgdg_rpm(path: &Path) -> bool {
    path.to_string_lossy().starts_with("/usr/pgsql-")
}

/// The `suffix` directories of the numbered children of `root`, newest first.
fn versions_of(root: &Path, suffix: &str) -> Vec<PathBuf> {
    let children = std::fs::read_dir(root).into_iter().flatten().flatten();
    let mut found: Vec<(u64, PathBuf)> = children
        .filter_map(|child| {
            let name = child.file_name().into_string().ok()?;
            let digits: String = name.trim_start_matches("pgsql-").chars().take_while(char::is_ascii_digit).collect();
            Some((digits.parse().ok()?, child.path().join(suffix)))
        })
        .collect();
    found.sort_by_key(|(version, _)| std::cmp::Reverse(*version));
    found.into_iter().map(|(_, path)| path).collect()
}

/// The unprivileged user that runs the server when we are root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ServerUser {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

impl ServerUser {
    /// `None` when we are not root and the server simply runs as us.
    pub(crate) fn needed() -> Result<Option<Self>, Error> {
        if !rustix::process::geteuid().is_root() {
            return Ok(None);
        }
        let passwd = std::fs::read_to_string("/etc/passwd").map_err(Error::file("could not read", "/etc/passwd"))?;
        let user = Self::named(&passwd, "postgres").or_else(|| Self::named(&passwd, "nobody"));
        user.ok_or(Error::NoUnprivilegedUser).map(Some)
    }

    fn named(passwd: &str, name: &str) -> Option<Self> {
        let line = passwd.lines().find(|line| line.split(':').next() == Some(name))?;
        let mut fields = line.split(':').skip(2);
        let uid = fields.next()?.parse().ok()?;
        let gid = fields.next()?.parse().ok()?;
        (uid != 0).then_some(Self { uid, gid })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_server_user_is_read_from_passwd_and_is_never_root() {
        let passwd = "root:x:0:0:root:/root:/bin/bash\npostgres:x:101:104:,,,:/var/lib/postgresql:/bin/bash\n";
        assert_eq!(ServerUser::named(passwd, "postgres"), Some(ServerUser { uid: 101, gid: 104 }));
        assert_eq!(ServerUser::named(passwd, "root"), None);
        assert_eq!(ServerUser::named(passwd, "nobody"), None);
    }

    #[test]
    fn missing_binaries_are_reported_with_places_and_a_hint() {
        let error = Binaries::first_of(vec!["/nowhere/bin".into()]).unwrap_err().to_string();
        assert!(error.contains("/nowhere/bin"), "{error}");
        assert!(error.contains("hint: apt-get install postgresql"), "{error}");
    }

    #[test]
    fn the_newest_version_comes_first() {
        let root = tempfile::tempdir().unwrap();
        for version in ["9", "15", "16", "tmp"] {
            std::fs::create_dir(root.path().join(version)).unwrap();
        }
        let found = versions_of(root.path(), "bin");
        assert_eq!(found, ["16/bin", "15/bin", "9/bin"].map(|path| root.path().join(path)));
    }
}
