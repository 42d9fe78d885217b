//! Both ends of a connection: bytes that arrive after the link's delay, in order, none lost.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, Sleep};

use super::net::{Line, now};

/// Bytes under way in one direction before the writer has to wait: a common TCP window.
const WINDOW: usize = 256 * 1024;

/// One direction.
#[derive(Debug, Default)]
struct Way {
    /// An empty chunk is the end of the stream.
    chunks: VecDeque<(Instant, Vec<u8>)>,
    /// Read so far of the first chunk.
    offset: usize,
    bytes: usize,
    closed: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

impl Way {
    fn push(&mut self, due: Instant, bytes: &[u8]) {
        match self.chunks.back_mut() {
            Some((last, chunk)) if *last == due && !bytes.is_empty() && !chunk.is_empty() => chunk.extend(bytes),
            Some(_) | None => self.chunks.push_back((due, bytes.to_vec())),
        }
        self.bytes += bytes.len();
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }
}

fn lock(way: &Mutex<Way>) -> MutexGuard<'_, Way> {
    way.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One end.
#[derive(Debug)]
pub struct Connection {
    incoming: Arc<Mutex<Way>>,
    outgoing: Arc<Mutex<Way>>,
    delay: Duration,
    own: Arc<Line>,
    other: Arc<Line>,
    timer: Option<Pin<Box<Sleep>>>,
}

pub(super) fn pair(delay: Duration, a: Arc<Line>, b: Arc<Line>) -> (Connection, Connection) {
    let (there, back) = (Arc::new(Mutex::new(Way::default())), Arc::new(Mutex::new(Way::default())));
    let near = Connection {
        incoming: back.clone(),
        outgoing: there.clone(),
        delay,
        own: a.clone(),
        other: b.clone(),
        timer: None,
    };
    (near, Connection { incoming: there, outgoing: back, delay, own: b, other: a, timer: None })
}

impl Connection {
    /// Both machines have power. If not, nothing happens any more; only timeouts of those who wait tell them.
    fn works(&self) -> bool {
        self.own.up.load(Ordering::Relaxed) && self.other.up.load(Ordering::Relaxed)
    }

    fn end(&self) {
        let mut way = lock(&self.outgoing);
        if !way.closed {
            way.closed = true;
            way.push(now() + self.delay, &[]);
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if !this.works() {
            return Poll::Pending;
        }
        loop {
            let mut guard = lock(&this.incoming);
            let way = &mut *guard;
            let Some((due, chunk)) = way.chunks.front() else {
                way.reader = Some(cx.waker().clone());
                return Poll::Pending;
            };
            let due = *due;
            if due <= now() {
                if chunk.is_empty() {
                    return Poll::Ready(Ok(0));
                }
                let rest = &chunk[way.offset..];
                let length = rest.len().min(buffer.len());
                buffer[..length].copy_from_slice(&rest[..length]);
                if length == rest.len() {
                    way.chunks.pop_front();
                    way.offset = 0;
                } else {
                    way.offset += length;
                }
                way.bytes -= length;
                if let Some(writer) = way.writer.take() {
                    writer.wake();
                }
                this.own.received.fetch_add(length as u64, Ordering::Relaxed);
                return Poll::Ready(Ok(length));
            }
            drop(guard);
            let timer = this.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(due)));
            if timer.deadline() != due {
                timer.as_mut().reset(due);
            }
            if timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
        let mut way = lock(&self.outgoing);
        if way.closed {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let room = WINDOW.saturating_sub(way.bytes);
        if room == 0 {
            way.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let length = room.min(buffer.len());
        if length > 0 {
            way.push(now() + self.delay, &buffer[..length]);
            self.own.sent.fetch_add(length as u64, Ordering::Relaxed);
        }
        Poll::Ready(Ok(length))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.end();
        Poll::Ready(Ok(()))
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.end();
        // The other end's writes fail from now on; what is under way to this one is lost.
        let mut way = lock(&self.incoming);
        way.closed = true;
        way.chunks.clear();
        way.bytes = 0;
        if let Some(writer) = way.writer.take() {
            writer.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicU64};

    use futures::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    fn line() -> Arc<Line> {
        Arc::new(Line { up: AtomicBool::new(true), sent: AtomicU64::new(0), received: AtomicU64::new(0) })
    }

    #[tokio::test(start_paused = true)]
    async fn bytes_arrive_in_order_after_the_delay_and_then_the_end() {
        let (a, b) = (line(), line());
        let (mut near, mut far) = pair(Duration::from_millis(40), a.clone(), b.clone());
        let start = now();
        near.write_all(b"one ").await.unwrap();
        tokio::time::sleep(Duration::from_millis(10)).await;
        near.write_all(b"two").await.unwrap();
        near.close().await.unwrap();
        let mut first = [0; 4];
        far.read_exact(&mut first).await.unwrap();
        assert_eq!((&first, start.elapsed().as_millis()), (b"one ", 40));
        let mut rest = String::new();
        far.read_to_string(&mut rest).await.unwrap();
        assert_eq!((rest.as_str(), start.elapsed().as_millis()), ("two", 50));
        assert_eq!((a.sent.load(Ordering::Relaxed), b.received.load(Ordering::Relaxed)), (7, 7));
        assert!(near.write_all(b"after the end").await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_window_makes_the_writer_wait() {
        let (mut near, mut far) = pair(Duration::from_millis(40), line(), line());
        let start = now();
        let big = vec![7; 3 * WINDOW];
        let write = async { near.write_all(&big).await };
        let read = async {
            let mut all = vec![0; 3 * WINDOW];
            far.read_exact(&mut all).await.map(|()| all)
        };
        let (written, read) = futures::join!(write, read);
        written.unwrap();
        assert!(read.unwrap() == big);
        assert!(start.elapsed() >= Duration::from_millis(3 * 40), "{:?}", start.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_machine_that_is_gone_is_silent() {
        let (a, b) = (line(), line());
        let (mut near, far) = pair(Duration::from_millis(40), a, b.clone());
        b.up.store(false, Ordering::Relaxed);
        drop(far);
        let mut byte = [0; 1];
        let waited = tokio::time::timeout(Duration::from_secs(60), near.read(&mut byte)).await;
        assert!(waited.is_err(), "silence, neither an end nor an error");
    }
}
