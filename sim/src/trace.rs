//! What happened in a run, line by line: hashed always, printed on demand.

use std::fmt::{self, Write as _};

/// The trace of one run. Lines name virtual time and numbers only, never an address, a path of the host or its clock.
#[derive(Debug)]
pub struct Trace {
    hash: u64,
    lines: u64,
    line: String,
    print: bool,
}

impl Trace {
    /// An empty trace; `print` also writes each line to the standard output.
    #[must_use]
    pub fn new(print: bool) -> Self {
        Trace { hash: 0xcbf2_9ce4_8422_2325, lines: 0, line: String::new(), print }
    }

    /// Adds a line.
    pub fn note(&mut self, text: fmt::Arguments<'_>) {
        self.line.clear();
        let written = self.line.write_fmt(text);
        assert!(written.is_ok(), "a string takes everything");
        if self.print {
            println!("{}", self.line);
        }
        self.lines += 1;
        for byte in self.line.bytes().chain([b'\n']) {
            self.hash = (self.hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    /// The hash (FNV-1a) over every line so far.
    #[must_use]
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// Lines so far.
    #[must_use]
    pub fn lines(&self) -> u64 {
        self.lines
    }
}

/// The hash (FNV-1a) of bytes, to put what was written into a line.
#[must_use]
pub fn digest(bytes: &[u8]) -> u32 {
    codec::crc32c::crc32c(bytes)
}
