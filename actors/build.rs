//! Lists the profiles of `game_profiles/`, so that a new file needs no line of code.

use std::path::Path;
use std::{env, fs, io};

fn main() -> io::Result<()> {
    let variable = |name| env::var(name).map_err(io::Error::other);
    let folder = Path::new(&variable("CARGO_MANIFEST_DIR")?).join("../game_profiles").canonicalize()?;
    println!("cargo::rerun-if-changed={}", folder.display());
    let mut ids = Vec::new();
    for entry in fs::read_dir(&folder)? {
        let name = entry?.file_name();
        // The template is in capitals.
        if let Some(id) = name.to_str().and_then(|name| name.strip_suffix(".toml")).filter(|id| *id != "TEMPLATE") {
            ids.push(id.to_owned());
        }
    }
    ids.sort();
    let entries: String = ids
        .iter()
        .map(|id| format!("    ({id:?}, include_str!({:?})),\n", folder.join(format!("{id}.toml"))))
        .collect();
    fs::write(Path::new(&variable("OUT_DIR")?).join("builtin_profiles.rs"), format!("&[\n{entries}]\n"))
}
