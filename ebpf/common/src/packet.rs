//! Where the verdicts read bytes from.

/// How much of a frame is read by constant offsets: Ethernet and the fixed IPv6 header.
pub const NEAR_LEN: u32 = 14 + 40;

/// A frame, beginning with its Ethernet header. In the kernel an `sk_buff`, on the host a slice.
pub trait Packet {
    /// Length in bytes of the whole frame, whether or not it lies in one piece.
    fn len(&self) -> u32;

    /// The `N` bytes from `offset` on, or `None` if the frame ends before. `offset` is a constant of at most
    /// [`NEAR_LEN`]` - N`: the kernel's verifier must see where it reads.
    fn load<const N: usize>(&self, offset: u32) -> Option<[u8; N]>;

    /// The `N` words from `offset` on, each as the machine reads it where it lies: `to_ne_bytes` gives the frame's
    /// bytes. As [`Packet::load`], and cheaper: the compiler reads bytes one by one.
    fn load_words<const N: usize>(&self, offset: u32) -> Option<[u32; N]>;

    /// The EtherType: the two bytes before the end of the Ethernet header.
    fn ethertype(&self) -> Option<u16>;

    /// As [`Packet::load`] for any `offset`.
    fn load_far<const N: usize>(&self, offset: u32) -> Option<[u8; N]>;

    /// Whether there is no byte at all.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A frame in memory.
#[derive(Clone, Copy, Debug)]
pub struct SlicePacket<'a>(pub &'a [u8]);

impl Packet for SlicePacket<'_> {
    fn len(&self) -> u32 {
        self.0.len() as u32
    }

    fn load<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        self.load_far(offset)
    }

    fn load_words<const N: usize>(&self, offset: u32) -> Option<[u32; N]> {
        let bytes = self.0.get(offset as usize..)?.get(..N * 4)?;
        let mut words = [0; N];
        for (word, bytes) in words.iter_mut().zip(bytes.as_chunks::<4>().0) {
            *word = u32::from_ne_bytes(*bytes);
        }
        Some(words)
    }

    fn ethertype(&self) -> Option<u16> {
        self.load(crate::verdict::ETHERNET_LEN - 2).map(u16::from_be_bytes)
    }

    fn load_far<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        self.0.get(offset as usize..)?.first_chunk().copied()
    }
}
