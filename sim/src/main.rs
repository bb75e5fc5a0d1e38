//! Shards and logs under a seeded clock, disk and network.

fn main() {}
