//! Party streams: whole frames over a libp2p stream, each with its length (4 bytes, big endian) in front.

use std::io;
use std::time::Duration;

use actix::Recipient;
use futures::future::{Either, select};
use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, pin_mut};
use tokio::sync::mpsc;

use super::super::messages::{LinkClosed, LinkFrame, LinkId, LinkOpened, MAX_FRAME};

/// Frames that wait to be written; beyond that the link is too slow to keep and is closed. A whole roster of the largest
/// kind is some 110 at once.
pub(in crate::discovery) const SEND_QUEUE: usize = 256;
/// A frame that takes longer to write means that the other side is gone.
const WRITE_TIMEOUT: Duration = Duration::from_secs(20);

/// Where a link tells what happens to it.
#[derive(Clone)]
pub(in crate::discovery) struct LinkListener {
    pub(in crate::discovery) opened: Recipient<LinkOpened>,
    pub(in crate::discovery) frame: Recipient<LinkFrame>,
    pub(in crate::discovery) closed: Recipient<LinkClosed>,
}

/// Carries frames until either side closes. The listener hears `LinkOpened` first and `LinkClosed` last.
pub(in crate::discovery) async fn run(
    stream: libp2p::Stream,
    opened: LinkOpened,
    outgoing: mpsc::Receiver<Vec<u8>>,
    listener: LinkListener,
) {
    let link = opened.link;
    if listener.opened.send(opened).await.is_ok() {
        let (reader, writer) = stream.split();
        let read = read_frames(reader, link, &listener);
        let write = write_frames(writer, outgoing);
        pin_mut!(read, write);
        let end = match select(read, write).await {
            Either::Left((end, _)) | Either::Right((end, _)) => end,
        };
        tracing::debug!(?link, ?end, "party stream ended");
    }
    let _ = listener.closed.send(LinkClosed(link)).await;
}

async fn read_frames(mut reader: impl AsyncRead + Unpin, link: LinkId, listener: &LinkListener) -> io::Result<()> {
    loop {
        let frame = read_frame(&mut reader).await?;
        // Waits while the mailbox is full: the other side then waits too.
        listener.frame.send(LinkFrame { link, frame }).await.map_err(io::Error::other)?;
    }
}

/// One frame.
///
/// # Errors
/// When the stream ends, or announces a frame of no or more than `MAX_FRAME` bytes.
async fn read_frame(reader: &mut (impl AsyncRead + Unpin)) -> io::Result<Vec<u8>> {
    let mut length = [0; 4];
    reader.read_exact(&mut length).await?;
    let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
    if length == 0 || length > MAX_FRAME {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("frame of {length} bytes")));
    }
    // Grows with what arrives, so that a lying length costs nothing.
    let mut frame = Vec::with_capacity(length.min(4096));
    let got = reader.take(length as u64).read_to_end(&mut frame).await?;
    if got < length {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(frame)
}

async fn write_frames(mut writer: impl AsyncWrite + Unpin, mut outgoing: mpsc::Receiver<Vec<u8>>) -> io::Result<()> {
    while let Some(frame) = outgoing.recv().await {
        let write = async {
            let length = u32::try_from(frame.len()).map_err(io::Error::other)?;
            writer.write_all(&length.to_be_bytes()).await?;
            writer.write_all(&frame).await?;
            if outgoing.is_empty() { writer.flush().await } else { Ok(()) }
        };
        tokio::time::timeout(WRITE_TIMEOUT, write).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    }
    tokio::time::timeout(WRITE_TIMEOUT, writer.close()).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::io::Cursor;
    use proptest::prelude::*;

    fn read_all(bytes: &[u8]) -> (Vec<Vec<u8>>, io::ErrorKind) {
        futures::executor::block_on(async {
            let mut reader = Cursor::new(bytes);
            let mut frames = Vec::new();
            loop {
                match read_frame(&mut reader).await {
                    Ok(frame) => frames.push(frame),
                    Err(error) => return (frames, error.kind()),
                }
            }
        })
    }

    #[tokio::test]
    async fn frames_come_out_as_they_went_in() {
        let frames = vec![vec![1], vec![2; MAX_FRAME], vec![3; 10]];
        let (sender, receiver) = mpsc::channel(8);
        for frame in &frames {
            sender.send(frame.clone()).await.unwrap();
        }
        drop(sender);
        let mut wire = Cursor::new(Vec::new());
        write_frames(&mut wire, receiver).await.unwrap();
        assert_eq!(read_all(wire.get_ref()), (frames, io::ErrorKind::UnexpectedEof));
    }

    #[test]
    fn lying_lengths_are_refused() {
        assert_eq!(read_all(&[0, 0, 0, 0]).1, io::ErrorKind::InvalidData);
        assert_eq!(read_all(&u32::MAX.to_be_bytes()).1, io::ErrorKind::InvalidData);
        assert_eq!(read_all(&[0, 1, 0, 1, 9]).1, io::ErrorKind::InvalidData);
        assert_eq!(read_all(&[0, 0, 0, 9, 1, 2]).1, io::ErrorKind::UnexpectedEof);
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
            let (frames, _) = read_all(&bytes);
            prop_assert!(frames.iter().map(Vec::len).sum::<usize>() <= bytes.len());
        }
    }
}
