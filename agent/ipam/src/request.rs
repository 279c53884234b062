//! What a workload asks for.

use std::fmt;
use std::net::IpAddr;

use model::{Family, Handle, Labels};

/// Addresses wanted by one holder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AssignRequest {
    /// Who will hold them.
    pub handle: Handle,
    /// Labels of the pod's namespace; one without labels is the empty set.
    pub namespace_labels: Labels,
    /// What is wanted of IPv4.
    pub v4: FamilyRequest,
    /// What is wanted of IPv6.
    pub v6: FamilyRequest,
}

impl AssignRequest {
    /// Whatever the pools offer, for a pod in a namespace with these labels.
    #[must_use]
    pub fn new(handle: Handle, namespace_labels: Labels) -> Self {
        Self { handle, namespace_labels, v4: FamilyRequest::default(), v6: FamilyRequest::default() }
    }

    /// What is wanted of a family.
    #[must_use]
    pub fn of(&self, family: Family) -> &FamilyRequest {
        match family {
            Family::V4 => &self.v4,
            Family::V6 => &self.v6,
        }
    }
}

/// What is wanted of one family.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FamilyRequest {
    /// How much.
    pub want: Want,
    /// From which pools; `None`: from those the selectors give.
    pub pools: Option<RequestedPools>,
    /// Exactly this address; `None`: any.
    pub address: Option<IpAddr>,
}

/// How much an address of a family is wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Want {
    /// Required if any pool of the family is eligible for the workload, not wanted otherwise; but one family
    /// at least must succeed.
    #[default]
    AsPoolsExist,
    /// Without it the whole request fails.
    Required,
    /// Taken where there is one; that no pool is eligible or all are full is no failure, as long as the other
    /// family succeeds.
    IfPossible,
    /// Not wanted.
    No,
}

/// Pools a user named, in the order they are tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestedPools {
    /// Names or CIDRs, as written.
    pub entries: Vec<String>,
    /// Where they were named, for messages.
    pub source: PoolSource,
}

/// Where pools were named. In order of precedence, the strongest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PoolSource {
    /// This annotation of the pod.
    PodAnnotation(String),
    /// This annotation of the pod's namespace.
    NamespaceAnnotation(String),
    /// The CNI network configuration.
    NetworkConfiguration,
}

impl fmt::Display for PoolSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PodAnnotation(key) => write!(f, "pod annotation {key}"),
            Self::NamespaceAnnotation(key) => write!(f, "namespace annotation {key}"),
            Self::NetworkConfiguration => f.write_str("the network configuration"),
        }
    }
}
