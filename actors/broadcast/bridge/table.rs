//! One side of the NAT: which socket stands for which address and port of the other side.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::{Duration, Instant};

use super::machine::{SocketId, Sockets};

/// How long an entry without traffic is kept. Games that look for others ask each few seconds; a console that hosts
/// announces itself at least each 30 s.
pub(super) const IDLE: Duration = Duration::from_secs(120);
/// An entry idle for so long makes room for a new one when the table is full.
const SPARE: Duration = Duration::from_secs(10);

#[derive(Debug)]
struct Entry {
    socket: SocketId,
    port: u16,
    used: Instant,
}

/// Entries for the addresses `SocketAddrV4` on interface or side `S`.
#[derive(Debug)]
pub(super) struct Table<S> {
    entries: HashMap<(S, SocketAddrV4), Entry>,
    by_socket: HashMap<SocketId, (S, SocketAddrV4)>,
    max: usize,
    max_of_one: usize,
}

impl<S: Copy + Eq + std::hash::Hash> Table<S> {
    /// At most `max` entries, at most `max_of_one` of one IP address.
    pub(super) fn new(max: usize, max_of_one: usize) -> Self {
        Self { entries: HashMap::new(), by_socket: HashMap::new(), max, max_of_one }
    }

    /// Of the sockets here.
    pub(super) fn ports(&self) -> impl Iterator<Item = u16> {
        self.entries.values().map(|entry| entry.port)
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// The socket and its port for `who`; opened by `open` when there is none yet. `None`: no room, or none to be had.
    pub(super) fn socket(
        &mut self,
        now: Instant,
        side: S,
        who: SocketAddrV4,
        sockets: &mut dyn Sockets,
        open: impl FnOnce(&mut dyn Sockets) -> Option<(SocketId, u16)>,
    ) -> Result<(SocketId, u16), Full> {
        if let Some(entry) = self.entries.get_mut(&(side, who)) {
            entry.used = now;
            return Ok((entry.socket, entry.port));
        }
        if self.of(*who.ip()) >= self.max_of_one && !self.spare(now, Some(*who.ip()), sockets) {
            return Err(Full::NoRoom);
        }
        if self.len() >= self.max && !self.spare(now, None, sockets) {
            return Err(Full::NoRoom);
        }
        let (socket, port) = open(sockets).ok_or(Full::NoSocket)?;
        self.entries.insert((side, who), Entry { socket, port, used: now });
        self.by_socket.insert(socket, (side, who));
        Ok((socket, port))
    }

    /// For whom a socket stands; that counts as use.
    pub(super) fn owner(&mut self, now: Instant, socket: SocketId) -> Option<(S, SocketAddrV4)> {
        let owner = *self.by_socket.get(&socket)?;
        if let Some(entry) = self.entries.get_mut(&owner) {
            entry.used = now;
        }
        Some(owner)
    }

    /// Closes what has been idle, and what `keep` does not want.
    pub(super) fn sweep(&mut self, now: Instant, sockets: &mut dyn Sockets, keep: impl Fn(S, SocketAddrV4) -> bool) {
        let by_socket = &mut self.by_socket;
        self.entries.retain(|(side, who), entry| {
            let stays = now.saturating_duration_since(entry.used) < IDLE && keep(*side, *who);
            if !stays {
                by_socket.remove(&entry.socket);
                sockets.close(entry.socket);
            }
            stays
        });
    }

    fn of(&self, ip: Ipv4Addr) -> usize {
        self.entries.keys().filter(|(_, who)| *who.ip() == ip).count()
    }

    /// Closes the entry, of one address or of all, that has been idle longest. Whether there was one.
    fn spare(&mut self, now: Instant, ip: Option<Ipv4Addr>, sockets: &mut dyn Sockets) -> bool {
        let candidates = self.entries.iter().filter(|((_, who), entry)| {
            ip.is_none_or(|ip| *who.ip() == ip) && now.saturating_duration_since(entry.used) >= SPARE
        });
        let Some((key, socket)) = candidates.min_by_key(|(_, entry)| entry.used).map(|(key, it)| (*key, it.socket))
        else {
            return false;
        };
        self.entries.remove(&key);
        self.by_socket.remove(&socket);
        sockets.close(socket);
        true
    }
}

/// Why there is no socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Full {
    NoRoom,
    NoSocket,
}
