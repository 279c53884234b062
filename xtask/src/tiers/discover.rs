//! Finds the test programs of a tier, and has cargo build them.

use std::collections::BTreeSet;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use super::Tier;
use super::program::CHECKER;
use crate::setup::Toolbox;
use crate::workspace::Workspace;
use crate::{build, logged};

/// Built for the kernel, not for tests.
const NOT_TESTED: &str = "poolward-ebpf";

/// A test program, built.
#[derive(Debug)]
pub(super) struct TestProgram {
    /// `package/target`.
    pub(super) name: String,
    /// What to run.
    pub(super) executable: PathBuf,
    /// Where to run it.
    pub(super) package_dir: PathBuf,
}

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    id: String,
    manifest_path: PathBuf,
    targets: Vec<Target>,
}

#[derive(Clone, Debug, Deserialize)]
struct Target {
    name: String,
    kind: Vec<String>,
    test: bool,
}

impl Target {
    fn is(&self, kind: &str) -> bool {
        self.kind.iter().any(|k| k == kind)
    }
}

/// One line of `--message-format=json`.
#[derive(Deserialize)]
struct Message {
    reason: String,
    #[serde(default)]
    package_id: String,
    target: Option<Target>,
    executable: Option<PathBuf>,
}

/// Which tier a target of a package belongs to; `None` for what is no test.
fn tier_of(package: &str, target: &Target) -> Option<Tier> {
    if [NOT_TESTED, CHECKER].contains(&package) || !target.test {
        return None;
    }
    if target.is("lib") || target.is("bin") {
        // Named apart from its tests: the crate of the privileged tiers has helpers, and they count as units.
        return Some(Tier::Unit);
    }
    if !target.is("test") {
        return None;
    }
    Some(match (package, target.name.as_str()) {
        (_, "properties" | "histories" | "fuzz") => Tier::Property,
        ("poolward-tests", "vm") => Tier::Vm,
        ("poolward-bpf", _) | (_, "bpf") => Tier::Bpf,
        (_, "kubernetes" | "cluster" | "installation") => Tier::Kubernetes,
        (_, "nodes") => Tier::Nodes,
        ("poolward-tests", _) | (_, "netns") => Tier::Netns,
        _ => Tier::Unit,
    })
}

/// Builds all test programs of a tier, in the order they are run.
///
/// # Errors
/// Cargo's, with the end of what the compiler said; or the tier has none.
pub(super) fn build(workspace: &Workspace, toolbox: &Toolbox, tier: Tier) -> Result<Vec<TestProgram>> {
    build_all(workspace, toolbox, tier.name(), |package, target| tier_of(package, target) == Some(tier))
}

/// Builds test programs of one package by their names.
///
/// # Errors
/// Cargo's, with the end of what the compiler said; or there is none of these names.
pub(super) fn build_named(
    workspace: &Workspace,
    toolbox: &Toolbox,
    of_package: &str,
    names: &[&str],
) -> Result<Vec<TestProgram>> {
    build_all(workspace, toolbox, &names.join("-"), |package, target| {
        package == of_package && target.is("test") && names.contains(&target.name.as_str())
    })
}

fn build_all(
    workspace: &Workspace,
    toolbox: &Toolbox,
    what: &str,
    is_wanted: impl Fn(&str, &Target) -> bool,
) -> Result<Vec<TestProgram>> {
    let packages = metadata(workspace)?;
    let wanted: Vec<&Target> = packages
        .iter()
        .flat_map(|package| package.targets.iter().map(move |target| (package, target)))
        .filter(|(package, target)| is_wanted(&package.name, target))
        .map(|(_, target)| target)
        .collect();
    if wanted.is_empty() {
        bail!("no test program belongs to this tier");
    }
    let names: BTreeSet<&str> =
        wanted.iter().filter(|target| target.is("test")).map(|target| target.name.as_str()).collect();
    let mut cargo = workspace.cargo();
    // Always the same packages, so that all tiers agree on the features of what they depend on.
    cargo.args([
        "test",
        "--no-run",
        "--message-format=json-render-diagnostics",
        "--workspace",
        "--exclude",
        NOT_TESTED,
        "--exclude",
        CHECKER,
    ]);
    cargo.env("PATH", toolbox.path()?);
    if wanted.iter().any(|target| !target.is("test")) {
        // With integration tests of the unit tier.
        cargo.args(["--lib", "--bins"]);
    }
    for name in &names {
        cargo.args(["--test", name]);
    }
    let log = workspace.log(&format!("build-tests-{what}"));
    let status = logged::finish(cargo, &log, build::BUILD_LIMIT)?;
    let text = std::fs::read(&log).with_context(|| format!("read {}", log.display()))?;
    let text = String::from_utf8_lossy(&text);
    if !status.success() {
        let for_people: Vec<&str> = text.lines().filter(|line| !line.starts_with('{')).collect();
        bail!("the tests do not build:\n{}", for_people.join("\n"));
    }
    Ok(programs(&text, &packages, is_wanted))
}

fn metadata(workspace: &Workspace) -> Result<Vec<Package>> {
    let mut cargo = workspace.cargo();
    let output =
        cargo.args(["metadata", "--no-deps", "--format-version", "1"]).output().context("cargo metadata")?;
    if !output.status.success() {
        bail!("cargo metadata: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    let metadata: Metadata =
        serde_json::from_slice(&output.stdout).context("cargo metadata: not as expected")?;
    Ok(metadata.packages)
}

/// The executables that are wanted among cargo's messages.
fn programs(
    messages: &str,
    packages: &[Package],
    is_wanted: impl Fn(&str, &Target) -> bool,
) -> Vec<TestProgram> {
    let mut programs = Vec::new();
    for line in messages.lines().filter(|line| line.starts_with('{')) {
        let Ok(Message { reason, package_id, target: Some(target), executable: Some(executable) }) =
            serde_json::from_str(line)
        else {
            continue;
        };
        let Some(package) = packages.iter().find(|package| package.id == package_id) else { continue };
        // Programs that integration tests start are in the list too, but not among cargo's test directories.
        let is_test = executable.parent().is_some_and(|dir| dir.ends_with("deps"));
        if reason == "compiler-artifact" && is_test && is_wanted(&package.name, &target) {
            let package_dir = package.manifest_path.parent().map(PathBuf::from).unwrap_or_default();
            programs.push(TestProgram {
                name: format!("{}/{}", package.name, target.name),
                executable,
                package_dir,
            });
        }
    }
    programs.sort_by(|a, b| a.name.cmp(&b.name));
    programs
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(name: &str, kind: &str) -> Target {
        Target { name: name.into(), kind: vec![kind.into()], test: true }
    }

    #[test]
    fn a_target_is_in_the_tier_its_name_says() {
        let check = |package, name, kind, tier| {
            assert_eq!(tier_of(package, &target(name, kind)), tier, "{package} {kind} {name}");
        };
        check("poolward-ipam", "poolward_ipam", "lib", Some(Tier::Unit));
        check("poolward-agent", "poolward-agent", "bin", Some(Tier::Unit));
        check("poolward-store", "conformance", "test", Some(Tier::Unit));
        check("poolward-ipam", "properties", "test", Some(Tier::Property));
        check("poolward-ipam", "histories", "test", Some(Tier::Property));
        check("poolward-cni", "fuzz", "test", Some(Tier::Property));
        check("poolward-bpf", "packets", "test", Some(Tier::Bpf));
        check("poolward-tests", "bpf", "test", Some(Tier::Bpf));
        check("poolward-tests", "vm", "test", Some(Tier::Vm));
        check("poolward-tests", "dataplane", "test", Some(Tier::Netns));
        check("poolward-harness", "netns", "test", Some(Tier::Netns));
        check("poolward-store", "kubernetes", "test", Some(Tier::Kubernetes));
        check("poolward-harness", "cluster", "test", Some(Tier::Kubernetes));
        check("poolward-harness", "installation", "test", Some(Tier::Kubernetes));
        check("poolward-harness", "nodes", "test", Some(Tier::Nodes));
        check("poolward-ebpf", "poolward-ebpf", "bin", None);
        check("poolward-protocol-check", "poolward-protocol-check", "bin", None);
        check("poolward-bpf", "from_pod_cost", "example", None);
        check("poolward-bpf", "build-script-build", "custom-build", None);
    }

    #[test]
    fn executables_are_read_from_cargos_messages() {
        let packages = [Package {
            name: "poolward-ipam".into(),
            id: "path+file:///p/ipam#1".into(),
            manifest_path: "/p/ipam/Cargo.toml".into(),
            targets: Vec::new(),
        }];
        let line = |id: &str, kind: &str, executable: &str| {
            format!(
                r#"{{"reason":"compiler-artifact","package_id":"{id}","target":{{"name":"properties","kind":["{kind}"],"test":true}},"executable":{executable}}}"#
            )
        };
        let messages = [
            "   Compiling something".to_owned(),
            line("path+file:///p/ipam#1", "test", r#""/t/debug/deps/properties-1""#),
            line("path+file:///p/ipam#1", "lib", "null"),
            line("path+file:///p/ipam#1", "bin", r#""/t/debug/agent""#),
            line("path+file:///p/other#1", "test", r#""/t/debug/deps/properties-2""#),
            r#"{"reason":"build-finished","success":true}"#.to_owned(),
        ];
        let of = |tier| move |package: &str, target: &Target| tier_of(package, target) == Some(tier);
        let found = programs(&messages.join("\n"), &packages, of(Tier::Property));
        assert_eq!(found.len(), 1);
        assert_eq!(
            (found[0].name.as_str(), found[0].package_dir.as_os_str()),
            ("poolward-ipam/properties", "/p/ipam".as_ref())
        );
        assert!(programs(&messages.join("\n"), &packages, of(Tier::Unit)).is_empty());
    }
}
