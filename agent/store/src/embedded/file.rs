//! The file itself: opening it, and one transaction for each operation. Everything here blocks.
//!
//! Three tables: objects by kind and key, changes by revision, and the numbers below. A change writes all
//! three in one transaction, so that the history and the objects always agree.

use std::path::{Path, PathBuf};

use redb::{
    Builder, Database, DatabaseError, ReadableDatabase, ReadableTable, StorageError, TableDefinition,
    WriteTransaction,
};

use super::row::{ChangeRow, ObjectRow};
use crate::event::{BATCH_LEN, Batch, Event};
use crate::interface::{List, StoreError};
use crate::key::Key;
use crate::resource::Resource;
use crate::rules::{
    ALL, CREATE, DELETE, GET, LIST, REPLACE, WATCH, check_expected, check_position, ensure_uid, from_json,
    internal, keep_uid, to_json,
};
use crate::versioned::{Revision, Versioned};

const OBJECTS: TableDefinition<(&str, &str), &[u8]> = TableDefinition::new("poolward.objects");
const CHANGES: TableDefinition<u64, &[u8]> = TableDefinition::new("poolward.changes");
const NUMBERS: TableDefinition<&str, u64> = TableDefinition::new("poolward.numbers");

/// Layout of rows and tables; a file of another is refused.
const FORMAT: &str = "format";
const FORMAT_VERSION: u64 = 1;
/// The newest revision.
const NEWEST: &str = "newest";
/// The newest revision that is no longer in the history: a watch can go on from here at the earliest.
const OLDEST: &str = "oldest";

/// The database's cache. A store of one node is a few MiB at most.
const CACHE_BYTES: usize = 8 * 1024 * 1024;

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

/// Why a file cannot be used as a store. It is left as it was.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process, or another handle of this one, has it open.
    #[error("open store {}: another process has it open; stop that agent, or give this one another file", path.display())]
    Locked {
        /// The file.
        path: PathBuf,
    },
    /// It is not a store, or no longer a whole one.
    #[error("open store {}: {reason}; {remedy}", path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
        /// What to do.
        remedy: &'static str,
    },
    /// The file or its directory cannot be read or written.
    #[error("open store {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

const RESTORE: &str = "restore it from a copy, or move it away to start with an empty store";
const CHOOSE_ANOTHER: &str = "give another path, or move the file away";

impl OpenError {
    pub(super) fn damaged(path: &Path, reason: impl std::fmt::Display) -> Self {
        Self::Unusable {
            path: path.to_owned(),
            reason: format!("the file is damaged ({reason})"),
            remedy: RESTORE,
        }
    }

    fn foreign(path: &Path, reason: &str) -> Self {
        Self::Unusable { path: path.to_owned(), reason: reason.to_owned(), remedy: CHOOSE_ANOTHER }
    }

    fn io(path: &Path, source: std::io::Error) -> Self {
        Self::Io { path: path.to_owned(), source }
    }

    fn of_database(path: &Path, error: DatabaseError) -> Self {
        match error {
            DatabaseError::DatabaseAlreadyOpen => Self::Locked { path: path.to_owned() },
            // What the database says of a file without its magic number.
            DatabaseError::Storage(StorageError::Io(error))
                if error.kind() == std::io::ErrorKind::InvalidData =>
            {
                Self::foreign(path, "the file is not a store of Poolward")
            }
            DatabaseError::Storage(StorageError::Io(error))
                if error.kind() != std::io::ErrorKind::UnexpectedEof =>
            {
                Self::io(path, error)
            }
            DatabaseError::UpgradeRequired(version) => {
                Self::foreign(path, &format!("the file is of database format {version}, which is not read"))
            }
            other => Self::damaged(path, other),
        }
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
    /// Opens or makes the file. In order:
    ///
    /// 1. If there is none, a whole empty store is made beside it and linked to its name, so that no crash
    ///    leaves half a store and no file that appears meanwhile is replaced.
    /// 2. It is looked at read-only first: a file of somebody else is not written to.
    /// 3. It is opened; the database repairs what a crash left.
    /// 4. Every row is read and checked.
    pub(super) fn open(path: &Path, options: OpenOptions) -> Result<Self, OpenError> {
        match std::fs::metadata(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => make(path)?,
            Err(error) => return Err(OpenError::io(path, error)),
            Ok(found) if !found.is_file() => {
                return Err(OpenError::foreign(path, "it is not a regular file"));
            }
            Ok(found) if found.len() == 0 => return Err(OpenError::foreign(path, "the file is empty")),
            Ok(_) => {}
        }
        look_at(path)?;
        let of_database = |error| OpenError::of_database(path, error);
        let database = Builder::new().set_cache_size(CACHE_BYTES).open(path).map_err(of_database)?;
        let newest_at_open = verify(&database).map_err(|fault| fault.into_open_error(path))?;
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
        // The header names a commit only once its pages are on the disk, so that a crash can never send the
        // store back to an earlier revision.
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

/// Makes an empty store at `path`, which must not exist yet.
fn make(path: &Path) -> Result<(), OpenError> {
    let name = path.file_name().ok_or_else(|| OpenError::foreign(path, "the path names no file"))?;
    let mut new_name = std::ffi::OsString::from(".");
    new_name.push(name);
    new_name.push(format!(".{}.new", uuid::Uuid::new_v4()));
    let new_path = path.with_file_name(new_name);
    let made = make_at(&new_path).map_err(|error| OpenError::of_database(path, error)).and_then(|()| {
        match std::fs::hard_link(&new_path, path) {
            // Somebody else was quicker: theirs is opened.
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                Err(OpenError::io(path, error))
            }
            _ => Ok(()),
        }
    });
    // A file that was never made is no reason to hide why.
    let removed = std::fs::remove_file(&new_path).map_err(|error| OpenError::io(&new_path, error));
    made?;
    removed?;
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    std::fs::File::open(directory)
        .and_then(|dir| dir.sync_all())
        .map_err(|error| OpenError::io(directory, error))
}

fn make_at(path: &Path) -> Result<(), DatabaseError> {
    let fault = |error: redb::Error| match error {
        redb::Error::Io(error) => DatabaseError::Storage(StorageError::Io(error)),
        other => DatabaseError::Storage(StorageError::Corrupted(other.to_string())),
    };
    let database = Builder::new().set_cache_size(CACHE_BYTES).create(path)?;
    let write = || -> Result<(), redb::Error> {
        let transaction = database.begin_write()?;
        {
            transaction.open_table(OBJECTS)?;
            transaction.open_table(CHANGES)?;
            let mut numbers = transaction.open_table(NUMBERS)?;
            for (name, number) in [(FORMAT, FORMAT_VERSION), (NEWEST, 0), (OLDEST, 0)] {
                numbers.insert(name, number)?;
            }
        }
        transaction.commit()?;
        Ok(())
    };
    write().map_err(fault)
}

/// Refuses a file that is not ours before anything is written to it. A file that a crash left cannot be read
/// this way; opening it repairs it, and [`verify`] looks at it then.
fn look_at(path: &Path) -> Result<(), OpenError> {
    match Builder::new().set_cache_size(CACHE_BYTES).open_read_only(path) {
        Ok(database) => check_format(&database).map_err(|fault| fault.into_open_error(path)),
        Err(DatabaseError::RepairAborted) => Ok(()),
        Err(error) => Err(OpenError::of_database(path, error)),
    }
}

enum Fault {
    Foreign(String),
    Damaged(String),
}

impl Fault {
    fn into_open_error(self, path: &Path) -> OpenError {
        match self {
            Self::Foreign(reason) => OpenError::foreign(path, &reason),
            Self::Damaged(reason) => OpenError::damaged(path, reason),
        }
    }
}

impl<E: Into<redb::Error>> From<E> for Fault {
    fn from(error: E) -> Self {
        Self::Damaged(error.into().to_string())
    }
}

fn check_format(database: &impl ReadableDatabase) -> Result<(), Fault> {
    let transaction = database.begin_read()?;
    let numbers = match transaction.open_table(NUMBERS) {
        Ok(numbers) => numbers,
        Err(redb::TableError::Storage(error)) => return Err(error.into()),
        Err(_) => return Err(Fault::Foreign("the file is the database of another program".to_owned())),
    };
    match numbers.get(FORMAT)?.map(|number| number.value()) {
        Some(FORMAT_VERSION) => Ok(()),
        Some(other) => Err(Fault::Foreign(format!(
            "the file is a store of format {other}, and this version reads format {FORMAT_VERSION}"
        ))),
        None => Err(Fault::Damaged("it does not say its format".to_owned())),
    }
}

/// Reads every row, so that damage shows now and not in the middle of an ADD. Gives the newest revision.
fn verify(database: &Database) -> Result<Revision, Fault> {
    check_format(database)?;
    let transaction = database.begin_read()?;
    let numbers = transaction.open_table(NUMBERS)?;
    let number = |name: &'static str| -> Result<u64, Fault> {
        let number = numbers.get(name)?.map(|number| number.value());
        number.ok_or_else(|| Fault::Damaged(format!("the number {name:?} is missing")))
    };
    let (newest, oldest) = (number(NEWEST)?, number(OLDEST)?);
    let mut expected = oldest;
    for row in transaction.open_table(CHANGES)?.iter()? {
        let (revision, bytes) = row?;
        expected += 1;
        if revision.value() != expected || ChangeRow::from_bytes(bytes.value()).is_none() {
            return Err(Fault::Damaged(format!("change {expected} is missing or damaged")));
        }
    }
    if expected != newest {
        return Err(Fault::Damaged(format!("the history ends at {expected} instead of {newest}")));
    }
    for row in transaction.open_table(OBJECTS)?.iter()? {
        let (slot, bytes) = row?;
        let (kind, key) = slot.value();
        match ObjectRow::from_bytes(bytes.value()) {
            Some(object) if object.revision.get() <= newest => {}
            _ => return Err(Fault::Damaged(format!("{kind} {key} cannot be read"))),
        }
    }
    Ok(Revision::new(newest))
}
