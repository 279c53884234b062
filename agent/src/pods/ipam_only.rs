//! CNI ADD as the IPAM of another main plugin: addresses, and no interface.
//!
//! Journal, leaks and GC are as for any pod; that it lives is known by its network namespace alone. Nothing of ours sees
//! its packets: no tag, no mark, no check of sources. Blocks that such a pod has an address of get no blackhole route,
//! because how they are reached on this node is the other plugin's business.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use ipam::Pool;
use model::{Cidr, Family};
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
        let subnets = subnets_of(&request.subnets).map_err(invalid)?;
        let view = self.node.world.view();
        let mut addresses = Vec::new();
        for (address, name) in pod.addresses() {
            let pool = view.pools.by_name(name);
            let is_kept = |kept: IpAddr| view.reservations.contains(kept);
            let prefix_len = if address.is_ipv4() { 32 } else { 128 };
            let mut assigned = AssignedAddress { address, prefix_len, gateway: None, pool: name.to_string() };
            if request.on_link {
                let pool = pool.ok_or_else(|| internal(format!("pool {name} of {address} is gone")))?;
                let link = link_of(pool, &subnets).map_err(invalid)?;
                let gateway = gateway_of(&link, request.gateways.as_deref());
                check_on_link(pool, &link, gateway, is_kept).map_err(invalid)?;
                (assigned.prefix_len, assigned.gateway) = (link.prefix_len(), gateway);
            }
            addresses.push(assigned);
        }
        Ok(AssignedReply { addresses })
    }
}

/// What is on the link, as the network configuration has it: at most one range of each family.
fn subnets_of(texts: &[String]) -> Result<Vec<Cidr>, String> {
    let mut subnets: Vec<Cidr> = Vec::new();
    for text in texts {
        let subnet: Cidr = text.parse().map_err(|error| format!("ipam.subnets: {error}"))?;
        if subnets.iter().any(|other| other.family() == subnet.family()) {
            return Err(format!("ipam.subnets: {subnet}: a second one of its family"));
        }
        subnets.push(subnet);
    }
    Ok(subnets)
}

/// What is on the link of a pool's pods: the subnet of its family, of which the pool is a part, or else the pool itself.
fn link_of(pool: &Pool, subnets: &[Cidr]) -> Result<Cidr, String> {
    match subnets.iter().find(|subnet| subnet.family() == pool.family()) {
        None => Ok(pool.cidr),
        Some(subnet) if subnet.covers(&pool.cidr) => Ok(*subnet),
        Some(subnet) => {
            Err(format!("ipam.subnets: {subnet}: pool {} ({}) is no part of it", pool.name, pool.cidr))
        }
    }
}

/// The next hop of a link's family: the one that is given, or as `host-local` has it the second address of the range.
fn gateway_of(link: &Cidr, given: Option<&[IpAddr]>) -> Option<IpAddr> {
    match given {
        Some(given) => given.iter().copied().find(|gateway| Family::of(*gateway) == link.family()),
        None => match link.network() {
            IpAddr::V4(first) => Some(Ipv4Addr::from(u32::from(first) | 1).into()),
            IpAddr::V6(first) => Some(Ipv6Addr::from(u128::from(first) | 1).into()),
        },
    }
}

/// Some addresses on a link are nobody's to have: the first one (of IPv6 the routers' anycast address), the last one of an
/// IPv4 range, and the gateway. Blocks know nothing of that, so reservations have to keep those that the pool has.
fn check_on_link(
    pool: &Pool,
    link: &Cidr,
    gateway: Option<IpAddr>,
    is_kept: impl Fn(IpAddr) -> bool,
) -> Result<(), String> {
    let is_link = link.prefix_len() + 1 < link.family().address_bits();
    let last = Some(link.last()).filter(|_| link.family() == Family::V4);
    let edges = [Some(link.network()), last].into_iter().flatten().filter(|_| is_link);
    let special = edges.chain(gateway).filter(|address| pool.cidr.contains(*address));
    let free: Vec<String> = special.filter(|address| !is_kept(*address)).map(|a| a.to_string()).collect();
    if free.is_empty() {
        return Ok(());
    }
    Err(format!(
        "{link} is to be on the link of pool {} ({}), and pods might get {}: keep them back by an IPReservation",
        pool.name,
        pool.cidr,
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
            let given: Option<Vec<IpAddr>> =
                given.map(|g| g.iter().map(|text| text.parse().unwrap()).collect());
            let found = gateway_of(&cidr.parse().unwrap(), given.as_deref());
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
            let found = check_on_link(&pool, &pool.cidr, gateway, |address| kept.contains(&address)).err();
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

    #[test]
    fn a_pool_may_be_a_part_of_what_is_on_the_link() {
        let check = |cidr: &str, subnets: &[&str], gateway: &str, expected: Result<&str, &str>| {
            let pool = Pool::new(PoolSpec::new("p".parse().unwrap(), cidr.parse().unwrap())).unwrap();
            let texts: Vec<String> = subnets.iter().map(|text| (*text).to_owned()).collect();
            let checked = subnets_of(&texts).and_then(|subnets| {
                let link = link_of(&pool, &subnets)?;
                let given = gateway.parse().ok().map(|gateway| vec![gateway]);
                let gateway = gateway_of(&link, given.as_deref());
                check_on_link(&pool, &link, gateway, |_| false)?;
                Ok(format!("{link} {}", gateway.unwrap()))
            });
            match expected {
                Ok(expected) => assert_eq!(checked.as_deref(), Ok(expected)),
                Err(words) => {
                    let said = checked.clone().unwrap_err();
                    assert!(said.contains(words), "{words:?} is not in {said:?}");
                }
            }
        };
        let (lan, part) = ("192.168.1.0/24", "192.168.1.192/28");
        check(part, &[lan], "", Ok("192.168.1.0/24 192.168.1.1"));
        check(part, &["fd00::/64", lan], "192.168.1.254", Ok("192.168.1.0/24 192.168.1.254"));
        check("fd00::100/120", &["fd00::/64", lan], "", Ok("fd00::/64 fd00::1"));
        check(part, &[lan], "192.168.1.193", Err("might get 192.168.1.193:"));
        check("192.168.1.240/28", &[lan], "", Err("might get 192.168.1.255:"));
        check(part, &["192.168.2.0/24"], "", Err("is no part of it"));
        check(part, &[lan, "10.0.0.0/8"], "", Err("10.0.0.0/8: a second one of its family"));
        check(part, &["192.168.1.1/24"], "", Err("ipam.subnets: "));
    }
}
