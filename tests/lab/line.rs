//! A line with delay and jitter: two TAP devices, one at each end, and a queue for each direction.
//! The kernel's netem is not in every kernel; this needs nothing but TAPs.

use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::Host;

/// How far apart the ends of a line are, each way.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Quality {
    pub(crate) delay: Duration,
    /// Up to so much more, by chance and evenly; the order is kept.
    pub(crate) jitter: Duration,
}

impl Quality {
    pub(crate) fn delay_ms(delay: u64) -> Self {
        Self { delay: Duration::from_millis(delay), jitter: Duration::ZERO }
    }
}

/// Frames that are under way in one direction; what comes on top is lost, as in a full router.
const QUEUE: usize = 10_000;
const FRAME: usize = 2_048;

/// Two interfaces in two namespaces with a line between them; gone when dropped.
#[derive(Debug)]
pub(crate) struct Line {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    /// Microseconds.
    delay: AtomicU64,
    jitter: AtomicU64,
    ended: AtomicBool,
    lost: AtomicU64,
}

impl Line {
    pub(super) fn between(a: (&Host, &str), b: (&Host, &str), quality: Quality) -> Self {
        let shared = Arc::new(Shared {
            delay: AtomicU64::new(0),
            jitter: AtomicU64::new(0),
            ended: AtomicBool::new(false),
            lost: AtomicU64::new(0),
        });
        let [a, b] = [a, b].map(|(host, interface)| Arc::new(tap(host, interface)));
        let mut threads = Vec::new();
        for (from, to) in [(&a, &b), (&b, &a)] {
            let (queue, due) = sync_channel(QUEUE);
            let (reader, shared_too) = (Arc::clone(from), Arc::clone(&shared));
            threads.push(std::thread::spawn(move || take(&reader, &queue, &shared_too)));
            let writer = Arc::clone(to);
            threads.push(std::thread::spawn(move || deliver(&writer, &due)));
        }
        let line = Self { shared, threads };
        line.set(quality);
        line
    }

    /// From now on.
    pub(crate) fn set(&self, quality: Quality) {
        let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap();
        self.shared.delay.store(micros(quality.delay), Ordering::Relaxed);
        self.shared.jitter.store(micros(quality.jitter), Ordering::Relaxed);
    }

    /// Frames for which the queue had no room.
    pub(crate) fn lost(&self) -> u64 {
        self.shared.lost.load(Ordering::Relaxed)
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            drop(thread.join());
        }
    }
}

fn tap(host: &Host, interface: &str) -> tun::Device {
    host.enter(|| {
        let mut wanted = tun::Configuration::default();
        wanted.tun_name(interface).layer(tun::Layer::L2);
        // It would set addresses; the plan of the site does.
        wanted.platform_config(|linux| {
            linux.ensure_root_privileges(false);
        });
        tun::create(&wanted).unwrap()
    })
}

fn take(from: &tun::Device, queue: &SyncSender<(Instant, Vec<u8>)>, shared: &Shared) {
    let mut buffer = [0; FRAME];
    let mut last = Instant::now();
    let mut chance = 0x9e37_79b9_7f4a_7c15_u64;
    while !shared.ended.load(Ordering::Relaxed) {
        // Also an error when the interface is still down.
        let Ok(length) = from.recv_timeout(&mut buffer, Duration::from_millis(100)) else { continue };
        chance ^= chance << 13;
        chance ^= chance >> 7;
        chance ^= chance << 17;
        let jitter = chance.checked_rem(shared.jitter.load(Ordering::Relaxed)).unwrap_or(0);
        let due = Instant::now() + Duration::from_micros(shared.delay.load(Ordering::Relaxed) + jitter);
        last = last.max(due);
        if queue.try_send((last, buffer[..length].to_vec())).is_err() {
            shared.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn deliver(to: &tun::Device, due: &Receiver<(Instant, Vec<u8>)>) {
    // The kernel lets sleepers lie 50 µs longer unless asked not to.
    let _ = rustix::thread::set_current_timer_slack(NonZeroU64::new(1));
    while let Ok((when, frame)) = due.recv() {
        std::thread::sleep(when.saturating_duration_since(Instant::now()));
        // An interface that is down takes nothing, as an unplugged cable.
        let _ = to.send(&frame);
    }
}
