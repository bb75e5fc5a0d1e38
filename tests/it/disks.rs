//! File systems of a test's own, which may be full or stand still without harm to anybody else's. A machine that lets a test
//! have none fails it: a danger that was not looked at is not one that was ruled out.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output};

/// What a test does without its disk.
const NEEDS: &str = "the tests of full disks need CAP_SYS_ADMIN (root outside a container, or a container that is started with \
     --privileged), loop devices, and mount, fsfreeze (util-linux) and mkfs.ext4 (e2fsprogs), which tests/all.sh installs";

/// A mounted file system, which goes with the value.
pub struct Disk(PathBuf);

impl Disk {
    /// Of 64 MiB, in memory, under `folder`.
    pub fn in_memory(folder: &Path) -> Disk {
        Disk::mount(folder, &["-t", "tmpfs", "-o", "size=64m", "none"])
    }

    /// An ext4 of so many bytes in a file under `folder`: unlike memory it can stand still.
    pub fn in_file(folder: &Path, bytes: u64) -> Disk {
        let image = folder.join("image");
        let file = std::fs::File::create(&image).expect("it can be made");
        file.set_len(bytes).expect("it can be sparse");
        must(Command::new("mkfs.ext4").args(["-q", "-m", "0"]).arg(&image));
        Disk::mount(folder, &["-o", "loop", image.to_str().expect("a name in UTF-8")])
    }

    fn mount(folder: &Path, what: &[&str]) -> Disk {
        let at = folder.join("disk");
        std::fs::create_dir(&at).expect("it can be made");
        must(Command::new("mount").args(what).arg(&at));
        Disk(at)
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Lets no write through until [`Disk::thaw`].
    pub fn freeze(&self) {
        must(Command::new("fsfreeze").arg("-f").arg(&self.0));
    }

    pub fn thaw(&self) {
        must(Command::new("fsfreeze").arg("-u").arg(&self.0));
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // One that does not stand still says so, and one that does could not be unmounted.
        let _ = Command::new("fsfreeze").arg("-u").arg(&self.0).output();
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// Runs a command that must end well.
fn must(command: &mut Command) {
    let said = match command.output() {
        Ok(Output { status, stderr, .. }) => judge(status, &stderr),
        Err(error) => Err(error.to_string()),
    };
    if let Err(said) = said {
        panic!("{command:?} failed: {said}; {NEEDS}");
    }
}

fn judge(status: ExitStatus, stderr: &[u8]) -> Result<(), String> {
    if status.success() {
        return Ok(());
    }
    Err(format!("{status}, {}", String::from_utf8_lossy(stderr).trim()))
}

/// A test that could not have its disk must not look like one that has passed, and must say what to do.
#[test]
fn what_cannot_be_mounted_fails_and_says_why() {
    let folder = crate::folder::new();
    let mounted = std::panic::catch_unwind(|| Disk::mount(folder.path(), &["-t", "nothing", "x"]));
    let said = mounted.err().expect("there is no such file system");
    let said = said.downcast_ref::<String>().expect("words");
    for words in ["\"mount\" \"-t\" \"nothing\"", "failed: exit status", "nothing", "CAP_SYS_ADMIN"]
    {
        assert!(said.contains(words), "{words} in {said}");
    }
    let missing = std::panic::catch_unwind(|| must(&mut Command::new("mkfs.missing")));
    let said = missing.expect_err("there is no such command");
    let said = said.downcast_ref::<String>().expect("words");
    assert!(said.contains("No such file") && said.contains("e2fsprogs"), "{said}");
}
