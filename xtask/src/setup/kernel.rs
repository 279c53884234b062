//! What the running kernel must be able to do. Probed by doing it, in a network namespace made for that.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use harness::{NetNs, Run, has_tcx};
use rustix::system::uname;

use super::Machine;

const BPFFS: &str = "/sys/fs/bpf";

/// Whether a BPF file system is mounted where pins go.
pub(super) fn check_bpffs(_: &Machine<'_>) -> Result<Option<String>> {
    let mounts = std::fs::read_to_string("/proc/self/mounts").context("read /proc/self/mounts")?;
    Ok(is_mounted(&mounts, BPFFS, "bpf").then(|| BPFFS.to_owned()))
}

/// Mounts it.
pub(super) fn mount_bpffs(_: &Machine<'_>) -> Result<String> {
    Run::new("mount").args(["-t", "bpf", "bpf", BPFFS]).ok()?;
    Ok(format!("mounted on {BPFFS}"))
}

fn is_mounted(mounts: &str, place: &str, kind: &str) -> bool {
    mounts.lines().any(|line| {
        let mut words = line.split(' ').skip(1);
        words.next() == Some(place) && words.next() == Some(kind)
    })
}

/// Tries everything that must work; never `None`, because nothing of it can be installed.
pub(super) fn check_features(_: &Machine<'_>) -> Result<Option<String>> {
    ensure!(
        Path::new("/sys/kernel/btf/vmlinux").exists(),
        "no BTF (/sys/kernel/btf/vmlinux): CONFIG_DEBUG_INFO_BTF"
    );
    let netns = NetNs::unique("pwsetup").context("no network namespaces: CONFIG_NET_NS")?;
    netns
        .ip("link add pwprobe0 type veth peer name pwprobe1")
        .context("no veth: CONFIG_VETH, or `modprobe veth`")?;
    netns
        .nft(
            "table inet pwprobe {\n set s { typeof ip saddr . meta mark; flags dynamic; size 16; }\n chain c { type nat \
             hook postrouting priority srcnat; meta mark & 1 == 1 masquerade; }\n chain d { type filter hook prerouting \
             priority 0; update @s { ip saddr . meta mark counter }; }\n}\n",
        )
        .context("no nftables with family inet, NAT and sets: CONFIG_NF_TABLES_INET, CONFIG_NFT_NAT, CONFIG_NFT_MASQ")?;
    Run::new("tc")
        .args(["-n", netns.name(), "qdisc", "add", "dev", "pwprobe0", "clsact"])
        .ok()
        .context("no clsact: CONFIG_NET_SCH_INGRESS")?;
    let release = uname().release().to_string_lossy().into_owned();
    let attach = if has_tcx() { "TCX" } else { "no TCX, so clsact" };
    Ok(Some(format!("Linux {release}: veth, nftables, BTF, {attach}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_mount_of_the_right_kind_at_the_right_place_counts() {
        let mounts = "sysfs /sys sysfs rw 0 0\nbpf /sys/fs/bpf bpf rw 0 0\ntmpfs /run tmpfs rw 0 0\n";
        assert!(is_mounted(mounts, "/sys/fs/bpf", "bpf"));
        assert!(!is_mounted(mounts, "/sys", "bpf"));
        assert!(!is_mounted(mounts, "/sys/fs", "bpf"));
    }
}
