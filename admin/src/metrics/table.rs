//! The one table of metrics: name, labels, meaning, and where the value comes from.

use dataplane::inquiry::{LogReport, PlaceReport, ShardReport};
use dataplane::runtime::{BOUNDS_US, Counters};
use log::batch::LogState;

use super::text::Samples;
use super::view::View;

/// What kind of number a metric is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only rises, from 0 at the server's start.
    Counter,
    /// Rises and falls.
    Gauge,
    /// How many were at most so large, and their sum; each only rises.
    Histogram,
}

/// One metric.
pub struct Metric {
    /// `ringmesh_<subject>_<what>_<unit>[_total]`.
    pub name: &'static str,
    /// Counter or gauge.
    pub kind: Kind,
    /// Names of its labels, in their order.
    pub labels: &'static [&'static str],
    /// What it means.
    pub help: &'static str,
    /// Writes its samples.
    pub(crate) tell: fn(&View, &mut Samples<'_>),
}

/// Each shard's value.
fn each_shard<V: std::fmt::Display>(
    view: &View,
    out: &mut Samples<'_>,
    value: impl Fn(&ShardReport) -> V,
) {
    for shard in view.answered() {
        out.put(&[&shard.shard], value(shard));
    }
}

/// Each runtime's value.
fn each_runtime(view: &View, out: &mut Samples<'_>, value: impl Fn(&Counters) -> u64) {
    for (shard, counters) in view.runtimes() {
        out.put(&[&shard], value(counters));
    }
}

/// Each log's value.
fn each_log<V: std::fmt::Display>(
    view: &View,
    out: &mut Samples<'_>,
    value: impl Fn(&LogReport) -> V,
) {
    for log in view.answered().flat_map(|shard| &shard.logs) {
        out.put(&[&log.log], value(log));
    }
}

/// Each group's sum over its places.
fn each_group(view: &View, out: &mut Samples<'_>, value: impl Fn(&PlaceReport) -> u64) {
    for group in &view.groups {
        let places = group.reports.iter().flat_map(|report| &report.places);
        out.put(&[&group.name], places.map(&value).sum::<u64>());
    }
}

/// Parts of a shard's memory: what each keeps and may keep, in bytes.
fn memory_parts(shard: &ShardReport) -> [(&'static str, (u64, u64)); 4] {
    let memory = &shard.memory;
    [
        ("read_ahead", memory.read_ahead),
        ("lent", memory.lent),
        ("in_flight", memory.in_flight),
        ("input", memory.input),
    ]
}

fn state_name(state: &LogState) -> &'static str {
    match state {
        LogState::Running => "running",
        LogState::DiskFull => "disk_full",
        _ => "stopped",
    }
}

macro_rules! metrics {
    ($($name:literal $kind:ident [$($label:literal),*] $help:literal => $tell:expr;)+) => {
        /// Every metric, in the order in which they are told.
        pub const METRICS: &[Metric] = &[$(Metric {
            name: $name,
            kind: Kind::$kind,
            labels: &[$($label),*],
            help: $help,
            tell: $tell,
        }),+];
    };
}

metrics! {
    "ringmesh_build_info" Gauge ["version"] "1, with the server's version."
        => |_, out| out.put(&[&env!("CARGO_PKG_VERSION")], 1);
    "ringmesh_ready" Gauge [] "1 when the server serves clients: it has recovered its logs and is not shutting down."
        => |view, out| out.put(&[], u8::from(view.is_ready));
    "ringmesh_start_seconds" Gauge [] "From the start of the server until it was ready."
        => |view, out| if let Some(facts) = view.facts() { out.put(&[], facts.ready_after.as_secs_f64()) };
    "ringmesh_shard_up" Gauge ["shard"] "1 when the shard answers in time, else 0; then most of what it would tell is missing."
        => |view, out| for (shard, report) in view.shards.iter().enumerate() { out.put(&[&shard], u8::from(report.is_some())) };
    "ringmesh_control_plane_up" Gauge [] "1 when the control plane answers. Without it no subscription begins or ends; what runs goes on."
        => |view, out| out.put(&[], u8::from(view.plane.is_some()));

    "ringmesh_publish_events_total" Counter ["shard"] "Events appended to the shard's log."
        => |view, out| each_shard(view, out, |shard| shard.stats.appended_events);
    "ringmesh_publish_batches_total" Counter ["shard"] "Batches appended to the shard's log."
        => |view, out| each_shard(view, out, |shard| shard.stats.appended_batches);
    "ringmesh_publish_bytes_total" Counter ["shard"] "Bytes of the bodies of these batches: data and attributes."
        => |view, out| each_shard(view, out, |shard| shard.stats.appended_bytes);
    "ringmesh_publish_resent_batches_total" Counter ["shard"] "Batches that came again and stood in the shard's log already."
        => |view, out| each_shard(view, out, |shard| shard.stats.resent_batches);
    "ringmesh_publish_forwarded_batches_total" Counter ["shard"] "Batches that came to the shard and went to another, which owns their partition."
        => |view, out| each_shard(view, out, |shard| shard.stats.forwarded_batches);
    "ringmesh_publish_refused_batches_total" Counter ["shard"] "Batches that the shard's log refused: the disk is full, the log has stopped, too many topics, a sequence that is too old or used again."
        => |view, out| each_shard(view, out, |shard| shard.stats.refused_publishes);
    "ringmesh_publish_waits_total" Counter ["shard"] "How often a publish found no room and its connection was not read for a while."
        => |view, out| each_shard(view, out, |shard| shard.stats.no_room);
    "ringmesh_input_waits_total" Counter ["shard"] "Frames that were read on only when others were whole, for want of memory."
        => |view, out| each_shard(view, out, |shard| shard.stats.frames_held_up);

    "ringmesh_deliver_events_total" Counter ["shard"] "Events delivered out of the shard's logs, redelivered ones included."
        => |view, out| each_shard(view, out, |shard| shard.stats.delivered_events);
    "ringmesh_deliver_batches_total" Counter ["shard"] "Deliveries made: each is of events of one batch to one member."
        => |view, out| each_shard(view, out, |shard| shard.stats.deliveries);
    "ringmesh_deliver_bytes_total" Counter ["shard"] "Bytes of the bodies of the batches that the delivered events stand in."
        => |view, out| each_shard(view, out, |shard| shard.stats.delivered_bytes);
    "ringmesh_deliver_copied_batches_total" Counter ["shard"] "Deliveries that got a copy of their events, because slow members keep too many of the log's buffers in use."
        => |view, out| each_shard(view, out, |shard| shard.stats.copied_deliveries);
    "ringmesh_redeliver_events_total" Counter ["shard"] "Events delivered that were not at their first attempt."
        => |view, out| each_shard(view, out, |shard| shard.stats.redelivered_events);
    "ringmesh_deliver_expired_events_total" Counter ["shard"] "Events whose delivery was not settled within delivery.ack_deadline, or their group's ack time-out."
        => |view, out| each_shard(view, out, |shard| shard.stats.expired_events);
    "ringmesh_settle_events_total" Counter ["shard"] "Events settled as done with."
        => |view, out| each_shard(view, out, |shard| shard.stats.settled_events);
    "ringmesh_settle_retried_events_total" Counter ["shard"] "Events that members handed back."
        => |view, out| each_shard(view, out, |shard| shard.stats.retried_events);
    "ringmesh_settle_rejected_events_total" Counter ["shard"] "Events that members rejected: they are not delivered again."
        => |view, out| each_shard(view, out, |shard| shard.stats.rejected_events);
    "ringmesh_deliver_dropped_events_total" Counter ["shard"] "Events that were exhausted, too old or rejected and are gone, since their group keeps no dead letters."
        => |view, out| each_shard(view, out, |shard| shard.stats.dropped_events);
    "ringmesh_parked_events_total" Counter ["shard"] "Events that were parked, since they wait for long until they are tried again; one that is parked again counts again."
        => |view, out| each_shard(view, out, |shard| shard.stats.parked_events);
    "ringmesh_dead_letter_events_total" Counter ["shard"] "Events that were exhausted, too old or rejected and stand, durable, among the dead letters of their group."
        => |view, out| each_shard(view, out, |shard| shard.stats.dead_letter_events);
    "ringmesh_dead_letter_refused_total" Counter ["shard"] "How often dead letters, or events to be parked, found no room, on a full disk say; they are tried again each second, and nothing is lost."
        => |view, out| each_shard(view, out, |shard| shard.stats.refused_dead_letters);
    "ringmesh_dead_letter_redriven_events_total" Counter ["shard"] "Dead letters that were given to their group again, or to another topic."
        => |view, out| each_shard(view, out, |shard| shard.stats.redriven_events);
    "ringmesh_dead_letter_purged_events_total" Counter ["shard"] "Dead letters that were thrown away."
        => |view, out| each_shard(view, out, |shard| shard.stats.purged_events);
    "ringmesh_settle_stale_batches_total" Counter ["shard"] "Settles of deliveries that were over: timed out, or of an earlier life of the server."
        => |view, out| each_shard(view, out, |shard| shard.stats.stale_settles);
    "ringmesh_deliver_lost_events_total" Counter ["shard"] "Events in flight or waiting that retention took, or damage, before they were settled."
        => |view, out| each_shard(view, out, |shard| shard.stats.lost_events);
    "ringmesh_read_passed_positions_total" Counter ["shard"] "Positions that groups have passed because retention or damage had taken the events, whether they wanted these or not."
        => |view, out| each_shard(view, out, |shard| shard.stats.passed_positions);
    "ringmesh_read_failures_total" Counter ["shard"] "Reads for subscribers that the disk has failed to do."
        => |view, out| each_shard(view, out, |shard| shard.stats.read_failures);
    "ringmesh_read_stops_total" Counter ["shard"] "How often a group has stopped at what the disk does not give, however often it is asked."
        => |view, out| each_shard(view, out, |shard| shard.stats.stopped_readers);

    "ringmesh_log_state" Gauge ["log", "state"] "1 for the state that the log is in: running, disk_full (it refuses events until there is space) or stopped (a write has failed; restart the server on a healthy disk)."
        => |view, out| for log in view.answered().flat_map(|shard| &shard.logs) {
            for state in ["running", "disk_full", "stopped"] {
                out.put(&[&log.log, &state], u8::from(state_name(&log.state) == state));
            }
        };
    "ringmesh_log_start_position" Gauge ["log"] "The first position that is kept. A position is the number of an event in its log."
        => |view, out| each_log(view, out, |log| log.start);
    "ringmesh_log_durable_end_position" Gauge ["log"] "Everything before it survives a power loss."
        => |view, out| each_log(view, out, |log| log.durable_end);
    "ringmesh_log_visible_end_position" Gauge ["log"] "Everything before it may be seen by subscribers."
        => |view, out| each_log(view, out, |log| log.visible_end);
    "ringmesh_log_end_position" Gauge ["log"] "The position of the next event."
        => |view, out| each_log(view, out, |log| log.end);
    "ringmesh_log_commits_total" Counter ["log"] "Commits that have become durable, each by one synced write."
        => |view, out| each_log(view, out, |log| log.commits);
    "ringmesh_log_topics" Gauge ["log"] "Topics that the log knows."
        => |view, out| each_log(view, out, |log| log.topics);
    "ringmesh_log_segments" Gauge ["log"] "Segment files, the active one included."
        => |view, out| each_log(view, out, |log| log.segments);
    "ringmesh_log_allocated_bytes" Gauge ["log"] "Bytes that the log's segments take on the disk, prepared and spare ones included."
        => |view, out| each_log(view, out, |log| log.allocated_bytes);
    "ringmesh_recovery_read_bytes" Gauge ["log"] "Bytes of the log that the last start has read again."
        => |view, out| for log in view.facts().iter().flat_map(|facts| &facts.recovered) { out.put(&[&log.log], log.bytes_read) };
    "ringmesh_recovery_cut_tails" Gauge ["log"] "1 when the last start has cut an unfinished tail, in which nothing acknowledged was."
        => |view, out| for log in view.facts().iter().flat_map(|facts| &facts.recovered) { out.put(&[&log.log], u8::from(log.is_cut)) };
    "ringmesh_recovery_damages" Gauge ["log"] "Pieces of damage that the last start has found and set aside."
        => |view, out| for log in view.facts().iter().flat_map(|facts| &facts.recovered) { out.put(&[&log.log], log.damage) };

    "ringmesh_disk_writes_total" Counter ["shard"] "Writes that the shard has asked the disk for: commits, and what is made beside them."
        => |view, out| each_runtime(view, out, |counters| counters.disk_writes.get());
    "ringmesh_disk_synced_writes_total" Counter ["shard"] "Those of them that return only when their bytes survive a power loss."
        => |view, out| each_runtime(view, out, |counters| counters.disk_synced_writes.get());
    "ringmesh_disk_written_bytes_total" Counter ["shard"] "Bytes of these writes."
        => |view, out| each_runtime(view, out, |counters| counters.disk_written_bytes.get());
    "ringmesh_disk_write_seconds" Histogram ["shard"] "How long these writes took, from asking the disk until they were over: at the ack level durable until their bytes survive a power loss. Publishers wait for the write of their commit, and before it at most for the one before."
        => |view, out| for (shard, counters) in view.runtimes() {
            let durations = &counters.disk_write_durations;
            out.put_histogram(&[&shard], &BOUNDS_US, &durations.counts(), durations.sum_us());
        };
    "ringmesh_disk_reads_total" Counter ["shard"] "Reads that the shard has asked the disk for: for groups that are behind."
        => |view, out| each_runtime(view, out, |counters| counters.disk_reads.get());
    "ringmesh_disk_read_bytes_total" Counter ["shard"] "Bytes that were asked for."
        => |view, out| each_runtime(view, out, |counters| counters.disk_read_bytes.get());

    "ringmesh_connections" Gauge ["shard"] "Connections that are open."
        => |view, out| each_runtime(view, out, |counters| counters.accepted.get().saturating_sub(counters.closed.get()));
    "ringmesh_connections_opened_total" Counter ["shard"] "Connections that were taken in."
        => |view, out| each_runtime(view, out, |counters| counters.accepted.get());
    "ringmesh_connections_slow_peers_total" Counter ["shard"] "Connections closed because the peer took next to nothing for too long."
        => |view, out| each_runtime(view, out, |counters| counters.slow_peers.get());
    "ringmesh_connections_panics_total" Counter ["shard"] "Connections closed because the code that speaks their protocol failed."
        => |view, out| each_runtime(view, out, |counters| counters.panics.get());
    "ringmesh_connections_waiting" Gauge ["shard"] "Connections that are not read, because there is no room for what they publish."
        => |view, out| each_shard(view, out, |shard| shard.waiting_sessions);
    "ringmesh_network_received_bytes_total" Counter ["shard"] "Bytes received from peers."
        => |view, out| each_runtime(view, out, |counters| counters.bytes_in.get());
    "ringmesh_network_sent_bytes_total" Counter ["shard"] "Bytes sent to peers."
        => |view, out| each_runtime(view, out, |counters| counters.bytes_out.get());
    "ringmesh_shard_cycles_total" Counter ["shard"] "Cycles of the shard's driver."
        => |view, out| each_runtime(view, out, |counters| counters.cycles.get());
    "ringmesh_shard_waits_total" Counter ["shard"] "Times that the driver has waited for the kernel."
        => |view, out| each_runtime(view, out, |counters| counters.waits.get());
    "ringmesh_shard_sleeps_total" Counter ["shard"] "Times that the driver found nothing to do for so long that it slept."
        => |view, out| each_runtime(view, out, |counters| counters.sleeps.get());

    "ringmesh_memory_limit_bytes" Gauge [] "Memory that the process may take: limits.memory_bytes_max."
        => |view, out| if let Some(facts) = view.facts() { out.put(&[], facts.memory_bytes_max) };
    "ringmesh_memory_log_bytes" Gauge ["shard"] "All that the shard's logs keep in memory."
        => |view, out| each_shard(view, out, |shard| shard.memory.log_bytes);
    "ringmesh_memory_part_bytes" Gauge ["shard", "part"] "What a part of the shard keeps in memory: read_ahead (for groups that are behind), lent (buffers of the log that only deliveries refer to), in_flight (events delivered and not settled), input (frames that are not whole)."
        => |view, out| for shard in view.answered() {
            for (part, (used, _)) in memory_parts(shard) { out.put(&[&shard.shard, &part], used) }
        };
    "ringmesh_memory_part_limit_bytes" Gauge ["shard", "part"] "What that part may keep. A part that is full slows its publishers or sends readers back to the disk."
        => |view, out| for shard in view.answered() {
            for (part, (_, limit)) in memory_parts(shard) { out.put(&[&shard.shard, &part], limit) }
        };

    "ringmesh_subscriptions" Gauge [] "Subscriptions, ephemeral ones included: each is one filter of one group."
        => |view, out| if let Some(plane) = &view.plane { out.put(&[], plane.subscriptions) };
    "ringmesh_routing_published_version" Gauge [] "The newest version of the routing table. It rises with each change of subscriptions."
        => |view, out| if let Some(plane) = &view.plane { out.put(&[], plane.version) };
    "ringmesh_routing_adopted_version" Gauge ["shard"] "The version that the shard routes by."
        => |view, out| each_shard(view, out, |shard| shard.routing_version);
    "ringmesh_groups" Gauge ["shard"] "Groups that the shard knows; every shard knows all of them."
        => |view, out| each_shard(view, out, |shard| shard.groups);
    "ringmesh_groups_left_out" Gauge [] "Durable groups that the next metrics leave out: they tell of the first 1,000 by name, and of no ephemeral ones. The API tells of all."
        => |view, out| out.put(&[], view.groups_left_out);
    "ringmesh_group_members" Gauge ["group"] "Members of the group."
        => |view, out| for group in &view.groups { out.put(&[&group.name], group.members) };
    "ringmesh_group_paused" Gauge ["group"] "1 while the group is paused: its members get nothing until an operator resumes it."
        => |view, out| for group in &view.groups { out.put(&[&group.name], u8::from(group.is_paused)) };
    "ringmesh_group_in_flight_events" Gauge ["group"] "Events that are delivered to members and not settled."
        => |view, out| for group in &view.groups {
            out.put(&[&group.name], group.reports.iter().map(|report| report.in_flight).sum::<u64>());
        };
    "ringmesh_group_lag_events" Gauge ["group"] "Events that the group has not settled, over all logs. At most: of what was not read for it yet, events that it does not want are counted too."
        => |view, out| each_group(view, out, PlaceReport::lag);
    "ringmesh_group_parked_events" Gauge ["group"] "Events of the group that are parked: they wait for long until they are tried again, and are part of its lag."
        => |view, out| each_group(view, out, |place| place.parked);
    "ringmesh_group_blocked_keys" Gauge ["group"] "Keys of the group's parked events, whose later events wait behind them; an event without a key counts as one."
        => |view, out| each_group(view, out, |place| place.blocked_keys);
    "ringmesh_group_stopped" Gauge ["group"] "1 while the group takes nothing more of some log, because its parked events block 4,096 keys there."
        => |view, out| for group in &view.groups {
            let mut places = group.reports.iter().flat_map(|report| &report.places);
            out.put(&[&group.name], u8::from(places.any(|place| place.is_stopped)));
        };
    "ringmesh_group_lag_bytes" Gauge ["group"] "Bytes of the logs from the first event on that the group has not settled. At most, as above."
        => |view, out| each_group(view, out, |place| place.bytes);
    "ringmesh_group_lag_seconds" Gauge ["group"] "Age of the oldest commit that holds an event which the group has not settled; 0 when there is none."
        => |view, out| for group in &view.groups {
            let places = group.reports.iter().flat_map(|report| &report.places);
            let oldest = places.filter_map(|place| place.since).min();
            out.put(&[&group.name], oldest.map_or(0.0, |since| view.age_seconds(since)));
        };
    "ringmesh_cursor_low_position" Gauge ["group", "log"] "Everything before it is settled by the group."
        => |view, out| for group in &view.groups {
            for place in group.reports.iter().flat_map(|report| &report.places) {
                out.put(&[&group.name, &place.log], place.low);
            }
        };

    "process_cpu_seconds_total" Counter [] "Time of all cores that the process has used."
        => |view, out| out.put(&[], view.process.cpu_seconds);
    "process_resident_memory_bytes" Gauge [] "Memory of the process that is in RAM."
        => |view, out| out.put(&[], view.process.resident_bytes);
    "process_virtual_memory_bytes" Gauge [] "Address space of the process."
        => |view, out| out.put(&[], view.process.virtual_bytes);
    "process_start_time_seconds" Gauge [] "When the process was started, since 1970-01-01 UTC."
        => |view, out| out.put(&[], view.process.start_seconds);
    "process_open_fds" Gauge [] "Files and sockets that are open."
        => |view, out| out.put(&[], view.process.open_files);
    "process_max_fds" Gauge [] "Files and sockets that may be open."
        => |view, out| out.put(&[], view.process.open_files_max);
}
