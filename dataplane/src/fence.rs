//! Tells a panic inside a shard from one in a door.
//!
//! A door's session that panics is ended and the node goes on. But sessions call their shard, and a shard that a panic has
//! left half changed must not be believed. So the shard's methods that sessions call hold a [`Fence`]; when a panic passes
//! one, whoever catches it learns that from [`is_broken`] and ends the process.

use std::cell::Cell;

thread_local! {
    static BROKEN: Cell<bool> = const { Cell::new(false) };
}

/// Held while a shard changes.
#[derive(Debug, Default)]
pub struct Fence(());

impl Drop for Fence {
    fn drop(&mut self) {
        if std::thread::panicking() {
            BROKEN.set(true);
        }
    }
}

/// Whether a panic has passed a fence on this thread.
#[must_use]
pub fn is_broken() -> bool {
    BROKEN.get()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A session's own panic must not end the node, and a shard's must.
    #[test]
    fn only_a_panic_inside_breaks_it() {
        let caught = std::panic::catch_unwind(|| {
            drop(Fence::default());
            panic!("a door");
        });
        assert!(caught.is_err() && !is_broken());
        let caught = std::panic::catch_unwind(|| {
            let _fence = Fence::default();
            panic!("a shard");
        });
        assert!(caught.is_err() && is_broken());
    }
}
