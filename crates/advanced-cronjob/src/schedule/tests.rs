use std::time::Instant;

use jiff::ToSpan;
use jiff::civil::DateTime;
use proptest::prelude::*;

use super::*;

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn ticks_of(text: &str, zone: &str, from: &str, count: usize) -> Vec<String> {
    let schedule = Schedule::parse(text).unwrap();
    let zone = find_zone(zone).unwrap();
    let ticks = schedule.ticks(&zone, &TimeZone::UTC, at(from));
    let all = std::iter::successors(ticks.after(at(from)), |tick| ticks.after(*tick));
    all.take(count).map(|tick| tick.to_string()).collect()
}

/// The first tick after an instant, both in UTC.
fn first(text: &str, from: &str) -> Option<String> {
    ticks_of(text, "UTC", from, 1).pop()
}

#[test]
fn every_form_of_a_field_means_what_it_means_to_the_reference() {
    for (schedule, from, tick) in [
        ("* * * * *", "2026-01-01T10:00:30Z", "2026-01-01T10:01:00Z"),
        ("* * * * *", "2026-01-01T10:00:00Z", "2026-01-01T10:01:00Z"),
        ("* * * * *", "2026-01-01T09:59:59.999Z", "2026-01-01T10:00:00Z"),
        ("*/15 * * * *", "2026-01-01T10:15:00Z", "2026-01-01T10:30:00Z"),
        ("5/20 * * * *", "2026-01-01T10:05:00Z", "2026-01-01T10:25:00Z"),
        ("5/20 * * * *", "2026-01-01T10:45:00Z", "2026-01-01T11:05:00Z"),
        ("5-30/10 * * * *", "2026-01-01T10:25:00Z", "2026-01-01T11:05:00Z"),
        ("1,,7 * * * *", "2026-01-01T10:01:00Z", "2026-01-01T10:07:00Z"),
        ("0 10 * * ?", "2026-01-01T10:00:00Z", "2026-01-02T10:00:00Z"),
        ("0 0 1 Jan,MAR *", "2026-01-01T00:00:00Z", "2026-03-01T00:00:00Z"),
        ("0 0 * * Mon-fri", "2026-01-02T00:00:00Z", "2026-01-05T00:00:00Z"),
        ("0 0 * * 0", "2026-01-01T00:00:00Z", "2026-01-04T00:00:00Z"),
        ("0 0 29 2 *", "2026-01-01T00:00:00Z", "2028-02-29T00:00:00Z"),
        ("59 23 31 12 *", "2026-12-31T23:58:59Z", "2026-12-31T23:59:00Z"),
        ("*-5 * * * *", "2026-01-01T10:06:00Z", "2026-01-01T10:07:00Z"),
        ("+5 * * * *", "2026-01-01T10:06:00Z", "2026-01-01T11:05:00Z"),
        ("@yearly", "2026-01-01T00:00:00Z", "2027-01-01T00:00:00Z"),
        ("@annually", "2026-06-01T00:00:00Z", "2027-01-01T00:00:00Z"),
        ("@monthly", "2026-01-01T00:00:00Z", "2026-02-01T00:00:00Z"),
        ("@weekly", "2026-01-01T00:00:00Z", "2026-01-04T00:00:00Z"),
        ("@daily", "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"),
        ("@midnight", "2026-01-01T00:00:01Z", "2026-01-02T00:00:00Z"),
        ("@hourly", "2026-01-01T00:00:01Z", "2026-01-01T01:00:00Z"),
        (" 0  12\t* * * ", "2026-01-01T00:00:00Z", "2026-01-01T12:00:00Z"),
    ] {
        assert_eq!(first(schedule, from).as_deref(), Some(tick), "{schedule} after {from}");
    }
}

#[test]
fn a_day_that_is_restricted_twice_matches_either_way_and_once_it_must_match() {
    // 2026-01-13 is a Tuesday, the 16th a Friday.
    for (schedule, from, tick) in [
        ("0 0 13 * 5", "2026-01-10T00:00:00Z", "2026-01-13T00:00:00Z"),
        ("0 0 13 * 5", "2026-01-13T00:00:00Z", "2026-01-16T00:00:00Z"),
        ("0 0 13 * *", "2026-01-13T00:00:00Z", "2026-02-13T00:00:00Z"),
        ("0 0 * * 5", "2026-01-10T00:00:00Z", "2026-01-16T00:00:00Z"),
        ("0 0 ? * 5", "2026-01-10T00:00:00Z", "2026-01-16T00:00:00Z"),
        // A step of one restricts nothing, a larger one does.
        ("0 0 */1 * 5", "2026-01-10T00:00:00Z", "2026-01-16T00:00:00Z"),
        ("0 0 */10 * 5", "2026-01-10T00:00:00Z", "2026-01-11T00:00:00Z"),
        ("0 0 */10 * 5", "2026-01-11T00:00:00Z", "2026-01-16T00:00:00Z"),
        ("0 0 13 * */2", "2026-01-13T00:00:00Z", "2026-01-15T00:00:00Z"),
    ] {
        assert_eq!(first(schedule, from).as_deref(), Some(tick), "{schedule} after {from}");
    }
}

#[test]
fn what_is_no_schedule_is_refused_with_its_reason() {
    for (text, reason) in [
        ("", "empty spec string"),
        ("   ", "empty spec string"),
        ("* * * *", "expected exactly 5 fields, found 4: [* * * *]"),
        ("* * * * * *", "expected exactly 5 fields, found 6: [* * * * * *]"),
        ("60 * * * *", "end of range (60) above maximum (59): 60"),
        ("61 * * * *", "end of range (61) above maximum (59): 61"),
        ("* 24 * * *", "end of range (24) above maximum (23): 24"),
        ("* * 0 * *", "beginning of range (0) below minimum (1): 0"),
        ("* * * 13 *", "end of range (13) above maximum (12): 13"),
        ("* * * * 7", "end of range (7) above maximum (6): 7"),
        ("5-3 * * * *", "beginning of range (5) beyond end of range (3): 5-3"),
        ("1-2-3 * * * *", "too many hyphens: 1-2-3"),
        ("1/2/3 * * * *", "too many slashes: 1/2/3"),
        ("*/0 * * * *", "step of range should be a positive number: */0"),
        ("x * * * *", "failed to parse int from x: invalid digit found in string"),
        ("* * * * moon", "failed to parse int from moon: invalid digit found in string"),
        ("@fortnightly", "unrecognized descriptor: @fortnightly"),
        ("@every", "unrecognized descriptor: @every"),
        ("@every 5", "failed to parse duration @every 5: time: missing unit in duration \"5\""),
        ("TZ=UTC", "invalid cron schedule: no fields after TZ=UTC"),
        ("TZ=Mars/Base * * * * *", "provided bad location Mars/Base: unknown time zone Mars/Base"),
        ("TZ=UTC ", "empty spec string"),
    ] {
        assert_eq!(Schedule::parse(text).unwrap_err().to_string(), reason, "{text}");
    }
}

#[test]
fn the_zone_in_the_schedule_counts_more_than_the_one_beside_it() {
    let expected = ["2026-01-01T02:00:00Z"];
    let from = "2026-01-01T00:00:00Z";
    assert_eq!(ticks_of("0 10 * * ?", "Asia/Shanghai", from, 1), expected);
    assert_eq!(ticks_of("TZ=Asia/Shanghai 0 10 * * ?", "America/New_York", from, 1), expected);
    assert_eq!(ticks_of("CRON_TZ=Asia/Shanghai 0 10 * * ?", "UTC", from, 1), expected);
    assert_eq!(ticks_of("TZ=Local 0 10 * * ?", "Asia/Shanghai", from, 1), ["2026-01-01T10:00:00Z"]);
    assert_eq!(ticks_of("TZ= 0 10 * * ?", "Asia/Shanghai", from, 1), ["2026-01-01T10:00:00Z"]);
    assert_eq!(ticks_of("TZ=Asia/Shanghai @daily", "UTC", from, 1), ["2026-01-01T16:00:00Z"]);
}

#[test]
fn a_time_that_clocks_skip_is_left_out_and_one_they_show_twice_comes_twice() {
    let half_past_two = |from| ticks_of("30 2 * * *", "Europe/Berlin", from, 3);
    assert_eq!(
        half_past_two("2026-03-28T00:00:00Z"),
        ["2026-03-28T01:30:00Z", "2026-03-30T00:30:00Z", "2026-03-31T00:30:00Z"]
    );
    assert_eq!(
        half_past_two("2026-10-24T23:00:00Z"),
        ["2026-10-25T00:30:00Z", "2026-10-25T01:30:00Z", "2026-10-26T01:30:00Z"]
    );
    // Clocks that skip midnight, and clocks that go by half an hour.
    assert_eq!(
        ticks_of("0 0 * * *", "America/Sao_Paulo", "2018-11-03T00:00:00Z", 3),
        ["2018-11-03T03:00:00Z", "2018-11-05T02:00:00Z", "2018-11-06T02:00:00Z"]
    );
    assert_eq!(
        ticks_of("45 1 * * *", "Australia/Lord_Howe", "2026-04-04T00:00:00Z", 3),
        ["2026-04-04T14:45:00Z", "2026-04-04T15:15:00Z", "2026-04-05T15:15:00Z"]
    );
}

#[test]
fn every_so_often_is_counted_from_the_run_before() {
    assert_eq!(
        ticks_of("@every 90s", "UTC", "2026-01-01T00:00:07Z", 3),
        ["2026-01-01T00:01:37Z", "2026-01-01T00:03:07Z", "2026-01-01T00:04:37Z"]
    );
    let schedule = Schedule::parse("@every 1h30m0.9s").unwrap();
    let anchor = at("2026-01-01T00:00:00Z");
    let ticks = schedule.ticks(&TimeZone::UTC, &TimeZone::UTC, anchor);
    assert_eq!(ticks.after(at("2026-01-01T02:59:59.5Z")), Some(at("2026-01-01T03:00:00Z")));
    assert_eq!(ticks.latest(anchor, at("2026-01-01T02:59:59.5Z")), Some(at("2026-01-01T01:30:00Z")));
    assert_eq!(ticks.latest(anchor, at("2026-01-01T01:29:59Z")), None);
    assert_eq!(ticks.after(at("2020-01-01T00:00:00Z")), Some(at("2026-01-01T01:30:00Z")));
    let second = Schedule::parse("@every 1ms").unwrap();
    let ticks = second.ticks(&TimeZone::UTC, &TimeZone::UTC, anchor);
    assert_eq!(ticks.after(anchor), Some(at("2026-01-01T00:00:01Z")));
}

#[test]
fn a_day_that_never_comes_has_no_tick_in_either_direction() {
    for text in ["0 0 31 2 *", "0 0 30 2 ?", ", * * * *"] {
        assert_eq!(first(text, "2026-01-01T00:00:00Z"), None, "{text}");
        let schedule = Schedule::parse(text).unwrap();
        let ticks = schedule.ticks(&TimeZone::UTC, &TimeZone::UTC, at("2020-01-01T00:00:00Z"));
        assert_eq!(ticks.latest(at("2020-01-01T00:00:00Z"), at("2026-01-01T00:00:00Z")), None, "{text}");
    }
    // Eight years between two leap days are more than anybody waits for.
    assert_eq!(first("0 0 29 2 *", "2096-03-01T00:00:00Z"), None);
}

#[test]
fn the_latest_tick_is_found_at_once_however_many_were_missed() {
    let schedule = Schedule::parse("* * * * *").unwrap();
    let (from, now) = (at("1990-01-01T00:00:00Z"), at("2026-06-01T12:00:59.999Z"));
    let ticks = schedule.ticks(&TimeZone::UTC, &TimeZone::UTC, from);
    assert_eq!(ticks.latest(from, now), Some(at("2026-06-01T12:00:00Z")));
    assert!(ticks.more_than(100, from, now));
    assert!(ticks.more_than(99, at("2026-06-01T10:20:00Z"), now));
    assert!(!ticks.more_than(100, at("2026-06-01T10:20:00Z"), now));
}

const ZONES: [&str; 10] = [
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "Asia/Shanghai",
    "Asia/Kathmandu",
    "Australia/Lord_Howe",
    "America/Sao_Paulo",
    "Africa/Cairo",
    "Pacific/Apia",
    "America/Havana",
];

#[test]
fn a_year_of_schedules_in_all_kinds_of_zones_takes_about_a_second() {
    let begin = Instant::now();
    let (from, until) = (at("2026-01-01T00:00:00Z"), at("2027-01-01T00:00:00Z"));
    let mut count = 0;
    for zone in ZONES {
        let zone = find_zone(zone).unwrap();
        for text in ["*/5 * * * *", "0 * * * *", "30 2 * * *", "0 9-17 * * Mon-Fri", "0 0 1,15 * 5"] {
            let schedule = Schedule::parse(text).unwrap();
            let ticks = schedule.ticks(&zone, &TimeZone::UTC, from);
            let mut last = from;
            while let Some(tick) = ticks.after(last).filter(|tick| *tick <= until) {
                assert!(tick > last);
                assert_eq!(ticks.latest(last, tick), Some(tick));
                last = tick;
                count += 1;
            }
        }
    }
    assert!(count > 10 * (105_120 + 8_760 + 365 - 30), "{count}");
    // Printed, not judged: the machine may be busy.
    println!("{count} ticks in {:?}", begin.elapsed());
}

/// Fields with something in each of them.
fn any_schedule() -> impl Strategy<Value = String> {
    let minute = prop_oneof![
        Just("*".to_owned()),
        Just("*/7".to_owned()),
        (0_u8..60).prop_map(|at| at.to_string()),
        (0_u8..30, 30_u8..60, 1_u8..20).prop_map(|(from, to, step)| format!("{from}-{to}/{step}"))
    ];
    let hour = prop_oneof![
        Just("*".to_owned()),
        Just("*/5".to_owned()),
        (0_u8..24).prop_map(|at| at.to_string()),
        Just("0-3".to_owned())
    ];
    let day = prop_oneof![4 => Just("*".to_owned()), 1 => (1_u8..29).prop_map(|at| at.to_string())];
    let week = prop_oneof![4 => Just("?".to_owned()), 1 => (0_u8..7).prop_map(|at| at.to_string())];
    (minute, hour, day, week).prop_map(|(minute, hour, day, week)| format!("{minute} {hour} {day} * {week}"))
}

/// Minutes around changes of clocks, and anywhere.
fn any_instant() -> impl Strategy<Value = Timestamp> {
    let around = |text: &'static str| (-3000_i64..3000).prop_map(move |minutes| at(text) + minutes.minutes());
    prop_oneof![
        around("2026-03-29T01:00:00Z"),
        around("2026-10-25T01:00:00Z"),
        around("2026-11-01T06:00:00Z"),
        around("2018-11-04T03:00:00Z"),
        around("2026-04-04T15:00:00Z"),
        around("2011-12-30T10:00:00Z"),
        (1_000_000_000_i64..2_000_000_000).prop_map(|second| Timestamp::from_second(second).unwrap()),
    ]
}

/// Looks at every minute for as long as it takes, up to a few days.
fn by_looking(fields: &Fields, zone: &TimeZone, from: Timestamp, step: i64) -> Option<Timestamp> {
    let begin =
        if step > 0 { (from.as_second() + 1).div_euclid(60) } else { from.as_second().div_euclid(60) };
    (0..4 * 24 * 60).find_map(|minutes| {
        // Offsets of whole minutes: ticks are at whole minutes of UTC.
        let instant = Timestamp::from_second((begin + minutes * step) * 60).unwrap();
        let shown: DateTime = zone.to_datetime(instant);
        ((step < 0 || instant > from) && fields.matches(shown)).then_some(instant)
    })
}

proptest! {
    #[test]
    fn a_tick_is_whatever_the_clocks_show_and_none_is_skipped_or_doubled(
        text in any_schedule(),
        zone in prop::sample::select(ZONES.to_vec()),
        from in any_instant(),
    ) {
        let schedule = Schedule::parse(&text).unwrap();
        let Pattern::Fields(fields) = schedule.pattern else { unreachable!() };
        let zone = find_zone(zone).unwrap();
        let ticks = schedule.ticks(&zone, &TimeZone::UTC, from);
        let next = ticks.after(from).unwrap();
        prop_assert!(next > from);
        if let Some(seen) = by_looking(&fields, &zone, from, 1) {
            prop_assert_eq!(next, seen, "{} after {}", text, from);
        }
        let long_ago = from - (24 * 400).hours();
        let latest = ticks.latest(long_ago, from);
        prop_assert!(latest.is_none_or(|latest| latest <= from));
        if let Some(seen) = by_looking(&fields, &zone, from, -1) {
            prop_assert_eq!(latest, Some(seen), "{} until {}", text, from);
        }
        // Forwards and backwards meet, and nothing lies between.
        prop_assert_eq!(ticks.latest(from, next), Some(next));
        prop_assert_eq!(ticks.latest(from, next - 1.nanosecond()), None);
    }

    #[test]
    fn no_text_makes_the_parser_give_up(text in "(TZ=|CRON_TZ=|@every )?[-*?/, 0-9a-z@=.]{0,20}") {
        if let Ok(schedule) = Schedule::parse(&text) {
            let now = at("2026-01-01T00:00:00Z");
            let ticks = schedule.ticks(&TimeZone::UTC, &TimeZone::UTC, now);
            prop_assert!(ticks.after(now).is_none_or(|tick| tick > now));
        }
    }
}
