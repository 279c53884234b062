//! Names of DSCP code points.

/// The names and their code points: RFC 2474 (CS), 2597 (AF), 3246 (EF), 5865 (VOICE-ADMIT), 8622 (LE); DF is
/// the default, 0.
const NAMES: [(&str, u8); 24] = [
    ("DF", 0),
    ("CS0", 0),
    ("CS1", 8),
    ("CS2", 16),
    ("CS3", 24),
    ("CS4", 32),
    ("CS5", 40),
    ("CS6", 48),
    ("CS7", 56),
    ("AF11", 10),
    ("AF12", 12),
    ("AF13", 14),
    ("AF21", 18),
    ("AF22", 20),
    ("AF23", 22),
    ("AF31", 26),
    ("AF32", 28),
    ("AF33", 30),
    ("AF41", 34),
    ("AF42", 36),
    ("AF43", 38),
    ("EF", 46),
    ("LE", 1),
    ("VOICE-ADMIT", 44),
];

/// The code point of a name such as `EF`, `AF41` or `CS1`, in any case.
#[must_use]
pub fn dscp_of_name(name: &str) -> Option<u8> {
    NAMES.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, code_point)| *code_point)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_rules_of_their_classes() {
        for class in 0..8u8 {
            assert_eq!(dscp_of_name(&format!("CS{class}")), Some(8 * class));
        }
        for class in 1..5u8 {
            for drop in 1..4u8 {
                assert_eq!(dscp_of_name(&format!("af{class}{drop}")), Some(8 * class + 2 * drop));
            }
        }
        assert_eq!((dscp_of_name("EF"), dscp_of_name("AF44"), dscp_of_name("")), (Some(46), None, None));
    }
}
