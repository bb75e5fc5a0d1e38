//! SIGINT and SIGTERM: the first asks the command to finish in order, the second ends the process at once.

use std::io;
use std::sync::mpsc;

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use tokio::sync::watch;

/// Tells when the process is to end.
#[derive(Clone)]
pub struct Stop(watch::Receiver<bool>);

impl Stop {
    /// Listens from now on. Called once, at the start of a command.
    ///
    /// # Errors
    /// The system does not let the process listen.
    pub fn listen() -> io::Result<Self> {
        let mut signals = Signals::new([SIGINT, SIGTERM])?;
        let (sender, receiver) = watch::channel(false);
        let (ready, is_ready) = mpsc::channel();
        std::thread::Builder::new().name("signals".into()).spawn(move || {
            let _ = ready.send(());
            for (index, signal) in signals.forever().enumerate() {
                if index > 0 {
                    std::process::exit(128 + signal);
                }
                sender.send_replace(true);
            }
        })?;
        let _ = is_ready.recv();
        Ok(Stop(receiver))
    }

    /// Returns when the first signal has come, also if it came before.
    pub async fn asked(&mut self) {
        // The sender lives as long as the process, so this ends only by a signal.
        let _ = self.0.wait_for(|asked| *asked).await;
    }

    /// Blocks until the first signal has come.
    pub fn wait_for_signal(&mut self) {
        let asked = self.asked();
        // No reactor and no timer: a watch channel needs neither.
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        runtime
            .expect("a runtime without drivers starts no thread and opens no file")
            .block_on(asked);
    }

    /// Whether the first signal has come.
    #[must_use]
    pub fn is_asked(&self) -> bool {
        *self.0.borrow()
    }
}
