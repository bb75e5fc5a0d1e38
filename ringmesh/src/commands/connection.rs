//! Connecting to a server, and what its errors mean to a person.

use std::time::Duration;

use codec::refusal::{Code, Refusal};
use ringmesh_client::{
    Client, ClientOptions, ConnectError, PublishError, ServerRefusal, SubscribeError,
};

use super::args::ServerArgs;
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

/// The options of a connection; the caller adds its own.
#[must_use]
pub fn options(server: &ServerArgs) -> ClientOptions {
    let mut options = ClientOptions::new(server.server.clone());
    options.connect_timeout = server.timeout;
    options.reconnect_timeout = server.timeout;
    options.request_timeout = server.timeout;
    options
}

/// Connects.
///
/// # Errors
/// There is no server, it does not answer in time, or it refuses.
pub async fn connect(options: ClientOptions) -> Result<Client, Failure> {
    let server = options.server.clone();
    Client::connect(options).await.map_err(|error| match error {
        ConnectError::Unreachable { server, source } => Failure::new(
            Exit::Unreachable,
            format!("no server answers at {server}: {source}"),
            "give its address as --server HOST:PORT, or start one with `ringmesh serve`",
        ),
        ConnectError::TimedOut { server, after } => timed_out(&server, after),
        ConnectError::Refused(refusal) => refused(&refusal),
        other => Failure::new(
            Exit::Failed,
            format!("{other}"),
            format!("is {server} the native door? Its address stands in the server's ready line"),
        ),
    })
}

/// The server was silent for too long.
#[must_use]
pub fn timed_out(server: &str, after: Duration) -> Failure {
    let message = format!("{server} gave no answer within {}", show_time(after));
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
pub fn subscribe_failure(error: &SubscribeError, server: &ServerArgs) -> Failure {
    match error {
        SubscribeError::Refused(refusal) => refused(refusal),
        SubscribeError::TimedOut => timed_out(&server.server, server.timeout),
        SubscribeError::Lost { what } => lost(what),
        other => Failure::new(Exit::Failed, other.to_string(), ""),
    }
}
