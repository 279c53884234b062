//! CNI GC: attachments that the runtime no longer knows are removed.

use std::collections::BTreeSet;

use model::{BootTime, Handle};
use rpc::{GcReply, GcRequest, ValidAttachment};
use store::Store;
use tracing::info;

use super::Pods;
use crate::answer::{Answer, invalid};

impl<S: Store> Pods<S> {
    /// Serves a GC: removes every pod of this network that is not in the list and is older than the call. Each is
    /// removed by itself; what fails is reported and left.
    ///
    /// # Errors
    /// The list names something that cannot be an attachment: nothing is removed.
    pub async fn gc(&self, request: &GcRequest) -> Answer<GcReply> {
        let valid: BTreeSet<Handle> = request
            .valid
            .iter()
            .map(|attachment| Handle::new(&attachment.container_id, &attachment.ifname).map_err(invalid))
            .collect::<Answer<_>>()?;
        let called = BootTime::from_millis(request.called_at_boot_ms);
        let stale = |handle: &Handle| {
            let ledger = self.node.ledger();
            let pod = ledger.pod(handle);
            pod.is_some_and(|pod| {
                let youngest = pod.wired.as_ref().map_or(pod.since, |wired| wired.at.max(pod.since));
                pod.identity.network == request.network && ipam::is_leaked(youngest, false, called)
            })
        };
        let candidates: Vec<Handle> = self.node.ledger().pods().map(|pod| pod.handle().clone()).collect();
        let mut reply = GcReply::default();
        for handle in candidates.into_iter().filter(|handle| !valid.contains(handle)) {
            let _turn = self.node.gates.queue_check(&handle).turn().await;
            // Looked at again under its turn: it may have been added anew meanwhile.
            if !stale(&handle) {
                continue;
            }
            match self.remove(&handle).await {
                Ok(()) => reply.freed.push(ValidAttachment {
                    container_id: handle.container_id().to_owned(),
                    ifname: handle.ifname().to_owned(),
                }),
                Err(error) => reply.errors.push(error.to_string()),
            }
        }
        info!(network = request.network, freed = reply.freed.len(), errors = reply.errors.len(), "collected");
        Ok(reply)
    }
}
