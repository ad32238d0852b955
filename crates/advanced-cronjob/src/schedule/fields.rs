//! The five fields, and the wall-clock times they match.

use jiff::civil::{Date, DateTime};

/// Minutes of a day.
const DAY: u32 = 24 * 60;

const MONTHS: [&str; 12] =
    ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const WEEKDAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

/// What one field may hold.
struct Bounds {
    min: u32,
    max: u32,
    /// Names of the values from `min` on.
    names: &'static [&'static str],
}

const MINUTE: Bounds = Bounds { min: 0, max: 59, names: &[] };
const HOUR: Bounds = Bounds { min: 0, max: 23, names: &[] };
const DAY_OF_MONTH: Bounds = Bounds { min: 1, max: 31, names: &[] };
const MONTH: Bounds = Bounds { min: 1, max: 12, names: &MONTHS };
const DAY_OF_WEEK: Bounds = Bounds { min: 0, max: 6, names: &WEEKDAYS };

/// One field: a bit for each value, and whether it was left open.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
struct Field {
    bits: u64,
    /// `*` or `?`, without a step above 1: the field restricts nothing.
    open: bool,
}

impl Field {
    fn has(self, value: u32) -> bool {
        1_u64.checked_shl(value).is_some_and(|bit| self.bits & bit != 0)
    }

    /// The smallest value that is not below `from`.
    fn at_or_above(self, from: u32) -> Option<u32> {
        let rest = self.bits.checked_shr(from).unwrap_or(0);
        (rest != 0).then(|| from + rest.trailing_zeros())
    }

    /// The largest value that is not above `from`, which is below 63.
    fn at_or_below(self, from: u32) -> Option<u32> {
        let rest = self.bits & (1_u64.checked_shl(from + 1).unwrap_or(0)).wrapping_sub(1);
        rest.checked_ilog2()
    }
}

/// The five fields of a cron expression.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Fields {
    minute: Field,
    hour: Field,
    day_of_month: Field,
    month: Field,
    day_of_week: Field,
}

impl Fields {
    /// Reads minute, hour, day of month, month and day of week.
    ///
    /// # Errors
    /// What is wrong with the first wrong field.
    pub fn parse([minute, hour, day_of_month, month, day_of_week]: [&str; 5]) -> Result<Self, String> {
        Ok(Self {
            minute: parse_field(minute, &MINUTE)?,
            hour: parse_field(hour, &HOUR)?,
            day_of_month: parse_field(day_of_month, &DAY_OF_MONTH)?,
            month: parse_field(month, &MONTH)?,
            day_of_week: parse_field(day_of_week, &DAY_OF_WEEK)?,
        })
    }

    /// True if clocks that show `time` are at a tick.
    pub fn matches(&self, time: DateTime) -> bool {
        time.second() == 0
            && time.subsec_nanosecond() == 0
            && self.minute.has(wide(time.minute()))
            && self.hour.has(wide(time.hour()))
            && self.month.has(wide(time.month()))
            && self.matches_day(time.date())
    }

    /// Both fields of a day must match, unless both restrict it: then one is enough.
    fn matches_day(&self, date: Date) -> bool {
        let month = self.day_of_month.has(wide(date.day()));
        let week = self.day_of_week.has(wide(date.weekday().to_sunday_zero_offset()));
        if self.day_of_month.open || self.day_of_week.open { month && week } else { month || week }
    }

    /// The first matching wall-clock time that is not before `from`, up to the end of `last_year`.
    pub fn at_or_after(&self, from: DateTime, last_year: i16) -> Option<DateTime> {
        let (mut date, mut minute) = (from.date(), minute_of(from));
        if from.second() > 0 || from.subsec_nanosecond() > 0 {
            minute += 1;
        }
        while date.year() <= last_year {
            if !self.month.has(wide(date.month())) {
                date = date.last_of_month().tomorrow().ok()?;
                minute = 0;
                continue;
            }
            if self.matches_day(date)
                && let Some(found) = self.minute_at_or_after(minute)
            {
                return time_at(date, found);
            }
            date = date.tomorrow().ok()?;
            minute = 0;
        }
        None
    }

    /// The last matching wall-clock time that is not after `from`, down to the beginning of `first_year`.
    pub fn at_or_before(&self, from: DateTime, first_year: i16) -> Option<DateTime> {
        let (mut date, mut minute) = (from.date(), minute_of(from));
        while date.year() >= first_year {
            if !self.month.has(wide(date.month())) {
                date = date.first_of_month().yesterday().ok()?;
                minute = DAY - 1;
                continue;
            }
            if self.matches_day(date)
                && let Some(found) = self.minute_at_or_before(minute)
            {
                return time_at(date, found);
            }
            date = date.yesterday().ok()?;
            minute = DAY - 1;
        }
        None
    }

    fn minute_at_or_after(&self, minute: u32) -> Option<u32> {
        let (hour, rest) = (minute / 60, minute % 60);
        if self.hour.has(hour)
            && let Some(found) = self.minute.at_or_above(rest)
        {
            return Some(hour * 60 + found);
        }
        Some(self.hour.at_or_above(hour + 1)? * 60 + self.minute.at_or_above(0)?)
    }

    fn minute_at_or_before(&self, minute: u32) -> Option<u32> {
        let (hour, rest) = (minute / 60, minute % 60);
        if self.hour.has(hour)
            && let Some(found) = self.minute.at_or_below(rest)
        {
            return Some(hour * 60 + found);
        }
        Some(self.hour.at_or_below(hour.checked_sub(1)?)? * 60 + self.minute.at_or_below(59)?)
    }
}

/// Fields of a date or a time are never negative.
fn wide(value: i8) -> u32 {
    u32::from(value.unsigned_abs())
}

fn minute_of(time: DateTime) -> u32 {
    wide(time.hour()) * 60 + wide(time.minute())
}

fn time_at(date: Date, minute: u32) -> Option<DateTime> {
    let (hour, minute) = (i8::try_from(minute / 60).ok()?, i8::try_from(minute % 60).ok()?);
    DateTime::new(date.year(), date.month(), date.day(), hour, minute, 0, 0).ok()
}

/// A list of ranges.
fn parse_field(text: &str, bounds: &Bounds) -> Result<Field, String> {
    let mut field = Field::default();
    for part in text.split(',').filter(|part| !part.is_empty()) {
        let range = parse_range(part, bounds)?;
        field.bits |= range.bits;
        field.open |= range.open;
    }
    Ok(field)
}

/// `*`, `?`, a value or `from-to`, each with an optional `/step`; a single value with a step goes on to the end.
fn parse_range(text: &str, bounds: &Bounds) -> Result<Field, String> {
    let (range, step) = match text.split('/').collect::<Vec<_>>().as_slice() {
        [range] => (*range, None),
        [range, step] => (*range, Some(number(step)?)),
        _ => return Err(format!("too many slashes: {text}")),
    };
    let ends: Vec<&str> = range.split('-').collect();
    let (from, to, open) = match ends.as_slice() {
        // As in the reference, what follows a hyphen after `*` says nothing.
        ["*" | "?", ..] => (bounds.min, bounds.max, true),
        [from] if step.is_some() => (value(from, bounds)?, bounds.max, false),
        [from] => (value(from, bounds)?, value(from, bounds)?, false),
        [from, to] => (value(from, bounds)?, value(to, bounds)?, false),
        _ => return Err(format!("too many hyphens: {text}")),
    };
    let (min, max, step) = (bounds.min, bounds.max, step.unwrap_or(1));
    if from < min {
        return Err(format!("beginning of range ({from}) below minimum ({min}): {text}"));
    }
    if to > max {
        return Err(format!("end of range ({to}) above maximum ({max}): {text}"));
    }
    if from > to {
        return Err(format!("beginning of range ({from}) beyond end of range ({to}): {text}"));
    }
    let step = usize::try_from(step).ok().filter(|step| *step > 0);
    let step = step.ok_or_else(|| format!("step of range should be a positive number: {text}"))?;
    let bits = (from..=to).step_by(step).filter_map(|value| 1_u64.checked_shl(value));
    Ok(Field { bits: bits.fold(0, |all, bit| all | bit), open: open && step == 1 })
}

/// A name or a number.
fn value(text: &str, bounds: &Bounds) -> Result<u32, String> {
    let named = bounds.names.iter().position(|name| text.eq_ignore_ascii_case(name));
    match named.and_then(|at| u32::try_from(at).ok()) {
        Some(at) => Ok(bounds.min + at),
        None => number(text),
    }
}

fn number(text: &str) -> Result<u32, String> {
    text.parse().map_err(|error| format!("failed to parse int from {text}: {error}"))
}
