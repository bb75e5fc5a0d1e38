use std::sync::Arc;

use codec::ids::{Offset, Partition, Timestamp};
use redb::{Database, TableDefinition};
use routing::delivery_policy::DeliveryPolicy;
use routing::subscription::{GroupId, Mode, Start, Subscription, SubscriptionId};
use routing::topic::TopicFilter;
use routing::topic_policy::{TopicPolicies, TopicPolicy};

use super::{
    BegunDeletion, Catalog, CatalogChange, DELETIONS, META, OpenError, Setting, TOPIC_POLICIES,
    record,
};

fn subscription(id: u64, mode: Mode, start: Start) -> Arc<Subscription> {
    Arc::new(Subscription {
        id: SubscriptionId(id),
        group: GroupId(100 + id),
        group_name: format!("gruppe-é-{id}").into(),
        filter: TopicFilter::new("fleet/+/é/#").unwrap(),
        mode,
        start,
        ephemeral_client: None,
    })
}

/// New subscriptions and ended ones.
fn change(added: &[Arc<Subscription>], removed: &[Arc<Subscription>]) -> CatalogChange {
    let put = added.iter().map(|added| (None, added.clone())).collect();
    CatalogChange { put, removed: removed.to_vec(), ..CatalogChange::default() }
}

fn all_kinds() -> Vec<Arc<Subscription>> {
    let offsets = vec![(Partition(0), Offset(7)), (Partition(63), Offset(u64::MAX))];
    vec![
        subscription(1, Mode::Clustering, Start::Tail),
        subscription(2, Mode::Broadcasting, Start::Earliest),
        subscription(3, Mode::Clustering, Start::Time(Timestamp(1_700_000_000_000_000))),
        subscription(4, Mode::Broadcasting, Start::Offsets(offsets)),
    ]
}

/// A field that does not come back would move a group to another start, or to other topics, at the next restart.
#[test]
fn subscriptions_come_back_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("catalog.redb");
    let (mut catalog, found) = Catalog::open(&path).unwrap();
    assert!(found.subscriptions.is_empty());
    catalog.change(&change(&all_kinds()[..2], &[])).unwrap();
    catalog.change(&change(&all_kinds()[2..], &[])).unwrap();
    catalog.reserve_ids(500).unwrap();
    drop(catalog);
    let (catalog, found) = Catalog::open(&path).unwrap();
    assert_eq!(found.subscriptions, all_kinds());
    assert_eq!(catalog.ids_end(), 500);
}

/// A record that was cut, or in which a bit changed, must be told, or decode to some subscription, but never panic.
#[test]
fn damaged_records_are_told() {
    for subscription in all_kinds() {
        let bytes = record::encode(&subscription);
        assert_eq!(record::decode(subscription.id, &bytes).as_ref(), Ok(&*subscription));
        for cut in 0..bytes.len() {
            assert!(record::decode(subscription.id, &bytes[..cut]).is_err(), "cut at {cut}");
        }
        let longer = [&bytes[..], &[0]].concat();
        assert_eq!(record::decode(subscription.id, &longer), Err("end"));
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let decoded = record::decode(subscription.id, &flipped);
            assert_ne!(decoded.as_ref(), Ok(&*subscription), "bit {bit} means something");
        }
    }
}

/// A catalog of a later server, or a file of something else: writing into either would destroy it.
#[test]
fn what_is_not_our_catalog_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let newer = folder.path().join("newer");
    drop(Catalog::open(&newer).unwrap());
    let database = Database::create(&newer).unwrap();
    let transaction = database.begin_write().unwrap();
    transaction.open_table(META).unwrap().insert("version", 2).unwrap();
    transaction.commit().unwrap();
    drop(database);
    let error = Catalog::open(&newer).unwrap_err();
    assert!(matches!(error, OpenError::Version { found: Some(2), .. }), "{error}");

    let foreign = folder.path().join("foreign");
    let database = Database::create(&foreign).unwrap();
    let transaction = database.begin_write().unwrap();
    transaction.open_table(TableDefinition::<u64, u64>::new("other")).unwrap();
    transaction.commit().unwrap();
    drop(database);
    let error = Catalog::open(&foreign).unwrap_err();
    assert!(matches!(error, OpenError::Version { found: None, .. }), "{error}");

    let text = folder.path().join("text");
    std::fs::write(&text, "not a database, but a text of some length").unwrap();
    let error = Catalog::open(&text).unwrap_err();
    assert!(matches!(error, OpenError::Database { .. }), "{error}");
}

/// Two servers with one catalog would give out the same numbers.
#[test]
fn an_open_catalog_is_locked() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("catalog.redb");
    let _first = Catalog::open(&path).unwrap();
    let error = Catalog::open(&path).unwrap_err();
    assert!(matches!(error, OpenError::Database { .. }), "{error}");
}

/// A commit that failed after it reached the file: who was refused tries again under a new number, and after a restart
/// one filter of a group must not be there twice.
#[test]
fn what_a_failed_commit_left_behind_is_removed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("catalog.redb");
    let (mut catalog, _) = Catalog::open(&path).unwrap();
    catalog.fail_next = true;
    catalog.change(&change(&[subscription(1, Mode::Clustering, Start::Tail)], &[])).unwrap_err();
    let again = [subscription(2, Mode::Clustering, Start::Tail)];
    catalog.change(&change(&again, &[])).expect("the file is opened again");
    drop(catalog);
    let (_, found) = Catalog::open(&path).unwrap();
    assert_eq!(found.subscriptions, again);
}

/// The other way round: a subscription whose end was refused stands, so it must stand after a restart too.
#[test]
fn what_a_failed_commit_removed_is_put_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("catalog.redb");
    let (mut catalog, _) = Catalog::open(&path).unwrap();
    let stands = [subscription(1, Mode::Clustering, Start::Tail)];
    catalog.change(&change(&stands, &[])).unwrap();
    catalog.fail_next = true;
    catalog.change(&change(&[], &stands)).unwrap_err();
    catalog.change(&change(&[], &[])).expect("the file is opened again");
    drop(catalog);
    let (mut catalog, found) = Catalog::open(&path).unwrap();
    assert_eq!(found.subscriptions, stands);
    catalog.change(&change(&[], &stands)).unwrap();
    drop(catalog);
    let (_, found) = Catalog::open(&path).unwrap();
    assert!(found.subscriptions.is_empty(), "what ended does not come back");
}

/// A group that is paused and moved must be so after a restart; a failed commit must leave neither behind.
#[test]
fn pauses_and_seeks_are_kept_and_taken_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("catalog.redb");
    let (mut catalog, found) = Catalog::open(&path).unwrap();
    assert!(found.paused.is_empty(), "none ever was");
    let before = subscription(1, Mode::Clustering, Start::Tail);
    catalog.change(&change(std::slice::from_ref(&before), &[])).unwrap();
    let moved = Subscription { group: GroupId(7), start: Start::Earliest, ..(*before).clone() };
    let after = Arc::new(moved);
    let name = before.group_name.clone();
    let seek = CatalogChange {
        put: vec![(Some(before.clone()), after.clone())],
        removed: Vec::new(),
        paused: vec![(name.clone(), true)],
        settings: Vec::new(),
    };
    catalog.fail_next = true;
    catalog.change(&seek).unwrap_err();
    catalog.change(&CatalogChange::default()).expect("the file is opened again");
    drop(catalog);
    let (mut catalog, found) = Catalog::open(&path).unwrap();
    assert_eq!((found.subscriptions, found.paused), (vec![before], vec![]));
    catalog.change(&seek).unwrap();
    drop(catalog);
    let (mut catalog, found) = Catalog::open(&path).unwrap();
    assert_eq!((found.subscriptions, found.paused), (vec![after], vec![name.clone()]));
    let resume = CatalogChange { paused: vec![(name, false)], ..CatalogChange::default() };
    catalog.change(&resume).unwrap();
    drop(catalog);
    assert!(Catalog::open(&path).unwrap().1.paused.is_empty());
}

/// A policy whose change was refused stands as it was, also when the file says otherwise; and one that was confirmed
/// comes back.
#[test]
fn policies_come_back_as_confirmed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("catalog.redb");
    let (mut catalog, found) = Catalog::open(&path).unwrap();
    assert!(found.delivery_policies.is_empty());
    let policy = |attempts| DeliveryPolicy { attempts_max: Some(attempts), ..Default::default() };
    let setting = |policy: Option<&DeliveryPolicy>| Setting::delivery("gruppe-é", policy);
    let set = |from: Option<u32>, to: Option<u32>| {
        let (from, to) = (from.map(policy), to.map(policy));
        let settings = vec![(setting(to.as_ref()), setting(from.as_ref()))];
        CatalogChange { settings, ..CatalogChange::default() }
    };
    catalog.change(&set(None, Some(3))).unwrap();
    catalog.fail_next = true;
    catalog.change(&set(Some(3), Some(4))).unwrap_err();
    catalog.change(&CatalogChange::default()).expect("the file is opened again");
    drop(catalog);
    let (mut catalog, found) = Catalog::open(&path).unwrap();
    assert_eq!(found.delivery_policies, [("gruppe-é".into(), Arc::new(policy(3)))]);
    catalog.change(&set(Some(3), None)).unwrap();
    drop(catalog);
    let (_, found) = Catalog::open(&path).unwrap();
    assert!(found.delivery_policies.is_empty());
}

fn policies(version: u64, pattern: &str, bytes: u64) -> Arc<TopicPolicies> {
    let policy = TopicPolicy { retention_bytes: Some(bytes), ..TopicPolicy::default() };
    Arc::new(TopicPolicies::new(version, vec![(TopicFilter::new(pattern).unwrap(), policy)]))
}

/// What holds for topics must hold after a restart, too; and a change that was refused, since its commit failed after it
/// reached the file, must not come to hold then.
#[test]
fn topic_policies_come_back_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("catalog.redb");
    let (mut catalog, _) = Catalog::open(&path).unwrap();
    assert!(catalog.topic_policies().is_empty());
    catalog.set_topic_policies(policies(1, "a/#", 7)).unwrap();
    catalog.set_topic_policies(policies(2, "b/+", 8)).unwrap();
    catalog.fail_next = true;
    catalog.set_topic_policies(policies(3, "c", 9)).unwrap_err();
    assert_eq!(catalog.topic_policies().list(), policies(2, "b/+", 8).list());
    catalog.change(&CatalogChange::default()).expect("the file is opened again");
    drop(catalog);
    let (catalog, _) = Catalog::open(&path).unwrap();
    assert_eq!(catalog.topic_policies().list(), policies(2, "b/+", 8).list());
    drop(catalog);

    let database = Database::create(&path).unwrap();
    let transaction = database.begin_write().unwrap();
    transaction.open_table(TOPIC_POLICIES).unwrap().insert("a/#/b", &[][..]).unwrap();
    transaction.commit().unwrap();
    drop(database);
    let error = Catalog::open(&path).unwrap_err();
    assert!(matches!(error, OpenError::DamagedPolicy { field: "pattern", .. }), "{error}");
}

/// What a kill has cut off is finished only if it comes back; an order that was refused, since its commit failed after it
/// reached the file, must not be executed by the next start. A catalog of before there were any has none.
#[test]
fn begun_deletions_come_back_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("catalog.redb");
    let of = |topic: &str, logs| BegunDeletion { topic: topic.into(), logs };
    let both = [(1, of("a/b", None)), (7, of("é", Some(vec![(2, 1)])))];
    let (mut catalog, _) = Catalog::open(&path).unwrap();
    assert!(catalog.deletions().is_empty());
    catalog.set_deletions(both.clone().into()).unwrap();
    catalog.fail_next = true;
    catalog.set_deletions([(9, of("never", None))].into()).unwrap_err();
    assert!(catalog.are_deletions_doubtful());
    let known = catalog.deletions().clone();
    assert_eq!(known, both.into());
    catalog.set_deletions(known.clone()).expect("the file is opened again");
    assert!(!catalog.are_deletions_doubtful());
    drop(catalog);
    let (catalog, _) = Catalog::open(&path).unwrap();
    assert_eq!(*catalog.deletions(), known);
    drop(catalog);

    let database = Database::create(&path).unwrap();
    let transaction = database.begin_write().unwrap();
    transaction.open_table(DELETIONS).unwrap().insert(8, &[][..]).unwrap();
    transaction.commit().unwrap();
    drop(database);
    let error = Catalog::open(&path).unwrap_err();
    let is_told = matches!(error, OpenError::DamagedDeletion { number: 8, field: "topic", .. });
    assert!(is_told, "{error}");
}
