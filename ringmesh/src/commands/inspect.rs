//! `ringmesh inspect FILE`: prints a file of a log and verifies it.

use std::io::{self, BufWriter, Write};

use log::inspect::{InspectError, Verdict, inspect_file};

use super::args::InspectArgs;
use super::failure::{Exit, Failure};

/// Runs the command.
///
/// # Errors
/// The file cannot be read, is not a log's, or is damaged.
pub fn run(arguments: &InspectArgs) -> Result<(), Failure> {
    let mut out = BufWriter::new(io::stdout().lock());
    let inspected = inspect_file(&arguments.file, &mut out);
    let flushed = out.flush().map_err(InspectError::from);
    let file = arguments.file.display();
    match inspected.and_then(|summary| flushed.map(|()| summary)) {
        Ok(summary) => match summary.verdict {
            Verdict::Whole | Verdict::TornTail { .. } => Ok(()),
            Verdict::Damaged { at } => Err(Failure::new(
                Exit::Damaged,
                format!("{file} is damaged at byte {at}"),
                "what stands before is printed above; restore the file from a copy, or look at what the disk says",
            )),
        },
        // A reader that has gone away, such as `head`, wants no more.
        Err(InspectError::Io(error)) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        Err(InspectError::Io(error)) => Err(Failure::new(
            Exit::Failed,
            format!("{file} cannot be read: {error}"),
            "the files of a log stand in the data folder, such as gen-000001/log-000/",
        )),
        Err(error @ InspectError::Version { .. }) => Err(Failure::new(
            Exit::Failed,
            format!("{file}: {error}"),
            "use the version of ringmesh that wrote it, or a newer one",
        )),
        Err(error) => Err(Failure::new(Exit::Usage, error.to_string(), "")),
    }
}
