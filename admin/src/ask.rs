//! Questions to the shards and to the control plane, with a time-out: nobody waits for one that is stuck.

use codec::refusal::Code;
use controlplane::operator::{self, ControlHandle, Order};
use dataplane::inquiry::{Answer, Inquiry};
use dataplane::runtime::ShardHandle;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use crate::limits::ANSWER_TIMEOUT;
use crate::problem::Problem;

/// The answer of one shard; `None` when it did not come in time.
type Awaited<T> = Result<oneshot::Receiver<T>, Inquiry>;

/// Asks one shard.
pub(crate) async fn shard<T: Send + 'static>(
    shard: &ShardHandle,
    question: impl FnOnce(Answer<T>) -> Inquiry,
) -> Result<T, Problem> {
    let until = Instant::now() + ANSWER_TIMEOUT;
    receive(send(shard, question), until).await.ok_or_else(|| no_answer(shard.index()))
}

/// Asks every shard the same; for each its answer, or none if it did not come in time.
pub(crate) async fn each<T: Send + 'static>(
    shards: &[ShardHandle],
    question: impl Fn(Answer<T>) -> Inquiry,
) -> Vec<Option<T>> {
    let until = Instant::now() + ANSWER_TIMEOUT;
    let asked: Vec<_> = shards.iter().map(|shard| send(shard, &question)).collect();
    let mut answers = Vec::with_capacity(shards.len());
    for awaited in asked {
        answers.push(receive(awaited, until).await);
    }
    answers
}

/// Asks every shard the same; an answer that lacks one of them would lie.
pub(crate) async fn all<T: Send + 'static>(
    shards: &[ShardHandle],
    question: impl Fn(Answer<T>) -> Inquiry,
) -> Result<Vec<T>, Problem> {
    let answers = each(shards, question).await.into_iter().zip(shards);
    answers.map(|(answer, shard)| answer.ok_or_else(|| no_answer(shard.index()))).collect()
}

/// Asks the control plane; none if it does not answer in time.
pub(crate) async fn control<T: Send + 'static>(
    control: &ControlHandle,
    order: impl FnOnce(operator::Answer<T>) -> Order,
) -> Option<T> {
    let (sender, receiver) = oneshot::channel();
    // Nobody waits any more when the time is over.
    control.ask(order(Box::new(move |answer| drop(sender.send(answer))))).ok()?;
    timeout_at(Instant::now() + ANSWER_TIMEOUT, receiver).await.ok()?.ok()
}

/// What is answered when a shard does not.
fn no_answer(shard: u16) -> Problem {
    let seconds = ANSWER_TIMEOUT.as_secs();
    Problem::new(Code::Unavailable, format!("shard {shard} did not answer within {seconds} s"))
}

fn send<T: Send + 'static>(
    shard: &ShardHandle,
    question: impl FnOnce(Answer<T>) -> Inquiry,
) -> Awaited<T> {
    let (sender, receiver) = oneshot::channel();
    shard.ask(question(Box::new(move |answer| drop(sender.send(answer)))))?;
    Ok(receiver)
}

async fn receive<T>(awaited: Awaited<T>, until: Instant) -> Option<T> {
    timeout_at(until, awaited.ok()?).await.ok()?.ok()
}
