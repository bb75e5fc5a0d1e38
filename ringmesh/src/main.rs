//! An event mesh in one binary.

fn main() {}
