//! Sizes and times as people write them: `256MiB`, `5s`, `100ms`. Both are shown with the largest unit that divides
//! them exactly, so what is shown is read back as the same value.

use std::fmt;
use std::time::Duration;

const SIZES: [(&str, u64); 9] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("KB", 1_000),
    ("B", 1),
];

const TIMES_US: [(&str, u64); 6] = [
    ("d", 86_400_000_000),
    ("h", 3_600_000_000),
    ("m", 60_000_000),
    ("s", 1_000_000),
    ("ms", 1_000),
    ("us", 1),
];

/// How a size is written; ends every message about a bad one.
pub const SIZE_FORM: &str =
    "a number of bytes or a number and one of B, KiB, MiB, GiB, TiB, KB, MB, GB, TB";
/// How a time is written; ends every message about a bad one.
pub const TIME_FORM: &str = "a number and one of us, ms, s, m, h, d";

/// A size in bytes that is shown with its unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

impl Size {
    /// Reads `256MiB`, `4096` or `1.5GiB`. `None` if it is not a size, or over `u64`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Size> {
        let (number, unit) = split_unit(text.trim());
        let scale = match unit {
            "" => 1,
            unit => SIZES.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit))?.1,
        };
        scaled(number, scale).map(Size)
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let binary =
            SIZES[..4].iter().find(|(_, scale)| self.0 > 0 && self.0.is_multiple_of(*scale));
        match binary {
            Some((unit, scale)) => write!(f, "{}{unit}", self.0 / scale),
            None => write!(f, "{}B", self.0),
        }
    }
}

/// Reads `5s`, `100ms` or `1.5h`. The unit is required: a bare number would be guessed wrong by someone.
#[must_use]
pub fn parse_time(text: &str) -> Option<Duration> {
    let (number, unit) = split_unit(text.trim());
    if number == "0" && unit.is_empty() {
        return Some(Duration::ZERO);
    }
    let scale = TIMES_US.iter().find(|(name, _)| *name == unit)?.1;
    scaled(number, scale).map(Duration::from_micros)
}

/// A time with the largest unit that divides it; below a microsecond it is cut.
#[must_use]
pub fn show_time(time: Duration) -> String {
    let us = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
    match TIMES_US.iter().find(|(_, scale)| us > 0 && us.is_multiple_of(*scale)) {
        Some((unit, scale)) => format!("{}{unit}", us / scale),
        None => "0s".to_owned(),
    }
}

fn split_unit(text: &str) -> (&str, &str) {
    let end =
        text.find(|c: char| !c.is_ascii_digit() && c != '.' && c != '_').unwrap_or(text.len());
    (&text[..end], text[end..].trim_start())
}

/// `number * scale`, exact; a fraction may have at most six digits.
fn scaled(number: &str, scale: u64) -> Option<u64> {
    let digits = number.replace('_', "");
    let (whole, fraction) = digits.split_once('.').unwrap_or((&digits, "0"));
    if fraction.len() > 6 {
        return None;
    }
    let tenths: u128 = 10u128.pow(u32::try_from(fraction.len()).ok()?);
    let units =
        u128::from(whole.parse::<u64>().ok()?) * tenths + u128::from(fraction.parse::<u64>().ok()?);
    let bytes = units.checked_mul(u128::from(scale))?;
    bytes.is_multiple_of(tenths).then(|| u64::try_from(bytes / tenths).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A size read wrongly makes a limit that nobody set.
    #[test]
    fn sizes_are_read_and_shown() {
        let table = [
            ("0", 0, "0B"),
            ("4096", 4096, "4KiB"),
            ("100B", 100, "100B"),
            ("256MiB", 256 << 20, "256MiB"),
            ("256 mib", 256 << 20, "256MiB"),
            ("1.5GiB", 3 << 29, "1536MiB"),
            ("1KB", 1000, "1000B"),
            ("10_000", 10_000, "10000B"),
            ("16777215TiB", 16_777_215 << 40, "16777215TiB"),
        ];
        for (text, bytes, shown) in table {
            assert_eq!(Size::parse(text), Some(Size(bytes)), "{text}");
            assert_eq!(Size(bytes).to_string(), shown, "{text}");
            assert_eq!(Size::parse(shown), Some(Size(bytes)), "{shown} is read back");
        }
        for bad in
            ["", "MiB", "-1", "1XiB", "1.0000001GiB", "1.2.3", "16777216TiB", "0.5", "1 2MiB", "."]
        {
            assert_eq!(Size::parse(bad), None, "{bad}");
        }
    }

    /// A time-out read a thousand times too long or too short is found only in an outage.
    #[test]
    fn times_are_read_and_shown() {
        let table = [
            ("100ms", 100_000, "100ms"),
            ("5s", 5_000_000, "5s"),
            ("1.5s", 1_500_000, "1500ms"),
            ("90s", 90_000_000, "90s"),
            ("60s", 60_000_000, "1m"),
            ("24h", 86_400_000_000, "1d"),
            ("0", 0, "0s"),
            ("0s", 0, "0s"),
            ("250us", 250, "250us"),
        ];
        for (text, us, shown) in table {
            let time = Duration::from_micros(us);
            assert_eq!(parse_time(text), Some(time), "{text}");
            assert_eq!(show_time(time), shown, "{text}");
            assert_eq!(parse_time(shown), Some(time), "{shown} is read back");
        }
        for bad in ["5", "", "s", "5 minutes", "-1s", "1e3s", "5S", "0.1us"] {
            assert_eq!(parse_time(bad), None, "{bad}");
        }
    }
}
