//! The load generator: open loop, honest histograms, the floor in the same run.

fn main() {}
