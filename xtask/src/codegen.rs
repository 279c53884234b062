//! Generated files that are checked in. Tests of what they are made from fail when they are stale.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};

use crate::report::green;
use crate::setup::Toolbox;
use crate::workspace::Workspace;

/// Where the kustomization finds them.
const BUNDLE: &str = "deploy/base/crds.yaml";

/// Writes the custom resource definitions to `deploy/crds`, and all of them once more for the kustomization. What they say stands in the types of the store, so a small
/// program of that crate prints them: file names and texts, as one JSON object.
///
/// # Errors
/// It does not build, or a file cannot be written.
pub(crate) fn run(workspace: &Workspace, toolbox: &Toolbox) -> Result<()> {
    let mut cargo = workspace.cargo();
    cargo.args(["run", "--quiet", "-p", "poolward-store", "--example", "crds"]).env("PATH", toolbox.path()?);
    cargo.stderr(std::process::Stdio::inherit());
    let output = cargo.output().context("run the program that prints the definitions")?;
    ensure!(output.status.success(), "the program that prints the definitions failed: {}", output.status);
    let files: BTreeMap<String, String> =
        serde_json::from_slice(&output.stdout).context("read the definitions")?;
    let dir = workspace.root.join("deploy/crds");
    std::fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
    for entry in std::fs::read_dir(&dir).with_context(|| format!("read {}", dir.display()))? {
        let path = entry.with_context(|| format!("read {}", dir.display()))?.path();
        let is_made =
            path.file_name().and_then(|name| name.to_str()).is_some_and(|name| files.contains_key(name));
        if !is_made {
            std::fs::remove_file(&path).with_context(|| format!("remove {}", path.display()))?;
            println!("{} {}", green("removed"), path.display());
        }
    }
    for (name, text) in &files {
        let path = dir.join(name);
        if std::fs::read_to_string(&path).is_ok_and(|there| there == *text) {
            continue;
        }
        std::fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
        println!("{} {}", green("written"), path.display());
    }
    let path = workspace.root.join(BUNDLE);
    let text = bundle(&files);
    if !std::fs::read_to_string(&path).is_ok_and(|there| there == text) {
        std::fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
        println!("{} {}", green("written"), path.display());
    }
    Ok(())
}

/// All of them in one file: a kustomization may only name files beside or below it.
fn bundle(files: &BTreeMap<String, String>) -> String {
    let texts: Vec<&str> = files.values().map(String::as_str).collect();
    texts.join("---\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definitions_of_the_kustomization_are_those_of_the_directory() {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let mut files = BTreeMap::new();
        for entry in std::fs::read_dir(root.join("deploy/crds")).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            files.insert(name, std::fs::read_to_string(path).unwrap());
        }
        assert!(!files.is_empty());
        let there = std::fs::read_to_string(root.join(BUNDLE)).unwrap();
        assert_eq!(there, bundle(&files), "run `cargo xtask codegen`");
    }
}
