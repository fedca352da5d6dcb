//! A cluster whose databases are filled once and then copied, as `template` does it with what `initdb` makes.
//!
//! Whoever tests a schema fills the same databases hundreds of times, each in a process of its own. The first one fills
//! a cluster, stops it in order and leaves a copy of its files in the cache; everybody later starts from there. The key
//! covers what `template`'s does, and the recipe: whatever shapes the contents belongs into it. Without a private cache
//! directory everybody fills their own.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::binaries::{Binaries, ServerUser};
use super::builder::blocking;
use super::error::Error;
use super::{PgCluster, PgClusterBuilder, template};

const DAY: Duration = Duration::from_secs(24 * 3600);

impl PgClusterBuilder {
    /// [`start`](Self::start), with what `fill` makes in a cluster of default settings. It is called only when no
    /// cluster was filled by this `recipe` today.
    ///
    /// # Errors
    /// See [`PgError`](crate::PgError); what `fill` says is [`PgError::Unprepared`](crate::PgError::Unprepared).
    pub async fn start_prepared<F>(self, recipe: &[u8], fill: F) -> Result<PgCluster, Error>
    where
        F: AsyncFnOnce(&PgCluster) -> Result<(), String>,
    {
        let recipe = template::digest(recipe);
        let Some(prepared) = blocking(move || Prepared::open(&recipe)).await? else {
            let cluster = self.start().await?;
            fill(&cluster).await.map_err(Error::Unprepared)?;
            return Ok(cluster);
        };
        if !prepared.is_made() {
            // The lock is held until the copy is there: whoever waits for it finds that.
            let lock_path = prepared.path.with_extension("lock");
            let _lock = blocking(move || lock(&lock_path)).await?;
            if !prepared.is_made() {
                let origin = Self::default().fsync(false).start().await?;
                fill(&origin).await.map_err(Error::Unprepared)?;
                origin.stop().await?;
                let (from, to, user) = (origin.data_directory(), prepared.path.clone(), prepared.user);
                blocking(move || {
                    clear_away(&to);
                    template::keep_copy(&from, &to, user)
                })
                .await?;
            }
        }
        let cluster = blocking(move || {
            let cluster = self.shell()?;
            let copied = template::copy_tree(&prepared.path, &cluster.data_directory(), prepared.user);
            copied.map_err(Error::file("could not copy the template", &prepared.path))?;
            self.configure(&cluster)?;
            Ok((cluster, self))
        });
        let (cluster, builder) = cluster.await?;
        builder.launch(cluster).await
    }
}

struct Prepared {
    path: PathBuf,
    user: Option<ServerUser>,
}

impl Prepared {
    /// Where it is or will be; nothing without a cache.
    fn open(recipe: &str) -> Result<Option<Self>, Error> {
        let (binaries, user) = (Binaries::find()?, ServerUser::needed()?);
        let Ok(cache) = template::cache_directory() else {
            return Ok(None);
        };
        let path = cache.join(format!("{}-{recipe}-{}", template::key(&binaries, user)?, today()));
        Ok(Some(Self { path, user }))
    }

    fn is_made(&self) -> bool {
        self.path.is_dir()
    }
}

/// Contents may depend on the day (partitions that are made ahead), so that a cache of last month is no cache.
#[expect(clippy::disallowed_methods, reason = "it names a cache")]
fn today() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() / DAY.as_secs())
}

/// Removes what was prepared the day before yesterday or earlier. Best effort: it only costs space.
fn clear_away(new: &Path) {
    let siblings = new.parent().and_then(|cache| std::fs::read_dir(cache).ok());
    for entry in siblings.into_iter().flatten().flatten() {
        let is_prepared = entry.file_name().to_string_lossy().matches('-').count() == 2;
        let age = entry.metadata().and_then(|metadata| metadata.modified()).map(|time| time.elapsed());
        if is_prepared && age.is_ok_and(|age| age.is_ok_and(|age| age > 2 * DAY)) {
            drop(std::fs::remove_dir_all(entry.path()));
        }
    }
}

fn lock(path: &Path) -> Result<File, Error> {
    let lock = template::lock_file(path)?;
    lock.lock().map_err(Error::file("could not lock", path))?;
    Ok(lock)
}
