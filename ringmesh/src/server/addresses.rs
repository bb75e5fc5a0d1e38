//! `addresses.json` in the data folder: where the doors listen, for those who let port 0 pick.
//!
//! It is written when the server is ready and removed when it shuts down. After a crash an old one may be left; it is
//! replaced at the next start, and the process id in it tells whose it was.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::Serialize;

const FILE_NAME: &str = "addresses.json";

/// What the file says.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Addresses {
    /// The native door.
    pub(super) native: SocketAddr,
    /// The http door, unless it is off.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) http: Option<SocketAddr>,
    /// The admin port, unless it is off.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) admin: Option<SocketAddr>,
    /// The server's process.
    pub(super) process_id: u32,
}

/// The file, for as long as the server is ready.
#[derive(Debug)]
pub(super) struct AddressesFile {
    path: PathBuf,
}

impl AddressesFile {
    /// Removes what an earlier server left: nobody must connect to an address that is not this server's.
    pub(super) fn clear(folder: &Path) -> io::Result<()> {
        match std::fs::remove_file(folder.join(FILE_NAME)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Writes the file whole or not at all: a reader never sees half of it.
    pub(super) fn write(folder: &Path, addresses: Addresses) -> io::Result<Self> {
        let path = folder.join(FILE_NAME);
        let unfinished = folder.join("addresses.json.new");
        let mut file = std::fs::File::create(&unfinished)?;
        let mut text = serde_json::to_vec(&addresses)?;
        text.push(b'\n');
        file.write_all(&text)?;
        std::fs::rename(&unfinished, &path)?;
        Ok(AddressesFile { path })
    }
}

impl Drop for AddressesFile {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "addresses file not removed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A script waits for this file and reads it at once; afterwards nobody may find a dead address.
    #[test]
    fn file_is_whole_and_goes_with_the_server() {
        let folder = tempfile::tempdir().unwrap();
        AddressesFile::clear(folder.path()).unwrap();
        let native = SocketAddr::from(([127, 0, 0, 1], 4242));
        let told = Addresses { native, http: None, admin: None, process_id: 7 };
        let file = AddressesFile::write(folder.path(), told).unwrap();
        let text = std::fs::read_to_string(folder.path().join(FILE_NAME)).unwrap();
        assert_eq!(text, "{\"native\":\"127.0.0.1:4242\",\"process_id\":7}\n");
        drop(file);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
