//! Which kernel runs.

use rustix::system::uname;

/// The first kernel with TCX links; older ones have clsact filters only.
const TCX_SINCE: (u32, u32) = (6, 6);

/// Major and minor version of the running kernel.
#[must_use]
pub fn kernel_version() -> Option<(u32, u32)> {
    version_of(&uname().release().to_string_lossy())
}

/// Whether the running kernel has TCX links. By its version: an oracle does not ask the way the code under test does.
#[must_use]
pub fn has_tcx() -> bool {
    kernel_version().is_some_and(|version| version >= TCX_SINCE)
}

fn version_of(release: &str) -> Option<(u32, u32)> {
    let mut parts = release.split(['.', '-', '+']);
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_releases_are_read() {
        assert_eq!(version_of("6.1.0-40-amd64"), Some((6, 1)));
        assert_eq!(version_of("6.18.44-fc-v657"), Some((6, 18)));
        assert_eq!(version_of("6.6-rc1"), Some((6, 6)));
        assert_eq!(version_of("six"), None);
    }
}
