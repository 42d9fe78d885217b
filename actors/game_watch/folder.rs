//! The player's own profiles on disk.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use super::profile::limits;
use super::set::{Folder, MAX_ENTRIES, Stamp};

/// A folder of the file system.
#[derive(Debug, Clone)]
pub struct DiskFolder(PathBuf);

impl DiskFolder {
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// Of the node with this data folder.
    #[must_use]
    pub fn of_data(data: &Path) -> Self {
        Self(data.join("profiles"))
    }

    /// Writes a profile, all of it or nothing. `id` must be that of a checked profile.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn put(&self, id: &str, text: &str) -> io::Result<()> {
        fs::create_dir_all(&self.0)?;
        // The name does not end in .toml, so that a half-written file is never read.
        let unfinished = self.0.join(format!(".{id}.unfinished"));
        let written = (|| {
            let mut file = File::create(&unfinished)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            fs::rename(&unfinished, self.path(&format!("{id}.toml")))
        })();
        if written.is_err() {
            let _ = fs::remove_file(&unfinished);
        }
        written
    }

    /// False where there was none.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn remove(&self, id: &str) -> io::Result<bool> {
        match fs::remove_file(self.path(&format!("{id}.toml"))) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }
}

impl Folder for DiskFolder {
    fn list(&self) -> io::Result<Vec<Stamp>> {
        let entries = match fs::read_dir(&self.0) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut stamps = Vec::new();
        for entry in entries.take(MAX_ENTRIES) {
            let entry = entry?;
            let Ok(file) = entry.file_name().into_string() else { continue };
            if file.starts_with('.') || !file.ends_with(".toml") {
                continue;
            }
            // Follows links. Only plain files: opening a pipe would wait for ever.
            let Ok(about) = fs::metadata(entry.path()) else { continue };
            if about.is_file() {
                stamps.push(Stamp { file, modified: about.modified().ok(), size: about.len() });
            }
        }
        Ok(stamps)
    }

    fn read(&self, file: &str) -> io::Result<String> {
        let mut text = String::new();
        File::open(self.path(file))?.take(limits::FILE as u64 + 1).read_to_string(&mut text)?;
        Ok(text)
    }

    fn path(&self, file: &str) -> PathBuf {
        if file.is_empty() { self.0.clone() } else { self.0.join(file) }
    }
}
