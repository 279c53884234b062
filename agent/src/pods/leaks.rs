//! Leaks that nobody tells of: containers that vanished without a DEL.
//!
//! The truth is in the kernel. An attachment lives as long as its interface is there, or its network namespace: a pod
//! that was evicted, or whose status lags at the API server, still has its sandbox, so the API is not asked. What is
//! gone at two looks a grace apart is looked at once more under its turn and then removed. When that is so is decided in
//! `ipam` ([`decide_leak`]).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ipam::{Absence, LeakStep, NamespaceSeen, Seen, decide_leak};
use model::{BootTime, Handle};
use store::Store;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::Pods;
use crate::answer::{Answer, internal};
use crate::node::pod::Pod;

/// Looks are a third of the grace apart, but not closer or further than this.
const SHORTEST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// What the kernel has of pods.
struct Look {
    /// Whose interfaces are there.
    interfaces: BTreeSet<Handle>,
    /// Numbers of network namespaces that are there.
    namespaces: BTreeSet<u32>,
}

impl<S: Store> Pods<S> {
    /// Looks for leaks now and then, until `stop` fires.
    pub async fn follow_leaks(&self, stop: &CancellationToken) {
        let pause = (self.node.config.leak_grace / 3).clamp(SHORTEST_PAUSE, LONGEST_PAUSE);
        let mut absent = BTreeMap::new();
        while stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_some() {
            if let Err(error) = self.collect_leaks(&mut absent).await {
                warn!(%error, "leaks are looked for later");
            }
        }
    }

    /// One look at everything; removes what has been gone for long enough.
    async fn collect_leaks(&self, absent: &mut BTreeMap<Handle, Absence>) -> Answer<()> {
        let pods: Vec<Pod> = self.node.ledger().pods().cloned().collect();
        let look = self.look(&pods).await?;
        let before = std::mem::take(absent);
        for pod in &pods {
            let handle = pod.handle();
            match self.step(pod, &pods, &look, before.get(handle)) {
                LeakStep::Keep => {}
                LeakStep::Watch(absence) => {
                    if !before.contains_key(handle) {
                        info!(%handle, "its interface and its network namespace are gone, and no DEL came yet");
                    }
                    absent.insert(handle.clone(), absence);
                }
                LeakStep::Leaked(absence) => {
                    if let Err(error) = self.collect_leak(handle, absence).await {
                        warn!(%handle, %error, "a leak is removed later");
                        absent.insert(handle.clone(), absence);
                    }
                }
            }
        }
        Ok(())
    }

    /// Removes one leak: under its turn, and only if it is one still.
    async fn collect_leak(&self, handle: &Handle, absence: Absence) -> Answer<()> {
        let _turn = self.node.gates.queue_check(handle).turn().await;
        let pods: Vec<Pod> = self.node.ledger().pods().cloned().collect();
        let Some(pod) = pods.iter().find(|pod| pod.handle() == handle) else { return Ok(()) };
        let look = self.look(std::slice::from_ref(pod)).await?;
        if !matches!(self.step(pod, &pods, &look, Some(&absence)), LeakStep::Leaked(_)) {
            return Ok(());
        }
        self.remove(handle).await?;
        let gone_for_s = self.node.now().as_millis().saturating_sub(absence.from.as_millis()) / 1000;
        let addresses: Vec<String> = pod.identity.addresses().map(|address| address.to_string()).collect();
        let (workload, addresses) = (&pod.identity.workload, addresses.join(" and "));
        info!(%handle, pod = %workload, addresses, gone_for_s, "leaked: interface and network namespace gone, no DEL");
        self.node.note_leak(format!(
            "{addresses} of {handle} ({workload}): interface and network namespace gone for {gone_for_s} s, no DEL"
        ));
        Ok(())
    }

    fn step(&self, pod: &Pod, pods: &[Pod], look: &Look, before: Option<&Absence>) -> LeakStep {
        // Whose ADD is under way is neither here nor there yet.
        let Some(wired) = &pod.wired else { return LeakStep::Keep };
        let seen = Seen {
            interface: look.interfaces.contains(pod.handle()),
            namespace: namespace_seen(pod, pods, &look.namespaces),
        };
        let since = wired.at.max(pod.since);
        decide_leak(seen, since, before.copied(), self.node.now(), self.node.config.leak_grace)
    }

    async fn look(&self, pods: &[Pod]) -> Answer<Look> {
        let dataplane = self.node.dataplane.clone();
        let handles: Vec<Handle> = pods.iter().map(|pod| pod.handle().clone()).collect();
        let read = self.node.blocking(move || {
            // Namespaces last: one whose interface was still there has not been gone for long.
            let mut interfaces: BTreeSet<Handle> = dataplane
                .fetch_pods()?
                .into_iter()
                .filter_map(|found| Some(found.identity.ok()?.handle))
                .collect();
            for handle in handles {
                // By its name: that somebody took the alias off does not make it gone.
                if !interfaces.contains(&handle) && dataplane.has_interface(&handle)? {
                    interfaces.insert(handle);
                }
            }
            Ok::<_, dataplane::DataplaneError>(Look { interfaces, namespaces: dataplane.fetch_namespaces()? })
        });
        read.await.map_err(internal)?.map_err(internal)
    }
}

/// Whether the network namespace of a pod is gone. A number that is listed may be another namespace's by now: that it is
/// shows when a younger pod in another namespace has it.
fn namespace_seen(pod: &Pod, pods: &[Pod], listed: &BTreeSet<u32>) -> NamespaceSeen {
    let number = |pod: &Pod| pod.wired.as_ref().and_then(|wired| wired.nsid);
    let since = |pod: &Pod| pod.wired.as_ref().map_or(BootTime::default(), |wired| wired.at);
    let (Some(own), Some(netns)) = (number(pod), pod.netns) else { return NamespaceSeen::MayBeThere };
    let has_taken_over = |other: &Pod| {
        number(other) == Some(own)
            && since(other) > since(pod)
            && other.netns.is_some_and(|other| other != netns)
    };
    if listed.contains(&own) && !pods.iter().any(has_taken_over) {
        NamespaceSeen::MayBeThere
    } else {
        NamespaceSeen::Gone
    }
}

#[cfg(test)]
mod tests {
    use model::{Extras, Identity, Workload};

    use super::*;
    use crate::journal::NetnsId;
    use crate::node::pod::Wired;

    fn pod(id: &str, ino: Option<u64>, nsid: Option<u32>, at_ms: u64) -> Pod {
        let at = BootTime::from_millis(at_ms);
        Pod {
            identity: Identity {
                handle: Handle::new(id, "eth0").unwrap(),
                ipv4: None,
                ipv6: None,
                network: String::new(),
                workload: Workload::default(),
                extras: Extras::default(),
            },
            pools: Vec::new(),
            netns: ino.map(|ino| NetnsId { dev: 4, ino }),
            since: at,
            foreign_interface: false,
            wired: Some(Wired { host_mac: String::new(), pod_mac: String::new(), mtu_bytes: 0, nsid, at }),
        }
    }

    #[test]
    fn a_namespace_is_gone_when_its_number_is_or_is_a_younger_pods() {
        let check = |own: &Pod, others: &[Pod], listed: &[u32], expected: NamespaceSeen| {
            let pods: Vec<Pod> = others.iter().chain([own]).cloned().collect();
            let listed = listed.iter().copied().collect();
            assert_eq!(namespace_seen(own, &pods, &listed), expected, "{own:?} {others:?}");
        };
        let own = pod("a", Some(7), Some(3), 10);
        check(&own, &[], &[3, 4], NamespaceSeen::MayBeThere);
        check(&own, &[], &[4], NamespaceSeen::Gone);
        check(&own, &[pod("b", Some(8), Some(3), 11)], &[3], NamespaceSeen::Gone);
        // Two interfaces of one namespace; one that is older; one that cannot tell.
        check(&own, &[pod("b", Some(7), Some(3), 11)], &[3], NamespaceSeen::MayBeThere);
        check(&own, &[pod("b", Some(8), Some(3), 9)], &[3], NamespaceSeen::MayBeThere);
        check(&own, &[pod("b", None, Some(3), 11)], &[3], NamespaceSeen::MayBeThere);
        check(&own, &[pod("b", Some(8), Some(4), 11)], &[3, 4], NamespaceSeen::MayBeThere);
        // Nothing is known of it.
        check(&pod("a", Some(7), None, 10), &[], &[], NamespaceSeen::MayBeThere);
        check(&pod("a", None, Some(3), 10), &[], &[], NamespaceSeen::MayBeThere);
    }
}
