//! Schedules: the cron dialect that OpenKruise takes, and the instants it stands for.
//!
//! Five fields or a descriptor, after an optional `TZ=` or `CRON_TZ=`. A tick is an instant at which the zone's clocks
//! show a time that the fields match: a time that clocks skip is no tick, one that they show twice is two.

pub mod fields;
mod zone;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use kruise_common::go_duration::go_duration;

pub use fields::Fields;
pub use zone::{ZoneError, find as find_zone};

/// How far ahead a tick is looked for: years after the current one, as the reference does.
const YEARS_AHEAD: i16 = 5;

/// Why a text is no schedule.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ScheduleError {
    /// There is nothing.
    #[error("empty spec string")]
    Empty,
    /// Nothing follows the zone.
    #[error("invalid cron schedule: no fields after {0}")]
    OnlyZone(String),
    /// The zone in front is not known.
    #[error("provided bad location {0}: {1}")]
    Zone(String, ZoneError),
    /// Too few fields or too many.
    #[error("expected exactly 5 fields, found {0}: [{1}]")]
    FieldCount(usize, String),
    /// A word after `@` that means nothing.
    #[error("unrecognized descriptor: {0}")]
    Descriptor(String),
    /// What follows `@every` is no duration.
    #[error("failed to parse duration {0}: {1}")]
    Every(String, String),
    /// A field is wrong.
    #[error("{0}")]
    Field(String),
}

#[derive(Clone, Debug, Eq, PartialEq)]
enum Pattern {
    /// Wall-clock times.
    Fields(Fields),
    /// A fixed distance, in whole seconds.
    Every(SignedDuration),
}

/// A schedule as a user wrote it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Schedule {
    pattern: Pattern,
    /// What `TZ=` says; `None` without it.
    zone: Option<Place>,
}

#[derive(Clone, Debug, Eq, PartialEq)]
enum Place {
    /// `Local`: the manager's own.
    Local,
    Named(TimeZone),
}

impl Schedule {
    /// Reads what a user writes.
    ///
    /// # Errors
    /// The first mistake.
    pub fn parse(text: &str) -> Result<Self, ScheduleError> {
        if text.is_empty() {
            return Err(ScheduleError::Empty);
        }
        let (zone, rest) = match text.strip_prefix("TZ=").or_else(|| text.strip_prefix("CRON_TZ=")) {
            Some(named) => {
                let (name, rest) =
                    named.split_once(' ').ok_or_else(|| ScheduleError::OnlyZone(text.to_owned()))?;
                (Some(place(name)?), rest.trim())
            }
            None => (None, text),
        };
        let pattern = match rest.strip_prefix('@') {
            Some(descriptor) => parse_descriptor(descriptor)?,
            None => Pattern::Fields(parse_fields(rest)?),
        };
        Ok(Self { pattern, zone })
    }

    /// The ticks of the schedule in its own zone, or else in `zone`. `local` is what `TZ=Local` means. `anchor` is
    /// where a fixed distance is counted from; wall-clock times need none.
    pub fn ticks(&self, zone: &TimeZone, local: &TimeZone, anchor: Timestamp) -> Ticks<'_> {
        let zone = match &self.zone {
            None => zone,
            Some(Place::Local) => local,
            Some(Place::Named(zone)) => zone,
        };
        Ticks { pattern: &self.pattern, zone: zone.clone(), anchor }
    }
}

fn place(name: &str) -> Result<Place, ScheduleError> {
    match name {
        "" => Ok(Place::Named(TimeZone::UTC)),
        "Local" => Ok(Place::Local),
        _ => zone::find(name).map(Place::Named).map_err(|error| ScheduleError::Zone(name.to_owned(), error)),
    }
}

fn parse_descriptor(word: &str) -> Result<Pattern, ScheduleError> {
    if let Some(text) = word.strip_prefix("every ") {
        let duration = go_duration(text).map_err(|error| ScheduleError::Every(format!("@{word}"), error))?;
        let seconds = i64::try_from(duration.as_secs()).unwrap_or(i64::MAX).max(1);
        return Ok(Pattern::Every(SignedDuration::from_secs(seconds)));
    }
    let text = match word {
        "yearly" | "annually" => "0 0 1 1 *",
        "monthly" => "0 0 1 * *",
        "weekly" => "0 0 * * 0",
        "daily" | "midnight" => "0 0 * * *",
        "hourly" => "0 * * * *",
        _ => return Err(ScheduleError::Descriptor(format!("@{word}"))),
    };
    parse_fields(text).map(Pattern::Fields)
}

fn parse_fields(text: &str) -> Result<Fields, ScheduleError> {
    let parts: Vec<&str> = text.split_whitespace().collect();
    match parts.as_slice() {
        [] => Err(ScheduleError::Empty),
        [minute, hour, day, month, weekday] => {
            Fields::parse([minute, hour, day, month, weekday]).map_err(ScheduleError::Field)
        }
        _ => Err(ScheduleError::FieldCount(parts.len(), parts.join(" "))),
    }
}

/// The instants of a schedule.
#[derive(Clone, Debug)]
pub struct Ticks<'a> {
    pattern: &'a Pattern,
    zone: TimeZone,
    anchor: Timestamp,
}

impl Ticks<'_> {
    /// The first tick after an instant; `None` if there is none within about five years.
    pub fn after(&self, instant: Timestamp) -> Option<Timestamp> {
        match self.pattern {
            Pattern::Every(distance) => every_after(self.anchor, *distance, instant),
            Pattern::Fields(fields) => fields_after(fields, &self.zone, instant),
        }
    }

    /// The last tick that is not after `until` and after `from`.
    pub fn latest(&self, from: Timestamp, until: Timestamp) -> Option<Timestamp> {
        let tick = match self.pattern {
            Pattern::Every(distance) => every_until(self.anchor, *distance, until),
            Pattern::Fields(fields) => fields_until(fields, &self.zone, from, until),
        };
        tick.filter(|tick| *tick > from)
    }

    /// True if there are more than `limit` ticks after `from` and not after `until`.
    pub fn more_than(&self, limit: usize, from: Timestamp, until: Timestamp) -> bool {
        let ticks = std::iter::successors(self.after(from), |tick| self.after(*tick));
        ticks.take_while(|tick| *tick <= until).take(limit + 1).count() > limit
    }
}

/// The whole seconds between the anchor and an instant, rounded down.
fn seconds_since(anchor: Timestamp, instant: Timestamp) -> i64 {
    floor(instant).as_second() - floor(anchor).as_second()
}

fn every_after(anchor: Timestamp, distance: SignedDuration, instant: Timestamp) -> Option<Timestamp> {
    let step = distance.as_secs();
    let times = seconds_since(anchor, instant).div_euclid(step).saturating_add(1).max(1);
    floor(anchor).checked_add(SignedDuration::from_secs(times.checked_mul(step)?)).ok()
}

fn every_until(anchor: Timestamp, distance: SignedDuration, until: Timestamp) -> Option<Timestamp> {
    let step = distance.as_secs();
    let times = seconds_since(anchor, until).div_euclid(step);
    if times < 1 {
        return None;
    }
    floor(anchor).checked_add(SignedDuration::from_secs(times.checked_mul(step)?)).ok()
}

/// The whole second at or before an instant.
fn floor(instant: Timestamp) -> Timestamp {
    let below = i64::from(instant.subsec_nanosecond() < 0);
    Timestamp::from_second(instant.as_second() - below).unwrap_or(instant)
}

/// Between two changes of a zone's offset, clocks run evenly: there the search is one in civil time, and a match
/// beyond the next change is none.
fn fields_after(fields: &Fields, zone: &TimeZone, instant: Timestamp) -> Option<Timestamp> {
    let mut at = floor(instant).checked_add(SignedDuration::from_secs(1)).ok()?;
    let last_year = zone.to_offset(at).to_datetime(at).year().saturating_add(YEARS_AHEAD);
    loop {
        let offset = zone.to_offset(at);
        let here = offset.to_datetime(at);
        if here.year() > last_year {
            return None;
        }
        let found = fields.at_or_after(here, last_year).and_then(|civil| offset.to_timestamp(civil).ok());
        let change = zone.following(at).next().map(|change| change.timestamp());
        match (found, change) {
            (Some(tick), Some(change)) if tick >= change => at = change,
            (Some(tick), _) => return Some(tick),
            (None, Some(change)) => at = change,
            (None, None) => return None,
        }
    }
}

/// As [`fields_after`], backwards.
fn fields_until(fields: &Fields, zone: &TimeZone, from: Timestamp, until: Timestamp) -> Option<Timestamp> {
    let second = SignedDuration::from_secs(1);
    let mut at = floor(until);
    let first_year = zone.to_offset(from).to_datetime(from).year().saturating_sub(1);
    while at > from {
        let offset = zone.to_offset(at);
        let found = fields
            .at_or_before(offset.to_datetime(at), first_year)
            .and_then(|civil| offset.to_timestamp(civil).ok());
        // The last change that is not after `at`.
        let change = at.checked_add(second).ok().and_then(|next| zone.preceding(next).next());
        match (found, change.map(|change| change.timestamp())) {
            (Some(tick), Some(change)) if tick < change => at = change.checked_sub(second).ok()?,
            (Some(tick), _) => return Some(tick),
            (None, Some(change)) => at = change.checked_sub(second).ok()?,
            (None, None) => return None,
        }
    }
    None
}

#[cfg(test)]
mod tests;
