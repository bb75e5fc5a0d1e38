//! Subscriptions, their catalog, and the snapshots compiled from them.
