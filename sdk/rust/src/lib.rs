//! The Rust client of Ringmesh's native protocol.
