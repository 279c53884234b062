//! Manifests from files, directories and standard input, read and checked before anything is sent.
//!
//! What a manifest may say is `store`'s matter; here stands where it comes from and how all mistakes of all
//! files are told at once.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use store::manifest::{Document, Kind, MAX_MANIFEST_BYTES, parse_yaml, validate};

use crate::exit::{Exit, Failure};
use crate::output::table::count;

/// How many files one directory may hold.
const MAX_FILES: usize = 1_000;

/// How many mistakes are told; the rest is counted.
const MAX_ERRORS_SHOWN: usize = 50;

/// Documents without a mistake that can be seen from here.
#[derive(Clone, Debug)]
pub(crate) struct Checked {
    /// As they were written, in the order of the files.
    pub(crate) documents: Vec<Document>,
    /// Kind and name (`namespace/name` for pods) of every object in them, lists unpacked.
    pub(crate) objects: Vec<(Kind, String)>,
}

/// Reads and checks everything that `paths` name.
///
/// # Errors
/// A file that cannot be read, nothing to do, or every mistake there is. `operation` says what comes to nothing.
pub(crate) fn read_all(paths: &[PathBuf], operation: &str) -> Result<Checked, Failure> {
    let mut texts = Vec::new();
    let mut stdin_read = false;
    for path in paths {
        if path.as_os_str() == "-" {
            if std::mem::replace(&mut stdin_read, true) {
                return Err(Failure::new(Exit::Usage, format!("{operation}: standard input is named twice")));
            }
            texts.push((
                "standard input".to_owned(),
                read_text(io::stdin().lock(), "standard input", operation)?,
            ));
        } else {
            for file in files_of(path, operation)? {
                let name = file.display().to_string();
                let open = File::open(&file).map_err(|error| cannot_read(operation, &name, &error))?;
                let text = read_text(open, &name, operation)?;
                texts.push((name, text));
            }
        }
    }
    check(&texts, operation)
}

fn cannot_read(operation: &str, name: &str, error: &io::Error) -> Failure {
    Failure::new(Exit::Failed, format!("{operation}: read {name}: {error}"))
}

/// The file itself, or a directory's manifests by name. Directories below it are not entered.
fn files_of(path: &Path, operation: &str) -> Result<Vec<PathBuf>, Failure> {
    let name = path.display().to_string();
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut files = Vec::new();
    for entry in path.read_dir().map_err(|error| cannot_read(operation, &name, &error))? {
        let file = entry.map_err(|error| cannot_read(operation, &name, &error))?.path();
        let extension = file.extension().and_then(|extension| extension.to_str());
        if matches!(extension, Some("yaml" | "yml" | "json")) && !file.is_dir() {
            files.push(file);
        }
    }
    files.sort();
    match files.len() {
        0 => Err(Failure::new(Exit::Failed, format!("{operation}: {name} has no .yaml, .yml or .json file"))),
        1..=MAX_FILES => Ok(files),
        many => Err(Failure::new(
            Exit::Failed,
            format!("{operation}: {name} has {many} manifests; at most {MAX_FILES} are read"),
        )),
    }
}

/// Reads no more than one byte over what is accepted; that byte is then found to be too much.
fn read_text(from: impl Read, name: &str, operation: &str) -> Result<String, Failure> {
    let limit = u64::try_from(MAX_MANIFEST_BYTES).unwrap_or(u64::MAX).saturating_add(1);
    let mut bytes = Vec::new();
    from.take(limit).read_to_end(&mut bytes).map_err(|error| cannot_read(operation, name, &error))?;
    if bytes.len() > MAX_MANIFEST_BYTES {
        let message = format!("{operation}: {name} is longer than {MAX_MANIFEST_BYTES} bytes");
        return Err(Failure::new(Exit::Failed, message).with_next("split it into several files"));
    }
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        Failure::new(Exit::Failed, format!("{operation}: {name} is not UTF-8 text (byte {at})"))
    })
}

/// Every mistake of every text, or the documents.
fn check(texts: &[(String, String)], operation: &str) -> Result<Checked, Failure> {
    let mut errors = Vec::new();
    let mut documents = Vec::new();
    for (name, text) in texts {
        match parse_yaml(name, text) {
            Ok(mut more) => documents.append(&mut more),
            Err(error) => errors.push(error.to_string()),
        }
    }
    let objects: Vec<(Kind, String)> = match validate(&documents) {
        Ok(found) => found.iter().map(|one| (one.object.kind(), one.key.as_str().to_owned())).collect(),
        Err(found) => {
            errors.extend(found.iter().map(ToString::to_string));
            Vec::new()
        }
    };
    if !errors.is_empty() {
        return Err(refusal(operation, errors));
    }
    if objects.is_empty() {
        let names: Vec<&str> = texts.iter().map(|(name, _)| name.as_str()).collect();
        return Err(Failure::new(Exit::Failed, format!("{operation}: no object in {}", names.join(", ")))
            .with_next("`poolwardctl apply --help` shows a manifest"));
    }
    Ok(Checked { documents, objects })
}

fn refusal(operation: &str, mut errors: Vec<String>) -> Failure {
    let found = count(errors.len(), "mistake", "mistakes");
    let more = errors.len().saturating_sub(MAX_ERRORS_SHOWN);
    errors.truncate(MAX_ERRORS_SHOWN);
    if more > 0 {
        errors.push(format!("and {more} more"));
    }
    Failure::new(Exit::Failed, format!("{operation}: {found} found; nothing was sent"))
        .with_details(errors)
        .with_next("correct what is listed and run the same command again")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(name: &str, text: &str) -> (String, String) {
        (name.to_owned(), text.to_owned())
    }

    fn pool(name: &str, cidr: &str) -> String {
        format!(
            "apiVersion: poolward.io/v1\nkind: IPPool\nmetadata: {{name: {name}}}\nspec: {{cidr: {cidr}, blockSize: 29}}\n"
        )
    }

    #[test]
    fn objects_are_named_in_the_order_of_the_files() {
        let pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: web, namespace: ns}\n";
        let both = format!("{}---\n{pod}", pool("a", "192.0.2.0/26"));
        let checked =
            check(&[text("a.yaml", &both), text("b.yaml", &pool("b", "10.0.0.0/26"))], "apply").unwrap();
        let names: Vec<(Kind, &str)> =
            checked.objects.iter().map(|(kind, name)| (*kind, name.as_str())).collect();
        assert_eq!(names, [(Kind::IpPool, "a"), (Kind::Pod, "ns/web"), (Kind::IpPool, "b")]);
        assert_eq!(checked.documents.len(), 3);
    }

    #[test]
    fn mistakes_of_all_files_are_told_at_once() {
        let texts = [
            text("a.yaml", &format!("{}---\n{}", pool("a", "192.0.2.1/26"), pool("b", "nonsense"))),
            text("c.yaml", "kind: [unclosed"),
        ];
        let failure = check(&texts, "apply manifests").unwrap_err();
        assert_eq!((failure.exit, failure.details.len()), (Exit::Failed, 3), "{failure:?}");
        assert_eq!(failure.message, "apply manifests: 3 mistakes found; nothing was sent");
        let all = failure.details.join("\n");
        for part in ["a.yaml, document 1", "a.yaml, document 2", "c.yaml, line", "spec.cidr", "192.0.2.0/26"]
        {
            assert!(all.contains(part), "{part}: {all}");
        }
    }

    #[test]
    fn a_text_without_objects_is_refused() {
        for nothing in ["", "---\n", "# only a comment\n"] {
            let failure = check(&[text("a.yaml", nothing)], "apply").unwrap_err();
            assert_eq!(failure.message, "apply: no object in a.yaml", "{nothing:?}");
        }
    }

    #[test]
    fn a_long_list_of_mistakes_is_cut_and_counted() {
        let failure = refusal("apply", (0..60).map(|number| format!("mistake {number}")).collect());
        assert!(failure.message.starts_with("apply: 60 mistakes"));
        assert_eq!(failure.details.len(), MAX_ERRORS_SHOWN + 1);
        assert_eq!(failure.details.last().map(String::as_str), Some("and 10 more"));
    }

    #[test]
    fn a_directory_gives_its_manifests_by_name_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["b.yml", "a.yaml", "c.json", "notes.txt"] {
            std::fs::write(dir.path().join(name), "").unwrap();
        }
        std::fs::create_dir(dir.path().join("sub.yaml")).unwrap();
        let files = files_of(dir.path(), "apply").unwrap();
        let names: Vec<_> = files.iter().map(|file| file.file_name().unwrap().to_str().unwrap()).collect();
        assert_eq!(names, ["a.yaml", "b.yml", "c.json"]);
        let empty = tempfile::tempdir().unwrap();
        assert_eq!(files_of(empty.path(), "apply").unwrap_err().exit, Exit::Failed);
    }

    #[test]
    fn texts_that_are_too_long_or_no_text_are_refused() {
        let long = vec![b' '; MAX_MANIFEST_BYTES + 1];
        assert!(read_text(long.as_slice(), "a", "apply").unwrap_err().message.contains("longer than"));
        assert!(read_text(&long[1..], "a", "apply").is_ok());
        assert!(read_text([b'a', 0xff].as_slice(), "a", "apply").unwrap_err().message.contains("byte 1"));
    }
}
