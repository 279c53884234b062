//! CNI CHECK: is the pod as its ADD left it?

use std::os::fd::OwnedFd;
use std::sync::Arc;

use dataplane::PodWiring;
use rpc::{CheckRequest, ErrorCode};
use store::Store;

use super::netns::Netns;
use super::{Pods, handle_of};
use crate::answer::{Answer, invalid, refuse};

impl<S: Store> Pods<S> {
    /// Serves a CHECK.
    ///
    /// # Errors
    /// [`ErrorCode::NotFound`] for a handle that holds nothing; [`ErrorCode::CheckFailed`] naming the first
    /// difference.
    pub async fn check(&self, request: &CheckRequest, netns: Option<OwnedFd>) -> Answer<()> {
        let handle = handle_of(&request.attachment)?;
        let netns = netns.ok_or_else(|| invalid("a CHECK without the pod's network namespace"))?;
        let netns = Arc::new(Netns::check(netns, "of the request").map_err(invalid)?);
        let _turn = self.node.gates.queue_check(&handle).turn().await;
        let differs = |what: String| refuse(ErrorCode::CheckFailed, format!("{handle}: {what}"));
        let Some(pod) = self.node.ledger().pod(&handle).cloned() else {
            return Err(refuse(ErrorCode::NotFound, format!("{handle} holds no address on this node")));
        };
        let Some(wired) = pod.wired.clone() else {
            return Err(differs("it holds addresses, but its interface was never finished".to_owned()));
        };
        for expected in &request.expected_addresses {
            if !pod.identity.addresses().any(|own| own == *expected) {
                let own: Vec<String> = pod.identity.addresses().map(|own| own.to_string()).collect();
                return Err(differs(format!(
                    "address: prevResult has {expected}, it was given {}",
                    own.join(" and ")
                )));
            }
        }
        if pod.foreign_interface {
            return Ok(());
        }
        let wiring = PodWiring { identity: pod.identity, mtu_bytes: wired.mtu_bytes };
        match self.check_wiring(wiring, &netns).await? {
            None => Ok(()),
            Some(difference) => Err(differs(difference.to_string())),
        }
    }
}
