//! What the admin port bounds, each with its reason.

use std::time::Duration;

/// Connections at one time; more wait in the kernel. Each has one question open, so that all of them fit the shards'
/// queues.
pub const CONNECTIONS_MAX: usize = 32;
/// How long a shard or the control plane may take to answer. A shard looks at its questions in every cycle, so one that
/// takes longer is stuck.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// Bytes of a request's headers, names and values.
pub const HEADER_BYTES_MAX: usize = 64 << 10;
/// Headers of a request.
pub const HEADERS_MAX: usize = 100;
/// Bytes of a request's body: a subscription with 64 filters of usual length, many times.
pub const BODY_BYTES_MAX: usize = 64 << 10;
/// How long a body may take to come.
pub const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// Most groups that /metrics tells of, so that the number of its series has a bound. The API tells of all.
pub const GROUPS_IN_METRICS_MAX: usize = dataplane::inquiry::PAGE_MAX;
/// What is read of a request before it is refused unread: headers that are too large are answered as long as they fit.
pub(crate) const READ_BYTES_MAX: usize = 2 * HEADER_BYTES_MAX;
/// The same for their number.
pub(crate) const HEADERS_READ_MAX: usize = 8 * HEADERS_MAX;

const _: () = {
    assert!(CONNECTIONS_MAX < dataplane::inquiry::INQUIRIES_MAX, "every question finds room");
    assert!(HEADER_BYTES_MAX < READ_BYTES_MAX && HEADERS_MAX < HEADERS_READ_MAX);
};
