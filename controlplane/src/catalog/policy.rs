//! Policies in the catalog: a key that names kind and subject, and a record. No record: the default.
//!
//! ```text
//!   "delivery/GROUP" -> the fields that are not the default, by rising number: u8 field, u64 value, little-endian
//!
//!   1 attempts_max   2 retry_delay_ms   3 retry_delay_max_ms   4 jitter_percent   5 ack_timeout_ms
//!   6 in_flight_max  7 age_max_ms       8 on_exhausted: 1 drop
//! ```

use std::sync::Arc;

use routing::delivery_policy::{DeliveryPolicy, OnExhausted};

use super::{Contents, POLICIES};

const DELIVERY: &str = "delivery/";
const FIELD_BYTES: usize = 9;

/// One policy as the catalog keeps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// Kind and subject.
    pub key: Arc<str>,
    /// None: it is the default, and not in the catalog.
    pub record: Option<Arc<[u8]>>,
}

impl Setting {
    /// A group's delivery policy.
    #[must_use]
    pub fn delivery(group: &str, policy: Option<&DeliveryPolicy>) -> Setting {
        let key = format!("{DELIVERY}{group}").into();
        Setting { key, record: policy.map(|policy| encode_delivery(policy).into()) }
    }

    pub(super) fn write(&self, transaction: &redb::WriteTransaction) -> Result<(), redb::Error> {
        let mut table = transaction.open_table(POLICIES)?;
        match &self.record {
            Some(record) => drop(table.insert(&*self.key, &**record)?),
            None => drop(table.remove(&*self.key)?),
        }
        Ok(())
    }
}

impl Contents {
    /// Takes a policy out of the catalog; none: this build cannot read it.
    pub(super) fn take_policy(&mut self, key: &str, record: &[u8]) -> Option<()> {
        let group = key.strip_prefix(DELIVERY)?;
        let policy = decode_delivery(record)?;
        self.delivery_policies.push((group.into(), Arc::new(policy)));
        Some(())
    }
}

fn encode_delivery(policy: &DeliveryPolicy) -> Vec<u8> {
    let DeliveryPolicy { attempts_max, retry_delay_ms, retry_delay_max_ms, jitter_percent, .. } =
        *policy;
    let DeliveryPolicy { ack_timeout_ms, in_flight_max, age_max_ms, on_exhausted, .. } = *policy;
    let fields = [
        attempts_max.map(u64::from),
        retry_delay_ms,
        retry_delay_max_ms,
        (jitter_percent > 0).then_some(u64::from(jitter_percent)),
        ack_timeout_ms,
        in_flight_max.map(u64::from),
        age_max_ms,
        (on_exhausted == OnExhausted::Drop).then_some(1),
    ];
    let mut record = Vec::with_capacity(fields.len() * FIELD_BYTES);
    for (field, value) in (1u8..).zip(fields) {
        if let Some(value) = value {
            record.push(field);
            record.extend(value.to_le_bytes());
        }
    }
    record
}

/// None: not a policy that this build writes.
fn decode_delivery(record: &[u8]) -> Option<DeliveryPolicy> {
    let mut policy = DeliveryPolicy::default();
    let (fields, rest) = record.as_chunks::<FIELD_BYTES>();
    if !rest.is_empty() || !fields.is_sorted_by(|one, next| one[0] < next[0]) {
        return None;
    }
    for [field, value @ ..] in fields {
        let value = u64::from_le_bytes(*value);
        match field {
            1 => policy.attempts_max = Some(u32::try_from(value).ok()?),
            2 => policy.retry_delay_ms = Some(value),
            3 => policy.retry_delay_max_ms = Some(value),
            4 => policy.jitter_percent = u8::try_from(value).ok()?,
            5 => policy.ack_timeout_ms = Some(value),
            6 => policy.in_flight_max = Some(u32::try_from(value).ok()?),
            7 => policy.age_max_ms = Some(value),
            8 if value == 1 => policy.on_exhausted = OnExhausted::Drop,
            _ => return None,
        }
    }
    policy.check().is_ok().then_some(policy)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A field that does not come back, or comes back as another, would retry for ever or drop what is to be kept.
    #[test]
    fn policies_come_back_or_are_told() {
        let whole = DeliveryPolicy {
            attempts_max: Some(7),
            retry_delay_ms: Some(250),
            retry_delay_max_ms: Some(60_000),
            jitter_percent: 20,
            ack_timeout_ms: Some(5_000),
            in_flight_max: Some(100),
            age_max_ms: Some(3_600_000),
            on_exhausted: OnExhausted::Drop,
        };
        for policy in [DeliveryPolicy::default(), whole] {
            let record = encode_delivery(&policy);
            assert_eq!(decode_delivery(&record), Some(policy));
            for cut in (0..record.len()).filter(|cut| cut % FIELD_BYTES != 0) {
                assert_eq!(decode_delivery(&record[..cut]), None, "cut at {cut}");
            }
            for bit in 0..record.len() * 8 {
                let mut flipped = record.clone();
                flipped[bit / 8] ^= 1 << (bit % 8);
                assert_ne!(decode_delivery(&flipped), Some(policy), "bit {bit} means something");
            }
        }
        assert_eq!(
            Contents::default().take_policy("other/x", &[]),
            None,
            "a kind of a later build"
        );
    }
}
