//! The rules that every implementation in this crate applies to a change before it makes it.

use uuid::Uuid;

use crate::interface::StoreError;
use crate::key::Key;
use crate::resource::Resource;
use crate::versioned::Revision;

/// What operations are called in errors.
pub(crate) const CREATE: &str = "create";
pub(crate) const GET: &str = "get";
pub(crate) const REPLACE: &str = "replace";
pub(crate) const DELETE: &str = "delete";
pub(crate) const LIST: &str = "list";
pub(crate) const WATCH: &str = "watch";

/// The largest object the store takes, in bytes of JSON: as etcd's default request limit.
pub(crate) const MAX_OBJECT_BYTES: usize = 1_536 * 1024;

/// What a value is stored under.
pub(crate) fn key_of<R: Resource>(operation: &'static str, value: &R) -> Result<Key, StoreError> {
    value.key().map_err(|error| internal::<R>(operation, &value.metadata().name, error.to_string()))
}

/// A new object gets a uid if it has none.
pub(crate) fn ensure_uid<R: Resource>(value: &mut R) {
    let metadata = value.metadata_mut();
    if metadata.uid.is_empty() {
        metadata.uid = Uuid::new_v4().to_string();
    }
}

/// An object that is replaced keeps its uid; one with another uid is another object.
pub(crate) fn keep_uid<R: Resource>(key: &Key, value: &mut R, stored: &str) -> Result<(), StoreError> {
    let metadata = value.metadata_mut();
    if metadata.uid.is_empty() {
        stored.clone_into(&mut metadata.uid);
    }
    if metadata.uid == stored {
        return Ok(());
    }
    let reason = format!("its uid is {stored} and cannot become {}: delete and create it", metadata.uid);
    Err(internal::<R>(REPLACE, key.as_str(), reason))
}

/// The precondition of a compare-and-swap or compare-and-delete.
pub(crate) fn check_expected<R: Resource>(
    operation: &'static str,
    key: &Key,
    expected: Revision,
    actual: Option<Revision>,
) -> Result<(), StoreError> {
    if actual == Some(expected) {
        return Ok(());
    }
    Err(StoreError::Conflict { operation, kind: R::KIND, key: key.clone(), expected, actual })
}

/// Whether a watch can go on from `from` while the history holds what came after `oldest`, up to `newest`.
pub(crate) fn check_position<R: Resource>(
    from: Revision,
    oldest: Revision,
    newest: Revision,
) -> Result<(), StoreError> {
    if from < oldest || from > newest {
        return Err(StoreError::Expired { kind: R::KIND, from, oldest, newest });
    }
    Ok(())
}

/// A value as bytes.
pub(crate) fn to_json<R: Resource>(
    operation: &'static str,
    key: &Key,
    value: &R,
) -> Result<Vec<u8>, StoreError> {
    let json = serde_json::to_vec(value).map_err(|error| {
        internal::<R>(operation, key.as_str(), format!("cannot be written down: {error}"))
    })?;
    if json.len() > MAX_OBJECT_BYTES {
        let reason = format!("it has {} bytes, at most {MAX_OBJECT_BYTES} are kept", json.len());
        return Err(internal::<R>(operation, key.as_str(), reason));
    }
    Ok(json)
}

/// A value from bytes.
pub(crate) fn from_json<R: Resource>(
    operation: &'static str,
    key: &str,
    json: &[u8],
) -> Result<R, StoreError> {
    serde_json::from_slice(json)
        .map_err(|error| internal::<R>(operation, key, format!("cannot be read back: {error}")))
}

/// An error that trying again does not mend.
pub(crate) fn internal<R: Resource>(operation: &'static str, key: &str, reason: String) -> StoreError {
    StoreError::Internal { operation, kind: R::KIND, key: key.to_owned(), reason }
}
