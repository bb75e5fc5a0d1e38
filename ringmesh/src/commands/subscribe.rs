//! `ringmesh subscribe`: prints events and acknowledges each after it is printed.

use std::io;
use std::time::Duration;

use codec::cloudevents::Place;
use ringmesh_client::{Client, Delivery, Received, Start, SubscribeOptions, Subscription, Verdict};

use super::args::SubscribeArgs;
use super::connection::{Target, block_on, connect, subscribe_failure};
use super::failure::{Exit, Failure};
use super::format::Arrived;
use super::output::Printer;
use super::progress::Progress;
use super::signals::Stop;
use super::start::From;

/// Events that may be on their way and not printed.
const CREDIT: u32 = 4_096;
/// How long acknowledgements and the goodbye may take at the end.
const LEAVING_TIME: Duration = Duration::from_secs(5);

/// Runs the command.
///
/// # Errors
/// The server refuses, is gone, or does not answer in time.
pub fn run(arguments: &SubscribeArgs) -> Result<(), Failure> {
    let target = Target::of(&arguments.server)?;
    let stop = Stop::listen().map_err(|error| {
        Failure::new(Exit::Failed, format!("the process cannot listen for signals: {error}"), "")
    })?;
    block_on(async {
        let client = connect(target.options(), &target).await?;
        let result = receive(arguments, &target, &client, stop).await;
        client.close(LEAVING_TIME).await;
        result
    })
}

async fn receive(
    arguments: &SubscribeArgs,
    target: &Target,
    client: &Client,
    mut stop: Stop,
) -> Result<(), Failure> {
    let printer = Printer::new(arguments.output).map_err(cannot_print)?;
    let printer = printer.with_format(arguments.format.clone());
    let left = Left(arguments.count);
    let wish = wish(arguments, left.credit());
    let mut subscription = tokio::select! {
        () = stop.asked() => return Ok(()),
        subscription = client.subscribe(wish) => {
            subscription.map_err(|error| subscribe_failure(&error, target))?
        }
    };
    // On standard error: it is for people and for scripts that publish next, not for who reads the events.
    eprintln!("subscribed to {}", arguments.filter);
    let mut receiving = Receiving { arguments, target, printer, left };
    let result = receiving.print_all(&mut subscription, &mut stop).await;
    // What is delivered and not printed goes back now, instead of when the connection is seen to be gone.
    let _ = subscription.unsubscribe().await;
    result
}

/// On standard error, as all that is not an event: who prints what is kept must know that it is not all.
fn tell_gap(events: Option<u64>) {
    let what = match events {
        Some(1) => "1 event is".to_owned(),
        Some(events) => format!("{events} events are"),
        None => "some events are, nobody knows how many,".to_owned(),
    };
    eprintln!(
        "{what} gone before the subscription came to them: retention, a deletion or damage took them"
    );
}

fn wish(arguments: &SubscribeArgs, credit: u32) -> SubscribeOptions {
    let mut wish = SubscribeOptions::new(arguments.filter.clone()).credit(credit);
    wish.group.clone_from(&arguments.group);
    wish.start = arguments.from.clone().map(|from| match from {
        From::Tail => Start::Tail,
        From::Earliest => Start::Earliest,
        From::Time(time) => Start::Time(time),
        From::Offsets(places) => Start::Offsets(places),
    });
    wish
}

/// How many events are still to be printed; `None` is no limit.
struct Left(Option<u64>);

impl Left {
    /// Never more than are wanted, so that the others of the group get the rest.
    fn credit(&self) -> u32 {
        self.0.map_or(CREDIT, |left| u32::try_from(left).unwrap_or(CREDIT).min(CREDIT))
    }

    fn is_over(&self) -> bool {
        self.0 == Some(0)
    }

    fn printed(&mut self) {
        if let Some(left) = &mut self.0 {
            *left -= 1;
        }
    }
}

/// A subscription that is being printed.
struct Receiving<'a> {
    arguments: &'a SubscribeArgs,
    target: &'a Target,
    printer: Printer,
    left: Left,
}

impl Receiving<'_> {
    async fn print_all(
        &mut self,
        subscription: &mut Subscription,
        stop: &mut Stop,
    ) -> Result<(), Failure> {
        // Whoever waits for what may never come is shown nothing.
        let is_bounded = self.arguments.until_end || self.left.0.is_some();
        let mut progress = is_bounded.then(|| Progress::begin(self.left.0, false));
        while !self.left.is_over() {
            let received = tokio::select! {
                biased;
                () = stop.asked() => return Ok(()),
                received = subscription.receive() => received,
            };
            let received = received.map_err(|error| subscribe_failure(&error, self.target))?;
            let delivery = match received {
                Some(Received::Delivery(delivery)) => delivery,
                // Deliveries come in order, so everything before this is printed.
                Some(Received::CaughtUp) if self.arguments.until_end => return Ok(()),
                Some(Received::Gap { events }) => {
                    tell_gap(events);
                    continue;
                }
                Some(_) => continue,
                None => return Ok(()),
            };
            let (before, events) = (self.left.credit(), delivery.count());
            match print(*delivery, &mut self.printer, &mut self.left) {
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
                printed => printed.map_err(cannot_print)?,
            }
            if let Some(progress) = &mut progress {
                progress.advance(u64::from(events));
            }
            if self.left.credit() < before && !self.left.is_over() {
                subscription.set_credit(self.left.credit());
            }
        }
        Ok(())
    }
}

/// Prints a delivery as far as it is wanted, and acknowledges what is printed.
fn print(delivery: Delivery, printer: &mut Printer, left: &mut Left) -> io::Result<()> {
    let mut printed = Vec::new();
    let mut result = Ok(());
    for (offset, event) in delivery.events() {
        let place = Place { topic: delivery.topic(), partition: delivery.partition(), offset };
        if left.is_over() {
            break;
        }
        let (attempt, time) = (delivery.attempt(), delivery.append_time());
        result = printer.event(&Arrived { place, attempt, time, event });
        if result.is_err() {
            break;
        }
        left.printed();
        printed.push(offset);
    }
    if printed.len() == delivery.count() as usize {
        delivery.ack();
        return result;
    }
    for offset in printed {
        delivery.settle(offset, Verdict::Done);
    }
    result
}

fn cannot_print(error: io::Error) -> Failure {
    Failure::new(Exit::Failed, format!("standard output cannot be written: {error}"), "")
}
