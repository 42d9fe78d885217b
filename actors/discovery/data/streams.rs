//! One data stream: its queue in front, and the task that reads and writes it.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::time::{Duration, Instant};

use actix::Recipient;
use actix::prelude::SendError;
use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::Notify;
use tokio::time::timeout;

use super::super::messages::{DataStreamClosed, DataStreamOpened, StreamDatagrams};
use super::plan::Opened;
use super::queue::{Decoder, Frame, LENGTH, MAX_DATAGRAM, SendQueue, write_count};
use super::window::{COUNT_EVERY, Window};
use crate::wire::{NodeId, PacketBatch};

/// Most bytes in one write: a frame of the multiplexer.
const MAX_WRITE: usize = 16 * 1024;
/// A write that takes longer means that the other side is gone.
const WRITE_TIMEOUT: Duration = Duration::from_secs(20);
/// An accepted stream is confirmed by its first frame; a refused one ends.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(10);
/// A stream that somebody else opened and does not use is closed: its place may be wanted.
const IDLE_TIMEOUT: Duration = Duration::from_secs(300);

fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// What the actor, the reading and the writing half share.
pub(super) struct Channel {
    state: RefCell<State>,
    wake: Notify,
    lost: Notify,
}

struct State {
    queue: SendQueue,
    window: Window,
    /// Bytes of datagram frames received, to be told to the other side.
    count: Option<u64>,
    closing: bool,
}

impl Channel {
    pub(super) fn new() -> Rc<Self> {
        let state = State {
            queue: SendQueue::default(),
            window: Window::new(now()),
            // The first frame tells the other side that the stream is there.
            count: Some(0),
            closing: false,
        };
        Rc::new(Self { state: RefCell::new(state), wake: Notify::new(), lost: Notify::new() })
    }

    pub(super) fn push<'a>(&self, datagrams: impl Iterator<Item = &'a [u8]>) {
        let mut state = self.state.borrow_mut();
        for datagram in datagrams {
            state.queue.push(datagram);
        }
        drop(state);
        self.wake.notify_one();
    }

    /// Ends the stream once what waits is out.
    pub(super) fn close(&self) {
        self.state.borrow_mut().closing = true;
        self.wake.notify_one();
    }

    /// Ends the stream at once: nobody is at the other end.
    pub(super) fn abort(&self) {
        self.lost.notify_one();
    }

    /// Datagrams dropped so far because newer ones came.
    pub(super) fn dropped(&self) -> u64 {
        self.state.borrow().queue.dropped()
    }

    fn tell_count(&self, count: u64) {
        self.state.borrow_mut().count = Some(count);
        self.wake.notify_one();
    }

    fn acknowledged(&self, count: u32) -> io::Result<()> {
        self.state.borrow_mut().window.acknowledged(now(), count).map_err(invalid)?;
        self.wake.notify_one();
        Ok(())
    }

    /// Fills `out` with what may be written now.
    fn next_write(&self, out: &mut Vec<u8>) -> Next {
        out.clear();
        let mut state = self.state.borrow_mut();
        let State { queue, window, count, closing } = &mut *state;
        if let Some(count) = count.take() {
            write_count(count, out);
        }
        let room = window.room();
        let taken = queue.take(room.min(MAX_WRITE), out);
        let limited = !queue.is_empty() && room - taken < LENGTH + MAX_DATAGRAM;
        window.sent(now(), taken, limited);
        match (out.is_empty(), *closing) {
            (false, _) => Next::Write,
            (true, true) => Next::Close,
            (true, false) => Next::Wait,
        }
    }
}

enum Next {
    Write,
    Wait,
    Close,
}

fn invalid(error: impl std::error::Error + Send + Sync + 'static) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

/// Whom a stream tells what happens to it.
#[derive(Clone)]
pub(in crate::discovery) struct Listener {
    pub(super) opened: Recipient<DataStreamOpened>,
    pub(super) closed: Recipient<DataStreamClosed>,
    pub(super) datagrams: Recipient<StreamDatagrams>,
}

/// One stream and who is at the other end.
pub(super) struct Opening {
    pub(super) id: u64,
    pub(super) node: NodeId,
    pub(super) inbound: bool,
}

/// Carries datagrams until either side closes. The listener hears `DataStreamOpened` first, when both sides want the
/// stream, and `DataStreamClosed` last. `confirmed` is
/// asked when the other side has accepted; `None` ends the stream.
pub(super) async fn run(
    stream: impl AsyncRead + AsyncWrite,
    opening: Opening,
    channel: Rc<Channel>,
    listener: Listener,
    confirmed: impl AsyncFnOnce() -> Option<Opened>,
) {
    let id = opening.id;
    let mut announced = false;
    let end = {
        let (reader, writer) = stream.split();
        let read = read(reader, opening, &channel, &listener, confirmed, &mut announced);
        let write = write(writer, &channel);
        tokio::select! {
            end = read => end,
            end = write => end,
            () = channel.lost.notified() => Err(io::ErrorKind::ConnectionAborted.into()),
        }
    };
    tracing::debug!(id, ?end, "data stream ended");
    if announced {
        let _ = listener.closed.send(DataStreamClosed { stream: id }).await;
    }
}

async fn read(
    mut reader: impl AsyncRead + Unpin,
    opening: Opening,
    channel: &Channel,
    listener: &Listener,
    confirmed: impl AsyncFnOnce() -> Option<Opened>,
    announced: &mut bool,
) -> io::Result<()> {
    let Opening { id, node, inbound } = opening;
    let mut relay = None;
    let mut decoder = Decoder::default();
    let mut bytes = 0;
    if !inbound {
        bytes = timeout(CONFIRM_TIMEOUT, reader.read(decoder.spare())).await??;
        if bytes == 0 {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        relay = confirmed().await.ok_or(io::ErrorKind::ConnectionAborted)?.relay;
    }
    let opened = DataStreamOpened { stream: id, node, inbound, relay };
    listener.opened.send(opened).await.map_err(io::Error::other)?;
    *announced = true;
    let (mut received, mut told) = (0u64, 0u64);
    let limit = if inbound { IDLE_TIMEOUT } else { Duration::MAX };
    loop {
        if bytes == 0 {
            bytes = timeout(limit, reader.read(decoder.spare())).await??;
            if bytes == 0 {
                return Ok(());
            }
        }
        decoder.filled(bytes);
        bytes = 0;
        let mut batch = PacketBatch::new();
        while let Some(frame) = decoder.next_frame().map_err(invalid)? {
            match frame {
                Frame::Count(count) => channel.acknowledged(count)?,
                Frame::Datagram(datagram) => {
                    received += (LENGTH + datagram.len()) as u64;
                    if !batch.push(datagram) {
                        deliver(listener, id, std::mem::take(&mut batch)).await?;
                        let _ = batch.push(datagram);
                    }
                }
            }
        }
        if !batch.is_empty() {
            deliver(listener, id, batch).await?;
        }
        // Only now: while nobody takes them, the other side must not send more.
        if received - told >= COUNT_EVERY as u64 {
            told = received;
            channel.tell_count(received);
        }
    }
}

async fn deliver(listener: &Listener, stream: u64, batch: PacketBatch) -> io::Result<()> {
    match listener.datagrams.try_send(StreamDatagrams { stream, batch }) {
        Ok(()) => Ok(()),
        Err(SendError::Full(datagrams)) => listener.datagrams.send(datagrams).await.map_err(io::Error::other),
        Err(SendError::Closed(_)) => Err(io::ErrorKind::BrokenPipe.into()),
    }
}

async fn write(mut writer: impl AsyncWrite + Unpin, channel: &Channel) -> io::Result<()> {
    let mut out = Vec::with_capacity(MAX_WRITE + 8);
    loop {
        match channel.next_write(&mut out) {
            Next::Wait => channel.wake.notified().await,
            Next::Close => return timeout(WRITE_TIMEOUT, writer.close()).await?,
            Next::Write => {
                let write = async {
                    writer.write_all(&out).await?;
                    writer.flush().await
                };
                timeout(WRITE_TIMEOUT, write).await??;
            }
        }
    }
}
