//! Why a packet was dropped.

/// Index into the drop counters. The numbers are part of the schema: new reasons go at the end.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DropReason {
    /// The interface is not a known endpoint.
    NoEndpoint = 0,
    /// The frame carries a VLAN tag: behind it, an address would escape the checks.
    Vlan = 1,
    /// Neither IPv4 nor IPv6 nor ARP.
    Protocol = 2,
    /// The packet ends inside a header.
    Truncated = 3,
    /// A header contradicts itself, such as an IPv4 header length below 20.
    Malformed = 4,
    /// The IPv4 source is not the pod's.
    Ipv4Source = 5,
    /// The sender protocol address of an ARP packet is not the pod's.
    ArpSender = 6,
    /// ARP for something other than IPv4 over Ethernet, or another operation than request and reply.
    ArpType = 7,
    /// The IPv6 source is neither the pod's, nor link-local, nor `::` where a host may use that.
    Ipv6Source = 8,
    /// Neighbour discovery that speaks for another address.
    NdTarget = 9,
    /// Router advertisement or redirect: a pod is no router.
    NdRouter = 10,
    /// Fragmented neighbour discovery (RFC 6980).
    NdFragment = 11,
    /// More extension headers than are looked through, or routing header type 0 (RFC 5095).
    ExtensionHeaders = 12,
    /// The pool's DSCP could not be written.
    Rewrite = 13,
    /// Not a drop: the source is the pod's own but lies in no pool. The packet passes without a tag.
    NoPool = 14,
    /// A packet that must be encapsulated leaves through an interface without an uplink rule.
    NoUplink = 15,
    /// With an outer header the packet would be longer than IPv4 can say: an aggregate above 64 KiB (BIG TCP).
    TooLong = 16,
    /// The kernel made no room for the outer header.
    Encapsulate = 17,
    /// The outer source is not a known node.
    UnknownNode = 18,
    /// The outer packet is a fragment.
    OuterFragment = 19,
    /// The outer header has options, a wrong checksum or a wrong length.
    OuterHeader = 20,
    /// What is inside is no well-formed IPv4 packet.
    InnerHeader = 21,
    /// The inner source does not belong to the node that sent the packet.
    InnerSource = 22,
    /// Congestion was experienced on the way by a packet whose sender does not understand that (RFC 6040).
    EcnNotEct = 23,
    /// The kernel did not take the outer header away, or an inner header could not be written.
    Decapsulate = 24,
    /// Not a drop: the sending node owns the block of the inner source or destination, though this very address is,
    /// or was, lent to another.
    OwnerRelay = 25,
    /// Not a drop: the inner source lies in a pool, in no block known here, and came from a known node.
    UncoveredSource = 26,
    /// Not a drop: forwarded without encapsulation, though its source lies in a range that is encapsulated.
    NotEncapsulated = 27,
    /// Not a drop: "fragmentation needed" about an outer packet was passed on to the inner sender.
    PathMtuRelayed = 28,
    /// Not a drop: "fragmentation needed" quoted too little to find the inner sender; the path MTU was kept.
    PathMtuKept = 29,
}

impl DropReason {
    /// How many counters there are.
    pub const COUNT: u32 = 30;

    /// All, in the order of their numbers.
    pub const ALL: [Self; Self::COUNT as usize] = [
        Self::NoEndpoint,
        Self::Vlan,
        Self::Protocol,
        Self::Truncated,
        Self::Malformed,
        Self::Ipv4Source,
        Self::ArpSender,
        Self::ArpType,
        Self::Ipv6Source,
        Self::NdTarget,
        Self::NdRouter,
        Self::NdFragment,
        Self::ExtensionHeaders,
        Self::Rewrite,
        Self::NoPool,
        Self::NoUplink,
        Self::TooLong,
        Self::Encapsulate,
        Self::UnknownNode,
        Self::OuterFragment,
        Self::OuterHeader,
        Self::InnerHeader,
        Self::InnerSource,
        Self::EcnNotEct,
        Self::Decapsulate,
        Self::OwnerRelay,
        Self::UncoveredSource,
        Self::NotEncapsulated,
        Self::PathMtuRelayed,
        Self::PathMtuKept,
    ];

    /// Its place in the counters.
    #[inline(always)]
    #[must_use]
    pub const fn index(self) -> u32 {
        self as u32
    }

    /// Its name in metrics and on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::NoEndpoint => "no_endpoint",
            Self::Vlan => "vlan",
            Self::Protocol => "protocol",
            Self::Truncated => "truncated",
            Self::Malformed => "malformed",
            Self::Ipv4Source => "ipv4_source",
            Self::ArpSender => "arp_sender",
            Self::ArpType => "arp_type",
            Self::Ipv6Source => "ipv6_source",
            Self::NdTarget => "nd_target",
            Self::NdRouter => "nd_router",
            Self::NdFragment => "nd_fragment",
            Self::ExtensionHeaders => "extension_headers",
            Self::Rewrite => "rewrite",
            Self::NoPool => "no_pool",
            Self::NoUplink => "no_uplink",
            Self::TooLong => "too_long",
            Self::Encapsulate => "encapsulate",
            Self::UnknownNode => "unknown_node",
            Self::OuterFragment => "outer_fragment",
            Self::OuterHeader => "outer_header",
            Self::InnerHeader => "inner_header",
            Self::InnerSource => "inner_source",
            Self::EcnNotEct => "ecn_not_ect",
            Self::Decapsulate => "decapsulate",
            Self::OwnerRelay => "owner_relay",
            Self::UncoveredSource => "uncovered_source",
            Self::NotEncapsulated => "not_encapsulated",
            Self::PathMtuRelayed => "path_mtu_relayed",
            Self::PathMtuKept => "path_mtu_kept",
        }
    }

    /// Whether the packet was really dropped: false for what is counted beside the drops.
    #[must_use]
    pub const fn is_drop(self) -> bool {
        !matches!(
            self,
            Self::NoPool
                | Self::OwnerRelay
                | Self::UncoveredSource
                | Self::NotEncapsulated
                | Self::PathMtuRelayed
                | Self::PathMtuKept
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_lies_at_its_own_number_and_has_its_own_name() {
        for (at, reason) in DropReason::ALL.into_iter().enumerate() {
            assert_eq!(reason.index() as usize, at, "{reason:?}");
            let same = DropReason::ALL.iter().filter(|other| other.name() == reason.name()).count();
            assert_eq!(same, 1, "{}", reason.name());
        }
    }
}
