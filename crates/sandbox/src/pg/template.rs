//! The data directory: made once by `initdb`, then copied.
//!
//! `initdb` costs about a second, a copy a tenth of it. The first cluster runs `initdb` in its own directory and leaves
//! a copy in the cache; everybody later copies from there. The key covers everything that shapes the result: the binary
//! (path, size, modification time), the options, the user. A template appears by rename, so it is complete or absent;
//! makers hold a file lock, so it is made once. The cache directory is private to us (0700, our own): if somebody else
//! got there first, we do without a cache.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, chown};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::binaries::{Binaries, ServerUser};
use super::error::Error;

/// `-N`: a template needs no fsync, and neither does its copy before the first start.
const INITDB_OPTIONS: &[&str] = &["-N", "-A", "trust", "-U", "postgres", "-E", "UTF8", "--locale=C"];

/// The first directory on the way to `path` that `user` may not enter, as far as permissions for everybody tell.
fn locked(path: &Path, user: ServerUser) -> Option<PathBuf> {
    let mut above: Vec<&Path> = path.ancestors().skip(1).collect();
    above.reverse();
    let open = |metadata: fs::Metadata| {
        let bit = match (metadata.uid() == user.uid, metadata.gid() == user.gid) {
            (true, _) => 0o100,
            (false, true) => 0o010,
            (false, false) => 0o001,
        };
        metadata.mode() & bit != 0
    };
    above.into_iter().find(|path| fs::metadata(path).is_ok_and(|metadata| !open(metadata))).map(Path::to_owned)
}

/// Fills `data` (which must not exist, in a directory that the server's user may write) with a fresh cluster.
pub(crate) fn make_data_directory(binaries: &Binaries, user: Option<ServerUser>, data: &Path) -> Result<(), Error> {
    if let Some((user, path)) = user.and_then(|user| Some((user, locked(data.parent()?, user)?))) {
        return Err(Error::Locked { uid: user.uid, path });
    }
    let Ok(cache) = cache_directory() else {
        return initdb(binaries, user, data);
    };
    let template = cache.join(key(binaries, user)?);
    if !template.is_dir() {
        let lock_path = template.with_extension("lock");
        let lock = lock_file(&lock_path)?;
        lock.lock().map_err(Error::file("could not lock", &lock_path))?;
        // Somebody else may have made it while we waited.
        if !template.is_dir() {
            initdb(binaries, user, data)?;
            return keep_copy(data, &template, user);
        }
    }
    copy_tree(&template, data, user).map_err(Error::file("could not copy the template", &template))
}

/// The file whose lock says that somebody makes what lies beside it.
pub(super) fn lock_file(path: &Path) -> Result<File, Error> {
    let open = File::options().create(true).append(true).mode(0o600).open(path);
    open.map_err(Error::file("could not open", path))
}

/// A copy of the directory of a stopped server, in one step complete.
pub(super) fn keep_copy(data: &Path, template: &Path, user: Option<ServerUser>) -> Result<(), Error> {
    let partial = template.with_extension("partial");
    let attempt = || {
        if partial.exists() {
            fs::remove_dir_all(&partial)?;
        }
        copy_tree(data, &partial, user)?;
        fs::rename(&partial, template)
    };
    attempt().map_err(Error::file("could not keep the template", template))
}

fn initdb(binaries: &Binaries, user: Option<ServerUser>, data: &Path) -> Result<(), Error> {
    let parent = data.parent().expect("the data directory lies in the cluster's directory");
    let program = binaries.path("initdb");
    let output = binaries
        .command("initdb", user, parent)
        .args(INITDB_OPTIONS)
        .arg("-D")
        .arg(data)
        .output()
        .map_err(Error::file("could not run", program))?;
    if output.status.success() {
        return Ok(());
    }
    let text = [output.stdout, output.stderr].concat();
    Err(Error::Program {
        program: "initdb",
        status: output.status,
        output: String::from_utf8_lossy(&text).into_owned(),
    })
}

pub(super) fn key(binaries: &Binaries, user: Option<ServerUser>) -> Result<String, Error> {
    let program = binaries.path("initdb");
    let metadata = fs::metadata(&program).map_err(Error::file("could not read", &program))?;
    let user = user.map_or(0, |user| user.uid);
    let identity = format!(
        "{} {} {} {} {user} {}",
        program.display(),
        metadata.len(),
        metadata.mtime(),
        metadata.mtime_nsec(),
        INITDB_OPTIONS.join(" ")
    );
    Ok(digest(identity.as_bytes()))
}

/// A short name for these bytes.
pub(super) fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

pub(super) fn cache_directory() -> io::Result<PathBuf> {
    let base = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from).filter(|path| path.is_dir());
    private_directory(&base.unwrap_or_else(std::env::temp_dir), "hapax-pg-template")
}

/// `base/name-<uid>`, made if need be, and refused unless it is a real directory that only we can write.
pub(crate) fn private_directory(base: &Path, name: &str) -> io::Result<PathBuf> {
    let own = rustix::process::geteuid().as_raw();
    let path = base.join(format!("{name}-{own}"));
    match DirBuilder::new().mode(0o700).create(&path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let metadata = fs::symlink_metadata(&path)?;
    if metadata.is_dir() && metadata.uid() == own && metadata.mode() & 0o022 == 0 {
        return Ok(path);
    }
    Err(io::Error::new(io::ErrorKind::PermissionDenied, format!("{} belongs to somebody else", path.display())))
}

pub(crate) fn copy_tree(from: &Path, to: &Path, user: Option<ServerUser>) -> io::Result<()> {
    DirBuilder::new().mode(0o700).create(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_tree(&entry.path(), &target, user)?;
        } else {
            // `fs::copy` reflinks where the file system can, and keeps the permissions.
            fs::copy(entry.path(), &target)?;
            give(&target, user)?;
        }
    }
    give(to, user)
}

/// Hands a path over to the user that runs the server, when that is not us.
pub(crate) fn give(path: &Path, user: Option<ServerUser>) -> io::Result<()> {
    match user {
        Some(user) => chown(path, Some(user.uid), Some(user.gid)),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_on_the_way_that_shuts_the_server_out_is_named() {
        let base = tempfile::tempdir().unwrap();
        let (shut, inner) = (base.path().join("shut"), base.path().join("shut/inner"));
        fs::create_dir_all(&inner).unwrap();
        let me = fs::metadata(&inner).unwrap();
        let mode = |mode| fs::set_permissions(&shut, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
        fs::set_permissions(base.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let (stranger, fellow) =
            (ServerUser { uid: me.uid() + 1, gid: me.gid() + 1 }, ServerUser { uid: me.uid() + 1, gid: me.gid() });
        for (bits, strange, fellowly) in [(0o755, true, true), (0o750, false, true), (0o700, false, false)] {
            mode(bits);
            assert_eq!(locked(&inner, stranger).is_none(), strange, "{bits:o}");
            assert_eq!(locked(&inner, fellow).is_none(), fellowly, "{bits:o}");
        }
        assert_eq!(locked(&inner, stranger), Some(shut.clone()));
        assert_eq!(locked(&inner, ServerUser { uid: me.uid(), gid: me.gid() }), None);
    }

    #[test]
    fn a_private_directory_is_refused_when_others_can_write_it_or_it_is_a_link() {
        let base = tempfile::tempdir().unwrap();
        let path = private_directory(base.path(), "mine").unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o700);
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
        assert!(private_directory(base.path(), "mine").is_err());

        let own = rustix::process::geteuid().as_raw();
        std::os::unix::fs::symlink("/", base.path().join(format!("link-{own}"))).unwrap();
        assert!(private_directory(base.path(), "link").is_err());
    }
}
