//! Which modules a guest loads, and in which order.
//!
//! Guests have no modprobe, and the packages no list of dependencies: what a module needs is in its own `.modinfo`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::images::files_with_extension;

/// What tests use. Names that a kernel has built in, or has not at all, are passed over: a test that needs one says so.
const WANTED: &[&str] = &[
    // Devices of the tests, and the tunnel that knows nothing of us.
    "veth",
    "dummy",
    "bridge",
    "vxlan",
    "ipip",
    // Programs on devices without TCX, and what loses, delays and marks packets.
    "sch_ingress",
    "cls_bpf",
    "act_bpf",
    "sch_netem",
    "cls_u32",
    "cls_matchall",
    "act_gact",
    "act_pedit",
    "act_csum",
    // nftables as the agent and tests write it; names of modules are those the kernel would ask modprobe for.
    "nf_tables",
    "nft_chain_nat",
    "nft_nat",
    "nft_masq",
    "nft_redir",
    "nft_ct",
    "nft_counter",
    "nft_limit",
    "nft_log",
    "nft_numgen",
    "nft_reject_ipv4",
    "nft_reject_ipv6",
    "nft_reject_inet",
    "nft_fib_ipv4",
    "nft_fib_ipv6",
    "nft_fib_inet",
    "nft_objref",
    "nf_conntrack_netlink",
    "nf_log_syslog",
];

/// The files of all wanted modules below a directory, each after those it depends on.
pub(super) fn in_order(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut files = BTreeMap::new();
    for path in files_with_extension(dir, "ko")? {
        let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        files.insert(canonical(&stem), path);
    }
    let mut depends = BTreeMap::new();
    let mut todo: Vec<String> = WANTED.iter().map(|name| canonical(name)).collect();
    while let Some(name) = todo.pop() {
        let Some(path) = files.get(&name) else { continue };
        if depends.contains_key(&name) {
            continue;
        }
        let bytes = fs::read(path).with_context(|| format!("read {}", path.display()))?;
        let needs = depends_of(&bytes).with_context(|| format!("{}", path.display()))?;
        todo.extend(needs.iter().cloned());
        depends.insert(name, needs);
    }
    let wanted = WANTED.iter().map(|name| canonical(name));
    Ok(ordered(wanted, &depends).iter().filter_map(|name| files.get(name).cloned()).collect())
}

/// Depth first: every module after all it depends on, and once.
fn ordered(wanted: impl Iterator<Item = String>, depends: &BTreeMap<String, Vec<String>>) -> Vec<String> {
    fn visit(
        name: &str,
        depends: &BTreeMap<String, Vec<String>>,
        seen: &mut BTreeSet<String>,
        order: &mut Vec<String>,
    ) {
        let Some(needs) = depends.get(name) else { return };
        if !seen.insert(name.to_owned()) {
            return;
        }
        for need in needs {
            visit(need, depends, seen, order);
        }
        order.push(name.to_owned());
    }
    let (mut seen, mut order) = (BTreeSet::new(), Vec::new());
    for name in wanted {
        visit(&name, depends, &mut seen, &mut order);
    }
    order
}

/// Files and entries write some names with `-`, the kernel all of them with `_`.
fn canonical(name: &str) -> String {
    name.replace('-', "_")
}

/// The names behind `depends=`.
fn depends_of(module: &[u8]) -> Result<Vec<String>> {
    let info = section(module, b".modinfo").context("an ELF file without .modinfo")?;
    let line = info.split(|byte| *byte == 0).find_map(|entry| entry.strip_prefix(b"depends="));
    let line = String::from_utf8_lossy(line.unwrap_or_default()).into_owned();
    Ok(line.split(',').filter(|name| !name.is_empty()).map(canonical).collect())
}

/// A section of a 64-bit little-endian ELF file, by name.
fn section<'a>(file: &'a [u8], wanted: &[u8]) -> Option<&'a [u8]> {
    const HEADER_LEN: usize = 64;
    let number = |at: usize, len: usize| -> Option<usize> {
        let mut bytes = [0; 8];
        bytes[..len].copy_from_slice(file.get(at..at + len)?);
        usize::try_from(u64::from_le_bytes(bytes)).ok()
    };
    file.strip_prefix(b"\x7fELF\x02\x01")?;
    let table = number(0x28, 8)?;
    let count = number(0x3c, 2)?;
    let names_index = number(0x3e, 2)?;
    let content = |index: usize| -> Option<&'a [u8]> {
        let header = table + index * HEADER_LEN;
        let (start, len) = (number(header + 0x18, 8)?, number(header + 0x20, 8)?);
        file.get(start..start.checked_add(len)?)
    };
    let names = content(names_index)?;
    (0..count).find_map(|index| {
        let at = number(table + index * HEADER_LEN, 4)?;
        let name = names.get(at..)?.split(|byte| *byte == 0).next()?;
        (name == wanted).then(|| content(index))?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_comes_after_all_it_depends_on_and_once() {
        let table =
            [("ipip", "ip_tunnel,tunnel4"), ("ip_tunnel", ""), ("tunnel4", ""), ("vxlan", "ip_tunnel,gone")];
        let depends = table.map(|(name, needs)| {
            (name.to_owned(), needs.split(',').filter(|n| !n.is_empty()).map(str::to_owned).collect())
        });
        let wanted = ["built_in", "vxlan", "ipip", "vxlan"].map(str::to_owned);
        let order = ordered(wanted.into_iter(), &depends.into_iter().collect());
        assert_eq!(order, ["ip_tunnel", "vxlan", "tunnel4", "ipip"]);
    }

    #[test]
    fn modules_that_depend_on_each_other_end() {
        let depends = [("a", "b"), ("b", "a")].map(|(n, d)| (n.to_owned(), vec![d.to_owned()]));
        assert_eq!(ordered(["a".to_owned()].into_iter(), &depends.into_iter().collect()), ["b", "a"]);
    }

    #[test]
    fn dependencies_are_read_from_the_section() {
        // An ELF file of three sections: none, names, .modinfo.
        let names = b"\0.shstrtab\0.modinfo\0";
        let info = b"license=GPL\0depends=ip_tunnel,nf-defrag-ipv4\0name=x\0";
        let mut file = b"\x7fELF\x02\x01".to_vec();
        file.resize(0x40, 0);
        let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
        put(0x28, &0x40_u64.to_le_bytes());
        put(0x3c, &3_u16.to_le_bytes());
        put(0x3e, &1_u16.to_le_bytes());
        let start = 0x40 + 3 * 64;
        let header = |name: u32, at: usize, len: usize| {
            let mut header = [0; 64];
            header[..4].copy_from_slice(&name.to_le_bytes());
            header[0x18..0x20].copy_from_slice(&(at as u64).to_le_bytes());
            header[0x20..0x28].copy_from_slice(&(len as u64).to_le_bytes());
            header
        };
        file.extend([0; 64]);
        file.extend(header(1, start, names.len()));
        file.extend(header(11, start + names.len(), info.len()));
        file.extend(names);
        file.extend(info);
        assert_eq!(depends_of(&file).unwrap(), ["ip_tunnel", "nf_defrag_ipv4"]);
        assert!(depends_of(&file[..start]).is_err(), "cut short");
        assert!(depends_of(b"\x7fELF").is_err());
    }
}
