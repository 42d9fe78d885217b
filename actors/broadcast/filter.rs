//! The program that the kernel runs on each packet of a captured interface (classic BPF), so that only what may be
//! carried ever reaches this process: a busy interface costs nothing else.

use std::net::Ipv4Addr;

/// One instruction, as `struct sock_filter` has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instruction {
    pub code: u16,
    pub jump_true: u8,
    pub jump_false: u8,
    pub k: u32,
}

const LOAD_WORD: u16 = 0x20;
const LOAD_BYTE: u16 = 0x30;
const AND: u16 = 0x54;
const JUMP_EQUAL: u16 = 0x15;
const RETURN: u16 = 0x06;

/// What the kernel knows of a packet besides its bytes (linux/filter.h: SKF_AD_OFF).
const ANCILLARY: u32 = 0xffff_f000;
const ANCILLARY_PROTOCOL: u32 = ANCILLARY;
const ANCILLARY_TYPE: u32 = ANCILLARY + 4;
/// linux/if_packet.h
const PACKET_OUTGOING: u32 = 4;
const ETHERTYPE_IPV4: u32 = 0x0800;
const UDP: u32 = 17;
/// Bytes of a packet that are handed over: all of it.
const WHOLE: u32 = 0xffff;
/// Networks of one interface whose broadcast address is looked for.
const MAX_BROADCASTS: usize = 16;

/// Lets pass what this machine sends: IPv4, UDP (also fragments), to the limited broadcast, one of `broadcasts` or a
/// multicast group. The packets begin with the IP header.
#[must_use]
pub fn own_shouts(broadcasts: &[Ipv4Addr]) -> Vec<Instruction> {
    let mut program = Program::default();
    program.load(LOAD_WORD, ANCILLARY_TYPE);
    program.must_be(PACKET_OUTGOING);
    program.load(LOAD_WORD, ANCILLARY_PROTOCOL);
    program.must_be(ETHERTYPE_IPV4);
    program.load(LOAD_BYTE, 9);
    program.must_be(UDP);
    program.load(LOAD_WORD, 16);
    program.may_be(u32::MAX);
    for broadcast in broadcasts.iter().take(MAX_BROADCASTS) {
        program.may_be(u32::from(*broadcast));
    }
    program.load(AND, 0xf000_0000);
    program.may_be(0xe000_0000);
    program.finish()
}

/// Jumps are written as what they mean, and get their distances at the end.
#[derive(Debug, Default)]
struct Program(Vec<Instruction>);

/// Stand-ins for distances.
const TO_ACCEPT: u8 = 254;
const TO_DROP: u8 = 255;

impl Program {
    fn load(&mut self, code: u16, k: u32) {
        self.0.push(Instruction { code, jump_true: 0, jump_false: 0, k });
    }

    fn must_be(&mut self, k: u32) {
        self.0.push(Instruction { code: JUMP_EQUAL, jump_true: 0, jump_false: TO_DROP, k });
    }

    fn may_be(&mut self, k: u32) {
        self.0.push(Instruction { code: JUMP_EQUAL, jump_true: TO_ACCEPT, jump_false: 0, k });
    }

    fn finish(mut self) -> Vec<Instruction> {
        let drop = self.0.len();
        for (at, instruction) in self.0.iter_mut().enumerate() {
            for jump in [&mut instruction.jump_true, &mut instruction.jump_false] {
                let ahead = match *jump {
                    TO_DROP => drop - at - 1,
                    TO_ACCEPT => drop - at,
                    _ => continue,
                };
                *jump = u8::try_from(ahead).unwrap_or(0);
            }
        }
        self.load(RETURN, 0);
        self.load(RETURN, WHOLE);
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::ip;

    /// What the kernel would do; `None` drops.
    fn run(program: &[Instruction], kind: u32, ethertype: u32, packet: &[u8]) -> Option<u32> {
        let (mut at, mut value) = (0, 0u32);
        loop {
            let it = program[at];
            at += 1;
            match (it.code, it.k) {
                (LOAD_WORD, ANCILLARY_TYPE) => value = kind,
                (LOAD_WORD, ANCILLARY_PROTOCOL) => value = ethertype,
                (LOAD_WORD, k) => value = u32::from_be_bytes(packet.get(k as usize..)?.get(..4)?.try_into().unwrap()),
                (LOAD_BYTE, k) => value = u32::from(*packet.get(k as usize)?),
                (AND, k) => value &= k,
                (JUMP_EQUAL, k) => at += usize::from(if value == k { it.jump_true } else { it.jump_false }),
                (RETURN, k) => return Some(k).filter(|&k| k > 0),
                other => panic!("unknown {other:?}"),
            }
        }
    }

    fn packet(protocol: u8, destination: [u8; 4]) -> Vec<u8> {
        let mut packet = vec![0; 40];
        ip::write_header(&mut packet, [192, 168, 1, 5].into(), destination.into(), protocol, 40).unwrap();
        packet
    }

    #[test]
    fn only_own_udp_shouts_pass() {
        let program = own_shouts(&[[192, 168, 1, 255].into(), [10, 0, 0, 255].into()]);
        let pass = |kind, ethertype, packet: &[u8]| run(&program, kind, ethertype, packet).is_some();
        for to in [[255; 4], [192, 168, 1, 255], [10, 0, 0, 255], [224, 0, 2, 60], [239, 255, 255, 250]] {
            assert!(pass(4, 0x0800, &packet(ip::UDP, to)), "{to:?}");
            assert!(!pass(1, 0x0800, &packet(ip::UDP, to)), "of another machine: {to:?}");
            assert!(!pass(4, 0x86dd, &packet(ip::UDP, to)), "IPv6: {to:?}");
            assert!(!pass(4, 0x0800, &packet(ip::TCP, to)), "TCP: {to:?}");
        }
        for to in [[192, 168, 1, 6], [10, 0, 1, 255], [240, 0, 0, 1], [223, 255, 255, 255], [8, 8, 8, 8]] {
            assert!(!pass(4, 0x0800, &packet(ip::UDP, to)), "{to:?}");
        }
        for len in 0..20 {
            assert!(!pass(4, 0x0800, &packet(ip::UDP, [255; 4])[..len]), "{len} bytes");
        }
        assert_eq!(run(&program, 4, 0x0800, &packet(ip::UDP, [255; 4])), Some(WHOLE));
    }

    #[test]
    fn many_networks_fit() {
        let many: Vec<Ipv4Addr> = (0..100u8).map(|n| [10, 0, n, 255].into()).collect();
        let program = own_shouts(&many);
        assert!(program.len() < 64);
        assert!(run(&program, 4, 0x0800, &packet(ip::UDP, [10, 0, 15, 255])).is_some());
        assert!(run(&program, 4, 0x0800, &packet(ip::UDP, [224, 0, 0, 9])).is_some());
    }
}
