//! A kernel image as Debian ships it: a small program with the compressed kernel inside. Guests boot the kernel itself,
//! because unpacking it in an emulated CPU takes longer than all the rest of the boot.
//!
//! The header is `Documentation/arch/x86/boot.rst` of the kernel.

use anyhow::{Context, Result, bail, ensure};

const SETUP_SECTS: usize = 0x1f1;
const MAGIC: usize = 0x202;
const VERSION: usize = 0x206;
const PAYLOAD_OFFSET: usize = 0x248;
const PAYLOAD_LENGTH: usize = 0x24c;

/// The first version of the header that says where the payload is.
const PAYLOAD_SINCE: u16 = 0x208;

/// The build adds the length of what is packed behind it, which is none of the compressor's.
const TRAILER_LEN: usize = 4;

/// The compressed kernel.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Payload<'a> {
    pub(super) compression: Compression,
    pub(super) bytes: &'a [u8],
}

/// How it is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Compression {
    Lz4,
    Zstd,
    Xz,
}

impl Compression {
    /// What unpacks it with `-d -c`.
    pub(super) fn program(self) -> &'static str {
        match self {
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
            Self::Xz => "xz",
        }
    }
}

/// Finds the compressed kernel in an image.
pub(super) fn payload(image: &[u8]) -> Result<Payload<'_>> {
    ensure!(image.get(MAGIC..MAGIC + 4) == Some(b"HdrS"), "no kernel image");
    let version = u16::from_le_bytes(bytes_at(image, VERSION)?);
    ensure!(version >= PAYLOAD_SINCE, "boot protocol {version:#x} does not say where the kernel is");
    // Zero stands for four, for the sake of images of the last century.
    let [sectors] = bytes_at::<1>(image, SETUP_SECTS)?;
    let setup_len = (usize::from(if sectors == 0 { 4 } else { sectors }) + 1) * 512;
    let offset = u32::from_le_bytes(bytes_at(image, PAYLOAD_OFFSET)?) as usize;
    let length = u32::from_le_bytes(bytes_at(image, PAYLOAD_LENGTH)?) as usize;
    let start = setup_len + offset;
    let end = (start + length).checked_sub(TRAILER_LEN).context("a payload of no length")?;
    let bytes = image.get(start..end).context("the payload is not inside the image")?;
    let compression = match bytes {
        [0x02, 0x21, 0x4c, 0x18, ..] => Compression::Lz4,
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Compression::Zstd,
        [0xfd, b'7', b'z', b'X', ..] => Compression::Xz,
        other => bail!("a payload of unknown compression: {:02x?}", other.get(..4)),
    };
    Ok(Payload { compression, bytes })
}

fn bytes_at<const N: usize>(image: &[u8], at: usize) -> Result<[u8; N]> {
    let bytes = image.get(at..at + N).with_context(|| format!("the image ends before {at:#x}"))?;
    bytes.try_into().context("as many bytes as asked for")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(payload: &[u8]) -> Vec<u8> {
        let mut image = vec![0; 1024 + 16];
        image[SETUP_SECTS] = 1;
        image[MAGIC..MAGIC + 4].copy_from_slice(b"HdrS");
        image[VERSION..VERSION + 2].copy_from_slice(&0x20f_u16.to_le_bytes());
        image[PAYLOAD_OFFSET..PAYLOAD_OFFSET + 4].copy_from_slice(&16_u32.to_le_bytes());
        let length = u32::try_from(payload.len() + TRAILER_LEN).unwrap();
        image[PAYLOAD_LENGTH..PAYLOAD_LENGTH + 4].copy_from_slice(&length.to_le_bytes());
        image.extend(payload);
        image.extend([1, 2, 3, 4]);
        image
    }

    #[test]
    fn the_payload_is_found_without_the_length_behind_it() {
        let check = |payload: &[u8], compression| {
            let image = image(payload);
            assert_eq!(super::payload(&image).unwrap(), Payload { compression, bytes: payload });
        };
        check(&[0x02, 0x21, 0x4c, 0x18, 9], Compression::Lz4);
        check(&[0x28, 0xb5, 0x2f, 0xfd, 9, 9], Compression::Zstd);
        check(b"\xfd7zXZ", Compression::Xz);
    }

    #[test]
    fn what_is_no_image_is_refused() {
        let check = |image: &[u8], expected: &str| {
            let error = payload(image).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        };
        check(b"", "no kernel image");
        check(&image(b"\x1f\x8b\x08\x00"), "unknown compression");
        let whole = image(&[0x28, 0xb5, 0x2f, 0xfd]);
        check(&whole[..whole.len() - 5], "not inside");
        let mut old = whole;
        old[VERSION] = 7;
        check(&old, "boot protocol 0x207");
    }
}
