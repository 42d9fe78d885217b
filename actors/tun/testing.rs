//! Packets for the tests of this concern.

use std::net::Ipv4Addr;

use crate::wire::ip::{self, DONT_FRAGMENT};

pub(super) const SOURCE: Ipv4Addr = Ipv4Addr::new(10, 66, 0, 1);
pub(super) const DESTINATION: Ipv4Addr = Ipv4Addr::new(10, 66, 0, 2);

#[derive(Debug, Clone)]
pub(super) struct PacketSpec {
    pub(super) tcp: bool,
    pub(super) payload: usize,
    pub(super) destination: Ipv4Addr,
    pub(super) id: u16,
    pub(super) dont_fragment: bool,
    pub(super) ports: (u16, u16),
    pub(super) seq: u32,
    pub(super) flags: u8,
    pub(super) tcp_options: usize,
}

impl PacketSpec {
    pub(super) fn udp(payload: usize) -> Self {
        Self {
            tcp: false,
            payload,
            destination: DESTINATION,
            id: 7,
            dont_fragment: false,
            ports: (4000, 5000),
            seq: 1000,
            flags: 0x10,
            tcp_options: 0,
        }
    }

    pub(super) fn tcp(payload: usize) -> Self {
        Self { tcp: true, ..Self::udp(payload) }
    }

    pub(super) fn header_len(&self) -> usize {
        20 + if self.tcp { 20 + self.tcp_options } else { 8 }
    }

    /// A packet with right lengths and checksums; its payload depends on its sequence number.
    pub(super) fn build(&self) -> Vec<u8> {
        let total = self.header_len() + self.payload;
        let mut packet = vec![0; total];
        let protocol = if self.tcp { ip::TCP } else { ip::UDP };
        ip::write_header(&mut packet, SOURCE, self.destination, protocol, total).unwrap();
        packet[4..6].copy_from_slice(&self.id.to_be_bytes());
        packet[6..8].copy_from_slice(&(if self.dont_fragment { DONT_FRAGMENT } else { 0 }).to_be_bytes());
        ip::write_header_checksum(&mut packet[..20]);
        let header_len = self.header_len();
        for (n, byte) in packet[header_len..].iter_mut().enumerate() {
            *byte = (self.seq as usize + n) as u8;
        }
        let segment = &mut packet[20..];
        segment[0..2].copy_from_slice(&self.ports.0.to_be_bytes());
        segment[2..4].copy_from_slice(&self.ports.1.to_be_bytes());
        let at = if self.tcp {
            segment[4..8].copy_from_slice(&self.seq.to_be_bytes());
            segment[8..12].copy_from_slice(&99u32.to_be_bytes());
            segment[12] = (((20 + self.tcp_options) / 4) << 4) as u8;
            segment[13] = self.flags;
            segment[14..16].copy_from_slice(&512u16.to_be_bytes());
            segment[20..20 + self.tcp_options].fill(1);
            16
        } else {
            let len = (8 + self.payload) as u16;
            segment[4..6].copy_from_slice(&len.to_be_bytes());
            6
        };
        let value = ip::transport_checksum(SOURCE, self.destination, protocol, segment);
        let value = if value == 0 && !self.tcp { 0xffff } else { value };
        segment[at..at + 2].copy_from_slice(&value.to_be_bytes());
        packet
    }
}
