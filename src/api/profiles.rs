//! Game profiles: all of them, and the player's own written and removed.

use std::sync::{Mutex, PoisonError};

use actix_web::HttpResponse;
use actix_web::http::StatusCode;
use actix_web::web::{self, Data, Json, Path};
use lanrage_actors::game_watch::folder::DiskFolder;
use lanrage_actors::game_watch::profile::{Profile, is_id};
use lanrage_actors::game_watch::set::{Conflict, FileProblem, MAX_CUSTOM, Origin, ProfileSet};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::error::Problem;
use super::server::Shared;

type Answer = Result<HttpResponse, Problem>;

/// The profiles as the files are now. The games are watched with a set of their own, which reads the same folder.
#[derive(Debug)]
pub(super) struct Profiles {
    folder: DiskFolder,
    set: Mutex<ProfileSet>,
}

impl Profiles {
    pub(super) fn new(folder: DiskFolder) -> Self {
        Self { folder, set: Mutex::default() }
    }

    /// Brings the set up to date first.
    fn with<T>(&self, work: impl FnOnce(&DiskFolder, &mut ProfileSet) -> T) -> T {
        let mut set = self.set.lock().unwrap_or_else(PoisonError::into_inner);
        set.reload(&self.folder);
        work(&self.folder, &mut set)
    }
}

#[derive(Debug, Serialize)]
struct Listed<'a> {
    origin: Origin,
    #[serde(flatten)]
    profile: &'a Profile,
}

#[derive(Debug, Serialize)]
struct List<'a> {
    profiles: Vec<Listed<'a>>,
    problems: Vec<FileProblem>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Put {
    /// The text of the file.
    toml: String,
}

pub(super) async fn list(shared: Data<Shared>) -> Answer {
    on_disk(shared, |profiles| {
        profiles.with(|_, set| {
            let profiles = set.iter().map(|(profile, origin)| Listed { origin, profile }).collect();
            Ok(json!(List { profiles, problems: set.problems() }))
        })
    })
    .await
}

pub(super) async fn put(shared: Data<Shared>, id: Path<String>, body: Json<Put>) -> Answer {
    let id = checked(id.into_inner())?;
    let text = body.into_inner().toml;
    let profile = Profile::parse(&text).map_err(|problems| {
        let all: Vec<_> = problems.iter().map(ToString::to_string).collect();
        Problem::new(StatusCode::BAD_REQUEST, "bad_profile", all.join("; "))
    })?;
    if profile.id != id {
        let message = format!("the profile says id = \"{}\", the address of the request {id}", profile.id);
        return Err(Problem::new(StatusCode::BAD_REQUEST, "bad_profile", message));
    }
    on_disk(shared, move |profiles| {
        profiles.with(|folder, set| {
            let own = |origin| origin == Origin::Custom;
            let replaces = set.get(&id).is_some_and(|(_, origin)| own(origin));
            if !replaces && set.iter().filter(|(_, origin)| own(*origin)).count() >= MAX_CUSTOM {
                let message = format!("there are {MAX_CUSTOM} profiles of your own already; delete one first");
                return Err(Problem::new(StatusCode::CONFLICT, "too_many_profiles", message));
            }
            folder.put(&id, &text).map_err(|error| unwritable(&error))?;
            set.reload(folder);
            let warnings: Vec<_> = set.conflicts(&profile).iter().map(Conflict::to_string).collect();
            Ok(json!({ "profile": profile, "warnings": warnings }))
        })
    })
    .await
}

pub(super) async fn delete(shared: Data<Shared>, id: Path<String>) -> Answer {
    let id = checked(id.into_inner())?;
    on_disk(shared, move |profiles| {
        profiles.with(|folder, set| {
            if folder.remove(&id).map_err(|error| unwritable(&error))? {
                set.reload(folder);
                // A built-in one of the same id is in use again.
                return Ok(json!({ "builtin": set.get(&id).is_some() }));
            }
            let message = match set.get(&id) {
                Some(_) => format!("`{id}` is built in; only profiles of your own can be deleted"),
                None => format!("there is no profile `{id}`"),
            };
            Err(Problem::new(StatusCode::NOT_FOUND, "unknown_profile", message))
        })
    })
    .await
}

/// Ids become names of files.
fn checked(id: String) -> Result<String, Problem> {
    if is_id(&id) {
        return Ok(id);
    }
    Err(Problem::bad_request("the id of a profile is of small letters, digits and dashes, like openttd"))
}

fn unwritable(error: &std::io::Error) -> Problem {
    let message = format!("the folder of your profiles cannot be changed: {error}");
    Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "unwritable", message)
}

/// Files are not read on the thread that answers the others.
async fn on_disk(
    shared: Data<Shared>,
    work: impl FnOnce(&Profiles) -> Result<Value, Problem> + Send + 'static,
) -> Answer {
    let done = web::block(move || work(&shared.profiles)).await;
    let done = done.map_err(|_| Problem::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", "LANrage is stopping"))?;
    Ok(HttpResponse::Ok().json(done?))
}
