//! A path that carries less than the uplinks say is no black hole.

use std::net::Ipv4Addr;

use harness::lab::NODE_UPLINK;
use harness::{RawSender, Underlay, wait_until};

use crate::site::{Pod, SOON, Site};
use crate::traffic::{ping_with, pings, transfer};

/// What fits through the router towards one of the nodes: less than the uplinks' 1500.
const PATH_BYTES: u32 = 1300;

/// Headers: outer IPv4, inner IPv4, ICMP.
const HEADERS_BYTES: usize = 48;

#[test]
fn a_narrow_path_is_found_out_and_used() {
    let site = Site::new(Underlay::Routed, 2);
    site.apply_pools(&[("pods", "10.244.0.0/22", "blockSize: 26, ipipMode: Always")]);
    site.seal(&["10.244.0.0/22"]);
    let nodes = site.start_all();
    let pods: Vec<Pod<'_>> = nodes.iter().map(|node| node.add(&["pods"])).collect();
    wait_until(SOON, "the first ping", || pings(&pods[0].netns, pods[1].address()));
    site.fabric.set_mtu_towards(site.at(2), PATH_BYTES).unwrap();

    // The router tells the node about the outer packet, and that reaches who sent the inner one.
    let to = pods[1].address();
    wait_until(SOON, "a transfer's first segments are told", || {
        let told = ping_with(&pods[0].netns, to, 1400, true);
        assert!(!told.answered, "{}", told.said);
        told.said.contains("too long") || told.said.contains("Frag needed")
    });
    let fits = PATH_BYTES as usize - HEADERS_BYTES;
    assert!(ping_with(&pods[0].netns, to, fits, true).answered, "{fits} bytes fit");
    transfer(&pods[0].netns, &pods[1].netns, to, 4 << 20);
    transfer(&pods[1].netns, &pods[0].netns, pods[0].address(), 4 << 20);
    // From the node itself too.
    transfer(nodes[0].netns(), &pods[1].netns, to, 1 << 20);
    site.assert_sealed();
}

#[test]
fn a_router_that_quotes_too_little_for_the_pod_to_be_told_has_the_route_lowered() {
    let site = Site::new(Underlay::Routed, 2);
    site.apply_pools(&[("pods", "10.244.0.0/22", "blockSize: 26, ipipMode: Always")]);
    site.seal(&["10.244.0.0/22"]);
    let nodes = site.start_all();
    let pods: Vec<Pod<'_>> = nodes.iter().map(|node| node.add(&["pods"])).collect();
    let to = pods[1].address();
    wait_until(SOON, "the first ping", || pings(&pods[0].netns, to));
    let (here, there) = (site.at(1), site.at(2));
    let [a, b, c, _] = here.ipv4.octets();
    let router = RawSender::new(&site.fabric.router, &here.port()).unwrap();
    let error = too_big(Ipv4Addr::new(a, b, c, 1), here.ipv4, there.ipv4);
    let mac = here.netns.link(NODE_UPLINK).unwrap().mac;
    router.send(&[&mac[..], &router.mac(), &[8, 0], &error].concat()).unwrap();

    // Nobody compares without a cause here: whatever is lowered was lowered because of this.
    let lowered = format!("mtu {}", PATH_BYTES - 20);
    wait_until(SOON, "the route is lowered", || {
        nodes[0].netns().ip("route show proto 80").unwrap().contains(&lowered)
    });
    let fits = PATH_BYTES as usize - HEADERS_BYTES;
    assert!(ping_with(&pods[0].netns, to, fits, true).answered, "{fits} bytes fit");
    let told = ping_with(&pods[0].netns, to, fits + 1, true);
    assert!(!told.answered, "{}", told.said);
    site.assert_sealed();
}

/// "Fragmentation needed" about a packet of protocol 4, with no more of it than its header and eight bytes (RFC 792).
fn too_big(router: Ipv4Addr, to: Ipv4Addr, about: Ipv4Addr) -> Vec<u8> {
    let quoted = ipv4(4, to, about, &[0x45, 0, 5, 0, 0, 0, 0, 0]);
    let [high, low] = u16::try_from(PATH_BYTES).unwrap().to_be_bytes();
    let mut icmp = [&[3, 4, 0, 0, 0, 0, high, low][..], &quoted].concat();
    let sum = checksum(&icmp).to_be_bytes();
    icmp[2..4].copy_from_slice(&sum);
    ipv4(1, router, to, &icmp)
}

fn ipv4(protocol: u8, from: Ipv4Addr, to: Ipv4Addr, payload: &[u8]) -> Vec<u8> {
    let [high, low] = u16::try_from(20 + payload.len()).unwrap().to_be_bytes();
    let mut header = vec![0x45, 0, high, low, 0, 0, 0, 0, 64, protocol, 0, 0];
    header.extend(from.octets());
    header.extend(to.octets());
    let sum = checksum(&header).to_be_bytes();
    header[10..12].copy_from_slice(&sum);
    [header, payload.to_vec()].concat()
}

/// Of RFC 1071, over an even number of bytes.
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks_exact(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap()
}
