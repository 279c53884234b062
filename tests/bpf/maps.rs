//! The maps: what is written is read back, pins are adopted, other sizes refused.

use std::collections::BTreeMap;
use std::path::Path;

use bpf::{Bpf, BpfError, Endpoint, OpenOptions, PoolCounters};
use model::MarkLayout;

use crate::bench::{Bench, Given, PinDir, Program, TAG, rule, tag_id};
use crate::frames::{POD_V4, POD_V6, V4};

#[test]
fn endpoints_and_pools_are_read_back_and_removed() {
    let pins = PinDir::unique();
    let mut bpf = Bpf::open(&OpenOptions::new(pins.path())).unwrap();
    let both = Endpoint { ipv4: Some(POD_V4), ipv6: Some(POD_V6), ..Endpoint::default() };
    let v4_only = Endpoint { ipv4: Some(POD_V4), ipv6: None, ..Endpoint::default() };
    bpf.set_endpoint(7, v4_only.clone()).unwrap();
    bpf.set_endpoint(7, both.clone()).unwrap();
    bpf.set_endpoint(8, v4_only.clone()).unwrap();
    assert_eq!(bpf.fetch_endpoints().unwrap(), BTreeMap::from([(7, both), (8, v4_only.clone())]));
    assert!(bpf.remove_endpoint(7).unwrap());
    assert!(!bpf.remove_endpoint(7).unwrap());
    assert_eq!(bpf.fetch_endpoints().unwrap(), BTreeMap::from([(8, v4_only)]));

    let pools = BTreeMap::from([
        ("10.0.0.0/26".parse().unwrap(), rule(1, true, None)),
        ("10.0.0.0/8".parse().unwrap(), rule(2, false, Some(0))),
        ("0.0.0.0/0".parse().unwrap(), rule(2047, true, Some(63))),
        ("fd00::/112".parse().unwrap(), rule(1, true, None)),
        ("fd00::7/128".parse().unwrap(), rule(3, false, Some(10))),
    ]);
    for (cidr, rule) in &pools {
        bpf.set_pool(*cidr, *rule).unwrap();
    }
    assert_eq!(bpf.fetch_pools().unwrap(), pools);
    for cidr in pools.keys() {
        assert!(bpf.remove_pool(*cidr).unwrap());
        assert!(!bpf.remove_pool(*cidr).unwrap());
    }
    assert_eq!(bpf.fetch_pools().unwrap(), BTreeMap::new());
}

#[test]
fn a_tag_that_does_not_fit_the_mark_is_refused() {
    let pins = PinDir::unique();
    let mut bpf = Bpf::open(&OpenOptions::new(pins.path())).unwrap();
    let error = bpf.set_pool("10.0.0.0/26".parse().unwrap(), rule(2048, false, None)).unwrap_err();
    assert_eq!(error.to_string(), "tag 2048 does not fit the mark mask, whose greatest tag is 2047");
    assert_eq!(bpf.fetch_pools().unwrap(), BTreeMap::new());
}

#[test]
fn a_full_map_says_which_and_for_what() {
    let pins = PinDir::unique();
    let mut options = OpenOptions::new(pins.path());
    options.sizes.max_endpoints = 2;
    options.sizes.max_pools = 2;
    let mut bpf = Bpf::open(&options).unwrap();
    for ifindex in [1, 2] {
        bpf.set_endpoint(ifindex, Endpoint::default()).unwrap();
    }
    let error = bpf.set_endpoint(3, Endpoint::default()).unwrap_err();
    assert_eq!(error.to_string(), "map pw_endpoints is full at 2 entries: adding 3");
    for cidr in ["10.0.0.0/26", "10.0.0.64/26"] {
        bpf.set_pool(cidr.parse().unwrap(), rule(1, false, None)).unwrap();
    }
    let error = bpf.set_pool("10.0.0.128/26".parse().unwrap(), rule(1, false, None)).unwrap_err();
    assert_eq!(error.to_string(), "map pw_pools_v4 is full at 2 entries: adding 10.0.0.128/26");
    bpf.set_pool("fd00::/112".parse().unwrap(), rule(2, false, None)).unwrap();
    let error = bpf.set_pool("fd01::/112".parse().unwrap(), rule(3, false, None)).unwrap_err();
    assert_eq!(error.to_string(), "map pw_pool_stats is full at 2 entries: adding tag 3");
}

#[test]
fn counters_are_there_from_the_first_packet_and_end_when_forgotten() {
    let mut bench = Bench::new();
    let zero = PoolCounters::default();
    assert_eq!(bench.bpf.fetch_pool_counters().unwrap(), BTreeMap::from([(tag_id(TAG), zero)]));
    let frame = V4::from(POD_V4).frame();
    bench.run(Program::FromPod, &frame, Given::default());
    let once = PoolCounters { tx_packets: 1, tx_bytes: frame.len() as u64, ..zero };
    assert_eq!(bench.counters(TAG), once);
    // Writing the pool again, or adding a prefix to it, goes on counting.
    bench.set_pools(rule(TAG, true, None));
    assert_eq!(bench.counters(TAG), once);
    // While a prefix has the tag, it begins again.
    assert!(bench.bpf.forget(tag_id(TAG)).unwrap());
    assert_eq!(bench.bpf.fetch_pool_counters().unwrap(), BTreeMap::from([(tag_id(TAG), zero)]));
    for cidr in bench.bpf.fetch_pools().unwrap().into_keys() {
        bench.bpf.remove_pool(cidr).unwrap();
    }
    assert!(bench.bpf.forget(tag_id(TAG)).unwrap());
    assert!(!bench.bpf.forget(tag_id(TAG)).unwrap());
    assert_eq!(bench.bpf.fetch_pool_counters().unwrap(), BTreeMap::new());
}

#[test]
fn what_is_pinned_is_adopted_with_its_contents() {
    let pins = PinDir::unique();
    let mut first = Bpf::open(&OpenOptions::new(pins.path())).unwrap();
    let endpoint = Endpoint { ipv4: Some(POD_V4), ipv6: None, ..Endpoint::default() };
    first.set_endpoint(7, endpoint.clone()).unwrap();
    first.set_pool("10.1.0.0/26".parse().unwrap(), rule(TAG, false, None)).unwrap();
    drop(first);
    let mut options = OpenOptions::new(pins.path());
    options.mark_layout = MarkLayout::new(0x000f_0000).unwrap();
    let mut second = Bpf::open(&options).unwrap();
    assert_eq!(second.fetch_endpoints().unwrap(), BTreeMap::from([(7, endpoint)]));
    assert_eq!(second.fetch_pools().unwrap().len(), 1);
    // Running programs go over to another layout when they are told, together with what else depends on it.
    assert!(second.uses_mark_layout(MarkLayout::DEFAULT).unwrap());
    second.set_mark_layout(options.mark_layout).unwrap();
    assert!(second.uses_mark_layout(options.mark_layout).unwrap());
}

#[test]
fn maps_of_other_sizes_are_refused_and_left_alone() {
    let pins = PinDir::unique();
    drop(Bpf::open(&OpenOptions::new(pins.path())).unwrap());
    let check = |change: fn(&mut OpenOptions), expected: &str| {
        let mut options = OpenOptions::new(pins.path());
        change(&mut options);
        let text = Bpf::open(&options).unwrap_err().to_string();
        assert!(text.starts_with(expected), "{text}");
    };
    let at = |name: &str| format!("map {name} pinned at {} has ", pins.version().join(name).display());
    check(|o| o.sizes.max_endpoints = 9, &(at("pw_endpoints") + "max_entries 1024, expected 9: "));
    check(|o| o.sizes.max_pools = 4096, &(at("pw_pools_v4") + "max_entries 1024, expected 4096: "));
    // A map of another kind under our name.
    let other = pins.version().join("pw_drops");
    std::fs::remove_file(&other).unwrap();
    std::fs::rename(pins.version().join("pw_settings"), &other).unwrap();
    check(|_| (), &(at("pw_drops") + "type 2, expected 6: "));
    assert!(other.exists());
}

#[test]
fn a_directory_that_is_no_bpffs_is_refused() {
    let dir = std::env::temp_dir();
    let error = Bpf::open(&OpenOptions::new(&dir)).unwrap_err();
    assert!(matches!(&error, BpfError::NotBpffs { path } if *path == dir), "{error}");
    assert!(!dir.join("v1").exists());
}

#[test]
fn unloading_leaves_nothing_and_may_be_repeated() {
    let pins = PinDir::unique();
    drop(Bpf::open(&OpenOptions::new(pins.path())).unwrap());
    assert!(pins.version().join("pw_pools_v4").exists());
    Bpf::unload_all(pins.path()).unwrap();
    assert!(!pins.path().exists());
    Bpf::unload_all(pins.path()).unwrap();
}

#[test]
fn other_schema_versions_go_and_this_one_stays() {
    let pins = PinDir::unique();
    let bpf = Bpf::open(&OpenOptions::new(pins.path())).unwrap();
    let old = pins.path().join("v999/links");
    std::fs::create_dir_all(&old).unwrap();
    let foreign = pins.path().join("note");
    std::fs::create_dir(&foreign).unwrap();
    assert_eq!(Bpf::remove_other_versions(pins.path()).unwrap(), [999]);
    assert!(!old.exists());
    assert!(foreign.exists() && pins.version().exists());
    bpf.fetch_drops().unwrap();
    // What is not ours stands in the way of removing the directory, and that is said.
    let error = Bpf::unload_all(pins.path()).unwrap_err();
    assert!(error.to_string().contains(&format!("removing {}", pins.path().display())), "{error}");
    assert!(!pins.version().exists() && Path::new(&foreign).exists());
}
