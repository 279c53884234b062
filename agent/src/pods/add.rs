//! CNI ADD: from a request to a wired pod, or to nothing at all.
//!
//! 1. Turn of the handle; a DEL behind us, or a client that hangs up, cancels.
//! 2. A handle that is wired already gets the same answer if everything is as it was, is wired again if not, and is
//!    torn down first if it comes with another namespace.
//! 3. Metadata, decision, claims (bounded), assignment in the journal.
//! 4. Wiring. From its success on only the commit may keep it: cancelled or failed, all is taken back.
//! 5. Commit in the journal, then the reply.

use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use dataplane::{Dataplane, GATEWAY_IPV4, GATEWAY_IPV6, PodWiring, WireError};
use ipam::protocol::{Fact, Next};
use ipam::{Assignment, Pool};
use model::{
    BootTime, Cidr, Extras, Family, Handle, Identity, IpipMode, PoolName, Workload, workload_mtu_bytes,
};
use rpc::{AddReply, AddRequest, AddressReply, ErrorCode, InterfaceReply, RpcError};
use store::Store;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::metadata::Wanted;
use super::netns::Netns;
use super::{Pods, handle_of};
use crate::answer::{Answer, internal, invalid, refuse, try_again};
use crate::node::Node;
use crate::node::gate::Turn;
use crate::node::ledger::LedgerError;
use crate::node::pod::{self, Wired};

/// How many steps a request may take before the runtime is asked to come again.
const MAX_ROUNDS: usize = 64;

/// How long a request may wait for another node's answer.
const WAIT_LIMIT: Duration = Duration::from_secs(10);

/// How soon a waiting request looks again by itself.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// An ADD whose turn it is.
pub(super) struct Begun {
    pub(super) handle: Handle,
    pub(super) netns: Arc<Netns>,
    /// To be held until all of it is done or taken back.
    pub(super) turn: Turn,
}

/// What comes next for a request.
enum Step {
    /// Done.
    Assigned(Box<pod::Pod>),
    /// A block is to be seen to first. `started`: by what was just written down.
    LookAt { block: Cidr, started: bool },
}

impl<S: Store> Pods<S> {
    /// Serves an ADD.
    ///
    /// # Errors
    /// Refused or failed: nothing of it is left.
    pub async fn add(
        &self,
        request: AddRequest,
        netns: Option<OwnedFd>,
        cancel: CancellationToken,
    ) -> Answer<AddReply> {
        let Begun { handle, netns, turn: _turn } = self.begin(&request, netns, &cancel).await?;
        if let Some(reply) = self.held_already(&handle, &netns, None).await? {
            return Ok(reply);
        }
        let pod = self.assign(&handle, &request, &netns, false, &cancel).await?;
        let made = self.wire_and_commit(&pod, &request, &netns, &cancel).await;
        if made.is_err() {
            self.take_back(&handle).await;
        }
        made
    }

    /// How every ADD begins: what it says is checked, and its turn is awaited.
    pub(super) async fn begin(
        &self,
        request: &AddRequest,
        netns: Option<OwnedFd>,
        cancel: &CancellationToken,
    ) -> Answer<Begun> {
        let handle = handle_of(&request.attachment)?;
        let netns = netns.ok_or_else(|| invalid("an ADD without the pod's network namespace"))?;
        let netns = Arc::new(Netns::check(netns, &request.netns_path).map_err(invalid)?);
        let turn = self.node.gates.queue_add(&handle, cancel).turn().await;
        if cancel.is_cancelled() {
            return Err(cancelled(&handle));
        }
        Ok(Begun { handle, netns, turn })
    }

    /// What an earlier ADD of the same handle left: the answer, or nothing after it was torn down.
    /// `delegated`: the addresses that another plugin gave.
    pub(super) async fn held_already(
        &self,
        handle: &Handle,
        netns: &Arc<Netns>,
        delegated: Option<&[IpAddr]>,
    ) -> Answer<Option<AddReply>> {
        let Some(pod) = self.node.ledger().pod(handle).cloned() else { return Ok(None) };
        let same_addresses = match delegated {
            None => !pod.identity.extras.delegated,
            Some(given) => {
                pod.identity.extras.delegated && pod.identity.addresses().eq(given.iter().copied())
            }
        };
        let same_place =
            same_addresses && !pod.foreign_interface && pod.netns.is_none_or(|before| before == netns.id());
        if let Some(wired) = pod.wired.clone().filter(|_| same_place) {
            let wiring = PodWiring { identity: pod.identity.clone(), mtu_bytes: wired.mtu_bytes };
            let difference = self.check_wiring(wiring, netns).await?;
            if difference.is_none() {
                debug!(%handle, "answered as before");
                return reply_of(&pod, &wired).map(Some);
            }
            info!(%handle, ?difference, "an ADD again, and not all is as it was: made anew");
        } else {
            info!(%handle, "an ADD again that wants something else: made anew");
        }
        self.remove(handle).await?;
        Ok(None)
    }

    /// Compares a pod with its wiring.
    pub(super) async fn check_wiring(
        &self,
        wiring: PodWiring,
        netns: &Arc<Netns>,
    ) -> Answer<Option<dataplane::Difference>> {
        let (dataplane, netns) = (self.node.dataplane.clone(), netns.clone());
        let checked =
            self.node.blocking(move || dataplane.check(&wiring, netns.as_fd())).await.map_err(internal)?;
        checked.map_err(internal)
    }

    /// Decides, claims or borrows where that is needed, and writes the assignment down.
    pub(super) async fn assign(
        &self,
        handle: &Handle,
        request: &AddRequest,
        netns: &Netns,
        foreign_interface: bool,
        cancel: &CancellationToken,
    ) -> Answer<pod::Pod> {
        let mut wanted = self.assign_request(handle, &request.pod, &request.options).await?;
        wanted.foreign_interface = foreign_interface;
        if foreign_interface && wanted.extras != Extras::default() {
            let what = "annotations hwAddr and allowedSourcePrefixes";
            return Err(invalid(format!(
                "{handle}: {what} cannot be followed: its interface is another plugin's"
            )));
        }
        let assigned = self.assign_by_steps(&wanted, request, netns, cancel).await;
        // Whatever was asked for and is not needed any more is withdrawn by upkeep.
        let gave_up = Fact::GaveUp { handle: handle.clone() };
        self.node.ledger().note(&[gave_up], self.node.now()).map_err(internal)?;
        self.node.want_upkeep();
        assigned
    }

    /// Step by step: each one is decided on what is known then.
    async fn assign_by_steps(
        &self,
        wanted: &Wanted,
        request: &AddRequest,
        netns: &Netns,
        cancel: &CancellationToken,
    ) -> Answer<pod::Pod> {
        let handle = &wanted.request.handle;
        let deadline = Instant::now() + WAIT_LIMIT;
        let mut looked_at = None;
        for _ in 0..MAX_ROUNDS {
            if cancel.is_cancelled() {
                return Err(cancelled(handle));
            }
            // From before the look on: nothing that happens meanwhile is missed.
            let progressed = self.node.progressed();
            let (block, must_wait) = match self.next(wanted, request, netns)? {
                Step::Assigned(pod) => return Ok(*pod),
                Step::LookAt { block, started } => (block, !started && looked_at == Some(block)),
            };
            if !must_wait {
                looked_at = Some(block);
                self.node.attend(block).await.map_err(try_again)?;
                continue;
            }
            // Somebody else's move: another node's grant, or another look at the same block.
            looked_at = None;
            let moved = tokio::time::timeout(LOOK_AGAIN.min(deadline - Instant::now()), progressed);
            let _ = cancel.run_until_cancelled(moved).await;
            if Instant::now() >= deadline {
                break;
            }
        }
        Err(try_again(format!("{handle}: neither a block nor a loan could be had so soon")))
    }

    /// What comes next for this request; an assignment is written down at once.
    fn next(&self, wanted: &Wanted, request: &AddRequest, netns: &Netns) -> Answer<Step> {
        let handle = &wanted.request.handle;
        let view = self.node.world.view();
        let now = self.node.now();
        let mut ledger = self.node.ledger();
        let next = ledger.keeper().decide_next(&view.cluster(), &wanted.request, now, self.node.nonce());
        match next.map_err(|refusal| refused(wanted, &refusal))? {
            Next::Assign(assignments) => {
                let pod = pod_of(wanted, request, netns, &assignments, now);
                ledger.assign(pod.clone(), &assignments, now).map_err(|error| kept_nothing(&error))?;
                Ok(Step::Assigned(Box::new(pod)))
            }
            Next::Held(_) => Err(internal(format!("{handle} holds addresses but is no pod here"))),
            Next::Start { facts, block } => {
                ledger.note(&facts, now).map_err(|error| kept_nothing(&error))?;
                Ok(Step::LookAt { block, started: true })
            }
            Next::Wait { block } => Ok(Step::LookAt { block, started: false }),
        }
    }

    pub(super) async fn wire_and_commit(
        &self,
        pod: &pod::Pod,
        request: &AddRequest,
        netns: &Arc<Netns>,
        cancel: &CancellationToken,
    ) -> Answer<AddReply> {
        if cancel.is_cancelled() {
            return Err(cancelled(pod.handle()));
        }
        let modes = self.modes_of(&pod.identity);
        let (dataplane, node, netns_of_work) =
            (self.node.dataplane.clone(), self.node.clone(), netns.clone());
        let (identity, asked_mtu) = (pod.identity.clone(), request.options.mtu_bytes);
        let wired = self.node.blocking(move || {
            let mtu_bytes = mtu_of(&node, asked_mtu, modes)?;
            let wiring = PodWiring { identity, mtu_bytes };
            let wired = dataplane
                .wire(&wiring, netns_of_work.as_fd())
                .map_err(|error| wire_refusal(&wiring.identity, &error))?;
            Ok::<_, RpcError>(Wired {
                host_mac: wired.host_mac.to_string(),
                pod_mac: wired.pod_mac.to_string(),
                mtu_bytes,
                nsid: number_of(&dataplane, &netns_of_work),
                at: node.now(),
            })
        });
        let wired = wired.await.map_err(internal)??;
        // The last moment at which all of it can be as if it had never been.
        if cancel.is_cancelled() {
            return Err(cancelled(pod.handle()));
        }
        let reply = reply_of(pod, &wired)?;
        self.node.ledger().commit(pod.handle(), wired, netns.id()).map_err(internal)?;
        info!(handle = %pod.handle(), pod = %pod.identity.workload, addresses = ?pod.identity.addresses().collect::<Vec<_>>(), "added");
        Ok(reply)
    }

    /// Modes of all pools of the pod's families, whichever it is from itself: what it sends to a pod of an
    /// encapsulated pool is encapsulated as well.
    fn modes_of(&self, identity: &Identity) -> Vec<IpipMode> {
        let view = self.node.world.view();
        let concerned =
            |pool: &&Pool| identity.addresses().any(|address| Family::of(address) == pool.family());
        view.pools.iter().filter(concerned).map(|pool| pool.ipip_mode).collect()
    }

    pub(super) async fn take_back(&self, handle: &Handle) {
        match self.remove(handle).await {
            Ok(()) => debug!(%handle, "an ADD was taken back"),
            Err(error) => {
                warn!(%handle, %error, "an ADD could not be taken back whole; its DEL will try again");
            }
        }
    }
}

/// The MTU asked for, configured, or that of the uplink less what encapsulation needs.
fn mtu_of<S: Store>(node: &Node<S>, asked: Option<u32>, modes: Vec<IpipMode>) -> Answer<u32> {
    let fixed = asked.or(node.config.mtu_bytes);
    let uplink = || node.reconciler.uplink().map_or_else(|| node.dataplane.uplink(), Ok);
    match fixed {
        Some(mtu_bytes) => Ok(mtu_bytes),
        None => Ok(workload_mtu_bytes(uplink().map_err(internal)?.mtu_bytes, modes)),
    }
}

/// The number of a namespace. Without it a leak of the pod is not found by the agent, which is no reason to refuse it.
pub(super) fn number_of(dataplane: &Dataplane, netns: &Netns) -> Option<u32> {
    dataplane.name_namespace(netns.as_fd()).unwrap_or_else(|error| {
        warn!(%error, "the end of this network namespace will not be noticed");
        None
    })
}

fn pod_of(
    wanted: &Wanted,
    request: &AddRequest,
    netns: &Netns,
    assignments: &[Assignment],
    now: BootTime,
) -> pod::Pod {
    let mut identity = identity_of(&wanted.request.handle, request, wanted.extras.clone());
    let mut of_family = [None, None];
    for assignment in assignments {
        match assignment.address {
            IpAddr::V4(v4) => (identity.ipv4, of_family[0]) = (Some(v4), Some(assignment.pool.clone())),
            IpAddr::V6(v6) => (identity.ipv6, of_family[1]) = (Some(v6), Some(assignment.pool.clone())),
        }
    }
    let pools = of_family.into_iter().flatten().collect();
    let foreign_interface = wanted.foreign_interface;
    pod::Pod { identity, pools, netns: Some(netns.id()), since: now, foreign_interface, wired: None }
}

/// Who is to have addresses; none yet.
pub(super) fn identity_of(handle: &Handle, request: &AddRequest, extras: Extras) -> Identity {
    Identity {
        handle: handle.clone(),
        ipv4: None,
        ipv6: None,
        network: request.attachment.network.clone(),
        workload: Workload {
            namespace: request.pod.namespace.clone(),
            pod: request.pod.name.clone(),
            uid: request.pod.uid.clone(),
        },
        extras,
    }
}

fn reply_of(pod: &pod::Pod, wired: &Wired) -> Answer<AddReply> {
    let address = |(address, pool): (IpAddr, &PoolName)| AddressReply {
        address,
        gateway: if address.is_ipv4() { GATEWAY_IPV4.into() } else { GATEWAY_IPV6.into() },
        pool: pool.to_string(),
    };
    Ok(AddReply {
        host: InterfaceReply { name: pod.handle().host_ifname(), mac: wired.host_mac.clone() },
        pod: InterfaceReply { name: pod.handle().ifname().to_owned(), mac: wired.pod_mac.clone() },
        addresses: pod.addresses().map(address).collect(),
        mtu_bytes: wired.mtu_bytes,
    })
}

pub(super) fn cancelled(handle: &Handle) -> RpcError {
    refuse(
        ErrorCode::Cancelled,
        format!("the ADD of {handle} was cancelled by its DEL, or its caller hung up"),
    )
}

fn refused(wanted: &Wanted, refusal: &ipam::Refusal) -> RpcError {
    let handle = &wanted.request.handle;
    let by_name = matches!(
        refusal.kind(),
        ipam::RefusalKind::Address { .. }
            | ipam::RefusalKind::AddressHeld { .. }
            | ipam::RefusalKind::AddressNotYet { .. }
            | ipam::RefusalKind::OtherNode { .. }
    );
    let asked = wanted.address_key.filter(|_| by_name);
    let asked = asked.map(|key| format!(" (asked for by pod annotation {key})")).unwrap_or_default();
    let code = match refusal.kind() {
        ipam::RefusalKind::Exhausted { .. } => ErrorCode::Exhausted,
        ipam::RefusalKind::AddressHeld { .. } => ErrorCode::Conflict,
        _ if refusal.is_retryable() => ErrorCode::TryAgain,
        ipam::RefusalKind::NoPool { .. } => ErrorCode::Exhausted,
        _ => ErrorCode::Invalid,
    };
    RpcError {
        code,
        message: format!("no address for {handle}: {refusal}{asked}"),
        details: refusal.details().to_vec(),
    }
}

pub(super) fn kept_nothing(error: &LedgerError) -> RpcError {
    match error {
        LedgerError::Journal(error) => try_again(error),
        error => internal(error),
    }
}

fn wire_refusal(identity: &Identity, error: &WireError) -> RpcError {
    let message = format!("wire {}: {error}", identity.handle);
    match error {
        WireError::OwnNamespace | WireError::NotANamespace => invalid(message),
        WireError::PodInterfaceTaken { .. } | WireError::HostInterfaceTaken { .. } => {
            refuse(ErrorCode::Conflict, message)
        }
        WireError::Kernel { .. } => internal(message),
    }
}
