//! The shard, a synchronous state machine, and the glommio runtime that drives it.
