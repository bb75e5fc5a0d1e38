//! How a command fails: what happened, what to do next, and the exit code.

use std::fmt;
use std::process::ExitCode;

use codec::refusal::Refusal;

/// The exit codes. Scripts rely on them; docs/errors.md lists them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Something failed that no other code names.
    Failed = 1,
    /// The command line or the input is wrong.
    Usage = 2,
    /// The server said no.
    Refused = 3,
    /// There is no server, or it went away.
    Unreachable = 4,
    /// The server did not answer in time.
    TimedOut = 5,
    /// Data on disk is damaged.
    Damaged = 6,
}

/// Why a command did not do what it was told.
#[derive(Debug)]
pub struct Failure {
    /// The exit code.
    pub exit: Exit,
    /// What happened, in one sentence.
    pub message: String,
    /// What to do next; empty when the message says it.
    pub advice: String,
}

impl Failure {
    /// A failure with what to do about it.
    pub fn new(exit: Exit, message: impl Into<String>, advice: impl Into<String>) -> Self {
        Failure { exit, message: message.into(), advice: advice.into() }
    }

    /// The server's refusal: its own sentence, and what the table of refusals says to do.
    #[must_use]
    pub fn refused(refusal: &Refusal) -> Self {
        let exit = match refusal.code.exit_code() {
            4 => Exit::Unreachable,
            5 => Exit::TimedOut,
            6 => Exit::Damaged,
            _ => Exit::Refused,
        };
        Failure::new(exit, format!("the server refuses: {refusal}"), refusal.code.meaning())
    }

    /// Writes it to standard error and gives the code to exit with.
    #[must_use]
    pub fn report(&self) -> ExitCode {
        eprintln!("{self}");
        ExitCode::from(self.exit as u8)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: {}", self.message)?;
        if !self.advice.is_empty() {
            write!(f, "\n  -> {}", self.advice)?;
        }
        Ok(())
    }
}

impl std::error::Error for Failure {}
