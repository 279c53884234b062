//! What every pod's packets look like from outside: its mark by an nft rule on the node, its source and DSCP by a
//! capture at the firewall, the verdict by the firewall's counters.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use harness::lab::{FIREWALL_TO_NODE, OUTSIDE_IPV4};
use harness::packet::PROTOCOL_UDP;
use harness::{Capture, CountedElement, Direction, EchoServer, NetNs, counted_elements, udp_echo};
use serde_json::Value;

use super::outcome::PodSeen;
use super::stage::{NAME, Pod, Stage};

/// Each pod has a destination port of its own, from here on: behind the node's address nothing else tells them apart.
pub(super) const FIRST_PORT: u16 = 7001;

/// Datagrams of each pod.
pub(super) const DATAGRAMS_COUNT: usize = 5;

/// How long an echo is waited for. What the firewall drops costs this much.
pub(super) const ECHO_LIMIT: Duration = Duration::from_millis(100);

/// Lets every pod speak, and looks.
pub(super) fn pods(stage: &Stage<'_>) -> Result<Vec<PodSeen>> {
    let ports = (FIRST_PORT..).take(stage.pods.len());
    let _server = EchoServer::start(&stage.network.outside, ports.clone())?;
    let capture = Capture::start(&stage.network.firewall, FIREWALL_TO_NODE, Direction::In)?;
    let mut echoes = Vec::new();
    for (pod, port) in stage.pods.iter().zip(ports.clone()) {
        let outside = SocketAddr::from((OUTSIDE_IPV4, port));
        let payload = format!("{}/{}", pod.namespace, pod.name);
        let mut echoed_count = 0;
        for _ in 0..DATAGRAMS_COUNT {
            let echo = udp_echo(&pod.netns, outside, payload.as_bytes(), ECHO_LIMIT)
                .with_context(|| format!("traffic of {payload}"))?;
            echoed_count += usize::from(echo.is_some());
        }
        echoes.push(echoed_count);
        crate::interrupt::check()?;
    }
    let packets = capture.stop()?;
    let marks = counted(&stage.network.node, "seen")?;
    let accepted = counted(&stage.network.firewall, "accepted")?;
    let dropped = counted(&stage.network.firewall, "dropped")?;
    let mut seen = Vec::new();
    for ((pod, port), echoed_count) in stage.pods.iter().zip(ports).zip(echoes) {
        let of_pod = |packet: &&harness::Packet| {
            packet.ip.is_some_and(|ip| ip.protocol == PROTOCOL_UDP)
                && packet.ports.is_some_and(|(_, to)| to == port)
        };
        let headers: Vec<_> = packets.iter().filter(of_pod).filter_map(|packet| packet.ip).collect();
        let name = format!("{}/{}", pod.namespace, pod.name);
        ensure!(
            headers.len() == DATAGRAMS_COUNT,
            "{name}: {} of {DATAGRAMS_COUNT} packets at the firewall",
            headers.len()
        );
        ensure!(
            headers.iter().all(|ip| ip.checksum_holds),
            "{name}: a header checksum is wrong at the firewall"
        );
        let (pool, block) = pool_and_block(stage, pod.address)?;
        seen.push(PodSeen {
            pod: pod.name.clone(),
            namespace: pod.namespace.clone(),
            pool,
            block,
            address: pod.address,
            mark: mark_of(pod, &marks)?,
            dscp: only(headers.iter().map(harness::IpHeader::dscp))
                .with_context(|| format!("{name}: DSCP"))?,
            firewall_saw: only(headers.iter().map(|ip| ip.source))
                .with_context(|| format!("{name}: source"))?,
            firewall_verdict: verdict(port, &accepted, &dropped, echoed_count)
                .with_context(|| name.clone())?,
        });
    }
    Ok(seen)
}

/// What nft counted in one of the demo's sets.
pub(super) fn counted(netns: &NetNs, set: &str) -> Result<Vec<CountedElement>> {
    counted_elements(&netns.nft_list(&format!("set inet {NAME} {set}"))?)
}

/// The one value that all have.
pub(super) fn only<T: PartialEq + std::fmt::Debug>(mut values: impl Iterator<Item = T>) -> Result<T> {
    let first = values.next().context("nothing seen")?;
    match values.find(|value| *value != first) {
        None => Ok(first),
        Some(other) => bail!("not always the same: {first:?} and {other:?}"),
    }
}

/// The mark that nft counted for all of the pod's packets.
fn mark_of(pod: &Pod, marks: &[CountedElement]) -> Result<u32> {
    let address = pod.address.to_string();
    let of_pod = marks.iter().filter(|element| element.key.first() == Some(&address));
    let parsed: Vec<(u32, u64)> = of_pod
        .map(|element| {
            Ok((element.key.get(1).context("an element without a mark")?.parse()?, element.packets))
        })
        .collect::<Result<_>>()
        .with_context(|| format!("marks of {address}"))?;
    let mark = only(parsed.iter().map(|(mark, _)| *mark))
        .with_context(|| format!("marks of {address} on the node"))?;
    let packets: u64 = parsed.iter().map(|(_, packets)| packets).sum();
    ensure!(
        packets >= DATAGRAMS_COUNT as u64,
        "only {packets} packets of {address} were counted on the node"
    );
    Ok(mark)
}

/// What the firewall did with everything sent to this port; the echoes must agree.
pub(super) fn verdict(
    port: u16,
    accepted: &[CountedElement],
    dropped: &[CountedElement],
    echoed_count: usize,
) -> Result<&'static str> {
    let port = port.to_string();
    let count = |set: &[CountedElement]| -> usize {
        let packets: u64 =
            set.iter().filter(|element| element.key.get(1) == Some(&port)).map(|e| e.packets).sum();
        usize::try_from(packets).unwrap_or(usize::MAX)
    };
    match (count(accepted), count(dropped), echoed_count) {
        (DATAGRAMS_COUNT, 0, DATAGRAMS_COUNT) => Ok("accept"),
        (0, DATAGRAMS_COUNT, 0) => Ok("drop"),
        (accepted, dropped, echoed) => {
            bail!(
                "of {DATAGRAMS_COUNT} datagrams the firewall accepted {accepted}, dropped {dropped}; {echoed} came back"
            )
        }
    }
}

fn pool_and_block(stage: &Stage<'_>, address: IpAddr) -> Result<(String, String)> {
    let shown = stage.ctl.json(&["ipam", "show", "--ip", &address.to_string()])?;
    let text = |key: &str| {
        let found = shown.pointer(&format!("/addresses/0/{key}")).and_then(Value::as_str);
        found.map(str::to_owned).with_context(|| format!("ipam show --ip {address}: no {key} in {shown}"))
    };
    Ok((text("pool")?, text("block")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn element(port: u16, packets: u64) -> CountedElement {
        CountedElement { key: vec!["192.0.2.2".into(), port.to_string()], packets, bytes: 0 }
    }

    #[test]
    fn counters_and_echoes_must_agree_on_the_verdict() {
        let check =
            |accepted: &[CountedElement], dropped: &[CountedElement], echoed, expected: Option<&str>| {
                assert_eq!(verdict(7001, accepted, dropped, echoed).ok(), expected);
            };
        check(&[element(7001, 5)], &[element(7002, 5)], 5, Some("accept"));
        check(&[element(7002, 5)], &[element(7001, 3), element(7001, 2)], 0, Some("drop"));
        check(&[element(7001, 5)], &[], 4, None);
        check(&[element(7001, 4)], &[element(7001, 1)], 4, None);
        check(&[], &[], 0, None);
    }

    #[test]
    fn only_what_never_changes_is_one_value() {
        assert_eq!(only([7, 7, 7].into_iter()).unwrap(), 7);
        assert!(only([7, 8].into_iter()).is_err());
        assert!(only(std::iter::empty::<u8>()).is_err());
    }
}
