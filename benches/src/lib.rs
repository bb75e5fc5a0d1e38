//! What the hot paths are measured with, by criterion benches, by tests that count allocations, and by the guard that
//! counts instructions (`src/bin/guard.rs`).

pub mod bed;
pub mod fleet;
pub mod http_node;
pub mod log_node;
pub mod memory_kernel;
pub mod shard_node;
pub mod wire_node;
