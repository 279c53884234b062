//! Encapsulation modes and the MTU arithmetic that follows from them.

use std::fmt;
use std::str::FromStr;

/// When traffic between nodes is wrapped in IPIP (protocol 4, RFC 2003); the words are Calico's `ipipMode`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum IpipMode {
    /// Never: the underlay routes pod addresses.
    #[default]
    Never,
    /// Only towards nodes outside the uplink's own prefix.
    CrossSubnet,
    /// Towards every other node.
    Always,
}

impl IpipMode {
    /// Whether any packet of such a pool may be encapsulated.
    #[must_use]
    pub fn may_encapsulate(self) -> bool {
        self != Self::Never
    }
}

impl fmt::Display for IpipMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Never => "Never",
            Self::CrossSubnet => "CrossSubnet",
            Self::Always => "Always",
        })
    }
}

impl FromStr for IpipMode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "Never" => Ok(Self::Never),
            "CrossSubnet" => Ok(Self::CrossSubnet),
            "Always" => Ok(Self::Always),
            _ => Err(format!("{text:?} is not an ipipMode: expected Never, CrossSubnet or Always")),
        }
    }
}

/// Bytes of the outer IPv4 header that IPIP adds (RFC 2003, no options).
pub const IPIP_OVERHEAD_BYTES: u32 = 20;

/// The least MTU an interface that carries IPv6 may have (RFC 8200 §5).
pub const MIN_MTU_BYTES: u32 = 1280;

/// The MTU of a workload's interface: the uplink's, less what encapsulation adds when any pool of the
/// workload's addresses may encapsulate.
///
/// Never below [`MIN_MTU_BYTES`] unless the uplink itself is.
#[must_use]
pub fn workload_mtu_bytes(uplink_mtu_bytes: u32, modes: impl IntoIterator<Item = IpipMode>) -> u32 {
    if modes.into_iter().any(IpipMode::may_encapsulate) {
        uplink_mtu_bytes.saturating_sub(IPIP_OVERHEAD_BYTES).max(MIN_MTU_BYTES.min(uplink_mtu_bytes))
    } else {
        uplink_mtu_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_pools_that_may_encapsulate_cost_mtu() {
        let check = |uplink, modes: &[IpipMode], expected| {
            assert_eq!(workload_mtu_bytes(uplink, modes.iter().copied()), expected, "{uplink} {modes:?}");
        };
        check(1500, &[], 1500);
        check(1500, &[IpipMode::Never], 1500);
        check(1500, &[IpipMode::Always], 1480);
        check(1500, &[IpipMode::Never, IpipMode::CrossSubnet], 1480);
        check(9000, &[IpipMode::Always], 8980);
        check(1290, &[IpipMode::Always], 1280);
        check(600, &[IpipMode::Always], 600);
    }
}
