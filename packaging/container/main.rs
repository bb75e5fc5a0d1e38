//! The server's binary once more, for a build that links it statically beside the usual one: see
//! `tests/it/container.rs`. An image to be shipped holds the binary itself, built in the same way as a release (docs/operations.md).
#![forbid(unsafe_code)]

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    ringmesh::commands::run()
}
