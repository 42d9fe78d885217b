//! What the server browser is told about games, out of their profiles.

use std::path::Path;
use std::time::Duration;

use actix::Addr;
use lanrage_actors::browser::actor::BrowserActor;
use lanrage_actors::browser::messages::{GameFacts, KnownGames, Language};
use lanrage_actors::game_watch::folder::DiskFolder;
use lanrage_actors::game_watch::profile::{Profile, QueryProtocol};
use lanrage_actors::game_watch::set::ProfileSet;

/// How often the player's own profiles are looked at.
const RELOAD_EVERY: Duration = Duration::from_secs(5);

/// The profiles as they are now.
pub(super) fn load(data_dir: &Path) -> ProfileSet {
    ProfileSet::load(&DiskFolder::of_data(data_dir))
}

pub(super) fn known(profiles: &ProfileSet) -> Vec<GameFacts> {
    profiles.iter().map(|(profile, _)| facts(profile)).collect()
}

/// Tells the browser of changes for as long as the node runs.
pub(super) fn keep_known(browser: Addr<BrowserActor>, mut profiles: ProfileSet, data_dir: &Path) {
    let folder = DiskFolder::of_data(data_dir);
    actix::spawn(async move {
        let mut told = true;
        loop {
            tokio::time::sleep(RELOAD_EVERY).await;
            told &= !profiles.reload(&folder);
            if !told {
                told = browser.try_send(KnownGames(known(&profiles))).is_ok();
            }
        }
    });
}

/// What the browser needs of a profile.
fn facts(profile: &Profile) -> GameFacts {
    GameFacts {
        id: profile.id.clone(),
        name: profile.name.clone(),
        language: profile.query.and_then(|query| language(query.protocol)),
        join_command: profile.join.command.clone(),
        join_address: profile.join.address.clone(),
    }
}

/// The query protocols that the browser speaks; servers of the others are an address to join.
fn language(protocol: QueryProtocol) -> Option<Language> {
    Some(match protocol {
        QueryProtocol::Source => Language::Source,
        QueryProtocol::Quake3 => Language::Quake3,
        QueryProtocol::Minecraft => Language::Minecraft,
        QueryProtocol::Teeworlds => Language::Teeworlds,
        QueryProtocol::Openttd => Language::Openttd,
        QueryProtocol::ChocolateDoom => Language::ChocolateDoom,
        QueryProtocol::Quake2
        | QueryProtocol::Quake1
        | QueryProtocol::MinecraftBedrock
        | QueryProtocol::Openrct2
        | QueryProtocol::Freeciv
        | QueryProtocol::Zandronum
        | QueryProtocol::Hedgewars
        | QueryProtocol::Widelands
        | QueryProtocol::Unreal
        | QueryProtocol::Unreal2
        | QueryProtocol::Doom3
        | QueryProtocol::Cube
        | QueryProtocol::Mumble
        | QueryProtocol::Mindustry => return None,
    })
}
