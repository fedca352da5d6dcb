//! A route into a directory: one `.eml` file per delivery, for development and tests.
//!
//! The same shape as SMTP: the body goes into a hidden temporary file and is synced; giving it its visible name is the
//! end marker, behind the same gate. The name is made by a hard link, which never replaces: a second copy of a delivery
//! is a second file, so duplicates stay visible.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use hapax_core::{Outcome, Phase, Reply, fault, outcome::Cause, outcome::escape_reply};

use crate::{gate::Gate, message::Message, transmit::aborted};

/// The longest part of a file name that is taken from the hint.
const NAME_BYTES_MAX: usize = 100;

/// How many files of one name there can be.
const COPIES_MAX: u32 = 1_000;

/// Makes the directory.
pub(crate) async fn prepare(directory: &Path) -> Result<(), Outcome> {
    tokio::fs::create_dir_all(directory).await.map_err(|error| {
        Outcome::not_sent(Phase::Connect, Cause::Io, format!("cannot make {}: {error}", directory.display()))
    })
}

/// Removed when dropped, whatever happened.
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

pub(crate) async fn transmit(
    directory: &Path,
    hint: &str,
    message: &Message,
    gate: &Gate,
    bytes: &mut usize,
) -> Outcome {
    if let Some(shut) = gate.shut() {
        return aborted(shut);
    }
    let name = file_name(hint);
    let (path, message) = (temporary_path(directory, &name), message.clone());
    *bytes = message.size();
    let written = tokio::task::spawn_blocking(move || write(Temporary(path), &message.content()?)).await;
    let temporary = match written.unwrap_or_else(|panic| Err(io::Error::other(panic))) {
        Ok(temporary) => temporary,
        Err(error) => return Outcome::not_sent(Phase::Body, Cause::Io, format!("cannot write the file: {error}")),
    };
    fault::point("body_written");
    if let Err(shut) = gate.begin_marker() {
        return aborted(shut);
    }
    // Not on another thread: a dropped future must not leave a marker behind that is still to come.
    let linked = link(&temporary.0, directory, &name);
    fault::point("marker_written");
    let unknown = |error: io::Error| Outcome::Unknown {
        cause: Cause::Io,
        reply: None,
        detail: format!("cannot name the file: {error}"),
    };
    let path = match linked {
        Ok(path) => path,
        Err(error) => return unknown(error),
    };
    let folder = directory.to_owned();
    let synced = tokio::task::spawn_blocking(move || File::open(folder)?.sync_all()).await;
    fault::point("reply_read");
    match synced.unwrap_or_else(|panic| Err(io::Error::other(panic))) {
        Ok(()) => {
            let text = format!("2.0.0 written to {}", path.display());
            Outcome::Accepted { reply: Reply::new(250, escape_reply(text.as_bytes())) }
        }
        Err(error) => unknown(error),
    }
}

fn write(temporary: Temporary, content: &[u8]) -> io::Result<Temporary> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary.0)?;
    file.write_all(content)?;
    file.sync_all()?;
    Ok(temporary)
}

fn link(temporary: &Path, directory: &Path, name: &str) -> io::Result<PathBuf> {
    for copy in 1..=COPIES_MAX {
        let path = directory.join(if copy == 1 { format!("{name}.eml") } else { format!("{name}.{copy}.eml") });
        match std::fs::hard_link(temporary, &path) {
            Ok(()) => return Ok(path),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

fn temporary_path(directory: &Path, name: &str) -> PathBuf {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let (process, next) = (std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    directory.join(format!(".{name}.{process}-{next}.tmp"))
}

/// A harmless file name out of a hint.
fn file_name(hint: &str) -> String {
    let keep = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.') { c } else { '_' };
    let name: String = hint.trim_start_matches('.').chars().map(keep).take(NAME_BYTES_MAX).collect();
    if name.is_empty() { "message".to_owned() } else { name }
}
