//! Address families, prefixes without host bits, and block sizes.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ipnet::IpNet;

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// The family of an address.
    #[must_use]
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    /// Bits in an address of this family: 32 or 128.
    #[must_use]
    pub fn address_bits(self) -> u8 {
        match self {
            Self::V4 => 32,
            Self::V6 => 128,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// A prefix whose host bits are all zero, so that equal ranges are equal values.
///
/// Ordered by family (IPv4 first), then network address, then prefix length.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Cidr(IpNet);

/// Why a text is not a [`Cidr`]. The text says what to write instead where that is known.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CidrError {
    /// Not `ADDRESS/LENGTH` at all.
    #[error("{text:?} is not a CIDR: expected ADDRESS/LENGTH such as 10.0.0.0/26 or fd00::/112")]
    Syntax {
        /// The text as given.
        text: String,
    },
    /// The prefix length leaves address bits behind it that are set.
    #[error("{text} has host bits set: the network is {network}")]
    HostBits {
        /// The text as given.
        text: String,
        /// The same prefix without the host bits.
        network: Cidr,
    },
}

impl Cidr {
    /// The prefix of `prefix_len` bits around `address`, host bits cleared; `None` if `prefix_len` is larger
    /// than the family's address.
    #[must_use]
    pub fn containing(address: IpAddr, prefix_len: u8) -> Option<Self> {
        IpNet::new(address, prefix_len).ok().map(|net| Self(net.trunc()))
    }

    /// The prefix that holds `address` alone (/32 or /128).
    #[must_use]
    pub fn host(address: IpAddr) -> Self {
        Self(IpNet::from(address))
    }

    /// The lowest address.
    #[must_use]
    pub fn network(&self) -> IpAddr {
        self.0.network()
    }

    /// The highest address.
    #[must_use]
    pub fn last(&self) -> IpAddr {
        self.0.broadcast()
    }

    /// Leading bits that are fixed.
    #[must_use]
    pub fn prefix_len(&self) -> u8 {
        self.0.prefix_len()
    }

    /// IPv4 or IPv6.
    #[must_use]
    pub fn family(&self) -> Family {
        match self.0 {
            IpNet::V4(_) => Family::V4,
            IpNet::V6(_) => Family::V6,
        }
    }

    /// How many addresses it holds, saturating at `u128::MAX` for ::/0.
    #[must_use]
    pub fn size(&self) -> u128 {
        let host_bits = u32::from(self.family().address_bits() - self.prefix_len());
        1u128.checked_shl(host_bits).unwrap_or(u128::MAX)
    }

    /// Whether `address` lies inside.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        self.0.contains(&address)
    }

    /// Whether the whole of `other` lies inside (a prefix covers itself).
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        self.family() == other.family()
            && self.prefix_len() <= other.prefix_len()
            && self.0.contains(&other.network())
    }

    /// Whether any address lies in both.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        self.covers(other) || other.covers(self)
    }

    /// The address `offset` places above the lowest one, if inside.
    #[must_use]
    pub fn nth(&self, offset: u128) -> Option<IpAddr> {
        if offset >= self.size() {
            return None;
        }
        Some(match self.network() {
            IpAddr::V4(base) => IpAddr::V4(Ipv4Addr::from(u32::from(base) | u32::try_from(offset).ok()?)),
            IpAddr::V6(base) => IpAddr::V6(Ipv6Addr::from(u128::from(base) | offset)),
        })
    }

    /// How far above the lowest address `address` lies, if inside.
    #[must_use]
    pub fn offset_of(&self, address: IpAddr) -> Option<u128> {
        if !self.contains(address) {
            return None;
        }
        match (self.network(), address) {
            (IpAddr::V4(base), IpAddr::V4(at)) => Some(u128::from(u32::from(at) - u32::from(base))),
            (IpAddr::V6(base), IpAddr::V6(at)) => Some(u128::from(at) - u128::from(base)),
            _ => None,
        }
    }

    /// The `ipnet` value, for libraries that want one.
    #[must_use]
    pub fn as_ipnet(&self) -> IpNet {
        self.0
    }
}

impl From<IpNet> for Cidr {
    /// Clears the host bits.
    fn from(net: IpNet) -> Self {
        Self(net.trunc())
    }
}

impl FromStr for Cidr {
    type Err = CidrError;

    fn from_str(text: &str) -> Result<Self, CidrError> {
        let net: IpNet = text.parse().map_err(|_| CidrError::Syntax { text: text.to_owned() })?;
        let network = Self(net.trunc());
        if net == network.0 {
            Ok(network)
        } else {
            Err(CidrError::HostBits { text: text.to_owned(), network })
        }
    }
}

impl Ord for Cidr {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.family(), self.network(), self.prefix_len()).cmp(&(
            other.family(),
            other.network(),
            other.prefix_len(),
        ))
    }
}

impl PartialOrd for Cidr {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// A prefix length that blocks may have: 20 to 32 for IPv4, 116 to 128 for IPv6, so a block holds 1 to 4,096
/// addresses. The range is Calico's (`spec.blockSize` of its IPPool).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BlockSize {
    family: Family,
    prefix_len: u8,
}

/// Why a number is not a [`BlockSize`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{prefix_len} is not a block size for {family}: expected {low} to {high}")]
pub struct BlockSizeError {
    prefix_len: u32,
    family: Family,
    low: u8,
    high: u8,
}

impl BlockSize {
    /// Checks the range for the family.
    ///
    /// # Errors
    /// Outside 20..=32 (IPv4) or 116..=128 (IPv6).
    pub fn new(family: Family, prefix_len: u32) -> Result<Self, BlockSizeError> {
        let high = family.address_bits();
        let low = high - 12;
        match u8::try_from(prefix_len) {
            Ok(len) if (low..=high).contains(&len) => Ok(Self { family, prefix_len: len }),
            _ => Err(BlockSizeError { prefix_len, family, low, high }),
        }
    }

    /// What a pool has that names none: /26 and /122, 64 addresses, as in Calico.
    #[must_use]
    pub fn default_of(family: Family) -> Self {
        Self { family, prefix_len: family.address_bits() - 6 }
    }

    /// The prefix length of a block.
    #[must_use]
    pub fn prefix_len(self) -> u8 {
        self.prefix_len
    }

    /// Addresses in a block: 1 to 4,096.
    #[must_use]
    pub fn address_count(self) -> u32 {
        1 << (self.family.address_bits() - self.prefix_len)
    }

    /// The block of this size around `address`; `None` for an address of the other family.
    #[must_use]
    pub fn block_of(self, address: IpAddr) -> Option<Cidr> {
        (Family::of(address) == self.family).then(|| Cidr::containing(address, self.prefix_len)).flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cidr_is_refused_with_what_to_write_instead() {
        let check = |text: &str, expected: &str| {
            assert_eq!(text.parse::<Cidr>().unwrap_err().to_string(), expected);
        };
        check("10.0.0.1/26", "10.0.0.1/26 has host bits set: the network is 10.0.0.0/26");
        check("fd00::1/112", "fd00::1/112 has host bits set: the network is fd00::/112");
        let syntax = "is not a CIDR: expected ADDRESS/LENGTH such as 10.0.0.0/26 or fd00::/112";
        for text in ["", "10.0.0.0", "10.0.0.0/33", "10.0.0/24", "fd00::/129", "a/b", "10.0.0.0/-1"] {
            check(text, &format!("{text:?} {syntax}"));
        }
    }

    #[test]
    fn ranges_cover_and_overlap_within_their_family_only() {
        let check = |a: &str, b: &str, covers: bool, overlaps: bool| {
            let (a, b): (Cidr, Cidr) = (a.parse().unwrap(), b.parse().unwrap());
            assert_eq!((a.covers(&b), a.overlaps(&b)), (covers, overlaps), "{a} and {b}");
        };
        check("10.0.0.0/24", "10.0.0.64/26", true, true);
        check("10.0.0.64/26", "10.0.0.0/24", false, true);
        check("10.0.0.0/24", "10.0.0.0/24", true, true);
        check("10.0.0.0/24", "10.0.1.0/24", false, false);
        check("0.0.0.0/0", "::/0", false, false);
        check("fd00::/112", "fd00::8/125", true, true);
    }

    #[test]
    fn offsets_and_addresses_are_each_others_inverse() {
        for (cidr, size) in
            [("10.0.0.248/29", 8u128), ("10.1.2.3/32", 1), ("fd00::f8/125", 8), ("::/0", u128::MAX)]
        {
            let cidr: Cidr = cidr.parse().unwrap();
            assert_eq!(cidr.size(), size);
            for offset in 0..size.min(8) {
                assert_eq!(cidr.offset_of(cidr.nth(offset).unwrap()), Some(offset));
            }
            assert_eq!(cidr.nth(size), None);
        }
    }

    #[test]
    fn block_sizes_stay_within_their_familys_range() {
        let check =
            |family, len, ok: bool| assert_eq!(BlockSize::new(family, len).is_ok(), ok, "{family} /{len}");
        for (len, ok) in [(19, false), (20, true), (26, true), (32, true), (33, false), (300, false)] {
            check(Family::V4, len, ok);
        }
        for (len, ok) in [(115, false), (116, true), (128, true), (129, false), (26, false)] {
            check(Family::V6, len, ok);
        }
        assert_eq!(BlockSize::new(Family::V4, 29).unwrap().address_count(), 8);
        assert_eq!(BlockSize::default_of(Family::V6).prefix_len(), 122);
    }
}
