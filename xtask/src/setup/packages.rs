//! Programs from Debian's packages.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use harness::Run;

use super::{Machine, STEP_LIMIT};
use crate::logged;

/// `g++` builds bpf-linker; each of the others is called by the demo, a test tier or a benchmark.
const PACKAGES: &[&str] =
    &["bpftool", "containernetworking-plugins", "ethtool", "g++", "iproute2", "iputils-ping", "nftables"];

/// What a control plane, real nodes and the tests around them call; `busybox-static` is what their pods run.
const KUBERNETES_PACKAGES: &[&str] = &[
    "busybox-static",
    "conntrack",
    "containerd",
    "etcd-client",
    "etcd-server",
    "iptables",
    "openssl",
    "runc",
];

/// Asked by Debian's maintainer scripts before they start a daemon.
const POLICY: &str = "/usr/sbin/policy-rc.d";

/// What building Kubernetes takes.
const KUBERNETES_BUILD_PACKAGES: &[&str] = &["golang-1.19-go", "make", "rsync"];

/// What this machine needs for what is asked of it.
fn wanted(machine: &Machine<'_>) -> Result<Vec<&'static str>> {
    let mut wanted = PACKAGES.to_vec();
    if machine.needs.kubernetes {
        wanted.extend(KUBERNETES_PACKAGES);
        if super::kubernetes::check(machine)?.is_none() {
            wanted.extend(KUBERNETES_BUILD_PACKAGES);
        }
    }
    Ok(wanted)
}

/// Whether dpkg knows all of them as installed.
pub(super) fn check(machine: &Machine<'_>) -> Result<Option<String>> {
    let wanted = wanted(machine)?;
    Ok(missing(&wanted)?.is_empty().then(|| wanted.join(", ")))
}

/// Installs those that are missing; the lists are refreshed only then.
pub(super) fn install(machine: &Machine<'_>) -> Result<String> {
    let missing = missing(&wanted(machine)?)?;
    let apt = |args: &[&str], log: &str| {
        let mut command = Command::new("apt-get");
        // Another apt at work (unattended upgrades on a fresh machine) is waited for, not an error.
        command.args(["-o", "DPkg::Lock::Timeout=300"]).args(args).env("DEBIAN_FRONTEND", "noninteractive");
        logged::ok(command, &machine.workspace.log(log), STEP_LIMIT)
    };
    // One source that does not answer need not be one that is needed here: the installation decides.
    let updated = apt(&["update"], "apt-update");
    let install: Vec<&str> =
        ["install", "--yes", "--no-install-recommends"].into_iter().chain(missing.iter().copied()).collect();
    let _no_daemons = NoDaemons::started(Path::new(POLICY))?;
    apt(&install, "apt-install").or_else(|error| updated.and(Err(error)))?;
    Ok(format!("installed {}", missing.join(", ")))
}

/// While it lives, installing a package starts no daemon of the machine: containerd and etcd are wanted as programs.
///
/// A policy that is there already is somebody's decision, and stays.
struct NoDaemons<'p> {
    /// The policy to take away again, if it is ours.
    ours: Option<&'p Path>,
}

impl<'p> NoDaemons<'p> {
    fn started(policy: &'p Path) -> Result<Self> {
        let file = OpenOptions::new().write(true).create_new(true).mode(0o755).open(policy);
        let mut file = match file {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => return Ok(Self { ours: None }),
            other => other.with_context(|| format!("create {}", policy.display()))?,
        };
        let ours = Self { ours: Some(policy) };
        // 101: "action forbidden by policy" (/usr/share/doc/init-system-helpers/README.policy-rc.d.gz).
        file.write_all(b"#!/bin/sh\nexit 101\n").with_context(|| format!("write {}", policy.display()))?;
        Ok(ours)
    }
}

impl Drop for NoDaemons<'_> {
    fn drop(&mut self) {
        if let Some(policy) = self.ours {
            // Left behind, it says by its content what it does.
            let _ = std::fs::remove_file(policy);
        }
    }
}

fn missing(wanted: &[&'static str]) -> Result<Vec<&'static str>> {
    let asked =
        Run::new("dpkg-query").args(["-W", "-f", "${Package} ${db:Status-Status}\n"]).args(wanted).finish();
    // Exit code 1 only says that some are unknown; the list says which are there.
    let finished = asked.context("not a Debian system")?;
    if !matches!(finished.status.code(), Some(0 | 1)) {
        bail!("dpkg-query: {}", String::from_utf8_lossy(&finished.stderr).trim());
    }
    let listed = String::from_utf8_lossy(&finished.stdout).into_owned();
    Ok(not_installed(wanted, &listed))
}

/// Which of `wanted` the listing (`package status` per line) does not call installed.
fn not_installed<'w>(wanted: &[&'w str], listed: &str) -> Vec<&'w str> {
    let there = |package: &str| listed.lines().any(|line| line.strip_prefix(package) == Some(" installed"));
    wanted.iter().copied().filter(|package| !there(package)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_fully_installed_counts() {
        let listed = "iproute2 installed\nnftables config-files\nbpftool installed\n";
        assert_eq!(not_installed(&["iproute2", "nftables", "jq", "bpf"], listed), ["nftables", "jq", "bpf"]);
    }

    #[test]
    fn daemons_are_forbidden_for_a_while_and_a_policy_of_somebody_else_stays() {
        let policy = std::env::temp_dir().join(format!("poolward-policy-{}", std::process::id()));
        let asked = |policy: &Path| Command::new("sh").arg(policy).status().unwrap().code();
        let ours = NoDaemons::started(&policy).unwrap();
        assert_eq!(asked(&policy), Some(101));
        drop(NoDaemons::started(&policy).unwrap());
        assert!(policy.exists(), "the second one took the first one's policy away");
        drop(ours);
        assert!(!policy.exists());
    }
}
