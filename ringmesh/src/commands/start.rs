//! `--from`: where a subscription begins.

use codec::ids::{Offset, Partition, Timestamp};
use codec::limits::PARTITIONS;

/// Where a subscription begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum From {
    /// With the next event.
    Tail,
    /// With the oldest event that is kept.
    Earliest,
    /// With the first event taken at this time or later.
    Time(Timestamp),
    /// With these offsets, of one topic.
    Offsets(Vec<(Partition, Offset)>),
}

const FORM: &str = "expected tail, earliest, a time such as 2026-11-21T10:00:00Z, or PARTITION:OFFSET[,...] such as 3:0,7:120";

/// Reads the value of `--from`.
///
/// # Errors
/// Says what is expected.
pub fn parse(text: &str) -> Result<From, String> {
    match text {
        "tail" => return Ok(From::Tail),
        "earliest" => return Ok(From::Earliest),
        _ => {}
    }
    if let Some(time) = parse_rfc3339(text) {
        return Ok(From::Time(time));
    }
    let places: Result<Vec<_>, String> = text.split(',').map(parse_place).collect();
    let places = places?;
    let twice = places.iter().enumerate().find(|(i, (partition, _))| {
        places[..*i].iter().any(|(earlier, _)| earlier == partition)
    });
    match twice {
        Some((_, (partition, _))) => Err(format!("partition {partition} is given twice")),
        None => Ok(From::Offsets(places)),
    }
}

fn parse_place(text: &str) -> Result<(Partition, Offset), String> {
    let (partition, offset) = text.split_once(':').ok_or(FORM)?;
    let partition: u16 = partition.trim().parse().map_err(|_| FORM)?;
    let offset: u64 = offset.trim().parse().map_err(|_| FORM)?;
    if partition >= PARTITIONS {
        return Err(format!("partition {partition} does not exist; there are 0 to {}", PARTITIONS - 1));
    }
    Ok((Partition(partition), Offset(offset)))
}

/// A time of RFC 3339, from 1970 on. A leap second counts as the second after it.
fn parse_rfc3339(text: &str) -> Option<Timestamp> {
    let bytes = text.as_bytes();
    if bytes.len() < 20 || !text.is_ascii() || !matches!(bytes[10], b'T' | b't' | b' ') {
        return None;
    }
    let number = |from: usize, to: usize| digits(&text[from..to]);
    let separators = [(4, b'-'), (7, b'-'), (13, b':'), (16, b':')];
    if separators.iter().any(|(at, byte)| bytes[*at] != *byte) {
        return None;
    }
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    if !(1..=12).contains(&month) || !(1..=days_in(year, month)).contains(&day) {
        return None;
    }
    if hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let (micros, zone) = fraction(&text[19..])?;
    let zone_seconds = zone_offset(zone)?;
    let seconds = days_since_1970(year, month, day) * 86_400 + hour * 3_600 + minute * 60 + second;
    let total = (seconds - zone_seconds) * 1_000_000 + micros;
    u64::try_from(total).ok().map(Timestamp)
}

fn digits(text: &str) -> Option<i64> {
    let plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    plain.then(|| text.parse().ok()).flatten()
}

/// `.25Z` is 250,000 us and `Z`; digits below a microsecond are cut.
fn fraction(rest: &str) -> Option<(i64, &str)> {
    let Some(rest) = rest.strip_prefix('.') else { return Some((0, rest)) };
    let end = rest.find(|c: char| !c.is_ascii_digit())?;
    let kept = &rest[..end.min(6)];
    let scale = 10i64.pow(6 - u32::try_from(kept.len()).ok()?);
    Some((digits(kept)? * scale, &rest[end..]))
}

fn zone_offset(zone: &str) -> Option<i64> {
    if matches!(zone, "Z" | "z") {
        return Some(0);
    }
    let sign = match zone.as_bytes().first()? {
        b'+' => 1,
        b'-' => -1,
        _ => return None,
    };
    let (hours, minutes) = zone[1..].split_once(':')?;
    let (hours_len, minutes_len) = (hours.len(), minutes.len());
    let (hours, minutes) = (digits(hours)?, digits(minutes)?);
    let fits = hours_len == 2 && minutes_len == 2 && hours <= 23 && minutes <= 59;
    fits.then_some(sign * (hours * 3_600 + minutes * 60))
}

fn days_in(year: i64, month: i64) -> i64 {
    let leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
    match month {
        2 => 28 + i64::from(leap),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days from 1970-01-01, by counting years from March so that a leap day is the last of its year.
fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A start that is read wrongly skips events without a word.
    #[test]
    fn starts_are_read() {
        let time = |us| From::Time(Timestamp(us));
        let offsets = |list: &[(u16, u64)]| {
            From::Offsets(list.iter().map(|(p, o)| (Partition(*p), Offset(*o))).collect())
        };
        let table = [
            ("tail", From::Tail),
            ("earliest", From::Earliest),
            ("1970-01-01T00:00:00Z", time(0)),
            ("2000-02-29T00:00:00Z", time(951_782_400_000_000)),
            ("2026-11-21T10:00:00Z", time(1_795_255_200_000_000)),
            ("2026-11-21T10:00:00.25Z", time(1_795_255_200_250_000)),
            ("2026-11-21T12:00:00.123456789+02:00", time(1_795_255_200_123_456)),
            ("2026-11-21t08:30:00-01:30", time(1_795_255_200_000_000)),
            ("0:0", offsets(&[(0, 0)])),
            ("3:0,63:18446744073709551615", offsets(&[(3, 0), (63, u64::MAX)])),
        ];
        for (text, expected) in table {
            assert_eq!(parse(text), Ok(expected), "{text}");
        }
    }

    /// What is nearly a start is refused with what is expected, never taken as another.
    #[test]
    fn what_is_no_start_is_refused() {
        for text in [
            "", "Tail", "2026-11-21", "2026-11-21T10:00:00", "2026-13-01T00:00:00Z", "2025-02-29T00:00:00Z",
            "2026-11-21T24:00:00Z", "2026-11-21T10:00:00+2:00", "2026-11-21T10:00:00.Z", "1969-12-31T23:59:59Z",
            "1", "1:", ":1", "1:2,", "-1:2", "1:2:3",
        ] {
            assert_eq!(parse(text), Err(FORM.to_owned()), "{text}");
        }
        assert_eq!(parse("1:2,1:3"), Err("partition 1 is given twice".to_owned()));
        assert_eq!(parse("64:0"), Err("partition 64 does not exist; there are 0 to 63".to_owned()));
    }
}
