//! What EventMesh's clients have subscribed to. They come by many connections, and so by many shards: this is the one thing
//! in the door that shards share, behind a lock that is held for as long as a look-up takes.
//!
//! Everything in it has a bound, and a client that is not heard of for [`IDLE_US`] is forgotten; it hears so when it polls.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use codec::problem::Problem;
use codec::refusal::Code;
use dataplane::group::keys::{KEY_PARTS, KeyShare, key_hash};

use crate::http::seat::Seat;

/// What the groups of `LOAD_BALANCE_STICKY` begin with.
pub(super) const STICKY: &str = "eventmesh-sticky/";
/// Clients that are remembered. With their subscriptions, some 30 MB at most.
const CLIENTS_MAX: usize = 10_000;
/// Subscriptions of one client: each poll becomes a member of all of them.
const SEATS_MAX: usize = 64;
/// Subscriptions of all clients.
const ALL_SEATS_MAX: usize = 65_536;
/// Clients that divide the keys of one topic: the division is made anew whenever one comes or goes.
const STICKY_MAX: usize = 256;
/// After so long without a word a client's keys go to others of its group, until it comes back. Polls and streams of others
/// that have begun before keep to what they know until they end.
const AWAY_US: u64 = 60_000_000;
const _: () =
    assert!(AWAY_US > 1_000 * crate::http::routes::POLL_MS_MAX as u64, "who polls is there");
/// After so long a client is forgotten.
const IDLE_US: u64 = 600_000_000;
/// How often it is looked who is away.
const SWEEP_US: u64 = 5_000_000;

/// What clients have subscribed to.
#[derive(Debug, Default)]
pub(in crate::http) struct Clients(Mutex<State>);

/// What came of a subscribe.
#[derive(Debug)]
pub(in crate::http) struct Added {
    /// Whether the client had not subscribed to just that before.
    pub(in crate::http) is_new: bool,
    /// What is forgotten with it.
    pub(in crate::http) gone: Vec<Seat>,
}

#[derive(Debug, Default)]
struct State {
    clients: BTreeMap<Arc<str>, Client>,
    /// Subscriptions of all of them.
    seats: usize,
    /// The groups whose keys are divided.
    sticky: BTreeMap<Arc<str>, Division>,
    /// When it was last looked who is away; monotonic microseconds, as are all times here.
    swept_us: u64,
}

#[derive(Debug)]
struct Client {
    seats: Vec<Seat>,
    seen_us: u64,
}

/// The clients of one group that are there, and what keys each has.
#[derive(Debug, Default)]
struct Division {
    here: BTreeSet<Arc<str>>,
    /// Clients that have subscribed, here or away.
    clients: usize,
    shares: BTreeMap<Arc<str>, KeyShare>,
}

impl Division {
    /// Each part of the keys goes to the client for which its number is the highest: who comes takes only what is its own
    /// from others, and who goes leaves only its own to them.
    fn divide(&mut self) {
        let hashes: Vec<u64> = self.here.iter().map(|client| key_hash(client)).collect();
        let owner_of = |part: usize| {
            let number =
                |at: &usize| mixed(hashes[*at] ^ (part as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15));
            (0..hashes.len()).max_by_key(number)
        };
        let owners: Vec<Option<usize>> = (0..KEY_PARTS).map(owner_of).collect();
        let share = |at: usize| KeyShare::new(|part| owners[part] == Some(at));
        let shares = self.here.iter().enumerate().map(|(at, client)| (client.clone(), share(at)));
        self.shares = shares.collect();
        assert!(self.here.len() <= self.clients, "who is here has subscribed");
    }
}

/// Spreads what differs in few bits over all of them.
fn mixed(mut number: u64) -> u64 {
    number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

impl Clients {
    fn state(&self) -> MutexGuard<'_, State> {
        // A panic ends the process.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A client polls, or listens: the groups that it is to be a member of. The second is what was forgotten meanwhile.
    pub(in crate::http) fn visit(
        &self,
        client: &str,
        now_us: u64,
    ) -> (Result<Vec<Seat>, Problem>, Vec<Seat>) {
        let mut state = self.state();
        let gone = state.sweep(now_us);
        state.see(client, now_us);
        let known = state.clients.get(client);
        let seats = known.map(|client| client.seats.clone()).ok_or_else(|| {
            let detail = format!("client {client:?} has no subscription here: subscribe, also after a restart of the server");
            Problem::of("clientId", Code::NotFound, detail)
        });
        let mut seats = match seats {
            Ok(seats) => seats,
            Err(problem) => return (Err(problem), gone),
        };
        for seat in &mut seats {
            seat.share = state.share_of(seat);
        }
        (Ok(seats), gone)
    }

    /// A client listens on. Whether what it has subscribed to is still what its stream has.
    pub(in crate::http) fn is_current(&self, client: &str, seats: &[Seat], now_us: u64) -> bool {
        let mut state = self.state();
        state.see(client, now_us);
        let Some(known) = state.clients.get(client) else { return false };
        known.seats.len() == seats.len()
            && known.seats.iter().zip(seats).all(|(known, seat)| {
                known.group == seat.group && state.share_of(known) == seat.share
            })
    }

    /// A client subscribes. Again is as once, and a topic is subscribed to in one mode: what that replaces is gone.
    pub(in crate::http) fn add(&self, seat: &Seat, now_us: u64) -> Result<Added, Problem> {
        let mut state = self.state();
        let gone = state.sweep(now_us);
        let mut added = state.add(seat, now_us)?;
        added.gone.extend(gone);
        Ok(added)
    }

    /// A client leaves a topic, or all of them. Returns what it has left.
    pub(in crate::http) fn remove(&self, client: &str, topic: Option<&str>) -> Vec<Seat> {
        let mut state = self.state();
        let is_meant = |seat: &Seat| topic.is_none_or(|topic| seat.filter.as_str() == topic);
        let gone = state.take_seats(client, is_meant);
        if state.clients.get(client).is_some_and(|client| client.seats.is_empty()) {
            state.clients.remove(client);
        }
        state.check();
        gone
    }
}

impl State {
    fn add(&mut self, seat: &Seat, now_us: u64) -> Result<Added, Problem> {
        let full = |field: &str, limit: usize| {
            let mut problem = Problem::of(
                field,
                Code::Overloaded,
                format!("{field}: at most {limit} are allowed"),
            );
            (problem.limit, problem.value) = (Some(limit as u64), Some(limit as u64 + 1));
            Err(problem)
        };
        let client = seat.client.clone();
        let known = self.clients.get(&client).map_or(&[][..], |client| &client.seats);
        let is_known = known.iter().any(|known| known.group == seat.group);
        let replaces = known.iter().any(|known| known.filter == seat.filter);
        if !is_known {
            if self.clients.len() >= CLIENTS_MAX && known.is_empty() {
                return full("clients", CLIENTS_MAX);
            }
            if known.len() >= SEATS_MAX && !replaces {
                return full("subscriptions of the client", SEATS_MAX);
            }
            if self.seats >= ALL_SEATS_MAX {
                return full("subscriptions of all clients", ALL_SEATS_MAX);
            }
            let division = sticky_group(seat).and_then(|group| self.sticky.get(&group));
            if division.is_some_and(|division| division.clients >= STICKY_MAX) {
                return full("clients that divide the keys of the topic", STICKY_MAX);
            }
        }
        let gone = self
            .take_seats(&client, |known| known.filter == seat.filter && known.group != seat.group);
        let of_client = self.clients.entry(client.clone());
        let of_client = of_client.or_insert(Client { seats: Vec::new(), seen_us: now_us });
        if !is_known {
            of_client.seats.push(seat.clone());
            self.seats += 1;
            if let Some(group) = sticky_group(seat) {
                self.sticky.entry(group).or_default().clients += 1;
            }
        }
        self.see(&client, now_us);
        self.check();
        Ok(Added { is_new: !is_known, gone })
    }

    /// A client is there, and has its share of the keys.
    fn see(&mut self, client: &str, now_us: u64) {
        let Some((name, known)) = self.clients.get_key_value(client) else { return };
        let name = name.clone();
        let groups: Vec<Arc<str>> = known.seats.iter().filter_map(sticky_group).collect();
        for group in groups {
            let division = self.sticky.get_mut(&group).expect("it came with its client");
            if division.here.insert(name.clone()) {
                division.divide();
            }
        }
        if let Some(known) = self.clients.get_mut(client) {
            known.seen_us = known.seen_us.max(now_us);
        }
    }

    fn share_of(&self, seat: &Seat) -> Option<KeyShare> {
        self.sticky.get(&sticky_group(seat)?)?.shares.get(&seat.client).cloned()
    }

    /// Takes out the seats of a client that are meant.
    fn take_seats(&mut self, client: &str, is_meant: impl Fn(&Seat) -> bool) -> Vec<Seat> {
        let Some(known) = self.clients.get_mut(client) else { return Vec::new() };
        let gone: Vec<Seat> = known.seats.extract_if(.., |seat| is_meant(seat)).collect();
        self.seats -= gone.len();
        for group in gone.iter().filter_map(sticky_group) {
            let division = self.sticky.get_mut(&group).expect("it came with its client");
            division.clients -= 1;
            if division.here.remove(client) {
                division.divide();
            }
            if division.clients == 0 {
                self.sticky.remove(&group);
            }
        }
        gone
    }

    /// Gives the keys of those who are away to others, and forgets who has been away for long. Returns what is forgotten.
    fn sweep(&mut self, now_us: u64) -> Vec<Seat> {
        if now_us < self.swept_us + SWEEP_US {
            return Vec::new();
        }
        self.swept_us = now_us;
        let silent = |client: &Client, us: u64| client.seen_us + us <= now_us;
        let away = self.clients.iter().filter(|(_, client)| silent(client, AWAY_US));
        let away: BTreeSet<Arc<str>> = away.map(|(name, _)| name.clone()).collect();
        for division in self.sticky.values_mut() {
            let before = division.here.len();
            division.here.retain(|client| !away.contains(client));
            if division.here.len() < before {
                division.divide();
            }
        }
        let mut gone = Vec::new();
        for name in away {
            if self.clients.get(&name).is_some_and(|client| silent(client, IDLE_US)) {
                gone.extend(self.take_seats(&name, |_| true));
                self.clients.remove(&name);
            }
        }
        self.check();
        gone
    }

    fn check(&self) {
        assert!(self.clients.len() <= CLIENTS_MAX, "clients are bounded");
        assert!(self.seats <= ALL_SEATS_MAX, "subscriptions are bounded");
        assert!(self.seats >= self.clients.len(), "who has no subscription is not remembered");
    }
}

/// The group whose keys a seat takes a share of.
fn sticky_group(seat: &Seat) -> Option<Arc<str>> {
    seat.group.clone().filter(|group| group.starts_with(STICKY))
}

#[cfg(test)]
mod tests {
    use routing::subscription::Mode;
    use routing::topic::TopicFilter;

    use super::*;

    fn seat(client: &str, prefix: &str, topic: &str) -> Seat {
        let filter = TopicFilter::new(topic.to_owned()).unwrap();
        let mode = if prefix.contains("broadcast") { Mode::Broadcasting } else { Mode::Clustering };
        let group = Some(format!("{prefix}{topic}").into());
        Seat { client: client.into(), group, filter, mode, start: None, share: None }
    }

    fn seats(clients: &Clients, client: &str, now_us: u64) -> Vec<Seat> {
        clients.visit(client, now_us).0.unwrap()
    }

    /// What clients leave behind must not grow for ever, and who is forgotten must hear of it.
    #[test]
    fn clients_and_subscriptions_are_bounded_and_forgotten() {
        let clients = Clients::default();
        for topic in 0..SEATS_MAX {
            clients.add(&seat("c", "eventmesh/", &format!("t{topic}")), 0).unwrap();
        }
        let problem = clients.add(&seat("c", "eventmesh/", "more"), 0).unwrap_err();
        assert_eq!((problem.refusal.code, problem.limit), (Code::Overloaded, Some(64)));
        clients.add(&seat("c", "eventmesh/", "t0"), 0).unwrap();
        assert_eq!(seats(&clients, "c", 0).len(), SEATS_MAX, "again is as once");
        let replaced = clients.add(&seat("c", "eventmesh-broadcast/", "t0"), 0).unwrap();
        assert_eq!(replaced.gone, [seat("c", "eventmesh/", "t0")]);
        assert_eq!(clients.remove("c", Some("t1")).len(), 1);
        for client in 1..CLIENTS_MAX {
            clients.add(&seat(&format!("c{client}"), "eventmesh/", "t"), 0).unwrap();
        }
        let problem = clients.add(&seat("one more", "eventmesh/", "t"), 0).unwrap_err();
        assert_eq!(problem.refusal.code, Code::Overloaded);
        assert_eq!(clients.remove("c5", None).len(), 1);
        clients.add(&seat("one more", "eventmesh/", "t"), IDLE_US - 1).unwrap();
        let (forgotten, gone) = clients.visit("c", IDLE_US + SWEEP_US);
        assert_eq!(forgotten.unwrap_err().refusal.code, Code::NotFound);
        assert!(
            gone.iter().any(|seat| seat.mode == Mode::Broadcasting),
            "its own group can be ended"
        );
        assert_eq!(clients.state().clients.len(), 1, "who was heard of stays");
    }

    /// Each key has exactly one client as long as the same clients are there; who comes or goes moves only its own keys.
    #[test]
    fn keys_are_divided_among_those_who_are_there() {
        let clients = Clients::default();
        for name in ["a", "b", "c"] {
            clients.add(&seat(name, STICKY, "t"), 0).unwrap();
        }
        let share = |name: &str, now_us| seats(&clients, name, now_us).remove(0).share.unwrap();
        let owners = |names: &[&str], now_us: u64| -> Vec<String> {
            let shares: Vec<_> = names.iter().map(|name| (name, share(name, now_us))).collect();
            let owner = |key: u64| {
                let mut owners = shares.iter().filter(|(_, share)| share.has(key));
                let (name, _) = owners.next().expect("each key has a client");
                assert!(owners.next().is_none(), "and no other");
                (**name).to_owned()
            };
            (0..5_000).map(|key| owner(key_hash(&key.to_string()))).collect()
        };
        let three = owners(&["a", "b", "c"], 0);
        for name in ["a", "b", "c"] {
            let count = three.iter().filter(|owner| *owner == name).count();
            assert!(count > 1_000, "{name} has {count} of 5,000 keys");
        }
        assert_eq!(owners(&["a", "b", "c"], 1), three);
        // "c" is not heard of.
        seats(&clients, "a", AWAY_US - 1);
        seats(&clients, "b", AWAY_US - 1);
        let two = owners(&["a", "b"], AWAY_US + SWEEP_US);
        for (before, after) in three.iter().zip(&two) {
            assert!(before == after || before == "c", "{before} keeps its keys");
        }
        seats(&clients, "c", AWAY_US + SWEEP_US);
        assert_eq!(owners(&["a", "b", "c"], AWAY_US + SWEEP_US), three, "it has them again");
    }
}
