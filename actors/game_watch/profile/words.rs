//! The values of which a profile must choose one.

use serde::{Serialize, Serializer};

/// A value that is written as a word.
pub trait Word: Copy + Eq + 'static {
    /// Every value with how it is written.
    const WORDS: &'static [(&'static str, Self)];

    #[must_use]
    fn word(self) -> &'static str {
        Self::WORDS.iter().find(|(_, value)| *value == self).map_or("", |(word, _)| word)
    }

    #[must_use]
    fn from_word(word: &str) -> Option<Self> {
        Self::WORDS.iter().find(|(known, _)| *known == word).map(|(_, value)| *value)
    }
}

macro_rules! words {
    ($($(#[$about:meta])* $name:ident { $($(#[$note:meta])* $value:ident = $word:literal),+ $(,)? })+) => { $(
        $(#[$about])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[$note])* $value),+ }

        impl Word for $name {
            const WORDS: &'static [(&'static str, Self)] = &[$(($word, Self::$value)),+];
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.word())
            }
        }
    )+ };
}

words! {
    Os { Linux = "linux", Windows = "windows", Macos = "macos" }

    /// What a process of a game does.
    Role {
        Client = "client",
        Server = "server",
        /// Games where a player hosts from inside the game.
        Both = "both",
    }

    /// What a port is for.
    PortRole { Game = "game", Discovery = "discovery", Query = "query" }

    DiscoveryMethod {
        /// To 255.255.255.255.
        LimitedBroadcast = "limited-broadcast",
        /// To the broadcast address of each network, like 192.168.1.255.
        SubnetBroadcast = "subnet-broadcast",
        Multicast = "multicast",
        /// Players type an address.
        None = "none",
    }

    /// How a discovery query is answered.
    Reply {
        Unicast = "unicast",
        Broadcast = "broadcast",
        Multicast = "multicast",
        /// Servers announce themselves; nobody asks.
        None = "none",
    }

    /// How a server tells its name, players and map when asked.
    QueryProtocol {
        /// Source engine, `A2S_INFO`; GoldSrc too.
        Source = "source",
        /// `getinfo` and `getstatus`.
        Quake3 = "quake3",
        /// `status` (QuakeWorld, Quake II).
        Quake2 = "quake2",
        /// NetQuake's control packets.
        Quake1 = "quake1",
        /// Java edition's server list ping over TCP.
        Minecraft = "minecraft",
        /// RakNet's unconnected ping.
        MinecraftBedrock = "minecraft-bedrock",
        Teeworlds = "teeworlds",
        Openttd = "openttd",
        Openrct2 = "openrct2",
        Freeciv = "freeciv",
        ChocolateDoom = "chocolate-doom",
        Zandronum = "zandronum",
        Hedgewars = "hedgewars",
        Widelands = "widelands",
        /// Unreal Engine 1's text query.
        Unreal = "unreal",
        /// Unreal Engine 2's binary query.
        Unreal2 = "unreal2",
        /// Doom 3 and id Tech 4.
        Doom3 = "doom3",
        /// Cube engine's pings.
        Cube = "cube",
        Mumble = "mumble",
        Mindustry = "mindustry",
    }

    /// How much the game's packets matter on the way; the service classes of RFC 4594.
    Priority {
        /// May wait (CS1): downloads, turn-based games.
        Low = "low",
        /// Not marked.
        Normal = "normal",
        /// Real-time interactive (CS4).
        Game = "game",
        /// Telephony (EF).
        Voice = "voice",
    }

    /// Whether small packets are sent on two paths at once.
    Redundancy {
        Off = "off",
        On = "on",
        /// While packets get lost.
        Auto = "auto",
    }

    /// Whether the game's packets may go through a relay.
    RelayUse {
        /// When that is the faster way, or the only one.
        Auto = "auto",
        /// Only while there is no other way.
        Avoid = "avoid",
        Never = "never",
    }
}

impl Os {
    /// Of this machine; Linux where it is none of the three.
    #[must_use]
    pub const fn here() -> Self {
        if cfg!(target_os = "windows") {
            Self::Windows
        } else if cfg!(target_os = "macos") {
            Self::Macos
        } else {
            Self::Linux
        }
    }
}

impl Priority {
    /// The code point for the outer packets; `None` leaves them unmarked.
    #[must_use]
    pub const fn dscp(self) -> Option<u8> {
        match self {
            Self::Low => Some(8),
            Self::Normal => None,
            Self::Game => Some(32),
            Self::Voice => Some(46),
        }
    }
}

macro_rules! defaults {
    ($($name:ident: $value:ident),+) => { $(
        impl Default for $name {
            fn default() -> Self {
                Self::$value
            }
        }
    )+ };
}

defaults!(Role: Both, PortRole: Game, Reply: Unicast, Priority: Normal, Redundancy: Auto, RelayUse: Auto);
