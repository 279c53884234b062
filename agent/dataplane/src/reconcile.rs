//! Bringing the kernel in step: reading, planning, carrying out.
//!
//! Two kinds of run. [`Dataplane::reconcile`] reads everything and brings about what it is told.
//! [`Dataplane::repair`] reads only what routes stand on, and brings back the routes that the last reconciliation
//! wanted: it starts no process and reads no map, so that it may follow every event at once.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::PoisonError;
use std::time::Duration;

use model::Cidr;
use tokio::time::Instant;

use crate::Dataplane;
use crate::desired::{DesiredState, Peer};
use crate::interpreter::{self, Lost};
use crate::kernel::{ErrorKind, KernelError, RouteTable};
use crate::object::{Link, LinkAddress, Route, RouteTarget, Sysctl};
use crate::op::{Op, Thing};
use crate::plan::{self, Actual, Constants, Ground, Plan};
use crate::report::{DataplaneError, Report, Uplink, UplinkSource};

/// What an uplink's MTU is taken to be when there is none: Ethernet's.
const DEFAULT_MTU_BYTES: u32 = 1500;

/// What the last reconciliation wanted of routes, and what it could not make for them. One per dataplane; there from
/// its first reconciliation on.
#[derive(Debug)]
pub(crate) struct Remembered {
    desired: DesiredState,
    lost: Lost,
    /// What the last run planned, whichever it was.
    wanted: BTreeSet<Route>,
}

impl Dataplane {
    /// The interface towards the world and its MTU: the configured one, or that of the IPv4 default route, or that
    /// of the IPv6 one. Where several default routes exist, the one with the least metric.
    ///
    /// # Errors
    /// Interfaces or routes cannot be read.
    pub fn uplink(&self) -> Result<Uplink, DataplaneError> {
        let links = self.kernel.fetch_links()?;
        let defaults = match &self.settings.uplink {
            Some(_) => Vec::new(),
            None => self.kernel.fetch_table(self.settings.route_protocol)?.defaults,
        };
        Ok(decide_uplink(self.settings.uplink.as_deref(), &links, defaults))
    }

    /// The IPv6 address by which others reach this node: of its uplink, one that lasts.
    ///
    /// # Errors
    /// Interfaces, routes or addresses cannot be read.
    pub fn underlay_ipv6(&self) -> Result<Option<Ipv6Addr>, DataplaneError> {
        let (uplink, links) = (self.uplink()?, self.kernel.fetch_links()?);
        let uplink = links.iter().find(|link| Some(&link.ifname) == uplink.ifname.as_ref());
        let Some(uplink) = uplink else { return Ok(None) };
        Ok(decide_ipv6(uplink.ifindex, &self.kernel.fetch_addresses()?))
    }

    /// What routers said of the ways to nodes that nobody else could be told: bytes, and when since the boot.
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn path_mtus(&self) -> Result<BTreeMap<Ipv4Addr, (u32, Duration)>, DataplaneError> {
        let said = self.kernel.fetch_path_mtus()?;
        Ok(said.into_iter().map(|(node, said)| (node, (said.mtu_bytes, said.at))).collect())
    }

    /// Reads everything, compares, and brings about the difference. Runs beside wirings and unwirings, and waits for
    /// another run of itself or of [`Dataplane::repair`].
    #[must_use]
    pub fn reconcile(&self, desired: &DesiredState) -> Report {
        let mut remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        let mut conflict = None;
        let (mut actual, mut uplink) = match self.fetch_actual(desired) {
            Ok(read) => read,
            Err(error) => return Report { errors: vec![error], ..Report::default() },
        };
        let constants = self.constants();
        let mut errors = Vec::new();
        let mut prepared = Plan::default();
        match plan::plan_tunnel(desired, &actual.ground, uplink.mtu_bytes, constants.backend) {
            Ok(ops) if ops.is_empty() => {}
            Ok(ops) => {
                prepared.groups.push(plan::Group::Chain(ops));
                errors = interpreter::apply(self.kernel.as_ref(), &prepared.groups, &mut Lost::default());
                // What is planned next leads through it.
                (actual, uplink) = match self.fetch_actual(desired) {
                    Ok(read) => read,
                    Err(error) => return Report { errors: vec![error], ..Report::of(&prepared) },
                };
            }
            Err(text) => conflict = Some(text),
        }
        // After the reading: what began meanwhile is among them.
        let Some(busy) = self.activity.since(desired.since) else {
            return Report { errors: vec![DataplaneError::Stale], ..Report::of(&prepared) };
        };
        let mut plan = plan::plan(desired, &actual, &busy, constants);
        drop(actual);
        let mut lost = Lost::default();
        errors.extend(interpreter::apply(self.kernel.as_ref(), &plan.groups, &mut lost));
        // A pod that was taken off since the reading: there is nothing left to bring in step.
        errors.retain(|error| error.kind() != ErrorKind::Missing);
        let ready_pools = if errors.is_empty() {
            Some(desired.pools.clone())
        } else {
            let again =
                self.fetch_actual(desired).map(|(actual, _)| plan::plan(desired, &actual, &busy, constants));
            again.ok().map(|left| plan::ready_pools(&desired.pools, &left))
        };
        *remembered = Some(remember(desired, lost, std::mem::take(&mut plan.wanted)));
        plan.conflicts.extend(conflict);
        prepared.groups.append(&mut plan.groups);
        let report = Report::of(&Plan { groups: prepared.groups, ..plan });
        self.finish(Report { ready_pools, uplink: Some(uplink), ..report }, errors)
    }

    /// Brings back the routes to other nodes, and of this node's blocks and closed ranges, as the last reconciliation
    /// wanted them, whatever became of them or of what they stand on: addresses, interfaces, nexthop objects, the ways
    /// to the nodes. Plans nothing before the first reconciliation.
    #[must_use]
    pub fn repair(&self) -> Report {
        let mut remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(Remembered { desired, lost, wanted }) = remembered.as_mut() else {
            return Report::default();
        };
        let ground = match self.fetch_ground(&desired.peers) {
            Ok((ground, _)) => ground,
            Err(error) => return Report { errors: vec![error], ..Report::default() },
        };
        let routing = plan::plan_routing(desired, &ground, self.constants());
        let mut groups = routing.before;
        groups.extend(routing.after);
        *wanted = routing.wanted;
        let plan = Plan { groups, unrouted: routing.unrouted, ..Plan::default() };
        // Only a reconciliation mends these; the rest is tried again.
        lost.retain(|thing| matches!(thing, Thing::Range(_) | Thing::Uplinks));
        let errors = interpreter::apply(self.kernel.as_ref(), &plan.groups, &mut lost.clone());
        self.finish(Report::of(&plan), errors)
    }

    /// Adds routes again that somebody took away, reading nothing: those that the last run wanted to these ranges. One
    /// text for each that is back. It is the quick half of a repair, not a repair: what also lost what it stands on, or was put in
    /// another's place, is left to [`Dataplane::repair`], which has to follow.
    pub fn restore(&self, gone: &[Cidr]) -> Vec<String> {
        let remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(Remembered { wanted, lost, .. }) = remembered.as_ref() else { return Vec::new() };
        let gone: BTreeSet<Cidr> = gone.iter().copied().collect();
        let routes = wanted.iter().filter(|route| gone.contains(&route.destination));
        // Exclusive: whatever stands in the place by now is for the repair to judge.
        let ops: Vec<Op> = routes
            .map(|route| Op::AddRoute { route: *route, exclusive: true })
            .filter(|op| !lost.hinders(op))
            .collect();
        let results = self.kernel.exec_each(&ops);
        ops.iter().zip(results).filter(|(_, result)| result.is_ok()).map(|(op, _)| op.to_string()).collect()
    }

    fn finish(&self, mut report: Report, errors: Vec<KernelError>) -> Report {
        report.errors.extend(errors.into_iter().map(DataplaneError::from));
        report
    }

    fn constants(&self) -> Constants {
        Constants {
            marks: self.settings.marks,
            route_protocol: self.settings.route_protocol,
            backend: self.backend,
        }
    }

    /// The maps come before the interfaces: an entry whose interface is not found is then stale, not young.
    fn fetch_actual(&self, desired: &DesiredState) -> Result<(Actual, Uplink), DataplaneError> {
        let kernel = self.kernel.as_ref();
        let programs = kernel.fetch_programs()?;
        let neighbours = kernel.fetch_neighbours(None)?;
        let (ground, uplink) = self.fetch_ground(&desired.peers)?;
        let uplink_accept_ra = match &uplink.ifname {
            Some(ifname) => kernel.fetch_sysctl(&Sysctl::AcceptRa(ifname.clone()))?,
            None => None,
        };
        let now = Instant::now();
        let idle = ground.links.values().filter(|link| self.activity.is_idle(&link.ifname, now));
        let actual = Actual {
            idle: idle.map(|link| link.ifindex).collect(),
            ground,
            neighbours: neighbours
                .into_iter()
                .map(|n| ((n.ifindex, n.address), n.mac))
                .collect::<BTreeMap<(u32, IpAddr), _>>(),
            programs,
            nat: kernel.fetch_nat()?,
            forward_ipv4: kernel.fetch_sysctl(&Sysctl::ForwardIpv4)?,
            forward_ipv6: kernel.fetch_sysctl(&Sysctl::ForwardIpv6)?,
            uplink: uplink.ifname.clone(),
            uplink_accept_ra,
        };
        Ok((actual, uplink))
    }

    /// Objects before what they stand on: what is found to lead through something that is gone is then stale.
    fn fetch_ground(&self, peers: &[Peer]) -> Result<(Ground, Uplink), DataplaneError> {
        let kernel = self.kernel.as_ref();
        let protocol = self.settings.route_protocol;
        let RouteTable { ours, defaults } = kernel.fetch_table(protocol)?;
        let nexthops = kernel.fetch_nexthops()?;
        let nodes: Vec<IpAddr> = peers
            .iter()
            .flat_map(|peer| [peer.ipv4.map(IpAddr::V4), peer.ipv6.map(IpAddr::V6)])
            .flatten()
            .collect();
        let hops = kernel.fetch_hops(&nodes)?;
        let addresses = kernel.fetch_addresses()?;
        let links = kernel.fetch_links()?;
        let uplink = decide_uplink(self.settings.uplink.as_deref(), &links, defaults);
        let mut ground = Ground::new(links, &ours, &nexthops, hops, addresses, protocol);
        ground.path_mtus = kernel.fetch_path_mtus()?;
        ground.uptime = kernel.fetch_uptime();
        Ok((ground, uplink))
    }
}

/// What a repair needs; pods and pools are none of its business.
fn remember(desired: &DesiredState, lost: Lost, wanted: BTreeSet<Route>) -> Remembered {
    let desired = DesiredState { pools: Vec::new(), pods: Vec::new(), ..desired.clone() };
    Remembered { desired, lost, wanted }
}

/// Of an interface's addresses one that others can reach and that does not move: those without a subnet, which may be a
/// service's that wanders between nodes, only if there is no other; the lowest, so that it stays the same.
fn decide_ipv6(ifindex: u32, addresses: &[LinkAddress]) -> Option<Ipv6Addr> {
    let of_uplink = addresses.iter().filter(|found| found.ifindex == ifindex && found.lasting && !found.ours);
    let usable = of_uplink.filter_map(|found| match found.address {
        IpAddr::V6(address) if !address.is_unicast_link_local() && !address.is_loopback() => {
            Some((found.prefix_len == 128, address))
        }
        _ => None,
    });
    usable.min().map(|(_, address)| address)
}

/// The configured interface, or that of the best of these default routes.
fn decide_uplink(configured: Option<&str>, links: &[Link], mut defaults: Vec<Route>) -> Uplink {
    defaults.sort_by_key(|route| (route.destination, route.metric));
    let link_of = |route: &Route| match route.target {
        RouteTarget::Link { ifindex, .. } => links.iter().find(|link| link.ifindex == ifindex),
        RouteTarget::Nexthop { .. }
        | RouteTarget::Blackhole
        | RouteTarget::Unreachable
        | RouteTarget::Other => None,
    };
    let (link, source) = match configured {
        Some(name) => (links.iter().find(|link| link.ifname == name), UplinkSource::Configured),
        None => match defaults.iter().find_map(|route| link_of(route).map(|link| (link, route))) {
            Some((link, route)) if route.destination.network().is_ipv4() => {
                (Some(link), UplinkSource::DefaultRouteIpv4)
            }
            Some((link, _)) => (Some(link), UplinkSource::DefaultRouteIpv6),
            None => (None, UplinkSource::None),
        },
    };
    match link {
        Some(link) => Uplink { ifname: Some(link.ifname.clone()), mtu_bytes: link.mtu_bytes, source },
        None => Uplink { ifname: None, mtu_bytes: DEFAULT_MTU_BYTES, source: UplinkSource::None },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_an_uplinks_ipv6_addresses_the_one_that_stays_is_told() {
        let check = |addresses: &[(u32, &str, u8, bool)], expected: Option<&str>| {
            let found = |(ifindex, address, prefix_len, lasting): &(u32, &str, u8, bool)| LinkAddress {
                ifindex: *ifindex,
                address: address.parse().unwrap(),
                prefix_len: *prefix_len,
                ours: false,
                lasting: *lasting,
            };
            let addresses: Vec<LinkAddress> = addresses.iter().map(found).collect();
            assert_eq!(
                decide_ipv6(2, &addresses),
                expected.map(|text| text.parse().unwrap()),
                "{addresses:?}"
            );
        };
        check(&[], None);
        check(&[(2, "192.0.2.1", 24, true), (2, "fe80::1", 64, true), (3, "2001:db8::3", 64, true)], None);
        check(&[(2, "2001:db8::9", 64, true), (2, "2001:db8::8", 64, false)], Some("2001:db8::9"));
        check(&[(2, "2001:db8::9", 64, true), (2, "2001:db8::8", 64, true)], Some("2001:db8::8"));
        check(&[(2, "2001:db8::1", 128, true), (2, "2001:db8::8", 64, true)], Some("2001:db8::8"));
        check(&[(2, "2001:db8::1", 128, true)], Some("2001:db8::1"));
    }
}
