//! An `sk_buff` as the verdicts see it.

use aya_ebpf::bindings::{
    __sk_buff, BPF_F_ADJ_ROOM_DECAP_L3_IPV4, BPF_F_ADJ_ROOM_ENCAP_L3_IPV4, BPF_F_ADJ_ROOM_FIXED_GSO,
    BPF_F_ADJ_ROOM_NO_CSUM_RESET, BPF_F_RECOMPUTE_CSUM, bpf_adj_room_mode,
};
use aya_ebpf::programs::TcContext;
use ebpf_common::to_uplink::OUTER_LEN;
use ebpf_common::verdict::ETHERNET_LEN;
use ebpf_common::{DropReason, Header, Packet};

/// What the kernel answers to flags that it does not know.
const EINVAL: i64 = 22;

/// Between the Ethernet header and what follows it.
const BEHIND_MAC: u32 = bpf_adj_room_mode::BPF_ADJ_ROOM_MAC;

/// An aggregate keeps the size of its segments: the route's MTU has left room for an outer header. And an IPv4 header
/// has no checksum over what is in it, so what is known of the inner checksum stays true.
const KEEP: u64 = (BPF_F_ADJ_ROOM_FIXED_GSO | BPF_F_ADJ_ROOM_NO_CSUM_RESET) as u64;

/// Borrowed for the length of one program run.
pub(crate) struct Skb<'a> {
    context: &'a TcContext,
}

impl<'a> Skb<'a> {
    /// Makes the first `near_len` bytes directly readable: an `sk_buff` may keep them in fragments.
    #[inline(always)]
    pub(crate) fn new(context: &'a TcContext, near_len: u32) -> Self {
        let linear = context.data_end().wrapping_sub(context.data());
        if linear < near_len as usize && linear < context.len() as usize {
            // What cannot be pulled in is read by copy below, or found to be cut short.
            let _ = context.pull_data(near_len.min(context.len()));
        }
        Self { context }
    }

    #[inline(always)]
    fn raw(&self) -> *mut __sk_buff {
        self.context.skb.skb
    }

    /// The interface that the program is attached to.
    #[inline(always)]
    pub(crate) fn ifindex(&self) -> u32 {
        // SAFETY: the kernel passes a valid context and checks each access to it at load time.
        unsafe { (*self.raw()).ifindex }
    }

    /// Whether the kernel has taken a VLAN tag out of the frame.
    #[inline(always)]
    pub(crate) fn vlan_present(&self) -> bool {
        // SAFETY: as in `ifindex`.
        unsafe { (*self.raw()).vlan_present != 0 }
    }

    /// `skb->mark`.
    #[inline(always)]
    pub(crate) fn mark(&self) -> u32 {
        // SAFETY: as in `ifindex`.
        unsafe { (*self.raw()).mark }
    }

    /// Writes `skb->mark`.
    #[inline(always)]
    pub(crate) fn set_mark(&self, mark: u32) {
        self.context.set_mark(mark);
    }

    /// How many packets this is on the wire: the segments of an aggregate, else 1.
    #[inline(always)]
    pub(crate) fn wire_packets(&self) -> u64 {
        // SAFETY: as in `ifindex`.
        let segments = unsafe { (*self.raw()).gso_segs };
        if segments > 1 { segments as u64 } else { 1 }
    }

    /// Length of the frame as the stack holds it.
    #[inline(always)]
    pub(crate) fn frame_bytes(&self) -> u64 {
        self.context.len() as u64
    }

    /// Puts an IPv4 header in front of the one that is there, such that the kernel can still cut an aggregate into
    /// its segments.
    #[inline(always)]
    pub(crate) fn encapsulate(&self, offset: u32, outer: &Header) -> Result<(), DropReason> {
        let flags = KEEP | BPF_F_ADJ_ROOM_ENCAP_L3_IPV4 as u64;
        let grown = self.context.adjust_room(OUTER_LEN as i32, BEHIND_MAC, flags);
        // What leaves has no checksum over the whole packet to be kept right.
        grown
            .and_then(|()| self.context.store(offset as usize, outer, 0))
            .map_err(|_| DropReason::Encapsulate)
    }

    /// Takes the outer IPv4 header away. Kernels before 6.3 do not know the flag that says so; taking the same bytes
    /// away without it is what they can do.
    #[inline(always)]
    pub(crate) fn decapsulate(&self) -> Result<(), DropReason> {
        let flags = KEEP | BPF_F_ADJ_ROOM_DECAP_L3_IPV4 as u64;
        let mut shrunk = self.context.adjust_room(-(OUTER_LEN as i32), BEHIND_MAC, flags);
        if shrunk == Err(-EINVAL) {
            shrunk = self.context.adjust_room(-(OUTER_LEN as i32), BEHIND_MAC, KEEP);
        }
        shrunk.map_err(|_| DropReason::Decapsulate)
    }

    /// Takes the first IPv4 header away, with nothing said about tunnels.
    #[inline(always)]
    pub(crate) fn cut_header(&self) -> Result<(), DropReason> {
        self.context.adjust_room(-(OUTER_LEN as i32), BEHIND_MAC, 0).map_err(|_| DropReason::Decapsulate)
    }

    /// Writes bytes of the packet, unsharing it where needed, and keeps a checksum over the whole packet
    /// (CHECKSUM_COMPLETE) right.
    #[inline(always)]
    pub(crate) fn store<const N: usize>(&self, offset: u32, bytes: &[u8; N]) -> Result<(), DropReason> {
        let flags = BPF_F_RECOMPUTE_CSUM as u64;
        self.context.store(offset as usize, bytes, flags).map_err(|_| DropReason::Rewrite)
    }
}

impl Packet for Skb<'_> {
    #[inline(always)]
    fn len(&self) -> u32 {
        self.context.len()
    }

    #[inline(always)]
    fn load<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        let start = self.context.data() + offset as usize;
        if start + N <= self.context.data_end() {
            // SAFETY: within the linear part, as just compared; the verifier follows the comparison.
            return Some(unsafe { *(start as *const [u8; N]) });
        }
        None
    }

    #[inline(always)]
    fn load_words<const N: usize>(&self, offset: u32) -> Option<[u32; N]> {
        let start = self.context.data() + offset as usize;
        if start + N * 4 > self.context.data_end() {
            return None;
        }
        // SAFETY: within the linear part, as just compared. Words need not lie at multiples of four in a frame: the
        // verifier lets through what the machine can read (else it refuses the program), and the instruction has no
        // alignment of its own. `read_unaligned` would be read byte by byte.
        Some(core::array::from_fn(
            #[inline(always)]
            |at| unsafe { *(start as *const u32).add(at) },
        ))
    }

    #[inline(always)]
    fn ethertype(&self) -> Option<u16> {
        let start = self.context.data() + ETHERNET_LEN as usize - 2;
        if start + 2 > self.context.data_end() {
            return None;
        }
        // SAFETY: as in `load_words`.
        Some(u16::from_be(unsafe { *(start as *const u16) }))
    }

    #[inline(always)]
    fn load_far<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        self.context.load(offset as usize).ok()
    }
}
