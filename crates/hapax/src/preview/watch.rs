//! Looks at the template directory twice a second. Asking is dull and works on every file system, mounted ones included.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::time::{MissedTickBehavior, interval};

use super::server::Desk;

const INTERVAL: Duration = Duration::from_millis(500);
/// As deep as templates are read, and as many files as are looked at.
const DEPTH_MAX: usize = 9;
const FILES_MAX: usize = 20_000;

/// When each file was changed, and its size.
type Look = BTreeMap<PathBuf, (Option<SystemTime>, u64)>;

/// Reads the directory again whenever it has changed, for ever.
pub(super) async fn follow(desk: Arc<Desk>) {
    let mut ticks = interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut last = None;
    loop {
        ticks.tick().await;
        let worker = desk.clone();
        let seen = last.take();
        let looked = tokio::task::spawn_blocking(move || {
            let now = look(&worker.directory);
            if seen.is_some_and(|seen| seen != now) {
                worker.read();
            }
            now
        });
        last = looked.await.ok();
    }
}

fn look(directory: &Path) -> Look {
    let mut seen = Look::new();
    walk(directory, 0, &mut seen);
    seen
}

fn walk(directory: &Path, depth: usize, seen: &mut Look) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if seen.len() >= FILES_MAX || entry.file_name().to_string_lossy().starts_with('.') {
            continue;
        }
        let path = entry.path();
        // Through links: what they lead to is what is read.
        let Ok(metadata) = fs::metadata(&path) else { continue };
        if metadata.is_dir() {
            if depth < DEPTH_MAX {
                walk(&path, depth + 1, seen);
            }
            seen.insert(path, (None, 0));
        } else {
            seen.insert(path, (metadata.modified().ok(), metadata.len()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_change_is_seen() {
        let directory = tempfile::tempdir().expect("a directory");
        let kind = directory.path().join("welcome");
        let mut looks = vec![look(directory.path())];
        fs::create_dir(&kind).expect("made");
        looks.push(look(directory.path()));
        fs::write(kind.join("body.txt"), "one").expect("written");
        looks.push(look(directory.path()));
        fs::write(kind.join("body.txt"), "three").expect("written");
        looks.push(look(directory.path()));
        fs::rename(kind.join("body.txt"), kind.join("body.html")).expect("renamed");
        looks.push(look(directory.path()));
        assert!(looks.windows(2).all(|pair| pair[0] != pair[1]), "{looks:?}");
        fs::write(kind.join(".body.html.swp"), "an editor's").expect("written");
        assert_eq!(Some(&look(directory.path())), looks.last());
    }
}
