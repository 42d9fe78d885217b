//! Real games find each other by LAN discovery alone: nobody types an address.
//!
//! Each game is shown first on one plain switch, which proves the test, and then across a party of two homes behind
//! NATs, each with its own LAN as the default route. `LANRAGE_GAME_RUNS=5` repeats each search for the figures.

mod lab;
mod real_games;

use lab::Lab;
use real_games::{
    ARMAGETRON, BZFLAG, CHOCOLATE_DOOM, DDNET, FREECIV, Game, MINECRAFT_LIKE, MUMBLE, OPENARENA, OPENTTD, Party,
    SAUERBRATEN, Switch, TEEWORLDS, Watched,
};

macro_rules! games {
    ($place:ident: $($test:ident $game:ident),* $(,)?) => {
        mod $place {
            $(#[test]
            fn $test() {
                super::$place(&super::real_games::$game);
            })*
        }
    };
}

games! { found_on_a_switch:
    armagetron ARMAGETRON,
    bzflag BZFLAG,
    chocolate_doom CHOCOLATE_DOOM,
    ddnet DDNET,
    freeciv FREECIV,
    minecraft_like MINECRAFT_LIKE,
    mumble MUMBLE,
    openarena OPENARENA,
    openttd OPENTTD,
    sauerbraten SAUERBRATEN,
    teeworlds TEEWORLDS,
}

games! { found_in_a_party:
    armagetron ARMAGETRON,
    bzflag BZFLAG,
    chocolate_doom CHOCOLATE_DOOM,
    ddnet DDNET,
    freeciv FREECIV,
    minecraft_like MINECRAFT_LIKE,
    mumble MUMBLE,
    openarena OPENARENA,
    openttd OPENTTD,
    sauerbraten SAUERBRATEN,
    teeworlds TEEWORLDS,
}

fn found_on_a_switch(game: &Game) {
    let Some(lab) = Lab::with_programs(game.programs) else { return };
    game.must_be_found(&Switch::new(&lab).place());
}

/// What a game says about itself by mDNS is carried only where that is asked for.
#[test]
fn mumble_is_not_found_in_a_party_that_carries_no_mdns() {
    let Some(lab) = Lab::with_programs(MUMBLE.programs) else { return };
    MUMBLE.must_not_be_found(&Party::new(&lab, &[]).place());
}

fn found_in_a_party(game: &Game) {
    let Some(lab) = Lab::with_programs(game.programs) else { return };
    let party = Party::new(&lab, game.node);
    game.must_be_found(&party.place());
}

/// The control: what the tests above find comes by the carried broadcasts, not by the lab.
#[test]
fn nothing_is_found_in_a_party_that_carries_no_broadcasts() {
    let games = [CHOCOLATE_DOOM, DDNET, FREECIV, MINECRAFT_LIKE, OPENTTD];
    let programs: Vec<_> = games.iter().flat_map(|game| game.programs).copied().collect();
    let Some(lab) = Lab::with_programs(&programs) else { return };
    let party = Party::new(&lab, &["--broadcasts", "off"]);
    for game in games {
        game.must_not_be_found(&party.place());
    }
}

/// Each by its own profile, on the host that it runs on and on no other, and only while it runs.
#[test]
fn running_games_are_noticed_where_they_run() {
    let games = [
        ARMAGETRON,
        BZFLAG,
        CHOCOLATE_DOOM,
        DDNET,
        FREECIV,
        MINECRAFT_LIKE,
        MUMBLE,
        OPENARENA,
        OPENTTD,
        SAUERBRATEN,
        TEEWORLDS,
    ];
    let programs: Vec<_> = games.iter().flat_map(|game| game.programs).copied().collect();
    let Some(lab) = Lab::with_programs(&programs) else { return };
    let watched = Watched::new(&lab);
    watched.expect_none();
    for game in &games {
        watched.server(game);
        watched.client(game);
    }
    watched.expect_idle();
}
