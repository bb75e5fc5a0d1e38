//! The assembled server, over real sockets, with the real command line as its client.

mod admin;
mod commands;
mod contexts;
mod control_plane;
mod doctor;
mod documents;
mod durability;
mod ending;
mod folder;
mod full;
mod garbage;
mod harness;
mod memory;
mod nouns;
mod operating;
mod packaging;
mod peer;
mod peers;
mod real_input;
mod resend;
mod sdk;
mod shell;
mod terminal;
mod top;
mod usage;
mod wire;
