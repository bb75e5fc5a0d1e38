//! Numbers of subscriptions and groups, never used twice, also not by two lives of the server: cursors in the logs
//! carry them.

use crate::catalog::{Catalog, CommitError};
use crate::limits::IDS_RESERVED;

/// Gives numbers out of a range that the catalog has durably reserved.
#[derive(Debug)]
pub(crate) struct Ids {
    next: u64,
    reserved_end: u64,
}

impl Ids {
    /// Starts after everything an earlier life may have used.
    pub(crate) fn new(catalog: &Catalog) -> Ids {
        Ids { next: catalog.ids_end(), reserved_end: catalog.ids_end() }
    }

    /// A new number, from 1.
    pub(crate) fn take(&mut self, catalog: &mut Catalog) -> Result<u64, CommitError> {
        if self.next == self.reserved_end {
            let end = self.reserved_end + IDS_RESERVED;
            catalog.reserve_ids(end)?;
            self.reserved_end = end;
        }
        assert!(self.next < self.reserved_end, "only reserved numbers are given out");
        self.next += 1;
        Ok(self.next - 1)
    }
}
