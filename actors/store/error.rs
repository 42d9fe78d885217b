use std::io;
use std::path::PathBuf;

/// Why the data folder could not be opened. `Display` is for the player and says what to do.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("the data folder {path} cannot be used: {source}. Choose another one with --data-dir.")]
    Folder { path: PathBuf, source: io::Error },
    #[error("another LANrage{} is already running with the data folder {path}. Stop that one first, or give this one a folder of its own with --data-dir.", process(*.pid))]
    Locked { path: PathBuf, pid: Option<u32> },
    #[error(
        "{path} was written by a newer LANrage (database version {found}; this one knows versions up to {supported}). Update LANrage; nothing was changed."
    )]
    NewerSchema { path: PathBuf, found: u32, supported: u32 },
    #[error(
        "{path} is damaged ({problem}), and the identity of this machine cannot be read from it. Nothing was changed. Restore the file from a backup, or set it aside and start with a new identity (your friends will see a new machine, and the parties in the file are lost) with: lanrage up --new-identity"
    )]
    IdentityUnreadable { path: PathBuf, problem: String },
    #[error("the database {path} cannot be opened: {problem}")]
    Database { path: PathBuf, problem: String },
}

fn process(pid: Option<u32>) -> String {
    pid.map(|pid| format!(" (process {pid})")).unwrap_or_default()
}
