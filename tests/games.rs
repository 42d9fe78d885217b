//! Real games find each other by LAN discovery alone: nobody types an address.
//!
//! Each game is shown first on one plain switch, which proves the test, and then across a party of two homes behind
//! NATs, each with its own LAN as the default route. `LANRAGE_GAME_RUNS=5` repeats each search for the figures.

mod lab;
mod real_games;

use lab::Lab;
use real_games::{
    ARMAGETRON, BZFLAG, CHOCOLATE_DOOM, DDNET, FREECIV, Game, MINECRAFT_LIKE, MUMBLE, OPENARENA, OPENTTD, Party,
    SAUERBRATEN, Switch, TEEWORLDS,
};

macro_rules! games {
    ($($test:ident: $game:ident),* $(,)?) => { $(
        mod $test {
            use super::{in_a_party, on_a_switch, real_games};

            #[test]
            fn is_found_on_a_switch() {
                on_a_switch(&real_games::$game);
            }

            #[test]
            fn is_found_in_a_party() {
                in_a_party(&real_games::$game);
            }
        }
    )* };
}

games! {
    armagetron: ARMAGETRON,
    bzflag: BZFLAG,
    chocolate_doom: CHOCOLATE_DOOM,
    ddnet: DDNET,
    freeciv: FREECIV,
    minecraft_like: MINECRAFT_LIKE,
    mumble: MUMBLE,
    openarena: OPENARENA,
    openttd: OPENTTD,
    sauerbraten: SAUERBRATEN,
    teeworlds: TEEWORLDS,
}

fn on_a_switch(game: &Game) {
    let Some(lab) = Lab::with_programs(game.programs) else { return };
    game.must_be_found(&Switch::new(&lab).place());
}

fn in_a_party(game: &Game) {
    let Some(lab) = Lab::with_programs(game.programs) else { return };
    let party = Party::new(&lab, game.node);
    game.must_be_found(&party.place());
}

#[test]
fn nothing_is_found_without_carrying() {
    let all = [
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
    let programs: Vec<_> = all.iter().flat_map(|game| game.programs).copied().collect();
    let Some(lab) = Lab::with_programs(&programs) else { return };
    let party = Party::new(&lab, &[]);
    for game in all {
        game.must_not_be_found(&party.place());
    }
}
