//! Lines of JSON over a unix socket, a descriptor beside a line where there is one.

use std::io::{self, ErrorKind, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Longest line, bytes: 1,024 ports of both kinds, or 255 friends with the longest names, fit.
const MAX_LINE: usize = 64 * 1024;
/// `sun_path` of `sockaddr_un` with its final zero, bytes.
const MAX_SOCKET_PATH: usize = 108;

#[derive(Debug)]
pub(super) struct Channel {
    socket: UnixStream,
    received: Vec<u8>,
    /// And where in `received` the message begins that it belongs to.
    descriptor: Option<(usize, OwnedFd)>,
}

impl Channel {
    pub(super) fn new(socket: UnixStream) -> Self {
        Self { socket, received: Vec::new(), descriptor: None }
    }

    pub(super) fn socket(&self) -> &UnixStream {
        &self.socket
    }

    pub(super) fn send(&self, message: &impl Serialize, descriptor: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let mut line = serde_json::to_vec(message)?;
        line.push(b'\n');
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let descriptors = descriptor.map(|fd| [fd]);
        if let Some(descriptors) = &descriptors {
            control.push(SendAncillaryMessage::ScmRights(descriptors));
        }
        let mut sent = 0;
        while sent < line.len() {
            let rest = [IoSlice::new(&line[sent..])];
            match rustix::net::sendmsg(&self.socket, &rest, &mut control, SendFlags::NOSIGNAL) {
                Ok(len) => sent += len,
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            }
            // With the first bytes only.
            control.clear();
        }
        Ok(())
    }

    /// The next message; `None` at the end. Blocks, or fails with `WouldBlock` after the socket's time-out.
    pub(super) fn receive<T: DeserializeOwned>(&mut self) -> io::Result<Option<(T, Option<OwnedFd>)>> {
        loop {
            if let Some(end) = self.received.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.received.drain(..=end).collect();
                let message = serde_json::from_slice(&line).map_err(io::Error::from)?;
                let descriptor = match self.descriptor.take() {
                    Some((at, descriptor)) if at <= end => Some(descriptor),
                    Some((at, descriptor)) => {
                        self.descriptor = Some((at - end - 1, descriptor));
                        None
                    }
                    None => None,
                };
                return Ok(Some((message, descriptor)));
            }
            if self.received.len() > MAX_LINE {
                return Err(io::Error::new(ErrorKind::InvalidData, "a message is too long"));
            }
            if self.fill()? == 0 {
                return Ok(None);
            }
        }
    }

    fn fill(&mut self) -> io::Result<usize> {
        let mut bytes = [0; 4096];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let got = loop {
            let mut into = [IoSliceMut::new(&mut bytes)];
            match rustix::net::recvmsg(&self.socket, &mut into, &mut control, RecvFlags::CMSG_CLOEXEC) {
                Err(rustix::io::Errno::INTR) => {}
                other => break other?,
            }
        };
        self.received.extend_from_slice(&bytes[..got.bytes]);
        // A read may take in the end of messages before, but nothing after the one that the descriptor was sent with.
        let before = self.received.strip_suffix(b"\n").unwrap_or(&self.received);
        let begin = before.iter().rposition(|byte| *byte == b'\n').map_or(0, |newline| newline + 1);
        for message in control.drain() {
            // Whatever else was handed over is closed here.
            if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                self.descriptor = descriptors.last().map(|descriptor| (begin, descriptor));
            }
        }
        Ok(got.bytes)
    }
}

/// `file` in `folder` by a name that fits a socket address: through the folder's descriptor, which is to be held meanwhile.
pub(super) fn socket_path(folder: &Path, file: &str) -> io::Result<(PathBuf, Option<OwnedFd>)> {
    let path = folder.join(file);
    if path.as_os_str().len() < MAX_SOCKET_PATH {
        return Ok((path, None));
    }
    use rustix::fs::{Mode, OFlags};
    let held = rustix::fs::open(folder, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let short = PathBuf::from(format!("/proc/self/fd/{}", rustix::fd::AsRawFd::as_raw_fd(&held.as_fd()))).join(file);
    Ok((short, Some(held)))
}

/// Reads `bytes` as each process would, to the end or an error.
#[cfg(fuzzing)]
pub fn read_all(bytes: &[u8]) {
    use super::messages::{FromInside, FromNode, ToInside, ToNode};
    fn each<T: DeserializeOwned>(bytes: &[u8], look: impl Fn(T)) {
        use std::io::Write as _;
        let (mut one, other) = UnixStream::pair().expect("a pair of sockets");
        // The kernel holds that much of one write.
        one.write_all(&bytes[..bytes.len().min(2 * MAX_LINE)]).expect("written");
        drop(one);
        let mut channel = Channel::new(other);
        while let Ok(Some((message, descriptor))) = channel.receive::<T>() {
            assert!(descriptor.is_none());
            look(message);
        }
    }
    each(bytes, |message: ToNode| {
        if let ToNode::Device(network) = message {
            let _ = network.address();
        }
    });
    each(bytes, |_: FromNode| ());
    each(bytes, |_: ToInside| ());
    each(bytes, |_: FromInside| ());
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read as _, Write as _};

    use proptest::prelude::*;

    use super::super::messages::{FromNode, ToNode};
    use super::*;

    fn pair() -> (Channel, Channel) {
        let (one, other) = UnixStream::pair().unwrap();
        (Channel::new(one), Channel::new(other))
    }

    #[test]
    fn messages_and_descriptors_arrive_together() {
        let (one, mut other) = pair();
        let ports = ToNode::Ports { udp: (0..1024).collect(), tcp: vec![1] };
        one.send(&ports, None).unwrap();
        let file = File::open("/proc/self/comm").unwrap();
        one.send(&FromNode::Attached, Some(file.as_fd())).unwrap();
        one.send(&FromNode::Refused("x".into()), None).unwrap();
        drop(one);
        let (first, none) = other.receive::<ToNode>().unwrap().unwrap();
        assert!(first == ports && none.is_none());
        let (second, descriptor) = other.receive::<FromNode>().unwrap().unwrap();
        assert_eq!(second, FromNode::Attached);
        let mut text = String::new();
        File::from(descriptor.unwrap()).read_to_string(&mut text).unwrap();
        assert!(!text.is_empty());
        let (third, none) = other.receive::<FromNode>().unwrap().unwrap();
        assert!(third == FromNode::Refused("x".into()) && none.is_none());
        assert!(other.receive::<FromNode>().unwrap().is_none());
    }

    #[test]
    fn endless_lines_are_refused() {
        let (one, mut other) = pair();
        let writer = std::thread::spawn(move || {
            let _ = one.socket().write_all(&vec![b'x'; 1024 * 1024]);
        });
        assert_eq!(other.receive::<ToNode>().unwrap_err().kind(), ErrorKind::InvalidData);
        drop(other);
        writer.join().unwrap();
    }

    #[test]
    fn long_folders_have_short_names() {
        let folder = std::env::temp_dir().join(format!("lanrage-{}-{}", std::process::id(), "d".repeat(120)));
        std::fs::create_dir_all(&folder).unwrap();
        let (path, held) = socket_path(&folder, "play.sock").unwrap();
        assert!(held.is_some() && path.as_os_str().len() < MAX_SOCKET_PATH);
        let _listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        assert!(folder.join("play.sock").exists());
        std::fs::remove_dir_all(&folder).unwrap();
    }

    proptest! {
        #[test]
        fn random_bytes_are_an_error_or_a_message(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let (one, mut other) = pair();
            (&one.socket).write_all(&bytes).unwrap();
            drop(one);
            while let Ok(Some((_, descriptor))) = other.receive::<ToNode>() {
                prop_assert!(descriptor.is_none());
            }
        }
    }
}
