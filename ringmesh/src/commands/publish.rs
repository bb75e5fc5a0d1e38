//! `ringmesh publish`: events from DATA or standard input, in batches, each answered as soon as it is acknowledged.
//!
//! What is at hand goes out at once: a batch waits for more events only while the input has them ready.

use std::io;
use std::time::Duration;

use codec::error::BuildError;
use codec::refusal::Refusal;
use ringmesh_client::{BatchAck, Client, PublishError};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

use super::args::PublishArgs;
use super::batches::{Batches, Closed};
use super::blueprint::{Addressed, Blueprint};
use super::connection::{Target, block_on, connect, publish_failure, timed_out};
use super::events::{Lines, Repeated};
use super::failure::{Exit, Failure};
use super::output::{Acknowledged, Printer};
use super::progress::Progress;
use super::signals::Stop;

/// Events that the reader of standard input may be ahead.
const INPUT_EVENTS_MAX: usize = 1_024;
/// How long the last acknowledgements are waited for after a signal, and the goodbye at the end.
const LEAVING_TIME: Duration = Duration::from_secs(5);

/// Runs the command.
///
/// # Errors
/// The input is wrong, or the server refuses, is gone, or does not answer in time.
pub fn run(arguments: &PublishArgs) -> Result<(), Failure> {
    let target = Target::of(&arguments.server)?;
    let blueprint = Blueprint::new(arguments)?;
    let repeated = arguments.data.is_some();
    let stop = Stop::listen().map_err(cannot_listen)?;
    // Standard input is read only once there is a server: what is read and not published would be lost.
    let source = if repeated {
        Source::Repeated(Box::new(Repeated::new(arguments, blueprint)?))
    } else {
        Source::StandardInput(blueprint)
    };
    block_on(async {
        let mut options = target.options();
        options.window_batches = arguments.window;
        let client = connect(options, &target).await?;
        let input = match source {
            Source::Repeated(repeated) => Input::Repeated(repeated),
            Source::StandardInput(blueprint) => Input::Lines(read_lines(blueprint)),
        };
        let result = Publishing::new(arguments, &target, &client)?.run(input, stop).await;
        client.close(LEAVING_TIME).await;
        result
    })
}

/// Where events are to come from.
enum Source {
    Repeated(Box<Repeated>),
    StandardInput(Blueprint),
}

fn cannot_listen(error: io::Error) -> Failure {
    Failure::new(Exit::Failed, format!("the process cannot listen for signals: {error}"), "")
}

/// Where events come from.
enum Input {
    Repeated(Box<Repeated>),
    Lines(mpsc::Receiver<Result<Addressed, Failure>>),
}

impl Input {
    /// The next event; `None` at the end. Given up, it has taken nothing.
    async fn next(&mut self) -> Result<Option<Addressed>, Failure> {
        match self {
            Input::Repeated(repeated) => repeated.next_event(),
            Input::Lines(lines) => lines.recv().await.transpose(),
        }
    }

    /// Whether the next event can be had without waiting.
    fn is_ready(&self) -> bool {
        match self {
            Input::Repeated(repeated) => repeated.has_more(),
            Input::Lines(lines) => !lines.is_empty(),
        }
    }
}

/// At most so many events a second, evenly.
struct Pace {
    start: Instant,
    gap: Option<Duration>,
    events: u32,
}

impl Pace {
    fn new(rate: Option<f64>) -> Self {
        Pace {
            start: Instant::now(),
            gap: rate.map(|rate| Duration::from_secs_f64(1.0 / rate)),
            events: 0,
        }
    }

    /// When the next event may go.
    fn due(&self) -> Option<Instant> {
        Some(self.start + self.gap? * self.events)
    }

    fn is_due(&self) -> bool {
        self.due().is_none_or(|due| due <= Instant::now())
    }

    async fn wait(&self) {
        if let Some(due) = self.due() {
            sleep_until(due).await;
        }
    }

    /// An event has gone. Counted anew each million, so that neither the count nor the sum of gaps runs over.
    fn went(&mut self) {
        self.events += 1;
        if let (1_000_000, Some(due)) = (self.events, self.due()) {
            (self.start, self.events) = (due, 0);
        }
    }
}

/// Reads standard input on a thread of its own, for a read of a terminal or a pipe may block for ever.
fn read_lines(mut blueprint: Blueprint) -> mpsc::Receiver<Result<Addressed, Failure>> {
    let (sender, receiver) = mpsc::channel(INPUT_EVENTS_MAX);
    std::thread::spawn(move || {
        let mut lines = Lines::new(io::stdin().lock());
        while let Some(event) = lines.next_event(&mut blueprint).transpose() {
            let is_over = event.is_err();
            if sender.blocking_send(event).is_err() || is_over {
                return;
            }
        }
    });
    receiver
}

/// Events under way.
struct Publishing<'a> {
    arguments: &'a PublishArgs,
    target: &'a Target,
    client: &'a Client,
    batches: Batches,
    closed: Vec<Closed>,
    acks: JoinSet<(Result<BatchAck, PublishError>, Vec<String>)>,
    /// When the server last answered, or had nothing to answer.
    heard: Instant,
    printer: Printer,
    progress: Progress,
    /// When the first event could go, and how many were acknowledged since.
    began: Instant,
    acknowledged: u64,
}

impl<'a> Publishing<'a> {
    fn new(
        arguments: &'a PublishArgs,
        target: &'a Target,
        client: &'a Client,
    ) -> Result<Self, Failure> {
        let welcome = client.welcome();
        let total = arguments.data.is_some().then_some(arguments.count);
        let events_max = arguments.batch.min(welcome.batch_events_max);
        Ok(Publishing {
            arguments,
            target,
            client,
            batches: Batches::new(events_max, welcome.partitions),
            closed: Vec::new(),
            acks: JoinSet::new(),
            heard: Instant::now(),
            printer: Printer::new(arguments.output).map_err(cannot_print)?,
            progress: Progress::begin(total, arguments.quiet),
            began: Instant::now(),
            acknowledged: 0,
        })
    }

    /// Publishes the input. What is under way when something fails is still waited for, so that what is printed is
    /// all that was acknowledged.
    async fn run(mut self, input: Input, mut stop: Stop) -> Result<(), Failure> {
        let taken = self.take_all(input, &mut stop).await;
        let sent = match self.batches.close_all(&mut self.closed) {
            () if taken.as_ref().is_err_and(|failure| failure.exit != Exit::Usage) => Ok(()),
            () => self.send_closed().await,
        };
        let mut answered = Ok(());
        while !self.acks.is_empty() {
            let last = self.answer().await;
            if last.as_ref().is_err_and(|failure| failure.exit == Exit::TimedOut) {
                return taken.and(last);
            }
            answered = answered.and(last);
        }
        self.sum_up()?;
        taken.and(sent).and(answered)
    }

    /// With `--quiet`, one line about all events.
    fn sum_up(&mut self) -> Result<(), Failure> {
        self.progress.end();
        if !self.arguments.quiet {
            return Ok(());
        }
        self.printer.sum(self.acknowledged, self.began.elapsed()).map_err(cannot_print)
    }

    async fn take_all(&mut self, mut input: Input, stop: &mut Stop) -> Result<(), Failure> {
        let mut pace = Pace::new(self.arguments.rate);
        let acks_max = 2 * self.arguments.window as usize;
        loop {
            let (has_acks, has_room) = (!self.acks.is_empty(), self.acks.len() < acks_max);
            let next = async {
                pace.wait().await;
                input.next().await
            };
            tokio::select! {
                biased;
                () = stop.asked() => return Ok(()),
                answered = self.answer(), if has_acks => answered?,
                event = next, if has_room => {
                    let Some(event) = event? else { return Ok(()) };
                    pace.went();
                    self.take(&event).await?;
                }
            }
            if !input.is_ready() || !pace.is_due() {
                self.batches.close_all(&mut self.closed);
                self.send_closed().await?;
            }
        }
    }

    async fn take(&mut self, addressed: &Addressed) -> Result<(), Failure> {
        let Addressed { topic, event } = addressed;
        let (limit, bytes) = (self.client.welcome().event_data_bytes_max, event.data().len());
        if bytes > limit as usize {
            return Err(Failure::refused(&Refusal::limit(
                "event data bytes",
                limit.into(),
                bytes as u64,
            )));
        }
        self.batches.push(topic, event, &mut self.closed).map_err(|error| match error {
            BuildError::Limit { field, limit, value } => {
                Failure::refused(&Refusal::limit(field, limit, value))
            }
            other => {
                Failure::new(Exit::Usage, format!("the event cannot be published: {other}"), "")
            }
        })?;
        self.send_closed().await
    }

    async fn send_closed(&mut self) -> Result<(), Failure> {
        for Closed { topic, batch, ids } in std::mem::take(&mut self.closed) {
            if self.acks.is_empty() {
                self.heard = Instant::now();
            }
            let limit = self.arguments.server.timeout;
            let sent = timeout(limit, self.client.publish_batch(&topic, batch)).await;
            let handle =
                sent.map_err(|_| self.silence())?.map_err(|error| publish_failure(&error))?;
            self.acks.spawn(async move { (handle.await, ids) });
        }
        Ok(())
    }

    /// Waits for the next answer and prints it. Given up, it has taken nothing.
    async fn answer(&mut self) -> Result<(), Failure> {
        let patience = self.heard + self.arguments.server.timeout;
        let joined = tokio::select! {
            joined = self.acks.join_next() => joined,
            () = sleep_until(patience) => return Err(self.silence()),
        };
        self.heard = Instant::now();
        let Some(joined) = joined else { return Ok(()) };
        let (answer, ids) =
            joined.map_err(|error| Failure::new(Exit::Failed, error.to_string(), ""))?;
        let ack = answer.map_err(|error| publish_failure(&error))?;
        self.acknowledged += ids.len() as u64;
        self.progress.advance(ids.len() as u64);
        if self.arguments.quiet {
            return Ok(());
        }
        for (offset, id) in (ack.base_offset.0..).zip(&ids) {
            let event = Acknowledged {
                id,
                topic: &ack.topic,
                partition: ack.partition.0,
                offset,
                ack: ack.level.name(),
            };
            self.printer.acknowledged(&event).map_err(cannot_print)?;
        }
        Ok(())
    }

    fn silence(&self) -> Failure {
        timed_out(self.target)
    }
}

fn cannot_print(error: io::Error) -> Failure {
    Failure::new(Exit::Failed, format!("standard output cannot be written: {error}"), "")
}
