//! An event mesh in one binary: configuration, assembly, start and drain order.
#![forbid(unsafe_code)]

pub mod commands;
pub mod config;
pub mod server;
