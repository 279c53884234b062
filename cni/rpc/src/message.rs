//! Requests and replies. Every request has exactly one reply; a connection carries one request.
//!
//! Wire types only: text and numbers, checked and converted into `model` types by the agent.

mod ipam;
mod objects;
mod pods;
mod status;

use serde::{Deserialize, Serialize};

pub use self::ipam::*;
pub use self::objects::*;
pub use self::pods::*;
pub use self::status::*;

/// A question to the agent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "camelCase")]
pub enum Request {
    /// CNI ADD. The pod's network namespace travels beside it as a file descriptor.
    CniAdd(AddRequest),
    /// CNI ADD whose addresses another IPAM plugin gave. The pod's network namespace travels beside it as a file
    /// descriptor. Answered with [`Reply::Added`].
    CniAddDelegated(AddDelegatedRequest),
    /// CNI ADD of addresses alone, for another main plugin. The pod's network namespace travels beside it as a file
    /// descriptor.
    CniIpamAdd(IpamAddRequest),
    /// The ranges that the cluster gave this node for its pods.
    PodCidrs,
    /// CNI DEL.
    CniDel(DelRequest),
    /// CNI CHECK. The pod's network namespace travels beside it as a file descriptor.
    CniCheck(CheckRequest),
    /// CNI GC.
    CniGc(GcRequest),
    /// CNI STATUS: answered with [`Reply::Done`] or an error of code [`ErrorCode::NotReady`] or
    /// [`ErrorCode::NotReadyLimited`].
    CniStatus,
    /// CNI STATUS where another IPAM plugin gives addresses from the node's own ranges; answered in the same way.
    CniStatusDelegated,
    /// Create or change objects, all or none.
    Apply(ApplyRequest),
    /// Read objects.
    Get(GetRequest),
    /// Delete one object.
    Delete(DeleteRequest),
    /// How full pools and blocks are, or who holds an address.
    IpamShow(IpamShowRequest),
    /// Free addresses whose holder is known.
    IpamRelease(IpamReleaseRequest),
    /// Whether everything known of blocks, addresses and interfaces fits together.
    IpamCheck,
    /// The exact ranges of pools, for a firewall.
    PoolsExport,
    /// State of this node's agent.
    NodeStatus,
    /// Versions of the agent and of what it speaks.
    Version,
}

/// The answer to a [`Request`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "camelCase")]
pub enum Reply {
    /// It did not work; nothing was changed unless the text says so.
    Error(RpcError),
    /// It is done, and there is nothing to tell.
    Done,
    /// To [`Request::CniAdd`].
    Added(AddReply),
    /// To [`Request::CniIpamAdd`].
    Assigned(AssignedReply),
    /// To [`Request::PodCidrs`].
    PodCidrs(PodCidrsReply),
    /// To [`Request::CniGc`].
    Collected(GcReply),
    /// To [`Request::Apply`] and [`Request::Delete`].
    Applied(ApplyReply),
    /// To [`Request::Get`].
    Objects(GetReply),
    /// To [`Request::IpamShow`].
    Ipam(IpamReply),
    /// To [`Request::IpamRelease`].
    Released(IpamReleaseReply),
    /// To [`Request::IpamCheck`].
    IpamChecked(IpamCheckReply),
    /// To [`Request::PoolsExport`].
    Pools(PoolsExportReply),
    /// To [`Request::NodeStatus`].
    Node(Box<NodeStatusReply>),
    /// To [`Request::Version`].
    Version(VersionReply),
}

/// Why a request was not carried out, in kinds that a caller acts on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ErrorCode {
    /// The request itself is wrong; the same again fails again.
    Invalid,
    /// What it speaks of does not exist.
    NotFound,
    /// Somebody else holds or has changed it.
    Conflict,
    /// No address can be given: pools are full, passed over or missing.
    Exhausted,
    /// Not now; the same again may work (CNI code 11).
    TryAgain,
    /// CNI STATUS: no address can be given (CNI code 50).
    NotReady,
    /// CNI STATUS: and existing pods may have limited connectivity (CNI code 51).
    NotReadyLimited,
    /// CNI CHECK found a difference.
    CheckFailed,
    /// The request was cancelled by a DEL of the same handle.
    Cancelled,
    /// The kernel or the store failed in a way the request cannot mend.
    Internal,
    /// The peer speaks another protocol version.
    Version,
}

/// A refusal or a failure.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct RpcError {
    /// What kind.
    pub code: ErrorCode,
    /// One line: operation, object, cause.
    pub message: String,
    /// More lines: reasons pool by pool, or what to do next. May be empty.
    #[serde(default)]
    pub details: Vec<String>,
}
