//! Memory is bounded: credit, mailboxes, operations under way, and what shards and their logs hold. Nothing of it is left
//! once nothing is under way.

use std::collections::BTreeMap;

use dataplane::mail::MemberId;
use dataplane::options::{
    DELIVERY_BYTES, FLIGHTS_MAX, MEMBER_BYTES_MAX, REMOTE_PUBLISHES_MAX, ShardOptions,
};
use dataplane::shard::ShardHeld;
use log::log::held::LogHeld;

use crate::ledger::{Checked, Violation, violated};

const CHECK: &str = "memory bounds";

/// A shard is looked at every so many of its cycles.
pub const CYCLES_BETWEEN: u64 = 8;
/// Operations one shard may have on its disk at a time: commits, reads of groups and tail, chores, over all its logs.
const OPERATIONS_MAX: usize = 512;
/// Keys that may wait in a group and log: the limit, and those of the batch that reached it.
const WAITING_KEYS_MAX: usize =
    dataplane::group::group_log::WAITING_KEYS_MAX + crate::ledger::BATCH_EVENTS_MAX;
/// Words about a member that may wait for one mailbox, over and above its deliveries: that it comes and goes, and credit
/// that is lent, recalled, returned and wanted.
const WORDS_OF_MEMBER_MAX: usize = 16;
/// The same for what belongs to no member: clients that come and go, generations that are done with.
const WORDS_OF_SHARD_MAX: usize = 256;
/// How often an event may stand in an outbox: it is taken back when its time is over, and sent again.
const SENT_AGAIN_MAX: usize = 4;
/// Batches that shards may append for themselves at a time: as many as each may have under way.
pub const ERRANDS_MAX: usize = 4 * 1_024;
/// What a dead letter or a parked event may have more than its original, for all events of a batch.
pub const COPY_BYTES_MAX: usize = crate::ledger::BATCH_EVENTS_MAX * 400;
/// Groups a shard may have on its lists, for each group, log and reason to wait.
const WAITING_GROUPS_MAX: usize = 1_024;

/// A member holds no more than it asked for.
///
/// # Errors
/// It does.
pub fn check_credit(member: u32, held: u64, credit: u32) -> Checked {
    if held > u64::from(credit) {
        violated!(CHECK, "member {member} has {held} events in flight, its credit is {credit}");
    }
    Ok(())
}

/// A mailbox holds no more than it may.
///
/// # Errors
/// It does.
pub fn check_mailboxes((longest, limit): (usize, usize)) -> Checked {
    if longest > limit {
        violated!(CHECK, "a mailbox held {longest}, {limit} are allowed");
    }
    Ok(())
}

/// A shard has no more under way than it can ever need.
///
/// # Errors
/// It has.
pub fn check_operations(most: usize) -> Checked {
    if most > OPERATIONS_MAX {
        violated!(
            CHECK,
            "{most} disk operations were under way, {OPERATIONS_MAX} are expected at most"
        );
    }
    Ok(())
}

/// What clients may make a node hold.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Events that may be in flight to all members together, each delivered once.
    pub credit: usize,
    /// Publishes that publishers of the node may have under way.
    pub publishes: usize,
    /// The largest body of a batch so far.
    pub batch_bytes: usize,
    /// Sessions that there may be.
    pub sessions: usize,
}

/// A shard holds no more than its options, its members' credit and its publishers' windows allow.
///
/// # Errors
/// It does.
pub fn check_shard(held: &ShardHeld, options: &ShardOptions, load: &Load) -> Checked {
    // Looked at before a batch goes out, and counted for each member that gets a part of it.
    let members = held.lent.len();
    let delivery_max = load.batch_bytes + DELIVERY_BYTES as usize;
    let in_flight_max = options.in_flight_bytes_max + (members * delivery_max) as u64;
    let remote_bytes_max = options.remote_publish_bytes_max + load.batch_bytes as u64;
    let forwarded = held.forwarded.iter();
    let most_batches = forwarded.clone().map(|(batches, _)| *batches).max().unwrap_or(0);
    let most_bytes = forwarded.map(|(_, bytes)| *bytes).max().unwrap_or(0);
    let others = held.forwarded.len().saturating_sub(1);
    let (arrived, arrived_bytes) = held.arrived;
    let events: u64 = held.lent.iter().map(|credit| u64::from(credit.in_flight)).sum();
    let limits = [
        ("bytes in flight", held.in_flight_bytes, in_flight_max),
        ("events in flight", events, load.credit as u64),
        ("batches of a group in a log", held.flights_most as u64, FLIGHTS_MAX as u64),
        ("keys that wait", held.waiting_keys_most as u64, WAITING_KEYS_MAX as u64),
        ("batches on the way to a shard", most_batches as u64, REMOTE_PUBLISHES_MAX as u64),
        ("bytes on the way to a shard", most_bytes as u64, remote_bytes_max),
        ("batches of other shards", arrived as u64, (others * REMOTE_PUBLISHES_MAX) as u64),
        ("bytes of other shards", arrived_bytes as u64, others as u64 * remote_bytes_max),
        ("batches to be acknowledged", held.unacked as u64, load.publishes as u64),
        ("sessions", held.sessions as u64, load.sessions as u64),
        // What waits for one session: its acks, its deliveries, and a few words.
        (
            "events of sessions",
            held.session_events as u64,
            (load.publishes + SENT_AGAIN_MAX * load.credit + 16 * load.sessions) as u64,
        ),
        ("sessions that wait", held.waiting_sessions as u64, 4 * load.sessions as u64),
        ("groups that wait for the disk", held.waiting_io as u64, WAITING_GROUPS_MAX as u64),
        ("groups that wait for bytes", held.waiting_bytes as u64, WAITING_GROUPS_MAX as u64),
        ("groups that will read again", held.read_retries as u64, WAITING_GROUPS_MAX as u64),
        ("members that catch up", held.catching_up as u64, members as u64),
    ];
    for (what, has, limit) in limits {
        if has > limit {
            violated!(CHECK, "{has} {what}, {limit} are allowed");
        }
    }
    let bytes_max = MEMBER_BYTES_MAX + delivery_max as u64;
    if let Some(over) = held.lent.iter().find(|credit| credit.in_flight_bytes > bytes_max) {
        violated!(CHECK, "a member has more than {bytes_max} bytes in flight: {over:?}");
    }
    check_outbox(held, load)?;
    held.logs.iter().try_for_each(|log| check_log(log, load))
}

/// What waits for a full mailbox is bounded by what was reserved, lent and asked.
fn check_outbox(held: &ShardHeld, load: &Load) -> Checked {
    let members = held.lent.len() + held.homes.len();
    for (mail, (batches, _)) in held.mail.iter().zip(&held.forwarded) {
        let limits = [
            ("publishes", mail.publishes, *batches),
            ("answers", mail.answers, REMOTE_PUBLISHES_MAX.min(load.publishes)),
            ("deliveries", mail.deliveries, SENT_AGAIN_MAX * load.credit),
            ("settles", mail.settles, 2 * SENT_AGAIN_MAX * load.credit),
            ("words", mail.others, WORDS_OF_SHARD_MAX + WORDS_OF_MEMBER_MAX * members),
        ];
        for (what, has, limit) in limits {
            if has > limit {
                violated!(CHECK, "{has} {what} wait for a mailbox, {limit} are allowed");
            }
        }
    }
    Ok(())
}

fn check_log(log: &LogHeld, load: &Load) -> Checked {
    let durable = log.cached_bytes - log.unsynced_bytes;
    if durable > 0 && log.cached_bytes > log.cached_bytes_max {
        violated!(CHECK, "a log keeps durable commits beyond its limit: {log:?}");
    }
    // A commit of any size goes alone, and some wait beside what is on its way; each has a buffer.
    let waiting = (log.commits_max * log.buffer_bytes) as u64;
    if log.unsynced_bytes as u64 > log.unsynced_bytes_max + waiting {
        violated!(CHECK, "a log has too much that is not durable: {log:?}");
    }
    if log.commits > log.commits_max {
        violated!(CHECK, "a log has too many commits under way: {log:?}");
    }
    // A window is at least one batch, with its header and its blocks.
    let window_max = log.read_bytes_max.max(load.batch_bytes + (64 << 10));
    if log.read_bytes > window_max {
        violated!(CHECK, "readers hold more than {window_max} bytes: {log:?}");
    }
    Ok(())
}

/// A node of which nothing is wanted holds what it held before anybody came: its caches, its members and their credit.
///
/// # Errors
/// Something was left behind.
pub fn check_idle(shards: &[ShardHeld]) -> Checked {
    for (number, held) in shards.iter().enumerate() {
        let forwarded: usize = held.forwarded.iter().map(|(batches, _)| *batches).sum();
        let mail = held.mail.iter();
        let mail: usize =
            mail.map(|of| of.publishes + of.answers + of.deliveries + of.settles + of.others).sum();
        let events: u64 = held.lent.iter().map(|credit| u64::from(credit.in_flight)).sum();
        let left = [
            ("bytes in flight", held.in_flight_bytes as usize),
            ("events in flight", events as usize),
            ("batches that groups owe", held.flights),
            ("batches that nobody could take", held.held_batches),
            ("mail that waits", mail),
            ("publishes on their way", forwarded),
            ("publishes of other shards", held.arrived.0),
            ("publishes to be acknowledged", held.unacked),
            ("events of sessions", held.session_events),
            ("sessions that wait for room", held.waiting_sessions),
            ("requests to the control plane", held.control.0),
            ("subscribes without an answer", held.control.1),
            ("groups that wait for the disk", held.waiting_io),
            ("groups that wait for bytes", held.waiting_bytes),
            ("groups that will read again", held.read_retries),
            ("members that catch up", held.catching_up),
        ];
        for (what, has) in left {
            if has > 0 {
                violated!(CHECK, "shard {number} is idle and has {has} {what}");
            }
        }
        for log in &held.logs {
            check_idle_log(number, log)?;
        }
    }
    check_leases(shards)
}

fn check_idle_log(shard: usize, log: &LogHeld) -> Checked {
    // Each commit may keep a buffer of its own, and the next one has been begun.
    let buffers_max = (log.cached + 1) * log.buffer_bytes.max(64 << 10);
    if !log.is_idle || log.commits > 0 || log.unsynced_bytes > 0 || log.read_bytes > 0 {
        violated!(CHECK, "a log of shard {shard} is not at rest: {log:?}");
    }
    if log.cached_bytes > log.cached_bytes_max || log.buffers_bytes > buffers_max {
        violated!(CHECK, "a log of shard {shard} keeps more than its cache: {log:?}");
    }
    Ok(())
}

/// Credit is neither made nor lost: what a member's home has lent is what the shards have.
fn check_leases(shards: &[ShardHeld]) -> Checked {
    let mut leases: BTreeMap<(MemberId, usize), u32> = BTreeMap::new();
    for (shard, held) in shards.iter().enumerate() {
        for credit in &held.lent {
            let known = leases.insert((credit.member, shard), credit.lease + credit.in_flight);
            if known.is_some() || credit.owes > 0 {
                violated!(CHECK, "shard {shard} is not through with a member: {credit:?}");
            }
        }
    }
    for home in shards.iter().flat_map(|held| &held.homes) {
        if home.free > 0 || home.surplus > 0 {
            violated!(CHECK, "credit of {home:?} is lent to nobody, or too much of it is");
        }
        for (shard, lent) in home.lent.iter().enumerate() {
            let has = leases.remove(&(home.member, shard));
            let Some(has) = has else {
                return Err(Violation {
                    check: CHECK,
                    text: format!("shard {shard} does not know {home:?}"),
                });
            };
            if has != *lent {
                violated!(CHECK, "shard {shard} has {has} of the credit of {home:?}");
            }
        }
    }
    if let Some(((member, shard), _)) = leases.first_key_value() {
        violated!(CHECK, "shard {shard} knows {member:?}, who has no home");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use dataplane::shard::{HomeCredit, LentCredit};
    use routing::subscription::GroupId;

    fn lent(member: MemberId, lease: u32) -> LentCredit {
        let group = GroupId(1);
        LentCredit { member, group, lease, in_flight: 0, in_flight_bytes: 0, owes: 0 }
    }

    /// A checker that never fails finds no leak: each kind of what may be left behind must be seen.
    #[test]
    fn sees_what_is_left_behind() {
        let member = MemberId { shard: 0, slot: 0, life: 1 };
        let home = HomeCredit { member, free: 0, surplus: 0, lent: vec![3] };
        let idle =
            ShardHeld { homes: vec![home], lent: vec![lent(member, 3)], ..Default::default() };
        assert_eq!(check_idle(std::slice::from_ref(&idle)), Ok(()));
        let leaks: [fn(&mut ShardHeld); 8] = [
            |held| held.in_flight_bytes = 1,
            |held| held.flights = 1,
            |held| held.session_events = 1,
            |held| {
                held.mail.push(dataplane::shard::WaitingMail { settles: 1, ..Default::default() })
            },
            |held| held.lent[0].lease = 2,
            |held| held.homes[0].free = 1,
            |held| held.homes.clear(),
            |held| held.lent.clear(),
        ];
        for (number, leak) in leaks.into_iter().enumerate() {
            let mut leaking = idle.clone();
            leak(&mut leaking);
            assert!(check_idle(&[leaking]).is_err(), "leak {number} is seen");
        }
    }
}
