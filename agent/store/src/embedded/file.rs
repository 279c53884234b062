//! The file itself: one transaction for each operation. Everything here blocks.
//!
//! Three tables: objects by kind and key, changes by revision, and the numbers below. A change writes all
//! three in one transaction, so that the history and the objects always agree.

use std::path::Path;

use redb::{Database, ReadableDatabase as _, ReadableTable, TableDefinition, WriteTransaction};

use super::ALL;
use super::opening::{self, OpenError};
use super::row::{ChangeRow, ObjectRow};
use crate::event::{BATCH_LEN, Batch, Event};
use crate::interface::{List, StoreError};
use crate::key::Key;
use crate::resource::Resource;
use crate::rules::{
    CREATE, DELETE, GET, LIST, REPLACE, WATCH, check_expected, check_position, ensure_uid, from_json,
    internal, keep_uid, to_json,
};
use crate::versioned::{Revision, Versioned};

pub(super) const OBJECTS: TableDefinition<(&str, &str), &[u8]> = TableDefinition::new("poolward.objects");
pub(super) const CHANGES: TableDefinition<u64, &[u8]> = TableDefinition::new("poolward.changes");
pub(super) const NUMBERS: TableDefinition<&str, u64> = TableDefinition::new("poolward.numbers");

/// Layout of rows and tables; a file of another is refused.
pub(super) const FORMAT: &str = "format";
pub(super) const FORMAT_VERSION: u64 = 1;
/// The newest revision.
pub(super) const NEWEST: &str = "newest";
/// The newest revision that is no longer in the history: a watch can go on from here at the earliest.
pub(super) const OLDEST: &str = "oldest";

/// How a store is opened.
#[derive(Clone, Copy, Debug)]
pub struct OpenOptions {
    /// How many of the last changes are kept for watchers; at least one.
    pub history_len: u64,
}

impl Default for OpenOptions {
    /// 4,096 changes.
    fn default() -> Self {
        Self { history_len: 4096 }
    }
}

/// An open store file.
#[derive(Debug)]
pub(super) struct File {
    database: Database,
    newest_at_open: Revision,
    history_len: u64,
}

impl File {
    /// Opens or makes the file; see [`opening::open`].
    pub(super) fn open(path: &Path, options: OpenOptions) -> Result<Self, OpenError> {
        let database = opening::open(path)?;
        let newest = || -> Result<_, redb::Error> {
            let numbers = database.begin_read()?.open_table(NUMBERS)?;
            Ok(numbers.get(NEWEST)?.map_or(0, |number| number.value()))
        };
        let newest_at_open = Revision::new(newest().map_err(|error| OpenError::damaged(path, error))?);
        Ok(Self { database, newest_at_open, history_len: options.history_len.max(1) })
    }

    pub(super) fn newest_at_open(&self) -> Revision {
        self.newest_at_open
    }

    pub(super) fn create<R: Resource>(&self, key: &Key, mut value: R) -> Result<Versioned<R>, StoreError> {
        let at = At::<R>::new(CREATE, key.as_str());
        let transaction = self.begin_write(&at)?;
        if let Some(there) = at.stored(&transaction, key)? {
            return Err(StoreError::AlreadyExists {
                kind: R::KIND,
                key: key.clone(),
                actual: there.revision,
            });
        }
        ensure_uid(&mut value);
        self.put(&at, transaction, key, value)
    }

    pub(super) fn compare_and_swap<R: Resource>(
        &self,
        key: &Key,
        expected: Revision,
        mut value: R,
    ) -> Result<Versioned<R>, StoreError> {
        let at = At::<R>::new(REPLACE, key.as_str());
        let transaction = self.begin_write(&at)?;
        let there = at.stored(&transaction, key)?;
        check_expected::<R>(REPLACE, key, expected, there.as_ref().map(|there| there.revision))?;
        if let Some(there) = there {
            let there: R = from_json(REPLACE, key.as_str(), &there.json)?;
            keep_uid(key, &mut value, &there.metadata().uid)?;
        }
        self.put(&at, transaction, key, value)
    }

    pub(super) fn compare_and_delete<R: Resource>(
        &self,
        key: &Key,
        expected: Revision,
    ) -> Result<Revision, StoreError> {
        let at = At::<R>::new(DELETE, key.as_str());
        let transaction = self.begin_write(&at)?;
        let there = at.stored(&transaction, key)?;
        check_expected::<R>(DELETE, key, expected, there.as_ref().map(|there| there.revision))?;
        let Some(object) = there else { return Err(at.broken("it vanished within one transaction")) };
        let change =
            ChangeRow { deleted: true, kind: R::KIND.to_owned(), key: key.as_str().to_owned(), object };
        let revision = at.newest(&transaction)?.next();
        self.commit(&at, transaction, revision, &change)?;
        Ok(revision)
    }

    pub(super) fn get<R: Resource>(&self, key: &Key) -> Result<Option<Versioned<R>>, StoreError> {
        let at = At::<R>::new(GET, key.as_str());
        let transaction = at.ok(self.database.begin_read())?;
        let objects = at.ok(transaction.open_table(OBJECTS))?;
        let Some(row) = at.ok(objects.get((R::KIND, key.as_str())))? else { return Ok(None) };
        at.object(key.as_str(), ObjectRow::from_bytes(row.value())).map(Some)
    }

    pub(super) fn list<R: Resource>(&self) -> Result<List<R>, StoreError> {
        let at = At::<R>::new(LIST, ALL);
        let transaction = at.ok(self.database.begin_read())?;
        let numbers = at.ok(transaction.open_table(NUMBERS))?;
        let revision = at.number(&numbers, NEWEST)?;
        let objects = at.ok(transaction.open_table(OBJECTS))?;
        let mut items = Vec::new();
        for row in at.ok(objects.range((R::KIND, "")..))? {
            let (slot, bytes) = at.ok(row)?;
            let (kind, key) = slot.value();
            if kind != R::KIND {
                break;
            }
            items.push(at.object(key, ObjectRow::from_bytes(bytes.value()))?);
        }
        Ok(List { items, revision })
    }

    pub(super) fn read_after<R: Resource>(&self, position: Revision) -> Result<Batch<R>, StoreError> {
        let at = At::<R>::new(WATCH, ALL);
        let transaction = at.ok(self.database.begin_read())?;
        let numbers = at.ok(transaction.open_table(NUMBERS))?;
        check_position::<R>(position, at.number(&numbers, OLDEST)?, at.number(&numbers, NEWEST)?)?;
        let changes = at.ok(transaction.open_table(CHANGES))?;
        let mut batch = Batch { events: Vec::new(), position };
        for row in at.ok(changes.range(position.next().get()..))?.take(BATCH_LEN) {
            let (revision, bytes) = at.ok(row)?;
            batch.position = Revision::new(revision.value());
            let change = ChangeRow::from_bytes(bytes.value());
            let change = change.ok_or_else(|| at.broken(&format!("change {} is damaged", batch.position)))?;
            if change.kind == R::KIND {
                let object = at.object(&change.key, Some(change.object))?;
                batch.events.push(if change.deleted {
                    Event::Delete { last: object, revision: batch.position }
                } else {
                    Event::Put(object)
                });
            }
        }
        Ok(batch)
    }

    fn begin_write<R: Resource>(&self, at: &At<'_, R>) -> Result<WriteTransaction, StoreError> {
        let mut transaction = at.ok(self.database.begin_write())?;
        // Otherwise the database answers damage to the newest commit by going back to the one before, silently;
        // a store that went back would hand out what was handed out already. Costs a tenth of a millisecond.
        transaction.set_two_phase_commit(true);
        Ok(transaction)
    }

    fn put<R: Resource>(
        &self,
        at: &At<'_, R>,
        transaction: WriteTransaction,
        key: &Key,
        value: R,
    ) -> Result<Versioned<R>, StoreError> {
        let revision = at.newest(&transaction)?.next();
        let object = ObjectRow { revision, json: to_json(at.operation, key, &value)? };
        let change =
            ChangeRow { deleted: false, kind: R::KIND.to_owned(), key: key.as_str().to_owned(), object };
        self.commit(at, transaction, revision, &change)?;
        Ok(Versioned { uid: value.metadata().uid.clone(), revision, value })
    }

    /// Writes a change into the three tables, and drops what the history no longer holds.
    fn commit<R: Resource>(
        &self,
        at: &At<'_, R>,
        transaction: WriteTransaction,
        revision: Revision,
        change: &ChangeRow,
    ) -> Result<(), StoreError> {
        {
            let mut objects = at.ok(transaction.open_table(OBJECTS))?;
            let slot = (change.kind.as_str(), change.key.as_str());
            if change.deleted {
                at.ok(objects.remove(slot))?;
            } else {
                at.ok(objects.insert(slot, change.object.to_bytes().as_slice()))?;
            }
            let mut changes = at.ok(transaction.open_table(CHANGES))?;
            at.ok(changes.insert(revision.get(), change.to_bytes().as_slice()))?;
            let mut numbers = at.ok(transaction.open_table(NUMBERS))?;
            at.ok(numbers.insert(NEWEST, revision.get()))?;
            // Every revision is one change, so the history is the last `history_len` revisions.
            let oldest = revision.get().saturating_sub(self.history_len);
            let before = at.number(&numbers, OLDEST)?.get();
            for dropped in before + 1..=oldest {
                at.ok(changes.remove(dropped))?;
            }
            at.ok(numbers.insert(OLDEST, oldest.max(before)))?;
        }
        at.ok(transaction.commit())
    }
}

/// What an operation is about, for its errors.
struct At<'a, R> {
    operation: &'static str,
    key: &'a str,
    of: std::marker::PhantomData<R>,
}

impl<'a, R: Resource> At<'a, R> {
    fn new(operation: &'static str, key: &'a str) -> Self {
        Self { operation, key, of: std::marker::PhantomData }
    }

    fn broken(&self, reason: &str) -> StoreError {
        internal::<R>(self.operation, self.key, reason.to_owned())
    }

    /// A failure of the disk may pass; everything else the database reports is damage or a mistake of ours.
    fn ok<T, E: Into<redb::Error>>(&self, result: Result<T, E>) -> Result<T, StoreError> {
        result.map_err(|error| match error.into() {
            error @ (redb::Error::Io(_) | redb::Error::PreviousIo) => StoreError::Unavailable {
                operation: self.operation,
                kind: R::KIND,
                key: self.key.to_owned(),
                reason: error.to_string(),
            },
            error => self.broken(&error.to_string()),
        })
    }

    fn stored(&self, transaction: &WriteTransaction, key: &Key) -> Result<Option<ObjectRow>, StoreError> {
        let objects = self.ok(transaction.open_table(OBJECTS))?;
        let row = self.ok(objects.get((R::KIND, key.as_str())))?;
        row.map(|row| {
            ObjectRow::from_bytes(row.value()).ok_or_else(|| self.broken("the stored object is damaged"))
        })
        .transpose()
    }

    fn object(&self, key: &str, row: Option<ObjectRow>) -> Result<Versioned<R>, StoreError> {
        let damaged = || internal::<R>(self.operation, key, "the stored object is damaged".to_owned());
        let row = row.ok_or_else(damaged)?;
        let value: R = from_json(self.operation, key, &row.json)?;
        Ok(Versioned { uid: value.metadata().uid.clone(), revision: row.revision, value })
    }

    fn number(
        &self,
        numbers: &impl ReadableTable<&'static str, u64>,
        name: &'static str,
    ) -> Result<Revision, StoreError> {
        let number = self.ok(numbers.get(name))?.map(|number| number.value());
        number.map(Revision::new).ok_or_else(|| self.broken(&format!("the number {name:?} is missing")))
    }

    fn newest(&self, transaction: &WriteTransaction) -> Result<Revision, StoreError> {
        let numbers = self.ok(transaction.open_table(NUMBERS))?;
        self.number(&numbers, NEWEST)
    }
}
