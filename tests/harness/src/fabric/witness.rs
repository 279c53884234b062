//! Counts what crosses the fabric, and drops what must not: packets with a pod's address that are not encapsulated.
//!
//! At the ingress hook of every port, so that switched and routed packets are seen alike, and before the fabric itself
//! does anything with them.

use anyhow::{Context, Result};
use serde_json::Value;

use super::Fabric;
use crate::{CountedElement, counted_elements};

/// The table, in the fabric's namespace.
const TABLE: &str = "witness";

/// What the witness does with a pod's address outside of protocol 4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leak {
    /// Counts and drops it: in mode Always it must not be there.
    Drop,
    /// Counts it: in mode Never it is what must be there.
    Pass,
}

/// What entered the fabric from nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Witnessed {
    /// Packets of protocol 4.
    pub encapsulated: u64,
    /// Packets with a pod's address, not encapsulated, but those to the outside.
    pub plain: u64,
    /// Packets of pods to the outside.
    pub to_outside: u64,
    /// Who sent those of `plain`, to whom, by which protocol.
    pub senders: Vec<CountedElement>,
}

impl Fabric {
    pub(super) fn start_witness(&self) -> Result<()> {
        self.witness(&[], Leak::Pass)
    }

    /// From here on these ranges (IPv4) are pods', and all counts begin anew.
    ///
    /// # Errors
    /// What `nft` says.
    pub fn witness(&self, pods: &[&str], leak: Leak) -> Result<()> {
        let ports: Vec<String> = self.nodes.iter().map(|node| format!("\"{}\"", node.port())).collect();
        let elements =
            if pods.is_empty() { String::new() } else { format!("elements = {{ {} }}", pods.join(", ")) };
        let verdict = if leak == Leak::Drop { "drop" } else { "accept" };
        let devices =
            if ports.is_empty() { String::new() } else { format!("devices = {{ {} }}", ports.join(", ")) };
        // Added and deleted first, so that it is one transaction whether or not there is one.
        self.router.nft(&format!(
            "add table netdev {TABLE}
             delete table netdev {TABLE}
             table netdev {TABLE} {{
                counter encapsulated {{ }}
                counter plain {{ }}
                counter to_outside {{ }}
                set pods {{ type ipv4_addr; flags interval; {elements} }}
                set senders {{ typeof ip saddr . ip daddr . ip protocol; flags dynamic; size 4096; }}
                chain leaked {{
                    counter name plain
                    update @senders {{ ip saddr . ip daddr . ip protocol counter }}
                    {verdict}
                }}
                chain ingress {{
                    type filter hook ingress {devices} priority 0;
                    ip protocol 4 counter name encapsulated accept
                    ip saddr @pods ip daddr 198.51.100.0/24 counter name to_outside accept
                    ip saddr @pods jump leaked
                    ip daddr @pods jump leaked
                }}
             }}
            "
        ))
    }

    /// What was seen since [`Fabric::witness`].
    ///
    /// # Errors
    /// What `nft` says.
    pub fn witnessed(&self) -> Result<Witnessed> {
        let listed = self.router.nft_list(&format!("counters table netdev {TABLE}"))?;
        let packets = |name: &str| -> Result<u64> {
            let objects =
                listed.get("nftables").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
            let counters = objects.iter().filter_map(|object| object.get("counter"));
            let found = counters
                .into_iter()
                .find(|counter| counter.get("name").and_then(Value::as_str) == Some(name));
            found
                .and_then(|counter| counter.get("packets")?.as_u64())
                .with_context(|| format!("no counter {name} in {listed}"))
        };
        let senders = counted_elements(&self.router.nft_list(&format!("set netdev {TABLE} senders"))?)?;
        Ok(Witnessed {
            encapsulated: packets("encapsulated")?,
            plain: packets("plain")?,
            to_outside: packets("to_outside")?,
            senders,
        })
    }
}
