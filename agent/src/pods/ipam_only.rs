//! CNI ADD as the IPAM of another main plugin: addresses, and no interface.
//!
//! Journal, leaks and GC are as for any pod; that it lives is known by its network namespace alone. Nothing of ours sees
//! its packets: no tag, no mark, no check of sources. Blocks that such a pod has an address of get no blackhole route,
//! because how they are reached on this node is the other plugin's business.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use ipam::Pool;
use model::Family;
use rpc::{AssignedAddress, AssignedReply, IpamAddRequest};
use store::Store;
use tokio_util::sync::CancellationToken;
use tracing::info;

use super::Pods;
use super::add::{Begun, cancelled, kept_nothing, number_of};
use super::netns::Netns;
use crate::answer::{Answer, internal, invalid, try_again};
use crate::journal::ForeignMark;
use crate::node::pod::{Pod, Wired};

impl<S: Store> Pods<S> {
    /// Serves an ADD of addresses alone.
    ///
    /// # Errors
    /// Refused or failed: nothing of it is left.
    pub async fn ipam_add(
        &self,
        request: IpamAddRequest,
        netns: Option<OwnedFd>,
        cancel: CancellationToken,
    ) -> Answer<AssignedReply> {
        let Begun { handle, netns, turn: _turn } = self.begin(&request.add, netns, &cancel).await?;
        let held = self.node.ledger().pod(&handle).cloned();
        if let Some(pod) = held {
            let same = pod.foreign_interface && pod.wired.is_some() && pod.netns == Some(netns.id());
            if same {
                return self.assigned_reply(&pod, &request);
            }
            info!(%handle, "an ADD again that wants something else: made anew");
            self.remove(&handle).await?;
        }
        let pod = self.assign(&handle, &request.add, &netns, true, &cancel).await?;
        let promised = self.promise(&pod, &request, &netns, &cancel).await;
        if promised.is_err() {
            self.take_back(&handle).await;
        }
        promised
    }

    /// From the assignment to the commit.
    async fn promise(
        &self,
        pod: &Pod,
        request: &IpamAddRequest,
        netns: &Arc<Netns>,
        cancel: &CancellationToken,
    ) -> Answer<AssignedReply> {
        let reply = self.assigned_reply(pod, request)?;
        let (dataplane, shown) = (self.node.dataplane.clone(), netns.clone());
        let nsid = self.node.blocking(move || number_of(&dataplane, &shown)).await.map_err(internal)?;
        // The last moment at which all of it can be as if it had never been.
        if cancel.is_cancelled() {
            return Err(cancelled(pod.handle()));
        }
        ForeignMark::new(&self.node.config.state_dir).set().map_err(try_again)?;
        let wired = Wired {
            host_mac: String::new(),
            pod_mac: String::new(),
            mtu_bytes: 0,
            nsid,
            at: self.node.now(),
        };
        self.node.ledger().commit(pod.handle(), wired, netns.id()).map_err(|error| kept_nothing(&error))?;
        // The block's blackhole route goes.
        self.node.reconciler.want();
        info!(handle = %pod.handle(), pod = %pod.identity.workload, addresses = ?pod.identity.addresses().collect::<Vec<_>>(), "assigned for another plugin");
        Ok(reply)
    }

    fn assigned_reply(&self, pod: &Pod, request: &IpamAddRequest) -> Answer<AssignedReply> {
        let view = self.node.world.view();
        let mut addresses = Vec::new();
        for (address, name) in pod.addresses() {
            let pool = view.pools.by_name(name);
            let is_kept = |kept: IpAddr| view.reservations.contains(kept);
            let prefix_len = if address.is_ipv4() { 32 } else { 128 };
            let mut assigned = AssignedAddress { address, prefix_len, gateway: None, pool: name.to_string() };
            if request.on_link {
                let pool = pool.ok_or_else(|| internal(format!("pool {name} of {address} is gone")))?;
                let gateway = gateway_of(pool, request.gateways.as_deref());
                check_on_link(pool, gateway, is_kept).map_err(invalid)?;
                (assigned.prefix_len, assigned.gateway) = (pool.cidr.prefix_len(), gateway);
            }
            addresses.push(assigned);
        }
        Ok(AssignedReply { addresses })
    }
}

/// The next hop of a pool's family: the one that is given, or as `host-local` has it the second address of the range.
fn gateway_of(pool: &Pool, given: Option<&[IpAddr]>) -> Option<IpAddr> {
    match given {
        Some(given) => given.iter().copied().find(|gateway| Family::of(*gateway) == pool.family()),
        None => match pool.cidr.network() {
            IpAddr::V4(first) => Some(Ipv4Addr::from(u32::from(first) | 1).into()),
            IpAddr::V6(first) => Some(Ipv6Addr::from(u128::from(first) | 1).into()),
        },
    }
}

/// Where all of a pool is on the link, some of its addresses are nobody's to have: the first one (of IPv6 the routers'
/// anycast address), the last one of an IPv4 range, and the gateway. Blocks know nothing of that, so reservations have to
/// keep them.
fn check_on_link(
    pool: &Pool,
    gateway: Option<IpAddr>,
    is_kept: impl Fn(IpAddr) -> bool,
) -> Result<(), String> {
    let cidr = pool.cidr;
    let is_link = cidr.prefix_len() + 1 < cidr.family().address_bits();
    let last = Some(cidr.last()).filter(|_| pool.family() == Family::V4);
    let edges = [Some(cidr.network()), last].into_iter().flatten().filter(|_| is_link);
    let special = edges.chain(gateway.filter(|gateway| cidr.contains(*gateway)));
    let free: Vec<String> = special.filter(|address| !is_kept(*address)).map(|a| a.to_string()).collect();
    if free.is_empty() {
        return Ok(());
    }
    Err(format!(
        "pool {} ({cidr}) is to be on the link, and pods might get {}: keep them back by an IPReservation",
        pool.name,
        free.join(", ")
    ))
}

#[cfg(test)]
mod tests {
    use ipam::PoolSpec;

    use super::*;

    #[test]
    fn a_gateway_is_the_one_given_or_the_second_address() {
        let check = |cidr: &str, given: Option<&[&str]>, expected: Option<&str>| {
            let pool = Pool::new(PoolSpec::new("p".parse().unwrap(), cidr.parse().unwrap())).unwrap();
            let given: Option<Vec<IpAddr>> =
                given.map(|g| g.iter().map(|text| text.parse().unwrap()).collect());
            let found = gateway_of(&pool, given.as_deref());
            assert_eq!(found, expected.map(|text| text.parse().unwrap()), "{cidr} {given:?}");
        };
        check("10.0.0.16/28", None, Some("10.0.0.17"));
        check("fd00:1::/64", None, Some("fd00:1::1"));
        check("10.0.0.16/28", Some(&["fd00::9", "10.0.0.30"]), Some("10.0.0.30"));
        check("10.0.0.16/28", Some(&[]), None);
    }

    #[test]
    fn on_a_link_the_edges_of_a_range_and_the_gateway_must_be_reserved() {
        let check = |cidr: &str, gateway: Option<&str>, kept: &[&str], expected: Option<&str>| {
            let spec = PoolSpec::new("p".parse().unwrap(), cidr.parse().unwrap());
            let pool = Pool::new(spec).unwrap();
            let kept: Vec<IpAddr> = kept.iter().map(|text| text.parse().unwrap()).collect();
            let gateway = gateway.map(|text| text.parse().unwrap());
            let found = check_on_link(&pool, gateway, |address| kept.contains(&address)).err();
            match expected {
                None => assert_eq!(found, None, "{cidr}"),
                Some(words) => {
                    assert!(found.as_ref().is_some_and(|f| f.contains(words)), "{cidr}: {found:?}");
                }
            }
        };
        let edges = ["10.0.0.0", "10.0.0.255"];
        check("10.0.0.0/24", None, &[], Some("10.0.0.0, 10.0.0.255:"));
        check("10.0.0.0/24", None, &edges, None);
        check("10.0.0.0/24", Some("10.0.0.1"), &edges, Some("might get 10.0.0.1:"));
        check("10.0.0.0/24", Some("10.0.0.1"), &["10.0.0.0", "10.0.0.1", "10.0.0.255"], None);
        check("10.0.0.0/24", Some("192.0.2.1"), &edges, None);
        check("fd00::/120", Some("fd00::1"), &[], Some("fd00::, fd00::1:"));
        check("fd00::/120", Some("fd00::1"), &["fd00::", "fd00::1"], None);
        // Of a range of two there is nothing to keep.
        check("10.0.0.0/31", None, &[], None);
    }
}
