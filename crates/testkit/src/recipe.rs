//! What the contents of a migrated database depend on.

use std::path::Path;

/// For [`PgClusterBuilder::start_prepared`](crate::PgClusterBuilder::start_prepared): every migration as it lies in the
/// source tree, and what else the suite does (`purpose`: a new word for every new way to fill a cluster).
///
/// # Panics
/// When the migrations cannot be read.
#[must_use]
pub fn migrations_recipe(purpose: &str) -> Vec<u8> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../migrations");
    let entries = std::fs::read_dir(&directory).expect("the migrations are in the source tree");
    let mut files: Vec<_> = entries.map(|entry| entry.expect("a directory entry").path()).collect();
    files.sort();
    let mut recipe = purpose.as_bytes().to_vec();
    for file in files {
        recipe.extend(file.file_name().expect("a name").as_encoded_bytes());
        recipe.extend(std::fs::read(&file).expect("a migration can be read"));
    }
    recipe
}
