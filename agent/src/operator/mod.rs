//! What people ask for through `poolwardctl`: objects, addresses, ranges, state.

mod addresses;
mod apply;
mod check;
mod delete;
mod get;
mod report;

use std::sync::Arc;

use store::Store;

use crate::node::Node;

/// Serves operators' requests of one node.
#[derive(Debug)]
pub struct Operator<S> {
    node: Arc<Node<S>>,
    /// One change of objects at a time: what was checked is still so when it is written.
    writing: tokio::sync::Mutex<()>,
    started: tokio::time::Instant,
}

impl<S: Store> Operator<S> {
    /// Serves from this node.
    #[must_use]
    pub fn new(node: Arc<Node<S>>) -> Self {
        Self { node, writing: tokio::sync::Mutex::default(), started: tokio::time::Instant::now() }
    }
}
