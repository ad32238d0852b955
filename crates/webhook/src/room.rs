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

/// The room of one request, until it is dropped. It grows with what has come: whoever promises much and sends nothing takes
/// nothing.
#[derive(Debug)]
pub(crate) struct Taken {
    room: Arc<Semaphore>,
    bytes: usize,
    permits: Option<OwnedSemaphorePermit>,
    units: usize,
}

impl Room {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Semaphore::new(TOTAL / UNIT)))
    }

    #[cfg(test)]
    pub(crate) fn left(&self) -> usize {
        self.0.available_permits().saturating_mul(UNIT)
    }

    /// Room for a request of which nothing has come yet.
    pub(crate) fn enter(&self) -> Taken {
        Taken { room: Arc::clone(&self.0), bytes: 0, permits: None, units: 0 }
    }
}

impl Taken {
    /// Takes room for so many bytes more; false if there was none in time. Those who wait hold what they have, so the time is
    /// also what ends it if several wait for each other.
    pub(crate) async fn more(&mut self, bytes: usize, within: Duration) -> bool {
        self.bytes = self.bytes.saturating_add(bytes);
        // More than there is, is all.
        let units = self.bytes.min(TOTAL).div_ceil(UNIT);
        let missing = units.saturating_sub(self.units);
        if missing == 0 {
            return true;
        }
        let permits = Arc::clone(&self.room).acquire_many_owned(u32::try_from(missing).unwrap_or(u32::MAX));
        let Ok(Ok(permits)) = tokio::time::timeout(within, permits).await else { return false };
        match &mut self.permits {
            Some(held) => held.merge(permits),
            None => self.permits = Some(permits),
        }
        self.units = units;
        true
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
        let (mut first, mut second, mut third) = (room.enter(), room.enter(), room.enter());
        assert_eq!(room.left(), TOTAL, "nothing has come");
        assert!(first.more(20 * MIB, within).await && first.more(12 * MIB, within).await);
        assert!(second.more(28 * MIB, within).await);
        assert_eq!(room.left(), 4 * MIB);
        assert!(!third.more(5 * MIB, within).await);
        drop(third);
        let mut third = room.enter();
        {
            let waiting = third.more(33 * MIB, within);
            tokio::pin!(waiting);
            assert!(futures::poll!(&mut waiting).is_pending());
            drop(first);
            assert!(waiting.await);
        }
        drop((second, third));
        assert_eq!(room.left(), TOTAL);
        assert!(room.enter().more(100 * MIB, within).await, "more than there is, is all");
        let mut small = room.enter();
        assert!(small.more(1, within).await && small.more(1, within).await);
        assert_eq!(room.left(), TOTAL - UNIT);
    }
}
