//! From a request of the socket to whoever serves it.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use rpc::{Reply, Request};
use store::Store;
use tokio_util::sync::CancellationToken;

use crate::answer::reply;
use crate::node::Node;
use crate::operator::Operator;
use crate::pods::Pods;
use crate::server::Service;

/// Serves every request of one node's socket.
#[derive(Debug)]
pub struct AgentService<S> {
    pods: Pods<S>,
    operator: Operator<S>,
}

impl<S: Store> AgentService<S> {
    /// Serves from this node.
    #[must_use]
    pub fn new(node: &Arc<Node<S>>) -> Self {
        Self { pods: Pods::new(node.clone()), operator: Operator::new(node.clone()) }
    }
}

impl<S: Store> Service for AgentService<S> {
    async fn answer(
        &self,
        request: Request,
        descriptor: Option<OwnedFd>,
        cancel: CancellationToken,
    ) -> Reply {
        match request {
            Request::CniAdd(add) => reply(self.pods.add(add, descriptor, cancel).await, Reply::Added),
            Request::CniAddDelegated(add) => {
                reply(self.pods.add_delegated(add, descriptor, cancel).await, Reply::Added)
            }
            Request::CniIpamAdd(add) => {
                reply(self.pods.ipam_add(add, descriptor, cancel).await, Reply::Assigned)
            }
            Request::PodCidrs => Reply::PodCidrs(self.pods.pod_cidrs()),
            Request::CniDel(del) => reply(self.pods.del(&del).await, |()| Reply::Done),
            Request::CniCheck(check) => reply(self.pods.check(&check, descriptor).await, |()| Reply::Done),
            Request::CniGc(gc) => reply(self.pods.gc(&gc).await, Reply::Collected),
            Request::CniStatus => reply(self.pods.status(), |()| Reply::Done),
            Request::CniStatusDelegated => reply(self.pods.status_delegated(), |()| Reply::Done),
            Request::Apply(apply) => reply(self.operator.apply(apply).await, Reply::Applied),
            Request::Get(get) => reply(self.operator.get(&get).await, Reply::Objects),
            Request::Delete(delete) => reply(self.operator.delete(&delete).await, Reply::Applied),
            Request::IpamShow(show) => Reply::Ipam(self.operator.ipam_show(&show)),
            Request::IpamRelease(release) => {
                reply(self.operator.ipam_release(&release).await, Reply::Released)
            }
            Request::IpamCheck => reply(self.operator.ipam_check().await, Reply::IpamChecked),
            Request::PoolsExport => Reply::Pools(self.operator.pools_export()),
            Request::NodeStatus => {
                reply(self.operator.node_status().await, |status| Reply::Node(Box::new(status)))
            }
            Request::Version => Reply::Version(self.operator.version()),
        }
    }
}
