//! How the events of one group are delivered again, for how long, and what becomes of those that nobody takes.
//!
//! A policy belongs to a group by the name that clients give it, so it may stand before the group does and outlives it; a
//! broadcasting group's holds for each of its clients. What a policy leaves open is as the server is configured.

use std::fmt;

/// Most attempts that a policy may allow.
pub const ATTEMPTS_MAX: u64 = 1_000_000;
/// Longest delay, and longest ack time-out: a day. Longer ones belong to delayed delivery, not to a retry.
pub const DELAY_MS_MAX: u64 = 86_400_000;
/// Shortest ack time-out: deliveries are looked at ten times a second.
pub const ACK_TIMEOUT_MS_MIN: u64 = 100;
/// Most events in flight to one member; as much credit as a member may ask for.
pub const IN_FLIGHT_MAX: u64 = 65_536;
/// Shortest age at which an event may be too old.
pub const AGE_MS_MIN: u64 = 1_000;
/// Longest such age: ten years.
pub const AGE_MS_MAX: u64 = 3_650 * 86_400_000;

/// See the module. The default changes nothing: attempts without end, as the server is configured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct DeliveryPolicy {
    /// Attempts after which an event is exhausted; none: no number is enough.
    pub attempts_max: Option<u32>,
    /// The delay before the second attempt of an event that was handed back; it doubles with each further attempt.
    pub retry_delay_ms: Option<u64>,
    /// The longest such delay; one below `retry_delay_ms` means that.
    pub retry_delay_max_ms: Option<u64>,
    /// By how many hundredths a delay may be shorter than it would be, at random, so that what failed together does not
    /// come back together.
    pub jitter_percent: u8,
    /// How long a member may keep a delivery unsettled before it goes to another.
    pub ack_timeout_ms: Option<u64>,
    /// Most events in flight to one member, whatever credit it asks for.
    pub in_flight_max: Option<u32>,
    /// Age, counted from its append, from which an event is not delivered any more.
    pub age_max_ms: Option<u64>,
    /// What becomes of an event whose attempts are used up, that is too old, or that was rejected.
    pub on_exhausted: OnExhausted,
}

/// What becomes of an event that is not to be delivered any more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum OnExhausted {
    /// It goes to the group's dead letters.
    #[default]
    DeadLetter,
    /// It is settled and gone; only counted.
    Drop,
}

impl OnExhausted {
    /// The word for it, in the API and on the command line.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            OnExhausted::DeadLetter => "dead_letter",
            OnExhausted::Drop => "drop",
        }
    }
}

/// A field of a policy that is out of its bounds. Always the asker's fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PolicyError {
    /// Which field.
    pub field: &'static str,
    /// The least that is allowed.
    pub least: u64,
    /// The most that is allowed.
    pub most: u64,
    /// What was given.
    pub value: u64,
}

impl DeliveryPolicy {
    /// Checks every field against its bounds.
    ///
    /// # Errors
    /// Names the first field that is out of them.
    pub fn check(&self) -> Result<(), PolicyError> {
        let fields = [
            ("attempts_max", self.attempts_max.map(u64::from), 1, ATTEMPTS_MAX),
            ("retry_delay_ms", self.retry_delay_ms, 1, DELAY_MS_MAX),
            ("retry_delay_max_ms", self.retry_delay_max_ms, 1, DELAY_MS_MAX),
            ("jitter_percent", Some(u64::from(self.jitter_percent)), 0, 100),
            ("ack_timeout_ms", self.ack_timeout_ms, ACK_TIMEOUT_MS_MIN, DELAY_MS_MAX),
            ("in_flight_max", self.in_flight_max.map(u64::from), 1, IN_FLIGHT_MAX),
            ("age_max_ms", self.age_max_ms, AGE_MS_MIN, AGE_MS_MAX),
        ];
        for (field, value, least, most) in fields {
            if let Some(value) = value.filter(|value| !(least..=most).contains(value)) {
                return Err(PolicyError { field, least, most, value });
            }
        }
        Ok(())
    }

    /// Whether it says nothing, and so need not be kept.
    #[must_use]
    pub fn is_default(&self) -> bool {
        *self == DeliveryPolicy::default()
    }
}

impl fmt::Display for PolicyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let PolicyError { field, least, most, value } = self;
        write!(f, "{field} is {value}, {least} to {most} are allowed")
    }
}

impl std::error::Error for PolicyError {}

#[cfg(test)]
mod tests {
    use super::*;

    /// A bound that is not kept becomes a shift or a multiplication that overflows on a shard.
    #[test]
    fn fields_have_bounds() {
        assert_eq!(DeliveryPolicy::default().check(), Ok(()));
        assert!(DeliveryPolicy::default().is_default());
        let largest = DeliveryPolicy {
            attempts_max: Some(ATTEMPTS_MAX as u32),
            retry_delay_ms: Some(DELAY_MS_MAX),
            retry_delay_max_ms: Some(DELAY_MS_MAX),
            jitter_percent: 100,
            ack_timeout_ms: Some(DELAY_MS_MAX),
            in_flight_max: Some(IN_FLIGHT_MAX as u32),
            age_max_ms: Some(AGE_MS_MAX),
            on_exhausted: OnExhausted::Drop,
        };
        assert_eq!(largest.check(), Ok(()));
        let bad = [
            ("attempts_max", DeliveryPolicy { attempts_max: Some(0), ..largest }),
            ("retry_delay_ms", DeliveryPolicy { retry_delay_ms: Some(0), ..largest }),
            ("retry_delay_max_ms", DeliveryPolicy { retry_delay_max_ms: Some(0), ..largest }),
            ("jitter_percent", DeliveryPolicy { jitter_percent: 101, ..largest }),
            ("ack_timeout_ms", DeliveryPolicy { ack_timeout_ms: Some(99), ..largest }),
            ("in_flight_max", DeliveryPolicy { in_flight_max: Some(0), ..largest }),
            ("age_max_ms", DeliveryPolicy { age_max_ms: Some(u64::MAX), ..largest }),
        ];
        for (field, policy) in bad {
            assert_eq!(policy.check().map_err(|error| error.field), Err(field));
        }
    }
}
