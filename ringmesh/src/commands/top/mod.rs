//! `ringmesh top`: a server at a glance, once a second, on the whole terminal; or once, as JSON.
//!
//! A thread asks the admin port; the terminal's own thread draws and reads keys, so that a server that does not answer
//! holds up neither.

mod reading;
mod screen;
mod terminal;

use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::Duration;

use clap::Args;

use super::admin::AdminPort;
use super::args::{AdminArgs, Output};
use super::failure::{Exit, Failure};
use super::output::print;
use super::signals::Stop;
use crate::config::units::{TIME_FORM, parse_time};
use reading::{Reading, Snapshot};
use screen::View;
use terminal::{Key, Terminal};

/// How long a key press waits to be seen at most.
const KEYS_EVERY: Duration = Duration::from_millis(50);

/// `top`
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  \
    ringmesh top\n  \
    ringmesh top --interval 5s --context prod\n  \
    ringmesh top -o json                     one snapshot, of rates over one interval\n\n\
    Keys: q ends, s sorts the subscriptions by the next column, arrows and PgUp, PgDn move through them.")]
pub struct TopArgs {
    /// How often the server is asked; rates are those of the last interval
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = interval)]
    pub interval: Duration,
    /// The server.
    #[command(flatten)]
    pub admin: AdminArgs,
}

fn interval(text: &str) -> Result<Duration, String> {
    match parse_time(text) {
        Some(time) if (Duration::from_millis(100)..=Duration::from_secs(3_600)).contains(&time) => {
            Ok(time)
        }
        Some(_) => Err("expected 100ms to 1h".to_owned()),
        None => Err(format!("expected {TIME_FORM}, such as 1s")),
    }
}

/// Runs the command.
///
/// # Errors
/// The server cannot be asked, or there is no terminal to draw on.
pub fn run(arguments: &TopArgs) -> Result<(), Failure> {
    if arguments.admin.output == Output::Json {
        return print_once(arguments);
    }
    if !terminal::is_there() {
        return Err(Failure::new(
            Exit::Usage,
            "there is no terminal to draw on",
            "`ringmesh top -o json` prints one snapshot, for scripts",
        ));
    }
    let port = AdminPort::new(&arguments.admin);
    // A server that is not there is told of on the terminal as it is.
    let first = Reading::take(&port)?;
    let mut stop = Stop::listen().map_err(|error| {
        Failure::new(Exit::Failed, format!("the process cannot listen for signals: {error}"), "")
    })?;
    std::thread::scope(|scope| {
        let (sender, readings) = mpsc::channel();
        let (ends, ended) = mpsc::channel();
        let interval = arguments.interval;
        scope.spawn(move || ask(&port, interval, &sender, &ended));
        let shown = show(first, &readings, &mut stop);
        drop(ends);
        shown
    })
}

fn print_once(arguments: &TopArgs) -> Result<(), Failure> {
    let port = AdminPort::new(&arguments.admin);
    let before = Reading::take(&port)?;
    std::thread::sleep(arguments.interval);
    let snapshot = Snapshot::between(&before, &Reading::take(&port)?);
    let mut line = serde_json::to_vec(&snapshot).map_err(|error| cannot_draw(&error.into()))?;
    line.push(b'\n');
    print(&line)
}

/// Asks the server again and again until the other end is gone.
fn ask(
    port: &AdminPort<'_>,
    interval: Duration,
    readings: &Sender<Result<Reading, Failure>>,
    ended: &Receiver<()>,
) {
    while ended.recv_timeout(interval) == Err(RecvTimeoutError::Timeout) {
        if readings.send(Reading::take(port)).is_err() {
            return;
        }
    }
}

/// Draws until a key or a signal ends it.
fn show(
    first: Reading,
    readings: &Receiver<Result<Reading, Failure>>,
    stop: &mut Stop,
) -> Result<(), Failure> {
    let mut terminal = Terminal::take().map_err(|error| cannot_draw(&error))?;
    let mut view = View::new(Snapshot::between(&first, &first));
    let mut before = first;
    terminal.draw(&view).map_err(|error| cannot_draw(&error))?;
    while !stop.is_asked() {
        let mut is_new = false;
        while let Ok(reading) = readings.try_recv() {
            is_new = true;
            match reading {
                Ok(reading) => {
                    view.update(Snapshot::between(&before, &reading));
                    before = reading;
                }
                Err(failure) => view.fail(failure.message),
            }
        }
        for key in terminal.keys(KEYS_EVERY).map_err(|error| cannot_draw(&error))? {
            is_new = true;
            match key {
                Key::Quit => return Ok(()),
                key => view.press(key),
            }
        }
        if is_new || terminal.has_changed() {
            terminal.draw(&view).map_err(|error| cannot_draw(&error))?;
        }
    }
    Ok(())
}

fn cannot_draw(error: &std::io::Error) -> Failure {
    Failure::new(Exit::Failed, format!("the terminal cannot be drawn on: {error}"), "")
}
