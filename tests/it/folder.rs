//! A data folder of a test's own, on the disk that holds the build: a memory disk would hide what a sync costs and
//! whether there is one.

pub fn new() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("the build folder can be written")
}
