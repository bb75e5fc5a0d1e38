//! Peers from the package registries: installed once into a folder, by a script that stands beside their configuration.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};

/// Longest that an installation may take, in seconds: a registry that does not answer must not stop the comparison.
const INSTALL_SECONDS: &str = "900";

/// What is installed, and how.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Package {
    /// What the script leaves in the folder: a program or a folder.
    pub(crate) product: &'static str,
    /// The script (bash); it is run in that folder.
    pub(crate) script: &'static str,
    /// Files that the script reads, by name.
    pub(crate) files: &'static [(&'static str, &'static str)],
}

impl Package {
    /// The product, installed before if `may_install`.
    pub(crate) fn find(&self, installed: &Path, may_install: bool) -> anyhow::Result<PathBuf> {
        let product = std::path::absolute(installed)?.join(self.product);
        if product.exists() {
            return Ok(product);
        }
        if !may_install {
            bail!("not installed in {}, and --no-install is given", installed.display());
        }
        std::fs::create_dir_all(installed)?;
        for (name, content) in self.files {
            std::fs::write(installed.join(name), content)?;
        }
        eprintln!("installing {} ...", product.display());
        let output = Command::new("timeout")
            .args([INSTALL_SECONDS, "bash", "-c", self.script])
            .current_dir(installed)
            .output()
            .context("cannot run the script that installs it")?;
        if !output.status.success() || !product.exists() {
            let text = String::from_utf8_lossy(&output.stdout).into_owned()
                + &String::from_utf8_lossy(&output.stderr);
            let line = text.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("no message");
            bail!("cannot be installed ({}): {line}", output.status);
        }
        Ok(product)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A peer that cannot be installed must be told of in its own words, and one that is there not be installed again.
    #[test]
    fn an_installation_that_fails_says_why() {
        let folder = tempfile::tempdir().unwrap();
        let bad = Package {
            product: "server",
            script: "echo working; echo 'no such module' >&2; exit 3",
            files: &[],
        };
        let error = format!("{:#}", bad.find(folder.path(), true).unwrap_err());
        assert!(error.contains("no such module") && error.contains('3'), "{error}");
        let error = format!("{:#}", bad.find(folder.path(), false).unwrap_err());
        assert!(error.contains("--no-install"), "{error}");
        let good =
            Package { product: "server", script: "cp wish server", files: &[("wish", "text")] };
        let product = good.find(folder.path(), true).unwrap();
        assert_eq!(std::fs::read(&product).unwrap(), b"text");
        assert_eq!(bad.find(folder.path(), false).unwrap(), product);
    }
}
