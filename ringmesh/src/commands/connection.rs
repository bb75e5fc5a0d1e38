//! Connecting to a server, and what its errors mean to a person.

use std::time::Duration;

use codec::refusal::{Code, Refusal};
use ringmesh_client::{
    Client, ClientOptions, ConnectError, PublishError, ServerRefusal, SubscribeError,
};

use super::args::ServerArgs;
use super::contexts::{Address, NATIVE, find};
use super::failure::{Exit, Failure};
use crate::config::units::show_time;

/// Runs a command's future on a runtime of its own thread.
///
/// # Errors
/// The system gives no event queue, or what the command returns.
pub fn block_on<F: Future<Output = Result<(), Failure>>>(command: F) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| {
        Failure::new(Exit::Failed, format!("the system gives no event queue: {error}"), "")
    })?;
    runtime.block_on(command)
}

/// The server that a command talks to.
#[derive(Debug)]
pub struct Target {
    /// Where it is, and who said so.
    pub address: Address,
    /// How long its answers are waited for.
    pub timeout: Duration,
}

impl Target {
    /// Finds the server: by the flags, the environment, the context.
    ///
    /// # Errors
    /// The context that is asked for is not there, or has no such address.
    pub fn of(server: &ServerArgs) -> Result<Self, Failure> {
        let (flag, context) = (server.server.as_deref(), server.context.as_deref());
        Ok(Target { address: find(&NATIVE, flag, context)?, timeout: server.timeout })
    }

    /// The options of a connection; the caller adds its own.
    #[must_use]
    pub fn options(&self) -> ClientOptions {
        let mut options = ClientOptions::new(self.address.text.clone());
        options.connect_timeout = self.timeout;
        options.reconnect_timeout = self.timeout;
        options.request_timeout = self.timeout;
        options
    }
}

/// Connects.
///
/// # Errors
/// There is no server, it does not answer in time, or it refuses.
pub async fn connect(options: ClientOptions, target: &Target) -> Result<Client, Failure> {
    let address = &target.address;
    Client::connect(options).await.map_err(|error| match error {
        ConnectError::Unreachable { source, .. } => Failure::new(
            Exit::Unreachable,
            format!("no server answers at {address}: {source}"),
            address.advice("--server"),
        ),
        ConnectError::TimedOut { .. } => timed_out(target),
        ConnectError::Refused(refusal) => refused(&refusal),
        other => Failure::new(
            Exit::Failed,
            format!("{other}"),
            format!("is {address} the native door? Its address stands in the server's ready line"),
        ),
    })
}

/// The server was silent for too long.
#[must_use]
pub fn timed_out(target: &Target) -> Failure {
    let message = format!("{} gave no answer within {}", target.address, show_time(target.timeout));
    Failure::new(Exit::TimedOut, message, "try again, or wait longer with --timeout")
}

/// The server said no.
#[must_use]
pub fn refused(refusal: &ServerRefusal) -> Failure {
    let Some(code) = refusal.code() else {
        let advice = "the server is newer than this command; use its version of ringmesh";
        return Failure::new(Exit::Refused, format!("the server refuses: {refusal}"), advice);
    };
    let mut failure = Failure::refused(&Refusal::new(code, refusal.text.as_str()));
    if code == Code::GroupExists {
        failure.advice.push_str(" Leave out --from, or use another --group.");
    }
    failure
}

/// The connection is gone and could not be made again.
fn lost(what: &str) -> Failure {
    let advice =
        "what was printed is safe; for the rest it is not known. Look whether the server runs";
    Failure::new(Exit::Unreachable, format!("the connection is lost: {what}"), advice)
}

/// What a failed publish means.
#[must_use]
pub fn publish_failure(error: &PublishError) -> Failure {
    match error {
        PublishError::Refused(refusal) => refused(refusal),
        PublishError::Lost { what } => lost(what),
        other => Failure::new(Exit::Failed, other.to_string(), ""),
    }
}

/// What a failed subscription means.
#[must_use]
pub fn subscribe_failure(error: &SubscribeError, target: &Target) -> Failure {
    match error {
        SubscribeError::Refused(refusal) => refused(refusal),
        SubscribeError::TimedOut => timed_out(target),
        SubscribeError::Lost { what } => lost(what),
        other => Failure::new(Exit::Failed, other.to_string(), ""),
    }
}
