//! Tells watches that a table has changed, in the order in which they began to wait.
//!
//! tokio's `watch` channel does the same but wakes its receivers in an order drawn anew each time, which a simulated
//! history cannot be replayed with.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Notify;

/// The version of a [`Signal`] whose sender is gone.
const GONE: u64 = u64::MAX;

#[derive(Debug, Default)]
struct Shared {
    version: AtomicU64,
    notify: Notify,
}

/// The side that tells. Receivers learn when it is dropped.
#[derive(Debug, Default)]
pub(super) struct Signal(Arc<Shared>);

impl Signal {
    /// Wakes everybody who waits, and whoever waits next without having looked since.
    pub(super) fn send(&self) {
        self.0.version.fetch_add(1, Ordering::AcqRel);
        self.0.notify.notify_waiters();
    }

    /// A receiver that has seen everything up to now.
    pub(super) fn subscribe(&self) -> Receiver {
        Receiver { seen: self.0.version.load(Ordering::Acquire), shared: Arc::clone(&self.0) }
    }
}

impl Drop for Signal {
    fn drop(&mut self) {
        self.0.version.store(GONE, Ordering::Release);
        self.0.notify.notify_waiters();
    }
}

/// The side that waits.
#[derive(Debug)]
pub(crate) struct Receiver {
    seen: u64,
    shared: Arc<Shared>,
}

/// What was waited for does not exist any more.
#[derive(Debug, Eq, PartialEq)]
pub(super) struct Gone;

impl Receiver {
    /// Says that the receiver now looks at what there is: [`Receiver::changed`] waits for what comes after it.
    pub(super) fn look(&mut self) {
        self.seen = self.shared.version.load(Ordering::Acquire);
    }

    /// Waits until something has changed since the last look.
    pub(super) async fn changed(&mut self) -> Result<(), Gone> {
        loop {
            // Registered before the version is read, so that no change falls in between.
            let notified = self.shared.notify.notified();
            tokio::pin!(notified);
            notified.as_mut().enable();
            match self.shared.version.load(Ordering::Acquire) {
                GONE => return Err(Gone),
                version if version != self.seen => {
                    self.seen = version;
                    return Ok(());
                }
                _ => notified.await,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[tokio::test]
    async fn a_change_between_look_and_wait_is_not_missed() {
        let signal = Signal::default();
        let mut receiver = signal.subscribe();
        signal.send();
        assert_eq!(receiver.changed().await, Ok(()));
        signal.send();
        receiver.look();
        drop(signal);
        assert_eq!(receiver.changed().await, Err(Gone));
    }

    #[tokio::test]
    async fn whoever_waited_first_wakes_first() {
        let signal = Signal::default();
        let woken: Arc<Mutex<Vec<usize>>> = Arc::default();
        let mut tasks = tokio::task::JoinSet::new();
        for number in 0..40 {
            let (mut receiver, woken) = (signal.subscribe(), Arc::clone(&woken));
            tasks.spawn(async move {
                receiver.changed().await.unwrap();
                woken.lock().unwrap().push(number);
            });
        }
        tokio::task::yield_now().await;
        signal.send();
        tasks.join_all().await;
        assert_eq!(*woken.lock().unwrap(), (0..40).collect::<Vec<_>>());
    }
}
