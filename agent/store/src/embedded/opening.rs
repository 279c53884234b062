//! From a path to an open database: made if there is none, examined before it is touched.

use std::fs::{File, TryLockError};
use std::io::Read as _;
use std::path::{Path, PathBuf};

use redb::backends::InMemoryBackend;
use redb::{
    Builder, Database, DatabaseError, ReadableDatabase as _, ReadableTable as _, StorageBackend as _,
    StorageError,
};

use super::file::{CHANGES, FORMAT, FORMAT_VERSION, NEWEST, NUMBERS, OBJECTS, OLDEST};
use super::row::{ChangeRow, ObjectRow};

/// The database's cache. A store of one node is a few MiB at most.
const CACHE_BYTES: usize = 8 * 1024 * 1024;

/// The largest file that is opened: examining one takes as much memory.
const MAX_FILE_BYTES: u64 = 256 * 1024 * 1024;

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

    /// What the database says when it opens or makes a file that was found whole.
    fn of_database(path: &Path, error: DatabaseError) -> Self {
        match error {
            DatabaseError::DatabaseAlreadyOpen => Self::Locked { path: path.to_owned() },
            DatabaseError::Storage(StorageError::Io(error)) => Self::io(path, error),
            other => Self::damaged(path, other),
        }
    }
}

/// Opens or makes the database. In order:
///
/// 1. If there is no file, a whole empty store is made beside it and linked to its name, so that no crash
///    leaves half a store and no file that appears meanwhile is replaced.
/// 2. The file is locked, read, and examined in memory, down to every page and row. The database repairs a file as it
///    opens it, and may meet damage half-way: what is foreign or damaged is found before it writes anything.
/// 3. The file itself is opened; the database repairs what a crash left.
pub(super) fn open(path: &Path) -> Result<Database, OpenError> {
    match std::fs::metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => make(path)?,
        Err(error) => return Err(OpenError::io(path, error)),
        Ok(found) if !found.is_file() => return Err(OpenError::foreign(path, "it is not a regular file")),
        Ok(found) if found.len() == 0 => return Err(OpenError::foreign(path, "the file is empty")),
        Ok(found) if found.len() > MAX_FILE_BYTES => {
            let reason = format!("the file has {} bytes, a store at most {MAX_FILE_BYTES}", found.len());
            return Err(OpenError::foreign(path, &reason));
        }
        Ok(_) => {}
    }
    let content = read_locked(path)?;
    examine(&content).map_err(|fault| fault.into_open_error(path))?;
    let database = Builder::new().set_cache_size(CACHE_BYTES).open(path);
    database.map_err(|error| OpenError::of_database(path, error))
}

/// The whole file as it is while nobody has it open. The database takes the same lock.
fn read_locked(path: &Path) -> Result<Vec<u8>, OpenError> {
    let io = |error| OpenError::io(path, error);
    let file = File::options().read(true).write(true).open(path).map_err(io)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(OpenError::Locked { path: path.to_owned() }),
        Err(TryLockError::Error(error)) => return Err(io(error)),
    }
    let mut content = Vec::new();
    file.take(MAX_FILE_BYTES).read_to_end(&mut content).map_err(io)?;
    Ok(content)
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
    File::open(directory).and_then(|dir| dir.sync_all()).map_err(|error| OpenError::io(directory, error))
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

    fn of_database(error: DatabaseError) -> Self {
        match error {
            // What the database says of a file without its magic number.
            DatabaseError::Storage(StorageError::Io(error))
                if error.kind() == std::io::ErrorKind::InvalidData =>
            {
                Self::Foreign("the file is not a store of Poolward".to_owned())
            }
            DatabaseError::UpgradeRequired(version) => {
                Self::Foreign(format!("the file is of database format {version}, which is not read"))
            }
            other => Self::Damaged(other.to_string()),
        }
    }
}

impl<E: Into<redb::Error>> From<E> for Fault {
    fn from(error: E) -> Self {
        Self::Damaged(error.into().to_string())
    }
}

/// Opens a copy in memory, repair included, and checks every page and every row.
fn examine(content: &[u8]) -> Result<(), Fault> {
    let copy = InMemoryBackend::new();
    let len = u64::try_from(content.len()).map_err(|error| Fault::Damaged(error.to_string()))?;
    let copied = copy.set_len(len).and_then(|()| copy.write(0, content));
    copied.map_err(|error| Fault::Damaged(error.to_string()))?;
    let database = Builder::new().set_cache_size(CACHE_BYTES).create_with_backend(copy);
    let mut database = database.map_err(Fault::of_database)?;
    // Every page's checksum; rows that a damaged inner page hides would not be missed otherwise.
    match database.check_integrity() {
        Ok(true) => {}
        Ok(false) => return Err(Fault::Damaged("a checksum does not match".to_owned())),
        Err(error) => return Err(Fault::Damaged(error.to_string())),
    }
    check_format(&database)?;
    check_rows(&database)
}

fn check_format(database: &Database) -> Result<(), Fault> {
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

/// The history is whole and ends at the newest revision, and every object can be read.
fn check_rows(database: &Database) -> Result<(), Fault> {
    let transaction = database.begin_read()?;
    let numbers = transaction.open_table(NUMBERS)?;
    let number = |name: &'static str| -> Result<u64, Fault> {
        let number = numbers.get(name)?.map(|number| number.value());
        number.ok_or_else(|| Fault::Damaged(format!("the number {name:?} is missing")))
    };
    let (newest, mut last) = (number(NEWEST)?, number(OLDEST)?);
    for row in transaction.open_table(CHANGES)?.iter()? {
        let (revision, bytes) = row?;
        if last.checked_add(1) != Some(revision.value()) || ChangeRow::from_bytes(bytes.value()).is_none() {
            return Err(Fault::Damaged(format!("the change after revision {last} is missing or damaged")));
        }
        last = revision.value();
    }
    if last != newest {
        return Err(Fault::Damaged(format!("the history ends at {last} instead of {newest}")));
    }
    for row in transaction.open_table(OBJECTS)?.iter()? {
        let (slot, bytes) = row?;
        let (kind, key) = slot.value();
        match ObjectRow::from_bytes(bytes.value()) {
            Some(object) if object.revision.get() <= newest => {}
            _ => return Err(Fault::Damaged(format!("{kind} {key} cannot be read"))),
        }
    }
    Ok(())
}
