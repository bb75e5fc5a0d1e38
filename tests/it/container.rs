//! The container image: built as packaging/container builds it, started, and published to.
//!
//! Buildah runs it in a changed root: the image's files, its user, its folder, and the machine's network.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use crate::folder;
use crate::harness::{PATIENCE, run, signal};

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// A binary that needs no library of the machine. It is the usual build, linked once more: a release, as it is shipped,
/// takes minutes, and what is tested here is the image.
fn static_binary() -> PathBuf {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["rustc", "-q", "--locked", "-p", "ringmesh", "--example", "container", "--"]);
    cargo.args(["-C", "target-feature=+crt-static", "-C", "strip=symbols"]).current_dir(ROOT);
    let output = cargo.output().expect("cargo is there");
    assert!(output.status.success(), "{output:?}");
    Path::new(crate::harness::BINARY).with_file_name("examples").join("container")
}

/// Buildah with a store of its own.
struct Builder<'a> {
    store: &'a Path,
}

impl Builder<'_> {
    fn words(&self) -> Vec<String> {
        let (root, run) = (self.store.join("root"), self.store.join("run"));
        let (root, run) = (root.display(), run.display());
        let words = format!("buildah --storage-driver vfs --root {root} --runroot {run}");
        words.split(' ').map(str::to_owned).collect()
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let words = self.words();
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).args(arguments).stdin(Stdio::null());
        command
    }

    /// A container of the image: with the system calls that the documents allow it, or with the usual ones.
    fn container(&self, has_io_uring: bool) -> String {
        let profile = Path::new(ROOT).join("target/ringmesh-seccomp.json");
        let option = format!("seccomp={}", profile.display());
        match has_io_uring {
            true => self.done(&["from", "--security-opt", &option, "ringmesh"]),
            false => self.done(&["from", "ringmesh"]),
        }
    }

    /// The image's binary in a container.
    fn run(&self, container: &str, arguments: &[&str]) -> Command {
        let mut command = self.command(&["run", "--isolation", "chroot", container, "--"]);
        command.arg("/ringmesh").args(arguments);
        command
    }

    fn done(&self, arguments: &[&str]) -> String {
        let output = self.command(arguments).output().expect("tests/all.sh installs buildah");
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// Builds the image as the documents say.
    fn build(&self, binary: &Path) -> std::process::Output {
        let mut command = Command::new(Path::new(ROOT).join("packaging/container/build"));
        command.arg(binary).arg("ringmesh").env("BUILDAH", self.words().join(" "));
        command.env("BUILDAH_ISOLATION", "chroot").output().expect("it is a script")
    }
}

/// An image that does not start is found out by whoever pulls it. This one is published to and read from.
#[test]
fn image_is_built_started_and_published_to() {
    let folder = folder::new();
    let builder = Builder { store: folder.path() };
    // The profile of system calls is made as the document says.
    let document = std::fs::read_to_string(Path::new(ROOT).join("docs/operations.md"));
    let document = document.expect("the document is there");
    let block = document.split("```sh\n").find(|block| block.starts_with("jq "));
    let block =
        block.and_then(|block| block.split("```").next()).expect("docs/operations.md has it");
    let made = Command::new("bash").args(["-euc", block]).current_dir(ROOT).status();
    assert!(made.expect("bash is there").success(), "tests/all.sh installs jq");
    let dynamic = builder.build(Path::new(crate::harness::BINARY));
    let said = String::from_utf8_lossy(&dynamic.stderr);
    assert!(
        !dynamic.status.success() && said.contains("crt-static"),
        "libraries are missed: {said}"
    );
    let built = builder.build(&static_binary());
    assert!(built.status.success(), "{built:?}");
    let (container, blocked) = (builder.container(true), builder.container(false));
    let mut refused =
        builder.run(&blocked, &["doctor", "--listen", "127.0.0.1:0", "--admin", "off"]);
    let refused = refused.output().expect("it starts");
    let said = String::from_utf8_lossy(&refused.stdout);
    assert!(!refused.status.success() && said.contains("io_uring_setup"), "{refused:?}");
    let config: Value =
        serde_json::from_str(&builder.done(&["inspect", &container])).expect("JSON");
    let config = &config["OCIv1"]["config"];
    assert_eq!(config["User"], "65532:65532", "{config}");
    assert_eq!(config["StopSignal"], "SIGTERM", "{config}");
    assert!(config["Volumes"].get("/data").is_some(), "{config}");
    let words = |field: &str| config[field].as_array().cloned().unwrap_or_default();
    let mut arguments: Vec<String> = [words("Entrypoint"), words("Cmd")]
        .concat()
        .iter()
        .map(|word| word.as_str().expect("a word").to_owned())
        .collect();
    assert_eq!(arguments[..2], ["/ringmesh", "serve"]);
    let mut doors = 0;
    for word in &mut arguments {
        // The machine's network is shared with other tests.
        if ["0.0.0.0:10300", "0.0.0.0:10105", "0.0.0.0:10106"].contains(&word.as_str()) {
            *word = "127.0.0.1:0".to_owned();
            doors += 1;
        }
    }

    assert_eq!(doors, 3, "each door can be reached from outside: {arguments:?}");
    let arguments: Vec<&str> = arguments[1..].iter().map(String::as_str).collect();
    let mut serve = builder.run(&container, &arguments);
    serve.stdout(Stdio::piped()).stderr(Stdio::null());
    let mut started = Started { builder: serve.spawn().expect("it starts") };
    let stdout = started.builder.stdout.take().expect("it is piped");
    let mut lines = BufReader::new(stdout).lines();
    let ready = lines.next().expect("a ready line").expect("it is text");
    let address = ready.split("native door on ").nth(1).and_then(|rest| rest.split(',').next());
    let address = address.unwrap_or_else(|| panic!("{ready}"));
    assert!(ready.contains(" on /data, "), "the folder is the volume: {ready}");
    let place = run(&["publish", "in/container", "x", "--key", "k", "--server", address]).done();
    assert!(place[0].ends_with(" durable"), "{place:?}");
    let read = ["subscribe", "in/#", "--from", "earliest", "--count", "1", "--server", address];
    assert!(run(&read).done()[0].ends_with(" x"));
    signal(started.server().expect("it runs"), "TERM");
    let deadline = std::time::Instant::now() + PATIENCE;
    let status = loop {
        if let Some(status) = started.builder.try_wait().expect("it is our child") {
            break status;
        }
        assert!(std::time::Instant::now() < deadline, "the server ends when it is told to");
        std::thread::sleep(std::time::Duration::from_millis(10));
    };
    assert!(status.success(), "{status}");
}

/// A server in a container, which does not outlive its test.
struct Started {
    builder: Child,
}

impl Started {
    /// The server's own process: the builder's stand between.
    fn server(&self) -> Option<u32> {
        let mut family = vec![self.builder.id()];
        let mut at = 0;
        while let Some(parent) = family.get(at).copied() {
            for entry in std::fs::read_dir("/proc").expect("it is mounted").flatten() {
                let stat = std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
                // PID (NAME) STATE PARENT, and the name may hold anything.
                let Some((head, rest)) = stat.rsplit_once(") ") else { continue };
                let of: Option<u32> = rest.split(' ').nth(1).and_then(|word| word.parse().ok());
                let Some((id, name)) = head.split_once(" (") else { continue };
                if of == Some(parent) {
                    let id = id.parse().expect("a number");
                    if name == "ringmesh" {
                        return Some(id);
                    }
                    family.push(id);
                }
            }
            at += 1;
        }
        None
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        if let Some(server) = self.server() {
            signal(server, "KILL");
        }
        let _ = self.builder.kill();
        let _ = self.builder.wait();
    }
}
