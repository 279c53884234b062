//! Who holds an address: handles, workloads, and the identity an interface carries in the kernel.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use sha2::{Digest, Sha256};

use crate::{Cidr, Mac, MacError};

/// The longest container id accepted. The CNI specification sets no limit; runtimes use 64 hexadecimal digits.
pub const MAX_CONTAINER_ID_LEN: usize = 128;

/// The longest interface name the kernel takes (`IFNAMSIZ` less the terminating zero).
pub const MAX_IFNAME_LEN: usize = 15;

/// The longest `IFALIAS` the kernel takes from whoever ends it with a zero, as netlink libraries do: `ifla_policy`
/// bounds the attribute to `IFALIASZ - 1` bytes with it (on 6.18, 254 bytes pass and 255 are "out of range").
pub const MAX_ALIAS_LEN: usize = 254;

/// In place of a container's id where a node holds addresses itself.
const NODE_ITSELF: &str = "poolward-node";

/// The holder of addresses: one interface of one container. Freeing always needs it.
///
/// One text, `CONTAINERID/IFNAME`, which all copies share: a node keeps each handle in several places, and neither
/// part can have a `/` in it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Handle(Arc<str>);

/// Why a container id or interface name cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HandleError {
    /// CNI specification 1.1.0, "CNI_CONTAINERID".
    #[error(
        "container id {0:?}: expected 1 to {MAX_CONTAINER_ID_LEN} letters, digits, '_', '.' or '-', starting \
         with a letter or digit"
    )]
    ContainerId(String),
    /// CNI specification 1.1.0, "CNI_IFNAME", and the kernel's `dev_valid_name`.
    #[error(
        "interface name {0:?}: expected 1 to {MAX_IFNAME_LEN} bytes without '/', ':' or white space, and not \
         '.' or '..'"
    )]
    Ifname(String),
}

impl Handle {
    /// Checks both parts.
    ///
    /// # Errors
    /// A container id or an interface name that the CNI specification or the kernel would refuse.
    pub fn new(container_id: &str, ifname: &str) -> Result<Self, HandleError> {
        let id_ok = container_id.len() <= MAX_CONTAINER_ID_LEN
            && container_id.starts_with(|c: char| c.is_ascii_alphanumeric())
            && container_id.chars().all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c));
        if !id_ok {
            return Err(HandleError::ContainerId(container_id.to_owned()));
        }
        let name_ok = (1..=MAX_IFNAME_LEN).contains(&ifname.len())
            && ifname != "."
            && ifname != ".."
            && ifname.chars().all(|c| c.is_ascii_graphic() && c != '/' && c != ':');
        if !name_ok {
            return Err(HandleError::Ifname(ifname.to_owned()));
        }
        Ok(Self(format!("{container_id}/{ifname}").into()))
    }

    /// The node itself, for an address of its own. No runtime's: see [`Handle::is_of_node`].
    #[must_use]
    pub fn of_node() -> Self {
        Self(format!("{NODE_ITSELF}/inner").into())
    }

    /// Whether the node itself is meant, and not a container.
    #[must_use]
    pub fn is_of_node(&self) -> bool {
        self.container_id() == NODE_ITSELF
    }

    /// The container's id, as the runtime gave it.
    #[must_use]
    pub fn container_id(&self) -> &str {
        self.parts().0
    }

    /// The interface's name inside the container.
    #[must_use]
    pub fn ifname(&self) -> &str {
        self.parts().1
    }

    fn parts(&self) -> (&str, &str) {
        // There is always one.
        self.0.split_once('/').unwrap_or((&self.0, ""))
    }

    /// The name of the host's end of the veth pair: `pw` and 13 hexadecimal digits (52 bits) of
    /// SHA-256(container id, 0, interface name).
    ///
    /// The same handle always has the same name; whose interface it is, is decided by its alias alone.
    #[must_use]
    pub fn host_ifname(&self) -> String {
        let mut hash = Sha256::new();
        hash.update(self.container_id());
        hash.update([0]);
        hash.update(self.ifname());
        let digits: String = hash.finalize().iter().take(7).map(|byte| format!("{byte:02x}")).collect();
        format!("pw{}", &digits[..13])
    }
}

impl fmt::Display for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The Kubernetes side of a workload, for people and for choosing pools. Empty strings where the runtime is
/// not Kubernetes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Workload {
    /// Namespace of the pod.
    pub namespace: String,
    /// Name of the pod.
    pub pod: String,
    /// UID of the pod, if the runtime said it.
    pub uid: String,
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.pod.is_empty() { f.write_str("-") } else { write!(f, "{}/{}", self.namespace, self.pod) }
    }
}

/// What the host's end of a veth pair says of itself in its `IFALIAS`, so that allocations can be rebuilt from
/// the kernel alone and nothing foreign is ever touched.
///
/// ```text
/// poolward1;c=CONTAINERID;i=IFNAME;4=10.0.0.1;6=fd00::1;m=02:00:00:00:00:01;d=1;n=NETWORK;u=UID;p=NAMESPACE/POD
/// ```
/// Absent parts are left out. At most [`MAX_ALIAS_LEN`] bytes: the last part, which is for people only, is cut
/// and ends in `~` where it does not fit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Who holds the addresses.
    pub handle: Handle,
    /// IPv4 address, if any.
    pub ipv4: Option<Ipv4Addr>,
    /// IPv6 address, if any.
    pub ipv6: Option<Ipv6Addr>,
    /// Name of the CNI network (`name` of the network configuration), of which GC speaks.
    pub network: String,
    /// The pod.
    pub workload: Workload,
    /// What most pods do not have.
    pub extras: Extras,
}

/// What a pod has that most pods do not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Extras {
    /// The hardware address that was asked for; without one it follows from the handle.
    pub mac: Option<Mac>,
    /// Its addresses are another plugin's to give and to take back: only the interface is ours.
    pub delegated: bool,
    /// What it may send from besides its own addresses. Not in the alias, which has no room for it: rebuilt from the
    /// kernel alone, a pod may send from its own addresses only.
    pub allowed_sources: Vec<Cidr>,
}

/// Why an alias is not an [`Identity`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// Not one of ours at all.
    #[error("not an interface of Poolward")]
    Foreign,
    /// Ours by its first word, but the rest does not parse.
    #[error("alias {alias:?}: {reason}")]
    Malformed {
        /// The alias as read.
        alias: String,
        /// What is wrong with it.
        reason: String,
    },
}

const ALIAS_WORD: &str = "poolward1";

impl Identity {
    /// All addresses, IPv4 first.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> + use<> {
        self.ipv4.map(IpAddr::V4).into_iter().chain(self.ipv6.map(IpAddr::V6))
    }

    /// The text for `IFALIAS`.
    #[must_use]
    pub fn to_alias(&self) -> String {
        let mut alias = format!("{ALIAS_WORD};c={};i={}", self.handle.container_id(), self.handle.ifname());
        if let Some(ip) = self.ipv4 {
            alias += &format!(";4={ip}");
        }
        if let Some(ip) = self.ipv6 {
            alias += &format!(";6={ip}");
        }
        if let Some(mac) = self.extras.mac {
            alias += &format!(";m={mac}");
        }
        if self.extras.delegated {
            alias += ";d=1";
        }
        let for_people = [
            ("n", clean(&self.network)),
            ("u", clean(&self.workload.uid)),
            ("p", clean(&format!("{}/{}", self.workload.namespace, self.workload.pod))),
        ];
        for (key, text) in for_people {
            let part = format!(";{key}={text}");
            if text.is_empty() || text == "/" {
                continue;
            }
            if alias.len() + part.len() <= MAX_ALIAS_LEN {
                alias += &part;
            } else {
                let room = MAX_ALIAS_LEN.saturating_sub(alias.len() + 1);
                if room > 4 {
                    alias += &part[..room];
                    alias.push('~');
                }
                break;
            }
        }
        alias
    }

    /// Reads the text of an `IFALIAS` back.
    ///
    /// # Errors
    /// [`IdentityError::Foreign`] when the alias does not begin with our word; [`IdentityError::Malformed`]
    /// when it does but a part is unknown or wrong.
    pub fn parse_alias(alias: &str) -> Result<Self, IdentityError> {
        let mut parts = alias.split(';');
        if parts.next() != Some(ALIAS_WORD) {
            return Err(IdentityError::Foreign);
        }
        let malformed = |reason: String| IdentityError::Malformed { alias: alias.to_owned(), reason };
        let (mut container_id, mut ifname, mut ipv4, mut ipv6) = (None, None, None, None);
        let (mut network, mut workload) = (String::new(), Workload::default());
        let mut extras = Extras::default();
        for part in parts {
            let (key, value) =
                part.split_once('=').ok_or_else(|| malformed(format!("part {part:?} has no '='")))?;
            match key {
                "c" => container_id = Some(value),
                "i" => ifname = Some(value),
                "4" => ipv4 = Some(value.parse().map_err(|_| malformed(format!("{value:?} is not IPv4")))?),
                "6" => ipv6 = Some(value.parse().map_err(|_| malformed(format!("{value:?} is not IPv6")))?),
                "m" => {
                    extras.mac = Some(value.parse().map_err(|error: MacError| malformed(error.to_string()))?);
                }
                "d" => extras.delegated = value == "1",
                "n" => value.clone_into(&mut network),
                "u" => value.clone_into(&mut workload.uid),
                "p" => {
                    let (namespace, pod) = value.split_once('/').unwrap_or((value, ""));
                    namespace.clone_into(&mut workload.namespace);
                    pod.clone_into(&mut workload.pod);
                }
                _ => return Err(malformed(format!("unknown part {key:?}"))),
            }
        }
        let missing = |what: &str| malformed(format!("no {what}"));
        let handle = Handle::new(
            container_id.ok_or_else(|| missing("container id"))?,
            ifname.ok_or_else(|| missing("interface name"))?,
        )
        .map_err(|error| malformed(error.to_string()))?;
        Ok(Self { handle, ipv4, ipv6, network, workload, extras })
    }
}

/// Printable ASCII without our separator, so that a foreign text can neither forge nor break a part.
fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_ascii_graphic() && c != ';' { c } else { '_' }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity() -> Identity {
        Identity {
            handle: Handle::new(&"c".repeat(64), "eth0").unwrap(),
            ipv4: Some(Ipv4Addr::new(10, 0, 0, 1)),
            ipv6: Some("fd00::1".parse().unwrap()),
            network: "poolward".into(),
            workload: Workload { namespace: "external-ns".into(), pod: "web-1".into(), uid: "u-1".into() },
            extras: Extras::default(),
        }
    }

    #[test]
    fn an_alias_brings_the_identity_back() {
        let check = |identity: Identity| {
            assert_eq!(Identity::parse_alias(&identity.to_alias()), Ok(identity));
        };
        check(identity());
        check(Identity { ipv4: None, ..identity() });
        let mac = Some(Mac([2, 0, 0, 0, 0, 1]));
        check(Identity { extras: Extras { mac, delegated: true, ..Extras::default() }, ..identity() });
        check(Identity { ipv6: None, network: String::new(), workload: Workload::default(), ..identity() });
    }

    #[test]
    fn a_long_pod_name_is_cut_and_the_rest_survives() {
        let mut long = identity();
        long.workload.pod = "p".repeat(253);
        let alias = long.to_alias();
        assert_eq!(alias.len(), MAX_ALIAS_LEN);
        assert!(alias.ends_with("p~"));
        let read = Identity::parse_alias(&alias).unwrap();
        assert_eq!((read.handle, read.ipv4, read.ipv6), (long.handle, long.ipv4, long.ipv6));
    }

    #[test]
    fn the_longest_handle_leaves_room_for_both_addresses() {
        let mut wide = identity();
        wide.handle = Handle::new(&"c".repeat(MAX_CONTAINER_ID_LEN), "abcdefghijklmno").unwrap();
        wide.ipv4 = Some(Ipv4Addr::new(255, 255, 255, 255));
        wide.ipv6 = Some("fd00:1111:2222:3333:4444:5555:6666:7777".parse().unwrap());
        wide.extras = Extras { mac: Some(Mac([0xfe; 6])), delegated: true, ..Extras::default() };
        let read = Identity::parse_alias(&wide.to_alias()).unwrap();
        assert_eq!((read.handle, read.ipv4, read.ipv6), (wide.handle, wide.ipv4, wide.ipv6));
        assert_eq!(read.extras, wide.extras);
    }

    #[test]
    fn foreign_and_broken_aliases_are_told_apart() {
        assert_eq!(Identity::parse_alias("uplink to rack 7"), Err(IdentityError::Foreign));
        assert_eq!(Identity::parse_alias(""), Err(IdentityError::Foreign));
        for broken in
            ["poolward1", "poolward1;c=a", "poolward1;c=a;i=b;4=x", "poolward1;c=a;i=b;z=1", "poolward1;c"]
        {
            assert!(
                matches!(Identity::parse_alias(broken), Err(IdentityError::Malformed { .. })),
                "{broken}"
            );
        }
    }

    #[test]
    fn handles_refuse_what_the_specification_and_the_kernel_refuse() {
        for (id, ifname) in [("abc123", "eth0"), ("a.b-c_d", "net1"), (&"f".repeat(128), "123456789012345")] {
            assert!(Handle::new(id, ifname).is_ok(), "{id} {ifname}");
        }
        for id in ["", "-a", "a/b", "../a", "a b", "ä", &"f".repeat(129)] {
            assert!(matches!(Handle::new(id, "eth0"), Err(HandleError::ContainerId(_))), "{id:?}");
        }
        for ifname in ["", ".", "..", "a/b", "a:b", "a b", "1234567890123456", "eth\n0"] {
            assert!(matches!(Handle::new("a", ifname), Err(HandleError::Ifname(_))), "{ifname:?}");
        }
    }

    #[test]
    fn host_names_fit_and_differ_by_interface() {
        let name = |ifname| Handle::new("abc", ifname).unwrap().host_ifname();
        assert_eq!(name("eth0").len(), MAX_IFNAME_LEN);
        assert_eq!(name("eth0"), name("eth0"));
        assert_ne!(name("eth0"), name("eth1"));
    }
}
