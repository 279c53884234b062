//! What the demo saw: the table, the JSON, and whether it is what was promised.

use std::net::IpAddr;
use std::path::Path;

use anyhow::{Context, Result};
use harness::lab::NODE_IPV4;
use serde::Serialize;

use super::stage::{ACCEPTED_NAMESPACE, ACCEPTED_POOL, PoolRange};
use crate::report::Table;

/// All of it. Field names are those of `--json`.
#[derive(Debug, Serialize)]
pub(super) struct Outcome {
    /// One per pod.
    pub(super) pods: Vec<PodSeen>,
    /// The pod that claims another's address.
    pub(super) spoof: SpoofSeen,
}

/// A pod, and what its packets looked like outside.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct PodSeen {
    /// Name.
    pub(super) pod: String,
    /// Namespace.
    pub(super) namespace: String,
    /// The pool its address is from.
    pub(super) pool: String,
    /// The block its address is from.
    pub(super) block: String,
    /// Its address.
    pub(super) address: IpAddr,
    /// `skb->mark` of its packets on the node, as nft counted them.
    pub(super) mark: u32,
    /// DSCP of its packets at the firewall, as captured.
    pub(super) dscp: u8,
    /// Source of its packets at the firewall, as captured.
    pub(super) firewall_saw: IpAddr,
    /// `accept` or `drop`, by the firewall's counters.
    pub(super) firewall_verdict: &'static str,
}

/// The attempt to send under another pod's address.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct SpoofSeen {
    /// Frames sent, in each of the two runs.
    pub(super) attempted: u64,
    /// By how much the node's drop counters rose.
    pub(super) dropped: u64,
    /// Frames captured at the firewall.
    pub(super) captured: u64,
    /// Frames captured at the firewall in the control run.
    pub(super) captured_without_program: u64,
    /// Who claimed what, for people.
    #[serde(skip)]
    pub(super) story: String,
}

impl Outcome {
    /// For people.
    pub(super) fn render(&self) -> String {
        let mut table = Table::new(&[
            "POD",
            "NAMESPACE",
            "POOL",
            "BLOCK",
            "ADDRESS",
            "MARK",
            "DSCP",
            "FIREWALL SAW",
            "FIREWALL",
        ]);
        for pod in &self.pods {
            table.row([
                pod.pod.clone(),
                pod.namespace.clone(),
                pod.pool.clone(),
                pod.block.clone(),
                pod.address.to_string(),
                format!("{:#010x}", pod.mark),
                pod.dscp.to_string(),
                pod.firewall_saw.to_string(),
                pod.firewall_verdict.to_owned(),
            ]);
        }
        let mut spoof =
            Table::new(&["CLAIMED SOURCES", "SENT", "DROPPED ON THE NODE", "SEEN BY THE FIREWALL"]);
        let SpoofSeen { attempted, dropped, captured, captured_without_program, .. } = self.spoof;
        let row = |what: &str, dropped: String, captured: u64| {
            [what.to_owned(), attempted.to_string(), dropped, captured.to_string()]
        };
        spoof.row(row("as it is", dropped.to_string(), captured));
        spoof.row(row("program detached", "-".to_owned(), captured_without_program));
        format!("{}\n  {}\n{}", table.render(), self.spoof.story, spoof.render())
    }

    /// For programs.
    pub(super) fn write_json(&self, path: &Path) -> Result<()> {
        let mut text = serde_json::to_string_pretty(self).context("the demo's result as JSON")?;
        text.push('\n');
        std::fs::write(path, text).with_context(|| format!("write {}", path.display()))
    }

    /// What is not as the walkthrough promises; empty when all is.
    pub(super) fn broken_promises(&self, ranges: &[PoolRange]) -> Vec<String> {
        let mut broken = Vec::new();
        let mut promise = |holds: bool, what: String| {
            if !holds {
                broken.push(what);
            }
        };
        promise(self.pods.len() == 6, format!("six pods, not {}", self.pods.len()));
        for pod in &self.pods {
            let name = &pod.pod;
            let Some(range) = ranges.iter().find(|range| range.name == pod.pool) else {
                promise(false, format!("{name} has an address of {:?}, which is not exported", pod.pool));
                continue;
            };
            let expected_pool =
                if pod.namespace == ACCEPTED_NAMESPACE { ACCEPTED_POOL } else { "internal-pool" };
            promise(
                pod.pool == expected_pool,
                format!("{name} has an address of {}, not of {expected_pool}", pod.pool),
            );
            let saw = if range.nat_outgoing { NODE_IPV4.into() } else { pod.address };
            promise(
                pod.firewall_saw == saw,
                format!("the firewall saw {name} as {}, not as {saw}", pod.firewall_saw),
            );
            let verdict = if pod.pool == ACCEPTED_POOL { "accept" } else { "drop" };
            let is = pod.firewall_verdict;
            promise(is == verdict, format!("the firewall's verdict on {name} is {is}, not {verdict}"));
            let dscp = range.dscp.unwrap_or(0);
            promise(u64::from(pod.dscp) == dscp, format!("{name} carries DSCP {}, not {dscp}", pod.dscp));
            promise(pod.mark != 0, format!("{name} carries no mark"));
            let others = self.pods.iter().filter(|other| other.pod != *name);
            for other in others.clone() {
                let same = (other.mark == pod.mark) == (other.pool == pod.pool);
                promise(same, format!("marks of {name} and {} do not follow their pools", other.pod));
                promise(other.address != pod.address, format!("{name} and {} share an address", other.pod));
            }
        }
        let SpoofSeen { attempted, dropped, captured, captured_without_program, .. } = self.spoof;
        promise(attempted > 0, "no packet claimed another pod's address".to_owned());
        promise(
            dropped == attempted,
            format!("{dropped} of {attempted} packets with claimed sources were dropped"),
        );
        promise(captured == 0, format!("the firewall saw {captured} packets with claimed sources"));
        promise(
            captured_without_program == attempted,
            format!(
                "with the program detached the firewall saw {captured_without_program} of {attempted}: no proof"
            ),
        );
        broken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges() -> Vec<PoolRange> {
        let range = |name: &str, cidr: &str, dscp, nat_outgoing| PoolRange {
            name: name.into(),
            cidr: cidr.into(),
            dscp,
            nat_outgoing,
        };
        vec![
            range("external-pool", "10.244.0.0/26", Some(46), false),
            range("internal-pool", "10.244.0.64/26", None, true),
        ]
    }

    fn as_promised() -> Outcome {
        let pod = |number: u8, external: bool| {
            let address: IpAddr =
                if external { [10, 244, 0, number] } else { [10, 244, 0, 64 + number] }.into();
            PodSeen {
                pod: format!("{}-{number}", if external { "external" } else { "internal" }),
                namespace: if external { "external-ns" } else { "internal-ns" }.into(),
                pool: if external { "external-pool" } else { "internal-pool" }.into(),
                block: if external { "10.244.0.0/29" } else { "10.244.0.64/29" }.into(),
                address,
                mark: if external { 0x10000 } else { 0x0802_0000 },
                dscp: if external { 46 } else { 0 },
                firewall_saw: if external { address } else { NODE_IPV4.into() },
                firewall_verdict: if external { "accept" } else { "drop" },
            }
        };
        Outcome {
            pods: (0..3).map(|n| pod(n, true)).chain((0..3).map(|n| pod(n, false))).collect(),
            spoof: SpoofSeen {
                attempted: 20,
                dropped: 20,
                captured: 0,
                captured_without_program: 20,
                story: String::new(),
            },
        }
    }

    #[test]
    fn the_walkthrough_as_promised_breaks_nothing() {
        assert_eq!(as_promised().broken_promises(&ranges()), Vec::<String>::new());
    }

    #[test]
    fn every_promise_can_be_broken() {
        let check = |spoil: fn(&mut Outcome), expected: &str| {
            let mut outcome = as_promised();
            spoil(&mut outcome);
            let broken = outcome.broken_promises(&ranges());
            assert!(broken.iter().any(|text| text.contains(expected)), "{expected}: {broken:?}");
        };
        check(|o| drop(o.pods.pop()), "six pods, not 5");
        check(|o| o.pods[0].pool = "internal-pool".into(), "not of external-pool");
        check(|o| o.pods[0].pool = "other".into(), "not exported");
        check(|o| o.pods[0].firewall_saw = NODE_IPV4.into(), "saw external-0 as 192.0.2.2");
        check(|o| o.pods[3].firewall_saw = o.pods[3].address, "saw internal-0 as 10.244.0.64");
        check(|o| o.pods[3].firewall_verdict = "accept", "verdict on internal-0 is accept");
        check(|o| o.pods[1].dscp = 0, "external-1 carries DSCP 0");
        check(|o| o.pods[1].mark = 0, "external-1 carries no mark");
        check(|o| o.pods[4].mark = 0x10000, "do not follow their pools");
        check(|o| o.pods[1].address = o.pods[0].address, "share an address");
        check(|o| o.spoof.attempted = 0, "no packet claimed");
        check(|o| o.spoof.dropped = 19, "19 of 20");
        check(|o| o.spoof.captured = 1, "saw 1 packets");
        check(|o| o.spoof.captured_without_program = 0, "no proof");
    }

    #[test]
    fn the_json_has_the_names_that_others_read() {
        let value = serde_json::to_value(as_promised()).unwrap();
        let keys = |value: &serde_json::Value| -> Vec<String> {
            value.as_object().unwrap().keys().cloned().collect()
        };
        let mut expected = vec![
            "pod",
            "namespace",
            "pool",
            "block",
            "address",
            "mark",
            "dscp",
            "firewallSaw",
            "firewallVerdict",
        ];
        expected.sort_unstable();
        let mut found = keys(&value["pods"][0]);
        found.sort_unstable();
        assert_eq!(found, expected);
        let mut found = keys(&value["spoof"]);
        found.sort_unstable();
        assert_eq!(found, ["attempted", "captured", "capturedWithoutProgram", "dropped"]);
        let mut found = keys(&value);
        found.sort_unstable();
        assert_eq!(found, ["pods", "spoof"]);
    }
}
