//! CNI requests: one file a verb, in the order of their handle.

mod add;
mod check;
mod del;
mod delegated;
mod gc;
mod ipam_only;
mod leaks;
mod metadata;
mod netns;
mod status;

use std::sync::Arc;

use model::Handle;
use rpc::{Attachment, RpcError};
use store::Store;

use crate::answer::invalid;
use crate::node::Node;

/// How the UID of a pod begins that was applied without one: it says nothing about which pod the runtime means.
pub const INVENTED_UID_PREFIX: &str = "local-";

/// Serves CNI requests of one node.
#[derive(Debug)]
pub struct Pods<S> {
    node: Arc<Node<S>>,
}

impl<S: Store> Pods<S> {
    /// Serves from this node.
    #[must_use]
    pub fn new(node: Arc<Node<S>>) -> Self {
        Self { node }
    }
}

/// The handle of an attachment.
///
/// # Errors
/// The container id or interface name cannot be one.
fn handle_of(attachment: &Attachment) -> Result<Handle, RpcError> {
    let handle = Handle::new(&attachment.container_id, &attachment.ifname).map_err(invalid)?;
    if handle.is_of_node() {
        return Err(invalid(format!("container id {}: it is the node's own word", attachment.container_id)));
    }
    Ok(handle)
}
