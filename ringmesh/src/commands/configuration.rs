//! The flags that set the configuration, the same for every command that reads it.

use std::path::PathBuf;

use clap::Args;

use super::failure::{Exit, Failure};
use crate::config::{Loaded, Sources};

/// Keys with a flag of their own. Every key can be set with `--set`.
pub const FLAGS: [(&str, &str); 5] = [
    ("--data", "server.data"),
    ("--listen", "native.listen"),
    ("--http", "http.listen"),
    ("--admin", "admin.listen"),
    ("--shards", "server.shards"),
];

/// What is set on the command line.
#[derive(Args, Debug)]
pub struct ConfigurationArgs {
    /// Data folder, made if it is missing [default: ringmesh-data]
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Where the native door listens; port 0 picks a free one [default: 127.0.0.1:10300]
    #[arg(long, value_name = "ADDR")]
    pub listen: Option<String>,
    /// Where the http door listens; port 0 picks a free one, off turns it off [default: 127.0.0.1:10105]
    #[arg(long, value_name = "ADDR")]
    pub http: Option<String>,
    /// Where the admin port listens; port 0 picks a free one, off turns it off [default: 127.0.0.1:10106]
    #[arg(long, value_name = "ADDR")]
    pub admin: Option<String>,
    /// Shards, one log and one thread each [default: one a core]
    #[arg(long, value_name = "N")]
    pub shards: Option<String>,
    /// Configuration file (TOML); `--print-config` of `serve` writes one
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Set any key of the configuration; may be given several times
    #[arg(long, value_name = "SECTION.KEY=VALUE", value_parser = assignment)]
    pub set: Vec<(String, String)>,
}

impl ConfigurationArgs {
    /// Puts flags, this process's environment, the file and the defaults together.
    ///
    /// # Errors
    /// Something of it is not as it must be; the message says what.
    pub fn load(self) -> Result<Loaded, Failure> {
        let environment = std::env::vars_os().collect();
        let mut flags = Vec::new();
        for (key, value) in self.set {
            flags.push((format!("--set {key}"), key, value));
        }
        let data = self.data.map(|path| path.to_string_lossy().into_owned());
        for ((flag, key), value) in
            FLAGS.into_iter().zip([data, self.listen, self.http, self.admin, self.shards])
        {
            flags.extend(value.map(|value| (flag.to_owned(), key.to_owned(), value)));
        }
        let sources = Sources { file: self.config, environment, flags };
        Loaded::load(&sources).map_err(|error| Failure::new(Exit::Usage, error.to_string(), ""))
    }
}

fn assignment(text: &str) -> Result<(String, String), String> {
    let (key, value) = text
        .split_once('=')
        .ok_or("expected SECTION.KEY=VALUE, such as log.segment_bytes=64MiB")?;
    Ok((key.trim().to_owned(), value.to_owned()))
}
