//! One question to one server, with a socket and a clock.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

use super::machine::Outcome;
use super::query::{Answer, Carrier, Conversation, Language, MAX_ANSWER, MAX_QUESTIONS, Step};

/// For the whole conversation.
const PATIENCE: Duration = Duration::from_secs(4);
/// A datagram is lost now and then.
const REPEAT_AFTER: Duration = Duration::from_millis(700);

/// What the server says, and the time from the first question to its answer.
pub(super) async fn ask(language: Language, ip: Ipv4Addr, port: u16) -> Result<(Answer, Duration), Outcome> {
    let to = SocketAddrV4::new(ip, port);
    let conversation = Conversation::new(language, rand::random(), port);
    let talk = async {
        match language.carrier() {
            Carrier::Udp => over_udp(&conversation, to).await,
            Carrier::Tcp => over_tcp(&conversation, to).await,
        }
    };
    // Refused is as good as silent: there is no such server.
    timeout(PATIENCE, talk).await.unwrap_or(Ok(Err(Outcome::Silent))).unwrap_or(Err(Outcome::Silent))
}

type Talk = io::Result<Result<(Answer, Duration), Outcome>>;

async fn over_udp(conversation: &Conversation, to: SocketAddrV4) -> Talk {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await?;
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

async fn over_tcp(conversation: &Conversation, to: SocketAddrV4) -> Talk {
    let started = Instant::now();
    let mut stream = TcpStream::connect(to).await?;
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
