//! What the tests of the load generator's commands share.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The server of the same build: next to the load generator, and built if nobody has. One that is there but older than
/// the sources is not built anew: `cargo test --workspace` builds it.
pub fn server() -> PathBuf {
    let server = Path::new(env!("CARGO_BIN_EXE_loadtest")).with_file_name("ringmesh");
    if !server.exists() {
        let mut build = Command::new(env!("CARGO"));
        build.args(["build", "-q", "--locked", "-p", "ringmesh", "--bin", "ringmesh"]);
        if !cfg!(debug_assertions) {
            build.arg("--release");
        }
        assert!(build.status().unwrap().success(), "the server cannot be built");
    }
    server
}

/// The core for the client: the second, or the server's where there is only one.
pub fn client_cpu() -> &'static str {
    let alone = std::thread::available_parallelism().is_ok_and(|cores| cores.get() == 1);
    if alone { "0" } else { "1" }
}
