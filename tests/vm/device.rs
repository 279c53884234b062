//! The device backend: what it makes in the kernel, and which backend is chosen by itself.

use dataplane::{Dataplane, EncapBackend, Settings};
use harness::{NetNs, kernel_version};

use crate::world::{Kind, World};

/// The first kernel whose programs can say, of what they decapsulate, that it is no tunnel's any more.
const DECAPSULATES_SINCE: (u32, u32) = (6, 3);

#[test]
fn the_device_backend_leads_through_an_ipip_device_and_leaves_nothing() {
    let world = World::flat(Kind::Device, Kind::Plain);
    let node = &world.a.node;
    assert_eq!(world.a.dataplane().encap_backend(), EncapBackend::Device);
    let way = node.ip_json("route get 10.244.2.2").unwrap();
    let ifname = way[0]["dev"].as_str().unwrap().to_owned();
    let link = node.ip_json(&format!("-d link show dev {ifname}")).unwrap();
    assert_eq!(link[0]["linkinfo"]["info_kind"], "ipip", "{link}");
    assert_eq!(link[0]["linkinfo"]["info_data"]["local"], "192.0.2.1", "{link}");
    assert_eq!(link[0]["mtu"], 1480, "{link}");
    assert_eq!(way[0]["gateway"], "192.0.2.2", "{way}");
    let removed = node.run(|| world.a.dataplane().remove_all()).unwrap();
    removed.unwrap();
    assert!(node.link(&ifname).is_err(), "{ifname} is left");
    assert_eq!(node.ip("route show proto 80").unwrap(), "");
}

#[test]
fn the_backend_is_chosen_by_what_the_kernel_can() {
    let netns = NetNs::unique("pwvm").unwrap();
    let pin_dir = std::path::PathBuf::from(format!("/sys/fs/bpf/pwvm-{}-auto", std::process::id()));
    let dataplane = netns.run(|| Dataplane::open(Settings::new(pin_dir))).unwrap().unwrap();
    let expected =
        if kernel_version() >= Some(DECAPSULATES_SINCE) { EncapBackend::Ebpf } else { EncapBackend::Device };
    assert_eq!(dataplane.encap_backend(), expected, "{:?}", kernel_version());
    let links = netns.ip_json("link show").unwrap();
    let left: Vec<_> = links.as_array().unwrap().iter().filter_map(|link| link["ifname"].as_str()).collect();
    // Once the module is loaded, by whichever test is first, the kernel puts a tunl0 into every namespace by itself.
    assert!(
        left.iter().all(|name| ["lo", "tunl0"].contains(name)),
        "something is left of the probe: {links}"
    );
    netns.run(|| dataplane.remove_all()).unwrap().unwrap();
}
