//! One question to one server, with a socket and a clock.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, UdpSocket};
use tokio::time::timeout;

use super::machine::Outcome;
use super::query::{Answer, Carrier, Conversation, Language, MAX_ANSWER, MAX_QUESTIONS, Step};

/// For the whole conversation.
const PATIENCE: Duration = Duration::from_secs(4);
/// A datagram is lost now and then.
const REPEAT_AFTER: Duration = Duration::from_millis(700);

/// What the server says, and the time from the first question to its answer. `from` is this machine's virtual IP: while
/// there is no device that has it, nothing is sent, and so nothing to a machine outside that has the member's address.
pub(super) async fn ask(language: Language, from: Ipv4Addr, to: SocketAddrV4) -> Result<(Answer, Duration), Outcome> {
    let conversation = Conversation::new(language, rand::random(), to.port());
    let talk = async {
        match language.carrier() {
            Carrier::Udp => over_udp(&conversation, from, to).await,
            Carrier::Tcp => over_tcp(&conversation, from, to).await,
        }
    };
    // Refused is as good as silent: there is no such server.
    timeout(PATIENCE, talk).await.unwrap_or(Ok(Err(Outcome::Silent))).unwrap_or(Err(Outcome::Silent))
}

type Talk = io::Result<Result<(Answer, Duration), Outcome>>;

async fn over_udp(conversation: &Conversation, from: Ipv4Addr, to: SocketAddrV4) -> Talk {
    let socket = UdpSocket::bind((from, 0)).await?;
    // Only what comes from there is heard.
    socket.connect(to).await?;
    let mut buffer = vec![0; MAX_ANSWER];
    let mut question = conversation.open();
    let mut ping = None;
    for _ in 0..MAX_QUESTIONS {
        let mut asked = Instant::now();
        socket.send(&question).await?;
        let len = loop {
            match timeout(REPEAT_AFTER, socket.recv(&mut buffer)).await {
                Ok(received) => break received?,
                Err(_late) => {
                    asked = Instant::now();
                    socket.send(&question).await?;
                }
            }
        };
        let ping = *ping.get_or_insert_with(|| asked.elapsed());
        match conversation.heard(&buffer[..len]) {
            Step::Ask(next) => question = next,
            Step::Done(answer) => return Ok(Ok((answer, ping))),
            Step::Wait | Step::Garbage => return Ok(Err(Outcome::Garbage)),
        }
    }
    Ok(Err(Outcome::Garbage))
}

async fn over_tcp(conversation: &Conversation, from: Ipv4Addr, to: SocketAddrV4) -> Talk {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddrV4::new(from, 0).into())?;
    let started = Instant::now();
    let mut stream = socket.connect(to.into()).await?;
    // The system answers that; the server itself may look at its connections only now and then.
    let ping = started.elapsed();
    stream.write_all(&conversation.open()).await?;
    let mut heard = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let len = stream.read(&mut buffer).await?;
        heard.extend_from_slice(&buffer[..len]);
        match conversation.heard(&heard) {
            Step::Wait if len > 0 && heard.len() < MAX_ANSWER => {}
            Step::Done(answer) => return Ok(Ok((answer, ping))),
            Step::Wait | Step::Ask(_) | Step::Garbage => return Ok(Err(Outcome::Garbage)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use tokio::net::TcpListener;

    use super::*;

    const SERVER: Ipv4Addr = Ipv4Addr::LOCALHOST;
    const OWN: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
    /// For documentation (RFC 5737): no machine has it.
    const NOT_OURS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

    fn v4(addr: SocketAddr) -> SocketAddrV4 {
        let SocketAddr::V4(addr) = addr else { panic!("{addr}") };
        addr
    }

    #[tokio::test]
    async fn questions_are_sent_from_the_virtual_address_only() {
        let udp = UdpSocket::bind((SERVER, 0)).await.unwrap();
        let to = v4(udp.local_addr().unwrap());
        assert_eq!(ask(Language::Quake3, NOT_OURS, to).await, Err(Outcome::Silent));
        let mut question = [0; 64];
        let (asked, heard) = tokio::join!(ask(Language::Quake3, OWN, to), async {
            let (_, from) = udp.recv_from(&mut question).await.unwrap();
            udp.send_to(b"no answer of a server", from).await.unwrap();
            v4(from)
        });
        assert_eq!((asked, *heard.ip()), (Err(Outcome::Garbage), OWN), "the first that is heard");

        let tcp = TcpListener::bind((SERVER, 0)).await.unwrap();
        let to = v4(tcp.local_addr().unwrap());
        assert_eq!(ask(Language::Minecraft, NOT_OURS, to).await, Err(Outcome::Silent));
        let (_, heard) = tokio::join!(ask(Language::Minecraft, OWN, to), async { v4(tcp.accept().await.unwrap().1) });
        assert_eq!(*heard.ip(), OWN, "the first that is heard");
    }
}
