//! The images that pods of the lab run, packed without a container engine: one archive as `docker save` writes it.

use std::path::Path;

use anyhow::{Context, Result};
use serde_json::json;

use crate::Run;
use crate::archive::{Archive, sha256_hex};
use crate::machine::{compile, compile_init};

/// What keeps the namespaces of a pod.
pub const PAUSE_IMAGE: &str = "localhost/pause:1";

/// A shell and everything else that busybox is; and `names`, a name server.
pub const BUSYBOX_IMAGE: &str = "localhost/busybox:1";

/// The same under the name by which documentation calls it.
const PUBLISHED_BUSYBOX_IMAGE: &str = "docker.io/library/busybox:1.36";

/// Debian's, static.
const BUSYBOX: &str = "/bin/busybox";

/// Says to an HTTP client who it is and who answers; `hostname` is the pod's name.
const WHO: &str =
    "#!/bin/sh\nprintf 'Content-Type: text/plain\\r\\n\\r\\n'\necho \"$(hostname) $REMOTE_ADDR\"\n";

/// Debian's busybox has no name server.
const NAMES: &str = include_str!("names.c");

/// One image of one layer.
struct Image {
    references: &'static [&'static str],
    entrypoint: &'static [&'static str],
    layer: Vec<u8>,
}

/// Packs [`PAUSE_IMAGE`] and [`BUSYBOX_IMAGE`] into one file.
///
/// # Errors
/// No C compiler, no static busybox, or the file cannot be written.
pub(super) fn pack(to: &Path) -> Result<()> {
    let (init, names) = (to.with_extension("init"), to.with_extension("names"));
    compile_init(&init)?;
    compile(NAMES, &names).context("compile the name server")?;
    let read = |path: &Path| std::fs::read(path).with_context(|| format!("read {}", path.display()));
    let (pause, names) = (read(&init)?, read(&names)?);
    let mut layer = Archive::default();
    layer.file("pause", 0o755, &pause)?;
    let pause = Image { references: &[PAUSE_IMAGE], entrypoint: &["/pause"], layer: layer.finish()? };
    let busybox = Image {
        references: &[BUSYBOX_IMAGE, PUBLISHED_BUSYBOX_IMAGE],
        entrypoint: &[],
        layer: busybox_layer(&names)?,
    };
    let archive = archive_of(&[pause, busybox])?;
    std::fs::write(to, archive).with_context(|| format!("write {}", to.display()))
}

fn busybox_layer(names: &[u8]) -> Result<Vec<u8>> {
    let busybox =
        std::fs::read(BUSYBOX).with_context(|| format!("{BUSYBOX}: run `cargo xtask setup --kubernetes`"))?;
    let applets = Run::new(BUSYBOX).args(["--list"]).ok()?;
    let mut layer = Archive::default();
    for directory in ["bin/", "dev/", "etc/", "proc/", "sys/", "var/", "www/", "www/cgi-bin/"] {
        layer.directory(directory, 0o755)?;
    }
    layer.directory("tmp/", 0o1777)?;
    layer.file("bin/busybox", 0o755, &busybox)?;
    for applet in applets.lines().filter(|applet| *applet != "busybox") {
        layer.link(&format!("bin/{applet}"), "busybox")?;
    }
    layer.file("bin/names", 0o755, names)?;
    layer.file("www/cgi-bin/who", 0o755, WHO.as_bytes())?;
    layer.finish()
}

fn archive_of(images: &[Image]) -> Result<Vec<u8>> {
    let mut archive = Archive::default();
    let mut manifest = Vec::new();
    for image in images {
        let layer = sha256_hex(&image.layer);
        let config = json!({
            "architecture": "amd64",
            "os": "linux",
            "config": {"Entrypoint": image.entrypoint, "Env": ["PATH=/bin"]},
            "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{layer}")]},
            "history": [{"created_by": "poolward-harness"}],
        })
        .to_string();
        let config_name = format!("{}.json", sha256_hex(config.as_bytes()));
        let layer_name = format!("{layer}/layer.tar");
        archive.file(&config_name, 0o644, config.as_bytes())?;
        archive.file(&layer_name, 0o644, &image.layer)?;
        manifest.push(json!({"Config": config_name, "RepoTags": image.references, "Layers": [layer_name]}));
    }
    archive.file("manifest.json", 0o644, json!(manifest).to_string().as_bytes())?;
    archive.finish()
}
