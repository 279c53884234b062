//! Hardware addresses.

use std::fmt;
use std::str::FromStr;

/// A hardware address of six bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac(pub [u8; 6]);

/// Text that is no hardware address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?}: expected six pairs of hexadecimal digits, as in 02:00:00:00:00:01")]
pub struct MacError {
    text: String,
}

impl Mac {
    /// Whether it can be one station's: neither a group's (the lowest bit of the first byte) nor all zeros.
    #[must_use]
    pub fn is_unicast(self) -> bool {
        self.0[0] & 1 == 0 && self.0 != [0; 6]
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl FromStr for Mac {
    type Err = MacError;

    fn from_str(text: &str) -> Result<Self, MacError> {
        let error = || MacError { text: text.to_owned() };
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts.next().ok_or_else(error)?;
            let is_pair = part.len() == 2 && part.bytes().all(|c| c.is_ascii_hexdigit());
            let pair = Some(part).filter(|_| is_pair).ok_or_else(error)?;
            *byte = u8::from_str_radix(pair, 16).map_err(|_| error())?;
        }
        if parts.next().is_none() { Ok(Self(bytes)) } else { Err(error()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hardware_address_is_six_pairs_and_comes_back() {
        for text in ["02:00:00:00:00:01", "1c:0c:0a:c0:ff:ee"] {
            assert_eq!(text.parse::<Mac>().unwrap().to_string(), text);
        }
        assert_eq!("0A:0B:0C:0D:0E:0F".parse(), Ok(Mac([10, 11, 12, 13, 14, 15])));
        for text in [
            "",
            "02:00:00:00:00",
            "02:00:00:00:00:01:02",
            "2:0:0:0:0:1",
            "02-00-00-00-00-01",
            "+2:00:00:00:00:01",
        ] {
            assert!(text.parse::<Mac>().is_err(), "{text}");
        }
    }

    #[test]
    fn groups_and_nobody_are_not_unicast() {
        let check =
            |text: &str, expected: bool| assert_eq!(text.parse::<Mac>().unwrap().is_unicast(), expected);
        check("02:00:00:00:00:01", true);
        check("00:00:00:00:00:01", true);
        check("03:00:00:00:00:01", false);
        check("ff:ff:ff:ff:ff:ff", false);
        check("00:00:00:00:00:00", false);
    }
}
