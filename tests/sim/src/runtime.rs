//! What container runtimes and operators ask of the agents, and what they do about the answers.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use poolward_agent::answer;
use poolward_agent::node::Node;
use rpc::{
    AddReply, AddRequest, ApplyRequest, Attachment, CheckRequest, DelRequest, DeleteRequest, Document,
    ErrorCode, GcRequest, IpamReleaseRequest, NetworkOptions, PodRef, Reply, Request, RpcError,
    ValidAttachment,
};
use serde_json::json;
use tokio::time::{sleep, timeout};

use crate::machine::{Machine, namespace};
use crate::record::{Phase, PodRecord};
use crate::scenario::PoolPlan;
use crate::sim::Sim;
use crate::store::FaultyStore;

/// The name of the CNI network.
const NETWORK: &str = "pods";

/// No request takes longer than that, whatever is the matter.
const REQUEST_LIMIT: Duration = Duration::from_secs(180);

/// How long until a runtime asks again.
const RETRY_DELAY: Duration = Duration::from_secs(1);

/// How often a runtime repeats an ADD that was not answered, before it gives the pod up.
const ADD_TRIES_MAX: u32 = 3;

impl Sim {
    /// A pod that is new: ADD, again while it is not answered, and DEL when it has failed.
    pub async fn add(
        self: &Arc<Self>,
        pod: u32,
        machine: usize,
        pool: Option<String>,
        hang_up: Option<Duration>,
    ) {
        let record = PodRecord {
            machine,
            phase: Phase::Adding,
            addresses: Vec::new(),
            netns: pod as usize,
            add_count: 0,
            forgotten: false,
            pool,
        };
        if !self.machines[machine].serves() {
            // The runtime starts no pod while the plugin says that there is no agent.
            return;
        }
        self.record().pods.insert(pod, record);
        let mut hang_up = hang_up;
        for _ in 0..ADD_TRIES_MAX {
            let reply = self.send_add(pod, hang_up.take()).await;
            let phase = self.phase(pod);
            if !matches!(phase, Some(Phase::Adding | Phase::Failed)) {
                return;
            }
            match reply {
                Some(Ok(_)) => return,
                // Where nothing can be left, it is left to the agent to have left nothing.
                Some(Err(_)) if pod.is_multiple_of(2) && !self.machines[machine].had_kernel_trouble() => {
                    return;
                }
                Some(Err(_)) => break,
                None if pod.is_multiple_of(3) => break,
                None => sleep(RETRY_DELAY).await,
            }
        }
        if matches!(self.phase(pod), Some(Phase::Adding | Phase::Failed)) {
            self.del(pod).await;
        }
    }

    /// One ADD of a pod that the record knows. `None`: not answered.
    pub async fn send_add(
        self: &Arc<Self>,
        pod: u32,
        hang_up: Option<Duration>,
    ) -> Option<Result<AddReply, RpcError>> {
        let (machine, netns, pool) = {
            let mut record = self.record();
            let known = record.pods.get_mut(&pod)?;
            known.add_count += 1;
            if known.phase == Phase::Failed {
                known.phase = Phase::Adding;
            }
            (known.machine, known.netns, known.pool.clone())
        };
        let request = AddRequest {
            attachment: attachment(pod),
            netns_path: format!("/run/netns/c{pod}"),
            pod: PodRef::default(),
            options: NetworkOptions { ipv4_pools: pool.map(|pool| vec![pool]), ..NetworkOptions::default() },
        };
        let reply = self.ask(machine, Request::CniAdd(request), Some(netns), hang_up).await;
        let mut record = self.record();
        let boot_lost = record.pods.get(&pod).is_none_or(|known| known.phase == Phase::Gone);
        let known = record.pods.get_mut(&pod)?;
        known.add_count -= 1;
        let wanted = matches!(known.phase, Phase::Adding | Phase::Up) && !boot_lost;
        match reply {
            Some(Reply::Added(added)) => {
                let addresses: Vec<IpAddr> = added.addresses.iter().map(|own| own.address).collect();
                self.trace.tell(&format!("c{pod}"), format_args!("added: {addresses:?}, wanted: {wanted}"));
                if wanted {
                    record.hold(pod, addresses);
                }
                Some(Ok(added))
            }
            Some(Reply::Error(error)) => {
                self.trace.tell(&format!("c{pod}"), format_args!("ADD: {error}"));
                let over = known.phase == Phase::Adding && known.add_count == 0;
                if over {
                    known.phase = Phase::Failed;
                }
                drop(record);
                if over {
                    self.nothing_of(pod, machine);
                }
                Some(Err(error))
            }
            Some(other) => {
                record.broken("a request has its own kind of reply", format!("ADD: {other:?}"));
                None
            }
            None => {
                self.trace.tell(&format!("c{pod}"), format_args!("ADD: not answered"));
                None
            }
        }
    }

    /// An ADD has failed, and nothing else was asked for that pod: nothing of it is left at the moment of the answer.
    /// Where the kernel fails, its DEL takes off what the agent could not.
    fn nothing_of(&self, pod: u32, machine: usize) {
        let machine = &self.machines[machine];
        let Ok(handle) = model::Handle::new(&format!("c{pod}"), &format!("eth{pod}")) else { return };
        let interface = || {
            let mut interfaces = machine.kernel.interfaces().into_iter();
            interfaces.find(|interface| interface.host_ifname == handle.host_ifname())
        };
        if !machine.had_kernel_trouble()
            && let Some(left) = interface()
        {
            let what = format!("c{pod} at the answer to its ADD: interface {}", left.host_ifname);
            self.record().broken("no failed ADD and no DEL leaves anything", what);
        }
        let held = |node: Arc<_>| held_addresses(&node, &handle);
        let left = machine.node().map(held).unwrap_or_default();
        if !machine.had_kernel_trouble() && !left.is_empty() {
            let what = format!("c{pod} at the answer to its ADD: it holds {left:?}");
            self.record().broken("no failed ADD and no DEL leaves anything", what);
        }
    }

    /// A repeated ADD.
    pub async fn again(self: &Arc<Self>, pod: u32, other_netns: bool) {
        {
            let mut record = self.record();
            let Some(known) = record.pods.get(&pod).cloned() else { return };
            match known.phase {
                Phase::Up if other_netns && known.add_count == 0 => {
                    record.release(pod, Phase::Adding);
                    if let Some(known) = record.pods.get_mut(&pod) {
                        known.netns += 1;
                    }
                }
                Phase::Up | Phase::Adding => {}
                Phase::Failed | Phase::Ending | Phase::Gone => return,
            }
        }
        let reply = self.send_add(pod, None).await;
        let lost = !matches!(reply, Some(Ok(_))) && other_netns;
        if lost && matches!(self.phase(pod), Some(Phase::Adding | Phase::Failed)) {
            self.del(pod).await;
        }
    }

    /// DEL until it has succeeded.
    pub async fn del(self: &Arc<Self>, pod: u32) {
        let machine = {
            let mut record = self.record();
            let Some(known) = record.pods.get(&pod) else { return };
            let machine = known.machine;
            if known.phase == Phase::Gone {
                return;
            }
            record.release(pod, Phase::Ending);
            machine
        };
        self.trace.tell(&format!("c{pod}"), format_args!("DEL"));
        while !self.machines[machine].is_removed() {
            let request = Request::CniDel(DelRequest { attachment: attachment(pod) });
            match self.ask(machine, request, None, None).await {
                Some(Reply::Done) => break,
                Some(Reply::Error(error)) => {
                    self.trace.tell(&format!("c{pod}"), format_args!("DEL: {error}"));
                }
                _ => {}
            }
            sleep(RETRY_DELAY).await;
        }
        if let Some(known) = self.record().pods.get_mut(&pod) {
            known.phase = Phase::Gone;
        }
    }

    /// CHECK of a pod that is up.
    pub async fn check(self: &Arc<Self>, pod: u32) {
        let quiet = |known: &PodRecord| known.phase == Phase::Up && known.add_count == 0;
        let Some(known) = self.record().pods.get(&pod).filter(|known| quiet(known)).cloned() else { return };
        let request =
            CheckRequest { attachment: attachment(pod), expected_addresses: known.addresses.clone() };
        let reply = self.ask(known.machine, Request::CniCheck(request), Some(known.netns), None).await;
        let mut record = self.record();
        let still =
            record.pods.get(&pod).is_some_and(|now| quiet(now) && now.netns == known.netns && !now.forgotten);
        let Some(Reply::Error(error)) = reply.filter(|_| still) else { return };
        let judged = match error.code {
            ErrorCode::NotFound => true,
            ErrorCode::CheckFailed => !self.machines[known.machine].had_kernel_trouble(),
            _ => false,
        };
        if judged {
            record.broken("no successful ADD is forgotten", format!("CHECK of c{pod}: {error}"));
        }
    }

    /// The runtime loses a pod; the next GC takes it off.
    pub fn forget(&self, pod: u32) {
        if let Some(known) = self.record().pods.get_mut(&pod).filter(|known| known.phase == Phase::Up) {
            known.forgotten = true;
        }
    }

    /// A pod's namespace goes, and its DEL follows.
    pub async fn lose(self: &Arc<Self>, pod: u32) {
        let Some(machine) = self.record().pods.get(&pod).map(|known| known.machine) else { return };
        let Ok(handle) = model::Handle::new(&format!("c{pod}"), &format!("eth{pod}")) else { return };
        self.record().release(pod, Phase::Ending);
        self.machines[machine].kernel.lose_pod(&handle.host_ifname());
        sleep(Duration::from_millis(700)).await;
        self.del(pod).await;
    }

    /// GC with the list of this moment, sent a while later.
    pub async fn gc(self: &Arc<Self>, machine: usize, slow: Duration) {
        let (valid, left) = {
            let record = self.record();
            let known = record.pods_on(machine, &[Phase::Adding, Phase::Up, Phase::Ending]);
            let left: Vec<u32> = known.iter().copied().filter(|pod| record.pods[pod].forgotten).collect();
            let valid: Vec<ValidAttachment> =
                known.into_iter().filter(|pod| !left.contains(pod)).map(valid_attachment).collect();
            (valid, left)
        };
        let called_at_boot_ms = self.machines[machine].boot_ms();
        sleep(slow).await;
        for pod in &left {
            self.record().release(*pod, Phase::Ending);
        }
        let request = GcRequest { network: NETWORK.to_owned(), valid, called_at_boot_ms };
        self.trace.tell(&self.machines[machine].name, format_args!("GC, {} forgotten", left.len()));
        let reply = self.ask(machine, Request::CniGc(request), None, None).await;
        let Some(Reply::Collected(collected)) = reply else { return };
        let mut record = self.record();
        for freed in collected.freed {
            let pod = freed.container_id.strip_prefix('c').and_then(|number| number.parse::<u32>().ok());
            let up = |pod| record.pods.get(&pod).is_some_and(|known| known.phase == Phase::Up);
            if let Some(pod) = pod.filter(|pod| up(*pod)) {
                record.broken("GC frees no pod that is younger than its list", format!("it freed c{pod}"));
            }
        }
    }

    /// `ipam release` of all a pod has.
    pub async fn release(self: &Arc<Self>, pod: u32, force: bool) {
        let Some(known) = self.record().pods.get(&pod).cloned() else { return };
        if force {
            self.record().release(pod, Phase::Ending);
        }
        let handle = format!("c{pod}/eth{pod}");
        let request = IpamReleaseRequest { handle, address: None, force };
        let reply = self.ask(known.machine, Request::IpamRelease(request), None, None).await;
        self.trace.tell(&format!("c{pod}"), format_args!("ipam release, force {force}: {reply:?}"));
        if force {
            self.del(pod).await;
        }
    }

    /// Applies a pool. Whether that was answered with success.
    pub async fn apply_pool(self: &Arc<Self>, machine: usize, pool: &PoolPlan) -> bool {
        let body = json!({
            "apiVersion": "poolward.io/v1",
            "kind": "IPPool",
            "metadata": { "name": pool.name },
            "spec": {
                "cidr": pool.cidr,
                "blockSize": pool.block_size,
                "cooldownSeconds": pool.cooldown_s,
                "disabled": pool.disabled,
            },
        });
        self.apply(machine, body).await
    }

    /// Applies a reservation. Whether that was answered with success.
    pub async fn reserve(self: &Arc<Self>, machine: usize, name: &str, cidr: &str) -> bool {
        let body = json!({
            "apiVersion": "poolward.io/v1",
            "kind": "IPReservation",
            "metadata": { "name": name },
            "spec": { "reservedCIDRs": [cidr] },
        });
        self.apply(machine, body).await
    }

    async fn apply(self: &Arc<Self>, machine: usize, body: serde_json::Value) -> bool {
        let document = Document { source: "manifest".to_owned(), body };
        let request = ApplyRequest { documents: vec![document], dry_run: false };
        let reply = self.ask(machine, Request::Apply(request), None, None).await;
        self.trace.tell(&self.machines[machine].name, format_args!("apply: {reply:?}"));
        matches!(reply, Some(Reply::Applied(_)))
    }

    /// Deletes a pool or a reservation.
    pub async fn delete(self: &Arc<Self>, machine: usize, kind: &str, name: &str) {
        let request = DeleteRequest { kind: kind.to_owned(), name: name.to_owned() };
        let reply = self.ask(machine, Request::Delete(request), None, None).await;
        self.trace.tell(&self.machines[machine].name, format_args!("delete {kind} {name}: {reply:?}"));
    }

    /// Asks an agent, and sees to it that the request ends.
    pub async fn ask(
        &self,
        machine: usize,
        request: Request,
        netns: Option<usize>,
        hang_up: Option<Duration>,
    ) -> Option<Reply> {
        let machine: &Machine = &self.machines[machine];
        let descriptor = netns.and_then(namespace);
        let what = std::mem::discriminant(&request);
        match timeout(REQUEST_LIMIT, machine.request(request, descriptor, hang_up)).await {
            Ok(reply) => reply,
            Err(_) => {
                let text =
                    format!("{}: {what:?} has no answer after {} s", machine.name, REQUEST_LIMIT.as_secs());
                self.record().broken("every request ends", text);
                Some(Reply::Error(answer::internal("no answer")))
            }
        }
    }

    fn phase(&self, pod: u32) -> Option<Phase> {
        self.record().pods.get(&pod).map(|known| known.phase)
    }
}

fn held_addresses(node: &Node<FaultyStore>, handle: &model::Handle) -> Vec<IpAddr> {
    let ledger = node.ledger();
    let held = ledger.ipam().held().filter(|(holder, _)| *holder == handle);
    held.map(|(_, address)| address).collect()
}

fn attachment(pod: u32) -> Attachment {
    Attachment { container_id: format!("c{pod}"), ifname: format!("eth{pod}"), network: NETWORK.to_owned() }
}

fn valid_attachment(pod: u32) -> ValidAttachment {
    ValidAttachment { container_id: format!("c{pod}"), ifname: format!("eth{pod}") }
}
