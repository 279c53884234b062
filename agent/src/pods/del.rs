//! CNI DEL: whatever there is of a handle goes; that there is nothing is no error.

use dataplane::DataplaneError;
use model::Handle;
use rpc::{DelRequest, ErrorCode, RpcError};
use store::Store;
use tracing::info;

use super::{Pods, handle_of};
use crate::answer::{Answer, internal, try_again};

impl<S: Store> Pods<S> {
    /// Serves a DEL. ADDs of the handle that are under way are cancelled and taken back first.
    ///
    /// # Errors
    /// The interface could not be removed: the addresses stay assigned, and the runtime asks again.
    pub async fn del(&self, request: &DelRequest) -> Answer<()> {
        let handle = handle_of(&request.attachment)?;
        let _turn = self.node.gates.queue_del(&handle).turn().await;
        self.remove(&handle).await
    }

    /// Takes a handle off: interface first, so that its addresses are free only when nobody can use them. Needs the
    /// handle's turn.
    pub(super) async fn remove(&self, handle: &Handle) -> Answer<()> {
        let (dataplane, taken_off) = (self.node.dataplane.clone(), handle.clone());
        let unwired = self.node.blocking(move || dataplane.unwire(&taken_off)).await.map_err(internal)?;
        let was_wired = match unwired {
            Ok(was_wired) => was_wired,
            // An interface of that name that is not ours, and none of the handle's own: its addresses can go.
            Err(errors) if !self.is_wired(handle) && errors.iter().all(DataplaneError::is_conflict) => false,
            Err(errors) => {
                let mut lines = errors.iter().map(ToString::to_string);
                let first = lines.next().unwrap_or_default();
                return Err(RpcError {
                    code: ErrorCode::TryAgain,
                    message: format!("take {handle} off: {first}"),
                    details: lines.collect(),
                });
            }
        };
        let freed = {
            let view = self.node.world.view();
            self.node.ledger().free(handle, &view.pools, self.node.now()).map_err(try_again)?
        };
        if was_wired || !freed.is_empty() {
            info!(%handle, ?freed, "removed");
        }
        Ok(())
    }

    fn is_wired(&self, handle: &Handle) -> bool {
        self.node.ledger().pod(handle).is_some_and(|pod| pod.wired.is_some())
    }
}
