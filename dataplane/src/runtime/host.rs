//! What the driver needs of glommio, its host: to give it a turn, and to sleep in it.
//!
//! Facts about glommio 0.9 that shape this file:
//! * An executor looks at its rings only when no task is runnable or its preempt timer (100 ms) fires, and a task that
//!   wakes itself is runnable. So the driver gives its turn away by reading a byte of the null device through glommio:
//!   that makes it not runnable and makes the executor look at all its rings, and it completes in that same look.
//! * There is no public wait on a foreign descriptor, but a read of an eventfd through a [`BufferedFile`] is one.
//! * It can lose a wake-up: when the preempt timer is due as it starts to run tasks, it runs none and sleeps although
//!   some are runnable. A timer of its own ends that sleep, so heartbeat tasks keep some: every 10 ms while there is
//!   work, every second while the driver sleeps. There are two, out of step, for a heartbeat's own wake-up can be lost.
//!   A thread that gets no core for long enough loses both at once. No timer is left then, so another thread watches
//!   ([`Watch`]): a wake-up from outside reaches a sleeping executor however many were lost before.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Poll, Waker};
use std::time::Duration;

use glommio::io::BufferedFile;
use glommio::timer::sleep;

use super::wake::EventFd;

/// The heartbeat while the driver works: the longest stall that a lost wake-up can cause then.
const HEARTBEAT_BUSY: Duration = Duration::from_millis(10);
/// The heartbeat while the driver sleeps, so that idleness costs nothing that can be measured.
const HEARTBEAT_IDLE: Duration = Duration::from_secs(1);

/// How often another thread looks whether the executor still has a heartbeat: above its longest distance.
pub(super) const WATCH_PERIOD: Duration = Duration::from_secs(3);

/// The heartbeat as another thread sees it.
#[derive(Debug, Default)]
pub(super) struct Watch {
    beats: AtomicU64,
    /// Wakes the executor; none before it runs and after it has ended.
    waker: Mutex<Option<Waker>>,
}

impl Watch {
    /// Wakes the executor if its heart has not beaten since there were `before` beats. Returns how many there are.
    pub(super) fn look(&self, before: u64) -> u64 {
        let beats = self.beats.load(Ordering::Relaxed);
        if beats == before
            && let Some(waker) = &*self.waker()
        {
            waker.wake_by_ref();
        }
        beats
    }

    fn waker(&self) -> MutexGuard<'_, Option<Waker>> {
        self.waker.lock().expect("nobody panics while holding it")
    }
}

/// The driver's side of its host. Lives on the executor's thread.
pub(super) struct Host {
    /// Counts completions of the raw ring while it is told to; the host sleeps on it.
    bell: EventFd,
    /// The same bell, as glommio reads it.
    bell_file: Rc<BufferedFile>,
    /// A read of the bell that has not returned. Outlives a sleep that a timer ended.
    listening: Option<Pin<Box<dyn Future<Output = ()>>>>,
    null: BufferedFile,
    is_asleep: Rc<Cell<bool>>,
    /// The heartbeats, and what the watch wakes.
    tasks: Vec<glommio::Task<()>>,
    watch: Arc<Watch>,
}

impl Host {
    /// Must be called on an executor.
    pub(super) fn new() -> io::Result<Self> {
        // Not `EFD_NONBLOCK`: a read of a non-blocking descriptor would fail instead of waiting.
        let bell = EventFd::new(0)?;
        let bell_file = Rc::new(glommio_file(bell.as_fd().try_clone_to_owned()?));
        let null = glommio_file(OwnedFd::from(std::fs::File::open("/dev/null")?));
        let is_asleep = Rc::new(Cell::new(false));
        let watch = Arc::new(Watch::default());
        let beat =
            |halves| glommio::spawn_local(beat(Rc::clone(&is_asleep), Arc::clone(&watch), halves));
        let tasks = vec![beat(2), beat(3), glommio::spawn_local(be_woken(Arc::clone(&watch)))];
        Ok(Host { bell, bell_file, listening: None, null, is_asleep, tasks, watch })
    }

    /// What another thread must look at every [`WATCH_PERIOD`].
    pub(super) fn watch(&self) -> Arc<Watch> {
        Arc::clone(&self.watch)
    }

    /// What the raw ring must signal to end a [`Host::sleep`].
    pub(super) fn bell(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }

    /// Lets the executor look at its rings and run its other tasks once.
    pub(super) async fn give_turn(&self) {
        // The null device has nothing to read and no way to fail that matters: the turn is given either way.
        let _ = self.null.read_at(0, 1).await;
    }

    /// Sleeps until the bell is signalled, or for `timeout`.
    pub(super) async fn sleep(&mut self, timeout: Option<Duration>) {
        let file = &self.bell_file;
        let listening = self.listening.get_or_insert_with(|| {
            let file = Rc::clone(file);
            Box::pin(async move {
                let _ = file.read_at(0, 8).await;
            })
        });
        let mut timer = timeout.map(|timeout| Box::pin(sleep(timeout)));
        self.is_asleep.set(true);
        let rang = poll_fn(|cx| {
            if listening.as_mut().poll(cx).is_ready() {
                return Poll::Ready(true);
            }
            match &mut timer {
                Some(timer) => timer.as_mut().poll(cx).map(|()| false),
                None => Poll::Pending,
            }
        })
        .await;
        self.is_asleep.set(false);
        if rang {
            self.listening = None;
        }
    }

    /// Ends what this side has running on the executor.
    pub(super) async fn end(mut self) {
        // On this thread, as long as the executor runs: a waker must not outlive it.
        *self.watch.waker() = None;
        for task in self.tasks {
            task.cancel().await;
        }
        if let Some(listening) = self.listening.take() {
            self.bell.signal();
            listening.await;
        }
        let _ = self.null.close().await;
        if let Ok(bell_file) = Rc::try_unwrap(self.bell_file) {
            let _ = bell_file.close().await;
        }
    }
}

/// Beats for ever, each beat `halves` half periods after the one before.
async fn beat(is_asleep: Rc<Cell<bool>>, watch: Arc<Watch>, halves: u32) {
    loop {
        let period = if is_asleep.get() { HEARTBEAT_IDLE } else { HEARTBEAT_BUSY };
        sleep(period / 2 * halves).await;
        watch.beats.fetch_add(1, Ordering::Relaxed);
    }
}

/// Lets the watch wake the executor, for ever: a task that has nothing to do when it is woken.
async fn be_woken(watch: Arc<Watch>) {
    poll_fn(|cx| {
        watch.waker().get_or_insert_with(|| cx.waker().clone());
        Poll::<()>::Pending
    })
    .await;
}

fn glommio_file(fd: OwnedFd) -> BufferedFile {
    // SAFETY: the descriptor is owned and given up here, so the file is its only owner.
    unsafe { BufferedFile::from_raw_fd(fd.into_raw_fd()) }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;
    use std::sync::mpsc;

    use glommio::{LocalExecutorBuilder, Placement};

    use super::super::threads::{allowed_cores, pin_to};
    use super::*;

    /// Turns taken in the provocation. Most of them lose a wake-up and wait for the heartbeat.
    const TURNS: u32 = 8_000;
    /// How long there may be no turn: far above what one takes on a busy machine, far below for ever.
    const PATIENCE: Duration = Duration::from_secs(60);

    /// Provokes glommio's lost wake-up: a preempt timer so short that it is often due before the tasks are run, and a
    /// thread on the same core that takes it away at the wrong moment. The executor then sleeps although the driver is
    /// runnable; the heartbeat ends that sleep, or the watch where both heartbeats are lost. Without them this test ends
    /// by its time limit.
    #[test]
    fn a_lost_wake_up_does_not_last() {
        let is_over = Arc::new(AtomicBool::new(false));
        let core = allowed_cores().unwrap()[0];
        let disturber = std::thread::spawn({
            let is_over = Arc::clone(&is_over);
            move || {
                pin_to(core).unwrap();
                while !is_over.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            }
        });
        let (turned, turns) = mpsc::channel();
        let (watched, watch) = mpsc::channel();
        std::thread::spawn(move || {
            pin_to(core).unwrap();
            let builder = LocalExecutorBuilder::new(Placement::Unbound).io_memory(1 << 16);
            let executor = builder.preempt_timer(Duration::from_micros(100)).make().unwrap();
            executor.run(async {
                let mut host = Host::new().unwrap();
                watched.send(host.watch()).unwrap();
                for turn in 0..TURNS {
                    host.give_turn().await;
                    turned.send(()).unwrap();
                    if turn % 64 == 0 {
                        host.bell.signal();
                        host.sleep(None).await;
                    }
                }
                host.end().await;
            });
        });
        let watching = std::thread::spawn({
            let is_over = Arc::clone(&is_over);
            move || {
                let (watch, mut beats): (Arc<Watch>, u64) = (watch.recv().unwrap(), 0);
                while !is_over.load(Ordering::Relaxed) {
                    beats = watch.look(beats);
                    std::thread::sleep(WATCH_PERIOD / 10);
                }
            }
        });
        let made = (0..TURNS).take_while(|_| turns.recv_timeout(PATIENCE).is_ok()).count();
        is_over.store(true, Ordering::Relaxed);
        disturber.join().unwrap();
        watching.join().unwrap();
        assert_eq!(made, TURNS as usize, "the executor sleeps although its driver is runnable");
    }

    /// A sleep must end by the bell, also when it was rung before, and by its time limit when nobody rings.
    #[test]
    fn sleep_ends_by_bell_or_time() {
        LocalExecutorBuilder::new(Placement::Unbound).make().unwrap().run(async {
            let mut host = Host::new().unwrap();
            host.sleep(Some(Duration::from_millis(1))).await;
            host.bell.signal();
            host.sleep(None).await;
            let ringer = host.bell().try_clone_to_owned().unwrap();
            let ringing = std::thread::spawn(move || {
                use std::io::Write;
                std::fs::File::from(ringer).write_all(&1u64.to_ne_bytes()).unwrap();
            });
            host.sleep(None).await;
            ringing.join().unwrap();
            host.end().await;
        });
    }
}
