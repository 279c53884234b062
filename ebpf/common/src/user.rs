//! Lets aya move the map types between this process and the kernel.
#![expect(unsafe_code, reason = "aya::Pod is an unsafe trait")]

use crate::layout::{
    Endpoint, EndpointKey, PathMtu, PeerEntry, PeerKey, PoolCounters, PoolEntry, RemoteEntry, Settings,
    SourceKey, TagEntry, TagKey, UplinkEntry,
};

// SAFETY: `repr(C)`, `Copy`, without padding (asserted in `layout`), and every bit pattern is a value.
unsafe impl aya::Pod for EndpointKey {}
// SAFETY: as above.
unsafe impl aya::Pod for Endpoint {}
// SAFETY: as above.
unsafe impl aya::Pod for SourceKey {}
// SAFETY: as above.
unsafe impl aya::Pod for PoolEntry {}
// SAFETY: as above.
unsafe impl aya::Pod for TagKey {}
// SAFETY: as above.
unsafe impl aya::Pod for PoolCounters {}
// SAFETY: as above.
unsafe impl aya::Pod for Settings {}
// SAFETY: as above.
unsafe impl aya::Pod for UplinkEntry {}
// SAFETY: as above.
unsafe impl aya::Pod for RemoteEntry {}
// SAFETY: as above.
unsafe impl aya::Pod for PeerKey {}
// SAFETY: as above.
unsafe impl aya::Pod for PeerEntry {}
// SAFETY: as above.
unsafe impl aya::Pod for PathMtu {}
// SAFETY: as above.
unsafe impl aya::Pod for TagEntry {}
