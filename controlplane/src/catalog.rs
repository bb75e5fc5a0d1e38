//! What the control plane knows that outlives the process: the durable subscriptions, which groups are paused, the
//! policies of delivery and of topics, and which topics are being deleted, in one redb file.
//!
//! ```text
//!   table "meta":           "version" -> 1,  "ids_end" -> first number that no life of the server has reserved
//!   table "subscriptions":  number of the subscription -> its record, see `record`
//!   table "paused":         name of a group that is paused -> 1; missing in a catalog in which none ever was
//!   table "policies":       "delivery/" and the name of a group -> its delivery policy, see `policy`; missing until one is
//!                           set
//!   table "topic_policies": pattern -> its record, see `policy_record`; made with the first one
//!   table "deletions":      number -> a topic whose deletion was begun and may not be done, see `deletion_record`; made with
//!                           the first one
//! ```
//!
//! A commit is synced before it returns. A commit that failed may still be in the file, so what it changed is changed back
//! by the next one; numbers are never used twice, so nothing can be taken for it in between.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use dataplane::control::LogName;
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition, TableError};
use routing::delivery_policy::DeliveryPolicy;
use routing::subscription::{Subscription, SubscriptionId};
use routing::topic::TopicFilter;
use routing::topic_policy::{TopicPolicies, TopicPolicy};

use crate::limits::CATALOG_CACHE_BYTES;

mod deletion_record;
mod policy;
mod policy_record;
mod record;

pub use policy::Setting;

/// The version of the catalog that this build reads and writes.
pub const CATALOG_VERSION: u64 = 1;

const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
const SUBSCRIPTIONS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("subscriptions");
const PAUSED: TableDefinition<'_, &str, u64> = TableDefinition::new("paused");
const POLICIES: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("policies");
const TOPIC_POLICIES: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("topic_policies");
const DELETIONS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("deletions");

/// What an opened catalog holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Contents {
    /// The durable subscriptions, by rising number.
    pub subscriptions: Vec<Arc<Subscription>>,
    /// Names of groups that are paused.
    pub paused: Vec<Arc<str>>,
    /// The delivery policies of groups, by the names that clients give these.
    pub delivery_policies: Vec<(Arc<str>, Arc<DeliveryPolicy>)>,
}

/// A topic that is to be deleted from every log, and may not be yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BegunDeletion {
    /// Which.
    pub topic: Arc<str>,
    /// The only logs that still keep it; none: any may.
    pub logs: Option<Vec<LogName>>,
}

/// What one commit changes: all of it or nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CatalogChange {
    /// Durable subscriptions as they are from now on; each with what stands there before, if it is not new.
    pub put: Vec<(Option<Arc<Subscription>>, Arc<Subscription>)>,
    /// Durable subscriptions that end.
    pub removed: Vec<Arc<Subscription>>,
    /// Names of groups that are paused from now on, or no longer are.
    pub paused: Vec<(Arc<str>, bool)>,
    /// Policies, each as it is from now on and as it was before. Each stands here once.
    pub settings: Vec<(Setting, Setting)>,
}

impl CatalogChange {
    /// Whether it changes nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.put.is_empty()
            && self.removed.is_empty()
            && self.paused.is_empty()
            && self.settings.is_empty()
    }
}

/// How something stood before a commit that failed and may be in the file all the same.
#[derive(Clone, Debug)]
enum Doubt {
    Absent(SubscriptionId),
    Present(Arc<Subscription>),
    Paused(Arc<str>, bool),
    Set(Setting),
}

/// The open catalog. One process at a time; the file is locked.
#[derive(Debug)]
pub struct Catalog {
    path: PathBuf,
    /// None after a failed write: redb takes no more writes then, so the next commit opens the file again.
    database: Option<Database>,
    ids_end: u64,
    /// Changed by commits that failed: put back by the next one.
    doubts: Vec<Doubt>,
    /// What the file says of topics, or is to say: a write that failed may have left something else there.
    topic_policies: Arc<TopicPolicies>,
    are_policies_doubtful: bool,
    /// The same for deletions that were begun.
    deletions: BTreeMap<u64, BegunDeletion>,
    are_deletions_doubtful: bool,
    /// Makes the next write fail after it reached the file: the worst place.
    #[cfg(test)]
    pub(crate) fail_next: bool,
}

/// Why a catalog cannot be opened.
#[derive(Debug)]
#[non_exhaustive]
pub enum OpenError {
    /// The machine failed, the file is not a redb file, or another process has it open.
    Database {
        /// Which file.
        path: PathBuf,
        /// What redb says.
        source: Box<redb::Error>,
    },
    /// The catalog is of a version that this build does not know.
    Version {
        /// Which file.
        path: PathBuf,
        /// Its version; none when the file is a redb file of something else.
        found: Option<u64>,
    },
    /// The record of a subscription is not one.
    Damaged {
        /// Which file.
        path: PathBuf,
        /// Which subscription.
        id: SubscriptionId,
        /// Which field.
        field: &'static str,
    },
    /// A policy is of a kind that this build does not know, or not laid out as its kind is.
    Policy {
        /// Which file.
        path: PathBuf,
        /// Its key in the catalog.
        key: String,
    },
    /// The record of a topic policy is not one.
    DamagedPolicy {
        /// Which file.
        path: PathBuf,
        /// Of which pattern.
        pattern: String,
        /// Which field.
        field: &'static str,
    },
    /// The record of a deletion is not one.
    DamagedDeletion {
        /// Which file.
        path: PathBuf,
        /// Which deletion.
        number: u64,
        /// Which field.
        field: &'static str,
    },
}

/// A write to the catalog failed; nothing of it counts.
#[derive(Debug)]
pub struct CommitError(Box<redb::Error>);

impl Catalog {
    /// Opens the catalog at `path`, makes it when there is none, and returns what it holds.
    pub fn open(path: &Path) -> Result<(Catalog, Contents), OpenError> {
        let failed = |source| OpenError::Database { path: path.into(), source };
        let database = open_database(path).map_err(failed)?;
        let found = read_meta(&database).map_err(failed)?;
        let ids_end = match found {
            Some((Some(CATALOG_VERSION), ids_end)) => ids_end,
            Some((found, _)) => return Err(OpenError::Version { path: path.into(), found }),
            None => make(&database, path).map_err(failed)?,
        };
        let bytes = |id, bytes: &[u8]| (id, bytes.to_vec());
        let records = read_table(&database, SUBSCRIPTIONS, bytes).map_err(failed)?;
        let subscriptions = records.iter().map(|(id, bytes)| {
            let id = SubscriptionId(*id);
            let subscription = record::decode(id, bytes);
            subscription.map(Arc::new).map_err(|field| OpenError::Damaged {
                path: path.into(),
                id,
                field,
            })
        });
        let subscriptions = subscriptions.collect::<Result<Vec<_>, _>>()?;
        let name = |name: &str, _| Arc::from(name);
        let paused = read_if_made(&database, PAUSED, name).map_err(failed)?;
        let mut contents = Contents { subscriptions, paused, delivery_policies: Vec::new() };
        let named = |key: &str, bytes: &[u8]| (key.to_owned(), bytes.to_vec());
        for (key, bytes) in read_if_made(&database, POLICIES, named).map_err(failed)? {
            let unknown = || OpenError::Policy { path: path.into(), key: key.clone() };
            contents.take_policy(&key, &bytes).ok_or_else(unknown)?;
        }
        let records = read_if_made(&database, TOPIC_POLICIES, named).map_err(failed)?;
        let topic_policies = Arc::new(policies_of(records, path)?);
        let records = read_if_made(&database, DELETIONS, bytes).map_err(failed)?;
        let deletions = deletions_of(records, path)?;
        let catalog = Catalog {
            path: path.to_owned(),
            database: Some(database),
            ids_end,
            doubts: Vec::new(),
            topic_policies,
            are_policies_doubtful: false,
            deletions,
            are_deletions_doubtful: false,
            #[cfg(test)]
            fail_next: false,
        };
        Ok((catalog, contents))
    }

    /// The first number that no life of the server has reserved.
    #[must_use]
    pub fn ids_end(&self) -> u64 {
        self.ids_end
    }

    /// What holds for topics.
    #[must_use]
    pub fn topic_policies(&self) -> &Arc<TopicPolicies> {
        &self.topic_policies
    }

    /// Replaces what holds for topics.
    pub fn set_topic_policies(&mut self, policies: Arc<TopicPolicies>) -> Result<(), CommitError> {
        let result = self.write(|transaction| write_topic_policies(transaction, &policies));
        self.are_policies_doubtful = result.is_err();
        if result.is_ok() {
            self.topic_policies = policies;
        }
        result
    }

    /// Deletions of topics that were begun and may not be done, by their numbers.
    #[must_use]
    pub fn deletions(&self) -> &BTreeMap<u64, BegunDeletion> {
        &self.deletions
    }

    /// Whether the file may hold other deletions, since a write failed: they are to be written again.
    #[must_use]
    pub fn are_deletions_doubtful(&self) -> bool {
        self.are_deletions_doubtful
    }

    /// Replaces the deletions that were begun.
    pub fn set_deletions(
        &mut self,
        deletions: BTreeMap<u64, BegunDeletion>,
    ) -> Result<(), CommitError> {
        let result = self.write(|transaction| write_deletions(transaction, &deletions));
        self.are_deletions_doubtful = result.is_err();
        if result.is_ok() {
            self.deletions = deletions;
        }
        result
    }

    /// Reserves the numbers below `end`.
    pub fn reserve_ids(&mut self, end: u64) -> Result<(), CommitError> {
        assert!(self.ids_end < end, "reserved numbers are never given back");
        self.write(|transaction| {
            transaction.open_table(META)?.insert("ids_end", end)?;
            Ok(())
        })?;
        self.ids_end = end;
        Ok(())
    }

    /// Makes a change, all of it or nothing.
    pub fn change(&mut self, change: &CatalogChange) -> Result<(), CommitError> {
        let doubts = self.doubts.clone();
        let policies = self.are_policies_doubtful.then(|| Arc::clone(&self.topic_policies));
        let result = self.write(|transaction| {
            if let Some(policies) = &policies {
                write_topic_policies(transaction, policies)?;
            }
            let mut table = transaction.open_table(SUBSCRIPTIONS)?;
            let mut paused = transaction.open_table(PAUSED)?;
            let mut set_paused = |name: &str, is_paused: bool| -> Result<(), redb::Error> {
                if is_paused {
                    paused.insert(name, 1)?
                } else {
                    paused.remove(name)?
                };
                Ok(())
            };
            for doubt in &doubts {
                match doubt {
                    Doubt::Absent(id) => drop(table.remove(id.0)?),
                    Doubt::Present(known) => {
                        drop(table.insert(known.id.0, &*record::encode(known))?);
                    }
                    Doubt::Paused(name, is_paused) => set_paused(name, *is_paused)?,
                    Doubt::Set(setting) => setting.write(transaction)?,
                }
            }
            for (_, subscription) in &change.put {
                assert!(subscription.is_durable(), "the catalog holds durable subscriptions only");
                table.insert(subscription.id.0, &*record::encode(subscription))?;
            }
            for subscription in &change.removed {
                table.remove(subscription.id.0)?;
            }
            change.paused.iter().try_for_each(|(name, is_paused)| set_paused(name, *is_paused))?;
            change.settings.iter().try_for_each(|(setting, _)| setting.write(transaction))
        });
        if result.is_ok() {
            self.doubts.clear();
            self.are_policies_doubtful = false;
        } else {
            self.doubts.extend(doubts_of(change));
        }
        result
    }

    fn write(
        &mut self,
        fill: impl FnOnce(&redb::WriteTransaction) -> Result<(), redb::Error>,
    ) -> Result<(), CommitError> {
        let result = self.try_write(fill);
        if result.is_err() {
            self.database = None;
        }
        result.map_err(CommitError)
    }

    fn try_write(
        &mut self,
        fill: impl FnOnce(&redb::WriteTransaction) -> Result<(), redb::Error>,
    ) -> Result<(), Box<redb::Error>> {
        let database = match &self.database {
            Some(database) => database,
            None => self.database.insert(open_database(&self.path)?),
        };
        let transaction = database.begin_write().map_err(boxed)?;
        fill(&transaction)?;
        transaction.commit().map_err(boxed)?;
        #[cfg(test)]
        if std::mem::take(&mut self.fail_next) {
            return Err(Box::new(redb::Error::PreviousIo));
        }
        Ok(())
    }
}

fn open_database(path: &Path) -> Result<Database, Box<redb::Error>> {
    Database::builder().set_cache_size(CATALOG_CACHE_BYTES).create(path).map_err(boxed)
}

/// Version and first free number; none when the file is new.
fn read_meta(database: &Database) -> Result<Option<(Option<u64>, u64)>, Box<redb::Error>> {
    let transaction = database.begin_read().map_err(boxed)?;
    let table = match transaction.open_table(META) {
        Ok(table) => table,
        Err(TableError::TableDoesNotExist(_)) => {
            let tables = transaction.list_tables().map_err(boxed)?.count();
            // Tables but none of ours: the file belongs to something else.
            return Ok((tables > 0).then_some((None, 0)));
        }
        Err(error) => return Err(boxed(error)),
    };
    let number =
        |key| Ok::<_, Box<redb::Error>>(table.get(key).map_err(boxed)?.map(|at| at.value()));
    Ok(Some((number("version")?, number("ids_end")?.unwrap_or(1))))
}

/// Writes an empty catalog, and its name into the folder: a catalog that vanished would give its numbers out again.
fn make(database: &Database, path: &Path) -> Result<u64, Box<redb::Error>> {
    let transaction = database.begin_write().map_err(boxed)?;
    let mut table = transaction.open_table(META).map_err(boxed)?;
    table.insert("version", CATALOG_VERSION).map_err(boxed)?;
    table.insert("ids_end", 1).map_err(boxed)?;
    drop(table);
    transaction.open_table(SUBSCRIPTIONS).map_err(boxed)?;
    transaction.commit().map_err(boxed)?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = File::open(folder.unwrap_or(Path::new("."))).and_then(|folder| folder.sync_all());
    folder.map_err(|error| Box::new(redb::Error::Io(error)))?;
    Ok(1)
}

/// What a table holds.
fn read_table<K: redb::Key + 'static, V: redb::Value + 'static, T>(
    database: &Database,
    definition: TableDefinition<'_, K, V>,
    own: impl for<'a> Fn(K::SelfType<'a>, V::SelfType<'a>) -> T,
) -> Result<Vec<T>, Box<redb::Error>> {
    let transaction = database.begin_read().map_err(boxed)?;
    let table = transaction.open_table(definition).map_err(boxed)?;
    let entries = table.iter().map_err(boxed)?.map(|entry| {
        let (key, value) = entry.map_err(boxed)?;
        Ok(own(key.value(), value.value()))
    });
    entries.collect()
}

/// The same of a table that is made with the first of what it holds.
fn read_if_made<K: redb::Key + 'static, V: redb::Value + 'static, T>(
    database: &Database,
    definition: TableDefinition<'_, K, V>,
    own: impl for<'a> Fn(K::SelfType<'a>, V::SelfType<'a>) -> T,
) -> Result<Vec<T>, Box<redb::Error>> {
    match read_table(database, definition, own) {
        Err(error) if matches!(*error, redb::Error::TableDoesNotExist(_)) => Ok(Vec::new()),
        read => read,
    }
}

/// How what a change touches stood before it.
fn doubts_of(change: &CatalogChange) -> impl Iterator<Item = Doubt> + '_ {
    let put = change.put.iter().map(|(before, after)| match before {
        Some(before) => Doubt::Present(before.clone()),
        None => Doubt::Absent(after.id),
    });
    let removed = change.removed.iter().map(|known| Doubt::Present(known.clone()));
    let paused = change.paused.iter().map(|(name, now)| Doubt::Paused(name.clone(), !now));
    let set = change.settings.iter().map(|(_, before)| Doubt::Set(before.clone()));
    put.chain(removed).chain(paused).chain(set)
}

/// Writes the whole list, which is short.
fn write_topic_policies(
    transaction: &redb::WriteTransaction,
    policies: &TopicPolicies,
) -> Result<(), redb::Error> {
    let mut table = transaction.open_table(TOPIC_POLICIES)?;
    table.retain(|_, _| false)?;
    for (pattern, policy) in policies.list() {
        table.insert(pattern.as_str(), &*policy_record::encode(policy))?;
    }
    Ok(())
}

/// Writes all of them, which are few.
fn write_deletions(
    transaction: &redb::WriteTransaction,
    deletions: &BTreeMap<u64, BegunDeletion>,
) -> Result<(), redb::Error> {
    let mut table = transaction.open_table(DELETIONS)?;
    table.retain(|_, _| false)?;
    for (number, deletion) in deletions {
        table.insert(number, &*deletion_record::encode(deletion))?;
    }
    Ok(())
}

fn deletions_of(
    records: Vec<(u64, Vec<u8>)>,
    path: &Path,
) -> Result<BTreeMap<u64, BegunDeletion>, OpenError> {
    let of = |(number, bytes): (u64, Vec<u8>)| {
        let damaged = |field| OpenError::DamagedDeletion { path: path.into(), number, field };
        Ok((number, deletion_record::decode(&bytes).map_err(damaged)?))
    };
    records.into_iter().map(of).collect()
}

fn policies_of(records: Vec<(String, Vec<u8>)>, path: &Path) -> Result<TopicPolicies, OpenError> {
    let mut list: Vec<(TopicFilter, TopicPolicy)> = Vec::with_capacity(records.len());
    for (pattern, bytes) in records {
        let damaged =
            |field| OpenError::DamagedPolicy { path: path.into(), pattern: pattern.clone(), field };
        let filter = TopicFilter::new(pattern.as_str()).map_err(|_| damaged("pattern"))?;
        list.push((filter, policy_record::decode(&bytes).map_err(damaged)?));
    }
    let version = u64::from(!list.is_empty());
    Ok(TopicPolicies::new(version, list))
}

fn boxed(error: impl Into<redb::Error>) -> Box<redb::Error> {
    Box::new(error.into())
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OpenError::Database { path, .. } => {
                write!(f, "the catalog {} cannot be opened", path.display())
            }
            OpenError::Version { path, found: Some(found) } => write!(
                f,
                "the catalog {} has version {found}, this build knows version {CATALOG_VERSION}",
                path.display()
            ),
            OpenError::Version { path, found: None } => {
                write!(f, "{} is not a catalog of this server", path.display())
            }
            OpenError::Damaged { path, id, field } => write!(
                f,
                "the catalog {} is damaged: subscription {id} has no valid {field}",
                path.display()
            ),
            OpenError::Policy { path, key } => write!(
                f,
                "the catalog {} holds a policy that this build cannot read: {key:?}",
                path.display()
            ),
            OpenError::DamagedPolicy { path, pattern, field } => write!(
                f,
                "the catalog {} is damaged: the topic policy of {pattern:?} has no valid {field}",
                path.display()
            ),
            OpenError::DamagedDeletion { path, number, field } => write!(
                f,
                "the catalog {} is damaged: the deletion {number} of a topic has no valid {field}",
                path.display()
            ),
        }
    }
}

impl std::error::Error for OpenError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            OpenError::Database { source, .. } => Some(source),
            OpenError::Version { .. }
            | OpenError::Damaged { .. }
            | OpenError::Policy { .. }
            | OpenError::DamagedPolicy { .. }
            | OpenError::DamagedDeletion { .. } => None,
        }
    }
}

impl fmt::Display for CommitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the catalog cannot be written")
    }
}

impl std::error::Error for CommitError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.0)
    }
}

#[cfg(test)]
mod tests;
