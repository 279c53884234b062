//! The published walkthrough, by kubectl, with a web server and a firewall outside.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use harness::Daemon;
use harness::cluster::DEFAULT_POOL;
use harness::lab::OUTSIDE_IPV4;

use crate::site::{EXTERNAL_POOL, site, wait_until};

/// Where the server outside listens.
const PORT: u16 = 8080;

/// Says under which address one is seen.
const WHO: &str = "#!/bin/sh\nprintf \"Content-Type: text/plain\\r\\n\\r\\n$REMOTE_ADDR\\n\"\n";

#[test]
fn the_walkthrough_prints_what_it_says() {
    let site = site();
    let dir = std::env::temp_dir().join(format!("poolward-outside-{}", std::process::id()));
    let script = dir.join("www/cgi-bin/who");
    std::fs::create_dir_all(script.parent().unwrap()).unwrap();
    std::fs::write(&script, WHO).unwrap();
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    let outside = harness::NetNs::open(site.cluster.fabric.outside.name()).unwrap();
    let mut server = Daemon::new("outside", Path::new("/bin/busybox"), &dir, Some(outside));
    let www = dir.join("www").display().to_string();
    let place = format!("{OUTSIDE_IPV4}:{PORT}");
    server.set_args(["httpd", "-f", "-p", &place, "-h", &www].map(str::to_owned));
    server.start().unwrap();
    let url = format!("http://{place}/cgi-bin/who");
    wait_until("the server outside answers", || {
        site.outside(&["wget", "-q", "-O", "-", &url])
            .is_ok_and(|seen| seen.trim() == OUTSIDE_IPV4.to_string())
    });

    let before = site.assert_sealed();
    let router = format!("nsenter --net={}", site.cluster.fabric.router.path().display());
    let said = site.cluster.run_page("walkthrough.md", &[("ROUTER", &router), ("OUTSIDE", &place)]).unwrap();
    println!("{said}");
    let after = site.assert_sealed();
    assert!(after.encapsulated > before.encapsulated && after.to_outside > before.to_outside, "{after:?}");
    server.stop(Duration::from_secs(5)).unwrap();
    std::fs::remove_dir_all(&dir).unwrap();
    site.assert_pools(&[DEFAULT_POOL, EXTERNAL_POOL]);
    site.assert_consistent();
}
