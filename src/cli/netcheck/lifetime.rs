//! `--lifetime`: the machine of `nat::lifetime` with sockets.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use lanrage_actors::nat::lifetime::{Frames, LifetimeTest, MappingLifetime};
use lanrage_actors::relay::frame::{Ask, Forward, Forwarded, TicketFrame};
use lanrage_actors::wire::{LocalSocket, RelayToken};
use tokio::net::UdpSocket;
use tokio::sync::mpsc;

/// Datagrams that wait; there is one for each socket at a time.
const QUEUE: usize = 64;
const MAX_DATAGRAM: usize = 1500;

/// The relay's frames as they are.
struct RelayFrames;

impl Frames for RelayFrames {
    fn ask(&self, id: u64) -> Vec<u8> {
        Ask { id }.encode().to_vec()
    }

    fn ticket(&self, datagram: &[u8]) -> Option<(u64, RelayToken)> {
        TicketFrame::parse(datagram).map(|ticket| (ticket.id, ticket.token))
    }

    fn forward(&self, token: &RelayToken, payload: &[u8]) -> Vec<u8> {
        [&Forward::header(token)[..], payload].concat()
    }

    fn forwarded<'a>(&self, datagram: &'a [u8]) -> Option<&'a [u8]> {
        Forwarded::parse(datagram).map(|forwarded| forwarded.payload)
    }
}

/// Takes somewhat longer than the longest of `waits`, seconds.
pub(super) async fn measure(relay: SocketAddr, waits: &[u16]) -> io::Result<MappingLifetime> {
    let mut test = LifetimeTest::new(Instant::now(), relay, waits, rand::random);
    let mut sockets = Vec::new();
    for _ in 0..=test.sockets() {
        sockets.push(std::sync::Arc::new(UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await?));
    }
    let (arrived, mut inbox) = mpsc::channel(QUEUE);
    let mut readers = tokio::task::JoinSet::new();
    for (local, socket) in (0..).map(LocalSocket).zip(&sockets) {
        let (socket, arrived) = (socket.clone(), arrived.clone());
        readers.spawn(async move {
            let mut buffer = [0; MAX_DATAGRAM];
            loop {
                // An error is an ICMP answer to something sent before.
                if let Ok((len, from)) = socket.recv_from(&mut buffer).await {
                    let datagram = buffer.get(..len).unwrap_or_default().to_vec();
                    let _ = arrived.try_send((local, from, datagram));
                }
            }
        });
    }
    loop {
        let mut out = Vec::new();
        test.poll(Instant::now(), &RelayFrames, &mut |local, to, bytes| out.push((local, to, bytes.to_vec())));
        for (local, to, bytes) in out {
            if let Some(socket) = sockets.get(usize::from(local.0)) {
                // Unanswered then, like one that was lost.
                let _ = socket.send_to(&bytes, to).await;
            }
        }
        if let Some(result) = test.result() {
            return Ok(result);
        }
        let wake = test.poll_timeout().unwrap_or_else(|| Instant::now() + Duration::from_secs(1));
        tokio::select! {
            Some((local, from, datagram)) = inbox.recv() => {
                test.handle(Instant::now(), &RelayFrames, local, from, &datagram);
            }
            () = tokio::time::sleep_until(wake.into()) => {}
        }
    }
}
