use std::cell::RefCell;
use std::time::Duration;

use super::*;
use crate::game_watch::folder::DiskFolder;

/// A folder in memory, which counts what is read.
#[derive(Debug, Default)]
struct Memory {
    files: RefCell<BTreeMap<String, (u64, String)>>,
    reads: RefCell<u32>,
    broken: RefCell<bool>,
}

impl Memory {
    /// `at`: seconds.
    fn put(&self, id: &str, at: u64, text: &str) {
        self.files.borrow_mut().insert(format!("{id}.toml"), (at, text.to_owned()));
    }
}

impl Folder for Memory {
    fn list(&self) -> io::Result<Vec<Stamp>> {
        if *self.broken.borrow() {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        let stamp = |(file, (at, text)): (&String, &(u64, String))| Stamp {
            file: file.clone(),
            modified: Some(SystemTime::UNIX_EPOCH + Duration::from_secs(*at)),
            size: text.len() as u64,
        };
        Ok(self.files.borrow().iter().map(stamp).collect())
    }

    fn read(&self, file: &str) -> io::Result<String> {
        *self.reads.borrow_mut() += 1;
        self.files.borrow().get(file).map(|(_, text)| text.clone()).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn path(&self, file: &str) -> PathBuf {
        PathBuf::from("/p").join(file)
    }
}

fn profile(id: &str, name: &str) -> String {
    format!("id = \"{id}\"\nname = \"{name}\"\n[[process]]\nexe = \"{id}-program\"\n")
}

fn name(set: &ProfileSet, id: &str) -> Option<String> {
    set.get(id).map(|(profile, _)| profile.name.clone())
}

fn problems(set: &ProfileSet) -> Vec<String> {
    set.problems().iter().map(|it| format!("{}: {}", it.file.display(), it.problem)).collect()
}

#[test]
fn own_profiles_come_and_go_without_a_restart() {
    let folder = Memory::default();
    let builtin = ProfileSet::new().len();
    let mut set = ProfileSet::load(&folder);
    assert_eq!(set.len(), builtin);
    assert!(!set.reload(&folder));
    folder.put("zz-mine", 1, &profile("zz-mine", "Mine"));
    assert!(set.reload(&folder));
    assert_eq!((name(&set, "zz-mine").as_deref(), set.len()), (Some("Mine"), builtin + 1));
    assert!(!set.reload(&folder) && !set.reload(&folder));
    assert_eq!(*folder.reads.borrow(), 1, "unchanged files are not read again");
    folder.put("zz-mine", 2, &profile("zz-mine", "Mein"));
    assert!(set.reload(&folder));
    assert_eq!(name(&set, "zz-mine").as_deref(), Some("Mein"));
    folder.files.borrow_mut().clear();
    assert!(set.reload(&folder));
    assert_eq!(set.len(), builtin);
}

#[test]
fn own_profiles_take_the_place_of_built_in_ones() {
    let folder = Memory::default();
    let builtin = ProfileSet::new().len();
    folder.put("openttd", 1, &profile("openttd", "My OpenTTD"));
    let mut set = ProfileSet::load(&folder);
    assert_eq!(set.len(), builtin);
    assert_eq!(
        set.get("openttd").map(|(profile, origin)| (profile.name.as_str(), origin)),
        Some(("My OpenTTD", Origin::Custom))
    );
    folder.files.borrow_mut().clear();
    set.reload(&folder);
    assert_eq!(set.get("openttd").map(|(_, origin)| origin), Some(Origin::Builtin));
}

#[test]
fn a_bad_file_is_named_and_the_rest_loads() {
    let folder = Memory::default();
    folder.put("zz-bad", 1, "id = \"zz-bad\"\nname = 5\n");
    folder.put("zz-good", 1, &profile("zz-good", "Good"));
    folder.put("zz-named", 1, &profile("zz-other", "Other"));
    folder.put("zz-huge", 1, &"#".repeat(limits::FILE + 1));
    let mut set = ProfileSet::load(&folder);
    assert!(set.get("zz-bad").is_none() && set.get("zz-other").is_none());
    assert_eq!(name(&set, "zz-good").as_deref(), Some("Good"));
    let said = problems(&set);
    assert_eq!(said.len(), 4, "{said:#?}");
    assert!(
        said[0].starts_with("/p/zz-bad.toml: ") && said.concat().contains("line 2: name: must be a text"),
        "{said:#?}"
    );
    assert!(said.concat().contains("must be called zz-other.toml"), "{said:#?}");
    assert!(said.concat().contains("zz-huge.toml: the file has 32769 bytes"), "{said:#?}");

    // What turned bad stays as it was, and says so.
    folder.put("zz-good", 2, "nonsense");
    assert!(set.reload(&folder));
    assert_eq!(name(&set, "zz-good").as_deref(), Some("Good"));
    let said = problems(&set).concat();
    assert!(said.contains("zz-good.toml: line 1: this is not TOML") && said.contains("stays in use"), "{said}");
    folder.put("zz-good", 3, &profile("zz-good", "Better"));
    set.reload(&folder);
    assert_eq!(name(&set, "zz-good").as_deref(), Some("Better"));
    assert!(!problems(&set).concat().contains("zz-good"));
}

#[test]
fn a_folder_that_cannot_be_read_keeps_what_was_loaded() {
    let folder = Memory::default();
    folder.put("zz-mine", 1, &profile("zz-mine", "Mine"));
    let mut set = ProfileSet::load(&folder);
    *folder.broken.borrow_mut() = true;
    assert!(set.reload(&folder) && !set.reload(&folder));
    assert!(name(&set, "zz-mine").is_some());
    assert!(problems(&set).concat().contains("/p/: the folder cannot be read"), "{:?}", problems(&set));
    *folder.broken.borrow_mut() = false;
    assert!(set.reload(&folder));
    assert_eq!(problems(&set), [""; 0]);
}

#[test]
fn the_number_of_files_is_bounded() {
    let folder = Memory::default();
    for i in 0..MAX_CUSTOM + 2 {
        folder.put(&format!("zz-{i:04}"), 1, &profile(&format!("zz-{i:04}"), "x"));
    }
    let set = ProfileSet::load(&folder);
    assert_eq!(set.iter().filter(|(_, origin)| *origin == Origin::Custom).count(), MAX_CUSTOM);
    assert!(problems(&set).iter().all(|said| said.contains("at most 256")), "{:?}", problems(&set));
    assert_eq!(problems(&set).len(), 2);
}

#[test]
fn files_on_disk() {
    let dir = std::env::temp_dir().join(format!("lanrage-profiles-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&dir);
    let folder = DiskFolder::of_data(&dir);
    let mut set = ProfileSet::load(&folder);
    assert_eq!(problems(&set), [""; 0], "a folder that is not there is no problem");
    folder.put("zz-mine", &profile("zz-mine", "Mine")).unwrap();
    std::fs::write(dir.join("profiles/notes.txt"), "no profile").unwrap();
    std::fs::create_dir(dir.join("profiles/folder.toml")).unwrap();
    std::fs::write(dir.join("profiles/zz-bytes.toml"), [0xff, 0xfe]).unwrap();
    assert!(set.reload(&folder));
    assert_eq!(name(&set, "zz-mine").as_deref(), Some("Mine"));
    let said = problems(&set);
    assert!(said.len() == 1 && said[0].contains("zz-bytes.toml: cannot be read"), "{said:?}");
    // Half-written files are neither read nor left over.
    let names: Vec<_> = std::fs::read_dir(dir.join("profiles")).unwrap().map(|it| it.unwrap().file_name()).collect();
    assert!(!names.iter().any(|name| name.to_string_lossy().contains("unfinished")), "{names:?}");
    assert!(folder.remove("zz-mine").unwrap() && !folder.remove("zz-mine").unwrap());
    assert!(set.reload(&folder));
    assert!(name(&set, "zz-mine").is_none());
    std::fs::remove_dir_all(&dir).unwrap();
}
