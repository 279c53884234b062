//! From files to an OCI image layout in one tar: the same bytes for the same files. Or to the files themselves, below a
//! directory.
//!
//! ```text
//! oci-layout                 which layout this is
//! index.json                 which manifest, for which platform, under which name
//! blobs/sha256/<digest>      the manifest, the configuration and the one layer, by what they hold
//! ```
//! Times are 0, owners are root, order is that of the names. The layer is not compressed: an archive is made to be
//! imported beside where it was made, and whoever pushes it compresses it anyway.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, Result};
use harness::archive::{Archive, sha256_hex};
use serde_json::{Value, json};

const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG_TYPE: &str = "application/vnd.oci.image.config.v1+json";
const LAYER_TYPE: &str = "application/vnd.oci.image.layer.v1.tar";

/// A file of the image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// Its permissions.
    pub(super) mode: u32,
    /// What it holds.
    pub(super) bytes: Vec<u8>,
}

/// The files of an image by their path, without the slash in front.
#[derive(Clone, Debug, Default)]
pub(super) struct Entries(BTreeMap<String, Entry>);

impl Entries {
    /// Adds a file, or puts it in the place of another.
    pub(super) fn add(&mut self, path: &str, entry: Entry) {
        self.0.insert(path.to_owned(), entry);
    }

    /// Writes all of them below a directory, which is made unless it is there.
    pub(super) fn unpack(&self, dir: &Path) -> Result<()> {
        for (path, entry) in &self.0 {
            let to = dir.join(path);
            let parent = to.parent().unwrap_or(dir);
            fs::create_dir_all(parent).with_context(|| format!("create {}", parent.display()))?;
            fs::write(&to, &entry.bytes).with_context(|| format!("write {}", to.display()))?;
            // Whatever the umask is.
            fs::set_permissions(&to, fs::Permissions::from_mode(entry.mode))
                .with_context(|| format!("set the permissions of {}", to.display()))?;
        }
        Ok(())
    }

    /// Every directory that a file lies in, outer ones first.
    fn directories(&self) -> Vec<&str> {
        let of = |path: &str| path.match_indices('/').map(|(end, _)| end).collect::<Vec<_>>();
        let mut all: Vec<&str> =
            self.0.keys().flat_map(|path| of(path).into_iter().map(|end| &path[..end])).collect();
        all.sort_unstable();
        all.dedup();
        all
    }
}

/// What an image is called, and for which machines it is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Image<'a> {
    /// The whole name: registry, repository, tag.
    pub(super) reference: &'a str,
    /// As Go calls it.
    pub(super) architecture: &'a str,
}

/// The whole archive.
pub(super) fn archive(entries: &Entries, image: &Image<'_>) -> Result<Vec<u8>> {
    let layer = layer(entries)?;
    let config = to_bytes(&config(image, &digest(&layer)))?;
    let manifest = to_bytes(&json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "config": descriptor(CONFIG_TYPE, &config),
        "layers": [descriptor(LAYER_TYPE, &layer)],
    }))?;
    let tag = image.reference.rsplit_once(':').map_or("latest", |(_, tag)| tag);
    let mut named = descriptor(MANIFEST_TYPE, &manifest);
    named["platform"] = json!({"architecture": image.architecture, "os": "linux"});
    // The first is what containerd goes by, the second what everybody else does.
    named["annotations"] =
        json!({"io.containerd.image.name": image.reference, "org.opencontainers.image.ref.name": tag});
    let index = to_bytes(&json!({"schemaVersion": 2, "manifests": [named]}))?;
    let mut files = Entries::default();
    files.add("oci-layout", Entry { mode: 0o644, bytes: to_bytes(&json!({"imageLayoutVersion": "1.0.0"}))? });
    files.add("index.json", Entry { mode: 0o644, bytes: index });
    for blob in [layer, config, manifest] {
        files.add(&format!("blobs/sha256/{}", sha256_hex(&blob)), Entry { mode: 0o644, bytes: blob });
    }
    self::layer(&files)
}

fn config(image: &Image<'_>, layer_digest: &str) -> Value {
    json!({
        "created": "1970-01-01T00:00:00Z",
        "architecture": image.architecture,
        "os": "linux",
        "config": {
            "Entrypoint": ["/usr/bin/poolward-agent"],
            "Env": ["PATH=/usr/bin:/usr/sbin"],
            "WorkingDir": "/",
            "Labels": {
                "org.opencontainers.image.title": "poolward",
                "org.opencontainers.image.licenses": "Apache-2.0",
            },
        },
        "rootfs": {"type": "layers", "diff_ids": [layer_digest]},
        "history": [{"created": "1970-01-01T00:00:00Z", "created_by": "cargo xtask image"}],
    })
}

fn descriptor(media_type: &str, blob: &[u8]) -> Value {
    json!({"mediaType": media_type, "digest": digest(blob), "size": blob.len()})
}

fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", sha256_hex(bytes))
}

fn to_bytes(value: &Value) -> Result<Vec<u8>> {
    serde_json::to_vec(value).context("write JSON")
}

/// A tar of the files and the directories they lie in.
fn layer(entries: &Entries) -> Result<Vec<u8>> {
    let mut archive = Archive::default();
    for directory in entries.directories() {
        archive.directory(&format!("{directory}/"), 0o755)?;
    }
    for (path, entry) in &entries.0 {
        archive.file(path, entry.mode, &entry.bytes)?;
    }
    archive.finish()
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    const IMAGE: Image<'_> = Image { reference: "localhost/poolward:dev", architecture: "amd64" };

    fn some() -> Entries {
        let mut entries = Entries::default();
        entries.add("usr/bin/b", Entry { mode: 0o755, bytes: b"two".to_vec() });
        entries.add("usr/bin/a", Entry { mode: 0o755, bytes: vec![7; 100_000] });
        entries.add("etc/c", Entry { mode: 0o644, bytes: Vec::new() });
        entries
    }

    fn unpacked(bytes: &[u8]) -> BTreeMap<String, (tar::Header, Vec<u8>)> {
        let mut archive = tar::Archive::new(bytes);
        let mut found = BTreeMap::new();
        for entry in archive.entries().unwrap() {
            let mut entry = entry.unwrap();
            let path = entry.path().unwrap().to_str().unwrap().to_owned();
            let header = entry.header().clone();
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).unwrap();
            found.insert(path, (header, bytes));
        }
        found
    }

    fn json_at(files: &BTreeMap<String, (tar::Header, Vec<u8>)>, path: &str) -> Value {
        serde_json::from_slice(&files[path].1).unwrap()
    }

    fn blob_path(descriptor: &Value) -> String {
        format!("blobs/{}", descriptor["digest"].as_str().unwrap().replace(':', "/"))
    }

    #[test]
    fn unpacked_files_are_as_they_would_be_in_the_image() {
        let dir = std::env::temp_dir().join(format!("poolward-unpacked-{}", std::process::id()));
        some().unpack(&dir).unwrap();
        let found = |path: &str| {
            let path = dir.join(path);
            (fs::metadata(&path).unwrap().permissions().mode() & 0o7777, fs::read(&path).unwrap())
        };
        for (path, entry) in &some().0 {
            assert_eq!(found(path), (entry.mode, entry.bytes.clone()), "{path}");
        }
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn every_blob_is_what_its_digest_says_and_every_descriptor_names_one() {
        let files = unpacked(&archive(&some(), &IMAGE).unwrap());
        let blobs: Vec<&String> =
            files.keys().filter(|p| p.starts_with("blobs/sha256/") && !p.ends_with('/')).collect();
        assert_eq!(blobs.len(), 3);
        for path in blobs {
            assert_eq!(path.rsplit('/').next().unwrap(), sha256_hex(&files[path].1));
        }
        let index = json_at(&files, "index.json");
        let named = &index["manifests"][0];
        let manifest = json_at(&files, &blob_path(named));
        for descriptor in [named, &manifest["config"], &manifest["layers"][0]] {
            let (_, bytes) = &files[&blob_path(descriptor)];
            assert_eq!(descriptor["size"], bytes.len());
        }
        let config = json_at(&files, &blob_path(&manifest["config"]));
        assert_eq!(config["rootfs"]["diff_ids"][0], manifest["layers"][0]["digest"]);
        assert_eq!(named["annotations"]["io.containerd.image.name"], "localhost/poolward:dev");
        assert_eq!(named["annotations"]["org.opencontainers.image.ref.name"], "dev");
        assert_eq!(json_at(&files, "oci-layout")["imageLayoutVersion"], "1.0.0");
    }

    #[test]
    fn the_layer_holds_the_files_and_their_directories_and_nothing_of_who_made_it() {
        let files = unpacked(&archive(&some(), &IMAGE).unwrap());
        let index = json_at(&files, "index.json");
        let manifest = json_at(&files, &blob_path(&index["manifests"][0]));
        let layer = unpacked(&files[&blob_path(&manifest["layers"][0])].1);
        let paths: Vec<&str> = layer.keys().map(String::as_str).collect();
        assert_eq!(paths, ["etc/", "etc/c", "usr/", "usr/bin/", "usr/bin/a", "usr/bin/b"]);
        for (path, (header, _)) in &layer {
            let of_nobody = (header.mtime().unwrap(), header.uid().unwrap(), header.gid().unwrap());
            assert_eq!(of_nobody, (0, 0, 0), "{path}");
        }
        assert_eq!(layer["usr/bin/b"].1, b"two");
        assert_eq!((layer["usr/bin/b"].0.mode().unwrap(), layer["etc/c"].0.mode().unwrap()), (0o755, 0o644));
    }

    #[test]
    fn the_same_files_give_the_same_bytes_and_others_do_not() {
        let first = archive(&some(), &IMAGE).unwrap();
        assert_eq!(first, archive(&some(), &IMAGE).unwrap());
        let mut other = some();
        other.add("etc/c", Entry { mode: 0o755, bytes: Vec::new() });
        assert_ne!(first, archive(&other, &IMAGE).unwrap());
    }
}
