//! Giving free memory back to the system while a shard is at rest. Of one shard, on its thread.
//!
//! An allocator keeps the pages of what was freed for a while, and looks whether that while is over only when it is called.
//! A shard that has become idle calls it no more, so what a burst took would stay with the process until the next one. And a
//! log keeps buffers for its next commits, which one that has long had none does not need.

/// Gives pages that nothing stands on back to the system; with `force` at once, else those that have been free for a while.
///
/// Foreign functions are `unsafe` to Rust whatever they do. One that is given here must be sound to call on any thread at any time.
pub type Collect = unsafe extern "C" fn(force: bool);

/// The least time between two calls, and how long after the last work one is made: above the second for which mimalloc keeps
/// what is free.
const PERIOD_US: u64 = 1_100_000;

/// When free memory is given back next.
pub(super) struct GivingBack {
    /// None where the allocator has no such call.
    collect: Option<Collect>,
    /// When it was called last; 0 before.
    called_us: u64,
}

impl GivingBack {
    pub(super) fn new(collect: Option<Collect>) -> Self {
        GivingBack { collect, called_us: 0 }
    }

    /// To be called before the shard sleeps, when it has nothing to do. Gives back what is due, and has `free_spare` free what
    /// is kept to be used again once there was no work for a period; returns when it wants to be called again, even if
    /// nothing comes until then.
    pub(super) fn rest(
        &mut self,
        now_us: u64,
        last_work_us: u64,
        free_spare: impl FnOnce(),
    ) -> Option<u64> {
        assert!(last_work_us <= now_us, "work that was found lies behind");
        // What was freed shortly before the last call was kept by it.
        let is_owed = |called_us: u64| last_work_us + PERIOD_US > called_us;
        if !is_owed(self.called_us) {
            return None;
        }
        let due_us = self.called_us + PERIOD_US;
        if now_us < due_us {
            return Some(due_us);
        }
        self.called_us = now_us;
        let is_at_rest = !is_owed(now_us);
        if is_at_rest {
            free_spare();
        }
        if let Some(collect) = self.collect {
            // What was just freed is kept for a while if it is not forced.
            // SAFETY: `Collect` says that it may be called on any thread at any time.
            unsafe { collect(is_at_rest) };
        }
        (!is_at_rest).then_some(now_us + PERIOD_US)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    thread_local! {
        static CALLS: Cell<u32> = const { Cell::new(0) };
        static FORCED: Cell<u32> = const { Cell::new(0) };
    }

    extern "C" fn count(force: bool) {
        CALLS.set(CALLS.get() + 1);
        FORCED.set(FORCED.get() + u32::from(force));
    }

    /// Without the last call a burst's memory would stay for ever; with more than one a second, or a forced one, the allocator
    /// would take from the pages that a trickle of work needs again; and an idle shard must not be woken for nothing.
    #[test]
    fn a_burst_is_given_back_and_then_nobody_is_woken() {
        let mut giving_back = GivingBack::new(Some(count));
        let freed = Cell::new(0);
        let free_spare = || freed.set(freed.get() + 1);
        let begin_us = 50 * PERIOD_US;
        // A trickle: work every 10 ms, and a rest behind each.
        let mut last_work_us = begin_us;
        for step in 0..500 {
            last_work_us = begin_us + step * 10_000;
            giving_back.rest(last_work_us + 3_000, last_work_us, free_spare);
        }
        let calls = CALLS.get();
        let seconds = (last_work_us - begin_us) / 1_000_000 + 1;
        assert!((4..=seconds).contains(&u64::from(calls)), "{calls} in {seconds} s");
        assert_eq!((FORCED.get(), freed.get()), (0, 0), "what may soon be used again is kept");
        // The end of it: it is woken until one call has come a period behind the last work, and no more.
        let mut woken_us = last_work_us + 3_000;
        while let Some(next_us) = giving_back.rest(woken_us, last_work_us, free_spare) {
            assert!(next_us > woken_us, "never at once");
            woken_us = next_us;
        }
        assert!(woken_us >= last_work_us + PERIOD_US, "the last call comes late enough");
        assert!(woken_us <= last_work_us + 2 * PERIOD_US + 3_000, "and not much later");
        assert!((calls + 1..=calls + 2).contains(&CALLS.get()));
        assert_eq!((FORCED.get(), freed.get()), (1, 1), "the last one gives everything back");
        let much_later_us = woken_us + 1_000 * PERIOD_US;
        assert_eq!(giving_back.rest(much_later_us, last_work_us, free_spare), None);
        assert_eq!((FORCED.get(), freed.get()), (1, 1));
        let mut without_allocator = GivingBack::new(None);
        assert_eq!(without_allocator.rest(much_later_us, last_work_us, free_spare), None);
        assert_eq!(freed.get(), 2);
    }
}
