//! The public interface of futures-timer 3, on tokio's clock instead of a helper thread that parks on the system's.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep};

/// Resolves once its duration has passed on tokio's clock. It may be made outside a runtime, like the original; the
/// timer is registered at the first poll.
pub struct Delay {
    at: Instant,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Delay {
    #[must_use]
    pub fn new(dur: Duration) -> Self {
        Self { at: Instant::now() + dur, sleep: None }
    }

    pub fn reset(&mut self, dur: Duration) {
        self.at = Instant::now() + dur;
        if let Some(sleep) = &mut self.sleep {
            sleep.as_mut().reset(self.at);
        }
    }
}

impl Future for Delay {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let at = self.at;
        self.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(at))).as_mut().poll(cx)
    }
}

impl fmt::Debug for Delay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Delay").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_follows_the_paused_clock() {
        let start = Instant::now();
        let mut delay = Delay::new(Duration::from_secs(3_600));
        delay.reset(Duration::from_secs(60));
        (&mut delay).await;
        assert_eq!(start.elapsed().as_secs(), 60);
        delay.reset(Duration::from_secs(5));
        delay.await;
        assert_eq!(start.elapsed().as_secs(), 65);
    }
}
