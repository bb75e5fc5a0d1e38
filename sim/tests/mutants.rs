//! The deliberate bugs of `mutants/`: that each can still be planted. `mutants/run` plants them and tells who caught it.

use std::path::Path;
use std::process::Command;

/// A patch that no longer applies proves nothing, and nobody would notice: whoever moves the code under it mends it.
#[test]
fn every_mutant_applies() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("sim is in the workspace");
    let folder = root.join("sim/mutants");
    let entries = std::fs::read_dir(&folder).expect("it can be listed");
    let paths = entries.map(|entry| entry.expect("it can be listed").path());
    let mut patches: Vec<_> = paths
        .filter(|path| path.extension().is_some_and(|extension| extension == "patch"))
        .collect();
    patches.sort();
    assert!(patches.len() >= 7, "{patches:?}");
    for patch in patches {
        let text = std::fs::read_to_string(&patch).expect("it can be read");
        let head = text.split("diff --git").next().unwrap_or_default();
        for says in ["Bug: ", "Breaks: "] {
            assert!(head.contains(says), "{} begins with what it is: {says}", patch.display());
        }
        let check =
            Command::new("git").arg("-C").arg(root).args(["apply", "--check"]).arg(&patch).output();
        let check = check.expect("git is there");
        let why = String::from_utf8_lossy(&check.stderr);
        assert!(check.status.success(), "{} does not apply: {why}", patch.display());
    }
}
