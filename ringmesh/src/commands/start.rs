//! `--from`: where a subscription begins.

use codec::cloudevents::rules::instant_of;
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

const FORM: &str = "expected latest (or tail), earliest, a time such as 2026-11-21T10:00:00Z, or PARTITION:OFFSET[,...] such as 3:0,7:120";

/// Reads the value of `--from`.
///
/// # Errors
/// Says what is expected.
pub fn parse(text: &str) -> Result<From, String> {
    match text {
        "latest" | "tail" => return Ok(From::Tail),
        "earliest" => return Ok(From::Earliest),
        _ => {}
    }
    if let Some(time) = parse_time(text) {
        return Ok(From::Time(time));
    }
    let places: Result<Vec<_>, String> = text.split(',').map(parse_place).collect();
    let places = places?;
    let twice = places
        .iter()
        .enumerate()
        .find(|(i, (partition, _))| places[..*i].iter().any(|(earlier, _)| earlier == partition));
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
        return Err(format!(
            "partition {partition} does not exist; there are 0 to {}",
            PARTITIONS - 1
        ));
    }
    Ok((Partition(partition), Offset(offset)))
}

fn parse_time(text: &str) -> Option<Timestamp> {
    let (seconds, nanos) = instant_of(text)?;
    let micros = u64::try_from(seconds).ok()?.checked_mul(1_000_000)?;
    Some(Timestamp(micros + u64::from(nanos / 1_000)))
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
            ("latest", From::Tail),
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
            "",
            "Tail",
            "2026-11-21",
            "2026-11-21T10:00:00",
            "2026-13-01T00:00:00Z",
            "2025-02-29T00:00:00Z",
            "2026-11-21T24:00:00Z",
            "2026-11-21T10:00:00+2:00",
            "2026-11-21T10:00:00.Z",
            "1969-12-31T23:59:59Z",
            "1",
            "1:",
            ":1",
            "1:2,",
            "-1:2",
            "1:2:3",
        ] {
            assert_eq!(parse(text), Err(FORM.to_owned()), "{text}");
        }
        assert_eq!(parse("1:2,1:3"), Err("partition 1 is given twice".to_owned()));
        assert_eq!(parse("64:0"), Err("partition 64 does not exist; there are 0 to 63".to_owned()));
    }
}
