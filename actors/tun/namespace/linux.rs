//! Setting up a namespace's network from inside, and taking over its device from outside.
#![allow(unsafe_code)]

use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, OwnedFd};

use super::super::device::{OpenError, OpenRequest};
use super::super::linux::{Interface, Made, check};
use super::super::offload::VIRTIO_LEN;

const LOOPBACK: &str = "lo";

/// What else there is beside the party's network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Beside {
    /// Everything goes to the party's network.
    Nothing,
    /// Another device has the default route; limited broadcasts and multicasts go to the party's network all the same.
    Internet,
}

/// Makes the party's device in the network namespace of this thread, for another process to read, and routes to it. The
/// kernel removes both when the descriptor is closed for good.
///
/// # Errors
/// See [`OpenError`]; nothing is left behind.
pub fn make_device(request: &OpenRequest<'_>, beside: Beside) -> Result<OwnedFd, OpenError> {
    let made = Made::new(request)?;
    let interface = Interface::new(request.name).map_err(at("open a socket"))?;
    let routes: &[(Ipv4Addr, Ipv4Addr)] = match beside {
        Beside::Nothing => &[(Ipv4Addr::UNSPECIFIED, Ipv4Addr::UNSPECIFIED)],
        Beside::Internet => {
            &[(Ipv4Addr::BROADCAST, Ipv4Addr::BROADCAST), (Ipv4Addr::new(224, 0, 0, 0), Ipv4Addr::new(240, 0, 0, 0))]
        }
    };
    for (destination, netmask) in routes {
        add_route(&interface, request.name, *destination, *netmask).map_err(at("add a route"))?;
    }
    Ok(made.fd)
}

/// Brings the loopback device up, and lets an ordinary user of the namespace ping and use low ports: nobody else is there.
///
/// # Errors
/// When there is no right to it.
pub fn prepare(group: u32) -> Result<(), OpenError> {
    let loopback = Interface::new(LOOPBACK).map_err(at("open a socket"))?;
    loopback.add_flags(libc::IFF_UP).map_err(at("bring the loopback device up"))?;
    for (key, value) in [("ping_group_range", format!("{group} {group}")), ("ip_unprivileged_port_start", "0".into())] {
        // Games hardly need either.
        if let Err(error) = fs::write(format!("/proc/sys/net/ipv4/{key}"), value) {
            tracing::debug!(%error, key, "not set");
        }
    }
    Ok(())
}

fn at(step: &'static str) -> impl Fn(io::Error) -> OpenError {
    move |source| OpenError::System { step, source }
}

fn add_route(interface: &Interface, device: &str, destination: Ipv4Addr, netmask: Ipv4Addr) -> io::Result<()> {
    let mut name: Vec<u8> = device.bytes().chain([0]).collect();
    // SAFETY: an `rtentry` is plain data for which all zeros are valid.
    let mut route: libc::rtentry = unsafe { std::mem::zeroed() };
    route.rt_dst = socket_address(destination);
    route.rt_genmask = socket_address(netmask);
    route.rt_flags = libc::RTF_UP;
    if netmask.is_broadcast() {
        route.rt_flags |= libc::RTF_HOST;
    }
    route.rt_dev = name.as_mut_ptr().cast();
    // SAFETY: the kernel reads one `rtentry`, and the name that it points to, both of which outlive the call.
    check(unsafe { libc::ioctl(interface.socket.as_raw_fd(), libc::SIOCADDRT, &raw const route) })
}

fn socket_address(ip: Ipv4Addr) -> libc::sockaddr {
    let mut data = [0; 14];
    for (slot, byte) in data[2..6].iter_mut().zip(ip.octets()) {
        *slot = byte.cast_signed() as libc::c_char;
    }
    libc::sockaddr { sa_family: libc::AF_INET as libc::sa_family_t, sa_data: data }
}

/// Checks that what another process handed over is a TAP as [`make_device`] makes it: anything else could block the data
/// path or be misread.
pub(in crate::tun) fn inspect(fd: OwnedFd) -> Result<Made, OpenError> {
    let wrong = || OpenError::System { step: "take it over", source: io::ErrorKind::InvalidInput.into() };
    // SAFETY: an `ifreq` is plain data for which all zeros are valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes one `ifreq`; on a descriptor of another kind the request number is unknown.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNGETIFF, &raw mut request) }).map_err(at("take it over"))?;
    // SAFETY: TUNGETIFF fills `ifru_flags`.
    let flags = libc::c_int::from(unsafe { request.ifr_ifru.ifru_flags });
    let needed = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
    if flags & needed != needed || flags & libc::IFF_TUN != 0 {
        return Err(wrong());
    }
    let mut len: libc::c_int = 0;
    // SAFETY: the kernel writes one int.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNGETVNETHDRSZ, &raw mut len) }).map_err(at("take it over"))?;
    if usize::try_from(len) != Ok(VIRTIO_LEN) {
        return Err(wrong());
    }
    // SAFETY: the kernel writes one `ifreq`, with the address of the device behind this descriptor.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::SIOCGIFHWADDR, &raw mut request) }).map_err(at("take it over"))?;
    // SAFETY: SIOCGIFHWADDR fills `ifru_hwaddr`.
    let data = unsafe { request.ifr_ifru.ifru_hwaddr.sa_data };
    let mac = std::array::from_fn(|index| data[index].to_ne_bytes()[0]);
    rustix::io::ioctl_fionbio(&fd, true).map_err(|error| at("make it non-blocking")(error.into()))?;
    Ok(Made { fd, mac, uso: true })
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn only_a_tap_is_taken_over() {
        let (socket, _other) = UnixStream::pair().unwrap();
        for fd in [OwnedFd::from(File::open("/dev/null").unwrap()), OwnedFd::from(socket)] {
            assert!(matches!(inspect(fd), Err(OpenError::System { step: "take it over", .. })));
        }
    }

    #[test]
    fn socket_addresses_are_in_network_order() {
        let address = socket_address(Ipv4Addr::new(224, 1, 2, 3));
        let bytes: Vec<u8> = address.sa_data[..6].iter().map(|byte| byte.to_ne_bytes()[0]).collect();
        assert_eq!((address.sa_family as i32, bytes), (libc::AF_INET, vec![0, 0, 224, 1, 2, 3]));
    }
}
