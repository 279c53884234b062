//! The programs on the host's end of each pod's veth pair, and those on the uplinks to the other nodes.
//!
//! [`from_pod`] (ingress: what the pod sends) drops what is not the pod's to send, marks the rest with the tag
//! of its pool, rewrites the DSCP where the pool has one, and counts. [`to_pod`] (egress: what the pod
//! receives) counts.
//!
//! [`to_uplink`] (egress) puts an outer IPv4 header in front of what goes to a range of another node, if that range is
//! encapsulated. [`from_uplink`] (ingress) takes outer headers away, from known nodes and with inner sources of theirs
//! only, and tells the inner sender when the way to a node carries less than its packets. What they put on the wire is
//! what the kernel's ipip device puts there.
//!
//! All return `TCX_NEXT` for what passes, so that other programs on the device run too (-1 is also
//! `TC_ACT_UNSPEC`, which lets clsact go on to the next filter). What to decide is in `ebpf_common`, where it
//! is tested on the host; here is only what needs the kernel. Nothing here uses lightweight tunnels.
#![no_std]
#![no_main]
#![expect(
    missing_docs,
    unreachable_pub,
    reason = "the attribute of an entry point makes an item without them"
)]

mod maps;
mod skb;

use aya_ebpf::bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC};
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use ebpf_common::from_uplink::INNER_OFFSET;
use ebpf_common::path_mtu::RELAYED_LEN;
use ebpf_common::to_uplink::OUTER_LEN;
use ebpf_common::verdict::{Destination, ETHERNET_LEN, destination_of};
use ebpf_common::{
    DropReason, Endpoint, FromUplink, NEAR_LEN, PoolEntry, Source, ToUplink, Verdict, check_from_pod,
    check_from_uplink, check_to_uplink, claimed_source, dscp, mark,
};

use crate::maps::Kernel;
use crate::skb::Skb;

/// `TCX_NEXT`, -1, is not among the bindings; it is the same number on purpose (kernel commit e420bed02507).
const NEXT: i32 = TC_ACT_UNSPEC;

/// tc ingress of the host's end: judges, marks and counts what a pod sends.
#[classifier]
pub fn from_pod(context: TcContext) -> i32 {
    end(judge(&Skb::new(&context, NEAR_LEN)))
}

/// tc egress of the host's end: counts what a pod receives.
#[classifier]
pub fn to_pod(context: TcContext) -> i32 {
    let skb = Skb::new(&context, NEAR_LEN);
    let pool = match destination_of(&skb) {
        Destination::V4(address) => maps::pool_of_v4(address),
        Destination::V6(address) => maps::pool_of_v6(address),
        Destination::None => None,
    };
    if let Some(pool) = pool {
        maps::count_received(pool.tag, skb.wire_packets(), skb.frame_bytes());
    }
    NEXT
}

/// tc egress of an uplink: encapsulates what goes to other nodes' ranges.
#[classifier]
pub fn to_uplink(context: TcContext) -> i32 {
    let skb = Skb::new(&context, ETHERNET_LEN + OUTER_LEN);
    end(match check_to_uplink(&skb, skb.vlan_present(), &Kernel(&skb)) {
        ToUplink::Leave => Ok(()),
        ToUplink::Drop(reason) => Err(reason),
        ToUplink::Encapsulate(outer) => skb.encapsulate(ETHERNET_LEN, &outer),
    })
}

/// tc ingress of an uplink: checks and decapsulates what comes from other nodes.
#[classifier]
pub fn from_uplink(context: TcContext) -> i32 {
    let skb = Skb::new(&context, NEAR_LEN);
    end(match check_from_uplink(&skb, skb.vlan_present(), &Kernel(&skb)) {
        FromUplink::Leave => Ok(()),
        FromUplink::Drop(reason) => Err(reason),
        FromUplink::Count(reason) => {
            maps::count_reason(reason);
            Ok(())
        }
        FromUplink::Decapsulate { rewrite, count } => decapsulate(&skb, rewrite, count),
        FromUplink::RelayPathMtu(headers) => relay_path_mtu(&skb, &headers),
        FromUplink::KeepPathMtu { node, mtu_bytes } => {
            if maps::keep_path_mtu(node, mtu_bytes) {
                maps::count_reason(DropReason::PathMtuKept);
            }
            Ok(())
        }
    })
}

/// Counts a drop.
#[inline(always)]
fn end(result: Result<(), DropReason>) -> i32 {
    match result {
        Ok(()) => NEXT,
        Err(reason) => {
            maps::count_reason(reason);
            TC_ACT_SHOT
        }
    }
}

#[inline(always)]
fn decapsulate(
    skb: &Skb<'_>,
    rewrite: Option<[u8; dscp::IPV4_REWRITE_LEN]>,
    count: Option<DropReason>,
) -> Result<(), DropReason> {
    if let Some(head) = rewrite {
        skb.store(INNER_OFFSET, &head).map_err(|_| DropReason::Decapsulate)?;
    }
    if let Some(reason) = count {
        maps::count_reason(reason);
    }
    skb.decapsulate()
}

#[inline(always)]
fn relay_path_mtu(skb: &Skb<'_>, headers: &[u8; RELAYED_LEN]) -> Result<(), DropReason> {
    skb.cut_header()?;
    skb.store(ETHERNET_LEN, headers).map_err(|_| DropReason::Decapsulate)?;
    maps::count_reason(DropReason::PathMtuRelayed);
    Ok(())
}

#[inline(always)]
fn judge(skb: &Skb<'_>) -> Result<(), DropReason> {
    let endpoint = maps::endpoint(skb.ifindex()).ok_or(DropReason::NoEndpoint)?;
    let (endpoint, is_foreign) = speaking(skb, endpoint);
    let source = match check_from_pod(skb, skb.vlan_present(), &endpoint) {
        Verdict::Drop(reason) => return Err(reason),
        Verdict::Pass(source) => source,
    };
    // What a pod sends from another source is of no pool: no tag, no count, no masquerading.
    if is_foreign {
        clear_mark(skb);
        return Ok(());
    }
    let pool = match source {
        Source::Untagged => {
            clear_mark(skb);
            return Ok(());
        }
        Source::V4(address) => maps::pool_of_v4(address),
        Source::V6(address) => maps::pool_of_v6(address),
    };
    let Some(pool) = pool else {
        maps::count_reason(DropReason::NoPool);
        clear_mark(skb);
        return Ok(());
    };
    if let Some(wanted) = pool.wanted_dscp() {
        rewrite_dscp(skb, source, wanted)?;
    }
    set_mark(skb, pool);
    maps::count_sent(pool.tag, skb.wire_packets(), skb.frame_bytes());
    Ok(())
}

/// The pod as it may speak in this packet: from one of its further sources, if it has any and claims one.
#[inline(always)]
fn speaking(skb: &Skb<'_>, endpoint: Endpoint) -> (Endpoint, bool) {
    if endpoint.flags & Endpoint::HAS_MORE_SOURCES == 0 {
        return (endpoint, false);
    }
    let source = claimed_source(skb, &endpoint);
    if maps::allows_source(skb.ifindex(), source) {
        (endpoint.speaking_from(source), true)
    } else {
        (endpoint, false)
    }
}

#[inline(always)]
fn set_mark(skb: &Skb<'_>, pool: &PoolEntry) {
    if let Some(settings) = maps::settings() {
        skb.set_mark(mark::new_mark(skb.mark(), settings, pool));
    }
}

#[inline(always)]
fn clear_mark(skb: &Skb<'_>) {
    if let Some(settings) = maps::settings() {
        skb.set_mark(mark::cleared(skb.mark(), settings));
    }
}

#[inline(always)]
fn rewrite_dscp(skb: &Skb<'_>, source: Source, wanted: u8) -> Result<(), DropReason> {
    use ebpf_common::Packet;
    if let Source::V4(_) = source {
        let head = skb.load(ETHERNET_LEN).ok_or(DropReason::Truncated)?;
        dscp::rewrite_ipv4(head, wanted).map_or(Ok(()), |new| skb.store(ETHERNET_LEN, &new))
    } else {
        let head = skb.load(ETHERNET_LEN).ok_or(DropReason::Truncated)?;
        dscp::rewrite_ipv6(head, wanted).map_or(Ok(()), |new| skb.store(ETHERNET_LEN, &new))
    }
}

/// What the programs declare to the kernel. It is one of those that the kernel takes for compatible.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 7] = *b"GPL v2\0";

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
