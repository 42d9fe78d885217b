//! What the server browser is told about games, out of their profiles.

use std::ops::RangeInclusive;
use std::path::Path;
use std::time::Duration;

use actix::Addr;
use lanrage_actors::browser::actor::BrowserActor;
use lanrage_actors::browser::messages::{GameFacts, KnownGames};
use lanrage_actors::game_watch::folder::DiskFolder;
use lanrage_actors::game_watch::hosted::language;
use lanrage_actors::game_watch::profile::{PortRole, Profile};
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

/// Where servers answer, for games whose servers do not answer at the port that players join at.
fn query_ports(profile: &Profile) -> Option<RangeInclusive<u16>> {
    let query = profile.query?.port;
    let game = profile.ports.iter().find(|used| used.role == PortRole::Game)?.port;
    (!query.contains(game.first())).then(|| query.into())
}

/// What the browser needs of a profile.
fn facts(profile: &Profile) -> GameFacts {
    GameFacts {
        id: profile.id.clone(),
        name: profile.name.clone(),
        language: profile.query.and_then(|query| language(query.protocol)),
        query_ports: query_ports(profile),
        join_command: profile.join.command.clone(),
        join_address: profile.join.address.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_asked_where_they_answer() {
        let profiles = load(Path::new("/nonexistent"));
        let known = known(&profiles);
        let ports = |id: &str| known.iter().find(|game| game.id == id).expect(id).query_ports.clone();
        for (id, port) in [
            ("valheim", 2457),
            ("ark-survival-evolved", 27015),
            ("conan-exiles", 27015),
            ("arma3", 2303),
            ("dont-starve-together", 27016),
            ("enshrouded", 15637),
            ("killing-floor-2", 27015),
            ("sons-of-the-forest", 27016),
            ("v-rising", 9877),
            ("risk-of-rain-2", 27016),
        ] {
            assert_eq!(ports(id).map(|ports| *ports.start()), Some(port), "{id}");
        }
        // A second server of these has the next port, and answers there.
        for id in ["openttd", "openarena", "minecraft-java", "counter-strike-2"] {
            assert_eq!(ports(id), None, "{id}");
        }
    }
}
