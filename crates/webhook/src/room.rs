//! How much of what clients send is held at a time. Anybody in the cluster can reach the server, and its pod may use 512 Mi.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Bytes that are kept and worked on at a time, in all requests. While it is converted a body is there three times: as it
/// came, as it became, and in the answer.
const TOTAL: usize = 64 * 1024 * 1024;
/// What a permit is for. Semaphores count in `u32`.
const UNIT: usize = 1024;

/// What is left of the room.
#[derive(Clone, Debug)]
pub(crate) struct Room(Arc<Semaphore>);

/// Room for one request, until it is dropped.
#[derive(Debug)]
pub(crate) struct Taken(#[expect(dead_code, reason = "held for its drop")] OwnedSemaphorePermit);

impl Room {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Semaphore::new(TOTAL / UNIT)))
    }

    #[cfg(test)]
    pub(crate) fn left(&self) -> usize {
        self.0.available_permits().saturating_mul(UNIT)
    }

    /// Room for a body of `told` and at most `limit` bytes, each of which is worth `factor`; none if there was none in time. A
    /// client that does not tell takes as much as it may send, and a body that is too large is not kept at all.
    pub(crate) async fn take(
        &self,
        told: Option<usize>,
        limit: usize,
        factor: usize,
        within: Duration,
    ) -> Option<Taken> {
        let kept = match told {
            Some(size) if size > limit => 0,
            Some(size) => size,
            None => limit,
        };
        let units = kept.saturating_mul(factor).min(TOTAL).div_ceil(UNIT);
        let permits = Arc::clone(&self.0).acquire_many_owned(u32::try_from(units).ok()?);
        Some(Taken(tokio::time::timeout(within, permits).await.ok()?.ok()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1024 * 1024;

    #[tokio::test(start_paused = true)]
    async fn whoever_comes_waits_until_there_is_room_and_not_for_ever() {
        let room = Room::new();
        let within = Duration::from_secs(5);
        let first = room.take(None, 32 * MIB, 1, within).await.unwrap();
        let second = room.take(None, 7 * MIB, 4, within).await.unwrap();
        assert!(room.take(None, 5 * MIB, 1, within).await.is_none());
        // Nothing of these is kept, or little.
        assert!(room.take(Some(9), 8, 1, within).await.is_some());
        assert!(room.take(Some(MIB), 32 * MIB, 1, within).await.is_some());
        let waiting = room.take(None, 40 * MIB, 1, within);
        tokio::pin!(waiting);
        assert!(futures::poll!(&mut waiting).is_pending());
        drop(first);
        assert!(futures::poll!(&mut waiting).is_pending());
        drop(second);
        assert!(waiting.await.is_some());
        // More than there is, is all.
        assert!(room.take(None, 100 * MIB, 1, within).await.is_some());
    }
}
