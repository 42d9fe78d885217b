//! How the command line finds the node: its address and the token of this run.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use lanrage_actors::store::write_private;
use rand::TryRngCore;
use rand::rngs::OsRng;

pub const TOKEN_FILE: &str = "api.token";
pub const ADDRESS_FILE: &str = "api.addr";

/// 256 random bits as 64 hexadecimal digits; new at each start. `Debug` does not show it.
#[derive(Clone)]
pub(super) struct Token(String);

impl Token {
    pub(super) fn generate() -> io::Result<Self> {
        let mut bytes = [0; 32];
        OsRng.try_fill_bytes(&mut bytes).map_err(io::Error::other)?;
        Ok(Self(bytes.iter().map(|byte| format!("{byte:02x}")).collect()))
    }

    /// Takes the same time wherever the first difference is.
    pub(super) fn matches(&self, presented: &[u8]) -> bool {
        let expected = self.0.as_bytes();
        if presented.len() != expected.len() {
            return false;
        }
        let difference = presented.iter().zip(expected).fold(0, |sum, (a, b)| std::hint::black_box(sum | (a ^ b)));
        std::hint::black_box(difference) == 0
    }

    #[cfg(test)]
    pub(super) fn text(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

/// The two files; removed when the node ends, so that commands say "not running" rather than "refused".
#[derive(Debug)]
pub(super) struct ApiFiles {
    paths: [PathBuf; 2],
}

impl ApiFiles {
    /// The token first: a command that sees the address finds the token that belongs to it.
    pub(super) fn write(dir: &Path, token: &Token, address: SocketAddr) -> io::Result<Self> {
        let paths = [dir.join(TOKEN_FILE), dir.join(ADDRESS_FILE)];
        write_private(&paths[0], format!("{}\n", token.0).as_bytes())?;
        write_private(&paths[1], format!("{address}\n").as_bytes())?;
        Ok(Self { paths })
    }
}

impl Drop for ApiFiles {
    fn drop(&mut self) {
        for path in &self.paths {
            if let Err(error) = std::fs::remove_file(path) {
                tracing::debug!(%error, path = %path.display(), "not removed");
            }
        }
    }
}
