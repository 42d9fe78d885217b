//! Which program a process is: the game itself, not the Wine, Java or loader that carries it.

use std::ffi::{OsStr, OsString};
use std::path::Path;

use super::profile::Os;

/// What the system says about one process.
#[derive(Debug, Clone, Copy)]
pub struct ProcessFacts<'a> {
    /// The system that it runs on.
    pub host: Os,
    /// The program file; `None` where it may not be read.
    pub exe: Option<&'a Path>,
    /// As the system shows it; on Linux at most 15 bytes, and programs may change it.
    pub name: &'a OsStr,
    /// The command line with the program's own name first.
    pub cmd: &'a [OsString],
}

/// The program of a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    /// The system that it was made for: Windows under Wine.
    pub os: Os,
    /// File name in small letters, without `.exe`.
    pub name: String,
    /// How many entries of the command line come before the program's own arguments.
    skip: usize,
}

/// Wine's own program files. The others (`wineserver`) carry no game.
const WINE: &[&str] = &["wine", "wine64", "wine-preloader", "wine64-preloader"];
/// Programs that run the program named by their first argument that is no option.
const LOADERS: &[&str] = &["box64", "box86", "fexinterpreter", "qemu-x86_64", "qemu-i386"];

impl Program {
    /// `None` for kernel threads and what else has no name.
    #[must_use]
    pub fn of(facts: &ProcessFacts<'_>) -> Option<Self> {
        let first = facts.cmd.first().map(|first| text(first));
        let file = match (facts.exe, &first) {
            (Some(exe), _) => lower(exe.file_name()?),
            (None, Some(first)) => file_name(first).to_lowercase(),
            // A process without a command line is a kernel thread, or has ended.
            (None, None) => lower(facts.name),
        };
        // A program that was replaced while it runs, as by an update.
        let file = file.strip_suffix(" (deleted)").unwrap_or(&file);
        let wine = facts.host != Os::Windows && (WINE.contains(&file) || (facts.exe.is_none() && is_windows(file)));
        // Some games end in something else than .exe, as `ra3_1.12.game` does.
        if wine && let Some(found) = named(facts.cmd, is_windows).or_else(|| named(facts.cmd, |it| it.contains('\\'))) {
            return Some(Self { os: Os::Windows, ..found });
        }
        if (LOADERS.contains(&file) || file.starts_with("ld-linux"))
            && let Some(found) = named(facts.cmd.get(1..).unwrap_or_default(), |argument| !argument.starts_with('-'))
        {
            return Some(Self { os: facts.host, skip: found.skip + 1, ..found });
        }
        let name = file.strip_suffix(".exe").filter(|_| facts.host == Os::Windows).unwrap_or(file);
        (!name.is_empty()).then(|| Self { os: facts.host, name: name.to_owned(), skip: 1 })
    }

    /// Its arguments in small letters.
    pub fn args<'a>(&self, facts: &ProcessFacts<'a>) -> impl Iterator<Item = String> + use<'a> {
        facts.cmd.iter().skip(self.skip).take(MAX_ARGS).map(|argument| {
            let argument = text(argument);
            let end = argument.char_indices().nth(MAX_ARG).map_or(argument.len(), |(end, _)| end);
            argument[..end].to_lowercase()
        })
    }
}

/// Arguments that are looked at, and characters of each: a class path can be very long.
const MAX_ARGS: usize = 256;
const MAX_ARG: usize = 4_096;

/// The program that the first entry with `property` names.
fn named(cmd: &[OsString], property: impl Fn(&str) -> bool) -> Option<Program> {
    cmd.iter().take(MAX_ARGS).enumerate().find_map(|(i, argument)| {
        let argument = text(argument);
        if !property(&argument) {
            return None;
        }
        let name = file_name(&argument).to_lowercase();
        let name = name.strip_suffix(".exe").unwrap_or(&name);
        (!name.is_empty()).then(|| Program { os: Os::Linux, name: name.to_owned(), skip: i + 1 })
    })
}

fn is_windows(argument: &str) -> bool {
    argument.get(argument.len().wrapping_sub(4)..).is_some_and(|end| end.eq_ignore_ascii_case(".exe"))
}

/// Under Wine, both separators occur.
fn file_name(path: &str) -> &str {
    path.rsplit(['/', '\\']).next().unwrap_or(path)
}

fn text(value: &OsStr) -> std::borrow::Cow<'_, str> {
    value.to_string_lossy()
}

fn lower(value: &OsStr) -> String {
    text(value).to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program(host: Os, exe: Option<&str>, cmd: &[&str]) -> Option<(Os, String, Vec<String>)> {
        let cmd: Vec<OsString> = cmd.iter().map(OsString::from).collect();
        let facts = ProcessFacts { host, exe: exe.map(Path::new), name: OsStr::new("shown"), cmd: &cmd };
        Program::of(&facts).map(|it| (it.os, it.name.clone(), it.args(&facts).collect()))
    }

    #[test]
    fn programs() {
        let found = |os, name: &str, args: &[&str]| {
            Some((os, name.to_owned(), args.iter().map(|it| (*it).to_owned()).collect::<Vec<_>>()))
        };
        let linux = Os::Linux;
        assert_eq!(program(linux, Some("/usr/games/OpenTTD"), &["openttd", "-D"]), found(linux, "openttd", &["-d"]));
        assert_eq!(program(linux, Some("/opt/game (deleted)"), &["./game"]), found(linux, "game", &[]));
        assert_eq!(program(linux, None, &["/usr/games/teeworlds"]), found(linux, "teeworlds", &[]));
        assert_eq!(program(linux, None, &[]), found(linux, "shown", &[]));
        // A Windows file run by something else than Wine is an argument only.
        assert_eq!(program(linux, Some("/usr/bin/vim"), &["vim", "war3.exe"]), found(linux, "vim", &["war3.exe"]));
        assert_eq!(program(Os::Windows, Some("War3.EXE"), &["War3.EXE", "-w"]), found(Os::Windows, "war3", &["-w"]));
    }

    #[test]
    fn carried_programs() {
        let found = |os, name: &str, args: &[&str]| {
            Some((os, name.to_owned(), args.iter().map(|it| (*it).to_owned()).collect::<Vec<_>>()))
        };
        let preloader = Some("/opt/proton/files/bin/wine64-preloader");
        assert_eq!(
            program(Os::Linux, preloader, &["Z:\\home\\a b\\War3.exe", "-Window"]),
            found(Os::Windows, "war3", &["-window"])
        );
        assert_eq!(
            program(Os::Linux, Some("/usr/lib/wine/wine64"), &["wine64", "/games/AoK HD.exe"]),
            found(Os::Windows, "aok hd", &[])
        );
        // Wine's own helper that starts a game is not the game.
        assert_eq!(
            program(Os::Linux, preloader, &["C:\\windows\\system32\\start.exe", "/exec", "C:\\war3.exe"]),
            found(Os::Windows, "start", &["/exec", "c:\\war3.exe"])
        );
        assert_eq!(
            program(Os::Linux, preloader, &["C:\\RA3\\Data\\ra3_1.12.game", "-ui"]),
            found(Os::Windows, "ra3_1.12.game", &["-ui"])
        );
        assert_eq!(program(Os::Linux, None, &["C:\\war3.exe"]), found(Os::Windows, "war3", &[]));
        assert_eq!(
            program(Os::Linux, Some("/usr/bin/box64"), &["box64", "-x", "/opt/Factorio", "--server"]),
            found(Os::Linux, "factorio", &["--server"])
        );
        assert_eq!(
            program(Os::Linux, Some("/usr/lib64/ld-linux-x86-64.so.2"), &["ld.so", "./openttd"]),
            found(Os::Linux, "openttd", &[])
        );
    }
}
