//! One key, explained: what it does, what it takes, how it is set.

use super::Config;
use super::keys::{KEYS, Key};
use super::sources::{ConfigError, unknown_asked};

/// What there is to know of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explained {
    /// `section.name`.
    pub key: String,
    /// What it does; lines are broken by hand.
    pub text: &'static str,
    /// What values it takes, with their units and bounds.
    pub takes: String,
    /// Its value if nobody sets it.
    pub default: String,
    /// The environment variable that sets it.
    pub variable: String,
}

/// Explains the key of a path (`log.segment_bytes`) or of a variable (`RINGMESH_LOG__SEGMENT_BYTES`).
///
/// # Errors
/// There is no such key; the message names the nearest.
pub fn explain(name: &str) -> Result<Explained, ConfigError> {
    let found = KEYS.iter().find(|key| key.path() == name || key.variable() == name);
    let key = found.ok_or_else(|| unknown_asked(name))?;
    Ok(Explained {
        key: key.path(),
        text: key.doc,
        takes: takes(key),
        default: (key.show)(&Config::default()),
        variable: key.variable(),
    })
}

/// No key takes an empty text, and each refuses it by saying what it takes.
fn takes(key: &Key) -> String {
    (key.set)(&mut Config::default(), "").err().unwrap_or_default()
}
