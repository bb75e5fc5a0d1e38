//! The part of a URL behind the question mark, and its percent-encoding.

use std::str::FromStr;
use std::sync::Arc;

use codec::cloudevents::rules::instant_of;
use codec::ids::{Offset, Partition, Timestamp};
use codec::problem::Problem;
use codec::refusal::Code;
use percent_encoding::percent_decode;
use routing::subscription::Start;
use routing::topic::{TopicError, TopicFilter};

/// Longest group name, in bytes: it stands in the catalog and in metrics.
pub(super) const GROUP_BYTES_MAX: usize = 255;

/// The parameters that have not been looked at.
#[derive(Debug)]
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    /// Splits and decodes.
    pub(super) fn parse(query: Option<&str>) -> Result<Query, Problem> {
        let mut found: Vec<(String, String)> = Vec::new();
        for pair in query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let (name, value) = (decoded(name, true)?, decoded(value, true)?);
            if found.iter().any(|(known, _)| *known == name) {
                let detail = format!("parameter {name:?} stands twice");
                return Err(Problem::of(&name, Code::MalformedRequest, detail));
            }
            found.push((name, value));
        }
        Ok(Query(found))
    }

    /// Takes a parameter.
    pub(super) fn take(&mut self, name: &str) -> Option<String> {
        let index = self.0.iter().position(|(known, _)| known == name)?;
        Some(self.0.swap_remove(index).1)
    }

    /// Takes a parameter that must be there.
    pub(super) fn need(&mut self, name: &str) -> Result<String, Problem> {
        let value = self.take(name).filter(|value| !value.is_empty());
        value.ok_or_else(|| {
            Problem::of(name, Code::MalformedRequest, format!("parameter {name:?} is absent"))
        })
    }

    /// Takes a number from `least` to `most`.
    pub(super) fn number<T>(
        &mut self,
        name: &str,
        (least, most): (T, T),
        default: T,
    ) -> Result<T, Problem>
    where
        T: FromStr + PartialOrd + Copy + std::fmt::Display + Into<u64>,
    {
        let Some(text) = self.take(name) else { return Ok(default) };
        let value: Option<T> = text.parse().ok();
        if let Some(value) = value.filter(|value| (least..=most).contains(value)) {
            return Ok(value);
        }
        let detail = format!("parameter {name:?} is {text:?}, from {least} to {most} is allowed");
        let mut problem = Problem::of(name, Code::MalformedRequest, detail);
        problem.limit = Some(most.into());
        problem.value = value.map(Into::into);
        Err(problem)
    }

    /// Whatever is left is not known.
    pub(super) fn finish(self) -> Result<(), Problem> {
        match self.0.first() {
            None => Ok(()),
            Some((name, _)) => {
                let detail = format!("parameter {name:?} is not known");
                Err(Problem::of(name, Code::MalformedRequest, detail))
            }
        }
    }
}

/// The text that percent-encoding stands for; in a query a plus sign is a space.
pub(super) fn decoded(text: &str, is_query: bool) -> Result<String, Problem> {
    let spaced;
    let text = if is_query && text.contains('+') {
        spaced = text.replace('+', " ");
        &spaced
    } else {
        text
    };
    let decoded = percent_decode(text.as_bytes()).decode_utf8();
    decoded.map(Into::into).map_err(|_| {
        Problem::of("url", Code::NotUtf8, format!("{text:?} does not stand for UTF-8"))
    })
}

/// Limits are refused as limits, everything else as a malformed text.
pub(super) fn topic_problem(field: &str, error: &TopicError, malformed: Code) -> Problem {
    match *error {
        TopicError::TooLong { bytes, bytes_max } => {
            Problem::limit(&format!("{field} bytes"), bytes_max as u64, bytes as u64)
        }
        TopicError::TooManyLevels { levels, levels_max } => {
            Problem::limit(&format!("{field} levels"), levels_max as u64, levels as u64)
        }
        _ => Problem::of(field, malformed, error.to_string()),
    }
}

/// A filter of topics.
pub(super) fn filter(text: String) -> Result<TopicFilter, Problem> {
    TopicFilter::new(text).map_err(|error| topic_problem("filter", &error, Code::MalformedFilter))
}

/// The name of a group that clients share.
pub(super) fn group(name: String) -> Result<Arc<str>, Problem> {
    let is_bad = name.is_empty() || name.starts_with('$') || name.chars().any(char::is_control);
    if is_bad || name.len() > GROUP_BYTES_MAX {
        let detail = format!(
            "group {name:?} is empty, longer than {GROUP_BYTES_MAX} bytes, starts with '$' or has control characters"
        );
        return Err(Problem::of("group", Code::MalformedGroup, detail));
    }
    Ok(name.into())
}

/// Where a new group begins: `latest`, `earliest`, a time in RFC 3339 or in milliseconds since 1970, or
/// `PARTITION:OFFSET,...`.
pub(super) fn start(
    text: &str,
    filter: &TopicFilter,
    partitions: u16,
) -> Result<Option<Start>, Problem> {
    let bad = || {
        let detail = format!(
            "parameter \"from\" is {text:?}; latest, earliest, a time (RFC 3339 or milliseconds since 1970) or PARTITION:OFFSET,... is taken"
        );
        Problem::of("from", Code::MalformedRequest, detail)
    };
    Ok(Some(match text {
        "latest" | "tail" => Start::Tail,
        "earliest" => Start::Earliest,
        _ if text.bytes().all(|byte| byte.is_ascii_digit()) => {
            let ms: u64 = text.parse().map_err(|_| bad())?;
            Start::Time(Timestamp(ms.checked_mul(1_000).ok_or_else(bad)?))
        }
        _ => match instant_of(text) {
            Some((seconds, nanos)) => {
                let seconds = u64::try_from(seconds).map_err(|_| bad())?;
                Start::Time(Timestamp(seconds * 1_000_000 + u64::from(nanos) / 1_000))
            }
            None => offsets(text, filter, partitions)?.ok_or_else(bad)?,
        },
    }))
}

fn offsets(text: &str, filter: &TopicFilter, partitions: u16) -> Result<Option<Start>, Problem> {
    let pair = |pair: &str| {
        let (partition, offset) = pair.split_once(':')?;
        Some((Partition(partition.parse().ok()?), Offset(offset.parse().ok()?)))
    };
    let Some(offsets) = text.split(',').map(pair).collect::<Option<Vec<_>>>() else {
        return Ok(None);
    };
    if let Some((partition, _)) = offsets.iter().find(|(partition, _)| partition.0 >= partitions) {
        let detail = format!("partition is {partition}, there are {partitions}");
        return Err(Problem::of("from", Code::UnknownPartition, detail));
    }
    if filter.exact_name().is_none() {
        let detail = format!("filter {:?} has wildcards", filter.as_str());
        return Err(Problem::of("from", Code::StartNeedsTopic, detail));
    }
    Ok(Some(Start::Offsets(offsets)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A parameter that is overlooked, taken twice or decoded wrongly makes a subscription of something else.
    #[test]
    fn parameters_are_decoded_and_none_is_overlooked() {
        let mut query = Query::parse(Some("filter=a%2F%23&group=b+c%2Bd&max=7&&x")).unwrap();
        assert_eq!(query.need("filter").unwrap(), "a/#");
        assert_eq!(query.take("group").unwrap(), "b c+d");
        assert_eq!(query.number("max", (1_u32, 7), 3), Ok(7));
        assert_eq!(query.number("min", (1_u32, 7), 3), Ok(3));
        let problem = query.finish().unwrap_err();
        assert_eq!(problem.field.as_deref(), Some("x"));
        for (text, code) in [("a=%ff", Code::NotUtf8), ("a=1&a=2", Code::MalformedRequest)] {
            assert_eq!(Query::parse(Some(text)).unwrap_err().refusal.code, code, "{text}");
        }
        let mut query = Query::parse(Some("max=8")).unwrap();
        let problem = query.number("max", (1_u32, 7), 3).unwrap_err();
        assert_eq!((problem.limit, problem.value), (Some(7), Some(8)));
    }

    /// A start that is misread delivers what nobody asked for, or leaves out what somebody did.
    #[test]
    fn starts_are_read_as_documented() {
        let exact = filter("a/b".to_owned()).unwrap();
        let wild = filter("a/#".to_owned()).unwrap();
        let time = |us| Start::Time(Timestamp(us));
        let cases = [
            ("latest", Start::Tail),
            ("earliest", Start::Earliest),
            ("1000", time(1_000_000)),
            ("1970-01-01T00:00:02.5Z", time(2_500_000)),
            ("3:7,4:0", Start::Offsets(vec![(Partition(3), Offset(7)), (Partition(4), Offset(0))])),
        ];
        for (text, expected) in cases {
            assert_eq!(start(text, &exact, 64), Ok(Some(expected)), "{text}");
        }
        let code = |text, filter| start(text, filter, 64).unwrap_err().refusal.code;
        assert_eq!(code("yesterday", &exact), Code::MalformedRequest);
        assert_eq!(code("64:0", &exact), Code::UnknownPartition);
        assert_eq!(code("0:0", &wild), Code::StartNeedsTopic);
    }
}
