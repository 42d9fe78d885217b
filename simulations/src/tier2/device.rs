//! The virtual device: hands out what the game sends, and shows the game what comes.

use std::io;
use std::task::{Context, Poll};

use lanrage_actors::tun::device::{Device, DeviceFactory, OpenError, OpenRequest, ReadError, WriteReport};
use lanrage_actors::tun::offload::Incoming;
use lanrage_actors::tun::routes::LocalRoute;
use lanrage_actors::wire::PacketBatch;

use super::{game, world};

#[derive(Debug, Clone, Copy)]
pub struct SimFactory {
    pub node: usize,
}

#[derive(Debug)]
struct SimDevice {
    node: usize,
    run: u32,
    current: Vec<u8>,
}

impl DeviceFactory for SimFactory {
    fn open(&self, request: &OpenRequest<'_>) -> Result<Box<dyn Device>, OpenError> {
        let node = self.node;
        let run = world::with(|world| {
            world.alive += 1;
            world.note(format_args!("device of {node} at {}", request.address.ip));
            let port = &mut world.ports[node];
            port.virtual_ip = Some(request.address.ip);
            port.last_ip = port.virtual_ip;
            port.device.clear();
            port.run
        });
        Ok(Box::new(SimDevice { node, run, current: Vec::new() }))
    }

    fn local_routes(&self) -> io::Result<Vec<LocalRoute>> {
        Ok(Vec::new())
    }
}

impl Drop for SimDevice {
    fn drop(&mut self) {
        let (node, run) = (self.node, self.run);
        world::try_with(|world| {
            world.alive -= 1;
            let port = &mut world.ports[node];
            if port.run == run {
                port.virtual_ip = None;
            }
            if let Some(waker) = port.device_waker.take() {
                waker.wake();
            }
        });
    }
}

impl Device for SimDevice {
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<Incoming<'_>, ReadError>> {
        let node = self.node;
        let next = world::with(|world| {
            let port = &mut world.ports[node];
            let next = port.device.pop_front();
            if next.is_none() {
                port.device_waker = Some(cx.waker().clone());
            }
            next
        });
        match next {
            Some(packet) => {
                self.current = packet;
                Poll::Ready(Incoming::plain(&self.current).ok_or(ReadError::Malformed))
            }
            None => Poll::Pending,
        }
    }

    fn write_batch(&mut self, batch: &PacketBatch) -> WriteReport {
        let mut report = WriteReport::default();
        world::with(|world| {
            for packet in batch.iter() {
                report.packets += 1;
                report.bytes += packet.len() as u64;
                game::arrived(world, self.node, packet);
            }
        });
        report
    }
}
