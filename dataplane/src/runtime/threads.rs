//! What the runtime does to its threads: pinning, nice, and ending the process when one of them panics.

use std::io;

/// Ends the process when it is dropped by a panic. Held by threads whose state would be half changed after one: nothing
/// that a half-changed shard says can be believed.
pub(super) struct AbortOnPanic(pub(super) &'static str);

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            abort(self.0);
        }
    }
}

/// Ends the process because `who` panicked.
pub(super) fn abort(who: &str) -> ! {
    eprintln!(
        "ringmesh: {who} panicked; its state cannot be trusted any more, so the process ends"
    );
    std::process::abort();
}

/// Makes this thread stand back for others by `steps` of nice(2).
pub(super) fn stand_back(steps: i32) {
    // SAFETY: takes no pointer. On Linux the calling thread alone is niced.
    unsafe { libc::nice(steps) };
}

/// The cores this process may run on.
pub(super) fn allowed_cores() -> io::Result<Vec<usize>> {
    let mut set = empty_set();
    // SAFETY: the set is valid for writes of its own size.
    let result = unsafe { libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &raw mut set) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    let is_in = |core: &usize| {
        // SAFETY: the core is below the size of the set.
        unsafe { libc::CPU_ISSET(*core, &set) }
    };
    Ok((0..libc::CPU_SETSIZE as usize).filter(is_in).collect())
}

/// Keeps this thread on one core.
pub(super) fn pin_to(core: usize) -> io::Result<()> {
    assert!(core < libc::CPU_SETSIZE as usize, "core {core} is beyond what a set can name");
    let mut set = empty_set();
    // SAFETY: the core is below the size of the set, asserted above.
    unsafe { libc::CPU_SET(core, &mut set) };
    // SAFETY: the set is valid for reads of its own size.
    let result =
        unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn empty_set() -> libc::cpu_set_t {
    // SAFETY: a set of cores is an array of integers, for which zero is a value.
    unsafe { std::mem::zeroed() }
}
