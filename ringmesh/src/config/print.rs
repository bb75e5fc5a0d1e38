//! The configuration as a commented TOML file with the values in force.

use std::fmt::Write;

use super::keys::KEYS;
use super::sources::{Loaded, Origin};

/// The file that, given as `--config`, sets exactly the values in force. A value that somebody set says who did.
#[must_use]
pub fn print(loaded: &Loaded) -> String {
    let mut out = String::from(
        "# Ringmesh's configuration, with the values in force. Flags win over the environment, the environment over\n\
         # this file. Sizes: 256MiB. Times: 5s, 100ms. Environment: RINGMESH_SECTION__KEY, such as RINGMESH_SERVER__SHARDS.\n",
    );
    let mut section = "";
    for (key, origin) in KEYS.iter().zip(&loaded.origins) {
        if key.section != section {
            section = key.section;
            let _ = write!(out, "\n[{section}]\n");
        }
        for line in key.doc.lines() {
            let _ = writeln!(out, "# {line}");
        }
        let value = literal(&(key.show)(&loaded.config));
        let _ = match origin {
            Origin::Default => writeln!(out, "{} = {value}", key.name),
            origin => writeln!(out, "{} = {value} # from {origin}", key.name),
        };
    }
    out
}

/// Numbers and truth values stand bare, all else as a TOML string.
fn literal(text: &str) -> String {
    match text {
        "true" | "false" => text.to_owned(),
        _ if text.parse::<i64>().is_ok() => text.to_owned(),
        _ => toml::Value::String(text.to_owned()).to_string(),
    }
}
