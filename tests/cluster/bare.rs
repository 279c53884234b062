//! The lab itself, with Debian's plugins: what fails here is not Poolward's doing.

use std::time::Instant;

use crate::site::start;

#[test]
fn three_nodes_become_ready_with_the_plugins_of_debian() {
    let started = Instant::now();
    let mut cluster = start("bare", 3);
    eprintln!("started {:?}", started.elapsed());
    cluster.install_host_local().unwrap();
    cluster.wait_until_ready().unwrap();
    eprintln!("ready {:?}", started.elapsed());
}
