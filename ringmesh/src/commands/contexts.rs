//! Contexts: servers by name, in a file of the user's own. And how a command finds its server.
//!
//! What wins, in this order: a flag, a variable of the environment, the context, the default. An address knows which of
//! them it came from, and a failed connection says so.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::failure::{Exit, Failure};
use crate::config::suggest::nearest;

const NAME_BYTES_MAX: usize = 64;

/// A server.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Context {
    /// Its native door.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<String>,
    /// Its admin port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub admin: Option<String>,
    /// A file whose text goes to the admin port as a bearer token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_file: Option<PathBuf>,
}

/// All contexts of a user, as the file has them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Contexts {
    /// The one in force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current: Option<String>,
    /// The one that was in force before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub former: Option<String>,
    /// By name.
    #[serde(default, rename = "context")]
    pub all: BTreeMap<String, Context>,
}

impl Contexts {
    /// Reads the user's file; without one there are no contexts.
    ///
    /// # Errors
    /// There is no home, or the file cannot be read or is not of its form.
    pub fn load() -> Result<Self, Failure> {
        Self::read(&path()?)
    }

    fn read(path: &Path) -> Result<Self, Failure> {
        let text = match std::fs::read_to_string(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            text => text.map_err(|error| unreadable(path, &error))?,
        };
        toml::from_str(&text).map_err(|error| {
            Failure::new(
                Exit::Usage,
                format!("{} does not hold contexts: {error}", path.display()),
                "mend it by hand, or remove it and add them again with `ringmesh context add`",
            )
        })
    }

    /// Changes the user's file, one process at a time.
    ///
    /// # Errors
    /// As [`Contexts::load`]; what `change` says; or the file cannot be written.
    pub fn edit<T>(change: impl FnOnce(&mut Contexts) -> Result<T, Failure>) -> Result<T, Failure> {
        let path = path()?;
        let folder = path.parent().unwrap_or(&path);
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .map_err(|error| unwritten(folder, &error))?;
        let lock = path.with_extension("lock");
        let held = private().open(&lock).and_then(|file| file.lock().map(|()| file));
        let held = held.map_err(|error| unwritten(&lock, &error))?;
        let mut contexts = Self::read(&path)?;
        let result = change(&mut contexts)?;
        contexts.write(&path).map_err(|error| unwritten(&path, &error))?;
        drop(held);
        Ok(result)
    }

    /// The old file stays until the new one is whole.
    fn write(&self, path: &Path) -> io::Result<()> {
        let text = toml::to_string(self).map_err(io::Error::other)?;
        let new = path.with_extension("new");
        let mut file: File = private().truncate(true).open(&new)?;
        file.set_permissions(Permissions::from_mode(0o600))?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&new, path)
    }

    /// The context of a name.
    ///
    /// # Errors
    /// There is none; the message names those that there are.
    pub fn get(&self, name: &str) -> Result<&Context, Failure> {
        self.all.get(name).ok_or_else(|| self.unknown(name))
    }

    /// Says that there is no such context, and which there are.
    #[must_use]
    pub fn unknown(&self, name: &str) -> Failure {
        let mut message = format!("there is no context {name:?}");
        let names = || self.all.keys().map(String::as_str);
        if let Some(nearest) = nearest(name, names()) {
            message.push_str(&format!(": did you mean {nearest}?"));
        }
        let advice = if self.all.is_empty() {
            "there are none at all; `ringmesh context add NAME --server HOST:PORT` adds one"
                .to_owned()
        } else {
            format!("there are {}", names().collect::<Vec<_>>().join(", "))
        };
        Failure::new(Exit::Usage, message, advice)
    }

    /// Puts a context in force.
    ///
    /// # Errors
    /// There is none of that name.
    pub fn choose(&mut self, name: &str) -> Result<(), Failure> {
        self.get(name)?;
        if self.current.as_deref() != Some(name) {
            self.former = self.current.replace(name.to_owned());
        }
        Ok(())
    }
}

/// A file that nobody else may read.
fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.write(true).create(true).mode(0o600);
    options
}

fn unreadable(path: &Path, error: &io::Error) -> Failure {
    Failure::new(Exit::Failed, format!("{} cannot be read: {error}", path.display()), "")
}

fn unwritten(path: &Path, error: &io::Error) -> Failure {
    Failure::new(
        Exit::Failed,
        format!("{} cannot be written: {error}", path.display()),
        "look at the folder and its permissions, or set XDG_CONFIG_HOME to another one",
    )
}

/// Where the contexts of this user stand.
///
/// # Errors
/// The environment names no home.
pub fn path() -> Result<PathBuf, Failure> {
    let folder = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let config = folder("XDG_CONFIG_HOME").or_else(|| Some(folder("HOME")?.join(".config")));
    config.map(|config| config.join("ringmesh/contexts.toml")).ok_or_else(|| {
        Failure::new(
            Exit::Usage,
            "contexts have no place: neither XDG_CONFIG_HOME nor HOME is an absolute path",
            "set one of them",
        )
    })
}

/// Checks the name of a new context.
///
/// # Errors
/// Says what a name is made of.
pub fn check_name(name: &str) -> Result<String, String> {
    let is_known = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if name.is_empty() || name.starts_with('-') || !name.chars().all(is_known) {
        return Err("expected letters, digits, - _ and ., not beginning with -".to_owned());
    }
    if name.len() > NAME_BYTES_MAX {
        return Err(format!("expected at most {NAME_BYTES_MAX} letters"));
    }
    Ok(name.to_owned())
}

/// Checks that a text has the form of an address.
///
/// # Errors
/// Says what an address is.
pub fn check_address(text: &str) -> Result<String, String> {
    let port = text.rsplit_once(':').filter(|(host, _)| !host.is_empty());
    match port.map(|(_, port)| port.parse::<u16>()) {
        Some(Ok(1..)) => Ok(text.to_owned()),
        _ => Err("expected HOST:PORT, such as mesh.example.org:10300".to_owned()),
    }
}

/// Who said where a server is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// This flag.
    Flag(&'static str),
    /// This variable of the environment.
    Variable(&'static str),
    /// The context of this name.
    Context(String),
    /// Nobody.
    Default,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Flag(flag) => write!(f, "given as {flag}"),
            Origin::Variable(name) => write!(f, "from {name}"),
            Origin::Context(name) => write!(f, "from the context {name:?}"),
            Origin::Default => write!(f, "the default"),
        }
    }
}

/// Where a server is, and who said so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// `HOST:PORT`.
    pub text: String,
    /// Who said so.
    pub origin: Origin,
    /// What proves to this server who is asking. Never taken from a context for an address that is not the context's.
    pub token_file: Option<PathBuf>,
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.text, self.origin)
    }
}

impl Address {
    /// What to do about a server that is not there.
    #[must_use]
    pub fn advice(&self, flag: &str) -> String {
        let elsewhere = match &self.origin {
            Origin::Context(_) => "`ringmesh context list` shows the contexts, and ",
            Origin::Variable(_) | Origin::Flag(_) | Origin::Default => "",
        };
        format!("{elsewhere}{flag} HOST:PORT says where one is; or start one with `ringmesh serve`")
    }
}

/// One of a server's two addresses: how it is given.
#[derive(Debug)]
pub struct Way {
    /// The flag.
    pub flag: &'static str,
    /// The variable of the environment.
    pub variable: &'static str,
    /// What a context has for it.
    pub of: fn(&Context) -> Option<&String>,
    /// What it is if nobody says anything.
    pub default: &'static str,
    /// What it is called.
    pub what: &'static str,
}

/// The native door.
pub const NATIVE: Way = Way {
    flag: "--server",
    variable: "RINGMESH_SERVER",
    of: |context| context.server.as_ref(),
    default: "127.0.0.1:10300",
    what: "server address",
};

/// The admin port.
pub const ADMIN: Way = Way {
    flag: "--admin",
    variable: "RINGMESH_ADMIN",
    of: |context| context.admin.as_ref(),
    default: "127.0.0.1:10106",
    what: "admin address",
};

/// Finds an address.
///
/// # Errors
/// The context that is asked for is not there, or has no such address.
pub fn find(way: &Way, flag: Option<&str>, context: Option<&str>) -> Result<Address, Failure> {
    let variable = |name| std::env::var(name).ok().filter(|text| !text.is_empty());
    find_among(way, flag, context, &variable, &Contexts::load)
}

fn find_among(
    way: &Way,
    flag: Option<&str>,
    context: Option<&str>,
    variable: &dyn Fn(&'static str) -> Option<String>,
    load: &dyn Fn() -> Result<Contexts, Failure>,
) -> Result<Address, Failure> {
    let wanted = context.map(str::to_owned).or_else(|| variable("RINGMESH_CONTEXT"));
    // Whoever names a context that is not there is told so, also where its address would not count.
    let mut chosen = match wanted {
        Some(name) => Some((load()?.get(&name)?.clone(), name)),
        None => None,
    };
    let found = |text: String, origin| Address { text, origin, token_file: None };
    if let Some(flag) = flag {
        return Ok(found(flag.to_owned(), Origin::Flag(way.flag)));
    }
    if let Some(text) = variable(way.variable) {
        return Ok(found(text, Origin::Variable(way.variable)));
    }
    if chosen.is_none() {
        let contexts = load()?;
        if let Some(name) = &contexts.current {
            chosen = Some((contexts.get(name)?.clone(), name.clone()));
        }
    }
    let Some((context, name)) = chosen else {
        return Ok(found(way.default.to_owned(), Origin::Default));
    };
    let Some(text) = (way.of)(&context).cloned() else {
        // The default would be another server.
        let message = format!("the context {name:?} has no {}", way.what);
        let advice = format!(
            "give one with {flag}, or add it: ringmesh context add {name} {flag} HOST:PORT --replace",
            flag = way.flag
        );
        return Err(Failure::new(Exit::Usage, message, advice));
    };
    Ok(Address { text, origin: Origin::Context(name), token_file: context.token_file })
}

/// The token in a file.
///
/// # Errors
/// The file cannot be read, or holds no token.
pub fn read_token(path: &Path) -> Result<String, Failure> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        let message = format!("the token file {} cannot be read: {error}", path.display());
        Failure::new(Exit::Usage, message, "look at its path and its permissions")
    })?;
    let token = text.trim();
    if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        let message = format!("the token file {} holds no token", path.display());
        return Err(Failure::new(Exit::Usage, message, "it holds one line of printable ASCII"));
    }
    Ok(token.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contexts() -> Contexts {
        let context = |server: Option<&str>, admin: Option<&str>| Context {
            server: server.map(str::to_owned),
            admin: admin.map(str::to_owned),
            token_file: Some("/token".into()),
        };
        let all = [
            ("prod", context(Some("prod:1"), Some("prod:2"))),
            ("half", context(Some("half:1"), None)),
        ];
        Contexts {
            current: Some("prod".to_owned()),
            former: None,
            all: all.map(|(name, context)| (name.to_owned(), context)).into(),
        }
    }

    fn found(
        way: &Way,
        flag: Option<&str>,
        context: Option<&str>,
        variables: &[(&str, &str)],
        contexts: Contexts,
    ) -> Result<String, String> {
        let variable = |name: &'static str| {
            let found = variables.iter().find(|(other, _)| *other == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        let address = find_among(way, flag, context, &variable, &|| Ok(contexts.clone()));
        let token =
            |address: &Address| if address.token_file.is_some() { " with token" } else { "" };
        address
            .map(|address| format!("{address}{}", token(&address)))
            .map_err(|failure| failure.to_string())
    }

    /// A command that goes to another server than its user believes may delete the wrong thing; and no server gets
    /// another's token.
    #[test]
    fn who_is_nearest_wins() {
        let none = Contexts::default;
        let server = [("RINGMESH_SERVER", "env:1")];
        let half = [("RINGMESH_CONTEXT", "half")];
        let table = [
            (found(&NATIVE, None, None, &[], none()), "127.0.0.1:10300 (the default)"),
            (found(&ADMIN, None, None, &[], none()), "127.0.0.1:10106 (the default)"),
            (
                found(&NATIVE, None, None, &[], contexts()),
                "prod:1 (from the context \"prod\") with token",
            ),
            (
                found(&NATIVE, None, None, &half, contexts()),
                "half:1 (from the context \"half\") with token",
            ),
            (
                found(&ADMIN, None, Some("prod"), &half, contexts()),
                "prod:2 (from the context \"prod\") with token",
            ),
            (
                found(&NATIVE, None, Some("half"), &server, contexts()),
                "env:1 (from RINGMESH_SERVER)",
            ),
            (
                found(&NATIVE, Some("flag:1"), None, &server, contexts()),
                "flag:1 (given as --server)",
            ),
        ];
        for (found, expected) in table {
            assert_eq!(found.as_deref(), Ok(expected));
        }
        let half = found(&ADMIN, None, Some("half"), &[], contexts()).unwrap_err();
        assert!(half.contains("the context \"half\" has no admin address"), "{half}");
        let unknown = found(&ADMIN, Some("flag:1"), Some("prd"), &[], contexts()).unwrap_err();
        assert!(unknown.contains("there is no context \"prd\": did you mean prod?"), "{unknown}");
        assert!(unknown.contains("there are half, prod"), "{unknown}");
    }

    /// The way back leads to where one came from, and choosing the same again does not lose it.
    #[test]
    fn the_former_one_is_kept() {
        let mut contexts = contexts();
        contexts.choose("half").unwrap();
        contexts.choose("half").unwrap();
        assert_eq!(
            (contexts.current.as_deref(), contexts.former.as_deref()),
            (Some("half"), Some("prod"))
        );
        assert!(contexts.choose("none").is_err());
        let text = toml::to_string(&contexts).unwrap();
        assert_eq!(toml::from_str::<Contexts>(&text).unwrap(), contexts);
    }

    /// What is no name or no address is refused when it is added, not when it is used.
    #[test]
    fn names_and_addresses_are_checked() {
        for name in ["a", "eu-west.1", "A_b"] {
            assert_eq!(check_name(name).as_deref(), Ok(name));
        }
        for name in ["", "-", "-a", "a b", "a/b", "\u{e9}", &"a".repeat(65)] {
            assert!(check_name(name).is_err(), "{name}");
        }
        for address in ["localhost:1", "[::1]:10300", "10.0.0.1:65535"] {
            assert_eq!(check_address(address).as_deref(), Ok(address));
        }
        for address in ["", "localhost", ":1", "localhost:", "localhost:0", "localhost:65536"] {
            assert!(check_address(address).is_err(), "{address}");
        }
    }
}
