//! Network namespaces with a name under `/run/netns`, so that `ip netns` and people see them too.
//!
//! Never touches the namespace this process started in.

use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use anyhow::{Context, Result, anyhow, bail};
use rustix::fs::{Mode, OFlags, open};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde_json::Value;

use crate::Run;

const NETNS_DIR: &str = "/run/netns";

/// One network namespace. Deleted on drop, unless it was opened or [`NetNs::keep`] was called.
#[derive(Debug)]
pub struct NetNs {
    name: String,
    handle: OwnedFd,
    delete_on_drop: AtomicBool,
}

impl NetNs {
    /// Creates a namespace named `PREFIX-PID-COUNT`, with `lo` up: no two are ever the same.
    ///
    /// # Errors
    /// No permission, or no iproute2.
    pub fn unique(prefix: &str) -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        Self::create(&format!("{prefix}-{}-{count}", std::process::id()))
    }

    /// Creates a namespace of this very name, with `lo` up.
    ///
    /// # Errors
    /// It exists already, no permission, or no iproute2.
    pub fn create(name: &str) -> Result<Self> {
        Run::new("ip").args(["netns", "add", name]).ok()?;
        let netns = Self::open(name)?;
        netns.delete_on_drop.store(true, Ordering::Relaxed);
        netns.ip("link set lo up")?;
        Ok(netns)
    }

    /// Opens a namespace that somebody else created and will delete.
    ///
    /// # Errors
    /// There is none of this name.
    pub fn open(name: &str) -> Result<Self> {
        let path = format!("{NETNS_DIR}/{name}");
        let handle = open(&path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .with_context(|| format!("network namespace {path}"))?;
        Ok(Self { name: name.to_owned(), handle, delete_on_drop: AtomicBool::new(false) })
    }

    /// Names of all namespaces that begin so.
    ///
    /// # Errors
    /// The directory exists and cannot be read.
    pub fn list(prefix: &str) -> Result<Vec<String>> {
        let entries = match std::fs::read_dir(NETNS_DIR) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error).context(NETNS_DIR),
        };
        let mut names = Vec::new();
        for entry in entries {
            let name = entry.context(NETNS_DIR)?.file_name().to_string_lossy().into_owned();
            if name.starts_with(prefix) {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    /// Deletes a namespace by name.
    ///
    /// # Errors
    /// There is none, or no permission.
    pub fn delete(name: &str) -> Result<()> {
        Run::new("ip").args(["netns", "delete", name]).ok().map(drop)
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its path, as `CNI_NETNS` wants it.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        PathBuf::from(NETNS_DIR).join(&self.name)
    }

    /// Leaves the namespace standing when this value goes.
    pub fn keep(&self) {
        self.delete_on_drop.store(false, Ordering::Relaxed);
    }

    /// Runs a closure on a thread inside. Sockets and children it makes belong to this namespace for good.
    ///
    /// # Errors
    /// The namespace cannot be entered, or the closure panicked.
    pub fn run<T: Send>(&self, inside: impl FnOnce() -> T + Send) -> Result<T> {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                move_into_link_name_space(self.handle.as_fd(), Some(LinkNameSpaceType::Network))
                    .with_context(|| format!("enter network namespace {}", self.name))?;
                Ok(inside())
            });
            thread.join().map_err(|_| anyhow!("a closure panicked in network namespace {}", self.name))?
        })
    }

    /// `ip -n NAME` with arguments separated by blanks; returns what it prints.
    ///
    /// # Errors
    /// What `ip` says.
    pub fn ip(&self, arguments: &str) -> Result<String> {
        Run::new("ip").args(["-n", &self.name]).args(arguments.split_whitespace()).ok()
    }

    /// Several lines for [`NetNs::ip`] in one process; the first that fails ends it.
    ///
    /// # Errors
    /// What `ip` says, with the number of the line.
    pub fn ip_batch(&self, lines: &str) -> Result<()> {
        Run::new("ip")
            .args(["-n", &self.name, "-batch", "-"])
            .stdin(lines)
            .ok()
            .map(drop)
            .with_context(|| format!("lines given to ip:\n{lines}"))
    }

    /// `ip -j` with arguments separated by blanks, parsed; nothing printed is an empty list.
    ///
    /// # Errors
    /// What `ip` says, or no JSON.
    pub fn ip_json(&self, arguments: &str) -> Result<Value> {
        let text = Run::new("ip").args(["-n", &self.name, "-j"]).args(arguments.split_whitespace()).ok()?;
        if text.trim().is_empty() {
            return Ok(Value::Array(Vec::new()));
        }
        serde_json::from_str(&text).with_context(|| format!("ip -j {arguments}: not JSON"))
    }

    /// A script for `nft -f`, in one transaction.
    ///
    /// # Errors
    /// What `nft` says.
    pub fn nft(&self, script: &str) -> Result<()> {
        Run::new("nft").args(["-f", "-"]).stdin(script).ok_in(self).map(drop)
    }

    /// `nft -j list ...`, parsed; `what` are words separated by blanks.
    ///
    /// # Errors
    /// What `nft` says, or no JSON.
    pub fn nft_list(&self, what: &str) -> Result<Value> {
        let text = Run::new("nft").args(["-j", "list"]).args(what.split_whitespace()).ok_in(self)?;
        serde_json::from_str(&text).with_context(|| format!("nft -j list {what}: not JSON"))
    }

    /// Writes a kernel setting of this namespace; `key` is a path below `/proc/sys/net`.
    ///
    /// # Errors
    /// No such setting, or no permission.
    pub fn set_sysctl(&self, key: &str, value: &str) -> Result<()> {
        let path = format!("/proc/sys/net/{key}");
        self.run(|| std::fs::write(&path, value))?
            .with_context(|| format!("[{}] {path} = {value}", self.name))
    }

    /// Reads a kernel setting of this namespace; `key` is a path below `/proc/sys/net`.
    ///
    /// # Errors
    /// No such setting.
    pub fn sysctl(&self, key: &str) -> Result<String> {
        let path = format!("/proc/sys/net/{key}");
        let text = self
            .run(|| std::fs::read_to_string(&path))?
            .with_context(|| format!("[{}] {path}", self.name))?;
        Ok(text.trim().to_owned())
    }

    /// What the kernel says of one interface.
    ///
    /// # Errors
    /// There is none of this name.
    pub fn link(&self, ifname: &str) -> Result<Link> {
        let shown = self.ip_json(&format!("link show dev {ifname}"))?;
        let Some(entry) = shown.get(0) else { bail!("[{}] no interface {ifname}", self.name) };
        let mac = entry.get("address").and_then(Value::as_str).and_then(parse_mac);
        let index = entry.get("ifindex").and_then(Value::as_u64).and_then(|n| u32::try_from(n).ok());
        match (index, mac) {
            (Some(index), Some(mac)) => Ok(Link { index, mac }),
            _ => bail!("[{}] interface {ifname}: no index or hardware address in {entry}", self.name),
        }
    }
}

/// What it takes to send and capture on an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// Interface index, in its namespace.
    pub index: u32,
    /// Hardware address.
    pub mac: [u8; 6],
}

impl Drop for NetNs {
    fn drop(&mut self) {
        if self.delete_on_drop.load(Ordering::Relaxed) {
            // Nothing can be done about a failure here; the name says whose it was.
            let _ = Self::delete(&self.name);
        }
    }
}

/// `aa:bb:cc:dd:ee:ff` as bytes.
#[must_use]
pub fn parse_mac(text: &str) -> Option<[u8; 6]> {
    let mut mac = [0; 6];
    let mut parts = text.split(':');
    for byte in &mut mac {
        let part = parts.next().filter(|part| part.len() == 2)?;
        *byte = u8::from_str_radix(part, 16).ok()?;
    }
    parts.next().is_none().then_some(mac)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hardware_addresses_are_six_pairs_of_digits() {
        assert_eq!(parse_mac("02:00:5e:10:00:ff"), Some([2, 0, 0x5e, 0x10, 0, 0xff]));
        for wrong in ["", "02:00:5e:10:00", "02:00:5e:10:00:ff:01", "2:0:5e:10:0:ff", "02:00:5e:10:00:zz"] {
            assert_eq!(parse_mac(wrong), None, "{wrong}");
        }
    }
}
