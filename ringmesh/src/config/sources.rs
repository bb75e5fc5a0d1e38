//! Where values come from, in order: file, environment, flags. Later ones win.

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

use super::Config;
use super::keys::{KEYS, Key};
use super::suggest::nearest;

/// The variables that are the commands', not the server's.
const COMMAND_VARIABLES: [&str; 4] =
    ["RINGMESH_SERVER", "RINGMESH_ADMIN", "RINGMESH_CONTEXT", "RINGMESH_TOKEN_FILE"];

/// What was given on top of the defaults.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// `--config FILE`.
    pub file: Option<PathBuf>,
    /// The environment of the process; only names that begin with `RINGMESH_` are looked at.
    pub environment: Vec<(OsString, OsString)>,
    /// Flags: how the flag is called, the key's path, and the value.
    pub flags: Vec<(String, String, String)>,
}

/// Where a value in force came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Nobody set it; of a key that is asked for, that nobody has tried to set it.
    Default,
    /// The configuration file.
    File(PathBuf),
    /// This environment variable.
    Environment(String),
    /// This flag.
    Flag(String),
}

impl Origin {
    /// `default`, `file`, `environment` or `flag`.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Origin::Default => "default",
            Origin::File(_) => "file",
            Origin::Environment(_) => "environment",
            Origin::Flag(_) => "flag",
        }
    }

    /// Which file, variable or flag it was.
    #[must_use]
    pub fn name(&self) -> Option<String> {
        match self {
            Origin::Default => None,
            Origin::File(path) => Some(path.display().to_string()),
            Origin::Environment(name) => Some(name.clone()),
            Origin::Flag(flag) => Some(flag.clone()),
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Default => write!(f, "the defaults"),
            Origin::File(path) => write!(f, "{}", path.display()),
            Origin::Environment(name) => write!(f, "the environment ({name})"),
            Origin::Flag(flag) => write!(f, "the flag {flag}"),
        }
    }
}

/// A configuration and where each of its values came from.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The values in force.
    pub config: Config,
    /// For each key of the table, in its order.
    pub(super) origins: Vec<Origin>,
}

/// One key of the table.
#[derive(Clone, Debug)]
pub struct Setting<'a> {
    /// `section.name`.
    pub key: String,
    /// The value in force, as the file has it.
    pub value: String,
    /// Where it came from.
    pub origin: &'a Origin,
    /// What the key does; lines are broken by hand.
    pub text: &'static str,
}

/// Why there is no configuration. Every message says what to change.
#[derive(Debug, PartialEq, Eq)]
pub enum ConfigError {
    /// The file cannot be read.
    File {
        /// Its path.
        path: PathBuf,
        /// What the system says.
        reason: String,
    },
    /// The file is not TOML.
    Syntax {
        /// Its path.
        path: PathBuf,
        /// Where and what, with the line.
        reason: String,
    },
    /// No key has this name.
    UnknownKey {
        /// Who gave it.
        origin: Origin,
        /// What was given.
        name: String,
        /// A known name that is near.
        nearest: Option<String>,
    },
    /// The value is not one that the key takes.
    Value {
        /// Who gave it.
        origin: Origin,
        /// The key's path.
        key: String,
        /// What was given.
        value: String,
        /// What is allowed.
        allowed: String,
    },
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ConfigError::File { path, reason } => {
                write!(f, "the configuration file {} cannot be read: {reason}", path.display())
            }
            ConfigError::Syntax { path, reason } => {
                write!(f, "the configuration file {} is not TOML: {reason}", path.display())
            }
            ConfigError::UnknownKey { origin, name, nearest } => {
                match origin {
                    Origin::Environment(_) => {
                        write!(f, "unknown variable {name} in the environment")?
                    }
                    Origin::Flag(_) => write!(f, "unknown key {name} in a flag")?,
                    Origin::Default => write!(f, "unknown key {name}")?,
                    origin => write!(f, "unknown key {name} in {origin}")?,
                }
                match nearest {
                    Some(nearest) => write!(f, ": did you mean {nearest}?"),
                    None => write!(f, "; `ringmesh config show` lists all keys"),
                }
            }
            ConfigError::Value { origin, key, value, allowed } => {
                write!(f, "{key} cannot be {value:?} (from {origin}); allowed: {allowed}")
            }
        }
    }
}

impl std::error::Error for ConfigError {}

impl Loaded {
    /// A configuration of which nobody says where it came from.
    #[must_use]
    pub fn of(config: Config) -> Loaded {
        Loaded { config, origins: vec![Origin::Default; KEYS.len()] }
    }

    /// Every key with the value in force, where that came from, and what the key does.
    pub fn settings(&self) -> impl Iterator<Item = Setting<'_>> {
        KEYS.iter().zip(&self.origins).map(|(key, origin)| Setting {
            key: key.path(),
            value: (key.show)(&self.config),
            origin,
            text: key.doc,
        })
    }

    /// Puts all sources together.
    ///
    /// # Errors
    /// A file that cannot be read, a key that nobody knows, or a value that its key does not take.
    pub fn load(sources: &Sources) -> Result<Loaded, ConfigError> {
        let mut loaded =
            Loaded { config: Config::default(), origins: vec![Origin::Default; KEYS.len()] };
        if let Some(path) = &sources.file {
            loaded.add_file(path)?;
        }
        loaded.add_environment(&sources.environment)?;
        for (flag, path, value) in &sources.flags {
            let origin = Origin::Flag(flag.clone());
            let Some(index) = KEYS.iter().position(|key| key.path() == *path) else {
                return Err(unknown(origin, path, Key::path));
            };
            loaded.set(index, value, origin)?;
        }
        loaded.check_relations()?;
        Ok(loaded)
    }

    fn add_file(&mut self, path: &Path) -> Result<(), ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|error| ConfigError::File {
            path: path.to_owned(),
            reason: error.to_string(),
        })?;
        let sections: toml::Table = text.parse().map_err(|error: toml::de::Error| {
            ConfigError::Syntax { path: path.to_owned(), reason: error.to_string() }
        })?;
        for (section, entries) in &sections {
            let origin = Origin::File(path.to_owned());
            let toml::Value::Table(entries) = entries else {
                return Err(unknown_in_file(origin, section, section));
            };
            if !KEYS.iter().any(|key| key.section == section) {
                return Err(unknown_section(origin, section));
            }
            for (name, value) in entries {
                self.set_from_file(&origin, section, name, value)?;
            }
        }
        Ok(())
    }

    fn set_from_file(
        &mut self,
        origin: &Origin,
        section: &str,
        name: &str,
        value: &toml::Value,
    ) -> Result<(), ConfigError> {
        let Some(index) = KEYS.iter().position(|key| key.section == section && key.name == name)
        else {
            return Err(unknown_in_file(origin.clone(), &format!("{section}.{name}"), name));
        };
        let text = match value {
            toml::Value::String(text) => text.clone(),
            toml::Value::Integer(number) => number.to_string(),
            toml::Value::Boolean(value) => value.to_string(),
            other => other.to_string(),
        };
        self.set(index, &text, origin.clone())
    }

    fn add_environment(&mut self, environment: &[(OsString, OsString)]) -> Result<(), ConfigError> {
        for (name, value) in environment {
            let name = name.to_string_lossy();
            let is_other = COMMAND_VARIABLES.contains(&&*name) || is_service_link(&name);
            if !name.starts_with("RINGMESH_") || is_other {
                continue;
            }
            let Some(index) = KEYS.iter().position(|key| key.variable() == name) else {
                let nearest = nearest_of(&name, Key::variable);
                let origin = Origin::Environment(name.to_string());
                return Err(ConfigError::UnknownKey { origin, name: name.into_owned(), nearest });
            };
            self.set(index, &value.to_string_lossy(), Origin::Environment(name.into_owned()))?;
        }
        Ok(())
    }

    fn set(&mut self, index: usize, value: &str, origin: Origin) -> Result<(), ConfigError> {
        let key = &KEYS[index];
        (key.set)(&mut self.config, value).map_err(|allowed| ConfigError::Value {
            origin: origin.clone(),
            key: key.path(),
            value: value.to_owned(),
            allowed,
        })?;
        self.origins[index] = origin;
        Ok(())
    }

    /// What no single key can check.
    fn check_relations(&self) -> Result<(), ConfigError> {
        let (native, delivery) = (&self.config.native, &self.config.delivery);
        if native.idle_timeout <= native.ping_interval {
            let least = super::units::show_time(native.ping_interval);
            let allowed = format!("more than ping_interval, which is {least}");
            return Err(self.unfit("native", "idle_timeout", allowed));
        }
        if delivery.retry_delay_max < delivery.retry_delay {
            let least = super::units::show_time(delivery.retry_delay);
            let allowed = format!("at least retry_delay, which is {least}");
            return Err(self.unfit("delivery", "retry_delay_max", allowed));
        }
        Ok(())
    }

    fn unfit(&self, section: &str, name: &str, allowed: String) -> ConfigError {
        let index = KEYS.iter().position(|key| key.section == section && key.name == name);
        let index = index.expect("only keys of the table are checked");
        ConfigError::Value {
            origin: self.origins[index].clone(),
            key: KEYS[index].path(),
            value: (KEYS[index].show)(&self.config),
            allowed,
        }
    }
}

/// Kubernetes gives each container the address of every service: of one called "ringmesh" as RINGMESH_SERVICE_HOST,
/// RINGMESH_PORT_10300_TCP and so on. They are nobody's mistake.
fn is_service_link(name: &str) -> bool {
    !name.contains("__")
        && ["RINGMESH_SERVICE_HOST", "RINGMESH_SERVICE_PORT", "RINGMESH_PORT"].iter().any(|link| {
            name.strip_prefix(link).is_some_and(|rest| rest.is_empty() || rest.starts_with('_'))
        })
}

fn nearest_of(name: &str, form: fn(&Key) -> String) -> Option<String> {
    let names: Vec<String> = KEYS.iter().map(form).collect();
    nearest(name, names.iter().map(String::as_str)).map(str::to_owned)
}

fn unknown(origin: Origin, name: &str, form: fn(&Key) -> String) -> ConfigError {
    ConfigError::UnknownKey { origin, nearest: nearest_of(name, form), name: name.to_owned() }
}

fn unknown_section(origin: Origin, section: &str) -> ConfigError {
    let nearest = nearest(section, KEYS.iter().map(|key| key.section));
    let nearest = nearest.map(|section| format!("[{section}]"));
    ConfigError::UnknownKey { origin, name: format!("[{section}]"), nearest }
}

/// A name that is right but stands in another section is the likeliest mistake; only then a misspelling.
fn unknown_in_file(origin: Origin, path: &str, name: &str) -> ConfigError {
    let elsewhere = KEYS.iter().find(|key| key.name == name).map(Key::path);
    let nearest = elsewhere.or_else(|| nearest_of(path, Key::path));
    ConfigError::UnknownKey { origin, name: path.to_owned(), nearest }
}

/// A key that is asked for, with or without its section.
pub(super) fn unknown_asked(name: &str) -> ConfigError {
    unknown_in_file(Origin::Default, name, name)
}
