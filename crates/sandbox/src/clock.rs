//! Where the server's timestamps come from.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;

/// A source of wall-clock times.
pub type WallClock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// The machine's clock.
pub fn system() -> WallClock {
    #[expect(clippy::disallowed_methods, reason = "this is the clock that is handed to everything else")]
    Arc::new(Timestamp::now)
}

/// A clock that stands at `start` now and moves with tokio's timers: with a paused runtime, minutes pass in no time.
pub fn simulated(start: Timestamp) -> WallClock {
    let begin = Instant::now();
    Arc::new(move || {
        let passed = SignedDuration::try_from(begin.elapsed()).unwrap_or(SignedDuration::MAX);
        start.checked_add(passed).unwrap_or(Timestamp::MAX)
    })
}
