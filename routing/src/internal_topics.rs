//! Topics that the server writes itself. Clients may read them and never publish to them.
//!
//! - `$dead/GROUP`: events that a group could not be given. The group's name is one level: what a level may not hold is
//!   written as `%` and two hexadecimal digits.
//! - `$parking/GROUP`: events that wait long before they are tried again, for that group alone.
//! - `$redrive/GROUP`: events for that group alone, and for every subscription of it, whatever these ask for.

use std::fmt::Write;
use std::sync::Arc;

use codec::crc32c::crc32c;
use codec::limits::TOPIC_BYTES_MAX;
use codec::murmur2::murmur2;

/// The first level of topics of dead letters.
pub const DEAD: &str = "$dead/";
/// The first level of topics of parked events.
pub const PARKING: &str = "$parking/";
/// The first level of topics that one group gets.
pub const REDRIVE: &str = "$redrive/";
/// Longest name of a group that is written whole; a longer one is cut, and a hash of all of it follows.
const LEVEL_BYTES_MAX: usize = 900;

const _: () = assert!(LEVEL_BYTES_MAX + 64 < TOPIC_BYTES_MAX, "every group has a topic");

/// The topic of a group's dead letters, by the group's full name.
#[must_use]
pub fn dead_topic(group_name: &str) -> Arc<str> {
    group_topic(DEAD, group_name)
}

/// The topic of a group's parked events, by the group's full name.
#[must_use]
pub fn parking_topic(group_name: &str) -> Arc<str> {
    group_topic(PARKING, group_name)
}

fn group_topic(first_level: &str, group_name: &str) -> Arc<str> {
    let mut topic = first_level.to_owned();
    push_level(group_name, &mut topic);
    if topic.len() > LEVEL_BYTES_MAX {
        let cut = (0..=LEVEL_BYTES_MAX).rev().find(|at| topic.is_char_boundary(*at));
        topic.truncate(cut.expect("0 is a boundary"));
        let (bytes, one) = (group_name.as_bytes(), crc32c(group_name.as_bytes()));
        write!(topic, "%~{one:08x}{:08x}", murmur2(bytes)).expect("a string takes all");
    }
    topic.into()
}

/// The topic of what one group is given again; none for a name that is too long to be told whole.
#[must_use]
pub fn redrive_topic(group_name: &str) -> Option<Arc<str>> {
    let mut topic = REDRIVE.to_owned();
    push_level(group_name, &mut topic);
    (topic.len() <= LEVEL_BYTES_MAX).then(|| topic.into())
}

/// The full name of the group that alone gets this topic, if it is of that kind.
#[must_use]
pub fn redriven_group(topic: &str) -> Option<String> {
    let level = topic.strip_prefix(REDRIVE)?;
    let mut parts = level.split('%');
    let mut name = parts.next()?.to_owned();
    for part in parts {
        let number = u8::from_str_radix(part.get(..2)?, 16).ok()?;
        name.push(char::from(number));
        name.push_str(&part[2..]);
    }
    // One group has one topic: no other spelling makes another.
    (redrive_topic(&name)? == topic.into()).then_some(name)
}

fn push_level(group_name: &str, topic: &mut String) {
    for c in group_name.chars() {
        match c {
            '%' | '/' | '+' | '#' | '\0' => {
                write!(topic, "%{:02X}", u32::from(c)).expect("a string takes all");
            }
            c => topic.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topic::TopicName;

    /// A group whose dead letters have no topic, or another's, would lose them.
    #[test]
    fn every_group_has_a_topic_of_its_own() {
        let long = ["x".repeat(2_000), "x".repeat(2_001), "é".repeat(1_000)];
        let names = ["orders", "a/b", "a%2Fb", "a//b", "/", "+", "#", "g/$client/c", "a\0b", "é"];
        let names: Vec<&str> = names.into_iter().chain(long.iter().map(String::as_str)).collect();
        for (at, name) in names.iter().enumerate() {
            let topic = dead_topic(name);
            assert_eq!(TopicName::check(&topic), Ok(()), "{topic}");
            assert_eq!(topic.split('/').count(), 2, "{topic}");
            assert!(names[..at].iter().all(|other| dead_topic(other) != topic), "{topic}");
        }
        assert_eq!(&*dead_topic("orders"), "$dead/orders");
        assert_eq!(&*dead_topic("team/orders"), "$dead/team%2Forders");
    }

    /// A topic that is taken for another group's would give that one what is not its own.
    #[test]
    fn a_redrive_names_one_group() {
        for name in ["orders", "a/b", "a%2Fb", "g/$client/c", "é+#", "a\0b"] {
            let topic = redrive_topic(name).unwrap();
            assert_eq!(redriven_group(&topic).as_deref(), Some(name));
        }
        for other in ["$dead/a", "$redrive/a%2f", "$redrive/a/b", "$redrive/%", "$redrive/%zz"] {
            assert_eq!(redriven_group(other), None, "{other}");
        }
        assert_eq!(redrive_topic(&"/".repeat(400)), None, "too long to be told whole");
    }
}
