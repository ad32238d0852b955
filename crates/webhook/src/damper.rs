//! How soon an object is put right again. Whoever disagrees, such as a manager of another version during an upgrade, puts it
//! back at once; without a pause both would write as fast as the API server lets them.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};

const FIRST: SignedDuration = SignedDuration::from_millis(200);
const LAST: SignedDuration = SignedDuration::from_secs(30);
/// After this long without a repair the next one is a first one.
const CALM: SignedDuration = SignedDuration::from_mins(1);

#[derive(Clone, Debug)]
struct Repair {
    at: Timestamp,
    /// Until the next one.
    wait: SignedDuration,
    /// The authorities that were published.
    bundle: String,
}

/// The repairs this replica has made.
#[derive(Clone, Debug, Default)]
pub(crate) struct Damper(BTreeMap<&'static str, Repair>);

impl Damper {
    /// When the object may be put right; none if now. Authorities that it does not publish yet are published at once.
    pub(crate) fn until(&self, name: &'static str, bundle: &str, now: Timestamp) -> Option<Timestamp> {
        let repair = self.0.get(name).filter(|repair| repair.bundle == bundle)?;
        let due = repair.at.saturating_add(repair.wait).ok()?;
        // A clock that was set back keeps nobody waiting.
        (repair.at <= now && now < due).then_some(due)
    }

    /// Notes that it was put right.
    pub(crate) fn repaired(&mut self, name: &'static str, bundle: &str, now: Timestamp) {
        let before = self.0.get(name).filter(|it| it.bundle == bundle && now.duration_since(it.at) < CALM);
        let wait = before.map_or(FIRST, |before| before.wait.saturating_mul(2).min(LAST));
        self.0.insert(name, Repair { at: now, wait, bundle: bundle.to_owned() });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repairs_of_one_object_are_ever_farther_apart_until_it_is_left_alone() {
        let mut now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let mut damper = Damper::default();
        let waits = |damper: &mut Damper, now: &mut Timestamp| {
            damper.repaired("a", "ca", *now);
            let due = damper.until("a", "ca", *now).unwrap();
            assert_eq!(damper.until("a", "ca", due), None);
            let wait = due.duration_since(*now);
            *now = due;
            wait.as_millis()
        };
        assert_eq!(damper.until("a", "ca", now), None);
        let first: Vec<_> = (0..10).map(|_| waits(&mut damper, &mut now)).collect();
        assert_eq!(first, [200, 400, 800, 1_600, 3_200, 6_400, 12_800, 25_600, 30_000, 30_000]);
        damper.repaired("a", "ca", now);
        assert_eq!(damper.until("b", "ca", now), None, "another object");
        assert_eq!(damper.until("a", "new ca", now), None);
        assert_eq!(damper.until("a", "ca", now - SignedDuration::from_secs(1)), None);
        now += CALM;
        assert_eq!(waits(&mut damper, &mut now), 200);
        damper.repaired("a", "ca", now);
        damper.repaired("a", "new ca", now);
        assert_eq!(damper.until("a", "new ca", now), Some(now + FIRST));
    }
}
