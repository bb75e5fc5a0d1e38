//! Who may have which subscription: names of groups, modes, starts and limits.

use std::collections::HashMap;
use std::sync::Arc;

use codec::limits::PARTITIONS;
use codec::refusal::{Code, Refusal};
use routing::snapshot::SnapshotEditor;
use routing::subscription::{
    BROADCAST_MARK, Mode, Start, Subscription, SubscriptionId, group_name,
};
use routing::topic::TopicFilter;

use crate::limits::{
    CLIENT_SUBSCRIPTIONS_MAX, GROUP_FILTERS_MAX, GROUP_NAME_BYTES_MAX, SUBSCRIPTIONS_MAX,
};
use crate::operator::NewGroup;

/// What a subscribe asks for.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    pub(crate) group: Option<Arc<str>>,
    pub(crate) filter: TopicFilter,
    pub(crate) mode: Mode,
    pub(crate) start: Option<Start>,
    pub(crate) client: Arc<str>,
}

impl Wanted {
    /// The name of the group that meets it.
    pub(crate) fn group_name(&self) -> Arc<str> {
        group_name(self.group.as_ref(), self.mode, &self.client, &self.filter)
    }
}

/// How a subscribe is met.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// By a subscription that is there.
    Known(Arc<Subscription>),
    /// By a new one.
    New,
}

/// What the rules need to know beside the routing table. Follows every change of it.
#[derive(Debug, Default)]
pub(crate) struct Roll {
    /// For each group that clients name: its mode, and its subscriptions over all its clients.
    groups: HashMap<Arc<str>, (Mode, usize)>,
    /// For each client its ephemeral subscriptions, in the order they came.
    clients: HashMap<Arc<str>, Vec<Arc<Subscription>>>,
}

impl Roll {
    /// How `wanted` is met, or why it is not.
    pub(crate) fn way(&self, table: &SnapshotEditor, wanted: &Wanted) -> Result<Way, Refusal> {
        check_start(&wanted.filter, wanted.start.as_ref())?;
        let known = match &wanted.group {
            None => self.known_ephemeral(wanted)?,
            Some(group) => {
                check_group_name(group)?;
                self.known_durable(table, group, wanted)?
            }
        };
        if let Some(known) = known {
            return Ok(Way::Known(known));
        }
        check_room(table, 1)?;
        Ok(Way::New)
    }

    /// Whether a group may begin without a member, or why not.
    pub(crate) fn check_new(&self, table: &SnapshotEditor, new: &NewGroup) -> Result<(), Refusal> {
        check_group_name(&new.name)?;
        let count = new.filters.len();
        if count > GROUP_FILTERS_MAX {
            return Err(Refusal::limit("filters", GROUP_FILTERS_MAX as u64, count as u64));
        }
        if count == 0 {
            return Err(Refusal::new(Code::MalformedRequest, "a subscription has a filter"));
        }
        for (index, filter) in new.filters.iter().enumerate() {
            check_start(filter, Some(&new.start))?;
            if new.filters[..index].contains(filter) {
                let text = format!("the filter {:?} is given twice", filter.as_str());
                return Err(Refusal::new(Code::MalformedRequest, text));
            }
        }
        if self.groups.contains_key(&new.name) {
            let text = format!("there is a subscription {:?}", new.name);
            return Err(Refusal::new(Code::GroupExists, text));
        }
        check_room(table, count)
    }

    /// A client's ephemeral subscriptions.
    pub(crate) fn ephemeral_of(&self, client: &str) -> Vec<SubscriptionId> {
        let held = self.clients.get(client).map(Vec::as_slice).unwrap_or_default();
        held.iter().map(|subscription| subscription.id).collect()
    }

    /// Called with each subscription that was added to the table.
    pub(crate) fn added(&mut self, subscription: &Arc<Subscription>) {
        if let Some(client) = &subscription.ephemeral_client {
            self.clients.entry(client.clone()).or_default().push(subscription.clone());
            return;
        }
        let group = subscription.named_group();
        self.groups.entry(group.into()).or_insert((subscription.mode, 0)).1 += 1;
    }

    /// Called with each subscription that was removed from the table.
    pub(crate) fn removed(&mut self, subscription: &Subscription) {
        if let Some(client) = &subscription.ephemeral_client {
            let held = self.clients.get_mut(client).expect("a client's subscription was added");
            held.retain(|held| held.id != subscription.id);
            if held.is_empty() {
                self.clients.remove(client);
            }
            return;
        }
        let group = subscription.named_group();
        let (_, count) = self.groups.get_mut(group).expect("a group's subscription was added");
        *count -= 1;
        if *count == 0 {
            self.groups.remove(group);
        }
    }

    /// A client that comes back within its expiry asks for the same filter again and must find its old subscription:
    /// with a second one it would miss what came in between, and each reconnect would leave one more behind. It repeats
    /// its start too, so only another start is refused.
    fn known_ephemeral(&self, wanted: &Wanted) -> Result<Option<Arc<Subscription>>, Refusal> {
        let held = self.clients.get(&wanted.client).map(Vec::as_slice).unwrap_or_default();
        let Some(known) = held.iter().find(|held| held.filter == wanted.filter) else {
            if held.len() >= CLIENT_SUBSCRIPTIONS_MAX {
                return Err(Refusal::limit(
                    "ephemeral subscriptions of a client",
                    CLIENT_SUBSCRIPTIONS_MAX as u64,
                    held.len() as u64 + 1,
                ));
            }
            return Ok(None);
        };
        if wanted.start.as_ref().is_some_and(|start| *start != known.start) {
            return Err(Refusal::new(
                Code::GroupExists,
                "this client has a subscription to this filter with another start",
            ));
        }
        Ok(Some(known.clone()))
    }

    fn known_durable(
        &self,
        table: &SnapshotEditor,
        group: &str,
        wanted: &Wanted,
    ) -> Result<Option<Arc<Subscription>>, Refusal> {
        if let Some((mode, _)) = self.groups.get(group)
            && *mode != wanted.mode
        {
            return Err(Refusal::new(
                Code::ModeMismatch,
                format!("the group is {mode:?}").to_lowercase(),
            ));
        }
        let name = wanted.group_name();
        if wanted.start.is_some() && table.group_by_name(&name).is_some() {
            return Err(Refusal::new(
                Code::GroupExists,
                format!("group {name:?} exists and goes on from its own place"),
            ));
        }
        Ok(table.find(&name, &wanted.filter).cloned())
    }
}

/// Whether clients may name a group so.
pub(crate) fn check_group_name(name: &str) -> Result<(), Refusal> {
    let refuse = |text: String| Err(Refusal::new(Code::MalformedGroup, text));
    if name.is_empty() {
        return refuse("the group's name is empty".to_owned());
    }
    if name.len() > GROUP_NAME_BYTES_MAX {
        let bytes = name.len();
        return refuse(format!(
            "the group's name has {bytes} bytes, at most {GROUP_NAME_BYTES_MAX} are allowed"
        ));
    }
    if name.starts_with('$') || name.contains(BROADCAST_MARK) || name.contains('\0') {
        return refuse(format!("the group's name {name:?} is reserved for the server"));
    }
    Ok(())
}

fn check_room(table: &SnapshotEditor, new: usize) -> Result<(), Refusal> {
    if table.len() + new <= SUBSCRIPTIONS_MAX {
        return Ok(());
    }
    let text = format!("this server has {SUBSCRIPTIONS_MAX} subscriptions, which is the limit");
    Err(Refusal::new(Code::TooManySubscriptions, text))
}

/// Whether a subscription to this filter may begin there, or be moved there.
pub(crate) fn check_start(filter: &TopicFilter, start: Option<&Start>) -> Result<(), Refusal> {
    let Some(Start::Offsets(offsets)) = start else { return Ok(()) };
    if filter.exact_name().is_none() {
        let text = format!("the filter {:?} has wildcards", filter.as_str());
        return Err(Refusal::new(Code::StartNeedsTopic, text));
    }
    if let Some((partition, _)) = offsets.iter().find(|(partition, _)| partition.0 >= PARTITIONS) {
        let text = format!("partition {partition} does not exist, there are {PARTITIONS}");
        return Err(Refusal::new(Code::UnknownPartition, text));
    }
    if offsets.len() > usize::from(PARTITIONS) {
        return Err(Refusal::limit("offsets of a start", PARTITIONS.into(), offsets.len() as u64));
    }
    Ok(())
}
