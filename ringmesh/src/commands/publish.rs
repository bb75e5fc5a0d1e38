//! `ringmesh publish`: events from DATA or standard input, in batches, each answered as soon as it is acknowledged.
//!
//! What is at hand goes out at once: a batch waits for more events only while the input has them ready.

use std::io;
use std::time::Duration;

use codec::attribute::{Key, Value};
use codec::cloudevents::parsed::ParsedEvent;
use codec::error::BuildError;
use codec::refusal::Refusal;
use ringmesh_client::{BatchAck, Client, PublishError};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

use super::args::PublishArgs;
use super::batches::{Batches, Closed};
use super::connection::{block_on, connect, options, publish_failure, timed_out};
use super::events::{Ids, Lines, event_of_data, read_data};
use super::failure::{Exit, Failure};
use super::output::{Acknowledged, Printer};
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
    let data = arguments.data.as_deref().map(read_data).transpose()?;
    let ids = Ids::new()?;
    let stop = Stop::listen().map_err(cannot_listen)?;
    block_on(async {
        let mut options = options(&arguments.server);
        options.window_batches = arguments.window;
        let client = connect(options).await?;
        let input = match data {
            Some(data) => Input::Repeated(Repeated::new(arguments, data, ids)),
            None => Input::Lines(read_lines(arguments.key.clone(), ids)),
        };
        let result = Publishing::new(arguments, &client)?.run(input, stop).await;
        client.close(LEAVING_TIME).await;
        result
    })
}

fn cannot_listen(error: io::Error) -> Failure {
    Failure::new(Exit::Failed, format!("the process cannot listen for signals: {error}"), "")
}

/// Where events come from.
enum Input {
    Repeated(Repeated),
    Lines(mpsc::Receiver<Result<ParsedEvent<'static>, Failure>>),
}

impl Input {
    /// The next event; `None` at the end. Given up, it has taken nothing.
    async fn next(&mut self) -> Result<Option<ParsedEvent<'static>>, Failure> {
        match self {
            Input::Repeated(repeated) => Ok(repeated.next()),
            Input::Lines(lines) => lines.recv().await.transpose(),
        }
    }

    /// Whether the next event can be had without waiting.
    fn is_ready(&self) -> bool {
        match self {
            Input::Repeated(repeated) => repeated.left > 0,
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

/// DATA, so many times.
struct Repeated {
    event: ParsedEvent<'static>,
    ids: Ids,
    left: u64,
}

impl Repeated {
    fn new(arguments: &PublishArgs, data: Vec<u8>, ids: Ids) -> Self {
        let mut event = event_of_data(data);
        if let Some(key) = &arguments.key {
            event.set(&Key::PartitionKey, &Value::String(key));
        }
        Repeated { event, ids, left: arguments.count }
    }

    fn next(&mut self) -> Option<ParsedEvent<'static>> {
        self.left = self.left.checked_sub(1)?;
        self.event.set(&Key::Id, &Value::String(&self.ids.make()));
        Some(self.event.clone())
    }
}

/// Reads standard input on a thread of its own, for a read of a terminal or a pipe may block for ever.
fn read_lines(
    key: Option<String>,
    mut ids: Ids,
) -> mpsc::Receiver<Result<ParsedEvent<'static>, Failure>> {
    let (sender, receiver) = mpsc::channel(INPUT_EVENTS_MAX);
    std::thread::spawn(move || {
        let mut lines = Lines::new(io::stdin().lock());
        while let Some(event) = lines.next_event(&mut ids, key.as_deref()).transpose() {
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
    client: &'a Client,
    batches: Batches,
    closed: Vec<Closed>,
    acks: JoinSet<(Result<BatchAck, PublishError>, Vec<String>)>,
    /// When the server last answered, or had nothing to answer.
    heard: Instant,
    printer: Printer,
}

impl<'a> Publishing<'a> {
    fn new(arguments: &'a PublishArgs, client: &'a Client) -> Result<Self, Failure> {
        let welcome = client.welcome();
        let events_max = arguments.batch.min(welcome.batch_events_max);
        Ok(Publishing {
            arguments,
            client,
            batches: Batches::new(events_max, welcome.partitions),
            closed: Vec::new(),
            acks: JoinSet::new(),
            heard: Instant::now(),
            printer: Printer::new(arguments.output).map_err(cannot_print)?,
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
        taken.and(sent).and(answered)
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

    async fn take(&mut self, event: &ParsedEvent<'_>) -> Result<(), Failure> {
        let (limit, bytes) = (self.client.welcome().event_data_bytes_max, event.data().len());
        if bytes > limit as usize {
            return Err(Failure::refused(&Refusal::limit(
                "event data bytes",
                limit.into(),
                bytes as u64,
            )));
        }
        self.batches.push(event, &mut self.closed).map_err(|error| match error {
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
        for Closed { batch, ids } in std::mem::take(&mut self.closed) {
            if self.acks.is_empty() {
                self.heard = Instant::now();
            }
            let limit = self.arguments.server.timeout;
            let sent =
                timeout(limit, self.client.publish_batch(&self.arguments.topic, batch)).await;
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
        timed_out(&self.arguments.server.server, self.arguments.server.timeout)
    }
}

fn cannot_print(error: io::Error) -> Failure {
    Failure::new(Exit::Failed, format!("standard output cannot be written: {error}"), "")
}
