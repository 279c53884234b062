//! How objects and changes lie in the file.
//!
//! ```text
//! object   crc32 (4) | revision (8) | JSON
//! change   crc32 (4) | 0 put, 1 delete (1) | revision of the object (8) | length of kind (2) | kind
//!                    | length of key (2) | key | JSON
//! ```
//! Numbers are little-endian; the checksum covers everything after it. The database's own checksums are looked
//! at only when a file is opened; this finds damage whenever a row is read.

use crate::versioned::Revision;

/// An object as stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ObjectRow {
    pub(super) revision: Revision,
    pub(super) json: Vec<u8>,
}

/// A change as stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ChangeRow {
    pub(super) deleted: bool,
    pub(super) kind: String,
    pub(super) key: String,
    pub(super) object: ObjectRow,
}

impl ObjectRow {
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let mut body = Vec::with_capacity(8 + self.json.len());
        body.extend(self.revision.get().to_le_bytes());
        body.extend(&self.json);
        seal(&body)
    }

    /// `None` if the bytes are damaged.
    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let mut rest = unseal(bytes)?;
        let revision = take_revision(&mut rest)?;
        Some(Self { revision, json: rest.to_vec() })
    }
}

impl ChangeRow {
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let mut body = vec![u8::from(self.deleted)];
        body.extend(self.object.revision.get().to_le_bytes());
        for text in [&self.kind, &self.key] {
            // Keys are at most 507 bytes (`Key`), kinds are constants.
            body.extend(u16::try_from(text.len()).unwrap_or(u16::MAX).to_le_bytes());
            body.extend(text.as_bytes());
        }
        body.extend(&self.object.json);
        seal(&body)
    }

    /// `None` if the bytes are damaged.
    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (deleted, mut rest) = unseal(bytes)?.split_first()?;
        let revision = take_revision(&mut rest)?;
        let kind = take_text(&mut rest)?;
        let key = take_text(&mut rest)?;
        Some(Self { deleted: *deleted != 0, kind, key, object: ObjectRow { revision, json: rest.to_vec() } })
    }
}

fn seal(body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(4 + body.len());
    bytes.extend(crc32fast::hash(body).to_le_bytes());
    bytes.extend(body);
    bytes
}

fn unseal(bytes: &[u8]) -> Option<&[u8]> {
    let (sum, body) = bytes.split_first_chunk::<4>()?;
    (u32::from_le_bytes(*sum) == crc32fast::hash(body)).then_some(body)
}

fn take_revision(rest: &mut &[u8]) -> Option<Revision> {
    let (number, after) = rest.split_first_chunk::<8>()?;
    *rest = after;
    Some(Revision::new(u64::from_le_bytes(*number)))
}

fn take_text(rest: &mut &[u8]) -> Option<String> {
    let (len, after) = rest.split_first_chunk::<2>()?;
    let (text, after) = after.split_at_checked(usize::from(u16::from_le_bytes(*len)))?;
    *rest = after;
    String::from_utf8(text.to_vec()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object() -> ObjectRow {
        ObjectRow { revision: Revision::new(7), json: br#"{"metadata":{"name":"a"}}"#.to_vec() }
    }

    #[test]
    fn rows_come_back_as_they_were_written() {
        assert_eq!(ObjectRow::from_bytes(&object().to_bytes()), Some(object()));
        for deleted in [false, true] {
            let row = ChangeRow { deleted, kind: "Pod".into(), key: "ns/web".into(), object: object() };
            assert_eq!(ChangeRow::from_bytes(&row.to_bytes()), Some(row));
        }
    }

    #[test]
    fn any_changed_bit_or_missing_byte_is_noticed() {
        let change = ChangeRow { deleted: false, kind: "Pod".into(), key: "ns/web".into(), object: object() };
        for bytes in [object().to_bytes(), change.to_bytes()] {
            for at in 0..bytes.len() * 8 {
                let mut damaged = bytes.clone();
                damaged[at / 8] ^= 1 << (at % 8);
                assert_eq!(
                    (ObjectRow::from_bytes(&damaged), ChangeRow::from_bytes(&damaged)),
                    (None, None),
                    "bit {at}"
                );
            }
            for len in 0..bytes.len() {
                assert_eq!(ObjectRow::from_bytes(&bytes[..len]), None, "{len} bytes");
                assert_eq!(ChangeRow::from_bytes(&bytes[..len]), None, "{len} bytes");
            }
        }
    }
}
