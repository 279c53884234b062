//! Reservations.

use serde::{Deserialize, Serialize};

use super::{Metadata, Resource};

/// Ranges that are not handed out automatically.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IpReservation {
    /// Name and labels.
    pub metadata: Metadata,
    /// Which ranges.
    pub spec: IpReservationSpec,
}
resource!(IpReservation {
    const KIND: &'static str = "IPReservation";
    const PLURAL: &'static str = "ipreservations";
});

/// Which ranges are reserved.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "kubernetes", derive(schemars::JsonSchema))]
pub struct IpReservationSpec {
    /// The ranges, without host bits; single addresses are written as /32 or /128. They may overlap.
    #[serde(rename = "reservedCIDRs")]
    #[cfg_attr(feature = "kubernetes", schemars(inner(regex(pattern = super::ADDRESS_OR_CIDR_PATTERN), length(max = 45)), length(max = 10_000)))]
    pub reserved_cidrs: Vec<String>,
}
