//! How much room is left for images, and how much must stay.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

/// The room of a file system, in bytes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Room {
    /// What may still be written.
    pub free: u64,
    /// All of it.
    pub size: u64,
}

/// Tells the room of the file system that images are kept on.
pub type Disk = Arc<dyn Fn() -> io::Result<Room> + Send + Sync>;

/// The room of the file system that a path is on.
pub fn of(path: PathBuf) -> Disk {
    Arc::new(move || {
        let told = rustix::fs::statvfs(&path)?;
        let bytes = |blocks: u64| blocks.saturating_mul(told.f_frsize);
        Ok(Room { free: bytes(told.f_bavail), size: bytes(told.f_blocks) })
    })
}

/// What must stay free before a pull begins; nothing if it is zero.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Floor {
    /// So many bytes.
    Bytes(u64),
    /// So many hundredths of the file system.
    Percent(u8),
}

/// Units of numbers of bytes, the largest first.
const UNITS: [(&str, u64); 4] = [("Ti", 1 << 40), ("Gi", 1 << 30), ("Mi", 1 << 20), ("Ki", 1 << 10)];

impl FromStr for Floor {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let fault = || format!("{text:?} is neither a percentage nor a number of bytes such as 10Gi");
        if let Some(number) = text.strip_suffix('%') {
            let percent = number.parse().ok().filter(|percent| *percent < 100);
            return percent.map(Self::Percent).ok_or_else(fault);
        }
        let unit = UNITS.into_iter().find_map(|(unit, bytes)| Some((text.strip_suffix(unit)?, bytes)));
        let (number, unit) = unit.unwrap_or((text, 1));
        let bytes = number.parse::<u64>().ok().and_then(|number| number.checked_mul(unit));
        bytes.map(Self::Bytes).ok_or_else(fault)
    }
}

impl fmt::Display for Floor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bytes(bytes) => f.write_str(&size(*bytes)),
            Self::Percent(percent) => write!(f, "{percent}%"),
        }
    }
}

impl Floor {
    /// Why nothing may be pulled into this room; none if it may.
    pub fn lack(self, room: Room) -> Option<String> {
        let least = match self {
            Self::Bytes(bytes) => bytes,
            Self::Percent(percent) => {
                u64::try_from(u128::from(room.size) * u128::from(percent) / 100).unwrap_or(u64::MAX)
            }
        };
        (room.free < least).then(|| {
            let (free, all) = (size(room.free), size(room.size));
            format!("the disk of the images has {free} of {all} left, and {self} must stay free")
        })
    }
}

/// A number of bytes for people: `1.5Gi`.
fn size(bytes: u64) -> String {
    match UNITS.into_iter().find(|(_, unit)| bytes >= *unit) {
        Some((name, unit)) => {
            let tenths = u128::from(bytes) * 10 / u128::from(unit);
            match tenths % 10 {
                0 => format!("{}{name}", tenths / 10),
                tenth => format!("{}.{tenth}{name}", tenths / 10),
            }
        }
        None => bytes.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_floor_is_a_percentage_or_a_number_of_bytes() {
        for (text, floor) in [
            ("0", Floor::Bytes(0)),
            ("5%", Floor::Percent(5)),
            ("10Gi", Floor::Bytes(10 << 30)),
            ("512Mi", Floor::Bytes(512 << 20)),
            ("7", Floor::Bytes(7)),
        ] {
            assert_eq!(text.parse(), Ok(floor));
            assert_eq!(floor.to_string(), text);
        }
        for text in ["", "-1", "100%", "1.5Gi", "5 %", "Gi", "10G", "99999999Ti"] {
            assert!(text.parse::<Floor>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_pull_needs_as_much_room_as_the_floor() {
        let room = Room { free: 1200 << 20, size: 40 << 30 };
        assert_eq!(Floor::Bytes(0).lack(Room { free: 0, size: 0 }), None);
        assert_eq!(Floor::Percent(0).lack(room), None);
        assert_eq!(Floor::Percent(2).lack(room), None);
        assert_eq!(Floor::Bytes(1200 << 20).lack(room), None);
        assert_eq!(
            Floor::Percent(5).lack(room).as_deref(),
            Some("the disk of the images has 1.1Gi of 40Gi left, and 5% must stay free")
        );
        assert!(Floor::Bytes(2 << 30).lack(room).unwrap().ends_with("and 2Gi must stay free"));
        assert!(Floor::Percent(99).lack(Room { free: 0, size: u64::MAX }).is_some());
    }

    #[test]
    fn the_room_of_a_path_is_told() {
        let room = of("/".into())().unwrap();
        assert!(room.size > 0 && room.free <= room.size, "{room:?}");
        assert!(of("/nowhere/at/all".into())().is_err());
    }
}
