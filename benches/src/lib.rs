//! criterion benches of the hot paths.
